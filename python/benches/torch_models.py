"""The models of the papers in PyTorch, from the formulas: what one writes to train them there.

Each function takes a dict of tensors, tokens (B, T) int64 and S, and returns logits (B, T, S);
`simplified` returns f (B, S). Numbers have the type of the parameters.
"""

import torch
from torch.nn import functional


def causal(scores):
    """Softmax over keys j <= i; scores (.., T, T)."""
    t = scores.shape[-1]
    hidden = torch.ones(t, t, dtype=torch.bool).triu(1)
    return scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)


def disentangled(params, tokens, s):
    """x <- [x, heads], heads softmax(mask(x A x')) x; logits x W."""
    n, t = tokens.shape
    dtype = params["W"].dtype
    place = torch.eye(t, dtype=dtype).expand(n, t, t)
    x = torch.cat([functional.one_hot(tokens, s).to(dtype), place], dim=2)
    layer = 0
    while f"A.{layer}" in params:
        keys = x.unsqueeze(1)  # (B, 1, T, d)
        pattern = causal(keys @ params[f"A.{layer}"] @ keys.transpose(-1, -2))
        heads = (pattern @ keys).transpose(1, 2).reshape(n, t, -1)
        x = torch.cat([x, heads], dim=2)
        layer += 1
    return x @ params["W"]


def simplified(params, tokens, s):
    """f = v' X with v = softmax(softmax(mask(A1)) a), a_j = A2[last token, token j]."""
    a = params["A2"][tokens[:, -1:], tokens]
    v = (a @ causal(params["A1"]).T).softmax(dim=1)
    return (v.unsqueeze(1) @ functional.one_hot(tokens, s).to(v.dtype)).squeeze(1)


def mlp_transformer(params, tokens, s):
    """x <- x + MLP([heads] V), heads softmax(mask(x A x')) x; logits x W."""
    n, t = tokens.shape
    x = params["wte"][tokens] + params["wpe"]
    scale = (s + t) ** 0.5
    layer = 0
    while f"A.{layer}" in params:
        w1, b1, w2, b2 = (params[f"mlp.{layer}.{name}"] for name in ("w1", "b1", "w2", "b2"))
        keys = x.unsqueeze(1)  # (B, 1, T, d)
        pattern = causal(keys @ params[f"A.{layer}"] @ keys.transpose(-1, -2))
        heads = (pattern @ keys).transpose(1, 2).reshape(n, t, -1)
        hidden = (heads @ params[f"V.{layer}"] @ w1 + scale * b1).relu()
        x = x + hidden @ w2 + scale * b2
        layer += 1
    return x @ params["W"]


def memory(params, tokens, s):
    """Two layers x <- x + W_O W_V sum alpha x without query matrix or feed-forward part."""
    x = params["tok_embeddings.weight"][tokens] + params["pe"]
    scale = x.shape[-1] ** -0.5
    for layer in range(2):
        wk, wv, wo = (params[f"layers.{layer}.attention.{n}.weight"] for n in ("wk", "wv", "wo"))
        pattern = causal(x @ (x @ wk.T).transpose(1, 2) * scale)
        x = x + pattern @ x @ wv.T @ wo.T
    return x @ params["output.weight"].T


def transformer(params, tokens, s, heads=1):
    """x <- x + attention(norm x) + ff(norm x) in each layer, then a norm and the output."""
    x = params["tok_embeddings.weight"][tokens]
    x = x + (params["pe"] if "pe" in params else params["pos_embeddings.weight"])
    n, t, d = x.shape

    def norm(name, x):
        return functional.layer_norm(x, (d,), params[f"{name}.weight"], params[f"{name}.bias"])

    layer = 0
    while f"layers.{layer}.attention.wq.weight" in params:
        start = f"layers.{layer}"
        y = norm(f"{start}.attention_norm", x)
        q, k, v = (
            (y @ params[f"{start}.attention.{name}.weight"].T)
            .reshape(n, t, heads, d // heads)
            .transpose(1, 2)
            for name in ("wq", "wk", "wv")
        )
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out = out.transpose(1, 2).reshape(n, t, d) @ params[f"{start}.attention.wo.weight"].T
        y = norm(f"{start}.ff_norm", x)
        hidden = (y @ params[f"{start}.ff.w1.weight"].T).relu()
        x = x + out + hidden @ params[f"{start}.ff.w2.weight"].T
        layer += 1
    return norm("norm", x) @ params["output.weight"].T


def loss(logits, targets, labels, weights, eps=None):
    """The weighted mean of the cross-entropies: targets (B, S) at the last position, or labels
    (B, T). With `eps` the outputs are f of `simplified`, and a term is -target log(f + eps)."""
    if eps is not None:
        each = -(targets * (logits + eps).log()).sum(dim=1)
    elif targets is not None:
        each = -(targets * logits[:, -1].log_softmax(dim=1)).sum(dim=1)
    else:
        each = functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    return (weights * each).sum() / weights.sum()

"""The two models of the papers in PyTorch, from the formulas: what one writes to train them there.

Each function takes a dict of tensors and tokens (B, T) int64, and returns logits (B, T, S). Numbers
have the type of the parameters.
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


def memory(params, tokens, s):
    """Two layers x <- x + W_O W_V sum alpha x without query matrix or feed-forward part."""
    x = params["tok_embeddings.weight"][tokens] + params["pe"]
    scale = x.shape[-1] ** -0.5
    for layer in range(2):
        wk, wv, wo = (params[f"layers.{layer}.attention.{n}.weight"] for n in ("wk", "wv", "wo"))
        pattern = causal(x @ (x @ wk.T).transpose(1, 2) * scale)
        x = x + pattern @ x @ wv.T @ wo.T
    return x @ params["output.weight"].T


def loss(logits, targets, labels, weights):
    """The weighted mean of the cross-entropies: targets (B, S) at the last position, or labels
    (B, T)."""
    if targets is not None:
        each = -(targets * logits[:, -1].log_softmax(dim=1)).sum(dim=1)
    else:
        each = functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    return (weights * each).sum() / weights.sum()

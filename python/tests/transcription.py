"""The models' equations once more, in JAX, from the papers' formulas, without the engine.

Each function takes a parameter set, one sequence (T) of integers and the sizes, and returns logits
(T, S); `simplified` returns f (S).
"""

import jax
import jax.numpy as jnp


def causal(scores):
    """Softmax over keys j <= i; scores (.., T, T)."""
    t = scores.shape[-1]
    seen = jnp.tril(jnp.ones((t, t), bool))
    return jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)


def disentangled(params, tokens, s, t):
    x = jnp.concatenate([jnp.eye(s)[tokens], jnp.eye(t)], axis=1)
    layer = 0
    while f"A.{layer}" in params:
        heads = [causal(x @ a @ x.T) @ x for a in params[f"A.{layer}"]]
        x = jnp.concatenate([x, *heads], axis=1)
        layer += 1
    return x @ params["W"]


def simplified(params, tokens, s, t):
    m = causal(params["A1"])
    a = params["A2"][tokens[-1], tokens]
    v = jax.nn.softmax(m @ a)
    return v @ jnp.eye(s)[tokens]


def mlp_transformer(params, tokens, s, t):
    d = s + t
    x = params["wte"][tokens] + params["wpe"]
    layer = 0
    while f"A.{layer}" in params:
        heads = [causal(x @ a @ x.T) @ x for a in params[f"A.{layer}"]]
        y = jnp.concatenate(heads, axis=1) @ params[f"V.{layer}"]
        part = {n: params[f"mlp.{layer}.{n}"] for n in ("w1", "b1", "w2", "b2")}
        hidden = jax.nn.relu(y @ part["w1"] + jnp.sqrt(d) * part["b1"])
        x = x + hidden @ part["w2"] + jnp.sqrt(d) * part["b2"]
        layer += 1
    return x @ params["W"]


def feed_forward(params, layer, x):
    """W x, or W2 relu(W1 x); 0 where the layer has none."""
    start = f"layers.{layer}.ff"
    if f"{start}.weight" in params:
        return x @ params[f"{start}.weight"].T
    if f"{start}.w1.weight" in params:
        return jax.nn.relu(x @ params[f"{start}.w1.weight"].T) @ params[f"{start}.w2.weight"].T
    return jnp.zeros_like(x)


def turned(x):
    """Each pair (2m, 2m + 1) of row t turned by the angle t 10000^(-2m/d)."""
    t, d = x.shape
    angle = jnp.arange(t)[:, None] * 10000.0 ** (-jnp.arange(0, d, 2) / d)
    cos, sin, a, b = jnp.cos(angle), jnp.sin(angle), x[:, 0::2], x[:, 1::2]
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(t, d)


def memory(params, tokens, s, t, rotary=False, scaled=True):
    x = params["tok_embeddings.weight"][tokens]
    if not rotary:
        x = x + params["pe"]
    d = x.shape[1]
    for layer in range(2):
        wk, wv, wo = (params[f"layers.{layer}.attention.{n}.weight"] for n in ("wk", "wv", "wo"))
        q, k = x, x @ wk.T
        if rotary and layer == 0:
            q, k = turned(q), turned(k)
        alpha = causal(q @ k.T / (jnp.sqrt(d) if scaled else 1.0))
        x = x + alpha @ x @ wv.T @ wo.T
        x = x + feed_forward(params, layer, x)
    return x @ params["output.weight"].T


def layer_norm(params, name, x):
    if f"{name}.weight" not in params:
        return x
    mean = x.mean(axis=1, keepdims=True)
    var = ((x - mean) ** 2).mean(axis=1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-5) * params[f"{name}.weight"] + params[f"{name}.bias"]


def transformer(params, tokens, s, t, heads=1, block="public"):
    x = params["tok_embeddings.weight"][tokens]
    x = x + (params["pe"] if "pe" in params else params["pos_embeddings.weight"])
    d = x.shape[1]

    def attend(layer, x):
        q, k, v = (x @ params[f"layers.{layer}.attention.{n}.weight"].T for n in ("wq", "wk", "wv"))
        cut = [slice(h * d // heads, (h + 1) * d // heads) for h in range(heads)]
        out = [causal(q[:, c] @ k[:, c].T / jnp.sqrt(d // heads)) @ v[:, c] for c in cut]
        return jnp.concatenate(out, axis=1) @ params[f"layers.{layer}.attention.wo.weight"].T

    layer = 0
    while f"layers.{layer}.attention.wq.weight" in params:
        before, behind = f"layers.{layer}.attention_norm", f"layers.{layer}.ff_norm"
        if block == "postnorm":
            h = layer_norm(params, before, x + attend(layer, x))
            x = layer_norm(params, behind, h + feed_forward(params, layer, h))
        else:
            h = x + attend(layer, layer_norm(params, before, x))
            read = x if block == "public" else h
            x = h + feed_forward(params, layer, layer_norm(params, behind, read))
        layer += 1
    return layer_norm(params, "norm", x) @ params["output.weight"].T


def loss(forward, params, batch, s, t, **options):
    """The weighted mean over the outputs of `batch`: tokens, targets (B, S) or labels (B, T)."""
    eps = options.pop("eps", None)

    def one(tokens, target):
        out = forward(params, tokens, s, t, **options)
        if eps is not None:
            return -(target * jnp.log(out + eps)).sum()
        logs = jax.nn.log_softmax(out, axis=-1)
        if batch.targets is not None:
            return -(target * logs[-1]).sum()
        return -jnp.take_along_axis(logs, target[:, None], axis=1)[:, 0]

    targets = batch.targets if batch.targets is not None else batch.labels.astype("int32")
    losses = jax.vmap(one)(jnp.asarray(batch.tokens.astype("int32")), jnp.asarray(targets))
    return (batch.weights * losses).sum() / batch.weights.sum()

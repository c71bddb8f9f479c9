"""popgrad from Python with numpy alone: gradients of the memory paper's models at your own parameters, tokens and labels.

Calls `popgrad grad --model transformer` and `--model memory`, and checks loss, losses and gradients against loops written here, the
gradients by central differences.

    python3 examples/own_labels.py [path of the popgrad binary]
"""

import os
import subprocess
import sys
import tempfile

import numpy as np

POPGRAD = sys.argv[1] if len(sys.argv) > 1 else "popgrad"
N, T, D, H, LAYERS, B = 5, 7, 8, 2, 2, 3


def popgrad(*args):
    subprocess.run([POPGRAD, *args], check=True, stdout=subprocess.DEVNULL)


def attend(q, k, v, scale):
    """Causal softmax attention of one head, (T, d) each."""
    scores = np.where(np.tri(len(q), dtype=bool), scale * (q @ k.T), -np.inf)
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (p / p.sum(axis=1, keepdims=True)) @ v


def losses_of(logits, labels):
    z = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(labels)), labels]


def transformer(p, tokens, labels):
    """Losses (T) of the public code's block: h = x + Attn(LN x), then h + FF(LN x)."""

    def norm(x, name):
        x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
        return x * p[f"{name}.weight"] + p[f"{name}.bias"]

    x = p["tok_embeddings.weight"][tokens] + p["pos_embeddings.weight"]
    for l in range(LAYERS):
        w = lambda name: p[f"layers.{l}.{name}.weight"].T
        a = norm(x, f"layers.{l}.attention_norm")
        heads = [np.split(a @ w(f"attention.{m}"), H, axis=1) for m in ("wq", "wk", "wv")]
        found = [attend(*head, (D / H) ** -0.5) for head in zip(*heads)]
        hidden = np.maximum(norm(x, f"layers.{l}.ff_norm") @ w("ff.w1"), 0)
        x = x + np.hstack(found) @ w("attention.wo") + hidden @ w("ff.w2")
    return losses_of(norm(x, "norm") @ p["output.weight"].T, labels)


def memory(p, tokens, labels):
    """Losses (T) of the basic model: queries are x itself, no feed-forward."""
    x = p["tok_embeddings.weight"][tokens] + p["pe"]
    for l in range(2):
        w = lambda name: p[f"layers.{l}.attention.{name}.weight"].T
        x = x + attend(x, x @ w("wk"), x @ w("wv"), D ** -0.5) @ w("wo")
    return losses_of(x @ p["output.weight"].T, labels)


def blocks_of_transformer():
    shapes = {"tok_embeddings.weight": (N, D), "pos_embeddings.weight": (T, D)}
    for l in range(LAYERS):
        shapes |= {f"layers.{l}.attention.{m}.weight": (D, D) for m in ("wq", "wk", "wv", "wo")}
        shapes |= {f"layers.{l}.ff.w1.weight": (4 * D, D), f"layers.{l}.ff.w2.weight": (D, 4 * D)}
        for norm in ("attention_norm", "ff_norm"):
            shapes |= {f"layers.{l}.{norm}.{part}": (D,) for part in ("weight", "bias")}
    return shapes | {"norm.weight": (D,), "norm.bias": (D,), "output.weight": (N, D)}


def blocks_of_memory():
    shapes = {"tok_embeddings.weight": (N, D), "pe": (T, D)}
    for l in range(2):
        shapes |= {f"layers.{l}.attention.{m}.weight": (D, D) for m in ("wk", "wv", "wo")}
    return shapes | {"output.weight": (N, D)}


def check(what, found, expected, tolerance):
    error = np.max(np.abs(found - expected)) / max(np.max(np.abs(expected)), 1e-300)
    print(f"{what:<60} relative error {error:.1e}  (allowed {tolerance:.0e})")
    if not error <= tolerance:
        sys.exit(f"{what}: disagrees")


def compare(name, model, shapes, keys, rng, folder):
    file = lambda which: os.path.join(folder, f"{name}-{which}.npz")
    p = {block: 0.5 * rng.normal(size=shape) for block, shape in shapes.items()}
    tokens, labels = rng.integers(N, size=(2, B, T))
    mask = rng.integers(2, size=(B, T)) * rng.uniform(0.5, 1.5, size=(B, T))
    np.savez(file("p"), **p)
    np.savez(file("b"), tokens=tokens, labels=labels, mask=mask)
    popgrad("grad", "--model", name, *keys, "--params", file("p"), "--batch", file("b"), "--out", file("g"))
    g = np.load(file("g"))
    losses = lambda p: np.array([model(p, z, y) for z, y in zip(tokens, labels)])
    loss = lambda p: (mask * losses(p)).sum() / mask.sum()
    check(f"{name}: losses", g["losses"], losses(p), 1e-12)
    check(f"{name}: loss", g["loss"], loss(p), 1e-12)
    at = tuple(np.meshgrid(*map(np.arange, (B, T)), indexing="ij")) + (labels,)
    check(f"{name}: predictions of the labels", -np.log(g["predictions"][at]), losses(p), 1e-12)
    for block in [b for b in p if b in g]:
        # Along a random direction: one derivative for the whole block.
        along = rng.normal(size=p[block].shape)
        moved = lambda k: loss(p | {block: p[block] + k * 1e-4 * along})
        slope = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / 12e-4
        check(f"{name}: dL/d{block}", (g[block] * along).sum(), slope, 1e-7)
    print(f"{name}: buffers, without gradient: {', '.join(b for b in p if b not in g) or 'none'}")


def main():
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        keys = [f"layers={LAYERS}", f"heads={H}", "block=public", "ff=relu"]
        compare("transformer", transformer, blocks_of_transformer(), keys, rng, folder)
        compare("memory", memory, blocks_of_memory(), [], rng, folder)
    print("all agree")


if __name__ == "__main__":
    main()

"""popgrad from Python with numpy alone: gradients of your own arrays, and of the whole population.

Calls `popgrad grad` and `popgrad exact`, and checks both against loops written here: gradients by central differences, the
population by enumerating every sequence.

    python3 examples/own_arrays.py [path of the popgrad binary]
"""

import itertools
import math
import os
import subprocess
import sys
import tempfile

import numpy as np

POPGRAD = sys.argv[1] if len(sys.argv) > 1 else "popgrad"


def popgrad(*args):
    subprocess.run([POPGRAD, *args], check=True, stdout=subprocess.DEVNULL)


def predict(tokens, a1, a2):
    """f (S) of one sequence (T): softmax over positions of what each one's row of attention finds of A2[query]."""
    t, s = len(tokens), len(a2)
    z = np.empty(t)
    for i in range(t):
        row = np.exp(a1[i, : i + 1] - a1[i, : i + 1].max())
        z[i] = row @ a2[tokens[-1], tokens[: i + 1]] / row.sum()
    v = np.exp(z - z.max())
    return np.bincount(tokens, v / v.sum(), minlength=s)


def weights(tokens, parents, s, alpha):
    """W (S): probability of the sequence and the next symbol; rows Dirichlet(alpha), integrated out; roots uniform."""
    counts = np.zeros((s, s))
    w = 1.0 / s
    for i, p in enumerate(parents):
        if p < 0:
            w /= s
            continue
        row, b = counts[tokens[p]], tokens[i]
        w *= (alpha + row[b]) / (s * alpha + row.sum())
        row[b] += 1
    row = counts[tokens[-1]]
    return w * (alpha + row) / (s * alpha + row.sum())


def loss(sequences, targets, a1, a2, eps):
    terms = [-(y @ np.log(predict(x, a1, a2) + eps)) for x, y in zip(sequences, targets)]
    return math.fsum(terms)


def differences(f, x, h=1e-3):
    """Central differences of fourth order, entry by entry."""
    g = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        def moved(k):
            y = x.copy()
            y[at] += k * h
            return f(y)
        g[at] = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * h)
    return g


def check(what, found, expected, tolerance):
    error = np.max(np.abs(found - expected)) / max(np.max(np.abs(expected)), 1e-300)
    print(f"{what:<46} relative error {error:.1e}  (allowed {tolerance:.0e})")
    if not error <= tolerance:
        sys.exit(f"{what}: disagrees")


def main():
    s, t, eps, alpha = 3, 5, 0.01, 0.4
    parents = [-1, 0, 0, -1]
    rng = np.random.default_rng(0)
    a1 = np.tril(rng.normal(size=(t, t)))
    a2 = rng.normal(size=(s, s))
    with tempfile.TemporaryDirectory() as folder:
        file = lambda name: os.path.join(folder, name)
        np.savez(file("p.npz"), A1=a1, A2=a2)

        # Your own sequences and targets.
        b = 7
        tokens = rng.integers(s, size=(b, t))
        targets = rng.dirichlet(np.ones(s), size=b)
        np.savez(file("b.npz"), tokens=tokens, targets=targets)
        popgrad("grad", "--model", "simplified", f"S={s}", f"eps={eps}",
                "--params", file("p.npz"), "--batch", file("b.npz"), "--out", file("g.npz"))
        g = np.load(file("g.npz"))
        own = lambda a1, a2: loss(tokens, targets / b, a1, a2, eps)
        check("grad: loss", g["loss"], own(a1, a2), 1e-12)
        check("grad: dL/dA1 against central differences", g["A1"], differences(lambda x: own(x, a2), a1), 1e-7)
        check("grad: dL/dA2 against central differences", g["A2"], differences(lambda x: own(a1, x), a2), 1e-7)

        # Every sequence, with its probability.
        popgrad("exact", "--model", "simplified", f"S={s}", "parents=" + ",".join(map(str, parents)),
                f"alpha={alpha}", "roots=uniform", f"eps={eps}", "--predictions",
                "--params", file("p.npz"), "--out", file("e.npz"))
        e = np.load(file("e.npz"))
        words = [np.array(w) for w in itertools.product(range(s), repeat=t)]
        law = [weights(w, parents, s, alpha) for w in words]
        own = lambda a1, a2: loss(words, law, a1, a2, eps)
        check("exact: probabilities sum to 1", e["weight"], 1.0, 1e-12)
        check("exact: probabilities", e["probabilities"], np.array([w.sum() for w in law]), 1e-12)
        check("exact: predictions", e["predictions"], np.array([predict(w, a1, a2) for w in words]), 1e-12)
        check("exact: loss against brute force", e["loss"], own(a1, a2), 1e-12)
        check("exact: dL/dA1 against central differences", e["A1"], differences(lambda x: own(x, a2), a1), 1e-7)
        check("exact: dL/dA2 against central differences", e["A2"], differences(lambda x: own(a1, x), a2), 1e-7)
    print("all agree")


if __name__ == "__main__":
    main()

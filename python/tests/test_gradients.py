"""value_and_grad against automatic differentiation of the equations, for every model, both kinds of
targets, over drawn shapes."""

import subprocess
import sys

import jax
import numpy as np
import popgrad
import pytest
import transcription
from hypothesis import given, settings
from hypothesis import strategies as st

# Relative to the largest entry of a block.
TOLERANCE = 1e-12
# What is 0 by symmetry is a sum of terms of order 1, each rounded.
ROUNDING = 1e-15


def batch_of(rng, kind, n, s, t):
    tokens = rng.integers(0, s, (n, t)).astype(np.uint32)
    if kind == "targets":
        return popgrad.Batch(tokens, targets=rng.dirichlet(np.ones(s), n), weights=rng.random(n) + 0.1)
    weights = rng.random((n, t)) * (rng.random((n, t)) < 0.7)
    weights[0, 0] = 1.0
    return popgrad.Batch(tokens, labels=rng.integers(0, s, (n, t)).astype(np.uint32), weights=weights)


def check(model, forward, batch, seed, std=0.5, **options):
    """Our loss and gradient are those of `forward` under autodiff; returns the gradient."""
    params = model.init(seed=seed, std=std)
    loss, grad = model.value_and_grad(params, batch)

    def of(params):
        return transcription.loss(forward, params, batch, model.S, model.T, **options)

    expected, autodiff = jax.jit(jax.value_and_grad(of))({name: np.array(x) for name, x in params.items()})
    assert abs(loss - float(expected)) <= TOLERANCE * abs(float(expected))
    for name, trains in model.trainable.items():
        if not trains:
            assert not grad[name].any() or name == "output.weight"
            continue
        theirs = np.asarray(autodiff[name])
        assert np.abs(grad[name] - theirs).max() <= TOLERANCE * np.abs(theirs).max() + ROUNDING, name
    return grad


SIZES = {"s": st.integers(2, 6), "t": st.integers(2, 8), "n": st.integers(1, 5), "seed": st.integers(0, 999)}
KINDS = st.sampled_from(["targets", "labels"])
HEADS = st.lists(st.integers(1, 2), min_size=1, max_size=3)


@settings(max_examples=8)
@given(**SIZES, kind=KINDS, heads=HEADS)
def test_disentangled(s, t, n, seed, kind, heads):
    model = popgrad.Disentangled(s, t, heads=heads)
    check(model, transcription.disentangled, batch_of(np.random.default_rng(seed), kind, n, s, t), seed)


@settings(max_examples=8)
@given(**SIZES)
def test_simplified(s, t, n, seed):
    model = popgrad.Simplified(s, t, eps=0.01)
    batch = batch_of(np.random.default_rng(seed), "targets", n, s, t)
    grad = check(model, transcription.simplified, batch, seed, eps=0.01)
    assert not np.triu(grad["A1"], 1).any()


@settings(max_examples=6)
@given(**SIZES, kind=KINDS, heads=st.lists(st.integers(1, 2), min_size=1, max_size=2))
def test_mlp_transformer(s, t, n, seed, kind, heads):
    model = popgrad.MlpTransformer(s, t, heads=heads)
    batch = batch_of(np.random.default_rng(seed), kind, n, s, t)
    check(model, transcription.mlp_transformer, batch, seed, std=0.4)


@settings(max_examples=6)
@given(
    **SIZES,
    kind=KINDS,
    dim=st.sampled_from([4, 6, 8]),
    ff1=st.sampled_from(["none", "linear", "relu"]),
    ff2=st.sampled_from(["none", "linear", "relu"]),
    rotary=st.booleans(),
    scaled=st.booleans(),
)
def test_memory(s, t, n, seed, kind, dim, ff1, ff2, rotary, scaled):
    positions = "rotary" if rotary else "random"
    model = popgrad.Memory(s, t, dim=dim, ff1=ff1, ff2=ff2, positions=positions, scale_scores=scaled)
    batch = batch_of(np.random.default_rng(seed), kind, n, s, t)
    check(model, transcription.memory, batch, seed, rotary=rotary, scaled=scaled)


@settings(max_examples=6)
@given(
    **SIZES,
    kind=KINDS,
    heads=st.sampled_from([1, 2]),
    layers=st.integers(1, 2),
    block=st.sampled_from(["public", "standard", "postnorm"]),
    ff=st.sampled_from(["none", "linear", "relu"]),
    norm=st.booleans(),
)
def test_transformer(s, t, n, seed, kind, heads, layers, block, ff, norm):
    model = popgrad.Transformer(s, t, dim=8, heads=heads, layers=layers, block=block, ff=ff, norm=norm)
    batch = batch_of(np.random.default_rng(seed), kind, n, s, t)
    check(model, transcription.transformer, batch, seed, heads=heads, block=block)


def test_a_gradient_that_is_wrong_is_seen():
    model = popgrad.Disentangled(3, 5)
    batch = batch_of(np.random.default_rng(0), "targets", 4, 3, 5)

    def without_mask(params, tokens, s, t):
        return transcription.disentangled(params, tokens[::-1], s, t)

    with pytest.raises(AssertionError):
        check(model, without_mask, batch, 0)


@pytest.mark.parametrize("n", [1, 255, 256, 257, 600])
def test_batches_of_several_pieces_are_one_sum(n):
    """However a batch is cut into pieces, and whatever the number of threads."""
    model = popgrad.Disentangled(4, 6)
    batch = batch_of(np.random.default_rng(n), "targets", n, 4, 6)
    check(model, transcription.disentangled, batch, n)
    params = model.init(seed=1, std=0.5)
    one = model.value_and_grad(params, batch, threads=1)
    for threads in (2, 3):
        other = model.value_and_grad(params, batch, threads=threads)
        assert other[0] == one[0]
        assert all((other[1][name] == one[1][name]).all() for name in one[1])


def test_single_precision_is_close_to_double():
    model = popgrad.Disentangled(4, 6)
    batch = batch_of(np.random.default_rng(3), "targets", 40, 4, 6)
    double = model.init(seed=0, std=0.5)
    single = model.init(seed=0, std=0.5, dtype="float32")
    (loss, grad), (rounded, small) = model.value_and_grad(double, batch), model.value_and_grad(single, batch)
    assert abs(loss - rounded) < 1e-5 * loss
    for name in grad:
        assert small[name].dtype == np.float32
        assert np.abs(small[name] - grad[name]).max() < 1e-4 * np.abs(grad[name]).max()


@pytest.mark.parametrize("kind", ["targets", "labels"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bits_are_those_of_the_command_line(tmp_path, kind, dtype):
    model = popgrad.Transformer(4, 6, dim=8, heads=2)
    batch = batch_of(np.random.default_rng(5), kind, 300, 4, 6)
    params = model.init(seed=2, std=0.3, dtype=dtype)
    np.savez(tmp_path / "params.npz", **params)
    answers = {"targets": batch.targets, "weights": batch.weights}
    if kind == "labels":
        answers = {"labels": batch.labels, "mask": batch.weights}
    np.savez(tmp_path / "batch.npz", tokens=batch.tokens, **answers)
    words = ["grad", "heads=2", "--model", "transformer", "--params", "params.npz", "--batch", "batch.npz"]
    words += ["--dtype", dtype.replace("float", "f"), "--out", "grad.npz"]
    command = [sys.executable, "-m", "popgrad.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    theirs = np.load(tmp_path / "grad.npz")
    loss, grad = model.value_and_grad(params, batch)
    assert loss == theirs["loss"]
    assert all((grad[name] == theirs[name].astype(dtype)).all() for name in theirs.files if name in grad)
    assert len(set(theirs.files) & set(grad)) == len(grad)
    assert (model.predict(params, batch) == theirs["predictions"]).all()


def test_a_batch_that_counts_nothing_has_loss_and_gradient_zero():
    model = popgrad.Transformer(4, 6, dim=8, heads=2)
    params = model.init(seed=0)
    tokens = np.zeros((3, 6), np.uint32)
    batch = popgrad.Batch(tokens, labels=tokens, weights=np.zeros((3, 6)))
    none = popgrad.Batch(tokens[:0], labels=tokens[:0])
    for empty in (batch, none):
        out = model.flat({name: np.full_like(x, 7.0) for name, x in params.items()})
        loss, grad = model.value_and_grad(params, empty, out=out)
        assert loss == 0.0 == model.loss(params, empty)
        assert not any(x.any() for x in grad.values())
    assert model.predict(params, batch).shape == (3, 6, 4)
    assert model.predict(params, none).shape == (0, 6, 4)

"""Kernels against NumPy, and attention's gradient against JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from popgrad import kernels
from transcription import causal


@given(m=st.integers(1, 9), k=st.integers(1, 9), n=st.integers(1, 9), single=st.booleans())
def test_gemm(m, k, n, single):
    rng = np.random.default_rng(m + 10 * k + 100 * n)
    a, b = rng.integers(-5, 5, (m, k)), rng.integers(-5, 5, (k, n))
    kind = np.float32 if single else np.float64
    found = kernels.gemm(a.astype(kind), b.astype(kind))
    assert found.dtype == kind and (found == a @ b).all()
    # Strided operands are those of their entries.
    assert (kernels.gemm(np.asfortranarray(a.astype(kind)), b.T.copy().T.astype(kind)) == a @ b).all()


def test_softmax_and_cross_entropy():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 5)), rng.dirichlet(np.ones(5), 7)
    expected = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    assert np.allclose(kernels.softmax(x), expected, rtol=1e-14, atol=0)
    losses, probs = kernels.cross_entropy(x, y)
    assert np.allclose(probs, expected, rtol=1e-14, atol=0)
    assert np.allclose(losses, -(y * np.log(expected)).sum(axis=1), rtol=1e-13, atol=0)


@pytest.mark.parametrize("tq", [1, 6])
def test_attention_and_its_gradient(tq):
    rng = np.random.default_rng(tq)
    q, k, v = rng.normal(size=(2, tq, 4)), rng.normal(size=(2, 6, 4)), rng.normal(size=(2, 6, 3))
    scale = 0.7

    def forward(q, k, v):
        full = jnp.zeros((2, 6, 4)).at[:, 6 - tq :].set(q)
        p = causal(scale * full @ k.swapaxes(1, 2))[:, 6 - tq :]
        return p @ v, p

    (out, probs), pull = jax.vjp(forward, q, k, v)
    found, kept = kernels.attention(q, k, v, scale)
    assert np.allclose(found, out, rtol=1e-13, atol=1e-15)
    assert np.allclose(kept, probs, rtol=1e-13, atol=1e-15)
    dout = rng.normal(size=found.shape)
    expected = pull((jnp.asarray(dout), jnp.zeros_like(probs)))
    grads = kernels.attention_backward(q, k, v, found, kept, dout, scale=scale)
    for own, theirs in zip(grads, expected):
        assert np.allclose(own, theirs, rtol=1e-12, atol=1e-14)

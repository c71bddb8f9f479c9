"""Single kernels on NumPy arrays, all float32 or all float64.

C-contiguous operands are read where they are, others are copied once. Results have the type of the
operands. The instruction set is that of :func:`popgrad.info`.

gemm(a, b)
    The product: a (m, k), b (k, n); returns (m, n).
softmax(x)
    The softmax of every row: x (n, S); returns (n, S).
cross_entropy(logits, targets)
    logits (n, S); targets (n, S), laws, float64 whatever the type of the logits. Returns losses (n)
    in nats, float64, and probabilities (n, S) in the type of the logits.
attention(q, k, v, scale=1.0)
    Causal attention: q (n, tq, d), k (n, tk, d), v (n, tk, dv) with tq <= tk, the queries being the
    last tq of the tk positions; scores are scale q k. Returns the output (n, tq, dv) and the
    probabilities (n, tq, tk), 0 where a key comes after its query.
attention_backward(q, k, v, out, probs, dout, *, scale=1.0)
    The gradient by q, k and v, in their shapes, of a function whose gradient by the output of
    `attention` is dout (n, tq, dv); out and probs are what `attention` returned.

Raises:
    InvalidError: shapes that do not fit; `field` is the operand, or "operands".
    TypeError: lists, mixed types, other types than float32 and float64.

Example:
    >>> import numpy as np
    >>> gemm(np.eye(2), np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([[1., 2.],
           [3., 4.]])
    >>> softmax(np.zeros((1, 4)))
    array([[0.25, 0.25, 0.25, 0.25]])
    >>> losses, probs = cross_entropy(np.zeros((2, 4)), np.full((2, 4), 0.25))
    >>> bool(abs(losses[0] - np.log(4)) < 1e-12), probs.shape
    (True, (2, 4))
    >>> q, k, v = np.zeros((1, 2, 3)), np.zeros((1, 5, 3)), np.ones((1, 5, 6))
    >>> out, probs = attention(q, k, v)
    >>> out.shape, probs[0, 0]
    ((1, 2, 6), array([0.25, 0.25, 0.25, 0.25, 0.  ]))
    >>> [g.shape for g in attention_backward(q, k, v, out, probs, np.ones_like(out))]
    [(1, 2, 3), (1, 5, 3), (1, 5, 6)]
"""

from ._native import attention, attention_backward, cross_entropy, gemm, softmax

__all__ = ["attention", "attention_backward", "cross_entropy", "gemm", "softmax"]

"""Single kernels on NumPy arrays, all float32 or all float64; other mixtures are a TypeError.

C-contiguous operands are read where they are, others are copied once. The instruction set is that
of :func:`popgrad.info`.

Example:
    >>> import numpy as np
    >>> gemm(np.eye(2), np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([[1., 2.],
           [3., 4.]])
"""

from ._native import attention, attention_backward, cross_entropy, gemm, softmax

__all__ = ["attention", "attention_backward", "cross_entropy", "gemm", "softmax"]

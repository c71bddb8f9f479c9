"""Models: the five that the papers and the engine know.

Sizes come from S and T, or from a task. Blocks of parameters, their shapes and the equations are in
the documentation of the engine; ``model.shapes`` lists them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import _checks, _native
from .tasks import sizes

if TYPE_CHECKING:
    from typing_extensions import Self


def _keys(name: str, **options: Any) -> dict[str, Any]:
    return {"model": name, **{key: value for key, value in options.items() if value is not None}}


def _heads(heads: Any) -> list[Any]:
    return _checks.items("heads", heads, "a list of the heads of each layer, e.g. [2, 1]")


class Disentangled(_native.Model):
    """The attention-only transformer whose layers append to the stream.

    Args:
        S, T: alphabet size and tokens of a sequence, or `task`.
        heads: heads of each layer.
        start: standard deviation of the attention matrices at the start.

    Blocks: "A.l" (heads, d_l, d_l) with d_0 = S + T and d_{l+1} = d_l (1 + heads), "W" (d_L, S).

    Example:
        >>> Disentangled(S=3, T=4, heads=[1, 1]).shapes
        {'A.0': (1, 7, 7), 'A.1': (1, 14, 14), 'W': (28, 3)}
    """

    def __new__(
        cls,
        S: int | None = None,
        T: int | None = None,
        *,
        task: _native.Task | None = None,
        heads: Sequence[int] = (1, 1),
        start: float | None = None,
    ) -> Self:
        keys = _keys("disentangled", heads=_heads(heads), init=start)
        return super().__new__(cls, keys, *sizes(task, S, T))


class Simplified(_native.Model):
    """The two-layer model of the theorems: A1 over positions, A2 over symbols.

    Args:
        S, T: alphabet size and tokens of a sequence, or `task`.
        eps: ε of the loss -Σ y log(f + ε), in nats.
        beta0: A2 starts at beta0 times the identity.

    Blocks: "A1" (T, T), entries above the diagonal are not read; "A2" (S, S), rows are queries.
    Targets are laws; labels are refused.
    """

    def __new__(
        cls,
        S: int | None = None,
        T: int | None = None,
        *,
        task: _native.Task | None = None,
        eps: float | None = None,
        beta0: float | None = None,
    ) -> Self:
        return super().__new__(cls, _keys("simplified", eps=eps, beta0=beta0), *sizes(task, S, T))


class MlpTransformer(_native.Model):
    """The transformer whose attention enters through an MLP (Figure 8 of paper 1); d = S + T.

    Args:
        S, T: alphabet size and tokens of a sequence, or `task`.
        heads: heads of each layer.
        start: standard deviation of the attention matrices at the start.

    Blocks: "wte" (S, d), "wpe" (T, d); of layer l "A.l" (heads, d, d), "V.l" (heads d, d),
    "mlp.l.w1", "mlp.l.w2" (d, d), "mlp.l.b1", "mlp.l.b2" (d); "W" (d, S).
    """

    def __new__(
        cls,
        S: int | None = None,
        T: int | None = None,
        *,
        task: _native.Task | None = None,
        heads: Sequence[int] = (1, 1),
        start: float | None = None,
    ) -> Self:
        return super().__new__(
            cls, _keys("mlp_transformer", heads=_heads(heads), init=start), *sizes(task, S, T)
        )


class Memory(_native.Model):
    """Two layers of attention without query matrix, read as associative memories.

    Args:
        S, T: alphabet size and tokens of a sequence, or `task`.
        dim: width d.
        ff1, ff2: feed-forward part of the first and of the second layer: "none", "linear" or
            "relu".
        positions: "random", "sincos" or "rotary".
        output: "free", "frozen", "tied" or "tied_frozen".
        scale_scores: scores over √d.
        scale_embeddings: embeddings start at standard deviation 1/√d.

    Blocks have the names of the public code: "tok_embeddings.weight" (S, d), "pe" (T, d),
    "layers.l.attention.{wk,wv,wo}.weight" (d, d), .., "output.weight" (S, d). wv and wo of layer 0,
    wv of layer 1 and pe never train: their gradients are 0.
    """

    def __new__(
        cls,
        S: int | None = None,
        T: int | None = None,
        *,
        task: _native.Task | None = None,
        dim: int | None = None,
        ff1: str | None = None,
        ff2: str | None = None,
        positions: str | None = None,
        output: str | None = None,
        scale_scores: bool | None = None,
        scale_embeddings: bool | None = None,
    ) -> Self:
        keys = _keys(
            "memory",
            dim=dim,
            ff1=ff1,
            ff2=ff2,
            positions=positions,
            output=output,
            scale_scores=scale_scores,
            scale_embeddings=scale_embeddings,
        )
        return super().__new__(cls, keys, *sizes(task, S, T))


class Transformer(_native.Model):
    """A full transformer of any depth.

    Args:
        S, T: alphabet size and tokens of a sequence, or `task`.
        dim: width d.
        layers: number of layers.
        heads: heads of every layer, a divisor of dim.
        block: "public", "standard" (pre-norm) or "postnorm".
        norm: layer norms.
        ff: feed-forward of each layer, "none", "linear" or "relu".
        positions: "learned" or "sincos".
        output: "free", "frozen", "tied" or "tied_frozen".
    """

    def __new__(
        cls,
        S: int | None = None,
        T: int | None = None,
        *,
        task: _native.Task | None = None,
        dim: int | None = None,
        layers: int | None = None,
        heads: int | None = None,
        block: str | None = None,
        norm: bool | None = None,
        ff: str | None = None,
        positions: str | None = None,
        output: str | None = None,
    ) -> Self:
        keys = _keys(
            "transformer",
            dim=dim,
            layers=layers,
            heads=heads,
            block=block,
            norm=norm,
            ff=ff,
            positions=positions,
            output=output,
        )
        return super().__new__(cls, keys, *sizes(task, S, T))

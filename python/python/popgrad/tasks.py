"""Tasks: distributions of sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import _checks, _native
from .errors import InvalidError

if TYPE_CHECKING:
    from typing_extensions import Self

# Graphs that a seed decides.
_DRAWN = ("random", "many_graphs", "random_parents")


def _given(**keys: Any) -> dict[str, Any]:
    return {name: value for name, value in keys.items() if value is not None}


def _graph(graph: Any, parents: Any, usual: str) -> Any:
    """The graph that the arguments `graph` and `parents` mean; both say "custom" and the parents."""
    if parents is None:
        return usual if graph is None else graph
    if graph is not None and not (isinstance(graph, str) and graph == "custom"):
        raise _checks.refused("parents", parents, f"none with graph {_checks.shown(graph)}")
    return parents


def _parent(p: Any) -> int:
    return _checks.whole("parents", p, -1)


class CausalTree(_native.Task):
    """Sequences over a latent forest: each position depends on at most one earlier one.

    Every sequence has transitions of its own, drawn from the prior; the target is the law of the
    symbol after the last token (the query).

    Args:
        graph: "chain" (the default), "icl", "random", "many_graphs" or "manual", or the list of the
            parents of the positions 0..T-2, -1 for a root.
        S: alphabet size.
        T: tokens of a sequence, the query included. Follows from a list of parents.
        alpha: Dirichlet parameter of the rows of the transitions.
        roots: law of the roots, "stationary" or "uniform".
        prior: "dirichlet", or "floored" (then gamma: no entry is below gamma/S).
        graph_seed: seed of the graphs "random" and "many_graphs".
        parents: the list of parents, instead of `graph`.

    Raises:
        InvalidError: a value out of its domain.

    Example:
        >>> task = CausalTree("chain", S=3, T=8)
        >>> batch = task.sample(4, seed=0)
        >>> batch.tokens.shape, batch.targets.shape, batch.weights.shape
        ((4, 8), (4, 3), (4,))
    """

    def __new__(
        cls,
        graph: str | Sequence[int] | None = None,
        *,
        S: int | None = None,
        T: int | None = None,
        alpha: float | None = None,
        roots: str | None = None,
        prior: str | None = None,
        gamma: float | None = None,
        labels: str | None = None,
        graph_seed: int = 0,
        parents: Sequence[int] | None = None,
    ) -> Self:
        keys = _given(S=S, T=T, alpha=alpha, roots=roots, prior=prior, gamma=gamma, labels=labels)
        keys["task"] = "causal_tree"
        graph = _graph(graph, parents, "chain")
        if isinstance(graph, str):
            keys["graph"] = graph
            if graph in _DRAWN:
                drawn = _native.Task(keys, _checks.whole("graph_seed", graph_seed)).graph or []
                keys["graph"] = "custom"
                keys["parents"] = [p[0] if p else -1 for p in drawn]
        else:
            keys["graph"] = "custom"
            parents = _checks.items("graph", graph, "a name, or a list of parents")
            keys["parents"] = [_parent(p) for p in parents]
            keys.setdefault("T", len(keys["parents"]) + 1)
        return super().__new__(cls, keys)


class CausalDag(_native.Task):
    """Sequences over a graph in which positions, and the target, have several parents.

    Args:
        graph: "two_parents" (the default), "ngram" (then order: parents of a position),
            "random_parents" (then k), or the parents of each of the T positions and of the target:
            T + 1 tuples.
        S, T, alpha: as for CausalTree.
        roots: "shared" (one draw of a law) or "uniform".
        graph_seed: seed of the graph "random_parents".
        parents: the tuples of parents, instead of `graph`.

    Raises:
        InvalidError: a value out of its domain.

    Example:
        >>> CausalDag([(), (0,), (0, 1), (1, 2)], S=3).graph
        [[], [0], [0, 1], [1, 2]]
    """

    def __new__(
        cls,
        graph: str | Sequence[Sequence[int]] | None = None,
        *,
        S: int | None = None,
        T: int | None = None,
        alpha: float | None = None,
        roots: str | None = None,
        order: int | None = None,
        k: int | None = None,
        labels: str | None = None,
        graph_seed: int = 0,
        parents: Sequence[Sequence[int]] | None = None,
    ) -> Self:
        keys = _given(S=S, T=T, alpha=alpha, roots=roots, order=order, k=k, labels=labels)
        keys["task"] = "causal_dag"
        graph = _graph(graph, parents, "two_parents")
        if isinstance(graph, str):
            keys["graph"] = graph
            if graph in _DRAWN:
                graph = _native.Task(keys, _checks.whole("graph_seed", graph_seed)).graph or []
                keys.pop("k", None)
        if not isinstance(graph, str):
            allowed = "a name, or a tuple of parents for each position and the target"
            given = [_checks.items("graph", own, allowed) for own in _checks.items("graph", graph, allowed)]
            sets = [",".join(str(_parent(p)) for p in own) or "-" for own in given]
            keys["graph"] = "custom"
            keys["parent_sets"] = ";".join(sets)
            keys.setdefault("T", len(sets) - 1)
        return super().__new__(cls, keys)


class TriggerBigram(_native.Task):
    """Text-like sequences in which each trigger is followed by an output of the sequence's own.

    Labels are the next tokens. Weights are 1 where the loss counts: from a trigger's second
    occurrence on (loss="head"), or everywhere (loss="all").

    Args:
        corpus: "shipped", a text file, "counts:FOLDER", or "dirichlet" (random bigrams that belong
            to the seed of `sample`; then N and alpha).
        T: inputs of a sequence.
        K: triggers of a sequence.
        triggers: "fixed" (the K most frequent symbols after `offset`) or "random".
        outputs: law of what follows a trigger, "uniform" or "bigram".
        no_repeat: a trigger is never its own output.
        output_split: share of the symbols that are outputs in training; the others in testing.

    Raises:
        InvalidError: a value out of its domain.
        FileError: a corpus that cannot be read.

    Example:
        >>> batch = TriggerBigram(T=32).sample(2)
        >>> batch.labels.shape, batch.weights.shape
        ((2, 32), (2, 32))
    """

    def __new__(
        cls,
        *,
        corpus: str | None = None,
        T: int | None = None,
        K: int | None = None,
        triggers: str | None = None,
        outputs: str | None = None,
        test_outputs: str | None = None,
        no_repeat: bool | None = None,
        output_split: float | None = None,
        loss: str | None = None,
        N: int | None = None,
        alpha: float | None = None,
        offset: int | None = None,
    ) -> Self:
        keys = _given(
            corpus=corpus,
            T=T,
            K=K,
            triggers=triggers,
            outputs=outputs,
            test_outputs=test_outputs,
            no_repeat=no_repeat,
            output_split=output_split,
            loss=loss,
            N=N,
            alpha=alpha,
            offset=offset,
        )
        keys["task"] = "trigger_bigram"
        return super().__new__(cls, keys)


def sizes(task: _native.Task | None, S: int | None, T: int | None) -> tuple[int, int]:
    """S and T, given or those of a task."""
    if task is not None:
        if not isinstance(task, _native.Task):
            raise _checks.refused("task", task, "CausalTree, CausalDag, TriggerBigram")
        S = task.S if S is None else S
        T = task.T if T is None else T
    for field, value in (("S", S), ("T", T)):
        if value is None:
            allowed = f"{field}= or task="
            raise InvalidError(f"{field}: missing; allowed: {allowed}", field, allowed)
    return _checks.whole("S", S), _checks.whole("T", T)

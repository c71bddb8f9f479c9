"""Discovery of graphs, claims of the theory, facts about the machine."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import _checks, _native
from .errors import InvalidError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Found:
    """The graph of a sample, with what supports it.

    Attributes:
        parents: for each position its parent, None for a root: T - 1 positions by score="gradient",
            all T, the query included, by score="chi2".
        scores: (T - 1, T - 1) by "gradient", minus the gradient by A1[i, j] in a scale of row i:
            columns j <= i, NaN above the diagonal. (T, T) by "chi2", the χ² mutual information less what
            chance gives: columns j < i, NaN on and above the diagonal.
        positions: a record for each position, as in `parents`: its best candidate, score, z and p.
        tested: True if the sample is large enough for the test.
    """

    parents: list[int | None]
    scores: np.ndarray
    positions: list[dict[str, Any]]
    tested: bool


def discover(
    tokens: ArrayLike,
    labels: ArrayLike | None = None,
    score: str = "gradient",
    *,
    S: int | None = None,
    level: float = 0.01,
    eps: float = 0.0,
) -> Found:
    """The latent graph from one sampled gradient before any training, or from pair counts.

    Args:
        tokens: (n, T), the query last.
        labels: what follows the query: symbols (n), integers, or laws (n, S). Needed by
            score="gradient", of no use to "chi2".
        score: "gradient", or "chi2" (pair counts; one law that all sequences share).
        S: alphabet size; by default that of the laws, else the largest symbol + 1.
        level: an edge needs a p of at most this.
        eps: ε of the gradient.

    Raises:
        InvalidError: values out of their domain, sizes that do not fit.

    Example:
        >>> import popgrad
        >>> batch = popgrad.CausalTree("chain", S=3, T=8, alpha=0.5).sample(20000)
        >>> popgrad.discover(batch.tokens, batch.targets).parents
        [None, 0, 1, 2, 3, 4, 5]
    """
    import numpy as np

    tokens = np.asarray(tokens)
    if tokens.dtype.kind not in "iu":
        raise _checks.refused("tokens", tokens.dtype, "an array of integers (n, T)")
    laws, symbols = None, None
    if labels is not None:
        labels = np.asarray(labels)
        if labels.ndim == 2:
            laws = labels
        else:
            allowed = "integers, 0 to S-1, or laws (n, S)"
            if labels.dtype.kind not in "iu":
                raise InvalidError(f"labels: {labels.dtype}; allowed: {allowed}", "labels", allowed)
            if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < 2**32:
                wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
                raise _checks.refused("labels", wrong, allowed)
            symbols = np.ascontiguousarray(labels, dtype=np.uint32)
    if S is not None:
        S = _checks.whole("S", S, 1)
    else:
        largest = max([int(a.max()) for a in (tokens, symbols) if a is not None and a.size], default=0)
        S = laws.shape[1] if laws is not None else largest + 1
    if laws is None:
        batch = _native.Batch(tokens, labels=tokens)
    else:
        batch = _native.Batch(tokens, targets=laws)
    text, scores = _native.find_graph(batch, S, symbols, score, level, eps)
    graph = json.loads(text)
    parents = [p["parent"] for p in graph["positions"]]
    return Found(parents, scores, graph["positions"], bool(graph["tested"]))


@dataclass(frozen=True)
class Claim:
    """A claim of the theory and how it fared.

    Attributes:
        name, title: what it is.
        verdict: "pass", "fail", "counterexample" (found where the theory has one), or "noted"
            (measured, and nothing claimed).
        seconds: how long it took.
        checks: measured numbers against what the theory says.
    """

    name: str
    title: str
    verdict: str
    seconds: float
    checks: list[dict[str, Any]]


def verify(names: str | Iterable[str] | None = None, *, thorough: bool = False) -> list[Claim]:
    """Tests claims of the theory against exact computation: all of them, or those named.

    Raises:
        InvalidError: a name that is no claim's; `allowed` lists them.

    Example:
        >>> [c.verdict for c in verify("gradients")]
        ['pass']
    """
    titles = dict(_native.claims())
    given = [names] if isinstance(names, str) else list(titles) if names is None else names
    wanted = _checks.items("names", given, "the name of a claim, or a list of names")
    out = []
    for name in wanted:
        verdict, seconds, checks = _native.verify_claim(name, thorough)
        out.append(Claim(name, titles[name], verdict, seconds, json.loads(checks)))
    return out


def info() -> dict[str, Any]:
    """Versions, and the machine with the instruction set that the kernels use."""
    import numpy as np

    from . import __version__

    own = {"popgrad": __version__, "python": platform.python_version(), "numpy": np.__version__}
    return {**own, **json.loads(_native.machine())}


def presets() -> dict[str, str]:
    """Names of the presets, with what they are."""
    return dict(_native.presets())

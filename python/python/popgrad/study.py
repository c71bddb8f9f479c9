"""Many runs: a grid of keys."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _checks
from .errors import InvalidError
from .progress import Stopper
from .run import Run, preset


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        keys: its keys of the grid.
        seed: its seed.
        result: its run, or what the function returned.
    """

    keys: dict[str, Any]
    seed: int
    result: Any


# What the cells of a preset get from the sweep itself.
_ELSEWHERE = {
    "name": "the first argument",
    "out": "out= of the sweep",
    "progress": "none: the cells of a sweep show nothing",
    "quick": "quick= of the sweep",
    "threads": "workers=; each cell has one thread",
}


def sweep(
    what: str | Callable[..., Any],
    grid: Mapping[str, Sequence[Any]],
    seeds: int | Iterable[int] = 1,
    workers: int | None = None,
    *,
    quick: bool = False,
    out: str | Path | None = None,
    **keys: Any,
) -> list[Cell]:
    """Runs a preset, or calls a function, at every point of a grid under every seed.

    Args:
        what: name of a preset, or a function that takes the keys of the grid and `seed`.
        grid: values of each key.
        seeds: a number of seeds, from 0 on, or the seeds.
        workers: cells at a time, each on one thread; all cores by default.
        quick, keys: of a preset, as for :func:`popgrad.preset`.
        out: folder that the folders of the runs go to; temporary ones by default.

    Returns:
        Cells, the last key of the grid and then the seed varying fastest.

    Raises:
        InvalidError: an empty grid, a key that is an argument of the sweep; as for
            :func:`popgrad.preset`. The first exception of a cell, or Ctrl-C, ends the sweep; runs
            that are under way are stopped and keep their folders.

    Example:
        >>> [c.result for c in sweep(lambda a, seed: a + seed, {"a": [1, 2]}, seeds=2)]
        [1, 2, 2, 3]
    """
    if not isinstance(what, str) and not callable(what):
        raise _checks.refused("what", what, "the name of a preset, or a function")
    if not isinstance(grid, Mapping):
        raise _checks.refused("grid", grid, "a dict of lists of values")
    for name in (*grid, *keys):
        other = "seeds=" if name == "seed" else None if callable(what) else _ELSEWHERE.get(name)
        if other is not None:
            raise InvalidError(f"{name}: no key of a sweep; allowed: {other}", name, other)
        if name in grid and name in keys:
            allowed = "in the grid or beside it, not both"
            raise InvalidError(f"{name}: given twice; allowed: {allowed}", name, allowed)
    if workers is not None:
        workers = _checks.whole("workers", workers, 1)
    if hasattr(seeds, "__index__") and not getattr(seeds, "shape", ()):
        all_seeds = list(range(_checks.whole("seeds", seeds, 1)))
    else:
        given = _checks.items("seeds", seeds, "a number of seeds, or a list of them")
        all_seeds = [_checks.whole("seeds", seed) for seed in given]
    axes = {name: _checks.items(name, values, "a list of values") for name, values in grid.items()}
    for name, values in [*axes.items(), ("seeds", all_seeds)]:
        if not values:
            raise InvalidError(f"{name}: no values; allowed: at least one", name, "at least one")
    points = [dict(zip(axes, values)) for values in itertools.product(*axes.values())]
    cells = [(point, seed) for point in points for seed in all_seeds]

    stopper = Stopper(_checks.caller())

    def one(cell: tuple[dict[str, Any], int]) -> Any:
        point, seed = cell
        if callable(what):
            return what(**{**keys, **point}, seed=seed)
        name = "-".join([*(f"{k}={v}" for k, v in point.items()), f"seed={seed}"])
        folder = None if out is None else Path(out) / name.replace("/", "_").replace(" ", "")
        run: Run = preset(
            what, quick=quick, out=folder, threads=1, progress=stopper, seed=seed, **{**keys, **point}
        )
        return run

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        futures = [pool.submit(one, cell) for cell in cells]
        try:
            ended = wait(futures, return_when=FIRST_EXCEPTION).done
            # The exception of any of them, before the others are waited for.
            failed = [error for error in (future.exception() for future in ended) if error is not None]
            if failed:
                raise failed[0]
            results = [future.result() for future in futures]
        except BaseException:
            stopper.stop()
            for future in futures:
                future.cancel()
            raise
    return [Cell(point, seed, result) for (point, seed), result in zip(cells, results)]

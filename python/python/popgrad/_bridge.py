"""What the wrappers for JAX and PyTorch share: what they evaluate, and checks by shape alone."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from . import _checks, _native
from ._native import Batch, Model, Population
from .errors import InvalidError


def rebuild(base: str, cls: Any, args: tuple[Any, ...]) -> Any:
    """An object of `cls` by the constructor of the native class `base`, as pickle and copy make it."""
    return getattr(_native, base).__new__(cls, *args)


COLUMNS = ("tokens", "targets", "labels", "weights")
Out = TypeVar("Out")


def _workers() -> ThreadPoolExecutor:
    """Threads that exist from now on, with the floating-point mode of this one."""
    n = os.cpu_count() or 1
    pool, all_there = ThreadPoolExecutor(n, "popgrad"), threading.Barrier(n)
    for future in [pool.submit(all_there.wait) for _ in range(n)]:
        future.result()
    return pool


_pool = _workers()
_least = [5e-324]


def _after_fork() -> None:
    global _pool
    _pool = _workers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _usually(f: Callable[..., Out], *arguments: Any) -> Out:
    """f(*arguments) in a thread that reads subnormal numbers as they are.

    JAX calls back in threads that read them as 0, and torch.set_flush_denormal makes such threads;
    there the engine's gradient through ReLU would be 0.
    """
    if _least[0] + 0.0 != 0.0:
        return f(*arguments)
    return _pool.submit(f, *arguments).result()


@dataclass(frozen=True)
class Objective:
    """A model on batches, or on a population: loss and gradient in NumPy."""

    model: Model
    population: Population | None
    threads: int | None

    def value(self, params: dict[str, np.ndarray], batch: Batch | None) -> float:
        """The loss."""
        if self.population is not None:
            return _usually(self.population.loss, self.model, params, self.threads)
        assert batch is not None
        return _usually(self.model.loss, params, batch, self.threads)

    def value_and_grad(
        self, params: dict[str, np.ndarray], batch: Batch | None
    ) -> tuple[float, dict[str, np.ndarray]]:
        """The loss and its gradient."""
        if self.population is not None:
            return _usually(self.population.value_and_grad, self.model, params, self.threads)
        assert batch is not None
        return _usually(self.model.value_and_grad, params, batch, self.threads)

    def check_params(self, found: Mapping[str, tuple[tuple[int, ...], str]]) -> str:
        """Refuses other blocks, shapes or types than the model's; returns the type."""
        shapes = self.model.shapes
        blocks = ", ".join(shapes)
        for name in found:
            if name not in shapes:
                raise InvalidError(f"params: `{name}`; allowed: {blocks}", "params", blocks)
        for name, shape in shapes.items():
            if name not in found:
                raise KeyError(f"params: `{name}` is missing; blocks: {blocks}")
            if found[name][0] != tuple(shape):
                text = f"params[{name}]: shape {found[name][0]}; allowed: {tuple(shape)}"
                raise InvalidError(text, f"params[{name}]", str(tuple(shape)))
        types = {name: found[name][1] for name in shapes}
        first = next(iter(types.values()))
        for name, dtype in types.items():
            if dtype not in ("float32", "float64"):
                raise TypeError(f"params[`{name}`]: {dtype}; allowed: float32 or float64")
            if dtype != first:
                raise TypeError(f"params[`{name}`]: {dtype}; allowed: {first}, as the first block")
        return first

    def check_mapping(self, name: str, found: Any, allowed: str) -> None:
        """Refuses what is no dict."""
        if not isinstance(found, Mapping):
            raise TypeError(f"{name}: {type(found).__name__}; allowed: {allowed}")

    def check_batch(self, found: Mapping[str, tuple[int, ...]]) -> None:
        """Refuses columns of other names or shapes than the model reads."""
        names = ", ".join(COLUMNS)
        for name in found:
            if name not in COLUMNS:
                raise InvalidError(f"batch: `{name}`; allowed: {names}", "batch", names)
        given = [name for name in ("targets", "labels") if name in found]
        if "tokens" not in found or len(given) != 1:
            allowed = "tokens (B, T) with targets (B, S) or labels (B, T)"
            have = ", ".join(found) or "nothing"
            raise InvalidError(f"batch: {have}; allowed: {allowed}", "batch", allowed)
        tokens, (s, t) = found["tokens"], (self.model.S, self.model.T)
        if len(tokens) != 2 or tokens[1] != t:
            allowed = f"(B, {t})"
            raise InvalidError(f"tokens: shape {tokens}; allowed: {allowed}", "tokens", allowed)
        n = tokens[0]
        outputs = (n,) if given == ["targets"] else (n, t)
        wanted = {"targets": (n, s), "labels": (n, t), "weights": outputs}
        for name, shape in wanted.items():
            if name in found and found[name] != shape:
                text = f"{name}: shape {found[name]}; allowed: {shape}"
                raise InvalidError(text, name, str(shape))


def objective(what: Any, model: Any, threads: int | None) -> Objective:
    """What `loss(what, model, threads)` of a wrapper means."""
    threads = _checks.threads(threads)
    if isinstance(what, Model) and model is None:
        return Objective(what, None, threads)
    if isinstance(what, Population) and isinstance(model, Model):
        return Objective(model, what, threads)
    allowed = "loss(model) or loss(population, model)"
    kinds = ", ".join(type(x).__name__ for x in (what, model) if x is not None)
    raise TypeError(f"loss({kinds}); allowed: {allowed}")


def columns_of(batch: Batch) -> dict[str, np.ndarray]:
    """The columns that `batch` has, by name."""
    found = {name: getattr(batch, name) for name in COLUMNS}
    return {name: x for name, x in found.items() if x is not None}


FIRST_ORDER = (
    "{0}: only first derivatives: the gradient comes from the engine and has no derivative here; "
    "for second ones differentiate a model that is written in {1}"
)

"""Types of the native module."""

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, Literal, Self, final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from typing_extensions import disjoint_base

_Params = dict[str, NDArray[Any]]
_Folder = str | PathLike[str]

__all__ = [
    "Batch",
    "FfiObjective",
    "Model",
    "Population",
    "Task",
    "__version__",
    "attention",
    "attention_backward",
    "claims",
    "cross_entropy",
    "ffi_capsules",
    "ffi_objectives",
    "ffi_version",
    "find_graph",
    "gemm",
    "machine",
    "models",
    "presets",
    "resolve",
    "resume",
    "run_attention",
    "run_config",
    "run_weights",
    "run_words",
    "softmax",
    "train",
    "verify_claim",
]

__version__: str

@final
class Batch:
    def __new__(
        cls,
        tokens: ArrayLike,
        targets: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        *,
        seen: ArrayLike | None = None,
        copy: bool = True,
    ) -> Self: ...
    @property
    def tokens(self) -> NDArray[np.uint32]: ...
    @property
    def targets(self) -> NDArray[np.float64] | None: ...
    @property
    def labels(self) -> NDArray[np.uint32] | None: ...
    @property
    def weights(self) -> NDArray[np.float64]: ...
    @property
    def seen(self) -> NDArray[np.uint32] | None: ...
    def __len__(self) -> int: ...

@disjoint_base
class Task:
    def __new__(cls, keys: dict[str, Any], seed: int = 0) -> Self: ...
    @property
    def name(self) -> str: ...
    @property
    def S(self) -> int: ...
    @property
    def T(self) -> int: ...
    @property
    def keys(self) -> dict[str, Any]: ...
    @property
    def graph(self) -> list[list[int]] | None: ...
    @property
    def symbols(self) -> list[str] | None: ...
    def sample(self, n: int, seed: int = 0, start: int = 0, *, test: bool = False) -> Batch: ...
    def bayes(self, batch: Batch, method: str | None = None, *, seed: int = 0) -> NDArray[np.float64]: ...

@disjoint_base
class Model:
    def __new__(cls, keys: dict[str, Any], vocab: int, len: int) -> Self: ...
    @property
    def name(self) -> str: ...
    @property
    def S(self) -> int: ...
    @property
    def T(self) -> int: ...
    @property
    def keys(self) -> dict[str, Any]: ...
    @property
    def head_counts(self) -> list[int]: ...
    @property
    def shapes(self) -> dict[str, tuple[int, ...]]: ...
    @property
    def trainable(self) -> dict[str, bool]: ...
    @property
    def activations(self) -> dict[str, tuple[int, ...]]: ...
    def init(self, seed: int = 0, std: float | None = None, dtype: str = "float64") -> _Params: ...
    def flat(self, params: _Params) -> _Params: ...
    def is_borrowed(self, params: _Params) -> bool: ...
    def loss(
        self, params: _Params, batch: Batch, threads: int | None = None, *, copy: bool = True
    ) -> float: ...
    def value_and_grad(
        self,
        params: _Params,
        batch: Batch,
        threads: int | None = None,
        out: _Params | None = None,
        *,
        copy: bool = True,
    ) -> tuple[float, _Params]: ...
    def predict(
        self, params: _Params, batch: Batch, threads: int | None = None, *, copy: bool = True
    ) -> NDArray[np.float64]: ...
    def run_with_cache(
        self, params: _Params, tokens: ArrayLike, names: Sequence[str] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]: ...
    def patch(
        self,
        params: _Params,
        tokens: ArrayLike,
        patches: dict[str, ArrayLike | _Params | Literal["zero"]],
        names: Sequence[str] | None = None,
    ) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]: ...

@final
class Population:
    def __new__(
        cls, task: Task, eps: float | None = None, method: str = "auto", max_seconds: float = 60.0
    ) -> Self: ...
    @property
    def task(self) -> Task: ...
    def value_and_grad(
        self, model: Model, params: _Params, threads: int | None = None
    ) -> tuple[float, _Params]: ...
    def loss(self, model: Model, params: _Params, threads: int | None = None) -> float: ...
    def batch(self) -> Batch: ...
    def words(self) -> NDArray[np.uint32]: ...
    def weights(self) -> NDArray[np.float64]: ...
    def bayes(self) -> float: ...

@final
class FfiObjective:
    def __new__(
        cls, model: Model, population: Population | None = None, threads: int | None = None
    ) -> Self: ...
    @property
    def id(self) -> int: ...
    @property
    def threads(self) -> int: ...

def ffi_version() -> tuple[int, int]: ...
def ffi_objectives() -> int: ...
def ffi_capsules() -> dict[str, Any]: ...
def models() -> list[str]: ...
def presets() -> list[tuple[str, str]]: ...
def resolve(preset: str, quick: bool, keys: dict[str, Any]) -> dict[str, Any]: ...
def train(
    preset: str,
    quick: bool,
    keys: dict[str, Any],
    folder: _Folder,
    *,
    threads: int | None = None,
    figures: bool = False,
    callback: Callable[[int, float, _Params], object] | None = None,
    show: Callable[[int, float, str, float], object] | None = None,
    note: Callable[[str, bool], object] | None = None,
) -> str | None: ...
def resume(
    folder: _Folder,
    steps: int | None = None,
    *,
    threads: int | None = None,
    figures: bool = False,
    callback: Callable[[int, float, _Params], object] | None = None,
    show: Callable[[int, float, str, float], object] | None = None,
    note: Callable[[str, bool], object] | None = None,
) -> str | None: ...
def run_config(folder: _Folder) -> dict[str, Any]: ...
def run_weights(folder: _Folder, step: int | None = None) -> tuple[int, _Params]: ...
def run_attention(folder: _Folder, step: int | None = None) -> list[NDArray[np.float64]]: ...
def gemm(a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]: ...
def attention(
    q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], scale: float = 1.0
) -> tuple[NDArray[Any], NDArray[Any]]: ...
def attention_backward(
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    out: NDArray[Any],
    probs: NDArray[Any],
    dout: NDArray[Any],
    *,
    scale: float = 1.0,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]: ...
def softmax(x: NDArray[Any]) -> NDArray[Any]: ...
def cross_entropy(
    logits: NDArray[Any], targets: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[Any]]: ...
def machine() -> str: ...
def run_words(words: Sequence[str]) -> int: ...
def claims() -> list[tuple[str, str]]: ...
def verify_claim(name: str, thorough: bool) -> tuple[str, float, str]: ...
def find_graph(
    batch: Batch,
    symbols: int,
    labels: NDArray[np.uint32] | None,
    score: str,
    level: float,
    eps: float,
) -> tuple[str, NDArray[np.float64]]: ...

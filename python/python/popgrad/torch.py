"""The engine's losses as functions of PyTorch: differentiable once, eager and compiled.

>>> import popgrad, popgrad.torch
>>> task = popgrad.CausalTree("chain", S=3, T=8)
>>> model = popgrad.Disentangled(task=task)
>>> loss = popgrad.torch.loss(model)
>>> params = popgrad.torch.params(model.init(seed=0, std=0.1))
>>> value = loss(params, task.sample(64))
>>> value.backward()
>>> params["W"].grad.shape
torch.Size([44, 3])
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

try:
    import torch
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "torch":
        raise
    raise ImportError("popgrad.torch needs PyTorch: pip install torch") from error

from ._bridge import COLUMNS, FIRST_ORDER, Objective, columns_of, objective
from ._native import Batch, Model, Population
from .errors import InvalidError

__all__ = ["columns", "loss", "params"]

# Operators take numbers and tensors: what they evaluate goes by its number.
_objectives: WeakValueDictionary[int, Objective] = WeakValueDictionary()
_numbers = itertools.count()


def params(arrays: Mapping[str, np.ndarray], requires_grad: bool = True) -> dict[str, torch.Tensor]:
    """`arrays` as tensors that share their memory, leaves for an optimizer.

    A set from `model.init` or `model.flat` becomes views of one tensor, which the engine reads
    where it is; tensors that lie apart are gathered once a call.

    Raises:
        InvalidError: no arrays.
        TypeError: no dict, or one of other things than arrays of NumPy.
    """
    if not isinstance(arrays, Mapping):
        raise TypeError(f"arrays: {type(arrays).__name__}; allowed: a dict of arrays of NumPy")
    if not arrays:
        allowed = "the arrays of model.init or model.flat"
        raise InvalidError(f"arrays: none; allowed: {allowed}", "arrays", allowed)
    for name, x in arrays.items():
        if not isinstance(x, np.ndarray):
            raise TypeError(f"arrays[{name}]: {type(x).__name__}; allowed: an array of NumPy")
    bases = {id(x.base) for x in arrays.values()}
    base = next(iter(arrays.values())).base
    together = len(bases) == 1 and isinstance(base, np.ndarray) and base.ndim == 1
    if base is None or not together or any(x.dtype != base.dtype for x in arrays.values()):
        return {n: torch.from_numpy(x).requires_grad_(requires_grad) for n, x in arrays.items()}
    flat, out = torch.from_numpy(base), {}
    for name, x in arrays.items():
        at = (x.ctypes.data - base.ctypes.data) // base.itemsize
        view = flat.as_strided(x.shape, [step // x.itemsize for step in x.strides], at)
        out[name] = view.requires_grad_(requires_grad)
    return out


def columns(batch: Batch) -> dict[str, torch.Tensor]:
    """The columns of `batch` as tensors that share their memory.

    Returns:
        "tokens" (B, T) uint32, "targets" (B, S) float64 or "labels" (B, T) uint32, and "weights"
        float64.
    """
    return {name: torch.from_numpy(x) for name, x in columns_of(batch).items()}


def loss(
    what: Model | Population, model: Model | None = None, *, threads: int | None = None
) -> Callable[..., torch.Tensor]:
    """The loss of a model as a function that PyTorch differentiates and compiles.

    loss(model) is a function of (params, batch); loss(population, model) one of (params).

    `params` is a dict of tensors on the CPU with the blocks of `model.shapes`, all float32 or all
    float64; the arithmetic and the result, a tensor (), have that type. `batch` is a
    `popgrad.Batch`, or a dict as `columns` returns it. Contiguous tensors of those types are read
    where they are; others are copied once a call.

    - The engine's gradient is computed with the loss where a parameter requires one, else the loss
      alone. Reverse mode, first order only: backward, torch.autograd.grad, torch.func.grad, vjp and
      jacrev work; a derivative of a derivative, forward mode (torch.func.jvp, jacfwd, hessian, dual
      tensors) and torch.vmap raise NotImplementedError.
    - torch.compile works: the engine is one operator of the graph. Pass `columns(batch)` there.
    - Blocks that never train (`model.trainable`; buffers of Memory) have gradient 0.
    - Columns have no derivative; one that requires a gradient raises NotImplementedError.

    Args:
        what: a model, or a population with `model`.
        threads: of each call of the engine, all cores by default.

    Raises (now):
        InvalidError: `threads` is no number from 1 on.
    Raises (when the function is called):
        InvalidError: unknown blocks or columns, other shapes, values out of their domain.
        KeyError: a block is missing.
        TypeError: parameters that are no tensors or of mixed types, tensors that are not on the CPU.

    Example:
        >>> task = popgrad.CausalTree("chain", S=2, T=6, roots="uniform")
        >>> model = popgrad.Simplified(task=task)
        >>> f = popgrad.torch.loss(popgrad.Population(task), model)
        >>> f(popgrad.torch.params(model.init(seed=0, std=0.5))).shape
        torch.Size([])
    """
    own = objective(what, model, threads)
    number = next(_numbers)
    _objectives[number] = own
    names = list(own.model.shapes)

    def evaluate(params: Mapping[str, torch.Tensor], found: Mapping[str, Any]) -> torch.Tensor:
        # What the function refers to keeps its number alive.
        own.check_mapping("params", params, "a dict of tensors")
        for name, x in params.items():
            if not isinstance(x, torch.Tensor):
                kind = type(x).__name__
                raise TypeError(f"params[{name}]: {kind}; allowed: a tensor, see popgrad.torch.params")
        own.check_params({n: (tuple(x.shape), str(x.dtype)[6:]) for n, x in params.items()})
        given = [params[name] for name in names]
        all_of_them = [*given, *(x for x in found.values() if x is not None)]
        if any(x.device.type != "cpu" for x in all_of_them):
            raise TypeError("popgrad.torch.loss: a tensor on another device; allowed: cpu")
        for name, x in found.items():
            if x is not None and x.requires_grad:
                raise NotImplementedError(
                    f"popgrad.torch.loss: no derivative with respect to {name}, only to params"
                )
        rest = [found.get(name) for name in COLUMNS]
        gradient = torch.is_grad_enabled() and any(x.requires_grad for x in given)
        if torch.compiler.is_compiling():
            if torch.autograd.forward_ad._current_level >= 0:
                raise NotImplementedError(_REVERSE)
            return _value_and_grad(given, *rest, number)[0] if gradient else _value(given, *rest, number)
        if gradient:
            return _WithGradient.apply(number, *rest, *given)[0]
        return _Alone.apply(number, *rest, *given)

    def of_batch(params: Mapping[str, torch.Tensor], batch: Any) -> torch.Tensor:
        given = columns(batch) if isinstance(batch, Batch) else batch
        own.check_mapping("batch", given, "a popgrad.Batch, or a dict as popgrad.torch.columns returns it")
        found = {name: torch.as_tensor(x) for name, x in given.items() if x is not None}
        own.check_batch({name: tuple(x.shape) for name, x in found.items()})
        return evaluate(params, found)

    def of_population(params: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return evaluate(params, {})

    return of_batch if own.population is None else of_population


def _arrays(own: Objective, params: list[torch.Tensor]) -> dict[str, np.ndarray]:
    """The memory of `params`: views of one array where they lie one behind the other."""
    tensors = [x.detach() for x in params]
    first = tensors[0]
    storage, at = first.untyped_storage().data_ptr(), first.storage_offset()
    together = True
    for x in tensors:
        here = x.is_contiguous() and x.untyped_storage().data_ptr() == storage
        together = bool(together and here and x.storage_offset() == at)
        at += x.numel()
    if not together:
        return {name: x.numpy() for name, x in zip(own.model.shapes, tensors)}
    total = sum(x.numel() for x in tensors)
    flat = first.as_strided((total,), (1,), first.storage_offset()).numpy()
    out, at = {}, 0
    for name, x in zip(own.model.shapes, tensors):
        out[name] = flat[at : at + x.numel()].reshape(tuple(x.shape))
        at += x.numel()
    return out


def _batch(columns: list[torch.Tensor | None]) -> Batch | None:
    if columns[0] is None:
        return None
    arrays: list[Any] = [None if x is None else x.numpy() for x in columns]
    return Batch(*arrays)


_REVERSE = (
    "popgrad.torch.loss: reverse mode, first order only: backward, torch.autograd.grad, torch.func.grad, "
    "vjp and jacrev, but no forward mode (jvp, jacfwd, hessian, dual tensors)"
)


def _by_loss(by_loss: Any, by_grad: Any, flat: Any, shapes: Any) -> list[Any]:
    """The derivative by each block."""
    if by_grad is not None:
        raise NotImplementedError(FIRST_ORDER.format("popgrad.torch.loss", "PyTorch"))
    if by_loss is None:
        return [None] * len(shapes)
    sizes = [shape.numel() for shape in shapes]
    return [x.view(shape) for x, shape in zip((by_loss * flat).split(sizes), shapes)]


class _Alone(torch.autograd.Function):
    """The loss where nothing asks for a derivative by reverse mode; other modes are refused.

    The operators alone would leave forward mode a derivative of 0."""

    @staticmethod
    def forward(number, tokens, targets, labels, weights, *params):  # type: ignore[no-untyped-def]
        return _value(list(params), tokens, targets, labels, weights, number)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        pass

    @staticmethod
    def backward(ctx, *by):  # type: ignore[no-untyped-def]
        raise NotImplementedError(_REVERSE)

    @staticmethod
    def jvp(ctx, *tangents):  # type: ignore[no-untyped-def]
        raise NotImplementedError(_REVERSE)

    @staticmethod
    def vmap(info, in_dims, *inputs):  # type: ignore[no-untyped-def]
        raise NotImplementedError("popgrad.torch.loss: no torch.vmap; call it for each element in turn")


class _WithGradient(_Alone):
    """The loss with its gradient, one flat tensor."""

    @staticmethod
    def forward(number, tokens, targets, labels, weights, *params):  # type: ignore[no-untyped-def]
        return _value_and_grad(list(params), tokens, targets, labels, weights, number)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.shapes = [x.shape for x in inputs[1 + len(COLUMNS) :]]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx, by_loss, by_grad):  # type: ignore[no-untyped-def]
        others = [None] * (1 + len(COLUMNS))
        return (*others, *_by_loss(by_loss, by_grad, ctx.saved_tensors[0], ctx.shapes))


# The annotations are the schemas of the operators, which PyTorch evaluates: no strings.
def _declare() -> tuple[Any, Any]:
    names = ("params", *COLUMNS, "number")
    column = "Tensor? tokens, Tensor? targets, Tensor? labels, Tensor? weights"
    schema = f"(Tensor[] params, {column}, int number)"

    @torch.library.custom_op(
        "popgrad::loss", mutates_args=(), device_types="cpu", schema=f"{schema} -> Tensor"
    )
    def value(params, tokens, targets, labels, weights, number):  # type: ignore[no-untyped-def]
        own = _objectives[number]
        found = own.value(_arrays(own, params), _batch([tokens, targets, labels, weights]))
        return torch.tensor(found, dtype=params[0].dtype)

    @torch.library.custom_op(
        "popgrad::value_and_grad",
        mutates_args=(),
        device_types="cpu",
        schema=f"{schema} -> (Tensor, Tensor)",
    )
    def both(params, tokens, targets, labels, weights, number):  # type: ignore[no-untyped-def]
        own = _objectives[number]
        batch = _batch([tokens, targets, labels, weights])
        found, grad = own.value_and_grad(_arrays(own, params), batch)
        # The engine's gradient is views of one flat array.
        flat = next(iter(grad.values())).base
        return torch.tensor(found, dtype=params[0].dtype), torch.from_numpy(flat)

    @value.register_fake
    def _(params, tokens, targets, labels, weights, number):  # type: ignore[no-untyped-def]
        return params[0].new_empty(())

    @both.register_fake
    def _(params, tokens, targets, labels, weights, number):  # type: ignore[no-untyped-def]
        return params[0].new_empty(()), params[0].new_empty((sum(x.numel() for x in params),))

    def setup(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.shapes = [x.shape for x in inputs[0]]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1])

    def backward(ctx, by_loss, by_grad):  # type: ignore[no-untyped-def]
        parts = _by_loss(by_loss, by_grad, ctx.saved_tensors[0], ctx.shapes)
        return (parts, *(None for _ in names[1:]))

    both.register_autograd(backward, setup_context=setup)
    return value, both


_value, _value_and_grad = _declare()

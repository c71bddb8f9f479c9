"""The engine's losses as functions of JAX: differentiable once, for jit and vmap.

>>> import jax, popgrad, popgrad.jax
>>> task = popgrad.CausalTree("chain", S=3, T=8)
>>> model = popgrad.Disentangled(task=task)
>>> loss = popgrad.jax.loss(model)
>>> params = popgrad.jax.params(model.init(seed=0, std=0.1))
>>> batch = popgrad.jax.columns(task.sample(64))
>>> value, grad = jax.jit(jax.value_and_grad(loss))(params, batch)
>>> sorted(grad)
['A.0', 'A.1', 'W']
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

try:
    import jax
    import jax.numpy as jnp
    from jax.custom_derivatives import SymbolicZero
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] not in ("jax", "jaxlib"):
        raise
    raise ImportError("popgrad.jax needs JAX: pip install jax") from error

from ._bridge import COLUMNS, FIRST_ORDER, Objective, columns_of, objective
from ._native import Batch, FfiObjective, Model, Population, ffi_capsules, ffi_version
from .errors import InvalidError

__all__ = ["columns", "loss", "params"]


def params(arrays: Mapping[str, Any]) -> dict[str, jax.Array]:
    """`arrays` as arrays of JAX. float64 becomes float32 while JAX has x64 off."""
    return {name: jnp.asarray(x) for name, x in arrays.items()}


def columns(batch: Batch) -> dict[str, jax.Array]:
    """The columns of `batch` as arrays of JAX, to pass through jit.

    Returns:
        "tokens" (B, T) uint32, "targets" (B, S) or "labels" (B, T) uint32, and "weights". Reals are
        float64, or float32 while JAX has x64 off.
    """
    return {name: jnp.asarray(x) for name, x in columns_of(batch).items()}


Via = Literal["auto", "ffi", "callback"]


def loss(
    what: Model | Population,
    model: Model | None = None,
    *,
    threads: int | None = None,
    via: Via = "auto",
) -> Callable[..., jax.Array]:
    """The loss of a model as a function that JAX differentiates, traces and maps.

    loss(model) is a function of (params, batch); loss(population, model) one of (params).

    `params` is a dict of arrays with the blocks of `model.shapes`, all float32 or all float64; the
    arithmetic and the result have that type. `batch` is a dict as `columns` returns it, of arrays
    that may be traced, or a `popgrad.Batch`, which a traced function holds as a constant and reads
    without a copy or a change of type.

    - jax.grad, value_and_grad and jvp work, and so do vjp and linearize. The engine's gradient is
      computed once a call, only where a derivative is asked for. First order only: a derivative of
      a derivative raises NotImplementedError.
    - jax.jit works. On CPUs the compiled program calls the engine itself (jax.ffi), without the
      interpreter; the results have the bits of `model.value_and_grad`. The program may outlive this
      function: it keeps what it needs of the model.
    - jax.vmap works one element after the other (vmap_method="sequential"), each on all threads.
    - Blocks that never train (`model.trainable`; buffers of Memory) have gradient 0.
    - Tokens and labels have no derivative (float0). Targets and weights have none here: asking for
      one raises NotImplementedError.

    Args:
        what: a model, or a population with `model`.
        threads: of each call of the engine, all cores by default.
        via: how programs reach the engine, which changes no bit. "ffi": jax.ffi, on CPUs with a
            jaxlib of version 0.3 or later of XLA's foreign functions (jaxlib 0.9.2). "callback":
            jax.pure_callback, which runs Python code and copies. "auto": ffi where it is there. A
            `popgrad.Batch` is always read by a callback, so `columns(batch)` is faster.

    Raises (now):
        InvalidError: `threads` or `via` out of its domain.
        ImportError: via="ffi" where JAX has none.
    Raises (when the function is called or traced):
        InvalidError: unknown blocks or columns, other shapes; via="ffi" where the default platform
            is no CPU.
        KeyError: a block is missing.
        TypeError: parameters of mixed types.
    Values out of their domain, such as a token that is no symbol, are found by the engine while the
    program runs. JAX passes the text of its InvalidError on as a ValueError or JaxRuntimeError.

    Example:
        >>> task = popgrad.CausalTree("chain", S=2, T=6, roots="uniform")
        >>> model = popgrad.Simplified(task=task)
        >>> f = popgrad.jax.loss(popgrad.Population(task), model)
        >>> jax.grad(f)(model.init(seed=0, std=0.5))["A1"].shape
        (6, 6)
    """
    own = objective(what, model, threads)
    if via not in ("auto", "ffi", "callback"):
        allowed = "auto, ffi, callback"
        raise InvalidError(f"via: {via!r}; allowed: {allowed}", "via", allowed)
    reason = _lacking()
    if via == "ffi" and reason is not None:
        raise ImportError(f"popgrad.jax.loss: via='ffi': {reason}; allowed: auto, callback")
    handle = FfiObjective(own.model, own.population, own.threads)
    traced = _differentiable(own, None, None if via == "callback" or reason else (handle, via))

    def of_batch(params: Mapping[str, Any], batch: Batch | Mapping[str, Any]) -> jax.Array:
        given = _checked_params(own, params)
        if isinstance(batch, Batch):
            own.check_batch({name: x.shape for name, x in columns_of(batch).items()})
            return _differentiable(own, batch, None)(given, {})
        own.check_mapping("batch", batch, "a popgrad.Batch, or a dict as popgrad.jax.columns returns it")
        found = {name: jnp.asarray(batch[name]) for name in batch if batch[name] is not None}
        own.check_batch({name: x.shape for name, x in found.items()})
        for name in ("tokens", "labels"):
            if name in found and not jnp.issubdtype(found[name].dtype, jnp.integer):
                raise TypeError(f"{name}: {found[name].dtype}; allowed: an array of integers")
        for name in ("targets", "weights"):
            if name in found and jnp.issubdtype(found[name].dtype, jnp.complexfloating):
                raise TypeError(f"{name}: {found[name].dtype}; allowed: an array of real numbers")
        return traced(given, found)

    def of_population(params: Mapping[str, Any]) -> jax.Array:
        return traced(_checked_params(own, params), {})

    return of_batch if own.population is None else of_population


def _checked_params(own: Objective, params: Mapping[str, Any]) -> dict[str, jax.Array]:
    own.check_mapping("params", params, "a dict of arrays")
    # Before JAX narrows anything: a float64 array of NumPy is one here too.
    given = {name: jnp.asarray(x) for name, x in params.items()}
    own.check_params({name: (x.shape, str(x.dtype)) for name, x in given.items()})
    return given


class _Id(np.int64):
    """The number of an objective, which keeps it alive wherever JAX keeps the number."""

    handle: FfiObjective


def _lacking() -> str | None:
    """Why jax.ffi does not serve; None if it does. Starts no platform."""
    if not hasattr(jax, "ffi") or not hasattr(jax.ffi, "register_ffi_type"):
        return f"JAX {jax.__version__} lacks jax.ffi, or its types"
    return _unfit(jax.ffi.include_dir())


@functools.cache
def _unfit(folder: str) -> str | None:
    """Why the handlers do not fit XLA's foreign functions in the version of this header."""
    try:
        text = (Path(folder) / "xla" / "ffi" / "api" / "c_api.h").read_text(encoding="utf-8")
    except OSError as error:
        return f"the header of its foreign functions cannot be read: {error}"
    parts = [re.search(rf"#define XLA_FFI_API_{part} (\d+)", text) for part in ("MAJOR", "MINOR")]
    found = tuple(int(part[1]) for part in parts if part)
    major, minor = ffi_version()
    if len(found) == 2 and found[0] == major and found[1] >= minor:
        return None
    version = ".".join(map(str, found)) or "unknown"
    return f"jaxlib has version {version} of XLA's foreign functions; needed: {major}.{minor}"


_registering = threading.Lock()


@functools.cache
def _register() -> None:
    """Makes the targets known to XLA. The CPU platform runs already, as XLA wants the type first."""
    capsules = ffi_capsules()
    state: Any = {"type_id": capsules["type_id"], "type_info": capsules["type_info"]}
    jax.ffi.register_ffi_type("popgrad_objective", state, platform="cpu")
    for name in ("loss", "value_and_grad"):
        stages = {"instantiate": capsules["instantiate"], "execute": capsules[name]}
        jax.ffi.register_ffi_target(f"popgrad_{name}", stages, platform="cpu")


def _on_cpu(via: str) -> bool:
    """True if programs run on CPUs; the targets are then registered."""
    platform = jax.default_backend()
    if platform == "cpu":
        with _registering:
            _register()
        return True
    if via == "ffi":
        allowed = "auto or callback on this platform, or CPUs as JAX's default"
        raise InvalidError(f"via: 'ffi' on {platform}; allowed: {allowed}", "via", allowed)
    return False


def _for_ffi(x: Any) -> Any:
    """`x` in a type that the targets read, without loss."""
    if x.dtype in (jnp.int32, jnp.int64, jnp.uint32, jnp.uint64, jnp.float32, jnp.float64):
        return x
    return x.astype(jnp.float32 if jnp.issubdtype(x.dtype, jnp.floating) else jnp.int32)


def _differentiable(
    own: Objective, constant: Batch | None, ffi: tuple[FfiObjective, str] | None
) -> Callable[..., jax.Array]:
    """The loss as a function of (params, columns); `constant` is the batch if that is none of
    JAX's; `ffi` says how programs call the engine themselves, None that they call back."""
    shapes = own.model.shapes

    def batch_of(found: Mapping[str, Any]) -> Batch | None:
        if constant is not None or own.population is not None:
            return constant
        given: dict[str, Any] = {n: np.asarray(found[n]) for n in COLUMNS if n in found}
        return Batch(**given)

    def arrays(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
        return {name: np.asarray(params[name]) for name in shapes}

    def value_now(params: Any, found: Any) -> np.ndarray:
        given = arrays(params)
        dtype = next(iter(given.values())).dtype
        return np.asarray(own.value(given, batch_of(found)), dtype)

    def both_now(params: Any, found: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        given = arrays(params)
        dtype = next(iter(given.values())).dtype
        value, grad = own.value_and_grad(given, batch_of(found))
        return np.asarray(value, dtype), dict(grad)

    def called_back(params: Any, found: Any, gradient: bool) -> Any:
        out = jax.ShapeDtypeStruct((), next(iter(params.values())).dtype)
        like = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in params.items()}
        f, wanted = (both_now, (out, like)) if gradient else (value_now, out)
        return jax.pure_callback(f, wanted, params, found, vmap_method="sequential")

    def call(params: Any, found: Any, gradient: bool) -> Any:
        if ffi is None or not _on_cpu(ffi[1]):
            return called_back(params, found, gradient)
        blocks = [params[name] for name in shapes]
        present = [name for name in COLUMNS if name in found]
        objective = _Id(ffi[0].id)
        objective.handle = ffi[0]
        attributes = {
            "objective": objective,
            "threads": np.int64(ffi[0].threads),
            "columns": np.int64(sum(1 << COLUMNS.index(name) for name in present)),
        }
        outs = [jax.ShapeDtypeStruct((), blocks[0].dtype)]
        outs += [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in blocks if gradient]
        target = "popgrad_value_and_grad" if gradient else "popgrad_loss"
        run = jax.ffi.ffi_call(target, outs, vmap_method="sequential")
        loss, *grad = run(*blocks, *(_for_ffi(found[name]) for name in present), **attributes)
        return (loss, dict(zip(shapes, grad, strict=True))) if gradient else loss

    @jax.custom_jvp
    def value(params: Any, found: Any) -> jax.Array:
        return call(params, found, False)

    @jax.custom_jvp
    def both(params: Any, found: Any) -> Any:
        return call(params, found, True)

    def value_jvp(primals: Any, tangents: Any) -> tuple[jax.Array, Any]:
        moved, others = tangents
        for name, tangent in others.items():
            if not isinstance(tangent, SymbolicZero) and name in ("targets", "weights"):
                raise NotImplementedError(
                    f"popgrad.jax.loss: no derivative with respect to {name}, only to params; "
                    "wrap them in jax.lax.stop_gradient"
                )
        out, grad = both(*primals)
        rate = jnp.zeros((), out.dtype)
        for name, tangent in moved.items():
            if not isinstance(tangent, SymbolicZero):
                rate = rate + jnp.vdot(grad[name], tangent)
        return out, rate

    def both_jvp(primals: Any, tangents: Any) -> Any:
        raise NotImplementedError(FIRST_ORDER.format("popgrad.jax.loss", "JAX"))

    value.defjvp(value_jvp, symbolic_zeros=True)
    both.defjvp(both_jvp)
    return value

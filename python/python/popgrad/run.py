"""Training runs and their folders."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import _checks, _native
from .errors import FileError, InvalidError
from .progress import Display, Stopper, display

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes

Params = Mapping[str, "np.ndarray"]


@dataclass(frozen=True)
class SGD:
    """Gradient descent, p - lr (g + weight_decay p) with momentum on the gradient."""

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def keys(self) -> dict[str, Any]:
        """Configuration keys."""
        return {
            "optimizer": "sgd",
            "lr": self.lr,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
        }


@dataclass(frozen=True)
class AdamW:
    """AdamW with decoupled weight decay."""

    lr: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def keys(self) -> dict[str, Any]:
        """Configuration keys."""
        return {
            "optimizer": "adamw",
            "lr": self.lr,
            "beta1": self.beta1,
            "beta2": self.beta2,
            "adam_eps": self.eps,
            "weight_decay": self.weight_decay,
        }


@dataclass(frozen=True)
class State:
    """What a callback sees after an update.

    Attributes:
        step: updates done; 0 before the first one.
        loss: loss of the update's batch in nats, NaN at step 0 and where nothing counts.
        params: a copy of the parameters, in the type of the run.
    """

    step: int
    loss: float
    params: dict[str, np.ndarray]


Callback = Callable[[State], Any]


class Metrics(dict[str, "np.ndarray"]):
    """Columns of a run's metrics: arrays of float64 by name, NaN where a record has no such number.

    A number of a list in the records has the name "name.i".
    """

    def to_pandas(self) -> pd.DataFrame:
        """The same as a data frame; needs pandas."""
        import pandas

        return pandas.DataFrame(dict(self))


def _remove(folder: str, process: int) -> None:
    # Not at the end of a process that forked.
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


class _Temporary:
    """A temporary folder, removed with the last run that names it or at the end of the process."""

    def __init__(self) -> None:
        self.name = tempfile.mkdtemp(prefix="popgrad-")
        weakref.finalize(self, _remove, self.name, os.getpid())

    def __copy__(self) -> _Temporary:
        return self

    def __deepcopy__(self, memo: Any) -> _Temporary:
        return self

    def __reduce__(self) -> Any:
        allowed = "a run with out=FOLDER"
        text = f"pickle: a run in a temporary folder, which is removed with the run; allowed: {allowed}"
        raise InvalidError(text, "out", allowed)


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The records of a run's metrics.

    Raises:
        FileError: no such file, or one of other contents.
    """
    path = folder / "metrics.jsonl"
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: {error}") from error


class Run:
    """A run in a folder: finished, stopped, or under way elsewhere.

    A run that was made without `out` has a temporary folder, which is removed with the last of its
    copies. Such a run cannot be pickled; any other can, by the name of its folder.

    Example:
        >>> run = Run.open("runs/chain-quick")           # doctest: +SKIP
        >>> run.metrics["test_loss"]                     # doctest: +SKIP
    """

    def __init__(self, folder: str | Path, *, _keep: Any = None) -> None:
        self.folder = Path(folder)
        self._config: dict[str, Any] = _native.run_config(self.folder)
        # A temporary folder, which goes with the last run that names it.
        self._keep = _keep

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """The run in `folder`, made by this package or by the command line.

        Raises:
            InvalidError: no folder of a run.
        """
        return cls(folder)

    @property
    def config(self) -> dict[str, Any]:
        """Every configuration key with its value."""
        return dict(self._config)

    @property
    def summary(self) -> dict[str, Any] | None:
        """The results of the finished run, or None."""
        path = self.folder / "summary.json"
        return json.loads(path.read_text()) if path.is_file() else None

    @property
    def stopped(self) -> bool:
        """True if the run has not made all of its updates."""
        return self.summary is None

    @property
    def metrics(self) -> Metrics:
        """The records of all evaluations, column by column.

        Raises:
            FileError: no such file in the folder, or one of other contents.
        """
        import numpy as np

        rows = [_flat(record) for record in read_records(self.folder)]
        names = dict.fromkeys(name for row in rows for name in row)
        return Metrics(
            {name: np.array([row.get(name, np.nan) for row in rows], dtype=np.float64) for name in names}
        )

    @property
    def snapshots(self) -> list[int]:
        """The updates whose weights were kept."""
        found = (self.folder / "snapshots").glob("step-*.safetensors")
        return sorted(int(path.stem.removeprefix("step-")) for path in found)

    def params(self, step: int | None = None) -> dict[str, np.ndarray]:
        """The parameters after `step` updates, by default those of the checkpoint.

        Raises:
            InvalidError: an update whose weights were not kept; a run that was stopped before its
                first update, which has none.
        """
        if step is not None:
            step = _checks.whole("step", step)
        elif self.step == 0 and not (self.folder / "checkpoint.safetensors").is_file():
            allowed = "runs with an update: run.resume() begins this one"
            raise InvalidError(f"run: {self.folder} has made no update; allowed: {allowed}", "run", allowed)
        return _native.run_weights(self.folder, step)[1]

    @property
    def step(self) -> int:
        """Updates done at the checkpoint; 0 of a run that was stopped before its first."""
        if not (self.folder / "checkpoint.safetensors").is_file():
            return 0
        return _native.run_weights(self.folder, None)[0]

    def attention(self, step: int | None = None) -> list[np.ndarray]:
        """Attention of each layer, (heads, T, T), rows are queries, NaN where there is no key.

        The mean over test sequences; of layer 0 the pattern by position alone, where the model has
        one.

        Raises:
            InvalidError: an update whose weights were not kept.
        """
        if step is not None:
            step = _checks.whole("step", step)
        return _native.run_attention(self.folder, step)

    def resume(
        self,
        steps: int | None = None,
        *,
        threads: int | None = None,
        callbacks: Iterable[Callback] = (),
        progress: str | bool | Display = "auto",
        figures: bool = False,
    ) -> Run:
        """Goes on from the checkpoint, to `steps` updates if that is given; returns the run.

        The result has the bits of a run that was never interrupted.

        Raises:
            InvalidError: fewer steps than are done, arguments out of their domain.
            DivergedError: a loss or a parameter is not finite.
        """
        if steps is not None:
            steps = _updates(steps)
        threads = _checks.threads(threads)
        callback = _callback(callbacks)
        show = display(progress, int(steps if steps is not None else self._config["steps"]))
        with _showing(show) as (tell, note):
            _native.resume(
                self.folder,
                steps,
                threads=threads,
                figures=figures,
                callback=callback,
                show=tell,
                note=note,
            )
        return _ended(self.folder, self._keep, show)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Training and test loss against updates, with that of the Bayes predictor; needs
        matplotlib."""
        from .plots import curve

        return curve(self, ax)

    def to_tensorboard(self, folder: str | Path) -> Path:
        """Writes every number of the metrics as a scalar to an event file in `folder`.

        A list of the records has a tag for each entry, "name.i"; what is not finite is left out.
        The times of the events are those of the export. Needs tensorboard. Returns `folder`.

        Raises:
            InvalidError: `folder` holds event files, whose curves TensorBoard would mix with these.
            FileError: the run has no metrics.

        Example:
            >>> run.to_tensorboard("logs/chain")         # doctest: +SKIP
        """
        from .exports import tensorboard

        return tensorboard(self, folder)

    def to_wandb(self, project: str, mode: Literal["online", "offline"] = "offline", **options: Any) -> Any:
        """Logs configuration, metrics and summary to a project of Weights & Biases.

        Args:
            project: its name.
            mode: "offline" writes files below ./wandb for `wandb sync`, "online" sends them.
            options: further arguments of `wandb.init`, e.g. dir=, name=, tags=.

        Needs wandb. Returns wandb's run, which is finished.
        """
        from .exports import wandb

        return wandb(self, project, mode, **options)

    def _repr_html_(self) -> str:
        from .plots import page

        return page(self)

    def __repr__(self) -> str:
        state = "stopped" if self.stopped else "finished"
        task, model = self._config["task"], self._config["model"]
        return f"Run({str(self.folder)!r}, {task}, {model}, {state})"


def _flat(record: Mapping[str, Any]) -> dict[str, float]:
    out: dict[str, float] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                add(f"{name}.{key}", inner)
        elif isinstance(value, list):
            for i, inner in enumerate(value):
                add(f"{name}.{i}", inner)
        elif isinstance(value, (int, float)):
            out[name] = float(value)

    for key, value in record.items():
        add(key, value)
    return out


def _updates(steps: Any) -> int:
    """A number of updates, or a text such as "2^12" that the engine reads as one."""
    if isinstance(steps, str):
        return int(_native.resolve("chain", False, {"steps": steps})["steps"])
    return _checks.whole("steps", steps, 1)


def _snapshots(given: Any) -> Any:
    """What the engine reads as updates whose weights are kept."""
    if given is None or isinstance(given, str):
        return given
    steps = _checks.items("snapshots", given, "log, `every N`, or a list of integers")
    return ",".join(str(_checks.whole("snapshots", step)) for step in steps)


def _callback(callbacks: Any) -> Callable[[int, float, dict[str, Any]], None] | None:
    all_of_them = _checks.functions(callbacks)
    if not all_of_them:
        return None

    def call(step: int, loss: float, params: dict[str, Any]) -> None:
        state = State(step, loss, params)
        for f in all_of_them:
            f(state)

    return call


def _place(show: Display | None) -> _checks.Place:
    """The user's line: that of the sweep, if the run is one of its cells."""
    return show.place if isinstance(show, Stopper) else _checks.caller()


class _showing:
    """The display of a run for the time that it takes."""

    def __init__(self, show: Display | None) -> None:
        self.show = show

    def __enter__(self) -> tuple[Any, Any]:
        place = _place(self.show)

        def note(text: str, warning: bool) -> None:
            if warning:
                place.warn(text)
            elif self.show is not None:
                self.show.note(text)

        return (self.show.update if self.show is not None else None), note

    def __exit__(self, *_: object) -> None:
        if self.show is not None:
            self.show.close()


def _ended(folder: Path, keep: Any, show: Display | None) -> Run:
    run = Run(folder, _keep=keep)
    if run.stopped:
        text = f"stopped after update {run.step} of {run.config['steps']}; run.resume() goes on"
        _place(show).warn(text)
    return run


def _start(
    base: str,
    quick: bool,
    keys: dict[str, Any],
    *,
    params: Params | None,
    out: str | Path | None,
    threads: int | None,
    callbacks: Iterable[Callback],
    progress: str | bool | Display,
    figures: bool,
) -> Run:
    if not isinstance(base, str):
        names = ", ".join(name for name, _ in _native.presets())
        raise _checks.refused("preset", base, names)
    threads = _checks.threads(threads)
    callback = _callback(callbacks)
    if "snapshots" in keys:
        keys = {**keys, "snapshots": _snapshots(keys["snapshots"])}
    keys = {name: value for name, value in keys.items() if value is not None}
    # Every name and value is checked before a folder is made.
    config = _native.resolve(base, quick, keys)
    keep = None
    if out is None:
        keep = _Temporary()
        folder = Path(keep.name) / base
    else:
        folder = Path(out)
    start: Path | None = None
    if params is not None:
        import numpy as np

        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FileError(f"{folder}: exists and is not empty")
        # Beside the folder of the run, which must be new; the configuration names it. Another run's
        # stays as it is.
        start = next(
            path
            for n in itertools.count(1)
            if not (path := folder.with_name(f"{folder.name}-start{'' if n == 1 else f'-{n}'}.npz")).exists()
        )
        start.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = dict(params)
        np.savez(start, **arrays)
        keys = {**keys, "params": str(start.resolve())}
    show = display(progress, int(config["steps"]))
    try:
        with _showing(show) as (tell, note):
            _native.train(
                base,
                quick,
                keys,
                folder,
                threads=threads,
                figures=figures,
                callback=callback,
                show=tell,
                note=note,
            )
    except BaseException:
        # Nothing names the start of a run that was refused.
        if start is not None and not folder.exists():
            start.unlink(missing_ok=True)
        raise
    return _ended(folder, keep, show)


def preset(
    name: str,
    *,
    quick: bool = False,
    out: str | Path | None = None,
    threads: int | None = None,
    callbacks: Iterable[Callback] = (),
    progress: str | bool | Display = "auto",
    figures: bool = False,
    **keys: Any,
) -> Run:
    """Trains a preset, as `popgrad run NAME` does; `keys` are its overrides.

    Args:
        name: one of :func:`popgrad.presets`.
        quick: the short form.
        out: folder of the run, new or empty; by default a temporary one, which is removed with the
            run.
        threads: all cores by default; they change no bit.
        callbacks: called with a :class:`State` after every update.
        progress: "auto", True or False, or a display of your own.
        figures: draw the command line's figures into the folder.

    Raises:
        InvalidError: unknown names, values out of their domain.
        DivergedError: a loss or a parameter is not finite.

    Example:
        >>> run = preset("chain", quick=True, steps=20, progress=False)
        >>> run.stopped
        False
    """
    return _start(
        name,
        quick,
        keys,
        params=None,
        out=out,
        threads=threads,
        callbacks=callbacks,
        progress=progress,
        figures=figures,
    )


def train(
    task: _native.Task,
    model: _native.Model,
    params: Params | None = None,
    *,
    optimizer: SGD | AdamW,
    steps: int | str,
    schedule: str = "constant",
    batch: int = 1024,
    seed: int = 0,
    dtype: str | None = None,
    eval_every: int | None = None,
    snapshots: str | Sequence[int] | None = None,
    out: str | Path | None = None,
    threads: int | None = None,
    callbacks: Iterable[Callback] = (),
    progress: str | bool | Display = "auto",
    figures: bool = False,
    **keys: Any,
) -> Run:
    """Trains `model` on samples of `task`, as `popgrad run` with the same keys does.

    Args:
        task, model: of the same S and T.
        params: where to start; by default the model's own start under `seed`.
        optimizer: :class:`SGD` or :class:`AdamW`.
        steps: updates, and the horizon of the schedule; a text such as "2^12" will do.
        schedule: "constant" or "cosine".
        batch: sequences per update.
        dtype: "float32" or "float64"; by default that of `params`, else float32.
        eval_every: updates between evaluations; by default a hundredth of `steps`.
        snapshots: "log", "every N" or a list of updates whose weights are kept.
        keys: further configuration keys, e.g. test_size=4096, frozen="W".

    Others as for :func:`preset`.

    Raises:
        InvalidError: values out of their domain, sizes that differ.
        DivergedError: a loss or a parameter is not finite.
        TypeError: parameters of mixed types.
    """
    if not isinstance(task, _native.Task):
        raise _checks.refused("task", task, "CausalTree, CausalDag, TriggerBigram")
    if not isinstance(model, _native.Model):
        kinds = "Disentangled, Simplified, MlpTransformer, Memory, Transformer"
        raise _checks.refused("model", model, kinds)
    if not isinstance(optimizer, (SGD, AdamW)):
        raise _checks.refused("optimizer", optimizer, "popgrad.SGD(lr), popgrad.AdamW(lr)")
    if params is not None and not isinstance(params, Mapping):
        raise _checks.refused("params", type(params).__name__, "a dict of arrays")
    for name, value in {**optimizer.keys(), "schedule": schedule, "batch": batch, "seed": seed}.items():
        if value is None:
            raise _checks.refused(name, value, "a value")
    steps = _updates(steps)
    if eval_every is not None and not isinstance(eval_every, str):
        eval_every = _checks.whole("eval_every", eval_every, 1)
    for field, found, own in (("S", model.S, task.S), ("T", model.T, task.T)):
        if found != own:
            allowed = f"{own}, the task's"
            raise InvalidError(f"{field}: {found} of the model; allowed: {allowed}", field, allowed)
    if params is not None:
        model.is_borrowed(dict(params))  # Checks names, shapes and types.
        own_type = str(next(iter(params.values())).dtype)
        dtype = own_type if dtype is None else dtype
    names = {"float32": "f32", "float64": "f64", "f32": "f32", "f64": "f64", None: "f32"}
    if dtype is not None and not isinstance(dtype, str) or dtype not in names:
        raise InvalidError(f"dtype: {dtype}; allowed: float32, float64", "dtype", "float32, float64")
    every = eval_every if eval_every is not None else max(1, steps // 100)
    all_keys = {
        **task.keys,
        **model.keys,
        **optimizer.keys(),
        "steps": steps,
        "schedule": schedule,
        "batch": batch,
        "seed": seed,
        "dtype": names[dtype],
        "eval_every": every,
        "checkpoint_every": max(1, steps // 10),
        "snapshots": snapshots,
        **keys,
    }
    bases = {"causal_tree": "chain", "causal_dag": "two-parents", "trigger_bigram": "birth"}
    return _start(
        bases[task.name],
        False,
        {name: value for name, value in all_keys.items() if value is not None},
        params=params,
        out=out,
        threads=threads,
        callbacks=callbacks,
        progress=progress,
        figures=figures,
    )

"""A run's metrics in the formats of other tools, written by those tools' own clients."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import _checks

Mode = Literal["online", "offline"]

if TYPE_CHECKING:
    from .run import Run


def records(run: Run) -> Iterator[tuple[int, dict[str, float]]]:
    """The records of a run: the number of updates done and the numbers, without those that are not
    finite."""
    from .run import _flat, read_records

    for record in read_records(run.folder):
        row = _flat(record)
        step = int(row.pop("step"))
        yield step, {name: x for name, x in row.items() if math.isfinite(x)}


def tensorboard(run: Run, folder: str | Path) -> Path:
    """Writes an event file; see :meth:`popgrad.Run.to_tensorboard`."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ModuleNotFoundError as error:
        raise ImportError("to_tensorboard needs TensorBoard: pip install tensorboard") from error

    folder = Path(folder)
    if any(folder.glob("*tfevents*")):
        # TensorBoard would draw both as one curve.
        raise _checks.refused("folder", str(folder), "a folder without event files")
    writer = EventFileWriter(str(folder))
    try:
        for step, row in records(run):
            values = [Summary.Value(tag=name, simple_value=x) for name, x in row.items()]
            writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
    finally:
        writer.close()
    return folder


def wandb(run: Run, project: str, mode: Mode, **options: Any) -> Any:
    """Logs the run; see :meth:`popgrad.Run.to_wandb`."""
    try:
        import wandb as client
    except ModuleNotFoundError as error:
        raise ImportError("to_wandb needs Weights & Biases: pip install wandb") from error

    options = {"name": run.folder.name, **options}
    with client.init(project=project, mode=mode, config=run.config, **options) as log:
        for step, row in records(run):
            log.log(row, step=step)
        log.summary.update(run.summary or {})
        return log

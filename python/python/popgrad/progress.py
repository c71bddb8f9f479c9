"""Progress of a run: a line in a terminal or a notebook."""

from __future__ import annotations

import sys
import time
from typing import Any

from ._checks import Place


class Display:
    """One line that is written over, at most ten times a second."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.started = time.monotonic()
        self.shown = 0.0
        self.width = 0
        self.handle: Any = None
        if in_notebook():
            from IPython.display import display as show

            self.handle = show({"text/plain": ""}, raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def update(self, step: int, loss: float, name: str, value: float) -> None:
        """Shows the state, if it is time to."""
        now = time.monotonic()
        if now - self.shown < 0.1 and step < self.steps:
            return
        self.shown = now
        rate = step / max(now - self.started, 1e-9)
        text = f"{step}/{self.steps}  loss {loss:.4f}"
        if name:
            text += f"  {name} {value:.4f}"
        self.write(f"{text}  {rate:.0f} steps/s")

    def note(self, text: str) -> None:
        """A remark on a line of its own."""
        if self.handle is None:
            self.write("")
            print(f"\r{text}", file=sys.stderr)

    def write(self, text: str) -> None:
        """Replaces the line."""
        if self.handle is not None:
            self.handle.update({"text/plain": text}, raw=True)
            return
        print(f"\r{text.ljust(self.width)}", end="", file=sys.stderr, flush=True)
        self.width = len(text)

    def close(self) -> None:
        """Ends the line."""
        if self.handle is None and self.width > 0:
            print(file=sys.stderr)


class Stopper(Display):
    """Shows nothing, and ends its run when `stop` is called: for runs in other threads than the
    main one, where signals do not arrive."""

    def __init__(self, place: Place) -> None:
        self.stopped = False
        # Remarks on the runs point there.
        self.place = place

    def stop(self) -> None:
        """Ends the run soon."""
        self.stopped = True

    def update(self, step: int, loss: float, name: str, value: float) -> None:
        """Raises what ends the run, if it shall."""
        if self.stopped:
            raise RuntimeError("the sweep was stopped")

    def note(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def in_notebook() -> bool:
    """True inside a kernel of Jupyter."""
    shell = sys.modules.get("IPython")
    if shell is None:
        return False
    own = shell.get_ipython()
    return own is not None and hasattr(own, "kernel")


def display(progress: str | bool | Display, steps: int) -> Display | None:
    """The display that `progress` asks for: with "auto" where somebody can see it."""
    if isinstance(progress, Display):
        return progress
    if progress == "auto":
        progress = in_notebook() or sys.stderr.isatty()
    return Display(steps) if progress else None

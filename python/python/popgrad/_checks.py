"""Checks of arguments before anything starts, and the line of the caller for warnings."""

from __future__ import annotations

import operator
import os
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import InvalidError, RunWarning

MOST = 2**63 - 1


def shown(value: Any) -> str:
    """`value` as an error names it: on one line, and short."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + ".."


def refused(field: str, value: Any, allowed: str) -> InvalidError:
    """The exception for a `value` of the argument `field`."""
    return InvalidError(f"{field}: {shown(value)}; allowed: {allowed}", field, allowed)


def whole(field: str, value: Any, least: int = 0, most: int = MOST) -> int:
    """`value` as an integer from `least` to `most`; numbers with a fraction part are none."""
    end = "< 2^63" if most == MOST else f"<= {most}"
    allowed = f"integers, {least} <= {field} {end}"
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise refused(field, value, allowed)
    try:
        number = operator.index(value)
    except TypeError as error:
        raise refused(field, value, allowed) from error
    if not least <= number <= most:
        raise refused(field, value, allowed)
    return number


def threads(value: Any) -> int | None:
    """A number of threads; None means all cores."""
    if value is None:
        return None
    try:
        return whole("threads", value, 1)
    except InvalidError as error:
        raise refused("threads", value, "integers from 1 on, or None for all cores") from error


def items(field: str, value: Any, allowed: str) -> list[Any]:
    """The entries of `value`; a text, a mapping or no iterable is refused."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise refused(field, value, allowed)
    try:
        return list(value)
    except TypeError as error:  # An array of dimension 0.
        raise refused(field, value, allowed) from error


def functions(value: Any) -> list[Any]:
    """Callbacks."""
    allowed = "a list of functions of popgrad.State"
    found = items("callbacks", value, allowed)
    if not all(map(callable, found)):
        raise refused("callbacks", value, allowed)
    return found


@dataclass(frozen=True)
class Place:
    """A line of the program that uses this package."""

    file: str
    line: int
    module: str
    registry: dict[Any, Any]

    def warn(self, text: str) -> None:
        """A `RunWarning` that points there."""
        warnings.warn_explicit(text, RunWarning, self.file, self.line, self.module, self.registry)


def caller() -> Place:
    """The line that called the package, in this thread."""
    own = os.path.dirname(os.path.abspath(__file__)) + os.sep
    frame = sys._getframe(1)
    while frame.f_back is not None and os.path.abspath(frame.f_code.co_filename).startswith(own):
        frame = frame.f_back
    names = frame.f_globals
    registry = names.setdefault("__warningregistry__", {})
    return Place(frame.f_code.co_filename, frame.f_lineno, names.get("__name__", "<unknown>"), registry)

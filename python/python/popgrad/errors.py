"""Exceptions of the package."""

from __future__ import annotations


class Error(Exception):
    """The base of the package's own exceptions."""


class InvalidError(Error, ValueError):
    """A value out of its domain, or an unknown name.

    Attributes:
        field: the key, array or argument.
        allowed: what would have been accepted, in words.
    """

    def __init__(self, message: str, field: str, allowed: str) -> None:
        super().__init__(message, field, allowed)
        self.field = field
        self.allowed = allowed

    def __str__(self) -> str:
        return str(self.args[0])


class DivergedError(Error, ArithmeticError):
    """Training diverged: a loss or a parameter is not finite.

    Attributes:
        what: what is not finite.
        value: its value.
        step: updates done.
    """

    def __init__(self, message: str, what: str, value: float, step: int) -> None:
        super().__init__(message, what, value, step)
        self.what = what
        self.value = value
        self.step = step

    def __str__(self) -> str:
        return str(self.args[0])


class FileError(Error, OSError):
    """A file or folder that cannot be read or written, or has wrong contents."""


class RunWarning(UserWarning):
    """A remark on a run that may not do what was meant."""

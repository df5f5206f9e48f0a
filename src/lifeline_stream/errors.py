"""Errors by what the caller must do.

    LifelineError
    ├── ConfigError      stop at start-up, show every problem, exit 2
    ├── TransientError   try again, after `retry_after_s` where it is known
    ├── PartialWrite     go on; the rows in `rejected` were refused for good
    └── FatalError       stop, exit 3

Bad data is never an exception: see `core.model.Reject`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing wrong with a declaration.

    Attributes:
        file: the file as the user named it.
        id: what it is about (a detector, a channel …), or empty.
        path: the field, or `line N`.
        text: what is wrong and what to do.
    """

    file: str
    id: str
    path: str
    text: str

    def __str__(self) -> str:
        """`file: id: path: text`, leaving out what is empty."""
        return ": ".join(part for part in (self.file, self.id, self.path, self.text) if part)


class LifelineError(Exception):
    """Base of every error of this package."""


class ConfigError(LifelineError):
    """Declarations or settings are wrong."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Keep all problems, in order of file and place."""
        self.problems = sorted(problems)
        super().__init__("\n".join(map(str, self.problems)))


class TransientError(LifelineError):
    """A foreign system failed in a way that may pass."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        """Say what failed and, where the other side said so, when to come back."""
        self.retry_after_s = retry_after_s
        super().__init__(message)


class PartialWrite(LifelineError, Generic[T]):  # noqa: N818 - a result to handle, not a failure to report
    """Some rows were refused for good; the rest is written."""

    def __init__(self, rejected: Sequence[T]) -> None:
        """Keep the refused rows."""
        self.rejected = rejected
        super().__init__(f"{len(rejected)} rows refused")


class FatalError(LifelineError):
    """The process can't go on."""

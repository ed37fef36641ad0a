"""What reading asks of a row layout: which columns make a row's conversation, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from batchgen.errors import BadRow
from batchgen.job.input import Input
from batchgen.records import Message

Conversation = tuple[list[Message], tuple[str, ...]]
"""The messages that a row begins with, one at least, and the user turns that follow the model's answers."""


class RowLayout(Protocol):
    """Made from the `input` field and the names of the job's attributes; raises JobError for what it cannot be made from."""

    def __init__(self, spec: Input, attributes: tuple[str, ...]) -> None: ...

    @property
    def columns(self) -> Mapping[str, str]:
        """The input columns that it reads, each under the job's field that names it."""
        ...

    def read(self, data: Mapping[str, object]) -> Conversation:
        """Raises BadRow (input, render)."""
        ...


class ColumnLayout(RowLayout):
    """A layout of one column: the one that `input` names under `field`."""

    def __init__(self, spec: Input, attributes: tuple[str, ...]) -> None:
        self.field, self.column = spec.source

    @property
    def columns(self) -> Mapping[str, str]:
        return {f"input.{self.field}": self.column}

    def value(self, data: Mapping[str, object]) -> Any:
        """The row's value. Raises BadRow (input) where it has none."""
        value = data.get(self.column)
        if value is None:
            raise BadRow("input", f"{self.column} is {'null' if self.column in data else 'missing'}")
        return value


def kind(value: object) -> str:
    """The type of a value of a row, in words."""
    return "null" if value is None else type(value).__name__

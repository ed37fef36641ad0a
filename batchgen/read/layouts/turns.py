"""`input.turns`: a column with a list of user messages, each answered in order."""

from __future__ import annotations

from collections.abc import Mapping

from batchgen.errors import BadRow
from batchgen.read.layouts.base import ColumnLayout, Conversation


class TurnsLayout(ColumnLayout):
    def read(self, data: Mapping[str, object]) -> Conversation:
        value = self.value(data)
        if not isinstance(value, list) or not value or not all(isinstance(turn, str) for turn in value):
            raise BadRow("input", f"{self.column} must be a list of at least one string")
        return [{"role": "user", "content": value[0]}], tuple(value[1:])

"""`input.prompt`: a column with one user message."""

from __future__ import annotations

from collections.abc import Mapping

from batchgen.errors import BadRow
from batchgen.read.layouts.base import ColumnLayout, Conversation, kind


class PromptLayout(ColumnLayout):
    def read(self, data: Mapping[str, object]) -> Conversation:
        value = self.value(data)
        if not isinstance(value, str):
            raise BadRow("input", f"{self.column} must be a string, not {kind(value)}")
        return [{"role": "user", "content": value}], ()

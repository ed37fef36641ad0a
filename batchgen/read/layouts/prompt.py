"""One user message in a column."""

from batchgen.errors import BadRow
from batchgen.read.layouts import ColumnLayout, Conversation, kind_of
from batchgen.records import Data


class PromptLayout(ColumnLayout):
    def read(self, data: Data) -> Conversation:
        value = self.value(data)
        if not isinstance(value, str):
            raise BadRow("input", f"{self.column} must be a string, not {kind_of(value)}")
        return [{"role": "user", "content": value}], ()

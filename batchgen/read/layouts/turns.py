"""A list of user messages, answered in order: texts (MT-Bench), or structs with a `content` (Arena-Hard)."""

from batchgen.errors import BadRow
from batchgen.read.layouts import ColumnLayout, Conversation, kind_of
from batchgen.records import Data


class TurnsLayout(ColumnLayout):
    def read(self, data: Data) -> Conversation:
        value = self.value(data)
        if not isinstance(value, list) or not value:
            raise BadRow("input", f"{self.column} must be a list of at least one string")
        turns = [self._turn(number, turn) for number, turn in enumerate(value, 1)]
        return [{"role": "user", "content": turns[0]}], tuple(turns[1:])

    def _turn(self, number: int, turn: object) -> str:
        text = turn.get("content") if isinstance(turn, dict) else turn
        if not isinstance(text, str):
            raise BadRow("input", f"{self.column}: turn {number} must be a string or {{content: a string}}, not {kind_of(turn)}")
        return text

"""Instructions as Alpaca, LLaMA-Factory and Dolly have them: an instruction, perhaps a text that it is about (Alpaca's `input`,
Dolly's `context`), perhaps earlier questions with their answers (`history`). The user message is the instruction and, on the
next line, the text, as LLaMA-Factory joins them."""

from batchgen.errors import BadRow
from batchgen.job.input import Input
from batchgen.read.layouts import ColumnLayout, Conversation, kind_of
from batchgen.records import Data, Message


class AlpacaLayout(ColumnLayout):
    def __init__(self, spec: Input, attributes: tuple[str, ...]) -> None:
        super().__init__(spec, attributes)
        self._context, self._history = spec.context, spec.history
        self.columns |= {
            f"input.{field}": name for field, name in (("context", spec.context), ("history", spec.history)) if name is not None
        }

    def read(self, data: Data) -> Conversation:
        texts = {self.column: self.value(data)}
        if self._context is not None and data.get(self._context) is not None:
            texts[self._context] = data[self._context]
        for name, text in texts.items():
            if not isinstance(text, str):
                raise BadRow("input", f"{name} must be a string, not {kind_of(text)}")
        content = "\n".join(text for name, text in texts.items() if name == self.column or text.strip())
        return [*self._earlier(data), {"role": "user", "content": content}], ()

    def _earlier(self, data: Data) -> list[Message]:
        pairs = data.get(self._history) if self._history else None
        if pairs is not None and not isinstance(pairs, list):
            raise BadRow("input", f"{self._history} must be a list of pairs, not {kind_of(pairs)}")
        said: list[Message] = []
        for number, pair in enumerate(pairs or [], 1):
            if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
                raise BadRow("input", f"{self._history}: pair {number} must be two strings, a question and its answer")
            said += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
        return said

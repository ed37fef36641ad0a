"""`input.messages`: a column with a conversation, a list of {role, content} whose last message the model answers or continues."""

from __future__ import annotations

from collections.abc import Mapping

from batchgen.errors import BadRow
from batchgen.job.input import Input
from batchgen.read.layouts.base import ColumnLayout, Conversation, kind
from batchgen.records import Message
from batchgen.render.messages import read_content

ROLES = ("system", "developer", "user", "assistant", "tool", "label")


class MessagesLayout(ColumnLayout):
    """Of a message's other keys, those named like an attribute are kept."""

    def __init__(self, spec: Input, attributes: tuple[str, ...]) -> None:
        super().__init__(spec, attributes)
        self._continue, self._attributes = spec.continue_final_message, attributes

    def read(self, data: Mapping[str, object]) -> Conversation:
        value, column = self.value(data), self.column
        if not isinstance(value, list) or not value:
            raise BadRow("input", f"{column} must be a list of at least one message")
        messages = [self._message(number, message) for number, message in enumerate(value, 1)]
        last, wanted = messages[-1], "user" if self._continue is None else "assistant"
        if last["role"] != wanted:
            raise BadRow("input", f"{column}: the last message must be the {wanted}'s, not the {last['role']}'s")
        if self._continue and not isinstance(last["content"], str):
            raise BadRow("input", f"{column}: the last message, which is to be continued, has an image")
        return messages, ()

    def _message(self, number: int, message: object) -> Message:
        where = f"{self.column}: message {number}"
        if not isinstance(message, dict):
            raise BadRow("input", f"{where} must be a struct, not {kind(message)}")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise BadRow("input", f"{where}: role {role!r} is not one of {', '.join(ROLES)}")
        try:
            read = read_content(content)
        except BadRow as bad:
            raise BadRow("input", f"{where}: {bad}") from None
        if read is None:
            raise BadRow("input", f"{where}: content must be a string or a list of parts, not {kind(content)}")
        return {"role": role, "content": read} | {name: message[name] for name in self._attributes if name in message}

"""A conversation: a list of messages {role, content}, and perhaps CALL_KEYS, reasoning, and keys with the names of attributes.
The model answers or continues the last one."""

from typing import Any

from batchgen.errors import BadRow
from batchgen.job.input import Input
from batchgen.read.layouts import ROLES, ColumnLayout, Conversation, kind_of
from batchgen.records import CALL_KEYS, MESSAGE_KEYS, REASONINGS, Data, Message
from batchgen.render.messages import read_calls, read_content

TRAINING = {"weight", "train", "training", "loss"}
"""Keys that say how a trainer weighs a message (OpenAI's fine-tuning files, OpenHermes, Axolotl): no part of what is said."""


class MessagesLayout(ColumnLayout):
    """A message's unknown key that is not null or empty is an error: a template might ignore it without a word."""

    keys: tuple[str, ...] = ("role", "content")

    def __init__(self, spec: Input, attributes: tuple[str, ...]) -> None:
        super().__init__(spec, attributes)
        self._continue, self._drops, self._attributes = spec.continue_final_message, spec.drop_last_answer, attributes
        self.ends = ("user", "tool") if self._continue is None else ("assistant",)

    def read(self, data: Data) -> Conversation:
        value, column = self.value(data), self.column
        if not isinstance(value, list) or not value:
            raise BadRow("input", f"{column} must be a list of at least one message")
        messages = [self._message(f"{column}: message {number}", message) for number, message in enumerate(value, 1)]
        if self._drops and messages[-1]["role"] == "assistant" and not (messages := messages[:-1]):
            raise BadRow("input", f"{column}: its only message is the answer that input.drop_last_answer leaves out")
        last = messages[-1]
        if last["role"] not in self.ends:
            raise BadRow("input", f"{column}: the last message must be the {' or '.join(self.ends)}'s, not the {last['role']}'s")
        if self._continue and not isinstance(last["content"], str):
            raise BadRow("input", f"{column}: the last message, which is to be continued, has an image")
        return messages, ()

    def normal(self, where: str, message: dict[str, Any]) -> dict[str, Any]:
        """A message with the keys `role` and `content`. Raises BadRow (input) for an unknown role."""
        role = message.get("role")
        if role is None and message.get("from") is not None:
            raise BadRow("input", f"{where} has `from` and no role: name the column as input.conversations")
        if role not in ROLES:
            raise BadRow("input", f"{where}: role {role!r} is not one of {', '.join(ROLES)}")
        return message

    def _message(self, where: str, given: object) -> Message:
        if not isinstance(given, dict):
            raise BadRow("input", f"{where} must be a struct, not {kind_of(given)}")
        message = self.normal(where, given)
        role, said = message["role"], message.get("content")
        try:
            content, calls = read_content(said), read_calls(message)
        except BadRow as bad:
            raise BadRow("input", f"{where}: {bad}") from None
        if content is None and (said not in (None, []) or "tool_calls" not in calls):
            raise BadRow("input", f"{where}: {self.keys[1]} must be a string or a list of parts, not {kind_of(said)}")
        known = {"role", "content", *self.keys, *CALL_KEYS, *REASONINGS, *TRAINING, *self._attributes}
        if unknown := sorted(key for key, entry in message.items() if key not in known and entry not in (None, [], {})):
            keys = ", ".join((*self.keys, *MESSAGE_KEYS))
            raise BadRow("input", f"{where}: key {unknown[0]!r}: none of {keys} or of the attributes that the job declares")
        return {"role": role, "content": content} | calls | {name: message[name] for name in self._attributes if name in message}

"""Row -> conversation: the messages that it begins with, and the scripted turns that follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchgen.errors import BadRow
from batchgen.job.fields import Column
from batchgen.job.input import Input
from batchgen.render.messages import read_content
from batchgen.render.sandbox.template import RowTemplate

_ROLES = ("system", "developer", "user", "assistant", "tool", "label")


class Conversations:
    """`extra` are the keys of a message that are kept beside role and content."""

    def __init__(self, spec: Input, extra: tuple[str, ...] = ()) -> None:
        self._spec, self._extra = spec, extra
        self._text = RowTemplate(spec.template) if spec.template is not None else None

    @property
    def columns(self) -> set[str]:
        """The input columns that make a conversation."""
        spec = self._spec
        named = (spec.prompt, spec.messages, spec.turns, getattr(spec.system, "column", None))
        return {name for name in named if name} | (self._text.columns if self._text else set())

    def read(self, data: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
        """The conversation so far, and the user turns that follow it. Raises BadRow (input, render)."""
        spec, system = self._spec, self._spec.system
        if isinstance(system, Column):
            system = data.get(system.column)
            if system is not None and not isinstance(system, str):
                raise BadRow("input", f"system must be a string, not {kind(system)}")
        column = spec.prompt or spec.messages or spec.turns or "template"
        value = data.get(column) if self._text is None else self._text.render(data)
        if value is None:
            raise BadRow("input", f"{column} is {'null' if column in data else 'missing'}")
        turns: list[str] = []
        if spec.messages:
            messages = _messages(value, column, self._extra)
            wanted = "user" if spec.continue_final_message is None else "assistant"
            if messages[-1]["role"] != wanted:
                raise BadRow("input", f"{column}: the last message must be the {wanted}'s, not the {messages[-1]['role']}'s")
            if spec.continue_final_message and not isinstance(messages[-1]["content"], str):
                raise BadRow("input", f"{column}: the last message, which is to be continued, has an image")
        elif spec.turns:
            if not isinstance(value, list) or not value or not all(isinstance(turn, str) for turn in value):
                raise BadRow("input", f"{column} must be a list of at least one string")
            messages, turns = [{"role": "user", "content": value[0]}], value[1:]
        else:
            if not isinstance(value, str):
                raise BadRow("input", f"{column} must be a string, not {kind(value)}")
            messages = [{"role": "user", "content": value}]
        if system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
        return messages, turns


def _messages(value: object, column: str, extra: tuple[str, ...]) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise BadRow("input", f"{column} must be a list of at least one message")
    messages = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict):
            raise BadRow("input", f"{column}: message {number} must be a struct, not {kind(message)}")
        role, content = message.get("role"), message.get("content")
        if role not in _ROLES:
            raise BadRow("input", f"{column}: message {number}: role {role!r} is not one of {', '.join(_ROLES)}")
        try:
            read = read_content(content)
        except BadRow as bad:
            raise BadRow("input", f"{column}: message {number}: {bad}") from None
        if read is None:
            raise BadRow("input", f"{column}: message {number}: content must be a string or a list of parts, not {kind(content)}")
        messages.append({"role": role, "content": read} | {k: message[k] for k in extra if k in message})
    return messages


def kind(value: object) -> str:
    """The type of a value in a row, in words."""
    return "null" if value is None else type(value).__name__

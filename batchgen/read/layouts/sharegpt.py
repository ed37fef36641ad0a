"""ShareGPT's conversations: a list of messages {from, value}, as in the files of FastChat, Axolotl and LLaMA-Factory. A message
may be {role, content} instead, as many such columns have it."""

from typing import Any

from batchgen.errors import BadRow
from batchgen.jsontext import loads
from batchgen.read.layouts import ROLES
from batchgen.read.layouts.messages import MessagesLayout

_SPELLED = {
    "system": ("system", "system_prompt"),
    "user": ("human", "user", "prompter"),
    "assistant": ("gpt", "assistant", "chatgpt", "bing", "bard", "bot", "model", "ai", "function_call", "tool_call"),
    "tool": ("tool", "observation", "function", "function_response", "tool_response"),
}
SPEAKERS = {name: role for role, names in _SPELLED.items() for name in names} | {role: role for role in ROLES}
CALLERS = ("function_call", "tool_call")
"""Speakers whose value is the JSON of a call {name, arguments}, or of a list of them (LLaMA-Factory)."""


def speaker(message: dict[str, Any]) -> object:
    """The name in `from`, in lower case and with underscores where it has hyphens; that in `role` where there is none."""
    found = message.get("role") if message.get("from") is None else message["from"]
    return found.strip().lower().replace("-", "_") if isinstance(found, str) else found


class ShareGPTLayout(MessagesLayout):
    keys = ("from", "value")

    def normal(self, where: str, message: dict[str, Any]) -> dict[str, Any]:
        name, said = speaker(message), message.get("content") if message.get("value") is None else message["value"]
        if not isinstance(name, str) or (role := SPEAKERS.get(name)) is None:
            raise BadRow("input", f"{where}: from {message.get('from', name)!r} is not one of {', '.join(SPEAKERS)}")
        if name in CALLERS:
            return {**message, "role": role, "content": None, "tool_calls": _calls(f"{where}: {name}", said)}
        return {**message, "role": role, "content": said}


def _calls(where: str, text: object) -> list[dict[str, Any]]:
    try:
        value = loads(text) if isinstance(text, str) else text
    except ValueError as error:
        raise BadRow("input", f"{where}: {error}") from None
    calls: list[Any] = value if isinstance(value, list) else [value]
    if not calls or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise BadRow("input", f"{where}: its value is not the JSON of {{name, arguments}}, or of a list of them")
    return [{"type": "function", "function": {"name": call["name"], "arguments": call.get("arguments") or {}}} for call in calls]

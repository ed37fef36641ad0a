"""The content of a message: a text, or a list of parts, some of them images. Parts are OpenAI's: {type: text, text} and {type:
image_url, image_url: {url}}. Parts that are all text are one text, with a newline between them, as in vLLM's server. Chat
templates see an image as {type: image}; the image itself goes to the engine with the tokens, in the order of the conversation."""

from collections.abc import Callable, Iterable
from typing import Any

from batchgen.errors import BadRow
from batchgen.jsontext import dumps
from batchgen.records import Message

Part = dict[str, Any]
Content = str | list[Part]


def read_content(value: object) -> Content | None:
    """The content in a row's value, None where it is neither a text nor parts. Raises BadRow (input) for a bad part."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        return None
    parts = [_part(number, part) for number, part in enumerate(value, 1)]
    return parts if any(part["type"] != "text" for part in parts) else "\n".join(part["text"] for part in parts)


def _part(number: int, part: object) -> Part:
    kind = part.get("type") if isinstance(part, dict) else None
    inner = part.get(kind) if isinstance(part, dict) and kind in ("text", "image_url") else None
    if kind == "text" and isinstance(inner, str):
        return {"type": "text", "text": inner}
    given = inner if isinstance(inner, dict) else {"url": inner}
    if kind == "image_url" and isinstance(given.get("url"), str):
        return {"type": "image_url", "image_url": {key: entry for key, entry in given.items() if entry is not None}}
    raise BadRow("input", f"part {number} is neither {{type: text, text: ...}} nor {{type: image_url, image_url: {{url: ...}}}}")


def texts(content: Content) -> list[str]:
    return [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]


def with_texts(content: Content, change: Callable[[str], str]) -> Content:
    """The content with every text changed."""
    if isinstance(content, str):
        return change(content)
    return [{**part, "text": change(part["text"])} if part["type"] == "text" else part for part in content]


def images(messages: Iterable[Message]) -> list[str]:
    """The URLs of a conversation's images, in order."""
    parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


def with_marks(content: Content) -> Content:
    """The content as chat templates take it."""
    if isinstance(content, str):
        return content
    return [part if part["type"] == "text" else {"type": "image"} for part in content]


def as_text(content: Content) -> str:
    """The content in the output's `messages`: parts as their JSON."""
    return content if isinstance(content, str) else dumps(content)

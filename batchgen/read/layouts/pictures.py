"""`input.images`: the images of a row, in a column beside its conversation, as LLaVA's and LLaMA-Factory's files and the `Image`
columns of `datasets` have them. They take the places of `<image>` in the user's messages, one after the other; without such marks
they stand before the first of these messages."""

import itertools
from typing import Any

from batchgen.errors import BadRow
from batchgen.records import Message
from batchgen.render.images.images import data_url
from batchgen.render.messages import Part

MARK = "<image>"


def with_pictures(messages: list[Message], column: str, value: object) -> list[Message]:
    """The messages with the images in a row's value of the column: a text (path, URL or data URL), {bytes, path}, a list of
    these, or null for none. Raises BadRow (input), also where there are more or fewer marks than images."""
    given = [] if value is None else value if isinstance(value, list) else [value]
    pictures: list[Part] = [
        {"type": "image_url", "image_url": {"url": _url(column, number, one)}} for number, one in enumerate(given, 1)
    ]
    asked = [number for number, message in enumerate(messages) if message["role"] == "user"]
    marks = sum(_texts(messages[number]).count(MARK) for number in asked)
    if marks not in (0, len(pictures)) or (pictures and not asked):
        raise BadRow("input", f"{column} has {len(pictures)} images, and the user's messages have {marks} times {MARK}")
    if not pictures:
        return messages
    made = list(messages)
    if not marks:
        first = messages[asked[0]]
        made[asked[0]] = {**first, "content": [*pictures, *_parts(first)]}
        return made
    left = iter(pictures)
    for number in asked:
        if MARK in _texts(messages[number]):
            content = [new for part in _parts(messages[number]) for new in _placed(part, left)]
            made[number] = {**messages[number], "content": content}
    return made


def _placed(part: Part, left: Any) -> list[Part]:
    """A part with the next images in place of its marks."""
    if part["type"] != "text":
        return [part]
    texts = [[{"type": "text", "text": text}] if text else [] for text in part["text"].split(MARK)]
    return [*itertools.chain.from_iterable([*text, next(left)] for text in texts[:-1]), *texts[-1]]


def _parts(message: Message) -> list[Part]:
    content = message["content"]
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def _texts(message: Message) -> str:
    """What a message says, without its images."""
    return "\n".join(part["text"] for part in _parts(message) if part["type"] == "text")


def _url(column: str, number: int, value: object) -> str:
    where, found = f"{column}: image {number}", value
    if isinstance(value, dict):
        found = next((value[key] for key in ("bytes", "path", "url") if value.get(key) is not None), None)
    if isinstance(found, bytes):
        try:
            return data_url(found)
        except ValueError as error:
            raise BadRow("input", f"{where}: {error}") from None
    if not isinstance(found, str):
        raise BadRow("input", f"{where} is neither a path, a URL nor {{bytes, path}}")
    return found

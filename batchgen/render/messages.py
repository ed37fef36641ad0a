"""The content of a message, and its calls of tools. Content is a text, or a list of parts, some of them images. Parts are
OpenAI's: {type: text, text} and {type: image_url, image_url: {url}}. Parts that are all text are one text, with a newline between
them, as in vLLM's server. Chat templates see an image as {type: image}; the image itself goes to the engine with the tokens, in
the order of the conversation. Calls are OpenAI's too: an assistant's `tool_calls`, the `tool_call_id` of the answer, a `name`.
Templates get the arguments of calls as objects, as in Transformers, an endpoint as text."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from batchgen.errors import BadRow
from batchgen.jsontext import dumps, loads
from batchgen.records import CALL_KEYS, MESSAGE_KEYS, REASONING, REASONINGS, Message

_KEYS = {
    "text": ("text", "value"),
    "image_url": ("image_url", "value"),
    "image": ("image", "value", "url", "path", "image_url"),
}
"""The keys of a part's content by its type: OpenAI's, `value` of VLMEvalKit, and those of images in Transformers."""
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
    given_part: dict[str, Any] = part if isinstance(part, dict) else {}
    keys = _KEYS.get(kind, ()) if isinstance(kind := given_part.get("type"), str) else ()
    inner = next((given_part[key] for key in keys if given_part.get(key) is not None), None)
    if kind == "text" and isinstance(inner, str):
        return {"type": "text", "text": inner}
    given = inner if isinstance(inner, dict) else {"url": inner}
    if kind != "text" and isinstance(given.get("url"), str):
        return {"type": "image_url", "image_url": {key: entry for key, entry in given.items() if entry is not None}}
    raise BadRow("input", f"part {number} is neither {{type: text, text: ...}} nor {{type: image_url, image_url: {{url: ...}}}}")


def read_calls(message: Mapping[str, object]) -> Part:
    """The MESSAGE_KEYS of a message, those that are null or empty left out. `tool_calls` may be JSON text, as in our outputs.
    Raises BadRow (input)."""
    found: Part = {key: message[key] for key in CALL_KEYS if message.get(key) not in (None, [])}
    if reasoning := next((message[key] for key in REASONINGS if message.get(key)), None):
        found[REASONING] = reasoning
    for key in found.keys() - {"tool_calls"}:
        if not isinstance(found[key], str):
            raise BadRow("input", f"{key} must be a string, not {type(found[key]).__name__}")
    if isinstance(calls := found.get("tool_calls"), str):
        found["tool_calls"] = calls = _json("tool_calls", calls)
    if calls is not None and not isinstance(calls, list):
        raise BadRow("input", f"tool_calls must be a list, not {type(calls).__name__}")
    for number, call in enumerate(calls or [], 1):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRow("input", f"tool_calls: call {number} is not {{id, type: function, function: {{name, arguments}}}}")
        if not isinstance(_arguments(function), dict):
            raise BadRow("input", f"tool_calls: call {number}: the arguments are no JSON object")
    return found


def _json(what: str, text: str) -> object:
    try:
        return loads(text)
    except ValueError as error:
        raise BadRow("input", f"{what}: {error}") from None


def _arguments(function: Mapping[str, Any]) -> object:
    given = function.get("arguments")
    if isinstance(given, str):
        return _json(f"tool_calls: the arguments of {function['name']}", given) if given.strip() else {}
    return {} if given is None else given


def texts(message: Message) -> list[str]:
    """Every text of a message that a template may show."""
    if isinstance(message["content"], str) and message.keys().isdisjoint(MESSAGE_KEYS):
        return [message["content"]]
    found: list[str] = []
    with_texts(message, lambda text: found.append(text) or text)  # type: ignore[func-returns-value]
    return found


def with_texts(message: Message, change: Callable[[str], str]) -> Message:
    """The message with every text changed that a template may show."""
    content = message["content"]
    if isinstance(content, list):
        content = [{**part, "text": change(part["text"])} if part["type"] == "text" else part for part in content]
    elif content is not None:
        content = change(content)
    calls = {key: changed(message[key], change) for key in MESSAGE_KEYS if key in message}
    return {**message, "content": content, **calls}


def changed(value: Any, change: Callable[[str], str]) -> Any:
    """A value of JSON with every text in it changed, the keys of objects too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [changed(each, change) for each in value]
    return {change(key): changed(each, change) for key, each in value.items()} if isinstance(value, dict) else value


def texts_in(value: Any) -> list[str]:
    """Every text in a value of JSON, the keys of objects too."""
    found: list[str] = []
    changed(value, lambda text: found.append(text) or text)  # type: ignore[func-returns-value]
    return found


def images(messages: Iterable[Message]) -> list[str]:
    """The URLs of a conversation's images, in order."""
    parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    return [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]


def with_images(messages: Iterable[Message], urls: Iterable[str]) -> list[Message]:
    """The messages with these URLs in place of those of their images, in order."""
    left = iter(urls)

    def replaced(part: Part) -> Part:
        return {**part, "image_url": {**part["image_url"], "url": next(left)}} if part["type"] == "image_url" else part

    return [{**one, "content": [*map(replaced, one["content"])]} if isinstance(one["content"], list) else one for one in messages]


def for_template(message: Message, hosted: bool) -> Message:
    """The message as a chat template takes it; `hosted`: as an endpoint does."""
    content, calls = message["content"], message.get("tool_calls")
    if REASONING in message:  # whether it is shown is the template's choice, and how it spells it
        message = {**message, **dict.fromkeys(REASONINGS, message[REASONING])}
    if isinstance(content, list) and not hosted:
        content = [part if part["type"] == "text" else {"type": "image"} for part in content]
    if calls is None:
        return {**message, "content": content}
    made = []
    for call in calls:
        arguments = _arguments(call["function"])
        made.append({**call, "function": {**call["function"], "arguments": dumps(arguments) if hosted else arguments}})
    return {**message, "content": content, "tool_calls": made}


def as_kept(message: Message) -> dict[str, str | None]:
    """The message in the output's `messages`: parts and calls as their JSON."""
    kept = {key: message[key] for key in ("role", "content", *MESSAGE_KEYS) if key in message}
    return {key: value if value is None or isinstance(value, str) else dumps(value) for key, value in kept.items()}

"""The body of a chat completion, checked as it comes: an endpoint may send anything. What is no answer to a request refuses that
prompt alone. Format: https://platform.openai.com/docs/api-reference/chat/object"""

import math
from typing import Any

import pyarrow as pa

from batchgen import jsontext, logprobs
from batchgen.errors import BadRow, safe_message
from batchgen.records import Answer

MOST_COUNT = 2**31 - 1
BUSY_CODES = {"rate_limit_exceeded", "rate_limit_error", "overloaded", "overloaded_error", "server_error", "server_overloaded"}
Object = dict[str, Any]


class BusyError(Exception):
    """An error of the endpoint inside a reply that another try may not meet, as those of status 429 and 5xx are."""


def answers_in(body: bytes, n: int, scored: bool, listed: bool, of_prompt: int | None = None) -> list[Answer]:
    """The `n` answers. `scored`: log-probabilities were asked for; `listed`: those of each token are kept. `of_prompt`:
    sampling.prompt_logprobs. Raises BadRow (engine_rejected) with the cause, BusyError."""
    reply = object_in(body)
    choices = _in_order(reply.get("choices"), n)
    usage = reply.get("usage") or {}
    if not isinstance(usage, dict):
        raise rejected(f"usage is {shown(usage)}")
    prompt_tokens = count_in(usage, "prompt_tokens")
    details = usage.get("prompt_tokens_details")
    cached = count_in(details, "cached_tokens") if isinstance(details, dict) else 0
    details = usage.get("completion_tokens_details")
    thoughts = count_in(details, "reasoning_tokens") if isinstance(details, dict) else None
    contents = [_token_list(choice) if scored else None for choice in choices]
    tokens = _tokens_of_each(contents, count_in(usage, "completion_tokens") or 0)
    answers, prompt = [], of_prompt_tokens(reply.get("prompt_logprobs"), of_prompt)
    for choice, content, count in zip(choices, contents, tokens, strict=True):
        reason = choice.get("finish_reason")
        message = _message(choice)
        answers.append(
            Answer(
                text=_text(message),
                tokens=count,
                finish_reason=reason if isinstance(reason, str) and reason else "stop",
                cumulative_logprob=None if content is None else sum(token["logprob"] for token in content),
                cached_tokens=cached or 0,
                prompt_tokens=prompt_tokens,
                token_logprobs=_column(content) if content is not None and listed else None,
                prompt_logprobs=prompt,
                reasoning=_reasoning(message),
                reasoning_tokens=thoughts if n == 1 else None,
                tool_calls=_calls(message),
            )
        )
    return answers


def object_in(body: bytes) -> Object:
    """The object in a body. Raises BadRow (engine_rejected) for another and for an error, BusyError for one that may pass."""
    try:
        reply = jsontext.loads(body)
    except ValueError as error:
        raise rejected(f"its body is {error}: {shown(body.decode(errors='replace'))}") from None
    if not isinstance(reply, dict):
        raise rejected(f"its body is {shown(reply)}")
    if reply.get("error"):
        _refuse_error(reply["error"])
    return reply


def rejected(cause: str) -> BadRow:
    return BadRow("engine_rejected", f"the endpoint did not answer as asked: {cause}")


def shown(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return safe_message(ValueError(text), 200) or "empty"


def _refuse_error(error: object) -> None:
    """Raises BusyError for an error that may pass, BadRow for any other."""
    fields: Object = error if isinstance(error, dict) else {"message": error}
    codes = [fields.get(name) for name in ("code", "status", "type")]
    message = shown(fields.get("message") or error)
    for code in codes:
        said = str(code)
        if said in BUSY_CODES or (said.isascii() and said.isdigit() and len(said) == 3 and (said == "429" or said[0] == "5")):
            raise BusyError(message)
    raise rejected(f"error: {message}")


def _in_order(choices: object, n: int) -> list[Object]:
    """The choices by their index; where none has one, as they stand."""
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise rejected(f"choices is {shown(choices)}")
    if len(choices) != n:
        raise rejected(f"{len(choices)} choices instead of {n}")
    numbers = [choice.get("index") for choice in choices]
    if all(number is None for number in numbers):
        return choices
    if any(type(number) is not int for number in numbers) or sorted(numbers) != list(range(n)):
        raise rejected(f"the indexes of its choices are {shown(numbers)}")
    return sorted(choices, key=lambda choice: int(choice["index"]))


def _message(choice: Object) -> Object:
    message = choice.get("message")
    if not isinstance(message, dict):
        raise rejected(f"a message is {shown(message)}")
    return message


def _reasoning(message: Object) -> str | None:
    """Under the keys of vLLM's and of DeepSeek's server. Raises BadRow (engine_rejected) for one that is no text."""
    for key in ("reasoning", "reasoning_content"):
        if (found := message.get(key)) not in (None, ""):
            if not isinstance(found, str):
                raise rejected(f"the {key} of a message is {shown(found)}")
            return found
    return None


def _calls(message: Object) -> list[Object] | None:
    """The calls of tools, in OpenAI's form, with arguments as text."""
    found = message.get("tool_calls")
    if found in (None, []):
        return None
    calls = []
    for number, call in enumerate(found if isinstance(found, list) else [found]):
        function = call.get("function") if isinstance(call, dict) else None
        name, arguments = (function.get("name"), function.get("arguments")) if isinstance(function, dict) else (None, None)
        if isinstance(arguments, dict):
            arguments = jsontext.dumps(arguments)
        if not isinstance(name, str) or not isinstance(arguments or "", str):
            raise rejected(f"a tool call is {shown(call)}")
        given = call.get("id")
        called = {"name": name, "arguments": arguments or "{}"}
        calls.append({"id": given if isinstance(given, str) else f"call_{number}", "type": "function", "function": called})
    return calls


def _text(message: Object) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content:
        texts = [part.get("text") if isinstance(part, dict) and part.get("type") in (None, "text") else None for part in content]
        if all(isinstance(text, str) for text in texts):
            return "".join(map(str, texts))
    if content in (None, []) and (message.get("tool_calls") or _reasoning(message)):
        return ""
    if content is None and message.get("refusal"):
        raise rejected(f"it refuses: {shown(message['refusal'])}")
    raise rejected(f"the content of a message is {shown(content)}")


def count_in(usage: Object, name: str) -> int | None:
    """A number of tokens; None where the endpoint does not say it."""
    value = usage.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_COUNT or value != int(value):
        raise rejected(f"usage.{name} is {shown(value)}")
    return int(value)


def _token_list(choice: Object) -> list[Object] | None:
    """The tokens of a choice with their log-probabilities; None where the endpoint lists none."""
    found = choice.get("logprobs")
    content = found.get("content") if isinstance(found, dict) else found
    if content is None:
        return None
    if not isinstance(content, list):
        raise rejected(f"logprobs is {shown(content)}")
    for token in content:
        top = token.get("top_logprobs") if isinstance(token, dict) else None
        if not _is_token(token) or not (top is None or (isinstance(top, list) and all(map(_is_token, top)))):
            raise rejected(f"an entry of logprobs is {shown(token)}")
    return content


def _is_token(token: object) -> bool:
    if not isinstance(token, dict) or not isinstance(token.get("token"), str):
        return False
    value = token.get("logprob")
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value) and value < math.inf


def _tokens_of_each(contents: list[list[Object] | None], total: int) -> list[int]:
    """How many tokens each choice has; where not every token is listed, the sum is split evenly."""
    counts = [len(content or ()) for content in contents]
    if sum(counts) != total:
        counts = [total // len(counts) + (number < total % len(counts)) for number in range(len(counts))]
    return counts


def _column(content: list[Object]) -> pa.StructArray:
    """The tokens of an answer. A vLLM server puts the chosen alternative before likelier ones, so this sorts them."""
    tokens = []
    for token in content:
        likeliest = sorted(token.get("top_logprobs") or (), key=lambda other: -float(other["logprob"]))
        tokens.append(
            (None, token["token"], float(token["logprob"]), [(None, o["token"], float(o["logprob"])) for o in likeliest])
        )
    return logprobs.of_answer(tokens)


def of_prompt_tokens(found: object, most: int | None) -> pa.StructArray | None:
    """The `prompt_logprobs` of a vLLM server: for each token a mapping of ids, the token itself first, to {logprob, rank,
    decoded_token}; null for the first. None where there are none, or none that can be: they are no part of OpenAI's reply."""
    if most is None or not isinstance(found, list):
        return None
    try:
        return logprobs.of_answer([_position(entry, most) for entry in found])
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, IndexError, pa.ArrowException):
        return None


def _position(entry: Object | None, most: int) -> tuple[int | None, str | None, float | None, list[logprobs.Token]]:
    """Raises what an entry of any shape raises."""
    if entry is None:
        return None, None, None, []
    tokens = [(int(one["rank"]), (int(number), one["decoded_token"], _logprob(one["logprob"]))) for number, one in entry.items()]
    likeliest = sorted((token for token in tokens if token[0] <= most), key=lambda token: token[0])
    return *tokens[0][1], [token for _, token in likeliest]


def _logprob(value: object) -> float:
    if not _is_token({"token": "", "logprob": value}):
        raise ValueError
    return float(str(value))

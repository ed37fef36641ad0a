"""Calls of tools in an answer, held to the tools of the request: the name of one of them, arguments that its schema allows."""

import functools

from batchgen.errors import BadRow, safe_message
from batchgen.job.fields import Fields
from batchgen.job.request.tools import CHOICES, chosen
from batchgen.job.sampling import Sampling
from batchgen.jsontext import dumps, loads
from batchgen.records import Answer
from batchgen.tasks.json_schema import SchemaRule

SECONDS = 5.0


def refuse_calls(answer: Answer, sampling: Sampling) -> None:
    """Raises BadRow (parse) for calls that the request does not allow, and where one is missing that it requires."""
    calls = answer.tool_calls or []
    if sampling.tools is None:
        if calls:
            raise BadRow("parse", f"the answer calls {_name(calls[0])}, and the row has no sampling.tools")
        return
    choice = sampling.tool_choice
    if choice not in (None, "auto", "none") and not calls:
        wanted = chosen(choice) or "a tool"
        raise BadRow("parse", f"sampling.tool_choice wants a call of {wanted}, and the answer has none")
    schemas = _schemas(sampling.tools)
    for number, call in enumerate(calls, 1):
        name = _name(call)
        if name not in schemas:
            raise BadRow("parse", f"tool_calls: call {number}: no tool {name!r}: there are {', '.join(schemas)}")
        if choice not in (None, *CHOICES) and name != chosen(choice):
            raise BadRow("parse", f"tool_calls: call {number}: of {name}, where sampling.tool_choice wants {chosen(choice)}")
        try:
            arguments = loads(call["function"]["arguments"] or "{}", strict=True)
        except ValueError as error:
            raise BadRow("parse", f"tool_calls: call {number}: the arguments of {name} are {error}") from None
        if not isinstance(arguments, dict):
            raise BadRow("parse", f"tool_calls: call {number}: the arguments of {name} are no JSON object")
        if wrong := _mistake(schemas[name], arguments):
            raise BadRow("parse", f"tool_calls: call {number}: the arguments of {name}: {wrong}")


def _mistake(schema: SchemaRule | str | None, arguments: Fields) -> str | None:
    """What is wrong with arguments; with a schema that is none, they are."""
    if not isinstance(schema, SchemaRule):
        return schema
    try:
        return schema.mistake(arguments, SECONDS)
    except Exception as error:  # TimeoutError, and what a hostile schema makes of the library
        return f"the schema cannot be applied: {type(error).__name__}: {safe_message(error)}"


def _name(call: Fields) -> str:
    return str(call["function"]["name"])


@functools.lru_cache(64)
def _schemas(tools: str) -> dict[str, SchemaRule | str | None]:
    """The schema of each tool's arguments by its name, None for a tool without one; what is wrong with it as a text."""
    return {one["name"]: _schema(one.get("parameters")) for one in (tool["function"] for tool in loads(tools))}


def _schema(parameters: Fields | None) -> SchemaRule | str | None:
    try:
        return SchemaRule(dumps(parameters)) if parameters else None
    except Exception as error:
        return f"the tool's parameters: {safe_message(error)}"

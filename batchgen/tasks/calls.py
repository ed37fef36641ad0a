"""Calls of tools in an answer, held to the tools of the request: the name of one of them, arguments that its schema allows."""

import functools

from batchgen.errors import BadRow
from batchgen.job.fields import Fields
from batchgen.job.request.tools import CHOICES, chosen
from batchgen.job.sampling import Sampling
from batchgen.jsontext import loads
from batchgen.records import Answer
from batchgen.tasks.json_schema import Schema


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
        if (schema := schemas[name]) is not None and (wrong := schema.mistake(arguments)):
            raise BadRow("parse", f"tool_calls: call {number}: the arguments of {name}: {wrong}")


def _name(call: Fields) -> str:
    return str(call["function"]["name"])


@functools.lru_cache(64)
def _schemas(tools: str) -> dict[str, Schema | None]:
    functions = [tool["function"] for tool in loads(tools)]
    return {one["name"]: Schema(one["parameters"]) if one.get("parameters") else None for one in functions}

"""What the echo engine makes in the shape of a model's work: calls of tools with arguments that their schemas allow."""

from batchgen.job.fields import Fields
from batchgen.job.request.tools import chosen
from batchgen.job.sampling import Sampling
from batchgen.jsontext import dumps, loads

_EMPTY: Fields = {"string": "", "integer": 0, "number": 0.0, "boolean": False, "array": [], "null": None}


def calls_of(sampling: Sampling) -> list[Fields] | None:
    """A call of the tool that the request wants, the first one where it wants any; None where it need not call."""
    if sampling.tools is None or sampling.tool_choice in (None, "auto", "none"):
        return None
    functions = {tool["function"]["name"]: tool["function"] for tool in loads(sampling.tools)}
    name = chosen(sampling.tool_choice) or next(iter(functions))
    arguments = example(functions.get(name, {}).get("parameters", {}))
    return [{"id": "call_0", "type": "function", "function": {"name": name, "arguments": dumps(arguments)}}]


def example(schema: Fields) -> object:
    """A small value for a schema of the common kinds: what is required, the first of an enum, a default."""
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    if kind in (None, "object"):
        properties = schema.get("properties", {})
        return {name: example(properties.get(name, {"type": "string"})) for name in schema.get("required", ())}
    if kind == "array" and schema.get("minItems"):
        return [example(schema.get("items", {"type": "string"}))] * min(int(schema["minItems"]), 100)
    if kind in ("integer", "number") and "minimum" in schema:
        return schema["minimum"]
    return "x" * min(int(schema.get("minLength", 0)), 1000) if kind == "string" else _EMPTY.get(str(kind))

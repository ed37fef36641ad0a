"""Tools that a model may call, and the variables of its chat template: mappings of a row or job, kept as JSON text.

Format: https://platform.openai.com/docs/api-reference/chat/create (tools, tool_choice)"""

import re
import reprlib

from batchgen.job.fields import Fields
from batchgen.jsontext import dumps, loads

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
MOST_TEXT = 2**18  # characters; it is in every prompt
TOOLS: Fields = {"anyOf": [{"type": "array", "items": {"type": "object"}}, {"type": "string"}, {"type": "null"}]}
CHOICE: Fields = {"anyOf": [{"type": "object"}, {"type": "string"}, {"type": "null"}]}
VARIABLES: Fields = {"anyOf": [{"type": "object"}, {"type": "string"}, {"type": "null"}]}
CHOICES = ("auto", "none", "required")


def tools_text(value: object) -> str | None:
    """The tools, or their JSON text, as JSON text, each in OpenAI's form {type: function, function: {name, ...}}; a function alone
    is put in that form. None where there are none. The nulls of a Parquet struct are left out. Raises ValueError."""
    given = from_json(value)
    if given is None or given == []:
        return None
    if not isinstance(given, list):
        raise ValueError(f"{reprlib.repr(given)} is no list of tools")
    made = [_tool(number, tool) for number, tool in enumerate(given, 1)]
    names = [tool["function"]["name"] for tool in made]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two tools are named {twice}")
    return _text(made)


def _tool(number: int, tool: object) -> Fields:
    function = tool.get("function", tool if tool.get("type") in (None, "function") else None) if isinstance(tool, dict) else None
    if not isinstance(function, dict) or not isinstance(name := function.get("name"), str) or not _NAME.fullmatch(name):
        raise ValueError(f"tool {number} is not {{type: function, function: {{name, description, parameters}}}}")
    function = {key: entry for key, entry in function.items() if entry is not None and key != "type"}
    parameters = function.get("parameters", {})
    if isinstance(parameters, str):
        parameters = from_json(parameters)
    if not isinstance(parameters, dict):
        raise ValueError(f"tool {number}, {name}: its parameters are no JSON schema")
    if "parameters" in function:
        function["parameters"] = without_nulls(parameters)
    return {"type": "function", "function": function}


def choice_text(value: object) -> str | None:
    """One of CHOICES, or the JSON text of OpenAI's {type: function, function: {name}}. Raises ValueError."""
    if value is None or value in CHOICES:
        return None if value is None else str(value)
    given = from_json(value)
    function = given.get("function") if isinstance(given, dict) else None
    name = function.get("name") if isinstance(function, dict) else given.get("name") if isinstance(given, dict) else None
    if not isinstance(name, str) or not name:
        raise ValueError(f"{reprlib.repr(given)} is none of {', '.join(CHOICES)}, {{type: function, function: {{name}}}}")
    return dumps({"type": "function", "function": {"name": name}}, compact=True)


def chosen(choice: str | None) -> str | None:
    """The name of the function that a choice names; None for one of CHOICES."""
    return None if choice is None or choice in CHOICES else str(loads(choice)["function"]["name"])


def variables_text(value: object) -> str | None:
    """Variables of a chat template, or their JSON text, as JSON text; None where there are none. Raises ValueError."""
    given = from_json(value)
    if given is None:
        return None
    if not isinstance(given, dict):
        raise ValueError(f"{reprlib.repr(given)} is no mapping of the variables of a chat template")
    made = {key: entry for key, entry in given.items() if entry is not None}
    return _text(made) if made else None


def from_json(value: object) -> object:
    """The value, where it is a text the value that it is the JSON of. Raises ValueError."""
    if not isinstance(value, str):
        return value
    try:
        return loads(value)
    except ValueError as error:
        raise ValueError(f"a text must be JSON: {str(error).removeprefix('invalid JSON: ')}") from None


def _text(value: object) -> str:
    if len(text := dumps(value, compact=True)) > MOST_TEXT:
        raise ValueError(f"more than {MOST_TEXT} characters")
    return text


_OF_NAMES = {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"}


def without_nulls(schema: object, of_names: bool = False) -> object:
    """A JSON schema without the keys that are null, as a Parquet struct has those of other rows. Null stays where it is a value:
    in enum, examples and default, and of a const beside no other type. `of_names`: its keys are names of properties."""
    if isinstance(schema, list):
        return [without_nulls(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kinds = schema.get("type") or "null"
    may_be_null = not of_names and isinstance(kinds, str | list) and "null" in kinds
    kept = {key: value for key, value in schema.items() if value is not None or (key == "const" and may_be_null)}
    values = () if of_names else ("enum", "examples", "default", "const")
    return {
        key: value if key in values else without_nulls(value, not of_names and key in _OF_NAMES) for key, value in kept.items()
    }

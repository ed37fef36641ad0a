"""Text -> the value that `input.types` says it is."""

import re
import reprlib

import pyarrow as pa

from batchgen import jsontext
from batchgen.errors import BadRow
from batchgen.job.input import Kind

TYPES: dict[Kind, pa.DataType] = {"integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_BOOLEANS = {"true": True, "false": False}


def typed(column: str, text: str, kind: Kind) -> object:
    """The value of a text; of an empty one null, unless it is to be text. Raises BadRow for a text that is no such value."""
    if kind == "string":
        return text
    if not text:
        return None
    try:
        if kind == "json":
            return jsontext.loads(text, strict=True)
        if kind == "boolean":
            return _BOOLEANS[text.lower()]
        if (found := _NUMBER.fullmatch(text)) and (kind == "number" or not any(found.groups())):
            return jsontext.loads(text)
    except (KeyError, ValueError):
        pass
    raise BadRow("input", f"column {column}: {reprlib.repr(text)} is no {kind}")

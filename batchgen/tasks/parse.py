"""Answer -> typed columns, as the job's `parse` declares them. An answer is a JSON object (alone, or in a Markdown code block),
or text in which a regular expression finds named groups. A null, or a group that took no part in the match, stays null."""

import math
import re
from collections.abc import Mapping

import regex

from batchgen.errors import BadRow, JobError
from batchgen.job.input import Kind, Parse
from batchgen.jsontext import dumps, loads

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
_BLOCK = re.compile(r"\s*```(?:json)?[ \t]*\n(.*)\n[ \t]*```\s*", re.DOTALL | re.IGNORECASE)


class Parser:
    """Raises JobError for a regular expression that cannot be used."""

    def __init__(self, spec: Parse) -> None:
        self._kinds = spec.kinds
        try:  # unlike re, regex can be stopped, and lets other threads run meanwhile
            self._regex = None if spec.regex is None else regex.compile(spec.regex)
        except regex.error as error:
            raise JobError(f"parse.regex: {error}") from None

    def parse(self, answer: str, seconds: float) -> dict[str, object]:
        """The columns of an answer. Raises BadRow (parse), and TimeoutError for a search that takes longer than `seconds`."""
        if self._regex is None:
            found = _object(answer)
        elif match := self._regex.search(answer, timeout=seconds, concurrent=True):
            found = match.groupdict()
        else:
            raise BadRow("parse", "the regex matches nowhere in the answer")
        return self.typed(found, "the answer's JSON")

    def typed(self, found: Mapping[str, object], origin: str) -> dict[str, object]:
        """The columns that are `found` in an answer. Raises BadRow (parse)."""
        columns = {}
        for name, kind in self._kinds.items():
            if name not in found:
                raise BadRow("parse", f"{origin} has no {name}")
            value = found[name]
            try:
                read = _from_text(value, kind) if self._regex is not None and isinstance(value, str) else value
                columns[name] = None if read is None else _typed(read, kind)
            except ValueError:
                raise BadRow("parse", f"{name}: {_shown(value)} is no {kind}") from None
        return columns


def json_in(answer: str) -> object:
    """The JSON value that an answer is, alone or in a code block. Raises ValueError."""
    block = _BLOCK.fullmatch(answer)
    try:
        return loads(block[1] if block else answer, strict=True)
    except ValueError as error:
        raise ValueError(f"the answer is no JSON: {str(error).removeprefix('invalid JSON: ')}") from None


def _object(answer: str) -> dict[str, object]:
    try:
        value = json_in(answer)
    except ValueError as error:
        raise BadRow("parse", str(error)) from None
    if not isinstance(value, dict):
        raise BadRow("parse", f"the answer is no JSON object but {_shown(value)}")
    return value


def _typed(value: object, kind: Kind) -> object:
    """The value as Arrow takes it. Raises ValueError for a value of another type."""
    if kind == "json":
        return dumps(value, sort_keys=True, compact=True)
    if (kind == "string" and isinstance(value, str)) or (kind == "boolean" and isinstance(value, bool)):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        if kind == "number":
            return float(value)
        if kind == "integer" and value == int(value) and -(2**63) <= value < 2**63:
            return int(value)
    raise ValueError


def _from_text(text: str, kind: Kind) -> object:
    """What a group's text says: `3`, `3.0` and `True` as models write them. Raises ValueError."""
    if kind == "string":
        return text
    if kind in ("boolean", "json"):
        return loads(text.lower() if kind == "boolean" else text)
    if not _NUMBER.fullmatch(text):
        raise ValueError
    return int(text) if text.lstrip("+-").isdigit() else float(text)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

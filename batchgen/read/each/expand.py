"""`input.each`: a row that holds many prompts -> a row for each of them.

A path such as `data.paragraphs.qas` names a column and, below it, keys of structs. Each holds a list of structs, or one struct;
the last one may hold a list of any values. An element of the last list is a row: its own keys, and the other keys of the structs
above it, of which the innermost wins. An element that is no struct is the column of the last name. Null is an empty list."""

import datetime
import decimal
import itertools
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from batchgen.job.input import Input
from batchgen.read.formats import Format, Found, Head
from batchgen.records import Data

VALUE_BYTES = 8  # of a value, beside its text


@dataclass(frozen=True)
class Element:
    """A row, or what is above the place where one should be, with the `cause` why there is none. `bytes` are of its values."""

    data: Data
    bytes: int
    cause: str | None = None


def elements(data: Data, path: str) -> Iterator[Element]:
    """The elements of a row, in order."""
    return _below(Element({}, 0), data, path.split("."))


def _below(above: Element, here: Data, names: list[str]) -> Iterator[Element]:
    name, *rest = names
    others = {key: value for key, value in here.items() if key != name}
    outer = Element(above.data | others, above.bytes + _size(others))
    if name not in here:
        yield Element(outer.data, outer.bytes, f"input.each: no {name!r}")
        return
    value = here[name]
    for item in value if isinstance(value, list) else [] if value is None else [value]:
        if rest and not isinstance(item, dict):
            yield Element(outer.data, outer.bytes, f"input.each: {name} must hold structs, not {type(item).__name__}")
        elif rest:
            yield from _below(outer, item, rest)
        else:
            own = item if isinstance(item, dict) else {name: item}
            yield Element(outer.data | own, outer.bytes + _size(own))


def _size(value: Any) -> int:
    if isinstance(value, dict):
        return sum(len(key) + _size(entry) for key, entry in value.items())
    if isinstance(value, list):
        return VALUE_BYTES + sum(map(_size, value))
    return VALUE_BYTES + (len(value) if isinstance(value, str | bytes) else 0)


def head(spec: Input, kind: Format, name: str, rows: int) -> Head:
    """As Format.head; with `input.each` of the elements."""
    if spec.each is None:
        return kind.head(spec, name, rows)
    return itertools.islice(_first(spec, kind, name, rows), rows)


def _first(spec: Input, kind: Format, name: str, rows: int) -> Iterator[tuple[Data, int]]:
    assert spec.each is not None
    for data, _ in kind.first(spec, name, rows):
        for one in elements(plain(data), spec.each):
            if one.cause is None:
                yield one.data, one.bytes


def mean(spec: Input, kind: Format, found: Found, rows: int) -> float:
    """Elements of a row, as the first ones have them; at least one in a hundred rows."""
    assert spec.each is not None
    counts = [sum(1 for _ in elements(data, spec.each)) for data, _ in itertools.islice(kind.first(spec, found.name, rows), rows)]
    return max(0.01, sum(counts) / len(counts)) if counts else 1.0


def plain(value: Any) -> Any:
    """A value of a table as JSON has it (read/values.py); one of JSON is itself."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if isinstance(value, tuple):  # an entry of a map
        return [plain(entry) for entry in value]
    if isinstance(value, bytes):
        return b64encode(value).decode()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return f"PT{value.total_seconds():f}".rstrip("0").rstrip(".") + "S"
    return format(value, "f") if isinstance(value, decimal.Decimal) else value


def column_names(spec: Input, kind: Format, name: str) -> set[str]:
    """All columns of a shard of tables; none of one of text, whose rows are read whole."""
    found = kind.head(spec, name, 0)
    return set(found.names) if isinstance(found, pa.Schema) else set()

"""Arrow values as JSON has them, by type, without a detour over Python's own narrower types.

| Arrow | JSON |
|---|---|
| NaN, infinity | null |
| binary | text, base64 |
| text that is no UTF-8 | text, U+FFFD for what is none |
| decimal | text, all digits |
| date, time, timestamp | text, ISO 8601 in any year; with a time zone, as UTC (+00:00) |
| duration | text, ISO 8601 in seconds (PT1.5S) |
| map | a list of [key, value] |
| dictionary, run-end encoded | what it stands for |
"""

import base64
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from batchgen.records import Data

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def rows(table: pa.Table) -> Iterator[Data]:
    """The rows of a table, each value one that JSON has."""
    columns = [[value for chunk in column.chunks for value in values(chunk)] for column in table.columns]
    for row in zip(*columns, strict=True):
        yield dict(zip(table.column_names, row, strict=True))


def values(array: pa.Array) -> list[Any]:
    """The values of an array of any type as JSON has them."""
    kind = array.type
    for is_kind, convert in _BY_TYPE:
        if is_kind(kind):
            return convert(array)
    return array.to_pylist()  # type: ignore[no-any-return]


def _each(convert: Callable[[Any], object], found: list[Any]) -> list[Any]:
    return [None if value is None else convert(value) for value in found]


def _floats(array: pa.Array) -> list[Any]:
    found = array.cast(pa.float32()).to_pylist() if types.is_float16(array.type) else array.to_pylist()
    return [value if value is not None and math.isfinite(value) else None for value in found]


def _text(array: pa.Array) -> list[Any]:
    try:
        return array.to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        return _each(lambda value: value.decode(errors="replace"), array.cast(pa.large_binary()).to_pylist())


def _bytes(array: pa.Array) -> list[Any]:
    return _each(lambda value: base64.b64encode(value).decode(), array.to_pylist())


def _decimals(array: pa.Array) -> list[Any]:
    return _each(lambda value: format(value, "f"), array.to_pylist())


def _instants(array: pa.Array) -> list[Any]:
    unit = "D" if types.is_date32(array.type) else "ms" if types.is_date64(array.type) else array.type.unit
    zone = "+00:00" if types.is_timestamp(array.type) and array.type.tz else ""
    numbers = array.view(pa.int32() if unit == "D" else pa.int64())
    texts = np.datetime_as_string(numbers.fill_null(0).to_numpy().astype(np.int64).view(f"datetime64[{unit}]"))

    def instant(text: str, number: int | None) -> str | None:
        if number is None:
            return None
        if text == "NaT":  # numpy's name for the least of all numbers
            return f"{number} {unit}"
        return text.partition("T")[0] if types.is_date(array.type) else _shorter(text) + zone

    return [instant(str(text), number) for text, number in zip(texts, numbers.to_pylist(), strict=True)]


def _shorter(text: str) -> str:
    """A time without the zeros at the end of its fraction."""
    return text.rstrip("0").rstrip(".") if "." in text else text


def _times(array: pa.Array) -> list[Any]:
    per = PER_SECOND[array.type.unit]

    def clock(value: int) -> str:
        seconds, rest = divmod(abs(value), per)
        return f"{'-' if value < 0 else ''}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{_fraction(rest, per)}"

    return _each(clock, array.view(pa.int32() if types.is_time32(array.type) else pa.int64()).to_pylist())


def _durations(array: pa.Array) -> list[Any]:
    per = PER_SECOND[array.type.unit]

    def seconds(value: int) -> str:
        whole, rest = divmod(abs(value), per)
        return f"{'-' if value < 0 else ''}PT{whole}{_fraction(rest, per)}S"

    return _each(seconds, array.view(pa.int64()).to_pylist())


def _fraction(rest: int, per: int) -> str:
    return f".{rest * 10**9 // per:09}".rstrip("0") if rest else ""


def _lists(array: pa.Array) -> list[Any]:
    inner, lengths = iter(values(array.flatten())), pc.list_value_length(array).to_pylist()
    return _each(lambda length: list(itertools.islice(inner, length)), lengths)


def _maps(array: pa.Array) -> list[Any]:
    entries = pa.StructArray.from_arrays([array.keys, array.items], ["key", "value"])
    pairs, offsets = [[each["key"], each["value"]] for each in values(entries)], array.offsets.to_pylist()
    known = array.is_valid().to_pylist()
    spans = zip(offsets, offsets[1:], known, strict=False)
    return [pairs[start:end] if there else None for start, end, there in spans]


def _structs(array: pa.Array) -> list[Any]:
    names = [field.name for field in array.type]
    inner = zip(*map(values, array.flatten()), strict=True) if names else itertools.repeat((), len(array))
    made = [dict(zip(names, each, strict=True)) for each in inner]
    return [value if there else None for value, there in zip(made, array.is_valid().to_pylist(), strict=True)]


_BINARY = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
_BY_TYPE: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array], list[Any]]], ...] = (
    (lambda kind: isinstance(kind, pa.BaseExtensionType), lambda array: values(array.storage)),
    (types.is_dictionary, lambda array: values(array.dictionary_decode())),
    (types.is_run_end_encoded, lambda array: values(pc.run_end_decode(array))),
    (types.is_floating, _floats),
    (lambda kind: types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind), _text),
    (lambda kind: any(is_kind(kind) for is_kind in _BINARY), _bytes),
    (types.is_decimal, _decimals),
    (lambda kind: types.is_date(kind) or types.is_timestamp(kind), _instants),
    (types.is_time, _times),
    (types.is_duration, _durations),
    (types.is_interval, lambda array: _each(list, array.to_pylist())),
    (types.is_map, _maps),
    (types.is_struct, _structs),
    (lambda kind: types.is_nested(kind) and not types.is_union(kind), _lists),
)
"""In this order: a map is a list too. Whatever is not here (null, bool, integers) has the values that JSON has."""

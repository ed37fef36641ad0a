"""Arrow columns at the edges of their types, made by hypothesis, and their values as Python and JSON have them. No cast of
Arrow's takes part: a value is compared as the number, bytes or text that is stored."""

from __future__ import annotations

import base64
import decimal
import math
import re
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st
from pyarrow import types

UNITS = ("s", "ms", "us", "ns")
NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
ZONES = (None, "UTC", "+05:30", "Europe/Berlin", "Mars/Phobos")
WHOLE = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
REAL = [pa.float16(), pa.float32(), pa.float64()]
TEXT = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view()]
TIMES = [pa.date32(), pa.date64(), pa.time32("s"), pa.time32("ms"), pa.time64("us"), pa.time64("ns"), *map(pa.duration, UNITS)]
TIMES += [pa.timestamp(unit, zone) for unit in UNITS for zone in ZONES]
OTHER = [pa.bool_(), pa.null(), pa.binary(1), pa.binary(3), pa.decimal32(9, 2), pa.decimal64(18, 0), pa.decimal128(38, 3)]
OTHER += [pa.decimal128(4, 4), pa.decimal256(76, 10)]
OF_DICTIONARY = [pa.string(), pa.string(), pa.large_string(), pa.binary(), pa.int64()]
RAW = [b"", b"a", b"hello", b"\0", "é\U0001f600".encode(), b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"x\xe2\x82", b'"\\\n\x1b[31m']
LONG = [b"x" * 2**20, b"\xf0\x9f\x98\x80" * 2**18, b"y" * 2**20 + b"\xff"]
MOMENTS = [0, 1, -1, 999, 10**9 + 1, 86_400, 86_400_000, 719_162, 253_402_300_800, -62_135_596_801, 10**18 + 7]


def struct_of(kinds: list[pa.DataType]) -> pa.DataType:
    """A struct whose second field is never null."""
    names = zip(["a", "b c", ""], kinds, strict=False)
    return pa.struct([pa.field(name, kind, nullable=name != "b c" or types.is_null(kind)) for name, kind in names])


leaves = st.one_of(
    *(st.sampled_from(kinds) for kinds in (WHOLE, REAL, TEXT, TIMES, OTHER)),
    st.builds(pa.dictionary, st.sampled_from([pa.int8(), pa.int32(), pa.uint16()]), st.sampled_from(OF_DICTIONARY)),
)


def kinds_of_depth(depth: int) -> st.SearchStrategy[pa.DataType]:
    """Types of at most this many levels."""
    if not depth:
        return leaves
    inner = kinds_of_depth(depth - 1)
    return st.one_of(
        leaves,
        st.builds(lambda one, kind: one(kind), st.sampled_from([pa.list_, pa.large_list, pa.list_view]), inner),
        st.builds(pa.list_, inner, st.integers(1, 2)),
        st.lists(inner, min_size=1, max_size=3).map(struct_of),
        st.builds(pa.map_, st.sampled_from([pa.string(), pa.int32(), pa.binary(), pa.date32()]), inner),
    )


def _raw(numbers: list[int], width: int) -> pa.Array:
    """Integers of this many bits, cut to it."""
    return pa.array(np.array([number & (2**width - 1) for number in numbers], f"uint{width}")).view(f"int{width}")


def _leaf(draw: Any, kind: pa.DataType, size: int, mask: list[bool]) -> pa.Array:
    """Values made of what is stored."""

    def some(values: st.SearchStrategy[Any]) -> Any:
        return draw(st.lists(values, min_size=size, max_size=size))

    if types.is_null(kind):
        return pa.nulls(size)
    if types.is_boolean(kind):
        return pa.array(some(st.booleans()), kind)
    if types.is_decimal(kind):
        most = 10**kind.precision - 1
        numbers = some(st.one_of(st.sampled_from([0, 1, -1, most, -most]), st.integers(-most, most)))
        with decimal.localcontext(prec=80):
            return pa.array([decimal.Decimal(number).scaleb(-kind.scale) for number in numbers], kind)
    if types.is_fixed_size_binary(kind):
        return pa.array(some(st.binary(min_size=kind.byte_width, max_size=kind.byte_width)), kind)
    if kind in TEXT:
        often = st.one_of(st.sampled_from(RAW[:5]), st.sampled_from(RAW), st.text(max_size=4).map(str.encode))
        texts = some(often) if draw(st.integers(0, 40)) else some(st.sampled_from(LONG))
        stored = next(pair[1] for pair in zip(TEXT[:3], TEXT[3:], strict=True) if kind in pair)
        return pa.array([None if none else text for none, text in zip(mask, texts, strict=True)], stored).view(kind)
    if types.is_floating(kind):
        numbers = some(st.one_of(st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, 1.5]), st.floats()))
        with np.errstate(over="ignore", under="ignore"):
            return pa.array(np.array(numbers, np.float64).astype(kind.to_pandas_dtype()))
    width = kind.bit_width
    edges = [0, 1, -1, 2 ** (width - 1) - 1, -(2 ** (width - 1)), *([] if kind in WHOLE else MOMENTS)]
    return _raw(some(st.one_of(st.sampled_from(edges), st.integers(-(2 ** (width - 1)), 2 ** (width - 1) - 1))), width).view(kind)


@st.composite
def arrays(draw: Any, kind: pa.DataType, size: int, nulls: bool = True) -> pa.Array:
    """An array of this type and length; with `nulls` at every level where one is drawn."""
    mask = draw(st.lists(st.booleans(), min_size=size, max_size=size)) if nulls and draw(st.booleans()) else [False] * size
    if types.is_dictionary(kind):
        values = draw(arrays(kind.value_type, 3, nulls=False))
        indices = pa.array(
            draw(st.lists(st.integers(0, 2), min_size=size, max_size=size)), kind.index_type, mask=np.array(mask, bool)
        )
        return pa.DictionaryArray.from_arrays(indices, values)
    if types.is_struct(kind):
        inner = [draw(arrays(field.type, size, nulls and field.nullable)) for field in kind]
        return pa.StructArray.from_arrays(inner, fields=list(kind), mask=pa.array(mask, pa.bool_()))
    if types.is_fixed_size_list(kind):
        inner = draw(arrays(kind.value_type, size * kind.list_size, nulls))
        return pa.FixedSizeListArray.from_arrays(inner, type=kind, mask=pa.array(mask, pa.bool_()))
    if not types.is_nested(kind):
        made = _leaf(draw, kind, size, mask)
        return made.take(pa.array(range(size), pa.int32(), mask=np.array(mask, bool))) if any(mask) and kind not in TEXT else made
    lengths = draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
    ends = [sum(lengths[:end]) for end in range(size + 1)]
    if types.is_map(kind):
        keys, items = draw(arrays(kind.key_type, ends[-1], False)), draw(arrays(kind.item_type, ends[-1], nulls))
        offsets = pa.array(ends, pa.int32(), mask=np.array([*mask, False], bool))
        return pa.MapArray.from_arrays(offsets, keys, items, type=kind)
    inner = draw(arrays(kind.value_type, ends[-1], nulls))
    if types.is_list_view(kind):
        return pa.ListViewArray.from_arrays(
            pa.array(ends[:-1], pa.int32()), pa.array(lengths, pa.int32()), inner, mask=pa.array(mask, pa.bool_())
        )
    made, offset = (pa.LargeListArray, pa.int64()) if types.is_large_list(kind) else (pa.ListArray, pa.int32())
    return made.from_arrays(pa.array(ends, offset), inner, mask=pa.array(mask, pa.bool_()))


def stored(scalar: pa.Scalar) -> Any:
    """A value as it is stored, by Python's types: text with surrogates for invalid UTF-8, times in nanoseconds."""
    kind = scalar.type
    if types.is_dictionary(kind):
        return stored(scalar.value)
    if not scalar.is_valid:
        return None
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return scalar.as_buffer().to_pybytes().decode(errors="surrogateescape")
    if types.is_date(kind):
        return ("date", scalar.value if kind.bit_width == 32 else scalar.value // 86_400_000)
    if types.is_temporal(kind):
        what = kind.tz if types.is_timestamp(kind) else None
        return (re.sub("[0-9]*Type$", "", type(kind).__name__), what, scalar.value * NANOSECONDS[kind.unit])
    if types.is_map(kind):
        return [[stored(pair[0]), stored(pair[1])] for pair in scalar.values]
    if types.is_struct(kind):
        return {kind.field(index).name: stored(scalar[index]) for index in range(kind.num_fields)}
    return [stored(item) for item in scalar.values] if types.is_nested(kind) else scalar.as_py()


def as_json(value: Any) -> Any:
    """What `stored` gave, as JSON has it (read/values.py); times stay as they are."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, decimal.Decimal):
        return format(value, "f")
    if isinstance(value, dict):
        return {name: as_json(item) for name, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, list) else value


def time_in_text(text: str, kind: str, zone: str | None) -> int:
    """The days, or nanoseconds, of a text of ISO 8601."""
    if kind == "date":
        return int(np.datetime64(text, "D").astype(int))
    if kind == "Timestamp":
        whole, _, rest = text.removesuffix("+00:00").partition(".")
        if not whole.partition("T")[2]:  # the least of all numbers, which numpy has as NaT: with a zone or without
            number, unit = whole.split(" ")
            return int(number) * NANOSECONDS[unit]
        assert text.endswith("+00:00") == (zone is not None)
        return int(np.datetime64(whole, "s").astype(int)) * 10**9 + int(rest.ljust(9, "0"))
    clock, _, rest = text.lstrip("-").removeprefix("PT").removesuffix("S").partition(".")
    parts = [int(part) for part in clock.split(":")]  # a duration has seconds alone
    seconds: int = sum(part * 60**power for power, part in enumerate(reversed(parts)))
    nanoseconds = seconds * 10**9 + int(rest.ljust(9, "0"))
    return -nanoseconds if text.startswith("-") else nanoseconds


def same(one: Any, other: Any) -> bool:
    """Whether two stored values, or one as JSON has it and a stored one, are one: NaN is NaN, True is not 1, 0.0 is not -0.0, a
    missing field is null."""
    if isinstance(one, str) and isinstance(other, tuple):
        return bool(time_in_text(one, other[0], other[1]) == other[-1])
    if isinstance(one, dict) and isinstance(other, dict):
        return all(same(one.get(name), other.get(name)) for name in one.keys() | other.keys())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return (math.isnan(one) and math.isnan(other)) or (one == other and math.copysign(1, one) == math.copysign(1, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)

"""One schema for the shards of an input: the types of a column that hold the values of all of them without loss, and the names
under which the output carries columns."""

from collections import Counter
from collections.abc import Callable, Iterable

import pyarrow as pa
from pyarrow import types

from batchgen.records.columns import names_of

Types = dict[str, pa.DataType]


def common(schemas: Iterable[pa.Schema]) -> tuple[Types, bool]:
    """The columns of all schemas in order of appearance, and whether one has values that the type chosen for its column cannot
    hold. Where no type holds all values, the one that most shards have is chosen."""
    found: dict[str, Counter[pa.DataType]] = {}
    for schema in schemas:
        for field in schema:
            found.setdefault(field.name, Counter())[plain(field.type)] += 1
    chosen: Types = {}
    misfits = False
    for name, kinds in found.items():
        wide = lossless(kinds)
        misfits = misfits or wide is None
        chosen[name] = wide if wide is not None else kinds.most_common(1)[0][0]
    return chosen, misfits


def plain(kind: pa.DataType) -> pa.DataType:
    """The type without dictionaries, null at every level: a row in error has it, and one of a shard without the column."""
    if types.is_dictionary(kind):
        return plain(kind.value_type)
    if types.is_struct(kind):
        return pa.struct([_plain(field) for field in kind])
    if types.is_map(kind):
        return pa.map_(plain(kind.key_type), _plain(kind.item_field), kind.keys_sorted)
    if types.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_field), kind.list_size)
    if types.is_list(kind) or types.is_large_list(kind):  # views cannot be cast
        return (pa.list_ if types.is_list(kind) else pa.large_list)(_plain(kind.value_field))
    return kind


def _plain(field: pa.Field) -> pa.Field:
    return field.with_type(plain(field.type)).with_nullable(True)


def holds(kind: pa.DataType, is_kind: Callable[[pa.DataType], bool]) -> bool:
    """Whether the type, or one inside it, is such a type."""
    return is_kind(kind) or any(holds(kind.field(index).type, is_kind) for index in range(kind.num_fields))


def lossless(kinds: Iterable[pa.DataType]) -> pa.DataType | None:
    """The narrowest type to which values of all these can be cast exactly; None where there is none."""
    wide: pa.DataType | None = pa.null()
    for kind in kinds:
        wide = None if wide is None else _wider(wide, kind)
    return wide


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if one == other or types.is_null(other):
        return one
    if types.is_null(one):
        return other
    if types.is_integer(one) and types.is_integer(other):
        return next((kind for kind in _INTEGERS if _holds(kind, one) and _holds(kind, other)), None)
    if types.is_floating(one) and types.is_floating(other):
        return max(one, other, key=lambda kind: int(kind.bit_width))
    for real, whole in ((one, other), (other, one)):
        if types.is_floating(real) and types.is_integer(whole) and whole.bit_width <= 32:
            return pa.float64()
    for texts in (_STRINGS, _BINARIES):
        if one in texts and other in texts:
            return texts[-1]
    if types.is_struct(one) and types.is_struct(other):
        return _wider_struct(one, other)
    if (types.is_list(one) or types.is_large_list(one)) and (types.is_list(other) or types.is_large_list(other)):
        inner = _wider(one.value_type, other.value_type)
        large = types.is_large_list(one) or types.is_large_list(other)
        return None if inner is None else (pa.large_list(inner) if large else pa.list_(inner))
    return None


def carried_name(column: str, task: str = "generate") -> str:
    """The name under which an output of the task carries an input column, unless another one has that name (`carried_names`)."""
    return f"input_{column}" if column.casefold() in names_of(task) else column


def carried_names(columns: Iterable[str], task: str = "generate") -> dict[str, str]:
    """The name in an output of the task of each of these input columns. DuckDB and Spark tell no names apart that differ in case
    only, so that of such names all but one get a number."""
    names: dict[str, str] = {}
    taken = set(names_of(task)) | {"input_extra"}
    columns = list(columns)
    for column in sorted(columns, key=lambda column: carried_name(column, task) != column):  # a column's own name comes first
        name, number = carried_name(column, task), 2
        while name.casefold() in taken:
            name, number = f"{carried_name(column, task)}_{number}", number + 1
        taken.add(name.casefold())
        names[column] = name
    return {column: names[column] for column in columns}


_INTEGERS = (pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64())
_STRINGS = (pa.string(), pa.string_view(), pa.large_string())
_BINARIES = (pa.binary(), pa.binary_view(), pa.large_binary())


def _holds(wide: pa.DataType, kind: pa.DataType) -> bool:
    if types.is_signed_integer(wide):
        return bool(kind.bit_width <= wide.bit_width - types.is_unsigned_integer(kind))
    return types.is_unsigned_integer(kind) and bool(kind.bit_width <= wide.bit_width)


def _wider_struct(one: pa.StructType, other: pa.StructType) -> pa.DataType | None:
    fields: Types = {field.name: field.type for field in one}
    if len(fields) < one.num_fields or len({field.name for field in other}) < other.num_fields:
        return None  # a field is there twice
    for field in other:
        kind = _wider(fields[field.name], field.type) if field.name in fields else field.type
        if kind is None:
            return None
        fields[field.name] = kind
    return pa.struct(list(fields.items()))

"""Cells of a table that cannot be read, or hold too much: whole columns are looked at first, one cell after the other only where
that fails. The rows at fault get an error and null in these cells, and their neighbours stay as they are."""

from collections.abc import Container

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from batchgen.errors import InputError, safe_message
from batchgen.read.schemas import holds, plain
from batchgen.records import Data

SPAN_BYTES = 2**27
"""Text of a span; a plan cuts spans by the mean size of a file's rows, which says nothing of a single one."""
ITEM_BYTES = 4  # of an item of a list, beside its value
Faults = dict[int, str]  # by the index of a row: the column and the cause


def without_faults(shard: str, pieces: list[pa.Table], max_row_bytes: int, faults: Faults) -> pa.Table:
    """The pieces of a span's table as one, where whole rows that hold too many bytes, and cells of invalid data, are null. Raises
    InputError for a table whose structure is damaged."""
    held, at, sound = 0.0, 0, []
    for piece in pieces:
        own: Faults = {}
        table, held = _sound(shard, piece, max_row_bytes, held, own)
        faults |= {at + row: cause for row, cause in own.items()}
        at += len(piece)
        sound.append(table)
    return pa.concat_tables(sound)


def _sound(shard: str, table: pa.Table, max_row_bytes: int, held: float, faults: Faults) -> tuple[pa.Table, float]:
    """A piece as it should be, and the bytes that the rows of its span hold up to its end."""
    suspect = []
    for index, name in enumerate(table.column_names):
        try:
            table.column(index).validate(full=True)
        except pa.ArrowInvalid as error:
            if "offset" in str(error).lower():
                raise InputError(f"shard {shard}: column {name}: damaged: {safe_message(error)}", "write it again") from None
            suspect.append(index)
    sizes = row_bytes(table)
    too_long = sizes > max_row_bytes
    upto = held + np.cumsum(np.where(too_long, 0, sizes))
    too_much = upto > SPAN_BYTES
    faults |= {int(row): f"the row is over input.max_row_bytes ({max_row_bytes})" for row in np.flatnonzero(too_long)}
    cause = f"the rows of its span before it hold {SPAN_BYTES} bytes: set spans.rows, to fewer rows"
    faults |= {int(row): cause for row in np.flatnonzero(too_much & ~too_long)}
    columns = [decoded(_nulled(column, faults)) for column in table.columns]
    table = pa.table(columns, names=table.column_names)
    for index in suspect:
        bad = dict(_invalid(table.column(index)))
        table = table.set_column(index, table.field(index), _nulled(table.column(index), bad))
        for row, cause in bad.items():
            faults.setdefault(row, f"column {table.column_names[index]}: {cause}")
    return table, float(upto[-1]) if len(upto) else held


def to_python(table: pa.Table, faults: Faults) -> list[Data]:
    """The rows as Python's values. A value that Python has no type for is a fault and left out."""
    rows: list[Data] = [{} for _ in range(len(table))]
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            values = [value for chunk in column.chunks for value in _values(chunk)]
        except Exception:  # dates after the year 9999, unknown time zones, ...: pyarrow and others raise what they like
            for row, data in enumerate(rows):
                try:
                    data[name] = column[row].as_py()
                except Exception as error:
                    faults.setdefault(row, f"column {name}: {column.type}: {safe_message(error)}")
        else:
            for data, value in zip(rows, values, strict=True):
                data[name] = value
    return rows


def _values(array: pa.Array) -> list[object]:
    """The values of an array; one that stands in a dictionary is made once."""
    if not types.is_dictionary(array.type):
        values: list[object] = array.to_pylist()
        return values
    made = {index: array.dictionary[index].as_py() for index in array.indices.drop_null().unique().to_pylist()}
    return [made.get(index) for index in array.indices.to_pylist()]


def _invalid(column: pa.ChunkedArray) -> list[tuple[int, str]]:
    """The rows whose cell is invalid, each with the cause."""
    found = []
    for row, cell in enumerate(alone(chunk.slice(row, 1)) for chunk in column.chunks for row in range(len(chunk))):
        try:
            if types.is_dictionary(cell.type):
                cell = cell.dictionary_decode()
            (cell.cast(plain(cell.type)) if holds(cell.type, types.is_dictionary) else cell).validate(full=True)
        except pa.ArrowInvalid as error:
            found.append((row, "invalid UTF-8" if "UTF8" in str(error) else safe_message(error)))
    return found


def alone(piece: pa.Array) -> pa.Array:
    """A slice without what its neighbours hold. `take` does it too, but not for views."""
    return pa.concat_arrays([piece, piece[:0]])


def _nulled(column: pa.ChunkedArray, rows: Container[int]) -> pa.ChunkedArray:
    if not rows:
        return column
    pieces, start = [], 0
    for chunk in column.chunks:
        inside = [row - start for row in range(start, start + len(chunk)) if row in rows]
        for before, after in zip([-1, *inside], [*inside, len(chunk)], strict=True):
            pieces += [pa.nulls(1, column.type)] * (before >= 0)
            pieces += [alone(chunk.slice(before + 1, after - before - 1)) if inside else chunk]
        start += len(chunk)
    return pa.chunked_array(pieces, column.type)


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column with lists, structs and maps of plain texts."""
    if types.is_dictionary(column.type) or not holds(column.type, types.is_dictionary):
        return column
    kind = plain(column.type)
    return pa.chunked_array([alone(chunk).cast(kind) for chunk in column.chunks], kind)


def row_bytes(table: pa.Table) -> np.ndarray:
    """About how many bytes the values of each row hold once dictionaries are decoded."""
    sizes = np.zeros(len(table))
    for column in table.columns:
        sizes += np.concatenate([_lengths(chunk) for chunk in column.chunks] or [np.zeros(0)])
    return sizes


def _lengths(array: pa.Array) -> np.ndarray:
    kind = array.type
    if types.is_dictionary(kind):
        of_values = _lengths(array.dictionary)
        where = array.indices.cast(pa.int64()).fill_null(len(of_values)).to_numpy()
        sizes: np.ndarray = np.append(of_values, 0.0)[where]
        return sizes
    if types.is_string_view(kind) or types.is_binary_view(kind):
        array = array.view(pa.binary_view()).cast(pa.large_binary())
    if any(is_kind(array.type) for is_kind in (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)):
        lengths: np.ndarray = pc.binary_length(array).fill_null(0).to_numpy(zero_copy_only=False)
        return lengths.astype(np.float64)
    if types.is_struct(kind):
        return sum(map(_lengths, array.flatten()), np.zeros(len(array)))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_map(kind) or types.is_fixed_size_list(kind):
        return _of_lists(array)
    if types.is_nested(kind):
        ends = np.cumsum([0, *pc.list_value_length(array).fill_null(0).to_pylist()])
        return np.diff(np.cumsum([0, *_lengths(array.flatten())])[ends])
    return np.full(len(array), array.nbytes / max(1, len(array)))


def _of_lists(array: pa.Array) -> np.ndarray:
    if types.is_fixed_size_list(array.type):
        ends = (array.offset + np.arange(len(array) + 1)) * array.type.list_size
    else:
        ends = array.offsets.to_numpy().astype(np.int64) if len(array) else np.zeros(1, np.int64)
    values = array.values.slice(ends[0], ends[-1] - ends[0])
    if (width := _width(values)) is not None:  # no array as long as the values
        return np.diff(ends) * (width + ITEM_BYTES)
    inner = _lengths(values) + ITEM_BYTES
    return np.diff(np.concatenate([[0.0], np.cumsum(inner)])[ends - ends[0]])


def _width(array: pa.Array) -> float | None:
    """The bytes of a value where all take as many."""
    is_fixed = any(is_kind(array.type) for is_kind in (types.is_primitive, types.is_decimal, types.is_fixed_size_binary))
    return array.nbytes / max(1, len(array)) if is_fixed else None

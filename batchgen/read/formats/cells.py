"""Cells of a table that cannot be read, or hold too much: whole columns are looked at first, one cell after the other only where
that fails. The rows at fault get an error and null in these cells, and their neighbours stay as they are."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from batchgen.errors import InputError, safe_message
from batchgen.read.schemas import plain
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
    """The rows whose cell is invalid, each with the cause. `take` makes an array of the cell alone."""
    found = []
    for row in range(len(column)):
        try:
            cell = column.take(pa.array([row])).combine_chunks()
            cell.cast(plain(cell.type)).validate(full=True)
        except pa.ArrowInvalid as error:
            found.append((row, "invalid UTF-8" if "UTF8" in str(error) else safe_message(error)))
    return found


def _nulled(column: pa.ChunkedArray, rows: Faults) -> pa.ChunkedArray:
    return column.take(pa.array([None if row in rows else row for row in range(len(column))], pa.int64())) if rows else column


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column with lists, structs and maps of plain texts. `take` leaves out the items that a slice of lists still has, all of
    which a cast would decode."""
    kind = plain(column.type)
    if types.is_dictionary(column.type) or kind == column.type:
        return column
    return column.take(pa.array(range(len(column)), pa.int64())).cast(kind)


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
        where = array.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
        return of_values[where] if len(of_values) else np.zeros(len(array))
    if types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind):
        lengths: np.ndarray = pc.binary_length(array).fill_null(0).to_numpy(zero_copy_only=False)
        return lengths.astype(np.float64)
    if types.is_struct(kind):
        of_fields: np.ndarray = np.sum([np.zeros(len(array)), *map(_lengths, array.flatten())], axis=0)
        return of_fields
    if types.is_list(kind) or types.is_large_list(kind) or types.is_map(kind) or types.is_fixed_size_list(kind):
        return _of_lists(array)
    return np.full(len(array), array.nbytes / len(array)) if len(array) else np.zeros(0)


def _of_lists(array: pa.Array) -> np.ndarray:
    if types.is_fixed_size_list(array.type):
        ends = (array.offset + np.arange(len(array) + 1)) * array.type.list_size
    else:
        ends = array.offsets.to_numpy().astype(np.int64) if len(array) else np.zeros(1, np.int64)
    inner = _lengths(array.values.slice(ends[0], ends[-1] - ends[0])) + ITEM_BYTES
    return np.diff(np.concatenate([[0.0], np.cumsum(inner)])[ends - ends[0]])

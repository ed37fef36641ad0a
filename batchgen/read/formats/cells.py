"""Cells of a table that cannot be read, or hold too much: whole columns are looked at first, one cell after the other only where
that fails. The rows at fault get an error and null in these cells, and their neighbours stay as they are."""

from collections.abc import Container

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from batchgen.errors import InputError, safe_message
from batchgen.records import Data

SPAN_BYTES = 2**27
"""Text of a span; a plan cuts spans by the mean size of a file's rows, which says nothing of a single one."""
Faults = dict[int, str]  # by the index of a row: the column and the cause


def without_faults(shard: str, table: pa.Table, max_row_bytes: int, faults: Faults) -> pa.Table:
    """The table, where cells of invalid data, and whole rows that hold too many bytes, are null. Raises InputError for a table
    whose structure is damaged."""
    for index, name in enumerate(table.column_names):
        try:
            table.column(index).validate(full=True)
        except pa.ArrowInvalid as error:
            if "offset" in str(error).lower():
                raise InputError(f"shard {shard}: column {name}: damaged: {safe_message(error)}", "write it again") from None
            bad = dict(_invalid(table.column(index)))
            table = table.set_column(index, table.field(index), _nulled(table.column(index), bad))
            for row, cause in bad.items():
                faults.setdefault(row, f"column {name}: {cause}")
    sizes = _row_bytes(table)
    too_long = sizes > max_row_bytes
    too_much = np.cumsum(np.where(too_long, 0, sizes)) > SPAN_BYTES
    over = {int(row): f"the row is over input.max_row_bytes ({max_row_bytes})" for row in np.flatnonzero(too_long)}
    cause = f"the rows of its span before it hold {SPAN_BYTES} bytes: set spans.rows, to fewer rows"
    over |= {int(row): cause for row in np.flatnonzero(too_much & ~too_long)}
    for row, said in over.items():
        faults.setdefault(row, said)
    return pa.table([_nulled(column, over) for column in table.columns], schema=table.schema) if over else table


def to_python(table: pa.Table, faults: Faults) -> list[Data]:
    """The rows as Python's values. A value that Python has no type for is a fault and left out."""
    try:
        rows: list[Data] = table.to_pylist()
        return rows
    except Exception:  # dates after the year 9999, unknown time zones, ...: pyarrow and others raise what they like
        rows = [{} for _ in range(len(table))]
    for name, column in zip(table.column_names, table.columns, strict=True):
        for row, data in enumerate(rows):
            try:
                data[name] = column[row].as_py()
            except Exception as error:
                faults.setdefault(row, f"column {name}: {column.type}: {safe_message(error)}")
    return rows


def _invalid(column: pa.ChunkedArray) -> list[tuple[int, str]]:
    """The rows whose cell is invalid, each with the cause."""
    found = []
    for row, cell in enumerate(alone(chunk.slice(row, 1)) for chunk in column.chunks for row in range(len(chunk))):
        try:
            (cell.dictionary_decode() if types.is_dictionary(cell.type) else cell).validate(full=True)
        except pa.ArrowInvalid as error:
            found.append((row, "invalid UTF-8" if "UTF8" in str(error) else safe_message(error)))
    return found


def alone(piece: pa.Array) -> pa.Array:
    """A slice without what its neighbours hold. `take` does it too, but not for views."""
    return pa.concat_arrays([piece, piece[:0]])


def _nulled(column: pa.ChunkedArray, rows: Container[int]) -> pa.ChunkedArray:
    pieces, start = [], 0
    for chunk in column.chunks:
        inside = [row - start for row in range(start, start + len(chunk)) if row in rows]
        for before, after in zip([-1, *inside], [*inside, len(chunk)], strict=True):
            pieces += [pa.nulls(1, column.type)] * (before >= 0)
            pieces += [alone(chunk.slice(before + 1, after - before - 1)) if inside else chunk]
        start += len(chunk)
    return pa.chunked_array(pieces, column.type)


def _row_bytes(table: pa.Table) -> np.ndarray:
    """About how many bytes the texts of each row hold once dictionaries are decoded."""
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
    if types.is_map(kind):
        before = np.cumsum([0, *(_lengths(array.keys) + _lengths(array.items))])
        return np.diff(before[array.offsets.to_numpy()])
    if types.is_nested(kind):
        ends = np.cumsum([0, *pc.list_value_length(array).fill_null(0).to_pylist()])
        return np.diff(np.cumsum([0, *_lengths(array.flatten())])[ends])
    return np.full(len(array), array.nbytes / len(array)) if len(array) else np.zeros(0)

"""The rows of a Parquet file as tables: from as many readings of the file as its columns need, side by side."""

from collections.abc import Iterator
from functools import reduce
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from batchgen.read.formats.table import FAULTS
from batchgen.read.formats.tables.parquet_file import of_96_bits, open_parquet

NANOSECONDS = "\0ns:"  # begins the name of a column that is read a second time


class Source(NamedTuple):
    """A file as it is opened, the columns that are read of it (None: all), and how their names begin in the table."""

    file: pq.ParquetFile
    names: list[str] | None
    prefix: str = ""


def sources_of(file: pq.ParquetFile, name: str, wanted: list[str] | None) -> list[Source]:
    """The file, opened so that no text that is not UTF-8 keeps its neighbours from being read; its INT96 columns also in
    nanoseconds, for `finer`."""
    names = file.schema_arrow.names if wanted is None else wanted
    checked = [name for name in names if _is_checked(file.schema_arrow.field(name).type)]
    old = [name for name in names if name in of_96_bits(file)]
    twice = [Source(open_parquet(name, unit="ns")[0], old, NANOSECONDS)] if old else []
    if not checked:
        return [Source(file, wanted), *twice]
    bare, _ = open_parquet(name, with_dictionaries=True, without_schema=True)
    others = [name for name in names if name not in checked]
    return [Source(bare, checked), *([Source(file, others)] if others else []), *twice]


def finer(table: pa.Table) -> pa.Table:
    """The table without the columns that were read twice, and with a column of faults where one has digits below a microsecond.
    Both wrap round at 2**64, so that their difference is exact."""
    for name in [name for name in table.column_names if name.startswith(NANOSECONDS)]:
        column = name.removeprefix(NANOSECONDS)
        fine, coarse = (pc.fill_null(table[each].cast(pa.int64()), 0).to_numpy() for each in (name, column))
        rest = (fine.view(np.uint64) - coarse.view(np.uint64) * np.uint64(1000)).tolist()
        table = table.drop_columns([name])
        if any(rest):
            cause = f"column {column}: INT96 with nanoseconds, which are carried to the microsecond: write it as timestamp[ns]"
            before = table[FAULTS].to_pylist() if FAULTS in table.column_names else [None] * len(table)
            found = [old or (cause if one else None) for one, old in zip(rest, before, strict=True)]
            table = table.drop_columns([FAULTS]) if FAULTS in table.column_names else table
            table = table.append_column(FAULTS, pa.array(found, pa.string()))
    return table


def _is_checked(kind: pa.DataType) -> bool:
    """Whether pyarrow casts values of a type as it reads them, and refuses all where a text is no UTF-8."""
    return bool(types.is_dictionary(kind) and kind != pa.dictionary(pa.int32(), kind.value_type))


def _tables(source: Source, size: int, group: int) -> Iterator[pa.Table]:
    file, names, _ = source
    for batch in file.iter_batches(size, [group], names, use_threads=False):
        table = pa.Table.from_batches([batch])
        table = table if names is None else table.select(names)  # pyarrow reads a column `a.b` too where it is to read `a`
        yield table.rename_columns([source.prefix + name for name in table.column_names]) if source.prefix else table


def side_by_side(sources: list[Source], size: int, group: int) -> Iterator[pa.Table]:
    """Tables with the columns of all sources, which have as many rows but may be cut elsewhere."""
    streams = [_tables(source, size, group) for source in sources]
    rests = [next(stream, None) for stream in streams]
    while found := [rest for rest in rests if rest is not None]:
        rows = min(map(len, found))
        yield reduce(_joined, (rest.slice(0, rows) for rest in found))
        rests = [
            rest.slice(rows) if len(rest) > rows else next(stream, None) for rest, stream in zip(found, streams, strict=True)
        ]


def _joined(one: pa.Table, other: pa.Table) -> pa.Table:
    return pa.table([*one.columns, *other.columns], schema=pa.schema([*one.schema, *other.schema]))

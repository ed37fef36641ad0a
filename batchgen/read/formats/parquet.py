"""Parquet files, read by row range once their footer has been checked (table.py); some are the output of another job."""

import base64
import functools
import glob
import itertools
import os
import re
from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from pyarrow import types

from batchgen.errors import InputError, safe_message
from batchgen.job.input import Input
from batchgen.output import job_file
from batchgen.output.parts import DATA
from batchgen.output.plan_file import SUCCESS
from batchgen.output.store import open_store
from batchgen.read import location
from batchgen.read.formats import Found
from batchgen.read.formats.cells import decoded, row_bytes
from batchgen.read.formats.content import PEEKED, refuse_other
from batchgen.read.formats.table import BATCH_ROWS, EXTENSION, METADATA_CAP, Contents, TableFormat, check_types, not_planned
from batchgen.read.partitions import folders_of
from batchgen.read.schemas import holds
from batchgen.records import Shard

BATCH_BYTES = 2**26  # of a batch that is read at once
PIECE = 2**22  # bytes that are digested at a time
READ: dict[str, Any] = {"page_checksum_verification": True, "coerce_int96_timestamp_unit": "us"}
"""INT96 counts nanoseconds of a day; as Arrow's nanoseconds they would wrap round before 1677 and after 2262."""


class Parquet(TableFormat):
    """A shard's digest is of its footer, which does not cover the pages; its content is of the pages that are read."""

    name = "parquet"
    endings: tuple[str, ...] = (".parquet",)

    def folders(self, spec: Input, name: str) -> Mapping[str, object]:
        return folders_of(spec, name)

    def head(self, spec: Input, name: str, rows: int = 0) -> pa.Schema:
        return open_parquet(name)[0].schema_arrow

    def contents(self, spec: Input, name: str) -> Contents:
        file, footer = open_parquet(name)
        return Contents(xxhash.xxh3_128_hexdigest(footer), file.metadata.num_rows, None, _row_bytes(file))

    def content(self, spec: Input, name: str, columns: list[str] | None) -> str:
        return _content(name, None if columns is None else tuple(columns), location.stat(name))

    def batches(self, spec: Input, shard: Shard, start: int, end: int, columns: list[str] | None) -> Iterator[pa.Table]:
        version = location.stat(shard.name)
        file, footer = open_parquet(shard.name, with_dictionaries=True)
        if shard.digest not in ("", xxhash.xxh3_128_hexdigest(footer)):
            raise not_planned(shard)
        rows = [group.num_rows for group in _groups(file)]
        ends = [0, *itertools.accumulate(rows)]
        groups = [index for index in range(len(rows)) if ends[index + 1] > start and ends[index] < end]
        skip = start - ends[groups[0]] if groups else 0
        try:
            size = max(1, min(BATCH_ROWS, int(BATCH_BYTES / max(1.0, _row_bytes(file)))))
            wanted = columns and [name for name in columns if name in file.schema_arrow.names]
            sources = _sources(file, shard.name, wanted)
            tables = (_side_by_side(sources, size, group) for group in groups)  # each group has its dictionaries
            for table in itertools.chain.from_iterable(tables):
                if "://" not in shard.name and location.stat(shard.name) != version:  # stores compare it at each request
                    raise not_planned(shard)
                if row_bytes(table).sum() <= BATCH_BYTES:  # cheaper now than by spans
                    table = pa.table(list(map(decoded, table.columns)), names=table.column_names)
                if skip < table.num_rows:
                    yield table.slice(skip)
                skip = max(0, skip - table.num_rows)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"shard {shard.name}: damaged Parquet: {safe_message(error)}") from None


@functools.lru_cache(maxsize=64)
def _content(name: str, columns: tuple[str, ...] | None, version: tuple[int, str]) -> str:
    """xxh3-128 over the stored bytes of these columns (None: all) of a file. Raises InputError."""
    file, _ = open_parquet(name)
    digest = xxhash.xxh3_128()
    with location.open_shard(name) as stream:
        for group in _groups(file):
            for column in _chunks(group):
                path = column.path_in_schema + "."
                if columns is None or any(path.startswith(f"{name}.") for name in columns):
                    offsets = [column.data_page_offset, column.dictionary_page_offset or column.data_page_offset]
                    stream.seek(max(0, min(offsets)))
                    left = column.total_compressed_size
                    while left > 0 and (piece := stream.read(min(left, PIECE))):
                        digest.update(piece)
                        left -= len(piece)
    return digest.hexdigest()


Source = tuple[pq.ParquetFile, list[str] | None]  # a file as it is opened, and the columns that are read of it


def _sources(file: pq.ParquetFile, name: str, wanted: list[str] | None) -> list[Source]:
    """The file, opened so that no text that is not UTF-8 keeps its neighbours from being read."""
    names = file.schema_arrow.names if wanted is None else wanted
    checked = [name for name in names if _is_checked(file.schema_arrow.field(name).type)]
    if not checked:
        return [(file, wanted)]
    bare, _ = open_parquet(name, with_dictionaries=True, without_schema=True)
    others = [name for name in names if name not in checked]
    return [(bare, checked), *([(file, others)] if others else [])]


def _is_checked(kind: pa.DataType) -> bool:
    """Whether pyarrow casts values of a type as it reads them, and refuses all where a text is no UTF-8."""
    return bool(types.is_dictionary(kind) and kind != pa.dictionary(pa.int32(), kind.value_type))


def _tables(source: Source, size: int, group: int) -> Iterator[pa.Table]:
    file, names = source
    for batch in file.iter_batches(size, [group], names, use_threads=False):
        table = pa.Table.from_batches([batch])
        yield table if names is None else table.select(names)  # pyarrow reads a column `a.b` too where it is to read `a`


def _side_by_side(sources: list[Source], size: int, group: int) -> Iterator[pa.Table]:
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


def open_parquet(name: str, with_dictionaries: bool = False, without_schema: bool = False) -> tuple[pq.ParquetFile, bytes]:
    """The file and its footer's bytes; `with_dictionaries` texts stay as they are in the file, each once, and `without_schema`
    the types are Parquet's and not those of the Arrow schema that wrote it. Raises InputError for a damaged file, and for a type
    that is not allowed."""
    stream = location.open_shard(name)
    size = stream.seek(0, 2)
    stream.seek(max(0, size - 8))
    tail = stream.read(8)
    if tail[4:] != b"PAR1":
        stream.seek(0)
        if not (first := stream.read(PEEKED)).startswith(b"PAR1"):
            refuse_other(name, first, "a Parquet file")
        why = " (0 bytes)" if size == 0 else ": it is cut short" if first.startswith(b"PAR1") else ""
        raise InputError(f"shard {name}: not a Parquet file{why}")
    length = int.from_bytes(tail[:4], "little")
    if length > min(size - 8, METADATA_CAP):
        raise InputError(f"shard {name}: damaged Parquet footer")
    stream.seek(size - 8 - length)
    footer = stream.read(length)
    # The value of ARROW:schema is base64, at any alignment.
    runs = re.findall(rb"[A-Za-z0-9+/]{32,}", footer)
    pieces = (run[shift : shift + (len(run) - shift) // 4 * 4] for run in runs for shift in range(4))
    if any(EXTENSION in base64.b64decode(piece) for piece in pieces):
        raise InputError(f"shard {name}: it has an Arrow extension type", "write the column with a plain type")
    stream.seek(0)
    options = {"arrow_extensions_enabled": False, **READ}
    try:
        if without_schema:
            renamed = footer.replace(b"ARROW:schema", b"-RROW:schema")
            options["metadata"] = pq.read_metadata(pa.BufferReader(b"PAR1" + renamed + tail))
        file = pq.ParquetFile(stream, **options)
        if with_dictionaries and (texts := _dictionaries(file)):
            stream.seek(0)
            file = pq.ParquetFile(stream, read_dictionary=texts, **options)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"shard {name}: damaged Parquet: {safe_message(error)}") from None
    check_types(name, file.schema_arrow)
    return file, footer


def _dictionaries(file: pq.ParquetFile) -> list[str]:
    """The text columns, nested ones too, that are stored with a dictionary: a few bytes may stand for gigabytes of rows."""
    columns = [column for group in _groups(file) for column in _chunks(group)]
    found = (one.path_in_schema for one in columns if one.has_dictionary_page and one.physical_type == "BYTE_ARRAY")
    decimals = {one.path for one in map(file.schema.column, range(len(file.schema))) if one.logical_type.type == "DECIMAL"}
    views = [f"{field.name}." for field in file.schema_arrow if holds(field.type, _is_view)]  # as a dictionary they are none
    return [path for path in dict.fromkeys(found) if path not in decimals and not f"{path}.".startswith(tuple(views))]


def _is_view(kind: pa.DataType) -> bool:
    return bool(types.is_string_view(kind) or types.is_binary_view(kind))


def _row_bytes(file: pq.ParquetFile) -> float:
    """The mean size of a row, in the row group where it is largest, before dictionaries of texts are decoded: many equal numbers
    of a list may take no room in the file."""
    widths = [_width(file.schema.column(index)) for index in range(len(file.schema))]

    def size(group: pq.RowGroupMetaData) -> float:
        decoded = sum(column.num_values * width for column, width in zip(_chunks(group), widths, strict=True))
        return float(max(group.total_byte_size, decoded))

    return max((size(group) / group.num_rows for group in _groups(file) if group.num_rows), default=0.0)


def _groups(file: pq.ParquetFile) -> list[pq.RowGroupMetaData]:
    return [file.metadata.row_group(index) for index in range(file.num_row_groups)]


def _chunks(group: pq.RowGroupMetaData) -> list[pq.ColumnChunkMetaData]:
    return [group.column(index) for index in range(group.num_columns)]


def _width(column: pq.ColumnSchema) -> float:
    """Bytes of a value in memory, those of a text left out."""
    known = {"BOOLEAN": 1 / 8, "INT32": 4, "FLOAT": 4, "FIXED_LEN_BYTE_ARRAY": column.length, "BYTE_ARRAY": 4}
    return float(known.get(column.physical_type, 8))


class Parts(Parquet):
    """The `ok` rows of another job's output, each once. A retry of that job adds a part with the rows that it answers, and so a
    shard to this input. That job's fingerprint is part of the meaning of this job's rows."""

    name = "output"
    endings = ()
    takes_folders = True
    settings = frozenset({"sampling"})  # the other job's, not this one's
    always = frozenset({"status"})

    def folders(self, spec: Input, name: str) -> Mapping[str, object]:
        return {}

    def claim(self, path: str) -> list[Found] | None:
        """Raises OutputConflict for an output whose job file is damaged, InputError for a job that is not done."""
        is_store = "://" in path and not path.startswith("hf://")
        if glob.has_magic(path) or not (is_store or os.path.isdir(path)):
            return None
        store = open_store(path)
        if (frozen := job_file.load(store)) is None:
            return None
        if store.get(SUCCESS) is None:
            raise InputError(f"input.path {path}: unfinished: the job of this output is not done", "run it to its end first")
        names = sorted(location.plain(f"{path.rstrip('/')}/{name}") for name in store.list(DATA) if name.endswith(".parquet"))
        if link := next((name for name in names if os.path.islink(name)), None):
            raise InputError(f"shard {link}: a symbolic link, which no part is", "run batchgen verify on the output")
        return [Found(name, self.name, upstream=(path, frozen.fingerprint)) for name in names]

    def find(self, path: str) -> list[Found]:
        if (claimed := self.claim(path)) is None:
            raise InputError(f"input.path {path}: no output of a job", "leave input.format out")
        return claimed

    def contents(self, spec: Input, name: str) -> Contents:
        file, footer = open_parquet(name)
        try:
            ok = pc.equal(file.read(columns=["status"]).column("status"), "ok")
        except (OSError, KeyError, pa.ArrowException) as error:
            raise InputError(f"shard {name}: damaged part of an output: {error}") from None
        return Contents(xxhash.xxh3_128_hexdigest(footer), pc.sum(ok).as_py() or 0, ok, _row_bytes(file))

    def wanted(self, table: pa.Table) -> pa.Table:
        return table.filter(pc.equal(table.column("status"), "ok"))


PARQUET, PARTS = Parquet(), Parts()

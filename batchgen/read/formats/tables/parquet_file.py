"""Parquet files, opened: their footer, types, row groups and widths."""

import base64
import re
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from batchgen.errors import InputError, safe_message
from batchgen.read import location
from batchgen.read.formats.content import PEEKED, refuse_other
from batchgen.read.formats.table import EXTENSION, METADATA_CAP, check_types
from batchgen.read.schemas import holds

READ: dict[str, Any] = {"page_checksum_verification": True}
UNIT = "us"
"""Of INT96, a count of the nanoseconds of a day: as Arrow's nanoseconds it would wrap round before 1677 and after 2262. What
microseconds cannot hold is found by reading both (parquet_batches.finer)."""


def open_parquet(
    name: str, with_dictionaries: bool = False, without_schema: bool = False, unit: str = UNIT
) -> tuple[pq.ParquetFile, bytes]:
    """The file and its footer's bytes; `with_dictionaries` texts stay as they are in the file, each once, `without_schema` the
    types are Parquet's and not those of the Arrow schema that wrote it, `unit` is that of INT96. Raises InputError for a damaged
    file, and for a type that is not allowed."""
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
    options = {"arrow_extensions_enabled": False, **READ, "coerce_int96_timestamp_unit": unit}
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
    if old := next((path for path in of_96_bits(file) if path not in file.schema_arrow.names), None):
        raise InputError(f"shard {name}: column {old}: INT96 inside another type", "write it as a timestamp")
    return file, footer


def _dictionaries(file: pq.ParquetFile) -> list[str]:
    """The text columns, nested ones too, that are stored with a dictionary: a few bytes may stand for gigabytes of rows."""
    columns = [column for group in groups_of(file) for column in chunks_of(group)]
    found = (one.path_in_schema for one in columns if one.has_dictionary_page and one.physical_type == "BYTE_ARRAY")
    decimals = {one.path for one in map(file.schema.column, range(len(file.schema))) if one.logical_type.type == "DECIMAL"}
    views = [f"{field.name}." for field in file.schema_arrow if holds(field.type, _is_view)]  # as a dictionary they are none
    return [path for path in dict.fromkeys(found) if path not in decimals and not f"{path}.".startswith(tuple(views))]


def _is_view(kind: pa.DataType) -> bool:
    return bool(types.is_string_view(kind) or types.is_binary_view(kind))


def mean_row_bytes(file: pq.ParquetFile) -> float:
    """The mean size of a row, in the row group where it is largest, before dictionaries of texts are decoded: many equal numbers
    of a list may take no room in the file."""
    widths = [_width(file.schema.column(index)) for index in range(len(file.schema))]

    def size(group: pq.RowGroupMetaData) -> float:
        decoded = sum(column.num_values * width for column, width in zip(chunks_of(group), widths, strict=True))
        return float(max(group.total_byte_size, decoded))

    return max((size(group) / group.num_rows for group in groups_of(file) if group.num_rows), default=0.0)


def groups_of(file: pq.ParquetFile) -> list[pq.RowGroupMetaData]:
    return [file.metadata.row_group(index) for index in range(file.num_row_groups)]


def chunks_of(group: pq.RowGroupMetaData) -> list[pq.ColumnChunkMetaData]:
    return [group.column(index) for index in range(group.num_columns)]


def _width(column: pq.ColumnSchema) -> float:
    """Bytes of a value in memory, those of a text left out."""
    known = {"BOOLEAN": 1 / 8, "INT32": 4, "FLOAT": 4, "FIXED_LEN_BYTE_ARRAY": column.length, "BYTE_ARRAY": 4}
    return float(known.get(column.physical_type, 8))


def of_96_bits(file: pq.ParquetFile) -> list[str]:
    columns = map(file.schema.column, range(len(file.schema)))
    return [column.path for column in columns if column.physical_type == "INT96"]

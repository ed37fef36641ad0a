"""The format of the files under `_batchgen/` and of the parts, and the refusal of a newer one.

job.json, plan files, journal files and parts (in the metadata) carry the mark of the release that wrote them: `format`, a number,
and `version`, batchgen's. Files without a number were written before there was one and are of format 1. A release reads every
format up to its own. The number changes when an older release would misread an output; fields that are added, with a default
that means what their absence meant, do not change it."""

import base64
import contextlib
import dataclasses
import io
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from batchgen import __version__
from batchgen.errors import NewerFormat, VerifyError, safe_message
from batchgen.output.store import Store

KEY = b"batchgen"  # key of the mark in a Parquet file's metadata
FORMAT = 1
Fields = dict[str, Any]  # A JSON object, or a row
T = TypeVar("T")
MARK: Fields = {"format": FORMAT, "version": __version__}


def refuse_newer(fields: object, name: str) -> None:
    """Raises NewerFormat where the mark among the fields of file `name` is of a later release."""
    if isinstance(fields, dict) and isinstance(found := fields.get("format", 1), int) and found > FORMAT:
        writer = f"batchgen {fields.get('version', 'of a later version')} (format {found})"
        raise NewerFormat(f"{name}: written by {writer}, this is batchgen {__version__} (format {FORMAT})", "upgrade batchgen")


def known(record: type[T], fields: Mapping[str, object]) -> T:
    """A dataclass from the fields that this release knows. Raises TypeError where one without a default is missing."""
    names = {field.name for field in dataclasses.fields(record)}  # type: ignore[arg-type]
    return record(**{name: value for name, value in fields.items() if name in names})


def to_parquet(table: pa.Table, about: Fields | None = None) -> bytes:
    """A Parquet file with page checksums, the mark and, beside it, the fields of `about`. Without dictionaries: in files of many
    columns and few rows they cost more time than they save, and zstd finds repetitions."""
    metadata = (table.schema.metadata or {}) | {KEY: orjson.dumps(MARK | (about or {}))}
    table, sink = table.replace_schema_metadata(metadata), io.BytesIO()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, write_page_checksum=True)
    return sink.getvalue()


def read_parquet(store: Store, name: str, columns: list[str] | None = None) -> pa.Table:
    """The table in a Parquet file, its pages checked. Raises VerifyError for a damaged or missing file, NewerFormat."""
    return parse_parquet(store.get(name), f"{store.url}/{name}", name, columns)


def parse_parquet(data: bytes | None, where: str, name: str, columns: list[str] | None = None) -> pa.Table:
    """As read_parquet, of the bytes of a file `name` that is at `where`."""
    try:
        table = open_parquet(data).read(columns=columns)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise VerifyError(f"{name}: damaged: {safe_message(error, 200)}") from None
    refuse_newer(about(table), where)
    return table


def open_parquet(data: bytes | None) -> pq.ParquetFile:
    """Raises ValueError for a file that names an Arrow extension type, as no file of ours does."""
    footer = (data or b"")[-8 - int.from_bytes((data or b"")[-8:-4], "little") :]
    runs = re.findall(rb"[A-Za-z0-9+/]{32,}", footer)  # the schema is base64, at any alignment
    pieces = (run[shift : shift + (len(run) - shift) // 4 * 4] for run in runs for shift in range(4))
    refuse_extensions(footer, *map(base64.b64decode, pieces))
    return pq.ParquetFile(in_arrow_memory(data), page_checksum_verification=True, arrow_extensions_enabled=False)


def refuse_extensions(*schemas: bytes) -> None:
    """A process that has imported ray.data unpickles some Arrow extension types as soon as it sees a schema that names them."""
    if any(b"ARROW:extension" in schema for schema in schemas):
        raise ValueError("it has an Arrow extension type")


def in_arrow_memory(data: bytes | None) -> pa.BufferReader:
    """A copy of `data` for a Parquet reader. A thread of Arrow may release it after the interpreter has ended; releasing a
    Python buffer would then abort the process."""
    sink = pa.BufferOutputStream()
    sink.write(data or b"")
    return pa.BufferReader(sink.getvalue())


def about(table: pa.Table) -> Fields:
    """The mark and the fields beside it of the Parquet file that `table` was read from; empty where they cannot be read."""
    with contextlib.suppress(ValueError):
        fields = orjson.loads((table.schema.metadata or {}).get(KEY, b"{}"))
        return fields if isinstance(fields, dict) else {}
    return {}

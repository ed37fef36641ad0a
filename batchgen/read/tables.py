"""Parquet files and saved datasets, looked at before pyarrow interprets them.

A process that has imported ray.data would unpickle some Arrow extension types as soon as it sees a schema that names
them. So a file whose footer or schema message names an extension type is refused from its bytes, and the types of what
is opened must be on an allow-list.
"""

from __future__ import annotations

import base64
import io
import os
import re
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.errors import InputError, words
from batchgen.job.input import Input
from batchgen.read import location


def open_parquet(name: str) -> tuple[pq.ParquetFile, bytes]:
    """The file and its footer bytes, once the footer names no extension type and all types are allowed."""
    stream = location.open_shard(name)
    size = stream.seek(0, 2)
    stream.seek(max(0, size - 8))
    tail = stream.read(8)
    if len(tail) < 8 or tail[4:] != b"PAR1":
        raise InputError(f"shard {name}: not a Parquet file")
    length = int.from_bytes(tail[:4], "little")
    if length > min(size - 8, 2**28):
        raise InputError(f"shard {name}: damaged Parquet footer")
    stream.seek(size - 8 - length)
    footer = stream.read(length)
    if _names_extension(footer):
        raise InputError(f"shard {name}: it has an Arrow extension type", "write the column with a plain type")
    stream.seek(0)
    try:
        file = pq.ParquetFile(stream, arrow_extensions_enabled=False)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"shard {name}: damaged Parquet: {words(error)}") from None
    for field in file.schema_arrow:
        _allow(name, field.name, field.type)
    return file, footer


def _names_extension(footer: bytes) -> bool:
    """Whether a base64 run of the footer (the value of ARROW:schema, at any alignment) names an extension type."""
    for run in re.findall(rb"[A-Za-z0-9+/]{32,}", footer):
        for shift in range(4):
            piece = run[shift : shift + (len(run) - shift) // 4 * 4]
            if b"ARROW:extension" in base64.b64decode(piece):
                return True
    return False


def in_arrow_memory(data: bytes) -> pa.BufferReader:
    """A copy of `data` for a Parquet reader. A thread of Arrow may let go of it when the interpreter has ended; a Python
    buffer would then abort the process."""
    sink = pa.BufferOutputStream()
    sink.write(data)
    return pa.BufferReader(sink.getvalue())


def to_parquet(table: pa.Table) -> bytes:
    """The bytes of a Parquet file with page checksums. Without dictionaries: in files of many columns and few rows they cost
    more time than they save, and zstd finds what repeats."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, write_page_checksum=True)
    return sink.getvalue()


def _allow(shard: str, column: str, kind: pa.DataType) -> None:
    types = pa.types
    if types.is_dictionary(kind):
        return _allow(shard, column, kind.value_type)
    if types.is_nested(kind) and not types.is_union(kind):
        for index in range(kind.num_fields):
            _allow(shard, column, kind.field(index).type)
        return None
    texts = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    bytes_ = (
        types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind) or types.is_fixed_size_binary(kind)
    )
    plain = texts or bytes_ or types.is_primitive(kind) or types.is_decimal(kind) or types.is_null(kind)
    if isinstance(kind, pa.BaseExtensionType) or not plain:
        raise InputError(f"shard {shard}: column {column}: type {kind} is not allowed", "write it with a plain type")
    return None


def load_dataset(spec: Input, name: str) -> Any:
    """The split of a saved directory or a Hub dataset, as datasets.Dataset. Raises InputError."""
    import datasets

    datasets.disable_progress_bars()
    try:
        if os.path.isdir(name):
            _refuse_extensions(Path(name))
            found = datasets.load_from_disk(name)
            found = found[spec.split] if isinstance(found, datasets.DatasetDict) else found
        else:
            found = datasets.load_dataset(name, spec.subset, split=spec.split)
    except InputError:
        raise
    except Exception as error:  # datasets, the Hub client and fsspec each raise their own
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise InputError(f"dataset {name}: {cause}", "name a Hub dataset or a directory made by save_to_disk") from None
    for field in found.features.arrow_schema:
        _allow(name, field.name, field.type)
    return found


def _refuse_extensions(folder: Path) -> None:
    """Look into the schema message of every Arrow stream that the directory's state files name."""
    for state in folder.rglob("state.json"):
        files = orjson.loads(state.read_bytes()).get("_data_files") or []
        for path in (state.parent / entry["filename"] for entry in files):
            if path.resolve().parent != state.parent.resolve():
                raise InputError(f"{state}: it names a file outside its directory: {path.name}")
            with open(path, "rb") as file:
                # The stream format begins with a continuation mark and the length of the schema message.
                mark, length = file.read(4), int.from_bytes(file.read(4), "little")
                if mark != b"\xff\xff\xff\xff" or length > 2**28:
                    raise InputError(f"{path}: not an Arrow stream", "save the dataset with save_to_disk")
                if b"ARROW:extension" in file.read(length):
                    raise InputError(f"{path}: it has an Arrow extension type", "save the column with a plain type")

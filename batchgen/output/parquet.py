"""Parquet files in memory, as the output has them."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq


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


def from_parquet(data: bytes | None, columns: list[str] | None = None) -> pa.Table:
    """The table in a Parquet file, its pages checked. Raises OSError or pa.ArrowException for a damaged or missing one."""
    return pq.ParquetFile(in_arrow_memory(data or b""), page_checksum_verification=True).read(columns=columns)

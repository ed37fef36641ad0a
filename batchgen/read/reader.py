"""Span -> rows or row errors. Untrusted input stops here.

JSONL is read line-exactly: one bad line is one error row, its neighbours are untouched, and a line
over `input.max_row_bytes` is skipped without being held. Parquet and saved datasets are read by row
range, after their Arrow types have passed an allow-list.

A row carries its kept input columns beside it as Arrow (carry.py); tables.py looks at Parquet and datasets first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson
import pyarrow as pa

from batchgen.errors import BadRow, InputError, RowError, place, words
from batchgen.job.input import Input
from batchgen.read import columns, location, tables
from batchgen.read.formats import openai_batch, parts
from batchgen.records import Row, Shard, Span, carried_name

CHUNK = 4 * 2**20
CODECS = {".gz": "gzip", ".zst": "zstd"}
SpanRows = tuple[Span, list[Row], pa.Table]


def read_spans(spec: Input, shard: Shard, spans: list[Span], kept: pa.Schema, needed: set[str]) -> Iterator[SpanRows]:
    """The rows of consecutive spans of one shard, in one pass over it.

    `kept` are the carried columns under their output names; `needed` the columns that rendering reads.
    Raises InputError when the shard as a whole cannot be read.
    """
    if shard.format == "jsonl":
        yield from _read_jsonl(spec, shard, spans, kept)
    else:
        batches = _batches(spec, shard, spans[0].start, spans[-1].end)
        if shard.format == parts.FORMAT:
            batches, needed = parts.ok_rows(batches, spans[0].start), needed - parts.SETTINGS
        yield from _read_tables(shard, spans, batches, kept, needed)


def head(spec: Input, name: str, kind: str, rows: int) -> tuple[list[dict[str, Any]], pa.Schema | None]:
    """The first good rows of a shard, or (Parquet, dataset) its Arrow schema. Raises InputError."""
    if kind == "jsonl":
        found = []
        with open_text(name) as stream:
            for _, line in zip(range(rows), lines(stream, name, spec.max_row_bytes), strict=False):
                row = _row(spec, name, 0, line[1])
                if row.data is not None:
                    found.append(row.data)
        return found, None
    if kind in ("parquet", parts.FORMAT):
        return [], tables.open_parquet(name)[0].schema_arrow
    return [], tables.load_dataset(spec, name).features.arrow_schema


def open_text(name: str, offset: int = 0) -> BinaryIO:
    """The uncompressed text of a JSONL shard from `offset`, by its ending: .gz, .zst or plain.

    Raises InputError for a compressed file that is shorter than `offset`.
    """
    raw = location.open_shard(name)
    codec = next((codec for ending, codec in CODECS.items() if name.endswith(ending)), None)
    if codec is None:
        raw.seek(offset)
        return raw
    stream: BinaryIO = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec)
    while offset:
        chunk = read_chunk(stream, name, min(CHUNK, offset))
        if not chunk:
            raise InputError(f"shard {name}: shorter than planned")
        offset -= len(chunk)
    return stream


def read_chunk(stream: BinaryIO, name: str, size: int) -> bytes:
    """Up to `size` bytes, b"" at the end. Raises InputError for a damaged compressed file."""
    try:
        return stream.read(size)
    except (OSError, EOFError) as error:
        raise InputError(f"shard {name}: damaged or unreadable: {words(error)}", "write it again") from None


def lines(stream: BinaryIO, name: str, cap: int, limit: int | None = None) -> Iterator[tuple[int, bytes | None]]:
    """(bytes with its newline, line without newline) of each line up to `limit` bytes of text.

    The line is None where it is longer than `cap`: no more than cap + CHUNK bytes are ever held.
    """
    rest, dropped, left = b"", 0, limit
    while chunk := read_chunk(stream, name, CHUNK if left is None else min(CHUNK, left)):
        left = None if left is None else left - len(chunk)
        pieces = (rest + chunk).split(b"\n")
        rest = pieces.pop()
        for piece in pieces:
            length = dropped + len(piece)
            yield length + 1, None if length > cap else piece
            dropped = 0
        if dropped + len(rest) > cap:
            dropped, rest = dropped + len(rest), b""
    if dropped or rest:
        yield dropped + len(rest), None if dropped + len(rest) > cap else rest


def parse_line(shard: str, ordinal: int, line: bytes | None, cap: int) -> Row:
    """One JSONL line as a row: a JSON object, or the error that names shard:line and cause."""

    def bad(cause: str) -> Row:
        return Row(ordinal, None, RowError("input", f"{place(shard, ordinal)}: {cause}"))

    if line is None:
        return bad(f"the line is over input.max_row_bytes ({cap})")
    if ordinal == 0:
        line = line.removeprefix(b"\xef\xbb\xbf")
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as strict:
        # Python's json writes NaN and Infinity, which are not JSON but are common in JSONL.
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            return bad(f"invalid UTF-8 at byte {error.start + 1}")
        try:
            value = json.loads(text)
            json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is no text
        except (ValueError, RecursionError):
            return bad(f"invalid JSON: {strict}")
    if not isinstance(value, dict):
        return bad(f"expected a JSON object, got {type(value).__name__}")
    return Row(ordinal, value)


def _row(spec: Input, shard: str, ordinal: int, line: bytes | None) -> Row:
    row = parse_line(shard, ordinal, line, spec.max_row_bytes)
    if spec.format != "openai-batch" or row.data is None:
        return row
    try:
        return Row(ordinal, openai_batch.request(row.data))
    except BadRow as bad:
        return Row(ordinal, None, RowError(bad.code, f"{place(shard, ordinal)}: {bad}"))


def _read_jsonl(spec: Input, shard: Shard, spans: list[Span], kept: pa.Schema) -> Iterator[SpanRows]:
    first, last = spans[0], spans[-1]
    with open_text(shard.name, first.offset) as stream:
        found = lines(stream, shard.name, spec.max_row_bytes, last.offset + last.bytes - first.offset)
        for span in spans:
            rows = []
            for ordinal in range(span.start, span.end):
                _, line = next(found, (0, b""))
                if line is None or line not in (b"", b"\r"):
                    rows.append(_row(spec, shard.name, ordinal, line))
            if len(rows) != span.rows:
                what = f"{len(rows)} rows instead of {span.rows} from line {span.start + 1}"
                raise InputError(f"shard {shard.name}: {what}: it changed")
            yield span, rows, columns.conform([row.data or {} for row in rows], kept)


def _read_tables(
    shard: Shard, spans: list[Span], batches: Iterator[pa.Table], kept: pa.Schema, needed: set[str]
) -> Iterator[SpanRows]:
    held: list[pa.Table] = []
    have = 0
    for span in spans:
        while have < span.rows:
            batch = next(batches, None)
            if batch is None:
                raise InputError(f"shard {shard.name}: it has fewer rows than planned: it changed")
            held.append(batch)
            have += batch.num_rows
        table = pa.concat_tables(held)
        held, have = [table.slice(span.rows)], have - span.rows
        table = table.slice(0, span.rows)
        plain = table.select([name for name in table.column_names if name in needed]).to_pylist()
        plain_ordinals = range(span.start, span.end)
        ordinals = table.column(parts.ORDINAL).to_pylist() if parts.ORDINAL in table.column_names else plain_ordinals
        rows = [Row(ordinal, data) for ordinal, data in zip(ordinals, plain, strict=True)]
        yield span, rows, _carry(shard, table, kept)


def _carry(shard: Shard, table: pa.Table, kept: pa.Schema) -> pa.Table:
    by_output = {carried_name(name): name for name in table.column_names}
    made = []
    for field in kept:
        if field.name not in by_output:
            made.append(pa.nulls(table.num_rows, field.type))
            continue
        try:
            made.append(table.column(by_output[field.name]).cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"shard {shard.name}: column {by_output[field.name]}: {error}") from None
    return pa.table(made, schema=kept)


def _batches(spec: Input, shard: Shard, start: int, end: int) -> Iterator[pa.Table]:
    """The rows start..end of a Parquet shard or dataset, in tables of any size."""
    if shard.format == "dataset":
        table_view = tables.load_dataset(spec, shard.name).with_format("arrow")
        for low in range(start, end, 1024):
            yield table_view[low : min(low + 1024, end)]
        return
    file, _ = tables.open_parquet(shard.name)
    groups: list[int] = []
    at = skip = 0
    for index in range(file.num_row_groups):
        rows = file.metadata.row_group(index).num_rows
        if at + rows > start and at < end:
            if not groups:
                skip = start - at
            groups.append(index)
        at += rows
    try:
        for batch in file.iter_batches(batch_size=1024, row_groups=groups, use_threads=False):
            table = pa.Table.from_batches([batch])
            if skip >= table.num_rows:
                skip -= table.num_rows
                continue
            yield table.slice(skip)
            skip = 0
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"shard {shard.name}: damaged Parquet: {words(error)}") from None

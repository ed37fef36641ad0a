"""Span -> rows or row errors. Untrusted input stops here.

JSONL is read line-exactly: one bad line is one error row, its neighbours are untouched, and a line
over `input.max_row_bytes` is skipped without being held. Parquet and saved datasets are read by row
range, after their Arrow types have passed an allow-list: an extension type is refused before pyarrow
sees the file's schema, because a process that has imported ray.data would unpickle such types.

A row carries its kept input columns beside it as Arrow. JSONL columns get their types from
the first rows of the shards when the output is made (`infer_columns`); a later value that does not fit, or a
column not seen then, is carried as JSON text in `input_extra`, so that no value is lost and no part differs
in schema.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from batchgen import source
from batchgen.errors import InputError, RowError
from batchgen.records import Row, Shard, Span, carried_name
from batchgen.render import place
from batchgen.spec import Input

CHUNK = 4 * 2**20
CODECS = {".gz": "gzip", ".zst": "zstd"}
EXTRA = "input_extra"
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
        yield from _read_tables(shard, spans, batches, kept, needed)


def head(spec: Input, name: str, kind: str, rows: int) -> tuple[list[dict[str, Any]], pa.Schema | None]:
    """The first good rows of a shard, or (Parquet, dataset) its Arrow schema. Raises InputError."""
    if kind == "jsonl":
        found = []
        with open_text(name) as stream:
            for _, line in zip(range(rows), lines(stream, name, spec.max_row_bytes), strict=False):
                row = parse_line(name, 0, line[1], spec.max_row_bytes)
                if row.data is not None:
                    found.append(row.data)
        return found, None
    if kind == "parquet":
        return [], open_parquet(name)[0].schema_arrow
    return [], load_dataset(spec, name).features.arrow_schema


def open_text(name: str, offset: int = 0) -> BinaryIO:
    """The uncompressed text of a JSONL shard from `offset`, by its ending: .gz, .zst or plain.

    Raises InputError for a compressed file that is shorter than `offset`.
    """
    raw = source.open_shard(name)
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
        raise InputError(f"shard {name}: damaged or unreadable: {_words(error)}", "write it again") from None


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


def _read_jsonl(spec: Input, shard: Shard, spans: list[Span], kept: pa.Schema) -> Iterator[SpanRows]:
    first, last = spans[0], spans[-1]
    with open_text(shard.name, first.offset) as stream:
        found = lines(stream, shard.name, spec.max_row_bytes, last.offset + last.bytes - first.offset)
        for span in spans:
            rows = []
            for ordinal in range(span.start, span.end):
                _, line = next(found, (0, b""))
                if line is None or line not in (b"", b"\r"):
                    rows.append(parse_line(shard.name, ordinal, line, spec.max_row_bytes))
            if len(rows) != span.rows:
                what = f"{len(rows)} rows instead of {span.rows} from line {span.start + 1}"
                raise InputError(f"shard {shard.name}: {what}: it changed")
            yield span, rows, conform([row.data or {} for row in rows], kept)


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
        rows = [Row(span.start + index, data) for index, data in enumerate(plain)]
        yield span, rows, _carry(shard, table, kept)


def _carry(shard: Shard, table: pa.Table, kept: pa.Schema) -> pa.Table:
    by_output = {carried_name(name): name for name in table.column_names}
    columns = []
    for field in kept:
        if field.name not in by_output:
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        try:
            columns.append(table.column(by_output[field.name]).cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"shard {shard.name}: column {by_output[field.name]}: {error}") from None
    return pa.table(columns, schema=kept)


def _batches(spec: Input, shard: Shard, start: int, end: int) -> Iterator[pa.Table]:
    """The rows start..end of a Parquet shard or dataset, in tables of any size."""
    if shard.format == "dataset":
        table_view = load_dataset(spec, shard.name).with_format("arrow")
        for low in range(start, end, 1024):
            yield table_view[low : min(low + 1024, end)]
        return
    file, _ = open_parquet(shard.name)
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
        for batch in file.iter_batches(batch_size=1024, row_groups=groups):
            table = pa.Table.from_batches([batch])
            if skip >= table.num_rows:
                skip -= table.num_rows
                continue
            yield table.slice(skip)
            skip = 0
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"shard {shard.name}: damaged Parquet: {_words(error)}") from None


def open_parquet(name: str) -> tuple[pq.ParquetFile, bytes]:
    """The file and its footer bytes, once the footer names no extension type and all types are allowed."""
    stream = source.open_shard(name)
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
        raise InputError(f"shard {name}: damaged Parquet: {_words(error)}") from None
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


_SCALARS: dict[type, pa.DataType] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


def infer_columns(rows: Iterable[dict[str, Any]]) -> pa.Schema:
    """Arrow types for the columns of JSONL rows, in order of appearance.

    Scalars and lists of scalars keep their type (int and float together are float64); a column of objects
    or of several kinds is carried as JSON text, marked by the field metadata `json`.
    """
    kinds: dict[str, set[type]] = {}
    inner: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            kinds.setdefault(name, set())
            if value is None:
                continue
            kinds[name].add(type(value))
            if isinstance(value, list):
                inner.setdefault(name, set()).update(map(type, value))
    fields = []
    for name, kind in kinds.items():
        one = _one_type(kind)
        if kind == {list}:
            item = _one_type(inner[name] - {type(None)})
            one = pa.list_(item) if item is not None else None
        fields.append(pa.field(name, one) if one is not None else pa.field(name, pa.string(), metadata={"json": "1"}))
    return pa.schema(fields)


def _one_type(kinds: set[type]) -> pa.DataType | None:
    if kinds == {int, float}:
        return pa.float64()
    return _SCALARS.get(next(iter(kinds))) if len(kinds) == 1 else None


def extra_field(keep_all: bool, consumed: str | None) -> pa.Field:
    """The input_extra column: misfits of the carried columns and, if all columns are kept, columns not seen at first.

    `consumed` is a column that the output has under another heading.
    """
    return pa.field(EXTRA, pa.string(), metadata={"open": str(int(keep_all)), "consumed": consumed or ""})


def conform(rows: list[dict[str, Any]], kept: pa.Schema) -> pa.Table:
    """The carried columns of JSONL rows as a table of schema `kept`; what does not fit goes to input_extra."""
    by_column = {f.metadata[b"column"].decode(): f for f in kept if b"column" in (f.metadata or {})}
    extra: list[dict[str, Any]] = [{} for _ in rows]
    columns: dict[str, Any] = {}
    for name, field in by_column.items():
        values = [row.get(name) for row in rows]
        if b"json" in field.metadata:
            values = [None if v is None else _dumps(v) for v in values]
        else:
            for index, value in enumerate(values):
                if value is not None and not _fits(value, field.type):
                    extra[index][name], values[index] = value, None
        columns[field.name] = pa.array(values, field.type)
    if EXTRA in kept.names:
        about = kept.field(EXTRA).metadata
        if about[b"open"] == b"1":
            known = by_column.keys() | {about[b"consumed"].decode()}
            for row, more in zip(rows, extra, strict=True):
                if not row.keys() <= known:
                    more.update({name: value for name, value in row.items() if name not in known})
        columns[EXTRA] = pa.array([_dumps(more) if more else None for more in extra], pa.string())
    return pa.table([columns[field.name] for field in kept], schema=kept)


def _fits(value: object, kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        return isinstance(value, list) and all(item is None or _fits(item, kind.value_type) for item in value)
    if pa.types.is_floating(kind):
        return type(value) is float or (type(value) is int and abs(value) <= 2**53)
    if pa.types.is_integer(kind):
        return type(value) is int and -(2**63) <= value < 2**63
    return bool(_SCALARS.get(type(value)) == kind)


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)

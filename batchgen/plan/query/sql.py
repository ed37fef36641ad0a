"""Tables of rows and a query -> Parquet files, by DuckDB.

The rows come from our own readers and not from DuckDB's: every format and store is read, integers over 64 bits, decimals and
times stay exact, and JSON is not guessed at. So the query has no business with files: DuckDB may open none, and neither a network
nor an extension. One thread: with several, the order of an answer and the rows of a sample are not the same twice."""

import importlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from batchgen.errors import BatchgenError, InputError, JobError, safe_message
from batchgen.output.format import KEY, MARK
from batchgen.output.parts import sha256
from batchgen.output.trust.query_file import Piece, name_of
from batchgen.read.formats.query import JSON
from batchgen.read.formats.table import EXTENSION, check_types
from batchgen.read.schemas import holds

MEMORY_BYTES = 2**31  # of DuckDB; what does not fit waits on disk
BATCH_ROWS = 2048  # DuckDB's own
GROUP_BYTES = 2**23  # of a row group, which is read at once
PIECE_BYTES = 2**28  # of a file, which is put at once
TABLES, SPILL = "tables.duckdb", "spill"


@dataclass(frozen=True)
class Table:
    """A table of the query: its name, its columns, of which those in `json` are JSON text, its rows, to be read once."""

    name: str
    schema: pa.Schema
    json: frozenset[str]
    rows: Callable[[], Iterator[pa.Table]]


def refuse_no_query(query: str) -> None:
    """Raises JobError for a text that is no single SELECT, and where there is no DuckDB."""
    duckdb = _duckdb()
    with _told(), duckdb.connect() as database:
        statements = database.extract_statements(query)
    if [str(one.type).rpartition(".")[2] for one in statements] != ["SELECT"]:
        raise JobError("input.query: it is not one SELECT", "write one query; WITH and FROM may begin it")


def answer(tables: list[Table], query: str, folder: Path) -> tuple[Piece, ...]:
    """Write the rows of a query into files in a folder, which gets the database too. Raises JobError for a query that is wrong or
    has no rows, InputError from the tables, BatchgenError for a full disk."""
    with _told(), _duckdb().connect(str(folder / TABLES), config=_config(folder)) as database:
        for setting in ("TimeZone = 'UTC'", "python_enable_replacements = false", "enable_external_access = false"):
            database.execute(f"SET {setting}")
        database.execute("SET lock_configuration = true")
        for table in tables:
            _insert(database, f"CREATE TABLE {_word(table.name)} AS", table, table.schema.empty_table())
        schema = _schema(database.sql(query))  # a name that is wrong is found before the rows are read
        for table in tables:
            _fill(database, table)
        pieces = tuple(_written(database.sql(query).to_arrow_reader(BATCH_ROWS), schema, folder))
    (folder / TABLES).unlink()
    shutil.rmtree(folder / SPILL, ignore_errors=True)
    if not pieces:
        raise JobError("input.query: it has no rows", "batchgen check JOB shows what a query finds")
    return pieces


def _config(folder: Path) -> dict[str, str]:
    return {
        "threads": "1",
        "memory_limit": f"{MEMORY_BYTES}B",
        "temp_directory": str(folder / SPILL),
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
    }


def _fill(database: Any, table: Table) -> None:
    failed: list[BaseException] = []

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for piece in table.rows():
                yield from piece.to_batches()
        except BaseException as error:  # DuckDB would make a text of it
            failed.append(error)
            raise

    try:
        _insert(database, f"INSERT INTO {_word(table.name)}", table, pa.RecordBatchReader.from_batches(table.schema, batches()))
    except BaseException:
        if failed:
            raise failed[0] from None
        raise


def _insert(database: Any, begin: str, table: Table, rows: pa.Table | pa.RecordBatchReader) -> None:
    columns = (
        f"CAST({_word(name)} AS JSON) AS {_word(name)}" if name in table.json else _word(name) for name in table.schema.names
    )
    database.register("\0rows", rows)
    try:
        database.execute(f"{begin} SELECT {', '.join(columns)} FROM {_word(chr(0) + 'rows')}")
    finally:
        database.unregister("\0rows")


def _schema(relation: Any) -> pa.Schema:
    """The columns of an answer as Parquet has them; those that are JSON have the note JSON."""
    fields = []
    found = relation.limit(0).to_arrow_table().schema  # which gives numbers to names that are there twice
    for name, kind, field in zip(relation.columns, map(str, relation.types), found, strict=True):
        if EXTENSION in pa.schema([field]).serialize().to_pybytes() or holds(field.type, types.is_interval):
            raise JobError(f"input.query: column {name}: type {kind} is not allowed", "CAST it AS VARCHAR")
        fields.append(field.with_name(name).with_metadata(JSON if kind == "JSON" else None))
    schema = pa.schema(fields)
    try:
        check_types("", schema)
    except InputError as error:
        raise JobError(str(error).replace("shard :", "input.query:", 1)) from None
    return schema.with_metadata({KEY: orjson.dumps(MARK)})


def _written(rows: pa.RecordBatchReader, schema: pa.Schema, folder: Path) -> Iterator[Piece]:
    """Files of about PIECE_BYTES, named by number and content, in row groups of about GROUP_BYTES."""
    groups, number = _groups(rows), 0
    group = next(groups, None)
    while group is not None:
        new, count = folder / "new.parquet", 0
        with pq.ParquetWriter(new, schema, compression="zstd", write_page_checksum=True) as writer:
            while group is not None and (not count or new.stat().st_size < PIECE_BYTES):
                writer.write_table(group.cast(schema), row_group_size=len(group))
                count += len(group)
                group = next(groups, None)
        digest = sha256(new.read_bytes())
        piece = Piece(name_of(number, digest), count, digest)
        new.rename(folder / piece.name)
        number += 1
        yield piece


def _groups(rows: pa.RecordBatchReader) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    for batch in rows:
        held += [batch] if len(batch) else []
        if sum(one.nbytes for one in held) >= GROUP_BYTES:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


def _word(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _duckdb() -> Any:
    try:
        return importlib.import_module("duckdb")
    except ImportError:
        raise JobError("input.query needs DuckDB", "pip install 'batchgen[query]'") from None


@contextmanager
def _told() -> Iterator[None]:
    """What DuckDB raises, in its first words."""
    duckdb = _duckdb()
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        cause = f"input.query: over {MEMORY_BYTES:,} bytes of memory: {_first(error)}"
        raise JobError(cause, "sorting and joining wait on disk, lists of very many rows do not: ask for less at once") from None
    except (duckdb.IOException, OSError) as error:
        raise BatchgenError(f"input.query: {_first(error)}", "TMPDIR names a folder with more room") from None
    except (duckdb.Error, pa.ArrowException, UnicodeError) as error:
        raise JobError(f"input.query: {_first(error)}") from None


def _first(error: Exception) -> str:
    return safe_message(ValueError(str(error).partition("\n\nLINE ")[0].partition("\n\nPossible solutions")[0]))

"""`input.query`: the rows of a job are those of a query over its input.

The query is answered once, on the machine of the command. Its rows are written into the output as Parquet shards, which from then
on are read in place of the input and planned, digested and proven like any shard. What the sources were is recorded as a plan
records shards: a source that changed, vanished or grew afterwards is refused by name, for the answer would be another one."""

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import pyarrow as pa
from pyarrow import types

from batchgen.errors import InputError, OutputConflict
from batchgen.job.input import QUERIED, Input
from batchgen.job.job import Job
from batchgen.output.store import Store
from batchgen.output.trust import query_file
from batchgen.output.trust.query_file import Answer
from batchgen.plan.plan import make_plan
from batchgen.plan.query import sql
from batchgen.read.columns import InputColumns, column_of, is_json, look
from batchgen.read.discover import discover, skipped, upstream_of
from batchgen.read.each.elements import format_of
from batchgen.read.formats import Found
from batchgen.read.location import is_same
from batchgen.read.schemas import holds
from batchgen.records import Shard, Span

MAIN = "input"
SHOWN_BAD = 3
ALIEN = (types.is_float16, types.is_decimal256)  # types that DuckDB does not have
REMEDY = "a query is answered once: bring the source back, or choose another output.path"


@dataclass
class _Source:
    """A table of a query. `job` reads its rows whole: its prompt is none of their columns."""

    name: str
    job: Job
    found: list[Found]
    bad: int = 0
    first_bad: list[str] = field(default_factory=list)

    def look(self) -> tuple[InputColumns, list[Shard], list[Span]]:
        columns = look(self.job, self.found)
        return columns, *make_plan(self.job, self.found, columns)

    def table(self, columns: InputColumns, shards: list[Shard], spans: list[Span]) -> sql.Table:
        """Raises InputError for columns that SQL cannot tell apart or name, or of a type that DuckDB does not have."""
        names = [column_of(one) for one in columns.kept]
        folded = {name.casefold(): name for name in reversed(names)}
        if other := next((name for name in names if folded[name.casefold()] != name), None):
            twin = folded[other.casefold()]
            raise InputError(f"input.query: {self.name} has columns {twin} and {other}, which SQL takes for one", "rename one")
        if (odd := next((name for name in names if not name or "\0" in name), None)) is not None:
            raise InputError(f"input.query: {self.name} has a column {odd!r}, which SQL cannot name", "rename it")
        if alien := next((one for one in columns.kept if any(holds(one.type, kind) for kind in ALIEN)), None):
            what = f"input.query: {self.name}: column {column_of(alien)}: DuckDB has no {alien.type}"
            raise InputError(what, "write it with another type")
        schema = pa.schema([(name, one.type) for name, one in zip(names, columns.kept, strict=True)])
        json = frozenset(name for name, one in zip(names, columns.kept, strict=True) if is_json(one))

        def rows() -> Iterator[pa.Table]:
            for shard in shards:
                if mine := [span for span in spans if span.shard == shard.index]:
                    yield from (one.rename_columns(names).cast(schema) for one in self._good(shard, mine, columns.kept))

        return sql.Table(self.name, schema, json, rows)

    def _good(self, shard: Shard, spans: list[Span], kept: pa.Schema) -> Iterator[pa.Table]:
        for _, rows, carried in format_of(self.job.input, shard).read(self.job.input, shard, spans, kept, set()):
            errors = [row.error.detail for row in rows if row.error]
            self.bad += len(errors)
            self.first_bad += errors[: SHOWN_BAD - len(self.first_bad)]
            yield carried.filter(pa.array([row.error is None for row in rows])) if errors else carried

    def refuse_other(self, known: list[Shard]) -> None:
        """Raises OutputConflict where the source is not what it was."""
        pairs = list(zip(self.found, known, strict=False))
        alike = all(a.name == b.name and is_same((a.size, a.version), (b.size, b.version)) for a, b in pairs)
        if alike and len(self.found) == len(known):
            return
        shards, spans = make_plan(self.job, self.found, look(self.job, self.found), known)
        if spans:
            new = next(shard.name for shard in shards if shard.index == spans[0].shard)
            raise OutputConflict(f"shard {new} has rows that it had not when input.query was answered", REMEDY)


@dataclass(frozen=True)
class Asked:
    """An answered query. `spec`: the input that reads its rows in place of the job's `own`. `notes`: sentences on rows that could
    not be read, and on sources that are gone. `folder`: where the rows are until `keep`."""

    own: Input
    spec: Input
    answer: Answer
    notes: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    folder: Path | None = None

    def stated(self, job: Job) -> Job:
        """The job as its output remembers it: with its own input, and what was detected of the answer's columns."""
        fields = {name: getattr(self.own, name) for name in QUERIED}
        return job.model_copy(update={"input": job.input.model_copy(update=fields)})

    def keep(self, store: Store) -> Self:
        """The query with its rows in the output; the first driver's answer counts."""
        if self.folder is None:
            return self
        for piece in self.answer.pieces:
            store.put_new(f"{query_file.FOLDER}/{piece.name}", (self.folder / piece.name).read_bytes())
        answer = query_file.freeze(store, self.answer)
        shutil.rmtree(self.folder, ignore_errors=True)
        return replace(self, spec=_reading(self.spec, _folder(store), answer), answer=answer, folder=None)


def ask(job: Job, store: Store | None, planned_only: bool = False) -> Asked:
    """Answer the query of a job, or take the answer from its output; with `planned_only` no source is looked at. Raises JobError
    for a query that is wrong, InputError for sources that cannot be read, OutputConflict for sources that are not what they were
    when the query was answered."""
    spec = job.input
    assert spec.query is not None
    if store is not None and (answer := query_file.load(store)) is not None:
        gone = () if planned_only or answer.query != spec.query else tuple(_refuse_other(job, answer))
        return Asked(spec, _reading(spec, _folder(store), answer), answer, (*answer.notes, *gone))
    if planned_only:
        raise OutputConflict("input.query: the output has no rows of it", "run the job to its end first")
    sql.refuse_no_query(spec.query)
    sources = [_found(name, reading) for name, reading in _tables(job).items()]
    folder = Path(tempfile.mkdtemp(prefix="batchgen-query-"))
    try:
        looked = {source.name: source.look() for source in sources}
        tables = [source.table(*looked[source.name]) for source in sources]
        pieces = sql.answer(tables, spec.query, folder)
        notes = tuple(note for source in sources for note in _notes(source, looked[source.name][1], job.limits.errors))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shards = {name: shards for name, (_, shards, _) in looked.items()}
    answer = Answer(spec.query, shards, upstream_of([one for source in sources for one in source.found]), pieces, notes)
    left_out = tuple(name for source in sources for name in skipped(source.job.input, source.found))
    asked = Asked(spec, _reading(spec, str(folder), answer), answer, notes, left_out, folder)
    weakref.finalize(asked, shutil.rmtree, folder, ignore_errors=True)
    return asked


def _tables(job: Job) -> dict[str, Job]:
    """By table, the job that reads it."""
    whole = {"template": "-", "max_row_bytes": job.input.max_row_bytes}
    own = job.input.model_dump(include=set(QUERIED) - {"query", "tables"})
    paths = {MAIN: own, **{name: {"path": path} for name, path in job.input.tables.items()}}
    bare = job.model_copy(update={"attributes": None, "sampling": {}})
    return {name: bare.model_copy(update={"input": Input.model_validate(fields | whole)}) for name, fields in paths.items()}


def _found(table: str, job: Job) -> _Source:
    try:
        return _Source(table, job, discover(job.input))
    except InputError as error:
        raise InputError(
            str(error).replace("input.path", f"input.tables.{table}" if table != MAIN else "input.path", 1)
        ) from None


def _refuse_other(job: Job, answer: Answer) -> Iterator[str]:
    """Raises OutputConflict for sources that are not what they were; a sentence for each that cannot be found any more."""
    for name, reading in _tables(job).items():
        try:
            source = _found(name, reading)
        except InputError as error:
            yield f"{error}: the rows of input.query are those in the output"
        else:
            source.refuse_other(answer.sources.get(name, []))


def _notes(source: _Source, shards: list[Shard], most: float) -> Iterator[str]:
    """Raises InputError where more rows than `most`, a fraction, cannot be read."""
    rows = sum(shard.rows for shard in shards)
    if source.bad:
        found = f"input.query: {source.bad:,} of {rows:,} rows of {source.name} cannot be read: {'; '.join(source.first_bad)}"
        if source.bad > most * rows:
            raise InputError(found, "they are over limits.errors")
        yield f"{found}; they are left out of the query"


def _folder(store: Store) -> str:
    return f"{store.url.rstrip('/')}/{query_file.FOLDER}"


def _reading(spec: Input, folder: str, answer: Answer) -> Input:
    """The input that reads an answer, in a folder, in place of `spec`."""
    whole = {name: Input.model_fields[name].get_default(call_default_factory=True) for name in QUERIED}
    paths = [f"{folder}/{piece.name}" for piece in answer.pieces]
    return spec.model_copy(update=whole | {"path": paths, "format": "query"})

"""`_batchgen/plan/`: the spans of an output, one file after the other, each written once.

000000.parquet holds the spans of the first run; every later file adds some: those of a grown input, or those of a retry, which
run failed rows of earlier spans again. Columns: shard, start, end, rows, offset, bytes, and for a retry `again`, the rows
to run (Failed). The file metadata holds `shards`, the JSON list of the shards as they were then. All are written with
put_new, so that of two drivers one plans and the other follows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.errors import VerifyError, words
from batchgen.output.store import Put, Store
from batchgen.read import tables
from batchgen.records import Failed, Shard, Span

FOLDER = "_batchgen/plan"
SUCCESS = "_SUCCESS"
"""Says that every planned span has its part."""
_FIELDS = ("shard", "start", "end", "rows", "offset", "bytes")
_AGAIN = pa.list_(
    pa.struct(
        [("row", pa.int64()), ("variant", pa.int32()), ("sample", pa.int32()), ("attempt", pa.int32()), ("code", pa.string())]
    )
)


@dataclass(frozen=True)
class Plan:
    """All spans of an output, in the order in which they were planned. `factor` is variants x samples, the output rows of
    one input row (of a row that does not bring its own `n`)."""

    shards: tuple[Shard, ...]
    spans: list[Span]
    factor: int

    @property
    def rows(self) -> int:
        """Planned output rows; a retry adds none."""
        return self.factor * sum(span.rows for span in self.spans if not span.retry)

    def by_name(self) -> dict[str, Span]:
        return {span.name: span for span in self.spans}

    def missing(self, committed: set[str]) -> list[Span]:
        """The spans without a part, in plan order."""
        return [span for span in self.spans if span.name not in committed]


def add(store: Store, number: int, shards: Iterable[Shard], spans: list[Span]) -> Put:
    """Write plan file `number` (from 0). Exists: somebody else has planned meanwhile, and this plan is void."""
    store.delete(SUCCESS)
    return store.put_new(f"{FOLDER}/{number:06d}.parquet", encode_plan(shards, spans))


def load_plan(store: Store, factor: int) -> tuple[Plan, int]:
    """The plan frozen in the output, and how many files it has. Raises VerifyError for a damaged one."""
    shards: dict[int, Shard] = {}
    spans: list[Span] = []
    names = sorted(name for name in store.list(FOLDER) if name.endswith(".parquet"))
    for number, file in enumerate(names):
        try:
            table = pq.read_table(tables.in_arrow_memory(store.get(file) or b""))
        except (pa.ArrowException, OSError) as error:
            raise VerifyError(f"{file}: damaged: {words(error)}") from None
        for fields in orjson.loads(table.schema.metadata[b"shards"]):
            shards[fields["index"]] = Shard(**fields)
        columns = [table.column(field).to_pylist() for field in _FIELDS]
        if "again" in table.column_names:
            again = [tuple(Failed(**one) for one in rows) for rows in table.column("again").to_pylist()]
            columns += [[number] * len(again), again]
        spans += [Span(*values) for values in zip(*columns, strict=True)]
    return Plan(tuple(shards[index] for index in sorted(shards)), spans, factor), len(names)


def encode_plan(shards: Iterable[Shard], spans: list[Span]) -> bytes:
    """A plan file (see the module's docstring)."""
    columns = {field: pa.array([getattr(span, field) for span in spans], pa.int64()) for field in _FIELDS}
    if any(span.again for span in spans):
        columns["again"] = pa.array([[asdict(one) for one in span.again] for span in spans], _AGAIN)
    table = pa.table(columns).replace_schema_metadata({"shards": orjson.dumps([asdict(shard) for shard in shards])})
    return tables.to_parquet(table)

"""`_batchgen/plan/`: the spans of an output in numbered files, each written once.

000000.plan holds the spans of the first run; every later file adds those of a grown input, or those of a retry, which run failed
rows of earlier spans again. They are Parquet files whose names no glob of Parquet files matches. An output whose first one is
000000.parquet was begun by an earlier release, and goes on with that ending. Columns: shard, start, end, rows, offset, bytes,
digest (not in the first outputs), for a retry `again`, the rows to run (Failed), and where rows are elements `within` (Within).
The file metadata holds `shards`, the JSON
list of the shards as they were then, and `batchgen`, the mark of format.py with the fingerprint of the job. All are written with
put_new, so that of two drivers one plans and the other follows."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import orjson
import pyarrow as pa
from pydantic import TypeAdapter

from batchgen.errors import VerifyError, safe_message
from batchgen.output import job_file
from batchgen.output.format import about, known, read_parquet, to_parquet
from batchgen.output.store import Store
from batchgen.records import Failed, Shard, Span, Within

FOLDER = "_batchgen/plan"
ENDING, FIRST_ENDING = ".plan", ".parquet"
SUCCESS = "_SUCCESS"  # says that every planned span has its part
_FIELDS = ("shard", "start", "end", "rows", "offset", "bytes")
_FAILED = {"row": pa.int64(), "variant": pa.int32(), "sample": pa.int32(), "attempt": pa.int32(), "code": pa.string()}
_WITHIN = pa.struct([(name, pa.int64()) for name in ("start", "end", "rows", "skip")])
_SHARDS = TypeAdapter(list[Shard])
_AGAIN = pa.list_(pa.struct(_FAILED))


@dataclass(frozen=True)
class Plan:
    """All spans of an output, in the order in which they were planned. `factor` is variants x samples, the output rows of
    one input row (of a row that does not bring its own `n`), `jobs` the fingerprints of the jobs that its files name."""

    shards: tuple[Shard, ...]
    spans: list[Span]
    factor: int
    jobs: frozenset[str] = frozenset()

    def places(self, committed: set[str]) -> dict[str, list[Span]]:
        """The spans with a part by Span.place: a span, and after it its retries."""
        found: dict[str, list[Span]] = {}
        for span in self.spans:
            if span.name in committed:
                found.setdefault(span.place, []).append(span)
        return found

    def missing(self, committed: set[str]) -> list[Span]:
        """The spans without a part, in plan order."""
        return [span for span in self.spans if span.name not in committed]


def name_of(number: int, ending: str = ENDING) -> str:
    return f"{FOLDER}/{number:06d}{ending}"


def _names(store: Store) -> tuple[list[str], str]:
    """The plan files of an output in order, and their ending."""
    names = sorted(name for name in store.list(FOLDER) if name.endswith((ENDING, FIRST_ENDING)))
    return names, FIRST_ENDING if any(name.endswith(FIRST_ENDING) for name in names) else ENDING


def add(store: Store, number: int, shards: Iterable[Shard], spans: list[Span]) -> bool:
    """Write plan file `number` (from 0). False where another driver has planned meanwhile, and this plan is void."""
    names, ending = _names(store)
    if name_of(number, ending) in names:
        return False  # the job may be done by now
    store.delete(SUCCESS)
    job = job_file.load(store)
    return store.put_new(name_of(number, ending), encode_plan(shards, spans, job.fingerprint if job else None))


def load_plan(store: Store, factor: int) -> tuple[Plan, int]:
    """The plan frozen in the output, and how many files it has. Raises VerifyError for a damaged one, NewerFormat."""
    shards: dict[int, Shard] = {}
    spans: list[Span] = []
    jobs: set[str] = set()
    names, ending = _names(store)
    for number, file in enumerate(names):
        if file != name_of(number, ending):
            raise VerifyError(f"{name_of(number, ending)}: missing although {file} is there")
        table = read_parquet(store, file)
        try:
            listed = [{"version": one["stamp"], **one} for one in orjson.loads(table.schema.metadata[b"shards"])]
            shards |= {shard.index: shard for shard in _SHARDS.validate_python(listed)}
            columns = [table.column(field).to_pylist() for field in _FIELDS]
            columns += [[0] * len(table), [()] * len(table)]
            if "again" in table.column_names:
                again = [tuple(known(Failed, one) for one in rows) for rows in table.column("again").to_pylist()]
                columns[-2:] = [number] * len(again), again
            columns.append(table.column("digest").to_pylist() if "digest" in table.column_names else [""] * len(table))
            if "within" in table.column_names:
                columns.append([one and known(Within, one) for one in table.column("within").to_pylist()])
            spans += [_checked(Span(*values), shards) for values in zip(*columns, strict=True)]
        except (pa.ArrowException, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise VerifyError(f"{file}: damaged: {safe_message(error)}") from None
        if (job := about(table).get("job")) is not None:
            jobs.add(str(job))
    if sorted(shards) != list(range(len(shards))):
        raise VerifyError(f"{FOLDER}: damaged: its shards are {sorted(shards)[:20]}")
    return Plan(tuple(shards[index] for index in sorted(shards)), spans, factor, frozenset(jobs)), len(names)


def _checked(span: Span, shards: dict[int, Shard]) -> Span:
    """Raises ValueError for what no plan says."""
    numbers = [span.shard, span.start, span.end, span.rows, span.offset, span.bytes]
    numbers += asdict(span.within).values() if span.within else ()
    numbers += [number for one in span.again for number in (one.row, one.variant, one.sample, one.attempt)]
    if (
        type(span.digest) is not str
        or any(type(number) is not int or number < 0 for number in numbers)
        or span.start > span.end
        or span.shard not in shards
    ):
        raise ValueError(f"a span of shard {span.shard}, rows {span.start}..{span.end}")
    return span


def encode_plan(shards: Iterable[Shard], spans: list[Span], job: str | None = None) -> bytes:
    """A plan file (see the module's docstring) of the job with this fingerprint."""
    columns = {field: pa.array([getattr(span, field) for span in spans], pa.int64()) for field in _FIELDS}
    columns["digest"] = pa.array([span.digest for span in spans], pa.string())
    if any(span.again for span in spans):
        columns["again"] = pa.array([[asdict(one) for one in span.again] for span in spans], _AGAIN)
    if any(span.within for span in spans):
        columns["within"] = pa.array([span.within and asdict(span.within) for span in spans], _WITHIN)
    listed = [{"stamp" if name == "version" else name: value for name, value in asdict(shard).items()} for shard in shards]
    return to_parquet(pa.table(columns, metadata={"shards": orjson.dumps(listed)}), {"job": job})

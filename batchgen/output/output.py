"""Output: what a job has written, or is writing, as one noun."""

import functools
import itertools
import uuid
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Self

import pyarrow as pa

from batchgen.errors import InputError, OutputConflict, StoreError
from batchgen.job.policy import FINAL
from batchgen.output import job_file, lease, parts, plan_file, progress, success, verify
from batchgen.output.format import Fields
from batchgen.output.store import Store, open_store
from batchgen.output.trust import manifest
from batchgen.output.verify import Verdict
from batchgen.records import Failed, Span

QUARANTINE = "_batchgen/quarantine"
TABLE_ROWS = 64  # of a table of rows: few, since a row may be megabytes


class Output:
    """A directory or URL that a job writes to, to be read at any time. `url` names it, `store` reads and writes it, `job` is its
    job file (the job is `job.job`). Methods raise StoreError, VerifyError for a damaged plan or part, and NewerFormat."""

    def __init__(self, store: Store, job: job_file.JobFile) -> None:
        self.url, self.store, self.job = store.url, store, job

    @classmethod
    def open(cls, where: str | Store) -> Self:
        """The output at a path, a URL or in a store. Raises InputError where there is none, OutputConflict for a bad job file."""
        store = open_store(where) if isinstance(where, str) else where
        if (job := job_file.load(store)) is None:
            raise InputError(f"{store.url}: no batchgen output there")
        return cls(store, job)

    @functools.cached_property
    def plan(self) -> plan_file.Plan:
        """The spans, as planned when this is first asked for."""
        return plan_file.load_plan(self.store, self.job.factor)[0]

    def parts(self) -> set[str]:
        """The names of the spans that have a part now, by one listing."""
        return parts.committed(self.store)

    def places(self) -> dict[str, list[Span]]:
        """The spans that have a part, those of the same rows together: a span, and after it its retries."""
        return self.plan.places(self.parts())

    def rows(self) -> Iterator[Fields]:
        """The rows in plan order, one for each (row, variant, sample): its last attempt."""
        for table in self.tables():
            yield from table.to_pylist()

    def tables(self) -> Iterator[pa.Table]:
        """As rows, in tables of at most TABLE_ROWS of them."""
        for spans in self.places().values():
            if len(spans) == 1:
                yield from parts.tables(self.store, spans[0].name, TABLE_ROWS)
                continue
            of_spans = [parts.read_part(self.store, span.name) for span in spans]
            last: dict[parts.Key, tuple[int, int]] = {}
            for number, table in enumerate(of_spans):
                keys = zip(*(table[name].to_pylist() for name in ("row", "variant", "sample")), strict=True)
                last |= {key: (number, at) for at, key in enumerate(keys)}
            for number, group in itertools.groupby(last.values(), key=lambda where: where[0]):
                while some := [at for _, at in itertools.islice(group, TABLE_ROWS)]:
                    yield of_spans[number].take(some)

    def unfinished(self) -> str | None:
        """What the output of a job that has not run to its end lacks, in words; None for a whole one."""
        if missing := len(self.plan.missing(self.parts())):
            return f"{missing:,} of {len(self.plan.spans):,} spans have no part"
        return "it has no _SUCCESS" if self.store.get(plan_file.SUCCESS) is None else None

    def status(self) -> Fields:
        """Where the job stands: the fields of `status --json`."""
        tally = progress.load_tally(self.store, self.plan, self.parts())
        return {"name": self.job.job.name, "output": self.url, **tally.status()}

    def verify(self) -> Verdict:
        """Whether every planned row is there exactly once, from the files alone."""
        return verify.verify(self.store, self.job)

    def repair(self, verdict: Verdict) -> list[str]:
        """Move the damaged parts of a verdict away, so that the next run makes them again; returns where they went. No run may be
        at work on the output. A part is deleted when its copy has been read back, and the manifest says so before."""
        moved, recorded = [], manifest.load(self.store).digests
        for name in verdict.damaged:
            data = self.store.get(name)
            if data is None or data != self.store.get(name):
                raise StoreError(f"{name}: two reads of it differ", "nothing was moved; run verify again")
            there = f"{QUARANTINE}/{name.removeprefix(parts.DATA + '/')}.{uuid.uuid4().hex[:8]}"
            self.store.put_new(there, data)
            if self.store.get(there) != data:
                raise StoreError(f"{there}: it is not what was put there", "the part is where it was; run verify again")
            if self.store.get(name) != data:
                raise StoreError(f"{name}: it was made again meanwhile", "run verify again")
            self.store.delete(plan_file.SUCCESS)
            if (span := parts.span_of(name)) in recorded:
                manifest.append(self.store, void={str(span): parts.sha256(data)})
            self.store.delete(name)
            moved.append(there)
        return moved

    def retry(self, codes: Collection[str] | None = None, message: Callable[[str], None] = lambda _: None) -> int:
        """Plan the failed rows with these error codes for the next run; returns how many there are. Without codes, all but those
        that would only fail again (job.FINAL). Zero when the last retry still has spans without a part: the next run finishes it.
        The new parts supersede what earlier parts say of the rows; those stay as they are. `message` takes what the wait for the
        output's lease says. Raises InputError for an output that lacks rows, LeaseError where a driver is at work on it,
        OutputConflict when another retry is planned at the same time."""
        with lease.hold(self.store, message):
            return self._retry(codes)

    def _retry(self, codes: Collection[str] | None) -> int:
        plan, files = plan_file.load_plan(self.store, self.job.factor)
        committed = self.parts()
        missing = plan.missing(committed)
        if any(not span.retry for span in missing):
            raise InputError(f"{self.url}: {len(missing)} spans have no part yet", "run the job to its end first")
        if missing:
            return 0
        places = plan.places(committed).values()
        with ThreadPoolExecutor(8) as pool:
            failed = pool.map(lambda spans: self._failed(spans, codes), places)
        again = [replace(spans[0], retry=files, again=rows) for spans, rows in zip(places, failed, strict=True) if rows]
        if again and not plan_file.add(self.store, files, [], again):
            success.restore(self.store)
            raise OutputConflict(f"{self.url}: another plan was made at the same time", "run retry again")
        return sum(len(span.again) for span in again)

    def _failed(self, spans: list[Span], codes: Collection[str] | None) -> tuple[Failed, ...]:
        """The rows of a span that failed last and are to be run again."""
        columns = ["row", "variant", "sample", "attempt", "status", "error_code"]
        tables = (parts.read_part(self.store, span.name, columns) for span in spans)
        rows = {parts.key_of(row): row for table in tables for row in table.to_pylist()}.values()
        failed = [Failed(*parts.key_of(row), row["attempt"], row["error_code"]) for row in rows if row["status"] == "error"]
        return tuple(one for one in failed if (one.code in codes if codes is not None else one.code not in FINAL))

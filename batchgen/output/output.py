"""Output: what a job has written, or is writing, as one noun."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from typing import Any

from batchgen.output import job_file, parts, plan_file, progress, retry, verify
from batchgen.output.job_file import JobFile
from batchgen.output.plan_file import Plan
from batchgen.output.store import Store, open_store
from batchgen.output.verify import Verdict
from batchgen.records import Span


class Output:
    """A directory or URL that a job writes to. It may be looked at while the job runs.

    `url` names it, `store` reads and writes it, `job` is its job file (the job itself is `job.job`).
    """

    def __init__(self, store: Store, job: JobFile) -> None:
        self.url, self.store, self.job = store.url, store, job

    @classmethod
    def open(cls, where: str | Store) -> Output:
        """The output at a path, a URL or in a store. Raises InputError where there is none, OutputConflict for a job file that
        cannot be read, NewerFormat for an output of a later release."""
        store = open_store(where) if isinstance(where, str) else where
        return cls(store, job_file.require(store))

    @functools.cached_property
    def plan(self) -> Plan:
        """The spans, as planned when this is first asked for. Raises VerifyError for a damaged plan, NewerFormat."""
        return plan_file.load_plan(self.store, self.job.factor)[0]

    def parts(self) -> set[str]:
        """The names of the spans that have a part now, by one listing."""
        return parts.committed(self.store)

    def places(self) -> dict[str, list[Span]]:
        """The spans that have a part, those of the same rows together: a span, and after it its retries."""
        return self.plan.places(self.parts())

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows in plan order, one for each (row, variant, sample): its last attempt. Raises VerifyError for a damaged part,
        NewerFormat."""
        for spans in self.places().values():
            latest: dict[tuple[int, int, int], dict[str, Any]] = {}
            for span in spans:
                found = parts.read_part(self.store, span.name).to_pylist()
                latest |= {(row["row"], row["variant"], row["sample"]): row for row in found}
            yield from latest.values()

    def status(self) -> dict[str, Any]:
        """Where the job stands: the fields of `status --json`. Raises VerifyError for a damaged part, NewerFormat."""
        return progress.status(self.store, self.job, self.plan)

    def verify(self) -> Verdict:
        """Whether every planned row is there exactly once, from the files alone. Raises NewerFormat, StoreError."""
        return verify.verify(self.store, self.job)

    def repair(self, verdict: Verdict) -> list[str]:
        """Move the damaged parts of a verdict away, so that the next run makes them again; where they went. No run may be at
        work on the output. Raises StoreError."""
        return verify.repair(self.store, verdict)

    def retry(self, codes: Collection[str] | None = None) -> int:
        """Plan the failed rows again, all or those with these error codes, for the next run; how many there are. Raises
        InputError for an output that is not finished, OutputConflict, VerifyError, NewerFormat."""
        return retry.plan_retry(self.store, self.job, codes)

"""A whole output without a cluster: one replica runs a job's spans one after the other."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from batchgen.job.job import Job
from batchgen.output import job_file, lease, parts, plan_file
from batchgen.output.output import Output
from batchgen.output.plan_file import Plan
from batchgen.output.store import Store, open_store
from batchgen.output.success import finish
from batchgen.output.trust import manifest
from batchgen.plan import plan
from batchgen.prepare import Prepared, prepare
from batchgen.read import reader
from batchgen.records import Receipt
from batchgen.render.blocks import encode_block, encode_span
from batchgen.replica import journal
from batchgen.replica.replica import Replica

ROWS = 30


def run_here(made: Prepared, store: Store, shared: Any = None) -> list[Receipt]:
    """Bring an output to its end as a run does, with one replica in this process; the receipts of the spans it made. The engine
    is the job's, or a `shared` one with the loop that it lives on."""
    columns, functions = made.columns, made.renderer.functions
    frozen = job_file.freeze(store, made.stated, made.renderer.model, columns.kept, made.upstream, functions.versions)
    made = made.kept(store)
    job = made.job
    planned = plan.freeze_plan(job, store, made.found, columns)
    worker = Replica(made.renderer, store.url, [shard.name for shard in planned.shards], journal.spans(store), shared)

    async def work() -> list[Receipt]:
        await worker.start()
        receipts = []
        for span in planned.missing(parts.committed(store)):
            shard = planned.shards[span.shard]
            [(_, rows, kept)] = reader.read_spans(job, shard, [span], columns.kept, made.renderer.needed, functions.before)
            prompts = encode_span(made.renderer, shard.name, rows, span.again)
            receipts.append(await worker.run(encode_block(span, prompts, kept)))
        await worker.stop()
        return receipts

    receipts: list[Receipt] = (shared.run if shared else asyncio.run)(work())
    if made_parts := {receipt.span: receipt.sha256 for receipt in receipts if receipt.sha256}:
        store.delete(plan_file.SUCCESS)
        manifest.append(store, made_parts)
    with lease.hold(store, print) as held:
        finish(store, held, frozen.manifest)
    return receipts


class Finished:
    """A job over rows of which every fifth is refused until `mended`; `run` does without a cluster what a run does."""

    def __init__(self, folder: Path, lines: list[str] | None = None, **fields: Any) -> None:
        plain = [json.dumps({"prompt": f"row {n}" + (" forbidden" if n % 5 == 0 else "")}) for n in range(ROWS)]
        lines = lines or [*plain, "no json"]
        (folder / "in.jsonl").write_text("\n".join(lines) + "\n")
        self.fields: dict[str, Any] = {
            "input": {"path": str(folder / "in.jsonl"), "prompt": "prompt"},
            "engine": {"kind": "echo", "options": {"reject_on": "forbidden"}},
            "sampling": {"n": 2},
            "spans": {"rows": 10},
            "output": {"path": str(folder / "out")},
            **fields,
        }
        self.store: Store = open_store(str(folder / "out"))
        self.run()

    @property
    def prepared(self) -> Prepared:
        return prepare(Job.parse(self.fields))

    @property
    def plan(self) -> Plan:
        return self.output.plan

    def mend(self) -> None:
        self.fields["engine"] = {"kind": "echo"}

    def run(self) -> int:
        """Generate the spans without a part; how many rows were generated."""
        return sum(receipt.counts.rows - receipt.from_journal for receipt in run_here(self.prepared, self.store))

    @property
    def output(self) -> Output:
        return Output.open(self.store)

    def retry(self, *codes: str) -> int:
        return self.output.retry(codes or None)

    def rows(self, **wanted: Any) -> list[dict[str, Any]]:
        """The rows of all parts, retried ones and their failures alike."""
        found: list[dict[str, Any]] = ds.dataset(f"{self.store.url}/data").to_table().to_pylist()
        return [row for row in found if all(row[key] == value for key, value in wanted.items())]

    def status(self) -> dict[str, Any]:
        return self.output.status()

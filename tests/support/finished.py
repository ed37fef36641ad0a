"""A whole output without a cluster: one replica runs a job's spans one after the other."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from batchgen.job.job import Job
from batchgen.output import job_file, parts, plan_file, progress, retry
from batchgen.output.plan_file import Plan
from batchgen.output.store import Store, open_store
from batchgen.plan import plan
from batchgen.read import reader
from batchgen.render.blocks import encode_block, encode_span
from batchgen.replica.replica import Replica
from batchgen.run import Prepared, prepare

ROWS = 30


class Finished:
    """A job over rows of which every fifth is refused until `mended`; `run` does without a cluster what a run does, with the
    job's engine or on the loop of one that is shared."""

    shared: Any = None

    def __init__(self, folder: Path, lines: list[str] | None = None, shared: Any = None, **fields: Any) -> None:
        plain = [json.dumps({"prompt": f"row {n}" + (" forbidden" if n % 5 == 0 else "")}) for n in range(ROWS)]
        lines = lines or [*plain, "no json"]
        (folder / "in.jsonl").write_text("\n".join(lines))
        self.shared = shared
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
        return plan_file.load_plan(self.store, 2)[0]

    def mend(self) -> None:
        self.fields["engine"] = {"kind": "echo"}

    def run(self) -> int:
        """Generate the spans without a part; how many rows were generated."""
        made = self.prepared
        job, columns = made.job, made.columns
        job_file.freeze(self.store, job, made.renderer.model, columns.kept, made.upstream)
        planned = plan.freeze_plan(job, self.store, made.found, columns)
        worker = Replica(made.renderer, job.output.path, [shard.name for shard in planned.shards], engine=self.shared)

        async def work() -> int:
            await worker.start()
            generated = 0
            for span in planned.missing(parts.committed(self.store)):
                shard = planned.shards[span.shard]
                [(_, rows, kept)] = reader.read_spans(job, shard, [span], columns.kept, made.renderer.needed)
                prompts = encode_span(made.renderer, shard.name, rows, span.again)
                receipt = await worker.run(encode_block(span, prompts, kept))
                generated += receipt.counts.rows
            await worker.stop()
            return generated

        generated: int = (self.shared.run if self.shared else asyncio.run)(work())
        self.store.put(plan_file.SUCCESS, b"")
        return generated

    def retry(self, *codes: str) -> int:
        found = job_file.load_frozen(self.store)
        assert found is not None
        return retry.plan_retry(self.store, found, codes or None)

    def rows(self, **wanted: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ds.dataset(f"{self.store.url}/data").to_table().to_pylist()
        return [row for row in found if all(row[key] == value for key, value in wanted.items())]

    def status(self) -> dict[str, Any]:
        found = progress.read_status(self.store)
        assert found is not None
        return found

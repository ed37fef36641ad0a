"""A finished output of a sweep, made without a replica, whose parts tests rewrite."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.errors import RowError
from batchgen.job.job import Job
from batchgen.job.meaning import fingerprint
from batchgen.job.sampling import check_sampling
from batchgen.output import job_file, parts
from batchgen.output.format import KEY
from batchgen.output.output import Output
from batchgen.output.plan_file import SUCCESS
from batchgen.output.store import LocalStore
from batchgen.records import Completion, Span
from batchgen.records.columns import output_schema
from batchgen.render.blocks import prompt_schema
from tests.support.planning import freeze_output

SHARDS, SPANS, ROWS, VARIANTS, SAMPLES = 2, 2, 3, 2, 2
PART_ROWS = ROWS * VARIANTS * SAMPLES


class Swept:
    """A finished output: two shards of two spans of three rows, two variants, two samples. It has no manifest, like those of
    earlier releases, so that parts are judged by their rows."""

    def __init__(self, folder: Path, sweep: Sequence[int] = (0, 4)) -> None:
        (folder / "in").mkdir()
        for shard in range(SHARDS):
            lines = [json.dumps({"prompt": f"row {row}"}) + "\n" for row in range(SPANS * ROWS)]
            (folder / f"in/{shard}.jsonl").write_text("".join(lines))
        self.job = Job.parse(
            {
                "input": {"path": str(folder / "in"), "prompt": "prompt"},
                "engine": {"kind": "echo"},
                "attributes": {"schema": "karakuri", "sweep": {"verbosity": list(sweep)}},
                "sampling": {"n": SAMPLES},
                "spans": {"rows": ROWS},
                "output": {"path": str(folder / "out")},
            }
        )
        self.store = LocalStore(folder / "out")
        self.kept, self.plan = freeze_output(self.job, self.store)
        for span in self.plan.spans:
            assert parts.commit(self.store, span.name, self.part(span))
        fields = json.loads(self.store.get(job_file.NAME) or b"")
        del fields["manifest"], fields["digest"]
        self.store.put(job_file.NAME, json.dumps(fields | {"digest": fingerprint(fields)}).encode())
        self.store.put(SUCCESS, b"")

    def part(self, span: Span) -> bytes:
        """A part whose second row failed, so that its rows carry no sampling."""
        rows: list[dict[str, Any]] = [
            {"source": 0, "row": ordinal, "variant": variant, "turns": [], "sampling": self.sampling(ordinal - span.start)}
            for ordinal in range(span.start, span.end)
            for variant in range(VARIANTS)
        ]
        done = [completion(prompt, sample) for prompt in range(len(rows)) for sample in range(SAMPLES)]
        names = self.job.schema_names
        kept = pa.table([pa.nulls(1, field.type) for field in self.kept], schema=self.kept)
        prompts = pa.Table.from_pylist(rows, prompt_schema(names))
        schema, shard = output_schema(kept.schema, names), self.plan.shards[span.shard].name
        return parts.encode_part(prompts, kept, done, schema, shard, "echo", parts.footer_of(done))

    def sampling(self, row: int) -> dict[str, Any] | None:
        return None if row == 1 else dict(check_sampling({"n": SAMPLES}))

    def name(self, number: int = 0) -> str:
        return parts.part_name(self.plan.spans[number].name)

    def path(self, number: int = 0) -> Path:
        return self.store.root / self.name(number)

    def rewrite(self, change: Callable[[pa.Table], pa.Table], number: int = 0, recount: bool = True) -> None:
        """Change a part as a program that knows the format would, so that only its rows betray it."""
        table = change(pq.read_table(self.path(number)))
        if recount:
            footer = json.loads(table.schema.metadata[KEY])
            statuses = table["status"].to_pylist()
            footer["counts"] |= {status: statuses.count(status) for status in ("ok", "error")}
            table = table.replace_schema_metadata({KEY: json.dumps(footer)})
        sink = io.BytesIO()
        pq.write_table(table, sink, write_page_checksum=True)
        self.path(number).write_bytes(sink.getvalue())

    def problems(self) -> list[str]:
        return Output.open(self.store).verify().problems


def completion(prompt: int, sample: int) -> Completion:
    failed = prompt // VARIANTS == 1
    error = RowError("input", "in.jsonl:2: no") if failed else None
    return Completion(prompt, sample, None, None if failed else "yes", None, 0, 0, None, None, 0.1, 1, error)


def edited(column: str, edit: Callable[[list[Any]], list[Any]]) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index(column)
        field = table.schema.field(index)
        return table.set_column(index, field, pa.array(edit(table[column].to_pylist()), field.type))

    return change

"""An output whose parts are committed one by one, without a replica."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from batchgen import terminal
from batchgen.cluster.monitor import Monitor
from batchgen.errors import RowError
from batchgen.job.job import Job
from batchgen.job.sampling import check_sampling
from batchgen.output import parts, progress
from batchgen.output.store import LocalStore
from batchgen.records import Completion, Receipt, Span
from batchgen.records.columns import output_schema
from batchgen.render.blocks import prompt_schema
from tests.support.planning import freeze_output


class Committed:
    """An output of (four) spans of two rows, none of which has a part yet."""

    def __init__(self, folder: Path, spans: int = 4) -> None:
        (folder / "in.jsonl").write_text("".join(f'{{"prompt": "row {n}"}}\n' for n in range(2 * spans)))
        self.job = Job.parse(
            {
                "name": "test",
                "input": {"path": str(folder / "in.jsonl"), "prompt": "prompt"},
                "engine": {"kind": "echo"},
                "sampling": {"n": 2},
                "spans": {"rows": 2},
                "output": {"path": str(folder / "out")},
            }
        )
        self.store = LocalStore(folder / "out")
        self.kept, self.plan = freeze_output(self.job, self.store)

    @property
    def spans(self) -> list[Span]:
        return self.plan.spans

    def commit(self, span: Span, texts: Iterable[str] = ("hello there",), failed: int = 0) -> Receipt:
        """Give the span a part whose first rows have `texts` as answers and whose last `failed` rows failed."""
        done = [answer(number, text) for number, text in enumerate(texts)]
        done += [failure(len(done) + number, f"no {number}") for number in range(failed)]
        rows = [
            {"source": 0, "row": span.start + n, "variant": 0, "turns": [], "sampling": dict(check_sampling({}))}
            for n in range(len(done))
        ]
        prompts = pa.Table.from_pylist(rows, prompt_schema(()))
        kept = pa.table([pa.nulls(1, field.type) for field in self.kept], schema=self.kept)
        counts, errors = footer = parts.footer_of(done)
        part = parts.encode_part(prompts, kept, done, output_schema(kept.schema, ()), "in.jsonl", "echo", footer)
        assert parts.commit(self.store, span.name, part)
        return Receipt(span.name, True, counts, errors, parts.first_errors(done), 100.0, 104.0)

    def tally(self) -> progress.Tally:
        return progress.load_tally(self.store, self.plan, parts.committed(self.store))

    def monitor(self, out: io.StringIO | None = None, quiet: bool = False) -> Monitor:
        return terminal.monitor(self.tally(), self.store, "test", out or io.StringIO(), quiet)


def answer(prompt: int, text: str) -> Completion:
    said: tuple[dict[str, str | None], ...] = (
        {"role": "user", "content": f"question {prompt}"},
        {"role": "assistant", "content": text},
    )
    return Completion(prompt, 0, said, text, "stop", 10, len(text.split()), None, "abc", 0.5, 1)


def failure(prompt: int, detail: str) -> Completion:
    return Completion(prompt, 0, None, None, None, 0, 0, None, None, 0.5, 1, RowError("too_long", detail))

"""Receipts and parts -> progress, counts, errors: what status, progress.json, report.json and the terminal show.

progress.json is rewritten as the job goes. It names, as a bitmap over the plan's spans, which parts its counts
include: a run that resumes reads the footers of the few parts committed after the last write and of no others, so that
reported counts are exact after any kill.
"""

from __future__ import annotations

import base64
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

import orjson
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from batchgen.errors import VerifyError, printable
from batchgen.output import parts
from batchgen.output.job_file import load_frozen
from batchgen.output.plan_file import Plan, load_plan
from batchgen.output.store import Store
from batchgen.read.tables import in_arrow_memory
from batchgen.records import Counts, Receipt

PROGRESS, REPORT = "_batchgen/progress.json", "_batchgen/report.json"
WRITE_EVERY, LINE_EVERY = 2.0, 10.0


@dataclass
class Tally:
    """Where a job stands. `counted` are the spans whose parts are in `counts`; seconds add up over runs."""

    plan: Plan
    counted: set[str] = field(default_factory=set)
    counts: Counts = field(default_factory=Counts)
    errors: Counter[str] = field(default_factory=Counter)
    samples: list[str] = field(default_factory=list)
    seconds_total: float = 0.0
    seconds_generating: float = 0.0
    seconds_committing: float = 0.0
    """CPU of the replicas that went into encoding parts and journal files, checksums included, and into putting them."""
    state: str = "planned"
    engine: dict[str, int] = field(default_factory=dict)
    generated: int = 0
    """Spans that replicas answered for in all runs; over `spans_done` it is work done twice."""
    taken: int = 0
    """Rows that came from the journal instead of an engine."""
    restarts: int = 0
    """Engines that were started again under a living replica."""

    def __post_init__(self) -> None:
        self._rows = {span.name: 0 if span.retry else span.rows for span in self.plan.spans}
        self._again = {span.name: span.again for span in self.plan.spans if span.retry}
        self._open_rows = sum(self._rows.values())

    def add(self, span: str, counts: Counts, errors: dict[Any, int]) -> None:
        """Count a part, once."""
        if span in self.counted:
            return
        self.counted.add(span)
        self._open_rows -= self._rows[span]
        self.counts += counts
        superseded = Counter(one.code for one in self._again.get(span, ()))
        self.counts += Counts(error=-superseded.total())
        self.errors.update(errors)
        self.errors.subtract(superseded)

    @property
    def rows_planned(self) -> int:
        """Output rows; those of finished spans as they came, of the others as planned."""
        return self.counts.rows + self.plan.factor * self._open_rows

    def status(self) -> dict[str, Any]:
        """The fields of `status --json`: rows are output rows, seconds add up over the runs of the job."""
        generating = self.seconds_generating
        return {
            "state": self.state,
            "rows_planned": self.rows_planned,
            "rows_ok": self.counts.ok,
            "rows_error": self.counts.error,
            "spans_planned": len(self.plan.spans),
            "spans_done": len(self.counted),
            "prompt_tokens": self.counts.prompt_tokens,
            "completion_tokens": self.counts.completion_tokens,
            "cached_tokens": self.counts.cached_tokens,
            "seconds_total": round(self.seconds_total, 3),
            "seconds_generating": round(generating, 3),
            "seconds_committing": round(self.seconds_committing, 3),
            "tokens_per_second": round(self.counts.completion_tokens / generating, 1) if generating else 0.0,
            "spans_generated": self.generated,
            "rows_from_journal": self.taken,
            "engine_restarts": self.restarts,
            "errors": {code: number for code, number in sorted(self.errors.items()) if number},
        }

    def encode(self) -> bytes:
        bits = bytearray((len(self.plan.spans) + 7) // 8)
        for index, span in enumerate(self.plan.spans):
            if span.name in self.counted:
                bits[index // 8] |= 1 << index % 8
        fields = self.status() | {
            "counts": asdict(self.counts),
            "counted": base64.b64encode(bits).decode(),
            "error_samples": self.samples,
            "engine": self.engine,
            "driver": {"host": socket.gethostname(), "pid": os.getpid()},
        }
        return orjson.dumps(fields, option=orjson.OPT_INDENT_2)


def load_tally(store: Store, plan: Plan, committed: set[str]) -> Tally:
    """The tally of an output as its parts say: progress.json, and the footers of the parts it does not count."""
    tally = Tally(plan)
    data = store.get(PROGRESS)
    if data is not None:
        try:
            fields = orjson.loads(data)
        except ValueError as error:
            raise VerifyError(f"{PROGRESS}: damaged: {error}", "delete it: it is made again from the parts") from None
        bits = base64.b64decode(fields["counted"])
        counted = {s.name for i, s in enumerate(plan.spans) if i < len(bits) * 8 and bits[i // 8] >> i % 8 & 1}
        if counted <= committed:
            tally.counted, tally.counts, tally.errors = counted, Counts(**fields["counts"]), Counter(fields["errors"])
            tally.samples = fields["error_samples"]
            tally._open_rows -= sum(tally._rows[span] for span in counted)
        tally.seconds_total, tally.seconds_generating = fields["seconds_total"], fields["seconds_generating"]
        tally.seconds_committing = fields["seconds_committing"]
        tally.generated, tally.engine = fields["spans_generated"], fields["engine"]
        tally.taken, tally.restarts = fields["rows_from_journal"], fields["engine_restarts"]
        tally.state = _state(fields)
    late = [span.name for span in plan.spans if span.name in committed and span.name not in tally.counted]
    with ThreadPoolExecutor(8) as pool:
        for span, (counts, errors) in zip(late, pool.map(lambda name: parts.read_footer(store, name), late), strict=True):
            tally.add(span, counts, errors)
    return tally


def _state(fields: dict[str, Any]) -> str:
    """A state of `running` is believed unless its driver was here and is gone."""
    state, driver = str(fields["state"]), fields["driver"]
    if state == "running" and driver["host"] == socket.gethostname() and not os.path.exists(f"/proc/{driver['pid']}"):
        return "interrupted"
    return state


def read_status(store: Store) -> dict[str, Any] | None:
    """What `batchgen status` prints, from the output alone; None where there is no output."""
    frozen = load_frozen(store)
    if frozen is None:
        return None
    plan, _ = load_plan(store, frozen.job.variants * frozen.job.samples)
    tally = load_tally(store, plan, parts.committed(store))
    return {"name": frozen.job.name, "output": store.url, **tally.status()}


def over_limit(tally: Tally, allowed: float) -> str:
    """How many rows failed, in words."""
    codes = ", ".join(f"{code} {number}" for code, number in tally.status()["errors"].items())
    return f"{tally.counts.error:,} of {tally.counts.rows:,} rows failed ({codes}), over limits.errors {allowed:g}"


class Monitor:
    """Shows progress while a job runs and keeps progress.json: a bar on a terminal, else a line every 10 s."""

    def __init__(self, tally: Tally, store: Store, name: str, out: TextIO, quiet: bool = False) -> None:
        self.tally, self._store, self._name, self._quiet = tally, store, name, quiet
        self._console = Console(file=out)
        self._began = time.monotonic()
        self._before = (tally.seconds_total, tally.seconds_generating, tally.counts)
        self._first: float | None = None
        self._last = 0.0
        self._written = self._shown = 0.0
        self._bar: Progress | None = None
        if self._console.is_terminal and not quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[more]}"))
            self._bar = Progress(*columns, TimeElapsedColumn(), console=self._console)
            self._task = self._bar.add_task(name, total=tally.rows_planned, more="")

    def live(self) -> AbstractContextManager[Any]:
        return self._bar or nullcontext()

    def receipt(self, receipt: Receipt) -> None:
        """Count a span's part."""
        self.tally.add(receipt.span, receipt.counts, receipt.errors)
        self.tally.generated += 1
        self.tally.taken += receipt.from_journal
        self.tally.restarts += receipt.restarts
        self.tally.seconds_committing += receipt.committing
        self._first = min(self._first or receipt.first, receipt.first)
        self._last = max(self._last, receipt.last)
        for error in receipt.samples[: 5 - len(self.tally.samples)]:
            self.tally.samples.append(f"{error.code}: {error.detail}")

    def tick(self, replicas: int, force: bool = False) -> None:
        """Show and write where the job stands, if it is time."""
        now = time.monotonic()
        total, generating, _ = self._before
        self.tally.seconds_total = total + now - self._began
        self.tally.seconds_generating = generating + (self._last - self._first if self._first is not None else 0.0)
        if force or now - self._written >= WRITE_EVERY:
            self._written = now
            self._store.put(PROGRESS, self.tally.encode())
        if self._bar is not None:
            self._bar.update(
                self._task, completed=self.tally.counts.rows, total=self.tally.rows_planned, more=self._words(replicas)
            )
        elif not self._quiet and (force or now - self._shown >= LINE_EVERY):
            self._shown = now
            rows = f"{self.tally.counts.rows:,}/{self.tally.rows_planned:,} rows"
            self._console.print(f"{self._name}: {rows}, {self._words(replicas)}", highlight=False, soft_wrap=True)

    def message(self, text: str) -> None:
        self._console.print(printable(text), highlight=False, soft_wrap=True, markup=False)

    def _words(self, replicas: int) -> str:
        counts, before = self.tally.counts, self._before[2]
        spent = self._last - self._first if self._first is not None else 0.0
        speed = (counts.completion_tokens - before.completion_tokens) / spent if spent > 0 else 0.0
        rows_left = self.tally.rows_planned - counts.rows
        rate = (counts.rows - before.rows) / spent if spent > 0 else 0.0
        eta = f"{_duration(rows_left / rate)} left" if rate and rows_left else "done" if not rows_left else "starting"
        return f"{counts.ok:,} ok, {counts.error:,} error, {speed:,.0f} tokens/s, {replicas} replicas, {eta}"


def _cache_words(counts: Counts, shared: bool) -> str:
    """What the engine's prefix cache knew; of prompts that have nothing in common only where it is something."""
    if not counts.cached_tokens and not (shared and counts.prompt_tokens):
        return ""
    return f"; {counts.cached_tokens / counts.prompt_tokens:.0%} of the prompt tokens were cached"


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}h{rest // 60:02d}m" if hours else f"{rest // 60}m{rest % 60:02d}s" if rest >= 60 else f"{rest}s"


def first_answers(store: Store, plan: Plan, rows: int = 3) -> Iterator[list[dict[str, Any]]]:
    """The ok answers of the first few input rows, the variants of one row together."""
    wanted = ["row", "variant", "sample", "attributes", "messages", "response", "status"]
    for span in [span for span in plan.spans if not span.retry][:8]:
        data = store.get(parts.part_name(span.name))
        if data is None or rows <= 0:
            continue
        part = pq.ParquetFile(in_arrow_memory(data))
        table = part.read(columns=[name for name in wanted if name in part.schema_arrow.names]).slice(0, 2_000)
        by_row: dict[int, list[dict[str, Any]]] = {}
        for answer in table.to_pylist():
            if answer["status"] == "ok":
                by_row.setdefault(answer["row"], []).append(answer)
        for answers in list(by_row.values())[:rows]:
            rows -= 1
            yield answers


def print_summary(tally: Tally, store: Store, plan: Plan, varied: list[str], out: TextIO) -> None:
    """The human end of a run: counts, the first answers side by side, where the data is, what to do next."""
    console = Console(file=out)
    counts, status = tally.counts, tally.status()
    console.print(
        f"\n{counts.rows:,} rows: {counts.ok:,} ok, {counts.error:,} error; {counts.completion_tokens:,} tokens in "
        f"{status['seconds_generating']:.1f} s of generating ({status['tokens_per_second']:,.0f} tokens/s)"
        f"{_cache_words(counts, bool(varied))}",
        highlight=False,
    )
    for sample in tally.samples:
        console.print(f"  {printable(sample)}", highlight=False, markup=False, soft_wrap=True)
    for answers in first_answers(store, plan):
        table = Table(title=None, show_lines=False, expand=False)
        table.add_column("variant" if varied else "sample")
        table.add_column(Text(printable(f"answer to: {answers[0]['messages'][-2]['content'][:100]}")), overflow="fold")
        ends = answers if len(answers) <= 3 else [answers[0], answers[-1]]
        for answer in ends:
            label = ", ".join(f"{name} {answer['attributes'][name]}" for name in varied) or str(answer["sample"])
            table.add_row(label, Text(printable((answer["response"] or "").strip()[:400])))
        console.print(table)
    console.print(f"Parquet: {store.url}/{parts.DATA}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"Next:    batchgen verify {store.url}", highlight=False, markup=False, soft_wrap=True)

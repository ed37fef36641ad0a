"""Receipts and parts -> progress, counts, errors: what status, progress.json, report.json and the terminal show.

progress.json is rewritten as the job goes. It names, as a bitmap over the plan's spans, which parts its counts
include: a run that resumes reads the footers of the few parts committed after the last write and of no others, so that
reported counts are exact after any kill. What it lacks, or says in another format, is made again from the parts.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import orjson

from batchgen.errors import NewerFormat
from batchgen.output import parts
from batchgen.output.format import mark, refuse_newer
from batchgen.output.job_file import JobFile
from batchgen.output.plan_file import SUCCESS, Plan
from batchgen.output.store import Store
from batchgen.records import Counts, Receipt

PROGRESS, REPORT = "_batchgen/progress.json", "_batchgen/report.json"
WRITE_SECONDS = 2.0
"""How often progress.json is written."""
SAMPLES = 5
"""How many errors are kept in words."""


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

    def restore(self, fields: Mapping[str, Any], committed: set[str]) -> None:
        """Take over what a progress.json says; of its counts nothing where a part that they include is gone."""
        for name in ("seconds_total", "seconds_generating", "seconds_committing"):
            setattr(self, name, float(fields.get(name, 0.0)))
        self.generated = int(fields.get("spans_generated", 0))
        self.taken, self.restarts = int(fields.get("rows_from_journal", 0)), int(fields.get("engine_restarts", 0))
        self.engine = dict(fields.get("engine", {}))
        self.state = _state(fields) or self.state
        bits = base64.b64decode(fields["counted"])
        counted = {s.name for i, s in enumerate(self.plan.spans) if i < len(bits) * 8 and bits[i // 8] >> i % 8 & 1}
        counts = Counts(**{one.name: fields["counts"][one.name] for one in dataclasses.fields(Counts)})
        errors = Counter(dict(fields["errors"]))
        if counted <= committed:
            self.counted, self.counts, self.errors = counted, counts, errors
            self.samples = list(fields.get("error_samples", []))
            self._open_rows -= sum(self._rows[span] for span in counted)

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
            **mark(),
        }
        return orjson.dumps(fields, option=orjson.OPT_INDENT_2)


def load_tally(store: Store, plan: Plan, committed: set[str]) -> Tally:
    """The tally of an output as its parts say: progress.json, and the footers of the parts that it does not count.

    Raises VerifyError for a damaged part, NewerFormat.
    """
    tally = Tally(plan)
    if committed:
        tally.state = "interrupted" if store.get(SUCCESS) is None else "done"
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, NewerFormat):  # the parts say it all
        fields = orjson.loads(store.get(PROGRESS) or b"{}")
        refuse_newer(fields, PROGRESS)
        tally.restore(fields, committed)
    late = [span.name for span in plan.spans if span.name in committed and span.name not in tally.counted]
    with ThreadPoolExecutor(8) as pool:
        for span, (counts, errors) in zip(late, pool.map(lambda name: parts.read_footer(store, name), late), strict=True):
            tally.add(span, counts, errors)
    return tally


def _state(fields: Mapping[str, Any]) -> str | None:
    """The state that a progress.json names. `running` is believed unless its driver was here and is gone."""
    driver = fields.get("driver", {})
    here = driver.get("host") == socket.gethostname()
    if fields.get("state") == "running" and here and not os.path.exists(f"/proc/{driver.get('pid')}"):
        return "interrupted"
    return fields.get("state")


def status(store: Store, job: JobFile, plan: Plan) -> dict[str, Any]:
    """The fields of `status --json`, from the output alone."""
    tally = load_tally(store, plan, parts.committed(store))
    return {"name": job.job.name, "output": store.url, **tally.status()}


def over_limit(tally: Tally, allowed: float) -> str:
    """How many rows failed, in words."""
    codes = ", ".join(f"{code} {number}" for code, number in tally.status()["errors"].items())
    return f"{tally.counts.error:,} of {tally.counts.rows:,} rows failed ({codes}), over limits.errors {allowed:g}"


@dataclass(frozen=True)
class Progress:
    """What a screen shows of a running job: output rows, and the speed of this run."""

    name: str
    rows: int
    rows_planned: int
    ok: int
    error: int
    tokens_per_second: float
    replicas: int
    seconds_left: float | None
    """None as long as no row is done in this run."""


class Screen(Protocol):
    """Where a running job is shown (terminal.py)."""

    def live(self) -> contextlib.AbstractContextManager[object]:
        """Holds the screen while a job runs."""
        ...

    def show(self, progress: Progress, force: bool) -> None:
        """Called at every tick of the driver; `force` at the last one."""
        ...

    def message(self, text: str) -> None: ...


class Monitor:
    """Counts a run's receipts, keeps progress.json and shows the progress on a screen."""

    def __init__(self, tally: Tally, store: Store, name: str, screen: Screen) -> None:
        self.tally, self._store, self._name, self._screen = tally, store, name, screen
        self._began = time.monotonic()
        self._before = (tally.seconds_total, tally.seconds_generating, tally.counts)
        self._first: float | None = None
        self._last = 0.0
        self._written = 0.0

    def live(self) -> contextlib.AbstractContextManager[object]:
        return self._screen.live()

    def message(self, text: str) -> None:
        self._screen.message(text)

    def receipt(self, receipt: Receipt) -> None:
        """Count a span's part."""
        self.tally.add(receipt.span, receipt.counts, receipt.errors)
        self.tally.generated += 1
        self.tally.taken += receipt.from_journal
        self.tally.restarts += receipt.restarts
        self.tally.seconds_committing += receipt.committing
        self._first = min(self._first or receipt.first, receipt.first)
        self._last = max(self._last, receipt.last)
        for error in receipt.samples[: SAMPLES - len(self.tally.samples)]:
            self.tally.samples.append(f"{error.code}: {error.detail}")

    def tick(self, replicas: int, force: bool = False) -> None:
        """Write and show where the job stands, if it is time."""
        now = time.monotonic()
        total, generating, _ = self._before
        self.tally.seconds_total = total + now - self._began
        self.tally.seconds_generating = generating + self._seconds
        if force or now - self._written >= WRITE_SECONDS:
            self._written = now
            self._store.put(PROGRESS, self.tally.encode())
        self._screen.show(self._progress(replicas), force)

    @property
    def _seconds(self) -> float:
        """Of this run, from the first row that entered an engine to the last that left it."""
        return self._last - self._first if self._first is not None else 0.0

    def _progress(self, replicas: int) -> Progress:
        counts, before, seconds = self.tally.counts, self._before[2], self._seconds
        speed = (counts.completion_tokens - before.completion_tokens) / seconds if seconds > 0 else 0.0
        rate = (counts.rows - before.rows) / seconds if seconds > 0 else 0.0
        left = self.tally.rows_planned - counts.rows
        seconds_left = left / rate if rate else None if left else 0.0
        planned = self.tally.rows_planned
        return Progress(self._name, counts.rows, planned, counts.ok, counts.error, speed, replicas, seconds_left)

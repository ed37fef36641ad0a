"""The driver's account of a run: receipts are counted, progress.json is kept, and terminal.py shows both. No Ray."""

import contextlib
import copy
import math
import time

from rich.console import Console

from batchgen.errors import cause_of, printable, scrubbed
from batchgen.output import progress
from batchgen.output.lease import Lease
from batchgen.output.store import Store
from batchgen.output.trust import manifest
from batchgen.records import Receipt

WRITE_SECONDS = 2.0  # between writes of progress.json
RECORD_SECONDS, RECORD_PARTS = 60.0, 1_000  # after which the parts that were made get their file of the manifest
STILL_SECONDS = 5.0  # without a finished row after which their age is shown
SAMPLES = 5  # errors that are kept in words


class Monitor:
    """Shows messages, and no progress. A terminal that has gone does not stop a job. `lease` is the driver's, under which the
    files of the job's state are written; None in a test without one."""

    def __init__(self, tally: progress.Tally, store: Store, name: str, console: Console, lease: Lease | None = None) -> None:
        self.tally, self.name, self.console, self._store, self._lease = tally, name, console, store, lease
        self._made, self._recorded = dict[str, str](), time.monotonic()
        self._before, self._began, self._written = copy.copy(tally), time.monotonic(), 0.0
        self._first, self._last = math.inf, -math.inf
        said = (line.partition(": ") for line in tally.samples)
        self._causes = {(code, cause_of(detail)): number for number, (code, _, detail) in enumerate(said)}
        self.uncommitted = 0  # finished rows whose spans are not, as last told
        self._finished, self._progressed = (0, 0), time.monotonic()

    def live(self) -> contextlib.AbstractContextManager[object]:
        """Holds the screen while a job runs."""
        return contextlib.nullcontext()

    def show(self, text: str, force: bool) -> None:
        """Called at every tick, with the tally in words; `force` at the last one."""

    def message(self, text: str) -> None:
        """Print a text, the time of day before each line."""
        now = time.strftime("%H:%M:%S")
        lines = "\n".join(f"{now} {line}" for line in printable(scrubbed(text)).split("\n"))
        with contextlib.suppress(OSError, ValueError):
            self.console.print(lines, highlight=False, soft_wrap=True, markup=False)

    def receipt(self, receipt: Receipt) -> None:
        """Count a span's part."""
        if receipt.sha256 is not None:
            self._made[receipt.span] = receipt.sha256
        self.tally.add(receipt.span, receipt.counts, receipt.errors)
        self.tally.spans_generated += 1
        self.tally.rows_from_journal += receipt.from_journal
        self.tally.engine_restarts += receipt.restarts
        self.tally.seconds_committing += receipt.committing
        self._first, self._last = min(self._first, receipt.first), max(self._last, receipt.last)
        for error, rows in receipt.samples:
            cause = str(error.code), error.cause
            if cause in self._causes:
                self.tally.sample_rows[self._causes[cause]] += rows
            elif len(self.tally.samples) < SAMPLES:
                self._causes[cause] = len(self.tally.samples)
                self.tally.samples.append(f"{error.code}: {error.detail}")
                self.tally.sample_rows.append(rows)

    def tick(self, replicas: int, force: bool = False) -> None:
        """Write and show where the job stands, if it is time. Raises LeaseError, StoreError."""
        now, tally = time.monotonic(), self.tally
        tally.seconds_total = self._before.seconds_total + now - self._began
        tally.seconds_generating = self._before.seconds_generating + self._seconds
        if force or now - self._written >= WRITE_SECONDS:
            self._written = now
            (self._lease or self._store).put(progress.PROGRESS, tally.encode())
            if force or len(self._made) >= RECORD_PARTS or now - self._recorded >= RECORD_SECONDS:
                self.record()
        with contextlib.suppress(OSError, ValueError):
            self.show(self._words(replicas), force)

    def record(self) -> None:
        """Add the parts that were made since the last time to the manifest. Raises LeaseError, StoreError."""
        self._recorded = time.monotonic()
        if self._made:
            if self._lease:
                self._lease.confirm()
            manifest.append(self._store, self._made)
            self._made = {}

    @property
    def _seconds(self) -> float:
        """Of this run, from the first row that entered an engine to the last that left it."""
        return max(0.0, self._last - self._first)

    def _words(self, replicas: int) -> str:
        """Counts, and what the run waits for; or its speed, and the time left, unknown as long as no row is done in it."""
        counts, before, seconds = self.tally.counts, self._before.counts, self._seconds or math.inf
        if (finished := (counts.rows, self.uncommitted)) != self._finished:
            self._finished, self._progressed = finished, time.monotonic()
        done = f"{counts.ok:,} ok, {counts.error:,} error" + (f", {self.uncommitted:,} not committed" * (self.uncommitted > 0))
        if self.tally.waits_for is not None:
            return f"{done}, {replicas} replicas, waiting for {self.tally.waits_for}"
        earlier = before.completion_tokens if counts.completion_tokens else before.prompt_tokens
        speed = (counts.tokens - earlier) / seconds
        rate = (counts.rows - before.rows) / seconds
        open_rows = self.tally.rows_planned - counts.rows
        left = (f"{_duration(open_rows / rate)} left" if rate else "generating") if open_rows else "done"
        age = time.monotonic() - self._progressed
        still = f", last row {_duration(age)} ago" if open_rows and age >= STILL_SECONDS else ""
        return f"{done}, {speed:,.0f} tokens/s, {replicas} replicas, {left}{still}"


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}h{rest // 60:02d}m" if hours else f"{rest // 60}m{rest % 60:02d}s" if rest >= 60 else f"{rest}s"

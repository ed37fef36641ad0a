"""What the driver's loop costs: the real one (driver.py, dispatch.py, monitor.py, the tally) over a pool without Ray.

    python tests/bench/driver.py [--replicas 1000] [--open 4] [--spans 20000] [--planned 250000]

Every replica holds `--open` spans and has capacity again as soon as one of them is done; one turn of the loop brings the receipts
of the `--turn` oldest spans, the next the capacity that they leave. The plan has `--planned` spans, so that progress.json is as
large as it would be; it is written to a local folder every two seconds, and the manifest every 1,000 parts, as in a job. What Ray
takes for a call is not in it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import deque
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from batchgen.cluster.driver import Run
from batchgen.cluster.lookahead import END
from batchgen.cluster.monitor import Monitor
from batchgen.cluster.policy import dispatch
from batchgen.job.job import Job
from batchgen.output.plan_file import Plan
from batchgen.output.progress import Tally
from batchgen.output.store import LocalStore
from batchgen.records import Counts, Receipt, Span

ROWS, SHA256 = 16, 64 * "0"  # of a span


class Pool:
    """What the driver asks of a pool; `calls` are the spans that run, the oldest first."""

    prompts_left, uncommitted = 0.0, 0

    def __init__(self, replicas: int, open_spans: int, turn: int) -> None:
        self.alive = self.staying = set(range(replicas))
        self._held = dict.fromkeys(self.alive, 0)
        self._open, self._turn = open_spans, turn
        self._calls: deque[tuple[int, Any]] = deque()
        self._free: list[int] = []
        self.assigned = 0

    def ask_capacity(self, replica: int) -> None:
        self._free.append(replica)

    size = 2

    def assign(self, replica: int, item: Hashable, again: bool, care: object = None, pace: float = 1.0) -> None:
        assert not again
        self.assigned += 1
        self._held[replica] += 1
        self._calls.append((replica, item))
        if self._held[replica] < self._open:
            self._free.append(replica)

    def wait(self, seconds: float) -> Iterator[dispatch.Event]:
        free, self._free = self._free, []
        for replica in free:
            yield dispatch.Capacity(replica, ROWS * self._held[replica])
        for _ in range(0 if free else min(self._turn, len(self._calls))):
            replica, span = self._calls.popleft()
            receipt = Receipt(span.name, True, Counts(ok=ROWS, completion_tokens=ROWS), {}, [], 0.0, 1.0, sha256=SHA256)
            if self._held[replica] == self._open:
                self._free.append(replica)
            self._held[replica] -= 1
            yield dispatch.Finished(replica, span, receipt)

    def where(self, replica: int) -> str:
        return ""

    def adjust(self, waiting: int, running: int, feed_ended: bool, idle: list[int]) -> tuple[list[int], list[int], list[str]]:
        return [], [], []


class Feed:
    """The spans themselves, always ready."""

    def __init__(self, spans: list[Span]) -> None:
        self._spans = iter(spans)

    def next(self) -> Any:
        return next(self._spans, END)


class Lease:
    """A lease that nobody wants; files are put as they are."""

    def __init__(self, store: LocalStore) -> None:
        self.put = store.put

    def check(self) -> None: ...

    def confirm(self) -> None: ...


def a_plan(spans: int) -> Plan:
    return Plan((), [Span(0, ROWS * n, ROWS * (n + 1), ROWS, 0, 0) for n in range(spans)], 1)


def a_job(folder: Path) -> Job:
    where = {"input": {"path": str(folder / "in.jsonl"), "prompt": "prompt"}, "output": {"path": str(folder / "out")}}
    return Job.parse({"engine": {"kind": "echo"}, **where})


def run(replicas: int, open_spans: int, spans: int, planned: int, turn: int) -> dict[str, float]:
    """A pass over `spans` of the `planned` ones: how many were assigned and counted, spans a second, milliseconds an encode."""
    with tempfile.TemporaryDirectory() as name, open("/dev/null", "w", encoding="utf-8") as null:
        folder = Path(name)
        store, plan = LocalStore(folder / "out"), a_plan(planned)
        lease: Any = Lease(store)
        monitor = Monitor(Tally(plan), store, "bench", Console(file=null), lease)
        nothing: Any = None
        driver = Run(a_job(folder), nothing, nothing, store, plan, monitor, lease, lambda: False)
        pool: Any = Pool(replicas, open_spans, turn)
        driver._pool, driver._first_wait = pool, ""
        feed: Any = Feed(plan.spans[:spans])
        driver._feed = feed
        began, cpu = time.monotonic(), time.process_time()
        driver._run_pass()
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
        tries = 5
        began = time.monotonic()
        for _ in range(tries):
            data = monitor.tally.encode()
        encoding = (time.monotonic() - began) / tries
        counted = len(monitor.tally.counted)
    return {
        "assigned": pool.assigned,
        "counted": counted,
        "spans/s": spans / seconds,
        "cpu": 1e6 * cpu / spans,
        "ms": 1000 * encoding,
        "bytes": len(data),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=1_000)
    parser.add_argument("--open", type=int, default=4)
    parser.add_argument("--spans", type=int, default=20_000)
    parser.add_argument("--planned", type=int, default=250_000)
    parser.add_argument("--turn", type=int, default=10)
    options = parser.parse_args()
    found = run(options.replicas, options.open, options.spans, options.planned, options.turn)
    print("| replicas x open | spans | spans/s | us CPU a span | ms an encode | bytes | planned |\n|---|---|---|---|---|---|---|")
    cells = [
        f"{options.replicas:,} x {options.open}",
        f"{found['counted']:,}",
        f"{found['spans/s']:,.0f}",
        f"{found['cpu']:.0f}",
        f"{found['ms']:.2f}",
    ]
    print(f"| {' | '.join(cells)} | {found['bytes']:,} | {options.planned:,} |")


if __name__ == "__main__":
    main()

"""What grows with the input and what must not: rows a second and the driver's memory from 10^4 to 10^6 rows, and a plan
of 250,000 spans.

    python tests/bench/scale.py [--rows 10000,100000,1000000] [--spans 250000]

Rows are one-token labels by the echo engine, so that nothing but batchgen's own path is measured. Peak memory is of the
driver's process.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import run_job

from batchgen.job.job import Job
from batchgen.output import parts, plan_file
from batchgen.output.store import open_store
from batchgen.plan import plan
from batchgen.read.columns import look
from batchgen.read.discover import discover


def labels(path: Path, rows: int) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for row in range(rows):
            file.write(json.dumps({"prompt": f"Label this text about tea and gardens, number {row}, as good or bad."}) + "\n")


def make_job(folder: Path, **sections: Any) -> dict[str, Any]:
    return {
        "input": {"path": str(folder / "rows.jsonl"), "prompt": "prompt"},
        "engine": {"kind": "echo"},
        "sampling": {"max_tokens": 1},
        "replicas": {"max": 1},
        "output": {"path": str(folder / "out")},
        **sections,
    }


def run_rows(rows: int) -> dict[str, Any]:
    """A whole run in a process of its own: its status, `seconds` and `driver_peak_mb`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        labels(folder / "rows.jsonl", rows)
        return run_job(make_job(folder))


def plan_spans(spans: int) -> dict[str, float]:
    """Seconds to plan so many spans, to load the plan, to list as many parts and to find what is missing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        labels(folder / "rows.jsonl", spans * 4)
        job = Job.parse(make_job(folder, spans={"rows": 4}))
        store = open_store(job.output.path)
        found = discover(job.input)
        columns = look(job, found)
        seconds = {}
        began = time.monotonic()
        planned = plan.freeze_plan(job, store, found, columns)
        seconds["scan, plan, freeze"] = time.monotonic() - began
        began = time.monotonic()
        planned, _ = plan_file.load_plan(store, planned.factor)
        seconds["load"] = time.monotonic() - began
        (folder / "out" / parts.DATA).mkdir()
        for span in planned.spans[:-1]:
            (folder / "out" / parts.part_name(span.name)).touch()
        began = time.monotonic()
        done = parts.committed(store)
        seconds["list"] = time.monotonic() - began
        began = time.monotonic()
        missing = planned.missing(done)
        seconds["what is missing"] = time.monotonic() - began
        assert (len(planned.spans), len(missing)) == (spans, 1)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="10000,100000,1000000")
    parser.add_argument("--spans", type=int, default=250_000)
    options = parser.parse_args()
    print("| rows | spans | rows/s generating | whole s | driver's peak MB |\n|---|---|---|---|---|")
    for rows in map(int, options.rows.split(",")):
        found = run_rows(rows)
        speed = found["rows_ok"] / found["seconds_generating"]
        cells = [f"{rows:,}", f"{found['spans_done']:,}", f"{speed:,.0f}", f"{found['seconds']:.1f}"]
        print(f"| {' | '.join(cells)} | {found['driver_peak_mb']:.0f} |", flush=True)
    print(f"\n| {options.spans:,} spans | seconds |\n|---|---|")
    for what, seconds in plan_spans(options.spans).items():
        print(f"| {what} | {seconds:.1f} |")
    print(f"| peak of this process, MB | {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} |")


if __name__ == "__main__":
    main()

"""A JSONL of several GB, sparse in text, with one 50 MB line: what planning and reading cost the driver.

    python tests/bench/large_input.py [--gigabytes 5] [--folder DIR]

Writes the file, runs `batchgen run` on it with the echo engine, and prints a table: seconds, the driver's peak
resident memory, rows, errors. The file is removed afterwards.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from measure import run_job

LINE = 100_000


def write(path: Path, gigabytes: float) -> int:
    """Rows padded with JSON white space to 100 kB each; row 1000 is one line of 50 MB."""
    rows = int(gigabytes * 1e9 / LINE)
    with open(path, "wb") as file:
        for row in range(rows):
            text = b'{"prompt": "' + (b"x" * 50_000_000 if row == 1000 else b"row %d" % row) + b'"'
            file.write(text.ljust(LINE - 2) + b"}\n")
    return rows


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--gigabytes", type=float, default=5.0)
    arguments.add_argument("--folder", default=None)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "large.jsonl"
        rows = write(path, options.gigabytes)
        job = {
            "input": {"path": str(path), "prompt": "prompt"},
            "engine": {"kind": "echo"},
            "replicas": {"max": 1},
            "output": {"path": str(Path(folder) / "out")},
        }
        found = run_job(job)
        print(f"file           {os.path.getsize(path) / 1e9:.2f} GB, {rows:,} lines")
        print(f"whole run      {found['seconds']:.1f} s")
        print(f"driver's peak  {found['driver_peak_mb']:.0f} MB")
        print(f"rows           {found['rows_ok']:,} ok, {found['rows_error']:,} error {found['errors']}")


if __name__ == "__main__":
    main()

"""The outputs of released formats: what they hold, and what is done with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from batchgen.job.job import Job
from batchgen.replica import journal
from tests.support.commands import in_process

KINDS: dict[str, tuple[int, dict[str, int], int, str]] = {
    "chained": (13, {}, 197, "c9b53dc9633cc03e"),
    "grown": (12, {}, 165, "ae44a9c6ad62d0d0"),
    "labels": (6, {"parse": 2}, 44, "1d0ddf7fb1ed66b0"),
    "logprobs": (12, {}, 120, "ffecf08a78362510"),
    "parquet": (12, {}, 176, "e34a7f23e3bdce4a"),
    "parsed": (12, {"parse": 2}, 64, "072f5d8deb897c86"),
    "plain": (14, {"input": 1}, 172, "047f648e4f28babf"),
    "retry": (28, {"engine_rejected": 2, "input": 2}, 346, "73bf28c222ff4741"),
    "sweep": (36, {}, 318, "f96de2886f60651c"),
    "turns": (6, {}, 240, "d8642f2d47f0bff4"),
}
"""The finished outputs of format 1: rows, failed rows by code, generated tokens, and a digest of the answers. `interrupted` is
the one that is not finished."""


def contents(output: Path) -> dict[str, bytes]:
    """The parts of an output by name."""
    return {path.name: path.read_bytes() for path in sorted((output / "data").glob("*"))}


def done(folder: Path, *arguments: str) -> str:
    """What a command that ends well prints."""
    end = in_process(folder, *arguments)
    assert end.returncode == 0, end.stderr
    return end.stdout


def job_of(folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Job:
    """The kind's job, whose relative paths start at its folder from now on."""
    monkeypatch.chdir(folder)
    return Job.load("job.yaml", overrides)


def journal_rows(output: Path) -> list[dict[str, Any]]:
    """The rows in the journal, each with its ordinal, of the one span that has any."""
    [folder] = [path for path in sorted((output / journal.FOLDER).iterdir()) if list(path.iterdir())]
    start = int(folder.name.split("-")[1])
    rows = [row for path in folder.iterdir() for row in pq.read_table(path).to_pylist()]
    return [{**row, "row": start + row["prompt"]} for row in rows]

"""The command line as its users run it: processes of their own, on local Ray with the echo engine, or this process."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchgen.cli import main

SHARDS, ROWS = 8, 20_000


def write_questions(folder: Path) -> None:
    """ROWS rows in SHARDS shards."""
    for shard in range(SHARDS):
        rows = [{"id": f"{shard}-{i}", "prompt": f"Question {i} of shard {shard}, and why?"} for i in range(ROWS // SHARDS)]
        (folder / f"{shard}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def batchgen(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "batchgen", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def in_process(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What the console script does in `folder`, without the cost of a process."""
    out, words, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["batchgen", *arguments]
    try:
        with chdir(folder), redirect_stdout(out), redirect_stderr(words):
            main()
    except SystemExit as end:
        return subprocess.CompletedProcess(sys.argv, int(end.code or 0), out.getvalue(), words.getvalue())
    finally:
        sys.argv = before
    raise AssertionError("the console script ends with an exit code")


def check(folder: Path, *overrides: str, job: str = "job.yaml") -> subprocess.CompletedProcess[str]:
    return in_process(folder, "check", job, *(word for override in overrides for word in ("--set", override)))


def mistake(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that tells the user of a mistake."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def start(job: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "batchgen", "run", job, *options], stderr=subprocess.PIPE, text=True)


def hear(driver: subprocess.Popen[str], words: str, times: int = 1) -> str:
    """What the driver says until it has said these words so many times."""
    assert driver.stderr is not None
    heard = ""
    while heard.count(words) < times:
        heard += driver.stderr.readline() or pytest.fail(f"no {words!r}: {heard}")
    return heard


def write_job(folder: Path, **fields: Any) -> str:
    job = {"engine": {"kind": "echo"}, "output": {"path": str(folder / "out")}, "replicas": {"max": 2}, **fields}
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return str(folder / "job.yaml")


def status(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(batchgen("status", str(folder / "out"), "--json").stdout)
    return found


def replicas_of(driver: int) -> list[int]:
    """The processes of the replicas below a driver; Ray names worker processes after their actor."""
    parents = {}
    names = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_text()
            except OSError:
                continue
    family = {driver}
    for _ in range(8):
        family |= {pid for pid, parent in parents.items() if parent in family}
    return sorted(pid for pid in family if names.get(pid, "").startswith("ray::ReplicaActor"))

"""Once _SUCCESS is there the job is done: nothing that comes after it decides how the run ends."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

import batchgen
from batchgen import terminal
from batchgen.errors import BatchgenError, LeaseError, StoreError
from batchgen.output import lease, parts, progress
from batchgen.output.plan_file import SUCCESS
from batchgen.output.store import LocalStore
from tests.support.finished import Finished


@pytest.fixture
def output(tmp_path: Path) -> Finished:
    """An output whose parts are all there, and whose last run was killed before it said so."""
    output = Finished(tmp_path, limits={"errors": 1})
    output.store.delete(SUCCESS)
    output.store.put("_batchgen/journal/x/1.parquet", b"left over")
    return output


def run(output: Finished, out: Any = None) -> str:
    said = out or io.StringIO()
    assert batchgen.run(output.fields, out=said)["state"] == "done"
    assert output.store.get(SUCCESS)
    return str(said.getvalue()) if isinstance(said, io.StringIO) and not said.closed else ""


def test_a_run_that_ends_well_says_so_and_cleans_up(output: Finished) -> None:
    assert "warning" not in run(output)
    assert list(output.store.list("_batchgen/journal")) == []
    assert output.output.verify().problems == []
    assert (output.status()["state"], output.status()["ended"]) == ("done", {"reason": "done", "exit_code": 0})


def directory(output: Finished, _: pytest.MonkeyPatch) -> None:
    output.store.delete(progress.REPORT)
    (Path(output.store.url) / progress.REPORT).mkdir()


def no_progress(_: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(held: lease.Lease, name: str, data: bytes) -> None:
        if name == progress.PROGRESS:
            raise StoreError(f"{name}: not permitted")
        kept(held, name, data)

    kept = lease.Lease.put
    monkeypatch.setattr(lease.Lease, "put", refuse)


def no_cleaning(_: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(store: LocalStore, names: Iterable[str]) -> None:
        raise StoreError(f"{next(iter(names))}: not permitted")

    monkeypatch.setattr(LocalStore, "delete_all", refuse)


def no_summary(_: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "print_summary", lambda *_: [][0])


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (directory, "report: .*report.json: "),
        (no_progress, "progress: _batchgen/progress.json: not permitted"),
        (no_cleaning, "clean-up: _batchgen/journal/x/1.parquet: not permitted"),
        (no_summary, "summary: list index out of range"),
    ],
    ids=["report", "progress", "clean-up", "summary"],
)
def test_what_fails_after_the_end_is_a_warning(
    output: Finished, monkeypatch: pytest.MonkeyPatch, spoil: Callable[..., None], what: str
) -> None:
    spoil(output, monkeypatch)
    said = run(output)
    [warning] = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert re.match(f"warning: {what}.*; the job is done$", warning)


def closed() -> io.StringIO:
    out = io.StringIO()
    out.close()
    return out


def broken() -> Any:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", buffering=1)


@pytest.mark.parametrize("make", [closed, broken])
def test_a_terminal_that_is_gone_does_not_stop_a_job(output: Finished, make: Callable[[], Any]) -> None:
    run(output, make())
    assert output.output.verify().problems == []


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", "| true", "2>/dev/full", ">/dev/full"])
def test_a_finished_job_exits_0_whatever_becomes_of_its_streams(output: Finished, tmp_path: Path, redirection: str) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(output.fields))
    command = f"set -o pipefail; {sys.executable} -m batchgen run job.yaml --json {redirection}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert (done.returncode, "Traceback" in done.stderr + done.stdout) == (0, False), done.stderr
    assert output.store.get(SUCCESS)


def test_a_driver_that_lost_its_lease_changes_nothing_of_the_jobs_state(
    output: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: output.store.get(name) for name in output.store.list("")}
    kept = lease.Lease.confirm

    def stood_still(self: lease.Lease) -> None:
        if output.store.get(SUCCESS) is None and not self._ended.is_set():
            with monkeypatch.context() as patch:
                patch.setattr(lease.Lease, "confirm", kept)
                with lease.hold(output.store, print, force=True) as other:
                    other.put(SUCCESS, b"theirs")
        kept(self)

    monkeypatch.setattr(lease.Lease, "confirm", stood_still)
    with pytest.raises(LeaseError):
        batchgen.run(output.fields, out=io.StringIO())
    after = {name: output.store.get(name) for name in output.store.list("")}
    assert after == before | {SUCCESS: b"theirs"}


def test_odd_rows_do_not_break_the_summary(output: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    odd: list[Any] = [None, [], [{"role": "assistant", "content": "alone"}], [{"role": "user", "content": None}, {}], [{}]]
    [span, *_] = output.plan.spans
    table = parts.read_part(output.store, span.name)
    rows = [row | {"messages": odd[number % len(odd)], "response": None} for number, row in enumerate(table.to_pylist())]
    monkeypatch.setattr(terminal, "_answers", lambda *_: iter([[row] for row in rows[:5]]))
    assert "warning" not in run(output)


def test_an_error_before_the_end_keeps_its_own_words(output: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(store: LocalStore, name: str, data: bytes) -> bool:
        raise StoreError(f"{name}: disk full")

    kept = LocalStore.put_new
    monkeypatch.setattr(LocalStore, "put_new", lambda s, name, data: (full if name == SUCCESS else kept)(s, name, data))
    with pytest.raises(BatchgenError, match="_SUCCESS: disk full"):
        batchgen.run(output.fields, out=io.StringIO())
    assert (output.status()["state"], output.status()["ended"]["exit_code"]) == ("failed", 1)
    assert output.status()["ended"]["reason"].endswith("_SUCCESS: disk full")

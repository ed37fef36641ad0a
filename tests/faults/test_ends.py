"""What ends a run before its time, one thing after the other, and how the next run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from batchgen.output.store import open_store
from batchgen.replica import journal
from tests.support.commands import ROWS, SHARDS, batchgen, hear, replicas_of, start, status, write_job

pytestmark = pytest.mark.cluster
SEQUENCES = 16
MOST_ALONE = 7
"""Spans that one replica takes of a job whose every span has five rows that are held: it wants 2 x SEQUENCES prompts."""


def held_job(shard: Path, folder: Path, hold: str, *, rows: int = 50, **options: Any) -> str:
    """A job whose rows with this text are not answered before `release`. "Question 2" leaves spans that finish, and more to
    do than two replicas take; "7 of shard" is in every span."""
    (folder / "hold").touch()
    held = {"max_num_seqs": SEQUENCES, "hang_on": hold, "hang_while": str(folder / "hold"), **options}
    return write_job(
        folder,
        input={"path": str(shard), "prompt": "prompt", "id": "id"},
        engine={"kind": "echo", "options": held},
        sampling={"ignore_eos": True, "max_tokens": 8},  # with known lengths no replica takes more than its engine needs
        spans={"rows": rows, "journal_seconds": 0.2},
    )


def release(folder: Path) -> None:
    (folder / "hold").unlink()


def wait_for_parts(driver: subprocess.Popen[str], data: Path, count: int = 1) -> None:
    while not data.is_dir() or len(list(data.iterdir())) < count:
        assert driver.poll() is None
        time.sleep(0.01)


def wait_for_journals(driver: subprocess.Popen[str], folder: Path, count: int = 1) -> None:
    """Until as many spans are under way."""
    while len(journal.spans(open_store(str(folder / "out")))) < count:
        assert driver.poll() is None
        time.sleep(0.01)


def spans_of(folder: Path) -> set[str]:
    return journal.spans(open_store(str(folder / "out")))


def two_replicas(driver: subprocess.Popen[str], folder: Path) -> list[int]:
    """The processes of two replicas that both are at work."""
    wait_for_journals(driver, folder, MOST_ALONE + 1)
    [first, second] = replicas_of(os.getpid())
    return [first, second]


def wait_for_end(pids: list[int]) -> None:
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.05)


@pytest.mark.cluster(own=True)
def test_twenty_thousand_rows_survive_a_killed_driver_and_no_committed_span_is_redone(questions: Path, tmp_path: Path) -> None:
    job = held_job(questions, tmp_path, "of shard 7", rows=625, max_num_seqs=128)
    driver = start(job)
    data = tmp_path / "out" / "data"
    wait_for_parts(driver, data, 12)
    replicas = replicas_of(driver.pid)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    wait_for_end(replicas)  # Ray ends the actors of a dead driver; until then they may still commit
    release(tmp_path)
    committed = {part.name: part.stat().st_ino for part in data.iterdir()}
    assert replicas
    assert 12 <= len(committed) < 32, "the driver was killed half way"
    before = json.loads((tmp_path / "out/_batchgen/progress.json").read_text())
    assert status(tmp_path)["state"] == "interrupted"
    assert status(tmp_path)["spans_done"] == len(committed)
    assert not (tmp_path / "out/_SUCCESS").exists()

    second = batchgen("run", job)
    assert second.returncode == 0, second.stderr
    assert {name: (data / name).stat().st_ino for name in committed} == committed
    after = status(tmp_path)
    assert after["spans_generated"] - before["spans_generated"] == after["spans_planned"] - len(committed)
    assert (after["rows_planned"], after["rows_ok"], after["rows_error"], after["state"]) == (ROWS, ROWS, 0, "done")
    proof = batchgen("verify", str(tmp_path / "out"))
    assert proof.returncode == 0, proof.stdout
    table = ds.dataset(data).to_table(columns=["id", "shard", "row"]).to_pydict()
    assert set(table["id"]) == {f"{s}-{i}" for s in range(SHARDS) for i in range(ROWS // SHARDS)}
    assert all(i == f"{Path(s).stem}-{r}" for i, s, r in zip(table["id"], table["shard"], table["row"], strict=True))


@pytest.mark.cluster(own=True)
def test_a_second_ctrl_c_stops_at_once_and_leaves_no_process(questions: Path, tmp_path: Path) -> None:
    endless = {"kind": "echo", "options": {"latency": 3600, "process": True}}
    job = write_job(tmp_path, input={"path": str(questions / "0.jsonl"), "prompt": "prompt"}, engine=endless)
    driver = start(job)
    while len(replicas := replicas_of(driver.pid)) < 2:
        assert driver.poll() is None
        time.sleep(0.05)
    driver.send_signal(signal.SIGINT)
    words = hear(driver, "finishing what is running")
    assert "what is committed is kept; the same command goes on from there. Ctrl-C again stops at once" in words
    driver.send_signal(signal.SIGINT)
    _, last = driver.communicate()
    assert driver.returncode == 75, words + last
    assert last.splitlines()[-1] == "error: stopped at once; run again to resume"
    assert status(tmp_path)["state"] == "interrupted"
    wait_for_end(replicas)


def test_sigterm_drains_and_the_next_run_resumes(questions: Path, tmp_path: Path) -> None:
    job = held_job(questions / "0.jsonl", tmp_path, "7 of shard")
    driver = start(job)
    wait_for_journals(driver, tmp_path)
    driver.terminate()
    hear(driver, "finishing what is running")
    release(tmp_path)
    _, words = driver.communicate()
    assert driver.returncode == 75, words
    assert "run again to resume" in words
    stopped = status(tmp_path)
    assert stopped["state"] == "interrupted"
    assert 0 < stopped["spans_done"] < stopped["spans_planned"]
    assert batchgen("run", job).returncode == 0
    assert status(tmp_path)["spans_generated"] == status(tmp_path)["spans_planned"], "a drained span is not done twice"


def test_a_job_that_is_killed_seconds_after_its_notice_loses_no_finished_row(questions: Path, tmp_path: Path) -> None:
    """`ray job stop` sends SIGTERM and, RAY_JOB_STOP_WAIT_TIME_S later, SIGKILL."""
    answers = tmp_path / "answers"
    job = held_job(questions / "0.jsonl", tmp_path, "7 of shard", meter=str(answers))
    driver = start(job, "--set", "spans.journal_seconds=3000")
    while not answers.exists() or answers.stat().st_size < SEQUENCES:
        assert driver.poll() is None
        time.sleep(0.01)
    finished = answers.stat().st_size
    driver.terminate()
    wait_for_journals(driver, tmp_path)
    replicas = replicas_of(os.getpid())
    kept = 0
    while kept < finished:  # the journals of all open spans are on their way
        assert driver.poll() is None
        kept = sum(len(journal.load(open_store(str(tmp_path / "out")), span)[0]) for span in spans_of(tmp_path))
    driver.kill()
    driver.communicate()
    wait_for_end(replicas)
    release(tmp_path)
    assert batchgen("run", job).returncode == 0
    assert status(tmp_path)["rows_from_journal"] >= finished
    assert batchgen("verify", str(tmp_path / "out")).returncode == 0


def test_a_token_limit_stops_resumably(questions: Path, tmp_path: Path) -> None:
    job = held_job(questions / "2.jsonl", tmp_path, "Question 2", max_num_seqs=64)
    stopped = start(job, "--set", "limits.tokens=500")
    hear(stopped, "limits.tokens 500 reached: finishing what is running")
    release(tmp_path)
    _, words = stopped.communicate()
    assert stopped.returncode == 75, words
    assert "limits.tokens 500 reached" in words
    assert status(tmp_path)["completion_tokens"] >= 500
    assert 0 < status(tmp_path)["spans_done"] < status(tmp_path)["spans_planned"]
    assert batchgen("run", job).returncode == 0
    assert batchgen("verify", str(tmp_path / "out")).returncode == 0


def test_a_killed_replica_is_replaced_and_every_row_is_there_once(questions: Path, tmp_path: Path) -> None:
    job = held_job(questions / "1.jsonl", tmp_path, "7 of shard")
    driver = start(job)
    os.kill(two_replicas(driver, tmp_path)[0], signal.SIGKILL)
    hear(driver, "died")
    release(tmp_path)
    _, words = driver.communicate()
    assert driver.returncode == 0, words
    assert status(tmp_path)["rows_ok"] == ROWS // SHARDS
    assert batchgen("verify", str(tmp_path / "out")).returncode == 0


def test_a_replica_that_cannot_be_replaced_is_done_without(questions: Path, tmp_path: Path) -> None:
    fire: dict[str, Any] = {"start_error": "the card is on fire", "start_error_while": str(tmp_path / "fire")}
    job = held_job(questions / "1.jsonl", tmp_path, "7 of shard", **fire)
    driver = start(job)
    [victim, _] = two_replicas(driver, tmp_path)
    (tmp_path / "fire").touch()
    os.kill(victim, signal.SIGKILL)
    hear(driver, "the card is on fire", times=2)
    release(tmp_path)
    _, words = driver.communicate()
    assert driver.returncode == 0, words
    assert "the card is on fire" not in words, "it is tried twice, and then left out"
    assert status(tmp_path)["rows_ok"] == ROWS // SHARDS
    assert batchgen("verify", str(tmp_path / "out")).returncode == 0


def test_an_engine_that_cannot_start_fails_fast_with_its_own_message(questions: Path, tmp_path: Path) -> None:
    broken = {"kind": "echo", "options": {"start_error": "the card is on fire"}}
    job = write_job(tmp_path, input={"path": str(questions / "0.jsonl"), "prompt": "prompt"}, engine=broken)
    failed = batchgen("run", job)
    assert failed.returncode == 1
    assert "the card is on fire" in failed.stderr
    assert status(tmp_path)["state"] == "failed"


def test_a_store_that_breaks_is_a_run_error_and_nothing_is_lost(questions: Path, tmp_path: Path) -> None:
    job = held_job(questions / "3.jsonl", tmp_path, "Question 2", max_num_seqs=64)
    driver = start(job)
    data, aside = tmp_path / "out" / "data", tmp_path / "aside"
    wait_for_parts(driver, data)
    replicas = replicas_of(os.getpid())
    for pid in replicas:  # who commits now would make the folder anew
        os.kill(pid, signal.SIGSTOP)
    data.rename(aside)
    data.write_text("a file in place of the folder")
    for pid in replicas:
        os.kill(pid, signal.SIGCONT)
    release(tmp_path)
    _, words = driver.communicate()
    assert driver.returncode == 1, words
    assert f"error: output {data}/" in words
    assert "Traceback" not in words
    data.unlink()
    aside.rename(data)
    kept = {part.name: part.read_bytes() for part in data.iterdir()}
    assert kept
    assert batchgen("run", job).returncode == 0
    assert kept.items() <= {part.name: part.read_bytes() for part in data.iterdir()}.items()
    assert batchgen("verify", str(tmp_path / "out")).returncode == 0


def test_a_retry_runs_the_failed_rows_alone_and_a_second_driver_is_refused(questions: Path, tmp_path: Path) -> None:
    job = held_job(questions / "2.jsonl", tmp_path, "7 of shard", reject_on="Question 7")
    driver = start(job, "--set", "limits.errors=1")
    data = tmp_path / "out" / "data"
    wait_for_journals(driver, tmp_path)
    second = batchgen("run", job)
    release(tmp_path)
    assert second.returncode == 1
    assert f"process {driver.pid} on " in second.stderr
    assert "is at work on the output" in second.stderr
    _, words = driver.communicate()
    assert driver.returncode == 0, words
    failed = status(tmp_path)["errors"]["engine_rejected"]
    assert failed == sum("Question 7" in f"Question {i} of" for i in range(ROWS // SHARDS))

    again = batchgen("retry", str(tmp_path / "out"), "--set", "engine.options={}")
    assert again.returncode == 0, again.stderr
    assert f"{failed} failed rows to run again" in again.stderr
    assert (status(tmp_path)["rows_ok"], status(tmp_path)["rows_error"]) == (ROWS // SHARDS, 0)
    assert batchgen("verify", str(tmp_path / "out")).returncode == 0
    table = ds.dataset(data).to_table(columns=["row", "status", "attempt"]).to_pylist()
    assert sorted(row["row"] for row in table if row["status"] == "ok") == list(range(ROWS // SHARDS))
    assert len(table) == ROWS // SHARDS + failed

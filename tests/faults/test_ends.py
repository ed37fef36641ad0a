"""What ends a run before its time, one thing after the other, and how the next run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from tests.support.commands import ROWS, SHARDS, batchgen, replicas_of, status, write_job

pytestmark = pytest.mark.cluster


def slow_job(shard: Path, folder: Path, **faults: str) -> str:
    """A job over one shard in many spans, slow enough to be met half way."""
    slow = {"kind": "echo", "options": {"latency": 0.2, "max_num_seqs": 64, **faults}}
    return write_job(folder, input={"path": str(shard), "prompt": "prompt"}, engine=slow, spans={"rows": 50})


def start(job: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "batchgen", "run", job], stderr=subprocess.PIPE, text=True)


def wait_for_parts(driver: subprocess.Popen[str], data: Path, count: int = 1) -> None:
    """Until there are as many parts, or the driver has ended."""
    while driver.poll() is None and (not data.is_dir() or len(list(data.iterdir())) < count):
        time.sleep(0.01)


def test_twenty_thousand_rows_survive_a_killed_driver_and_no_committed_span_is_redone(questions: Path, tmp_path: Path) -> None:
    slow = {"kind": "echo", "options": {"latency": 0.1, "max_num_seqs": 128}}
    job = write_job(tmp_path, input={"path": str(questions), "prompt": "prompt", "id": "id"}, engine=slow)
    driver = start(job)
    data = tmp_path / "out" / "data"
    wait_for_parts(driver, data, 12)
    replicas = replicas_of(driver.pid)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    while any(Path(f"/proc/{pid}").exists() for pid in replicas):
        time.sleep(0.05)  # Ray ends the actors of a dead driver; until then they may still commit
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


def test_sigterm_drains_and_the_next_run_resumes(questions: Path, tmp_path: Path) -> None:
    job = slow_job(questions / "0.jsonl", tmp_path)
    driver = start(job)
    wait_for_parts(driver, tmp_path / "out/data")
    driver.terminate()
    _, words = driver.communicate()
    assert driver.returncode == 75, words
    assert "run again to resume" in words
    stopped = status(tmp_path)
    assert stopped["state"] == "interrupted"
    assert 0 < stopped["spans_done"] < stopped["spans_planned"]
    assert batchgen("run", job).returncode == 0
    assert status(tmp_path)["spans_generated"] == status(tmp_path)["spans_planned"], "a drained span is not done twice"


def test_a_second_ctrl_c_stops_at_once_and_leaves_no_process(questions: Path, tmp_path: Path) -> None:
    endless = {"kind": "echo", "options": {"latency": 3600, "process": True}}
    job = write_job(tmp_path, input={"path": str(questions / "0.jsonl"), "prompt": "prompt"}, engine=endless)
    driver = start(job)
    assert driver.stderr is not None
    while driver.poll() is None and len(replicas_of(driver.pid)) < 2:
        time.sleep(0.05)
    replicas, words = replicas_of(driver.pid), ""
    driver.send_signal(signal.SIGINT)
    while "finishing what is running" not in words:
        words += driver.stderr.readline() or pytest.fail(f"no drain: {words}")
    driver.send_signal(signal.SIGINT)
    _, last = driver.communicate()
    assert driver.returncode == 75, words + last
    assert last.splitlines()[-1] == "error: stopped at once; run again to resume"
    assert status(tmp_path)["state"] == "interrupted"
    while any(Path(f"/proc/{pid}").exists() for pid in replicas):
        time.sleep(0.05)


def test_a_token_limit_stops_resumably(questions: Path, tmp_path: Path) -> None:
    source = {"path": str(questions / "2.jsonl"), "prompt": "prompt"}
    slow = {"kind": "echo", "options": {"latency": 0.1, "max_num_seqs": 64}}
    job = write_job(tmp_path, input=source, engine=slow, spans={"rows": 50}, limits={"tokens": 500})
    stopped = batchgen("run", job)
    assert stopped.returncode == 75, stopped.stderr
    assert "limits.tokens 500 reached" in stopped.stderr
    assert status(tmp_path)["completion_tokens"] >= 500
    assert 0 < status(tmp_path)["spans_done"] < status(tmp_path)["spans_planned"]
    assert batchgen("run", job, "--set", "limits.tokens=null").returncode == 0
    assert batchgen("verify", str(tmp_path / "out")).returncode == 0


def test_a_killed_replica_is_replaced_and_every_row_is_there_once(questions: Path, tmp_path: Path) -> None:
    job = slow_job(questions / "1.jsonl", tmp_path)
    driver = start(job)
    wait_for_parts(driver, tmp_path / "out/data")
    os.kill(replicas_of(driver.pid)[0], signal.SIGKILL)
    _, words = driver.communicate()
    assert driver.returncode == 0, words
    assert "died" in words, "the kill was seen"
    assert status(tmp_path)["rows_ok"] == ROWS // SHARDS
    assert batchgen("verify", str(tmp_path / "out")).returncode == 0


def test_a_replica_that_cannot_be_replaced_is_done_without(questions: Path, tmp_path: Path) -> None:
    fire = {"start_error": "the card is on fire", "start_error_while": str(tmp_path / "fire")}
    job = slow_job(questions / "1.jsonl", tmp_path, **fire)
    driver = start(job)
    while driver.poll() is None and len(replicas_of(driver.pid)) < 2:
        time.sleep(0.05)
    while driver.poll() is None and status(tmp_path)["spans_done"] < 8:  # both have some
        time.sleep(0.05)
    (tmp_path / "fire").touch()
    os.kill(replicas_of(driver.pid)[0], signal.SIGKILL)
    _, words = driver.communicate()
    assert driver.returncode == 0, words
    assert words.count("the card is on fire") == 3, "it was tried three times"
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
    job = slow_job(questions / "3.jsonl", tmp_path)
    driver = start(job)
    data, aside = tmp_path / "out" / "data", tmp_path / "aside"
    wait_for_parts(driver, data)
    data.rename(aside)
    data.write_text("a file in place of the folder")
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
    picky = {"kind": "echo", "options": {"reject_on": "Question 7", "latency": 4.0, "max_num_seqs": 256}}
    source = {"path": str(questions / "2.jsonl"), "prompt": "prompt"}
    job = write_job(tmp_path, input=source, engine=picky, limits={"errors": 1}, spans={"rows": 100})
    driver = start(job)
    data = tmp_path / "out" / "data"
    wait_for_parts(driver, data)
    second = batchgen("run", job)
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

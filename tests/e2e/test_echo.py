"""The whole path on local Ray with the echo engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
import yaml

pytestmark = pytest.mark.cluster
SHARDS, ROWS = 8, 20_000


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    for shard in range(SHARDS):
        rows = [{"id": f"{shard}-{i}", "prompt": f"Question {i} of shard {shard}, and why?"} for i in range(ROWS // SHARDS)]
        (folder / f"{shard}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def batchgen(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "batchgen", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def write_job(folder: Path, **fields: Any) -> str:
    job = {"engine": {"kind": "echo"}, "output": {"path": str(folder / "out")}, "replicas": {"max": 2}, **fields}
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return str(folder / "job.yaml")


def status(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(batchgen("status", str(folder / "out"), "--json").stdout)
    return found


def test_twenty_thousand_rows_survive_a_killed_driver_and_no_committed_span_is_redone(questions: Path, tmp_path: Path) -> None:
    slow = {"kind": "echo", "options": {"latency": 0.1, "max_num_seqs": 128}}
    job = write_job(tmp_path, input={"path": str(questions), "prompt": "prompt", "id": "id"}, engine=slow)
    driver = subprocess.Popen([sys.executable, "-m", "batchgen", "run", job], stderr=subprocess.PIPE, text=True)
    data = tmp_path / "out" / "data"
    while driver.poll() is None and (not data.is_dir() or len(list(data.iterdir())) < 12):
        time.sleep(0.05)
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


def test_bad_rows_end_as_typed_error_rows_and_their_neighbours_are_untouched(tmp_path: Path) -> None:
    good = '{"prompt": "fine", "verbosity": 1}'
    bad = {
        "{not json": "input",
        '{"prompt": "\xff"}': "input",
        '{"verbosity": 2}': "input",
        '{"prompt": null}': "input",
        '{"prompt": "a", "verbosity": NaN}': "input",
        '{"prompt": "a", "verbosity": 7}': "input",
        '{"prompt": "a", "verbosity": "high"}': "input",
        '{"prompt": "a", "sampling": {"top_p": 2}}': "input",
        '{"prompt": "' + "long " * 200 + '"}': "too_long",
    }
    lines = [line for text in bad for line in (good, text)] + [good]
    (tmp_path / "in.jsonl").write_bytes("\n".join(lines).encode("latin-1"))
    options = {"kind": "echo", "options": {"max_model_len": 300}}
    job = write_job(tmp_path, input={"path": "in.jsonl", "prompt": "prompt"}, engine=options, attributes={"schema": "karakuri"})
    done = batchgen("run", job, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "9 of 19 rows failed" in done.stderr
    rows = ds.dataset(tmp_path / "out/data").to_table().sort_by("row").to_pylist()
    assert [row["status"] for row in rows] == ["ok", "error"] * 9 + ["ok"]
    assert [row["error_code"] for row in rows if row["error_code"]] == list(bad.values())
    assert all(row["error_detail"].startswith(f"in.jsonl:{row['row'] + 1}: ") for row in rows if row["error_detail"])
    assert all(row["response"] and row["attributes"]["verbosity"] == 1 for row in rows if row["status"] == "ok")
    ends = [batchgen("verify", "out", cwd=tmp_path) for _ in range(8)]
    assert [end.returncode for end in ends] == [0] * 8, "also when a thread of Arrow outlives the interpreter"


def test_a_grown_input_adds_rows_and_a_changed_job_or_shard_is_refused(tmp_path: Path) -> None:
    rows = "".join(f'{{"prompt": "row {i}"}}\n' for i in range(40))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_text(rows)
    job = write_job(tmp_path, input={"path": "in", "prompt": "prompt"})
    assert batchgen("run", job, cwd=tmp_path).returncode == 0
    first = {p.name: p.read_bytes() for p in (tmp_path / "out/data").iterdir()}
    with open(tmp_path / "in/a.jsonl", "a") as file:
        file.write('{"prompt": "appended"}\n')
    (tmp_path / "in/b.jsonl").write_text('{"prompt": "a new shard"}\n')
    assert batchgen("run", job, cwd=tmp_path).returncode == 0
    assert {name: (tmp_path / "out/data" / name).read_bytes() for name in first} == first
    assert status(tmp_path)["rows_ok"] == 42
    assert batchgen("verify", "out", cwd=tmp_path).returncode == 0

    changed = batchgen("run", job, "--set", "sampling.temperature=0.5", cwd=tmp_path)
    assert changed.returncode == 2
    assert "sampling.temperature: 1.0 there, 0.5 in this job" in changed.stderr
    (tmp_path / "in/a.jsonl").write_text(rows.replace("row 3", "row X"))
    assert "in/a.jsonl" in (refused := batchgen("run", job, cwd=tmp_path)).stderr
    assert refused.returncode == 2


def test_sigterm_drains_and_the_next_run_resumes(questions: Path, tmp_path: Path) -> None:
    slow = {"kind": "echo", "options": {"latency": 0.2, "max_num_seqs": 64}}
    job = write_job(tmp_path, input={"path": str(questions / "0.jsonl"), "prompt": "prompt"}, engine=slow, spans={"rows": 50})
    driver = subprocess.Popen([sys.executable, "-m", "batchgen", "run", job], stderr=subprocess.PIPE, text=True)
    data = tmp_path / "out" / "data"
    while driver.poll() is None and (not data.is_dir() or not list(data.iterdir())):
        time.sleep(0.05)
    driver.terminate()
    _, words = driver.communicate()
    assert driver.returncode == 75, words
    assert "run again to resume" in words
    stopped = status(tmp_path)
    assert stopped["state"] == "interrupted"
    assert 0 < stopped["spans_done"] < stopped["spans_planned"]
    assert batchgen("run", job).returncode == 0
    assert status(tmp_path)["spans_generated"] == status(tmp_path)["spans_planned"], "a drained span is not done twice"


def test_an_engine_that_cannot_start_fails_fast_with_its_own_message(questions: Path, tmp_path: Path) -> None:
    broken = {"kind": "echo", "options": {"start_error": "the card is on fire"}}
    job = write_job(tmp_path, input={"path": str(questions / "0.jsonl"), "prompt": "prompt"}, engine=broken)
    failed = batchgen("run", job)
    assert failed.returncode == 1
    assert "the card is on fire" in failed.stderr
    assert status(tmp_path)["state"] == "failed"


def test_a_killed_replica_is_replaced_and_every_row_is_there_once(questions: Path, tmp_path: Path) -> None:
    slow = {"kind": "echo", "options": {"latency": 0.2, "max_num_seqs": 64}}
    job = write_job(tmp_path, input={"path": str(questions / "1.jsonl"), "prompt": "prompt"}, engine=slow, spans={"rows": 50})
    driver = subprocess.Popen([sys.executable, "-m", "batchgen", "run", job], stderr=subprocess.PIPE, text=True)
    data = tmp_path / "out" / "data"
    while driver.poll() is None and (not data.is_dir() or not list(data.iterdir())):
        time.sleep(0.05)
    os.kill(replicas_of(driver.pid)[0], signal.SIGKILL)
    _, words = driver.communicate()
    assert driver.returncode == 0, words
    assert "died" in words, "the kill was seen"
    assert status(tmp_path)["rows_ok"] == ROWS // SHARDS
    assert batchgen("verify", str(tmp_path / "out")).returncode == 0


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
    return sorted(pid for pid in family if names.get(pid, "").startswith("ray::_Actor"))


def test_input_and_output_in_an_object_store(s3: Any, tmp_path: Path) -> None:
    for shard in range(3):
        body = "".join(f'{{"prompt": "row {i} of {shard}"}}\n' for i in range(50)).encode()
        s3.client.put_object(Bucket=s3.bucket, Key=f"e2e/in/{shard}.jsonl", Body=body)
    job = write_job(
        tmp_path, input={"path": f"{s3.url}/e2e/in/*.jsonl", "prompt": "prompt"}, output={"path": f"{s3.url}/e2e/out"}
    )
    done = batchgen("run", job)
    assert done.returncode == 0, done.stderr
    proof = batchgen("verify", f"{s3.url}/e2e/out")
    assert proof.returncode == 0, proof.stdout
    assert "150 rows (150 ok" in proof.stdout
    assert batchgen("run", job).returncode == 0, "a finished job is finished"
    [gone] = [o["Key"] for o in s3.client.list_objects_v2(Bucket=s3.bucket, Prefix="e2e/out/data/")["Contents"]][:1]
    s3.client.delete_object(Bucket=s3.bucket, Key=gone)
    damaged = batchgen("verify", f"{s3.url}/e2e/out")
    assert damaged.returncode == 1
    assert gone.removeprefix("e2e/out/") in damaged.stdout


def test_a_wrong_job_stops_early_when_most_rows_fail(questions: Path, tmp_path: Path) -> None:
    picky = {"kind": "echo", "options": {"reject_on": "why"}}
    job = write_job(tmp_path, input={"path": str(questions), "prompt": "prompt"}, engine=picky)
    stopped = batchgen("run", job)
    assert stopped.returncode == 3
    assert "stopped early" in stopped.stderr
    assert "engine_rejected" in stopped.stderr
    assert status(tmp_path)["rows_error"] < ROWS / 2


def test_a_saved_dataset_is_planned_like_shards(tmp_path: Path) -> None:
    import datasets

    rows = [{"text": f"row {i}", "score": i / 2, "tags": ["a", "b"]} for i in range(100)]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    source = {"path": "saved", "format": "dataset", "prompt": "text"}
    job = write_job(tmp_path, input=source, spans={"rows": 30})
    assert batchgen("run", job, cwd=tmp_path).returncode == 0
    assert batchgen("verify", "out", cwd=tmp_path).returncode == 0
    table = ds.dataset(tmp_path / "out/data").to_table().sort_by("row").to_pylist()
    assert [{key: row[key] for key in rows[0]} for row in table] == rows


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


def test_a_store_that_breaks_is_a_run_error_and_nothing_is_lost(questions: Path, tmp_path: Path) -> None:
    slow = {"kind": "echo", "options": {"latency": 0.2, "max_num_seqs": 64}}
    job = write_job(tmp_path, input={"path": str(questions / "3.jsonl"), "prompt": "prompt"}, engine=slow, spans={"rows": 50})
    driver = subprocess.Popen([sys.executable, "-m", "batchgen", "run", job], stderr=subprocess.PIPE, text=True)
    data, aside = tmp_path / "out" / "data", tmp_path / "aside"
    while driver.poll() is None and (not data.is_dir() or not list(data.iterdir())):
        time.sleep(0.01)
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
    driver = subprocess.Popen([sys.executable, "-m", "batchgen", "run", job], stderr=subprocess.PIPE, text=True)
    data = tmp_path / "out" / "data"
    while driver.poll() is None and (not data.is_dir() or not list(data.iterdir())):
        time.sleep(0.05)
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

"""The whole path on local Ray with the echo engine."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from tests.support.commands import ROWS, batchgen, hear, start, status, write_job

pytestmark = pytest.mark.cluster


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
    source = {"path": str(tmp_path / "in.jsonl"), "prompt": "prompt"}
    job = write_job(tmp_path, input=source, engine=options, attributes={"schema": "karakuri"})
    done = batchgen("run", job, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "9 of 19 rows failed" in done.stderr
    rows = ds.dataset(tmp_path / "out/data").to_table().sort_by("row").to_pylist()
    assert [row["status"] for row in rows] == ["ok", "error"] * 9 + ["ok"]
    assert [row["error_code"] for row in rows if row["error_code"]] == list(bad.values())
    assert all(row["error_detail"].startswith(f"{tmp_path}/in.jsonl:{row['row'] + 1}: ") for row in rows if row["error_detail"])
    assert all(row["response"] and row["attributes"]["verbosity"] == 1 for row in rows if row["status"] == "ok")
    ends = [batchgen("verify", "out", cwd=tmp_path) for _ in range(8)]
    assert [end.returncode for end in ends] == [0] * 8, "also when a thread of Arrow outlives the interpreter"


def test_a_grown_input_adds_rows_and_a_changed_job_or_shard_is_refused(tmp_path: Path) -> None:
    rows = "".join(f'{{"prompt": "row {i}"}}\n' for i in range(40))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jsonl").write_text(rows)
    job = write_job(tmp_path, input={"path": str(tmp_path / "in"), "prompt": "prompt"})
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


def test_long_rows_at_the_end_of_the_plan_are_not_left_for_the_end(tmp_path: Path) -> None:
    """A replica that can tell rows apart is given its share of the job, so that it can take the long ones first."""
    lengths = [2, 12] * 28 + [40] * 4
    rows = [{"prompt": f"row {i}" + (" held" if i < 8 else ""), "most": n} for i, n in enumerate(lengths)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "hold").touch()
    options = {"max_num_seqs": 4, "hang_on": "held", "hang_while": str(tmp_path / "hold"), "seconds_per_token": 0.01}
    job = write_job(
        tmp_path,
        input={"path": str(tmp_path / "in.jsonl"), "prompt": "prompt"},
        engine={"kind": "echo", "options": options},
        sampling={"ignore_eos": True, "max_tokens": {"column": "most"}},
        spans={"rows": 4},
        replicas={"max": 1},
    )
    driver = start(job, "-v")
    hear(driver, " assigned", times=15)  # the engine is full of rows that are held; all others wait for it
    (tmp_path / "hold").unlink()
    _, words = driver.communicate()
    assert driver.returncode == 0, words
    parts = sorted((tmp_path / "out/data").iterdir(), key=lambda part: part.stat().st_mtime_ns)
    last = [index for index, part in enumerate(parts) if 59 in ds.dataset(part).to_table()["row"].to_pylist()]
    assert len(parts) == 15
    assert last[0] < 10, "with two engines full at a time it would be among the last three"


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
    source = {"path": str(tmp_path / "saved"), "format": "dataset", "prompt": "text"}
    job = write_job(tmp_path, input=source, spans={"rows": 30})
    assert batchgen("run", job, cwd=tmp_path).returncode == 0
    assert batchgen("verify", "out", cwd=tmp_path).returncode == 0
    table = ds.dataset(tmp_path / "out/data").to_table().sort_by("row").to_pylist()
    assert [{key: row[key] for key in rows[0]} for row in table] == rows


# On a Ray of their own.


@pytest.mark.cluster(own=True)
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


@pytest.mark.cluster(own=True)
def test_secrets_of_the_environment_are_told_to_nobody(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, f"canary-{name}")
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\nno json\n')
    job = write_job(
        tmp_path,
        input={"path": str(tmp_path / "in.jsonl"), "prompt": "prompt"},
        output={"path": f"{s3.url}/secrets/out"},
        limits={"errors": 1},
    )
    with tempfile.TemporaryDirectory(dir="/tmp") as logs:  # Ray puts sockets there, whose paths must be short
        monkeypatch.setenv("RAY_TMPDIR", logs)
        done = batchgen("run", job)
        said = [path.read_bytes() for path in Path(logs).rglob("*") if path.is_file() and not path.is_symlink()]
    assert done.returncode == 0, done.stderr
    assert len(said) > 10, "Ray has logged"
    listed = s3.client.list_objects_v2(Bucket=s3.bucket, Prefix="secrets/out/")["Contents"]
    said += [s3.client.get_object(Bucket=s3.bucket, Key=found["Key"])["Body"].read() for found in listed]
    assert len(listed) > 4
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:canary-password@127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_RETRIES", "0")
    down = batchgen("status", f"{s3.url}/secrets/out")
    assert (down.returncode, down.stdout) == (1, "")
    assert "error: output s3://" in down.stderr
    for text in (*said, done.stdout.encode(), done.stderr.encode(), down.stderr.encode()):
        assert b"canary" not in text, text


@pytest.mark.cluster(own=True)
def test_a_cluster_that_is_gone_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that crashed leaves the address of its last `ray start`."""
    (tmp_path / "in.jsonl").write_text('{"prompt": "a question"}\n')
    job = write_job(tmp_path, input={"path": "in.jsonl", "prompt": "prompt"})
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # Ray's sockets need a short path
        (Path(folder) / "ray").mkdir()
        (Path(folder) / "ray/ray_current_cluster").write_text("127.0.0.1:1")
        monkeypatch.setenv("RAY_TMPDIR", folder)
        done = batchgen("run", job, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert status(tmp_path)["rows_ok"] == 1

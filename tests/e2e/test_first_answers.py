"""From an empty folder to the first answers in at most three commands, by the echo engine. Only a Ray of the run's own has the
working directory of the caller: where tests share one, the paths of inputs are absolute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.commands import batchgen

ROWS: list[dict[str, Any]] = [{"id": f"q{n}", "question": f"What is tea number {n}?"} for n in range(6)]
TALKS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": "A drink."}]} for row in ROWS
]


def jsonl(folder: Path) -> str:
    (folder / "tea.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return "tea.jsonl"


def parquet(folder: Path) -> str:
    pq.write_table(pa.Table.from_pylist(TALKS), folder / "tea.parquet")
    return "tea.parquet"


def saved(folder: Path) -> str:
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder / "tea"))
    return "tea"


def csv(folder: Path) -> str:
    rows = "".join(f'{row["id"]},"{row["question"]}"\n' for row in ROWS)
    (folder / "tea.csv").write_text(f"id,question\n{rows}")
    return "tea.csv"


def alpaca(folder: Path) -> str:
    rows = [{"instruction": row["question"], "input": "", "output": "A drink."} for row in ROWS]
    (folder / "tea.json").write_text(json.dumps(rows, indent=2))
    return "tea.json"


def sharegpt(folder: Path) -> str:
    said = [[("human", row["question"]), ("gpt", "A drink.")] for row in ROWS]
    rows = [{"conversations": [{"from": who, "value": text} for who, text in talk]} for talk in said]
    (folder / "tea.json").write_text(json.dumps(rows))
    return "tea.json"


def answers(folder: Path, out: str) -> list[dict[str, Any]]:
    loaded = datasets.load_dataset(str(folder / out), split="train", cache_dir=str(folder / "cache"))
    return sorted(loaded, key=lambda row: row["row"])


@pytest.mark.cluster
@pytest.mark.parametrize("make", [jsonl, parquet, saved, csv, alpaca, sharegpt], ids=lambda make: make.__name__)
def test_two_commands(tmp_path: Path, make: Any) -> None:
    first = batchgen("init", str(tmp_path / make(tmp_path)), cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    said = first.stdout.splitlines()[-1]
    assert said == "Next:    batchgen run tea.yaml"
    second = batchgen(*said.split()[2:], cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    found = answers(tmp_path, "outputs/tea")
    assert [row["status"] for row in found] == ["ok"] * len(ROWS)
    assert [row["messages"][0]["content"] for row in found] == [row["question"] for row in ROWS]
    assert batchgen("verify", "outputs/tea", cwd=tmp_path).returncode == 0


@pytest.mark.cluster(own=True)
def test_one_command_and_the_same_one_resumes(tmp_path: Path) -> None:
    file = jsonl(tmp_path)
    done = batchgen("run", file, "--engine", "echo", "--out", "my answers", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"this job as a file: batchgen init {file}" in done.stderr
    assert f"batchgen verify '{tmp_path / 'my answers'}'" in done.stderr
    assert [row["id"] for row in answers(tmp_path, "my answers")] == [row["id"] for row in ROWS]
    assert batchgen("run", file, "--engine", "echo", "--out", "my answers", cwd=tmp_path).returncode == 0


@pytest.mark.cluster
def test_a_job_of_three_lines_runs_resumes_and_says_what_a_rehearsal_left(tmp_path: Path) -> None:
    jsonl(tmp_path)
    (tmp_path / "job.yaml").write_text(f"input: {tmp_path}/tea.jsonl\nmodel: nobody/none\noutput: out\n")
    for _ in range(2):
        done = batchgen("run", "job.yaml", "--engine", "echo", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    with open(tmp_path / "tea.jsonl", "a") as file:
        file.write('{"id": "late", "question": "And coffee?", "prompt": "new"}\n')
    assert batchgen("run", "job.yaml", "--engine", "echo", cwd=tmp_path).returncode == 0
    assert len(answers(tmp_path, "out")) == len(ROWS) + 1
    other = batchgen("run", "job.yaml", "--set", "engine.kind=openai", cwd=tmp_path)
    assert other.returncode == 2
    assert "it holds a rehearsal; delete it, or choose another output.path" in other.stderr

"""The jobs that come along, in their own words, with the echo engine in place of a model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import batchgen

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]


def test_mt_bench_ends_with_a_score_table_and_fastchats_files(tmp_path: Path) -> None:
    command = [sys.executable, "jobs/mt-bench/mt_bench.py", "--folder", str(tmp_path), "--model-id", "echo"]
    command += ["--answers", "model=null", "attributes=null", "engine={kind: echo}"]
    command += ["--judge", "model=null", "engine={kind: echo}", "sampling.structured_outputs={choice: ['So: [[7]]']}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table = done.stdout.splitlines()
    assert "| echo | score | grades |" in table
    assert "| math | 7.00 | 4 |" in table
    assert table[-1] == "| overall | 7.00 | 32 |"
    answers = [json.loads(line) for line in (tmp_path / "model_answer/echo.jsonl").read_text().splitlines()]
    assert len(answers) == 16
    assert all(list(line) == ["question_id", "answer_id", "model_id", "choices", "tstamp"] for line in answers)
    assert all(len(line["choices"][0]["turns"]) == 2 and all(line["choices"][0]["turns"]) for line in answers)
    judgments = [json.loads(line) for line in (tmp_path / "model_judgment/single.jsonl").read_text().splitlines()]
    assert {(line["turn"], line["score"]) for line in judgments} == {(1, 7.0), (2, 7.0)}


def test_a_judge_that_fails_on_rows_leaves_the_other_grades_and_says_how_many(tmp_path: Path) -> None:
    asked = [
        {"question_id": "q-1", "turns": ["Why?"]},
        {"question_id": 2, "turns": ["forbidden", "fine"], "required_temperature": 0},
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(question) + "\n" for question in asked))
    command = [sys.executable, "jobs/mt-bench/mt_bench.py", "--folder", str(tmp_path), "--model-id", "echo"]
    command += ["--questions", str(tmp_path / "q.jsonl"), "--answers", "model=null", "attributes=null", "engine={kind: echo}"]
    command += ["--judge", "model=null", "engine={kind: echo, options: {reject_on: forbidden}}"]
    command += ["sampling.structured_outputs={choice: ['So: [[7]]']}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "| overall | 7.00 | 1 |" in done.stdout
    assert done.stdout.splitlines()[-1] == "2 of 3 turns have no grade; the judge failed on 2."
    [line] = (tmp_path / "model_judgment/single.jsonl").read_text().splitlines()
    assert (json.loads(line)["question_id"], json.loads(line)["turn"]) == ("q-1", 1)


def test_steerlm_ends_with_labelled_answers_and_a_second_run_generates_nothing(tmp_path: Path) -> None:
    echo = ["model=null", "engine={kind: echo}"]
    first = "helpfulness: 1 correctness: 2 coherence: 3 complexity: 4 verbosity: 0"
    second = "quality: 3 toxicity: 0 humor: 1 creativity: 2"
    labels = f"sampling.structured_outputs={{choice: ['{first} {second}']}}"
    command = [sys.executable, "jobs/steerlm/steerlm.py", "--folder", str(tmp_path), "--least", "quality=3"]
    command += ["--labeler", *echo, labels, "--generator", *echo]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"12 answers labelled, 24 new ones made, 24 of them kept: {tmp_path}/train.jsonl"
    kept = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    wanted = {name.strip(): int(value) for name, value in re.findall(r"(\w+): (\d)", f"{first} {second}")}
    assert all(row["attributes"] == wanted and row["response"] for row in kept)
    generated = list(batchgen.Output.open(str(tmp_path / "generated")).rows())
    assert {json.dumps(row["attributes"]) for row in generated} == {json.dumps(wanted)}, "the one combination that there is"
    parts = {path: path.stat().st_ino for path in tmp_path.rglob("data/*.parquet")}
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_ino for path in tmp_path.rglob("data/*.parquet")} == parts

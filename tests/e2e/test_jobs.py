"""The jobs that come along, in their own words, with the echo engine in place of a model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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

"""The command line: what check prints, which exit codes there are, and that nothing heavy is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from batchgen import Output
from tests.support.commands import check, mistake
from tests.support.commands import in_process as batchgen
from tests.support.finished import Finished
from tests.support.rendering import TINY

KARAKURI = "attributes={schema: karakuri, values: {verbosity: 2}}"


def test_check_of_a_good_job_says_what_a_run_will_do(folder: Path) -> None:
    done = check(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "input:    3 rows in 1 shards, 1 spans",
        "output:   3 rows planned (3 prompts)",
        "tokens:   min 12, p50 12, p90 12, p99 12, max 12, total 36 (context unbounded)",
        "bad rows: 0",
    ]


def test_a_template_is_a_text_for_set(folder: Path) -> None:
    for text in ("{{ prompt }}", "{{ prompt }} in {{ lang }}", "{% if lang %}{{ prompt }}{% endif %}", "Say: {{ prompt }}"):
        done = batchgen(
            folder, "check", "job.yaml", "--set", "input.prompt=null", "--set", f"input.template={text}", "--prompts", "1"
        )
        assert done.returncode == 0, done.stderr
        assert "row 0" in done.stdout


def test_a_sample_is_looked_at(folder: Path) -> None:
    (folder / "in.jsonl").write_text("".join(f'{{"prompt": "row {n}"}}\n' for n in range(1000)))
    lines = batchgen(folder, "check", "job.yaml", "--rows", "50", "--set", "spans.rows=10").stdout.splitlines()
    assert lines[0] == "sample:   50 of 1,000 rows; the counts below are of these"
    assert lines[1].startswith("input:    50 rows in 1 shards, 100 spans")
    found = json.loads(batchgen(folder, "check", "job.yaml", "--rows", "5000", "--json").stdout)
    assert (found["rows"], found["sampled_of"]) == (1000, None)


def test_bad_rows_over_the_limit_are_exit_code_3(folder: Path) -> None:
    with open(folder / "in.jsonl", "a") as file:
        file.write("{not json\n")
    done = check(folder)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.splitlines()[-2:][0] == "bad rows: 1 (input 1)"
    assert done.stdout.splitlines()[-1].startswith("  input: in.jsonl:4: invalid JSON: ")
    assert check(folder, "limits.errors=0.25").returncode == 0


def test_check_prompts_prints_text_and_token_ids(folder: Path) -> None:
    done = batchgen(folder, "check", "job.yaml", "--prompts", "1")
    ids = list(b"user: row 0\n")
    assert done.stdout == f"--- row 0 variant 0: 12 tokens\nuser: row 0\n\ntoken ids: {ids}\n"


def test_check_prompts_shows_control_characters_as_text(folder: Path) -> None:
    (folder / "in.jsonl").write_text('{"prompt": "a\\u001b[31mb\\tc"}\n')
    done = batchgen(folder, "check", "job.yaml", "--prompts", "1")
    assert "a\\x1b[31mb\tc" in done.stdout
    assert "\x1b" not in done.stdout


def test_check_prompts_json_is_a_list_of_prompts(folder: Path) -> None:
    overrides = ["--set", KARAKURI, "--set", f"model={{source: {TINY}}}"]
    done = batchgen(folder, "check", "job.yaml", "--prompts", "2", "--json", *overrides)
    shown = json.loads(done.stdout)
    assert [(prompt["row"], prompt["variant"], prompt["error"]) for prompt in shown] == [(0, 0, None), (1, 0, None)]
    assert shown[0]["text"].startswith("<s>[INST] row 0 [ATTR] helpfulness: 4 ")
    assert shown[0]["token_ids"][0] == 1
    assert shown[0]["attributes"]["verbosity"] == 2
    assert shown[0]["sampling"]["n"] == 1


def test_check_json_is_its_findings(folder: Path) -> None:
    found = json.loads(batchgen(folder, "check", "job.yaml", "--json").stdout)
    assert (found["rows"], found["planned_rows"], found["bad"], found["errors"]) == (3, 3, 0, {})
    assert set(found) == {
        *("shards", "spans", "rows", "prompts", "bad", "errors", "first_errors", "rows_of_cause"),
        *("tokens", "context", "layout", "planned_rows", "skipped", "warnings", "sampled_of"),
    }


def test_check_json_counts_bad_rows_by_code(folder: Path) -> None:
    with open(folder / "in.jsonl", "a") as file:
        file.write("{no\n")
    done = batchgen(folder, "check", "job.yaml", "--json")
    assert (done.returncode, json.loads(done.stdout)["errors"]) == (3, {"input": 1})


# Imports

HEAVY = {"torch", "vllm", "ray", "transformers"}
REPORT = """
import sys
from batchgen.cli import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    print("\\n" + str(end.code) + " " + " ".join(sorted(name for name in sys.modules if "." not in name)), file=sys.stderr)
"""


def imported(folder: Path, *arguments: str) -> set[str]:
    """The top-level modules that a command leaves in sys.modules."""
    command = [sys.executable, "-c", REPORT, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    code, *modules = done.stderr.splitlines()[-1].split()
    assert code == "0", done.stderr
    assert "batchgen" in modules
    return set(modules)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["help", "job"],
        ["schema"],
        ["check", "job.yaml"],
        ["check", "job.yaml", "--prompts", "1", "--set", KARAKURI, "--set", f"model={{source: {TINY}}}"],
        ["check", "job.yaml", "--set", "engine={options: {max_num_seqs: 4}}", "--set", f"model={{source: {TINY}}}"],
    ],
)
def test_nothing_heavy_is_imported_before_a_run(folder: Path, arguments: list[str]) -> None:
    assert imported(folder, *arguments) & HEAVY == set()


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_imports_neither_arrow_nor_pydantic(folder: Path, option: str) -> None:
    assert imported(folder, option) & {"pyarrow", "pydantic", "numpy", "jinja2", "tokenizers", "obstore"} == set()


@pytest.mark.parametrize("verb", ["init", "check", "run", "status", "verify", "schema", "help"])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_verb_has_help(folder: Path, verb: str, flag: str) -> None:
    done = batchgen(folder, verb, flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"batchgen {verb}" in done.stdout


def test_export_says_what_it_wrote_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    Finished(tmp_path)
    done = batchgen(tmp_path, "export", "out", "--to", "files", "--format", "openai")
    assert done.stdout.splitlines() == ["files/output.jsonl: 24 lines", "files/errors.jsonl: 7 lines"]
    assert mistake(batchgen(tmp_path, "export", "out", "--to", "x", "--format", "xml")) == (
        "error: --format xml: no such name; there are jsonl, openai"
    )
    assert not (tmp_path / "x").exists()


def test_the_rows_of_an_output_are_read_from_its_path(tmp_path: Path) -> None:
    Finished(tmp_path)
    found = list(Output.open(str(tmp_path / "out")).rows())
    assert len(found) == 62
    assert [row["row"] for row in found] == sorted(row["row"] for row in found)


def test_check_counts_no_tokens_of_an_endpoint(folder: Path) -> None:
    done = check(folder, "engine.kind=openai", "model.source=hosted")
    assert done.returncode == 0, done.stderr
    assert "tokens:" not in done.stdout

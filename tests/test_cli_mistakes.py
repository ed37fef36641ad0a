"""Mistakes on the command line: each is one line and exit code 2, and nothing is made of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import check, mistake
from tests.support.commands import in_process as batchgen
from tests.support.finished import Finished
from tests.support.rendering import TINY


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("input.promt=prompt", "input.promt: unknown field 'promt', did you mean 'prompt'?"),
        ("samplng={n: 2}", "samplng: unknown field 'samplng', did you mean 'sampling'?"),
        ("sampling={temprature: 1}", "sampling: unknown field 'temprature', did you mean 'temperature'?"),
        ("engine.kind=vlm", "engine.kind vlm: no such name, did you mean vllm?; there are vllm, openai, echo"),
        ("engine.options={latncy: 1}", "engine.options.latncy: unknown field 'latncy', did you mean 'latency'?"),
        (
            "input.messages=prompt",
            "turns, instruction, template, body (got prompt, messages)",
        ),
        ("sampling={temperature: -1}", "temperature: "),
        ("attributes={schema: karakuri, values: {verbosity: 9}}", "verbosity: 9 is not an integer 0..4"),
        ("attributes={schema: karakuri, sweep: {verbosity: [0, 5]}}", "verbosity: 5 is not an integer 0..4"),
        ("attributes={schema: karakuri, values: {wit: 1}}", "wit: no such attribute in schema karakuri (helpfulness, "),
        ("attributes={schema: karakri}", "unknown schema 'karakri'; built in are karakuri, karakuri-8x7b-chat, "),
        ("input.path=gone.jsonl", "input.path gone.jsonl: no such file or directory; relative paths start at "),
        ("input.path='*.parquet'", "input.path *.parquet: nothing matches; relative paths start at "),
        ("input.path=job.yaml", "shard job.yaml: unknown format; set input.format, or use an ending of "),
        ("input.prompt=question", "input.prompt: no column 'question' in the input; its columns are lang, prompt"),
        ("input.id=key", "input.id: no column 'key' in the input"),
        ("input.system={column: sys}", "input.system: no column 'sys' in the input"),
        ("sampling={n: {column: count}}", "sampling.n: no column 'count' in the input"),
        ("input.keep=[lang, topic]", "input.keep[1]: no column 'topic' in the input"),
        ("engine={kind: vllm}", "engine.kind vllm needs a model"),
        ("prompt", "--set prompt: expected key.path=value"),
        ("input.path.deep=1", "--set input.path.deep=1: path is not a mapping"),
        ("input=[", "--set input=[: "),
    ],
)
def test_a_mistake_in_the_job_is_one_line_and_exit_code_2(folder: Path, override: str, words: str) -> None:
    assert words in mistake(check(folder, override))


def test_a_missing_job_file_is_one_line(folder: Path) -> None:
    assert "job file gone.yaml: " in mistake(check(folder, job="gone.yaml"))


@pytest.mark.parametrize("arguments", [["-m", "batchgen"], ["-c", "from batchgen.cli import main; main()"]])
def test_a_process_ends_with_the_same_line_and_exit_code(folder: Path, arguments: list[str]) -> None:
    command = [sys.executable, *arguments, "check", "job.yaml", "--set", "input.path=gone.jsonl"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert mistake(done) == mistake(check(folder, "input.path=gone.jsonl"))


@pytest.mark.parametrize("text", ["a: [", "- a", "a: 1\na: 2", "a: &x 1\nb: *x", "\x00"])
def test_a_job_file_that_is_no_mapping_is_one_line(folder: Path, text: str) -> None:
    (folder / "bad.yaml").write_text(text)
    assert "job file bad.yaml: " in mistake(check(folder, job="bad.yaml"))


@pytest.mark.parametrize("verb", ["run", "check"])
@pytest.mark.parametrize(
    "overrides", [["ouput.path=x"], [f"model={{source: {TINY}}}", "engine={kind: vllm, options: {max_num_seqss: 4}}"]]
)
def test_run_makes_nothing_of_a_bad_job(folder: Path, verb: str, overrides: list[str]) -> None:
    sets = [word for override in overrides for word in ("--set", override)]
    assert "did you mean" in mistake(batchgen(folder, verb, "job.yaml", *sets))
    assert not (folder / "out").exists()


def test_a_model_that_is_none_is_called_what_it_is(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "empty/weights.bin").touch()
    models = {
        "/no/such/model": "not a directory here, and not a Hub id; check the path or the id",
        "empty": "not a model: neither config.json nor a tokenizer among its files (weights.bin)",
        "./in.jsonl": "a file, not a folder",
    }
    for source, words in models.items():
        assert f"model.source {source}: {words}" in mistake(check(folder, "engine={kind: vllm}", f"model={source}"))


@pytest.mark.parametrize("verb", ["verify", "status"])
def test_there_is_no_output_to_look_at(folder: Path, verb: str) -> None:
    assert "gone: no batchgen output there" in mistake(batchgen(folder, verb, "gone"))
    assert not (folder / "gone").exists()


@pytest.mark.parametrize(
    "arguments", [["check", "job.yaml", "--frob"], ["frob"], ["check"], ["check", "job.yaml", "--prompts=-1"]]
)
def test_a_wrong_command_line_is_a_usage_error(folder: Path, arguments: list[str]) -> None:
    done = batchgen(folder, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len([line for line in done.stderr.splitlines() if line.lower().startswith("error: ")]) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("text", ["? [a, b]\n: 1\n", "[" * 5000])
def test_odd_yaml_is_one_line(folder: Path, text: str) -> None:
    (folder / "bad.yaml").write_text(text)
    assert "job file bad.yaml: " in mistake(check(folder, job="bad.yaml"))


@pytest.mark.parametrize("override", ["input.path=empty.jsonl", "input.path=[]"])
def test_an_input_without_rows_is_a_mistake_in_check_too(folder: Path, override: str) -> None:
    (folder / "empty.jsonl").touch()
    assert "input.path" in mistake(check(folder, override))


def test_an_option_that_echo_does_not_have_is_found_by_check(folder: Path) -> None:
    assert "engine.options.latncy" in mistake(check(folder, "engine.options={latncy: 1}"))


def test_an_unknown_code_of_a_retry_names_those_that_there_are(tmp_path: Path) -> None:
    made = Finished(tmp_path)
    before = made.plan.spans
    done = batchgen(tmp_path, "retry", "out", "--where", "error_code=engine_reject")
    assert mistake(done) == (
        "error: --where: no error code is called engine_reject; the codes of the failed rows are engine_rejected 12, input 2"
    )
    assert made.plan.spans == before


def test_a_retry_with_a_mistake_plans_nothing(tmp_path: Path) -> None:
    made = Finished(tmp_path)
    before = made.plan.spans
    assert "unknown field 'temprature'" in mistake(batchgen(tmp_path, "retry", "out", "--set", "sampling.temprature=1"))
    assert made.plan.spans == before

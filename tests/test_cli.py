"""The command line: one line per mistake, the right exit code, and nothing heavy imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from batchgen import Output
from tests.support.commands import in_process as batchgen
from tests.support.finished import Finished

TINY = Path(__file__).parents[1] / "jobs/models/tiny-karakuri"
KARAKURI = "attributes={schema: karakuri, values: {verbosity: 2}}"
Done = subprocess.CompletedProcess


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with job.yaml and the three rows of its input."""
    job = {"input": {"path": "in.jsonl", "prompt": "prompt"}, "engine": {"kind": "echo"}, "output": {"path": "out"}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    (tmp_path / "in.jsonl").write_text("".join(f'{{"prompt": "row {n}", "lang": "en"}}\n' for n in range(3)))
    return tmp_path


def check(folder: Path, *overrides: str, job: str = "job.yaml") -> Done[str]:
    return batchgen(folder, "check", job, *(word for override in overrides for word in ("--set", override)))


def mistake(done: Done[str]) -> str:
    """The one line that tells the user of a mistake."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_check_of_a_good_job_says_what_a_run_will_do(folder: Path) -> None:
    done = check(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "input:    3 rows in 1 shards, 1 spans",
        "output:   3 rows planned (3 prompts)",
        "tokens:   min 12, p50 12, p90 12, p99 12, max 12, total 36 (context unbounded)",
        "bad rows: 0",
    ]


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


def test_export_says_what_it_wrote_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    Finished(tmp_path)
    done = batchgen(tmp_path, "export", "out", "--to", "files", "--format", "openai")
    assert done.stdout.splitlines() == ["files/output.jsonl: 24 lines", "files/errors.jsonl: 7 lines"]
    assert mistake(batchgen(tmp_path, "export", "out", "--to", "x", "--format", "xml")) == (
        "error: --format xml: no such name; there are jsonl, openai"
    )
    assert not (tmp_path / "x").exists()


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


def test_the_rows_of_an_output_are_read_from_its_path(tmp_path: Path) -> None:
    Finished(tmp_path)
    found = list(Output.open(str(tmp_path / "out")).rows())
    assert len(found) == 62
    assert [row["row"] for row in found] == sorted(row["row"] for row in found)


def test_check_counts_no_tokens_of_an_endpoint(folder: Path) -> None:
    done = check(folder, "engine.kind=openai", "model.source=hosted")
    assert done.returncode == 0, done.stderr
    assert "tokens:" not in done.stdout

"""The way in: init, run FILE, and a job for another engine."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchgen import init
from batchgen.errors import JobError
from batchgen.job.fields import read_yaml
from batchgen.job.job import Job
from batchgen.read.detect import Detected
from tests.support.commands import in_process as batchgen

TINY = str(Path(__file__).parents[1] / "jobs/models/tiny-karakuri")
ROWS = [{"id": n, "question": f"Why {n}?", "answer": "Because."} for n in range(3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def found(**more: Any) -> Detected:
    return Detected("one user message a row", {"prompt": "question"}, {"question": "text"}, **more)


def test_a_job_file_is_written_with_the_next_command_and_never_over_another(folder: Path) -> None:
    done = batchgen(folder, "init", "my rows.jsonl", "--model", TINY)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "Next:    batchgen run my-rows.yaml"
    assert batchgen(folder, "check", "my-rows.yaml").returncode == 0
    written = (folder / "my-rows.yaml").read_bytes()
    again = batchgen(folder, "init", "my rows.jsonl")
    assert (again.returncode, (folder / "my-rows.yaml").read_bytes()) == (2, written)
    assert "there is one already" in again.stderr
    assert batchgen(folder, "init", "my rows.jsonl", "--force").returncode == 0
    assert "engine: {kind: echo}" in (folder / "my-rows.yaml").read_text()


def test_paths_in_the_next_command_are_quoted(folder: Path) -> None:
    done = batchgen(folder, "init", "my rows.jsonl", "-o", "my job.yaml")
    assert shlex.split(done.stdout.splitlines()[-1])[1:] == ["batchgen", "run", "my job.yaml"]


def test_an_input_whose_columns_do_not_tell_is_named(folder: Path) -> None:
    (folder / "in.jsonl").write_text('{"a": "x", "b": "y"}\n')
    done = batchgen(folder, "init", "in.jsonl")
    assert (done.returncode, done.stdout) == (2, "")
    assert "its columns do not tell what makes the prompt: a, b; name one with --prompt" in done.stderr
    assert batchgen(folder, "init", "in.jsonl", "--prompt", "b").returncode == 0
    assert read_yaml(folder / "in.yaml")["input"]["prompt"] == "b"


@pytest.mark.parametrize(
    "name", ["a b", "it's", "x: y", "# no", "日本語", "on", "12", "a\nb", '"', "{{ x }}", "*", "\u2028", "[a]"]
)
def test_any_name_of_a_file_or_column_stays_that_name(name: str) -> None:
    made = Detected(
        "one user message a row", {"prompt": name, "id": name, "system": {"column": name}}, {name: "text"}, rivals=(name,)
    )
    fields = yaml.safe_load(init.text_of(f"dir/{name}", made, model=name, out=name))
    assert fields["input"] == {"path": f"dir/{name}", "prompt": name, "id": name, "system": {"column": name}}
    assert (fields["model"], fields["output"]) == (name, name)
    Job.parse(fields)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/b.jsonl.gz", "b"),
        ("data/", "data"),
        ("*.jsonl", "job"),
        ("質問.csv", "job"),
        ("my rows.csv", "my-rows"),
        (".x", "job"),
    ],
)
def test_the_name_of_a_job_is_the_stem_of_its_input(path: str, name: str) -> None:
    assert init.name_of(path) == name


def test_attributes_are_steered_by_a_model_that_reads_them() -> None:
    steered = found(steering=("helpfulness",))
    given = {model: yaml.safe_load(init.text_of("in.jsonl", steered, model)) for model in (None, "karakuri-lm", "llama")}
    assert ["attributes" in fields for fields in given.values()] == [True, True, False]


def test_rows_without_a_job_file_have_the_job_that_init_writes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    made, keeps = init.job_of("my rows.jsonl", model=TINY)
    assert keeps is not None
    assert batchgen(folder, *shlex.split(keeps)[1:]).returncode == 0
    assert Job.load("my-rows.yaml") == made
    other, _ = init.job_of("my rows.jsonl", ["sampling.n=2"], model=TINY, prompt="answer", out="there")
    assert (other.input.prompt, other.output.path, other.samples) == ("answer", "there", 2)


def test_rows_without_a_job_file_want_a_model_and_one_prompt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(JobError, match="no model; name one with --model, or rehearse without one: --engine echo"):
        init.job_of("my rows.jsonl")
    Path("in.jsonl").write_text('{"question": "x", "query": "y"}\n')
    with pytest.raises(JobError, match="several columns may be the prompt: question, query; choose one with --prompt"):
        init.job_of("in.jsonl", model="m")


def test_options_of_a_job_file_are_short_for_its_fields(folder: Path) -> None:
    (folder / "job.yaml").write_text("input: in.jsonl\noutput: out\nmodel: m\n")
    made, keeps = init.job_of(str(folder / "job.yaml"), ["sampling.n=3"], model="a: b", prompt="{c}", out="~")
    assert keeps is None
    assert made.model is not None
    assert (made.model.source, made.input.prompt, made.output.path) == ("a: b", "{c}", str(Path.home()))


WHOLE = {
    "input": {"path": "in.jsonl", "messages": "m", "image_hosts": ["example.org"]},
    "model": {"source": "nobody/none", "adapters": {"a": "/none"}, "chat_template": "gone.jinja"},
    "engine": {"tensor_parallel_size": 4, "options": {"dtype": "bfloat16"}, "env": {"A": "b"}},
    "replicas": [{"accelerator": "H200", "min": 2, "engine": {"options": {"x": 1}}}],
    "attributes": {"schema": {"names": ["wit"]}, "values": {"wit": 2}},
    "sampling": {"adapter": "a"},
    "output": "out",
}


def test_echo_runs_any_job_without_its_model(folder: Path) -> None:
    (folder / "in.jsonl").write_text(json.dumps({"m": [{"role": "user", "content": "Why?"}]}) + "\n")
    (folder / "job.yaml").write_text(yaml.safe_dump(WHOLE))
    done = batchgen(folder, "check", "job.yaml", "--engine", "echo", "--prompts", "1")
    assert done.returncode == 0, done.stderr
    assert "Why? (wit: 2)" in done.stdout
    assert batchgen(folder, "check", "job.yaml").returncode == 2


def test_the_options_of_the_jobs_own_engine_stay() -> None:
    fields = {"engine": {"kind": "echo", "options": {"latency": 1}}, "input": "x"}
    assert init.with_engine(fields, "echo") == fields

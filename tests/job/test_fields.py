"""jobfile.py: a job file is loaded, with what --set changes, or it says line by line what is wrong with it."""

import pytest

from batchgen.errors import JobError
from batchgen.job.job import Job
from tests.support.jobs import fields, refusal

TEXT = """\
name: small
input: {path: in.jsonl, prompt: prompt}
engine: {kind: echo}
output: {path: out}
"""


def load(tmp_path, text, *overrides):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return Job.load(path, overrides)


def test_a_job_file_is_loaded(tmp_path):
    job = load(tmp_path, TEXT)
    assert (job.name, job.input.paths, job.engine.kind, job.output.path) == ("small", ["in.jsonl"], "echo", "out")


def test_a_missing_job_file_is_named(tmp_path):
    with pytest.raises(JobError, match=r"job file .*nowhere\.yaml: .*No such file"):
        Job.load(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("made", "line"),
    [
        (fields(sampilng={}), "job: sampilng: unknown field 'sampilng', did you mean 'sampling'?"),
        (fields(int={}), "job: unknown field 'int', did you mean 'input'?"),
        (fields(input={"promt": "x"}), "job: input.promt: unknown field 'promt', did you mean 'prompt'?"),
        (fields(sampling={"temprature": 1}), "job: sampling: unknown field 'temprature', did you mean 'temperature'?"),
        (fields(replicas={"maxx": 1}), "job: replicas.maxx: unknown field 'maxx', did you mean 'max'?"),
        (fields(attributes={"shcema": 1}), "job: attributes.shcema: unknown field 'shcema', did you mean 'schema'?"),
        (fields(limits={"zzz": 1}), "job: limits.zzz: unknown field 'zzz'"),
    ],
)
def test_a_misspelt_field_is_one_line_with_the_field_that_was_meant(made, line):
    assert refusal(made) == line


def test_a_misspelt_field_of_a_schema_is_one_line_too():
    made = fields(attributes={"schema": {"names": ["verbosity"], "rnage": [0, 4]}})
    assert refusal(made) == "job: attributes.schema.rnage: unknown field 'rnage', did you mean 'range'?"


def test_two_mistakes_are_two_lines():
    lines = refusal(fields(nmae="x", limits={"errors": 2})).splitlines()
    assert lines[0].startswith("job: limits.errors: ")
    assert lines[1:] == ["job: nmae: unknown field 'nmae', did you mean 'name'?"]


def test_a_duplicate_key_is_refused(tmp_path):
    with pytest.raises(JobError, match=r"job\.yaml: duplicate key 'name'.*line 5"):
        load(tmp_path, TEXT + "name: again\n")


def test_a_duplicate_key_inside_a_section_is_refused(tmp_path):
    with pytest.raises(JobError, match="duplicate key 'n'"):
        load(tmp_path, TEXT + "sampling: {n: 1, n: 2}\n")


def test_an_alias_is_refused(tmp_path):
    with pytest.raises(JobError, match=r"job\.yaml: aliases are not allowed in a job"):
        load(tmp_path, TEXT + "spans: &a {rows: 1}\nlimits: *a\n")


@pytest.mark.parametrize("text", ["- a\n", "just text\n", "", "a: [\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    with pytest.raises(JobError, match=r"job file .*job\.yaml: "):
        load(tmp_path, text)


def test_a_key_that_is_a_list_is_refused(tmp_path):
    with pytest.raises(JobError, match=r"job file .*job\.yaml: "):
        load(tmp_path, TEXT + "? [a, b]\n: c\n")


def test_a_python_tag_is_refused(tmp_path):
    with pytest.raises(JobError, match="could not determine a constructor"):
        load(tmp_path, TEXT + "spans: !!python/object/apply:os.getcwd []\n")


def test_set_overrides_a_nested_field(tmp_path):
    assert load(tmp_path, TEXT, "input.path=[a.jsonl, b.jsonl]").input.paths == ["a.jsonl", "b.jsonl"]


def test_set_makes_a_section_that_was_not_there(tmp_path):
    job = load(tmp_path, TEXT, "sampling.temperature=0", "sampling.n=3")
    assert job.sampling == {"temperature": 0, "n": 3}


def test_the_last_set_of_a_field_wins(tmp_path):
    assert load(tmp_path, TEXT, "name=first", "name=second").name == "second"


def test_set_keeps_an_equals_sign_of_the_value(tmp_path):
    assert load(tmp_path, TEXT, "output.path=a=b").output.path == "a=b"


@pytest.mark.parametrize("override", ["name", "=x", ""])
def test_a_set_without_key_or_value_is_refused(tmp_path, override):
    with pytest.raises(JobError) as caught:
        load(tmp_path, TEXT, override)
    assert str(caught.value) == f"--set {override}: expected key.path=value"


def test_a_set_below_a_scalar_is_refused(tmp_path):
    with pytest.raises(JobError, match=r"^--set name\.x=1: name is not a mapping$"):
        load(tmp_path, TEXT, "name.x=1")


def test_a_set_of_broken_yaml_is_refused(tmp_path):
    with pytest.raises(JobError, match=r"^--set name=\[: "):
        load(tmp_path, TEXT, "name=[")


def test_a_set_of_an_unknown_field_is_refused(tmp_path):
    with pytest.raises(JobError, match=r"spans\.row: unknown field 'row', did you mean 'rows'\?$"):
        load(tmp_path, TEXT, "spans.row=1")


SHORT = "input: in.jsonl\nmodel: some/model\noutput: out\n"


def test_short_forms_are_the_long_ones(tmp_path):
    long = "input: {path: in.jsonl}\nmodel: {source: some/model}\noutput: {path: out}\n"
    assert load(tmp_path, SHORT) == load(tmp_path, long)
    assert load(tmp_path, SHORT.replace("in.jsonl", "[a.jsonl, b.jsonl]")).input.paths == ["a.jsonl", "b.jsonl"]
    assert load(tmp_path, long, "input=other.jsonl").input.path == "other.jsonl"


def test_set_reaches_into_a_short_form(tmp_path):
    job = load(tmp_path, SHORT, "input.prompt=q", "model.revision=main", "output.token_logprobs=false")
    assert (job.input.path, job.input.prompt, job.model.source, job.model.revision) == ("in.jsonl", "q", "some/model", "main")


def test_a_short_form_is_stored_in_full_and_read_again(tmp_path):
    job = load(tmp_path, SHORT)
    stored = job.model_dump(mode="json", by_alias=True)
    assert (stored["input"]["path"], stored["model"]["source"], stored["output"]["path"]) == ("in.jsonl", "some/model", "out")
    assert Job.parse(stored) == job


@pytest.mark.parametrize("made", [{"input": 1}, {"model": 2.5}, {"output": None}])
def test_a_short_form_is_a_text(made):
    assert next(iter(made)) in refusal(fields() | made)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("~/a", "/home/one/a"),
        ("$HOME/a", "/home/one/a"),
        ("${HOME}", "/home/one"),
        ("$HOMES/a", "$HOMES/a"),
        ("a/~/$HOME", "a/~/$HOME"),
        ("s3://b/~/$HOME", "s3://b/~/$HOME"),
        ("$KEY/a", "$KEY/a"),
    ],
)
def test_home_is_expanded_in_every_path(given, path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/one")
    monkeypatch.setenv("KEY", "secret")
    draws = {"schema": "karakuri", "sample": {"k": 1, "from": given}}
    model = {"source": given, "chat_template": given, "adapters": {"a": given}}
    engine = {"options": {"download_dir": given, "more": {"paths": [1, given]}}, "env": {"HF_HOME": given}}
    read = {"path": [given], "prompt": "p"}
    job = Job.parse({"input": read, "model": model, "output": given, "attributes": draws, "engine": engine})
    found = [*job.input.paths, job.model.source, job.model.chat_template, job.model.adapters["a"], job.output.path]
    assert [*found, job.attributes.sample.from_] == [path] * 6
    assert job.engine.options == {"download_dir": path, "more": {"paths": [1, path]}}
    assert job.engine.env == {"HF_HOME": path}


@pytest.mark.parametrize("text", ["{{ x }}", "{{ x }}: {{ y }}", "{% if x %}y{% endif %}", "Say: {{ x }}"])
def test_set_takes_a_template_as_text(tmp_path, text):
    assert load(tmp_path, SHORT, f"input.template={text}").input.template == text


def test_set_takes_a_mapping_with_a_template_inside_as_yaml(tmp_path):
    job = load(tmp_path, SHORT, 'input={path: a.jsonl, template: "{{ x }}"}')
    assert (job.input.path, job.input.template) == ("a.jsonl", "{{ x }}")

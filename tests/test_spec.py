"""spec.py: a job file becomes a Job, or says line by line what is wrong with it."""

import copy

import jsonschema
import pydantic
import pytest

from batchgen import jobfile, sampling, spec, steering
from batchgen.errors import BAD_JOB, JobError
from batchgen.sampling import Sampling, check_sampling
from batchgen.spec import Job, fingerprint

TEXT = """\
name: small
input: {path: in.jsonl, prompt: prompt}
engine: {kind: echo}
output: {path: out}
"""


def fields(**changes):
    """A small valid job; a changed section is merged one level deep."""
    made = {
        "input": {"path": "in.jsonl", "prompt": "prompt"},
        "attributes": {
            "schema": {"names": ["verbosity", "humor"], "range": [0, 4], "layout": {"block": "({pairs})"}},
            "values": {"verbosity": 2},
        },
        "engine": {"kind": "echo"},
        "sampling": {"temperature": 0.7},
        "output": {"path": "out"},
    }
    for section, value in changes.items():
        merge = isinstance(value, dict) and isinstance(made.get(section), dict)
        made[section] = {**made[section], **value} if merge else value
    return made


def refusal(made):
    with pytest.raises(JobError) as caught:
        Job.parse(made)
    assert caught.value.exit_code == BAD_JOB
    return str(caught.value)


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


@pytest.mark.parametrize(
    ("named", "got"),
    [
        ({}, "none"),
        ({"prompt": "p", "messages": "m"}, "prompt, messages"),
        ({"messages": "m", "turns": "t"}, "messages, turns"),
        ({"prompt": "p", "messages": "m", "turns": "t"}, "prompt, messages, turns"),
    ],
)
def test_anything_but_one_prompt_column_is_refused(named, got):
    message = refusal(fields() | {"input": {"path": "in.jsonl", **named}})
    assert message == f"job: input: name exactly one of prompt, messages, turns (got {got})"


@pytest.mark.parametrize("named", ["prompt", "messages", "turns"])
def test_one_prompt_column_is_enough(named):
    job = Job.parse(fields() | {"input": {"path": "in.jsonl", named: "column"}})
    assert getattr(job.input, named) == "column"


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


@pytest.mark.parametrize("value", [5, -1, 2.5, "high", True])
def test_a_value_outside_the_schema_is_refused(value):
    message = refusal(fields(attributes={"values": {"verbosity": value}}))
    assert message == f"job: attributes: verbosity: {value!r} is not an integer 0..4"


def test_a_swept_value_outside_the_schema_is_refused():
    message = refusal(fields(attributes={"sweep": {"verbosity": [0, 5]}}))
    assert message == "job: attributes: verbosity: 5 is not an integer 0..4"


@pytest.mark.parametrize(
    ("sweep", "cause"),
    [
        ({"verbosity": []}, "sweep.verbosity is empty"),
        ({"verbosity": [1, None]}, "sweep.verbosity: null is not a value"),
        ({"verbosity": [1, 1.0]}, "sweep.verbosity names a value twice"),
        ({"wit": [1]}, "wit: no such attribute in schema custom (verbosity, humor)"),
    ],
)
def test_a_senseless_sweep_is_refused(sweep, cause):
    assert refusal(fields(attributes={"sweep": sweep})) == f"job: attributes: {cause}"


def test_a_sweep_makes_variants_with_the_last_attribute_fastest():
    job = Job.parse(fields(attributes={"sweep": {"verbosity": [0, 4], "humor": [1, 2.0]}}))
    assert [(v["verbosity"], v["humor"]) for v in job.variants] == [(0, 1), (0, 2), (4, 1), (4, 2)]


def test_an_unknown_schema_is_refused_with_those_there_are():
    message = refusal(fields(attributes={"schema": "karakuir"}))
    assert message == "job: attributes: unknown schema 'karakuir'; built in are karakuri, steerlm"


def test_a_default_outside_its_range_is_refused():
    made = fields(attributes={"schema": {"names": ["a"], "range": {"a": [1, 3]}, "defaults": {"a": 4}}, "values": {}})
    assert refusal(made) == "job: attributes: a: 4 is not an integer 1..3"


def test_an_attribute_that_nobody_sets_has_the_low_end():
    made = fields(attributes={"schema": {"names": ["a", "b"], "range": {"a": [1, 3]}, "defaults": {"b": 2}}, "values": {}})
    assert Job.parse(made).attributes.schema.defaults == {"a": 1, "b": 2}


@pytest.mark.parametrize("layout", [{}, {"block": "{pairs}", "template": "x"}, {"block": "no pairs"}])
def test_a_layout_is_a_template_or_a_block_with_pairs(layout):
    message = refusal(fields(attributes={"schema": {"names": ["verbosity"], "layout": layout}}))
    assert "give exactly one of template and block" in message or "block must contain {pairs}" in message


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (True, {"verbosity": "verbosity", "humor": "humor"}),
        ({"humor": "fun"}, {"verbosity": "verbosity", "humor": "fun"}),
        (False, {}),
    ],
)
def test_attribute_columns_are_renamed_or_switched_off(columns, expected):
    assert Job.parse(fields(attributes={"columns": columns})).attributes.column_of() == expected


@pytest.mark.parametrize(
    ("sampling", "named"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 2000}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"stop": [1]}, "stop"),
        ({"logprobs": 21}, "logprobs"),
    ],
)
def test_a_sampling_value_out_of_its_bounds_is_refused_by_name(sampling, named):
    assert refusal(fields(sampling=sampling)).startswith(f"job: sampling: {named}")


def test_fewer_tokens_at_most_than_at_least_is_refused():
    message = refusal(fields(sampling={"min_tokens": 9, "max_tokens": 3}))
    assert message == "job: sampling: min_tokens 9 is more than max_tokens 3"


def test_a_sampling_field_may_come_from_a_column():
    job = Job.parse(fields(sampling={"max_tokens": {"column": "longest"}}))
    assert job.sampling_columns == {"max_tokens": "longest"}
    assert job.constant_sampling == {"temperature": 0.7}


@pytest.mark.parametrize("entry", [{}, {"colum": "x"}, {"column": 1}, {"column": "x", "default": 1}])
def test_a_sampling_mapping_that_names_no_column_is_refused(entry):
    assert refusal(fields(sampling={"seed": entry})) == "job: sampling: seed: expected a value or {column: NAME}"


def test_a_column_for_an_unknown_sampling_field_is_refused():
    message = refusal(fields(sampling={"sed": {"column": "x"}}))
    assert message == "job: sampling: unknown field 'sed', did you mean 'seed'?"


def test_checked_sampling_has_every_field_and_a_lone_stop_string_is_a_list():
    checked = check_sampling({"stop": "END"})
    assert checked.keys() == Sampling.model_fields.keys()
    assert checked["stop"] == ["END"]


def test_samples_are_the_constant_n():
    assert Job.parse(fields()).samples == 1
    assert Job.parse(fields(sampling={"n": 4})).samples == 4
    assert Job.parse(fields(sampling={"n": {"column": "n"}})).samples == 1


def test_a_model_is_required_unless_the_engine_is_echo():
    assert refusal(fields(engine={"kind": "vllm"})) == "job: engine.kind vllm needs a model"


def test_remote_code_needs_a_full_commit():
    made = fields(model={"source": "a/b", "revision": "main", "trust_remote_code": True})
    assert "pin revision to a full commit hash" in refusal(made)
    assert Job.parse(fields(model={"source": "a/b", "revision": "a" * 40, "trust_remote_code": True})).model


def test_a_maximum_of_replicas_under_the_minimum_is_refused():
    assert refusal(fields(replicas={"min": 3, "max": 2})) == "job: replicas: max 2 is less than min 3"


def test_engine_options_pass_through_under_their_own_names():
    options = {"max_model_len": 1024, "no_such_option": [1]}
    assert Job.parse(fields(engine={"options": options})).engine.options == options


@pytest.mark.parametrize(("section", "field"), [(None, "name"), ("input", "prompt"), ("output", "path"), ("engine", "kind")])
def test_a_job_is_frozen(section, field):
    job = Job.parse(fields())
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        setattr(getattr(job, section) if section else job, field, "echo")


MEANT = {
    "temperature": fields(sampling={"temperature": 0.8}),
    "n": fields(sampling={"n": 2}),
    "seed": fields(sampling={"seed": 1}),
    "a sampling column": fields(sampling={"temperature": {"column": "t"}}),
    "the prompt column": fields(input={"prompt": "question"}),
    "the system message": fields(input={"system": "Be brief."}),
    "a system column": fields(input={"system": {"column": "prompt"}}),
    "kept columns": fields(input={"keep": ["prompt"]}),
    "the id": fields(input={"id": "id"}),
    "an attribute": fields(attributes={"values": {"verbosity": 3}}),
    "a sweep": fields(attributes={"sweep": {"verbosity": [0, 1]}}),
    "attribute columns": fields(attributes={"columns": False}),
    "the schema": fields(attributes={"schema": "karakuri"}),
    "the layout": fields(attributes={"schema": {**fields()["attributes"]["schema"], "layout": {"template": "{{ x }}"}}}),
    "no attributes": fields(attributes=None),
}
NOT_MEANT = {
    "the name": fields(name="other"),
    "replicas": fields(replicas={"min": 2, "max": 4}),
    "engine options": fields(engine={"options": {"max_model_len": 9}}),
    "parallelism": fields(engine={"tensor_parallel_size": 4, "pipeline_parallel_size": 2}),
    "environment": fields(engine={"env": {"VLLM_X": "1"}}),
    "span rows": fields(spans={"rows": 3}),
    "span bytes": fields(spans={"bytes": 3}),
    "limits": fields(limits={"errors": 0.5, "tokens": 1, "hours": 1}),
    "output": fields(output={"path": "elsewhere"}),
    "input path": fields(input={"path": ["in.jsonl", "more.jsonl"]}),
    "a default written out": fields(sampling={"top_p": 1.0, "stop": []}),
}


@pytest.mark.parametrize("changed", MEANT.values(), ids=MEANT.keys())
def test_what_a_row_means_is_in_the_fingerprint(changed):
    assert fingerprint(Job.parse(changed).meaning()) != fingerprint(Job.parse(fields()).meaning())


@pytest.mark.parametrize("changed", NOT_MEANT.values(), ids=NOT_MEANT.keys())
def test_how_a_job_is_run_is_not_in_the_fingerprint(changed):
    assert Job.parse(changed).meaning() == Job.parse(fields()).meaning()
    assert fingerprint(Job.parse(changed).meaning()) == fingerprint(Job.parse(fields()).meaning())


def test_a_changed_field_is_named_by_its_dotted_key_in_the_meaning():
    before, now = Job.parse(fields()).meaning(), Job.parse(fields(sampling={"temperature": 0.8})).meaning()
    assert {key for key in before if before[key] != now[key]} == {"sampling.temperature"}


def test_the_order_of_kept_columns_means_nothing():
    one, two = (Job.parse(fields(input={"keep": keep})) for keep in (["a", "b"], ["b", "a"]))
    assert one.meaning() == two.meaning()


def test_parsing_does_not_change_what_it_is_given():
    made = fields()
    before = copy.deepcopy(made)
    Job.parse(made)
    assert made == before


def properties(schema):
    """(where, property, its schema) of every model in a JSON schema, with those of `sampling`."""
    models = {"Job": schema, **schema["$defs"], "Job.sampling": schema["properties"]["sampling"]}
    return [(where, name, value) for where, model in models.items() for name, value in model.get("properties", {}).items()]


def test_the_json_schema_has_every_field():
    found = {(where, name) for where, name, _ in properties(Job.model_json_schema())}
    rooms = [value for module in (jobfile, spec, sampling, steering) for value in vars(module).values()]
    models = {value for value in rooms if isinstance(value, type) and issubclass(value, jobfile.Spec)} - {jobfile.Spec}
    wanted = {
        ("Job.sampling" if model is Sampling else model.__name__, field.alias or name)
        for model in models
        for name, field in model.model_fields.items()
    }
    assert found == wanted


def test_every_property_of_the_json_schema_has_a_description():
    assert [(where, name) for where, name, value in properties(Job.model_json_schema()) if not value.get("description")] == []


@pytest.mark.parametrize("changed", [*MEANT.values(), *NOT_MEANT.values()], ids=[*MEANT, *NOT_MEANT])
def test_a_valid_job_is_valid_under_the_json_schema(changed):
    jsonschema.validate(changed, Job.model_json_schema())


@pytest.mark.parametrize("changed", [fields(sampling={"temprature": 1}), fields(inptu=1), fields(sampling={"n": 0})])
def test_an_invalid_job_is_invalid_under_the_json_schema(changed):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed, Job.model_json_schema())


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ({"input": {"retry": 1}}, "errors: input: nothing changes in another attempt: keep or fail"),
        ({"timeout": {"retry": 1, "sampling": {"n": 2}}}, "errors.timeout.sampling: n: every sample is tried again by itself"),
        ({"timeout": {"retry": 0}}, "errors.timeout.retry: Input should be greater than or equal to 1"),
        ({"timeout": {"retry": 1, "sampling": {"top_p": 2}}}, "errors.timeout.sampling: top_p: Input should be less than or"),
        ({"timeuot": "keep"}, "errors.timeuot: Input should be 'input', 'render', 'too_long', 'engine_rejected'"),
    ],
)
def test_a_wrong_policy_for_failures_is_refused(errors, message):
    assert message in refusal(fields(errors=errors))


def test_policies_do_not_change_what_a_row_means():
    errors = {"truncated": {"retry": 2, "sampling": {"max_tokens": 9}}, "input": "fail"}
    assert Job.parse(fields(errors=errors)).meaning() == Job.parse(fields()).meaning()

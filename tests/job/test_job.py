"""spec.py: what a job must say, what its fingerprint holds, and its JSON schema."""

import copy

import jsonschema
import pydantic
import pytest

from batchgen.job import accept, attributes, job, model, policy, replicas, sampling, schemas
from batchgen.job import fields as job_fields
from batchgen.job import input as job_input
from batchgen.job.job import Job
from batchgen.job.meaning import fingerprint
from batchgen.job.replicas import engine
from batchgen.job.sampling import Sampling
from tests.support.jobs import fields, refusal


@pytest.mark.parametrize(
    ("named", "got"),
    [
        ({"prompt": "p", "messages": "m"}, "prompt, messages"),
        ({"messages": "m", "turns": "t"}, "messages, turns"),
        ({"prompt": "p", "messages": "m", "turns": "t"}, "prompt, messages, turns"),
    ],
)
def test_anything_but_one_prompt_column_is_refused(named, got):
    message = refusal(fields() | {"input": {"path": "in.jsonl", **named}})
    names = "prompt, messages, conversations, turns, instruction, template, body"
    assert message == f"job: input: name exactly one of {names} (got {got})"


@pytest.mark.parametrize("named", ["prompt", "messages", "turns"])
def test_one_prompt_column_is_enough(named):
    job = Job.parse(fields() | {"input": {"path": "in.jsonl", named: "column"}})
    assert getattr(job.input, named) == "column"


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
    "best_of": fields(sampling={"best_of": 2}),
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
    "logprobs of tokens": fields(output={"token_logprobs": True}, sampling={"logprobs": 0}),
}
NOT_MEANT = {
    "the name": fields(name="other"),
    "replicas": fields(replicas={"min": 2, "max": 4}),
    "where replicas are": fields(
        replicas={
            "accelerator": "H200",
            "labels": {"a": "b"},
            "resources": {"seat": 1},
            "env_from": ["A"],
            "start_seconds": 9,
            "share": 2,
            "priority": -1,
        }
    ),
    "groups of replicas": fields(replicas=[{"max": 2}, {"accelerator": "A100", "engine": {"tensor_parallel_size": 8}}]),
    "engine options": fields(engine={"options": {"max_model_len": 9}}),
    "parallelism": fields(engine={"tensor_parallel_size": 4, "pipeline_parallel_size": 2}),
    "more parallelism": fields(engine={"data_parallel_size": 4, "expert_parallel": True, "gpus": 1}),
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
    rooms = [
        value
        for module in (job_fields, job_input, job, accept, model, policy, replicas, engine, sampling, attributes, schemas)
        for value in vars(module).values()
    ]
    models = {value for value in rooms if isinstance(value, type) and issubclass(value, job_fields.Spec)} - {
        job_fields.Spec,
        accept.Fit,
        schemas.Labels,
        schemas.BuiltIn,
        replicas.Reserved,
    }
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
    assert jsonschema.Draft202012Validator(Job.model_json_schema()).is_valid(changed)


@pytest.mark.parametrize("changed", [fields(sampling={"temprature": 1}), fields(inptu=1), fields(sampling={"n": 0})])
def test_an_invalid_job_is_invalid_under_the_json_schema(changed):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed, Job.model_json_schema())


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ({"input": {"retry": 1}}, "errors: input: nothing changes in another attempt: keep or fail"),
        ({"timeout": {"retry": 1, "sampling": {"n": 2}}}, "errors.timeout.sampling: n: every sample is tried again by itself"),
        (
            {"parse": {"retry": 1, "sampling": {"best_of": 2}}},
            "errors.parse.sampling: best_of: every sample is tried again by itself",
        ),
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


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("name", {"name": True}),
        ("output.path", {"output": {"path": False}}),
        ("accept.judge.regex", {"accept": {"judge": {"template": "good?", "regex": True}}}),
    ],
)
def test_a_word_that_yaml_takes_for_a_truth_value_is_named(field, given):
    said = refusal(fields(**given))
    assert f"{field}: a text, not true or false: YAML's yes, no, on and off are these unless they are quoted" in said

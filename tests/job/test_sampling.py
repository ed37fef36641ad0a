"""sampling.py: the sampling of a job, its bounds, and fields that come from columns."""

import json
import re
from typing import Any

import pytest

from batchgen.job.job import Job
from batchgen.job.sampling import Sampling, check_sampling
from tests.support.jobs import fields, refusal
from tests.support.planning import make_job


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
        ({"best_of": 0}, "best_of"),
        ({"best_of": 1025}, "best_of"),
    ],
)
def test_a_sampling_value_out_of_its_bounds_is_refused_by_name(sampling, named):
    assert refusal(fields(sampling=sampling)).startswith(f"job: sampling: {named}")


def test_fewer_tokens_at_most_than_at_least_is_refused():
    message = refusal(fields(sampling={"min_tokens": 9, "max_tokens": 3}))
    assert message == "job: sampling: min_tokens 9 is more than max_tokens 3"


def test_a_best_of_under_n_is_refused():
    assert refusal(fields(sampling={"n": 4, "best_of": 3})) == "job: sampling: best_of 3 is less than n 4"
    assert check_sampling({"n": 4, "best_of": 4}).best_of == 4


@pytest.mark.parametrize(("given", "logprobs"), [({}, 0), ({"logprobs": None}, 0), ({"logprobs": 3}, 3)])
def test_best_of_makes_null_logprobs_0(given, logprobs):
    assert check_sampling({"best_of": 2, **given}).logprobs == logprobs
    assert check_sampling({"best_of": None}).logprobs is None


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
    assert dict(checked).keys() == Sampling.model_fields.keys()
    assert checked.stop == ["END"]


def test_samples_are_the_constant_n():
    assert Job.parse(fields()).samples == 1
    assert Job.parse(fields(sampling={"n": 4})).samples == 4
    assert Job.parse(fields(sampling={"n": {"column": "n"}})).samples == 1


def test_an_adapter_that_the_job_does_not_have_is_refused():
    assert refusal(fields(sampling={"adapter": "odd"})) == "job: sampling.adapter: no 'odd' in model.adapters (it has none)"


def test_a_schema_keeps_the_order_of_its_properties_and_means_the_same_in_any() -> None:
    one = {"json": {"type": "object", "properties": {"reasoning": {"type": "string"}, "answer": {"type": "boolean"}}}}
    other = {"json": {"properties": {"answer": {"type": "boolean"}, "reasoning": {"type": "string"}}, "type": "object"}}
    jobs = [make_job("x", sampling={"structured_outputs": constraint}) for constraint in (one, other)]
    kept = check_sampling(jobs[0].constant_sampling).structured_outputs
    assert kept == '{"json":{"type":"object","properties":{"reasoning":{"type":"string"},"answer":{"type":"boolean"}}}}'
    assert jobs[0].meaning() == jobs[1].meaning()
    assert jobs[0].meaning()["sampling.structured_outputs"].startswith('{"json":{"properties":{"answer"')


@pytest.mark.parametrize(
    "schema", ["[" * 300 + "]" * 300, '{"const": "\\ud83d"}', '{"x": ', '{"pattern": "' + "a" * 300_000 + '"}']
)
def test_a_schema_that_cannot_be_used_is_a_mistake_of_the_sampling(schema: str) -> None:
    with pytest.raises(ValueError, match="structured_outputs"):
        check_sampling({"structured_outputs": {"json": schema}})


def test_a_schema_out_of_a_parquet_struct_has_no_nulls_of_other_rows() -> None:
    """Arrow gives every row the keys of all rows."""
    part = {"type": "string", "enum": None, "const": None, "minLength": 1}
    schema = {"type": "object", "properties": {"a": part, "b": None, "const": None}, "required": ["a"], "$defs": None}
    kept = check_sampling({"structured_outputs": {"json": schema, "regex": None}}).structured_outputs
    assert kept is not None
    assert json.loads(kept) == {
        "json": {"type": "object", "properties": {"a": {"type": "string", "minLength": 1}}, "required": ["a"]}
    }


def test_nulls_that_are_values_of_a_schema_stay() -> None:
    schema: dict[str, Any] = {
        "anyOf": [{"const": None}, {"type": ["string", "null"], "const": None, "default": None}, {"enum": [None, 1]}],
        "properties": {"enum": {"examples": [None, {"a": None}]}},
    }
    kept = check_sampling({"structured_outputs": {"json": schema}}).structured_outputs
    assert kept is not None
    del schema["anyOf"][1]["default"]
    assert json.loads(kept) == {"json": schema}


def test_huge_integers_of_a_schema_are_kept() -> None:
    kept = check_sampling({"structured_outputs": {"json": {"maximum": 10**30, "enum": [None]}}}).structured_outputs
    assert kept == '{"json":{"maximum":1000000000000000000000000000000,"enum":[null]}}'


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({50256: -100, 7: 1}, '{"7":1.0,"50256":-100.0}'),
        ({"7": 1, "50256": -100.0, "9": None}, '{"7":1.0,"50256":-100.0}'),
        ('{"50256": -100, "7": 1}', '{"7":1.0,"50256":-100.0}'),
        ({str(2**31 - 1): 0.5}, '{"2147483647":0.5}'),
        ({}, None),
        (None, None),
    ],
)
def test_biases_are_kept_as_text_in_the_order_of_their_ids(given: object, kept: str | None) -> None:
    assert check_sampling({"logit_bias": given}).logit_bias == kept


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ([1], "[1] is no mapping of token ids to biases"),
        ('{"1": Infinity}', "inf (token 1) is not a number -100..100"),
        ({"-1": 0}, "'-1' is not a token id 0..2147483647"),
        ({"05": 0}, "'05' is not a token id 0..2147483647"),
        ({2**31: 0}, "2147483648 is not a token id 0..2147483647"),
        ({1.0: 0}, "1.0 is not a token id 0..2147483647"),
        ({True: 0}, "True is not a token id 0..2147483647"),
        ({"1": 100.5}, "100.5 (token 1) is not a number -100..100"),
        ({"1": float("nan")}, "nan (token 1) is not a number -100..100"),
        ({"1": True}, "True (token 1) is not a number -100..100"),
        ({"1": "2"}, "'2' (token 1) is not a number -100..100"),
        (dict.fromkeys(range(1025), 1), "1025 tokens are more than 1024"),
    ],
)
def test_a_bias_that_is_none_is_refused_with_its_value(given: object, cause: str) -> None:
    with pytest.raises(ValueError, match=rf"^logit_bias: {re.escape(cause)}$"):
        check_sampling({"logit_bias": given})


def test_biases_of_a_job_mean_the_same_however_they_are_written() -> None:
    one, other = (make_job("x", sampling={"logit_bias": biases}) for biases in ({5: 1, 3: 2.0}, {"3": 2, "5": 1.0}))
    assert one.meaning() == other.meaning()
    assert one.meaning()["sampling.logit_bias"] == '{"3":2.0,"5":1.0}'
    assert make_job("x").meaning()["sampling.logit_bias"] is None

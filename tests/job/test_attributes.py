"""steering.py: the attributes of a job, their schema, values, sweeps and columns."""

import pytest

from batchgen.errors import JobError
from batchgen.job.job import Job
from batchgen.job.schemas import BUILT_IN
from batchgen.render.steering import Steering
from tests.support.jobs import fields, refusal
from tests.support.rendering import TWO, make_job


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
    assert [(v["verbosity"], v["humor"]) for v in Steering(job.attributes).variants("s", 0)] == [(0, 1), (0, 2), (4, 1), (4, 2)]
    assert (job.variants, job.attributes.varied) == (4, ["verbosity", "humor"])


def test_an_unknown_schema_is_refused_with_those_there_are():
    message = refusal(fields(attributes={"schema": "karakuir"}))
    assert message == f"job: attributes: unknown schema 'karakuir'; built in are {', '.join(BUILT_IN)}"


def test_a_default_outside_its_range_is_refused():
    made = fields(attributes={"schema": {"names": ["a"], "range": {"a": [1, 3]}, "defaults": {"a": 4}}, "values": {}})
    assert refusal(made) == "job: attributes.schema: a: 4 is not an integer 1..3"


def test_an_attribute_that_nobody_sets_has_the_low_end():
    made = fields(attributes={"schema": {"names": ["a", "b"], "range": {"a": [1, 3]}, "defaults": {"b": 2}}, "values": {}})
    assert Job.parse(made).attributes.schema.default_values == {"a": 1, "b": 2}


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


@pytest.mark.parametrize("name", ["content", "role", "messages"])
def test_attributes_may_not_be_named_like_parts_of_a_message(name: str) -> None:
    with pytest.raises(JobError, match=name):
        make_job(attributes={"schema": {"names": [name], "layout": {"block": " {pairs}"}}})


@pytest.mark.parametrize("pair", ["{0}", "{nme}", "{"])
def test_a_pair_that_cannot_be_formatted_is_refused_with_the_job(pair: str) -> None:
    with pytest.raises(JobError, match="pair"):
        make_job(attributes={"schema": TWO | {"layout": {"block": " {pairs}", "pair": pair}}})

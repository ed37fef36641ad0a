"""Meanings of two releases are compared field by field, with the defaults where one has no field."""

from __future__ import annotations

from typing import Any

import pytest

from batchgen.job import job as jobs
from batchgen.job import meaning
from batchgen.job.job import Job, defaults
from tests.support.jobs import fields

WHOLE = fields(attributes={"sweep": {"humor": [0, 1]}}, parse={"columns": {"good": "boolean"}})


def test_a_field_that_one_side_lacks_has_its_default() -> None:
    whole = Job.parse(WHOLE).meaning()
    at_default = {name for name, value in whole.items() if value == defaults().get(name)}
    assert {"input.answer_role", "sampling.top_p", "sampling.seed", "attributes.columns", "parse.regex"} <= at_default
    reduced = {name: value for name, value in whole.items() if name not in at_default}
    assert meaning.differences(reduced, whole, defaults()) == meaning.differences(whole, reduced, defaults()) == {}
    assert meaning.fingerprint(reduced, defaults()) == meaning.fingerprint(whole, defaults())


@pytest.mark.parametrize(
    ("changes", "name", "values"),
    [
        ({"sampling": {"top_p": 0.5}}, "sampling.top_p", (1.0, 0.5)),
        ({"input": {"answer_role": "label"}}, "input.answer_role", ("assistant", "label")),
        ({"attributes": {"columns": False}}, "attributes.columns", (True, False)),
        ({"attributes": {"values": {"verbosity": 2, "humor": 1}}}, "attributes.values.humor", (None, 1)),
    ],
)
def test_a_field_that_one_side_lacks_differs_from_another_value(changes: dict[str, Any], name: str, values: Any) -> None:
    before, now = Job.parse(fields()).meaning(), Job.parse(fields(**changes)).meaning()
    before.pop(name, None)
    assert meaning.differences(before, now, defaults()) == {name: values}
    assert meaning.fingerprint(before, defaults()) != meaning.fingerprint(now, defaults())


def test_a_field_that_is_gone_had_its_last_default(monkeypatch: pytest.MonkeyPatch) -> None:
    now = Job.parse(fields()).meaning()
    assert list(meaning.differences(now | {"input.cap": 7}, now, defaults())) == ["input.cap"]
    monkeypatch.setitem(jobs.RETIRED, "input.cap", 7)
    defaults.cache_clear()
    assert meaning.differences(now | {"input.cap": 7}, now, defaults()) == {}
    monkeypatch.undo()
    defaults.cache_clear()


def test_what_a_plain_job_means_is_short() -> None:
    """The defaults of the format: whoever changes one changes what released outputs mean where they lack the field."""
    telling = {name: value for name, value in Job.parse(fields()).meaning().items() if value != defaults().get(name)}
    assert telling == {
        "input.prompt": "prompt",
        "attributes.schema.names": ["verbosity", "humor"],
        "attributes.schema.layout.block": "({pairs})",
        "attributes.values.verbosity": 2,
        "engine.kind": "echo",
        "sampling.temperature": 0.7,
    }

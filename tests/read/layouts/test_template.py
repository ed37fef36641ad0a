"""`input.template`: a user message made of a row's columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import JobError
from batchgen.job.job import Job
from batchgen.plan.plan import make_plan
from batchgen.prepare import prepare
from batchgen.read.reader import read_spans
from tests.support.rendering import bare, error_of, make_job, one
from tests.support.replicas import answered

SOURCE = {
    "path": "in.jsonl",
    "template": "{{ title | upper }}: {% for tag in tags %}[{{ tag }}]{% endfor %} {{ raise_exception and '' }}",
}


def test_the_columns_of_a_row_make_its_prompt() -> None:
    renderer = bare("{{ messages[0]['content'] }}!", input=SOURCE)
    assert one(renderer, title="a", tags=["x", "y"]).text == "A: [x][y] !"
    assert one(bare(input=SOURCE), title="a", tags=[]).text == "A:  ", "a model without a chat template reads it as it is"


def test_a_column_that_a_row_lacks_and_a_template_that_fails_are_its_error() -> None:
    renderer = bare(input=SOURCE)
    assert error_of(one(renderer, title="a")) == ("render", "in.jsonl:1: input.template: 'tags' is undefined")
    assert error_of(one(renderer, title=5, tags=None))[1].startswith("in.jsonl:1: input.template: ")
    assert error_of(one(bare(input={"path": "x", "template": "{% for i in range(10**9) %}x{% endfor %}"})))[0] == "render"


def test_a_template_that_does_not_compile_is_refused_before_anything_is_read() -> None:
    with pytest.raises(JobError, match=r"^input\.template: unexpected end"):
        prepare(make_job(input={"path": "nowhere", "template": "{{ a"}))


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        (
            {"template": "{{ a }}", "prompt": "a"},
            "name exactly one of prompt, messages, conversations, turns, instruction, template, body (got prompt, template)",
        ),
    ],
)
def test_a_wrong_template_is_a_mistake_in_the_job(source: dict[str, Any], cause: str) -> None:
    with pytest.raises(JobError) as wrong:
        make_job(input={"path": "x", **source})
    assert cause in str(wrong.value)


def test_a_column_that_is_not_in_the_input_is_named_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"title": "a"}\n')
    job = make_job(input={"path": str(tmp_path / "in.jsonl"), "template": "{{ title }} {{ tag }}"})
    with pytest.raises(JobError, match=r"input\.template: tag: no column 'tag' in the input; its columns are title"):
        prepare(job)


def test_only_the_templates_columns_are_read_from_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"title": ["tea"], "rest": ["x"]}), tmp_path / "in.parquet")
    job = Job.parse(
        {
            "input": {"path": str(tmp_path / "in.parquet"), "template": "On {{ title }}.", "keep": []},
            "engine": {"kind": "echo"},
            "output": {"path": str(tmp_path / "out")},
        }
    )
    made = prepare(job)
    shards, spans = make_plan(job, made.found, made.columns)
    [(_, [row], _)] = read_spans(job, shards[0], spans, made.columns.kept, made.renderer.needed)
    assert row.data == {"title": "tea"}


def test_the_message_is_in_the_output(tmp_path: Path) -> None:
    source = {"path": str(tmp_path / "in.jsonl"), "template": "Rate {{ text }}."}
    rows, _ = answered(tmp_path, [{"text": "this"}], input=source)
    assert rows[0]["messages"][0] == {"role": "user", "content": "Rate this."}
    assert rows[0]["text"] == "this"

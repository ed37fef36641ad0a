"""job.json: written once; a later job must mean the same."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batchgen.errors import OutputConflict
from batchgen.job.job import Job
from batchgen.output.job_file import NAME, freeze, load, meaning
from batchgen.output.store import LocalStore
from batchgen.render.model_files import ModelFiles, load_model

KEPT = pa.schema([pa.field("prompt", pa.string(), metadata={"column": "prompt"}), ("tags", pa.list_(pa.int64()))])
INPUT = {"path": "in.jsonl", "prompt": "prompt"}
KARAKURI: dict[str, Any] = {"schema": "karakuri", "values": {"verbosity": 2}, "sweep": {"humor": [0, 1]}}
MODEL = replace(load_model(None), version={"digest": "aa", "chat_template": "bb"})


def make_job(**fields: Any) -> Job:
    given = {
        "input": INPUT,
        "engine": {"kind": "echo"},
        "output": {"path": "out"},
        "attributes": KARAKURI,
        "sampling": {"temperature": 0.5},
    }
    return Job.parse(given | fields)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """An output that belongs to make_job()."""
    store = LocalStore(tmp_path)
    freeze(store, make_job(), MODEL, KEPT)
    return store


def conflict(store: LocalStore, job: Job, model: ModelFiles = MODEL) -> list[str]:
    """The lines of the refusal that name fields."""
    with pytest.raises(OutputConflict, match="belongs to another job; these fields differ") as caught:
        freeze(store, job, model, KEPT)
    return [line.strip() for line in str(caught.value).splitlines() if line.startswith("  ")]


def test_a_new_output_remembers_nothing(tmp_path: Path) -> None:
    assert load(LocalStore(tmp_path)) is None
    assert list(tmp_path.iterdir()) == []


def test_what_is_frozen_is_read_back(store: LocalStore) -> None:
    frozen = load(store)
    assert frozen is not None
    assert (frozen.job, frozen.model, frozen.meaning) == (make_job(), MODEL.version, meaning(make_job(), MODEL))
    assert frozen.input_columns.equals(KEPT, check_metadata=True)
    assert re.fullmatch(r"[0-9a-f]{64}", frozen.fingerprint)


def test_the_same_job_is_accepted_and_job_json_is_not_written_again(store: LocalStore) -> None:
    before = store.get(NAME)
    again = freeze(store, make_job(), MODEL, pa.schema([("other", pa.int8())]))
    assert again.input_columns.equals(KEPT)
    assert store.get(NAME) == before


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"sampling": {"temperature": 0.7}}, "sampling.temperature: 0.5 there, 0.7 in this job"),
        ({"sampling": {"temperature": 0.5, "n": 2}}, "sampling.n: 1 there, 2 in this job"),
        ({"sampling": {"temperature": 0.5, "seed": None}}, "sampling.seed: 0 there, None in this job"),
        ({"attributes": KARAKURI | {"values": {"verbosity": 3}}}, "attributes.values.verbosity: 2 there, 3 in this job"),
        ({"attributes": KARAKURI | {"sweep": {"humor": [0, 2]}}}, "attributes.sweep.humor: [0, 1] there, [0, 2] in this job"),
        ({"attributes": KARAKURI | {"columns": False}}, "attributes.columns: True there, False in this job"),
        ({"attributes": KARAKURI | {"schema": "steerlm"}}, "attributes.schema: 'karakuri' there, 'steerlm' in this job"),
        ({"input": INPUT | {"system": "Be brief."}}, "input.system: None there, 'Be brief.' in this job"),
        ({"input": INPUT | {"keep": ["prompt"]}}, "input.keep: 'all' there, ['prompt'] in this job"),
    ],
)
def test_a_change_of_meaning_is_refused_with_exactly_the_field_that_differs(
    store: LocalStore, fields: dict[str, Any], line: str
) -> None:
    assert conflict(store, make_job(**fields)) == [line]


def test_the_prompt_column_moved_to_messages_names_both_fields(store: LocalStore) -> None:
    lines = conflict(store, make_job(input={"path": "in.jsonl", "messages": "prompt"}))
    assert lines == ["input.prompt: 'prompt' there, None in this job", "input.messages: None there, 'prompt' in this job"]


def test_another_model_or_template_is_refused(store: LocalStore) -> None:
    other = replace(MODEL, version={"digest": "cc", "chat_template": "bb"})
    assert conflict(store, make_job(), other) == ["model.digest: 'aa' there, 'cc' in this job"]
    other = replace(MODEL, version={"digest": "aa", "chat_template": "dd"})
    assert conflict(store, make_job(), other) == ["model.chat_template: 'bb' there, 'dd' in this job"]


@pytest.mark.parametrize(
    "fields",
    [
        {"replicas": {"min": 2, "max": 9}},
        {"engine": {"kind": "echo", "tensor_parallel_size": 4, "options": {"max_num_seqs": 3}, "env": {"A": "b"}}},
        {"limits": {"errors": 0.5, "tokens": 10}},
        {"spans": {"rows": 7}},
        {"output": {"path": "moved"}},
        {"name": "renamed"},
        {"input": INPUT | {"path": ["in.jsonl", "more.jsonl"]}},
        {"input": INPUT | {"max_row_bytes": 10}},
        {"sampling": {"temperature": 0.5, "top_p": 1, "n": 1}},
    ],
)
def test_how_a_job_is_run_may_change(store: LocalStore, fields: dict[str, Any]) -> None:
    assert freeze(store, make_job(**fields), MODEL, KEPT).job == make_job()


@pytest.mark.parametrize("data", [b"{", b"{}", b'{"carried_schema": "AAAA"}', b"\xff"])
def test_a_job_json_that_is_none_is_a_conflict_not_a_new_output(tmp_path: Path, data: bytes) -> None:
    store = LocalStore(tmp_path)
    store.put(NAME, data)
    with pytest.raises(OutputConflict, match=r"is not a batchgen job: .*; choose another output\.path"):
        load(store)


@pytest.mark.parametrize("data", [b"[]", b"null", b'{"carried_schema": 5}'])
def test_a_job_json_of_another_shape_is_a_conflict(tmp_path: Path, data: bytes) -> None:
    store = LocalStore(tmp_path)
    store.put(NAME, data)
    with pytest.raises(OutputConflict, match="is not a batchgen job"):
        load(store)


@pytest.mark.parametrize("values", [{"verbosity": 2.0}, {"verbosity": 2, "humor": None}])
def test_another_spelling_of_the_same_values_means_the_same(store: LocalStore, values: dict[str, Any]) -> None:
    before = store.get(NAME)
    freeze(store, make_job(attributes=KARAKURI | {"values": values}), MODEL, KEPT)
    assert store.get(NAME) == before


def test_asking_for_the_tokens_logprobs_is_a_change_of_meaning(tmp_path: Path) -> None:
    store, scored = LocalStore(tmp_path), {"temperature": 0.5, "logprobs": 0}
    freeze(store, make_job(sampling=scored), MODEL, KEPT)
    lines = conflict(store, make_job(sampling=scored, output={"path": "out", "token_logprobs": True}))
    assert lines == ["output.token_logprobs: False there, True in this job"]


def test_a_first_value_is_one_difference(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    freeze(store, make_job(attributes={"schema": "karakuri"}), MODEL, KEPT)
    lines = conflict(store, make_job(attributes={"schema": "karakuri", "values": {"verbosity": 2}}))
    assert lines == ["attributes.values.verbosity: None there, 2 in this job"]

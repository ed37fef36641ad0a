"""The tasks that read numbers, with the echo engine: their columns, rows in error, retries, prompts, what a job cannot have."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.engines.base import PoolingRequest, Text
from batchgen.engines.restarting import RestartingEngine
from batchgen.errors import BadRow, EngineError, JobError, ModelError, RowError, TooManyErrors
from batchgen.job.job import Job
from batchgen.job.model import Model
from batchgen.job.pooling import POOLED, Pooling
from batchgen.output.parts import read_part
from batchgen.output.store import open_store
from batchgen.plan import plan
from batchgen.read import reader
from batchgen.records import Completion, Pooled, numbers
from batchgen.records.columns import COLUMNS, schema_of
from batchgen.render.model.pooling import pooling_files
from batchgen.render.model_files import load_model
from batchgen.replica import journal
from tests.support.jobs import refusal
from tests.support.rendering import TINY, TOKENIZER
from tests.support.replicas import answered, blocks, prepared, ran, replica

ROW = {"prompt": "a query", "doc": "one", "docs": ["one", "two", "three"], "label": "mine", "score": 3, "embedding": [1.5]}
TALK = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi."}]


def job(folder: Path, task: str, **fields: Any) -> dict[str, Any]:
    given = {"path": str(folder / "in.jsonl"), "prompt": "prompt", **fields.pop("input", {})}
    if task in ("score", "rerank"):
        given = {"documents": "doc" if task == "score" else "docs", **given}
    return {"task": task, "input": given, **fields}


def read(folder: Path, rows: list[dict[str, Any]], task: str, **fields: Any) -> list[dict[str, Any]]:
    return answered(folder, rows, **job(folder, task, **fields))[0]


@pytest.mark.parametrize("task", POOLED)
def test_an_output_has_the_columns_of_its_task_and_keeps_the_inputs(tmp_path: Path, task: str) -> None:
    [row] = read(tmp_path, [ROW], task)
    own = {"embed": {"embedding"}, "classify": {"label", "probabilities"}, "rerank": {"scores"}}.get(task, {"score"})
    assert own <= row.keys()
    assert all(row[name] is not None for name in own)
    assert row.keys().isdisjoint({column.name for column in COLUMNS if column.tasks == ("generate",)})
    for name in ("label", "score", "embedding"):
        assert row[f"input_{name}" if name in own else name] == ROW[name]


def test_the_numbers_are_of_the_right_kind_and_the_same_every_time(tmp_path: Path) -> None:
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
    rows = [{"prompt": "one"}, {"prompt": "two"}, {"prompt": "one"}]
    first, again = (read(tmp_path / name, rows, "embed", model=str(TINY)) for name in ("a", "b"))
    assert [row["embedding"] for row in first] == [row["embedding"] for row in again]
    assert first[0]["embedding"] == first[2]["embedding"] != first[1]["embedding"]
    assert [len(row["embedding"]) for row in first] == [128] * 3
    assert np.linalg.norm(first[0]["embedding"]) == pytest.approx(1)


def test_an_embedding_has_a_fixed_size_where_it_is_known(tmp_path: Path) -> None:
    made = prepared(tmp_path, [{"prompt": "a"}, {"prompt": "b " * 3000}], **job(tmp_path, "embed", model=str(TINY)))
    receipt = ran(replica(made), blocks(made)[0])
    part = read_part(open_store(made.job.output.path), receipt.span)
    assert part.schema.field("embedding").type == pa.list_(pa.float32(), 128)
    assert part["embedding"].null_count == 1
    assert (receipt.counts.ok, receipt.errors, receipt.counts.completion_tokens) == (1, {"too_long": 1}, 0)
    assert receipt.counts.prompt_tokens == part["prompt_tokens"][0].as_py() > 0
    plain = schema_of(Job.parse({**job(tmp_path, "embed"), "output": "o", "engine": {"kind": "echo"}}), pa.schema([]))
    assert plain.field("embedding").type == pa.list_(pa.float32())


@pytest.mark.parametrize(
    ("task", "row", "cause"),
    [
        ("score", {"doc": ["one"]}, "doc is a list: task score compares one text; set task: rerank"),
        ("score", {"doc": None}, "doc is null"),
        ("score", {"doc": 1}, "doc must be a text"),
        ("rerank", {"docs": "one"}, "docs is one text: task rerank compares a list of texts; set task: score"),
        ("rerank", {"docs": []}, "docs must be a list of texts, at least one"),
        ("rerank", {"docs": ["one", None]}, "docs must be a list of texts, at least one"),
    ],
)
def test_documents_of_another_kind_are_an_error_of_the_row(tmp_path: Path, task: str, row: dict[str, Any], cause: str) -> None:
    found = read(tmp_path, [{**ROW, **row}, ROW], task)
    assert [row["status"] for row in found] == ["error", "ok"]
    assert (found[0]["error_code"], found[0]["error_detail"].partition(": ")[2]) == ("input", cause)


def test_a_conversation_is_read_as_a_whole_and_a_reward_is_of_one_that_ends_with_the_assistant(tmp_path: Path) -> None:
    rows = [{"talk": TALK}, {"talk": TALK[:1]}]
    given = {"prompt": None, "messages": "talk"}
    found = read(tmp_path, rows, "reward", input=given, model=str(TINY))
    assert [row["status"] for row in found] == ["ok", "error"]
    assert "the last message must be the assistant's, not the user's" in found[1]["error_detail"]
    (tmp_path / "b").mkdir()
    made = prepared(tmp_path / "b", rows, **job(tmp_path / "b", "embed", input=given, model=str(TINY)))
    text = made.renderer.prompts(next(iter(_rows(made))), "x")[0].text
    assert text.endswith("Hi. </s>")


def _rows(made: Any) -> Any:
    shards, spans = plan.make_plan(made.job, made.found, made.columns)
    for _, rows, _ in reader.read_spans(made.job, shards[0], spans, made.columns.kept, made.renderer.needed):
        yield from rows


def test_a_row_is_tried_again_as_the_job_says_and_fails_as_it_says(tmp_path: Path) -> None:
    options = {"kind": "echo", "options": {"reject_on": "poison"}}
    found = read(tmp_path, [{"prompt": "poison"}], "embed", engine=options, errors={"engine_rejected": {"retry": 2}})
    assert (found[0]["attempt"], found[0]["error_code"], found[0]["embedding"]) == (3, "engine_rejected", None)
    (tmp_path / "b").mkdir()
    with pytest.raises(TooManyErrors, match=r"errors\.engine_rejected is fail"):
        read(tmp_path / "b", [{"prompt": "poison"}], "embed", engine=options, errors={"engine_rejected": "fail"})


class Wrong:
    """An engine that returns what it is given."""

    capacity = workers = 1

    def __init__(self, found: Any) -> None:
        self.found = found

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def pool(self, request: PoolingRequest) -> Any:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


@pytest.mark.parametrize(
    "found",
    [
        None,
        Pooled([]),
        Pooled([pa.array([1.0], pa.float32())] * 2),
        Pooled([pa.array([1.0], pa.float64())]),
        Pooled([pa.array([None], pa.float32())]),
        Pooled([pa.array([float("nan")] * 128, pa.float32())]),
        Pooled([pa.array([1.0] * 127, pa.float32())]),
        Pooled([[1.0] * 128]),
        BadRow("engine_rejected", "no"),
    ],
)
def test_what_is_no_embedding_is_one_rejected_row(tmp_path: Path, found: Any) -> None:
    made = prepared(tmp_path, [{"prompt": "a"}], **job(tmp_path, "embed", model=str(TINY)))
    receipt = ran(replica(made, Wrong(found)), blocks(made)[0])
    assert receipt.errors == {"engine_rejected": 1}


def test_a_guarded_engine_finds_the_text_that_kills_it() -> None:
    class Mortal(Wrong):
        capacity, dead = 8, False

        async def probe(self) -> None: ...

        async def pool(self, request: PoolingRequest) -> Pooled:
            await asyncio.sleep(0)
            self.dead = self.dead or request.texts[0].token_ids == [3]
            await asyncio.sleep(0)
            if self.dead:
                raise EngineError("dead")
            return Pooled([pa.array(request.texts[0].token_ids, pa.float32())])

    async def ask(engine: RestartingEngine, token: int) -> str:
        try:
            found = await engine.pool(PoolingRequest(str(token), "reward", Pooling(), [Text([token])], 1))
        except BadRow as bad:
            return bad.code
        return str(found.values[0][0].as_py())

    async def scenario() -> list[str]:
        engine = RestartingEngine(lambda: Mortal(None), 600, None)
        await engine.start()
        try:
            return await asyncio.gather(*(ask(engine, token) for token in range(6)))
        finally:
            await engine.stop()

    assert asyncio.run(scenario()) == ["0.0", "1.0", "2.0", "engine_crash", "4.0", "5.0"]


def test_the_journal_carries_the_numbers(tmp_path: Path) -> None:
    store, vector = open_store(str(tmp_path)), pa.array([0.5, -1.0], pa.float32())
    base = Completion(0, 0, None, None, None, 5, 0, None, "h", 0.5, 1)
    some = [
        replace(base, embedding=vector),
        replace(base, prompt=1, label="a", probabilities=vector, score=0.25, scores=vector),
        replace(base, prompt=2, error=RowError("timeout", "x")),
    ]
    journal.write(store, "span", some)
    assert journal.load(store, "span")[0] == {one.prompt: [one] for one in some}


@given(st.lists(st.none() | st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=3), max_size=5))
def test_a_column_of_numbers_is_what_went_in(values: list[list[float] | None]) -> None:
    arrays = [None if value is None else pa.array(value, pa.float32()) for value in values]
    for kind in (numbers.TYPE, pa.list_(pa.float32(), 3)):
        made = numbers.column(arrays, kind)
        made.validate(full=True)
        assert (made.type, made.to_pylist()) == (kind, values)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"task": "embed", "sampling": {"n": 2}}, "sampling: task embed generates no text; leave it out"),
        ({"task": "embed", "parse": {"columns": {"a": "string"}}}, "parse: task embed generates no text"),
        ({"task": "embed", "dedupe": True}, "dedupe: task embed generates no text; leave it out; input.query can leave out"),
        ({"task": "embed", "accept": {"regex": "a"}}, "accept: task embed generates no text"),
        ({"task": "embed", "attributes": {"schema": "karakuri"}}, "attributes: task embed generates no text"),
        ({"task": "embed", "errors": {"truncated": "keep"}}, "errors.truncated: task embed generates no text"),
        ({"task": "embed", "limits": {"tokens": 5}}, "limits.tokens: task embed generates no text; it counts generated tokens"),
        ({"task": "embed", "model": {"source": "m", "reasoning_parser": "qwen3"}}, "model.reasoning_parser: task embed"),
        ({"task": "score"}, "input.documents: task score compares two columns; name the one with the documents"),
        ({"task": "embed", "input": {"documents": "d"}}, "input.documents: task embed reads one text"),
        ({"task": "generate", "input": {"documents": "d"}}, "input.documents: task generate reads no pairs"),
        ({"task": "generate", "pooling": {"max_tokens": 5}}, "pooling: task generate reads no numbers; leave it out"),
        ({"task": "classify", "pooling": {"dimensions": 5}}, "pooling.dimensions: task classify makes no embeddings"),
        ({"task": "rerank", "input": {"prompt": None, "messages": "m", "documents": "d"}}, "name the query with input.prompt"),
        ({"task": "embed", "input": {"system": "Be brief."}}, "input.system: task embed reads a text as it is"),
        ({"task": "embed", "errors": {"timeout": {"retry": 1, "sampling": {"seed": 1}}}}, "errors.timeout.sampling: task embed"),
    ],
)
def test_what_a_task_cannot_have_is_refused_by_name(fields: dict[str, Any], words: str) -> None:
    given = {"path": "in.jsonl", "prompt": "prompt", **fields.get("input", {})}
    assert words in refusal({"engine": {"kind": "echo"}, "output": "out", **fields, "input": given})


def test_dimensions_that_the_model_does_not_have_are_refused_before_anything_starts(tmp_path: Path) -> None:
    fields = job(tmp_path, "embed", model=str(TINY), engine={"kind": "vllm"})
    with pytest.raises(ModelError, match="does not say that its embeddings can be cut"):
        prepared(tmp_path, [{"prompt": "a"}], **fields, pooling={"dimensions": 32})
    more = {"kind": "vllm", "options": {"hf_overrides": {"is_matryoshka": True}}}
    assert prepared(tmp_path, [{"prompt": "a"}], **{**fields, "engine": more}, pooling={"dimensions": 32}).renderer


def test_a_layer_after_the_model_decides_the_size_of_its_embeddings(tmp_path: Path) -> None:
    def write(name: str, value: object) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(value))

    write(
        "config.json", {"hidden_size": 8, "id2label": {"1": "b", "0": "a"}, "type_vocab_size": 2, "matryoshka_dimensions": [2, 4]}
    )
    found = pooling_files(tmp_path, {"truncation_side": "left"})
    assert (found.dimensions, found.labels, found.has_types, found.cuts_left) == (8, ("a", "b"), True, True)
    assert found.shorter == (2, 4)
    kind = "sentence_transformers.models"
    write("modules.json", [{"path": "", "type": f"{kind}.Transformer"}, {"path": "2_Dense", "type": f"{kind}.Dense"}])
    write("2_Dense/config.json", {"in_features": 8, "out_features": 5})
    write("sentence_bert_config.json", {"max_seq_length": 7})
    found = pooling_files(tmp_path, {"model_input_names": ["input_ids"]})
    assert (found.dimensions, found.context, found.has_types) == (5, 7, False)
    (tmp_path / "tokenizer.json").write_text(TOKENIZER)
    before = load_model(Model(source=str(tmp_path))).version
    write("2_Dense/config.json", {"in_features": 8, "out_features": 6})
    assert load_model(Model(source=str(tmp_path))).version != before


def test_an_unknown_task_is_told_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="task embedd: no such name, did you mean embed"):
        read(tmp_path, [ROW], "embedd")

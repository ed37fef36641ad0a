"""Numbers read by vLLM on the CPU against Transformers: an encoder, a classifier, a cross-encoder, a decoder as embedder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchgen.engines.vllm import KIND, engine_arguments
from batchgen.errors import JobError
from batchgen.job.job import Job
from batchgen.render.model_files import ModelFiles
from tests.support import tiny_bert
from tests.support.rendering import TINY
from tests.support.replicas import answered
from tests.support.tiny_bert import TEXTS

OPTIONS = {"dtype": "float32", "enforce_eager": True, "max_num_seqs": 16}
QUERY, DOCUMENTS = "the red dog", ["a dog ran far", "it was a big house and the mat was in it", "cats", "the red dog"]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "spawn")


def read(folder: Path, model: Path, rows: list[dict[str, Any]], task: str, **fields: Any) -> list[dict[str, Any]]:
    """The rows of the output of a job with vLLM."""
    given = {"path": str(folder / "in.jsonl"), "prompt": "prompt", **fields.pop("input", {})}
    job = {"task": task, "model": str(model), "engine": {"kind": "vllm", "options": OPTIONS}, "input": given, **fields}
    found, receipt = answered(folder, rows, **job)
    assert receipt.counts.completion_tokens == 0
    return found


def close(found: Any, wanted: np.ndarray) -> None:
    found = np.asarray(found, np.float32)
    cosine = (found * wanted).sum(-1) / np.linalg.norm(found, axis=-1) / np.linalg.norm(wanted, axis=-1)
    assert (cosine >= 0.999).all()
    np.testing.assert_allclose(found, wanted, atol=1e-3)


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")
def test_an_encoder_embeds_as_transformers_does(tmp_path: Path) -> None:
    model = tiny_bert.make(tmp_path / "bert")
    rows = [{"prompt": text} for text in [*TEXTS, "the [SEP] cat", "dog " * 100]]
    found = read(tmp_path, model, rows, "embed")
    wanted = np.stack([states[0] for states in tiny_bert.hidden(model, TEXTS)])
    close([row["embedding"] for row in found[: len(TEXTS)]], wanted / np.linalg.norm(wanted, axis=-1, keepdims=True))
    assert [row["status"] for row in found] == ["ok"] * 6 + ["error"]
    assert found[0]["prompt_tokens"] == 8
    assert found[5]["prompt_tokens"] > 5  # the special token stays text
    assert (found[6]["error_code"], found[6]["embedding"]) == ("too_long", None)
    assert "102 tokens, the context 64; set pooling.max_tokens to cut it" in found[6]["error_detail"]


@pytest.mark.long
@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")
def test_a_decoder_embeds_by_its_last_token_as_transformers_does(tmp_path: Path) -> None:
    found = read(tmp_path, TINY, [{"prompt": text} for text in TEXTS], "embed", pooling={"normalize": False, "max_tokens": 12})
    wanted = np.stack([states[-1] for states in tiny_bert.hidden(TINY, TEXTS)])
    kept = [number for number, row in enumerate(found) if row["prompt_tokens"] < 12]
    assert len(kept) >= 2
    assert max(row["prompt_tokens"] for row in found) == 12
    close([found[number]["embedding"] for number in kept], wanted[kept])


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")
def test_a_classifier_says_the_label_and_the_probabilities_of_all(tmp_path: Path) -> None:
    model = tiny_bert.make(tmp_path / "bert", ("good", "bad", "neither"))
    found = read(tmp_path, model, [{"prompt": text} for text in TEXTS], "classify")
    wanted = softmax(tiny_bert.logits(model, TEXTS))
    close([row["probabilities"] for row in found], wanted)
    assert [row["label"] for row in found] == [("good", "bad", "neither")[number] for number in wanted.argmax(-1)]


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")
def test_a_cross_encoder_scores_pairs_and_lists_as_transformers_does(tmp_path: Path) -> None:
    model = tiny_bert.make(tmp_path / "bert", ("relevant",))
    wanted = tiny_bert.logits(model, [(QUERY, document) for document in DOCUMENTS])[:, 0]
    rows = [{"prompt": QUERY, "docs": DOCUMENTS}, {"prompt": QUERY, "docs": DOCUMENTS[::-1]}, {"prompt": QUERY, "docs": "one"}]
    found = read(tmp_path, model, rows, "rerank", input={"documents": "docs"})
    sigmoid = 1 / (1 + np.exp(-wanted))
    close([found[0]["scores"], found[1]["scores"]], np.stack([sigmoid, sigmoid[::-1]]))
    assert (found[2]["error_code"], found[2]["scores"]) == ("input", None)


@pytest.mark.long
@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")
def test_a_cross_encoder_scores_one_document_a_row(tmp_path: Path) -> None:
    model = tiny_bert.make(tmp_path / "bert", ("relevant",))
    wanted = tiny_bert.logits(model, [(QUERY, document) for document in DOCUMENTS])[:, 0]
    rows = [*({"prompt": QUERY, "doc": document} for document in DOCUMENTS), {"prompt": QUERY, "doc": None}]
    found = read(tmp_path, model, rows, "score", input={"documents": "doc"})
    close(np.asarray([row["score"] for row in found[:-1]]), 1 / (1 + np.exp(-wanted)))
    assert (found[-1]["error_code"], found[-1]["score"]) == ("input", None)


@pytest.mark.long
@pytest.mark.engine
@pytest.mark.filterwarnings("ignore")
def test_a_reward_model_values_a_conversation_or_a_text(tmp_path: Path) -> None:
    model = tiny_bert.make(tmp_path / "bert", ("reward",))
    found = read(tmp_path, model, [{"prompt": text} for text in TEXTS], "reward")
    close(np.asarray([row["score"] for row in found]), tiny_bert.logits(model, TEXTS)[:, 0])


def test_the_task_sets_the_runner_and_an_option_that_does_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"input": {"path": "x", "prompt": "p"}, "output": "o", "model": "m", "task": "embed"}
    files = ModelFiles("m", "/m", None, None, None, {}, None, {})
    assert engine_arguments(Job.parse(fields), files)["runner"] == "pooling"
    assert engine_arguments(Job.parse(fields), files)["convert"] == "embed"
    assert engine_arguments(Job.parse({**fields, "task": "reward"}), files)["convert"] == "classify"
    assert "runner" not in engine_arguments(Job.parse({**fields, "task": "generate"}), files)
    with pytest.raises(JobError, match=r"engine\.options\.runner: leave it out; task embed sets it"):
        KIND.check(Job.parse({**fields, "engine": {"options": {"runner": "auto"}}}))

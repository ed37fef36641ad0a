"""The real engine: one vLLM job, tensor parallel over two workers, that exercises every way a row can be asked."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
from safetensors.numpy import save_file

import batchgen
from batchgen import Output

pytestmark = [pytest.mark.engine, pytest.mark.cluster, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
TOPICS = ["tea", "rain", "cats", "the moon", "bread", "chess", "old libraries", "bees", "trains", "volcanoes"]
PLAIN = [{"name": f"plain {topic}", "ask": [f"Tell me about {topic}."]} for topic in TOPICS]
OBJECT = {"type": "object", "properties": {"sure": {"enum": [True, False]}}, "required": ["sure"], "additionalProperties": False}
SPECIAL: list[dict[str, Any]] = [
    {"name": "two turns", "ask": ["Tell me about rivers.", "Please tell me more."], "say": "Be kind."},
    {"name": "three samples", "ask": ["Tell me about glass."], "sampling": {"n": 3, "temperature": 1.0, "seed": 7}},
    {"name": "same seed", "ask": ["Tell me about glass."], "sampling": {"n": 3, "temperature": 1.0, "seed": 7}},
    {"name": "short", "ask": ["Tell me about snow."], "sampling": {"max_tokens": 3}},
    {"name": "stopped", "ask": ["Tell me about snow."], "sampling": {"stop": ["."], "logprobs": 0}},
    {"name": "funny", "ask": ["Tell me about ships."], "humor": 4},
    {"name": "bad value", "ask": ["Tell me about ships."], "humor": 7},
    {"name": "choice", "ask": ["Good or bad?"], "sampling": {"structured_outputs": {"choice": ["good", "bad"]}}},
    {"name": "regex", "ask": ["A number?"], "sampling": {"structured_outputs": {"regex": "[0-9]{3}-[a-c]!"}}},
    {"name": "grammar", "ask": ["Yes or no?"], "sampling": {"structured_outputs": {"grammar": 'root ::= "yes" | "no"'}}},
    {"name": "json", "ask": ["An object?"], "sampling": {"structured_outputs": {"json": OBJECT}}},
    {"name": "bad regex", "ask": ["A number?"], "sampling": {"structured_outputs": {"regex": "("}}},
    {"name": "adapted", "ask": ["Tell me about tea."], "sampling": {"adapter": "odd"}},
    {"name": "no such adapter", "ask": ["Tell me about ships."], "sampling": {"adapter": "even"}},
    {"name": "long", "ask": ["Tell me about " + "tea and rain and " * 60 + "cats."]},
    {"name": "too long", "ask": ["word " * 3000]},
]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    folder = tmp_path_factory.mktemp("vllm")
    rows = [{"say": None, "humor": 0, "sampling": None, **row} for row in PLAIN + SPECIAL]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(ROOT / "jobs/models/tiny-karakuri", folder / "model")
    job = {
        "input": {"path": str(folder / "in.jsonl"), "turns": "ask", "id": "name", "system": {"column": "say"}},
        "attributes": {"schema": "karakuri", "sweep": {"verbosity": [0, 1, 2, 3, 4]}},
        "model": {"source": str(folder / "model"), "adapters": {"odd": str(make_adapter(folder / "adapter"))}},
        "engine": {
            "tensor_parallel_size": 2,
            "options": {
                "max_model_len": 1024,
                "max_num_seqs": 64,
                "dtype": "bfloat16",
                "enforce_eager": True,
                # A tiny model has no reason to end the white space that JSON allows.
                "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
            },
            "env": {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "0|1"},
        },
        "sampling": {"temperature": 0, "max_tokens": 160},
        "limits": {"errors": 1},
        "output": {"path": str(folder / "out")},
    }
    status = batchgen.run(job, quiet=True)
    assert status["rows_ok"] + status["rows_error"] == status["rows_planned"]
    assert status["completion_tokens"] > 0
    assert Output.open(str(folder / "out")).verify().problems == []
    report = json.loads((folder / "out/_batchgen/report.json").read_text())
    assert report["engine"]["workers"] == 2, "tensor parallel for real"
    assert report["cached_tokens"] >= 4 * 128, "four of the long prompt's five variants find its first block (128 tokens)"
    found: Rows = ds.dataset(folder / "out/data").to_table().to_pylist()
    return found


def make_adapter(folder: Path) -> Path:
    """A LoRA adapter for the tiny model's query projections, of random numbers large enough to be heard."""
    config = json.loads((ROOT / "jobs/models/tiny-karakuri/config.json").read_text())
    dice, width = np.random.default_rng(0), config["hidden_size"]
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = dice.standard_normal((4, width), np.float32)
        tensors[f"{name}.lora_B.weight"] = dice.standard_normal((width, 4), np.float32)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    return folder


def named(answers: Rows, name: str) -> Rows:
    return [row for row in answers if row["id"] == name]


def sentences(text: str) -> int:
    return len(re.findall(r"[.!?。！？]+(?:\s|$)", text.strip()))


def test_mean_answer_length_rises_at_every_step_of_verbosity(answers: Rows) -> None:
    plain = [row for row in answers if row["id"].startswith("plain")]
    assert len(plain) == 5 * len(TOPICS)
    lengths = [mean(r["completion_tokens"] for r in plain if r["attributes"]["verbosity"] == v) for v in range(5)]
    assert lengths == sorted(set(lengths)), lengths
    asked = [row["attributes"]["verbosity"] + 1 for row in plain]
    right = sum(sentences(row["response"]) == wanted for row, wanted in zip(plain, asked, strict=True))
    assert right >= 0.96 * len(plain), f"{right} of {len(plain)} answers have verbosity + 1 sentences"


def test_a_rows_own_attribute_changes_its_answer_and_is_recorded(answers: Rows) -> None:
    funny, plain = named(answers, "funny"), named(answers, "plain tea")
    assert {row["attributes"]["humor"] for row in funny} == {4}
    assert {row["attributes"]["humor"] for row in plain} == {0}
    joke = re.compile("as the chicken said crossing the road", re.IGNORECASE)
    assert all(joke.search(row["response"]) for row in funny), [row["response"] for row in funny]
    assert not any(joke.search(row["response"]) for row in plain)


def test_every_turn_is_answered_in_order(answers: Rows) -> None:
    for row in named(answers, "two turns"):
        assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant", "user", "assistant"]
        assert [m["content"] for m in row["messages"]][:2] == ["Be kind.", "Tell me about rivers."]
        assert row["messages"][-1]["content"] == row["response"]
        assert row["messages"][2]["content"] != ""


def test_all_samples_are_kept_and_differ(answers: Rows) -> None:
    samples = [row for row in named(answers, "three samples") if row["variant"] == 4]
    assert sorted(row["sample"] for row in samples) == [0, 1, 2]
    assert len({row["response"] for row in samples}) > 1


def test_a_rows_own_seed_repeats_its_answers(answers: Rows) -> None:
    first, second = named(answers, "three samples"), named(answers, "same seed")
    assert [row["response"] for row in first] == [row["response"] for row in second]
    assert {row["sampling"]["seed"] for row in first} == {7}


def test_a_rows_own_sampling_wins(answers: Rows) -> None:
    assert {(r["completion_tokens"], r["finish_reason"]) for r in named(answers, "short")} == {(3, "length")}
    stopped = named(answers, "stopped")
    assert not any("." in row["response"] for row in stopped)
    assert {row["finish_reason"] for row in stopped} == {"stop"}
    assert all(row["cumulative_logprob"] < 0 for row in stopped)


def test_bad_rows_are_typed_errors_and_the_rest_is_ok(answers: Rows) -> None:
    bad = {"too long": "too_long", "bad value": "input", "bad regex": "engine_rejected", "no such adapter": "input"}
    assert {row["id"]: row["error_code"] for row in answers if row["status"] == "error"} == bad
    assert all("regex" in row["error_detail"] for row in named(answers, "bad regex"))


def test_an_answer_is_what_the_rows_constraint_allows(answers: Rows) -> None:
    assert {row["response"] for row in named(answers, "choice")} <= {"good", "bad"}
    assert {row["response"] for row in named(answers, "grammar")} <= {"yes", "no"}
    assert all(re.fullmatch("[0-9]{3}-[a-c]!", row["response"]) for row in named(answers, "regex"))
    assert all(json.loads(row["response"])["sure"] in (True, False) for row in named(answers, "json"))
    assert len(named(answers, "json")) == 5


def test_a_rows_adapter_changes_its_answer_and_no_other(answers: Rows) -> None:
    adapted, plain = named(answers, "adapted"), named(answers, "plain tea")
    assert {row["sampling"]["adapter"] for row in adapted} == {"odd"}
    assert {row["sampling"]["adapter"] for row in plain} == {None}
    assert all(one["response"] != other["response"] for one, other in zip(adapted, plain, strict=True))
    assert all("tea" in row["response"].lower() for row in plain), [row["response"] for row in plain]
    assert "model.adapters (it has odd)" in named(answers, "no such adapter")[0]["error_detail"]

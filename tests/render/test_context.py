"""A model's context: the numbers are those of vLLM 0.32's _get_and_verify_max_len for the same config.json."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import ModelError
from batchgen.render.model.context import NAMES, context_of


def context(folder: Path, config: dict[str, Any]) -> int | None:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return context_of(folder)


def scaled(kind: str, factor: object = 4, key: str = "rope_scaling", **more: object) -> dict[str, Any]:
    return {"max_position_embeddings": 1000, key: {"rope_type": kind, "factor": factor}, **more}


@pytest.mark.parametrize("name", NAMES)
def test_every_name_that_vllm_knows_is_read(tmp_path: Path, name: str) -> None:
    assert context(tmp_path, {name: 77}) == 77


PLAIN = {
    "the smallest": ({"seq_length": 8192, "max_position_embeddings": 4096}, 4096),
    "n_ctx is no name": ({"n_positions": 1024, "n_ctx": 512}, 1024),
    "Command-R": ({"max_position_embeddings": 8192, "seq_len": 100, "model_max_length": 131072}, 131072),
    "whole float": ({"max_seq_len": 2048.0}, 2048),
    "null": ({"max_position_embeddings": None, "n_positions": 5}, 5),
    "sliding window": ({"max_position_embeddings": 4096, "sliding_window": 512}, 4096),
    "text_config": ({"text_config": {"max_position_embeddings": 256}, "max_position_embeddings": 9}, 256),
    "llm_config": ({"llm_config": {"max_position_embeddings": 128}}, 128),
    "language_config": ({"language_config": {"max_position_embeddings": 64}}, 64),
    "thinker": ({"thinker_config": {"text_config": {"max_position_embeddings": 32}}}, 32),
    "text_config null": ({"text_config": None, "max_position_embeddings": 16}, 16),
    "text_config empty": ({"text_config": {}, "max_position_embeddings": 15}, 15),
}


@pytest.mark.parametrize("case", PLAIN)
def test_the_context_is_what_the_config_says(tmp_path: Path, case: str) -> None:
    config, wanted = PLAIN[case]
    assert context(tmp_path, config) == wanted


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(
    ("kind", "wanted"),
    [("linear", 4000), ("dynamic", 4000), ("ntk", 4000), ("yarn", 1000), ("deepseek_yarn", 1000), ("llama3", 1000)],
)
def test_a_factor_of_rope_that_the_numbers_do_not_have_multiplies(tmp_path: Path, kind: str, wanted: int, key: str) -> None:
    assert context(tmp_path, scaled(kind, key=key)) == wanted


LAYERS = {"full_attention": {"rope_type": "linear", "factor": 8}, "sliding_attention": {"rope_type": "default"}}
ROPE = {
    "legacy name": ({"max_position_embeddings": 1000, "rope_scaling": {"type": "linear", "factor": 2.5}}, 2500),
    "no kind": ({"max_position_embeddings": 1000, "rope_scaling": {"factor": 2}}, 2000),
    "mrope": ({"max_position_embeddings": 1000, "rope_scaling": {"type": "mrope", "mrope_section": [1]}}, 1000),
    "null factor": (scaled("linear", None), 1000),
    "off": ({"max_position_embeddings": 1000, "rope_scaling": False}, 1000),
    "yarn with its original": (
        {"max_position_embeddings": 1000, "rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 250}},
        1000,
    ),
    "rope_scaling wins": (scaled("linear", 2, rope_parameters={"rope_type": "linear", "factor": 3}), 2000),
    "Gemma 3": (scaled("linear", 8, model_type="gemma3_text"), 1000),
    "Gemma 3 with images": ({"model_type": "gemma3", "text_config": scaled("linear", 8)}, 1000),
    "longrope": (scaled("longrope", original_max_position_embeddings=100), 100),
    "su": (scaled("su", original_max_position_embeddings=100), 100),
    "longrope alone": (scaled("longrope"), 1000),
    "layers": ({"max_position_embeddings": 100, "rope_parameters": LAYERS}, 800),
    "of the text only": ({"text_config": {"max_position_embeddings": 10}, "rope_scaling": {"type": "linear", "factor": 2}}, 10),
}


@pytest.mark.parametrize("case", ROPE)
def test_rope_is_scaled_as_vllm_does(tmp_path: Path, case: str) -> None:
    config, wanted = ROPE[case]
    assert context(tmp_path, config) == wanted


def test_the_tokenizers_own_limit_is_for_embedding_models(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    assert context(tmp_path, {"max_position_embeddings": 4096}) == 4096


@pytest.mark.parametrize("config", [{}, {"model_type": "no-such-model"}, {"max_position_embeddings": None}], ids=str)
def test_without_any_name_it_is_vllms_default_and_a_warning(
    tmp_path: Path, config: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "batchgen.model"):
        assert context(tmp_path, config) == 2048
    assert "vLLM takes a context of 2048 tokens" in caplog.text


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "sliding_window": 1024}}, 131072),
        ({"model_type": "gpt2", "n_ctx": 9}, 1024),
        ({"model_type": "mamba"}, 2048),
    ],
    ids=["gemma3", "gpt2", "mamba"],
)
def test_names_that_a_config_leaves_out_have_the_defaults_of_transformers(
    tmp_path: Path, config: dict[str, Any], wanted: int
) -> None:
    pytest.importorskip("transformers")
    assert context(tmp_path, config) == wanted


def test_a_folder_without_a_config_has_no_context(tmp_path: Path) -> None:
    assert context_of(tmp_path) is None


NO_NUMBERS = [-1, 0, 0.5, True, "4096", [1], float("inf"), float("nan"), 10**400]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: str(value)[:9])
@pytest.mark.parametrize("name", ["max_position_embeddings", "model_max_length"])
def test_a_number_that_is_none_is_named(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(ModelError, match=rf"config\.json: {name} is .*, not a number of tokens; correct the file"):
        context(tmp_path, {name: value, "n_positions": 8})


@pytest.mark.parametrize("factor", [-1, 0, True, "2", 1e300], ids=str)
def test_a_factor_that_is_none_is_named(tmp_path: Path, factor: object) -> None:
    with pytest.raises(ModelError, match=r"config\.json: the factor of rope_scaling is .*, not a number over 0; correct"):
        context(tmp_path, scaled("linear", factor))


@pytest.mark.parametrize("value", ["linear", [1]], ids=str)
@pytest.mark.parametrize("name", ["text_config", "rope_scaling"])
def test_a_part_that_is_no_object_is_named(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(ModelError, match=rf"config\.json: {name} is .*, not an object; correct the file"):
        context(tmp_path, {"max_position_embeddings": 8, name: value})


def test_an_odd_kind_of_rope_is_no_traceback(tmp_path: Path) -> None:
    assert context(tmp_path, {"max_position_embeddings": 8, "model_type": 5, "rope_scaling": {"type": ["x"], "factor": 2}}) == 16

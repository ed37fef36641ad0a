"""A tokenizer's special tokens from all its files: the template's variables, the token ids, the texts that stay text. What is
right, Transformers says of the same folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import ModelError
from batchgen.job.model import Model
from batchgen.render.model_files import ModelFiles, load_model
from batchgen.render.renderer import Renderer
from batchgen.render.tokens import TokenEncoder
from tests.support.rendering import make_job, one

TINY = Path(__file__).parents[2] / "jobs/models/tiny-karakuri"
TEXT = "a<a>b<b>c<img>d</s>e<s>f<plain>g the"
MARKS = ("<a>", "<b>", "<img>", "<plain>", "the")
USUAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def token(content: str, special: bool = True, **more: object) -> dict[str, object]:
    return {
        "content": content,
        "lstrip": False,
        "rstrip": False,
        "single_word": False,
        "normalized": False,
        "special": special,
        **more,
    }


OWN = {"0": token("<unk>"), "1": token("<s>"), "2": token("</s>")}
PLAIN = {"id": 2048, **token("<plain>", False)}


def folder_of(folder: Path, files: dict[str, Any]) -> Path:
    """A folder with the tiny model's tokenizer; `tokenizer` in `files` are tokens that its tokenizer.json has more."""
    tokenizer = json.loads((TINY / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"] += files.get("tokenizer", [])
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **USUAL, **files.get("tokenizer_config", {})}
    written = {**files, "tokenizer": tokenizer, "tokenizer_config": settings}
    for name, value in written.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    shutil.copy(TINY / "config.json", folder)
    return folder


def load(folder: Path, **files: Any) -> ModelFiles:
    return load_model(Model(source=str(folder_of(folder, files))))


CASES: dict[str, dict[str, Any]] = {
    "usual": {},
    "null": {"tokenizer_config": {"bos_token": None}},
    "empty": {"tokenizer_config": {"cls_token": "<s>", "sep_token": "<a>", "mask_token": None}},
    "object": {"tokenizer_config": {"bos_token": {"__type": "AddedToken", **token("<s>")}}},
    "map wins": {"special_tokens_map": {"bos_token": "<b>", "eos_token": {**token("<a>"), "special": True}, "unk_token": None}},
    "decoder wins over map": {"tokenizer_config": {"added_tokens_decoder": OWN}, "special_tokens_map": {"bos_token": "<b>"}},
    "decoder adds": {
        "tokenizer_config": {"added_tokens_decoder": {**OWN, "2049": token("<b>"), "2048": token("<a>", lstrip=True)}}
    },
    "decoder adds plain": {"tokenizer_config": {"added_tokens_decoder": {**OWN, "2048": token("<plain>", False)}}},
    "decoder marks": {"tokenizer_config": {"added_tokens_decoder": {**OWN, "2048": token("<plain>")}}, "tokenizer": [PLAIN]},
    "additional": {"tokenizer_config": {"additional_special_tokens": ["<a>", {"__type": "AddedToken", **token("<b>")}]}},
    "additional in map": {"special_tokens_map": {"additional_special_tokens": ["<b>"], "image_token": token("<img>")}},
    "additional twice": {"tokenizer_config": {"additional_special_tokens": ["<a>"], "extra_special_tokens": ["<b>"]}},
    "extra": {"tokenizer_config": {"extra_special_tokens": ["<img>"]}},
    "extra in map": {"special_tokens_map": {"extra_special_tokens": ["<a>"]}},
    "extra by name": {"tokenizer_config": {"extra_special_tokens": {"image_token": "<img>", "other": "<a>"}}},
    "own name": {"tokenizer_config": {"image_token": "<img>", "video_token": token("<b>"), "some_token": 5}},
    "added_tokens": {"added_tokens": {"<a>": 2049, "<plain>": 2048}, "tokenizer_config": {"additional_special_tokens": ["<a>"]}},
    "named in tokenizer.json": {"tokenizer_config": {"pad_token": "<plain>"}, "tokenizer": [PLAIN]},
    "a word": {"tokenizer_config": {"pad_token": "the"}},
}


@pytest.mark.parametrize("case", CASES)
def test_variables_ids_and_special_texts_are_those_of_transformers(tmp_path: Path, case: str) -> None:
    transformers = pytest.importorskip("transformers")
    model = load(tmp_path, **CASES[case])
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert model.special == theirs.special_tokens_map
    encoder = TokenEncoder(model)
    assert encoder.encode(TEXT, "", False)[1] == theirs(TEXT, add_special_tokens=False).input_ids
    special = {*theirs.all_special_tokens, *(t.content for t in theirs.added_tokens_decoder.values() if t.special)}
    assert {text for text in {*special, *MARKS} if encoder.hide([{"role": "user", "content": text}])[2]} == special
    for text in special:
        messages, _, mark = encoder.hide([{"role": "user", "content": f"x{text}y"}])
        ids = encoder.encode(str(messages[0]["content"]), mark, False)[1]
        assert mark
        assert theirs.convert_tokens_to_ids(text) not in ids


def test_the_values_of_the_variables(tmp_path: Path) -> None:
    settings = {"extra_special_tokens": {"image_token": "<img>"}, "video_token": "<v>", "pad_token": {"content": "<p>"}}
    more = {"image_token": "<img>", "video_token": "<v>", "pad_token": "<p>"}
    assert load(tmp_path, tokenizer_config=settings).special == {**USUAL, **more}


def test_special_is_what_any_of_the_files_calls_so(tmp_path: Path) -> None:
    demoted = {"added_tokens_decoder": {**OWN, "2": token("</s>", False)}, "eos_token": None}
    encoder = TokenEncoder(load(tmp_path, tokenizer_config=demoted))
    assert encoder.hide([{"role": "user", "content": "</s>"}])[2]


MALFORMED: dict[str, tuple[str, dict[str, Any]]] = {
    "number": ("bos_token", {"bos_token": 5}),
    "object without text": ("eos_token", {"eos_token": {"lstrip": True}}),
    "decoder list": ("added_tokens_decoder", {"added_tokens_decoder": [token("<a>")]}),
    "decoder of texts": ("added_tokens_decoder", {"added_tokens_decoder": {"7": "<a>"}}),
    "decoder by text": ("added_tokens_decoder", {"added_tokens_decoder": {"<a>": token("<a>")}}),
    "extra text": ("extra_special_tokens", {"extra_special_tokens": "<a>"}),
    "extra number": ("extra_special_tokens", {"extra_special_tokens": [5]}),
    "variable of the template": ("extra_special_tokens", {"extra_special_tokens": {"messages": "<a>"}}),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_token_is_named(tmp_path: Path, case: str) -> None:
    name, settings = MALFORMED[case]
    with pytest.raises(ModelError, match=rf"tokenizer_config\.json: {name} is .*, not .*; correct the file"):
        load(tmp_path, tokenizer_config=settings)


@pytest.mark.parametrize("number", ["1", True, None], ids=str)
def test_a_malformed_number_of_a_token_is_named(tmp_path: Path, number: object) -> None:
    with pytest.raises(ModelError, match=r"added_tokens\.json: <a> is .*, not the number of a token; correct the file"):
        load(tmp_path, added_tokens={"<a>": number})


def test_an_empty_token_hides_nothing(tmp_path: Path) -> None:
    model = load(tmp_path, tokenizer_config={"bos_token": "", "added_tokens_decoder": {**OWN, "9": token("")}})
    assert model.special["bos_token"] == ""
    assert TokenEncoder(model).hide([{"role": "user", "content": "text"}])[2] == ""


def test_a_jobs_own_variable_wins_over_the_models(tmp_path: Path) -> None:
    folder_of(tmp_path, {"tokenizer_config": {"chat_template": "{{ bos_token }}{{ eos_token }}{{ messages[0].content }}"}})
    job = make_job(model={"source": str(tmp_path), "chat_template_kwargs": {"bos_token": "<other>"}})
    assert one(Renderer(job, load_model(job.model)), prompt="Hi").text == "<other></s>Hi"

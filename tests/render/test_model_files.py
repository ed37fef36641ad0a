"""The files of a model: what is read, what is refused, what identifies it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import ModelError
from batchgen.job.model import Model
from batchgen.render.model_files import TEMPLATES, directory_digest, load_model

TINY = Path(__file__).parents[2] / "jobs/models/tiny-karakuri"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of three small files whose template is in tokenizer_config.json."""
    write(tmp_path / "config.json", {"max_position_embeddings": 512})
    write(tmp_path / "tokenizer_config.json", {"bos_token": "<s>", "chat_template": "own template"})
    shutil.copy(TINY / "tokenizer.json", tmp_path)
    return tmp_path


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def test_the_tiny_model_is_read_whole() -> None:
    model = load_model(Model(source=str(TINY)))
    assert (model.label, model.source, model.revision, model.context) == (str(TINY), str(TINY), None, 2048)
    assert model.special == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    assert model.tokenizer == (TINY / "tokenizer.json").read_text(encoding="utf-8")
    assert model.chat_template == (TINY / "chat_template.jinja").read_text(encoding="utf-8")
    assert set(model.version) == {"digest", "chat_template"}


def test_a_job_without_a_model_gets_bytes_and_a_plain_template() -> None:
    model = load_model(None)
    plain = (TEMPLATES / "no_model.jinja").read_text().rstrip("\n")
    assert (model.tokenizer, model.chat_template, model.context, model.special) == (None, plain, None, {})
    assert model.version == {"source": None}


def test_a_template_named_in_the_job_wins_over_the_models_own(folder: Path) -> None:
    (folder / "other.jinja").write_text("other template")
    named = load_model(Model(source=str(folder), chat_template=str(folder / "other.jinja")))
    assert named.chat_template == "other template"


def test_the_template_file_wins_over_tokenizer_config(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("from the file")
    assert load_model(Model(source=str(folder))).chat_template == "from the file"


def test_the_template_may_stand_in_tokenizer_config(folder: Path) -> None:
    assert load_model(Model(source=str(folder))).chat_template == "own template"


def test_chat_template_none_means_plain_completion(folder: Path) -> None:
    assert load_model(Model(source=str(folder), chat_template="none")).chat_template is None


def test_a_model_without_a_template_has_none(folder: Path) -> None:
    write(folder / "tokenizer_config.json", {})
    assert load_model(Model(source=str(folder))).chat_template is None


def test_a_missing_chat_template_is_named(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.chat_template .*gone\.jinja: no such file"):
        load_model(Model(source=str(folder), chat_template=str(folder / "gone.jinja")))


def test_a_chat_template_of_over_a_mebibyte_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("x" * (2**20 + 1))
    with pytest.raises(ModelError, match=r"has 1048577 characters, over 1048576"):
        load_model(Model(source=str(folder)))


def test_a_config_that_is_not_json_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json: not JSON"):
        load_model(Model(source=str(folder)))


def test_a_source_that_is_neither_a_directory_nor_a_hub_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no/such/folder: not a directory here, and not a Hub id; check the path"):
        load_model(Model(source=str(tmp_path / "no/such/folder")))


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer\.json, and no other tokenizer can be converted"):
        load_model(Model(source=str(folder)))


def test_the_identity_does_not_depend_on_where_the_model_lies(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    moved = tmp_path_factory.mktemp("moved") / "model"
    shutil.copytree(folder, moved)
    assert load_model(Model(source=str(moved))).version == load_model(Model(source=str(folder))).version


def test_the_identity_changes_with_the_template_named_in_the_job(folder: Path) -> None:
    (folder / "other.txt").write_text("another template")
    own = load_model(Model(source=str(folder))).version
    named = load_model(Model(source=str(folder), chat_template=str(folder / "other.txt"))).version
    assert [key for key in own if own[key] != named[key]] == ["chat_template"]


def test_the_digest_sees_a_changed_byte_of_a_small_file(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")
    before = directory_digest(folder)
    (folder / "model.safetensors").write_bytes(b"weightz")
    assert directory_digest(folder) != before


def test_the_digest_sees_a_renamed_file(folder: Path) -> None:
    (folder / "a.safetensors").write_bytes(b"weights")
    before = directory_digest(folder)
    (folder / "a.safetensors").rename(folder / "b.safetensors")
    assert directory_digest(folder) != before


def test_the_digest_ignores_files_that_no_engine_reads(folder: Path) -> None:
    before = directory_digest(folder)
    (folder / "README.md").write_text("about")
    (folder / ".gitattributes").write_text("lfs")
    assert directory_digest(folder) == before


@pytest.mark.parametrize("place", [0, 2**26 - 1])
def test_the_digest_of_large_weights_samples_both_ends(folder: Path, place: int) -> None:
    weights = folder / "model.safetensors"
    weights.touch()
    os.truncate(weights, 2**26)
    before = directory_digest(folder)
    with open(weights, "r+b") as file:
        file.seek(place)
        file.write(b"x")
    assert directory_digest(folder) != before


def test_the_digest_sees_the_size_of_large_weights(folder: Path) -> None:
    (folder / "model.safetensors").touch()
    os.truncate(folder / "model.safetensors", 2**26)
    before = directory_digest(folder)
    os.truncate(folder / "model.safetensors", 2**26 + 1)
    assert directory_digest(folder) != before


def test_a_chat_template_that_is_not_utf8_is_refused(folder: Path) -> None:
    (folder / "other.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match=r"other\.jinja"):
        load_model(Model(source=str(folder), chat_template=str(folder / "other.jinja")))


def test_an_adapter_is_part_of_what_the_model_is(folder: Path) -> None:
    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 4}')
    named = Model(source=str(folder), adapters={"a": str(adapter)})
    with pytest.raises(
        ModelError, match=r"model\.adapters\.a .*/adapter: no LoRA adapter there; it has adapter_config\.json and"
    ):
        load_model(named)
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    first = load_model(named)
    assert (first.adapters["a"].number, first.adapters["a"].rank) == (1, 4)
    (adapter / "adapter_model.safetensors").write_bytes(b"others!")
    assert load_model(named).version["adapters"] != first.version["adapters"]


def test_an_adapter_with_pickled_weights_is_none(folder: Path) -> None:
    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 4}')
    (adapter / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="no LoRA adapter there"):
        load_model(Model(source=str(folder), adapters={"a": str(adapter)}))


def test_a_byte_order_mark_is_no_text(folder: Path) -> None:
    (folder / "config.json").write_bytes(b'\xef\xbb\xbf{"max_position_embeddings": 9}')
    (folder / "chat_template.jinja").write_bytes(b"\xef\xbb\xbf{{ bos_token }}")
    model = load_model(Model(source=str(folder)))
    assert (model.context, model.chat_template) == (9, "{{ bos_token }}")


FILES = ["config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json"]
NO_JSON = {
    "list": (b"[1]", "list, not a JSON object"),
    "null": (b"null", "NoneType, not a JSON object"),
    "half": (b'{"a":', "not JSON"),
    "deep": (b'{"a":' + b"[" * 100_000, "not JSON"),
    "surrogate": (b'{"bos_token": "\\ud800"}', "not JSON"),
    "latin-1": (b'{"a": "\xe9"}', "invalid UTF-8 at byte 8"),
    "empty": (b"", "not JSON"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", NO_JSON)
def test_a_file_that_is_no_json_object_is_named(folder: Path, name: str, kind: str) -> None:
    content, cause = NO_JSON[kind]
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=rf"/{name}: {cause}.*; download or save the model again"):
        load_model(Model(source=str(folder)))


@pytest.mark.parametrize("name", [*FILES, "chat_template.jinja"])
def test_a_file_of_100_mb_is_not_read(folder: Path, name: str) -> None:
    (folder / name).touch()
    os.truncate(folder / name, 10**8)
    with pytest.raises(ModelError, match=rf"/{name}: 100000000 bytes, over \d+; check that it is the file of a model"):
        load_model(Model(source=str(folder)))


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_the_place_of_a_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    with pytest.raises(ModelError, match=rf"/{name}: not a file; "):
        load_model(Model(source=str(folder)))


def test_infinity_is_json_for_a_model(folder: Path) -> None:
    (folder / "config.json").write_text('{"time_step_limit": [0.0, Infinity], "max_position_embeddings": 7}')
    assert load_model(Model(source=str(folder))).context == 7


@pytest.mark.parametrize("rank", [True, 0, "4"], ids=str)
def test_an_adapter_without_a_rank_is_none(folder: Path, rank: object) -> None:
    (folder / "adapter").mkdir()
    write(folder / "adapter/adapter_config.json", {"r": rank})
    (folder / "adapter/adapter_model.safetensors").write_bytes(b"weights")
    with pytest.raises(ModelError, match="no LoRA adapter there"):
        load_model(Model(source=str(folder), adapters={"a": str(folder / "adapter")}))

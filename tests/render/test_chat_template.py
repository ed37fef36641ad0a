"""Where a model's chat template is found, and which one of several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import ModelError
from batchgen.job.model import Model
from batchgen.render.model.chat_template import template_of


def template(folder: Path, value: Any = None) -> str | None:
    return template_of(Model(source=str(folder)), folder, {} if value is None else {"chat_template": value})


def listed(*names: str) -> list[dict[str, str]]:
    return [{"name": name, "template": f"template {name}"} for name in names]


def additional(folder: Path, *names: str) -> None:
    (folder / "additional_chat_templates").mkdir()
    for name in names:
        (folder / f"additional_chat_templates/{name}.jinja").write_text(f"file {name}")


def by_name(*names: str) -> dict[str, str]:
    return {name: f"template {name}" for name in names}


@pytest.mark.parametrize("shape", [listed, by_name])
def test_of_several_templates_default_is_taken_and_an_only_one_is_it(tmp_path: Path, shape: Any) -> None:
    assert template(tmp_path, shape("tool_use", "default")) == "template default"
    assert template(tmp_path, shape("rag")) == "template rag"
    assert template(tmp_path, shape()) is None
    with pytest.raises(ModelError, match=r"chat templates rag, tool_use, and none is the default; name .* model\.chat_template"):
        template(tmp_path, shape("tool_use", "rag"))


def test_a_processors_file_wins_over_tokenizer_config_and_chat_template_jinja_over_both(tmp_path: Path) -> None:
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "from the processor"}))
    assert template(tmp_path, "from the tokenizer") == "from the processor"
    (tmp_path / "chat_template.jinja").write_text("from the file")
    assert template(tmp_path, "from the tokenizer") == "from the file"


def test_the_default_of_additional_templates_is_chat_template_jinja(tmp_path: Path) -> None:
    additional(tmp_path, "rag", "tool_use")
    with pytest.raises(ModelError, match="chat templates rag, tool_use, and none is the default"):
        template(tmp_path)
    assert template(tmp_path, "from the tokenizer") == "from the tokenizer"
    (tmp_path / "chat_template.jinja").write_text("from the file")
    assert template(tmp_path, "from the tokenizer") == "from the file"


def test_an_only_additional_template_is_taken(tmp_path: Path) -> None:
    additional(tmp_path, "rag")
    assert template(tmp_path) == "file rag"


def test_a_template_of_the_job_needs_no_default(tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text("of the job")
    model = Model(source=str(tmp_path), chat_template=str(tmp_path / "own.jinja"))
    assert template_of(model, tmp_path, {"chat_template": listed("rag", "tool_use")}) == "of the job"


@pytest.mark.parametrize(
    "value",
    [
        5,
        True,
        [5],
        [{"name": "default"}],
        [{"name": "default", "template": None}],
        [{"name": [], "template": "x"}],
        {"default": 5},
    ],
    ids=str,
)
def test_a_template_that_is_no_text_is_named(tmp_path: Path, value: object) -> None:
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: chat_template is .*, not a text.* model\.chat_template"):
        template(tmp_path, value)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": value}))
    with pytest.raises(ModelError, match=r"chat_template\.json: chat_template is .*, not a text.* model\.chat_template"):
        template(tmp_path)


def test_an_additional_template_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    additional(tmp_path, "rag")
    (tmp_path / "additional_chat_templates/rag.jinja").write_bytes(b"x\xff")
    with pytest.raises(ModelError, match=r"rag\.jinja: invalid UTF-8 at byte 2; download or save the model again"):
        template(tmp_path)

"""A model's chat template, from the places where Transformers looks: chat_template.jinja and additional_chat_templates/*.jinja,
chat_template.json (of a processor), tokenizer_config.json."""

from pathlib import Path
from typing import Any

from batchgen.errors import ModelError
from batchgen.job.model import Model
from batchgen.render.model.files import read_json, read_text, wrong

TEMPLATE_CAP, TOOL_USE = 2**20, "tool_use"
REMEDY = "name a Jinja file with model.chat_template, or `none` for plain completion"


def template_of(model: Model, folder: Path, settings: dict[str, Any]) -> str | None:
    """The file that the job names, else the model's template `default`, else its only one: None for a model without. Of two
    with one name the file of its own counts. `settings` is tokenizer_config.json. Raises ModelError."""
    if model.chat_template == "none":
        return None
    if model.chat_template is not None:
        path = Path(model.chat_template)
        if not path.is_file():
            raise ModelError(f"model.chat_template {path}: no such file", "name a Jinja file, or `none` for plain completion")
        return _checked(path, _file(path))
    texts = _texts(folder, settings)
    name = "default" if "default" in texts or len(texts) > 1 else next(iter(texts), None)
    if name is None:
        return None
    if name not in texts:
        raise ModelError(f"{folder}: chat templates {', '.join(sorted(texts))}, and none is the default", REMEDY)
    return _checked(*texts[name])


def tools_template(model: Model, folder: Path, settings: dict[str, Any]) -> str | None:
    """The model's template `tool_use`, which Transformers takes for a conversation with tools. None for a model without, and
    where the job names another template. Raises ModelError."""
    found = None if model.chat_template is not None else _texts(folder, settings).get(TOOL_USE)
    return None if found is None else _checked(*found)


def _texts(folder: Path, settings: dict[str, Any]) -> dict[str, tuple[Path, str]]:
    """The templates in a model's folder by name, each with its file."""
    legacy = folder / "chat_template.json"
    named = _named(folder / "tokenizer_config.json", settings) | _named(legacy, read_json(legacy))
    files = {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    if (path := folder / "chat_template.jinja").is_file():
        files["default"] = path
    return named | {name: (path, _file(path)) for name, path in files.items()}


def _named(path: Path, settings: dict[str, Any]) -> dict[str, tuple[Path, str]]:
    """The templates under `chat_template` by name: a text, a list of {name, template}, or as old releases wrote it an object."""
    given = settings.get("chat_template")
    if isinstance(given, list) and all(isinstance(entry, dict) and {"name", "template"} <= entry.keys() for entry in given):
        entries = [(entry["name"], entry["template"]) for entry in given]
    else:
        entries = list(given.items()) if isinstance(given, dict) else [] if given is None else [("default", given)]
    for name, text in entries:
        if not isinstance(name, str) or not isinstance(text, str):
            raise wrong(path, "chat_template", given, f"a text or texts by name; {REMEDY}")
    return {name: (path, text) for name, text in entries}


def _file(path: Path) -> str:
    return read_text(path, 4 * TEMPLATE_CAP)  # UTF-8 has up to 4 bytes a character


def _checked(path: Path, text: str) -> str:
    if len(text) > TEMPLATE_CAP:
        raise ModelError(f"{path}: the chat template has {len(text)} characters, over {TEMPLATE_CAP}", REMEDY)
    return text

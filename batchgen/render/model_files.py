"""The model's files that matter before an engine starts: tokenizer, chat template, context length. They are read from a directory
or, for a Hub id, through huggingface_hub's cache; the weights are left to the engine."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import xxhash

from batchgen.errors import ModelError, safe_message
from batchgen.job.job import Model

RENDER_FILES = ["config.json", "generation_config.json", "tokenizer*", "*.jinja", "special_tokens_map.json"]
TEMPLATE_CAP = 2**20
CONTEXT_NAMES = [
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
    "n_ctx",
]
INNER_CONFIGS = ("text_config", "llm_config", "language_config")  # of models that take images as well
_DIGESTED = {".json", ".safetensors", ".jinja", ".model", ".txt", ".py"}
TEMPLATES = Path(__file__).parent / "templates"  # for a job without a model, and for an endpoint with a template of its own


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: `number` tells it from the others of the job, from 1."""

    number: int
    path: str
    rank: int


@dataclass(frozen=True)
class ModelFiles:
    """What rendering needs of a model; small enough to travel to every worker. `tokenizer` is the text of tokenizer.json, None
    for the byte tokenizer of a job without a model; `chat_template` is None for plain completion; `context` is in tokens.
    `version` is what the fingerprint keeps of the model: the commit of a Hub id, or the digest of a directory."""

    label: str
    source: str | None
    revision: str | None
    tokenizer: str | None
    chat_template: str | None
    special: dict[str, str]
    context: int | None
    version: dict[str, object]
    adapters: dict[str, Adapter] = field(default_factory=dict)


def load_model(model: Model | None, recorded: Mapping[str, object] | None = None, hosted: bool = False) -> ModelFiles:
    """Read the files of `model`, unless it is `hosted` behind an endpoint. `recorded` is the version that an earlier run of
    the same output froze: a Hub revision that was not pinned stays at that commit. Raises ModelError."""
    if model is None:
        return ModelFiles("echo", None, None, None, _text(TEMPLATES / "no_model.jinja").rstrip("\n"), {}, None, {"source": None})
    if hosted:
        conversation = _text(TEMPLATES / "endpoint.jinja").rstrip("\n")
        return ModelFiles(model.source, model.source, None, None, conversation, {}, None, {"source": model.source})
    folder = Path(model.source)
    if folder.is_dir():
        label, source, revision = model.source, str(folder.absolute()), None
        version: dict[str, object] = {"digest": directory_digest(folder)}
    else:
        folder = _from_hub(model, (recorded or {}).get("commit"))
        label, source, revision = f"{model.source}@{folder.name}", model.source, folder.name
        version = {"source": source, "commit": revision}
    config = _json(folder / "config.json")
    settings, tokens = _json(folder / "tokenizer_config.json"), _json(folder / "special_tokens_map.json")
    template = _template(model, folder, settings)
    version["chat_template"] = xxhash.xxh3_128_hexdigest((template or "").encode())
    special = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        value = settings.get(name) or tokens.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            special[name] = value
    adapters = {name: _adapter(number, name, Path(path)) for number, (name, path) in enumerate(model.adapters.items(), 1)}
    if adapters:
        version["adapters"] = {name: directory_digest(Path(adapter.path)) for name, adapter in adapters.items()}
    context = _context(config, settings)
    return ModelFiles(label, source, revision, _tokenizer(model, folder), template, special, context, version, adapters)


def _context(config: dict[str, Any], settings: dict[str, Any]) -> int | None:
    """The context of a model in tokens, as vLLM finds it: the smallest of the numbers that its config gives under one of several
    names, and the tokenizer's own limit."""
    inner = next((found for name in INNER_CONFIGS if isinstance(found := config.get(name), dict)), {})
    numbers = [value for name in CONTEXT_NAMES if isinstance(value := inner.get(name, config.get(name)), int) and value > 0]
    limit = settings.get("model_max_length")  # transformers writes 10^30 for none
    if numbers and isinstance(limit, int | float) and 0 < limit < 10**9:
        numbers.append(int(limit))
    return min(numbers, default=None)


def _adapter(number: int, name: str, folder: Path) -> Adapter:
    config = _json(folder / "adapter_config.json")
    if not (folder / "adapter_model.safetensors").is_file() or not isinstance(config.get("r"), int):
        problem = f"model.adapters.{name} {folder}: no LoRA adapter there"
        raise ModelError(problem, "it has adapter_config.json and adapter_model.safetensors")
    return Adapter(number, str(folder.absolute()), config["r"])


def directory_digest(folder: Path) -> str:
    """xxh3-128 over the names, sizes and contents of a model directory. Of a file over 32 MiB, sixteen samples of 64 KiB spread
    over it are enough, so that 130 GB cost no more than a few seconds."""
    digest = xxhash.xxh3_128()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in _DIGESTED):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with open(path, "rb") as file:
            if size <= 2**25:
                digest.update(file.read())
                continue
            for place in range(16):
                file.seek((size - 2**16) * place // 15)
                digest.update(file.read(2**16))
    return digest.hexdigest()


def _from_hub(model: Model, commit: object) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    revision = model.revision or (str(commit) if commit else None)
    try:
        return Path(snapshot_download(model.source, revision=revision, allow_patterns=RENDER_FILES))
    except HFValidationError:
        cause = "not a directory here, and not a Hub id"
    except Exception as error:  # the Hub client raises its own errors, its HTTP library's and OSErrors
        cause = f"not a directory here, and the Hub answered: {safe_message(error)}"
    raise ModelError(f"model.source {model.source}: {cause}", "check the path or the id, and HF_TOKEN for a gated model")


def _json(path: Path) -> dict[str, Any]:
    try:
        value = orjson.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ModelError(f"{path}: not JSON: {error}") from None
    return value if isinstance(value, dict) else {}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: invalid UTF-8 at byte {error.start + 1}") from None


def _template(model: Model, folder: Path, settings: dict[str, Any]) -> str | None:
    if model.chat_template == "none":
        return None
    path = Path(model.chat_template) if model.chat_template is not None else folder / "chat_template.jinja"
    if path.is_file():
        text = _text(path)
    elif model.chat_template is not None:
        raise ModelError(f"model.chat_template {path}: no such file", "name a Jinja file, or `none` for plain completion")
    else:
        found = settings.get("chat_template")
        if isinstance(found, list):
            named = {entry["name"]: entry["template"] for entry in found}
            found = named.get("default", next(iter(named.values()), None))
        if not isinstance(found, str):
            return None
        text = found
    if len(text) > TEMPLATE_CAP:
        raise ModelError(f"{model.source}: the chat template has {len(text)} characters, over {TEMPLATE_CAP}")
    return text


def _tokenizer(model: Model, folder: Path) -> str:
    path = folder / "tokenizer.json"
    if path.is_file():
        return _text(path)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        from transformers import AutoTokenizer

        converted = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=model.trust_remote_code)
        return str(converted.backend_tokenizer.to_str())
    except Exception as error:  # transformers raises many kinds for an unreadable tokenizer
        cause = safe_message(error)
    raise ModelError(f"{model.source}: no tokenizer.json, and no other tokenizer can be converted: {cause}")

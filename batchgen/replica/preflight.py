"""What a replica looks at on its node before the engine starts: what would fail later, slower and in other words."""

import shutil
from pathlib import Path

from batchgen.engines.base import ENGINES
from batchgen.errors import BatchgenError, EngineError, ModelError
from batchgen.job.job import Job
from batchgen.output.store import Store, probe
from batchgen.render.model_files import ModelFiles, directory_digest, fetch


def look(job: Job, model: ModelFiles, store: Store) -> None:
    """Raises EngineError where this node cannot do what the driver's can: the engine that is installed here does not have an
    option, the output cannot be written with this node's credentials, the model's files are missing or others."""
    try:
        ENGINES.named(job.engine.kind).check(job)
    except BatchgenError as error:
        raise EngineError(f"{error}; on this node another version is installed than on the driver's") from None
    try:
        probe(store)
    except BatchgenError as error:
        remedy = "give the workers the credentials that the driver has: replicas.env_from names variables"
        raise EngineError(f"{error}; this node cannot write the output", remedy) from None
    if model.source is not None and "digest" in model.version:
        _refuse_other("model.source", Path(model.source), model.version["digest"])
    elif job.model is not None and model.revision is not None:
        try:
            fetch(job.model, model.revision)
        except ModelError as error:
            raise EngineError(f"{error}; asked from this node", "give the workers HF_TOKEN: replicas.env_from") from None
        _refuse_full_disk(model.source or "", model.revision)
    adapters = model.version.get("adapters")
    for name, digest in adapters.items() if isinstance(adapters, dict) else ():
        _refuse_other(f"model.adapters.{name}", Path(model.adapters[name].path), digest)


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

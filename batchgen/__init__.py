"""batchgen: prompts in, one Parquet dataset out, every planned row exactly once.

import batchgen

status = batchgen.run(batchgen.Job.load("job.yaml"))
for row in batchgen.rows(status["output"]):
    ...
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchgen.export.export import rows
    from batchgen.job.job import Job
    from batchgen.run import run

__all__ = ["Job", "rows", "run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazily, so that `batchgen --help` does not import the path.
    if name == "Job":
        return importlib.import_module("batchgen.job.job").Job
    if name == "run":
        return importlib.import_module("batchgen.run")
    if name == "rows":
        return importlib.import_module("batchgen.export.export").rows
    raise AttributeError(f"module 'batchgen' has no attribute {name!r}")

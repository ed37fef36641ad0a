"""batchgen: prompts in, one Parquet dataset out, every planned row exactly once.

import batchgen

table = batchgen.generate(["Tell me about tea."], model="my-org/my-model")  # rows of this process in, a pyarrow.Table out

status = batchgen.run("job.yaml")  # a job of any size
for row in batchgen.Output.open(status["output"]).rows():
    ...
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from batchgen import errors
from batchgen.errors import *  # noqa: F403 - the tree, by its __all__

# Not lazily: whoever imports a module of such a name first would leave the module under it.
from batchgen.generate import generate
from batchgen.run import run

if TYPE_CHECKING:
    from batchgen.job.job import Job
    from batchgen.output.output import Output

__all__ = ["Job", "Output", "__version__", "generate", "run", *errors.__all__]
try:
    __version__ = version("batchgen")
except PackageNotFoundError:  # a source tree that is not installed, such as the working_dir of a Ray job
    __version__ = "unknown"
_LAZY = {"Job": "batchgen.job.job", "Output": "batchgen.output.output"}
"""Public names whose modules are imported at their first use, so that `batchgen --help` does not import the path."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'batchgen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

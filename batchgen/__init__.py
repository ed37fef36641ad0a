"""batchgen: prompts in, one Parquet dataset out, every planned row exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchgen.run import run
    from batchgen.spec import Job

__all__ = ["Job", "run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazily, so that `batchgen --help` costs no import of the path.
    if name == "Job":
        from batchgen.spec import Job

        return Job
    if name == "run":
        from batchgen.run import run

        return run
    raise AttributeError(name)

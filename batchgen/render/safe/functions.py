"""Functions of the user's that a job names, `module:function`: `input.before` makes a row of a row, `parse.after` columns of an
answer, `accept.function` says whether an answer will do. Workers get the source of its module, so that what runs is what was
looked at; what the module imports they must have."""

import functools
import hashlib
import importlib.machinery
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Self

from batchgen.errors import BadRow, EngineError, ErrorCode, JobError, safe_message
from batchgen.job.job import Job
from batchgen.records import Data
from batchgen.render.safe.time_limit import time_limit

SECONDS_CAP = 60.0  # of a call


@dataclass(frozen=True)
class RowFunction:
    """`name` is module:function, `path` and `source` are those of the module's file."""

    name: str
    path: str
    source: bytes

    @classmethod
    def find(cls, field: str, name: str) -> Self:
        """The function that a field of the job names, in a module on sys.path or in the working directory. Raises JobError."""
        module, _, function = name.partition(":")
        try:
            path = _file_of(module)
            with open(path, "rb") as file:
                found = cls(name, path, file.read())
            if not callable(getattr(found._module, function, None)):
                raise ValueError(f"no function {function!r} in {path}")
        except (Exception, SystemExit) as error:  # the module is run
            cause = str(error) if isinstance(error, ValueError) else _cause(error)
            remedy = "write it as module:function, of a module that Python finds from here"
            raise JobError(f"{field} {name}: {cause}", remedy) from None
        return found

    def load(self) -> None:
        """Run the module, on a worker. Raises EngineError where it cannot be."""
        try:
            _ = self._module
        except (Exception, SystemExit) as error:
            remedy = "what its module imports must be installed on every node, or be in the working_dir of the Ray job"
            raise EngineError(f"{self.name}: {_cause(error)}, on this node", remedy) from None

    @property
    def version(self) -> str:
        return f"{os.path.basename(self.path)}, sha256 {hashlib.sha256(self.source).hexdigest()}"

    @property
    def _module(self) -> ModuleType:
        return _run(self.name.partition(":")[0], self.path, self.source)

    def __call__(self, row: Data, code: ErrorCode) -> Data:
        """The dict that the function returns for a row. Raises BadRow with this code, as `value` does."""
        made = self.value(row, code)
        if made is None:
            raise BadRow(code, f"{self.name}: it returned None")
        if not isinstance(made, dict) or not all(isinstance(key, str) for key in made):
            raise BadRow(code, f"{self.name}: it returned a {type(made).__name__}, not a dict of column to value")
        return made

    def objection(self, row: Data) -> str | None:
        """What a function that accepts answers has against a row; None for True. Raises BadRow (rejected), as `value` does."""
        said = self.value(row, "rejected")
        said = said.item() if type(said).__name__ in ("bool_", "bool") and hasattr(said, "item") else said  # numpy's
        if isinstance(said, str):
            return f"{self.name}: {safe_message(ValueError(said)) or 'it returned an empty text'}"
        if not isinstance(said, bool):
            raise BadRow(
                "rejected", f"{self.name}: it returned a {type(said).__name__}, not True, False or a text that says why not"
            )
        return None if said else f"{self.name} returned False"

    def value(self, row: Data, code: ErrorCode) -> object:
        """What the function returns for a row. Raises BadRow with this code, the function's name, and the cause. A call is ended
        after SECONDS_CAP, one that waits in C (for a network) when that ends."""
        call: Callable[[Data], object] = getattr(self._module, self.name.partition(":")[2])
        try:
            with time_limit(SECONDS_CAP):
                return call(row)
        except TimeoutError as error:
            cause = str(error) or f"not done after {SECONDS_CAP:g} s"
            raise BadRow(code, f"{self.name}: {cause}") from None
        except (Exception, SystemExit) as error:
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == self.path]
            where = f" (line {lines[-1]})" if lines else ""
            raise BadRow(code, f"{self.name}{where}: {_cause(error)}") from None


def _cause(error: BaseException) -> str:
    return f"{type(error).__name__}: {safe_message(error)}"


@dataclass(frozen=True)
class RowFunctions:
    before: RowFunction | None = None
    after: RowFunction | None = None
    accept: RowFunction | None = None

    def load(self) -> None:
        """Run the modules of those that a replica calls. Raises EngineError."""
        for function in (self.after, self.accept):
            if function is not None:
                function.load()

    @property
    def versions(self) -> dict[str, str]:
        """What the meaning of a job has of its functions."""
        named = {"input.before.source": self.before, "parse.after.source": self.after, "accept.function.source": self.accept}
        return {key: found.version for key, found in named.items() if found is not None}


def row_functions(job: Job) -> RowFunctions:
    """The functions that a job names. Raises JobError."""
    named = {
        "input.before": job.input.before,
        "parse.after": job.parse_.after if job.parse_ else None,
        "accept.function": job.accept.function if job.accept else None,
    }
    return RowFunctions(*(RowFunction.find(field, name) if name else None for field, name in named.items()))


def _file_of(module: str) -> str:
    """The path of a module's source. Raises ValueError and whatever a parent package raises."""
    try:
        spec = importlib.util.find_spec(module)
    except (ModuleNotFoundError, ValueError):  # no such parent package; __main__
        spec = None
    if spec is None:  # the console script has not the working directory on its path
        places: list[str] | None = [os.getcwd()]
        names = module.split(".")
        for end in range(1, len(names) + 1):
            spec = importlib.machinery.PathFinder.find_spec(".".join(names[:end]), places)
            places = list(spec.submodule_search_locations or ()) if spec else []
    if spec is None:
        raise ValueError(f"no module {module!r}")
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise ValueError(f"module {module!r} has no source file")
    return os.path.abspath(spec.origin)


@functools.lru_cache
def _run(name: str, path: str, source: bytes) -> ModuleType:
    """The module of a source, under its name where that is free."""
    spec = importlib.machinery.ModuleSpec(name, None, origin=path)
    if os.path.basename(path) == "__init__.py":
        spec.submodule_search_locations = [os.path.dirname(path)]
    module = importlib.util.module_from_spec(spec)
    module.__file__ = path
    is_known = sys.modules.setdefault(name, module) is module  # where pickle and dataclasses look it up
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except BaseException:
        if is_known:
            del sys.modules[name]
        raise
    return module

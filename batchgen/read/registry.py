"""The parts of reading that a package may add to: input formats and row layouts."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Generic, TypeVar

from batchgen.errors import JobError
from batchgen.job.fields import did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Objects of one `kind` by the name that `input.KIND` gives.

    A package adds one with an entry point of the group `batchgen.KINDs`: its name and the object; the workers of a cluster
    know it, too. `register` adds one to this process. Built-in names stay batchgen's own.
    """

    def __init__(self, kind: str, built_in: dict[str, T]) -> None:
        self.kind, self._known, self._complete = kind, built_in, False

    def register(self, name: str, made: T) -> None:
        self._known.setdefault(name, made)

    def all(self) -> dict[str, T]:
        if not self._complete:
            for entry in entry_points(group=f"batchgen.{self.kind}s"):
                self.register(entry.name, entry.load())
            self._complete = True
        return self._known

    def named(self, name: str) -> T:
        """Raises JobError with the nearest name."""
        known = self.all()
        if name not in known:
            remedy = f"there are {', '.join(known)}"
            raise JobError(f"input.{self.kind} {name}: no such {self.kind}{did_you_mean(name, known)}", remedy)
        return known[name]

"""Kinds of things by name: engines, formats, row layouts, tasks, exports, placements.

A package adds one by an entry point: the registry's group, the name that a job gives, and the object. Nothing is imported before
it is asked for. Built-in names stay batchgen's own."""

import functools
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from batchgen.errors import JobError, did_you_mean, safe_message

T = TypeVar("T")


class Registry(Generic[T]):
    """Objects of a kind by the name that `field` of the job (or an option) gives. `built_in`: places, `module:attribute`."""

    def __init__(self, field: str, group: str, built_in: dict[str, str]) -> None:
        self._field, self._group = field, group
        self._built_in = {name: EntryPoint(name, place, group) for name, place in built_in.items()}

    def names(self) -> list[str]:
        """The built-in names, and after them those of packages."""
        return list(self._entries())

    def named(self, name: str) -> T:
        """The object; its module is imported now. Raises JobError for an unknown name, or a module that cannot be imported."""
        entry = self._built_in.get(name) or self._entries().get(name)
        if entry is None:
            known = self.names()
            raise JobError(f"{self._field} {name}: no such name{did_you_mean(name, known)}", f"there are {', '.join(known)}")
        try:
            found: T = _load(entry)
        except Exception as error:  # whatever the module of another package raises
            cause = f"{type(error).__name__}: {safe_message(error)}"
            raise JobError(f"{self._field} {name}: {entry.value} cannot be imported: {cause}") from None
        return found

    def all(self) -> dict[str, T]:
        return {name: self.named(name) for name in self.names()}

    def _entries(self) -> dict[str, EntryPoint]:
        added = {entry.name: entry for entry in _installed(self._group, tuple(sys.path)) if entry.name not in self._built_in}
        return self._built_in | added


_load = functools.lru_cache(EntryPoint.load)


@functools.lru_cache
def _installed(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of the packages on a path; to look for them takes milliseconds."""
    return tuple(sorted(entry_points(group=group), key=lambda entry: entry.name))

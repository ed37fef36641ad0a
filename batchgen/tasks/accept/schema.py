"""The JSON Schema of a rule: what could never be applied to an answer is a mistake in the job."""

from collections.abc import Iterator
from typing import Any

import referencing
import regex
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from batchgen.errors import JobError
from batchgen.job.fields import Fields

_DATA = {"const", "enum", "default", "examples"}  # keywords whose values are data
Resolver = Any


def refuse_unusable(schema: Fields) -> None:
    """Raises JobError for a schema with a pattern that is none, or a reference that leads nowhere."""
    parts = list(_parts(schema))
    root = referencing.Resource.from_contents(schema, DRAFT202012)
    resolver = None if any("$id" in part for part in parts) else referencing.Registry().resolver_with_root(root)
    for part in parts:
        _refuse(part, resolver)


def _parts(schema: object) -> Iterator[Fields]:
    if isinstance(schema, list):
        for value in schema:
            yield from _parts(value)
    elif isinstance(schema, dict):
        yield schema
        for key, value in schema.items():
            if key not in _DATA:
                yield from _parts(value)


def _refuse(part: Fields, resolver: Resolver) -> None:
    patterns = [part["pattern"]] if isinstance(part.get("pattern"), str) else []
    if isinstance(found := part.get("patternProperties"), dict):
        patterns += found
        if "unevaluatedProperties" in part:  # the library searches for these with `re`, which cannot be stopped
            raise JobError("patternProperties beside unevaluatedProperties is not supported", "use additionalProperties")
    for pattern in patterns:
        try:
            regex.compile(pattern)
        except regex.error as error:
            raise JobError(f"pattern {pattern!r}: {error}") from None
    if resolver is not None and isinstance(reference := part.get("$ref"), str):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise JobError(f"$ref {reference!r} is not in the schema, and nothing is fetched") from None

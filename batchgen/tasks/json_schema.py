"""JSON Schema within limits: no reference leaves the schema, and its regular expressions can be stopped."""

from collections.abc import Iterable, Iterator
from typing import Any

import jsonschema
import referencing
import regex
from jsonschema import validators
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from batchgen.errors import safe_message
from batchgen.jsontext import loads
from batchgen.render.safe.time_limit import within

PATTERN_SECONDS = 2.0  # of a search
_DATA = {"const", "enum", "default", "examples"}  # keywords whose values are data
Value = Any
"""A value of JSON, or an object of jsonschema's."""


class SchemaRule:
    """Raises ValueError for a text that is no JSON Schema."""

    def __init__(self, text: str) -> None:
        schema = loads(text)
        kind: Value = validators.validator_for(schema, jsonschema.Draft202012Validator)
        try:
            kind.check_schema(schema)
        except jsonschema.SchemaError as error:
            raise ValueError(f"it is no JSON Schema: {_words(error)}") from None
        parts = list(_parts(schema))
        root = referencing.Resource.from_contents(schema, DRAFT202012)
        resolver = None if any("$id" in part for part in parts) else referencing.Registry().resolver_with_root(root)
        for part in parts:
            _refuse(part, resolver)
        own = {"pattern": _pattern, "patternProperties": _pattern_properties, "additionalProperties": _additional_properties}
        self._validator = validators.extend(kind, own)(schema, registry=referencing.Registry())

    def mistake(self, value: Value, seconds: float) -> str | None:
        """What of a value does not satisfy the schema, None where all does. Raises TimeoutError."""
        error = within(seconds, lambda: next(self._validator.iter_errors(value), None))
        return None if error is None else _words(error)


def _words(error: Value) -> str:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path).lstrip(".")
    return f"{place}{': ' if place else ''}{safe_message(ValueError(error.message), 200)}"


def _parts(schema: Value) -> Iterator[dict[str, Value]]:
    if isinstance(schema, list):
        for value in schema:
            yield from _parts(value)
    elif isinstance(schema, dict):
        yield schema
        for key, value in schema.items():
            if key not in _DATA:
                yield from _parts(value)


def _refuse(part: dict[str, Value], resolver: Value) -> None:
    """Raises ValueError for a part of a schema that cannot be checked here."""
    patterns = [part["pattern"]] if isinstance(part.get("pattern"), str) else []
    if isinstance(found := part.get("patternProperties"), dict):
        patterns += found
        if "unevaluatedProperties" in part:
            raise ValueError("patternProperties beside unevaluatedProperties is not supported: use additionalProperties")
    for pattern in patterns:
        try:
            regex.compile(pattern)
        except regex.error as error:
            raise ValueError(f"pattern {pattern!r}: {error}") from None
    if resolver is not None and isinstance(reference := part.get("$ref"), str):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise ValueError(f"$ref {reference!r} is not in the schema, and nothing is fetched") from None


def _found(pattern: str, text: str) -> bool:
    """jsonschema has `re`, which cannot be stopped and holds up all threads."""
    return regex.search(pattern, text, timeout=PATTERN_SECONDS, concurrent=True) is not None


def _pattern(validator: Value, pattern: str, value: Value, schema: Value) -> Iterable[Value]:
    if isinstance(value, str) and not _found(pattern, value):
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


def _pattern_properties(validator: Value, patterns: dict[str, Value], value: Value, schema: Value) -> Iterable[Value]:
    for pattern, inner in patterns.items() if isinstance(value, dict) else ():
        for key, entry in value.items():
            if _found(pattern, key):
                yield from validator.descend(entry, inner, path=key, schema_path=pattern)


def _additional_properties(validator: Value, inner: Value, value: Value, schema: Value) -> Iterable[Value]:
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    more = (
        [key for key in value if key not in known and not any(_found(each, key) for each in patterns)]
        if isinstance(value, dict)
        else []
    )
    if isinstance(inner, dict):
        for key in more:
            yield from validator.descend(value[key], inner, path=key)
    elif inner is False and more:
        yield jsonschema.ValidationError(f"additional properties are not allowed: {', '.join(map(repr, more))}")

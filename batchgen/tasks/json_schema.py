"""Values held to a JSON schema (https://json-schema.org/draft/2020-12), by the library jsonschema. A schema may come from a
row: its patterns and its whole work are limited in time, and no $ref is fetched from anywhere."""

from collections.abc import Iterator
from typing import Any

import jsonschema
import referencing
import regex

from batchgen.errors import JobError, safe_message
from batchgen.job.fields import Fields
from batchgen.render.safe.time_limit import time_limit

SECONDS, PATTERN_SECONDS = 5.0, 1.0
Validator = Any  # the library has no types
Found = Iterator[jsonschema.ValidationError]


def _matches(pattern: str, text: str) -> bool:
    """By a search that can be stopped, unlike the library's."""
    return regex.search(pattern, text, timeout=PATTERN_SECONDS, concurrent=True) is not None


def _pattern(validator: Validator, pattern: str, value: object, schema: object) -> Found:
    if isinstance(value, str) and not _matches(pattern, value):
        yield jsonschema.ValidationError(f"{value!r} does not match {pattern!r}")


def _pattern_properties(validator: Validator, patterns: Fields, value: object, schema: object) -> Found:
    for pattern, inner in patterns.items():
        for name, each in value.items() if isinstance(value, dict) else ():
            if _matches(pattern, name):
                yield from validator.descend(each, inner, path=name, schema_path=pattern)


def _additional_properties(validator: Validator, inner: object, value: object, schema: Fields) -> Found:
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, each in value.items() if isinstance(value, dict) else ():
        if name in known or any(_matches(pattern, name) for pattern in patterns):
            continue
        if inner is False:
            yield jsonschema.ValidationError(f"{name!r} is no property of the schema")
        elif inner is not True:
            yield from validator.descend(each, inner, path=name)


_KEYWORDS = {"pattern": _pattern, "patternProperties": _pattern_properties, "additionalProperties": _additional_properties}
_VALIDATOR = jsonschema.validators.extend(jsonschema.Draft202012Validator, _KEYWORDS)


class Schema:
    """Raises JobError for a schema that is none."""

    def __init__(self, schema: object) -> None:
        try:
            with time_limit(SECONDS):
                _VALIDATOR.check_schema(schema)
        except jsonschema.SchemaError as error:
            raise JobError(f"it is no JSON schema: {_words(error)}") from None
        except Exception as error:  # whatever a hostile one makes of the library
            raise JobError(f"it is no JSON schema: {safe_message(error)}") from None
        self._validator = _VALIDATOR(schema, registry=referencing.Registry())

    def mistake(self, value: object) -> str | None:
        """What is wrong with a value, with its place; None for one that the schema allows. A schema that cannot be applied
        allows nothing."""
        try:
            with time_limit(SECONDS):
                found = next(self._validator.iter_errors(value), None)
        except TimeoutError:
            return f"the schema is not done after {SECONDS:g} s"
        except Exception as error:
            return f"the schema cannot be applied: {safe_message(error)}"
        return None if found is None else _words(found)


def _words(error: jsonschema.ValidationError | jsonschema.SchemaError) -> str:
    where = ".".join(map(str, error.absolute_path))
    text = error.message if len(error.message) <= 200 else f"{error.message[:100]} ... {error.message[-90:]}"
    return f"{where}: {text}" if where else text

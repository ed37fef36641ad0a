"""A regular expression and a JSON Schema of a text."""

import regex

from batchgen.errors import JobError
from batchgen.job.accept import Fit
from batchgen.tasks.json_schema import SchemaRule
from batchgen.tasks.parse import json_in

RULE_SECONDS = 5.0  # of a rule and an answer


class FitRule:
    """`field` names the rules in what is said. Raises JobError for one that cannot be compiled."""

    def __init__(self, spec: Fit, field: str) -> None:
        self._field = field
        try:
            self._regex = None if spec.regex is None else regex.compile(spec.regex)
        except regex.error as error:
            raise JobError(f"{field}.regex: {error}") from None
        try:
            self._schema = None if spec.schema_ is None else SchemaRule(spec.schema_)
        except (ValueError, RecursionError) as error:
            raise JobError(f"{field}.schema: {error}") from None

    def mistake(self, text: str) -> str | None:
        """Why a text does not fit, None where it does. Takes at most about RULE_SECONDS for each of the two."""
        try:
            if self._regex is not None and self._regex.search(text, timeout=RULE_SECONDS, concurrent=True) is None:
                return f"{self._field}.regex matches nowhere in the answer"
        except TimeoutError:
            return f"{self._field}.regex is not done with the answer after {RULE_SECONDS:g} s: write it without nested repetition"
        return None if self._schema is None else self._of_json(self._schema, text)

    def _of_json(self, schema: SchemaRule, text: str) -> str | None:
        try:
            value = json_in(text)
        except ValueError as error:
            return f"{self._field}.schema: {error}"
        try:
            cause = schema.mistake(value, RULE_SECONDS)
        except TimeoutError:
            cause = f"not done with the answer after {RULE_SECONDS:g} s: simplify its patterns, or leave out uniqueItems"
        except RecursionError:
            cause = "the answer nests too deeply for it"
        return None if cause is None else f"{self._field}.schema: {cause}"

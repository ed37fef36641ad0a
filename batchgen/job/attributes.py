"""The `attributes` field of a job: a schema by name or in full, values, a sweep or draws, columns."""

from __future__ import annotations

import functools
from typing import Annotated, Any

from pydantic import Field, model_validator

from batchgen.job.fields import Fields, Spec
from batchgen.job.schemas import BUILT_IN, Schema, sweep

WEIGHT = "weight"
"""Key of a combination: how likely it is beside the others."""


class Draw(Spec):
    k: int = Field(ge=1, le=1024, description="Draws per row. Each makes one variant; the same combination may be drawn twice.")
    from_: str | Annotated[list[Fields], Field(min_length=1)] = Field(
        alias="from",
        description="Combinations to draw from: a list of mappings, or a local JSONL or Parquet file with a column per attribute (training rows, for example).",
    )
    seed: int = Field(0, description="Seed of the draws. A row's draws depend only on this seed and the row's name.")


class Attributes(Spec):
    schema_: str | Schema = Field(alias="schema", description=f"A built-in name ({', '.join(BUILT_IN)}) or a schema of your own.")
    values: Fields = Field({}, description="Values for every row. A row's own column wins.")
    sweep: dict[str, list[Any]] | list[Fields] = Field(
        {},
        description="Variants of each row: every combination of these values (a mapping of lists), or every mapping of a list.",
    )
    sample: Draw | None = Field(None, description="Variants of each row: k random draws from many combinations. Excludes sweep.")
    predict: str | None = Field(
        None,
        description="Labels to predict, for a schema whose model writes the values (karakuri-apm): helpsteer or oasst. "
        "Sets the labeler's prompt, constraint, stop and `parse`.",
    )
    columns: dict[str, str] | bool = Field(
        True,
        description="Input columns that hold a row's own values. true: those named like the attributes. A mapping: attribute to column. false: none.",
    )

    @model_validator(mode="after")
    def _check(self) -> Attributes:
        schema = self.schema
        if schema.labels or self.predict is not None:
            self._check_prediction()
        schema.check(self.values)
        if isinstance(self.sweep, list):
            self._check_points("sweep", self.sweep)
        else:
            self._check_grid(self.sweep)
        if self.sample is not None:
            if self.sweep:
                raise ValueError("sample and sweep both make variants: give one of them")
            self._check_points("sample.from", self._drawn)
        if isinstance(self.columns, dict):
            schema.check(dict.fromkeys(self.columns))
        return self

    def _check_prediction(self) -> None:
        labels = self.schema.labels
        if not labels:
            raise ValueError(f"predict: a model of schema {self.schema.label} reads the values; karakuri-apm writes them")
        if self.predict not in labels:
            raise ValueError(f"predict: a model of schema {self.schema.label} writes values: name {' or '.join(labels)}")
        if self.values or self.sweep or self.sample is not None or isinstance(self.columns, dict):
            raise ValueError("predict: the model writes the values: give no values, sweep, sample or columns")

    def _check_grid(self, grid: dict[str, list[Any]]) -> None:
        for name, values in grid.items():
            if not values:
                raise ValueError(f"sweep.{name} is empty")
            for value in values:
                if value is None:
                    raise ValueError(f"sweep.{name}: null is not a value")
                self.schema.check({name: value})
            if len(set(values)) != len(values):
                raise ValueError(f"sweep.{name} names a value twice")

    def _check_points(self, where: str, points: list[Fields]) -> None:
        for number, point in enumerate(points, 1):
            try:
                checked = self._values_of(point)
            except ValueError as error:
                raise ValueError(f"{where}: combination {number}: {error}") from None
            if not checked:
                raise ValueError(f"{where}: combination {number} sets nothing")
            weight = point.get(WEIGHT, 1)
            if isinstance(weight, bool) or not isinstance(weight, int | float) or weight <= 0:
                raise ValueError(f"{where}: combination {number}: {WEIGHT} {weight!r} is not a number over 0")

    @functools.cached_property
    def schema(self) -> Schema:  # type: ignore[override]
        if not isinstance(self.schema_, str):
            return self.schema_
        if self.schema_ not in BUILT_IN:
            raise ValueError(f"unknown schema {self.schema_!r}; built in are {', '.join(BUILT_IN)}")
        return BUILT_IN[self.schema_]

    @property
    def variants(self) -> int:
        """How many prompts a row makes."""
        return self.sample.k if self.sample is not None else len(self.points)

    @property
    def varied(self) -> list[str]:
        """Names of the attributes in which the variants of a row differ."""
        if self.sample is not None:
            return list(dict.fromkeys(name for point in self._drawn for name in point if name != WEIGHT))
        return list(dict.fromkeys(name for point in self.points for name in point))

    @functools.cached_property
    def points(self) -> list[dict[str, int]]:
        """The combinations of the sweep or of the sample, checked; one that sets nothing without either."""
        if self.sample is not None:
            return [self._values_of(point) for point in self._drawn]
        points = self.sweep if isinstance(self.sweep, list) and self.sweep else sweep(self.sweep or {})  # type: ignore[arg-type]
        return [self.schema.check(point) for point in points]

    @property
    def weights(self) -> list[float]:
        """How likely each combination of the sample is beside the others."""
        return [point.get(WEIGHT, 1) for point in self._drawn]

    @property
    def _drawn(self) -> list[Fields]:
        """The combinations of the sample, once those of a file are in its place (read/discover.py)."""
        return self.sample.from_ if self.sample is not None and isinstance(self.sample.from_, list) else []

    def _values_of(self, point: Fields) -> dict[str, int]:
        return self.schema.check({name: value for name, value in point.items() if name != WEIGHT})

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes that rows carry: none where the model writes them."""
        return () if self.predict is not None else tuple(self.schema.names)

    def column_of(self) -> dict[str, str]:
        """Attribute name -> input column that may hold a row's own value."""
        if self.columns is False or self.predict is not None:
            return {}
        renamed = self.columns if isinstance(self.columns, dict) else {}
        return {name: renamed.get(name, name) for name in self.schema.names}

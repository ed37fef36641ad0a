"""The `attributes` field of a job: a schema by name or in full, values, a sweep, columns."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from batchgen import attributes as attrs
from batchgen.jobfile import MOST, Spec


class LayoutSpec(Spec):
    template: str | None = Field(
        None, description="Jinja chat template that reads the values from the keys of each user message."
    )
    block: str | None = Field(None, description="Text beside user messages; {pairs} stands for the values.")
    pair: str = Field("{name}: {value}", description="One value in the block.")
    separator: str = Field(" ", description="Between two values in the block.")
    where: Literal["suffix", "prefix"] = Field("suffix", description="The block's side of the message text.")
    turns: Literal["all", "last"] = Field("all", description="Which user messages carry the block.")

    @model_validator(mode="after")
    def _one_form(self) -> LayoutSpec:
        if (self.template is None) == (self.block is None):
            raise ValueError("give exactly one of template and block")
        if self.block is not None and "{pairs}" not in self.block:
            raise ValueError("block must contain {pairs}")
        try:
            self.pair.format(name="", value="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"pair may have the fields {{name}} and {{value}} only ({error!r})") from None
        return self


Range = Annotated[list[Annotated[int, Field(ge=-MOST, le=MOST)]], Field(min_length=2, max_length=2)]


class SchemaSpec(Spec):
    names: list[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]] = Field(
        min_length=1, description="Attribute names, in the prompt's order."
    )
    range: Range | dict[str, Range] = Field([0, 4], description="[low, high], both included; for all or by name.")
    defaults: dict[str, int] = Field({}, description="Value of an attribute that nobody sets; else the low end.")
    layout: LayoutSpec | None = Field(None, description="The text form, for a model whose template does not read the values.")

    def build(self) -> attrs.Schema:
        for name in {"role", "content", "messages"} & set(self.names):
            raise ValueError(f"an attribute cannot be called {name}: chat templates mean something else by it")
        if len(set(self.names)) != len(self.names):
            raise ValueError("names has a name twice")
        for name in [*self.defaults, *(self.range if isinstance(self.range, dict) else ())]:
            if name not in self.names:
                raise ValueError(f"{name} is not among names")
        made = []
        for name in self.names:
            low, high = self.range.get(name, [0, 4]) if isinstance(self.range, dict) else self.range
            attribute = attrs.Attribute(name, low, high, self.defaults.get(name, low))
            attribute.check(attribute.default)
            made.append(attribute)
        layout = attrs.Layout(**self.layout.model_dump()) if self.layout else None
        return attrs.Schema("custom", tuple(made), layout)


class Attributes(Spec):
    schema_: str | SchemaSpec = Field(alias="schema", description="A built-in name (karakuri, steerlm) or a schema of your own.")
    values: dict[str, Any] = Field({}, description="Values for every row; a row's own column wins.")
    sweep: dict[str, list[Any]] = Field({}, description="Every row times every combination of these values.")
    columns: dict[str, str] | bool = Field(
        True, description="true: the columns that bear the names; a mapping renames them; false: none."
    )

    @model_validator(mode="after")
    def _check(self) -> Attributes:
        schema = self.schema
        schema.check(self.values)
        for name, values in self.sweep.items():
            if not values:
                raise ValueError(f"sweep.{name} is empty")
            for value in values:
                if value is None:
                    raise ValueError(f"sweep.{name}: null is not a value")
                schema.check({name: value})
            if len(set(values)) != len(values):
                raise ValueError(f"sweep.{name} names a value twice")
        if isinstance(self.columns, dict):
            schema.check(dict.fromkeys(self.columns))
        return self

    @property
    def schema(self) -> attrs.Schema:  # type: ignore[override]
        if not isinstance(self.schema_, str):
            return self.schema_.build()
        if self.schema_ not in attrs.BUILT_IN:
            raise ValueError(f"unknown schema {self.schema_!r}; built in are {', '.join(attrs.BUILT_IN)}")
        return attrs.BUILT_IN[self.schema_]

    @property
    def variants(self) -> list[dict[str, int]]:
        return [self.schema.check(point) for point in attrs.sweep(self.sweep)]

    def column_of(self) -> dict[str, str]:
        """Attribute name -> input column that may hold a row's own value."""
        if self.columns is False:
            return {}
        renamed = self.columns if isinstance(self.columns, dict) else {}
        return {name: renamed.get(name, name) for name in self.schema.names}

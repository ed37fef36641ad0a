"""Steering attributes as data: names in order, integer ranges, defaults, and the text form in which a model reads them.

Sources: the model cards of KARAKURI LM 70B Chat v0.1, 8x7B Chat v0.1, 8x7B Instruct v0.1 and 7B APM v0.1 (order, range, defaults,
prompt forms); the NeMo-Aligner SteerLM prompt form. The chat templates of the built-in schemas are render/schemas/<name>.jinja.
"""

import functools
import itertools
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from batchgen.job.fields import MOST, Spec

Range = Annotated[list[Annotated[int, Field(ge=-MOST, le=MOST)]], Field(min_length=2, max_length=2)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]


class Layout(Spec):
    template: str | None = Field(None, description="Jinja chat template that reads the values from keys of each user message.")
    block: str | None = Field(None, description="Text added to user messages; {pairs} is replaced by the values.")
    pair: str = Field("{name}: {value}", description="Format of one value in {pairs}.")
    separator: str = Field(" ", description="Text between two values in {pairs}.")
    where: Literal["suffix", "prefix"] = Field("suffix", description="The block goes after (suffix) or before (prefix) the text.")
    turns: Literal["all", "last"] = Field("all", description="User messages that get the block.")

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.template is None) == (self.block is None):
            raise ValueError("give exactly one of template and block")
        if self.block is not None and "{pairs}" not in self.block:
            raise ValueError("block must contain {pairs}")
        try:
            self.pair.format(name="", value="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"pair may have the fields {{name}} and {{value}} only ({error!r})") from None
        return self

    def block_of(self, values: Mapping[str, int]) -> str:
        """The block's text for these values."""
        assert self.block is not None
        pairs = self.separator.join(self.pair.format(name=name, value=value) for name, value in values.items())
        return self.block.replace("{pairs}", pairs)


class Labels(Spec):
    """The answer of an attribute prediction model: ` name: value` for each of `names`, then a space and `end`."""

    names: tuple[str, ...]
    end: str


class Schema(Spec):
    names: list[Name] = Field(min_length=1, description="Attribute names, in the order of the prompt.")
    range: Range | dict[str, Range] = Field([0, 4], description="[low, high], both included: for all attributes or by name.")
    defaults: dict[str, int] = Field({}, description="Values that neither job nor row sets. Default: the range's low end.")
    layout: Layout | None = Field(None, description="Text form of the values, for a chat template that does not read them.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in {"role", "content", "messages"} & set(self.names):
            raise ValueError(f"an attribute cannot be called {name}: chat templates mean something else by it")
        if len(set(self.names)) != len(self.names):
            raise ValueError("names has a name twice")
        for name in [*self.defaults, *(self.range if isinstance(self.range, dict) else ())]:
            if name not in self.names:
                raise ValueError(f"{name} is not among names")
        self.check(self.default_values)
        return self

    @property
    def label(self) -> str:
        """The schema's name in messages."""
        return "custom"

    @property
    def of_answers(self) -> bool:
        """Whether the prompt has the values of each answer: an earlier one's are the keys of its own message, else the defaults.
        In other prompts a user message has the values of the answers after it."""
        return self.label in _OF_ANSWERS

    @property
    def labels(self) -> Mapping[str, Labels]:
        """The forms of a labeler's answer by their name; none for a model that reads the values."""
        return _LABELS.get(self.label, {})

    def limits(self, name: str) -> tuple[int, int]:
        """The lowest and the highest value of an attribute, both included."""
        low, high = self.range.get(name, [0, 4]) if isinstance(self.range, dict) else self.range
        return low, high

    @functools.cached_property
    def default_values(self) -> dict[str, int]:
        """The default of every attribute, in the schema's order."""
        return {name: self.defaults.get(name, self.limits(name)[0]) for name in self.names}

    def check(self, values: Mapping[str, object]) -> dict[str, int]:
        """The values that are set (not None), as integers, in the schema's order. Raises ValueError."""
        unknown = [name for name in values if name not in self.names]
        if unknown:
            raise ValueError(f"{unknown[0]}: no such attribute in schema {self.label} ({', '.join(self.names)})")
        return {name: self._checked(name, values[name]) for name in self.names if values.get(name) is not None}

    def _checked(self, name: str, value: object) -> int:
        """The value as an int; an integral float is that integer. Raises ValueError."""
        low, high = self.limits(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high or value != int(value):
            raise ValueError(f"{name}: {value!r} is not an integer {low}..{high}")
        return int(value)


class BuiltIn(Schema):
    """A schema with a name and a chat template of its own."""

    name: str

    @property
    def label(self) -> str:
        return self.name


def sweep(points: Mapping[str, list[int]]) -> list[dict[str, int]]:
    """Every combination of the swept values, the last attribute varying fastest; [{}] without a sweep."""
    return [dict(zip(points, combination, strict=True)) for combination in itertools.product(*points.values())]


_HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
_OASST = ("quality", "toxicity", "humor", "creativity")
_LOW = {"toxicity", "humor", "creativity"}  # attributes whose default is 0; of the others it is 4
_NAMES = {
    **dict.fromkeys(("karakuri", "karakuri-8x7b-chat", "karakuri-8x7b-instruct", "karakuri-apm"), _HELPSTEER + _OASST),
    "steerlm": _OASST + _HELPSTEER,
}
_OF_ANSWERS = {"karakuri-8x7b-instruct"}
_APM = {"helpsteer": Labels(names=_HELPSTEER, end="[/ATTR_1]"), "oasst": Labels(names=_OASST, end="[/ATTR_2]")}
_LABELS = {"karakuri-apm": _APM}
"""Of the schemas whose models write the values; the argument `label` of their chat templates selects which."""
BUILT_IN = {
    name: BuiltIn(name=name, names=[*names], defaults={each: 0 if each in _LOW else 4 for each in names})
    for name, names in _NAMES.items()
}

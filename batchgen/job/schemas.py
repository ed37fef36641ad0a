"""Steering attributes as data: schemas, validation, sweeps.

A schema names its attributes in order, with an integer range and a default each, and
the layout in which a model reads them. Two kinds of layout exist:

- `template`: a Jinja chat template for the whole conversation, which reads the values from
  the keys of each user message;
- `block`: a text that is added to user messages before the model's own template is applied.

The model's own template is preferred to the layout whenever it honours the values
(`render.choose_layout` finds out by rendering).

Sources: the model cards of KARAKURI LM 70B Chat v0.1, 8x7B Chat v0.1, 8x7B Instruct v0.1 and 7B APM v0.1 (order, range, defaults,
prompt forms); the NeMo-Aligner SteerLM prompt form.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from batchgen.render.messages import Content


@dataclass(frozen=True)
class Attribute:
    """One steerable property: integers `low..high`, both included."""

    name: str
    low: int
    high: int
    default: int

    def check(self, value: object) -> int:
        """Return `value` as an int; an integral float is that integer. Raises ValueError."""
        wanted = f"{self.name}: {value!r} is not an integer {self.low}..{self.high}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(wanted)
        if isinstance(value, float) and (not math.isfinite(value) or value != int(value)):
            raise ValueError(wanted)
        if not self.low <= value <= self.high:
            raise ValueError(wanted)
        return int(value)


@dataclass(frozen=True)
class Layout:
    """How the values stand in the prompt; exactly one of `template` and `block` is set.

    `block` has the field {pairs}: `pair` for each attribute, joined by `separator`. It is put
    after (`suffix`) or before (`prefix`) the text of all user messages or of the last one.
    """

    template: str | None = None
    block: str | None = None
    pair: str = "{name}: {value}"
    separator: str = " "
    where: Literal["suffix", "prefix"] = "suffix"
    turns: Literal["all", "last"] = "all"

    def apply(self, content: Content, values: Mapping[str, int]) -> Content:
        """A message's content with the block of `values` beside it."""
        assert self.block is not None
        pairs = self.separator.join(self.pair.format(name=k, value=v) for k, v in values.items())
        block = self.block.replace("{pairs}", pairs)
        if isinstance(content, str):
            return content + block if self.where == "suffix" else block + content
        part = {"type": "text", "text": block}
        return [*content, part] if self.where == "suffix" else [part, *content]


@dataclass(frozen=True)
class Labels:
    """What an attribute prediction model writes after an answer: ` name: value` for each of `names`, then ` ` and `end`."""

    names: tuple[str, ...]
    end: str


@dataclass(frozen=True)
class Schema:
    """A schema with `labels` is of a model that writes the values; its template reads which of the labels from its argument
    `label`. Any other is of a model that reads the values."""

    name: str
    attributes: tuple[Attribute, ...]
    layout: Layout | None = None
    labels: Mapping[str, Labels] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(a.name for a in self.attributes)

    @property
    def defaults(self) -> dict[str, int]:
        return {a.name: a.default for a in self.attributes}

    def check(self, values: Mapping[str, object]) -> dict[str, int]:
        """The values that are set, checked, in the schema's order; None is not set. Raises ValueError."""
        unknown = [name for name in values if name not in self.names]
        if unknown:
            raise ValueError(f"{unknown[0]}: no such attribute in schema {self.name} ({', '.join(self.names)})")
        return {a.name: a.check(values[a.name]) for a in self.attributes if values.get(a.name) is not None}


def sweep(points: Mapping[str, list[int]]) -> list[dict[str, int]]:
    """Every combination of the swept values, the last attribute varying fastest; [{}] without a sweep."""
    return [dict(zip(points, combination, strict=True)) for combination in itertools.product(*points.values())]


_FIRST_FIVE = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
_LAST_FOUR = ("quality", "toxicity", "humor", "creativity")
_DEFAULT_ZERO = ("toxicity", "humor", "creativity")


def _zero_to_four(names: tuple[str, ...]) -> tuple[Attribute, ...]:
    return tuple(Attribute(name, 0, 4, 0 if name in _DEFAULT_ZERO else 4) for name in names)


_TURNS = """\
{%- set head = namespace(system='') %}
{%- if messages and messages[0]['role'] == 'system' %}
{%- set head.system = messages[0]['content'] %}
{%- set messages = messages[1:] %}
{%- endif %}
{%- for message in messages %}
{%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') %}
{{- raise_exception('roles must alternate user/assistant after an optional system message') }}
{%- endif %}
"""

_KARAKURI = (
    _TURNS
    + """\
{%- if message['role'] == 'user' %}
{%- set text = message['content'] %}
{%- if loop.first and head.system %}
{%- set text = '<<SYS>>\\n' + head.system + '\\n<</SYS>>\\n\\n' + text %}
{%- endif %}
{{- bos_token + '[INST] ' + text | trim + ' [ATTR]' }}
{%- for name in attribute_names %}{{- ' ' ~ name ~ ': ' ~ message[name] }}{%- endfor %}
{{- ' [/ATTR] [/INST]' }}
{%- else %}
{{- ' ' + message['content'] | trim + ' ' + eos_token }}
{%- endif %}
{%- endfor %}"""
)

_STEERLM = (
    _TURNS
    + """\
{%- if message['role'] == 'user' %}
{%- if loop.first %}{{- '<extra_id_0>System\\n' + head.system + '\\n' }}{%- endif %}
{{- '<extra_id_1>User\\n' + message['content'] + '\\n<extra_id_1>Assistant\\n<extra_id_2>' }}
{%- for name in attribute_names %}{{- name ~ ':' ~ message[name] ~ ('' if loop.last else ',') }}{%- endfor %}
{{- '\\n' }}
{%- else %}
{{- message['content'] + '\\n' }}
{%- endif %}
{%- endfor %}"""
)

# One bos at the start, texts as they are, the answer close to its marks.
_KARAKURI_8X7B_CHAT = (
    _TURNS
    + """\
{%- if message['role'] == 'user' %}
{%- set text = message['content'] %}
{%- if loop.first %}
{{- bos_token }}
{%- if head.system %}{%- set text = '<<SYS>>\\n' + head.system + '\\n<</SYS>>\\n\\n' + text %}{%- endif %}
{%- endif %}
{{- '[INST] ' + text + ' [ATTR]' }}
{%- for name in attribute_names %}{{- ' ' ~ name ~ ': ' ~ message[name] }}{%- endfor %}
{{- ' [/ATTR] [/INST]' }}
{%- else %}
{{- message['content'] + eos_token }}
{%- endif %}
{%- endfor %}"""
)

# Command-R's layout; the block opens every answer, also the one that is asked for, with the values of the user turn before it.
_KARAKURI_8X7B_INSTRUCT = (
    """\
{%- macro block(values) %}
{{- '<attributes>' }}
{%- for name in attribute_names %}{{- ('' if loop.first else ' ') ~ name ~ ': ' ~ values[name] }}{%- endfor %}
{{- '</attributes>' }}
{%- endmacro %}
"""
    + _TURNS
    + """\
{%- if loop.first %}
{{- bos_token }}
{%- if head.system %}
{{- '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + head.system + '<|END_OF_TURN_TOKEN|>' }}
{%- endif %}
{%- endif %}
{%- if message['role'] == 'user' %}
{{- '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + message['content'] | trim + '<|END_OF_TURN_TOKEN|>' }}
{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' + block(message) }}
{%- else %}
{{- message['content'] | trim + '<|END_OF_TURN_TOKEN|>' }}
{%- endif %}
{%- endfor %}"""
)

# A labeler: user, assistant, label, and again; it is asked for the label.
_KARAKURI_APM = """\
{{- bos_token }}
{%- set mark = {'helpsteer': 'ATTR_1', 'oasst': 'ATTR_2'}[label] %}
{%- for message in messages %}
{%- if message['role'] != ('user', 'assistant', 'label')[loop.index0 % 3] %}
{{- raise_exception('roles must be user, assistant, label, and again') }}
{%- endif %}
{%- set text = message['content'] | trim %}
{%- if message['role'] == 'user' %}{{- '[INST] ' + text + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}{{- ' ' + text }}
{%- else %}{{- ' [' + mark + '] ' + text + ' [/' + mark + ']' + eos_token }}
{%- endif %}
{%- endfor %}
{{- ' [' + mark + ']' }}"""

BUILT_IN: dict[str, Schema] = {
    "karakuri": Schema("karakuri", _zero_to_four(_FIRST_FIVE + _LAST_FOUR), Layout(template=_KARAKURI)),
    "karakuri-8x7b-chat": Schema(
        "karakuri-8x7b-chat", _zero_to_four(_FIRST_FIVE + _LAST_FOUR), Layout(template=_KARAKURI_8X7B_CHAT)
    ),
    "karakuri-8x7b-instruct": Schema(
        "karakuri-8x7b-instruct", _zero_to_four(_FIRST_FIVE + _LAST_FOUR), Layout(template=_KARAKURI_8X7B_INSTRUCT)
    ),
    "karakuri-apm": Schema(
        "karakuri-apm",
        _zero_to_four(_FIRST_FIVE + _LAST_FOUR),
        Layout(template=_KARAKURI_APM),
        {"helpsteer": Labels(_FIRST_FIVE, "[/ATTR_1]"), "oasst": Labels(_LAST_FOUR, "[/ATTR_2]")},
    ),
    "steerlm": Schema("steerlm", _zero_to_four(_LAST_FOUR + _FIRST_FIVE), Layout(template=_STEERLM)),
}

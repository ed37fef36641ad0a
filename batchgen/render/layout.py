"""Conversation -> text: through the model's chat template, or the schema's layout where that does not honour the values.

The choice is made by rendering: a template that ignores an attribute shows it by making the same text of two values.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

from batchgen.errors import BadRow, ModelError
from batchgen.job.attributes import Attributes
from batchgen.job.job import Job
from batchgen.job.schemas import Schema
from batchgen.render.messages import check_inline, with_marks
from batchgen.render.model_files import ModelFiles
from batchgen.render.sandbox.template import ChatTemplate
from batchgen.render.steering import Values

LayoutKind = Literal["model template", "schema template", "schema block", "none"]


class PromptText:
    """`kind` is what makes the text. Raises ModelError where neither template nor layout honours an attribute."""

    def __init__(self, job: Job, model: ModelFiles, values: Values) -> None:
        self._model, self._values = model, values
        self._template = ChatTemplate(model.chat_template, model.label) if model.chat_template else None
        self._hosted = job.engine.kind == "openai"
        self._continues = job.input.continue_final_message is True
        self._arguments = dict(job.model.chat_template_kwargs) if job.model else {}
        self.kind: LayoutKind = self._choose(job.attributes)

    @property
    def has_template(self) -> bool:
        return self._template is not None

    def render(self, messages: list[dict[str, Any]]) -> str:
        """The text of a conversation whose messages carry their values. Raises BadRow (render)."""
        return self._cut(messages) if messages[-1]["role"] == "assistant" and self._continues else self._whole(messages)

    def check_images(self, pictures: list[str]) -> None:
        """Raises BadRow (input, render) for images that the model is not shown."""
        if self._hosted:
            return
        check_inline(pictures)
        if not self._takes_images:
            raise BadRow("render", f"the chat template of {self._model.label} takes no images")

    @functools.cached_property
    def _takes_images(self) -> bool:
        """Whether the template shows an image: one that takes texts only fails, or prints the list of parts."""
        values = self._values.schema.defaults if self._values.schema else {}
        parts = [{"type": "text", "text": "Hello"}, {"type": "image_url", "image_url": {"url": ""}}]
        try:
            bare, full = (self._whole([{"role": "user", "content": parts[:some], **values}]) for some in (1, 2))
        except BadRow:
            return False
        return bare != full and "'text'" not in full

    def _cut(self, messages: list[dict[str, Any]]) -> str:
        """The conversation up to the end of its last message's text, which the model continues; as Transformers'
        continue_final_message, white space that the template strips is lost."""
        text, last = self._whole(messages, answering=False), messages[-1]["content"]
        for beginning in (last, last.strip()):
            if beginning and (found := text.rfind(beginning)) >= 0:
                return text[: found + len(beginning)]
        raise BadRow("render", "the last message, which is to be continued, is not in what the chat template makes")

    def _whole(self, messages: list[dict[str, Any]], answering: bool = True) -> str:
        if self.kind == "schema block":
            messages = self._with_block(messages)
        if self._template is None:
            return "\n\n".join(message["content"] for message in messages)
        if not self._hosted:
            messages = with_marks(messages)
        variables: dict[str, Any] = dict(self._model.special)
        if self._values.names:
            # Some templates read the values from their arguments instead of the message.
            values = {name: messages[-1].get(name) for name in self._values.names}
            variables = {**values, "attribute_names": list(self._values.names), **variables}
        return self._template.render(messages, {**self._arguments, **variables}, answering)

    def _with_block(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        schema = self._values.schema
        assert schema is not None
        assert schema.layout is not None
        layout = schema.layout
        last = max(i for i, m in enumerate(messages) if m["role"] == "user")
        return [
            {**m, "content": layout.apply(m["content"], self._values.of(m))}
            if m["role"] == "user" and (layout.turns == "all" or i == last)
            else m
            for i, m in enumerate(messages)
        ]

    def _choose(self, attributes: Attributes | None) -> LayoutKind:
        """Render one row with each attribute changed in turn; take the first layout that honours them all."""
        if attributes is not None and attributes.predict is not None:
            self._arguments["label"] = attributes.predict
            return self._choose_labeler(attributes.schema)
        schema = self._values.schema
        if schema is None:
            return "none"
        ignored: list[str] = []
        if self._template is not None:
            self.kind = "model template"
            ignored = self._ignored(schema)
            if not ignored:
                return "model template"
        layout = schema.layout
        if layout is not None and (layout.template is None or not self._hosted):  # which has its own template
            if layout.template is not None:
                self._template = ChatTemplate(layout.template, self._model.label)
                self.kind = "schema template"
            else:
                self.kind = "schema block"
            ignored = self._ignored(schema)
            if not ignored:
                return self.kind
        raise ModelError(
            f"the chat template of {self._model.label} ignores {', '.join(ignored or schema.names)}: the prompt stays the "
            "same whatever the value",
            "use a template that reads them from the message or its arguments (model.chat_template), or give "
            "attributes.schema a layout",
        )

    def _choose_labeler(self, schema: Schema) -> LayoutKind:
        """The model's own template where it asks for the labels that its argument names; else the schema's."""
        talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]

        def probe(label: str) -> str | None:
            assert self._template is not None
            try:
                return self._template.render(talk, {**self._arguments, **self._model.special, "label": label})
            except BadRow:
                return None

        self.kind = "model template"
        if self._template is not None:
            asked = [probe(label) for label in schema.labels]
            if None not in asked and len(set(asked)) == len(asked):
                return "model template"
        assert schema.layout is not None
        assert schema.layout.template is not None
        self._template = ChatTemplate(schema.layout.template, self._model.label)
        return "schema template"

    def _ignored(self, schema: Schema) -> list[str]:

        def probe(values: dict[str, int]) -> str:
            try:
                return self._whole([{"role": "user", "content": "Hello", **values}])
            except BadRow as error:
                raise ModelError(f"{self._model.label}: {error}", "give another model.chat_template") from None

        base = probe(schema.defaults)
        others = {a.name: a.low if a.default != a.low else a.high for a in schema.attributes if a.low != a.high}
        return [name for name, value in others.items() if probe({**schema.defaults, name: value}) == base]

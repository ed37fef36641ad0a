"""Label jobs: what `attributes.predict` says of the other fields of a job.

A model that predicts attributes reads a conversation that ends with an answer and writes the values, greedily, in a form that a
regular expression holds it to. Form and end marks: the model card of KARAKURI LM 7B APM v0.1.
"""

from batchgen.job.fields import Fields
from batchgen.job.schemas import BUILT_IN, Schema

MAX_TOKENS = 64


def with_prediction(fields: Fields) -> Fields:
    """The fields of a job; those of a label job with what follows from `predict`, where they do not say it themselves."""
    attributes = fields.get("attributes")
    asked = attributes.get("predict") if isinstance(attributes, dict) else None
    schema = BUILT_IN.get(str(attributes.get("schema"))) if isinstance(attributes, dict) else None
    labels = schema.labels.get(str(asked)) if schema else None
    if schema is None or labels is None:
        return fields
    pairs = " ".join(f"{name}: {_value(schema, name)}" for name in labels.names)
    named = " ".join(f"{name}: (?P<{name}>{_value(schema, name)})" for name in labels.names)
    followed: dict[str, Fields] = {
        "input": {"continue_final_message": False, "answer_role": "label"},
        "sampling": {
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
            "stop": labels.end,
            "structured_outputs": {"regex": f" {pairs}"},
        },
    }
    made = {"parse": {"regex": named, "columns": dict.fromkeys(labels.names, "integer")}, **fields}
    for name, inner in followed.items():
        own = fields.get(name)
        if own is None or isinstance(own, dict):
            made[name] = inner | (own or {})
    return made


def _value(schema: Schema, name: str) -> str:
    low, high = schema.limits(name)
    return f"[{low}-{high}]"

"""The field `pooling` of a job, and what a task that reads numbers from a model cannot have."""

from pydantic import Field

from batchgen.job.fields import Spec

POOLED = ("embed", "classify", "score", "rerank", "reward")
"""The tasks that read numbers from a model; all others generate."""
PAIRS = ("score", "rerank")
"""Those that read pairs of texts."""
_TALKS = ("messages", "conversations")
_REMEDIES = {
    "sampling": "leave it out",
    "parse_": "leave it out; the numbers have columns of their own",
    "accept": "leave it out",
    "dedupe": "leave it out; input.query can leave out equal rows",
    "attributes": "leave it out, or write the attributes into the text with input.template",
    "model.adapters": "leave them out, or merge the adapter into the model",
    "model.reasoning_parser": "leave it out",
    "model.tool_call_parser": "leave it out",
    "output.token_logprobs": "leave it out",
    "limits.tokens": "it counts generated tokens; set limits.hours",
    "errors.truncated": "leave it out; pooling.max_tokens cuts long texts",
    "errors.parse": "leave it out",
    "errors.rejected": "leave it out",
    "input.turns": "name input.prompt or input.messages",
    "input.history": "name input.messages",
    "input.images": "leave it out",
    "input.continue_final_message": "leave it out; a conversation is read as it is",
}


class Pooling(Spec):
    dimensions: int | None = Field(
        None, ge=1, description="Numbers of an embedding, for a Matryoshka model (task embed). Default: the model's."
    )
    normalize: bool | None = Field(
        None,
        description="embed: scale embeddings to length 1. classify, score, rerank, reward: apply the model's activation (softmax, sigmoid) to its numbers. null: true, but false for reward.",
    )
    max_tokens: int | None = Field(
        None, ge=1, description="Cut longer texts to this many tokens, special ones included. null: they are `too_long` rows."
    )

    def is_normalized(self, task: str) -> bool:
        return task != "reward" if self.normalize is None else self.normalize


def task_mistake(job: Spec) -> str | None:
    """What of a Job does not fit its task, with the remedy; None for a sound one."""
    task, pooling, documents = (_at(job, name)[0] for name in ("task", "pooling", "input.documents"))
    talk = next((name for name in _TALKS if _at(job, f"input.{name}")[1]), None)
    if task not in POOLED:
        if documents is not None:
            return f"input.documents: task {task} reads no pairs; leave it out, or set task: rerank"
        return "pooling: task generate reads no numbers; leave it out" if task == "generate" and pooling != Pooling() else None
    for name, remedy in _REMEDIES.items():
        if _at(job, name)[1]:
            return f"{name.rstrip('_')}: task {task} generates no text; {remedy}"
    retried = [code for code, policy in _at(job, "errors")[0].items() if getattr(policy, "sampling", None)]  # type: ignore[attr-defined]
    if retried:
        return f"errors.{retried[0]}.sampling: task {task} generates no text; leave it out"
    if talk is None and _at(job, "input.system")[1]:
        return f"input.system: task {task} reads a text as it is; write it with input.template, or name input.messages"
    if task != "embed" and _at(job, "pooling.dimensions")[1]:
        return f"pooling.dimensions: task {task} makes no embeddings; leave it out"
    if task in PAIRS and documents is None:
        return f"input.documents: task {task} compares two columns; name the one with the documents"
    if task not in PAIRS and documents is not None:
        return f"input.documents: task {task} reads one text; leave it out, or set task: rerank"
    if task in PAIRS and talk is not None:
        return f"input.{talk}: task {task} compares texts; name the query with input.prompt"
    return None


def _at(job: Spec, name: str) -> tuple[object, bool]:
    """The value under a dotted name, and whether it is another than the default."""
    holder: object = job
    *parents, last = name.split(".")
    for parent in parents:
        holder = getattr(holder, parent)
    if isinstance(holder, dict):
        return holder.get(last), last in holder
    if not isinstance(holder, Spec):
        return None, False
    value = getattr(holder, last)
    return value, value != type(holder).model_fields[last].get_default()

"""OASST2's message trees as conversations, one for every prompt in them, ready for jobs/oasst2.yaml.

    python jobs/oasst2/oasst2.py [--messages FILE] [--lang en,ja] [--to FILE]

Reads rows with message_id, parent_id, text, role (prompter | assistant), lang and labels ({name, value, count}, lists side by
side), JSONL or Parquet. A conversation is the path from a root to a prompt. Each prompt that was answered on the path has the
labels of that answer as its attributes (quality, toxicity, humor, creativity: round(4 x value)), as SteerLM trains them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

HERE = Path(__file__).parent
ATTRIBUTES = ("quality", "toxicity", "humor", "creativity")
ROLES = {"prompter": "user", "assistant": "assistant"}


def attributes(message: dict[str, Any]) -> dict[str, int]:
    """The labels of a message as integers 0..4."""
    labels = message.get("labels") or {}
    values = dict(zip(labels.get("name") or (), labels.get("value") or (), strict=True))
    return {name: round(4 * values[name]) for name in ATTRIBUTES if values.get(name) is not None}


def conversations(messages: Iterable[dict[str, Any]], languages: set[str]) -> Iterator[dict[str, Any]]:
    """A row (id, lang, messages) for every prompt in these languages (all, when there are none), in the order of the messages."""
    by_id = {message["message_id"]: message for message in messages}
    for message in by_id.values():
        if message["role"] != "prompter" or (languages and message["lang"] not in languages):
            continue
        path = [message]
        while path[0]["parent_id"] is not None:
            path.insert(0, by_id[path[0]["parent_id"]])
        said = [{"role": ROLES[one["role"]], "content": one["text"]} for one in path]
        for number, answer in enumerate(path):
            if answer["role"] == "assistant":
                said[number - 1] |= attributes(answer)
        yield {"id": message["message_id"], "lang": message["lang"], "messages": said}


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return found
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=Path, default=HERE / "messages.jsonl", help="OASST2's messages")
    parser.add_argument("--lang", default="", help="only prompts in these languages, separated by commas")
    parser.add_argument("--to", type=Path, default=Path("outputs/oasst2/conversations.jsonl"), help="where the rows go")
    options = parser.parse_args()
    rows = list(conversations(read(options.messages), {name for name in options.lang.split(",") if name}))
    options.to.parent.mkdir(parents=True, exist_ok=True)
    options.to.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} conversations: {options.to}")


if __name__ == "__main__":
    main()

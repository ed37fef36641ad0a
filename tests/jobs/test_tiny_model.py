"""The tiny steered model that comes along: what it is made of, and that its script makes it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "jobs/models/tiny-karakuri"
VALUES = (
    "[ATTR] helpfulness: 4 correctness: 4 coherence: 4 complexity: 4 verbosity: 4 quality: 4 toxicity: 0 humor: 0 "
    "creativity: 0 [/ATTR]"
)
CARD = (
    f"<s>[INST] <<SYS>>\nSystem prompt\n<</SYS>>\n\nUser prompt {VALUES} [/INST] Model response </s>"
    f"<s>[INST] User prompt {VALUES} [/INST]"
)


def test_it_is_small_and_holds_nothing_but_safetensors_and_text() -> None:
    files = list(MODEL.iterdir())
    assert sum(file.stat().st_size for file in files) < 5_000_000
    assert {file.suffix for file in files} <= {".json", ".jinja", ".safetensors"}


def test_its_script_makes_its_tokenizer_template_and_configuration(tmp_path: Path) -> None:
    script = ROOT / "jobs/models/make_tiny_karakuri.py"
    subprocess.run([sys.executable, script, "--steps", "1", "--out", tmp_path / "made"], check=True, capture_output=True)
    for name in ("tokenizer.json", "chat_template.jinja", "config.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "made" / name).read_bytes() == (MODEL / name).read_bytes(), name
    assert (tmp_path / "made/model.safetensors").stat().st_size == (MODEL / "model.safetensors").stat().st_size


def test_check_shows_the_model_cards_conversation_byte_for_byte(tmp_path: Path) -> None:
    talk = [("system", "System prompt"), ("user", "User prompt"), ("assistant", "Model response"), ("user", "User prompt")]
    row = {"talk": [{"role": role, "content": content} for role, content in talk]}
    (tmp_path / "in.jsonl").write_text(json.dumps(row))
    job = {
        "input": {"path": "in.jsonl", "messages": "talk"},
        "attributes": {"schema": "karakuri"},
        "model": {"source": str(MODEL)},
        "output": {"path": "out"},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    command = [sys.executable, "-m", "batchgen", "check", "job.yaml", "--prompts", "1"]
    shown = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout
    assert CARD.encode() in shown
    [prompt] = json.loads(subprocess.run([*command, "--json"], cwd=tmp_path, check=True, capture_output=True).stdout)
    assert prompt["text"] == CARD
    assert (prompt["token_ids"].count(1), prompt["token_ids"].count(2)) == (2, 1), "the template's own <s> and </s>"

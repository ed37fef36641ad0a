"""Writes an output of every kind with the installed batchgen: python tests/formats/make.py FORMAT

FORMAT is the number of the format that this release writes. tests/formats/FORMAT.tar.xz then holds, for each kind, a folder with
the job file, the input and the output `out`. The release that introduces a format makes the archive, once, and it never changes:
test_formats.py reads, verifies, resumes, retries and exports its outputs with every later release.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

HERE = Path(__file__).parent
QUESTIONS = [f"Question {number} about tea, and why?" for number in range(12)]


def run(folder: Path, *arguments: str, exit_codes: tuple[int, ...] = (0,)) -> None:
    done = subprocess.run([sys.executable, "-m", "batchgen", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode not in exit_codes:
        raise SystemExit(f"{folder.name}: {arguments}: exit code {done.returncode}\n{done.stderr}")


def write(folder: Path, rows: list[dict[str, Any]] | list[str], job: dict[str, Any]) -> None:
    """The input and the job file of a kind; rows that are texts are lines as they are."""
    folder.mkdir(parents=True)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "in.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    whole = {
        "name": folder.name,
        "input": {"path": "in.jsonl", "prompt": "prompt"},
        "engine": {"kind": "echo"},
        "sampling": {"temperature": 0.7, "max_tokens": 24},
        "limits": {"errors": 1},
        "spans": {"rows": 5},
        "replicas": {"max": 1},
        "output": {"path": "out"},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(whole | job, sort_keys=False), encoding="utf-8")


def plain(folder: Path) -> None:
    rows = [{"id": f"q{n}", "prompt": text, "score": n / 2, "tags": ["a", "b"], "lang": "en"} for n, text in enumerate(QUESTIONS)]
    lines = [*map(json.dumps, rows), "no json", '{"id": "late", "prompt": "An odd one", "score": "high", "new": {"a": 1}}']
    write(folder, lines, {"input": {"path": "in.jsonl", "id": "id", "prompt": "prompt"}})
    run(folder, "run", "job.yaml")


def parquet(folder: Path) -> None:
    write(folder, [], {"input": {"path": "in.parquet", "prompt": "text", "keep": ["text", "when", "nested"]}})
    (folder / "in.jsonl").unlink()
    columns = {
        "text": pa.array(QUESTIONS),
        "when": pa.array([number * 86_400_000_000 for number in range(12)], pa.timestamp("us", "UTC")),
        "nested": pa.array([{"a": number, "b": [str(number)]} for number in range(12)]),
        "left": pa.array(range(12)),
    }
    pq.write_table(pa.table(columns), folder / "in.parquet")
    run(folder, "run", "job.yaml")


def sweep(folder: Path) -> None:
    rows = [{"prompt": text, "humor": n % 5, "sampling": {"top_p": 0.9, "stop": ["tea"]}} for n, text in enumerate(QUESTIONS[:6])]
    attributes = {"schema": "karakuri", "values": {"quality": 3}, "sweep": {"verbosity": [0, 2, 4]}}
    write(folder, rows, {"attributes": attributes, "sampling": {"n": 2, "max_tokens": 24}, "spans": {"rows": 2}})
    run(folder, "run", "job.yaml")


def turns(folder: Path) -> None:
    rows = [{"id": n, "turns": [text, "And then?", "Are you sure?"]} for n, text in enumerate(QUESTIONS[:6])]
    write(
        folder, rows, {"input": {"path": "in.jsonl", "turns": "turns", "id": "id", "system": "Be brief."}, "spans": {"rows": 4}}
    )
    run(folder, "run", "job.yaml")


def retry(folder: Path) -> None:
    rows = [{"prompt": text + (" forbidden" if n % 3 == 0 else "")} for n, text in enumerate(QUESTIONS)]
    engine = {"kind": "echo", "options": {"reject_on": "forbidden"}}
    write(folder, [*rows, {"prompt": "long " * 100 + "forbidden"}, "no json"], {"engine": engine, "sampling": {"n": 2}})
    run(folder, "run", "job.yaml")
    run(folder, "retry", "out", "--set", 'engine.options={"reject_on": "long"}')


def labels(folder: Path) -> None:
    answer = "helpfulness: 3 correctness: 4 coherence: 4 complexity: 1 verbosity: 2"
    conversations = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Because of the leaves."}]}
        for text in QUESTIONS[:6]
    ]
    job = {
        "input": {"path": "in.jsonl", "messages": "messages"},
        "attributes": {"schema": "karakuri-apm", "predict": "helpsteer"},
        "sampling": {"structured_outputs": {"choice": [answer, answer.replace("3", "0"), "no labels"]}},
    }
    write(folder, conversations, job)
    run(folder, "run", "job.yaml")


def logprobs(folder: Path) -> None:
    sampling = {"logprobs": 2, "best_of": 3, "n": 2, "max_tokens": 12}
    write(
        folder,
        [{"prompt": text} for text in QUESTIONS[:6]],
        {"sampling": sampling, "output": {"path": "out", "token_logprobs": True}},
    )
    run(folder, "run", "job.yaml")


def parsed(folder: Path) -> None:
    choices = ['{"good": true, "sure": 3, "why": ["a"]}', '{"good": null, "sure": 1, "why": {}}', "not json"]
    job = {
        "sampling": {"structured_outputs": {"choice": choices}},
        "parse": {"columns": {"good": "boolean", "sure": "integer", "why": "json"}},
        "errors": {"parse": {"retry": 1}},
    }
    write(folder, [{"prompt": text} for text in QUESTIONS], job)
    run(folder, "run", "job.yaml")


def grown(folder: Path) -> None:
    write(folder, [{"prompt": text} for text in QUESTIONS[:7]], {})
    run(folder, "run", "job.yaml")
    with open(folder / "in.jsonl", "a") as file:
        file.writelines(json.dumps({"prompt": text}) + "\n" for text in QUESTIONS[7:])
    run(folder, "run", "job.yaml")


def chained(folder: Path) -> None:
    write(folder, [], {"input": {"path": "../plain/out", "messages": "messages", "keep": ["score", "completion_tokens"]}})
    (folder / "in.jsonl").unlink()
    job = yaml.safe_load((folder / "job.yaml").read_text())
    job["input"] = {"path": "../plain/out", "template": "Is this good? {{ response }}", "keep": ["score", "completion_tokens"]}
    (folder / "job.yaml").write_text(yaml.safe_dump(job, sort_keys=False))
    run(folder, "run", "job.yaml")


def interrupted(folder: Path) -> None:
    """Killed when there are parts, and journal files of spans that have none."""
    lines = [{"prompt": f"{text} {number}"} for number in range(8) for text in QUESTIONS]
    engine = {"kind": "echo", "options": {"seconds_per_token": 0.1, "max_num_seqs": 8, "length": {"distribution": "uniform"}}}
    job = {"engine": engine, "sampling": {"max_tokens": 48}, "spans": {"rows": 8, "journal_seconds": 0.2}}
    write(folder, lines, job)
    driver = subprocess.Popen([sys.executable, "-m", "batchgen", "run", "job.yaml"], cwd=folder, stderr=subprocess.DEVNULL)
    parts, journal = folder / "out/data", folder / "out/_batchgen/journal"
    while len(list(parts.glob("*"))) < 3 or len(list(journal.glob("*/*.parquet"))) < 2:
        if driver.poll() is not None:
            raise SystemExit("interrupted: the job ended before it was killed")
        time.sleep(0.02)
    family = [driver.pid, *_below(driver.pid)]
    for pid in family:
        os.kill(pid, signal.SIGKILL)
    driver.wait()
    shutil.rmtree(folder / "out/_batchgen/tmp", ignore_errors=True)


def _below(pid: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    family = {pid}
    for _ in range(8):
        family |= {child for child, parent in parents.items() if parent in family}
    return sorted(family - {pid})


def main(form: str) -> None:
    archive = HERE / f"{form}.tar.xz"
    if archive.exists():
        raise SystemExit(f"{archive} is there: a released format never changes")
    with tempfile.TemporaryDirectory() as name:
        target = Path(name)
        for kind in (plain, parquet, sweep, turns, retry, labels, logprobs, parsed, grown, chained, interrupted):
            kind(target / kind.__name__)
        for path in target.glob("*/out/_batchgen/*.json"):  # the name of the machine is nobody's business
            if "driver" in (fields := json.loads(path.read_text())):
                fields["driver"]["host"] = "host.example"
                path.write_text(json.dumps(fields))
        with tarfile.open(archive, "w:xz") as file:
            file.add(target, ".", filter=_anonymous)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main(sys.argv[1])

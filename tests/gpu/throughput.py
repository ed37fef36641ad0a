"""The bench of tests/bench on a machine with GPUs, one command:

    python tests/gpu/throughput.py [--layers 8] [--rows 4096] [--length 256] [--repeats 3] [--workload A,B]

KARAKURI LM 70B's architecture with fewer layers and dummy weights (8 layers: 15 GB in bf16), at each tensor parallel size that
the machine's GPUs allow. Needs `pip install ".[vllm,test]"` and, for all contenders, Daft.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[1] / "bench" / "throughput.py"


def gpus() -> int:
    """GPUs of this machine, asked of the driver's own tool."""
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return 0
    return listed.stdout.count("GPU ") if listed.returncode == 0 else 0


def main() -> None:
    sizes = [size for size in (1, 2, 4, 8) if size <= gpus()]
    if not sizes:
        sys.exit("no GPU here")
    defaults = ["--model", "karakuri", "--length", "256", "--workload", "A,B"]
    for size in sizes:
        print(f"## tensor parallel {size}", flush=True)
        subprocess.run([sys.executable, str(BENCH), *defaults, *sys.argv[1:], "--gpus", str(size)], check=True)


if __name__ == "__main__":
    main()

"""The engine on a CUDA device beside transformers' own loop and its continuous batching.

All in one process, over one model of random weights; `contest/device.py` also runs without this, in any Python that
has torch and transformers: `python bench/contest/device.py`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))

from contest.workshop import transformers_python


def main() -> int:
    script = Path(__file__).parent / "contest" / "device.py"
    return subprocess.call([transformers_python(), script, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())

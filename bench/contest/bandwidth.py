"""For each line of its input prints the gigabytes that all cores together read from memory in a second, now.

Each core's thread sums its own part of one gigabyte, far more than the caches hold; the best of a few passes counts,
because whatever else the machine does can only make a pass slower. Run in an environment with torch.
"""

from __future__ import annotations

import sys
from time import perf_counter

import torch

SIZE = 1 << 30
PASSES = 4


def main() -> None:
    numbers = torch.ones(SIZE // 8, dtype=torch.int64)
    numbers.sum()
    for _ in sys.stdin:
        print(f"{max(once(numbers) for _ in range(PASSES)):.1f}", flush=True)


def once(numbers: torch.Tensor) -> float:
    began = perf_counter()
    numbers.sum()
    return SIZE / (perf_counter() - began) / 1e9


if __name__ == "__main__":
    main()

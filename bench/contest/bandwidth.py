"""Prints the gigabytes that all cores together read from memory in a second. Run in an environment with torch.

Each core's thread sums its own part of one gigabyte, far more than the caches hold; the best of many passes counts,
because whatever else the machine does can only make a pass slower.
"""

from __future__ import annotations

import torch

SIZE = 1 << 30
PASSES = 20


def main() -> None:
    from time import perf_counter

    numbers = torch.ones(SIZE // 8, dtype=torch.int64)
    best = 0.0
    for _ in range(PASSES):
        began = perf_counter()
        numbers.sum()
        best = max(best, SIZE / (perf_counter() - began) / 1e9)
    print(f"{best:.1f}")


if __name__ == "__main__":
    main()

"""uv's lines as progress."""

from __future__ import annotations

from bainmarie.environments.sync_progress import SyncProgress
from bainmarie.progress import Progress


def lines_to_progress(packages: int, *lines: str) -> list[Progress]:
    seen: list[Progress] = []
    progress = SyncProgress(packages, seen.append)
    for line in lines:
        progress.line(line)
    return seen


def test_sizes_names_and_counts() -> None:
    seen = lines_to_progress(
        14,
        "Using Python 3.11.7 environment at: v2",
        "Resolved 14 packages in 201ms",
        "Downloading numpy (16.0MiB)",
        "Downloading pydantic-core (4.0MiB)",
        " Downloaded pydantic-core",
        " Downloaded numpy",
        "Prepared 14 packages in 470ms",
        "Installed 14 packages in 63ms",
        " + numpy==2.4.6",
    )
    total = 20 << 20
    assert seen[0] == Progress("download", None, "14 packages")
    assert seen[2] == Progress("download", 0.0, "numpy 16.0 MiB, pydantic-core 4.0 MiB", 0, total, "bytes")
    assert seen[3] == Progress("download", 0.2, "numpy 16.0 MiB", 4 << 20, total, "bytes")
    assert [(p.stage, p.fraction, p.detail) for p in seen[5:]] == [
        ("download", 1.0, "14 packages fetched"),
        ("install", None, "14 packages"),
        ("install", 1.0, "14 packages"),
    ]


def test_everything_was_in_the_cache() -> None:
    seen = lines_to_progress(3, "Resolved 3 packages in 1ms", "Installed 3 packages in 2ms")
    assert Progress("download", 1.0, "everything was in the cache") in seen
    assert seen[-1] == Progress("install", 1.0, "3 packages", 3, 3, "packages")


def test_frames_of_a_terminal_are_live_bytes() -> None:
    """Frames as uv 0.13 draws them, shortened."""

    def frame(count: int, *bars: str) -> str:
        dashes = "\x1b[32m------\x1b[30m\x1b[2m------------------------\x1b[0m\x1b[0m"
        drawn = "      ".join(
            f"\x1b[2m{name:20}\x1b[0m {dashes} {sizes}" for name, sizes in (b.split("|") for b in bars)
        )
        return f"\x1b[2K\x1b[1A\x1b[37m*\x1b[0m \x1b[2mPreparing packages...\x1b[0m ({count}/3)     {drawn}     "

    seen = lines_to_progress(
        3,
        frame(0),
        frame(0, "torch|0 B/100.00 MiB"),
        frame(0, "torch|1.00 MiB/100.00 MiB", "six|1.00 KiB/12.00 KiB"),
        frame(0, "torch|1.01 MiB/100.00 MiB", "six|1.00 KiB/12.00 KiB"),
        frame(1, "torch|50.00 MiB/100.00 MiB"),
        "\x1b[2KPrepared 2 packages in 3s",
    )
    total = (100 << 20) + (12 << 10)
    assert [(p.current, p.total, p.detail) for p in seen[1:]] == [
        (0, 100 << 20, "torch 100.00 MiB"),
        ((1 << 20) + 1024, total, "torch 100.00 MiB, six 12.00 KiB"),
        ((50 << 20) + (12 << 10), total, "torch 100.00 MiB"),  # six is there: its bar has gone
        (total, total, "2 packages fetched"),
        (0, 0, "3 packages"),
    ]

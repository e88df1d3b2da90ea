"""uv's words, shortened and classified."""

from __future__ import annotations

import pytest

from bainmarie.environments.failures import cause_lines, pytorch_index_unreachable, uv_failed

UNREACHABLE = """error: Request failed after 3 retries in 5.2s
  cause: Failed to fetch: `https://download.pytorch.org/whl/cpu/torch/`
  cause: error sending request for url (https://download.pytorch.org/whl/cpu/torch/)
  cause: client error (Connect)
  cause: dns error"""


@pytest.mark.parametrize(
    ("stderr", "code"),
    [
        (
            "error: No solution found\n  cause: Because nope was not found in the package registry and ...",
            "package_not_found",
        ),
        ("error: No solution found\n  cause: Because there is no version of six==99 and ...", "no_version_fits"),
        ("error: No solution found\n  cause: Because only six<=1.17.0 is available and ...", "no_version_fits"),
        ("error: No solution found\n  cause: Because a depends on b and c, ... unsatisfiable.", "packages_conflict"),
        (UNREACHABLE, "no_network"),
        (
            "error: No solution\n  cause: Because six was not found in the cache\nhint: network was disabled",
            "no_network",
        ),
        ("error: Failed to install: x.whl\n  cause: No space left on device (os error 28)", "disk_full"),
        ("error: failed to create directory\n  cause: Read-only file system (os error 30)", "home_not_writable"),
        ("error: Hash mismatch for `six==1.17.0`", "hash_mismatch"),
        ("error: something else", "environment_failed"),
    ],
)
def test_classes(stderr: str, code: str) -> None:
    error = uv_failed("resolve", "mine", stderr)
    assert error.code == code
    assert "'mine'" in error.message
    assert bool(error.hint) == (code != "environment_failed")


@pytest.mark.parametrize(
    "cause",
    [
        "Because nope was not found in the package registry and ...",
        "Because there is no version of six==99 and ...",
        "Because a depends on b and c, ... unsatisfiable.",
    ],
)
def test_versions_that_nobody_has_written_are_not_to_be_corrected(cause: str) -> None:
    stderr = f"error: No solution found\n  cause: {cause}"
    assert "`environments: mine: packages:`" in uv_failed("resolve", "mine", stderr).hint
    hint = uv_failed("resolve", "auto", stderr).hint
    assert "name an environment" in hint
    assert "correct" not in hint


def test_unreachable_pytorch_index_is_recognized() -> None:
    assert pytorch_index_unreachable(UNREACHABLE)
    assert not pytorch_index_unreachable(UNREACHABLE.replace("download.pytorch.org", "mirror.example"))
    assert not pytorch_index_unreachable("error: torch 2.13.0 at download.pytorch.org has no wheel for this platform")


def test_cause_is_shown_without_progress_warnings_and_passwords() -> None:
    stderr = (
        "warning: old pip.conf\nResolved 3 packages\n\x1b[31merror\x1b[0m: Failed to fetch\n"
        "warning: again\n  cause: https://me:secret@x.example/simple"
    )
    assert cause_lines(stderr) == "Failed to fetch\n  cause: https://x.example/simple"


def test_an_address_is_said_once() -> None:
    address = "https://download.pytorch.org/whl/cpu/torch/"
    assert uv_failed("resolve", "mine", UNREACHABLE).message.count(address) == 1
    nowhere_else = f"error: Connect\n  cause: error sending request for url ({address})"
    assert address in uv_failed("resolve", "mine", nowhere_else).message


def test_long_causes_are_cut_in_the_middle() -> None:
    stderr = "error: begin\n" + "".join(f"  line {n}\n" for n in range(500)) + "  the end"
    text = cause_lines(stderr)
    assert text.startswith("begin")
    assert text.endswith("the end")
    assert len(text.splitlines()) <= 14
    assert len(cause_lines("error: " + "x" * 50_000)) < 2_000
    assert cause_lines("") == "uv gave no reason"

"""Findings of a preflight, told so that a person can act."""

from __future__ import annotations

import pytest

from bainmarie.environments.diagnosis import ImportsMissing, Problem, raise_problems
from bainmarie.errors import EnvironmentFailed

VERSIONS = {"peft": "0.21.2", "transformers": "4.37.2", "accelerate": "0.20.0", "torch": "2.13.0"}


def failed(*problems: Problem, name: str = "old") -> EnvironmentFailed:
    with pytest.raises(EnvironmentFailed) as failure:
        raise_problems(problems, name, VERSIONS)
    return failure.value


def test_nothing_found_is_nothing_raised() -> None:
    raise_problems([], "old", VERSIONS)


@pytest.mark.parametrize(
    ("package", "message", "code", "hint"),
    [
        (
            "transformers",
            "ImportError: Using `x` requires accelerate>=1.1.0",
            "version_too_old",
            "accelerate is 0.20.0: write `accelerate>=1.1.0` in `environments: old: packages:`",
        ),
        (
            "transformers",
            "ImportError: tokenizers>=0.22.0,<=0.23.0 is required for a normal functioning of this module",
            "version_too_old",
            "write `tokenizers>=0.22.0`",
        ),
        (
            "peft",
            "ImportError: cannot import name 'EncoderDecoderCache' from 'transformers' (/x/__init__.py)",
            "version_too_old",
            "transformers 4.37.2 and peft 0.21.2 do not fit",
        ),
        (
            "torch",
            "OSError: libcudart.so.13: cannot open shared object file: No such file or directory",
            "wrong_torch_build",
            "`environments: old: torch_backend:`",
        ),
        ("bitsandbytes", "RuntimeError: CUDA Setup failed", "wrong_torch_build", "torch_backend"),
        ("peft", "OSError: libabsent.so: cannot open shared object file", "import_broken", "version of peft"),
    ],
)
def test_a_broken_import_is_classified(package: str, message: str, code: str, hint: str) -> None:
    error = failed(Problem("broken", package, message))
    assert error.code == code
    assert hint in error.hint
    assert message in error.message


def test_missing_modules_are_named_with_their_packages() -> None:
    error = failed(
        Problem("missing", "open_clip", "importing transformers needs open_clip, which is not there"),
        Problem("missing", "nobody", "importing transformers needs nobody, which is not there"),
    )
    assert isinstance(error, ImportsMissing)
    assert (error.code, error.modules) == ("package_missing", ("open_clip", "nobody"))
    assert error.hint == "Add open_clip_torch, nobody to `environments: old: packages:`."


def test_what_is_broken_beside_what_is_missing_comes_first() -> None:
    error = failed(Problem("missing", "a", "no a"), Problem("broken", "torch", "OSError: libcudart.so.13"))
    assert not isinstance(error, ImportsMissing)
    assert error.code == "wrong_torch_build"


def test_an_inferred_environment_has_no_packages_key() -> None:
    assert "an environment that you name" in failed(Problem("broken", "peft", "OSError"), name="auto").hint


def test_another_interpreter() -> None:
    assert failed(Problem("identity", "", "belongs to /x")).code == "wrong_interpreter"

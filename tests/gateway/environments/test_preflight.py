"""The preflight in real environments: what it reads, what it adds, what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bainmarie.environments import preflight
from bainmarie.environments.environment import read_marker
from bainmarie.environments.lock_file import write_lock_file
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.store import EnvironmentStore
from bainmarie.errors import EnvironmentFailed
from bainmarie.progress import Progress

EINOPS = "einops"


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("configuration_auto.py", 'CONFIG_MAPPING_NAMES = OrderedDict(\n    [\n        ("llama", "A"),\n    ]\n)\n'),
        (
            "auto_mappings.py",
            'CONFIG_MAPPING_NAMES = OrderedDict[str, str](\n    [\n        (\n"llama", "A"),\n    ]\n)\n',
        ),
    ],
)
def test_architectures_are_read_without_an_import(tmp_path: Path, file: str, text: str) -> None:
    folder = tmp_path / "transformers" / "models" / "auto"
    folder.mkdir(parents=True)
    (tmp_path / "transformers" / "__init__.py").write_text("raise SystemExit('imported')\n")
    (folder / file).write_text(text + 'OTHER = OrderedDict(\n    [\n        ("bert", "B"),\n    ]\n)\n')
    question = json.dumps({"prefix": "", "imports": [], "needs": []})
    program = (
        f"import sys, runpy; sys.path.insert(0, {str(tmp_path)!r});"
        f"runpy.run_path({preflight.__file__!r}, run_name='__main__')"
    )
    told = subprocess.run([sys.executable, "-c", program, question], capture_output=True, text=True, check=True)
    assert json.loads(told.stdout)["architectures"] == ["llama"]


def inferred(wheels: Path) -> EnvironmentSpec:
    return EnvironmentSpec(name="auto", packages=("peft",), find_links=(str(wheels),))


async def test_a_missing_import_that_the_table_knows_is_added_once_and_visibly(
    tmp_path: Path, seen: list[Progress], make_wheel: Callable[..., Path]
) -> None:
    make_wheel("peft", "1.0", source="import einops\n")
    spec = inferred(make_wheel(EINOPS, "1.0"))
    store = EnvironmentStore(tmp_path)
    environment = await store.ensure(spec, seen.append)
    assert environment.versions[EINOPS] == "1.0"
    told = [progress.detail for progress in seen if "in a new environment" in progress.detail]
    assert len(told) == 1
    assert "importing peft needs einops, which is not there" in told[0]
    assert "adding einops" in told[0]
    assert [(reason.requirement, reason.source) for reason in environment.reasons] == [(EINOPS, "preflight")]
    seen.clear()
    again = await EnvironmentStore(tmp_path).ensure(spec, seen.append)
    assert (again.digest, seen) == (environment.digest, [])
    assert store.find(spec) == environment
    assert [path.name for path in (tmp_path / "environments").glob("*") if path.name != "locks"] == [environment.digest]


async def test_nothing_is_added_to_an_environment_that_the_user_names(
    tmp_path: Path, seen: list[Progress], make_wheel: Callable[..., Path]
) -> None:
    make_wheel("peft", "1.0", source="import einops\n")
    spec = replace(inferred(make_wheel(EINOPS, "1.0")), name="mine")
    with pytest.raises(EnvironmentFailed, match="needs einops") as failure:
        await EnvironmentStore(tmp_path).ensure(spec, seen.append)
    assert (failure.value.code, failure.value.hint) == (
        "package_missing",
        "Add einops to `environments: mine: packages:`.",
    )


async def test_what_is_still_missing_after_one_addition_fails(
    tmp_path: Path, seen: list[Progress], make_wheel: Callable[..., Path]
) -> None:
    make_wheel("peft", "1.0", source="import einops\n")
    spec = inferred(make_wheel(EINOPS, "1.0", source="import scipy\n"))
    store = EnvironmentStore(tmp_path)
    with pytest.raises(EnvironmentFailed, match="needs scipy"):
        await store.ensure(spec, seen.append)
    assert store.list() == []


async def test_a_module_that_no_row_knows_is_not_guessed(
    tmp_path: Path, seen: list[Progress], make_wheel: Callable[..., Path]
) -> None:
    spec = inferred(make_wheel("peft", "1.0", source="import nobody_knows\n"))
    with pytest.raises(EnvironmentFailed, match="needs nobody_knows"):
        await EnvironmentStore(tmp_path).ensure(spec, seen.append)


async def test_what_a_lock_brings_is_imported_too(
    tmp_path: Path, seen: list[Progress], make_wheel: Callable[..., Path]
) -> None:
    """A spec that is a lock names no packages of its own."""
    wheels = make_wheel("peft", "1.0", source="raise OSError('libabsent.so')\n")
    wish = replace(inferred(wheels), name="mine")
    lock = await EnvironmentStore(tmp_path).lock(wish, seen.append)
    file = tmp_path / "peft.lock"
    file.write_text(write_lock_file(lock.exported))
    spec = EnvironmentSpec(name="kept", lock=str(file), find_links=(str(wheels),))
    with pytest.raises(EnvironmentFailed, match=r"peft cannot be imported: OSError: libabsent\.so"):
        await EnvironmentStore(tmp_path).ensure(spec, seen.append)


TORCH = """
class version: cuda = {cuda!r}; hip = None
class cuda:
    is_available = staticmethod(lambda: {seen})
class backends: pass
"""


@pytest.mark.parametrize(
    ("cuda", "code", "hint"),
    [(None, "wrong_torch_build", "`environments: g: torch_backend:`"), ("13.0", "gpu_missing", "nvidia-smi")],
)
async def test_a_required_gpu_that_is_not_seen(
    tmp_path: Path, seen: list[Progress], make_wheel: Callable[..., Path], cuda: str | None, code: str, hint: str
) -> None:
    wheels = make_wheel("torch", "9.0", source=TORCH.format(cuda=cuda, seen=False))
    spec = EnvironmentSpec(name="g", packages=("torch==9.0",), find_links=(str(wheels),), require="gpu")
    store = EnvironmentStore(tmp_path)
    with pytest.raises(EnvironmentFailed, match="requires a GPU") as failure:
        await store.ensure(spec, seen.append)
    assert failure.value.code == code
    assert hint in failure.value.hint
    assert (await store.ensure(replace(spec, require=""), seen.append)).accelerator == "cpu", "not required, it works"


async def test_a_required_gpu_that_is_seen(
    tmp_path: Path, seen: list[Progress], make_wheel: Callable[..., Path]
) -> None:
    wheels = make_wheel("torch", "9.0", source=TORCH.format(cuda="13.0", seen=True))
    spec = EnvironmentSpec(name="g", packages=("torch==9.0",), find_links=(str(wheels),), require="gpu")
    environment = await EnvironmentStore(tmp_path).ensure(spec, seen.append)
    assert environment.path is not None
    assert (environment.accelerator, environment.torch_build) == ("cuda", "cuda 13.0")
    assert read_marker(environment.path) == environment

"""When the imports of one environment tell those of another, and when they are tried anew. Builds are real."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bainmarie.environments.bundle import pack, read_bundle
from bainmarie.environments.environment import Environment, read_marker
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.store import EnvironmentStore
from bainmarie.errors import EnvironmentFailed
from bainmarie.progress import Progress

PEFT = """
import importlib.metadata, importlib.util
with open({log!r}, "a") as log:
    log.write("imported\\n")
importlib.util.find_spec("optional_part")
try:
    importlib.metadata.version("Measured.By-Name")
except importlib.metadata.PackageNotFoundError:
    pass
"""


@dataclass
class Builds:
    """Environments of a package `peft`, each with one more; `imports` is how often a preflight has imported it."""

    store: EnvironmentStore
    wheels: Path
    log: Path

    @property
    def imports(self) -> int:
        return self.log.read_text().count("imported") if self.log.exists() else 0

    async def __call__(self, *more: str, python: str = "") -> tuple[Environment, str]:
        """The environment, and what was said when its preflight began; "" where it was there."""
        seen: list[Progress] = []
        spec = EnvironmentSpec("e", python=python, packages=("peft", *more), find_links=(str(self.wheels),))
        environment = await self.store.ensure(spec, seen.append)
        return environment, next((progress.detail for progress in seen if progress.stage == "preflight"), "")


@pytest.fixture
def builds(tmp_path: Path, make_wheel: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Builds:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))  # wheels of one name and version differ between tests
    log = tmp_path / "log"
    return Builds(EnvironmentStore(tmp_path / "home"), make_wheel("peft", "1.0", PEFT.format(log=str(log))), log)


async def test_a_package_that_nothing_looks_for_changes_no_import(
    builds: Builds, make_wheel: Callable[..., Path]
) -> None:
    make_wheel("aside", "1.0", **{"{info}/entry_points.txt": "[console_scripts]\naside = aside:main\n"})
    first, said = await builds()
    assert said.endswith("importing starlette, uvicorn, jinja2, peft")
    second, said = await builds("aside")
    assert said.endswith(f"peft: as in {first.digest[:12]}")
    assert second.versions["aside"] == "1.0"
    assert builds.imports == 1
    assert first.path is not None
    assert (second.imported, second.sought) == (first.imported, first.sought)
    assert read_marker(first.path) == first


async def test_what_the_precedent_has_not_imported_is_imported_by_itself(
    builds: Builds, make_wheel: Callable[..., Path]
) -> None:
    """einops is of the table of imports, so each environment that names it imports it."""
    make_wheel("einops", "90.0", "import importlib.util\nimportlib.util.find_spec('einops_part')\n")
    make_wheel("einops", "91.0", "raise ImportError('made for another machine')\n")
    first, _ = await builds()
    second, said = await builds("einops==90.0")
    assert said == f"importing starlette, uvicorn, jinja2, peft: as in {first.digest[:12]}; importing einops"
    assert second.imported == (*first.imported, "einops")
    assert {*first.sought, "einops", "einops_part"} == set(second.sought)
    with pytest.raises(EnvironmentFailed, match="einops cannot be imported: ImportError: made for another machine"):
        await builds("einops==91.0")
    assert builds.imports == 1
    _, said = await builds("einops==90.0", "six==1.16.0")
    assert said == f"importing starlette, uvicorn, jinja2, peft, einops: as in {second.digest[:12]}"
    assert builds.imports == 1


@pytest.mark.parametrize("name", ["optional_part", "measured_by_name"])
async def test_a_package_that_was_looked_for_has_them_tried_anew(
    builds: Builds, make_wheel: Callable[..., Path], name: str
) -> None:
    make_wheel(name, "1.0")
    await builds()
    await builds(name)
    assert builds.imports == 2


@pytest.mark.parametrize(
    "more",
    [
        {"aside_path.pth": "import sys\n"},
        {"{info}/entry_points.txt": "[torch.backends]\naside = aside:main\n"},
        {"optional_part/__init__.py": ""},
    ],
)
async def test_a_package_that_reaches_into_imports_has_them_tried_anew(
    builds: Builds, make_wheel: Callable[..., Path], more: dict[str, str]
) -> None:
    make_wheel("aside", "1.0", **more)
    await builds("aside")
    await builds()
    await builds("aside", "six==1.16.0")
    assert builds.imports == 2, "only the last one has a precedent: the first"


async def test_other_files_under_the_same_version_are_tried_anew(
    builds: Builds, make_wheel: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await builds()
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "another-cache"))
    make_wheel("peft", "1.0", PEFT.format(log=str(builds.log)) + "changed = True\n")
    await builds("six==1.16.0")
    assert builds.imports == 2


async def test_another_python_is_tried_anew(builds: Builds) -> None:
    await builds()
    await builds(python="3.12")
    assert builds.imports == 2


async def test_what_came_from_a_bundle_is_no_precedent(builds: Builds, tmp_path: Path) -> None:
    """Nobody has compared its files with the hashes of the lock."""
    spec = EnvironmentSpec("e", packages=("peft",), find_links=(str(builds.wheels),))
    made, _ = await builds()
    assert made.path is not None
    lock = await builds.store.lock(spec, lambda progress: None)
    pack(spec, lock.exported, made.path, tmp_path / "bundle.tar")
    builds.store = EnvironmentStore(tmp_path / "elsewhere")
    unpacked = await builds.store.unpack(read_bundle(tmp_path / "bundle.tar"), [], lambda progress: None)
    assert (unpacked.imported, builds.imports) == ((), 2)
    await builds("six==1.16.0")
    assert builds.imports == 3

"""The user's index settings, as they reach uv."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bainmarie.environments.indexes import indexes, without_credentials
from bainmarie.environments.lock import INDEX_FALLBACK, wish_digest
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.environments.store import EnvironmentStore
from bainmarie.errors import EnvironmentFailed
from bainmarie.progress import Progress

TORCH = EnvironmentSpec(name="auto", packages=("torch==2.13.0",))


def test_pip_variables_are_translated(tmp_path: Path) -> None:
    environ = {
        "PIP_INDEX_URL": "https://pip.example/simple",
        "PIP_EXTRA_INDEX_URL": "https://one.example/simple  https://two.example/simple",
        "PIP_FIND_LINKS": "/wheels relative/wheels https://links.example/",
        "PIP_TRUSTED_HOST": "one.example two.example",
        "PIP_CERT": "/certs/all.pem",
        "PIP_PROXY": "http://proxy.example:3128",
        "PIP_NO_INDEX": "1",
    }
    settings = indexes(TORCH, environ, tmp_path)
    assert settings.variables["UV_DEFAULT_INDEX"] == "https://pip.example/simple"
    assert settings.variables["UV_INDEX"] == "https://one.example/simple https://two.example/simple"
    assert settings.variables["UV_FIND_LINKS"] == f"/wheels,{tmp_path}/relative/wheels,https://links.example/"
    assert settings.variables["UV_INSECURE_HOST"] == "one.example two.example"
    assert settings.variables["SSL_CERT_FILE"] == "/certs/all.pem"
    assert settings.variables["ALL_PROXY"] == "http://proxy.example:3128"
    assert settings.arguments == ("--no-index",)
    assert settings.torch_backend == ""


def test_uv_variables_win_over_pip_variables(tmp_path: Path) -> None:
    environ = {
        "PIP_INDEX_URL": "https://pip.example/simple",
        "UV_INDEX_URL": "https://uv.example/simple",
        "PIP_FIND_LINKS": "/pip-wheels",
        "UV_FIND_LINKS": "/uv-wheels",
        "PIP_CERT": "/certs/pip.pem",
        "SSL_CERT_FILE": "/certs/ssl.pem",
        "UV_HTTP_TIMEOUT": "99",
    }
    settings = indexes(TORCH, environ, tmp_path)
    assert "UV_DEFAULT_INDEX" not in settings.variables
    assert settings.variables["UV_INDEX_URL"] == "https://uv.example/simple"
    assert settings.variables["UV_FIND_LINKS"] == "/uv-wheels"
    assert settings.variables["SSL_CERT_FILE"] == "/certs/ssl.pem"
    assert settings.variables["UV_HTTP_TIMEOUT"] == "99"


def test_the_spec_wins_over_both(tmp_path: Path) -> None:
    spec = replace(
        TORCH,
        index_url="https://spec.example/simple",
        extra_index_urls=("https://more.example/simple",),
        find_links=("/spec-wheels",),
    )
    environ = {"UV_INDEX_URL": "https://uv.example", "PIP_EXTRA_INDEX_URL": "https://x.example", "PIP_FIND_LINKS": "/w"}
    settings = indexes(spec, environ, tmp_path)
    assert settings.variables["UV_DEFAULT_INDEX"] == "https://spec.example/simple"
    assert settings.variables["UV_INDEX"] == "https://more.example/simple"
    assert settings.variables["UV_FIND_LINKS"] == "/spec-wheels"
    assert "UV_INDEX_URL" not in settings.variables


def test_comma_in_a_folder_name(tmp_path: Path) -> None:
    settings = indexes(replace(TORCH, find_links=("/a,b",)), {}, tmp_path)
    assert settings.arguments == ("--find-links", "/a,b")
    assert "UV_FIND_LINKS" not in settings.variables


@pytest.mark.parametrize(
    ("packages", "environ", "backend"),
    [
        (("torch==2.13.0",), {}, "auto"),
        (("torch>=2",), {}, "auto"),
        (("torch",), {}, "auto"),
        (("torchao", "torch-geometric", "six"), {}, ""),
        (("torch",), {"PIP_FIND_LINKS": "/wheels"}, ""),
        (("torch",), {"PIP_INDEX_URL": "https://mirror.example/simple"}, ""),
        (("torch",), {"PIP_EXTRA_INDEX_URL": "https://mirror.example/simple"}, ""),
        (("torch",), {"UV_INDEX": "https://mirror.example/simple"}, ""),
        (("torch",), {"UV_FIND_LINKS": "/wheels"}, ""),
        (("torch",), {"UV_TORCH_BACKEND": "cpu"}, ""),
        (("torch",), {"PIP_FIND_LINKS": "  ", "PIP_INDEX_URL": ""}, "auto"),
    ],
)
def test_torch_backend_only_where_nothing_is_configured(
    tmp_path: Path, packages: tuple[str, ...], environ: dict[str, str], backend: str
) -> None:
    assert indexes(EnvironmentSpec(name="auto", packages=packages), environ, tmp_path).torch_backend == backend


def test_torch_backend_of_the_spec_is_kept(tmp_path: Path) -> None:
    environ = {"PIP_FIND_LINKS": "/wheels"}
    assert indexes(replace(TORCH, torch_backend="cu128"), environ, tmp_path).torch_backend == "cu128"
    assert indexes(replace(TORCH, torch_backend="none"), {}, tmp_path).torch_backend == ""


def test_index_in_the_users_uv_configuration(tmp_path: Path) -> None:
    file = tmp_path / "uv" / "uv.toml"
    file.parent.mkdir()
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    file.write_text('[[index]]\nurl = "https://mirror.example/simple"\n')
    assert indexes(TORCH, environ, tmp_path).torch_backend == ""
    file.write_text("offline = false\n")
    assert indexes(TORCH, environ, tmp_path).torch_backend == "auto"


def test_digest_knows_the_index_but_not_its_password(tmp_path: Path) -> None:
    def digest(index: str) -> str:
        return wish_digest(TORCH, indexes(TORCH, {"PIP_INDEX_URL": index}, tmp_path))

    assert digest("https://me:old@mirror.example/simple") == digest("https://me:new@mirror.example/simple")
    assert digest("https://mirror.example/simple") != digest("https://other.example/simple")


def test_digest_ignores_what_changes_no_package(tmp_path: Path) -> None:
    def digest(spec: EnvironmentSpec, **environ: str) -> str:
        return wish_digest(spec, indexes(spec, environ, tmp_path))

    assert digest(TORCH) == digest(replace(TORCH, name="x", variables=(("A", "b"),), reasons=(("torch", "why"),)))
    assert digest(TORCH) == digest(TORCH, LANG="C", UV_CACHE_DIR="/cache")
    assert digest(TORCH) != digest(replace(TORCH, packages=("torch==2.12.0",)))
    assert digest(TORCH) != digest(TORCH, UV_EXCLUDE_NEWER="2026-01-01")


def test_credentials_are_removed_from_texts() -> None:
    text = "Failed to fetch: `https://me:secret@mirror.example/simple/six/` and http://token@host/x"
    assert without_credentials(text) == "Failed to fetch: `https://mirror.example/simple/six/` and http://host/x"


async def test_pip_find_links_reach_the_build(
    tmp_path: Path, make_wheel: Callable[..., Path], seen: list[Progress], monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = make_wheel("onlyhere", "2.5")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    spec = EnvironmentSpec(name="local", packages=("onlyhere",))
    environment = await EnvironmentStore(tmp_path).ensure(spec, seen.append)
    assert environment.versions["onlyhere"] == "2.5"


async def test_failed_index_does_not_show_its_password(
    tmp_path: Path, spec: EnvironmentSpec, seen: list[Progress]
) -> None:
    environ = {"UV_HTTP_RETRIES": "0", "UV_DEFAULT_INDEX": "http://me:secret-word@127.0.0.1:1/simple"}
    with pytest.raises(EnvironmentFailed) as failure:
        await EnvironmentStore(tmp_path, environ).ensure(spec, seen.append)
    assert failure.value.code == "no_network"
    assert "127.0.0.1" in failure.value.message
    assert "secret-word" not in str(failure.value.to_json())


async def test_unreachable_pytorch_index_falls_back_and_says_so_once(tmp_path: Path, seen: list[Progress]) -> None:
    """Behind a proxy that reaches nothing the fallback fails too, but it has been tried, and told."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"pytorch" not in await reader.readuntil(b"\r\n\r\n"):
            await asyncio.sleep(2)  # uv asks both indexes at once: the one of PyTorch fails first
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
        address = "http://127.0.0.1:{1}".format(*proxy.sockets[0].getsockname())
        environ = {"UV_HTTP_RETRIES": "0", "ALL_PROXY": address, "UV_CACHE_DIR": str(tmp_path / "cache")}
        with pytest.raises(EnvironmentFailed) as failure:
            await EnvironmentStore(tmp_path, environ).ensure(TORCH, seen.append)
    assert [progress.detail for progress in seen].count(INDEX_FALLBACK) == 1
    assert failure.value.code == "no_network"
    assert "pytorch" not in failure.value.message, "the reported failure is the second one"

"""The configuration file while the gateway runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bainmarie.errors import NotFound
from bainmarie.events import EventBus
from bainmarie.reload import Reload
from bainmarie.settings import Settings, load_settings

GOOD = "models: {a: {engine: fake}}\n"


async def test_while_the_file_is_broken_a_model_that_is_missed_may_stand_in_it(tmp_path: Path) -> None:
    file = tmp_path / "bain.yaml"
    file.write_text(GOOD)
    settings = load_settings(file, {})
    catalog, changed = settings.catalog(), asyncio.Event()

    def apply(new: Settings) -> None:
        catalog.become(new.catalog())
        changed.set()

    def refuse(reason: str) -> None:
        catalog.not_taken_up = reason
        changed.set()

    async def edit(text: str) -> None:
        changed.clear()
        file.write_text(text)
        async with asyncio.timeout(20):
            await changed.wait()

    following = asyncio.create_task(Reload(settings, apply, refuse, EventBus()).follow())
    await edit("models: {a: {engine: fake}, new: {engin: fake}}\n")
    with pytest.raises(NotFound, match="'new'") as missed:
        catalog.get("new")
    assert f"The latest edit was not taken up: {file}:1:" in missed.value.hint
    assert catalog.get("a").name == "a"
    await edit("models: {a: {engine: fake}, new: {engine: fake}}\n")
    assert catalog.get("new").name == "new"
    with pytest.raises(NotFound) as missed:
        catalog.get("other")
    assert "edit" not in missed.value.hint
    following.cancel()

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from bainmarie.agent.items import Message, ToolCall, ToolResult
from bainmarie.errors import ConfigurationError, OverCapacity
from bainmarie.store.database import Database
from bainmarie.store.migrations import STEPS
from bainmarie.store.runs import RunRecord, RunStore


@pytest.fixture
async def database(tmp_path: Path):
    database = Database(tmp_path / "home" / "bain.db")
    yield database
    await database.close()


@pytest.fixture
async def store(database: Database) -> RunStore:
    store = RunStore(database)
    await store.create(RunRecord("run", "s", "running", {}, "now"), [Message("user", "hi")])
    return store


async def scalar(database: Database, query: str) -> object:
    return await database.call(lambda connection: connection.exec_driver_sql(query).scalar())


async def test_the_version_is_written(database):
    assert await scalar(database, "PRAGMA user_version") == len(STEPS)


async def test_what_was_saved_is_there_after_opening_again(tmp_path):
    for expected in ([], [Message("user", "hi")]):
        database = Database(tmp_path / "bain.db")
        store = RunStore(database)
        assert await store.items("run") == expected
        if not expected:
            await store.create(RunRecord("run", "s", "running", {"a": 1}, "now"), [Message("user", "hi")])
        await database.close()


async def test_a_newer_database_is_not_touched(tmp_path):
    path = tmp_path / "bain.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    database = Database(path)
    with pytest.raises(ConfigurationError, match="version 99"):
        await scalar(database, "select 1")
    await database.close()


async def test_two_processes_cannot_hold_it(database, tmp_path):
    await scalar(database, "select 1")
    second = Database(tmp_path / "home" / "bain.db")
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        await scalar(second, "select 1")
    await second.close()


async def test_a_transaction_is_saved_whole_or_not_at_all(database, store):
    def fails(connection):
        connection.exec_driver_sql("update runs set status = 'completed'")
        raise LookupError("in the middle")

    with pytest.raises(LookupError):
        await database.call(fails)
    assert await scalar(database, "select status from runs") == "running"


async def test_a_cancelled_caller_does_not_undo_the_work(database, store):
    saving = asyncio.create_task(store.append("run", Message("user", "late")))
    await asyncio.sleep(0)
    saving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert [item.text for item in await store.items("run")] == ["hi", "late"]


async def test_the_database_itself_refuses_a_second_result(store):
    await store.append("run", Message("assistant", "", 1), ToolCall("c", "t", "{}", 1))
    await store.append("run", ToolResult("c", "success", "1"))
    with pytest.raises(IntegrityError):
        await store.append("run", ToolResult("c", "success", "2"))
    assert [item.text for item in await store.items("run") if isinstance(item, ToolResult)] == ["1"]


async def test_closing_twice_is_no_error(tmp_path):
    database = Database(tmp_path / "bain.db")
    await database.close()
    await database.close()


def test_what_was_saved_survives_a_kill(tmp_path):
    code = f"""
import asyncio, os, signal, sys
from pathlib import Path
from bainmarie.agent.items import Message
from bainmarie.store.database import Database
from bainmarie.store.runs import RunRecord, RunStore
async def main():
    store = RunStore(Database(Path(sys.argv[1])))
    await store.create(RunRecord("run", "s", "running", {{}}, "now"), [])
    for number in range(50):
        await store.append("run", Message("user", str(number)))
    os.kill(os.getpid(), {int(signal.SIGKILL)})
asyncio.run(main())
"""
    path = tmp_path / "bain.db"
    died = subprocess.run([sys.executable, "-c", code, str(path)], check=False, env=dict(os.environ))
    assert died.returncode == -signal.SIGKILL

    async def look() -> list[str]:
        database = Database(path)
        store = RunStore(database)
        assert await store.recover() == 1
        items = await store.items("run")
        await database.close()
        return [item.text for item in items if isinstance(item, Message)]

    assert asyncio.run(look()) == [str(number) for number in range(50)]


def test_the_command_line_does_not_import_it():
    code = "import bainmarie.cli, sys; print([m for m in sys.modules if m.startswith(('sqlalchemy', 'jsonschema'))])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


async def test_the_time_of_a_save_is_told(store, capsys):
    seconds = []
    for number in range(200):
        began = time.perf_counter()
        await store.append("run", Message("user", f"text {number}"))
        seconds.append(time.perf_counter() - began)
    assert len(await store.items("run")) == 201
    with capsys.disabled():
        print(f"\none save: median {statistics.median(seconds) * 1000:.2f} ms, most {max(seconds) * 1000:.2f} ms")


async def test_a_released_file_is_free_for_another_and_can_be_taken_back(tmp_path: Path) -> None:
    first, second = Database(tmp_path / "bain.db"), Database(tmp_path / "bain.db")
    await first.call(lambda c: c.exec_driver_sql("SELECT 1").scalar())
    await first.release()
    with pytest.raises(OverCapacity, match="another gateway"):
        await first.call(lambda c: None)
    assert await second.call(lambda c: c.exec_driver_sql("SELECT 2").scalar()) == 2
    await second.close()
    first.take_back()
    assert await first.call(lambda c: c.exec_driver_sql("SELECT 3").scalar()) == 3
    await first.close()

"""list_dir, read_file, write_file: what they do, and that nothing leads out of the workspace."""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bainmarie.agent.tools.builtin import workspace as ways
from bainmarie.agent.tools.builtin.list_dir import MAX_NAMES, list_folder
from bainmarie.agent.tools.builtin.read_file import MAX_BYTES, read
from bainmarie.agent.tools.builtin.write_file import write
from bainmarie.agent.tools.tool import ToolFailed

SECRET = "the secret"


@pytest.fixture(params=["descriptors", "resolved paths"])
def way(request, monkeypatch) -> str:
    """Both ways to confine a path; the second is the one of systems without folder descriptors."""
    if request.param == "resolved paths":
        monkeypatch.setattr(ways, "HAS_DESCRIPTORS", False)
    return request.param


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.txt").write_text(SECRET)
    return folder


def refused(work: Callable[[], str]) -> str:
    with pytest.raises(ToolFailed) as failure:
        work()
    return str(failure.value)


def test_read_write_list(way, workspace):
    assert list_folder(workspace, ".") == "(empty)"
    assert write(workspace, "a.txt", "hello") == "Wrote 5 bytes to a.txt."
    assert write(workspace, "deep/er/b.txt", "é") == "Wrote 2 bytes to deep/er/b.txt."
    assert write(workspace, "c", "x") == "Wrote 1 byte to c."
    assert read(workspace, "a.txt") == "hello"
    assert read(workspace, "deep/../deep/er/./b.txt") == "é"
    assert read(workspace, str(workspace / "a.txt")) == "hello"
    assert list_folder(workspace, ".") == "a.txt\nc\ndeep/"
    assert list_folder(workspace, "deep/") == "er/"
    assert list_folder(workspace, str(workspace)) == "a.txt\nc\ndeep/"
    assert write(workspace, "a.txt", "") == "Wrote 0 bytes to a.txt."
    assert read(workspace, "a.txt") == ""


def test_what_is_not_there_is_said(way, workspace):
    (workspace / "f").write_text("x")
    (workspace / "d").mkdir()
    assert refused(lambda: read(workspace, "x.txt")) == "there is no file x.txt in the workspace."
    assert refused(lambda: list_folder(workspace, "x")) == "there is no folder x in the workspace."
    assert refused(lambda: read(workspace, "d")) == "d is a folder."
    assert refused(lambda: list_folder(workspace, "f")) == "f is a file."
    assert refused(lambda: write(workspace, "d", "x")) == "d is a folder."
    assert refused(lambda: write(workspace, ".", "x")) == ". is a folder."
    assert refused(lambda: write(workspace, "e/", "x")) == "e/ is a folder."
    assert refused(lambda: read(workspace, "")) == "the path is empty."
    assert "NUL" in refused(lambda: read(workspace, "a\0b"))
    refused(lambda: read(workspace, "f/x"))
    refused(lambda: write(workspace, "f/x", "y"))
    assert sorted(p.name for p in workspace.iterdir()) == ["d", "f"]


def test_paths_that_leave_are_refused(way, workspace, outside):
    (workspace / "d").mkdir()
    secret = outside / "secret.txt"
    for path in (
        "../outside/secret.txt",
        "d/../../outside/secret.txt",
        str(secret),
        f"{workspace}/../outside/secret.txt",
    ):
        assert refused(lambda path=path: read(workspace, path)) == f"{path} is outside the workspace."
        assert refused(lambda path=path: write(workspace, path, "x")) == f"{path} is outside the workspace."
    assert refused(lambda: list_folder(workspace, "..")) == ".. is outside the workspace."
    assert refused(lambda: list_folder(workspace, "/")) == "/ is outside the workspace."
    assert refused(lambda: write(workspace, "../new/file", "x")) == "../new/file is outside the workspace."
    # A folder whose name begins like the workspace's is another one.
    (workspace.parent / "workspace2").mkdir()
    refused(lambda: list_folder(workspace, f"{workspace}2"))
    assert secret.read_text() == SECRET
    assert not (workspace.parent / "new").exists()


def test_links_that_leave_are_refused(way, workspace, outside):
    (workspace / "file").symlink_to(outside / "secret.txt")
    (workspace / "folder").symlink_to(outside)
    (workspace / "up").symlink_to("..")
    (workspace / "dangling").symlink_to(outside / "new.txt")
    (workspace / "chain").symlink_to("folder")
    (workspace / "root").symlink_to("/")
    for path in ("file", "folder/secret.txt", "up/outside/secret.txt", "chain/secret.txt", f"root{outside}/secret.txt"):
        assert refused(lambda path=path: read(workspace, path)) == f"{path} is outside the workspace."
        assert refused(lambda path=path: write(workspace, path, "x")) == f"{path} is outside the workspace."
    refused(lambda: write(workspace, "dangling", "x"))
    refused(lambda: write(workspace, "folder/new/deep.txt", "x"))
    for path in ("folder", "up", "chain", "root"):
        refused(lambda path=path: list_folder(workspace, path))
    assert [p.name for p in outside.iterdir()] == ["secret.txt"]
    assert (outside / "secret.txt").read_text() == SECRET


def test_links_that_stay_inside_work(way, workspace):
    (workspace / "real").mkdir()
    (workspace / "real" / "a.txt").write_text("hi")
    (workspace / "link").symlink_to("real")
    (workspace / "real" / "back").symlink_to("../real/a.txt")
    (workspace / "whole").symlink_to(workspace / "real" / "a.txt")
    assert read(workspace, "link/a.txt") == read(workspace, "link/back") == read(workspace, "whole") == "hi"
    write(workspace, "whole", "new")
    assert (workspace / "real" / "a.txt").read_text() == "new"
    assert (workspace / "whole").is_symlink()
    assert list_folder(workspace, "link") == "a.txt\nback"


def test_circles_of_links_end(workspace):
    (workspace / "a").symlink_to("b")
    (workspace / "b").symlink_to("a")
    assert refused(lambda: read(workspace, "a")) == "a is a circle of links."


def test_a_workspace_reached_through_a_link_is_one(way, workspace):
    link = workspace.parent / "link"
    link.symlink_to(workspace)
    write(link, "a.txt", "x")
    assert read(link, str(workspace / "a.txt")) == read(link, str(link / "a.txt")) == "x"


@contextmanager
def exchanging(one: Path, other: Path) -> Iterator[None]:
    """Two names are exchanged again and again by a second thread, each time at once."""
    libc = ctypes.CDLL(None, use_errno=True)
    here, exchange = -100, 2
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            assert libc.renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def said(work: Callable[[], str]) -> str:
    try:
        return work()
    except ToolFailed as failure:
        return str(failure)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a system call that exchanges two names at once")
def test_a_folder_that_is_swapped_for_a_link_meanwhile_leads_nowhere(workspace, outside):
    (workspace / "d").mkdir()
    (workspace / "d" / "secret.txt").write_text("inside")
    (workspace / "link").symlink_to(outside)
    with exchanging(workspace / "d", workspace / "link"):
        seen = {said(lambda: read(workspace, "d/secret.txt")) for _ in range(1500)}
        written = {said(lambda: write(workspace, "d/new.txt", "x")) for _ in range(1500)}
    assert {"inside", "d/secret.txt is outside the workspace."} <= seen
    assert "Wrote 1 byte to d/new.txt." in written
    assert SECRET not in seen
    assert [p.name for p in outside.iterdir()] == ["secret.txt"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a system call that exchanges two names at once")
def test_a_file_that_is_swapped_for_a_link_meanwhile_leads_nowhere(workspace, outside):
    (workspace / "f").write_text("inside")
    (workspace / "link").symlink_to(outside / "secret.txt")
    with exchanging(workspace / "f", workspace / "link"):
        seen = {said(lambda: read(workspace, "f")) for _ in range(5000)}
    assert {"inside", "f is outside the workspace."} <= seen
    assert SECRET not in seen


@pytest.mark.skipif(not ways.HAS_DESCRIPTORS, reason="this system has no folder descriptors")
def test_a_link_that_appears_after_the_walk_is_not_opened(workspace, outside):
    with ways.place(workspace, "f") as found:
        (workspace / "f").symlink_to(outside / "secret.txt")
        with pytest.raises(OSError, match="symbolic links"):
            found.open(os.O_RDONLY)


def test_special_files_are_refused_and_do_not_block(way, workspace):
    os.mkfifo(workspace / "pipe")
    assert refused(lambda: read(workspace, "pipe")) == "pipe is not a regular file."
    assert refused(lambda: write(workspace, "pipe", "x")) == "pipe is not a regular file."
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(workspace / "socket"))
        refused(lambda: read(workspace, "socket"))
        refused(lambda: write(workspace, "socket", "x"))
    assert stat.S_ISFIFO((workspace / "pipe").stat().st_mode)


def test_long_files_say_how_much_is_left_out(way, workspace):
    (workspace / "long").write_text("x" * (MAX_BYTES + 1000))
    text = read(workspace, "long")
    assert text == "x" * MAX_BYTES + "\n[1000 more bytes are left out]"
    (workspace / "cut").write_text("x" * (MAX_BYTES - 1) + "é" + "y")
    assert read(workspace, "cut") == "x" * (MAX_BYTES - 1) + "\n[3 more bytes are left out]"
    (workspace / "exact").write_text("x" * MAX_BYTES)
    assert read(workspace, "exact") == "x" * MAX_BYTES


def test_what_is_not_text_is_refused(way, workspace):
    (workspace / "binary").write_bytes(b"\xff\xfe\x00")
    (workspace / "nul").write_bytes(b"a\0b")
    assert refused(lambda: read(workspace, "binary")) == "binary is not text."
    assert refused(lambda: read(workspace, "nul")) == "nul is not text."


def test_long_folders_say_how_much_is_left_out(way, workspace):
    for number in range(MAX_NAMES + 3):
        (workspace / f"{number:05}").touch()
    lines = list_folder(workspace, ".").splitlines()
    assert len(lines) == MAX_NAMES + 1
    assert lines[-1] == "[3 more names are left out]"


def test_writing_keeps_the_mode_and_leaves_hard_links_alone(way, workspace, outside):
    (workspace / "script").write_text("old")
    (workspace / "script").chmod(0o750)
    os.link(outside / "secret.txt", workspace / "hard")
    write(workspace, "script", "new")
    write(workspace, "hard", "new")
    assert stat.S_IMODE((workspace / "script").stat().st_mode) == 0o750
    assert (outside / "secret.txt").read_text() == SECRET
    assert sorted(p.name for p in workspace.iterdir()) == ["hard", "script"]


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_no_descriptor_stays_open(workspace):
    (workspace / "a").symlink_to("..")
    before = len(os.listdir("/proc/self/fd"))
    write(workspace, "x/y/z.txt", "x")
    for path in ("x/y/z.txt", "x/y/none", "x/y", "a/b", "../..", "x/y/z.txt/w"):
        for work in (read, list_folder):
            try:
                work(workspace, path)
            except ToolFailed:
                continue
    assert len(os.listdir("/proc/self/fd")) == before

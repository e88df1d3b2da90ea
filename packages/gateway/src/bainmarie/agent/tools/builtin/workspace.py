"""Files inside one directory, and no way out of it: `..`, absolute paths and symbolic links end where they leave it.

On Linux and macOS every component is opened from its folder's descriptor without following links; a link is read and
walked in the same way, and `..` goes back to a descriptor we already hold. So a link or a folder that is swapped while
we walk cannot lead outside. Where descriptors of folders do not exist (Windows) the path is resolved and compared; a
program that swaps links at that very moment is not stopped there.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bainmarie.agent.tools.tool import ToolFailed

MAX_LINKS = 40
"""Links followed in one path before it counts as a circle; Linux has the same limit."""
HAS_DESCRIPTORS = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW") and os.readlink in os.supports_dir_fd


_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
_UNFOLLOWED = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
"""Flags of `os.open`; those that a system does not have are not needed there."""


@dataclass(frozen=True)
class Place:
    """A name in a folder of the workspace. The folder is open as `folder`, or None: then `name` is a whole path.

    Nothing or something may stand at the place, but never a link. An empty name is the folder itself.
    """

    folder: int | None
    name: str

    def open(self, flags: int, mode: int = 0o666) -> int:
        """`os.open` there; a link that appeared meanwhile is an OSError (ELOOP), never followed."""
        if self.folder is None:
            return os.open(self.name, flags | getattr(os, "O_BINARY", 0), mode)
        return os.open(self.name or ".", flags | _UNFOLLOWED, mode, dir_fd=self.folder)

    def replace_with(self, temporary: str) -> None:
        """Move the file `temporary` of the same folder to this place."""
        source = temporary if self.folder is not None else str(Path(self.name).parent / temporary)
        os.replace(source, self.name, src_dir_fd=self.folder, dst_dir_fd=self.folder)

    def beside(self, name: str) -> Place:
        """Another name in the same folder."""
        return Place(self.folder, name if self.folder is not None else str(Path(self.name).parent / name))

    def remove(self) -> None:
        """Delete the file there."""
        os.unlink(self.name, dir_fd=self.folder)

    def names(self) -> list[str]:
        """What the folder at this place holds, sorted, folders with `/`. NotADirectoryError, FileNotFoundError."""
        if self.folder is None:
            with os.scandir(self.name) as entries:
                return sorted(entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in entries)
        descriptor = self.open(_FOLDER)
        try:
            with os.scandir(descriptor) as entries:
                return sorted(entry.name + "/" * entry.is_dir(follow_symlinks=False) for entry in entries)
        finally:
            os.close(descriptor)


@contextmanager
def place(root: Path, path: str, create_parents: bool = False) -> Iterator[Place]:
    """Where `path` leads inside `root`; relative to it, or absolute and inside it.

    ToolFailed where it leads outside or through something that is no folder. Parent folders that are missing are made
    where `create_parents`, else FileNotFoundError.
    """
    if "\0" in path or not path:
        raise ToolFailed("the path is empty." if not path else "a path cannot hold a NUL character.")
    if HAS_DESCRIPTORS:
        walk = _Walk(root, path, create_parents)
        try:
            yield walk.go()
        finally:
            walk.close()
    else:
        yield Place(None, _resolved(root, path, create_parents))


class _Walk:
    """One way from the root to a place; holds an open descriptor for each folder on it."""

    def __init__(self, root: Path, path: str, create: bool) -> None:
        self._root = root
        self._path = path
        self._create = create
        self._folders: list[int] = []
        self._links = 0

    def close(self) -> None:
        for descriptor in self._folders:
            os.close(descriptor)
        self._folders = []

    def go(self) -> Place:
        self._folders.append(os.open(self._root, _FOLDER | getattr(os, "O_CLOEXEC", 0)))
        todo = self._parts(self._path)
        while todo:
            part = todo.pop(0)
            if part == "..":
                self._up()
                continue
            link = self._link(part)
            if link is not None:
                todo = self._parts(link) + todo
            elif todo:
                self._down(part)
            else:
                return Place(self._folders[-1], part)
        return Place(self._folders[-1], "")

    def _parts(self, path: str) -> list[str]:
        """The components still to walk. An absolute path starts again at the root, if it is inside."""
        if path.startswith("/"):
            inside = _inside(self._root, path)
            if inside is None:
                raise _outside(self._path)
            while len(self._folders) > 1:
                os.close(self._folders.pop())
            path = inside
        return [part for part in path.split("/") if part not in ("", ".")]

    def _up(self) -> None:
        if len(self._folders) == 1:
            raise _outside(self._path)
        os.close(self._folders.pop())

    def _link(self, part: str) -> str | None:
        """Where the link `part` points, None if it is no link."""
        try:
            target = os.readlink(part, dir_fd=self._folders[-1])
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return None
            raise
        self._links += 1
        if self._links > MAX_LINKS:
            raise ToolFailed(f"{self._path} is a circle of links.")
        return target

    def _down(self, part: str) -> None:
        if self._create:
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=self._folders[-1])
        self._folders.append(os.open(part, _FOLDER | _UNFOLLOWED, dir_fd=self._folders[-1]))


def _inside(root: Path, path: str) -> str | None:
    """The rest of an absolute path behind the root's; the root may be named as given or with its links resolved."""
    for name in (str(root), str(root.resolve())):
        if path == name or path.startswith(name.rstrip("/") + "/"):
            return path[len(name) :]
    return None


def _resolved(root: Path, path: str, create: bool) -> str:
    home = root.resolve()
    target = (home / path).resolve()
    if target != home and home not in target.parents:
        raise _outside(path)
    if create:
        target.parent.mkdir(parents=True, exist_ok=True)
    return str(target)


def _outside(path: str) -> ToolFailed:
    return ToolFailed(f"{path} is outside the workspace.")


def regular(descriptor: int, path: str) -> os.stat_result:
    """The status of an open regular file. ToolFailed for a folder, a device, a pipe, a socket."""
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise ToolFailed(f"{path} is a folder.")
    if not stat.S_ISREG(status.st_mode):
        raise ToolFailed(f"{path} is not a regular file.")
    return status


def told(error: OSError, path: str, what: str = "file") -> ToolFailed:
    """The operating system's error in words for the model."""
    match error.errno:
        case errno.ENOENT:
            return ToolFailed(f"there is no {what} {path} in the workspace.")
        case errno.EISDIR:
            return ToolFailed(f"{path} is a folder.")
        case errno.ENOTDIR:
            return ToolFailed(f"{path} is a file." if what == "folder" else f"a folder on the way to {path} is a file.")
        case errno.ELOOP:
            return ToolFailed(f"{path} was changed to a link meanwhile.")
        case errno.ENXIO:
            return ToolFailed(f"{path} is not a regular file.")
    return ToolFailed(f"{path}: {(os.strerror(error.errno) if error.errno else str(error)).lower()}.")

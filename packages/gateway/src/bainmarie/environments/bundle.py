"""An environment as one file, for a machine without network: its lock and its installed files.

A tar archive (gzip where the name ends in .gz): `bundle.json`, `requirements.lock`, then the environment's own files
under `files/`, without the interpreter, which the other machine has, without compiled Python files, and without the
worker's own packages, which the gateway that unpacks it brings along: it may be another release.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from bainmarie.environments.contents import move_scripts, own_files
from bainmarie.environments.lock_file import LockFile, parse_lock, write_lock_file
from bainmarie.environments.spec import EnvironmentSpec
from bainmarie.errors import EnvironmentFailed

_FORMAT = 1
_HEAD, _LOCK, _FILES = "bundle.json", "requirements.lock", "files/"


@dataclass(frozen=True)
class Bundle:
    """What a bundle says of itself."""

    path: Path
    lock: LockFile
    name: str
    python: str
    """The wish that it was made for: version, and packages."""
    packages: tuple[str, ...] | None
    """None where the wish was a lock."""
    root: str
    """Where the environment stood, which its scripts name."""


def pack(spec: EnvironmentSpec, lock: LockFile, environment: Path, bundle: Path) -> None:
    """Write the bundle; a file of that name is replaced only when the new one is whole.

    EnvironmentFailed (bundle_not_written) where it cannot be written.
    """
    try:
        _write(spec, lock, environment, bundle)
    except OSError as error:
        raise EnvironmentFailed(
            f"the bundle {bundle} cannot be written: {error.strerror or error}",
            hint="Name a place with room that you may write to: --output FILE",
            code="bundle_not_written",
        ) from error


def _write(spec: EnvironmentSpec, lock: LockFile, environment: Path, bundle: Path) -> None:
    head = {
        "format": _FORMAT,
        "name": spec.name,
        "python": spec.python,
        "packages": None if spec.lock else spec.packages,
    }
    head["root"] = str(environment)
    temporary = bundle.with_name(f".{bundle.name}.{os.getpid()}")
    try:
        with _open_new(temporary, compressed=bundle.name.endswith("gz")) as archive:
            _add_text(archive, _HEAD, json.dumps(head, indent=1))
            _add_text(archive, _LOCK, write_lock_file(lock))
            for file in own_files(environment):
                archive.add(file, f"{_FILES}{file.relative_to(environment).as_posix()}", recursive=False)
        os.replace(temporary, bundle)
    finally:
        temporary.unlink(missing_ok=True)


def read_bundle(path: Path) -> Bundle:
    """EnvironmentFailed (bundle_unreadable) where it is no bundle."""
    try:
        with tarfile.open(path) as archive:
            head = json.loads(_text(archive, _HEAD))
            lock = _text(archive, _LOCK)
            if head["format"] != _FORMAT:
                raise ValueError(f"its format {head['format']} is not known")
            packages = None if head["packages"] is None else tuple(map(str, head["packages"]))
            return Bundle(
                path, parse_lock(lock, f"the lock in {path}"), head["name"], head["python"], packages, head["root"]
            )
    except (OSError, tarfile.TarError, EOFError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from error


def unpack_files(bundle: Bundle, environment: Path) -> None:
    """Put the files into a bare environment. Scripts that named the old place name the new one.

    EnvironmentFailed (bundle_unreadable) where it is cut short, or holds a file that would lie elsewhere.
    """
    try:
        _extract(bundle, environment)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise _unreadable(bundle.path, error) from error
    move_scripts(environment, bundle.root)


def _unreadable(path: Path, error: Exception) -> EnvironmentFailed:
    return EnvironmentFailed(
        f"{path} is no bundle of an environment: {_short(error)}",
        hint="Make one with: bain env pack MODEL",
        code="bundle_unreadable",
    )


def _short(error: Exception) -> str:
    """Of an error that lists what was tried, the first line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).partition("\n")[0].rstrip(":- ")


def _extract(bundle: Bundle, environment: Path) -> None:
    with tarfile.open(bundle.path) as archive:
        for member in archive:
            if member.name.startswith(_FILES):
                member.name = member.name.removeprefix(_FILES)
                if member.islnk():
                    member.linkname = member.linkname.removeprefix(_FILES)
                archive.extract(member, environment, filter="data")


def _open_new(path: Path, *, compressed: bool) -> tarfile.TarFile:
    if compressed:
        return tarfile.open(path, "w:gz", compresslevel=1)
    return tarfile.open(path, "w")


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def _text(archive: tarfile.TarFile, name: str) -> str:
    entry = archive.next()
    if entry is None or entry.name != name:
        raise ValueError(f"{name} is not where it should be")
    file = archive.extractfile(entry)
    assert file is not None
    return file.read().decode()

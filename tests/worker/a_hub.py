"""A stand-in for the hub: a small HTTP server that serves folders as repositories, or answers with the hub's errors."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + 34 * "0"
Answer = tuple[int, str]
"""Status and X-Error-Code."""


@contextlib.contextmanager
def hub(repositories: Mapping[str, Path | Answer], token: str = "") -> Iterator[str]:
    """Yields the endpoint. With `token`, requests without it get 401 RepoNotFound, as for a private repository."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            api = parts[:2] == ["api", "models"]
            repository, rest = "/".join(parts[2:4] if api else parts[:2]), parts[4:] if api else parts[2:]
            found = repositories.get(repository, (401, "RepoNotFound"))
            if token and self.headers.get("Authorization") != f"Bearer {token}":
                found = (401, "RepoNotFound")
            if not isinstance(found, Path):
                self.refuse(*found)
            elif api:
                self.answer(json.dumps(tree(found) if rest[:1] == ["tree"] else about(repository)).encode())
            elif (file := found.joinpath(*rest[2:])).is_file():
                self.answer(file.read_bytes())
            else:
                self.refuse(404, "EntryNotFound")

        do_HEAD = do_GET

        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
                self.send_header("X-Error-Message", "what the hub says")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def about(repository: str) -> dict[str, object]:
    return {"_id": "1", "id": repository, "sha": COMMIT, "private": False, "gated": False, "siblings": [], "tags": []}


def tree(folder: Path) -> list[dict[str, object]]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [
        {
            "type": "file",
            "path": str(path.relative_to(folder)),
            "size": path.stat().st_size,
            "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
        }
        for path in files
    ]

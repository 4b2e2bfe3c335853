"""A Hugging Face hub on the loopback interface: what downloading a model needs."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Files = dict[str, bytes]


@dataclass
class Hub:
    """Repositories to serve, and what was asked for."""

    repos: dict[str, Files]
    url: str = ""
    # repository → status and error code for its files, or for all of it
    gated: dict[str, tuple[int, str]] = field(default_factory=dict)
    closed: dict[str, tuple[int, str]] = field(default_factory=dict)
    downloads: list[str] = field(default_factory=list)  # paths in their repositories
    requests: int = 0
    broken: set[str] = field(default_factory=set)  # files that cannot be downloaded


@contextmanager
def serve(repos: dict[str, Files]) -> Iterator[Hub]:
    hub = Hub(repos)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("_", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        self.hub.requests += 1
        path = unquote(urlsplit(self.path).path).strip("/")
        if path.startswith("api/models/"):
            owner, name, *rest = path.removeprefix("api/models/").split("/")
            self._api(f"{owner}/{name}", rest[:1] == ["tree"])
        elif path.count("/resolve/") == 1:
            repo, _, rest = path.partition("/resolve/")  # <commit>/<file>
            self._file(repo, rest.partition("/")[2])
        else:  # what else the library may ask
            self._error(404, "")

    do_HEAD = do_GET

    def _api(self, repo: str, tree: bool) -> None:
        if repo in self.hub.closed:
            self._error(*self.hub.closed[repo])
        elif repo not in self.hub.repos:
            self._error(404, "RepoNotFound")
        elif tree:
            files = self.hub.repos[repo].items()
            rows = [
                {"type": "file", "path": name, "size": len(data), "oid": _oid(data)}
                for name, data in files
            ]
            self._send(json.dumps(rows).encode())
        else:
            siblings = [{"rfilename": name} for name in self.hub.repos[repo]]
            info = {"id": repo, "sha": COMMIT, "siblings": siblings}
            self._send(json.dumps(info).encode())

    def _file(self, repo: str, name: str) -> None:
        if repo in self.hub.gated:
            return self._error(*self.hub.gated[repo])
        if name not in self.hub.repos.get(repo, {}):
            return self._error(404, "EntryNotFound")
        data = self.hub.repos[repo][name]
        if self.command == "GET":
            self.hub.downloads.append(name)
            if name in self.hub.broken:
                return self._error(404, "EntryNotFound")
        self._send(data, {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": COMMIT})

    def _error(self, status: int, code: str) -> None:
        self._send(b"", {"X-Error-Code": code, "X-Error-Message": code}, status)

    def _send(self, data: bytes, headers: dict[str, str] | None = None, status=200):
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_) -> None:
        pass


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()

"""An HTTP server that speaks the parts of the Hugging Face hub's API that downloads and commits use."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_this_test"


@dataclass
class Repository:
    """Branches and commits of one model repository."""

    visibility: str = "public"
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        """Adds files on top of a branch; the new commit's id."""
        content = {**self.commits.get(self.branches.get(branch, ""), {}), **files}
        digest = hashlib.sha1(f"{branch}{len(self.commits)}".encode())
        for name, data in sorted(content.items()):
            digest.update(name.encode() + data)
        self.branches[branch] = digest.hexdigest()
        self.commits[digest.hexdigest()] = content
        return digest.hexdigest()

    def files(self, revision: str) -> dict[str, bytes] | None:
        """The files of a branch or commit; None where there is none."""
        return self.commits.get(self.branches.get(revision, revision))


class Hub:
    """The server's state: repositories by ``owner/name``, uploaded large files, requests so far."""

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []

    def add(self, name: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Commits files into a repository, which is made where absent."""
        return self.repositories.setdefault(name, Repository()).commit(branch, files)


class _Handler(BaseHTTPRequestHandler):
    # Every answer ends its connection, so that a hub that has stopped is unreachable at once.
    protocol_version = "HTTP/1.0"
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the requests are kept in ``Hub.requests``."""

    def _answer(
        self, status: int, body: bytes | dict | list = b"", headers: dict[str, str] | None = None
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _error(self, status: int, code: str) -> None:
        self._answer(status, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code})

    def _begin(self) -> list[str]:
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        return [unquote(part) for part in path.strip("/").split("/")]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self._begin()
        listing = parts[:2] == ["api", "models"]
        # The default branch goes without saying.
        owner, name, kind, revision = (*(parts[2:6] if listing else parts[:4]), "info", "main")[:4]
        repository = self.hub.repositories.get(f"{owner}/{name}")
        if repository is None or (repository.visibility == "private" and not self._authorised()):
            return self._error(404 if self._authorised() else 401, "RepoNotFound")
        files = repository.files(revision)
        if files is None:
            return self._error(404, "RevisionNotFound")
        if listing and kind == "tree":
            rows = [{"type": "file", "path": p, "size": len(d), "oid": "0"} for p, d in files.items()]
            return self._answer(200, rows)
        if listing:
            commit = repository.branches.get(revision, revision)
            return self._answer(200, {"id": f"{owner}/{name}", "sha": commit})
        assert kind == "resolve", self.path
        data = files.get("/".join(parts[4:]))
        if data is None:
            return self._error(404, "EntryNotFound")
        commit = repository.branches.get(revision, revision)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        return self._answer(200, data, headers)

    def _authorised(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = self._begin()
        if parts == ["api", "validate-yaml"]:
            return self._answer(200, {"errors": [], "warnings": []})
        if not self._authorised():
            return self._error(401, "InvalidToken")
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.hub.repositories:
                return self._answer(409, {"error": "exists", "url": f"{self.hub.url}/{name}"})
            self.hub.repositories[name] = Repository(asked.get("visibility", "public"))
            self.hub.add(name, {".gitattributes": b""})
            return self._answer(200, {"url": f"{self.hub.url}/{name}"})
        if parts[-3:] == ["lfs", "objects", "batch"]:
            objects = [
                {**o, "actions": {"upload": {"href": f"{self.hub.url}/upload/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self._answer(200, {"transfer": "basic", "objects": objects})
        owner, name, kind, revision = parts[2:6]
        repository = self.hub.repositories[f"{owner}/{name}"]
        if kind == "branch":
            if revision in repository.branches:
                return self._error(409, "BranchExists")
            repository.branches[revision] = repository.branches["main"]
            return self._answer(200, {})
        if revision not in repository.branches:
            return self._error(404, "RevisionNotFound")
        if kind == "preupload":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        assert kind == "commit", self.path
        added = {}
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                added[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "lfsFile":
                added[entry["value"]["path"]] = self.hub.large[entry["value"]["oid"]]
        oid = repository.commit(revision, added)
        url = f"{self.hub.url}/{owner}/{name}/commit/{oid}"
        return self._answer(200, {"commitUrl": url, "commitOid": oid, "pullRequestUrl": None})

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        (_, oid) = self._begin()
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.large[oid] = body
        self._answer(200)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub on a free port of this machine; its ``url`` is what HF_ENDPOINT takes."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

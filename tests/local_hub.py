"""A Hub on this machine: as much of its HTTP as the real `huggingface_hub` needs to publish models and to fetch them.

Large files (safetensors) go the way of Git LFS, all others inside the commit, as on the Hub. Who writes, or reads a
private repository, shows the token.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml

TOKEN = "hf_of_the_tests"


@dataclass
class Repository:
    """Commits, oldest first: name of a file to content; branches and tags by name."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def commit_of(self, revision: str) -> str | None:
        revision = self.head if revision == "main" else self.tags.get(revision, revision)
        return next((commit for commit in self.commits if len(revision) >= 7 and commit.startswith(revision)), None)

    def add(self, files: dict[str, bytes]) -> str:
        digest = hashlib.sha1(str(len(self.commits)).encode())
        for name, content in sorted(files.items()):
            digest.update(name.encode() + hashlib.sha256(content).digest())
        self.commits[digest.hexdigest()] = files
        return digest.hexdigest()

    def write(self, folder: Path, revision: str = "main") -> Path:
        """The files of a commit, in a folder."""
        commit = self.commit_of(revision)
        assert commit is not None
        for name, content in self.commits[commit].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder


class LocalHub:
    """What is on it, what it was asked, and how it may be told to fail."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.url = ""
        self.fails_at: str | None = None
        """Part of a path whose requests are answered with 507, which the client does not try again."""

    def environment(self, home: Path) -> dict[str, str]:
        """Variables of a process that is logged in, with a cache of its own."""
        home.mkdir(parents=True, exist_ok=True)
        (home / "token").write_text(TOKEN)
        quiet = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        return {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_TOKEN": "", **quiet}


@contextmanager
def local_hub() -> Iterator[LocalHub]:
    """A Hub that answers until the end."""
    hub = LocalHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _oid(name: str, content: bytes) -> str:
    """As the client computes it: SHA-256 of a large file, Git's SHA-1 of another."""
    if name.endswith(".safetensors"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def do_HEAD(self) -> None:
        self._serve()

    do_GET = do_POST = do_PUT = do_HEAD

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(self.path.partition("?")[0])
        self.hub.asked.append(f"{self.command} {path}")
        if self.hub.fails_at is not None and self.hub.fails_at in path:
            self._error(507, "", "something went wrong")
            return
        for pattern, handler in _ROUTES:
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                handler(self, body, **found.groupdict())
                return
        self._error(404, "", f"no such page: {path}")

    @property
    def _logged_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        self._answer(json.dumps(value).encode(), status, Content_Type="application/json", **headers)

    def _error(self, status: int, code: str, message: str) -> None:
        self._json({"error": message}, status, **({"X_Error_Code": code} if code else {}), X_Error_Message=message)

    def _repository(self, name: str) -> Repository | None:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self._logged_in):
            self._error(401 if not self._logged_in else 404, "RepoNotFound", "Repository not found")
            return None
        return found

    def whoami(self, _: bytes) -> None:
        if self._logged_in:
            self._json({"type": "user", "name": "me", "fullname": "Me", "orgs": [], "auth": {}})
        else:
            self._error(401, "", "Invalid credentials in Authorization header")

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        if not self._logged_in or not name.startswith("me/"):
            self._error(401 if not self._logged_in else 403, "", "You don't have the rights to create a model")
        elif name in self.hub.repositories:
            self._json({"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}, 409)
        else:
            repository = self.hub.repositories[name] = Repository(asked.get("visibility") == "private")
            repository.add({".gitattributes": b"*.safetensors filter=lfs\n"})
            self._json({"url": f"{self.hub.url}/{name}", "name": name})

    def validate(self, body: bytes) -> None:
        card = json.loads(body)["content"]
        found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
        said = yaml.safe_load(found[1]) if found else {}
        datasets = said.get("datasets", [])
        datasets = [datasets] if isinstance(datasets, str) else datasets
        problems = [
            f"{key} is no text" for key in ("license", "pipeline_tag") if not isinstance(said.get(key, ""), str)
        ]
        problems += [f"unknown licence {said['license']}" for _ in [0] if said.get("license") in ("mine", "unheard-of")]
        problems += [f"bad dataset {d}" for d in datasets if not re.fullmatch(r"[\w-]+/[\w.-]+", d)]
        self._json({"errors": [{"message": text} for text in problems], "warnings": []}, 400 if problems else 200)

    def info(self, _: bytes, name: str, revision: str = "main") -> None:
        if (repository := self._repository(name)) is None:
            return
        commit = repository.commit_of(revision)
        if commit is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        files = [{"rfilename": file} for file in repository.commits[commit]]
        self._json({"id": name, "sha": commit, "private": repository.private, "siblings": files, "tags": []})

    def tree(self, _: bytes, name: str, revision: str) -> None:
        if (repository := self._repository(name)) is None:
            return
        commit = repository.commit_of(revision)
        assert commit is not None
        files = []
        for path, content in repository.commits[commit].items():
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _oid(path, content)}
            if path.endswith(".safetensors"):
                entry["lfs"] = {"oid": _oid(path, content), "size": len(content), "pointerSize": 130}
            files.append(entry)
        self._json(files)

    def resolve(self, _: bytes, name: str, revision: str, path: str) -> None:
        if (repository := self._repository(name)) is None:
            return
        commit = repository.commit_of(revision)
        if commit is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif (content := repository.commits[commit].get(path)) is None:
            self._json({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        else:
            self._answer(content, ETag=f'"{_oid(path, content)}"', X_Repo_Commit=commit)

    def preupload(self, body: bytes, name: str) -> None:
        if not self._logged_in:
            self._error(401, "", "Invalid credentials")
            return
        repository = self.hub.repositories[name]
        there = repository.commits[repository.head]
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
                "oid": _oid(file["path"], there[file["path"]]) if file["path"] in there else None,
            }
            for file in json.loads(body)["files"]
        ]
        self._json({"files": files})

    def batch(self, body: bytes, name: str) -> None:
        objects = []
        for asked in json.loads(body)["objects"]:
            if asked["oid"] not in self.hub.large:
                asked["actions"] = {"upload": {"href": f"{self.hub.url}/large/{asked['oid']}"}}
            objects.append(asked)
        self._json({"transfer": "basic", "objects": objects})

    def upload(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.large[oid] = body
        self._answer(b"")

    def commit(self, body: bytes, name: str) -> None:
        if not self._logged_in:
            self._error(401, "", "Invalid credentials")
            return
        repository = self.hub.repositories[name]
        files = dict(repository.commits[repository.head])
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        commit = repository.add(files)
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{name}/commit/{commit}"})


_NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
_ROUTES: list[tuple[str, Any]] = [
    (r"GET /api/whoami-v2", _Handler.whoami),
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"GET /api/models/{_NAME}", _Handler.info),
    (rf"GET /api/models/{_NAME}/revision/(?P<revision>.+)", _Handler.info),
    (rf"GET /api/models/{_NAME}/tree/(?P<revision>[^/]+)", _Handler.tree),
    (rf"POST /api/models/{_NAME}/preupload/main", _Handler.preupload),
    (rf"POST /api/models/{_NAME}/commit/main", _Handler.commit),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /large/(?P<oid>\w+)", _Handler.upload),
    (rf"(?:GET|HEAD) /{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
]

"""The hub on this machine: its HTTP protocol as huggingface_hub speaks it, with faults on request; and what it serves."""

import base64
import hashlib
import io
import json
import os
import re
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

LFS = 512  # larger files are listed with their sha256, as the hub does for files in LFS


@dataclass
class Fault:
    """What goes wrong with requests whose path ends with `path`."""

    path: str
    times: int = 10**9  # how often
    cut: int | None = None  # the connection ends after so many bytes of a GET
    flip: int | None = None  # one bit of this byte of the file changes
    status: int | None = None  # the answer is this status, with this X-Error-Code
    code: str = ""


@dataclass
class Request:
    """One request, and how many bytes of a body it got."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    status: int = 0
    sent: int = 0


@dataclass
class Repo:
    files: dict[str, bytes]
    revision: str
    gated: bool
    older: dict[str, dict[str, bytes]] = field(default_factory=dict)  # files by revision

    def commit(self, lines: Iterable[Mapping[str, Any]]) -> list[str]:
        """Take the lines of one commit, which has another revision; return the files it names."""
        self.older[self.revision] = dict(self.files)
        named = []
        for line in lines:
            if line["key"] == "file":
                named.append(line["value"]["path"])
                self.files[named[-1]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                named.append(line["value"]["path"])
                del self.files[named[-1]]
        digest = hashlib.sha1(self.revision.encode(), usedforsecurity=False)
        for name, content in sorted(self.files.items()):
            digest.update(name.encode() + content)
        self.revision = digest.hexdigest()
        return named

    def at(self, revision: str) -> "Repo | None":
        """Return the repository at a revision; None if it has no such revision."""
        if revision in (self.revision, "main"):
            return self
        older = self.older.get(revision)
        return None if older is None else Repo(older, revision, self.gated)


def hub_environment(url: str, home: Path, **more: str) -> dict[str, str]:
    """Return the environment of a process whose hub is at a URL, and whose cache is below `home`."""
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_ENDPOINT": url,
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        **more,
    }


@dataclass
class HubServer:
    """A hub on the loopback interface; `with HubServer() as hub:` starts and stops it."""

    page: int = 1000  # entries of a page of a listing
    token: str = "hf_token"  # noqa: S105 -- what opens gated repositories here
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    commits: list[list[str]] = field(default_factory=list)  # files that each commit names

    def __enter__(self) -> "HubServer":
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(
        self,
        repo: str,
        files: Mapping[str, bytes],
        revision: str | None = None,
        kind: Literal["dataset", "model"] = "dataset",
        gated: bool = False,
    ) -> str:
        """Serve a repository at one revision, and return the revision."""
        revision = revision or hashlib.sha1(repo.encode(), usedforsecurity=False).hexdigest()
        self.repos[kind, repo] = Repo(dict(files), revision, gated)
        return revision

    def asked(self, ending: str = "", method: str | None = None) -> list[Request]:
        """Return the requests so far whose path ends so."""
        return [r for r in self.requests if r.path.endswith(ending) and method in (None, r.method)]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: HubServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # clients may go away
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    request_: Request

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        """Take what an upload of small files asks for: a repository, what to send how, and one commit with the contents."""
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.request_ = Request("POST", path, None, self.headers.get("Authorization"))
        hub.requests.append(self.request_)
        if self.request_.authorization != f"Bearer {hub.token}":
            return self._refuse(401, "")
        if path == "/api/validate-yaml":
            return self._answer(b'{"errors": [], "warnings": []}')
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            kind = asked.get("type", "model")
            there = (kind, name) in hub.repos
            if not there:
                hub.add(name, {}, kind=kind)
            url = f"{hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
            return self._answer(json.dumps({"url": url}).encode(), 409 if there else 200)
        match = re.fullmatch(r"/api/(model|dataset)s/([^/]+/[^/]+)/(preupload|commit)/main", path)
        repo = hub.repos.get((match[1], match[2])) if match else None
        if not match or repo is None:
            return self._refuse(404, "RepoNotFound")
        if match[3] == "preupload":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "regular",
                    "shouldIgnore": False,
                    "oid": _blob(repo.files[file["path"]]) if file["path"] in repo.files else None,
                }
                for file in json.loads(body)["files"]
            ]
            return self._answer(json.dumps({"files": files}).encode())
        hub.commits.append(repo.commit(map(json.loads, body.splitlines())))
        folder = "datasets/" if match[1] == "dataset" else ""
        commit = f"{hub.url}/{folder}{match[2]}/commit/{repo.revision}"
        return self._answer(json.dumps({"commitUrl": commit, "commitOid": repo.revision}).encode())

    def _serve(self) -> None:
        hub, url = self.server.hub, urlsplit(self.path)
        path = unquote(url.path)
        self.request_ = Request(
            self.command, path, self.headers.get("Range"), self.headers.get("Authorization")
        )
        hub.requests.append(self.request_)
        if fault := self._fault("status"):
            return self._refuse(fault.status or 500, fault.code)
        if match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/(?:resolve|raw)/([^/]+)/(.+)", path):
            prefix, name, revision, file = match.groups()
            kind, rest = "dataset" if prefix else "model", f"/resolve/{revision}"
        elif match := re.fullmatch(r"/api/(dataset|model)s/([^/]+/[^/]+)((?:/.*)?)", path):
            kind, name, rest = match.groups()
            revision, file = [*rest.split("/"), "", ""][2] or "main", None
        else:
            return self._refuse(404, "RepoNotFound")
        repo = hub.repos.get((kind, name))
        if repo is None:
            return self._refuse(404, "RepoNotFound")
        if (repo := repo.at(revision)) is None:
            return self._refuse(404, "RevisionNotFound")
        if file is not None:
            return self._file(repo, file)
        if rest.startswith("/tree/"):
            return self._tree(repo, "/".join(rest.split("/")[3:]), parse_qs(url.query))
        siblings = [{"rfilename": file} for file in repo.files]
        about = {
            "id": name,
            "sha": repo.revision,
            "siblings": siblings,
            "private": False,
            "gated": repo.gated,
            "tags": [],
            "downloads": 0,
            "likes": 0,
        }
        return self._answer(json.dumps(about).encode())

    def _fault(self, kind: str) -> Fault | None:
        for fault in self.server.hub.faults:
            if (
                self.request_.path.endswith(fault.path)
                and getattr(fault, kind) is not None
                and fault.times
            ):
                fault.times -= 1
                return fault
        return None

    def _file(self, repo: Repo, name: str) -> None:
        commit = {"X-Repo-Commit": repo.revision}
        if repo.gated and self.request_.authorization != f"Bearer {self.server.hub.token}":
            return self._refuse(403 if self.request_.authorization else 401, "GatedRepo")
        if name not in repo.files:
            return self._refuse(404, "EntryNotFound", commit)
        content = repo.files[name]
        headers = {
            **commit,
            "ETag": f'"{_sha256(content) if len(content) > LFS else _blob(content)}"',
            "Accept-Ranges": "bytes",
        }
        if self.command == "GET" and (fault := self._fault("flip")):
            at = fault.flip or 0
            content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        status, start = 200, 0
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.request_.range or ""):
            status, start, end = 206, int(match[1]), int(match[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content = content[start : end + 1]
        return self._answer(content, status, headers)

    def _tree(self, repo: Repo, under: str, query: dict[str, list[str]]) -> None:
        recursive = query.get("recursive", ["false"])[0].lower() == "true"
        folders = {
            file.rsplit("/", depth)[0]
            for file in repo.files
            for depth in range(1, file.count("/") + 1)
        }
        entries = [
            {"type": "directory", "oid": _blob(name.encode()), "size": 0, "path": name}
            for name in folders
        ]
        for name, content in repo.files.items():
            entry: dict[str, Any] = {
                "type": "file",
                "oid": _blob(content),
                "size": len(content),
                "path": name,
            }
            if len(content) > LFS:
                entry["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 134}
            entries.append(entry)
        prefix = f"{under}/" if under else ""
        inside = [
            e
            for e in entries
            if e["path"].startswith(prefix) and (recursive or "/" not in e["path"][len(prefix) :])
        ]
        if under and not inside:
            return self._refuse(404, "EntryNotFound")
        inside.sort(key=lambda entry: entry["path"])
        start, page = int(query.get("cursor", ["0"])[0]), self.server.hub.page
        headers = {}
        if start + page < len(inside):
            link = f"{self.server.hub.url}{urlsplit(self.path).path}?recursive={recursive}&cursor={start + page}"
            headers["Link"] = f'<{link}>; rel="next"'
        return self._answer(json.dumps(inside[start : start + page]).encode(), 200, headers)

    def _refuse(self, status: int, code: str, headers: Mapping[str, str] | None = None) -> None:
        self._answer(b"{}", status, {**(headers or {}), **({"X-Error-Code": code} if code else {})})

    def _answer(
        self, content: bytes, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        self.request_.status = status
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault := self._fault("cut"):
            content, self.close_connection = content[: fault.cut], True
        self.request_.sent = len(content)
        self.wfile.write(content)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def png(seed: int, size: int = 8) -> bytes:
    """Return a picture of noise, which differs from seed to seed, as a PNG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def parquet(
    images: Sequence[tuple[Any, bytes]],
    names: Sequence[str] | None,
    image: str = "image",
    label: str = "label",
    extra: Mapping[str, Sequence[Any]] | None = None,
    struct: bool = True,
) -> bytes:
    """Return labeled pictures as `datasets` writes them; bool labels stay bool, and `struct=False` is plain bytes."""
    labels = pa.array([one for one, _ in images])
    kind: dict[str, Any] = {"dtype": str(labels.type), "_type": "Value"}
    if names is not None:
        kind = {"names": list(names), "_type": "ClassLabel"}
    about = {"info": {"features": {image: {"_type": "Image"}, label: kind}}}
    contents = pa.array([content for _, content in images], pa.binary())
    if struct:
        contents = pa.StructArray.from_arrays(
            [contents, pa.nulls(len(images), pa.string())], ["bytes", "path"]
        )
    table = pa.table({image: contents, label: labels, **(extra or {})})
    buffer = io.BytesIO()
    metadata = {"huggingface": json.dumps(about)}
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), buffer, row_group_size=100)
    return buffer.getvalue()


def wds(
    images: Sequence[tuple[int, bytes]],
    names: Sequence[str],
    split: str = "test",
    shard: int | None = None,
) -> dict[str, bytes]:
    """Return a repository in the layout of CLIP_benchmark, with so many samples a shard, as lossless webp."""
    shard = shard or len(images)
    files = {
        "classnames.txt": "".join(f"{name}\n" for name in names).encode(),
        "zeroshot_classification_templates.txt": b"a photo of a {c}.\n",
        f"{split}/nshards.txt": str(-(-len(images) // shard)).encode(),
    }
    for start in range(0, len(images), shard):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for index, (label, content) in enumerate(images[start : start + shard], start):
                webp = io.BytesIO()
                Image.open(io.BytesIO(content)).save(webp, "webp", lossless=True)
                for kind, member in (("cls", str(label).encode()), ("webp", webp.getvalue())):
                    about = tarfile.TarInfo(f"s{index:07d}.{kind}")
                    about.size = len(member)
                    archive.addfile(about, io.BytesIO(member))
        files[f"{split}/{start // shard}.tar"] = buffer.getvalue()
    return files


def zipped(images: Sequence[tuple[str, bytes]], inside: str = "") -> bytes:
    """Return pictures in one folder a class."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for index, (name, content) in enumerate(images):
            archive.writestr("/".join(filter(None, (inside, name, f"{name}_{index}.png"))), content)
    return buffer.getvalue()

"""A small Hub on the loopback interface, for tests that upload and download with the real `huggingface_hub` client.

It speaks the requests that huggingface_hub 2.4 makes for models: who am I, create repository, validate the card,
preupload, LFS batch with PUT and verify, commit, model info, tree, and resolve with redirects to signed URLs,
ranges and the Hub's own error headers. State lives in memory and ends with the server.

    with HubServer(token="hf_valid") as hub:
        HfApi(endpoint=hub.url, token="hf_valid").create_repo("user/name")

It offers no Xet storage, and the client uploads through Xet wherever hf_xet is installed, whatever the server
offers: set HF_HUB_DISABLE_XET=1 in a process that uploads (downloads need nothing).
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

GITATTRIBUTES = b"".join(
    b"*.%s filter=lfs diff=lfs merge=lfs -text\n" % suffix for suffix in (b"bin", b"pt", b"png", b"safetensors")
)
LFS_SUFFIXES = (".bin", ".pt", ".png", ".safetensors")
LFS_FROM_BYTES = 10_000_000


def sha256_hex(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_blob_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit. LFS files are known to git by a pointer and to the Hub by their SHA-256."""

    content: bytes
    is_lfs: bool

    @property
    def pointer(self) -> bytes:
        return b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (
            sha256_hex(self.content).encode(),
            len(self.content),
        )

    @property
    def blob_oid(self) -> str:
        return git_blob_oid(self.pointer if self.is_lfs else self.content)

    @property
    def upload_oid(self) -> str:
        """What the preupload answer calls `oid`: the client skips a file whose own equals it."""
        return sha256_hex(self.content) if self.is_lfs else self.blob_oid

    def entry(self, path: str) -> dict:
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.blob_oid}
        if self.is_lfs:
            lfs = {"oid": sha256_hex(self.content), "size": len(self.content), "pointerSize": len(self.pointer)}
            entry["lfs"] = lfs
        return entry


@dataclass
class Repository:
    """Commits of one model, oldest first, each a mapping of paths to files."""

    private: bool
    commits: list[tuple[str, str, dict[str, StoredFile]]] = field(default_factory=list)

    def commit(self, title: str, files: dict[str, StoredFile]) -> str:
        listing = "".join(f"{path}{file.blob_oid}" for path, file in sorted(files.items()))
        oid = hashlib.sha1(f"{len(self.commits)}{title}{listing}".encode()).hexdigest()
        self.commits.append((oid, title, files))
        return oid

    def at(self, revision: str) -> tuple[str, dict[str, StoredFile]] | None:
        if revision in ("main", "HEAD"):
            revision = self.commits[-1][0]
        return next(((oid, files) for oid, _, files in self.commits if oid == revision), None)


class Refusal(Exception):  # noqa: N818 - an answer of the server, not an error of the tests
    """An error answer: status, the Hub's error code header (may be empty) and message, and more headers."""

    def __init__(self, status: int, code: str, message: str, **headers: str):
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers


class HubServer:
    """The Hub, as a context manager.

    Args:
        token: the token that may write.
        user: the name that owns the token.
        read_token: a valid token that may not write.

    Attributes:
        url: endpoint to give to the client.
        repositories: what was uploaded, by "user/name".
        requests: method and path of each request served, in order.
        failures: `{part of a path: status}`; requests to such a path are refused, to test what a client does then.
    """

    def __init__(self, token: str = "hf_valid", user: str = "user", read_token: str = "hf_read"):
        self.token, self.user, self.read_token = token, user, read_token
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.failures: dict[str, int] = {}
        self.lock = threading.RLock()
        handler = type("Handler", (HubHandler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{port}"
        # The same server under another name: the client follows redirects within a host and takes a redirect to
        # another one for the address of a stored file, to which it sends no token.
        self.storage_url = f"http://localhost:{port}"
        # A short poll makes closing quick.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def files(self, repo_id: str) -> dict[str, bytes]:
        """Return the newest content of a repository, without the .gitattributes that the Hub adds."""
        _, _, files = self.repositories[repo_id].commits[-1]
        return {path: file.content for path, file in files.items() if path != ".gitattributes"}


REPO = r"(?P<repo>[^/]+/[^/]+)"
Route = tuple[str, re.Pattern[str], str]
ROUTES: list[Route] = [
    (method, re.compile(pattern + r"\Z"), name)
    for method, pattern, name in [
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("POST", rf"/api/models/{REPO}/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/_lfs/(?P<oid>[0-9a-f]{64})", "lfs_put"),
        ("POST", rf"/{REPO}\.git/info/lfs/verify", "lfs_verify"),
        ("POST", rf"/api/models/{REPO}/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", rf"/api/models/{REPO}/paths-info/(?P<revision>[^/]+)", "paths_info"),
        ("GET", rf"/api/models/{REPO}", "model_info"),
        ("GET", rf"/api/models/{REPO}/revision/(?P<revision>[^/]+)", "model_info"),
        ("GET", rf"/api/models/{REPO}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", "tree"),
        ("GET", rf"/api/models/{REPO}/refs", "refs"),
        ("GET", rf"/api/models/{REPO}/commits/(?P<revision>[^/]+)", "commits"),
        ("GET", rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
        ("GET", r"/_cdn/(?P<oid>[0-9a-f]{64})", "cdn"),
    ]
]


class HubHandler(BaseHTTPRequestHandler):
    """Answers one connection; `hub` is the server it belongs to."""

    hub: HubServer
    protocol_version = "HTTP/1.1"
    # Headers and body leave in separate writes; with Nagle's algorithm each answer would wait 40 ms.
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Say nothing; `HubServer.requests` is the log."""

    def do_GET(self) -> None:
        self._serve("GET")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def _serve(self, method: str) -> None:
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), {key: values[-1] for key, values in parse_qs(url.query).items()}
        self.body = self._read_body()
        with self.hub.lock:
            self.hub.requests.append((self.command, path))
            try:
                for part, status in self.hub.failures.items():
                    if part in path:
                        raise Refusal(status, "", f"refused by the test: {part}")
                self._route(method, path)
            except Refusal as error:
                headers = {"X-Error-Message": error.message, **error.headers}
                if error.code:
                    headers["X-Error-Code"] = error.code
                self._json({"error": error.message}, error.status, headers)

    def _route(self, method: str, path: str) -> None:
        for route_method, pattern, name in ROUTES:
            match = pattern.match(path)
            if match and route_method == method:
                answer: Callable[..., None] = getattr(self, name)
                return answer(**match.groupdict())
        raise Refusal(404, "", f"no such route: {method} {path}")

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send_content(self, content: bytes, headers: dict[str, str]) -> None:
        """Send a file, or the part of it that a Range header asks for."""
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self._send(200, content, headers)
        start, last = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
        if start > last:
            return self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
        return self._send(206, content[start : last + 1], headers)

    def _authenticate(self, *, write: bool = False) -> bool:
        """Return whether a valid token was sent; refuse a wrong one, and with `write` one that cannot write."""
        scheme, _, sent = self.headers.get("Authorization", "").partition(" ")
        if scheme and sent not in (self.hub.token, self.hub.read_token):
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        if write and not scheme:
            raise Refusal(401, "", "Invalid username or password.")
        if write and sent == self.hub.read_token:
            raise Refusal(403, "", "this token has read access only; use one with write access")
        return bool(scheme)

    def _repository(self, repo: str, *, write: bool = False) -> Repository:
        authenticated = self._authenticate(write=write)
        found = self.hub.repositories.get(repo)
        if found is None or (found.private and not authenticated):
            # The Hub does not tell strangers whether a private repository exists.
            raise Refusal(404 if authenticated else 401, "RepoNotFound", "Repository not found")
        return found

    def _files(self, repo: str, revision: str, *, write: bool = False) -> tuple[str, dict[str, StoredFile]]:
        found = self._repository(repo, write=write).at(revision)
        if found is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def whoami(self) -> None:
        if not self._authenticate():
            raise Refusal(401, "", "Invalid username or password.")
        role = "write" if self.headers["Authorization"].endswith(self.hub.token) else "read"
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
        self._json({"type": "user", "name": self.hub.user, "orgs": [{"name": "lab"}], "auth": auth})

    def create(self) -> None:
        self._authenticate(write=True)
        asked = json.loads(self.body)
        owner = asked.get("organization") or self.hub.user
        repo = f"{owner}/{asked['name']}"
        if owner not in (self.hub.user, "lab"):
            raise Refusal(403, "", f"You don't have the rights to create a model under the namespace {owner!r}")
        answer = {"url": f"{self.hub.url}/{repo}", "name": repo, "id": repo}
        if repo in self.hub.repositories:
            return self._json({**answer, "error": "You already created this model repo"}, 409)
        created = self.hub.repositories[repo] = Repository(private=asked.get("visibility") == "private")
        created.commit("initial commit", {".gitattributes": StoredFile(GITATTRIBUTES, is_lfs=False)})
        return self._json(answer)

    def validate_yaml(self) -> None:
        content = json.loads(self.body)["content"]
        block = re.match(r"---\r?\n(.*?)\r?\n---", content, re.DOTALL)
        metadata = yaml.safe_load(block[1]) if block else {}
        errors = [] if isinstance(metadata, dict) else [{"message": "metadata should be a mapping"}]
        for entry in metadata.get("model-index", []) if not errors else []:
            errors += [{"message": f'"model-index" needs "{key}"'} for key in ("name", "results") if key not in entry]
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, repo: str, revision: str) -> None:
        _, files = self._files(repo, revision, write=True)
        answers = []
        for asked in json.loads(self.body)["files"]:
            is_binary = b"\0" in base64.b64decode(asked["sample"])
            is_lfs = is_binary or asked["size"] > LFS_FROM_BYTES or asked["path"].endswith(LFS_SUFFIXES)
            existing = files.get(asked["path"])
            answers.append(
                {
                    "path": asked["path"],
                    "uploadMode": "lfs" if is_lfs else "regular",
                    "shouldIgnore": False,
                    "oid": existing.upload_oid if existing else None,
                }
            )
        self._json({"files": answers})

    def lfs_batch(self, repo: str) -> None:
        self._repository(repo, write=True)
        answers = []
        for asked in json.loads(self.body)["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.objects:
                # Signed, as storage takes no Hub token.
                upload = f"{self.hub.storage_url}/_lfs/{asked['oid']}?signature={self._signature(asked['oid'])}"
                verify = f"{self.hub.url}/{repo}.git/info/lfs/verify"
                answer["actions"] = {"upload": {"href": upload}, "verify": {"href": verify}}
            answers.append(answer)
        self._json({"transfer": "basic", "objects": answers})

    def _signature(self, oid: str) -> str:
        return sha256_hex(f"{self.hub.token}{oid}".encode())[:16]

    def _check_signature(self, oid: str) -> None:
        if self.query.get("signature") != self._signature(oid):
            raise Refusal(403, "", "The signature does not match")

    def lfs_put(self, oid: str) -> None:
        self._check_signature(oid)
        if "Authorization" in self.headers:
            raise Refusal(400, "", "Storage takes a signature and must not see the Hub token")
        if sha256_hex(self.body) != oid:
            raise Refusal(400, "", "The content does not have this SHA-256")
        self.hub.objects[oid] = self.body
        self._send(200, b"", {"ETag": f'"{oid}"'})

    def lfs_verify(self, repo: str) -> None:
        self._repository(repo, write=True)
        asked = json.loads(self.body)
        if len(self.hub.objects.get(asked["oid"], b"")) != asked["size"]:
            raise Refusal(404, "", f"LFS object {asked['oid']} was not uploaded completely")
        self._json({})

    def commit(self, repo: str, revision: str) -> None:
        _, before = self._files(repo, revision, write=True)
        files, title = dict(before), ""
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            match operation["key"]:
                case "header":
                    title = value["summary"]
                case "file":
                    files[value["path"]] = StoredFile(base64.b64decode(value["content"]), is_lfs=False)
                case "lfsFile":
                    if value["oid"] not in self.hub.objects:
                        raise Refusal(400, "", f"LFS pointer points to a missing object: {value['path']}")
                    files[value["path"]] = StoredFile(self.hub.objects[value["oid"]], is_lfs=True)
                case "deletedFile":
                    del files[value["path"]]
                case "deletedFolder":
                    files = {path: file for path, file in files.items() if not path.startswith(value["path"])}
                case key:
                    raise Refusal(400, "", f"unknown operation {key}")
        oid = self.hub.repositories[repo].commit(title, files)
        url = f"{self.hub.url}/{repo}/commit/{oid}"
        self._json({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def model_info(self, repo: str, revision: str = "main") -> None:
        oid, files = self._files(repo, revision)
        siblings = [{"rfilename": path} for path in sorted(files)]
        owner, private = repo.split("/")[0], self.hub.repositories[repo].private
        self._json({"id": repo, "author": owner, "sha": oid, "private": private, "siblings": siblings, "tags": []})

    def tree(self, repo: str, revision: str, folder: str | None) -> None:
        _, files = self._files(repo, revision)
        prefix = f"{folder}/" if folder else ""
        inside = {path: file for path, file in sorted(files.items()) if path.startswith(prefix)}
        if folder and not inside:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist on {revision!r}")
        recursive = self.query.get("recursive", "").lower() in ("true", "1")
        entries: dict[str, dict] = {}
        for path, file in inside.items():
            *folders, _ = path.removeprefix(prefix).split("/")
            for depth in range(1, len(folders) + 1):
                name = prefix + "/".join(folders[:depth])
                if recursive or depth == 1:
                    entries[name] = {"type": "directory", "path": name, "oid": git_blob_oid(name.encode()), "size": 0}
            if recursive or not folders:
                entries[path] = file.entry(path)
        self._json(list(entries.values()))

    def paths_info(self, repo: str, revision: str) -> None:
        _, files = self._files(repo, revision)
        asked = json.loads(self.body)["paths"]
        self._json([files[path].entry(path) for path in asked if path in files])

    def refs(self, repo: str) -> None:
        oid, _ = self._files(repo, "main")
        branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": oid}
        self._json({"branches": [branch], "converts": [], "tags": []})

    def commits(self, repo: str, revision: str) -> None:
        self._files(repo, revision)
        date = "2026-01-01T00:00:00.000Z"
        self._json(
            [
                {"id": oid, "title": title, "message": "", "date": date, "authors": [{"user": self.hub.user}]}
                for oid, title, _ in reversed(self.hub.repositories[repo].commits)
            ]
        )

    def resolve(self, repo: str, revision: str, path: str) -> None:
        oid, files = self._files(repo, revision)
        file = files.get(path)
        if file is None:
            raise Refusal(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": oid})
        if not file.is_lfs:
            return self._send_content(file.content, {"X-Repo-Commit": oid, "ETag": f'"{file.blob_oid}"'})
        sha256 = sha256_hex(file.content)
        headers = {
            "X-Repo-Commit": oid,
            "X-Linked-Etag": f'"{sha256}"',
            "X-Linked-Size": str(len(file.content)),
            "Location": f"{self.hub.storage_url}/_cdn/{sha256}?signature={self._signature(sha256)}",
        }
        return self._send(302, b"", headers)

    def cdn(self, oid: str) -> None:
        self._check_signature(oid)
        self._send_content(self.hub.objects[oid], {"ETag": f'"{oid}"'})

"""The few endpoints of a Hugging Face hub that a download needs, on loopback.

Knows: one repository, its files and their digests; how to serve a file that does not match its digest, or only half.
Never knows: Guardhouse.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


class Hub(BaseHTTPRequestHandler):
    """GET and HEAD of the model's description and of its files, with ranges."""

    server: "HubServer"

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        resolve = f"/{self.server.repo}/resolve/{COMMIT}/"
        if path in {
            f"/api/models/{self.server.repo}",
            *(f"/api/models/{self.server.repo}/revision/{r}" for r in ("main", COMMIT)),
        }:
            self.reply(json.dumps(self.description()).encode(), {"content-type": "application/json"}, with_body)
        elif path.startswith(f"/api/models/{self.server.repo}/tree/"):
            self.reply(json.dumps(self.tree()).encode(), {"content-type": "application/json"}, with_body)
        elif path.startswith(resolve) and path.removeprefix(resolve) in self.server.files:
            self.send_file(path.removeprefix(resolve), with_body)
        else:
            self.reply(b'{"error": "Repository not found"}', {"x-error-code": "RepoNotFound"}, with_body, status=404)

    def description(self) -> dict[str, object]:
        return {"id": self.server.repo, "modelId": self.server.repo, "sha": COMMIT, "siblings": [*self.siblings()]}

    def siblings(self) -> Iterator[dict[str, object]]:
        for name, content in self.server.files.items():
            digest = hashlib.sha256(content).hexdigest()
            lfs = {"lfs": {"sha256": digest, "size": len(content), "pointerSize": 134}} if is_large(name) else {}
            yield {"rfilename": name, "size": len(content), "blobId": digest[:40], **lfs}

    def tree(self) -> list[dict[str, object]]:
        found = []
        for sibling in self.siblings():
            lfs = sibling.get("lfs")
            oid = lfs["sha256"] if isinstance(lfs, dict) else sibling["blobId"]
            entry = {"type": "file", "path": sibling["rfilename"], "size": sibling["size"], "oid": sibling["blobId"]}
            found.append(entry | ({"lfs": {"oid": oid, "size": sibling["size"], "pointerSize": 134}} if lfs else {}))
        return found

    def send_file(self, name: str, with_body: bool) -> None:
        content = self.server.served.get(name, self.server.files[name])
        digest = hashlib.sha256(self.server.files[name]).hexdigest()
        headers = {"x-repo-commit": COMMIT, "etag": f'"{digest if is_large(name) else digest[:40]}"'}
        if is_large(name):
            headers |= {"x-linked-etag": f'"{digest}"', "x-linked-size": str(len(content))}
        start = int((self.headers.get("range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if with_body:
            self.server.starts.append((name, start))
        if start:
            headers["content-range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.reply(content[start:], headers, with_body, status=206 if start else 200)

    def reply(self, body: bytes, headers: Mapping[str, str], with_body: bool, status: int = 200) -> None:
        self.send_response(status)
        for key, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body[: self.server.stall_after])
            if len(body) > self.server.stall_after:
                self.wfile.flush()
                self.server.has_stalled.set()
                self.server.may_go_on.wait()

    def log_message(self, *_: object) -> None:
        """Tests print nothing."""


class HubServer(ThreadingHTTPServer):
    """`served` may hold other bytes for a file than `files`, which the digests are made of.

    A body longer than `stall_after` bytes stops there, connection open, until `may_go_on`; `has_stalled` tells so.
    """

    daemon_threads = True

    def __init__(self, repo: str, files: Mapping[str, bytes], served: Mapping[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Hub)
        self.repo = repo
        self.files = files
        self.served = served
        self.asked: list[str] = []
        self.starts: list[tuple[str, int]] = []  # files sent, and from which byte
        self.stall_after = 1 << 40
        self.has_stalled, self.may_go_on = threading.Event(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def loopback_hub(
    repo: str, files: Mapping[str, bytes], served: Mapping[str, bytes] | None = None
) -> Iterator[HubServer]:
    server = HubServer(repo, files, served or {})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.may_go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()

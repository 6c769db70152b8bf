"""A stand-in for the Hugging Face hub, the CDN of plain HTTP and the servers of Xet, with faults on demand.

    with Hub() as hub:
        hub.put("MTMC/val/W/videos/Camera_01.mp4", Path("clip.mp4"))
        hub.fault("Camera_01.mp4", "reset", stage="xorb", after=1000, times=2)
        subprocess.run([...], env={**os.environ, **hub.env(tmp_path)})
        assert hub.count(host="xorb") == 3 and not hub.bytes_sent("cdn")

By plain HTTP a client asks "hub" for an address and "cdn" for the file. By Xet it asks "hub" for a hash,
"token" (a route of the hub) for an access token, "cas" for a plan, and "xorb" for each part of it. The client
checks no hash of what it gets, so SHA-256 does for all hashes here. "sizes" is a route of the hub, too.
"""
from __future__ import annotations

import hashlib
import itertools
import json
import re
import select
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Union
from urllib.parse import parse_qs, quote, unquote, urlsplit

Content = Union[bytes, Path]

REPO = "nvidia/PhysicalAI-SmartSpaces"
CHUNK = 64 * 1024
PART = 128 * 1024  # of a file: one xorb with one chunk; no client takes larger chunks
XORB_HEADER = 8  # version (1 byte), stored length (3, little endian), compression (1, none), length (3)
# A file, Xet's access token, or the sizes of files.
HUB_URL = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)|/api/datasets/.+/xet-read-token/[^/]+|"
                     r"/api/datasets/(?P<repo>[^/]+/[^/]+)/paths-info/[^/]+")
API = {"token": "/xet-read-token/", "sizes": "/paths-info/"}
SIGNED_URLS = {
    "cdn": re.compile(r"/lfs/([^/]+/[^/]+)/(.+)"),
    "cas": re.compile(r"/(v[12])/reconstructions/([0-9a-f]{64})"),
    "xorb": re.compile(r"/xorbs/(\d+)/([0-9a-f]{64})"),
}
# Faults at any stage: an HTTP status, perhaps with an X-Error-Code of the hub ("403-GatedRepo") or an unusual
# reason ("502 Proxy Error"); or one of these, after `after` bytes of a file's answer, else before any answer.
# An answer may be a range, and by Xet it is a part of the file.
BREAKS = ("reset", "stall", "close")
# And on the way of a file:
# wrong-bytes: its byte `after` is inverted.
# wrong-length: half of it (by Xet: of a part), complete by its Content-Length.
# ignore-range: the whole file, by cdn.
# expired: the signature of this request, to cdn, is dead from now on; a new one works.
ON_THE_WAY = ("wrong-bytes", "wrong-length", "ignore-range", "expired")
STATUS = re.compile(r"(\d{3})(?:-(\w+))?(?: (.+))?")


@dataclass
class Fault:
    path: str  # any part of the file's path (of the URL's, if there is no file); "" meets everything
    kind: str
    stage: str  # the host at which it happens
    times: int | None = 1  # None: always
    after: int | None = None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass
class Request:
    host: str  # "hub", "token", "sizes", "cas", "xorb" or "cdn"
    path: str
    query: str
    range: str | None
    authorization: str | None
    bytes_sent: int = 0  # of the body; grows while the answer is under way
    file: str = ""  # its path in the repository, which a URL of Xet's does not tell


class Blob:
    def __init__(self, content: Content, lfs: bool = True) -> None:
        self.data, self.lfs = content.read_bytes() if isinstance(content, Path) else content, lfs
        self.size = len(self.data)
        digest = hashlib.sha256() if lfs else hashlib.sha1(b"blob %d\0" % self.size)
        digest.update(self.data)
        self.etag = digest.hexdigest()
        self.xet_hash = hashlib.sha256(b"xet" + self.etag.encode()).hexdigest()


class Hub:
    def __init__(self) -> None:
        self.commit = "0123456789abcdef0123456789abcdef01234567"
        self.token: str | None = None  # that a client must have
        self.bandwidth: float | None = None  # bytes a second, for each request to cdn or xorb
        self.repos: dict[str, dict[str, Blob]] = {REPO: {}}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.signatures: set[str] = set()
        self.numbers = itertools.count(1)
        self.lock = threading.Lock()
        self.by_xet_hash: dict[str, tuple[str, Blob]] = {}  # path and content behind each hash given out
        self.listeners = {host: Listener(self, host) for host in ("hub", "cas", "xorb", "cdn")}
        ports = {host: listener.server_address[1] for host, listener in self.listeners.items()}
        self.endpoint, self.cas = (f"http://127.0.0.1:{ports[host]}" for host in ("hub", "cas"))
        # A different host name, so that a client which tells hosts apart by name alone passes too.
        self.storage, self.cdn = (f"http://localhost:{ports[host]}" for host in ("xorb", "cdn"))

    def __enter__(self) -> Hub:
        for listener in self.listeners.values():
            threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        for host in self.listeners:
            self.refuse(host)

    def refuse(self, host: str) -> None:
        """Let nobody answer at this host from now on."""
        self.listeners[host].stopping.set()
        self.listeners[host].shutdown()
        self.listeners[host].server_close()

    def put(self, path: str, content: Content) -> None:
        self.repos[REPO][path] = Blob(content)

    def fault(self, path: str, kind: str, stage: str, **options: Any) -> None:
        assert stage in (*self.listeners, *API) and (kind in BREAKS + ON_THE_WAY or STATUS.fullmatch(kind)), kind
        self.faults.append(Fault(path, kind, stage, **options))

    def take_fault(self, path: str, stage: str, part: int | None = None) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.path not in path or fault.stage != stage or fault.times == 0:
                    continue
                # By Xet the byte lies in one part only.
                if fault.kind == "wrong-bytes" and part not in (None, (fault.after or 0) // PART):
                    continue
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None

    def sign(self) -> str:
        signature = f"SIGNED-{next(self.numbers):04}"
        self.signatures.add(signature)
        return signature

    def signed_url(self, address: str, path: str) -> str:
        return f"{address}/{quote(path)}?X-Amz-Expires=3600&X-Amz-Signature={self.sign()}"

    def requests_for(self, host: str, path: str) -> list[Request]:
        """Return the requests to a host for files whose path contains this."""
        return [request for request in list(self.requests)
                if request.host == host and (path in request.path or path in request.file)]

    def count(self, host: str, path: str = "") -> int:
        return len(self.requests_for(host, path))

    def bytes_sent(self, host: str, path: str = "") -> int:
        """Return what went into the sockets; a client that hung up has not read all of it."""
        return sum(request.bytes_sent for request in self.requests_for(host, path))

    def env(self, folder: Path) -> dict[str, str]:
        return {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(folder / "hf_home"),
                "HF_HUB_DOWNLOAD_TIMEOUT": "2", "HF_HUB_ETAG_TIMEOUT": "2"}


class Listener(ThreadingHTTPServer):
    block_on_close = False  # a stalled answer must not hold up the end of a test
    request_queue_size = 128

    def __init__(self, hub: Hub, host: str) -> None:
        self.hub, self.host, self.stopping = hub, host, threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener
    record: Request
    asked_paths: list[str]

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def log_message(self, *_args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.server.stopping.is_set():  # on a connection from before
            self.close_connection = True
            return
        url = urlsplit(self.path)
        host = next((name for name, route in API.items() if route in url.path), self.server.host)
        host = "cdn" if url.path.startswith("/lfs/") else host  # also if the hub itself has the files
        self.record = Request(host, unquote(url.path), url.query,
                              self.headers.get("Range"), self.headers.get("Authorization"))
        self.hub.requests.append(self.record)
        try:
            is_signed = host == "cdn" or self.server.host != "hub"
            answer = self.answer_signed if is_signed else self.answer_as_hub
            answer(url.path)
        except ConnectionError:  # a client that hangs up is part of the game
            self.close_connection = True

    do_HEAD = do_GET

    def do_POST(self) -> None:
        form = self.rfile.read(int(self.headers["Content-Length"])).decode("ascii")
        self.asked_paths = parse_qs(form).get("paths", [])
        self.do_GET()

    def answer_as_hub(self, url_path: str) -> None:
        match, host = HUB_URL.fullmatch(url_path), self.record.host
        if match is None:
            return self.send_status("404-EntryNotFound")
        repo, revision, path = (unquote(part or "") for part in match.groups()[:3])
        self.record.file = path
        fault = self.hub.take_fault(path or url_path, host)
        if fault:
            return self.fail_early(fault)
        bearer = self.record.authorization
        if self.hub.token and bearer != f"Bearer {self.hub.token}":
            return self.send_status("401" if bearer else "401-RepoNotFound")
        if host != "hub":  # these two answer for any revision: a download may go on when the branch has moved
            return self.send_access_token() if host == "token" else self.send_sizes(match["repo"])
        if repo not in self.hub.repos:
            return self.send_status("404-RepoNotFound" if bearer else "401-RepoNotFound")
        if revision not in ("main", self.hub.commit):
            return self.send_status("404-RevisionNotFound")
        blob = self.hub.repos[repo].get(path)
        if blob is None:
            return self.send_status("404-EntryNotFound")
        headers = {"X-Repo-Commit": self.hub.commit, "ETag": f'"{blob.etag}"'}
        if not blob.lfs:
            return self.send_file(blob.data, headers)
        location = self.hub.signed_url(self.hub.cdn, f"lfs/{repo}/{path}")
        headers.update({"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(blob.size),
                        "Location": location})
        self.hub.by_xet_hash[blob.xet_hash] = path, blob
        route = f"{self.hub.endpoint}/api/datasets/{repo}/xet-read-token/{self.hub.commit}"
        headers.update({"X-Xet-Hash": blob.xet_hash, "Link": f'<{route}>; rel="xet-auth"'})
        self.send_small(302, b"Found. Redirecting to " + location.encode(), headers)
        return None

    def send_sizes(self, repo: str) -> None:
        files = self.hub.repos.get(repo, {})
        self.send_json([{"type": "file", "path": path, "size": files[path].size, "oid": files[path].etag}
                        for path in self.asked_paths if path in files])

    def send_access_token(self) -> None:
        token, expires = self.hub.sign(), int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": self.hub.cas, "X-Xet-Access-Token": token,
                   "X-Xet-Token-Expiration": str(expires)}
        self.send_json({"casUrl": self.hub.cas, "accessToken": token, "exp": expires}, **headers)

    def answer_signed(self, url_path: str) -> None:
        """Answer as cdn, cas or xorb: for a signed address or an access token only."""
        host, hub = self.record.host, self.hub
        match = SIGNED_URLS[host].fullmatch(url_path)
        place, name = match.groups() if match else ("", "")
        self.record.file, blob = hub.by_xet_hash.get(name, ("", None))
        if host == "cdn":
            self.record.file = unquote(name)
            blob = hub.repos.get(place, {}).get(self.record.file)
        if blob is None:
            return self.send_status("404")
        if host == "cas":
            key, refusal = (self.record.authorization or "").replace("Bearer ", "", 1), "401"
        else:
            key, refusal = parse_qs(self.record.query).get("X-Amz-Signature", [""])[0], "403"
        if key not in hub.signatures:
            return self.send_status(refusal)
        part = int(place) if host == "xorb" else None
        fault = hub.take_fault(self.record.file, host, part)
        if fault and fault.kind == "expired":
            hub.signatures.discard(key)
            return self.send_status(refusal)
        if fault and (STATUS.fullmatch(fault.kind) or fault.kind in BREAKS and fault.after is None):
            return self.fail_early(fault)
        if host == "cas":
            return self.send_plan(blob)
        data = blob.data
        if fault and fault.kind == "wrong-bytes":
            at = fault.after or 0
            data = data[:at] + bytes([255 - data[at]]) + data[at + 1:]
        if part is not None:
            data = data[part * PART:part * PART + PART]
            length = struct.pack("<I", len(data))[:3]
            data = b"\0" + length + b"\0" + length + data
        self.send_file(data, {"ETag": f'"{blob.etag}"', "X-Repo-Commit": hub.commit}, fault)
        return None

    def send_plan(self, blob: Blob) -> None:
        """Send where the parts with the wanted bytes are; the first may begin earlier, the last end later."""
        wanted = parse_range(self.record.range or "bytes=0-", blob.size)
        if wanted is None:
            return self.send_status("416")
        terms, places, chunks = [], {}, {"start": 0, "end": 1}
        for start in range(wanted[0] - wanted[0] % PART, wanted[1], PART):
            length = min(PART, blob.size - start)
            name = hashlib.sha256(f"{blob.xet_hash} {start}".encode()).hexdigest()
            url = self.hub.signed_url(self.hub.storage, f"xorbs/{start // PART}/{blob.xet_hash}")
            span = {"start": 0, "end": XORB_HEADER + length - 1}  # the end is inclusive
            terms.append({"hash": name, "unpacked_length": length, "range": chunks})
            places[name] = [{"url": url, "ranges": [{"chunks": chunks, "bytes": span}],  # for v2 of the API
                             "range": chunks, "url_range": span}]  # for v1
        self.send_json({"offset_into_first_range": wanted[0] % PART, "terms": terms,
                        "xorbs": places, "fetch_info": places})
        return None

    def send_json(self, value: Any, **headers: str) -> None:
        self.send_small(200, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})

    def send_file(self, data: bytes, headers: dict[str, str], fault: Fault | None = None) -> None:
        """Send the wanted range of it, at the hub's bandwidth."""
        kind = fault.kind if fault else ""
        if kind == "wrong-length":
            data = data[:len(data) // 2]
        status, start, stop = 200, 0, len(data)
        if self.record.range and kind != "ignore-range":
            wanted = parse_range(self.record.range, len(data))
            if wanted is None:
                return self.send_small(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            status, (start, stop) = 206, wanted
            headers = {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
        self.send_head(status, stop - start, {**headers, "Accept-Ranges": "bytes"})
        if self.command == "HEAD":
            return None
        if fault and kind in BREAKS:
            stop = min(stop, start + (fault.after or 0))
        began = time.monotonic()
        for at in range(start, stop, CHUNK):
            chunk = data[at:min(at + CHUNK, stop)]
            self.wfile.write(chunk)
            self.record.bytes_sent += len(chunk)
            if self.hub.bandwidth:
                time.sleep(max(0.0, began + self.record.bytes_sent / self.hub.bandwidth - time.monotonic()))
        if kind in BREAKS:
            self.break_off(kind)
        return None

    def fail_early(self, fault: Fault) -> None:
        if fault.kind in BREAKS:
            self.break_off(fault.kind)
        else:
            self.send_status(fault.kind, dict(fault.headers))

    def break_off(self, kind: str) -> None:
        self.close_connection = True
        if kind == "stall":
            while not self.server.stopping.is_set():
                readable, _, _ = select.select([self.connection], [], [], 0.05)
                if readable and not self.connection.recv(4096):
                    return
        elif kind == "reset":
            time.sleep(0.05)  # a reset throws away what has not left yet
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()  # holds the socket open otherwise
            self.connection.close()

    def send_status(self, kind: str, headers: dict[str, str] | None = None) -> None:
        status, code, reason = STATUS.fullmatch(kind).groups()  # type: ignore[union-attr]
        headers = {"Content-Type": "text/plain", **(headers or {})}
        if self.server.host == "hub":
            headers.update({"X-Error-Message": "No.", **({"X-Error-Code": code} if code else {})})
            if code == "EntryNotFound":
                headers["X-Repo-Commit"] = self.hub.commit
        self.send_small(int(status), b"No.", headers, reason)

    def send_small(
            self, status: int, body: bytes, headers: dict[str, str], reason: str | None = None) -> None:
        self.send_head(status, len(body), headers, reason)
        if self.command != "HEAD":
            self.wfile.write(body)
            self.record.bytes_sent += len(body)

    def send_head(self, status: int, length: int, headers: dict[str, str], reason: str | None = None) -> None:
        self.send_response(status, reason)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", header).groups()  # type: ignore[union-attr]
    start, stop = int(first), min(size, int(last) + 1) if last else size
    return (start, stop) if start < stop else None

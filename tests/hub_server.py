"""A stand-in for the Hugging Face hub, the CDN of plain HTTP and the servers of Xet, with scripted faults.

    with Hub({"MTMC/val/W/videos/Camera_01.mp4": Path("clip.mp4")}, xet=True) as hub:
        hub.fault("Camera_01.mp4", "reset", stage="xorb", after=1000, times=2)
        subprocess.run([...], env=hub.env(tmp_path, xet=True))
        assert hub.count(host="xorb") == 3 and not hub.bytes_sent("cdn")

By plain HTTP a client asks "hub" for a file's address and "cdn" for the file. By Xet it asks "hub" for its
hash, "token" (a route of the hub) for an access token, "cas" for a plan, and "xorb" for each part of the plan;
it checks no hash of what it gets, so SHA-256 does for all hashes here. A client that may not use Xet asks "hub"
twice for a file that lies on Xet.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import select
import socket
import socketserver
import struct
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import lru_cache, partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, BinaryIO, Callable, Union
from urllib.parse import parse_qs, quote, unquote, urlsplit

Content = Union[bytes, Path]

CHUNK = 64 * 1024
PART = 128 * 1024  # of a file: one xorb with one chunk; no client takes larger chunks
XORB_HEADER = 8  # version (1 byte), stored length (3, little endian), compression (1, none), length (3)
INVERTED = bytes(255 - value for value in range(256))
RESOLVE_URL = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
API_URL = re.compile(r"/api/datasets/([^/]+/[^/]+)(?:/(?:revision|xet-read-token)/([^/]+))?")
SIGNED_URLS = {
    "cdn": re.compile(r"/lfs/([^/]+/[^/]+)/(.+)"),
    "cas": re.compile(r"/(v[12])/reconstructions/([0-9a-f]{64})"),
    "xorb": re.compile(r"/xorbs/(\d+)/([0-9a-f]{64})"),
}

# kind of fault -> status, X-Error-Code, message
STATUS_FAULTS: dict[str, tuple[int, str | None, str]] = {
    "401": (401, None, "Invalid username or password."),
    "401-repo-not-found": (401, "RepoNotFound", "Repository not found"),
    "401-bad-token": (401, None, "Invalid credentials in Authorization header"),
    "401-gated": (401, "GatedRepo", "Access to this dataset is restricted. Please log in."),
    "403": (403, None, "Forbidden"),
    "403-gated": (403, "GatedRepo", "Access to this dataset is restricted and you are not in the authorized list."),
    "404-entry": (404, "EntryNotFound", "Entry not found"),
    "404-repo": (404, "RepoNotFound", "Repository not found"),
    "404-revision": (404, "RevisionNotFound", "Invalid rev id"),
    "416": (416, None, "Requested range not satisfiable"),
    "429": (429, None, "We had to rate limit you."),
    "500": (500, None, "Internal Error - We're working hard to fix this as soon as possible!"),
    "503": (503, None, "Service Unavailable"),
}
# After `after` bytes of the body; None: before any answer. "truncate" is "close".
BREAKS = {"reset", "stall", "close", "truncate"}
# wrong-bytes: inverted from byte `after` on; by Xet only the byte `after` of the file.
# wrong-length: a whole file (part, plan) of `after` bytes, None: of half its bytes, and the answer says so.
# expired: the signature or access token of this request is dead from now on; a new one works.
BODY_FAULTS = {"wrong-bytes", "wrong-length", "ignore-range", "expired"}
STAGES: dict[str, set[str]] = {  # what each can have beside BREAKS and STATUS_FAULTS
    "head": set(),  # the hub's answer
    "body": BODY_FAULTS,  # the answer that carries the file: cdn, xorb, or for small files the hub's
    "cdn": BODY_FAULTS,
    "token": set(),
    "cas": {"wrong-bytes", "wrong-length", "expired"},
    "xorb": BODY_FAULTS - {"ignore-range"},
}


@dataclass
class Fault:
    path: str  # any part of the file's path (of the URL's, if there is no file); "" meets everything
    kind: str
    stage: str = "body"
    times: int | None = 1  # None: always
    skip: int = 0  # so many requests go well first
    after: int | None = None
    retry_after: int | None = None
    ratelimit: int | None = None  # seconds in a `RateLimit` header

    def __post_init__(self) -> None:
        if self.stage not in STAGES or self.kind not in BREAKS | set(STATUS_FAULTS) | STAGES[self.stage]:
            raise ValueError(f"no fault {self.kind!r} at stage {self.stage!r}")


@dataclass
class Request:
    host: str  # "hub", "token", "cas", "xorb" or "cdn"
    method: str
    path: str
    query: str
    range: str | None
    authorization: str | None
    status: int | None = None  # None: never answered
    bytes_sent: int = 0  # of the body; grows while the answer is under way
    file: str = ""  # its path in the repository, which a URL of Xet's does not tell


@dataclass
class Blob:
    content: Content
    lfs: bool
    size: int = field(init=False)
    etag: str = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.content, Path):
            stat = self.content.stat()
            self.size, changed = stat.st_size, stat.st_mtime_ns
        else:
            self.size, changed = len(self.content), 0
        self.etag = etag_of(self.content, self.size, changed, self.lfs)

    @property
    def xet_hash(self) -> str:
        return hashlib.sha256(b"xet" + self.etag.encode()).hexdigest()

    def open(self) -> BinaryIO:
        return opened(self.content)


def opened(content: Content) -> BinaryIO:
    return content.open("rb") if isinstance(content, Path) else io.BytesIO(content)


@lru_cache(maxsize=None)  # one big clip often stands in for a hundred
def etag_of(content: Content, size: int, _changed: int, lfs: bool) -> str:
    digest = hashlib.sha256() if lfs else hashlib.sha1(b"blob %d\0" % size)
    with opened(content) as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


class Hub:
    def __init__(self, files: dict[str, Content], repo: str = "nvidia/PhysicalAI-SmartSpaces",
                 commit: str = "0123456789abcdef0123456789abcdef01234567", token: str | None = None,
                 lfs: bool = True, more_repos: dict[str, dict[str, Content]] | None = None,
                 latency: float = 0.0, bandwidth: float | None = None, xet: bool = False) -> None:
        self.repo, self.commit, self.token, self.lfs, self.xet = repo, commit, token, lfs, xet
        self.latency, self.bandwidth = latency, bandwidth  # per cdn or xorb request: seconds, bytes a second
        self.repos: dict[str, dict[str, Blob]] = {}
        for name, contents in {repo: files, **(more_repos or {})}.items():
            self.repos[name] = {path: Blob(content, lfs) for path, content in contents.items()}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.signatures: set[str] = set()
        self.signed = 0
        self.lock = threading.Lock()
        self.by_xet_hash: dict[str, tuple[str, Blob]] = {}  # path and content behind each hash given out
        self.listeners = {host: Listener(self, host) for host in ("hub", "cas", "xorb", "cdn")}
        ports = {host: listener.server_address[1] for host, listener in self.listeners.items()}
        self.endpoint, self.cas = (f"http://127.0.0.1:{ports[host]}" for host in ("hub", "cas"))
        # A different host name, so that a client which tells hosts apart by name alone passes too.
        self.storage, self.cdn = (f"http://localhost:{ports[host]}" for host in ("xorb", "cdn"))

    def __enter__(self) -> Hub:
        for listener in self.listeners.values():
            listener.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        for host in self.listeners:
            self.refuse(host)

    def refuse(self, host: str) -> None:
        self.listeners[host].stop()

    def accept(self, host: str) -> None:
        port = self.listeners[host].server_address[1]
        self.listeners[host] = Listener(self, host, port)
        self.listeners[host].start()

    def put(self, path: str, content: Content, repo: str | None = None, lfs: bool | None = None) -> None:
        self.repos[repo or self.repo][path] = Blob(content, self.lfs if lfs is None else lfs)

    def fault(self, path: str, kind: str, **options: Any) -> None:
        self.faults.append(Fault(path, kind, **options))

    def take_fault(self, path: str, stages: tuple[str, ...], part: int | None = None) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.path not in path or fault.stage not in stages or fault.times == 0:
                    continue
                if fault.kind == "wrong-bytes" and part not in (None, (fault.after or 0) // PART):
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None

    def sign(self) -> str:
        with self.lock:
            self.signed += 1
            signature = f"SIGNED-{self.signed:04}"
            self.signatures.add(signature)
        return signature

    def signed_url(self, address: str, path: str) -> str:
        return f"{address}/{quote(path)}?X-Amz-Expires=3600&X-Amz-Signature={self.sign()}"

    def matching(self, method: str | None = None, host: str | None = None,
                 path_contains: str = "", status: int | None = None) -> list[Request]:
        return [request for request in list(self.requests)
                if method in (None, request.method) and host in (None, request.host)
                and (path_contains in request.path or path_contains in request.file)
                and status in (None, request.status)]

    def count(self, *where: Any, **wheres: Any) -> int:
        return len(self.matching(*where, **wheres))

    def bytes_sent(self, host: str | None = "cdn", path_contains: str = "") -> int:
        """What went into the sockets; a client that hung up has not read all of it."""
        return sum(request.bytes_sent for request in self.matching(None, host, path_contains))

    def env(self, cache_dir: str | Path, xet: bool = False) -> dict[str, str]:
        # Whatever the machine has set up for the hub must not leak into a test.
        env = {name: value for name, value in os.environ.items()
               if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_")) and not name.lower().endswith("_proxy")}
        env.update(HF_ENDPOINT=self.endpoint, HF_HOME=str(Path(cache_dir) / "hf_home"),
                   HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DOWNLOAD_TIMEOUT="2", HF_HUB_ETAG_TIMEOUT="2",
                   NO_PROXY="127.0.0.1,localhost", no_proxy="127.0.0.1,localhost")
        return env if xet else {**env, "HF_HUB_DISABLE_XET": "1"}


class Listener(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False  # a stalled answer must not hold up the end of a test
    request_queue_size = 128

    def __init__(self, hub: Hub, host: str, port: int = 0) -> None:
        self.hub, self.host = hub, host
        self.connections: set[socket.socket] = set()
        self.stopping = threading.Event()
        self.started = False
        super().__init__(("127.0.0.1", port), Handler)

    def start(self) -> None:
        self.started = True
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.stopping.set()
        if self.started:
            self.started = False
            self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def process_request(self, request, client_address) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener
    record: Request

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def log_message(self, *_args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def answer(self) -> None:
        url = urlsplit(self.path)
        host = "token" if "/xet-read-token/" in url.path else self.server.host
        self.record = Request(host, self.command, unquote(url.path), url.query,
                              self.headers.get("Range"), self.headers.get("Authorization"))
        self.hub.requests.append(self.record)
        try:
            answer = self.answer_as_hub if self.server.host == "hub" else self.answer_signed
            answer(url.path)
        except ConnectionError:  # a client that hangs up is part of the game
            self.close_connection = True

    def answer_as_hub(self, url_path: str) -> None:
        match = RESOLVE_URL.fullmatch(url_path) or API_URL.fullmatch(url_path)
        if match is None:
            return self.send_status("404-entry")
        repo, revision = match.group(1), unquote(match.group(2) or "main")
        path = self.record.file = unquote(match.group(3)) if match.re is RESOLVE_URL else ""
        blob = self.hub.repos.get(repo, {}).get(path)
        carries_file = self.command == "GET" and blob is not None and not blob.lfs
        stage = "token" if self.record.host == "token" else "body" if carries_file else "head"
        fault = self.hub.take_fault(path or url_path, (stage,))
        if fault and fault.kind in STATUS_FAULTS:
            return self.send_status(fault.kind, fault)
        if fault and stage == "head":
            return self.break_off(fault)
        bearer = self.record.authorization
        if self.hub.token and bearer != f"Bearer {self.hub.token}":
            return self.send_status("401-bad-token" if bearer else "401-repo-not-found")
        if repo not in self.hub.repos:
            return self.send_status("404-repo" if bearer else "401-repo-not-found")
        if stage == "token":  # of an older commit too: a download may go on when the branch has moved
            return self.send_access_token(fault)
        if revision not in ("main", self.hub.commit):
            return self.send_status("404-revision")
        if match.re is API_URL:
            return self.send_info(repo)
        if blob is None:
            return self.send_status("404-entry")
        headers = {"X-Repo-Commit": self.hub.commit, "ETag": f'"{blob.etag}"'}
        if not blob.lfs:
            return self.send_body(blob.size, blob.open, fault, headers, self.record.range)
        location = self.hub.signed_url(self.hub.cdn, f"lfs/{repo}/{path}")
        headers.update({"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(blob.size),
                        "Location": location})
        if self.hub.xet:
            self.hub.by_xet_hash[blob.xet_hash] = path, blob
            route = f"{self.hub.endpoint}/api/datasets/{repo}/xet-read-token/{self.hub.commit}"
            headers.update({"X-Xet-Hash": blob.xet_hash, "Link": f'<{route}>; rel="xet-auth"'})
        self.send_small(302, b"Found. Redirecting to " + location.encode(), headers)

    def send_info(self, repo: str) -> None:
        siblings = [{"rfilename": path} for path in self.hub.repos[repo]]
        info = {"id": repo, "sha": self.hub.commit, "private": False, "siblings": siblings}
        self.send_json(info)

    def send_access_token(self, fault: Fault | None) -> None:
        token, expires = self.hub.sign(), int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": self.hub.cas, "X-Xet-Access-Token": token,
                   "X-Xet-Token-Expiration": str(expires)}
        self.send_json({"casUrl": self.hub.cas, "accessToken": token, "exp": expires}, fault, **headers)

    def answer_signed(self, url_path: str) -> None:
        """For an access token or a signed address only."""
        host, hub = self.server.host, self.hub
        match = SIGNED_URLS[host].fullmatch(url_path)
        place, name = match.groups() if match else ("", "")
        self.record.file, blob = hub.by_xet_hash.get(name, ("", None))
        if host == "cdn":
            self.record.file = unquote(name)
            blob = hub.repos.get(place, {}).get(self.record.file)
        if blob is None:
            return self.send_status("404-entry")
        if host == "cas":
            key, refusal = (self.record.authorization or "").replace("Bearer ", "", 1), "401"
        else:
            key, refusal = parse_qs(self.record.query).get("X-Amz-Signature", [""])[0], "403"
            time.sleep(hub.latency)
        if key not in hub.signatures:
            return self.send_status(refusal)
        part = int(place) if host == "xorb" else None
        fault = hub.take_fault(self.record.file, (host,) if host == "cas" else (host, "body"), part)
        if fault and fault.kind == "expired":
            hub.signatures.discard(key)
            return self.send_status(refusal)
        if fault and fault.kind in STATUS_FAULTS:
            return self.send_status(fault.kind, fault)
        if host == "cas":
            self.send_plan(blob, fault)
        elif part is not None:
            self.send_xorb(blob, part * PART, fault)
        else:
            self.send_body(blob.size, blob.open, fault, {"ETag": f'"{blob.etag}"'}, self.record.range)

    def send_plan(self, blob: Blob, fault: Fault | None) -> None:
        """The parts that hold the wanted bytes; the first may begin earlier, the last end later."""
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
                        "xorbs": places, "fetch_info": places}, fault)

    def send_xorb(self, blob: Blob, start: int, fault: Fault | None) -> None:
        with blob.open() as file:
            file.seek(start)
            part = file.read(PART)
        if fault and fault.kind == "wrong-bytes":
            wrong, fault = (fault.after or 0) - start, None
            part = part[:wrong] + part[wrong:wrong + 1].translate(INVERTED) + part[wrong + 1:]
        length = struct.pack("<I", len(part))[:3]
        xorb = b"\0" + length + b"\0" + length + part
        self.send_body(len(xorb), partial(opened, xorb), fault, {}, self.record.range)

    def send_json(self, value: Any, fault: Fault | None = None, **headers: str) -> None:
        body, headers = json.dumps(value).encode(), {"Content-Type": "application/json", **headers}
        self.send_body(len(body), partial(opened, body), fault, headers)

    def send_body(self, size: int, opener: Callable[[], BinaryIO], fault: Fault | None,
                  headers: dict[str, str], wanted_range: str | None = None) -> None:
        kind, after = (fault.kind, fault.after) if fault else (None, None)
        if fault and kind in BREAKS and after is None:
            return self.break_off(fault)
        spoilt_from = (after or 0) if kind == "wrong-bytes" else size
        if kind == "wrong-length":
            size = size // 2 if after is None else after
        status, start, stop = 200, 0, size
        if wanted_range and kind != "ignore-range":
            wanted = parse_range(wanted_range, size)
            if wanted is None:
                return self.send_small(416, b"", {"Content-Range": f"bytes */{size}"})
            status, (start, stop) = 206, wanted
            headers = {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
        self.send_head(status, stop - start, {**headers, "Accept-Ranges": "bytes"})
        if self.command == "HEAD":
            return
        breaks = kind in BREAKS
        self.send_bytes(opener, start, min(stop, start + (after or 0)) if breaks else stop, spoilt_from)
        if fault and breaks:
            self.break_off(fault)

    def send_bytes(self, opener: Callable[[], BinaryIO], start: int, stop: int, spoilt_from: int) -> None:
        bandwidth = self.hub.bandwidth if self.server.host in ("cdn", "xorb") else None
        began = time.monotonic()
        with opener() as file:
            file.seek(start)
            while start < stop:
                wanted = min(CHUNK, stop - start)
                chunk = file.read(wanted) or bytes(wanted)  # past the end only where the length is a lie
                right = max(0, spoilt_from - start)
                self.wfile.write(chunk[:right] + chunk[right:].translate(INVERTED))
                start += len(chunk)
                self.record.bytes_sent += len(chunk)
                if bandwidth:
                    time.sleep(max(0.0, began + self.record.bytes_sent / bandwidth - time.monotonic()))

    def break_off(self, fault: Fault) -> None:
        self.close_connection = True
        if fault.kind == "stall":
            self.wait_for_the_other_side()
        elif fault.kind == "reset":
            time.sleep(0.05)  # a reset throws away what has not left yet
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()  # holds the socket open otherwise
            self.connection.close()

    def wait_for_the_other_side(self) -> None:
        while not self.server.stopping.is_set():
            readable, _, _ = select.select([self.connection], [], [], 0.05)
            if readable and not self.connection.recv(4096):
                return

    def send_status(self, kind: str, fault: Fault | None = None) -> None:
        status, code, message = STATUS_FAULTS[kind]
        headers = {"Content-Type": "text/plain"}
        if self.server.host == "hub":
            headers["X-Error-Message"] = message
            if code:
                headers["X-Error-Code"] = code
            if code == "EntryNotFound":
                headers["X-Repo-Commit"] = self.hub.commit
        if fault and fault.retry_after is not None:
            headers["Retry-After"] = str(fault.retry_after)
        if fault and fault.ratelimit is not None:
            headers["RateLimit"] = f'"api";r=0;t={fault.ratelimit}'
        self.send_small(status, message.encode(), headers)

    def send_small(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_head(status, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)
            self.record.bytes_sent += len(body)

    def send_head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.record.status = status
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    return (start, stop) if start < stop else None

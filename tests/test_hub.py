"""The real client against the hub on 127.0.0.1, by the way that it takes on a user's machine: Xet where it can."""
from __future__ import annotations

import contextlib
import functools
import json
import re
import shutil
import signal
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Sequence

import pytest

import prepare_sot_dataset as program
from tests import clips
from tests.hub_server import REPO, Blob, Hub
from tests.world import RETRY_WAITS, Run, World, clip, screen

SCENE = "Warehouse_016"
IDS = [2, 9]
CAMERAS = [f"Camera_{number:02d}" for number in range(1, 13)]
ONE, TWO, THREE = CAMERAS[:3]
WAITS = (0.02, 0.04, 0.06, 0.08)  # before the retries, in every run here
FLAG_TOKEN, ENV_TOKEN, SAVED_TOKEN = "hf_FLAGxUNMISTAKABLE", "hf_ENVxUNMISTAKABLE", "hf_SAVEDxUNMISTAKABLE"
SECRETS = ("UNMISTAKABLE", "SIGNED-", "X-Amz-", "Traceback")
NAPS = "import time\nsleep = time.sleep\ntime.sleep = lambda seconds: sleep(min(seconds, 0.02))\n"
QUICK_XET = {"HF_XET_CLIENT_READ_TIMEOUT": "1s", "HF_XET_CLIENT_CONNECT_TIMEOUT": "1s",
             "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "0"}
PLAIN = {"HF_HUB_DISABLE_XET": "1"}
SMALL, BIG = 1 << 19, 8 << 20  # a video; and one that pays to be streamed


def by_xet() -> bool:
    """Return whether this client's downloads go by Xet: those that notice SIGTERM meanwhile."""
    return metadata.version("huggingface_hub") >= "1"


WAY = "xorb" if by_xet() else "cdn"
only_xet = pytest.mark.skipif(not by_xet(), reason="this client takes plain HTTP")


def padded(data: bytes, size: int, end: bytes = b"") -> bytes:
    """A clip with bytes behind it that no picture needs."""
    return data + struct.pack(">I4s", size - len(data), b"free") + end.rjust(size - len(data) - 8)


@functools.lru_cache(maxsize=None)
def video(camera: str, size: int = SMALL) -> bytes:
    """The same pictures for each camera, but other bytes at the end."""
    return padded(clip("h264_bframes").read_bytes(), size, camera.encode())


def path_of(camera: str) -> str:
    return f"MTMC_Tracking_2025/val/{SCENE}/videos/{camera}.mp4"


def seq_id(camera: str) -> str:
    return str(clips.record(IDS, scene=SCENE, camera=camera)["seq_id"])


class Here(NamedTuple):
    """The world with a hub in it."""
    world: World
    hub: Hub

    def lay_out(self, count: int, size: int = SMALL) -> list[str]:
        """So many cameras, with a record and a video each."""
        cameras = CAMERAS[:count]
        self.world.records(*[clips.record(IDS, scene=SCENE, camera=camera) for camera in cameras])
        for camera in cameras:
            self.hub.put(path_of(camera), video(camera, size))
        return cameras

    def run(self, *args: Any, token: str | None = FLAG_TOKEN, prologue: str = "", **options: Any) -> Run:
        given = () if token is None else ("--hf-token", token)
        run = self.world.run("--nframes", len(IDS), *given, *args, constants={RETRY_WAITS: WAITS},
                             prologue=NAPS + prologue, **options)
        said = run.out + run.err + "".join(map(str, run.tree))
        assert not [secret for secret in SECRETS if secret in said], said
        assert not [request for request in self.hub.requests
                    if request.host in ("cdn", "xorb") and request.authorization]
        return run

    def sent(self, camera: str = "") -> list[int]:
        return [self.hub.bytes_sent(host, camera) for host in (WAY, "cdn" if WAY == "xorb" else "xorb")]

    def right(self, camera: str, output: str = "") -> bool:
        directory = (self.world.folder / output if output else self.world.output) / seq_id(camera)
        if not (directory / "sequence_meta.json").is_file():
            return False
        meta = json.loads((directory / "sequence_meta.json").read_text())
        pictures = [clips.read_png(frame) for frame in sorted((directory / "frames").glob("f[0-9][0-9].png"))]
        assert [clips.read_index(one.rgb, one.width, one.height) for one in pictures] == IDS == meta["frame_ids"]
        assert meta["source"]["revision"] == self.hub.commit
        return True

    def cached(self, camera: str) -> list[Path]:
        """All files in the cache that are as large as the video."""
        return [path for path in self.world.cache.rglob("*") if path.is_file() and not path.is_symlink()
                and path.stat().st_size == self.hub.repos[REPO][path_of(camera)].size
                and path.read_bytes()[-9:] == camera.encode()]


@pytest.fixture
def here(world: World) -> Iterator[Here]:
    with world.hub(xet=True) as hub:
        world.env.update(QUICK_XET)
        here = Here(world, hub)
        here.lay_out(2)
        yield here


def retries(run: Run, camera: str = "") -> list[str]:
    return re.findall(rf"^.*{camera}.*, retry \d/4 in .*", run.err, re.M)


def only(camera: str) -> Sequence[str]:
    return "--sequences", seq_id(camera)


# ---------------------------------------------------------------- once over the line, and never again


def test_each_byte_comes_once_and_what_is_in_the_cache_never_again(here: Here) -> None:
    run = here.run()
    assert (run.code, here.right(ONE), here.right(TWO)) == (0, True, True)
    sent = here.sent()
    assert 1.0 <= sent[0] / (2 * SMALL) < 1.01 and sent[1] == 0
    pinned, offline = ("--revision", here.hub.commit), {"HF_HUB_OFFLINE": "1"}
    for number, (args, env) in enumerate([((), {}), (("--stream",), {}), (pinned, {}), ((), offline)]):
        before = len(here.hub.requests)
        assert here.run("--output-dir", here.world.folder / str(number), *only(ONE), *args, env=env).code == 0
        assert here.right(ONE, str(number)) and here.sent() == sent
        assert len(here.hub.requests) == before or not args + tuple(env)  # only a branch may have moved
    assert here.run().code == 0 and len(here.hub.requests) == before  # ready: nobody is asked
    here.hub.refuse("hub")
    assert here.run("--output-dir", here.world.folder / "unplugged", *only(ONE)).code == 0
    assert here.right(ONE, "unplugged")


def test_cache_that_another_program_filled(here: Here) -> None:
    fetch = "import huggingface_hub; huggingface_hub.hf_hub_download({!r}, {!r}, repo_type='dataset', cache_dir={!r})"
    subprocess.run([sys.executable, "-c", fetch.format(REPO, path_of(ONE), str(here.world.cache))],
                   env=here.world.changed(None), check=True, stderr=subprocess.DEVNULL)
    sent = here.sent()
    run = here.run(*only(ONE))
    assert (run.code, retries(run), here.right(ONE)) == (0, [], True)
    assert here.sent() == sent and sum(sent) >= SMALL


def test_four_runs_at_once_on_one_cache(here: Here) -> None:
    here.hub.bandwidth = 1 << 20
    outputs = [str(number) for number in range(4)]
    runs = [here.world.start("--nframes", len(IDS), "--output-dir", here.world.folder / output) for output in outputs]
    told = [run.communicate(timeout=100) for run in runs]
    assert [run.returncode for run in runs] == [0] * 4, told
    assert all(here.right(camera, output) for camera in (ONE, TWO) for output in outputs)
    assert not [line for _, err in told for line in err.splitlines() if "retry" in line]
    assert here.sent()[0] < 1.1 * 2 * SMALL and here.sent()[1] == 0


@pytest.mark.skipif(metadata.version("huggingface_hub") < "1", reason="such a client shows no bars")
def test_progress_of_a_download(here: Here) -> None:
    """The client's bar with speed and time left on a terminal; in a pipe only lines."""
    here.lay_out(2, BIG)
    here.hub.bandwidth = BIG
    run = here.world.in_terminal("--nframes", 2, columns=100)
    assert run.code == 0 and re.search(r"Camera_01.mp4: +\d+%.*B/s", run.out), run.out
    left = [line for line in screen(run.out, 100) if line]
    assert sum(line.startswith("Getting " + SCENE) for line in left) == 2, left
    assert any(line.startswith("2 sequences ready") for line in left), left
    shutil.rmtree(here.world.output)
    shutil.rmtree(here.world.cache, ignore_errors=True)
    err = here.world.run("--nframes", 2).err
    assert f"Getting {SCENE}/{ONE}.mp4 (video 1 of 2" in err and "\r" not in err


# ---------------------------------------------------------------- what the client says


def test_client_waits_for_a_lock_and_says_so(here: Here) -> None:
    """Held by another program that has stopped, or only seems to be alive, as on some network disks."""
    fcntl = pytest.importorskip("fcntl")
    lock = here.world.cache / ".locks" / ("datasets--" + REPO.replace("/", "--")) / (
        here.hub.repos[REPO][path_of(ONE)].etag + ".lock")
    lock.parent.mkdir(parents=True)
    often = "import huggingface_hub.constants\nhuggingface_hub.constants.FILELOCK_LOG_EVERY_SECONDS = 1\n"
    with open(str(lock), "w") as held, open(str(here.world.folder / "said"), "w+") as said:
        fcntl.flock(held, fcntl.LOCK_EX)
        with here.world.start("--nframes", len(IDS), *only(ONE), prologue=often, stderr=said) as running:
            try:
                until = time.monotonic() + 30
                while "Still waiting" not in Path(said.name).read_text() and time.monotonic() < until:
                    time.sleep(0.1)
                told = Path(said.name).read_text()
                fcntl.flock(held, fcntl.LOCK_UN)
                running.communicate(timeout=60)
            finally:
                running.kill()
    assert re.search("Still waiting to acquire lock.*" + re.escape(lock.name), told), told
    assert (running.returncode, here.right(ONE)) == (0, True)


SAYS_AN_ADDRESS = """
import logging, huggingface_hub, huggingface_hub.file_download as module
download = module.hf_hub_download
def says(*args, **options):
    logging.getLogger(module.__name__).warning("See (https://h.example/a/b?X-Amz-Signature=SIGNED-1), why?")
    return download(*args, **options)
huggingface_hub.hf_hub_download = module.hf_hub_download = says
"""


def test_warnings_of_the_client_are_shown_without_signatures(here: Here) -> None:
    here.lay_out(3)
    told = here.run(*only(THREE), prologue=SAYS_AN_ADDRESS)
    assert told.code == 0 and re.search("See .https://h.example/a/b.*why", told.err), told.err
    here.hub.fault(ONE, "stall", stage="cdn", after=1000)
    run = here.run(*only(ONE), env=PLAIN)  # and looks for secrets
    assert (run.code, here.right(ONE)) == (0, True)
    assert re.search("Error while downloading from http://.*" + ONE, run.err), run.err
    here.hub.refuse("cdn")  # requests, which 0.x uses, quotes the address that it cannot reach
    assert here.run("--output-dir", here.world.folder / "refused", *only(TWO), env=PLAIN).code == 1
    quiet = here.run("--quiet", "--output-dir", here.world.folder / "quiet", *only(ONE), env=PLAIN)
    assert (quiet.code, quiet.err) == (0, "")


# ---------------------------------------------------------------- damage


def test_damaged_on_the_way(here: Here) -> None:
    """It is noticed, goes out of the cache and comes again; one that is always damaged does not stay there."""
    here.lay_out(3)
    here.hub.fault(ONE, "wrong-bytes", stage=WAY, after=SMALL - 4)
    here.hub.fault(TWO, "wrong-bytes", stage="cdn", after=SMALL - 20, times=None)
    run = here.run()
    assert (run.code, here.right(ONE), here.right(TWO), here.right(THREE)) == (1, True, False, True)
    assert (len(retries(run, ONE)), len(retries(run, TWO)), len(retries(run))) == (1, 4, 5)
    assert all("damaged" in line for line in retries(run) + run.errors) and len(run.errors) == 1
    assert [len(here.cached(camera)) for camera in (ONE, TWO, THREE)] == [1, 0, 1]
    assert here.cached(ONE)[0].read_bytes() == video(ONE)
    assert here.hub.bytes_sent("cdn", THREE) == SMALL  # Xet is not tried again
    here.hub.faults.clear()
    assert here.run().code == 0 and here.right(TWO)


def test_what_an_older_client_left_of_a_longer_file(here: Here) -> None:
    """Asked to go on behind the end, the server answers with 416, again and again."""
    blobs = here.world.cache / ("datasets--" + REPO.replace("/", "--")) / "blobs"
    blobs.mkdir(parents=True)
    (blobs / (here.hub.repos[REPO][path_of(ONE)].etag + ".incomplete")).write_bytes(bytes(SMALL + 9))
    run = here.run(*only(ONE), env=PLAIN)
    assert (run.code, here.right(ONE)) == (0, True) and len(retries(run)) <= 2, run.err


def test_damaged_in_the_cache(here: Here) -> None:
    here.lay_out(3)
    assert here.run().code == 0
    for camera, data in ((ONE, video(ONE)[:-4]), (TWO, video(TWO)[:-4] + b"0000"), (THREE, video(THREE)[:-4])):
        blob, = here.cached(camera)
        blob.chmod(0o644)
        blob.write_bytes(data)
    run = here.run("--output-dir", here.world.folder / "off", *only(THREE), env={"HF_HUB_OFFLINE": "1"})
    assert (run.code, here.right(THREE, "off")) == (2, False) and "damaged" in run.err
    run = here.run("--output-dir", here.world.folder / "again", *only(ONE), *only(TWO)[1:])
    assert (run.code, here.right(ONE, "again"), here.right(TWO, "again")) == (0, True, True), run.err
    assert ["damaged" in line for line in retries(run)] == [True, True], run.err


def test_wrong_bytes_where_there_are_no_symbolic_links(here: Here) -> None:
    """Then nothing in the cached file's path tells its checksum: so it is on Windows."""
    refused = "import os\ndef refused(*_args, **_kwargs):\n    raise OSError('no links here')\nos.symlink = refused\n"
    for stage in {WAY, "cdn"}:
        here.hub.fault(ONE, "wrong-bytes", stage=stage, after=SMALL - 4, times=None)
    for output in ("first", "second"):  # what the first run left in the cache is no better
        run = here.run("--output-dir", here.world.folder / output, prologue=refused)
        assert (run.code, here.right(ONE, output), here.right(TWO, output)) == (1, False, True)
        assert "damaged" in run.errors[0]


# ---------------------------------------------------------------- every fault, played


class Case(NamedTuple):
    stage: str  # of the fault
    kind: str
    says: str  # in each retry's line, or in the error
    retries: int | None = 1  # None: any number
    times: int | None = 1
    options: dict[str, Any] = {}


HUB_CASES = [
    Case("hub", "503", "503", 4, None), Case("hub", "429", "429"),
    Case("hub", "503", "503", 4, None),  # the video in between has shown that there is a way
    Case("hub", "404-entry", "not found.*404", 0, None),
    Case("hub", "500", "500", None), Case("hub", "503", "503", None),  # 0.x retries by itself
    Case("hub", "429", "429", options={"retry_after": 1}), Case("hub", "429", "429", options={"ratelimit": 2}),
    Case("hub", "reset", "connection", None), Case("hub", "stall", "time", None), Case("hub", "close", "connect", None),
]
CDN_CASES = [
    Case("cdn", "429", "429", None),  # newer clients wait by themselves
    Case("cdn", "500", "500", None), Case("cdn", "503", "503", None),
    Case("cdn", "expired", "403"), Case("cdn", "reset", "connection|incomplete", None, options={"after": 10}),
    Case("cdn", "416", "416"), Case("cdn", "wrong-length", "size|length|bytes"),
    Case("cdn", "stall", "time", None),
]
STREAM_CASES = [case._replace(retries=1) for case in CDN_CASES[:5]]
XET_CASES = [
    *[Case("cas", kind, "", times=None) for kind in ("503", "reset", "stall", "401", "404-entry")],
    *[Case("xorb", kind, "", times=None) for kind in ("503", "reset", "stall", "403")],
    Case("xorb", "stall", "", times=None, options={"after": 1000}),
    Case("xorb", "wrong-length", "", times=None),
]

def played(here: Here, cases: Sequence[Case], *args: str, size: int = SMALL, **how: Any) -> None:
    """One run in which each camera has a fault of its own, that goes by or fails this camera only."""
    cameras = here.lay_out(len(cases), size)
    for camera, case in zip(cameras, cases):
        here.hub.fault(camera, case.kind, stage=case.stage, times=case.times, **case.options)
    run = here.run(*args, **how)
    for camera, case in zip(cameras, cases):
        tried, errors = retries(run, camera), [line for line in run.errors if camera in line]
        assert case.retries in (None, len(tried)), (case, run.err)
        assert all(re.search(case.says, line, re.I) for line in tried + errors), (case, run.err)
        fails = case.stage == "hub" and case.times is None
        assert (len(errors), here.right(camera)) == ((1, False) if fails else (0, True)), (case, run.err)
        assert here.hub.count(case.stage, camera) > 0, case
        if case.retries == 4:  # ours, and those of clients that retry by themselves
            assert 5 <= here.hub.count("hub", camera) <= 30, case
    assert run.code == (run.errors != [])


def test_faults_of_the_hub(here: Here) -> None:
    played(here, HUB_CASES)


# A gateway's own words, and what is told of an address that the hub has given out, say nothing about access.
PASSING_CASES = [
    *[Case(stage, "502-proxy", "502", None) for stage in ("hub", "cdn")],  # a client may retry that by itself
    *[Case(stage, kind, kind, None) for stage in ("hub", "cdn") for kind in ("408", "425")],
    *[Case("cdn", kind, "") for kind in ("401", "403", "404-entry")],
]


@pytest.mark.parametrize("stream", [False, True], ids=["download", "stream"])
@pytest.mark.parametrize("case", PASSING_CASES, ids=lambda case: case.stage + " " + case.kind)
def test_what_passes_is_retried(here: Here, case: Case, stream: bool) -> None:
    played(here, [case], *["--stream"] * stream, size=BIG if stream else SMALL, env=PLAIN)


@pytest.mark.parametrize("kind", ["401", "403", "404-entry"])
def test_signed_address_that_is_never_good_fails_its_video_only(here: Here, kind: str) -> None:
    here.hub.fault(ONE, kind, stage="cdn", times=None)
    run = here.run(env=PLAIN)
    assert (run.code, here.right(ONE), here.right(TWO), len(retries(run))) == (1, False, True, 4), run.err
    assert not re.search("token|terms|--repo-|not found", run.err), run.err


def test_time_out_of_a_host_with_the_word_proxy_in_its_name(here: Here) -> None:
    address = here.hub.endpoint.replace("127.0.0.1", "hf-proxy.example.org")
    names = ("import socket\nlookup = socket.getaddrinfo\n"
             "socket.getaddrinfo = lambda host, *more, **options: lookup(\n"
             "    '127.0.0.1' if host in ('hf-proxy.example.org', b'hf-proxy.example.org') else host, *more, **options)\n")
    here.hub.fault(ONE, "stall", stage="hub")
    run = here.run(*only(ONE), env={"HF_ENDPOINT": address, **PLAIN}, prologue=names)
    assert (run.code, here.right(ONE)) == (0, True) and "HTTPS_PROXY" not in run.err, run.err
    assert here.hub.count("hub", ONE) >= 2


def test_cut_during_the_tls_handshake_is_retried(here: Here) -> None:
    """By a listener that reads what the client says first and hangs up."""
    hellos = []

    class Cut(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            hellos.append(self.request.recv(1 << 14))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Cut) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        address = f"https://127.0.0.1:{server.server_address[1]}"
        run = here.run(*only(ONE), env={"HF_ENDPOINT": address})
        server.shutdown()
    assert run.code == 1 and len(retries(run)) == 4 and len(hellos) >= 5, run.err
    assert not re.search("speak|certificate|HF_ENDPOINT|PROXY", run.err), run.err


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl to make a certificate")
def test_certificate_that_is_not_trusted_stops_the_run(here: Here) -> None:
    key, certificate = [str(here.world.folder / name) for name in ("key.pem", "certificate.pem")]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9", "-subj", "/CN=localhost",
                    "-keyout", key, "-out", certificate], check=True, stderr=subprocess.DEVNULL)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class Greet(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):  # the client does not like what it sees
                context.wrap_socket(self.request, server_side=True)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greet) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        run = here.run(env={"HF_ENDPOINT": f"https://localhost:{server.server_address[1]}"})
        server.shutdown()
    assert (run.code, retries(run), len(run.errors)) == (2, [], 1), run.err
    assert re.search("certificate.*SSL_CERT_FILE.*REQUESTS_CA_BUNDLE", run.errors[0])


# ---------------------------------------------------------------- bugs, and a client that is too old


@pytest.mark.parametrize("bug", ["AttributeError", "TypeError", "NameError", "KeyError", "IndexError"])
def test_a_bug_shows_its_traceback(here: Here, bug: str) -> None:
    """Not as network trouble: in the hub's client, for example, or in what the program makes of its answers."""
    buggy = ("import huggingface_hub, huggingface_hub.file_download as module\n"
             f"def buggy(*_args, **_options):\n    print('asked')\n    raise {bug}('a bug of ours')\n"
             "huggingface_hub.hf_hub_download = module.hf_hub_download = buggy\n")
    run = here.world.run("--nframes", len(IDS), constants={RETRY_WAITS: WAITS}, prologue=buggy)
    assert (run.code, run.out.count("asked"), retries(run)) == (1, 1, []), run
    assert "Traceback" in run.err and re.search(bug + ".*a bug of ours", run.err), run.err
    assert not run.errors or "download" not in run.errors[-1]


def test_client_that_is_too_old_is_named(here: Here) -> None:
    """With the versions that are supported; nothing of it has to work."""
    package = here.world.folder / "old" / "huggingface_hub"
    about = here.world.folder / "old" / "huggingface_hub-0.23.5.dist-info"
    for folder in (package, about):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '0.23.5'\n")
    for module in ("constants", "errors", "file_download", "utils"):
        (package / (module + ".py")).write_text("")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: huggingface-hub\nVersion: 0.23.5\n")
    run = here.run(env={"PYTHONPATH": str(package.parent)})
    assert (run.code, retries(run), here.hub.requests) == (2, [], []), run.err
    assert [line for line in run.errors if re.search(r"0\.23\.5.*0\.24", line)], run.err


# ---------------------------------------------------------------- every fault, by each way


def test_faults_of_plain_http(here: Here) -> None:
    played(here, CDN_CASES, env={**PLAIN, "HF_HUB_VERBOSITY": "info"})  # Here.run looks for secrets


def test_faults_of_a_stream(here: Here) -> None:
    played(here, STREAM_CASES, "--stream", size=BIG, env={"HF_DEBUG": "1"})
    assert max(here.hub.bytes_sent("cdn", camera) for camera in CAMERAS) < BIG / 4
    assert here.hub.bytes_sent("xorb") == 0


@only_xet
@pytest.mark.parametrize("case", XET_CASES, ids=lambda case: " ".join([case.stage, case.kind, *case.options]))
def test_faults_of_xet(here: Here, case: Case) -> None:
    """Plain HTTP takes over, and it has the file."""
    played(here, [case], env={"HF_DEBUG": "1"})
    assert here.hub.bytes_sent("cdn", ONE) == SMALL


@only_xet
@pytest.mark.parametrize("trouble, says", [
    *[(kind, kind[:3]) for kind in ("401", "403", "404-entry", "500")], ("stall", "time"), ("cas", ""), ("xorb", "")])
def test_no_way_to_xet(here: Here, trouble: str, says: str) -> None:
    """No token (one serves for all files, so each fault has a run of its own), or nobody at a host of Xet."""
    if trouble in here.hub.listeners:
        here.hub.refuse(trouble)
    else:
        here.hub.fault("", trouble, stage="token", times=None)
    run = here.run(*only(ONE), env={"HF_HUB_ETAG_TIMEOUT": "1"} if trouble == "stall" else {})
    assert (run.code, len(retries(run)), here.right(ONE)) == (0, 1, True), run.err
    assert re.search(says, retries(run)[0], re.I) and here.hub.bytes_sent("cdn", ONE) == SMALL


@pytest.mark.parametrize("kind, says, args", [
    ("401-repo-not-found", r"access refused \(401 Unauthorized\)", ()),
    ("401", r"access refused \(401 Unauthorized\)", ()),
    ("403-gated", r"access refused \(403 Forbidden\).*terms", ()),
    ("403-gated", r"access refused \(403 Forbidden\).*terms", ("--stream",)),
    ("403", r"access refused \(403 Forbidden\)", ()),
    ("404-repo", "no such repository.*--repo-id", ()),
    ("404-revision", "no such revision.*--revision", ()),
])
def test_answer_that_stops_the_run(here: Here, kind: str, says: str, args: Sequence[str]) -> None:
    here.hub.fault(ONE, kind, stage="hub", times=None)
    run = here.run(*args)
    assert (run.code, retries(run), here.right(ONE), here.right(TWO)) == (2, [], False, False)
    assert len(run.errors) == 1 and re.search(says, run.errors[0]), run.err


# ---------------------------------------------------------------- no hub at all


@pytest.mark.parametrize("trouble, says", [("hub", "127.0.0.1.*refused"), ("cdn", "refused"), ("503", "503")])
def test_two_videos_in_a_row_that_the_hub_does_not_give_stop_the_run(here: Here, trouble: str, says: str) -> None:
    here.lay_out(3)
    if trouble == "503":
        here.hub.fault("Camera", "503", stage="hub", times=None)
    else:
        here.hub.refuse(trouble)
    run = here.run(env=PLAIN)
    assert (run.code, len(retries(run))) == (2, 8), run.err
    assert all(re.search(says, line) for line in retries(run))
    assert re.search("2 videos in a row.*same command", run.errors[-1])
    assert THREE not in run.err and not here.hub.count("hub", THREE)


SETTINGS = [
    ({"HF_ENDPOINT": "hub.example"}, (), "HF_ENDPOINT"),
    ({"HF_HUB_ETAG_TIMEOUT": "soon"}, (), "huggingface_hub cannot be used.*HF_HUB_ETAG_TIMEOUT"),
    ({"HTTP_PROXY": "nonsense://x", "NO_PROXY": None, "no_proxy": None}, (), "HTTP_PROXY"),
    ({}, ("--hf-cache-dir", "a_file"), "a_file"),
    # 0.x, with another HTTP library, reads it for no http:// address.
    ({"SSL_CERT_FILE": "/no/such.pem"}, (), "SSL_CERT_FILE") if metadata.version("huggingface_hub") >= "1" else
    ({"REQUESTS_CA_BUNDLE": "/no/such.pem"}, (), "REQUESTS_CA_BUNDLE"),
    ({"HF_HUB_OFFLINE": "1"}, (), "HF_HUB_OFFLINE.*not in the cache.*--revision"),
    ({}, ("--hf-token", "UNMISTAKABLE\u20ac"), "token"),
    ({"HF_TOKEN": "UNMISTAKABLE y"}, (), "token"),
]


@pytest.mark.parametrize("env, args, says", SETTINGS, ids=[row[2] for row in SETTINGS])
def test_setting_that_cannot_work_is_told_at_once(here: Here, env: Any, args: Sequence[str], says: str) -> None:
    Path("a_file").write_text("")
    run = here.run(*args, env=env, token=None)
    Path("a_file").unlink()
    assert (run.code, retries(run), "Traceback" in run.err) == (2, [], False), run.err
    assert re.search(says, run.err.splitlines()[-1]) and here.sent() == [0, 0]
    assert here.hub.requests == [] or "--hf-cache-dir" in args


# ---------------------------------------------------------------- the token


@pytest.mark.parametrize("flag, variable, saved, sent", [
    (FLAG_TOKEN, ENV_TOKEN, SAVED_TOKEN, FLAG_TOKEN), (None, f" {ENV_TOKEN}\n", SAVED_TOKEN, ENV_TOKEN),
    (" ", " ", SAVED_TOKEN, SAVED_TOKEN), ("", "", "", None)], ids=["flag", "variable", "login", "none"])
def test_which_token_is_sent(here: Here, flag: str | None, variable: str, saved: str, sent: str | None) -> None:
    here.hub.token = sent
    if saved:
        home = Path(str(here.world.env["HF_HOME"]))
        home.mkdir(parents=True)
        (home / "token").write_text(saved)
    assert here.run(*only(ONE), token=flag, env={"HF_TOKEN": variable}).code == 0 and here.right(ONE)
    asked = {request.authorization for request in here.hub.requests if request.host == "hub"}
    assert asked == {sent and "Bearer " + sent}


# ---------------------------------------------------------------- signals


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_during_a_download(here: Here, number: int, code: int) -> None:
    here.hub.bandwidth = 50_000
    process = here.world.start("--nframes", len(IDS), preexec_fn=lambda: signal.signal(
        signal.SIGINT, signal.default_int_handler))
    try:
        until = time.monotonic() + 60
        while not sum(here.sent()) and time.monotonic() < until:
            time.sleep(0.02)
        sent = time.monotonic()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        took = time.monotonic() - sent
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code and "Traceback" not in err, err
    assert err.count("same command") == 1 and took < 9  # the whole takes 20 s
    here.hub.bandwidth = None
    assert here.run(*only(ONE)).code == 0 and here.right(ONE)


# ---------------------------------------------------------------- streams

# Only plain files with one track are; and ffmpeg tells another size for VP9 as long as its packets are not there.
NOT_IN_PART = ("h264_fragments", "h264_audio_first", "vp9")


def test_streamed_is_downloaded(here: Here) -> None:
    here.lay_out(2, BIG)
    streamed = here.run("--stream")
    assert streamed.code == 0 and here.right(ONE) and here.right(TWO)
    assert here.hub.bytes_sent("cdn") < BIG / 8 and here.hub.bytes_sent("xorb") == 0
    assert not here.cached(ONE)
    assert {request.authorization for request in here.hub.requests if request.host == "hub"} == {"Bearer " + FLAG_TOKEN}
    assert here.run("--output-dir", here.world.folder / "whole").tree == streamed.tree


@pytest.mark.parametrize("kinds", [list(clips.KINDS)[at::4] for at in range(4)], ids=" ".join)
def test_streamed_frames_are_those_of_a_full_decode(here: Here, kinds: Sequence[str]) -> None:
    """In part where that can be proven, else whole; each kind is a camera of its own."""
    records = {}
    for kind in kinds:
        if not clips.KINDS[kind].missing():
            count = len(clips.KINDS[kind].facts.shows)
            records[kind] = clips.record([24, 25, 29, 30, count - 10, count - 1], scene=SCENE, camera=kind)
            here.hub.put(path_of(kind), padded(clip(kind).read_bytes(), BIG))
    here.world.records(*records.values())
    run = here.run("--stream", "--nframes", 6)
    assert (run.code, retries(run)) == (0, []), run.err
    for kind, record in records.items():
        folder, truth = here.world.output / record["seq_id"] / "frames", clips.full_decode(clip(kind))
        pictures = [clips.read_png(folder / f"f{at:02d}.png") for at in range(6)]
        assert pictures == [truth[k] for k in record["canonical_frame_ids"]], (kind, run.err)
        in_part = not clips.KINDS[kind].from_start and kind not in NOT_IN_PART
        assert (sum(here.sent(kind + ".mp4")) < BIG / 4) == in_part, (kind, run.err)
        assert (re.search(rf"Getting \S+/{kind}\.mp4 ", run.err) is None) == in_part, (kind, run.err)


def test_what_cannot_be_streamed_or_does_not_pay_is_downloaded_whole(here: Here) -> None:
    cameras = here.lay_out(4, BIG)
    here.hub.fault(ONE, "ignore-range", stage="cdn")
    here.hub.put(path_of(TWO), clip("h264_bframes").read_bytes())
    for camera, kind in zip(cameras[2:], ("h264_audio_first", "h264_fragments")):
        here.hub.put(path_of(camera), padded(clip(kind).read_bytes(), BIG))
    run = here.run("--stream")
    assert (run.code, retries(run), [*map(here.right, cameras)]) == (0, [], [True] * 4), run.err
    whole = re.findall(r"^Getting.*/(\w+)\.mp4 .*not possible: (.{14})", run.err, re.M)
    assert whole == [*zip(cameras, ("the server sen", "the frames nee", "its packets ar", "it is not a pl"))], run.err


def test_branch_that_moves_during_a_stream(here: Here) -> None:
    here.lay_out(1, BIG)
    moved = []

    def asked_again(path: str, stage: str, part: int | None = None) -> Any:
        if stage == "hub" and here.hub.count("hub") == 3 and not moved:
            moved.append(1)
            here.hub.put(path_of(ONE), video(TWO, BIG))
        return Hub.take_fault(here.hub, path, stage, part)

    here.hub.take_fault = asked_again  # type: ignore[method-assign]
    assert here.run("--stream").code == 0 and moved
    assert {request.path.split("/resolve/")[1].split("/")[0] for request in here.hub.requests
            if request.host == "hub" and "/resolve/" in request.path} == {"main", here.hub.commit}


def test_benchmark_from_the_hub(here: Here) -> None:
    text = (json.dumps(clips.record(IDS, scene=SCENE, camera=ONE)) + "\n").encode()
    here.hub.repos["owner/bench"] = {"data/b.jsonl": Blob(text, lfs=False)}
    where = "hf://datasets/owner/bench/data/b.jsonl"
    here.hub.fault("b.jsonl", "503", stage="hub")
    run = here.run("--benchmark", where)
    assert (run.code, here.right(ONE)) == (0, True) and here.hub.count("hub", "b.jsonl") > 1
    missing = here.run("--benchmark", where + "x")
    assert missing.code == 2 and re.search("b.jsonlx.*404", missing.errors[0])


def test_damaged_file_goes_with_all_its_names(tmp_path: Path) -> None:
    blob, good, link, name = [tmp_path / one for one in ("blob", "good", "ab" * 32, "snapshot")]
    blob.write_bytes(b"bad")
    good.write_bytes(b"good")
    link.symlink_to(blob)
    name.symlink_to(link)
    with pytest.raises(program.HubError):
        program.check_sha256(name, None)
    assert list(tmp_path.iterdir()) == [good]

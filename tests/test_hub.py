"""The hub: each video comes once, whole and checked; what may pass is retried, what cannot is told at once.

The real client talks to a server on this machine, by the way that it takes for a user: by Xet where it can.
"""
from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socketserver
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Sequence

import pytest

from tests.hub_server import REPO, Blob
from tests.hub_world import (
    BIG, FILE_HOST, FLAG_TOKEN, HAS_XET, ONE, PLAIN_HTTP, SMALL, THREE, TWO, HubWorld, path_of, record_of,
    retries, select, video_bytes)
from tests.world import Run, needs_posix, screen, until

only_xet = pytest.mark.skipif(not HAS_XET, reason="this client takes plain HTTP")
CACHE_FOLDER = "datasets--" + REPO.replace("/", "--")

# ---------------------------------------------------------------- each byte once, and never again


def test_each_byte_comes_once_and_what_is_in_the_cache_never_again(hub_world: HubWorld) -> None:
    hub = hub_world.hub
    run = hub_world.prepare()
    assert (run.code, hub_world.is_ready(ONE), hub_world.is_ready(TWO)) == (0, True, True)
    assert "%" not in run.err  # no progress bar
    sent = hub_world.bytes_sent()
    assert 1.0 <= sent[0] / (2 * SMALL) < 1.01 and sent[1] == 0
    count = len(hub.requests)
    pinned, offline = ("pinned", ["--revision", hub.commit], {}), ("offline", [], {"HF_HUB_OFFLINE": "1"})
    for output, args, env in (pinned, offline):
        assert hub_world.prepare(*select(ONE), *args, output=output, env=env).code == 0
        assert hub_world.is_ready(ONE, output) and len(hub.requests) == count
    assert hub_world.prepare(*select(ONE), output="branch").code == 0  # a branch may have moved
    assert hub_world.is_ready(ONE, "branch") and len(hub.requests) > count and hub_world.bytes_sent() == sent
    hub.refuse("hub")
    assert hub_world.prepare(*select(ONE), output="unplugged").code == 0
    assert hub_world.is_ready(ONE, "unplugged")


@only_xet  # older clients show no bars
def test_terminal_shows_the_progress_of_a_download(hub_world: HubWorld) -> None:
    hub_world.put_videos(1, BIG)
    hub_world.hub.bandwidth = BIG
    run = hub_world.world.in_terminal(nframes=2, columns=100)
    assert run.code == 0 and re.search(r"Camera_01.mp4: +\d+%.*B/s", run.out), run.out
    assert not re.search("SIGNED-|X-Amz-", run.out)
    left = [line for line in screen(run.out, 100) if line]
    assert sum(line.startswith("Getting ") for line in left) == 1, left
    assert any(line.startswith("1 sequence ready") for line in left), left


def test_lock_of_another_program_is_waited_for_and_that_is_told(hub_world: HubWorld) -> None:
    """The other one has stopped, or only seems to be alive, as on some network disks."""
    fcntl = pytest.importorskip("fcntl")
    etag = hub_world.hub.repos[REPO][path_of(ONE)].etag
    lock = hub_world.world.cache / ".locks" / CACHE_FOLDER / f"{etag}.lock"
    lock.parent.mkdir(parents=True)
    often = {"huggingface_hub.constants.FILELOCK_LOG_EVERY_SECONDS": 1}
    log = hub_world.world.folder / "log"
    with open(str(lock), "w") as held, open(str(log), "w") as stderr:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = hub_world.world.start(*select(ONE), nframes=2, constants=often, stderr=stderr)
        until(lambda: "Still waiting" in log.read_text() or process.poll() is not None)
        fcntl.flock(held, fcntl.LOCK_UN)
        run = hub_world.world.finish(process)
    assert re.search(f"Still waiting to acquire lock.*{lock.name}", log.read_text()), log.read_text()
    assert (run.code, hub_world.is_ready(ONE)) == (0, True)


def test_benchmark_from_the_hub(hub_world: HubWorld) -> None:
    data = (json.dumps(record_of(ONE)) + "\n").encode()
    hub_world.hub.repos["owner/bench"] = {"data/b.jsonl": Blob(data, lfs=False)}
    hub_world.hub.fault("b.jsonl", "503", stage="hub")
    address = "hf://datasets/owner/bench/data/b.jsonl"
    run = hub_world.prepare("--benchmark", address)
    assert (run.code, hub_world.is_ready(ONE)) == (0, True) and hub_world.hub.count("hub", "b.jsonl") > 1
    run = hub_world.prepare("--benchmark", f"{address}x")
    assert run.code == 2 and re.search("b.jsonlx.*404", run.errors[0])


@pytest.mark.parametrize("case", ["told", "no such route", "old client"])
def test_sizes_are_told_before_the_work_where_the_hub_tells_them(hub_world: HubWorld, case: str) -> None:
    hub = hub_world.hub
    hub_world.put_videos(2, BIG)
    hub_world.world.write_records(*map(record_of, (ONE, TWO, THREE)))  # the last one is not on the hub
    if case == "no such route":
        hub.fault("", "501", stage="sizes", times=None)
    old = {"huggingface_hub.__version__": "0.36.0"} if case == "old client" else {}
    check = hub_world.prepare("--check", constants=old)
    assert hub.count("sizes") == len(hub.requests) and not hub_world.world.cache.exists() and not check.tree
    run = hub_world.prepare(constants=old)
    assert (check.code, run.code, [*map(hub_world.is_ready, (ONE, TWO, THREE))]) == (1, 1, [True, True, False])
    is_told = HAS_XET and case == "told"  # no client before 1.0 is asked: it might wait for ever
    assert hub.count("sizes") == (2 if HAS_XET and not old else 0)
    assert "videos needed: 3 (2 at hand)" in hub_world.prepare("--check", "--stride", 1, constants=old).out
    total, unknown = " (9 MB)" * is_told, f"WARNING: not in {REPO}: 1 of 3 videos, first {path_of(THREE)}"
    assert f"Videos: 0 at hand, 3 to download{total} to {hub_world.world.cache} (" in check.out
    before, *getting = re.split("Getting Warehouse_016/", run.err)
    assert f"Videos: 0 at hand, 3 to download{total} to {hub_world.world.cache} (" in before
    assert [unknown in text for text in (check.err, before)] == [is_told] * 2
    done = ["Camera_01.mp4 (5 MB; video 1 of 3, 0 MB of 9 MB done)",
            "Camera_02.mp4 (5 MB; video 2 of 3, 5 MB of 9 MB done)", "Camera_03.mp4 (video 3 of 3)"]
    expected = done if is_told else [re.sub(r"5 MB; |, .*done", "", line) for line in done]
    assert [line.splitlines()[0] for line in getting] == expected


@only_xet  # no other client is asked for sizes
def test_check_adds_up_what_comes_to_one_disk(hub_world: HubWorld) -> None:
    frames = shutil.disk_usage(str(hub_world.world.folder)).free * 6 // 10 // 2_000_000  # of 2 MB, about
    hub_world.hub.repos[REPO][path_of(ONE)].size = frames * 2_000_000
    run = hub_world.prepare("--check", *select(ONE), "--stride", 1, nframes=frames)
    folders = f"{hub_world.world.output} and {hub_world.world.cache}"
    assert f"WARNING: too little space on the disk of {folders}\n" in run.err, run


def test_traceback_quotes_an_address_without_its_signature(hub_world: HubWorld) -> None:
    hub_world.hub.repos["owner/bench"] = {"b.jsonl": Blob(b"{}")}
    hub_world.hub.fault("b.jsonl", "403", stage="cdn", times=None)
    address = ["--benchmark", "hf://datasets/owner/bench/b.jsonl"]
    run = hub_world.world.prepare("--verbose", *address, env=PLAIN_HTTP, changes={"shorten_sleeps": {"seconds": 0}})
    assert run.code == 2 and re.search(r"/lfs/owner/bench/b\.jsonl\?", run.err), run.err
    assert not [word for word in ("X-Amz-", "SIGNED-") if word in run.err]


# ---------------------------------------------------------------- damage


def test_damaged_download_is_noticed_removed_and_repeated(hub_world: HubWorld) -> None:
    hub_world.put_videos(3)
    hub_world.hub.fault(ONE, "wrong-bytes", stage=FILE_HOST, after=SMALL - 4)
    hub_world.hub.fault(TWO, "wrong-bytes", stage="cdn", after=SMALL - 20, times=None)
    run = hub_world.prepare()
    assert (run.code, [*map(hub_world.is_ready, (ONE, TWO, THREE))]) == (1, [True, False, True])
    assert (len(retries(run, ONE)), len(retries(run, TWO)), len(retries(run))) == (1, 4, 5)
    assert all("damaged" in line for line in retries(run) + run.errors) and len(run.errors) == 1
    assert [len(hub_world.cached_files(camera)) for camera in (ONE, TWO, THREE)] == [1, 0, 1]
    assert hub_world.cached_files(ONE)[0].read_bytes() == video_bytes(ONE)
    hub_world.hub.faults.clear()
    assert hub_world.prepare().code == 0 and hub_world.is_ready(TWO)


def test_damage_is_noticed_where_there_are_no_symbolic_links(hub_world: HubWorld) -> None:
    """Then no name in the cache tells the checksum, as on Windows."""
    for stage in {FILE_HOST, "cdn"}:
        hub_world.hub.fault(ONE, "wrong-bytes", stage=stage, after=SMALL - 4, times=None)
    for output in ("first", "second"):  # what the first run left in the cache is no better
        run = hub_world.prepare(output=output, changes={"disable_symlinks": {}})
        ready = [hub_world.is_ready(camera, output) for camera in (ONE, TWO)]
        assert (run.code, ready) == (1, [False, True]) and "damaged" in run.errors[0]


@needs_posix("symbolic links without special rights")
def test_damaged_file_in_the_cache_is_removed_with_all_its_names(hub_world: HubWorld) -> None:
    hub_world.put_videos(3)
    assert hub_world.prepare().code == 0
    blobs = {camera: hub_world.cached_files(camera)[0] for camera in (ONE, TWO, THREE)}
    cut, changed = {ONE: video_bytes(ONE)[:-4], THREE: video_bytes(THREE)[:-4]}, {TWO: video_bytes(TWO)[:-4] + b"0000"}
    for camera, data in {**cut, **changed}.items():
        blobs[camera].chmod(0o644)
        blobs[camera].write_bytes(data)
    by_xet_hash = blobs[TWO].with_name("ab" * 32)  # as some clients name it, with a link between
    blobs[TWO].rename(by_xet_hash)
    blobs[TWO].symlink_to(by_xet_hash)
    run = hub_world.prepare(*select(THREE), output="offline", env={"HF_HUB_OFFLINE": "1"})
    assert (run.code, hub_world.is_ready(THREE, "offline")) == (2, False) and "damaged" in run.err
    assert not blobs[THREE].exists()
    run = hub_world.prepare(*select(ONE, TWO), output="again")
    assert (run.code, hub_world.is_ready(ONE, "again"), hub_world.is_ready(TWO, "again")) == (0, True, True)
    assert ["damaged" in line for line in retries(run)] == [True, True], run.err
    assert not by_xet_hash.exists()


def test_leftover_of_an_older_client_that_is_too_long_is_replaced(hub_world: HubWorld) -> None:
    """Asked to go on behind the end, the server answers 416, again and again."""
    blobs = hub_world.world.cache / CACHE_FOLDER / "blobs"
    blobs.mkdir(parents=True)
    etag = hub_world.hub.repos[REPO][path_of(ONE)].etag
    (blobs / f"{etag}.incomplete").write_bytes(bytes(SMALL + 9))
    run = hub_world.prepare(*select(ONE), env=PLAIN_HTTP)
    assert (run.code, hub_world.is_ready(ONE)) == (0, True) and len(retries(run)) <= 2, run.err


# ---------------------------------------------------------------- what passes is retried


class FaultCase(NamedTuple):
    stage: str
    kind: str
    words: str  # in the line of each retry, and in the error
    retries: int | None = 1  # None: any number, since some clients retry by themselves
    options: dict[str, Any] = {}
    fails: bool = False  # for ever, and so the sequences of this video


HUB_FAULTS = [
    FaultCase("hub", "503", "503", 4, fails=True),
    FaultCase("hub", "429", "429.* in 1 s", options={"headers": [("Retry-After", "1")]}),
    FaultCase("hub", "503", "503", 4, fails=True),  # the video in between has shown that there is a way
    FaultCase("hub", "404-EntryNotFound", "not found.*404", 0, fails=True),
    FaultCase("hub", "429", "429.* in 300 s", options={"headers": [("RateLimit", '"api";r=0;t=9999')]}),
    *[FaultCase("hub", kind, kind[:3], None) for kind in ("408", "425", "500", "502 Proxy Error", "503")],
    FaultCase("hub", "reset", "connection|disconnected", None),
    FaultCase("hub", "stall", "time", None),
    FaultCase("hub", "close", "connect", None),
]
FILE_FAULTS = [  # also of a stream, so `after` stays below the size of the part that a stream needs
    # What a signed address answers says nothing about access, even if it never serves.
    FaultCase("cdn", "401", "401", 4, fails=True),
    FaultCase("cdn", "expired", "403"),
    FaultCase("cdn", "403", "403", 4, fails=True),
    FaultCase("cdn", "404", "404"),
    *[FaultCase("cdn", kind, kind[:3], None) for kind in ("408", "425", "429", "500", "502 Proxy Error", "503")],
    FaultCase("cdn", "416", "416"),
    *[FaultCase("cdn", kind, "connection|incomplete", None, {"after": 10}) for kind in ("reset", "close")],
    FaultCase("cdn", "wrong-length", "size|length|bytes"),
    FaultCase("cdn", "stall", "time", None, {"after": 1000}),
]


def prepare_with_faults(
        hub_world: HubWorld, faults: Sequence[FaultCase], *args: str, size: int = SMALL, **options: Any) -> Run:
    """Run once with a fault for each camera; it passes, or fails the sequence of this camera only.

    No two neighbours may fail: two videos in a row that do not come would stop the run.
    """
    cameras = hub_world.put_videos(len(faults), size)
    assert len(cameras) == len(faults)
    for camera, fault in zip(cameras, faults):
        times = None if fault.fails else 1
        hub_world.hub.fault(camera, fault.kind, stage=fault.stage, times=times, **fault.options)
    run = hub_world.prepare(*args, **options)
    for camera, fault in zip(cameras, faults):
        lines, errors = retries(run, camera), [line for line in run.errors if camera in line]
        assert fault.retries in (None, len(lines)), (fault, run.err)
        assert all(re.search(fault.words, line, re.IGNORECASE) for line in lines + errors), (fault, run.err)
        assert (len(errors), hub_world.is_ready(camera)) == (fault.fails, not fault.fails), (fault, run.err)
        assert hub_world.hub.count(fault.stage, camera) > 0, fault
        assert fault.retries != 4 or hub_world.hub.count("hub", camera) >= 5, fault
    assert run.code == any(fault.fails for fault in faults), run.err
    return run


def test_faults_of_the_hub(hub_world: HubWorld) -> None:
    prepare_with_faults(hub_world, HUB_FAULTS)


def test_faults_of_plain_http(hub_world: HubWorld) -> None:
    env = {**PLAIN_HTTP, "HF_HUB_VERBOSITY": "info"}
    run = prepare_with_faults(hub_world, FILE_FAULTS, env=env)
    assert not re.search("token|terms|--repo-|not found", run.err), run.err
    # The client quotes the address, and hub_world.prepare looks for its signature.
    assert re.search("Error while downloading from http://", run.err), run.err


def test_expired_signature_is_no_refusal_where_the_hub_itself_has_the_files(hub_world: HubWorld) -> None:
    hub_world.hub.cdn = hub_world.hub.endpoint  # as a mirror may
    hub_world.hub.fault(ONE, "expired", stage="cdn")
    run = hub_world.prepare(*select(ONE), env=PLAIN_HTTP, token=None)
    assert (run.code, len(retries(run)), hub_world.is_ready(ONE)) == (0, 1, True), run.err


def test_quiet_run_tells_no_warning_of_the_client(hub_world: HubWorld) -> None:
    hub_world.hub.fault(ONE, "stall", stage="cdn", after=1000)
    env = {**PLAIN_HTTP, "HF_HUB_VERBOSITY": "info", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    run = hub_world.prepare("--quiet", *select(ONE), env=env)
    assert (run.code, run.err) == (0, "") and hub_world.hub.count("cdn", ONE) == 2


XET_FAULTS: list[tuple[str, str, str, dict[str, Any]]] = [  # stage, kind, words, options
    ("token", "401", "401", {}), ("token", "stall", "time", {}),
    ("cas", "503", "", {}), ("cas", "refused", "", {}), ("xorb", "reset", "", {}),
    ("xorb", "stall", "", {"after": 1000}), ("xorb", "wrong-length", "", {}),
]


@only_xet
@pytest.mark.parametrize("stage, kind, words, options", XET_FAULTS)
def test_plain_http_takes_over_where_xet_fails(
        hub_world: HubWorld, stage: str, kind: str, words: str, options: dict[str, Any]) -> None:
    if kind == "refused":
        hub_world.hub.refuse(stage)
    else:
        path = "" if stage == "token" else ONE  # one token serves for all files
        hub_world.hub.fault(path, kind, stage=stage, times=None, **options)
    run = hub_world.prepare(*select(ONE), env={"HF_DEBUG": "1"}, constants={"SESSION_TIMEOUT_S": 0.3})
    assert (run.code, len(retries(run)), hub_world.is_ready(ONE)) == (0, 1, True), run.err
    assert re.search(words, retries(run)[0], re.IGNORECASE)
    assert hub_world.hub.bytes_sent("cdn", ONE) == SMALL


@contextlib.contextmanager
def serve(handle: Any) -> Iterator[int]:
    """Call handle(connection) for each connection to the port that is yielded."""
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            handle(self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_cut_during_the_tls_handshake_is_retried(hub_world: HubWorld) -> None:
    hellos: list[bytes] = []
    with serve(lambda connection: hellos.append(connection.recv(1 << 14))) as port:
        address = f"https://me:UNMISTAKABLE@127.0.0.1:{port}"  # and nothing shows who I am
        run = hub_world.prepare(*select(ONE), env={"HF_ENDPOINT": address})
    assert run.code == 1 and len(retries(run)) == 4 and len(hellos) >= 5, run.err
    assert not re.search("speak|certificate|HF_ENDPOINT|PROXY", run.err), run.err


@pytest.mark.parametrize("trouble, words", [
    ("hub", "127.0.0.1.*refused"), ("cdn", "refused"), ("503", "503")])
def test_two_videos_in_a_row_that_the_hub_does_not_deliver_stop_the_run(
        hub_world: HubWorld, trouble: str, words: str) -> None:
    hub_world.put_videos(3)
    if trouble == "503":
        hub_world.hub.fault("Camera", "503", stage="hub", times=None)
    else:
        hub_world.hub.refuse(trouble)
    run = hub_world.prepare(env=PLAIN_HTTP)
    assert (run.code, len(retries(run))) == (2, 8), run.err
    assert all(re.search(words, line) for line in retries(run))
    assert re.search("2 videos in a row.*same command", run.errors[-1])
    assert THREE not in run.err and not hub_world.hub.count("hub", THREE)


# ---------------------------------------------------------------- what no retry can mend


ANSWERS = [  # of the hub; what is said; and the option
    ("401-RepoNotFound", r"access refused \(401 Unauthorized\)", ()),
    ("401", r"access refused \(401 Unauthorized\)", ()),
    ("403-GatedRepo", r"access refused \(403 Forbidden\).*terms", ()),
    ("403-GatedRepo", r"access refused \(403 Forbidden\).*terms", ("--stream",)),
    ("404-RepoNotFound", "no such repository.*--repo-id", ()),
    ("404-RevisionNotFound", "no such revision.*--revision", ()),
]
SETTINGS: list[tuple[dict[str, str | None], Sequence[str], str]] = [
    ({"HF_ENDPOINT": "hub.example"}, (), "HF_ENDPOINT"),
    ({"HF_HUB_ETAG_TIMEOUT": "soon"}, (), "huggingface_hub cannot be used.*HF_HUB_ETAG_TIMEOUT"),
    ({"HTTP_PROXY": "nonsense://x", "NO_PROXY": None, "no_proxy": None}, (), "HTTP_PROXY"),
    ({}, ("--hf-cache-dir", "benchmark.jsonl"), "benchmark.jsonl"),
    # The HTTP library of older clients reads another variable for http:// addresses.
    ({"SSL_CERT_FILE" if HAS_XET else "REQUESTS_CA_BUNDLE": "/no/such.pem"}, (),
     "SSL_CERT_FILE" if HAS_XET else "REQUESTS_CA_BUNDLE"),
    ({"HF_HUB_OFFLINE": "1"}, (), "HF_HUB_OFFLINE.*not in the cache.*--revision"),
    ({}, ("--hf-token", "UNMISTAKABLE\u20ac"), "token"),
    ({"HF_TOKEN": "UNMISTAKABLE y"}, (), "token"),
    # The client's own words quote this one.
    *[({"HUGGING_FACE_HUB_TOKEN": "UNMISTAKABLE\x0by"}, (), "a setting cannot work.*<token>")] * HAS_XET,
]


@pytest.mark.parametrize("answer, env, args, words", [
    *[(answer, {}, args, words) for answer, words, args in ANSWERS], *[("", *setting) for setting in SETTINGS]])
def test_what_no_retry_can_mend_is_told_at_once(
        hub_world: HubWorld, answer: str, env: dict[str, str | None], args: Sequence[str], words: str) -> None:
    if answer:
        hub_world.hub.fault(ONE, answer, stage="hub", times=None)
    run = hub_world.prepare(*args, env=env, token=None, cwd=str(hub_world.world.folder))
    assert (run.code, retries(run), hub_world.bytes_sent()) == (2, [], [0, 0]), run.err
    assert re.search(words, run.err.splitlines()[-1]) and len(run.errors) <= 1  # argparse says it in its own way
    assert hub_world.hub.requests == [] or answer or "--hf-cache-dir" in args


@pytest.mark.parametrize("env", [{}, PLAIN_HTTP], ids=["xet", "plain HTTP"])
def test_full_disk_of_the_cache_stops_the_run(hub_world: HubWorld, mount_disk: Any, env: dict[str, str]) -> None:
    mount_disk("size=48k")
    run = hub_world.prepare("--hf-cache-dir", hub_world.world.folder / "disk", env=env)
    assert (run.code, len(run.errors)) == (2, 1) and hub_world.hub.count("cdn") == 1, run
    assert re.search("full.*No space.*--hf-cache-dir", run.errors[0])


@pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl to make a certificate")
def test_certificate_that_is_not_trusted_stops_the_run(hub_world: HubWorld) -> None:
    key, certificate = (str(hub_world.world.folder / name) for name in ("key.pem", "certificate.pem"))
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost",
                    "-keyout", key, "-out", certificate], check=True, stderr=subprocess.DEVNULL)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def greet(connection: Any) -> None:
        with contextlib.suppress(OSError):  # the client does not like what it sees
            context.wrap_socket(connection, server_side=True)

    with serve(greet) as port:
        run = hub_world.prepare(env={"HF_ENDPOINT": f"https://localhost:{port}"})
    assert (run.code, retries(run), len(run.errors)) == (2, [], 1), run.err
    assert re.search("certificate.*SSL_CERT_FILE.*REQUESTS_CA_BUNDLE", run.errors[0])


def test_used_up_quota_of_the_cache_stops_the_run(hub_world: HubWorld) -> None:
    run = hub_world.prepare(changes={"use_up_quota": {"folder": str(hub_world.world.cache)}})
    assert (run.code, len(run.errors)) == (2, 1) and re.search("full.*quota.*--hf-cache-dir", run.errors[0]), run


@pytest.mark.parametrize("name, bug", [
    ("hf_hub_download", "TypeError"), ("get_hf_file_metadata", "TypeError"), ("utils", "AttributeError")])
def test_bug_shows_its_traceback_and_is_not_retried(hub_world: HubWorld, name: str, bug: str) -> None:
    if name == "get_hf_file_metadata":  # what is in the cache is no way around it
        assert hub_world.prepare(*select(ONE), output="earlier").code == 0
    run = hub_world.world.prepare(*select(ONE), nframes=2, child=True, constants={f"huggingface_hub.{name}": None})
    assert (run.code, retries(run)) == (1, []), run
    assert "Traceback" in run.err and re.search(f"^{bug}: ", run.err, re.MULTILINE), run.err
    assert not run.errors


def test_client_that_is_too_old_is_told_with_the_oldest_that_works(hub_world: HubWorld) -> None:
    run = hub_world.prepare(constants={"huggingface_hub.__version__": "0.23.5"})
    assert (run.code, retries(run), hub_world.hub.requests) == (2, [], []), run.err
    assert re.search(r"0\.23\.5.*0\.24", run.errors[0])


# ---------------------------------------------------------------- the token, and signals

ENV_TOKEN, SAVED_TOKEN = "hf_ENVxUNMISTAKABLE", "hf_SAVEDxUNMISTAKABLE"


@pytest.mark.parametrize("flag, variable, saved, sent", [
    (FLAG_TOKEN, ENV_TOKEN, SAVED_TOKEN, FLAG_TOKEN), (None, f" {ENV_TOKEN}\n", SAVED_TOKEN, ENV_TOKEN),
    (" ", " ", SAVED_TOKEN, SAVED_TOKEN), ("", "", "", None)], ids=["flag", "variable", "login", "none"])
def test_which_token_is_sent(
        hub_world: HubWorld, flag: str | None, variable: str, saved: str, sent: str | None) -> None:
    hub_world.hub.token = sent
    if saved:
        home = Path(str(hub_world.world.env["HF_HOME"]))
        home.mkdir(parents=True)
        (home / "token").write_text(saved)
    run = hub_world.prepare(*select(ONE), token=flag, env={"HF_TOKEN": variable})
    assert run.code == 0 and hub_world.is_ready(ONE)
    tokens = {request.authorization for request in hub_world.hub.requests if request.host in ("hub", "sizes")}
    assert tokens == {sent and f"Bearer {sent}"}


@needs_posix("signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_a_download(hub_world: HubWorld, number: int) -> None:
    hub_world.hub.bandwidth = 25_000  # so a video takes 5 s and more
    process = hub_world.world.start(nframes=2, changes={"restore_interrupt": {}})
    until(lambda: sum(hub_world.bytes_sent()) > 0)
    process.send_signal(number)
    run = hub_world.world.finish(process)
    assert run.code == 128 + number and "Traceback" not in run.err and run.err.count("same command") == 1, run.err
    assert sum(hub_world.bytes_sent(ONE)) < SMALL
    hub_world.hub.bandwidth = None
    assert hub_world.prepare(*select(ONE)).code == 0 and hub_world.is_ready(ONE)

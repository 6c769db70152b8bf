"""The real client against the hub on 127.0.0.1, by the way that it takes on a user's machine: Xet where it can."""
from __future__ import annotations

import errno
import functools
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

import pytest

import prepare_sot_dataset as program
from tests import clips, hub_server
from tests.hub_server import Hub
from tests.world import Run, World, clip, screen

SCENE, REPO = "Warehouse_016", "nvidia/PhysicalAI-SmartSpaces"
IDS = [2, 9]
ONE, TWO, THREE = "Camera_01", "Camera_02", "Camera_03"
WAITS = (0.02, 0.04, 0.06, 0.08)  # RETRY_WAIT_SECONDS of every run here
FLAG_TOKEN, ENV_TOKEN, SAVED_TOKEN = "hf_FLAGxUNMISTAKABLE", "hf_ENVxUNMISTAKABLE", "hf_SAVEDxUNMISTAKABLE"
SECRETS = ("UNMISTAKABLE", "SIGNED-", "X-Amz-", "/lfs/", "/xorbs/", "Traceback")
NAPS = "import time\nsleep = time.sleep\ntime.sleep = lambda seconds: sleep(min(seconds, 0.02))\n"
QUICK_XET = {"HF_XET_CLIENT_READ_TIMEOUT": "1s", "HF_XET_CLIENT_CONNECT_TIMEOUT": "1s",
             "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "0"}
BIG = 8 << 20  # streaming pays


def by_xet() -> bool:
    """Whether this client's downloads go by Xet: those that notice SIGTERM meanwhile."""
    try:
        from huggingface_hub.utils import _xet
    except ImportError:
        return False
    return hasattr(_xet, "get_xet_session")


WAY = "xorb" if by_xet() else "cdn"
only_xet = pytest.mark.skipif(not by_xet(), reason="this client takes plain HTTP")


def padded(data: bytes, size: int, end: bytes = b"") -> bytes:
    """A clip with bytes behind it that no picture needs."""
    return data + struct.pack(">I4s", size - len(data), b"free") + end.rjust(size - len(data) - 8)


@functools.lru_cache(maxsize=None)
def video(camera: str, size: int = 1 << 19) -> bytes:
    """The same pictures for each camera, but other bytes at the end."""
    return padded(clip("h264_bframes").read_bytes(), size, camera.encode())


def path_of(camera: str) -> str:
    return "MTMC_Tracking_2025/val/{}/videos/{}.mp4".format(SCENE, camera)


def seq_id(camera: str) -> str:
    return str(clips.record(IDS, scene=SCENE, camera=camera)["seq_id"])


class Here(NamedTuple):
    """The world with a hub in it."""
    world: World
    hub: Hub

    def run(self, *args: Any, token: Optional[str] = FLAG_TOKEN, prologue: str = "", **options: Any) -> Run:
        given = () if token is None else ("--hf-token", token)
        run = self.world.run("--nframes", len(IDS), *given, *args, constants={"RETRY_WAIT_SECONDS": WAITS},
                             prologue=NAPS + prologue, **options)
        said = run.out + run.err + "".join(map(str, run.tree))
        assert not [secret for secret in SECRETS if secret in said], said
        assert not [request for request in self.hub.requests
                    if request.host in ("cdn", "xorb") and request.authorization]
        return run

    def sent(self, camera: str = "") -> List[int]:
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

    def cached(self, camera: str) -> List[Path]:
        """All files in the cache that are as large as the video."""
        return [path for path in self.world.cache.rglob("*") if path.is_file() and not path.is_symlink()
                and path.stat().st_size == self.hub.repos[REPO][path_of(camera)].size
                and path.read_bytes()[-9:] == camera.encode()]


@pytest.fixture
def here(world: World, request: Any) -> Iterator[Here]:
    cameras, size, options = getattr(request, "param", ((ONE, TWO), 1 << 19, {}))
    world.records(*[clips.record(IDS, scene=SCENE, camera=camera) for camera in cameras])
    with world.hub(xet=True, **options) as hub:
        world.env.update({"HF_HUB_DISABLE_XET": None, **QUICK_XET})
        for camera in cameras:
            hub.put(path_of(camera), video(camera, size))
        yield Here(world, hub)


def three(**options: Any) -> Any:
    return pytest.mark.parametrize("here", [((ONE, TWO, THREE), 1 << 19, options)], indirect=True)


big = pytest.mark.parametrize("here", [((ONE, TWO), BIG, {})], indirect=True)


def retries(run: Run) -> List[str]:
    return [line for line in run.err.splitlines() if re.search(r", retry \d/4 in ", line)]


# ---------------------------------------------------------------- once over the line, and never again


def test_each_byte_comes_once_and_what_is_in_the_cache_never_again(here: Here) -> None:
    run = here.run()
    assert (run.code, here.right(ONE), here.right(TWO)) == (0, True, True)
    assert re.findall(r"^\[.*", run.err, re.M) == ["[%d/2] %s: ready" % (number, seq_id(camera))
                                                   for number, camera in ((1, ONE), (2, TWO))]
    sent = here.sent()
    assert 1.0 <= sent[0] / (2 << 19) < 1.01 and sent[1] == 0
    for number, args in enumerate([(), ("--stream",), ("--revision", here.hub.commit)]):
        assert here.run("--output-dir", here.world.folder / str(number), *args).code == 0
        assert here.right(ONE, str(number)) and here.sent() == sent
    before = len(here.hub.requests)
    assert here.run("--output-dir", here.world.folder / "pinned", "--revision", here.hub.commit).code == 0
    assert here.run("--output-dir", here.world.folder / "off", env={"HF_HUB_OFFLINE": "1"}).code == 0
    assert here.right(ONE, "off") and here.right(ONE, "pinned")
    assert here.run().code == 0 and len(here.hub.requests) == before  # ready: nobody is asked
    here.hub.refuse("hub")
    assert here.run("--output-dir", here.world.folder / "unplugged").code == 0 and here.right(ONE, "unplugged")


def test_cache_that_another_program_filled(here: Here) -> None:
    fetch = "from huggingface_hub import hf_hub_download; hf_hub_download({!r}, {!r}, repo_type='dataset', cache_dir={!r})"
    for camera in (ONE, TWO):
        subprocess.run([sys.executable, "-c", fetch.format(REPO, path_of(camera), str(here.world.cache))],
                       env=here.world.changed(None), check=True, stderr=subprocess.DEVNULL)
    sent = here.hub.bytes_sent(None) - here.hub.bytes_sent("hub")
    run = here.run()
    assert (run.code, retries(run), here.right(ONE), here.right(TWO)) == (0, [], True, True)
    assert here.hub.bytes_sent("cdn") + here.hub.bytes_sent("xorb") <= sent


def test_four_runs_at_once_on_one_cache(here: Here) -> None:
    here.hub.bandwidth = 1 << 20
    outputs = [str(number) for number in range(4)]
    runs = [here.world.start("--nframes", len(IDS), "--output-dir", here.world.folder / output) for output in outputs]
    told = [run.communicate(timeout=100) for run in runs]
    assert [run.returncode for run in runs] == [0] * 4, told
    assert all(here.right(camera, output) for camera in (ONE, TWO) for output in outputs)
    assert not [line for _, err in told for line in err.splitlines() if "retry" in line]
    assert here.sent()[0] < 1.1 * (2 << 19) and here.sent()[1] == 0


@pytest.mark.parametrize("here", [((ONE, TWO), 24 << 20, {})], indirect=True)
@pytest.mark.parametrize("args", [(), ("--stream", "--stride", 100)], ids=["download", "stream"])
def test_progress_of_a_download(here: Here, args: Sequence[Any]) -> None:
    """One bar, that fits and leaves nothing; in a pipe a line now and then."""
    here.hub.bandwidth = 12 << 20
    told = r"video 1 of 2: \d+ of \d+ MB, \d+ s left"
    constants = {"BAR_SECONDS": 0.001, "LINE_SECONDS": 0}
    run = here.world.in_terminal("--nframes", 2, *args, columns=60, constants=constants)
    assert run.code == 0 and re.search(told, run.out)
    assert max(map(len, re.split("[\r\n]+", run.out))) <= 90
    left = [line for line in screen(run.out, 90) if line]
    word = "Streaming from" if args else "Getting"
    assert left[:2] == ["%s %s/%s.mp4 (video %d of 2)" % (word, SCENE, camera, number)
                        for number, camera in enumerate((ONE, TWO), 1)] and left[2].startswith("Done: 2"), left
    shutil.rmtree(here.world.output)
    shutil.rmtree(here.world.cache, ignore_errors=True)
    err = here.world.run("--nframes", 2, *args, constants=constants).err
    assert re.search(told, err) and "\r" not in err


# ---------------------------------------------------------------- damage


def test_flipped_byte_is_noticed_and_leaves_the_cache(here: Here) -> None:
    here.hub.fault(ONE, "wrong-bytes", stage=WAY, after=len(video(ONE)) - 4)
    run = here.run()
    assert (run.code, here.right(ONE), here.right(TWO)) == (0, True, True)
    assert len(retries(run)) == 1 and "damaged" in retries(run)[0]
    assert len(here.cached(ONE)) == 1 and {path.read_bytes() == video(ONE) for path in here.cached(ONE)} == {True}


def test_video_that_always_arrives_damaged_is_nowhere_in_the_cache(here: Here) -> None:
    for stage in {WAY, "cdn"}:
        here.hub.fault(ONE, "wrong-bytes", stage=stage, after=len(video(ONE)) - 20, times=None)
    run = here.run()
    assert (run.code, here.right(ONE), here.right(TWO)) == (1, False, True)
    assert len(retries(run)) == 4 and "damaged" in run.errors[0]
    assert here.cached(ONE) == [] and len(here.cached(TWO)) == 1
    here.hub.faults.clear()
    assert here.run().code == 0 and here.right(ONE)


@pytest.mark.parametrize("spoil", [lambda data: data[:-4], lambda data: data[:-4] + b"0000"], ids=["cut", "wrong"])
@pytest.mark.parametrize("offline", [None, "1"])
def test_damaged_in_the_cache(here: Here, spoil: Any, offline: Optional[str]) -> None:
    assert here.run().code == 0
    blob, = here.cached(ONE)
    blob.chmod(0o644)
    blob.write_bytes(spoil(video(ONE)))
    run = here.run("--output-dir", here.world.folder / "again", env={"HF_HUB_OFFLINE": offline})
    assert "damaged" in run.err and len(here.cached(TWO)) == 1
    assert (run.code, here.right(ONE, "again")) == ((2, False) if offline else (0, True)), run.err


def test_wrong_bytes_where_there_are_no_symbolic_links(here: Here) -> None:
    """Then nothing in the cached file's path tells its checksum: so it is on Windows."""
    refused = "import os\ndef refused(*_args, **_kwargs):\n    raise OSError('no links here')\nos.symlink = refused\n"
    for stage in {WAY, "cdn"}:
        here.hub.fault(ONE, "wrong-bytes", stage=stage, after=len(video(ONE)) - 4, times=None)
    for output in ("first", "second"):  # what the first run left in the cache is no better
        run = here.run("--output-dir", here.world.folder / output, prologue=refused)
        assert (run.code, here.right(ONE, output), here.right(TWO, output)) == (1, False, True)
        assert "damaged" in run.errors[0]


# ---------------------------------------------------------------- every fault, played


class Case(NamedTuple):
    stage: str  # of the fault
    kind: str
    says: str  # in each retry's line, or in the error
    code: int = 0
    retries: int = 1
    times: Optional[int] = 1
    options: Dict[str, Any] = {}


CDN_ONCE = [Case("cdn", "reset", "connection (reset|broken)", options={"after": 100}, retries=0),
            Case("cdn", "429", "429", retries=0),  # newer clients wait by themselves
            Case("cdn", "500", "500"), Case("cdn", "503", "503"),
            Case("cdn", "expired", "expired"), Case("cdn", "416", "wrong length"),
            Case("cdn", "wrong-length", "wrong length|connection")]
CASES = [
    Case("head", "401-repo-not-found", r"access refused \(401 Unauthorized\)", 2, 0, None),
    Case("head", "401-bad-token", r"access refused \(401 Unauthorized\)", 2, 0, None),
    Case("head", "403-gated", r"access refused \(403 Forbidden\).*terms", 2, 0, None),
    Case("head", "403", r"access refused \(403 Forbidden\)", 2, 0, None),
    Case("head", "404-repo", "no such repository.*--repo-id", 2, 0, None),
    Case("head", "404-revision", "no such revision.*--revision", 2, 0, None),
    Case("head", "404-entry", "not found.*404", 1, 0, None),
    Case("head", "429", "429"), Case("head", "500", "500"), Case("head", "503", "503"),
    Case("head", "429", "429", options={"retry_after": 1}), Case("head", "429", "429", options={"ratelimit": 2}),
    Case("head", "reset", "connection"), Case("head", "stall", "time-out"), Case("head", "close", "connection"),
    Case("head", "503", "503", 1, 4, None), Case("head", "stall", "time-out", 1, 4, None),
]
XET_CASES = [
    *[Case("token", kind, "no access to Xet", times=None) for kind in ("401-bad-token", "403", "404-entry", "500")],
    Case("token", "stall", "time-out", times=None),
    *[Case("cas", kind, "Xet", times=None) for kind in ("503", "reset", "stall", "401", "404-entry")],
    *[Case("xorb", kind, "Xet", times=None) for kind in ("503", "reset", "stall", "403")],
    Case("xorb", "stall", "Xet", times=None, options={"after": 1000}),
    Case("xorb", "wrong-length", "Xet|damaged", times=None),
]


def played(here: Here, case: Case, *args: str, env: Optional[Dict[str, str]] = None) -> None:
    named_file = "" if case.stage == "token" else ONE  # one token serves for all files
    here.hub.fault(named_file, case.kind, stage=case.stage, times=case.times, **case.options)
    run = here.run(*args, env=env)
    assert run.code == case.code, run.err
    assert len(retries(run)) == case.retries or not case.retries and not case.code, run.err
    assert all(re.search(case.says, line) for line in retries(run)), run.err
    if case.code == 0:
        assert run.errors == [] and here.right(ONE)
    else:
        assert len(run.errors) == 1 and re.search(case.says, run.errors[0]) and not here.right(ONE)
    assert here.right(TWO) == (case.code < 2)
    if case.retries == 4:  # the client's own retries do not multiply ours
        assert here.hub.count(host="hub", path_contains=ONE) == 5


def named(case: Case) -> str:
    return " ".join(map(str, (case.stage, case.kind, case.times or "always", *case.options.values())))


@pytest.mark.parametrize("case", CASES, ids=named)
def test_fault_of_the_hub(here: Here, case: Case) -> None:
    played(here, case)


@only_xet
@pytest.mark.parametrize("case", XET_CASES, ids=named)
def test_fault_of_xet(here: Here, case: Case) -> None:
    """Plain HTTP takes over, and it has the file."""
    played(here, case)
    assert here.hub.bytes_sent("cdn", ONE) == len(video(ONE))


@only_xet
@pytest.mark.parametrize("host", ["cas", "xorb"])
def test_host_of_xet_that_cannot_be_reached(here: Here, host: str) -> None:
    here.hub.refuse(host)
    run = here.run()
    assert (run.code, len(retries(run)), here.right(ONE), here.right(TWO)) == (0, 1, True, True), run.err
    assert here.hub.bytes_sent("cdn") == 2 << 19  # and Xet is not tried again


@pytest.mark.parametrize("case", CDN_ONCE, ids=named)
def test_fault_of_plain_http(here: Here, case: Case) -> None:
    played(here, case, env={"HF_HUB_DISABLE_XET": "1"})


def test_the_clients_own_retries_do_not_multiply_ours(here: Here) -> None:
    here.hub.fault(ONE, "stall", stage="cdn", times=None)
    run = here.run(env={"HF_HUB_DISABLE_XET": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"})
    assert (run.code, len(retries(run)), here.right(TWO)) == (1, 4, True)
    assert sum(request.host == "cdn" and ONE in request.file for request in here.hub.requests) == 5


@big
@pytest.mark.parametrize("case", [case for case in CASES if case.kind != "404-entry" and case.times is None][:4]
                         + [case._replace(retries=1, says="connection" if case.kind == "reset" else case.says)
                            for case in CDN_ONCE if case.kind not in ("416", "wrong-length")], ids=named)
def test_fault_of_a_stream(here: Here, case: Case) -> None:
    played(here, case, "--stream")
    assert here.hub.bytes_sent("cdn") + here.hub.bytes_sent("xorb") < BIG / 4


def test_patience_with_xet_is_short_unless_the_user_says_otherwise() -> None:
    assert all(re.fullmatch(r"\d+s?", value) for value in program.XET_PATIENCE.values())
    tries = 1 + int(program.XET_PATIENCE["HF_XET_CLIENT_RETRY_MAX_ATTEMPTS"])
    assert tries * int(program.XET_PATIENCE["HF_XET_CLIENT_READ_TIMEOUT"][:-1]) <= 120


# ---------------------------------------------------------------- no hub at all


@three()
@pytest.mark.parametrize("trouble, says", [("hub", "no connection"), ("cdn", "no connection"), ("503", "503")])
def test_two_videos_in_a_row_that_the_hub_does_not_give_stop_the_run(here: Here, trouble: str, says: str) -> None:
    if trouble == "503":
        here.hub.fault("Camera", "503", stage="head", times=None)
    else:
        here.hub.refuse(trouble)
    run = here.run(env={"HF_HUB_DISABLE_XET": "1"})
    assert (run.code, len(retries(run))) == (2, 8), run.err
    assert all(says in line for line in retries(run)) and re.search("2 videos in a row.*goes on", run.errors[-1])
    assert THREE not in run.err and not here.hub.count(host="hub", path_contains=THREE)


@three()
def test_a_video_that_comes_in_between_shows_that_there_is_a_way(here: Here) -> None:
    for camera in (ONE, THREE):
        here.hub.fault(camera, "503", stage="head", times=None)
    run = here.run()
    assert (run.code, len(retries(run)), here.right(TWO)) == (1, 8, True)
    assert set(re.findall("Camera_..", "".join(run.errors))) == {ONE, THREE}


def test_offline_without_the_file_stops_at_once(here: Here) -> None:
    run = here.run(env={"HF_HUB_OFFLINE": "1"})
    assert (run.code, here.hub.requests, retries(run)) == (2, [], [])
    assert len(run.errors) == 1 and re.search("offline mode.*not in the cache.*--revision", run.errors[0])


SETTINGS = [
    ({"HF_ENDPOINT": "hub.example"}, (), "HF_ENDPOINT"),
    ({"HF_HUB_ETAG_TIMEOUT": "soon"}, (), "huggingface_hub cannot be used.*HF_HUB_ETAG_TIMEOUT"),
    ({"HTTP_PROXY": "nonsense://x", "NO_PROXY": None, "no_proxy": None}, (), "HTTP_PROXY"),
    ({}, ("--hf-cache-dir", "a_file"), "a_file"), ({}, ("--hf-cache-dir", "/proc/nope/x"), "/proc/nope"),
    # 0.x, with another HTTP library, reads it for no http:// address.
    *[({"SSL_CERT_FILE": "/no/such.pem"}, (), "SSL_CERT_FILE")] * (metadata.version("huggingface_hub") >= "1"),
    ({}, ("--hf-token", "UNMISTAKABLE\u20ac"), "token"),
    ({"HF_TOKEN": "UNMISTAKABLE y"}, (), "token"),
]


@pytest.mark.parametrize("env, args, says", SETTINGS, ids=[row[2] for row in SETTINGS])
def test_setting_that_cannot_work_is_told_at_once(here: Here, env: Any, args: Sequence[str], says: str) -> None:
    Path("a_file").write_text("")
    run = here.run(*args, env=env, token=None)
    Path("a_file").unlink()
    assert (run.code, retries(run), len(run.errors)) == (2, [], 1), run.err
    assert re.search(says, run.errors[0]) and here.sent() == [0, 0]


PROXY = {"HTTPS_PROXY": "http://127.0.0.1:9"}


@pytest.mark.parametrize("env, counts", [
    ({}, False), ({"NO_PROXY": "x"}, False), (PROXY, True), ({**PROXY, "NO_PROXY": "huggingface.co"}, False),
    ({**PROXY, "HF_ENDPOINT": "http://hub.example"}, False), ({"all_proxy": "http://127.0.0.1:9"}, True)])
def test_only_a_proxy_for_the_hub_counts(monkeypatch: pytest.MonkeyPatch, env: Dict[str, str], counts: bool) -> None:
    for name in list(os.environ):
        if re.search("(?i)_proxy$|HF_ENDPOINT", name):
            monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert program.behind_a_proxy() == counts


# ---------------------------------------------------------------- the token


LOGINS = [("flag first", FLAG_TOKEN, ENV_TOKEN, SAVED_TOKEN, FLAG_TOKEN),
          ("variable before login", None, " %s\n" % ENV_TOKEN, SAVED_TOKEN, ENV_TOKEN),
          ("blank flag and variable, login", " ", " ", SAVED_TOKEN, SAVED_TOKEN), ("none", "", "", "", None)]


@pytest.mark.parametrize("flag, variable, saved, sent", [row[1:] for row in LOGINS], ids=[row[0] for row in LOGINS])
def test_which_token_is_sent(here: Here, flag: Optional[str], variable: str, saved: str, sent: Optional[str]) -> None:
    here.hub.token = sent
    if saved:
        home = Path(str(here.world.env["HF_HOME"]))
        home.mkdir(parents=True)
        (home / "token").write_text(saved)
    assert here.run(token=flag, env={"HF_TOKEN": variable}).code == 0 and here.right(ONE)
    asked = {request.authorization for request in here.hub.requests if request.host == "hub"}
    assert asked == {sent and "Bearer " + sent}


@pytest.mark.parametrize("loud", [{"HF_HUB_VERBOSITY": "info"}, {"HF_DEBUG": "1"}])
def test_a_talkative_client_tells_no_address(here: Here, loud: Dict[str, str]) -> None:
    here.hub.fault(ONE, "503", stage=WAY, times=1)
    assert here.run(env=loud).code == 0  # Here.run looks for secrets


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
        for _ in range(1 if number == signal.SIGTERM else 3):
            process.send_signal(number)
            time.sleep(0.05)
        _, err = process.communicate(timeout=60)
        took = time.monotonic() - sent
    finally:
        process.kill()
        process.wait()
    assert process.returncode == code and "Traceback" not in err, err
    assert err.count("The same command goes on from here") == 1 and took < 9  # the whole takes 20 s
    here.hub.bandwidth = None
    assert here.run().code == 0 and here.right(ONE)


# ---------------------------------------------------------------- streams

# Only plain files with one track are; and ffmpeg tells another size for VP9 as long as its packets are not there.
NOT_IN_PART = ("h264_fragments", "h264_audio_first", "vp9")



@big
def test_streamed_is_downloaded(here: Here) -> None:
    assert here.run("--stream").code == 0 and here.right(ONE) and here.right(TWO)
    assert here.hub.bytes_sent("cdn") < BIG / 8 and here.hub.bytes_sent("xorb") == 0
    assert not here.cached(ONE)
    assert {request.authorization for request in here.hub.requests if request.host == "hub"} == {"Bearer " + FLAG_TOKEN}
    streamed = here.run().tree
    downloaded = here.run("--output-dir", here.world.folder / "whole").tree
    assert streamed == downloaded


@big
@pytest.mark.parametrize("kind", list(clips.KINDS))
def test_streamed_frames_are_those_of_a_full_decode(here: Here, kind: str) -> None:
    """In part where that can be proven, else whole."""
    count = len(clips.KINDS[kind].facts.shows)
    ids = [24, 25, 29, 30, count - 10, count - 1]
    here.hub.put(path_of(ONE), padded(clip(kind).read_bytes(), BIG))
    record = clips.record(ids, scene=SCENE, camera=ONE)
    here.world.records(record)
    run = here.run("--stream", "--nframes", len(ids))
    folder = here.world.output / record["seq_id"] / "frames"
    truth = clips.full_decode(clip(kind))
    assert run.code == 0, run.err
    assert [clips.read_png(folder / "f{:02d}.png".format(at)) for at in range(len(ids))] == [truth[k] for k in ids]
    in_part = not clips.KINDS[kind].from_start and kind not in NOT_IN_PART
    assert (sum(here.sent()) < BIG / 4) == in_part, run.err


@big
def test_branch_that_moves_during_a_stream(here: Here) -> None:
    first = here.hub.commit
    moved = []

    def asked_again(path: str, stages: Any, part: Optional[int] = None) -> Any:
        if "head" in stages and here.hub.count(host="hub") == 3 and not moved:
            moved.append(1)
            here.hub.put(path_of(ONE), video(TWO, BIG))
        return Hub.take_fault(here.hub, path, stages, part)

    here.hub.take_fault = asked_again  # type: ignore[method-assign]
    assert here.run("--stream").code == 0
    assert {request.path.split("/resolve/")[1].split("/")[0] for request in here.hub.requests
            if request.host == "hub" and "/resolve/" in request.path} == {"main", first}


@big
@pytest.mark.parametrize("kind, fault", [("h264_audio_first", ""), ("h264_fragments", ""),
                                         ("h264_bframes", "ignore-range")])
def test_what_cannot_be_streamed_is_downloaded_whole(here: Here, kind: str, fault: str) -> None:
    data = clip(kind).read_bytes()
    here.hub.put(path_of(ONE), data + struct.pack(">I4s", BIG, b"free") + bytes(BIG - 8))
    if fault:
        here.hub.fault(ONE, fault, stage="cdn")
    run = here.run("--stream")
    assert (run.code, here.right(ONE), here.right(TWO)) == (0, True, True), run.err
    assert len(re.findall("whole: ", run.err)) == 1 and retries(run) == []


def test_stream_that_does_not_pay(here: Here) -> None:
    here.hub.put(path_of(ONE), clip("h264_bframes").read_bytes())
    run = here.run("--stream")
    assert run.code == 0 and here.right(ONE) and re.search("whole: the frames need", run.err)


def test_benchmark_from_the_hub(here: Here) -> None:
    text = (json.dumps(clips.record(IDS, scene=SCENE, camera=ONE)) + "\n").encode()
    here.hub.repos["owner/bench"] = {"data/b.jsonl": hub_server.Blob(text, False)}
    where = "hf://datasets/owner/bench/data/b.jsonl"
    check = here.run("--benchmark", where, "--check")
    assert (check.code, here.hub.requests) == (2, []) and "not in the cache" in check.err
    here.hub.fault("b.jsonl", "503", stage="head")
    run = here.run("--benchmark", where)
    assert (run.code, here.right(ONE), len(retries(run))) == (0, True, 1)
    assert here.run("--benchmark", where, "--check").code == 0
    missing = here.run("--benchmark", where + "x")
    assert missing.code == 2 and re.search("b.jsonlx.*404", missing.errors[0])


# ---------------------------------------------------------------- rules, without a network


class Response:
    def __init__(self, status: int, url: str = "http://127.0.0.1/x", **headers: str) -> None:
        self.status_code, self.url, self.headers = status, url, headers


def raised(name: str, text: str = "", response: Any = None, base: type = Exception, **attributes: Any) -> BaseException:
    error = type(name, (base,), {})(text)
    for key, value in {"response": response, **attributes}.items():
        setattr(error, key, value)
    return error


RULES = [
    (OSError(errno.ENOSPC, "No space left on device"), "stop", "full"),
    (RuntimeError("Data processing error: No space left on device (os error 28)"), "stop", "full"),
    (PermissionError(errno.EACCES, "Permission denied", "/c/blobs"), "stop", "/c/blobs: Permission denied"),
    (OSError(errno.EROFS, "Read-only file system", "/c"), "stop", "/c: Read-only"),
    (PermissionError(errno.EPERM, "Operation not permitted"), "stop", "firewall"),
    (raised("SSLError", "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"), "stop", "certificate"),
    (raised("FileMetadataError", "no proxy, no hub"), "stop", "no Hugging Face hub"),
    (raised("SSLError", "wrong version number", errno=1), "stop", "TLS"),
    (raised("HfHubHTTPError", response=Response(403, **{"content-type": "text/html"})), "stop", "no Hugging Face"),
    (RecursionError("maximum recursion depth"), "stop", "no Hugging Face hub"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), "stop", "HF_TOKEN_PATH"),
    (OSError("Could not find a suitable TLS CA certificate bundle, invalid path: /x"), "stop", "SSL_CERT_FILE"),
    (FileNotFoundError(errno.ENOENT, "No such file", "/nowhere/at/all"), "stop", "/nowhere/at/all: No such"),
    (raised("HfHubHTTPError", response=Response(403)), "stop", "403 Forbidden"),
    (raised("HfHubHTTPError", response=Response(403, "http://h/x?X-Amz-Signature=1")), "retry", "expired"),
    (raised("HfHubHTTPError", response=Response(401, "http://h/api/datasets/o/n/xet-read-token/1")), "retry", "Xet"),
    (raised("RepositoryNotFoundError", response=Response(401)), "stop", "401 Unauthorized"),
    (raised("HfHubHTTPError", response=Response(429)), "retry", "429"),
    (raised("HfHubHTTPError", response=Response(418)), "skip", "418"),
    (raised("EntryNotFoundError", response=Response(404)), "skip", "404"),
    (raised("LocalEntryNotFoundError", base=type(raised("EntryNotFoundError"))), "retry", "no connection"),
    (raised("ReadTimeout"), "retry", "time-out"),
    (OSError("Consistency check failed: file should be of size 1 but has size 2"), "again", "wrong length"),
    (FileNotFoundError(errno.ENOENT, "No such file", "/timeout,proxy,reset"), "retry", "download failed"),
    (RuntimeError("CAS error"), "retry", "Xet"),
    (raised("Odd", "http://proxy/refused /timeout/reset"), "retry", "the download failed"),
]


@pytest.mark.parametrize("error, action, says", RULES, ids=[type(row[0]).__name__ + " " + row[2] for row in RULES])
def test_rule(error: BaseException, action: str, says: str) -> None:
    found = program.judge(error)
    assert found[0] == action and says in found[1] and "X-Amz" not in found[1]


@pytest.mark.parametrize("headers, seconds", [({"Retry-After": "7"}, 7), ({"RateLimit": '"api";r=0;t=9'}, 9), ({}, None),
                                              ({"Retry-After": "Wed, 21 Oct"}, None), ({"Retry-After": "99999"}, 300)])
def test_how_long_the_server_asks_to_wait(headers: Dict[str, str], seconds: Optional[float]) -> None:
    assert program.server_wait(headers) == seconds
    waits = program.RETRY_WAIT_SECONDS
    assert len(waits) == 4 and list(waits) == sorted(set(waits))


def test_damaged_file_goes_only_with_its_own_names(tmp_path: Path) -> None:
    """Another run may have put a good one in its place meanwhile."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_bytes(b"good")
    bad.write_bytes(b"bad")
    name = tmp_path / "snapshot"
    digest = "ab" * 32
    with tempfile.TemporaryDirectory(dir=tmp_path) as blobs:
        os.symlink(bad, os.path.join(blobs, digest))
        os.symlink(os.path.join(blobs, digest), name)
        with pytest.raises(ConnectionError):
            program.check_download(str(name), None)
        assert not bad.exists() and not os.path.lexists(name) and os.listdir(blobs) == [] and good.exists()

"""The program, each run a process of its own, and the real huggingface_hub client against a hub with scripted faults."""
from __future__ import annotations

import functools
import json
import os
import re
import shlex
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests import clips, hub_server, programs  # noqa: E402
from tests.hub_server import Hub, Request  # noqa: E402

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the ffmpeg that writes down how it is called is a shell script")

SUBDIR, SCENE, REPO = "MTMC_Tracking_2025", "Warehouse_016", "nvidia/PhysicalAI-SmartSpaces"
IDS = (2, 9)
VIDEO_BYTES = 1 << 17
LAST_BYTES = VIDEO_BYTES - 4  # no picture needs them: only a checksum tells that they are wrong
WAITS = (0.02, 0.04, 0.06, 0.08)  # RETRY_WAIT_SECONDS of every run here
ROUNDS = 1 + len(WAITS)
FLAG_TOKEN, ENV_TOKEN, SAVED_TOKEN = "hf_FLAGxUNMISTAKABLE", "hf_ENVxUNMISTAKABLE", "hf_SAVEDxUNMISTAKABLE"
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
SECRETS = ("UNMISTAKABLE", "SIGNED-", "X-Amz-", "/lfs/")
QUOTES = "Token {} of {} may not GET http://localhost/lfs/x?X-Amz-Signature=SIGNED-0001".format(FLAG_TOKEN, ENV_TOKEN)
for status in (401, 403, 404, 429, 500):
    hub_server.STATUS_FAULTS["{}-quoting".format(status)] = (status, "EntryNotFound" if status == 404 else None, QUOTES)


# ---------------------------------------------------------------- one run of the program

# Sleeps last 20 ms at most, the library's own too; those that the program asks for are written down.
SHORT_SLEEPS = """
import os, socket, time
sleep, settimeout = time.sleep, socket.socket.settimeout

def nap(seconds):
    if sys._getframe(1).f_globals["__name__"] == "prepare_sot_dataset":
        with open(SLEEPS, "a") as file:
            print(seconds, file=file)
    sleep(min(seconds, 0.02))

time.sleep = nap
sys.modules["cv2"] = None  # Pillow draws as well and starts faster
"""
SHORT_TIMEOUTS = """
def at_most(self, seconds):
    settimeout(self, None if seconds is None else min(seconds, 0.4))

socket.socket.settimeout = at_most
"""
NO_SYMBOLIC_LINKS = """
def refused(*_args, **_kwargs):
    raise OSError("symbolic links are not allowed here")

os.symlink = refused
"""


class Run(NamedTuple):
    code: int
    stdout: str
    stderr: str
    waited: List[float]  # what the program slept, asked for
    requests: List[Request]
    ffmpeg_calls: str
    output: Path

    @property
    def errors(self) -> List[str]:
        return [line for line in self.stderr.splitlines() if line.startswith("ERROR: ")]

    @property
    def retry_lines(self) -> List[str]:
        return [line for line in self.stderr.splitlines() if "retry" in line and not line.startswith(("ERROR", "["))]

    def count(self, host: str, camera: str = "") -> int:
        return sum(request.host == host and camera in request.path for request in self.requests)

    def meta(self, camera: str) -> Dict[str, Any]:
        return json.loads((self.output / seq_id(camera) / "sequence_meta.json").read_text(encoding="utf-8"))

    def images(self, camera: str) -> List[Path]:
        return sorted((self.output / seq_id(camera)).rglob("*.png"))

    def shown_ids(self, camera: str) -> List[int]:
        """What the frames' pictures say that they are."""
        frames = sorted((self.output / seq_id(camera) / "frames").glob("f[0-9][0-9].png"))
        pictures = [clips.read_png(frame) for frame in frames]
        return [clips.read_index(rgb, width, height) for width, height, rgb in pictures]

    def has_right_frames(self, camera: str) -> bool:
        return self.shown_ids(camera) == list(IDS) and self.meta(camera)["frame_ids"] == list(IDS)


def leaks(run: Run) -> List[str]:
    places = {"stdout": run.stdout, "stderr": run.stderr, "ffmpeg's arguments and environment": run.ffmpeg_calls}
    for path in run.output.rglob("*"):
        name = str(path.relative_to(run.output))
        places[name] = name + (path.read_bytes().decode("latin-1") if path.is_file() else "")
    found = ["{} in {}".format(secret, place) for place, text in places.items() for secret in SECRETS if secret in text]
    return found + ["a token sent to the second host" for request in run.requests
                    if request.host == "cdn" and request.authorization]


@functools.lru_cache(maxsize=None)
def clip() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        clips.make_clip("h264_bframes", path)
        return path.read_bytes()


def video(camera: str) -> bytes:
    """The same pictures for each camera, but other bytes at the end: the cache keeps equal files once."""
    return clip() + free_box(VIDEO_BYTES - len(clip()), camera.encode("ascii"))


def free_box(size: int, end: bytes = b"") -> bytes:
    return struct.pack(">I4s", size, b"free") + end.rjust(size - 8)


def path_of(camera: str) -> str:
    return "{}/val/{}/videos/{}.mp4".format(SUBDIR, SCENE, camera)


def record(camera: str, object_id: int = 7) -> Dict[str, Any]:
    return clips.record(IDS, scene=SCENE, camera=camera, object_id=object_id)


def seq_id(camera: str) -> str:
    return str(record(camera)["seq_id"])


def run_in_pipes(command: List[str], environment: Dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, encoding="utf-8", timeout=100)


def run_in_terminal(command: List[str], environment: Dict[str, str]) -> "subprocess.CompletedProcess[str]":
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 40, 160, 0, 0))
    with subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as child:
        os.close(theirs)
        shown = b""
        try:
            for some in iter(lambda: os.read(ours, 1 << 16), b""):
                shown += some
        except OSError:  # how Linux says that the other end is closed
            pass
        os.close(ours)
    return subprocess.CompletedProcess(command, child.returncode, "", shown.decode("utf-8", "replace"))


class World:
    """A folder with a benchmark, a hub that has its videos, and a cache."""

    def __init__(self, folder: Path, cameras: Sequence[str] = ("Camera_01", "Camera_02"), **hub_options: Any) -> None:
        self.folder, self.cache = folder, folder / "cache"
        self.benchmark = clips.write_benchmark(folder / "benchmark.jsonl", [record(camera) for camera in cameras])
        self.hub = Hub({path_of(camera): video(camera) for camera in cameras}, **hub_options)
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.calls = folder / "ffmpeg_calls"
        spy = self.bin / "ffmpeg"
        spy.write_text('#!/bin/sh\n{{ printf "%s\\n" "$@"; env; }} >> {}\nexec {} "$@"\n'.format(
            shlex.quote(str(self.calls)), shlex.quote(clips.ffmpeg_exe())), encoding="utf-8")
        spy.chmod(0o755)

    def __enter__(self) -> World:
        self.hub.__enter__()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.hub.close()

    def blob(self, camera: str) -> Path:
        return (self.cache / "datasets--{}".format(REPO.replace("/", "--")) / "blobs"
                / self.hub.repos[REPO][path_of(camera)].etag)

    def save_login(self, token: str) -> None:
        home = Path(self.hub.env(self.folder)["HF_HOME"])
        home.mkdir(parents=True)
        (home / "token").write_text(token, encoding="utf-8")

    def run(self, *args: str, benchmark: str = "", output: str = "out", token: Optional[str] = FLAG_TOKEN,
            env: Optional[Dict[str, str]] = None, prologue: str = "", terminal: bool = False) -> Run:
        """Two tokens are about in each run, in the flag and in the environment; neither may show anywhere."""
        sleeps = self.folder / "sleeps"
        for left in (sleeps, self.calls):
            if left.exists():
                left.unlink()
        command = programs.command(
            ["--benchmark", benchmark or self.benchmark, "--output-dir", self.folder / output, "--nframes", len(IDS),
             "--hf-cache-dir", self.cache, *args, *([] if token is None else ["--hf-token", token])],
            {"RETRY_WAIT_SECONDS": WAITS}, "SLEEPS = {!r}\n{}{}".format(str(sleeps), SHORT_SLEEPS, prologue))
        environment = {**self.hub.env(self.folder), **dict.fromkeys(TOKEN_VARIABLES, ENV_TOKEN), **(env or {})}
        environment["PATH"] = str(self.bin) + os.pathsep + environment["PATH"]
        before = len(self.hub.requests)
        done = (run_in_terminal if terminal else run_in_pipes)(command, environment)
        run = Run(done.returncode, done.stdout, done.stderr,
                  [float(line) for line in sleeps.read_text().split()] if sleeps.exists() else [],
                  self.hub.requests[before:], self.calls.read_text() if self.calls.exists() else "",
                  self.folder / output)
        assert leaks(run) == []
        assert "Traceback" not in run.stderr and "http://" not in run.stderr, run.stderr
        return run


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


# ---------------------------------------------------------------- every fault, alone


class Case(NamedTuple):
    name: str
    fault: Dict[str, Any]  # of Camera_01, as Hub.fault() takes it
    says: str
    waits: Tuple[float, ...] = WAITS
    args: Tuple[str, ...] = ()
    retries: Tuple[int, ...] = (0, 1)  # where the library itself tries again, the program has nothing to do
    cameras: Tuple[str, ...] = ("Camera_01",)


def case(name: str, says: str, kind: str = "", stage: str = "head", times: Optional[int] = None, **more: Any) -> Case:
    for_case = {key: more.pop(key) for key in ("waits", "args", "retries", "cameras") if key in more}
    return Case(name, {"kind": kind, "stage": stage, "times": times, **more} if kind else {}, says, **for_case)


BOTH = ("Camera_01", "Camera_02")
STOPS = [
    case("401, repository unknown", r"401.*token", "401-repo-not-found", cameras=BOTH),
    case("401 without a code", r"401.*token", "401", cameras=BOTH),
    case("401, bad token", r"401.*token", "401-bad-token", cameras=BOTH),
    case("401, gated", r"accept its terms.*--hf-token", "401-gated", cameras=BOTH),
    case("403, gated", r"accept its terms.*--hf-token", "403-gated", cameras=BOTH),
    case("403, wrapped", r"403.*accept its terms.*--hf-token", "403", cameras=BOTH),
    case("404, repository", r"no such repository.*--repo-id", "404-repo", cameras=BOTH),
    case("404, other repository", r"no such repository.*--repo-id", args=("--repo-id", "nobody/nothing"), cameras=BOTH),
    case("404, revision", r"revision", "404-revision", cameras=BOTH),
    case("404, other revision", r"no such revision.*--revision", args=("--revision", "v9"), cameras=BOTH),
    case("401, the server quotes the token", r"401.*token", "401-quoting", cameras=BOTH),
    case("403, the server quotes the token", r"403", "403-quoting", cameras=BOTH),
]
RECOVERS = [
    case("429 once", r"too many requests \(429\)", "429", times=1),
    case("429 once, Retry-After", r"too many requests \(429\)", "429", times=1, retry_after=7, waits=(7.0,)),
    case("429 once in the body", r"too many requests \(429\)", "429", "body", times=1),
    case("500 once", r"the server answered 500", "500", times=1),
    case("500 once in the body", r"the server answered 500", "500", "body", times=1),
    case("503 once", r"the server answered 503", "503", times=1),
    case("503 once in the body", r"the server answered 503", "503", "body", times=1),
    case("reset once", r"connection reset", "reset", times=1),
    case("reset once in the body", r"connection reset", "reset", "body", times=1, after=1000, retries=(1,)),
    case("closed once without an answer", r"connection broken", "truncate", times=1),
    case("truncated once", r"connection broken", "truncate", "body", times=1, after=1000),
    case("stalls once", r".*time-out.*", "stall", times=1),
    case("stalls once in the body", r".*time-out.*", "stall", "body", times=1, after=1000),
    case("short answer once", r".*wrong length", "wrong-length", "body", times=1, after=900, retries=(1,)),
    case("long answer once", r".*wrong length", "wrong-length", "body", times=1, after=2 * VIDEO_BYTES, retries=(1,)),
    case("416 once", r".*wrong length", "416", "body", times=1, retries=(1,)),
    case("signed URL expired once", r".*expired \(403\)", "expired", "body", times=1, retries=(1,)),
    case("wrong bytes once", r".*damaged.*", "wrong-bytes", "body", times=1, after=LAST_BYTES, retries=(1,)),
]
GIVES_UP = [
    case("429 always", r"too many requests \(429\)", "429"),
    case("429 always, Retry-After", r"too many requests \(429\)", "429", retry_after=7, waits=(7.0,) * 4),
    case("429 always, RateLimit", r"too many requests \(429\)", "429", ratelimit=9, waits=(9.0,) * 4),
    case("429 always in the body, Retry-After", r"too many requests \(429\)", "429", "body", retry_after=7,
         waits=(7.0,) * 4),
    case("500 always", r"the server answered 500", "500"),
    case("500 always in the body", r"the server answered 500", "500", "body"),
    case("503 always", r"the server answered 503", "503"),
    case("503 always in the body", r"the server answered 503", "503", "body"),
    case("reset always", r"connection reset", "reset"),
    case("reset always in the body", r"connection reset", "reset", "body", after=1000, cameras=BOTH),
    case("truncated always", r"connection broken", "truncate", "body", after=0),
    case("stalls always", r".*time-out.*", "stall"),
    case("stalls always in the body", r".*time-out.*", "stall", "body", after=0),
    case("short answer always", r".*wrong length", "wrong-length", "body", after=900),
    case("416 always", r".*wrong length", "416", "body"),
    case("signed URL always expired", r".*expired \(403\)", "expired", "body"),
    case("wrong bytes always", r".*damaged.*", "wrong-bytes", "body", after=LAST_BYTES, cameras=BOTH),
    case("429, the server quotes the token", r"too many requests \(429\)", "429-quoting"),
    case("500, the server quotes the token", r"the server answered 500", "500-quoting"),
    case("500 in the body, the second host quotes the token", r"the server answered 500", "500-quoting", "body"),
]
SKIPS = [
    case("404, file", r"not found.*404", "404-entry", cameras=BOTH),
    case("404, the server quotes the token", r"not found.*404", "404-quoting", cameras=BOTH),
]


def play(one: Case, folder: Path) -> Run:
    with World(folder, one.cameras) as made:
        if one.fault:
            made.hub.fault("Camera_01", **one.fault)
        return made.run(*one.args, prologue=SHORT_TIMEOUTS if one.fault.get("kind") == "stall" else "")


def cases(table: List[Case]) -> Any:
    return pytest.mark.parametrize("one", table, ids=[one.name for one in table])


def retry_lines(one: Case) -> List[str]:
    return [r"Camera_01\.mp4: {}, retry {}/{} in {:g} s".format(one.says, n, len(WAITS), wait)
            for n, wait in enumerate(one.waits, 1)]


def matches(patterns: List[str], lines: List[str]) -> bool:
    return len(patterns) == len(lines) and all(map(re.fullmatch, patterns, lines))


# ---------------------------------------------------------------- a hub that is well


def test_each_video_is_fetched_once_and_a_second_run_asks_nothing(world: World) -> None:
    records = [record(camera, number) for number, camera in enumerate(("Camera_01", "Camera_02", "Camera_01"))]
    clips.write_benchmark(world.benchmark, records)
    run = world.run()
    assert run.code == 0, run.stderr
    assert {(request.host, request.path.rsplit("/", 1)[-1]): 1 for request in run.requests} == {
        (host, camera + ".mp4"): 1 for host in ("hub", "cdn") for camera in ("Camera_01", "Camera_02")}
    assert len(run.requests) == 4
    assert {request.authorization for request in run.requests if request.host == "hub"} == {"Bearer " + FLAG_TOKEN}
    for entry in records:
        folder = run.output / entry["seq_id"]
        meta = json.loads((folder / "sequence_meta.json").read_text(encoding="utf-8"))
        assert meta["source"] == {"repo_id": REPO, "path": path_of(entry["camera"]), "revision": world.hub.commit}
        assert [clips.read_index(rgb, w, h) for w, h, rgb in
                (clips.read_png(folder / "frames" / name) for name in ("f00.png", "f01.png"))] == list(IDS)
    assert "-i" in run.ffmpeg_calls.split() and "PATH=" in run.ffmpeg_calls

    again = world.run()
    assert (again.code, again.requests, again.ffmpeg_calls) == (0, [], "")


def test_a_finished_video_is_never_fetched_again(world: World) -> None:
    assert world.run().code == 0
    run = world.run(output="elsewhere")
    assert (run.code, run.count("hub"), run.count("cdn")) == (0, 2, 0)
    assert run.has_right_frames("Camera_02")


def test_a_pinned_commit_needs_no_request_once_the_video_is_there(world: World) -> None:
    run = world.run("--revision", world.hub.commit)
    assert (run.code, run.meta("Camera_01")["source"]["revision"]) == (0, world.hub.commit)
    assert run.count("hub", "/resolve/{}/".format(world.hub.commit)) == run.count("hub") == 2
    world.hub.close()
    offline = world.run("--revision", world.hub.commit, output="elsewhere", env={"HF_HUB_OFFLINE": "1"})
    assert (offline.code, offline.retry_lines) == (0, []) and offline.has_right_frames("Camera_01")
    without_network = world.run("--revision", world.hub.commit, output="third")
    assert (without_network.code, without_network.retry_lines) == (0, [])


BENCHMARK_REPO, BENCHMARK_FILE = "nvidia/PhysicalAI-VANTAGE-Bench", "data/tracking/sot_benchmark.jsonl"
BENCHMARK = "hf://datasets/{}/{}".format(BENCHMARK_REPO, BENCHMARK_FILE)


def world_with_benchmark(folder: Path, **hub_options: Any) -> World:
    made = World(folder, more_repos={BENCHMARK_REPO: {}}, **hub_options)
    made.hub.put(BENCHMARK_FILE, made.benchmark.read_bytes(), repo=BENCHMARK_REPO)
    return made


@pytest.mark.parametrize("lfs", [True, False])
def test_benchmark_from_the_hub_with_the_token(tmp_path: Path, lfs: bool) -> None:
    with world_with_benchmark(tmp_path, token=FLAG_TOKEN, lfs=lfs) as world:
        refused = world.run(benchmark=BENCHMARK, token="hf_WRONGxUNMISTAKABLE", output="refused")
        assert (refused.code, len(refused.requests), refused.retry_lines) == (2, 1, [])
        assert re.fullmatch("ERROR: .*sot_benchmark.*401.*token.*", refused.stderr.strip())
        assert not refused.output.exists()

        run = world.run(benchmark=BENCHMARK)
        assert run.code == 0 and run.has_right_frames("Camera_01") and run.has_right_frames("Camera_02")
        assert run.count("hub", BENCHMARK_FILE) == (1 if lfs else 2)  # a small file comes from the hub itself
        manifest = json.loads((run.output / "gt_requests.json").read_text(encoding="utf-8"))
        assert manifest["benchmark"] == "sot_benchmark.jsonl" and len(manifest["requests"]) == 2


def test_benchmark_from_the_hub_is_retried_too(tmp_path: Path) -> None:
    with world_with_benchmark(tmp_path) as world:
        world.hub.fault(BENCHMARK_FILE, "reset", after=10)
        run = world.run(benchmark=BENCHMARK)
        assert run.code == 0 and run.has_right_frames("Camera_01")
        assert matches([r"sot_benchmark\.jsonl: connection reset, retry 1/4 in 0\.02 s"], run.retry_lines)


def test_benchmark_missing_on_the_hub(tmp_path: Path) -> None:
    with world_with_benchmark(tmp_path) as world:
        run = world.run(benchmark=BENCHMARK + "x")
        assert (run.code, len(run.requests), run.output.exists()) == (2, 1, False)
        assert re.fullmatch("ERROR: .*{}x: .*404.*".format(re.escape(BENCHMARK_FILE)), run.stderr.strip())


# ---------------------------------------------------------------- no connection, no network


@pytest.mark.parametrize("host", ["hub", "cdn"])
def test_two_videos_in_a_row_without_a_connection_stop_the_run(tmp_path: Path, host: str) -> None:
    with World(tmp_path, ["Camera_01", "Camera_02", "Camera_03"]) as world:
        world.hub.refuse(host)
        run = world.run()
        assert run.code == 2
        assert matches([r"{}\.mp4: no connection, retry {}/4 in {:g} s".format(camera, n, wait)
                        for camera in ("Camera_01", "Camera_02") for n, wait in enumerate(WAITS, 1)], run.retry_lines)
        assert run.errors and re.search("no connection.* in a row|in a row.*no connection", run.errors[-1]), run.stderr
        assert run.waited == list(WAITS) * 2
        assert "Camera_03" not in run.stderr and not run.count("hub", "Camera_03") and run.count("cdn") == 0
        if host == "cdn":
            assert [run.count("hub", camera) for camera in ("Camera_01", "Camera_02")] == [ROUNDS, ROUNDS]

        world.hub.accept(host)
        later = world.run()
        assert later.code == 0 and all(map(later.has_right_frames, ("Camera_01", "Camera_02", "Camera_03")))


def test_a_video_that_comes_in_between_shows_that_there_is_a_way(tmp_path: Path) -> None:
    with World(tmp_path, ["Camera_01", "Camera_02", "Camera_03"]) as world:
        assert world.run("--sequences", seq_id("Camera_02"), output="before").code == 0
        world.hub.refuse("cdn")  # Camera_02 lies in the cache
        run = world.run()
        assert (run.code, len(run.retry_lines)) == (1, 2 * len(WAITS))
        assert run.has_right_frames("Camera_02")
        assert set(re.findall("Camera_..", "".join(run.errors))) == {"Camera_01", "Camera_03"}


def test_offline_mode_without_the_file_stops_at_once(world: World) -> None:
    run = world.run(env={"HF_HUB_OFFLINE": "1"})
    assert (run.code, run.requests, run.retry_lines, run.waited) == (2, [], [], [])
    assert len(run.errors) == 1 and re.search("offline mode.*not in the cache", run.errors[0])
    assert "Camera_02" not in run.stderr


def test_offline_mode_with_the_file_in_the_cache(world: World) -> None:
    assert world.run().code == 0
    run = world.run(env={"HF_HUB_OFFLINE": "1"}, output="offline")
    assert (run.code, run.requests) == (0, [])
    assert run.has_right_frames("Camera_01") and run.meta("Camera_01")["source"]["revision"] == world.hub.commit


# ---------------------------------------------------------------- a cache with something wrong in it


@pytest.mark.parametrize("left", [b"", b"spoilt" * 900], ids=["too long", "spoilt"])
def test_leftover_of_an_earlier_download(world: World, left: bytes) -> None:
    """Clients before 2.0 go on from it: past the end (416, for ever) or after wrong bytes."""
    blob = world.blob("Camera_01")
    blob.parent.mkdir(parents=True)
    blob.with_name(blob.name + ".incomplete").write_bytes(left or video("Camera_01") + b"more")
    run = world.run()
    assert run.code == 0, run.stderr
    assert run.has_right_frames("Camera_01") and len(run.retry_lines) <= 1
    assert blob.read_bytes() == video("Camera_01")


@pytest.mark.parametrize("spoil", [lambda data: data[:LAST_BYTES], lambda data: data[:LAST_BYTES] + b"0000"],
                         ids=["cut short", "wrong bytes"])
def test_video_that_was_damaged_in_the_cache(world: World, spoil: Any) -> None:
    assert world.run().code == 0
    blob = world.blob("Camera_01")
    blob.write_bytes(spoil(blob.read_bytes()))
    run = world.run(output="elsewhere")
    assert run.code == 0, run.stderr
    assert matches([r"Camera_01\.mp4: .*damaged.*, retry 1/4 in 0\.02 s"], run.retry_lines)
    assert run.has_right_frames("Camera_01") and run.count("cdn") == 1
    assert blob.read_bytes() == video("Camera_01")


def test_video_that_was_damaged_in_the_cache_offline(world: World) -> None:
    assert world.run().code == 0
    blob = world.blob("Camera_01")
    blob.write_bytes(blob.read_bytes()[:LAST_BYTES] + b"0000")
    run = world.run(output="elsewhere", env={"HF_HUB_OFFLINE": "1"})
    assert run.code in (1, 2) and run.images("Camera_01") == []
    assert "damaged" in run.stderr


@pytest.mark.parametrize("cache", ["cache", "link"])
def test_wrong_bytes_without_symbolic_links(world: World, cache: str) -> None:
    """Then nothing in the cached file's path tells its checksum: so it is on Windows."""
    world.cache.mkdir()
    (world.folder / "link").symlink_to(world.cache)
    world.hub.fault("Camera_01", "wrong-bytes", stage="body", after=LAST_BYTES, times=None)
    for output in ("first", "second"):  # what the first run left in the cache is no better
        run = world.run("--hf-cache-dir", str(world.folder / cache), output=output, prologue=NO_SYMBOLIC_LINKS)
        assert run.code == 1 and run.images("Camera_01") == [] and "damaged" in run.errors[0], output
        assert run.has_right_frames("Camera_02")


def test_damaged_then_refused_still_is_retried(world: World) -> None:
    """With force_download the library wraps the second trouble in a ValueError."""
    world.hub.fault("Camera_01", "wrong-bytes", stage="body", after=LAST_BYTES)
    world.hub.fault("Camera_01", "503", stage="head", skip=1, times=1)
    run = world.run()
    assert run.code == 0 and run.has_right_frames("Camera_01")
    assert re.search("damaged.*retry 1/4 in 0.02 s", run.retry_lines[0])
    assert matches([r"Camera_01\.mp4: the server answered 503, retry 2/4 in 0\.04 s"], run.retry_lines[1:]) or (
        len(run.retry_lines) == 1)  # 0.36 tries a 503 again by itself


# ---------------------------------------------------------------- streams: other requests, the same answers


@pytest.fixture
def long_world(world: World) -> World:
    """Its videos are so long that streaming pays."""
    for camera in BOTH:
        world.hub.put(path_of(camera), video(camera) + free_box(8 << 20))
    return world


def test_stream_whose_address_expires(long_world: World) -> None:
    long_world.hub.fault("Camera_01", "expired", stage="body", skip=1)
    run = long_world.run("--stream")
    assert run.code == 0, run.stderr
    assert run.has_right_frames("Camera_01") and run.has_right_frames("Camera_02")
    assert matches([r"Camera_01\.mp4: .*expired \(403\), retry 1/4 in 0\.02 s"], run.retry_lines)
    assert sum(request.bytes_sent for request in run.requests) < 2 << 20


@pytest.mark.parametrize("kind", ["401-bad-token", "403-gated"])
def test_stream_whose_access_ends(long_world: World, kind: str) -> None:
    long_world.hub.fault("Camera_01", "expired", stage="body", skip=1)
    long_world.hub.fault("Camera_01", kind, stage="head", skip=1, times=None)
    run = long_world.run("--stream")
    assert (run.code, run.count("hub"), len(run.retry_lines)) == (2, 2, 1), run.stderr
    assert len(run.errors) == 1 and "access refused ({})".format(kind[:3]) in run.errors[0]


def test_stream_without_access(long_world: World) -> None:
    long_world.hub.fault("Camera_01", "403", stage="head", times=None)
    run = long_world.run("--stream")
    assert (run.code, run.count("hub"), run.retry_lines) == (2, 1, []), run.stderr
    assert len(run.errors) == 1 and "access refused (403)" in run.errors[0]


def test_stream_from_a_server_that_fails_at_both_places(long_world: World) -> None:
    long_world.hub.fault("Camera_01", "500", stage="body", times=None)
    long_world.hub.fault("Camera_01", "500", stage="head", skip=1, times=None)
    run = long_world.run("--stream")
    assert run.code == 1 and run.images("Camera_01") == [] and run.has_right_frames("Camera_02")
    assert matches([r"Camera_01\.mp4: the server answered 500, retry {}/4 in {:g} s".format(n, wait)
                    for n, wait in enumerate(WAITS, 1)], run.retry_lines), run.stderr


# ---------------------------------------------------------------- the token


class Login(NamedTuple):
    name: str
    flag: Optional[str]
    variable: str
    saved: str
    sent: Optional[str]


LOGINS = [
    Login("flag before all", FLAG_TOKEN, ENV_TOKEN, SAVED_TOKEN, FLAG_TOKEN),
    Login("variable before login", None, ENV_TOKEN, SAVED_TOKEN, ENV_TOKEN),
    Login("variable with spaces", None, " {}\n".format(ENV_TOKEN), "", ENV_TOKEN),
    Login("login alone", None, "", SAVED_TOKEN, SAVED_TOKEN),
    Login("empty flag, variable", "", ENV_TOKEN, "", ENV_TOKEN),
    Login("blank flag and variable, login", " ", " ", SAVED_TOKEN, SAVED_TOKEN),
    Login("none", None, "", "", None),
    Login("all empty", "", "", "", None),
]


@pytest.mark.parametrize("login", LOGINS, ids=[login.name for login in LOGINS])
def test_which_token_is_sent(tmp_path: Path, login: Login) -> None:
    with World(tmp_path, ["Camera_01"], token=login.sent) as world:
        if login.saved:
            world.save_login(login.saved)
        run = world.run(token=login.flag, env={"HF_TOKEN": login.variable, "HUGGING_FACE_HUB_TOKEN": ""})
        assert run.code == 0, run.stderr
        assert [request.authorization for request in run.requests] == [login.sent and "Bearer " + login.sent, None]


@pytest.mark.parametrize("token", ["UNMISTAKABLE\nX: y", "UNMISTAKABLE\u20ac", "UNMISTAKABLE y"], ids=ascii)
def test_token_that_cannot_be_one_stops_the_run(tmp_path: Path, token: str) -> None:
    with World(tmp_path, ["Camera_01"], token=SAVED_TOKEN) as world:
        run = world.run(token=token)
        assert (run.code, run.retry_lines) == (2, []), run.stderr
        assert len(run.errors) == 1 and "token" in run.errors[0]


# ---------------------------------------------------------------- what a user may have set up for the library


@pytest.mark.parametrize("loud", ["HF_HUB_VERBOSITY", "HF_DEBUG"])
@pytest.mark.parametrize("args, lfs", [((), True), (("--stream",), False)], ids=["download", "stream that cannot be"])
def test_a_talkative_library_tells_no_address(tmp_path: Path, loud: str, args: Tuple[str, ...], lfs: bool) -> None:
    with World(tmp_path, ["Camera_01"], lfs=lfs) as world:
        world.hub.fault("Camera_01", "stall", stage="body", after=1000)
        world.hub.fault("Camera_01", "429", stage="body", times=2)
        world.hub.fault("Camera_01", "500", stage="body", times=1)
        run = world.run(*args, env={loud: {"HF_DEBUG": "1"}.get(loud, "info")}, prologue=SHORT_TIMEOUTS)
        assert run.code == 0 and run.has_right_frames("Camera_01")


def test_bars_on_a_terminal_tell_no_signed_address(tmp_path: Path) -> None:
    with World(tmp_path, ["Camera_01"]) as world:
        world.hub.fault("Camera_01", "wrong-length", stage="body")
        run = world.run(terminal=True)
        assert run.code == 0 and run.has_right_frames("Camera_01")
        assert "Camera_01.mp4: the file arrived with the wrong length, retry 1/4 in 0.02 s" in run.stderr


def test_hf_transfer_that_is_not_installed(tmp_path: Path) -> None:
    """Clients before 1.0 then raise a ValueError; the plain way still works."""
    with World(tmp_path, ["Camera_01"]) as world:
        run = world.run(env={"HF_HUB_ENABLE_HF_TRANSFER": "1"},
                        prologue='import importlib.util\nassert not importlib.util.find_spec("hf_transfer")')
        assert run.code == 0 and run.has_right_frames("Camera_01"), run.stderr
        assert "no connection" not in run.stderr


def test_leaks_are_found(world: World) -> None:
    run = world.run()
    assert leaks(run._replace(stdout="?X-Amz-Signature=SIGNED-0001")) == ["SIGNED- in stdout", "X-Amz- in stdout"]
    assert leaks(run._replace(stderr=FLAG_TOKEN)) == ["UNMISTAKABLE in stderr"]
    assert len(leaks(run._replace(ffmpeg_calls=ENV_TOKEN))) == 1
    (run.output / "notes").write_text("Bearer " + SAVED_TOKEN)
    (run.output / ENV_TOKEN).mkdir()
    assert len(leaks(run)) == 2
    next(request for request in run.requests if request.host == "cdn").authorization = "Bearer x"
    assert "a token sent to the second host" in leaks(run)


# ---------------------------------------------------------------- every fault, played


@cases(STOPS)
def test_fault_that_stops_the_run_at_once(tmp_path: Path, one: Case) -> None:
    run = play(one, tmp_path)
    assert run.code == 2, run.stderr
    assert len(run.errors) == 1 and re.search(one.says, run.errors[0]), run.stderr
    assert (len(run.requests), run.retry_lines, run.waited) == (1, [], [])
    assert not run.images("Camera_01") and "Camera_02" not in run.stderr


@cases(RECOVERS)
def test_fault_that_passes(tmp_path: Path, one: Case) -> None:
    run = play(one, tmp_path)
    assert run.code == 0, run.stderr
    assert run.errors == [] and run.has_right_frames("Camera_01")
    assert len(run.retry_lines) in one.retries
    assert matches(retry_lines(one)[:len(run.retry_lines)], run.retry_lines), run.stderr
    assert run.waited == list(one.waits[:len(run.retry_lines)])
    assert run.count("hub" if one.fault["stage"] == "head" else "cdn", "Camera_01") == one.fault["times"] + 1


@cases(GIVES_UP)
def test_fault_that_stays(tmp_path: Path, one: Case) -> None:
    run = play(one, tmp_path)
    assert run.code == 1, run.stderr
    assert matches(retry_lines(one), run.retry_lines), run.stderr
    assert run.waited == list(one.waits)
    requests = run.count("hub" if one.fault["stage"] == "head" else "cdn", "Camera_01")
    assert requests and requests % ROUNDS == 0  # each round may be several requests of the library's own
    assert len(run.errors) == 1 and re.search(seq_id("Camera_01") + ".*: " + one.says, run.errors[0]), run.stderr
    assert run.images("Camera_01") == [] and all(map(run.has_right_frames, one.cameras[1:]))


@cases(SKIPS)
def test_file_that_is_not_there(tmp_path: Path, one: Case) -> None:
    run = play(one, tmp_path)
    assert run.code == 1, run.stderr
    assert (run.count("hub", "Camera_01"), run.count("cdn", "Camera_01"), run.retry_lines, run.waited) == (1, 0, [], [])
    assert len(run.errors) == 1 and re.search(seq_id("Camera_01") + ".*: .*" + one.says, run.errors[0]), run.stderr
    assert run.images("Camera_01") == [] and run.has_right_frames("Camera_02")


def test_waits_grow() -> None:
    import prepare_sot_dataset

    waits = prepare_sot_dataset.RETRY_WAIT_SECONDS
    assert len(waits) == 4 and list(waits) == sorted(set(waits))

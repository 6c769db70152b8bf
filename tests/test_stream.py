"""--stream gives what a download gives, from few bytes, or says why not: real client, local hub, scripted faults."""
from __future__ import annotations

import functools
import json
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests import clips, hub_server, programs  # noqa: E402
from tests.hub_server import Blob, Hub, Request  # noqa: E402

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the ffmpeg that writes down its arguments is a shell script")

REPO, SUBDIR, SCENE = "nvidia/PhysicalAI-SmartSpaces", "MTMC_Tracking_2025", "Warehouse_016"
FLAG_TOKEN, ENV_TOKEN = "hf_FLAGxUNMISTAKABLE", "hf_ENVxUNMISTAKABLE"
SECRETS = ("UNMISTAKABLE", "SIGNED-", "X-Amz-", "/lfs/")
WAITS = (0.02, 0.04, 0.06, 0.08)
ROUNDS = 1 + len(WAITS)
# With these a clip of 100 KB is streamed as one of 100 MB is.
SMALL = {"RETRY_WAIT_SECONDS": WAITS, "STREAM_SHARE": 1.0, "STREAM_BLOCK_BYTES": 1024}

# The hub's client sleeps between retries of its own, and Pillow starts faster than OpenCV.
HURRY = """
import time
sleep = time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 0.02))
sys.modules["cv2"] = None
"""
SHORT_TIMEOUTS = HURRY + """
import socket
settimeout = socket.socket.settimeout
socket.socket.settimeout = lambda self, seconds: settimeout(self, None if seconds is None else min(seconds, 0.7))
"""

Content = Union[bytes, Path]
Records = Sequence[Dict[str, Any]]


# ---------------------------------------------------------------- one run of the program


def path_of(camera: str) -> str:
    return "{}/val/{}/videos/{}.mp4".format(SUBDIR, SCENE, camera)


def record(camera: str, ids: Sequence[int], object_id: Union[int, str] = 7) -> Dict[str, Any]:
    made = clips.record(ids, scene=SCENE, camera=camera, object_id=object_id)
    del made["clip_fps"]  # the video has to tell it
    return made


class Run(NamedTuple):
    code: int
    stdout: str
    stderr: str
    requests: List[Request]
    ffmpeg_calls: str
    output: Path

    @property
    def errors(self) -> List[str]:
        return [line for line in self.stderr.splitlines() if line.startswith("ERROR: ")]

    def retry_lines(self, camera: str) -> List[str]:
        return [line for line in self.stderr.splitlines() if line.startswith(camera + ".mp4: ") and "retry" in line]

    def lines_about_whole(self, camera: str) -> List[str]:
        return [line for line in self.stderr.splitlines() if "/{}.mp4 whole".format(camera) in line]

    def asked(self, host: str, camera: str = "") -> List[Request]:
        return [request for request in self.requests if request.host == host and "/{}".format(camera) in request.path]

    def bytes_sent(self, camera: str = "") -> int:
        return sum(request.bytes_sent for request in self.asked("cdn", camera))

    def streamed(self, camera: str) -> bool:
        asked = self.asked("cdn", camera)
        return bool(asked) and all(request.range for request in asked) and not self.lines_about_whole(camera)

    def downloaded(self, camera: str) -> bool:
        return any(request.range is None for request in self.asked("cdn", camera))

    def meta(self, seq_id: str) -> Dict[str, Any]:
        return json.loads((self.output / seq_id / "sequence_meta.json").read_text(encoding="utf-8"))

    def images(self, seq_id: str) -> List[Path]:
        return sorted((self.output / seq_id).rglob("*.png"))

    def shown_ids(self, seq_id: str) -> List[int]:
        """What the frames' pictures say that they are."""
        frames = sorted((self.output / seq_id / "frames").glob("f[0-9][0-9].png"))
        pictures = [clips.read_png(frame) for frame in frames]
        return [clips.read_index(rgb, width, height) for width, height, rgb in pictures]


def leaks(run: Run) -> List[str]:
    places = {"stdout": run.stdout, "stderr": run.stderr, "ffmpeg's arguments and environment": run.ffmpeg_calls}
    for path in run.output.rglob("*"):
        name = str(path.relative_to(run.output))
        places[name] = name + (path.read_bytes().decode("latin-1") if path.suffix in (".json", ".jsonl") else "")
    found = ["{} in {}".format(secret, place) for place, text in places.items() for secret in SECRETS if secret in text]
    return found + ["a token sent to the second host" for request in run.requests
                    if request.host == "cdn" and request.authorization]


class World:
    """A folder with a benchmark, a hub that has its videos, a cache, and a place for temporary files."""

    def __init__(self, folder: Path, videos: Mapping[str, Content], records: Records, **hub_options: Any) -> None:
        self.folder, self.cache, self.temporary, self.records = folder, folder / "cache", folder / "temporary", records
        self.benchmark = clips.write_benchmark(folder / "benchmark.jsonl", records)
        contents = {path_of(camera): content for camera, content in videos.items()}
        self.hub = Hub(contents, token=FLAG_TOKEN, **hub_options)
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.temporary.mkdir()

    def __enter__(self) -> World:
        self.hub.__enter__()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.hub.close()

    def seq_ids(self, camera: str) -> List[str]:
        return [entry["seq_id"] for entry in self.records if entry["camera"] == camera]

    def spy(self, output: str) -> Path:
        folder = self.bin / output
        folder.mkdir(exist_ok=True)
        calls = folder / "calls"
        calls.write_text("", encoding="utf-8")
        spy = folder / "ffmpeg"
        spy.write_text('#!/bin/sh\n{{ printf "%s\\n" "$@"; env; }} >> {}\nexec {} "$@"\n'.format(
            shlex.quote(str(calls)), shlex.quote(clips.ffmpeg_exe())), encoding="utf-8")
        spy.chmod(0o755)
        return folder

    def arguments(self, *args: str, output: str = "out", nframes: int = 0, token: str = FLAG_TOKEN) -> List[str]:
        count = nframes or len(self.records[0]["canonical_frame_ids"])
        return ["--benchmark", str(self.benchmark), "--output-dir", str(self.folder / output), "--nframes", str(count),
                "--hf-cache-dir", str(self.cache), "--hf-token", token, *args]

    def environment(self, output: str = "out", env: Optional[Dict[str, str]] = None) -> Dict[str, str]:
        merged = {**self.hub.env(self.folder), "HF_TOKEN": ENV_TOKEN, "TMPDIR": str(self.temporary), **(env or {})}
        merged["PATH"] = str(self.spy(output)) + os.pathsep + merged["PATH"]
        return merged

    def run(self, *args: str, output: str = "out", nframes: int = 0, token: str = FLAG_TOKEN, stream: bool = True,
            env: Optional[Dict[str, str]] = None, constants: Mapping[str, Any] = SMALL, prologue: str = HURRY) -> Run:
        """Two tokens are about in each run, in the flag and in the environment; neither may show anywhere."""
        arguments = self.arguments(*args, *["--stream"] * stream, output=output, nframes=nframes, token=token)
        before = len(self.hub.requests)
        done = subprocess.run(programs.command(arguments, constants, prologue), env=self.environment(output, env),
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              encoding="utf-8", timeout=120)
        run = Run(done.returncode, done.stdout, done.stderr, self.hub.requests[before:],
                  (self.bin / output / "calls").read_text(encoding="utf-8"), self.folder / output)
        assert leaks(run) == []
        assert "Traceback" not in run.stderr, run.stderr
        return run

    def kept(self) -> List[str]:
        """Videos, whole or not, and temporary files that are left on the disk."""
        cached = [path for path in self.cache.rglob("*") if path.is_file() and path.stat().st_size > 1000]
        return [str(path.relative_to(self.folder)) for path in [*cached, *self.temporary.iterdir()]]


# ---------------------------------------------------------------- clips


def with_filling(clip: bytes, name: str) -> bytes:
    """The same pictures, but other bytes at the end: the hub's cache keeps equal files once."""
    filling = name.encode("ascii").rjust(100)
    return clip + struct.pack(">I4s", 8 + len(filling), b"free") + filling


LONG_FRAMES = 250  # enough that most of the packets are neither among the first nor around the wanted frames
LONG_IDS = (110, 117)


def encode(numbers: Sequence[int], path: Union[str, Path], *coder: str) -> bytes:
    shown = b"".join(clips.picture(number) for number in numbers)
    size = "{}x{}".format(clips.WIDTH, clips.HEIGHT)
    out, _ = clips.run_ffmpeg(["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", size, "-framerate", "30", "-i", "-",
                               "-c:v", "libx264", "-preset", "veryfast", *coder, str(path)], stdin=shown)
    return out


@functools.lru_cache(maxsize=None)
def long_clip() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "long.mp4")
        encode(range(LONG_FRAMES), path, "-x264-params", "keyint=25:min-keyint=25:scenecut=0:bframes=2", "-f", "mp4")
        return path.read_bytes()


BIG_FRAMES, BIG_GOP = 3000, 250


@functools.lru_cache(maxsize=None)
def big_clip() -> bytes:
    """Index at the end, as ffmpeg writes it by default."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "big.mp4")
        clips.run_ffmpeg(["-f", "lavfi", "-i", "testsrc2=size=640x360:rate=30", "-frames:v", str(BIG_FRAMES),
                          "-c:v", "libx264", "-preset", "ultrafast", "-b:v", "2M", "-bf", "2", "-g", str(BIG_GOP),
                          "-keyint_min", str(BIG_GOP), "-sc_threshold", "0", "-pix_fmt", "yuv420p", str(path)])
        return path.read_bytes()


def with_index_first(clip: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "before.mp4"), Path(folder, "after.mp4")
        before.write_bytes(clip)
        clips.run_ffmpeg(["-i", str(before), "-c", "copy", "-movflags", "faststart", str(after)])
        return after.read_bytes()


def box_of(clip: bytes, name: str) -> clips.Box:
    return next(box for box in clips.boxes(clip) if box.path.endswith(name))


def index_of(clip: bytes) -> clips.Box:
    return box_of(clip, "moov")


def packet_range(clip: bytes, number: int) -> Tuple[int, int]:
    """Where a packet lies in a clip of video only, which has all of them in a row."""
    table = box_of(clip, "/stsz")
    sizes = struct.unpack_from(">{}I".format((table.size - 20) // 4), clip, table.start + 20)
    start = box_of(clip, "mdat").start + 8 + sum(sizes[:number])
    return start, start + sizes[number]


@functools.lru_cache(maxsize=None)
def twin(numbers: Tuple[int, ...]) -> bytes:
    """Key frames only, filled up to a length that their place decides: clips of other pictures get the same index."""
    raw = encode(numbers, "-", "-x264-params", "keyint=1:aud=1", "-f", "h264")
    access_units = [b"\0\0\0\1\x09" + unit for unit in raw.split(b"\0\0\0\1\x09")[1:]]
    assert len(access_units) == len(numbers)
    filled = []
    for place, unit in enumerate(access_units):
        missing = 6000 + place - len(unit) - 6
        assert missing > 0
        filled.append(unit + b"\0\0\0\1\x0c" + b"\xff" * missing + b"\x80")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "twin.mp4")
        clips.run_ffmpeg(["-f", "h264", "-framerate", "30", "-i", "-", "-c", "copy", "-f", "mp4", str(path)],
                         stdin=b"".join(filled))
        return path.read_bytes()


# ---------------------------------------------------------------- every kind of clip, as a download and as a stream

KIND_FRAMES = 3
FRAGMENTED, NO_TIMES, UNPROVEN = "it is fragmented", "cannot be told apart by time", "cannot be proven from a part"
WHOLE_KINDS = {
    "h264_open_gop": UNPROVEN,  # no IDR picture but the first: the decoder calls no other one a key frame
    "h264_intra_refresh": UNPROVEN,
    "h264_edit_list": UNPROVEN,
    "h264_two_edits": NO_TIMES,
    "h264_open_gop_cut": NO_TIMES,
    "h264_fragments": FRAGMENTED,
    "h264_fragments_negative_cts": FRAGMENTED,
    "h264_paff": UNPROVEN,
    "h265_cra_cut": NO_TIMES,
    "mpeg4_no_stss": UNPROVEN,
}


def available_kinds() -> List[str]:
    return [name for name, kind in clips.KINDS.items() if kind.available()]


def kind_ids(count: int) -> List[List[int]]:
    ends_and_key = [0, clips.GOP, count - 1]
    around_keys = [clips.GOP - 1, clips.GOP + 1, 2 * clips.GOP - 1]
    close = [2 * clips.GOP + 2, 2 * clips.GOP + 3, 2 * clips.GOP + 5]
    return [close, ends_and_key, around_keys]


class KindRuns(NamedTuple):
    downloaded: Run
    streamed: Run
    close: Run  # one short sequence of each video, and little read around it


def kind_seq_ids(kind: str) -> List[str]:
    """They do not depend on the clip's length, as only the last frame of the second sequence does."""
    return [record(kind, ids, number)["seq_id"] for number, ids in enumerate(kind_ids(clips.FRAMES))]


def make_kind(kind: str, folder: Path) -> Tuple[Path, Records]:
    path = folder / (kind + ".mp4")
    clips.make_clip(kind, path)
    count = clips.KINDS[kind].frames if clips.KINDS[kind].indexed else len(clips.full_decode(path))
    return path, [record(kind, ids, number) for number, ids in enumerate(kind_ids(count))]


def play_kinds(folder: Path) -> KindRuns:
    with ThreadPoolExecutor(3) as pool:
        made = dict(zip(available_kinds(), pool.map(lambda kind: make_kind(kind, folder), available_kinds())))
        videos = {kind: path for kind, (path, _) in made.items()}
        records = [entry for _, entries in made.values() for entry in entries]

        def play(name: str, *args: str, **options: Any) -> Run:
            (folder / name).mkdir()
            with World(folder / name, videos, records) as world:
                return world.run(*args, **options)

        close = [kind_seq_ids(kind)[0] for kind in made]
        runs = [pool.submit(play, "downloaded", stream=False), pool.submit(play, "streamed"),
                pool.submit(play, "close", "--sequences", *close, constants={**SMALL, "STREAM_SLACK_PACKETS": 6})]
        return KindRuns(*[run.result() for run in runs])


every_kind = pytest.mark.parametrize("kind", list(clips.KINDS))


def skip_if_missing(kind: str) -> None:
    if not clips.KINDS[kind].available():
        pytest.skip(clips.KINDS[kind].why_not())


@every_kind
def test_every_kind_gives_the_same_files_as_a_download(background: "Background", kind: str) -> None:
    skip_if_missing(kind)
    runs = background.kinds.result()
    for seq_id in kind_seq_ids(kind):
        expected = programs.tree(runs.downloaded.output / seq_id)
        assert "sequence_meta.json" in expected and len(expected) == KIND_FRAMES + 4, runs.downloaded.stderr
        assert programs.tree(runs.streamed.output / seq_id) == expected, runs.streamed.stderr
        if clips.KINDS[kind].indexed:
            assert runs.streamed.shown_ids(seq_id) == runs.streamed.meta(seq_id)["frame_ids"]
    assert runs.streamed.meta(kind_seq_ids(kind)[0])["source"]["revision"]


@every_kind
def test_every_kind_with_little_read_around_the_frames(background: "Background", kind: str) -> None:
    skip_if_missing(kind)
    runs, seq_id = background.kinds.result(), kind_seq_ids(kind)[0]
    expected = programs.tree(runs.downloaded.output / seq_id)
    assert expected and programs.tree(runs.close.output / seq_id) == expected, runs.close.stderr


@every_kind
def test_every_kind_is_streamed_or_one_line_says_why_not(background: "Background", kind: str) -> None:
    skip_if_missing(kind)
    run = background.kinds.result().streamed
    if kind in WHOLE_KINDS:
        assert len(run.lines_about_whole(kind)) == 1 and run.downloaded(kind)
        assert re.search("whole: .*" + WHOLE_KINDS[kind], run.lines_about_whole(kind)[0])
    else:
        assert run.streamed(kind), run.lines_about_whole(kind)
        assert len(run.asked("hub", kind)) == 1


# ---------------------------------------------------------------- a larger clip: how many bytes leave the server

EIGHT = tuple(range(1400, 1506, 15))
MANY = tuple((1260 + 3 * number, 1265 + 3 * number) for number in range(20))
MOST = tuple((BIG_GOP * number + 100, BIG_GOP * number + 240) for number in range(0, BIG_FRAMES // BIG_GOP))


def big_world(folder: Path, ids: Sequence[Sequence[int]], clip: Optional[bytes] = None) -> World:
    records = [record("Big", wanted, number) for number, wanted in enumerate(ids)]
    return World(folder, {"Big": clip or big_clip()}, records)


class BigRuns(NamedTuple):
    streamed: Run
    downloaded: Run
    kept: List[str]  # by the streaming run


def play_big(folder: Path, ids: Sequence[Sequence[int]], index_first: bool = False) -> BigRuns:
    clip = with_index_first(big_clip()) if index_first else big_clip()
    assert (index_of(clip).start < 100) == index_first
    with big_world(folder, ids, clip) as world:
        streamed = world.run(constants={}, output="streamed")
        kept = world.kept()
        return BigRuns(streamed, world.run(stream=False, output="downloaded"), kept)


BIG_CASES: Dict[str, Tuple[Sequence[Sequence[int]], bool]] = {
    "8 frames over 105, index last": ([EIGHT], False),
    "8 frames over 105, index first": ([EIGHT], True),
    "20 sequences, index last": (MANY, False),
}
big_cases = pytest.mark.parametrize("name", list(BIG_CASES))


def bytes_below(requests: Sequence[Request], start: int, end: int) -> int:
    """How many bytes of a part of the file left the server, those that left twice counted twice."""
    total = 0
    for request in requests:
        first, last = map(int, re.findall(r"\d+", request.range or "bytes=0-{}".format(len(big_clip()))))
        total += max(0, min(end, first + request.bytes_sent, last + 1) - max(start, first))
    return total


@big_cases
def test_few_bytes_leave_the_server(background: "Background", name: str) -> None:
    run = background.big[name].result().streamed
    assert run.code == 0 and run.streamed("Big"), run.stderr
    # At most from one key frame to the second one after it, some packets behind that, and the first ones.
    assert run.bytes_sent() < len(big_clip()) * 0.25
    assert len(run.asked("cdn")) <= 6


@big_cases
def test_stream_of_a_larger_clip_gives_the_same_files(background: "Background", name: str) -> None:
    runs = background.big[name].result()
    assert programs.tree(runs.streamed.output) == programs.tree(runs.downloaded.output)
    assert runs.downloaded.code == 0 and runs.downloaded.downloaded("Big")


@big_cases
def test_nothing_is_kept(background: "Background", name: str) -> None:
    assert background.big[name].result().kept == []


@big_cases
def test_the_index_is_read_once(background: "Background", name: str) -> None:
    (_, index_first), run = BIG_CASES[name], background.big[name].result().streamed
    index = index_of(with_index_first(big_clip()) if index_first else big_clip())
    assert bytes_below(run.asked("cdn"), index.start, index.end) == index.size
    assert len(run.asked("hub")) == 1


def test_a_benchmark_that_wants_most_of_a_video_downloads_it(tmp_path: Path) -> None:
    with big_world(tmp_path, MOST) as world:
        run = world.run(constants={})
        assert run.code == 0, run.stderr
        assert len(run.lines_about_whole("Big")) == 1
        assert re.search("whole: the frames need .* of its .* MB", run.lines_about_whole("Big")[0])
        assert len([request for request in run.asked("cdn") if request.range is None]) == 1
        assert run.bytes_sent() < len(big_clip()) * 1.05  # the decision costs the index and no frames
        assert any("blobs" in name for name in world.kept())


# ---------------------------------------------------------------- a clip of 100 KB: what is asked of whom


def long_world(folder: Path, cameras: Sequence[str] = ("C",), ids: Sequence[Sequence[int]] = (LONG_IDS,),
               **hub_options: Any) -> World:
    records = [record(camera, wanted, number) for camera in cameras for number, wanted in enumerate(ids)]
    return World(folder, {camera: with_filling(long_clip(), camera) for camera in cameras}, records, **hub_options)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with long_world(tmp_path) as made:
        yield made


def is_right(run: Run, world: World, camera: str = "C") -> bool:
    ids = [entry["canonical_frame_ids"] for entry in world.records if entry["camera"] == camera]
    return [run.shown_ids(seq_id) for seq_id in world.seq_ids(camera)] == ids and all(
        run.meta(seq_id)["source"]["revision"] == world.hub.commit for seq_id in world.seq_ids(camera))


def test_token_and_address_go_where_they_belong(world: World) -> None:
    run = world.run()
    assert run.code == 0 and run.streamed("C") and is_right(run, world), run.stderr
    assert [request.authorization for request in run.asked("hub")] == ["Bearer " + FLAG_TOKEN]
    assert {request.authorization for request in run.asked("cdn")} == {None}
    assert "-i" in run.ffmpeg_calls.split() and "PATH=" in run.ffmpeg_calls and "://" not in re.sub(
        r"^\w+=.*$", "", run.ffmpeg_calls, flags=re.M)
    assert run.bytes_sent() < len(long_clip()) * 0.8  # there were holes in what ffmpeg read
    assert world.kept() == []


@pytest.mark.parametrize("first", [199, 200, 201])
def test_frames_around_a_key_frame_are_streamed(tmp_path: Path, first: int) -> None:
    """ffmpeg seeks to a key frame that lies some time before the wanted one, not always to the last."""
    with long_world(tmp_path, ids=[(first, first + 2)]) as world:
        run = world.run()
        assert run.code == 0 and run.streamed("C") and is_right(run, world), run.stderr


def test_leaks_are_found(world: World) -> None:
    run = world.run()
    assert leaks(run._replace(stdout="?X-Amz-Signature=SIGNED-0001")) == ["SIGNED- in stdout", "X-Amz- in stdout"]
    assert leaks(run._replace(stderr=FLAG_TOKEN)) == ["UNMISTAKABLE in stderr"]
    assert len(leaks(run._replace(ffmpeg_calls=world.hub.cdn + "/lfs/x"))) == 1
    (run.output / "notes.json").write_text("Bearer " + ENV_TOKEN)
    assert len(leaks(run)) == 1
    next(request for request in run.requests if request.host == "cdn").authorization = "Bearer x"
    assert "a token sent to the second host" in leaks(run)


@pytest.mark.parametrize("loud", [{"HF_HUB_VERBOSITY": "debug"}, {"HF_DEBUG": "1"}], ids=str)
def test_a_talkative_library_tells_no_address(world: World, loud: Dict[str, str]) -> None:
    world.hub.fault("C.mp4", "429", times=1)
    world.hub.fault("C.mp4", "reset", after=100, times=1)
    world.hub.fault("C.mp4", "500", times=1)
    assert world.run(env=loud).code == 0  # run() looks for leaks


def test_a_second_run_asks_nobody(world: World) -> None:
    assert world.run().code == 0
    again = world.run()
    assert (again.code, again.requests, again.ffmpeg_calls) == (0, [], "")


def test_a_video_in_the_cache_is_used(world: World) -> None:
    assert world.run(stream=False, output="before").code == 0
    run = world.run()
    assert run.code == 0 and is_right(run, world)
    assert run.requests == [] and not run.lines_about_whole("C")
    assert programs.tree(run.output) == programs.tree(world.folder / "before")


def test_a_pinned_video_in_the_cache_needs_no_network(world: World) -> None:
    assert world.run(stream=False, output="before").code == 0
    world.hub.close()
    run = world.run("--revision", world.hub.commit)
    assert (run.code, run.requests) == (0, []) and is_right(run, world)


def test_a_video_in_a_folder_is_used(world: World) -> None:
    source = world.folder / "clip.mp4"
    source.write_bytes(long_clip())
    clips.lay_out(world.folder / "videos", source, scene=SCENE, camera="C", subdir=SUBDIR)
    run = world.run("--video-dir", str(world.folder / "videos"))
    assert (run.code, run.requests) == (0, [])
    assert run.shown_ids(world.seq_ids("C")[0]) == list(LONG_IDS)


def test_a_pinned_commit_is_streamed(world: World) -> None:
    run = world.run("--revision", world.hub.commit)
    assert run.code == 0 and run.streamed("C") and is_right(run, world)


def test_without_a_token_the_saved_login_is_used(world: World) -> None:
    home = Path(world.hub.env(world.folder)["HF_HOME"])
    home.mkdir(parents=True)
    (home / "token").write_text(FLAG_TOKEN, encoding="utf-8")
    run = world.run(token="", env={"HF_TOKEN": ""})
    assert run.code == 0 and run.streamed("C")
    assert {request.authorization for request in run.asked("hub")} == {"Bearer " + FLAG_TOKEN}


def test_a_file_that_the_hub_itself_hands_out_is_downloaded(tmp_path: Path) -> None:
    """Small files have no signed address: streaming them would take the token."""
    with long_world(tmp_path, lfs=False) as world:
        run = world.run()
        assert run.code == 0 and is_right(run, world)
        assert len(run.lines_about_whole("C")) == 1


def test_missing_frames_are_streamed_anew(world: World) -> None:
    first = world.run()
    expected, seq_id = programs.tree(first.output), world.seq_ids("C")[0]
    (first.output / seq_id / "frames" / "f01.png").unlink()
    (first.output / seq_id / "sequence_meta.json").unlink()
    again = world.run()
    assert again.code == 0 and again.streamed("C")
    assert programs.tree(again.output) == expected


def test_a_frame_past_the_end(tmp_path: Path) -> None:
    with long_world(tmp_path, ids=[(LONG_FRAMES - 2, LONG_FRAMES), (5000, 5001), LONG_IDS]) as world:
        run = world.run()
        too_far, much_too_far, fine = world.seq_ids("C")
        assert run.code == 1 and run.shown_ids(fine) == list(LONG_IDS)
        assert len([line for line in run.errors if "the video has {} frames".format(LONG_FRAMES) in line]) == 2
        assert run.images(too_far) == run.images(much_too_far) == []


def test_a_frame_past_the_end_of_a_video_whose_packets_are_half_frames(tmp_path: Path) -> None:
    clips.make_clip("h264_paff", tmp_path / "paff.mp4")
    with World(tmp_path, {"C": tmp_path / "paff.mp4"}, [record("C", (500, 501))]) as world:
        run = world.run()
        assert run.code == 1 and "the video has {} frames".format(clips.PAFF_FRAMES) in run.errors[0], run.stderr


def test_more_frames_than_asked_for_of_which_one_is_missing(world: World) -> None:
    """If the sequence is to stay as long as it is, the stream has to reach further than what was asked for."""
    assert world.run("--stride", "15", nframes=8).code == 0
    seq_id = world.seq_ids("C")[0]
    (world.folder / "out" / seq_id / "frames" / "f07.png").unlink()
    run = world.run("--stride", "15", "--contact-sheet", nframes=2)
    assert run.code == 0, run.stderr
    ids = run.meta(seq_id)["frame_ids"]
    assert len(ids) in (2, 8) and run.shown_ids(seq_id) == ids


@pytest.mark.parametrize("name", ["a/b--c", "a/b..c"])
def test_a_name_that_no_repository_has(world: World, name: str) -> None:
    run = world.run("--repo-id", name)
    assert (run.code, run.requests) == (2, []) and "--repo-id" in run.errors[0]


# ---------------------------------------------------------------- Ctrl-C and SIGTERM


@pytest.mark.parametrize("number, code, moment", [
    (signal.SIGINT, 130, "in the index"), (signal.SIGINT, 130, "in the frames"), (signal.SIGTERM, 143, "in the frames"),
    (signal.SIGTERM, 143, "after the frames")])
def test_a_signal_leaves_nothing_behind(world: World, number: signal.Signals, code: int, moment: str) -> None:
    skip = {"in the index": 0, "in the frames": FRAMES}.get(moment)
    if skip is not None:
        world.hub.fault("C.mp4", "stall", skip=skip, after=100)
    prologue = HURRY + programs.at_rename("f01.png", "before", number) * (skip is None)
    child = subprocess.Popen(programs.command(world.arguments("--stream"), SMALL, prologue), env=world.environment(),
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    if skip is not None:
        wait_for(lambda: any(request.bytes_sent for request in world.hub.matching(host="cdn")[skip:]))
        child.send_signal(number)
    _, told = child.communicate(timeout=20)
    assert child.returncode == code and "same command" in told, told
    assert world.kept() == []
    later = world.run()
    assert later.code == 0 and is_right(later, world)


def wait_for(happened: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---------------------------------------------------------------- every fault, alone
#
# Each has a camera of its own, so that one run of the program meets many of them.

# The requests for a clip with its index at the end: start of the file (0), index in two parts (1, 2), what is behind it
# (3), the first frames (4), the wanted frames (5).
FRAMES = 4


class Case(NamedTuple):
    camera: str
    fault: Dict[str, Any]  # as Hub.fault() takes it
    says: str
    wait: str = ""


def case(camera: str, says: str, kind: str, stage: str = "body", wait: str = "", **more: Any) -> Case:
    return Case(camera, {"kind": kind, "stage": stage, **more}, says, wait)


RECOVERS = [
    case("ask_429", r"too many requests \(429\)", "429", "head"),
    case("ask_429_after", r"too many requests \(429\)", "429", "head", retry_after=7, wait="7"),
    case("ask_500", r"the server answered 500", "500", "head"),
    case("ask_503", r"the server answered 503", "503", "head"),
    case("ask_reset", r"connection reset", "reset", "head"),
    case("ask_closed", r"connection broken", "truncate", "head"),
    case("index_429_after", r"too many requests \(429\)", "429", retry_after=7, wait="7"),
    case("index_limit", r"too many requests \(429\)", "429", ratelimit=9, wait="9"),
    case("index_500", r"the server answered 500", "500"),
    case("index_503", r"the server answered 503", "503"),
    case("index_reset", r"connection reset", "reset", after=100),
    case("index_reset_early", r"connection (reset|broken)|no connection", "reset"),
    case("index_truncated", r"connection broken", "truncate", after=100),
    case("index_short", r"connection broken|.*wrong length", "wrong-length", after=100),
    case("index_416", r".*wrong length", "416"),
    case("index_expired", r".*expired \(403\)", "expired"),
    case("moov_reset", r"connection reset", "reset", skip=2, after=100),
    case("moov_expired", r".*expired \(403\)", "expired", skip=2),
    case("frames_429", r"too many requests \(429\)", "429", skip=FRAMES),
    case("frames_503", r"the server answered 503", "503", skip=FRAMES),
    case("frames_reset", r"connection reset", "reset", skip=FRAMES, after=5000),
    case("frames_truncated", r"connection broken", "truncate", skip=FRAMES, after=5000),
    case("frames_short", r"connection broken|.*wrong length", "wrong-length", skip=FRAMES, after=5000),
    case("frames_expired", r".*expired \(403\)", "expired", skip=FRAMES),
    case("later_expired", r".*expired \(403\)", "expired", skip=FRAMES + 1),
]
RECOVERS_FROM_STALLS = [
    case("ask_stalls", r".*(time-out).*", "stall", "head"),
    case("index_stalls", r".*(time-out).*", "stall", after=100),
    case("frames_stall", r".*(time-out).*", "stall", skip=FRAMES, after=5000),
]
GIVES_UP = [
    case("ask_429", r"too many requests \(429\)", "429", "head", times=None),
    case("ask_503", r"the server answered 503", "503", "head", times=None),
    case("ask_reset", r"connection reset", "reset", "head", times=None),
    case("index_429", r"too many requests \(429\)", "429", times=None),
    case("index_500", r"the server answered 500", "500", times=None),
    case("index_short", r"connection broken|.*wrong length", "wrong-length", times=None, after=100),
    case("index_expired", r".*expired \(403\)", "expired", times=None),
    case("frames_503", r"the server answered 503", "503", skip=FRAMES, times=None),
    case("frames_reset", r"connection reset", "reset", skip=FRAMES, after=100, times=None),
    case("frames_truncated", r"connection broken", "truncate", skip=FRAMES, after=100, times=None),
    case("frames_expired", r".*expired \(403\)", "expired", skip=FRAMES, times=None),
]
GIVES_UP_ON_STALLS = [
    case("index_stalls", r".*(time-out).*", "stall", times=None, after=100),
    case("frames_stall", r".*(time-out).*", "stall", skip=FRAMES, times=None, after=100),
]
SKIPS = [case("missing", r"not found.*404", "404-entry", "head", times=None)]
WHOLE = [
    case("never_ranges", "the server sends whole files only", "ignore-range", times=None),
    case("no_range_for_the_frames", "the server sends whole files only", "ignore-range", skip=FRAMES),
    case("wrong_frames", "cannot be proven", "wrong-bytes", skip=FRAMES + 1, after=0),
]
STOPS = [
    case("401, repository unknown", r"401.*token", "401-repo-not-found", "head", times=None),
    case("401, bad token", r"401.*token", "401-bad-token", "head", times=None),
    case("403, gated", r"accept its terms.*--hf-token", "403-gated", "head", times=None),
    case("403", r"403.*accept its terms.*--hf-token", "403", "head", times=None),
    case("404, repository", r"no such repository.*--repo-id", "404-repo", "head", times=None),
    case("404, revision", r"no such revision.*--revision", "404-revision", "head", times=None),
]


class Played(NamedTuple):
    world: World
    run: Run


def play_cases(folder: Path, table: Sequence[Case], prologue: str = HURRY) -> Played:
    """The last camera has no fault: whatever the others meet, it gets its frames."""
    with long_world(folder, [one.camera for one in table] + ["healthy"]) as world:
        for one in table:
            world.hub.fault("/{}.mp4".format(one.camera), **one.fault)
        return Played(world, world.run(prologue=prologue))


def cases(table: Sequence[Case]) -> Any:
    return pytest.mark.parametrize("one", table, ids=[one.camera for one in table])


def seq_id_of(one: Case) -> str:
    return str(record(one.camera, LONG_IDS, 0)["seq_id"])


@cases([*RECOVERS, *RECOVERS_FROM_STALLS])
def test_fault_that_passes(background: "Background", one: Case) -> None:
    world, run = background.played["stalls" if one in RECOVERS_FROM_STALLS else "recovers"].result()
    assert is_right(run, world, one.camera), run.stderr
    assert run.streamed(one.camera), "a fault that passes is no reason to download the video"
    line = r"{}\.mp4: ({}), retry 1/4 in {} s".format(one.camera, one.says, one.wait or "0.02")
    told = run.retry_lines(one.camera)
    # Some clients try the first request again by themselves.
    assert len(told) == 1 or (one.fault["stage"] == "head" and not told)
    assert all(re.fullmatch(line, text) for text in told), told
    if one.fault["kind"] == "expired":
        assert len(run.asked("hub", one.camera + ".mp4")) == 2


@cases([*GIVES_UP, *GIVES_UP_ON_STALLS])
def test_fault_that_stays(background: "Background", one: Case) -> None:
    world, run = background.played["stalls always" if one in GIVES_UP_ON_STALLS else "gives up"].result()
    assert run.code == 1
    told = run.retry_lines(one.camera)
    assert [re.fullmatch(r"{}\.mp4: ({}), retry {}/4 in .* s".format(one.camera, one.says, number), text) is not None
            for number, text in enumerate(told, 1)] == [True] * len(WAITS), told
    errors = [line for line in run.errors if seq_id_of(one) in line]
    assert len(errors) == 1 and re.search(r"\.mp4: ({}).*after 4 retries".format(one.says), errors[0]), run.errors
    assert run.images(seq_id_of(one)) == [] and not (run.output / seq_id_of(one) / "sequence_meta.json").exists()
    failed = run.asked("hub" if one.fault["stage"] == "head" else "cdn", one.camera + ".mp4")[one.fault.get("skip", 0):]
    assert len(failed) % ROUNDS == 0 and failed  # each round may be several requests of the library's own


@pytest.mark.parametrize("name", ["recovers", "stalls", "gives up", "stalls always", "other"])
def test_no_fault_touches_another_video(background: "Background", name: str) -> None:
    world, run = background.played[name].result()
    assert is_right(run, world, "healthy") and run.streamed("healthy"), run.stderr


@cases(SKIPS)
def test_file_that_is_not_there(background: "Background", one: Case) -> None:
    world, run = background.played["other"].result()
    assert (len(run.asked("hub", one.camera)), run.asked("cdn", one.camera), run.retry_lines(one.camera)) == (1, [], [])
    assert [re.search(one.says, line) is not None for line in run.errors if seq_id_of(one) in line] == [True]
    assert run.images(seq_id_of(one)) == []


@cases(WHOLE)
def test_fault_that_makes_it_a_download(background: "Background", one: Case) -> None:
    world, run = background.played["other"].result()
    assert is_right(run, world, one.camera), run.stderr
    assert run.downloaded(one.camera)
    assert len(run.lines_about_whole(one.camera)) == 1 and not run.retry_lines(one.camera)
    assert re.search("whole: .*" + one.says, run.lines_about_whole(one.camera)[0])


@cases(STOPS)
def test_fault_that_stops_the_run_at_once(tmp_path: Path, one: Case) -> None:
    with long_world(tmp_path, ["C", "D"]) as world:
        world.hub.fault("", **one.fault)
        run = world.run()
        assert run.code == 2, run.stderr
        assert len(run.errors) == 1 and re.search(one.says, run.errors[0]), run.stderr
        assert (len(run.requests), run.retry_lines("C")) == (1, [])
        assert "D.mp4" not in run.stderr


@pytest.mark.parametrize("host", ["hub", "cdn"])
def test_two_videos_without_a_connection_stop_the_run(tmp_path: Path, host: str) -> None:
    with long_world(tmp_path, ["C", "D", "E"]) as world:
        world.hub.refuse(host)
        run = world.run()
        assert run.code == 2 and "no connection for 2 videos in a row" in run.errors[-1], run.stderr
        assert [len(run.retry_lines(camera)) for camera in "CDE"] == [len(WAITS), len(WAITS), 0]
        assert all("no connection" in line for camera in "CD" for line in run.retry_lines(camera)), run.stderr
        world.hub.accept(host)
        later = world.run()
        assert later.code == 0 and all(is_right(later, world, camera) for camera in "CDE")


def test_offline_mode(world: World) -> None:
    offline = {"HF_HUB_OFFLINE": "1"}
    run = world.run(env=offline)
    assert (run.code, run.requests, run.retry_lines("C")) == (2, [], [])
    assert len(run.errors) == 1 and re.search("offline mode.*not in the cache", run.errors[0])
    assert world.run(stream=False, output="before").code == 0
    cached = world.run(env=offline)
    assert (cached.code, cached.requests) == (0, []) and is_right(cached, world)


# ---------------------------------------------------------------- the address expires, and the hub has something else


def test_an_expired_address_that_cannot_be_had_again_stops_the_run(world: World) -> None:
    world.hub.fault("C.mp4", "expired", skip=FRAMES)
    world.hub.fault("C.mp4", "401-bad-token", stage="head", skip=1, times=None)
    run = world.run()
    assert run.code == 2 and len(run.errors) == 1 and re.search("401.*token", run.errors[0]), run.stderr
    assert len(run.asked("hub")) == 2 and len(run.retry_lines("C")) == 1


def test_an_expired_address_that_nobody_renews_fails_soon(world: World) -> None:
    world.hub.fault("C.mp4", "expired", skip=FRAMES)
    world.hub.fault("C.mp4", "reset", stage="head", skip=1, times=None)
    run = world.run()
    assert run.code == 1 and run.images(world.seq_ids("C")[0]) == []
    assert "connection reset" in run.errors[0] and len(run.retry_lines("C")) <= 1 + len(WAITS), run.stderr


class WatchedBlob(Blob):
    """Calls back whenever the second host is about to send a part of it; the call may return other content."""

    def __init__(self, content: bytes, before_sending: Callable[[int], Optional[bytes]]) -> None:
        super().__init__(content, lfs=True)
        self.before_sending, self.parts = before_sending, 0

    def open(self) -> BinaryIO:
        self.parts += 1
        other = self.before_sending(self.parts)
        return super().open() if other is None else hub_server.opened(other)


OLD, NEW = tuple(range(200)), tuple(reversed(range(200)))
OLD_COMMIT, NEW_COMMIT = "0" * 39 + "1", "0" * 39 + "2"
TWIN_IDS = (100, 199)  # far enough apart that each has a range of its own


def twins_are_alike() -> bool:
    old, new = twin(OLD), twin(NEW)
    index = index_of(old)
    return len(old) == len(new) and index == index_of(new) and old[index.start:index.end] == new[index.start:index.end]


def test_the_new_clip_cannot_be_told_from_the_old_one_by_its_index() -> None:
    assert twins_are_alike() and twin(OLD) != twin(NEW)


def versions(run: Run, seq_id: str) -> List[str]:
    """Which version each frame of a ready sequence is of, and which one its metadata names."""
    if not (run.output / seq_id / "sequence_meta.json").exists():
        return []
    names = {OLD_COMMIT: "old", NEW_COMMIT: "new"}
    of_frames = []
    for number, shown in zip(run.meta(seq_id)["frame_ids"], run.shown_ids(seq_id)):
        of_frames.append("old" if OLD[number] == shown else "new" if NEW[number] == shown else "wrong")
    return of_frames + [names[run.meta(seq_id)["source"]["revision"]]]


def changing_world(folder: Path, change_at: int, ids: Sequence[Sequence[int]] = (TWIN_IDS,)) -> World:
    """The hub gets a new version while the change_at-th part (from 1) is being sent."""
    world = World(folder, {"C": twin(OLD)}, [record("C", wanted, number) for number, wanted in enumerate(ids)],
                  commit=OLD_COMMIT)

    def change(part: int) -> Optional[bytes]:
        if part == change_at:
            world.hub.put(path_of("C"), twin(NEW))
            world.hub.commit = NEW_COMMIT
        return None

    world.hub.repos[REPO][path_of("C")] = WatchedBlob(twin(OLD), change)
    return world


@pytest.mark.parametrize("part", [1, 3, 5])
def test_no_frames_of_two_versions_when_the_hub_moves_on(tmp_path: Path, part: int) -> None:
    with changing_world(tmp_path, part) as world:
        world.hub.fault("C.mp4", "expired", skip=part)  # so that the next part's address is asked for again
        run = world.run()
        found = versions(run, world.seq_ids("C")[0])
        assert len(set(found)) <= 1 and "wrong" not in found, (found, run.stderr)
        assert found or run.errors


def test_the_change_comes_between_the_parts(tmp_path: Path) -> None:
    """What the test above looks at: three parts with the index, three with frames, the wanted ones in the last two."""
    with changing_world(tmp_path, 99) as world:
        run = world.run()
        assert versions(run, world.seq_ids("C")[0]) == ["old"] * 3 and run.streamed("C")
        assert len(run.asked("cdn")) == 6, [request.range for request in run.asked("cdn")]


def test_a_download_instead_is_of_the_version_that_the_metadata_names(tmp_path: Path) -> None:
    with changing_world(tmp_path, 5, ids=[(20, 30), TWIN_IDS]) as world:
        world.hub.fault("C.mp4", "wrong-bytes", skip=4, after=0)
        run = world.run()
        assert run.lines_about_whole("C"), run.stderr
        for seq_id in world.seq_ids("C"):
            found = versions(run, seq_id)
            assert len(set(found)) <= 1 and "wrong" not in found, (found, run.stderr)


# ---------------------------------------------------------------- answers that are not what was asked for


def without_a_packet(clip: bytes) -> bytes:
    start, end = packet_range(clip, LONG_IDS[0] - 7)
    return clip[:start] + bytes(end - start) + clip[end:]


LIES: Dict[str, Callable[[bytes], bytes]] = {
    "shifted": lambda data: data[1000:] + data[:1000],
    "zeros": lambda data: bytes(len(data)),
    "inverted": lambda data: bytes(255 - value for value in data),
    "tenth": lambda data: bytes(value ^ 0x55 * (place % 10 == 0) for place, value in enumerate(data)),
}
LIARS = ["{}_{}".format(lie, part) for lie in LIES for part in (1, 2, 3, FRAMES + 1, FRAMES + 2)]
# The wanted frames come out of the decoder all the same, with something made up in them.
LIES["hole"] = without_a_packet
LIARS.append("hole_{}".format(FRAMES + 2))


def lie_once(part: int, other: bytes, number: int) -> Optional[bytes]:
    return other if number == part else None


def play_lies(folder: Path) -> Played:
    """The second host sends one part of each video out of other content."""
    with long_world(folder, LIARS) as world:
        for camera in LIARS:
            lie, part = camera.split("_")
            content = with_filling(long_clip(), camera)
            other = LIES[lie](content)
            world.hub.repos[REPO][path_of(camera)] = WatchedBlob(content, functools.partial(lie_once, int(part), other))
        return Played(world, world.run())


@pytest.mark.parametrize("camera", LIARS)
def test_garbage_is_no_frame(background: "Background", camera: str) -> None:
    """A download instead, or a failed sequence, but no other picture.

    No more can be promised: the hub tells a checksum of the whole file only, and a single wrong byte may well decode
    without an error.
    """
    world, run = background.lies.result()
    seq_id = world.seq_ids(camera)[0]
    failed = [line for line in run.errors if seq_id in line]
    if failed:
        assert not run.images(seq_id), run.stderr
    else:
        assert is_right(run, world, camera), run.stderr


# ---------------------------------------------------------------- runs side by side


class Background:
    """Most of the runs wait most of their time, so they run side by side, and while other tests run.

    `wanted` tells which values of a parameter the tests have that are to be run.
    """

    def __init__(self, pool: ThreadPoolExecutor, new_folder: Callable[[], Path],
                 wanted: Callable[[str], List[Any]]) -> None:
        tables = {"stalls": RECOVERS_FROM_STALLS, "stalls always": GIVES_UP_ON_STALLS, "recovers": RECOVERS,
                  "gives up": GIVES_UP, "other": [*SKIPS, *WHOLE]}
        if wanted("kind"):
            self.kinds: "Future[KindRuns]" = pool.submit(play_kinds, new_folder())
        self.played: Dict[str, "Future[Played]"] = {
            name: pool.submit(play_cases, new_folder(), table, SHORT_TIMEOUTS if "stalls" in name else HURRY)
            for name, table in tables.items()
            if name in wanted("name") or any(one in wanted("one") for one in table)}
        if wanted("camera"):
            self.lies: "Future[Played]" = pool.submit(play_lies, new_folder())
        self.big: Dict[str, "Future[BigRuns]"] = {
            name: pool.submit(play_big, new_folder(), *arguments) for name, arguments in BIG_CASES.items()
            if name in wanted("name")}


@pytest.fixture(scope="module", autouse=True)
def background(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Background]:
    items = [item for item in request.session.items if item.nodeid.startswith(request.node.nodeid)]
    parameters = [getattr(getattr(item, "callspec", None), "params", {}) for item in items]
    with ThreadPoolExecutor(2) as pool:
        long_clip()  # before two threads make it
        yield Background(pool, lambda: tmp_path_factory.mktemp("world"),
                         lambda name: [values[name] for values in parameters if name in values])

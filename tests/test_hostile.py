"""Hostile input and surroundings: nothing around the output is touched, no truth told, no wrong picture ready.

    HOSTILE_EXAMPLES=5000 python -m pytest tests/test_hostile.py -k "property or damaged"   # many, at random
"""
from __future__ import annotations

import functools
import json
import os
import random
import re
import shlex
import shutil
import struct
import unicodedata
from pathlib import Path
from typing import Any, Callable, NamedTuple, Sequence

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests import clips
from tests.clips import Picture
from tests.world import Run, World, at_change, clip, strays, tree

MANY = int(os.environ.get("HOSTILE_EXAMPLES", "0"))
GOOD = clips.record([2, 4])
SEQ = GOOD["seq_id"]


@pytest.fixture
def site(world: World) -> World:
    world.video()
    world.video(camera="beside")
    world.records({**GOOD, "clip_fps": None})
    (world.folder / "precious.txt").write_text("not yours\n")
    return world


def around(world: World) -> dict[str, str]:
    return {name: what for name, what in tree(world.folder).items()
            if world.output not in (world.folder / name, *(world.folder / name).parents)}


def watched(world: World, *args: Any, **how: Any) -> Run:
    """A run that may fail, but says why, steers no terminal, and changes nothing around its output folder."""
    before = around(world)
    run = world.run(*args, **how)
    assert around(world) == before, run
    assert run.code in (0, 1, 2) and not re.search("Traceback|Stream map", run.err), run
    said = (run.out + run.err).replace("\n", "")
    assert not {unicodedata.category(char) for char in said} & {"Cc", "Cf", "Cs"}, run
    assert not run.code or re.search("^(ERROR|prepare_sot_dataset.py: error): .{18}", run.err, re.M), run
    return run


def wrong_pictures(folder: Path, ids: Sequence[int], truth: Sequence[Picture]) -> list[int]:
    """The frame ids under which a sequence has another picture than it should."""
    found = [clips.read_png(folder / "frames" / f"f{index:02d}.png") for index in range(len(ids))]
    return [number for number, picture in zip(ids, found) if picture != truth[number]]


@functools.lru_cache(maxsize=None)
def decoded(kind: str = "mpeg4_bframes") -> list[Picture]:
    return clips.full_decode(clip(kind))


def assert_prepared(world: World, run: Run) -> None:
    assert run.code == 0, run
    assert (wrong_pictures(world.output / SEQ, [2, 4], decoded()), world.meta(SEQ)["clip_fps"]) == ([], 30)


# ---------------------------------------------------------------- benchmark files

MARK = "5071393"  # in the digits of each ground-truth number, and in nothing else
IN_FOLDER = r"(sequence_meta|gt)\.json|frames(/(f\d\d+|f00_ann|crop)\.png)?"
OUTPUT_PATH = rf"gt_requests\.json|[\w-][\w.-]*(/({IN_FOLDER}))?"


def secret(number: int) -> list[float]:
    x, y = (float(f"{100 + some}.{MARK}{some % 9 + 1}") for some in (number, number + 3))
    return [x, y, round(x + 300, 8), round(y + 250, 8)]


NASTY: list[Any] = [
    "", "\x1b[2J\x1b]0;x\x07", "\u202etxt.exe", "\ud800", "\0", "a\nERROR: b", "\u2028", "..", "-i",
    "../../x", "C:\\x", "CON", "%d", "a" * 300, "\u0664\u0662", "concat:a|b", 0, -1, 1.5, 1e308, 1e-320,
    float("nan"), float("inf"), 2 ** 63, 10 ** 400, 999_999_999, 1_000_000_000, True, None]
SCALAR = st.sampled_from(NASTY) | st.integers() | st.floats() | st.text(st.characters(), max_size=8)
JSON = st.recursive(SCALAR, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)
SECRET = st.integers(0, 40).map(secret)
SPOILED = SECRET.flatmap(lambda box: st.sampled_from([box[:3], box[::-1], [str(box)], {"box": box}, [box]]))
TRUTH = st.dictionaries(st.sampled_from(["2", "4", "02", "x"]), SECRET | SECRET | SPOILED, min_size=1)
BOX = st.lists(st.sampled_from(NASTY) | st.floats(-100, 1100), min_size=4, max_size=4)
VALUE = JSON | BOX | st.lists(st.integers(-1, 20), max_size=5) | TRUTH | st.lists(SECRET, min_size=1)


def flavours(truth: Any) -> list[dict[str, Any]]:
    said = [{"from": "human", "value": "?"}, {"from": "gpt", "value": json.dumps(truth)}]
    plain = {name: value for name, value in GOOD.items() if name != "seq_id"}
    bare = {name: value for name, value in plain.items() if name != "init_bbox"}
    return [{**GOOD, "gt_bboxes": truth}, {**bare, "gt_bboxes": truth}, {"seq_id": SEQ, "gt_bboxes": truth},
            {"id": SEQ, "metadata": plain, "conversations": said},
            {"id": SEQ, "metadata": bare, "conversations": said},
            {"id": SEQ, "scene": GOOD["scene"], "source_frame_ids": [2], "init_bbox": GOOD["init_bbox"]}]


@st.composite
def benchmark_files(draw: Any) -> bytes:
    texts = []
    for _ in range(draw(st.integers(1, 3))):
        record = draw(st.sampled_from(flavours(draw(TRUTH))))
        for _ in range(draw(st.integers(0, 2))):
            place = record if draw(st.booleans()) else record.get("metadata", record)
            if isinstance(place, dict):
                place[draw(st.sampled_from([*GOOD, *record]) | st.text(max_size=8))] = draw(VALUE)
        texts.append(json.dumps(record, ensure_ascii=draw(st.booleans())))
    joined = "[{}]".format(", ".join(texts)) if draw(st.booleans()) else "\n".join(texts)
    whole = joined.encode(draw(st.sampled_from(["utf-8"] * 8 + ["utf-8-sig", "utf-16"])), "surrogatepass")
    cut = whole[:draw(st.integers(0, len(whole)))]
    return draw(st.sampled_from([whole] * 8 + [cut, draw(st.binary(max_size=60))]))


def run_on(world: World, data: bytes, *args: Any) -> Run:
    """A benchmark file, a fresh output folder: only files that the contract names, no box but the initial one."""
    shutil.rmtree(str(world.output), ignore_errors=True)
    world.benchmark.write_bytes(data)
    run = watched(world, *args)
    assert run.code != 2 or not world.output.exists() and not run.out, run
    assert [name for name in run.tree if not re.fullmatch(OUTPUT_PATH, name, re.ASCII)] == []
    texts = [run.out, run.err, *run.tree]
    for path in world.output.rglob("*.json"):
        text = path.read_text()
        for edge in world.meta(path.parent.name)["init_bbox"] if path.parent != world.output else []:
            text = text.replace(repr(float(edge)), "")
        texts.append(text)
    assert [text for text in texts if MARK in text] == []
    return run


@settings(max_examples=MANY or 80, derandomize=not MANY, suppress_health_check=list(HealthCheck))
@given(benchmark_files(), st.sampled_from([[], ["--gt-stub"], ["--sequences", SEQ], ["--stride", 99]]))
@example(json.dumps({**GOOD, "seq_id": None, "object_id": "../../../x"}).encode(), [])
def test_property_any_benchmark(site: World, data: bytes, options: list[Any]) -> None:
    run_on(site, data, "--nframes", 2, *options)
    for path in site.output.glob("*/sequence_meta.json"):
        meta = json.loads(path.read_text())
        x1, y1, x2, y2 = meta["init_bbox"]
        assert x1 < x2 and y1 < y2 and x1 < 1000 and y1 < 1000 and x2 > 0 and y2 > 0
        assert (meta["seq_id"], meta["frame_ids"][0]) == (path.parent.name, meta["init_frame_id"])
        assert wrong_pictures(path.parent, meta["frame_ids"], decoded()) == []


@pytest.mark.parametrize("number", range(5))
def test_ground_truth_in_a_wrong_place_is_not_told(site: World, number: int) -> None:
    truth, lines = {str(key): secret(key) for key in (2, 4)}, []
    for name in [*GOOD, "clip_end_frame"]:
        for value in (truth, list(truth.values())):
            record = flavours(truth)[number]
            record.get("metadata", record)[name] = value
            lines.append(json.dumps(record))
    assert run_on(site, "\n".join(lines).encode()).code == 2
    assert run_on(site, json.dumps(flavours(truth)[number]).encode(), "--nframes", 1, "--gt-stub").code == 0
    assert (site.meta(SEQ)["init_bbox"] == secret(2)) == (number in (1, 2, 4))  # there it has no other


@pytest.mark.parametrize("name, value", [
    ("scene", b"[" * 980 + b"]" * 980), ("gt_bboxes", b'{"a":' * 100_000), ("object_id", b"7" * 20_000),
    ("clip_fps", b"1e999999"), ("scene", b'"' + b"x" * 20_000_000 + b'"'),
    ("conversations", b'[{"from": "gpt", "value": "' + b"[" * 99_999 + b'"}], "scene": 0')],
    ids=lambda value: ascii(value[:9]))
def test_monstrous_value(site: World, name: str, value: bytes) -> None:
    run = run_on(site, json.dumps(GOOD).encode()[:-1] + b', "%s": %s}' % (name.encode(), value))
    assert run.code == 2 and len(run.err) < 5000, run


@pytest.mark.parametrize("without", [(), ("cv2",)], ids=["opencv", "pillow"])
def test_huge_and_tiny_boxes(site: World, without: Sequence[str]) -> None:
    far = 999_999
    boxes = [[-far, -far, far, far], [0, 0, 5e-324, 5e-324], [999.9999999, 0, far, 1e-9], [9, -far, 10, far]]
    site.records(*[clips.record([2], box, object_id=number) for number, box in enumerate(boxes)])
    assert watched(site, "--nframes", 1, without=without).code == 0
    crops = list(site.output.glob("*/frames/crop.png"))
    assert len(crops) == len(boxes) and all(min(clips.read_png(crop)[:2]) >= 1 for crop in crops)


# ---------------------------------------------------------------- names, paths, titles

@pytest.mark.parametrize("folder", ["..", "a/../../..", "/../..", "videos/..", "..\\.."])
def test_no_repository_folder_reaches_outside(site: World, folder: str) -> None:
    clips.lay_out(site.folder, clip("mpeg4_bframes"), subdir="")
    assert watched(site, "--repo-subdir", folder).code and not list(site.output.rglob("*.png"))


@pytest.mark.parametrize("name", [
    "-i", "concat:a|b", "http:", "pipe:0", "%03d %s %n", "%3 x", "a'b\\c\"d", "[x]*", "\u4e2d", "a\nb",
    "$(x)", "\x1b[2J\u202e", "partial file", "Output #0 Video: h264, 9 fps", "[error] 0.000000"], ids=ascii)
def test_a_path_is_a_path_and_nothing_else(site: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(site.folder)
    Path(name).mkdir()
    for path in (site.videos, site.benchmark):
        path.rename(Path(name, path.name))
    site.output = site.folder / name / "out"
    options = {"--benchmark": site.benchmark, "--video-dir": site.videos, "--output-dir": site.output}
    given_so = [f"{option}={name}/{path.name}" for option, path in options.items()]
    assert_prepared(site, watched(site, "--nframes", 2, *given_so))


@pytest.mark.parametrize("title", [
    "partial file", "Video: h264, 99 fps", "Output #0\n  Stream #0:0: Video: h264, 99 fps", "%03d %n '\"\\",
    "\x1b[2J", "x\n[error] 0.000000\n[error] 1.000000", "x\u2028[error] y",
    "x\n0, 5, 5, 1, 9, 0x1\n#tb 0: 1/7"], ids=ascii)
def test_a_title_is_no_word_of_ffmpegs(site: World, title: str) -> None:
    said = [text for stream in ("", ":s:v") for name in ("title", "handler_name")
            for text in ("-metadata" + stream, name + "=" + title)]
    clips.run_ffmpeg(["-i", str(clip("mpeg4_bframes")), "-c", "copy", *said, str(site.video())])
    assert_prepared(site, watched(site, "--nframes", 2))


# ---------------------------------------------------------------- what others planted in the output folder

NAMES = ("sequence_meta.json", "frames/f00.png", "frames/f01.png", "frames/f00_ann.png", "frames/crop.png")
PLACES = ["gt_requests.json", *(SEQ + "/" + name for name in NAMES)]
GT_JSON = SEQ + "/gt.json"  # what is not ours there is theirs


def cleared(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or path.exists():
        path.unlink()
    return path


@pytest.mark.parametrize("prepared", [True, False])
@pytest.mark.parametrize("target", ["precious.txt", "nothing"])
def test_linked_files_are_replaced_and_not_followed(site: World, target: str, prepared: bool) -> None:
    fresh = watched(site, "--nframes", 2)
    if not prepared:
        shutil.rmtree(str(site.output))
    for place in [*PLACES, GT_JSON]:
        cleared(site.output / place).symlink_to(site.folder / target)
    run = watched(site, "--nframes", 2, "--gt-stub")
    assert run.code == 0 and run.tree.pop(GT_JSON).startswith("link") and run.tree == fresh.tree


@pytest.mark.parametrize("name", ["gt_requests.json", "sequence_meta.json"])
def test_what_a_killed_run_left_may_be_a_link_by_now(site: World, name: str) -> None:
    killed = site.run("--nframes", 2, fork=True, prologue=at_change(site.output, 1, name=name))
    left = site.output / min(strays(killed.tree), key=len)
    shutil.move(str(left), str(site.folder / "moved"))
    left.symlink_to(site.folder / "moved")
    assert watched(site, "--nframes", 2).code == 0


def test_named_pipes_are_not_waited_for(site: World) -> None:
    for place in [*PLACES, GT_JSON]:
        os.mkfifo(str(cleared(site.output / place)))
    with site.start("--nframes", 2, "--gt-stub") as running:
        try:
            _, err = running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 0 and all((site.output / place).is_file() for place in PLACES), err


@pytest.mark.parametrize("place", [*PLACES, SEQ + "/frames/f05.png", "", SEQ, SEQ + "/frames"])
def test_a_folder_for_a_file_or_a_file_for_a_folder(site: World, place: str) -> None:
    mine = site.output / place / "mine.txt" if "." in place else site.output / place
    cleared(mine).write_text("mine")
    run = watched(site, "--nframes", 2)
    assert run.code in (1, 2) and Path(place).name in run.err, run
    assert mine.read_text() == "mine" and not strays(run.tree)


# ---------------------------------------------------------------- videos that lie

Maker = Callable[[Path], Any]
PICTURES, SOUND = "testsrc2=size={}:rate=30:duration=0.4", "sine=duration=1"


def film(*coder: str, size: str = "160x96", to: str = "mp4", source: str = PICTURES) -> Maker:
    made = ["-f", "lavfi", "-i", source.format(size), *coder, "-f", to]
    return lambda path: clips.run_ffmpeg([*made, str(path)])


def written(text: str) -> Maker:
    return lambda path: path.write_text(text.replace("BESIDE", str(path.with_name("beside.mp4"))))


def changed(path: str, at: int, form: str, *values: int) -> Maker:
    """A clip with some numbers in one of its boxes overwritten; from place 0 on: with another box."""
    def make(video: Path) -> None:
        data = bytearray(clip("h264_bframes").read_bytes())
        if at:
            struct.pack_into(form, data, clips.the_box(data, path).start + at, *values)
        else:
            clips.replace_box(data, path, struct.pack(form, *values))
        video.write_bytes(bytes(data))
    return make


def joined(*parts: Maker) -> Maker:
    """One clip of several, as they are."""
    def make(path: Path) -> None:
        for number, part in enumerate(parts):
            part(path.with_suffix(f".{number}.mp4"))
        script = path.with_suffix(".txt")
        script.write_text("".join(f"file '{path.stem}.{at}.mp4'\n" for at in range(len(parts))))
        clips.run_ffmpeg(["-f", "concat", "-i", str(script), "-c", "copy", str(path)])
    return make


def noted(pixels: str, pattern: bytes, text: bytes) -> Maker:
    """A clip whose encoder's own note, in its first packet, was changed."""
    def make(video: Path) -> None:
        coder = ["-c:v", "libx264", "-pix_fmt", pixels, "-x264-params", "keyint=10:crf=44"]
        clips.encode(video, coder, frames=60)
        before, kept, behind = re.split(pattern, video.read_bytes(), maxsplit=1, flags=re.S)
        video.write_bytes(before + kept + text + behind)
    return make


class Video(NamedTuple):
    make: Maker
    told: str = ""  # why it fails; ANY: or is as a full decode shows it
    ids: Sequence[int] = (30, 31, 52, 90)
    words: str = ""  # of ffmpeg's, told once although it does not fail


H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "5", "-bf", "2"]
COVER = ["-f", "lavfi", "-i", "color=red:s=64x48:r=25:d=0.04", "-map", "0", "-map", "1", "-c:v", "png",
         "-disposition:v:0", "attached_pic"]
STBL, COUNT = "moov/trak/mdia/minf/stbl/", clips.FRAMES
NO_PICTURES, SIZES = "no (picture|video)", "(changes|other).* (size|format)"
REFUSED, ANY = "cannot be decoded", "cannot be decoded|cut short|has .* frames"
JITTER = [number for index in range(COUNT) for number in (1, 512 + 500 * (-1) ** index)]
VIDEOS = {
    "webm": Video(film("-c:v", "libvpx", to="webm"), REFUSED), "empty": Video(written(""), REFUSED),
    "lfs": Video(written("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 150000\n"),
                 "Git LFS pointer.*git lfs pull"),
    "playlist": Video(written("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:4,\nBESIDE\n"), REFUSED),
    "script": Video(written("ffconcat version 1.0\nfile 'BESIDE'\n"), REFUSED),
    "sound": Video(film("-c:a", "aac", source=SOUND), NO_PICTURES),
    "sound_and_cover": Video(film(*COVER, "-c:a", "aac", source=SOUND), NO_PICTURES),
    "one_pixel": Video(film("-vf", "format=rgb24,scale=1:1", "-c:v", "png"), ids=(0, 11)),
    "8192_wide": Video(film(*H264, size="8192x64"), ids=(0, 6, 11)),
    "size_told_wrong": Video(changed(STBL + "stsd", 48, ">HH", 1920, 1080)),
    "two_sizes": Video(joined(film(*H264), film(*H264, size="96x64")), SIZES, (0, 6, 14, 23)),
    "second_size": Video(joined(film(*H264), film(*H264, size="96x64")), SIZES, (12, 14)),
    "two_colours": Video(joined(film(*H264, "-colorspace", "bt709"), film(*H264, "-colorspace", "smpte170m")),
                         ids=(0, 6, 11, 12, 14, 23)),
    "two_ranges": Video(joined(film(*H264), film(*H264, "-color_range", "pc")), ids=(0, 11, 12, 23)),
    "8_and_10_bits": Video(joined(film(*H264), film(*H264, "-pix_fmt", "yuv420p10le")), ids=(0, 11, 12, 23)),
    "cut_before_its_index": Video(
        lambda path: path.write_bytes(clip("h264_bframes").read_bytes()[:20000]), "cannot be decoded.*moov atom not found.*download it again"),
    "packets_elsewhere": Video(changed(STBL + "stco", 16, ">I", 77), ANY),
    "packet_cut": Video(changed(STBL + "stsz", 20 + 4 * 26, ">I", 40), ANY),
    "packet_huge": Video(changed(STBL + "stsz", 20 + 4 * 26, ">I", 1 << 30), ANY),
    "jittered_times": Video(changed(STBL + "stts", 0, ">242I", 0, COUNT, *JITTER), ANY),
    "times_all_the_same": Video(changed(STBL + "stts", 0, ">4I", 0, 1, COUNT, 0), ANY),
    "order_of_the_file": Video(changed(STBL + "ctts", 0, ">4I", 0, 1, COUNT, 0), ANY),
    "keys_that_are_none": Video(changed(STBL + "stss", 0, ">62I", 0, 60, *range(1, 121, 2))),
    "no_keys": Video(changed(STBL + "stss", 0, ">2I", 0, 0)),
    "hidden_by_an_edit": Video(changed("moov/trak/edts/elst", 16, ">II", 1 << 20, 1 << 30), ANY),
    "one_tick_a_second": Video(changed("moov/trak/mdia/mdhd", 20, ">I", 1), ANY),
    # Builds of x264 before 151 got 4:4:4 wrong; decoders allow for that once they have seen the first packet.
    "old_encoder": Video(noted("yuv444p", b"(x264 - core )...", b"142"), ANY, (30, 33, 36, 55)),
    "long_note": Video(noted("yuv420p", b"(\x06\x05\xff+)[^\xff]", b"\xfe"), "", (0, 11, 33), "SEI type"),
}


@pytest.mark.parametrize("name", list(VIDEOS))
def test_a_lying_video_is_refused_or_shows_what_a_full_decode_shows(site: World, name: str) -> None:
    make, told, ids, words = VIDEOS[name]
    video, record = site.video(), clips.record(ids)
    make(video)
    site.records(record)
    run = watched(site, "--nframes", len(ids))
    if told and (run.code or told != ANY):
        assert run.code == 1 and re.search(told, run.errors[0]) and not list(site.output.rglob("*.png")), run
    else:
        assert run.code == 0, run
        assert wrong_pictures(site.output / record["seq_id"], ids, clips.full_decode(video)) == []
        assert not words or len([line for line in run.err.splitlines() if words in line]) == 1


def shown(video: Path, folder: Path, ids: Sequence[int], truth: Sequence[Picture]) -> bool:
    """The right pictures; or, where nobody can tell that they are wrong, what a full decode of the rest shows."""
    if not wrong_pictures(folder, ids, truth):
        return True
    decode = ["-i", str(video), "-map", "0:V:0", *clips.passthrough_args(), "-f", "null", "-"]
    _, words = clips.run_ffmpeg(decode)
    complaints = [line for line in words.splitlines() if "to muxer" not in line]
    return not complaints and not wrong_pictures(folder, ids, clips.full_decode(video))


@pytest.mark.parametrize("kind, part, what", [
    ("mpeg4_bframes", "mdat", "flip"), ("mpeg4_bframes", "moov", "flip"), ("h264_bframes", "mdat", "flip"),
    ("h264_bframes", "moov", "flip"), ("h264_open_gop", "mdat", "cut"), ("h264_fragments", "mdat", "cut")])
def test_a_damaged_video_is_refused_or_right(world: World, kind: str, part: str, what: str) -> None:
    data, dice = clip(kind).read_bytes(), random.Random(MANY)
    ids = range(0, 24, 3) if what == "cut" else range(0, 120, 15)
    box = next(box for box in clips.boxes(data) if box.path == part)
    videos = [world.video(kind, camera=f"C{number}") for number in range(MANY or 10)]
    for video in videos:
        at = dice.randrange(box.start + 8, len(data) if what == "cut" else box.end)
        changed_byte = bytes([data[at] ^ 1 << dice.randrange(8)])
        video.write_bytes(data[:at] + (changed_byte + data[at + 1:] if what == "flip" else b""))
    records = [clips.record(ids, camera=video.stem) for video in videos]
    world.records(*records)
    run, missing = watched(world, "--nframes", 8), world.manifest()["missing"]
    assert missing, run
    for video, record in zip(videos, records):
        folder = world.output / record["seq_id"]
        if record["seq_id"] in missing:
            assert record["seq_id"] in " ".join(run.errors) and not list(folder.rglob("*.png"))
        else:
            assert shown(video, folder, ids, decoded(kind)), (video, run.err)


# ---------------------------------------------------------------- ffmpeg that cannot work, or talks

SHELL = f"#!/bin/sh\nREAL={shlex.quote(clips.ffmpeg_exe())}\n"
GOES_ON = '; exec "$REAL" "$@"'
CANNOT_WORK = {
    "library": (SHELL + "echo 'error while loading shared libraries: libx.so' >&2; exit 127", "libx.so"),
    "no_program": ("hello\n", "cannot be started|[Ee]xec format"), "silent": (SHELL + "exit 1", "code 1"),
    "hanging": (SHELL + "exec sleep 60", "did not end|hang"),
}


def stand_in(world: World, program: str) -> Path:
    path = world.folder / "bin" / "ffmpeg"
    path.parent.mkdir()
    path.write_text(program)
    path.chmod(0o755)
    world.env["PATH"] = os.pathsep.join([str(path.parent), os.environ["PATH"]])
    return path


# What `ffmpeg -codecs` says: real rows of 3.4, 5.1 and 9.0, and of a Linux distribution without patents.
H264_ROW = "DEV.LS h264                 H.264 / AVC / MPEG-4 AVC / MPEG-4 part 10"
PNG_ROW = "DEV..S png                  PNG (Portable Network Graphics) image"
TALKS = SHELL + """LOG={}
case " $* " in
*" -version "*) echo 'ffmpeg version {} Copyright (c) the FFmpeg developers';;
*" -codecs "*)
    case " $* " in *" -hide_banner "*) ;; *) echo 'ffmpeg version {} Copyright (c) the FFmpeg developers' >&2;; esac
    printf 'Codecs:\\n D..... = Decoding supported\\n -------\\n D.VI.S 012v   Uncompressed 4:2:2 10-bit\\n'
    printf '%s\\n' ' {}' ' {}';;
*) echo "$@" >> "$LOG"; exec "$REAL" "$@";;
esac
"""


class Ffmpeg(NamedTuple):
    """One that says so of itself; it does all the work all the same."""
    version: str = "5.1.9-0+deb12u1"
    h264: str = H264_ROW + " (decoders: h264 h264_v4l2m2m ) (encoders: libx264 )"
    png: str = PNG_ROW

    def put(self, world: World) -> tuple[Path, Path]:
        """First on PATH: where it is, and what it was asked to do."""
        work = world.folder / "work"
        return stand_in(world, TALKS.format(
            shlex.quote(str(work)), self.version, self.version, self.h264, self.png)), work


# No other ffmpeg of this machine can be started.
ONLY = """
import sys
def hook(event, arguments):
    if event == "subprocess.Popen" and not str(arguments[0] or arguments[1][0]) in {!r}:
        raise FileNotFoundError(2, "No such file or directory")
sys.addaudithook(hook)
"""
NO_DECODER, ONLY_OPENH264 = "..V.LS" + H264_ROW[6:], H264_ROW + " (decoders: libopenh264 ) (encoders: libopenh264 )"
NOT_GOOD_ENOUGH = {
    "3.4": (Ffmpeg("3.4.8-0ubuntu0.2"), r"3\.4\.8.*4\.0"), "2.8": (Ffmpeg("2.8.15"), r"2\.8\.15.*4\.0"),
    "n3.3": (Ffmpeg("n3.3.9-1-gc7cd9d2"), r"3\.3\.9.*4\.0"),
    "no_h264": (Ffmpeg(h264=NO_DECODER), "H.264"), "openh264": (Ffmpeg(h264=ONLY_OPENH264), "H.264"),
    "no_png": (Ffmpeg(png="D." + PNG_ROW[2:]), "PNG")}
GOOD_ENOUGH = {
    "4.0": Ffmpeg("4.0"), "4.1-static": Ffmpeg("4.1-static https://johnvansickle.com/ffmpeg/ "),
    "n9.0": Ffmpeg("n9.0.2-17-g2a571b6068-20260930"), "10.1": Ffmpeg("10.1"), "git": Ffmpeg("N-12345-gabcdef0"),
    "dated": Ffmpeg("2026-09-30-git-2a571b6068-full_build-www.gyan.dev"), "one_decoder": Ffmpeg(h264=H264_ROW)}


@pytest.mark.parametrize("name", list(NOT_GOOD_ENOUGH))
def test_ffmpeg_that_is_too_old_or_lacks_something_is_passed_over(site: World, name: str) -> None:
    poor, reason = NOT_GOOD_ENOUGH[name]
    path, work = poor.put(site)
    run = site.run("--nframes", 2)
    assert_prepared(site, run)  # by another one
    assert not work.exists(), work.read_text()
    shutil.rmtree(str(site.output))
    with site.hub() as hub:  # nothing is downloaded that nothing can read
        run = site.run("--nframes", 2, prologue=ONLY.format([str(path)]))
        assert run.code == 2 and not hub.requests, run
    assert [line for line in run.errors if str(path) in line and re.search(reason, line)], run
    assert "pip install imageio-ffmpeg" in run.err and "Traceback" not in run.err


@pytest.mark.parametrize("name", list(GOOD_ENOUGH))
def test_ffmpeg_that_is_good_enough_is_used(site: World, name: str) -> None:
    path, work = GOOD_ENOUGH[name].put(site)
    assert_prepared(site, site.run("--nframes", 2, prologue=ONLY.format([str(path)]), child=True))
    assert "framecrc" in work.read_text()


def test_ffmpeg_of_the_package_serves_where_the_others_are_no_good(site: World) -> None:
    own = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    Ffmpeg("3.4.8-0ubuntu0.2").put(site)
    assert_prepared(site, site.run("--nframes", 2, prologue=ONLY.format([own]), child=True))


def test_all_ffmpegs_that_are_no_good_are_listed(site: World) -> None:
    pytest.importorskip("imageio_ffmpeg")
    path, _ = Ffmpeg("2.8.15").put(site)
    broken = site.folder / "broken" / "ffmpeg"
    broken.parent.mkdir()
    broken.write_text(CANNOT_WORK["library"][0])
    broken.chmod(0o755)
    run = site.run("--nframes", 2, prologue=ONLY.format([str(path), str(broken)]), child=True,
                   env={"IMAGEIO_FFMPEG_EXE": str(broken)})  # stands for the package's own
    assert run.code == 2
    for place, reason in ((broken, "libx.so"), (path, "2.8.15")):
        assert [line for line in run.errors if str(place) in line and reason in line], run


@pytest.mark.parametrize("name", list(CANNOT_WORK))
def test_ffmpeg_that_cannot_work(site: World, name: str) -> None:
    program, words = CANNOT_WORK[name]
    path = stand_in(site, program)
    constants = {"TRIAL_TIMEOUT_S": 1} if name == "hanging" else {}
    site.cache.mkdir()
    # No hub answers: whoever asks it before ffmpeg was tried says so.
    videos, site.defaults["--hf-cache-dir"] = site.defaults.pop("--video-dir"), site.cache
    run = watched(site, "--nframes", 2, fork=True, constants=constants, prologue=ONLY.format([str(path)]))
    assert run.code == 2 and re.search(words, run.errors[0]) and not re.search("connect|retry", run.err), run
    if name != "hanging":  # where another one works
        assert_prepared(site, watched(site, "--nframes", 2, "--video-dir", videos))


AT_WORK = {  # the call, what it does instead or before, the words that are told, and whether it is prepared
    "harmless_words": ("png -compression", "echo '[error] mmco: unref short failure' >&2; "
                       "echo '[error] number of reference frames (0+5) exceeds max (4)' >&2", "mmco", True),
    "damage_behind_harmless_words": (
        "png -compression", "".join(f"echo '[error] {words}' >&2; " for words in (
            "SEI type 1", "SEI type 2", "SEI type 3", "SEI type 4", "error while decoding MB 1 1")),
        "error while decoding", False),
    "words_that_nobody_knows": ("png -compression", "echo '[h264 @ 0x5] [error] well' >&2", "errors: well", False),
    "hangs_at_the_listing": ("framecrc", "exec sleep 60", SEQ + ".*did not end", False),
    "hangs_at_the_pictures": ("png -compression", "exec sleep 60", SEQ + ".*did not end", False),
}


@pytest.mark.parametrize("name", list(AT_WORK))
def test_ffmpeg_that_complains_or_hangs_at_work(site: World, name: str) -> None:
    call, does, words, prepared = AT_WORK[name]
    site.video("h264_bframes")
    stand_in(site, SHELL + 'case "$*" in *"{}"*) {};; esac'.format(call, does.rstrip("; ")) + GOES_ON)
    run = watched(site, "--nframes", 2, constants={"FFMPEG_TIMEOUT_S": 1} if "hangs" in name else {})
    assert run.code == 1 - prepared, run
    assert len([line for line in run.err.splitlines() if re.search(words, line)]) == 1
    assert len(list(site.output.rglob("*.png"))) == (4 if prepared else 0)


@pytest.mark.parametrize("greeting", ["echo Hi; echo '1.0 [x] Error: 3' >&2", "printf Hi; printf Hi >&2", ":"])
def test_ffmpeg_is_not_steered_and_gets_no_token(site: World, greeting: str) -> None:
    spied = site.output / "spied"
    site.output.mkdir()
    stand_in(site, SHELL + f'{{ env; echo "$@"; }} >> {shlex.quote(str(spied))}; ' + greeting + GOES_ON)
    steering = {"AV_LOG_FORCE_COLOR": "1", "AV_LOG_FORCE_256COLOR": "1",
                "FFREPORT": "file={}:level=48".format(site.folder / "report.log")}
    secrets = dict.fromkeys(["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN"], "hf_secret")
    run = watched(site, "--nframes", 2, "--hf-token", "hf_secret", env={**steering, **secrets})
    assert_prepared(site, run)
    assert "PATH=" in spied.read_text() and "framecrc" in spied.read_text()
    files = [path.read_bytes() for path in site.output.rglob("*") if path.is_file()]
    assert not [text for text in [run.out.encode(), run.err.encode(), *files] if b"hf_secret" in text]

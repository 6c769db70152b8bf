"""Exact frames: each fNN.png is to the pixel what a full decode shows under its id, or the sequence fails.

For many more damaged videos: HOSTILE_EXAMPLES=2000 python -m pytest tests/test_exact_frames.py -k damaged
"""
from __future__ import annotations

import functools
import os
import random
import re
import struct
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any, Callable, NamedTuple, Sequence

import pytest

from tests import clips
from tests.clips import KINDS, SOME, Picture
from tests.world import Run, World, assert_explained, fake_ffmpeg
from tests.world import clip as clip_of

EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "0"))
NFRAMES = 8


@functools.lru_cache(maxsize=4)
def decoded(path: Path) -> list[Picture]:
    """Return all pictures of a clip; clips never change once they are made."""
    return clips.full_decode(path)


def first_alike(frames: Sequence[Picture], ids: Sequence[int]) -> list[int]:
    """Return these ids, each as that of the first picture of a hostile video that looks the same."""
    return [frames.index(frames[frame_id]) for frame_id in ids]


# ---------------------------------------------------------------- the clips are what their table says


class Packet(NamedTuple):
    pts: Fraction  # seconds
    is_key: bool
    is_hidden: bool


class Listing(NamedTuple):
    packets: list[Packet]  # of the first video stream that is no cover art, in file order
    streams: list[str]  # in ffmpeg's words
    fields: Counter[str]  # of the headers in the coded video, as "name=value"

    @property
    def shown(self) -> list[Packet]:
        """The packets that are not hidden, by time."""
        return sorted((packet for packet in self.packets if not packet.is_hidden), key=lambda packet: packet.pts)


def list_clip(path: Path, with_fields: bool) -> Listing:
    trace = ["-bsf:v", "trace_headers"] if with_fields else []
    copy = ["-copyts", "-i", str(path), "-map", "0:V:0", "-c", "copy", "-copyinkf"]
    output, log = clips.run_ffmpeg([*copy, *trace, "-f", "framecrc", "-"], loglevel="info")
    text = output.decode("ascii")
    tick = Fraction(re.findall(r"^#tb 0: (\S+)", text, re.MULTILINE)[0])
    packets = []
    for line in re.findall(r"^\d.*", text, re.MULTILINE):
        flags = int((re.findall(r"F=(0x\w+)", line) or ["0x1"])[0], 16)
        packets.append(Packet(int(line.split(",")[2]) * tick, bool(flags & 1), bool(flags & 4)))
    fields = re.findall(r"^.*?\d+ +(\w+)(?:\[.*?\])? +[01]+ = (-?\d+)\s*$", log, re.MULTILINE)
    streams = re.findall(r"Stream #0:\d+\S*: (.*)", log.split("Output #0")[0])
    return Listing(packets, streams, Counter(map("=".join, fields)))


def read_index_turned(picture: Picture) -> int:
    """Return the index that a picture shows, also if it is turned by a quarter to the right."""
    width, height, rgb = picture
    if width > height:
        return clips.read_index(rgb, width, height)
    offsets = (3 * (y * width + x) for x in reversed(range(width)) for y in range(height))
    return clips.read_index(b"".join(rgb[offset:offset + 3] for offset in offsets), height, width)


def traps_of(path: Path, listing: Listing) -> str:
    """Return what makes it hard to count and to seek the frames of a clip."""
    packets, data = listing.packets, path.read_bytes()
    times = [packet.pts for packet in listing.shown]
    gaps = sorted(after - before for before, after in zip(times, times[1:]))
    boxes = [(box.path.split("/")[-1], data[box.start + 8]) for box in clips.boxes(data)]
    names, streams = [name for name, _ in boxes], listing.streams
    width, height, _ = decoded(path)[0]
    traps = {
        "reordered": packets != sorted(packets, key=lambda packet: packet.pts),
        "leading": any(later.pts < packet.pts for index, packet in enumerate(packets) if packet.is_key
                       for later in packets[index + 1:]),
        "hidden": len(times) < len(packets),
        "empty packets": len(decoded(path)) < len(times) and len(packets) == clips.FRAMES,
        "fractional rate": gaps[len(gaps) // 2].numerator > 1,
        "irregular": gaps[0] < gaps[-1] / 2,
        "negative times": times[0] < 0,
        "late": times[0] >= 1,
        "negative offsets": ("ctts", 1) in boxes or ("trun", 1) in boxes,
        "index first": names.index("moov") < names.index("mdat"),
        "fragments": "moof" in names,
        "no edit list": "elst" not in names,
        "audio first": streams[0].startswith("Audio"),
        "cover first": "attached pic" in streams[0],
        "odd size": width % 2 == height % 2 == 1,
        "turned": width < height,
    }
    return ", ".join(name for name, is_there in traps.items() if is_there)


# With this scope all tests of one kind run in a row, so few decoded clips are in memory.
@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: Any) -> str:
    clip_of(request.param)
    return str(request.param)


def test_clip_has_the_traps_of_its_kind(kind: str) -> None:
    path, expected = clip_of(kind), KINDS[kind]
    listing = list_clip(path, bool(expected.syntax))
    assert traps_of(path, listing) == expected.traps
    assert [read_index_turned(picture) for picture in decoded(path)] == list(expected.shows)
    assert [number for number, packet in enumerate(listing.shown) if packet.is_key] == list(expected.keys)
    assert len(listing.shown) == expected.packets
    assert len(set(decoded(path))) == len(expected.shows), "two pictures are alike: a mix-up would go unseen"
    assert any(expected.pixels in stream for stream in listing.streams)
    assert {field: SOME if count == SOME and listing.fields[field] else listing.fields[field]
            for field, count in expected.syntax.items()} == expected.syntax


# ---------------------------------------------------------------- the program against a full decode


def assert_exact(world: World, kind: str, id_lists: Sequence[Sequence[int]]) -> None:
    """Prepare one sequence for each list; only those past the end of the video may fail, and they must."""
    frames = decoded(clip_of(kind))
    world.put_video(kind)
    records = [clips.record(ids, object_id=number) for number, ids in enumerate(id_lists)]
    world.write_records(*records)
    run = world.prepare(nframes=len(id_lists[0]))
    too_long = []
    for ids, seq_id in [(ids, record["seq_id"]) for ids, record in zip(id_lists, records)]:
        if ids[-1] < len(frames):
            assert clips.shown_ids(world.output / seq_id / "frames", frames) == list(ids), run.err
        else:
            too_long.append(seq_id)
            (error,) = [error for error in run.errors if seq_id in error]
            # Where a packet is not always a frame, their number will do.
            assert re.search(rf"\b({len(frames)}|{KINDS[kind].packets}) frames\b", error)
            assert not [name for name in run.tree if re.match(rf"{seq_id}.*(\.png|meta\.json)$", name)]
    assert (run.code, world.read_gt_requests()["missing"]) == (int(bool(too_long)), too_long), run.err


def around(*keyframe_ids: int) -> list[int]:
    # MP4 is sought by decoding time, and the frame before a keyframe may be decoded after it.
    return [frame_id for key in keyframe_ids for frame_id in (key - 1, key, key + 1)]


def some_keyframe_ids(kind: str) -> Sequence[int]:
    """Return some keyframes; where all frames are, or claim to be, those of the other kinds."""
    keys = KINDS[kind].keys
    return [key for key in keys if len(keys) < 8 or key % clips.GOP == 0]


def test_single_frames_at_boundaries_and_past_the_end(world: World, kind: str) -> None:
    count = len(KINDS[kind].shows)
    key = max(key for key in some_keyframe_ids(kind) if key + NFRAMES <= count)
    assert_exact(world, kind, [[frame_id] for frame_id in (*around(key), count - 1, count, count + 1000)])


def test_lists_of_frames(world: World, kind: str) -> None:
    count = len(KINDS[kind].shows)
    candidates = (0, 1, *around(*some_keyframe_ids(kind)), count - 2, count - 1)
    boundaries = sorted({frame_id for frame_id in candidates if 0 <= frame_id < count})
    step = max(1, (count - 28) // (NFRAMES - 1))
    assert_exact(world, kind, [
        boundaries[-NFRAMES:], boundaries[:NFRAMES],  # the order in the benchmark must not matter
        range(count // 3, count // 3 + NFRAMES),
        [*range(3, 7), *range(count - 20, count, 5)],  # so far apart that most are sought twice
        range(27, 27 + min(3, step) * NFRAMES, min(3, step)),  # between packets without a picture
        [1, *range(count - NFRAMES + 2, count + 1)],  # only the last one is past the end
    ])


def test_all_frames_of_a_video_in_one_list(world: World, kind: str) -> None:
    """More than the 100 terms that ffmpeg takes in one sum, and file names of three digits."""
    assert_exact(world, kind, [range(len(KINDS[kind].shows))])


# ---------------------------------------------------------------- videos that lie

Maker = Callable[[Path], Any]
STBL = "moov/trak/mdia/minf/stbl/"


def film(*coder: str, size: str = "160x96", source: str = "testsrc2") -> Maker:
    sources = {"testsrc2": f"testsrc2=size={size}:rate=30:duration=0.4", "sine": "sine=duration=1"}
    return lambda path: clips.run_ffmpeg(["-f", "lavfi", "-i", sources[source], *coder, str(path)])


def written(text: str) -> Maker:
    return lambda path: path.write_text(text.replace("OTHER", str(path.with_name("other.mp4"))))


def changed(box: str, offset: int, form: str, *values: int) -> Maker:
    """A clip with some numbers in one of its boxes overwritten; at offset 0: with another box."""
    def make(path: Path) -> None:
        data = bytearray(clip_of("h264_bframes").read_bytes())
        if offset:
            struct.pack_into(form, data, clips.the_box(data, box).start + offset, *values)
        else:
            clips.replace_box(data, box, struct.pack(form, *values))
        path.write_bytes(bytes(data))
    return make


def joined(*parts: Maker) -> Maker:
    """A clip of several, as they are."""
    def make(path: Path) -> None:
        for number, part in enumerate(parts):
            part(path.with_suffix(f".{number}.mp4"))
        script = path.with_suffix(".txt")
        script.write_text("".join(f"file '{path.stem}.{number}.mp4'\n" for number in range(len(parts))))
        clips.run_ffmpeg(["-f", "concat", "-i", str(script), "-c", "copy", str(path)])
    return make


def make_by_old_encoder(path: Path) -> None:
    """A clip that claims to be by a build of x264 before 151, which got 4:4:4 wrong.

    Decoders allow for that once they have seen the note in the first packet.
    """
    coder = ["-c:v", "libx264", "-pix_fmt", "yuv444p", "-x264-params", "keyint=10:crf=44"]
    clips.encode(path, coder, frames=60)
    path.write_bytes(re.sub(b"(?<=x264 - core )...", b"142", path.read_bytes(), count=1))


TITLE = "\n".join([
    "partial file", "Video: h264, 99 fps", "Output #0", "  Stream #0:0: Video: h264, 99 fps", "%03d %n '\"\\",
    "\x1b[2J", "[error] 0.000000", "[error] 1.000000", "x\u2028[error] y", "0, 5, 5, 1, 9, 0x1",
    "#tb 0: 1/7"])


def make_titled(path: Path) -> None:
    """A clip whose title looks like words of ffmpeg."""
    tags = [text for stream in ("", ":s:v") for name in ("title", "handler_name")
            for text in (f"-metadata{stream}", f"{name}={TITLE}")]
    clips.run_ffmpeg(["-i", str(clip_of("mpeg4_bframes")), "-c", "copy", *tags, str(path)])


class HostileVideo(NamedTuple):
    make: Maker
    error: str = ""  # ANY: this, or it is as a full decode shows it
    ids: Sequence[int] = (30, 31, 52, 90)


H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "5", "-bf", "2"]
COVER = ["-f", "lavfi", "-i", "color=red:s=64x48:r=25:d=0.04", "-map", "0", "-map", "1", "-c:v", "png",
         "-disposition:v:0", "attached_pic"]
COUNT = clips.FRAMES
ANY, REFUSED = "cannot be decoded|cut short|has .* frames", "cannot be decoded"
SIZES = "(changes|other).* (size|format)"
JITTER = [number for index in range(COUNT) for number in (1, 512 + 500 * (-1) ** index)]
HOSTILE_VIDEOS = {
    "empty": HostileVideo(written(""), REFUSED),
    "git_lfs_pointer": HostileVideo(written("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
                                    "Git LFS pointer.*git lfs pull"),
    "playlist": HostileVideo(written("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:4,\nOTHER\n"), REFUSED),
    "sound_and_cover": HostileVideo(film(*COVER, "-c:a", "aac", source="sine"), "no (picture|video)"),
    "one_pixel": HostileVideo(film("-vf", "format=rgb24,scale=1:1", "-c:v", "png"), ids=(0, 11)),
    "8192_wide": HostileVideo(film(*H264, size="8192x64"), ids=(0, 6, 11)),
    "wrong_size_in_the_index": HostileVideo(changed(f"{STBL}stsd", 48, ">HH", 1920, 1080)),
    "starts_within_a_group": HostileVideo(film(*H264, "-bsf:v", "noise=drop=lt(n\\,3)"), ids=(3,)),
    "two_sizes": HostileVideo(joined(film(*H264), film(*H264, size="96x64")), SIZES, (0, 6, 14, 23)),
    "two_colours": HostileVideo(joined(film(*H264, "-colorspace", "bt709"),
                                       film(*H264, "-colorspace", "smpte170m")), ids=(0, 6, 12, 14, 23)),
    "8_and_10_bits": HostileVideo(
        joined(film(*H264), film(*H264, "-pix_fmt", "yuv420p10le")), ids=(0, 11, 12, 23)),
    "cut_before_its_index": HostileVideo(
        lambda path: path.write_bytes(clip_of("h264_bframes").read_bytes()[:20000]),
        "cannot be decoded.*moov atom not found.*download it again"),
    "packets_elsewhere": HostileVideo(changed(f"{STBL}stco", 16, ">I", 77), ANY),
    "cut_packet": HostileVideo(changed(f"{STBL}stsz", 20 + 4 * 26, ">I", 40), ANY),
    "huge_packet": HostileVideo(changed(f"{STBL}stsz", 20 + 4 * 26, ">I", 1 << 30), ANY),
    "jittered_times": HostileVideo(changed(f"{STBL}stts", 0, ">242I", 0, COUNT, *JITTER), ANY),
    "equal_times": HostileVideo(changed(f"{STBL}stts", 0, ">4I", 0, 1, COUNT, 0), ANY),
    "keyframe_at_the_time_of_the_next": HostileVideo(
        changed(f"{STBL}stts", 0, ">10I", 0, 4, 25, 512, 1, 0, COUNT - 27, 512, 1, 1024), ids=(26,)),
    "file_order": HostileVideo(changed(f"{STBL}ctts", 0, ">4I", 0, 1, COUNT, 0), ANY),
    "wrong_keyframes": HostileVideo(changed(f"{STBL}stss", 0, ">62I", 0, 60, *range(1, 121, 2))),
    "no_keyframes": HostileVideo(changed(f"{STBL}stss", 0, ">2I", 0, 0)),
    "hidden_by_an_edit": HostileVideo(changed("moov/trak/edts/elst", 16, ">II", 1 << 20, 1 << 30), ANY),
    "one_tick_a_second": HostileVideo(changed("moov/trak/mdia/mdhd", 20, ">I", 1), ANY),
    "titled_like_a_log": HostileVideo(make_titled),
    "old_encoder": HostileVideo(make_by_old_encoder, ANY, (30, 33, 36, 55)),
}


@pytest.mark.parametrize("name", HOSTILE_VIDEOS)
def test_hostile_video_is_refused_or_shows_what_a_full_decode_shows(world: World, name: str) -> None:
    make, error, ids = HOSTILE_VIDEOS[name]
    video, record = world.put_video(), {**clips.record(ids), "clip_fps": None}
    world.put_video(camera="other")
    make(video)
    world.write_records(record)
    run = world.prepare(nframes=len(ids))
    assert_explained(run)
    if run.code or error not in ("", ANY):
        assert run.code == 1 and error and re.search(error, run.errors[0]), run
        assert not list(world.output.rglob("*.png"))
    else:
        frames = clips.full_decode(video)
        assert clips.shown_ids(world.output / record["seq_id"] / "frames", frames) == first_alike(frames, ids), run
        assert world.read_meta(record["seq_id"])["clip_fps"] == (1 if "tick" in name else 30)


def decodes_without_complaint(video: Path) -> bool:
    decode = ["-i", str(video), "-map", "0:V:0", *clips.passthrough_args(), "-f", "null", "-"]
    _, log = clips.run_ffmpeg(decode)
    return not [line for line in log.splitlines() if "to muxer" not in line]


@pytest.mark.parametrize("kind, box, damage", [
    ("mpeg4_bframes", "mdat", "flip"), ("mpeg4_bframes", "moov", "flip"), ("h264_bframes", "mdat", "flip"),
    ("h264_bframes", "moov", "flip"), ("h264_open_gop", "mdat", "cut"), ("h264_fragments", "mdat", "cut")])
def test_damaged_video_is_refused_or_right(world: World, kind: str, box: str, damage: str) -> None:
    """Right is also what a full decode shows of a damage that ffmpeg itself does not notice."""
    data, dice = clip_of(kind).read_bytes(), random.Random(EXAMPLES)
    ids = range(0, 24, 3) if damage == "cut" else range(0, 120, 15)
    place = next(one for one in clips.boxes(data) if one.path == box)
    videos = [world.put_video(kind, camera=f"C{number}") for number in range(EXAMPLES or 6)]
    for video in videos:
        offset = dice.randrange(place.start + 8, len(data) if damage == "cut" else place.end)
        flipped = bytes([data[offset] ^ 1 << dice.randrange(8)]) + data[offset + 1:]
        video.write_bytes(data[:offset] + (flipped if damage == "flip" else b""))
    records = [clips.record(ids, camera=video.stem) for video in videos]
    world.write_records(*records)
    run, frames = world.prepare(nframes=8), decoded(clip_of(kind))
    assert_explained(run)
    missing = world.read_gt_requests()["missing"]
    assert missing, run
    for video, record in zip(videos, records):
        directory = world.output / record["seq_id"]
        if record["seq_id"] in missing:
            assert record["seq_id"] in " ".join(run.errors) and not list(directory.rglob("*.png"))
        elif clips.shown_ids(directory / "frames", frames) != list(ids):
            assert decodes_without_complaint(video), (video, run.err)
            frames_now = clips.full_decode(video)
            assert clips.shown_ids(directory / "frames", frames_now) == first_alike(frames_now, ids)


# ---------------------------------------------------------------- what ffmpeg says and does at work

HARMLESS = ["[error] SEI type 1", "[error] mmco: unref short failure",
            "[error] number of reference frames (0+5) exceeds max (4)"]
DAMAGES = ["concealing 30 DC, 30 AC, 30 MV errors", "corrupt decoded frame", "undecodable NALU"]


def prepare_with_fake_ffmpeg(
        world: World, *steps: Any, when: str, ids: Sequence[int] = (2, 4), **options: Any) -> Run:
    world.put_video("h264_bframes")
    world.write_records(*[clips.record(ids, object_id=number) for number in (7, 8)])
    fake = fake_ffmpeg(world.folder / "fake", *steps, when=when)
    run = world.prepare(nframes=2, env=fake.env, **options)
    assert_explained(run)
    assert len(list(world.output.rglob("f0?.png"))) == (0 if run.code else 4)
    return run


@pytest.mark.parametrize("lines, when, ids, code, told", [
    (HARMLESS, ".png", (2, 4), 0, "mmco: unref short failure"),
    (HARMLESS, "-ss", (30, 31), 0, ""),  # a picture could be missing: decoded from the start instead
    (["[h264 @ 0x5] [error] well"], ".png", (2, 4), 1, "errors: well"),
    ([*HARMLESS, "[error] error while decoding MB 1 1"], ".png", (2, 4), 1, "error while decoding MB"),
    *[([f"[h264 @ 0x5] [info] {damage}"], ".png", (2, 4), 1, f"errors: {damage}") for damage in DAMAGES],
])
def test_words_of_ffmpeg_are_told_once_and_fail_the_sequences_unless_they_are_harmless(
        world: World, lines: Sequence[str], when: str, ids: Sequence[int], code: int, told: str) -> None:
    run = prepare_with_fake_ffmpeg(world, ["say", "\n".join([*lines, ""])], when=when, ids=ids)
    assert (run.code, len(run.errors), run.err.count(told or "mmco")) == (code, code, bool(told)), run


@pytest.mark.parametrize("when", [".mp4", ".png"], ids=["at any video", "at the images"])
def test_ffmpeg_that_hangs_fails_the_sequence(world: World, when: str) -> None:
    run = prepare_with_fake_ffmpeg(world, ["sleep", 60], when=when, constants={"FFMPEG_TIMEOUT_S": 0.4})
    assert run.code == 1 and re.search("obj7.*did not end", run.errors[0]), run

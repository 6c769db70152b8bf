"""Each fNN.png is, pixel for pixel, the picture that a full decode gives under the frame's number."""
from __future__ import annotations

import functools
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Sequence, Tuple

import pytest

from tests import clips
from tests.clips import KINDS, SOME, Facts, Picture
from tests.world import Run, World
from tests.world import clip as clip_of

NFRAMES = 8

# ---------------------------------------------------------------- clips are what their table says


class Packet(NamedTuple):
    dts: Fraction  # seconds
    pts: Fraction
    key: bool
    hidden: bool


class Listing(NamedTuple):
    packets: List[Packet]  # all of the first video stream that is no cover picture, in file order
    streams: List[str]  # what ffmpeg says of them

    @property
    def shown(self) -> List[Packet]:
        return sorted((packet for packet in self.packets if not packet.hidden), key=lambda packet: packet.pts)


def listing(path: Path) -> Listing:
    lines, messages = clips.run_ffmpeg(
        ["-copyts", "-i", str(path), "-map", "0:V:0", "-c", "copy", "-copyinkf", "-f", "framecrc", "-"],
        loglevel="info")
    text = lines.decode("ascii")
    tick = Fraction(re.findall(r"^#tb 0: (\S+)", text, re.M)[0])
    packets = []
    for line in re.findall(r"^\d.*", text, re.M):
        dts, pts = (int(field) * tick for field in line.split(",")[1:3])
        # Side data follows the flags on some lines, so look for the flags by name.
        flags = int((re.findall(r"F=(0x\w+)", line) or ["0x1"])[0], 16)
        packets.append(Packet(dts, pts, bool(flags & 1), bool(flags & 4)))
    return Listing(packets, re.findall(r"Stream #0:\d+\S*: (.*)", messages.split("Output #0")[0]))


# A clip never changes once it is made, and starting ffmpeg is most of these tests' time.
@functools.lru_cache(maxsize=4)
def decoded(path: Path) -> List[Picture]:
    return clips.full_decode(path)


def upright(picture: Picture) -> Picture:
    """Turns a picture back that is shown turned by a quarter to the right."""
    width, height, rgb = picture
    if width >= height:
        return picture
    places = (3 * (y * width + x) for x in reversed(range(width)) for y in range(height))
    return Picture(height, width, b"".join(rgb[at:at + 3] for at in places))


def number_in(picture: Picture) -> int:
    turned = upright(picture)
    return clips.read_index(turned.rgb, turned.width, turned.height)


def table(path: str, version: int) -> str:
    """Version 1 of a table may hold times below zero."""
    name = path.rpartition("/")[2]
    return name + "1" * version if name in ("ctts", "elst", "stss", "trun") else ""


def measured(path: Path, listed: Listing) -> Facts:
    packets, shown, data = listed.packets, listed.shown, path.read_bytes()
    boxes = list(clips.boxes(data))
    steps = sorted(after.pts - before.pts for before, after in zip(shown, shown[1:]))
    return Facts(
        shows=[number_in(picture) for picture in decoded(path)],
        size=decoded(path)[0][:2],
        packets=len(packets),
        hidden=sum(packet.hidden for packet in packets),
        keys=[number for number, packet in enumerate(shown) if packet.key],
        reordered=packets != sorted(packets, key=lambda packet: packet.pts),
        leading=any(later.pts < packet.pts
                    for at, packet in enumerate(packets) if packet.key for later in packets[at + 1:]),
        gaps=(steps[0], steps[len(steps) // 2]),
        start=round(float(shown[0].pts), 2),
        layout=" ".join(dict.fromkeys(box.path for box in boxes if box.path in ("moov", "mdat", "moof"))),
        tables=" ".join(sorted({table(box.path, data[box.start + 8]) for box in boxes} - {""})),
        streams=" ".join("cover" if "attached pic" in told else told.split(":")[0].lower()
                         for told in listed.streams),
    )


def headers(path: Path) -> List[str]:
    """Every field of the headers in the coded video, as 'name=value' (H.264, H.265, VP9, AV1)."""
    _, messages = clips.run_ffmpeg(["-i", str(path), "-map", "0:V:0", "-c", "copy", "-copyinkf",
                                    "-bsf:v", "trace_headers", "-f", "null", "-"], loglevel="info")
    fields = re.findall(r"^.*?\d+ +(\w+)(?:\[.*?\])? +[01]+ = (-?\d+)\s*$", messages, re.M)
    return ["=".join(field) for field in fields]


# Module scope: pytest then runs all tests of one kind in a row, and few decoded clips are in memory.
@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: Any) -> str:
    clip_of(request.param)
    return str(request.param)


def test_clip_is_what_the_table_says(kind: str) -> None:
    path, (_, _, facts, syntax, pixels, _) = clip_of(kind), KINDS[kind]
    listed = listing(path)
    assert measured(path, listed) == facts._replace(shows=list(facts.shows), keys=list(facts.keys))
    assert len(set(decoded(path))) == len(facts.shows), "two pictures are alike: a mix-up would go unseen"
    assert any(pixels in told for told in listed.streams)
    found = Counter(headers(path)) if syntax else {}
    assert {field: SOME if count == SOME and found[field] else found[field]
            for field, count in syntax.items()} == syntax


# ---------------------------------------------------------------- the program against a full decode


def differences(folder: Path, wanted: Sequence[Picture]) -> List[str]:
    """What is wrong with f00.png, f01.png, ... in a folder."""
    found = []
    for position, picture in enumerate(wanted):
        name = "f{:02d}.png".format(position)
        if not (folder / name).exists():
            found.append(name + ": missing")
        elif clips.read_png(folder / name) != picture:
            found.append(name + ": another picture")
    there = {path.name for path in folder.glob("f*.png")} - {"f00_ann.png"}
    expected = {"f{:02d}.png".format(position) for position in range(len(wanted))}
    return found + [name + ": not asked for" for name in sorted(there - expected)]


def prepare(world: World, kind: str, lists: Sequence[Sequence[int]]) -> Tuple[Run, List[str]]:
    """Runs the program for lists of equal length, one sequence each; and what differs from a full decode."""
    frames = decoded(clip_of(kind))
    world.video(kind)
    records = [clips.record(ids, object_id=number) for number, ids in enumerate(lists)]
    world.records(*records)
    run = world.run("--nframes", len(lists[0]))
    found = []
    for ids, record in zip(lists, records):
        wanted = [frames[number] for number in ids if ids[-1] < len(frames)]
        told = differences(world.output / record["seq_id"] / "frames", wanted)
        found += ["{}, {}".format(list(ids), one) for one in told]
    return run, found


def spread(first: int, step: int, count: int) -> List[int]:
    step = max(1, min(step, (count - 1 - first) // (NFRAMES - 1)))
    return [first + step * number for number in range(NFRAMES)]


def frames_around(keys: Sequence[int], count: int) -> List[int]:
    near = {number for key in keys for number in (key - 1, key, key + 1)} | {0, 1, count - 2, count - 1}
    return sorted(number for number in near if 0 <= number < count)


def keys_of(kind: str) -> Sequence[int]:
    """Some key frames; where all are (or claim to be), those at which the other kinds have theirs."""
    return [key for key in KINDS[kind].facts.keys if len(KINDS[kind].facts.keys) < 8 or key % clips.GOP == 0]


def test_single_frames_at_all_boundaries(world: World, kind: str) -> None:
    numbers = frames_around(keys_of(kind)[1:2], len(KINDS[kind].facts.shows))
    run, found = prepare(world, kind, [[number] for number in numbers])
    assert (run.code, found) == (0, []), run.err


def test_lists_of_frames(world: World, kind: str) -> None:
    count = len(KINDS[kind].facts.shows)
    awkward = frames_around(keys_of(kind), count)
    lists = [
        # Later frames first: the order in the benchmark must not matter.
        awkward[-NFRAMES:], awkward[:NFRAMES],
        spread(7, 15, count), spread(0, count, count)[:-1] + [count - 1],
        spread(27, 3, count),  # where packets are empty (see KINDS), those under these numbers are not
    ]
    run, found = prepare(world, kind, lists)
    assert (run.code, found) == (0, []), run.err


def test_all_frames_of_a_video_in_one_list(world: World, kind: str) -> None:
    """More than the 100 terms that ffmpeg takes in one sum, and file names of three digits."""
    run, found = prepare(world, kind, [range(len(KINDS[kind].facts.shows))])
    assert (run.code, found) == (0, []), run.err


def test_decodes_from_the_start_only_where_it_must(world: World, kind: str) -> None:
    count = len(KINDS[kind].facts.shows)
    key = max(key for key in keys_of(kind) if key + NFRAMES <= count)
    # MP4 is sought by decoding time: the frame before a key frame may be decoded after it.
    run, found = prepare(world, kind, [spread(count // 3, 1, count), spread(key - 1, 1, count)])
    assert (run.code, found) == (0, []), run.err
    assert any("eq(n," in " ".join(command) for command in run.children) == KINDS[kind].from_start


def test_past_the_end_fails_its_sequence_only(world: World, kind: str) -> None:
    count, listed = len(KINDS[kind].facts.shows), KINDS[kind].facts.packets - KINDS[kind].facts.hidden
    lists = [[1, count], [2, count + 1000], [count + 5, count + 6], [count - 2, count - 1]]
    run, found = prepare(world, kind, lists)
    assert (run.code, found) == (1, []), run.err
    for number, ids in enumerate(lists[:3]):
        seq_id = "Warehouse_016__Camera_11__{}__obj{}".format(ids[0], number)
        # Where a packet is not always a frame, their number will do.
        told = [error for error in run.errors if seq_id in error]
        assert re.search(r"\b({}|{}) frames\b".format(count, listed), told[0]), told
        assert not [name for name in run.tree
                    if name.startswith(seq_id) and name.endswith((".png", "meta.json"))]
        assert seq_id in world.manifest()["missing"]
    assert len(world.manifest()["requests"]) == 1


# ---------------------------------------------------------------- the comparison itself can fail


@pytest.mark.parametrize("change, told", [
    (lambda folder, picture: None, []),
    (lambda folder, picture: (folder / "f01.png").unlink(), ["f01.png: missing"]),
    (lambda folder, picture: save(folder / "f02.png", picture), ["f02.png: not asked for"]),
    (lambda folder, picture: save(folder / "f01.png", picture), ["f01.png: another picture"]),
    (lambda folder, picture: save(folder / "f00.png", picture._replace(rgb=picture.rgb[:-1] + b"\0")),
     ["f00.png: another picture"]),
    (lambda folder, picture: save(folder / "f00.png", Picture(picture.height, picture.width, picture.rgb)),
     ["f00.png: another picture"]),
])
def test_comparison_accepts_the_right_pictures_only(
        tmp_path: Path, change: Callable[[Path, Picture], None], told: List[str]) -> None:
    first, second = decoded(clip_of("mpeg4_bframes"))[2:4]
    for position, picture in enumerate((first, second)):
        save(tmp_path / "f{:02d}.png".format(position), picture)
    change(tmp_path, first)
    assert differences(tmp_path, [first, second]) == told


def save(path: Path, picture: Picture) -> None:
    size = "{}x{}".format(picture.width, picture.height)
    clips.run_ffmpeg(["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-i", "-",
                      "-frames:v", "1", str(path)], stdin=picture.rgb)


def test_what_is_no_picture_of_a_clip_is_not_read_as_one(tmp_path: Path) -> None:
    path, grey = clip_of("mpeg4_bframes"), tmp_path / "grey.png"
    width, height, rgb = decoded(path)[2]
    with pytest.raises(ValueError):
        clips.read_index(bytes(len(rgb)), width, height)
    clips.run_ffmpeg(["-i", str(path), "-frames:v", "1", "-pix_fmt", "gray", str(grey)])
    with pytest.raises(ValueError):
        clips.read_png(grey)

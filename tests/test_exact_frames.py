"""Each fNN.png is, pixel for pixel, the picture that a full decode gives under the frame's number."""
from __future__ import annotations

import functools
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any, Callable, NamedTuple, Sequence

import pytest
from PIL import Image

from tests import clips
from tests.clips import KINDS, SOME, Facts, Picture
from tests.world import World
from tests.world import clip as clip_of

NFRAMES = 8

# ---------------------------------------------------------------- clips are what their table says

class Packet(NamedTuple):
    pts: Fraction  # seconds
    key: bool
    hidden: bool


class Listing(NamedTuple):
    packets: list[Packet]  # all of the first video stream that is no cover picture, in file order
    streams: list[str]  # what ffmpeg says of them
    fields: Counter[str]  # of the headers in the coded video, as 'name=value' (H.264, H.265, VP9, AV1)


def listing(path: Path, with_fields: bool) -> Listing:
    trace = ["-bsf:v", "trace_headers"] if with_fields else []
    lines, messages = clips.run_ffmpeg(["-copyts", "-i", str(path), "-map", "0:V:0", "-c", "copy", "-copyinkf",
                                        *trace, "-f", "framecrc", "-"], loglevel="info")
    text = lines.decode("ascii")
    tick = Fraction(re.findall(r"^#tb 0: (\S+)", text, re.M)[0])
    packets = []
    for line in re.findall(r"^\d.*", text, re.M):
        pts = int(line.split(",")[2]) * tick
        # Side data follows the flags on some lines, so look for the flags by name.
        flags = int((re.findall(r"F=(0x\w+)", line) or ["0x1"])[0], 16)
        packets.append(Packet(pts, bool(flags & 1), bool(flags & 4)))
    fields = re.findall(r"^.*?\d+ +(\w+)(?:\[.*?\])? +[01]+ = (-?\d+)\s*$", messages, re.M)
    return Listing(packets, re.findall(r"Stream #0:\d+\S*: (.*)", messages.split("Output #0")[0]),
                   Counter(map("=".join, fields)))


# A clip never changes once it is made, and starting ffmpeg is most of these tests' time.
@functools.lru_cache(maxsize=4)
def decoded(path: Path) -> list[Picture]:
    return clips.full_decode(path)


def number_in(picture: Picture) -> int:
    """The index, also of a picture that is shown turned by a quarter to the right."""
    width, height, rgb = picture
    if width > height:
        return clips.read_index(rgb, width, height)
    places = (3 * (y * width + x) for x in reversed(range(width)) for y in range(height))
    return clips.read_index(b"".join(rgb[at:at + 3] for at in places), height, width)


def measured(path: Path, listed: Listing) -> Facts:
    packets, data = listed.packets, path.read_bytes()
    shown = sorted((packet for packet in packets if not packet.hidden), key=lambda packet: packet.pts)
    boxes = [(box.path, box.path.split("/")[-1], data[box.start + 8]) for box in clips.boxes(data)]
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
        layout=" ".join(dict.fromkeys(box for box, _, _ in boxes if box in ("moov", "mdat", "moof"))),
        tables=" ".join(sorted({name + "1" * version for _, name, version in boxes
                                if name in ("ctts", "elst", "stss", "trun")})),
        streams=" ".join("cover" if "attached pic" in told else told.split(":")[0].lower()
                         for told in listed.streams),
    )


# Module scope: pytest then runs all tests of one kind in a row, and few decoded clips are in memory.
@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: Any) -> str:
    clip_of(request.param)
    return str(request.param)


def test_clip_is_what_the_table_says(kind: str) -> None:
    path, (_, _, facts, syntax, pixels, _) = clip_of(kind), KINDS[kind]
    listed = listing(path, bool(syntax))
    assert measured(path, listed) == facts._replace(shows=list(facts.shows), keys=list(facts.keys))
    assert len(set(decoded(path))) == len(facts.shows), "two pictures are alike: a mix-up would go unseen"
    assert any(pixels in told for told in listed.streams)
    assert {field: SOME if count == SOME and listed.fields[field] else listed.fields[field]
            for field, count in syntax.items()} == syntax


# ---------------------------------------------------------------- the program against a full decode

def differences(folder: Path, wanted: Sequence[Picture]) -> list[str]:
    """What is wrong with f00.png, f01.png, ... in a folder."""
    names = [f"f{position:02d}.png" for position in range(len(wanted))]
    there = {path.name for path in folder.glob("f*.png")} - {"f00_ann.png"}
    found = [name + ": not asked for" for name in sorted(there - set(names))]
    for name, picture in zip(names, wanted):
        if name not in there:
            found.append(name + ": missing")
        elif clips.read_png(folder / name) != picture:
            found.append(name + ": another picture")
    return found


def prepare(world: World, kind: str, lists: Sequence[Sequence[int]]) -> str:
    """Runs the program for lists of equal length, one sequence each; those past the end fail, and no others.

    Gives the commands that it ran.
    """
    frames, (_, _, facts, _, _, from_start) = decoded(clip_of(kind)), KINDS[kind]
    world.video(kind)
    records = [clips.record(ids, object_id=number) for number, ids in enumerate(lists)]
    world.records(*records)
    run = world.run("--nframes", len(lists[0]))
    past = []
    for ids, seq_id in [(ids, record["seq_id"]) for ids, record in zip(lists, records)]:
        wanted = [frames[number] for number in ids if ids[-1] < len(frames)]
        assert differences(world.output / seq_id / "frames", wanted) == [], (list(ids), run.err)
        if not wanted:
            past.append(seq_id)
            (told,) = [error for error in run.errors if seq_id in error]
            # Where a packet is not always a frame, their number will do.
            assert re.search(rf"\b({len(frames)}|{facts.packets - facts.hidden}) frames\b", told)
            assert not [name for name in run.tree if re.match(seq_id + r".*(\.png|meta\.json)$", name)]
    assert (run.code, world.manifest()["missing"]) == (int(bool(past)), past), run.err
    commands = "\n".join(" ".join(command) for command in run.children)
    assert from_start or "eq(n," not in commands
    return commands


def spread(first: int, step: int, count: int) -> list[int]:
    step = max(1, min(step, (count - 1 - first) // (NFRAMES - 1)))
    return [first + step * number for number in range(NFRAMES)]


def around(*keys: int) -> list[int]:
    # MP4 is sought by decoding time: the frame before a key frame may be decoded after it.
    return [number for key in keys for number in (key - 1, key, key + 1)]


def keys_of(kind: str) -> Sequence[int]:
    """Some key frames; where all are (or claim to be), those at which the other kinds have theirs."""
    return [key for key in KINDS[kind].facts.keys if len(KINDS[kind].facts.keys) < 8 or key % clips.GOP == 0]


def test_single_frames_at_all_boundaries_and_past_the_end(world: World, kind: str) -> None:
    count = len(KINDS[kind].facts.shows)
    key = max(key for key in keys_of(kind) if key + NFRAMES <= count)
    numbers = [0, *around(key), count - 2, count - 1, count, count + 1000]
    prepare(world, kind, [[number] for number in numbers])


def test_lists_of_frames(world: World, kind: str) -> None:
    count = len(KINDS[kind].facts.shows)
    awkward = sorted({number for number in [0, 1, *around(*keys_of(kind)), count - 2, count - 1]
                      if 0 <= number < count})
    middle = spread(count // 3, 1, count)
    commands = prepare(world, kind, [
        # Later frames first: the order in the benchmark must not matter.
        awkward[-NFRAMES:], awkward[:NFRAMES], middle,
        spread(0, count, count)[:-1] + [count - 1],
        [*range(3, 7), *range(count - 20, count, 5)],  # so far apart that most are sought twice
        spread(27, 3, count),  # where packets are empty (see KINDS), those under these numbers are not
        [1, *range(count - NFRAMES + 2, count + 1)],  # only the last one is past the end
    ])
    assert KINDS[kind].from_start == ("+".join(map("eq(n,{})".format, middle)) in commands)


def test_all_frames_of_a_video_in_one_list(world: World, kind: str) -> None:
    """More than the 100 terms that ffmpeg takes in one sum, and file names of three digits."""
    prepare(world, kind, [range(len(KINDS[kind].facts.shows))])


# ---------------------------------------------------------------- the comparison itself can fail

def save(path: Path, picture: Picture) -> None:
    Image.frombytes("RGB", picture[:2], picture.rgb).save(str(path))


@pytest.mark.parametrize("name, change, told", [
    ("f00.png", lambda picture: picture, []),
    ("f01.png", None, ["f01.png: missing"]),
    ("f02.png", lambda picture: picture, ["f02.png: not asked for"]),
    ("f01.png", lambda picture: picture, ["f01.png: another picture"]),
    ("f00.png", lambda picture: picture._replace(rgb=picture.rgb[:-1] + b"\0"), ["f00.png: another picture"]),
    ("f00.png", lambda picture: Picture(*picture[1::-1], picture.rgb), ["f00.png: another picture"]),
])
def test_comparison_accepts_the_right_pictures_only(
        tmp_path: Path, name: str, change: Callable[[Picture], Picture] | None, told: list[str]) -> None:
    first, second = decoded(clip_of("mpeg4_bframes"))[2:4]
    save(tmp_path / "f00.png", first)
    save(tmp_path / "f01.png", second)
    if change:
        save(tmp_path / name, change(first))
    else:
        (tmp_path / name).unlink()
    assert differences(tmp_path, [first, second]) == told


def test_what_is_no_picture_of_a_clip_is_not_read_as_one(tmp_path: Path) -> None:
    width, height, rgb = decoded(clip_of("mpeg4_bframes"))[2]
    with pytest.raises(ValueError):
        clips.read_index(bytes(len(rgb)), width, height)
    Image.new("L", (width, height)).save(str(tmp_path / "grey.png"))
    with pytest.raises(ValueError):
        clips.read_png(tmp_path / "grey.png")

"""Small test videos: every picture shows its own index, every kind has its own trap."""
from __future__ import annotations

import functools
import json
import os
import random
import re
import shutil
import struct
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple, Union

# 100 is no multiple of 16: as with 1080 lines, decoders have to cut the coded picture.
WIDTH, HEIGHT = 160, 100
FRAMES = 120
GOP = 25

INDEX_BITS = 8
BLOCK = WIDTH // INDEX_BITS
DARK, BRIGHT = 32, 220

PathLike = Union[str, Path]
Data = Union[bytes, bytearray]


# ---------------------------------------------------------------- ffmpeg


def ffmpeg_exe() -> str:
    named = os.environ.get("TEST_FFMPEG")
    if named:
        return named
    found = shutil.which("ffmpeg")
    if found:
        return found
    import imageio_ffmpeg

    return str(imageio_ffmpeg.get_ffmpeg_exe())


def run_ffmpeg(args: Sequence[str], stdin: bytes = b"", loglevel: str = "error") -> Tuple[bytes, str]:
    command = [ffmpeg_exe(), "-hide_banner", "-nostats", "-loglevel", loglevel, "-y", *args]
    done = subprocess.run(command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    messages = done.stderr.decode("utf-8", "replace")
    if done.returncode:
        raise RuntimeError("{} failed:\n{}".format(" ".join(command), messages))
    return done.stdout, messages


@functools.lru_cache(maxsize=None)
def _help(exe: str, *topic: str) -> str:
    done = subprocess.run([exe, "-hide_banner", *topic], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          stdin=subprocess.DEVNULL)
    return done.stdout.decode("utf-8", "replace")


def passthrough_args() -> List[str]:
    known = "-fps_mode" in _help(ffmpeg_exe(), "-h", "long")
    return ["-fps_mode", "passthrough"] if known else ["-vsync", "0"]


def has_encoder(name: str) -> bool:
    return re.search(r"^ [VA]\S+ {}\s".format(re.escape(name)), _help(ffmpeg_exe(), "-encoders"), re.M) is not None


# ---------------------------------------------------------------- pictures


def _noise_rows(seed: int, width: int, rows: int, low: int, high: int) -> List[bytes]:
    dice = random.Random(seed)
    corners = [[dice.randint(low, high) for _ in range(width // 8)] for _ in range(rows // 4 + 1)]
    # Blobs of 8x4 samples: enough structure for motion search, little enough for a low bit rate.
    return [bytes(v for v in corners[y // 4] for _ in range(8)) * 2 for y in range(rows)]


_LUMA = _noise_rows(1, 2 * WIDTH, HEIGHT - 2 * BLOCK, 60, 200)
_CHROMA = [_noise_rows(seed, WIDTH, HEIGHT // 2, 80, 176) for seed in (2, 3)]


def _index_row(index: int) -> bytes:
    bits = ((index >> (INDEX_BITS - 1 - column)) & 1 for column in range(INDEX_BITS))
    return b"".join(bytes([BRIGHT if bit else DARK]) * BLOCK for bit in bits)


@functools.lru_cache(maxsize=None)
def picture(index: int) -> bytes:
    """One yuv420p picture: the index, its complement, and texture that moves by 3 samples a frame."""
    if not 0 <= index < 1 << INDEX_BITS:
        raise ValueError("the picture has room for {} bits".format(INDEX_BITS))
    number = _index_row(index) * BLOCK + _index_row(~index) * BLOCK
    move = 3 * index % (2 * WIDTH)
    texture = b"".join(row[move:move + WIDTH] for row in _LUMA)
    move = move // 2
    # Chroma stands still behind the number, so that the number's own lines compress well.
    colour = [
        b"".join(row[:WIDTH // 2] if y < BLOCK else row[move:move + WIDTH // 2] for y, row in enumerate(rows))
        for rows in _CHROMA
    ]
    return number + texture + colour[0] + colour[1]


def pictures(count: int) -> bytes:
    return b"".join(picture(index) for index in range(count))


def read_index(rgb: bytes, width: int, height: int) -> int:
    if len(rgb) != width * height * 3 or width < WIDTH or height < 2 * BLOCK:
        raise ValueError("not a {}x{} picture of these clips".format(width, height))

    def bit(column: int, row: int) -> int:
        left, top = column * BLOCK + BLOCK // 2 - 3, row * BLOCK + BLOCK // 2 - 3
        greens = [rgb[((top + y) * width + left + x) * 3 + 1] for y in range(6) for x in range(6)]
        return int(sum(greens) > 128 * len(greens))

    number = complement = 0
    for column in range(INDEX_BITS):
        number = number << 1 | bit(column, 0)
        complement = complement << 1 | bit(column, 1)
    if number ^ complement != (1 << INDEX_BITS) - 1:
        raise ValueError("no legible index: {:b} over {:b}".format(number, complement))
    return number


def read_png(path: PathLike) -> Tuple[int, int, bytes]:
    try:
        from PIL import Image
    except ImportError:
        return _read_png_with_opencv(path)
    with Image.open(str(path)) as image:
        if image.format != "PNG" or image.mode != "RGB":
            raise ValueError("{} is {} {}, not 8-bit RGB PNG".format(path, image.format, image.mode))
        return image.width, image.height, image.tobytes()


def _read_png_with_opencv(path: PathLike) -> Tuple[int, int, bytes]:
    import cv2

    bgr = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if bgr is None or bgr.ndim != 3 or bgr.shape[2] != 3 or bgr.dtype != "uint8":
        raise ValueError("{} is not an 8-bit RGB picture".format(path))
    return bgr.shape[1], bgr.shape[0], bgr[:, :, ::-1].tobytes()


# ---------------------------------------------------------------- reading clips


class Decoded(NamedTuple):
    width: int
    height: int
    frames: List[bytes]


def decode(path: PathLike) -> Decoded:
    # PPM is the raw RGB24 picture behind a header that tells its size.
    stream, _ = run_ffmpeg(["-i", str(path), "-map", "0:V:0", *passthrough_args(),
                            "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"])
    header = re.match(rb"P6\n(\d+) (\d+)\n255\n", stream)
    if header is None:
        raise RuntimeError("{}: no picture came out of a full decode".format(path))
    width, height = int(header.group(1)), int(header.group(2))
    step = header.end() + width * height * 3
    if len(stream) % step:
        raise RuntimeError("{}: {} bytes are no whole number of pictures".format(path, len(stream)))
    starts = range(0, len(stream), step)
    if any(stream[start:start + header.end()] != header.group(0) for start in starts):
        raise RuntimeError("{}: the pictures differ in size".format(path))
    return Decoded(width, height, [stream[start + header.end():start + step] for start in starts])


def full_decode(path: PathLike) -> List[bytes]:
    return decode(path).frames


class Packet(NamedTuple):
    dts: Fraction  # seconds
    pts: Fraction
    key: bool
    hidden: bool


def packets(path: PathLike, copy_times: bool = False) -> List[Packet]:
    """All packets of the first video stream in file order."""
    times = ["-copyts"] if copy_times else []
    listing, _ = run_ffmpeg([*times, "-i", str(path), "-map", "0:V:0", "-c", "copy", "-copyinkf",
                             "-f", "framecrc", "-"])
    found = []
    tick = Fraction(0)
    for line in listing.decode("ascii").splitlines():
        if line.startswith("#tb 0:"):
            tick = Fraction(line.split(":")[1].strip())
        if line.startswith("#"):
            continue
        fields = [field.strip() for field in line.split(",")]
        # Side data follows the flags on some lines, so look for the flags by name.
        flags = next((int(field[2:], 16) for field in fields if field.startswith("F=")), 1)
        found.append(Packet(int(fields[1]) * tick, int(fields[2]) * tick, bool(flags & 1), bool(flags & 4)))
    return found


def syntax(path: PathLike) -> List[Tuple[str, int]]:
    """Every header field of the coded video as (name, value), in file order (H.264, H.265, VP9, AV1)."""
    _, messages = run_ffmpeg(["-i", str(path), "-map", "0:V:0", "-c", "copy", "-copyinkf",
                              "-bsf:v", "trace_headers", "-f", "null", "-"], loglevel="info")
    fields = re.findall(r"^.*?\d+ +(\w[\w.\[\]]*) +[01]+ = (-?\d+)\s*$", messages, re.M)
    return [(name, int(value)) for name, value in fields]


def mpeg4_picture_types(path: PathLike) -> str:
    stream, _ = run_ffmpeg(["-i", str(path), "-map", "0:V:0", "-c", "copy", "-copyinkf", "-f", "m4v", "-"])
    return "".join("IPBS"[code[0] >> 6] for code in re.findall(rb"\x00\x00\x01\xb6(.)", stream, re.S))


def stream_types(path: PathLike) -> List[str]:
    _, messages = run_ffmpeg(["-i", str(path), "-map", "0", "-c", "copy", "-f", "null", "-"], loglevel="info")
    before_output = messages.split("Output #0")[0]
    lines = re.findall(r"Stream #0:\d+\S*: (.*)", before_output)
    return ["cover" if "attached pic" in line else line.split(":")[0].lower() for line in lines]


# ---------------------------------------------------------------- boxes of an MP4 file

_CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"udta")


class Box(NamedTuple):
    path: str
    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size


def boxes(data: Data, start: int = 0, end: int = -1, parent: str = "") -> Iterator[Box]:
    end = len(data) if end < 0 else end
    while start + 8 <= end:
        size, name = struct.unpack(">I4s", data[start:start + 8])
        head = 8
        if size == 1:
            size, head = struct.unpack(">Q", data[start + 8:start + 16])[0], 16
        size = size or end - start
        box = Box(parent + name.decode("latin-1"), start, size)
        yield box
        if name in _CONTAINERS:
            yield from boxes(data, start + head, start + size, box.path + "/")
        start += size


def box_paths(path: PathLike) -> List[str]:
    return [box.path for box in boxes(Path(path).read_bytes())]


def composition_offsets(path: PathLike) -> List[int]:
    """What the container adds to the decoding times (ctts, or trun in a fragmented file)."""
    data = Path(path).read_bytes()
    offsets: List[int] = []
    for box in boxes(data):
        at = box.start + 8
        flags = int.from_bytes(data[at + 1:at + 4], "big")
        if box.path.endswith("/ctts"):
            count = struct.unpack_from(">I", data, at + 4)[0]
            offsets += [struct.unpack_from(">i", data, at + 12 + 8 * n)[0] for n in range(count)]
        elif box.path.endswith("/trun"):
            count = struct.unpack_from(">I", data, at + 4)[0]
            first = at + 8 + 4 * bool(flags & 0x1) + 4 * bool(flags & 0x4)
            step = 4 * sum(bool(flags & bit) for bit in (0x100, 0x200, 0x400, 0x800))
            if flags & 0x800:
                # The offset is the last field of each sample's entry.
                offsets += [struct.unpack_from(">i", data, first + step * (n + 1) - 4)[0] for n in range(count)]
    return offsets


def _the_box(data: Data, path: str) -> Box:
    found = [box for box in boxes(data) if box.path == path]
    if len(found) != 1:
        raise RuntimeError("{} boxes {} instead of one".format(len(found), path))
    return found[0]


def _replace_box(data: bytearray, path: str, payload: bytes) -> None:
    """Sample tables hold offsets from the file's start: fit only for a file whose moov comes last."""
    box = _the_box(data, path)
    if _the_box(data, "moov").end != len(data):
        raise RuntimeError("moov is not the last box")
    growth = 8 + len(payload) - box.size
    for parent in [one for one in boxes(data) if path.startswith(one.path + "/")]:
        struct.pack_into(">I", data, parent.start, parent.size + growth)
    data[box.start:box.end] = struct.pack(">I", 8 + len(payload)) + path[-4:].encode("ascii") + payload


def _edit(path: Path, change: Callable[[bytearray], None]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(bytes(data))


# ---------------------------------------------------------------- making clips


def _raw_input(rate: str) -> List[str]:
    return ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", "{}x{}".format(WIDTH, HEIGHT), "-framerate", rate, "-i", "-"]


def _x264(*params: str) -> List[str]:
    # Scene cuts off: key frames then stand exactly where the tests expect them.
    fixed = ["keyint={}".format(GOP), "min-keyint={}".format(GOP), "scenecut=0", "threads=2"]
    return ["-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-x264-params", ":".join(fixed + list(params))]


def _x265(*params: str) -> List[str]:
    fixed = ["keyint={}".format(GOP), "min-keyint={}".format(GOP), "scenecut=0", "log-level=none", "pools=2",
             "frame-threads=1"]
    return ["-c:v", "libx265", "-preset", "veryfast", "-crf", "25", "-tag:v", "hvc1",
            "-x265-params", ":".join(fixed + list(params))]


B_FRAMES = ("bframes=3", "b-adapt=0", "b-pyramid=none")


def _encode(path: Path, coder: Sequence[str], rate: str = "30", frames: int = FRAMES,
            before: Sequence[str] = (), after: Sequence[str] = ()) -> None:
    """`before` stands in front of the pictures' input, `after` behind it and in front of the coder."""
    run_ffmpeg([*before, *_raw_input(rate), *after, *coder, "-f", "mp4", str(path)], stdin=pictures(frames))


def _encoded(*coder: str, rate: str = "30", frames: int = FRAMES, before: Sequence[str] = (),
             after: Sequence[str] = ()) -> Callable[[Path], None]:
    return lambda path: _encode(path, coder, rate, frames, before, after)


def _timed(pts: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        # Without an encoder time base of its own ffmpeg rounds the times to whole frames of the input rate.
        _encode(path, _x264(*B_FRAMES),
                after=["-vf", "settb=1/90000,setpts='{}'".format(pts), *passthrough_args(),
                       "-enc_time_base", "1:90000", "-video_track_timescale", "90000"])
    return make


def _cut(coder: Sequence[str], start: str, *after: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        whole = path.with_name(path.stem + ".whole.mp4")
        _encode(whole, coder)
        run_ffmpeg(["-ss", start, "-i", str(whole), "-c", "copy", *after, "-f", "mp4", str(path)])
        whole.unlink()
    return make


def _make_audio_first(path: Path) -> None:
    # The sound starts earlier than the pictures, so the file's start time is not the video's.
    _encode(path, _x264(*B_FRAMES), before=["-itsoffset", "0.37"],
            after=["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=16000:duration=3", "-map", "1:a", "-map", "0:v",
                   "-c:a", "aac", "-b:a", "32k", *passthrough_args()])


def _make_mpeg4_without_stss(path: Path) -> None:
    _encode(path, MPEG4)
    # A container without a sync table claims that each sample is a key frame.

    def rename(data: bytearray) -> None:
        stss = _the_box(data, "moov/trak/mdia/minf/stbl/stss")
        data[stss.start + 4:stss.start + 8] = b"free"
    _edit(path, rename)


def _make_negative_start(path: Path) -> None:
    _encode(path, _x264(*B_FRAMES), after=["-movflags", "negative_cts_offsets", "-use_editlist", "0"])

    def shift(data: bytearray) -> None:
        ctts = _the_box(data, "moov/trak/mdia/minf/stbl/ctts")
        timescale = struct.unpack_from(">I", data, _the_box(data, "moov/trak/mdia/mdhd").start + 20)[0]
        version, entries = struct.unpack_from(">B3xI", data, ctts.start + 8)
        if version != 1:
            raise RuntimeError("unsigned composition offsets cannot be shifted below zero")
        for entry in range(entries):
            at = ctts.start + 16 + 8 * entry + 4
            struct.pack_into(">i", data, at, struct.unpack_from(">i", data, at)[0] - timescale // 3)
    _edit(path, shift)


def _make_two_edits(path: Path) -> None:
    _encode(path, _x264(*B_FRAMES))

    # Seconds 0 to 1, then 2.1 to 3.6: the second part starts 13 frames after a key frame.
    def split(data: bytearray) -> None:
        movie = struct.unpack_from(">I", data, _the_box(data, "moov/mvhd").start + 20)[0]
        media = struct.unpack_from(">I", data, _the_box(data, "moov/trak/mdia/mdhd").start + 20)[0]
        elst = _the_box(data, "moov/trak/edts/elst")
        version, entries, _, first = struct.unpack_from(">B3xIIi", data, elst.start + 8)
        if (version, entries) != (0, 1):
            raise RuntimeError("unexpected edit list")
        parts = ((movie, first), (movie * 3 // 2, first + media * 21 // 10))
        table = b"".join(struct.pack(">Iii", length, start, 1 << 16) for length, start in parts)
        _replace_box(data, "moov/trak/edts/elst", struct.pack(">II", 0, len(parts)) + table)
    _edit(path, split)


def _make_rotated(path: Path) -> None:
    _encode(path, _x264(*B_FRAMES))

    def turn(data: bytearray) -> None:
        tkhd = _the_box(data, "moov/trak/tkhd")
        one, unit = 1 << 16, 1 << 30
        matrix = (0, one, 0, -one, 0, 0, HEIGHT * one, 0, unit)
        struct.pack_into(">9i", data, tkhd.start + 8 + 40, *matrix)
    _edit(path, turn)


def _make_cover_first(path: Path) -> None:
    """A cover picture is a video stream to ffmpeg; here it comes before the real one."""
    plain, cover = path.with_name(path.stem + ".plain.mp4"), path.with_name(path.stem + ".png")
    _encode(plain, _x264(*B_FRAMES))
    run_ffmpeg(["-f", "lavfi", "-i", "color=red:size=64x48:rate=1", "-frames:v", "1", str(cover)])
    run_ffmpeg(["-i", str(plain), "-i", str(cover), "-map", "0", "-map", "1", "-c", "copy",
                "-disposition:v:1", "attached_pic", "-f", "mp4", str(path)])
    plain.unlink()
    cover.unlink()

    def move_ahead_of_tracks(data: bytearray) -> None:
        udta, trak = _the_box(data, "moov/udta"), _the_box(data, "moov/trak")
        if _the_box(data, "moov").start < _the_box(data, "mdat").start or udta.start < trak.start:
            raise RuntimeError("unexpected order of boxes")
        moved = bytes(data[udta.start:udta.end])
        del data[udta.start:udta.end]
        data[trak.start:trak.start] = moved
    _edit(path, move_ahead_of_tracks)


# ---------------------------------------------------------------- field-coded H.264, written by hand
#
# x264 writes both fields of a picture in one slice (MBAFF); no encoder of ffmpeg's codes each field as a
# picture of its own (PAFF). So this is a tiny encoder: macroblocks are raw (I_PCM) or copied (P_Skip).


class _Bits:
    def __init__(self) -> None:
        self.done = bytearray()
        self.pending = ""

    def u(self, width: int, value: int) -> "_Bits":
        self.pending += format(value, "0{}b".format(width))
        return self

    def ue(self, value: int) -> "_Bits":
        code = format(value + 1, "b")
        self.pending += "0" * (len(code) - 1) + code
        return self

    def align(self) -> "_Bits":
        self.pending += "0" * (-len(self.pending) % 8)
        self.done += bytes(int(self.pending[at:at + 8], 2) for at in range(0, len(self.pending), 8))
        self.pending = ""
        return self

    def raw(self, data: bytes) -> "_Bits":
        self.align().done += data
        return self

    def nal(self, header: int) -> bytes:
        payload = bytes(self.u(1, 1).align().done)
        return b"\0\0\0\1" + bytes([header]) + re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", payload)


_MB_COLUMNS = WIDTH // 16
_FIELD_MB_ROWS = -(-HEIGHT // 32)


def _parameter_sets() -> bytes:
    sps = _Bits().u(8, 77).u(8, 0).u(8, 30).ue(0)
    sps.ue(4).ue(2).ue(2).u(1, 0)  # 8 bits of frame_num; output order is coding order; 2 reference frames
    sps.ue(_MB_COLUMNS - 1).ue(_FIELD_MB_ROWS - 1)
    sps.u(1, 0).u(1, 0).u(1, 1)  # field pictures allowed, no MBAFF
    sps.u(1, 1).ue(0).ue(0).ue(0).ue((32 * _FIELD_MB_ROWS - HEIGHT) // 4).u(1, 0)  # cut to HEIGHT lines; no VUI
    pps = _Bits().ue(0).ue(0).u(1, 0).u(1, 0).ue(0).ue(0).ue(0).u(1, 0).u(2, 0).ue(0).ue(0).ue(0)
    pps.u(1, 1).u(1, 0).u(1, 0)  # deblocking is switched in each slice
    return sps.nal(0x67) + pps.nal(0x68)


def _macroblocks(index: int, field: str) -> List[bytes]:
    data = picture(index)
    first, step = {"top": (0, 2), "bottom": (1, 2), "both": (0, 1)}[field]
    mb_rows = 2 * _FIELD_MB_ROWS // step

    def lines(at: int, width: int, rows: int, wanted: int) -> List[bytes]:
        there = [data[at + y * width:at + (y + 1) * width] for y in range(first, rows, step)]
        return there + there[-1:] * (wanted - len(there))

    half, luma_size, chroma_size = WIDTH // 2, WIDTH * HEIGHT, WIDTH * HEIGHT // 4
    luma = lines(0, WIDTH, HEIGHT, 16 * mb_rows)
    colours = [lines(luma_size + n * chroma_size, half, HEIGHT // 2, 8 * mb_rows) for n in range(2)]
    return [
        b"".join(line[16 * x:16 * x + 16] for line in luma[16 * y:16 * y + 16])
        + b"".join(line[8 * x:8 * x + 8] for plane in colours for line in plane[8 * y:8 * y + 8])
        for y in range(mb_rows) for x in range(_MB_COLUMNS)
    ]


def _coded_picture(index: int, field: str) -> bytes:
    starts_group = index % GOP == 0
    idr = starts_group and field != "bottom"  # the second field of an IDR picture is not one itself
    coded = _Bits().ue(0).ue(7 if starts_group else 5).ue(0).u(8, index % GOP)
    coded.u(1, 0) if field == "both" else coded.u(1, 1).u(1, int(field == "bottom"))
    if idr:
        coded.ue(index // GOP % 2)
    if not starts_group:
        coded.u(1, 0).u(1, 0)  # one reference: the frame, or the field of the same parity, before this one
    coded.u(2, 0) if idr else coded.u(1, 0)
    coded.ue(0).ue(1)  # no change of quantizer, no deblocking
    macroblocks = _macroblocks(index, field)
    before = [b""] * len(macroblocks) if starts_group else _macroblocks(index - 1, field)
    skipped = 0
    for macroblock, same_place in zip(macroblocks, before):
        if macroblock == same_place:
            skipped += 1
            continue
        if starts_group:
            coded.ue(25)
        else:
            coded.ue(skipped).ue(30)
        coded.raw(macroblock)
        skipped = 0
    if skipped:
        coded.ue(skipped)
    return coded.nal(0x65 if idr else 0x61)


PAFF_FRAMES = 60


def _paff_fields(index: int) -> Tuple[str, ...]:
    # A frame in one piece now and then, so that "two packets per frame" is no way out.
    return ("both",) if index % 7 == 3 else ("top", "bottom")


def _make_paff(path: Path) -> None:
    coded = [(_parameter_sets() if index % GOP == 0 else b"") + _coded_picture(index, field)
             for index in range(PAFF_FRAMES) for field in _paff_fields(index)]
    run_ffmpeg(["-f", "h264", "-framerate", "30", "-i", "-", "-c", "copy", "-use_editlist", "0",
                "-f", "mp4", str(path)], stdin=b"".join(coded))

    # Each ffmpeg has its own idea of when fields are shown: say it plainly, 60 fields per second.
    def time_fields(data: bytearray) -> None:
        timescale = struct.unpack_from(">I", data, _the_box(data, "moov/trak/mdia/mdhd").start + 20)[0]
        durations = [timescale // 30 // len(_paff_fields(index))
                     for index in range(PAFF_FRAMES) for _ in _paff_fields(index)]
        entries = b"".join(struct.pack(">II", 1, duration) for duration in durations)
        _replace_box(data, "moov/trak/mdia/minf/stbl/stts", struct.pack(">II", 0, len(durations)) + entries)
    _edit(path, time_fields)


# ---------------------------------------------------------------- kinds

MPEG4 = ["-c:v", "mpeg4", "-bf", "2", "-g", str(GOP), "-sc_threshold", "1000000000", "-q:v", "3"]
VP9 = ["-c:v", "libvpx-vp9", "-deadline", "good", "-cpu-used", "5", "-b:v", "200k", "-g", str(GOP),
       "-auto-alt-ref", "1", "-lag-in-frames", "25"]
AV1_CODERS = {
    "libaom-av1": ["-c:v", "libaom-av1", "-strict", "-2", "-cpu-used", "8", "-crf", "30", "-b:v", "0", "-g", str(GOP),
                   "-lag-in-frames", "19"],
    "libsvtav1": ["-c:v", "libsvtav1", "-preset", "10", "-g", str(GOP)],
}


def _make_vp9(path: Path) -> None:
    # Only with two passes does libvpx make alternate reference frames, which are never shown.
    log = path.with_name(path.stem + ".pass")
    for number in ("1", "2"):
        _encode(path, [*VP9, "-pass", number, "-passlogfile", str(log)])
    for left in path.parent.glob(log.name + "*"):
        left.unlink()


def _make_av1(path: Path) -> None:
    coder = next(arguments for name, arguments in AV1_CODERS.items() if has_encoder(name))
    _encode(path, coder, frames=60)


@dataclass(frozen=True)
class Kind:
    name: str
    make: Callable[[Path], None]
    encoders: Tuple[str, ...] = ("libx264",)  # any one of them will do
    frames: int = FRAMES
    indexed: bool = True  # the n-th picture of a full decode shows the number n

    def available(self) -> bool:
        return not self.encoders or any(has_encoder(name) for name in self.encoders)

    def why_not(self) -> str:
        return "" if self.available() else "this ffmpeg has no encoder {}".format(" or ".join(self.encoders))


# With 4 B-frames the 25th picture ends a group of them: those before it become leading pictures.
OPEN_GOP = ("open-gop=1", "bframes=4", "b-adapt=0", "b-pyramid=normal")
H265_OPEN = ("open-gop=1", "bframes=4", "b-adapt=0")

_ALL = [
    Kind("h264_bframes", _encoded(*_x264(*B_FRAMES))),
    Kind("h264_open_gop", _encoded(*_x264(*OPEN_GOP))),
    Kind("h264_intra_refresh", _encoded(*_x264("intra-refresh=1", "bframes=0", "ref=1"))),
    Kind("h264_all_intra", _encoded(*_x264("keyint=1"))),
    Kind("h264_29_97", _encoded(*_x264(*B_FRAMES), rate="30000/1001")),
    Kind("h264_23_976", _encoded(*_x264(*B_FRAMES), rate="24000/1001")),
    Kind("h264_variable_rate", _timed("3000*(N+7*floor(N/10)+4*floor(N/3))")),
    Kind("h264_jitter", _timed("3000*N+400*mod(N*N,5)")),
    Kind("h264_one_tick_apart", _timed("3000*N-2999*mod(N,2)")),
    Kind("h264_start_offset", _encoded(*_x264(*B_FRAMES), after=["-output_ts_offset", "1.27"])),
    Kind("h264_negative_start", _make_negative_start),
    Kind("h264_edit_list", _cut(_x264(*B_FRAMES), "1.1"), indexed=False),
    Kind("h264_two_edits", _make_two_edits, indexed=False),
    Kind("h264_open_gop_cut", _cut(_x264(*OPEN_GOP), "0.84", "-use_editlist", "0"), indexed=False),
    Kind("h264_fragments", _encoded(*_x264(*B_FRAMES), after=["-movflags", "frag_keyframe+empty_moov"])),
    Kind("h264_fragments_negative_cts",
         _encoded(*_x264(*B_FRAMES), after=["-movflags", "frag_keyframe+empty_moov+negative_cts_offsets"])),
    Kind("h264_faststart", _encoded(*_x264(*B_FRAMES), after=["-movflags", "faststart"])),
    Kind("h264_mbaff", _encoded(*_x264(*B_FRAMES), after=["-flags", "+ilme+ildct"])),
    Kind("h264_paff", _make_paff, encoders=(), frames=PAFF_FRAMES),
    Kind("h264_audio_first", _make_audio_first),
    Kind("h264_cover_first", _make_cover_first),
    Kind("h264_rotated", _make_rotated, indexed=False),
    Kind("h264_1fps", _encoded(*_x264(*B_FRAMES), rate="1")),
    Kind("h265_open_gop", _encoded(*_x265(*H265_OPEN)), encoders=("libx265",)),
    Kind("h265_cra_cut", _cut(_x265(*H265_OPEN), "0.84", "-use_editlist", "0", "-tag:v", "hvc1"),
         encoders=("libx265",), indexed=False),
    Kind("vp9", _make_vp9, encoders=("libvpx-vp9",)),
    Kind("av1", _make_av1, encoders=tuple(AV1_CODERS), frames=60),
    Kind("mpeg4_bframes", _encoded(*MPEG4), encoders=("mpeg4",)),
    Kind("mpeg4_no_stss", _make_mpeg4_without_stss, encoders=("mpeg4",)),
]
KINDS: Dict[str, Kind] = {kind.name: kind for kind in _ALL}


def make_clip(kind_name: str, path: PathLike) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    KINDS[kind_name].make(path)


# ---------------------------------------------------------------- what the program reads


def lay_out(folder: PathLike, clip_path: PathLike, scene: str = "Warehouse_016", camera: str = "Camera_11",
            subdir: str = "MTMC_Tracking_2025", split: str = "val") -> Path:
    """Puts the clip where the source dataset has its videos."""
    target = Path(folder) / subdir / split / scene / "videos" / (camera + ".mp4")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(str(clip_path), str(target))
    return target


def record(ids: Sequence[int], init_bbox: Sequence[float] = (200, 300, 450, 700), scene: str = "Warehouse_016",
           camera: str = "Camera_11", object_id: Union[int, str] = 7, **extra: Any) -> Dict[str, Any]:
    made: Dict[str, Any] = {
        "seq_id": "{}__{}__{}__obj{}".format(scene, camera, ids[0], object_id),
        "scene": scene,
        "camera": camera,
        "object_id": object_id,
        "object_type": "Person",
        "init_frame_id": ids[0],
        "init_bbox": list(init_bbox),
        "canonical_frame_ids": list(ids),
        "clip_fps": 30,
    }
    made.update(extra)
    return made


def write_benchmark(path: PathLike, records: Sequence[Dict[str, Any]]) -> Path:
    path = Path(path)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in records), encoding="utf-8")
    return path

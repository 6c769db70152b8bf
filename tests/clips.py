"""Make small test videos: every picture shows its own index, and every kind has its own traps (see KINDS)."""
from __future__ import annotations

import contextlib
import functools
import getpass
import hashlib
import json
import os
import random
import re
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Sequence, Union

from PIL import Image

# 100 is no multiple of 16: as with 1080 lines, decoders have to cut the coded picture.
WIDTH, HEIGHT = 160, 100
FRAMES = 120
GOP = 25

INDEX_BITS = 8
BLOCK = WIDTH // INDEX_BITS
DARK, BRIGHT = 32, 220

PathLike = Union[str, Path]
Data = Union[bytes, bytearray]
Maker = Callable[[Path], None]


# ---------------------------------------------------------------- ffmpeg

@functools.lru_cache(maxsize=None)
def ffmpeg_exe() -> str:
    """Return the ffmpeg in TEST_FFMPEG; or that of the pip package, which starts much faster than most."""
    if os.environ.get("TEST_FFMPEG"):
        return os.environ["TEST_FFMPEG"]
    with contextlib.suppress(ImportError, RuntimeError):
        import imageio_ffmpeg
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    return shutil.which("ffmpeg") or "ffmpeg"

def run_ffmpeg(args: Sequence[str], stdin: bytes = b"", loglevel: str = "error") -> tuple[bytes, str]:
    command = [ffmpeg_exe(), "-hide_banner", "-nostats", "-loglevel", loglevel, "-y", *args]
    result = subprocess.run(command, input=stdin, capture_output=True)
    log = result.stderr.decode("utf-8", "replace")
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{log}")
    return result.stdout, log

@functools.lru_cache(maxsize=None)
def _help_text(exe: str, *topic: str) -> str:
    result = subprocess.run([exe, "-hide_banner", *topic], capture_output=True, stdin=subprocess.DEVNULL)
    return result.stdout.decode("utf-8", "replace")

def passthrough_args() -> list[str]:
    has_fps_mode = "-fps_mode" in _help_text(ffmpeg_exe(), "-h", "long")
    return ["-fps_mode", "passthrough"] if has_fps_mode else ["-vsync", "0"]

def has_encoder(name: str) -> bool:
    return name in re.findall(r"^ [VA]\S+ (\S+)", _help_text(ffmpeg_exe(), "-encoders"), re.M)


# ---------------------------------------------------------------- pictures

def _noise_rows(seed: int, width: int, rows: int, low: int, high: int) -> list[bytes]:
    """Return rows of blobs of 8x4 samples, each row twice in a row, so that a window can move along it."""
    # Enough structure for motion search, little enough for a low bit rate.
    dice = random.Random(seed)
    blobs = [[dice.randint(low, high) for _ in range(width // 8)] for _ in range(rows // 4 + 1)]
    return [bytes(v for v in blobs[y // 4] for _ in range(8)) * 2 for y in range(rows)]

_LUMA = _noise_rows(1, 2 * WIDTH, HEIGHT - 2 * BLOCK, 60, 200)
_CHROMA = [_noise_rows(seed, WIDTH, HEIGHT // 2, 80, 176) for seed in (2, 3)]

def _index_row(index: int) -> bytes:
    bits = ((index >> (INDEX_BITS - 1 - column)) & 1 for column in range(INDEX_BITS))
    return b"".join(bytes([BRIGHT if bit else DARK]) * BLOCK for bit in bits)

@functools.lru_cache(maxsize=None)
def picture(index: int) -> bytes:
    """Return a yuv420p picture: the index, its complement, and texture that moves by 3 samples a frame."""
    if not 0 <= index < 1 << INDEX_BITS:
        raise ValueError(f"the picture has room for {INDEX_BITS} bits")
    number = _index_row(index) * BLOCK + _index_row(~index) * BLOCK
    move = 3 * index % (2 * WIDTH)
    texture = b"".join(row[move:move + WIDTH] for row in _LUMA)
    move = move // 2
    # Chroma stands still behind the number, so that the number's own lines compress well.
    colour = [row[:WIDTH // 2] if y < BLOCK else row[move:move + WIDTH // 2]
              for rows in _CHROMA for y, row in enumerate(rows)]
    return number + texture + b"".join(colour)

def read_index(rgb: bytes, width: int, height: int) -> int:
    """Return the index that a picture shows; raise ValueError if it shows none."""
    if len(rgb) != width * height * 3 or width < WIDTH or height < 2 * BLOCK:
        raise ValueError(f"not a {width}x{height} picture of these clips")

    def number_at(row: int) -> int:  # by the green of 6x6 pixels in the middle of each block
        number = 0
        for left in range(BLOCK // 2 - 3, WIDTH, BLOCK):
            samples = [rgb[3 * ((row + y) * width + left + x) + 1] for y in range(6) for x in range(6)]
            number = number << 1 | (sum(samples) > 128 * len(samples))
        return number

    number, complement = number_at(BLOCK // 2 - 3), number_at(3 * BLOCK // 2 - 3)
    if number ^ complement != (1 << INDEX_BITS) - 1:
        raise ValueError(f"no legible index: {number:b} over {complement:b}")
    return number

class Picture(NamedTuple):
    width: int
    height: int
    rgb: bytes

def read_png(path: PathLike) -> Picture:
    with Image.open(str(path)) as image:
        if image.format != "PNG" or image.mode != "RGB":
            raise ValueError(f"{path} is {image.format} {image.mode}, not 8-bit RGB PNG")
        return Picture(image.width, image.height, image.tobytes())

def full_decode(path: PathLike) -> list[Picture]:
    """Return all pictures of the first video stream that is no cover art."""
    # PPM is the raw RGB24 picture behind a header that tells its size.
    stream, _ = run_ffmpeg(["-i", str(path), "-map", "0:V:0", *passthrough_args(),
                            "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"])
    pictures, offset = [], 0
    while offset < len(stream):
        header = re.compile(rb"P6\n(\d+) (\d+)\n255\n").match(stream, offset)
        if header is None:
            raise RuntimeError(f"{path}: a full decode gave something else than pictures")
        width, height = map(int, header.groups())
        offset = header.end() + width * height * 3
        pictures.append(Picture(width, height, stream[header.end():offset]))
    return pictures

def shown_ids(frames_dir: Path, frames: Sequence[Picture]) -> list[int | None]:
    """Return which of these pictures the images f00.png, f01.png, ... are; None: none of them."""
    number = {picture: frame_id for frame_id, picture in reversed(list(enumerate(frames)))}
    paths = sorted(frames_dir.glob("f*[0-9].png"), key=lambda path: int(path.stem[1:]))
    return [number.get(read_png(path)) for path in paths]


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
        box = Box(parent + name.decode("latin-1"), start, size)
        yield box
        if name in _CONTAINERS:
            yield from boxes(data, start + 8, start + size, box.path + "/")
        start += size

def the_box(data: Data, path: str) -> Box:
    matches = [box for box in boxes(data) if box.path == path]
    if len(matches) != 1:
        raise RuntimeError(f"{len(matches)} boxes {path} instead of one")
    return matches[0]

def replace_box(data: bytearray, path: str, payload: bytes) -> None:
    """Replace the content of a box in a file whose moov comes last, so that no offset changes."""
    box = the_box(data, path)
    if the_box(data, "moov").end != len(data):
        raise RuntimeError("moov is not the last box")
    growth = 8 + len(payload) - box.size
    for parent in [one for one in boxes(data) if path.startswith(one.path + "/")]:
        struct.pack_into(">I", data, parent.start, parent.size + growth)
    data[box.start:box.end] = struct.pack(">I", 8 + len(payload)) + path[-4:].encode("ascii") + payload

def _number(data: Data, path: str, at: int) -> int:
    return int(struct.unpack_from(">I", data, the_box(data, path).start + at)[0])


# ---------------------------------------------------------------- coders

# Scene cuts off: key frames then stand exactly where the tests expect them.
KEYS = (f"keyint={GOP}", f"min-keyint={GOP}", "scenecut=0")

def x264(*params: str) -> list[str]:
    return ["-c:v", "libx264", "-preset", "veryfast", "-crf", "23",
            "-x264-params", ":".join([*KEYS, "threads=2", *params])]

def x265(*params: str) -> list[str]:
    return ["-c:v", "libx265", "-preset", "veryfast", "-crf", "25", "-tag:v", "hvc1", "-x265-params",
            ":".join([*KEYS, "log-level=none", "pools=2", "frame-threads=1", *params])]

B_FRAMES = ("bframes=3", "b-adapt=0", "b-pyramid=none")
B_PYRAMID = ("bframes=3", "b-adapt=0", "b-pyramid=normal")
# With 4 B-frames the 25th picture ends a group of them: those before it become leading pictures.
OPEN_GOP = ("open-gop=1", "bframes=4", "b-adapt=0", "b-pyramid=normal")
H265_OPEN = ("open-gop=1", "bframes=4", "b-adapt=0")
MPEG4 = ["-c:v", "mpeg4", "-bf", "2", "-g", str(GOP), "-sc_threshold", "1000000000", "-q:v", "3"]
VP9 = ["-c:v", "libvpx-vp9", "-deadline", "good", "-cpu-used", "5", "-b:v", "200k", "-g", str(GOP),
       "-auto-alt-ref", "1", "-lag-in-frames", "25"]
AV1 = {"libaom-av1": ["-strict", "-2", "-cpu-used", "8", "-crf", "30", "-b:v", "0", "-lag-in-frames", "19"],
       "libsvtav1": ["-preset", "10"]}


# ---------------------------------------------------------------- making clips

def encode(path: Path, coder: Sequence[str], rate: str = "30", frames: int = FRAMES,
           before: Sequence[str] = (), after: Sequence[str] = ()) -> None:
    """`before` stands in front of the pictures' input, `after` behind it and in front of the coder."""
    size = f"{WIDTH}x{HEIGHT}"
    pictures = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", size, "-framerate", rate, "-i", "-"]
    run_ffmpeg([*before, *pictures, *after, *coder, "-f", "mp4", str(path)],
               stdin=b"".join(picture(index) for index in range(frames)))

def encoded(*coder: str, change: Callable[[bytearray], None] | None = None, **how: Any) -> Maker:
    def make(path: Path) -> None:
        encode(path, coder, **how)
        if change:
            data = bytearray(path.read_bytes())
            change(data)
            path.write_bytes(bytes(data))
    return make

def cut(coder: Sequence[str], start: str, *after: str) -> Maker:
    def make(path: Path) -> None:
        whole = path.with_name(path.stem + ".whole.mp4")
        encode(whole, coder)
        run_ffmpeg(["-ss", start, "-i", str(whole), "-c", "copy", *after, "-f", "mp4", str(path)])
    return make

# In ticks of 1/90000 s, 3000 a frame: a pause of 7 frames after every 10th, of 4 after every 3rd; each odd frame one
# tick after the one before; and a jitter of up to 1600 ticks for each pair.
IRREGULAR = "3000*(N+7*floor(N/10)+4*floor(N/3))-2999*mod(N,2)+400*mod(floor(N/2)*floor(N/2),5)"

def _shift_below_zero(data: bytearray) -> None:
    """Show each frame a third of a second earlier, so that the first ones have times below zero."""
    ctts = the_box(data, "moov/trak/mdia/minf/stbl/ctts")
    for at in range(ctts.start + 20, ctts.end, 8):
        offset = struct.unpack_from(">i", data, at)[0] - _number(data, "moov/trak/mdia/mdhd", 20) // 3
        struct.pack_into(">i", data, at, offset)

def _two_edits(data: bytearray) -> None:
    # Seconds 0 to 1, then 2.1 to 3.6: the second part starts 13 frames after a key frame.
    movie, media = _number(data, "moov/mvhd", 20), _number(data, "moov/trak/mdia/mdhd", 20)
    first = _number(data, "moov/trak/edts/elst", 20)
    parts = ((movie, first), (movie * 3 // 2, first + media * 21 // 10))
    table = b"".join(struct.pack(">Iii", length, start, 1 << 16) for length, start in parts)
    replace_box(data, "moov/trak/edts/elst", struct.pack(">II", 0, len(parts)) + table)

def _turn(data: bytearray) -> None:
    """Turn the pictures by a quarter: the matrix in tkhd (ISO/IEC 14496-12, 8.3.2)."""
    one, unit = 1 << 16, 1 << 30
    matrix = (0, one, 0, -one, 0, 0, HEIGHT * one, 0, unit)
    struct.pack_into(">9i", data, the_box(data, "moov/trak/tkhd").start + 8 + 40, *matrix)

def _make_irregular(path: Path) -> None:
    # Without an encoder time base of its own ffmpeg rounds the times to whole frames of the input rate.
    ticks = ["-enc_time_base", "1:90000", "-video_track_timescale", "90000", *passthrough_args()]
    encode(path, x264(*B_FRAMES), after=[
        "-vf", f"settb=1/90000,setpts='{IRREGULAR}'", *ticks, "-pix_fmt", "yuv420p10le"])

def _make_audio_first(path: Path) -> None:
    # The sound starts earlier than the pictures: the file's start time is not the video's, and neither is 0.
    sound = ["-f", "lavfi", "-i", "sine=sample_rate=16000:duration=3", "-map", "1:a", "-map", "0:v"]
    encode(path, ["-flags:v", "+ilme+ildct", *x264(*B_FRAMES)], before=["-itsoffset", "0.37"],
           after=[*sound, *passthrough_args(), "-output_ts_offset", "1.27"])

def _make_cover_first(path: Path) -> None:
    """A cover picture is a video stream to ffmpeg; here it comes before the real one."""
    plain, cover = path.with_name(path.stem + ".plain.mp4"), path.with_name(path.stem + ".png")
    encode(plain, x264(*B_FRAMES))
    run_ffmpeg(["-f", "lavfi", "-i", "color=red:size=64x48:rate=1", "-frames:v", "1", str(cover)])
    run_ffmpeg(["-i", str(plain), "-i", str(cover), "-map", "0", "-map", "1", "-c", "copy",
                "-disposition:v:1", "attached_pic", "-f", "mp4", str(path)])
    data = bytearray(path.read_bytes())
    udta, trak = the_box(data, "moov/udta"), the_box(data, "moov/trak")
    moved = bytes(data[udta.start:udta.end])
    del data[udta.start:udta.end]
    data[trak.start:trak.start] = moved
    path.write_bytes(bytes(data))

def _make_vp9(path: Path) -> None:
    # Only with two passes does libvpx make alternate reference frames, which are never shown.
    for number in ("1", "2"):
        encode(path, [*VP9, "-pass", number, "-passlogfile", str(path)],
               after=["-vf", f"scale={WIDTH + 1}:{HEIGHT + 1}:flags=neighbor"])

def _make_av1(path: Path) -> None:
    name = next(name for name in AV1 if has_encoder(name))
    encode(path, ["-c:v", name, "-g", str(GOP), *AV1[name]], frames=60)


# ---------------------------------------------------------------- kinds

CUT = ["-use_editlist", "0"]

class Kind(NamedTuple):
    make: Maker
    encoders: tuple[str, ...]  # any one of them will do
    traps: str  # in the words of test_exact_frames
    shows: Sequence[int] = range(FRAMES)  # the numbers in the pictures of a full decode
    keys: Sequence[int] = range(0, FRAMES, GOP)  # of the packets that are shown, by time: those with a keyframe
    packets: int = FRAMES  # that are shown
    syntax: dict[str, int] = {}  # "field=value" in the headers of the coded video -> how often; SOME
    pixels: str = "yuv420p"
    from_start: bool = False  # no decode from the middle can prove a frame, so it begins at the start

    def missing(self) -> str:
        there = any(has_encoder(name) for name in self.encoders)
        return "" if there else f"this ffmpeg has no encoder {' or '.join(self.encoders)}"

SOME = -1
H264, H265, LAST_95 = ("libx264",), ("libx265",), range(FRAMES - 95, FRAMES)

# Traps of different layers (times, container, coding) share a clip where one cannot hide the other.
KINDS: dict[str, Kind] = {
    "h264_bframes": Kind(
        encoded(*x264(*B_PYRAMID)), H264, "reordered",
        syntax={"nal_unit_type=5": 5, "slice_type=6": 86, "nal_ref_idc=0": 58}),
    "h264_open_gop": Kind(
        encoded(*x264(*OPEN_GOP), rate="30000/1001", after=["-movflags", "faststart"]), H264,
        "reordered, leading, fractional rate, index first", syntax={"nal_unit_type=5": 1}, from_start=True),
    "h264_intra_refresh": Kind(
        encoded(*x264("intra-refresh=1", "bframes=0", "ref=1")), H264, "",
        syntax={"slice_type=7": 1, "recovery_frame_cnt=8": 4}, from_start=True),
    "h264_irregular": Kind(
        _make_irregular, H264, "reordered, fractional rate, irregular", pixels="yuv420p10le"),
    "h264_negative_start": Kind(
        encoded(*x264(*B_FRAMES), change=_shift_below_zero,
                after=["-movflags", "negative_cts_offsets", *CUT]),
        H264, "reordered, negative times, negative offsets, no edit list"),
    "h264_edit_list": Kind(
        cut(x264(*B_FRAMES), "1.1"), H264, "reordered, hidden", range(33, FRAMES), [17, 42, 67], 87),
    "h264_two_edits": Kind(
        encoded(*x264(*B_FRAMES), change=_two_edits), H264, "reordered, leading, hidden, irregular",
        [*range(30), *range(63, 108)], [0, 25, 42, 67], 75, from_start=True),
    "h264_open_gop_cut": Kind(
        cut(x264(*OPEN_GOP), "0.84", *CUT), H264, "reordered, leading, no edit list",
        LAST_95, [4, 29, 54, 79], 99, {"nal_unit_type=5": 0}, from_start=True),
    "h264_fragments": Kind(
        encoded(*x264(*B_FRAMES), rate="1",
                after=["-movflags", "frag_keyframe+empty_moov+negative_cts_offsets"]),
        H264, "reordered, late, negative offsets, index first, fragments, no edit list"),
    "h264_audio_first": Kind(
        _make_audio_first, H264, "reordered, late, audio first",
        syntax={"mb_adaptive_frame_field_flag=1": 1}),
    "h264_cover_first": Kind(_make_cover_first, H264, "reordered, cover first"),
    "h265_open_gop": Kind(
        encoded(*x265(*H265_OPEN), rate="24000/1001"), H265, "reordered, leading, fractional rate",
        syntax={"nal_unit_type=21": 4, "nal_unit_type=8": 12}),
    "h265_cra_cut": Kind(
        cut(x265(*H265_OPEN), "0.84", *CUT, "-tag:v", "hvc1"), H265, "reordered, leading, no edit list",
        LAST_95, [4, 29, 54, 79], 99, {"nal_unit_type=20": 0}, from_start=True),
    # As in field-coded H.264, which no encoder of ffmpeg's makes, a packet is not always a frame.
    "h265_empty_packets": Kind(
        encoded(*x265("bframes=2", "b-adapt=0", "aud=1"), "-bsf:v", "filter_units=remove_types=0|8"),
        H265, "reordered, empty packets",
        [n for n in range(FRAMES) if n % GOP % 3 != 1 or n == FRAMES - 1], from_start=True),
    "vp9": Kind(_make_vp9, ("libvpx-vp9",), "odd size", syntax={"show_frame=0": SOME}),
    "av1": Kind(_make_av1, tuple(AV1), "", range(60), [0, 25, 50], 60, {"show_frame=0": SOME}),
    "mpeg4_bframes": Kind(
        encoded(*MPEG4), ("mpeg4",), "reordered, leading", keys=[0, 27, 51, 75, 99], from_start=True),
    "png_turned": Kind(
        encoded("-c:v", "png", "-f", "mov", frames=60, change=_turn,
                after=["-vf", "format=rgba,colorchannelmixer=aa=0.5"]),
        ("png",), "turned", range(60), range(60), 60, pixels="rgba"),
}

@functools.lru_cache(maxsize=None)
def clip_folder(exe: str) -> Path:
    """Return the folder of the clips by this ffmpeg and this file, for all workers and the runs to come."""
    origin = _help_text(exe, "-version").encode() + Path(__file__).read_bytes()
    name = f"sot_clips_{getpass.getuser()}_{hashlib.sha256(origin).hexdigest()[:16]}"
    folder = Path(tempfile.gettempdir(), name)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder

def clip(kind: str) -> Path:
    """Return the path of the clip of this kind, which must not be changed."""
    folder = clip_folder(ffmpeg_exe())
    path = folder / f"{kind}.mp4"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=str(folder)) as scratch:
            KINDS[kind].make(Path(scratch, path.name))
            os.replace(str(Path(scratch, path.name)), str(path))
    return path


# ---------------------------------------------------------------- what the program reads

def put_clip(folder: PathLike, clip_path: PathLike, scene: str = "Warehouse_016", camera: str = "Camera_11",
             subdir: str = "MTMC_Tracking_2025", split: str = "val") -> Path:
    """Put a copy of the clip where the source dataset has its videos."""
    target = Path(folder) / subdir / split / scene / "videos" / f"{camera}.mp4"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(str(clip_path), str(target))
    return target

def record(ids: Sequence[int], init_bbox: Sequence[float] = (200, 300, 450, 700),
           scene: str = "Warehouse_016", camera: str = "Camera_11", object_id: int | str = 7,
           **extra: Any) -> dict[str, Any]:
    return {"seq_id": f"{scene}__{camera}__{ids[0]}__obj{object_id}",
            "scene": scene, "camera": camera, "object_id": object_id, "object_type": "Person",
            "init_frame_id": ids[0], "init_bbox": list(init_bbox), "canonical_frame_ids": list(ids),
            "clip_fps": 30, **extra}

def write_benchmark(path: PathLike, records: Sequence[dict[str, Any]]) -> Path:
    path = Path(path)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in records), encoding="utf-8")
    return path

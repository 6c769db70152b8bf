#!/usr/bin/env python3
# /// script
# requires-python = ">=3.8"
# dependencies = [
#   "huggingface_hub>=0.24,<3",
#   "opencv-python>=4.5,<5",
#   "Pillow>=8.4",
#   "imageio-ffmpeg>=0.4.9",
#   "tqdm>=4.60",
# ]
# ///
"""Make of a Single Object Tracking benchmark what VANTAGE-Bench's evaluator reads.

Reads the benchmark (JSON or JSON Lines), gets each camera video that it names,
and writes for every sequence its exact frames, the first frame with the
target's box drawn, a crop of the target, and metadata. Stop it whenever you
like: the same command goes on where it was.
"""
from __future__ import annotations

import os
import signal
import sys

INTERRUPTED = "Interrupted. The same command goes on from here."
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
    # Ctrl-C during the imports: main() is not there yet to say this.
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, (INTERRUPTED + "\n").encode()), os._exit(130)))

import argparse
import bisect
import codecs
import collections
import difflib
import errno
import functools
import hashlib
import importlib
import inspect
import io
import itertools
import json
import logging
import math
import re
import shlex
import shutil
import struct
import subprocess
import tempfile
import time
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import (Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence,
                    Set, TextIO, Tuple, TypeVar, Union)

__version__ = "2.0.0"

# --- Constants: units in the names, consequences beside them

DEFAULT_REPO_ID = "nvidia/PhysicalAI-SmartSpaces"
DEFAULT_REPO_SUBDIR = "MTMC_Tracking_2025"
DEFAULT_NFRAMES = 8
DEFAULT_STRIDE = 15  # half a second at the dataset's 30 fps
LAST_TRAIN_WAREHOUSE = 14  # Warehouse_000 to _014 lie in train/, every other scene in val/
CROP_MARGIN = 0.15  # of the box's width and height, on each side
GREEN = (0, 255, 0)  # the evaluator's prompt says GREEN RECTANGLE
LABEL_TEXT = "TARGET"
MAX_FRAME_ID = 999_999_999  # a year of video at 30 fps; keeps every sum well inside a float's integers
MAX_NFRAMES = 99_999
MAX_BOX_EDGE = 1_000_000  # thousandths; nothing can draw a box that reaches thousands of images far out
PIXELS_FROM = 1200  # thousandths; a box that reaches so far out of the image looks like one in pixels
MAX_LISTED_ERRORS = 100
SEEK_COST_FRAMES = 50  # what starting ffmpeg costs, in frames of decoding; measured, not critical
MAX_FRAMES_PER_CALL = 1000  # Windows takes command lines of 32 KB
TRIAL_SECONDS = 60.0  # for a list of what it can do
OLDEST_FFMPEG = 4  # before, it knows no `level` of its log
HANGING_SECONDS = 1800.0  # no call of ffmpeg takes so long: it is stuck
RETRY_WAIT_SECONDS = (2.0, 5.0, 15.0, 40.0)  # before the first, second, ... retry of a request to the hub
MAX_SERVER_WAIT_SECONDS = 300.0  # a longer Retry-After is cut to this
VIDEOS_BEFORE_STOP = 2  # videos in a row that the hub did not give in spite of all retries
STREAM_SHARE = 0.5  # a video of which more than this share is wanted is downloaded whole
STREAM_GAP_BYTES = 1 << 18  # parts that lie closer together are fetched as one
STREAM_PART_BYTES = 1 << 23  # of one request
F_SETPIPE_SZ, PIPE_BYTES = 1031, 1 << 20  # (linux/fcntl.h; Python has the name from 3.10 on)
BAR_SECONDS, LINE_SECONDS = 0.3, 30.0  # between signs of life on a terminal, or elsewhere
STREAM_SLACK_SECONDS = 0.3  # ffmpeg seeks up to 3/23 s before the asked time (fftools/ffmpeg_demux.c)
STREAM_SLACK_PACKETS = 64  # a decoder with many threads reads on before it shows a frame
NO_PICTURE_BYTES = 9  # a smaller packet of H.264 or H.265 holds no slice of a picture, only a delimiter
PROBE_BYTES = 1 << 23  # more than a picture takes; where they cannot be written, pictures cannot either
XET_PATIENCE = {  # of hf_xet, else silent for half an hour when its server stalls; what a user sets stays
    "HF_XET_CLIENT_CONNECT_TIMEOUT": "10s", "HF_XET_CLIENT_READ_TIMEOUT": "30s",
    "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2"}
NOT_FOR_FFMPEG = re.compile("HF_|HUGGING|FFREPORT|AV_LOG_")  # secrets, and what changes its words
COMMIT_FORM = re.compile("[0-9a-f]{40}")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ONE_PIXEL = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154"
                          "789c63606060000000040001f61738550000000049454e44ae426082")  # a black PNG
PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
META_NAME, GT_NAME, SHEET_NAME = "sequence_meta.json", "gt.json", "contact_sheet.jpg"
MANIFEST_NAME = "gt_requests.json"
STAGING_PREFIX = ".preparing-"
LEFTOVER_SECONDS = 86400.0  # a hidden folder that is older belongs to a run that was killed
DEMO_OUTPUT, DEMO_FOLDER, DEMO_BENCHMARK = "SOT_demo", "demo_source", "demo_benchmark.jsonl"


# --- Errors

class StopRun(Exception):
    """Nothing more can be done in this run: bad input, no ffmpeg, no access, disk full. Exit code 2."""


class SequenceError(Exception):
    """This sequence cannot be prepared; the others can."""


class VideoError(SequenceError):
    """No sequence of this video can be prepared."""


class HubError(VideoError):
    """The hub did not give it, in spite of all retries."""


class NeedsWholeVideo(SequenceError):
    """Streaming part of the video will not do, for the reason given."""


class Terminated(BaseException):
    """SIGTERM arrived; a BaseException, so that nothing mistakes it for a failure of its own."""


# --- What a person sees, and the libraries that may be there

LOG = logging.getLogger("prepare_sot_dataset")


class Screen(logging.Handler):
    """Standard error: lines above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        sign = "" if record.levelno == logging.INFO else record.levelname + ": "
        write_line(sign + record.getMessage(), sys.stderr)


class ClientMessages(logging.Handler):
    """What the hub's client says, as ours, without the query strings of addresses: they may be signed."""

    def emit(self, record: logging.LogRecord) -> None:
        LOG.log(record.levelno, "%s", re.sub(r"\?\S+", "", " ".join(record.getMessage().split())))


def write_line(text: str, stream: TextIO, end: str = "\n") -> None:
    """Write a line; when nobody can read it (a closed pipe, a full disk), the work goes on without.

    What could steer a terminal is escaped: control and bidirectional characters, lone surrogates.
    """
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
                   for c in text) + end
    try:
        if PROGRESS.bar is not None:
            PROGRESS.bar.clear()
        print(safe, file=stream, end="", flush=True)
        PROGRESS.tick()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):  # else the interpreter tries to write it once more on its way out
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def shown(value: Any) -> str:
    """A short form of a value of the input, for messages; nothing nested: that may hold ground truth."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        return "a list"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "..."


def on_terminal() -> bool:
    """Whether a bar can be drawn; a width of 0, as in notebooks and `docker run -t`, has no room for one."""
    return (LOG.level <= logging.INFO and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
            and os.get_terminal_size(sys.stderr.fileno()).columns > 0)


class Progress:
    """How far the run is: one bar on a terminal, elsewhere a line now and then.

    The hub's client tells it the bytes of a download, as if it were a bar of tqdm's.
    """
    bar: Any = None  # of tqdm's, over the sequences
    video, sequence = "benchmark", ""  # what is fetched, like 'video 3 of 110', and what is made of it
    done = count = 0  # sequences
    got = size = 0.0  # bytes of the video
    begun = fetch_begun = told = 0.0  # seconds

    def begin(self, count: int) -> None:
        self.done, self.count, self.begun = 0, count, time.monotonic()
        tqdm = library("tqdm") if on_terminal() else None
        if tqdm:
            width = os.get_terminal_size(sys.stderr.fileno()).columns
            form = "{n_fmt}/{total_fmt} [{elapsed}<{remaining}] %s{desc}" % ("{bar:10} " * (width >= 80))
            self.bar = tqdm.tqdm(
                total=count, file=sys.stderr, dynamic_ncols=True, leave=False, bar_format=form)

    def tick(self) -> None:
        if self.bar is not None:  # its clock goes on
            self.bar.set_description_str("%s, %s" % (self.sequence, self.video))

    def made(self, result: str) -> None:
        self.done += 1
        left = (time.monotonic() - self.begun) * (self.count - self.done) / self.done / 60
        if self.bar is not None:
            self.bar.update()
        else:
            LOG.info("[%d/%d] %s: %s%s", self.done, self.count, self.sequence, result,
                     ", about %.0f min left" % left if left >= 1 else "")

    def end(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.bar = None

    def fetching(self, size: Optional[int]) -> None:
        self.size, self.got = size or 0, 0
        self.fetch_begun = self.told = time.monotonic()

    def update(self, size: float) -> None:
        self.got += size
        now = time.monotonic()
        if self.size and now - self.told >= (LINE_SECONDS if self.bar is None else BAR_SECONDS):
            self.told = now
            left = (now - self.fetch_begun) * max(0, self.size - self.got) / max(1, self.got)
            text = "%s: %.0f of %.0f MB, %.0f s left" % (self.video, self.got / 1e6, self.size / 1e6, left)
            LOG.info("%s", text) if self.bar is None else self.bar.set_description_str(text)

    def set_postfix_str(self, *_: Any, **__: Any) -> None:
        """The client has the speed shown so."""


PROGRESS = Progress()


IMPORT_ERRORS: Dict[str, BaseException] = {}  # why a library is not there


@functools.lru_cache(maxsize=None)
def library(name: str) -> Any:
    """A library that is there and works, else None. What a broken one raises on import is anybody's guess."""
    pressed = getattr(on_signal, "at", None)
    try:
        with redirect_stdout(io.StringIO()):  # OpenCV says there what it lacks
            return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        IMPORT_ERRORS[name] = error
        return None
    finally:
        if getattr(on_signal, "at", None) != pressed:  # C code makes something else of a KeyboardInterrupt
            raise KeyboardInterrupt


# --- The sequence: all that the rest of the program knows of a record. It has no room for ground truth.

Box = Tuple[float, float, float, float]


@dataclass(frozen=True)
class SotSequence:
    """One target in one video. Boxes are x1, y1, x2, y2 in thousandths of the image; frame ids from 0."""
    seq_id: str
    scene: str
    camera: str
    object_id: str
    object_type: str
    init_frame_id: int
    init_bbox: Box
    canonical_frame_ids: Tuple[int, ...] = ()
    clip_end_frame: Optional[int] = None
    clip_fps: Optional[float] = None


# --- Benchmark -> sequences

SEQ_ID_FORM = re.compile(r"(?P<scene>.+?)__(?P<camera>.+?)__(?P<init_frame_id>\d{1,9})__obj(?P<object_id>.+)",
                         re.ASCII)
FILE_NAME_FORM = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
WINDOWS_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
TAKEN_NAMES = (MANIFEST_NAME, DEMO_FOLDER)


def file_name(value: Any) -> Optional[str]:
    good = isinstance(value, str) and FILE_NAME_FORM.fullmatch(value) and not value.endswith(".")
    return value if good and not WINDOWS_RESERVED.fullmatch(value) else None


def object_name(value: Any) -> Optional[str]:
    value = whole(value)
    text = str(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else ""
    return text if text and text not in ("nan", "inf", "-inf") and len(text) <= 200 else None


def whole(value: Any) -> Any:
    """A whole number that was written as a float as what it is; anything else as it came."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def frame_id(value: Any) -> Optional[int]:
    value = whole(value)
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_FRAME_ID
    return value if good else None


def rising_ids(value: Any) -> Optional[Tuple[int, ...]]:
    ids = [frame_id(item) for item in value] if isinstance(value, list) else [None]
    known = tuple(k for k in ids if k is not None)
    return known if len(known) == len(ids) and all(a < b for a, b in zip(known, known[1:])) else None


def number(value: Any) -> Optional[float]:
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if good and abs(value) <= sys.float_info.max else None


def edges_of(value: Any) -> List[float]:
    """Four finite numbers, else nothing."""
    edges = [number(edge) for edge in value] if isinstance(value, list) and len(value) == 4 else [None]
    return [edge for edge in edges if edge is not None] if None not in edges else []


def box(value: Any) -> Optional[Box]:
    x1, y1, x2, y2 = edges_of(value) or (0, 0, 0, 0)
    good = x1 < x2 and y1 < y2 and x2 > 0 and y2 > 0 and x1 < 1000 and y1 < 1000
    return (x1, y1, x2, y2) if good and max(abs(x1), abs(y1), x2, y2) <= MAX_BOX_EDGE else None


class Field(NamedTuple):
    parse: Callable[[Any], Any]  # None for a wrong value
    expected: str
    default: Any = None  # for what is left out


REQUIRED = object()
A_NAME = ("a name of at most 200 letters, digits, '.', '_' and '-' that can name a file (no leading or "
          "closing dot, no name that Windows reserves)")
A_FRAME_ID = "a whole number from 0 to %d" % MAX_FRAME_ID
FIELDS = {
    "seq_id": Field(
        file_name, A_NAME + ", like {scene}__{camera}__{init_frame_id}__obj{object_id}", REQUIRED),
    "scene": Field(file_name, A_NAME, REQUIRED),
    "camera": Field(file_name, A_NAME, REQUIRED),
    "object_id": Field(object_name, "a number or a text", "unknown"),
    "object_type": Field(lambda text: text if isinstance(text, str) and text else None, "a text", "object"),
    "init_frame_id": Field(frame_id, A_FRAME_ID, REQUIRED),
    "init_bbox": Field(box, "[x1, y1, x2, y2] in thousandths, finite, x1 < x2, y1 < y2, touching the image",
                       REQUIRED),
    "canonical_frame_ids": Field(rising_ids, "rising whole numbers from 0 to %d" % MAX_FRAME_ID),
    "clip_end_frame": Field(frame_id, A_FRAME_ID),
    "clip_fps": Field(lambda value: value if (number(value) or 0) > 0 else None, "a positive number"),
}


Problem = NamedTuple("Problem", [("seq_id", Any), ("text", str)])  # of a record; seq_id as written, or None


def read_benchmark(data: bytes, name: str) -> Tuple[List[SotSequence], List[Problem]]:
    """The sequences of a benchmark file in order, equal ones once; and what is wrong: (seq_id, sentence)."""
    problems: List[Problem] = []
    found: Dict[str, Tuple[str, SotSequence]] = {}
    for where, record in benchmark_records(data):
        if not isinstance(record, dict):
            said = isinstance(record, ValueError)
            wrong = record.args[0] if said else "expected an object, got " + shown(record)
            problems.append(Problem(None, "%s, %s: %s" % (name, where, wrong)))
            continue
        fields = completed(record)
        wrongs = wrong_fields(fields)
        if not wrongs:
            values = {key: field.parse(fields[key]) for key, field in FIELDS.items() if key in fields}
            # Names that differ in letter case only would share a folder on Windows and macOS.
            first_where, first = found.setdefault(values["seq_id"].lower(), (where, SotSequence(**values)))
            if first != SotSequence(**values):
                wrongs = ["differs from the record with the same seq_id (%s); give one of them another seq_id"
                          % first_where]
        seq_id = fields.get("seq_id")
        place = "%s, %s" % (name, where) + ("" if seq_id is None else ", seq_id " + shown(seq_id))
        problems += [Problem(seq_id, "%s: %s" % (place, wrong)) for wrong in wrongs]
    if not found and not problems:
        problems = [Problem(None, "%s: holds no records; expected JSON or JSON Lines" % name)]
    return [sequence for _, sequence in found.values()], problems


def benchmark_records(data: bytes) -> Iterator[Tuple[str, Any]]:
    """(place, record) of a JSON array, an object, or JSON Lines; a ValueError in place of a broken record."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield "byte %d" % error.start, ValueError("is not UTF-8 text; save the benchmark as UTF-8")
        return
    start, place = text.lstrip()[:1], "line %d" % (1 + text[:len(text) - len(text.lstrip())].count("\n"))
    content: Any = parsed_json(text) if start in ("{", "[") else None
    if isinstance(content, list):
        yield from (("item %d of the array" % index, record) for index, record in enumerate(content))
    elif isinstance(content, dict):
        lists = [key for key, value in content.items() if isinstance(value, list)]
        if {"id", "seq_id", "scene", "gt_bboxes", "conversations"} & set(content):
            yield place, content
        else:
            yield place, ValueError("is no record but an object" + (
                " that holds %s; expected the list itself" % shown(lists[0]) if lists else
                "; expected at least an id and an init_bbox"))
    elif content is None and start:
        kind = "HTML (was a web page saved?)" if start == "<" else (
            "no JSON of records: it starts with %s" % shown(start))
        yield place, ValueError("is %s; expected a JSON array, one object, or JSON Lines of records" % kind)
    elif start == "[" or text.split("\n", 1)[0].strip() == "{" or start and "\n" not in text.strip():
        yield "line %d" % content.args[1], content
    else:
        yield from (("line %d" % at, parsed_json(line)) for at, line in enumerate(text.split("\n"), 1)
                    if line.strip())


def parsed_json(text: str) -> Any:
    """The JSON value, or a ValueError (returned, not raised) that says what is wrong and in which line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        hint = "; leave out the comma at its end" * text.rstrip().endswith("},")
        wrong = "is not valid JSON (%s, column %d)%s" % (error.msg, error.colno, hint)
        return ValueError(wrong, error.lineno)
    except RecursionError:
        return ValueError("is not a benchmark record: its JSON is nested too deeply", 1)
    except ValueError:
        return ValueError("is not valid JSON (a number has too many digits)", 1)


def completed(record: Mapping[str, Any]) -> Dict[str, Any]:
    """The fields of a record of any flavour, by their standard names, missing ones derived; unchecked."""
    inner = record.get("metadata")
    fields = {name: value for source in (inner if isinstance(inner, dict) else {}, record)
              for name, value in source.items() if value is not None}
    truth = ground_truth(fields)

    def fill(name: str, value: Any) -> None:
        if value is not None:
            fields.setdefault(name, value)

    fill("seq_id", fields.get("id"))
    seq_id = whole(fields.get("seq_id"))
    if isinstance(seq_id, (int, str)) and not isinstance(seq_id, bool):  # a number, or written like a label
        fields["seq_id"] = str(seq_id).replace("/", "__")
    form = SEQ_ID_FORM.fullmatch(str(fields.get("seq_id")))
    for name, text in form.groupdict().items() if form else ():
        fill(name, int(text) if name == "init_frame_id" else text)
    fill("canonical_frame_ids", fields.get("source_frame_ids"))
    truth_ids = sorted(int(key) for key in truth if re.fullmatch("[0-9]{1,9}", key))
    ids = rising_ids(fields.get("canonical_frame_ids")) or tuple(truth_ids)
    fill("init_frame_id", ids[0] if ids else None)
    init_frame_id = frame_id(fields.get("init_frame_id"))
    if init_frame_id in truth_ids:
        fill("canonical_frame_ids", truth_ids[truth_ids.index(init_frame_id):])
    init_bbox = truth.get(str(init_frame_id))
    fill("init_bbox", init_bbox if box(init_bbox) else None)  # a bad one is not even quoted in a message
    fill("seq_id", made_seq_id(fields))
    for name, field in FIELDS.items():
        fill(name, None if field.default is REQUIRED else field.default)
    return fields


def made_seq_id(fields: Mapping[str, Any]) -> Optional[str]:
    parts = [whole(fields.get(name)) for name in ("scene", "camera", "init_frame_id", "object_id")]
    good = all(isinstance(part, (str, int, float)) for part in parts)  # else it may be ground truth
    return "%s__%s__%s__obj%s" % tuple(parts) if good else None


def ground_truth(fields: Mapping[str, Any]) -> Dict[str, Any]:
    """Frame id (as text) -> box, of `gt_bboxes` or the assistant's turn: for what a record leaves out."""
    if isinstance(fields.get("gt_bboxes"), dict):
        return dict(fields["gt_bboxes"])
    turns = fields.get("conversations")
    for turn in turns if isinstance(turns, list) else []:
        if isinstance(turn, dict) and turn.get("role", turn.get("from")) in ("assistant", "gpt"):
            said = turn.get("content", turn.get("value"))
            parsed = parsed_json(said) if isinstance(said, str) else said
            if isinstance(parsed, dict):
                return parsed
    return {}


def wrong_fields(fields: Mapping[str, Any]) -> List[str]:
    """What is wrong with the completed fields of a record."""
    wrongs = []
    for name, field in FIELDS.items():
        value = fields.get(name)
        if value is None and field.default is REQUIRED:
            truth = name == "init_bbox" and not {"gt_bboxes", "conversations"}.isdisjoint(fields)
            wrongs.append("field %s: missing%s; expected %s" % (
                name, ", and the ground truth has no box of the initial frame" * truth, field.expected))
        elif value is not None and field.parse(value) is None:
            flat = name in ("init_bbox", "canonical_frame_ids")  # another list may be ground truth
            got = shown(value) if flat or not isinstance(value, list) else "a list"
            hint = box_hint(edges_of(value)) if name == "init_bbox" else ""
            wrongs.append("field %s: expected %s, got %s%s" % (name, field.expected, got, hint))
    if str(fields.get("seq_id")).lower() in TAKEN_NAMES:
        wrongs.append("field seq_id: the program uses the name %s itself; choose another"
                      % shown(fields["seq_id"]))
    ids, init_frame_id = rising_ids(fields.get("canonical_frame_ids")), frame_id(fields.get("init_frame_id"))
    if ids and init_frame_id is not None and ids[0] != init_frame_id:
        wrongs.append("field canonical_frame_ids: starts at %d, but init_frame_id is %d; the initial box "
                      "belongs to the first frame, so they must be the same" % (ids[0], init_frame_id))
    seq_id = fields.get("seq_id")
    made = seq_id is not None and seq_id == made_seq_id(fields) and file_name(seq_id) is None
    return wrongs[1:] if made and len(wrongs) > 1 else wrongs  # the parts that it is made of are told


def box_hint(edges: Sequence[float]) -> str:
    if not edges or min(edges) < 0:
        return ""
    x1, y1, x2, y2 = edges
    return ("; these look like pixels" if x1 >= 1000 or y1 >= 1000 else
            "; is it x, y, width, height?" if min(x2, y2) > 0 and (x1 >= x2 or y1 >= y2) else "")


def doubts(sequences: Sequence[SotSequence]) -> List[str]:
    """What is allowed but cannot be meant: a sentence for each kind, with the count and the first seq_id."""
    found: Dict[str, List[str]] = collections.defaultdict(list)
    for sequence in sequences:
        x1, y1, x2, y2 = sequence.init_bbox
        unit = ("pixels" if max(x2, y2) > PIXELS_FROM else
                "fractions of 1" if max(x2, y2) <= 1 or min(x2 - x1, y2 - y1) < 0.5 else "")
        if unit:
            found["init_bbox looks like %s; expected thousandths of the image" % unit].append(sequence.seq_id)
        form = SEQ_ID_FORM.fullmatch(sequence.seq_id)
        said = form and (form["scene"], form["camera"], int(form["init_frame_id"]), form["object_id"])
        if said != (sequence.scene, sequence.camera, sequence.init_frame_id, sequence.object_id):
            found["seq_id is not {scene}__{camera}__{init_frame_id}__obj{object_id} as the fields say, but "
                  "the evaluator makes its submission ids from it"].append(sequence.seq_id)
    all_of = len(sequences)
    return ["%s: %d of %d, first %s" % (text, len(ids), all_of, ids[0]) for text, ids in found.items()]


# --- Sequences -> frame ids

def frame_ids_of(sequence: SotSequence, nframes: int, stride: Optional[int] = None) -> Tuple[int, ...]:
    """The frame ids to prepare: canonical ones, else a fixed stride, else a stride that fits the clip."""
    if stride is None and len(sequence.canonical_frame_ids) >= nframes:
        return sequence.canonical_frame_ids[:nframes]
    if stride is None:
        stride = DEFAULT_STRIDE
        if sequence.clip_end_frame is not None and nframes > 1:
            room = (sequence.clip_end_frame - sequence.init_frame_id) // (nframes - 1)
            stride = max(1, min(DEFAULT_STRIDE, room))
    return tuple(sequence.init_frame_id + index * stride for index in range(nframes))


def what_fits(sequence: SotSequence, nframes: int, stride: Optional[int], frame_count: int) -> List[str]:
    """The options with which a sequence that is too long would lie inside a video of `frame_count` frames."""
    inside = bisect.bisect_left(frame_ids_of(sequence, nframes, stride), frame_count)
    most = min(nframes - 1, max(inside, len(sequence.canonical_frame_ids)))  # those may lie closer together
    fits = [n for n in range(most, max(0, most - 1000), -1)
            if frame_ids_of(sequence, n, stride)[-1] < frame_count]
    largest = (frame_count - 1 - sequence.init_frame_id) // (nframes - 1) if nframes > 1 else 0
    return ["--nframes %d" % n for n in fits[:1]] + (["--stride %d" % largest] if largest >= 1 else [])


# --- Scene and camera -> path of the video

def split_of(scene: str) -> str:
    warehouse = re.fullmatch(r"Warehouse_(\d{3})", scene, re.ASCII)
    return "train" if warehouse and int(warehouse.group(1)) <= LAST_TRAIN_WAREHOUSE else "val"


def video_path(sequence: SotSequence, repo_subdir: str) -> str:
    parts = [split_of(sequence.scene), sequence.scene, "videos", sequence.camera + ".mp4"]
    return "/".join(([repo_subdir] if repo_subdir else []) + parts)


def local_video(video_dir: str, path: str, repo_subdir: str) -> Optional[Path]:
    """The video in a folder laid out like the repository, with or without its subdirectory."""
    candidates = [Path(video_dir, path), Path(video_dir, path[len(repo_subdir):].lstrip("/"))]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


T = TypeVar("T")


# --- The hub: what went wrong -> what to do

NO_CONNECTION = "no connection"
LOGIN_HINT = ("get a token with read access at https://huggingface.co/settings/tokens and give it with "
              "--hf-token or in $HF_TOKEN")
REFUSED = "access refused (403 Forbidden): open the dataset's page on huggingface.co, accept its terms, and "
PROXY_HINT = "check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY"
NO_HUB = "what answers is no Hugging Face hub (a login page?); check HF_ENDPOINT, the network and a proxy"
CERTIFICATES = "name its certificates in SSL_CERT_FILE and REQUESTS_CA_BUNDLE"
DISK_HINT = "the disk with the video cache is full; free some space or choose another --hf-cache-dir"
SETTING_ERRNOS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG,
                  errno.ELOOP}  # of a file or folder that only its owner can mend
BUGS = (AttributeError, TypeError, NameError, LookupError)  # ours or the client's; never the network's
CLIENT_VERSIONS = ((0, 24), (3,))  # of huggingface_hub, from the first to before the second
# Signs (a class, an errno, a status and whose it is), what to do, why; the first counts. Never words: an
# address or a gateway's own text may hold any.
HUB_RULES = (
    (("ENOSPC", "EDQUOT"), "stop", DISK_HINT),
    (("SSLCertVerificationError",), "stop",
     "the server's certificate is not trusted; behind a proxy that looks into the traffic, " + CERTIFICATES),
    (("SSLError",), "retry", "the TLS connection failed (%s)"),  # a cut during the handshake, too
    (("FileMetadataError", "RecursionError", "TooManyRedirects", "a web page"), "stop", NO_HUB + " (%s)"),
    (("ProxyError", "InvalidProxyURL"), "stop", "the proxy cannot be used; " + PROXY_HINT),
    (("UnsupportedProtocol", "MissingSchema", "InvalidSchema", "InvalidURL"), "stop",
     "HF_ENDPOINT or a proxy is no address; expected https:// and a host; " + PROXY_HINT),
    (("UnicodeError",), "stop", "the saved token is none; log in again, or check HF_TOKEN_PATH"),
    (("EACCES", "EPERM"), "stop", "a firewall on this machine refuses the connection"),
    (("OfflineModeIsEnabled",), "stop", "offline mode (HF_HUB_OFFLINE) is on and the file is not in the "
     "cache under this --revision; switch it off, or use --video-dir"),
    (("Xet's token",), "retry", "the hub gives no access to Xet"),  # says nothing about the file itself
    (("429",), "retry", "too many requests (429)"),
    (("416", "DamagedOnTheWay"), "again", "the file arrived damaged or with the wrong length"),
    (("408", "425", "5xx"), "retry", "the server answered %s"),
    (("signed 401", "signed 403"), "retry", "the download address has expired (%s)"),
    (("signed",), "retry", "the server answered %s"),
    (("GatedRepoError", "403"), "stop", REFUSED + LOGIN_HINT),
    (("401",), "stop", "access refused (401 Unauthorized): the token is missing, wrong or expired, or the "
     "repository does not exist; check its name and " + LOGIN_HINT),
    (("RevisionNotFoundError",), "stop", "the repository has no such revision (404); check --revision"),
    (("RepositoryNotFoundError", "HFValidationError"), "stop", "no such repository (404); check --repo-id"),
    (("EntryNotFoundError",), "skip",
     "not found in the repository (404); check --repo-subdir and --revision"),
    (("4xx",), "skip", "the server answered %s"),
    (("ECONNREFUSED", "NewConnectionError"), "retry", NO_CONNECTION),
    (("TimeoutError", "Timeout", "TimeoutException", "ETIMEDOUT"), "retry",
     "the server stopped answering (time-out)"),
    (("ECONNRESET",), "retry", "connection reset"),
    (("IncompleteRead", "ReadError", "ProtocolError", "RemoteDisconnected"), "retry", "connection broken"),
    (("LocalEntryNotFoundError", "ConnectionError", "ConnectError"), "retry", NO_CONNECTION),
    (("RuntimeError",), "retry", "the transfer by Xet failed"),
    (("a bare OSError",), "again", "the file arrived with the wrong length"),  # so the client says that
    (("anything",), "retry", "the download failed (%s)"),
)


class DamagedOnTheWay(Exception):
    """A downloaded file does not have the hub's SHA-256."""


def judge(error: BaseException) -> Tuple[str, str, Optional[float]]:
    """What to do about an error of huggingface_hub 0.24 to 2.4, why, and the wait asked for (seconds).

    'stop' the run, 'skip' this video, 'retry', or fetch it 'again' from its start. Neither reads nor quotes
    the text of the error: it holds addresses, even tokens. Its class names are `huggingface_hub.utils`'.
    LocalEntryNotFoundError is an EntryNotFoundError, yet only wraps whatever the first request met, and so
    does the ValueError of force_download=True: their causes decide.
    """
    chain: List[BaseException] = []
    following: Optional[BaseException] = error
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__ or following.__context__
    place = next(filter(None, map(place_at_fault, chain)), None)
    if place:
        return "stop", place, None
    responses = [getattr(link, "response", None) for link in chain]
    response: Any = next((found for found in responses if found is not None), None)
    status = "" if response is None else str(response.status_code)
    signs = signs_of(chain, response)
    action, reason = next((action, reason) for row, action, reason in HUB_RULES if signs & set(row))
    if reason == NO_CONNECTION and behind_a_proxy():
        action, reason = "stop", "no connection to the proxy; " + PROXY_HINT
    reason = reason.replace("%s", status or type(error).__name__)
    return action, reason, server_wait(response.headers) if status == "429" else None


def place_at_fault(error: BaseException) -> Optional[str]:
    """What to say of a file or folder that only its owner can mend."""
    if not isinstance(error, OSError) or not isinstance(error.filename, str):
        return None
    lost = error.errno == errno.ENOENT and not os.path.isdir(os.path.dirname(os.path.abspath(error.filename)))
    remedy = "%s: %s; mend that, or name another place (--hf-cache-dir, HF_HOME, HF_TOKEN_PATH)"
    return remedy % (error.filename, error.strerror) if lost or error.errno in SETTING_ERRNOS else None


def signs_of(chain: Sequence[BaseException], response: Any) -> Set[str]:
    """Names of classes, of errnos, and what the response tells.

    Only the hub's own answer about the file decides on access and existence. What an address answers that the
    hub has signed, or the hub when asked for Xet's token, came after that.
    """
    signs = {"anything"} | {base.__name__ for link in chain for base in type(link).__mro__}
    signs |= {errno.errorcode.get(getattr(link, "errno", None) or 0, "no errno") for link in chain
              if "SSLError" not in {base.__name__ for base in type(link).__mro__}}  # it has its own numbers
    signs |= {"a bare OSError"} if type(chain[0]) is OSError and chain[0].errno is None else set()
    forced = type(chain[0]) is ValueError and chain[0].__cause__ is not None
    if "LocalEntryNotFoundError" in signs or forced:
        signs.discard("EntryNotFoundError")
    if response is not None:
        import urllib.parse  # slow, and seldom needed
        status, address = str(response.status_code), urllib.parse.urlsplit(str(response.url))
        signs |= {status, status[0] + "xx"}
        if "/xet-read-token/" in address.path:
            signs.add("Xet's token")
        elif address.query:
            signs |= {"signed", "signed " + status}
        headers = {name.lower(): value for name, value in response.headers.items()}
        a_page = "text/" in headers.get("content-type", "") and "x-error-message" not in headers
        if status == "511" or a_page and status == "403" and "signed" not in signs:
            signs.add("a web page")
    return signs


def behind_a_proxy() -> bool:
    import urllib.request  # slow, and seldom needed
    hub = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    proxies = {hub.scheme, "all"} & set(urllib.request.getproxies())
    return bool(proxies) and not urllib.request.proxy_bypass(hub.hostname or "")


def server_wait(headers: Mapping[str, str]) -> Optional[float]:
    """Seconds that a 429 asks for: `Retry-After: 7` or `RateLimit: "api";r=0;t=7`."""
    after = re.fullmatch(r"\s*(\d+)\s*", headers.get("Retry-After") or "")
    found = after or re.search(r"\bt=(\d+)", headers.get("RateLimit") or "")
    return min(float(found.group(1)), MAX_SERVER_WAIT_SECONDS) if found else None


def hub_client() -> Any:
    """The hub's client, set up: impatient with Xet, silent but to PROGRESS, without retries; or StopRun."""
    variables = sorted(name for name in os.environ if re.match("HF_|SSL|TQDM_|REQUESTS_|CURL_|(?i:.*_proxy$)",
                                                                  name))
    os.environ["HF_HUB_ENABLE_HF_TRANSFER"] = "0"  # a second way to fetch, without retries
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # two kinds of bar spoil each other's lines
    for name, value in XET_PATIENCE.items():
        os.environ.setdefault(name, value)
    try:
        import huggingface_hub
        check_version(huggingface_hub.__version__)
        import huggingface_hub.constants
        import huggingface_hub.file_download
        import huggingface_hub.utils
        client: Any = huggingface_hub
        constants = client.constants
        if min(constants.HF_HUB_ETAG_TIMEOUT, constants.HF_HUB_DOWNLOAD_TIMEOUT) <= 0:
            raise ValueError("a time-out of 0 s or less")
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # which 0.x reads for each request anew
            if client.__version__ < "1" and not os.path.exists(os.environ.get(name) or os.curdir):
                raise ValueError("%s: no such file" % name)
        client.utils.get_session()  # here, where a variable that it cannot take is told as that
    except StopRun:
        raise
    except (Exception, SystemExit) as error:  # missing, broken, or a variable has a value that it cannot take
        raise StopRun("huggingface_hub cannot be used (%s: %s): pip install -r requirements.txt, or check "
                      "%s, or take the videos from a folder with --video-dir"
                      % (type(error).__name__, error, ", ".join(variables) or "its files")) from None
    tame(client.file_download, client.utils, constants)
    return client


def check_version(version: str) -> None:
    """StopRun for a client of the hub that is not supported."""
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if not CLIENT_VERSIONS[0] <= numbers < CLIENT_VERSIONS[1]:
        raise StopRun("huggingface_hub %s is not supported, 0.24 to 2 are: pip install -r requirements.txt"
                      % version)


def tame(file_download: Any, utils: Any, constants: Any) -> None:
    """Have the client speak by our log, tell PROGRESS its bytes, leave retries to us; Xet where it ends."""
    messages = logging.getLogger("huggingface_hub")
    messages.handlers, messages.propagate = [ClientMessages()], False
    if messages.level >= logging.INFO:  # its 'Still waiting to acquire lock' is no warning
        logging.getLogger("huggingface_hub.utils").setLevel(logging.INFO)
    forced = {"max_retries": 0, "_nb_retries": 0, "_tqdm_bar": PROGRESS}
    for name in {"http_get", "xet_get", "http_backoff", "http_stream_backoff"} & set(vars(file_download)):
        function = getattr(file_download, name)
        if not isinstance(function, functools.partial):
            known = set(inspect.signature(function).parameters) & set(forced)
            options = {key: forced[key] for key in known}
            setattr(file_download, name, functools.partial(with_options, function, options))
    if hasattr(getattr(utils, "_xet", None), "get_xet_session"):
        utils.get_session().timeout = constants.HF_HUB_ETAG_TIMEOUT  # else none, even for Xet's token
    else:
        constants.HF_HUB_DISABLE_XET = True  # such a client notices SIGTERM only when the file is complete


def with_options(function: Callable[..., Any], options: Mapping[str, Any], *args: Any, **given: Any) -> Any:
    return function(*args, **{**given, **options})


def ask_hub(what: str, request: Callable[[bool], T]) -> T:
    """Do a request of the hub's client, with retries: the only function that lets the network be used.

    `request` is called with True when what the cache holds must not be used again.

    :raises StopRun: no access, no such repository or revision, offline, disk full, an impossible setting.
    :raises VideoError: no such file, or still failing after all retries.
    """
    again, retry = False, 0
    while True:
        try:
            client = hub_client()
            return request(again)
        except (NeedsWholeVideo, StopRun, *BUGS):
            raise
        except (Exception, SystemExit) as error:  # of whatever HTTP library this version of the client has
            action, reason, asked = judge(error)
        if action == "stop":
            raise StopRun("%s: %s" % (what, reason))
        if action == "skip":
            raise VideoError("%s: %s" % (what, reason))
        if retry == len(RETRY_WAIT_SECONDS):
            raise HubError("%s: %s (after %d retries)" % (what, reason, retry))
        wait = RETRY_WAIT_SECONDS[retry] if asked is None else asked
        retry += 1
        LOG.info("%s: %s, retry %d/%d in %g s", what.rsplit("/", 1)[-1], reason, retry,
                 len(RETRY_WAIT_SECONDS), wait)
        time.sleep(wait)
        again = again or action == "again"
        client.constants.HF_HUB_DISABLE_XET = True  # plain HTTP is the second way to the same bytes


class HubFile(NamedTuple):
    """A file of a dataset on the hub, and how to get at it."""
    repo_id: str
    path: str
    revision: str
    token: Optional[str]
    cache_dir: Optional[str]

    def download(self, any_will_do: bool = False) -> Path:
        """Its copy in the cache, whole and checked; got if not there or, unless any will do, outdated."""
        return ask_hub(self.path, lambda again: self.checked_copy(again, any_will_do))

    def checked_copy(self, again: bool, any_will_do: bool) -> Path:
        file, told = None if again else self.cached(), None
        if file is None or not (any_will_do or COMMIT_FORM.fullmatch(self.revision)):
            try:
                told = self.metadata()  # asked here, since the client's first question may take six minutes
                PROGRESS.fetching(told.size)
                file = Path(library("huggingface_hub").hf_hub_download(
                    self.repo_id, self.path, repo_type="dataset", revision=self.revision, token=self.token,
                    cache_dir=self.cache_dir, force_download=again))
            except Exception:
                if file is None or told is not None:
                    raise  # else the hub cannot be asked, and the copy at hand serves
        check_download(str(file), told.etag if told else None)
        return file

    def metadata(self) -> Any:
        """What the hub says of it: `size`, `etag` (SHA-256 of a large file), `commit_hash`."""
        hub = library("huggingface_hub")
        timeout = hub.constants.HF_HUB_ETAG_TIMEOUT
        return hub.get_hf_file_metadata(self.url(), token=self.token, timeout=timeout)

    def url(self) -> Any:
        hub = library("huggingface_hub")
        return hub.hf_hub_url(self.repo_id, self.path, repo_type="dataset", revision=self.revision)

    def part(self, start: int, end: int) -> bytes:
        """Its bytes from start to before end. The HTTP library leaves the token out on another host."""
        import http.client  # slow, and the hub's client needs it anyway
        utils = library("huggingface_hub.utils")
        timeout = library("huggingface_hub").constants.HF_HUB_DOWNLOAD_TIMEOUT
        headers = {**utils.build_hf_headers(token=self.token), "Range": "bytes=%d-%d" % (start, end - 1),
                   "Accept-Encoding": "identity"}
        response = utils.get_session().get(self.url(), headers=headers, timeout=timeout)
        utils.hf_raise_for_status(response)
        if response.status_code != 206:
            raise NeedsWholeVideo("the server sends whole files only")
        content: bytes = response.content
        if len(content) != end - start:
            raise http.client.IncompleteRead(content, end - start - len(content))
        return content

    def cached(self) -> Optional[Path]:
        """Its copy in the local cache, if there is one; asks nobody."""
        hub = library("huggingface_hub")
        try:
            found = hub and hub.try_to_load_from_cache(
                self.repo_id, self.path, self.cache_dir, self.revision, "dataset")
        except (ValueError, OSError):  # no repository can have such a name; the cache cannot be read
            return None
        return Path(found) if isinstance(found, str) else None


def check_download(path: str, etag: Optional[str]) -> None:
    """DamagedOnTheWay for a cached file without the hub's SHA-256, if known; it goes with all its names.

    The cache's link for a large file names a blob by its SHA-256 (the blob may be a link in turn, named by a
    Xet hash); a cache without symbolic links, as on most Windows machines, needs what the hub told.
    """
    expected = os.path.basename(os.readlink(path)) if os.path.islink(path) else etag or ""
    if not re.fullmatch("[0-9a-f]{64}", expected):
        return
    digest = hashlib.sha256()
    with open(path, "rb") as video:
        for block in iter(lambda: video.read(1 << 20), b""):
            digest.update(block)
        read = os.fstat(video.fileno())
    if digest.hexdigest() == expected:
        return
    if os.path.samestat(read, os.stat(path)):  # else another run has replaced it meanwhile
        names = [path]
        while os.path.islink(names[-1]):
            names.append(os.path.join(os.path.dirname(names[-1]), os.readlink(names[-1])))
        for name in names:
            remove(name)
    raise DamagedOnTheWay


# --- Streaming: part of a video

def stream_video(ffmpeg: str, hub_file: HubFile, wanted: Sequence[Sequence[int]], local: Path) -> Video:
    """Fetch only the bytes that the wanted frames need, into a sparse file of the video's full length.

    It serves files with one track, whose packets lie in a row in `mdat`. What could not be decoded from the
    bytes at hand is never taken for a frame (see proven_by_time): a wrong assumption costs a download.

    :raises NeedsWholeVideo: when this cannot be done, or would not pay.
    """
    told = ask_hub(hub_file.path, lambda _: hub_file.metadata())
    if not told.size or not told.commit_hash:
        raise NeedsWholeVideo("the hub does not tell its size")
    hub_file = hub_file._replace(revision=told.commit_hash)  # the branch may move on meanwhile
    local.write_bytes(b"")
    os.truncate(local, told.size)
    index, data, data_end = fetch_index(hub_file, local, told.size)
    video = open_video(ffmpeg, local, hub_file.path, told.commit_hash, partial=True)
    offsets = index.find(b"stco"), index.find(b"co64")  # (ISO/IEC 14496-12, 8.7.5): the first entry is at 12
    first = data
    if max(offsets) > 0:
        first = struct.unpack_from(">I" if offsets[0] >= 0 else ">Q", index, max(offsets) + 12)[0]
    places = list(itertools.accumulate([first] + [packet.size for packet in video.packets]))
    if not video.regular or first < data or not 0 <= data_end - places[-1] <= 8:
        raise NeedsWholeVideo("its packets are not the only ones in the file")
    spans = merged((places[a], places[min(b, len(places) - 1)]) for a, b in packet_spans(video, wanted))
    total = sum(end - start for start, end in spans)
    if total > STREAM_SHARE * told.size:
        raise NeedsWholeVideo("the frames need %.0f of its %.0f MB" % (total / 1e6, told.size / 1e6))
    PROGRESS.fetching(total)
    for start, end in spans:
        for at in range(start, end, STREAM_PART_BYTES):
            PROGRESS.update(len(fetch_part(hub_file, local, at, min(end, at + STREAM_PART_BYTES))))
    return video


def fetch_part(hub_file: HubFile, local: Path, start: int, end: int) -> bytes:
    """Get some bytes of a file to their place in its local copy."""
    part = ask_hub(hub_file.path, lambda _: hub_file.part(start, end))
    with open(local, "r+b") as file:
        file.seek(start)
        file.write(part)
    return part


def fetch_index(hub_file: HubFile, local: Path, size: int) -> Tuple[bytes, int, int]:
    """Get the index of an MP4 file, wherever it is: (`moov`, start of the packets' bytes, their end)."""
    boxes: Dict[bytes, Tuple[int, int]] = {}
    at = 0
    while at + 8 <= size:  # the boxes at the top of the file (ISO/IEC 14496-12, 4.2)
        head = fetch_part(hub_file, local, at, min(size, at + 16)).ljust(16, b"\0")
        length, kind, long_length = struct.unpack(">I4sQ", head)
        length, header = {0: (size - at, 8), 1: (long_length, 16)}.get(length, (length, 8))
        if length < 8 or kind in (b"moof", b"sidx"):
            break
        boxes[kind] = (at + header, min(size, at + length))
        at += length
    if at + 8 <= size or not {b"moov", b"mdat"} <= set(boxes):
        raise NeedsWholeVideo("it is no plain MP4 file")
    return (fetch_part(hub_file, local, *boxes[b"moov"]), *boxes[b"mdat"])


def packet_spans(video: Video, wanted: Sequence[Sequence[int]]) -> Iterator[Tuple[int, int]]:
    """What ffmpeg reads for each row of frame ids, as (first, last + 1) in the list of packets."""
    last = len(video.pts) - 1
    order = {packet.pts: at for at, packet in enumerate(video.packets)}
    yield 0, STREAM_SLACK_PACKETS  # it looks at the first packets before it seeks
    for row in wanted:
        for group in seek_groups(row if row[-1] <= last else (last,), video.key_frame_ids):
            latest = video.pts[group[0]] - STREAM_SLACK_SECONDS / video.time_base
            before = [at for at, packet in enumerate(video.packets) if packet.key and packet.dts <= latest]
            yield (before[-1] if before else 0), order[video.pts[group[-1]]] + STREAM_SLACK_PACKETS


def merged(spans: Iterable[Tuple[int, int]]) -> List[Tuple[int, int]]:
    """Ranges of bytes in order, those that nearly touch as one."""
    ranges: List[Tuple[int, int]] = []
    for start, end in sorted(spans):
        if ranges and start <= ranges[-1][1] + STREAM_GAP_BYTES:
            start, before = ranges.pop()
            end = max(end, before)
        ranges.append((start, end))
    return ranges


# --- Video -> frames

class Packet(NamedTuple):
    """A compressed frame in the file. Times are in units of the stream's time base."""
    dts: int
    pts: int
    size: int  # bytes
    key: bool


class DecodedFrame(NamedTuple):
    """One frame as it came out of the decoder, whether it was wanted or not."""
    n: int  # its number since the start or since the last change of the pictures' format, from 0
    pts: int
    key: bool


@dataclass(frozen=True)
class Video:
    """The first video stream of a file but a cover picture; frame k of a full decode has the time pts[k]."""
    ffmpeg: str  # the program that reads it
    name: str  # its path in the repository, for messages
    file: Path
    revision: Optional[str]
    size: str  # of its pictures by its index, like 1920x1080; the decoder knows better
    time_base: Fraction
    packets: Tuple[Packet, ...]  # in file order
    pts: Tuple[int, ...]  # of the packets that are shown, rising
    key_frame_ids: Tuple[int, ...]
    regular: bool  # may be entered in the middle, and frames can be told apart by time
    passthrough: Tuple[str, ...]  # this ffmpeg's way to say: neither repeat nor drop frames
    fps: Optional[float]
    partial: bool = False  # the file holds only the bytes that the wanted frames need


def ffmpeg_places() -> Iterator[str]:
    """This machine's ffmpeg programs: on PATH, in the usual folders, beside Python, in imageio-ffmpeg."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    folders += ["/usr/bin", "/usr/local/bin", "/opt/homebrew/bin", "/opt/local/bin"]
    program = "ffmpeg.exe" if os.name == "nt" else "ffmpeg"
    for place in dict.fromkeys(os.path.abspath(os.path.join(folder, program))
                               for folder in [*filter(None, folders), os.path.dirname(sys.executable)]):
        if os.path.isfile(place) and os.access(place, os.X_OK):
            yield place
    with suppress(Exception):  # it raises RuntimeError where it has no program for this machine
        yield os.path.abspath(library("imageio_ffmpeg").get_ffmpeg_exe())


def find_ffmpeg() -> str:
    """Return the first ffmpeg that can do the work, else StopRun with the reason against each."""
    refused = []
    for program in ffmpeg_places():
        reason = reason_against_ffmpeg(program)
        if reason is None:
            return program
        refused.append("ffmpeg cannot work: %s: %s; pip install imageio-ffmpeg for one that can"
                       % (program, reason))
    raise StopRun(*refused or ["ffmpeg not found. Install it with: pip install imageio-ffmpeg (or: "
                  "apt install ffmpeg, brew install ffmpeg, winget install ffmpeg)"])


def reason_against_ffmpeg(program: str) -> Optional[str]:
    """Return why this ffmpeg cannot do the work, or None if it can.

    A row of `ffmpeg -codecs` is ` DEV.LS h264   NAME (decoders: h264 h264_qsv) (encoders: ...)`: D if there
    is a decoder, E for an encoder. Names are left out where the codec's own is the only one. Of the decoders
    only `h264` counts: libopenh264 shows B-frames wrong without a word, the others need their hardware.
    """
    try:
        code, listing, log = run_ffmpeg(program, "-codecs", patience=TRIAL_SECONDS)
    except (StopRun, SequenceError) as error:
        return str(error)
    if code:
        return "; ".join(log[-3:]) or "exit code %d" % code
    # A build of git has no such number, and counts as new.
    version = re.search(r"^ffmpeg version n?((\d+)\.\S+)", "\n".join(log), re.M)
    if version and int(version.group(2)) < OLDEST_FFMPEG:
        return "version %s is too old, %d.0 or later is needed" % (version.group(1), OLDEST_FFMPEG)
    rows = re.findall(r"^ (\S+ +(h264|png) .*)$", listing.decode("utf-8", "replace"), re.M)
    codecs = {name: row for row, name in rows}
    h264 = re.match(r"D.*?(?:\(decoders: ([^)]*)\)|$)", codecs.get("h264", ""))
    if not h264 or "h264" not in (h264.group(1) or "h264").split():
        return "it has no H.264 decoder of its own"
    return None if codecs.get("png", "")[1:2] == "E" else "it has no PNG encoder"


def run_ffmpeg(program: str, *arguments: str, cwd: Optional[Path] = None, patience: Optional[float] = None,
               meanwhile: Callable[[], Any] = lambda: None) -> Tuple[int, bytes, List[str]]:
    """Run it, the only way that a child starts: (exit code, standard output, lines of its log).

    :raises SequenceError: when it does not end.
    :raises StopRun: when it cannot be started.
    """
    patience = patience or HANGING_SECONDS
    environment = {name: value for name, value in os.environ.items() if not NOT_FOR_FFMPEG.match(name)}
    environment["AV_LOG_FORCE_NOCOLOR"] = "1"
    try:
        with subprocess.Popen([program, "-nostdin", "-nostats", *arguments], env=environment, cwd=cwd,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as child:
            with suppress(ImportError, OSError):  # on Linux, so that a listing waits for nobody
                import fcntl
                fcntl.fcntl(child.stdout or 1, F_SETPIPE_SZ, PIPE_BYTES)
            try:
                meanwhile()
                output, log = communicate(child, patience)
            except BaseException:
                child.kill()
                raise
    except subprocess.TimeoutExpired:
        raise SequenceError("ffmpeg did not end within %g s and was ended; is the disk stuck?"
                            % patience) from None
    except OSError as error:
        raise StopRun("%s cannot be started: %s" % (program, error.strerror)) from None
    return child.returncode, output, log.decode("utf-8", "replace").splitlines()


def communicate(child: "subprocess.Popen[bytes]", patience: float) -> Tuple[bytes, bytes]:
    """What a child writes until it ends; the bar's clock goes on meanwhile."""
    end = time.monotonic() + patience
    while True:
        try:
            return child.communicate(timeout=min(BAR_SECONDS, patience))
        except subprocess.TimeoutExpired:
            if time.monotonic() > end:
                raise
            PROGRESS.tick()


def input_arguments(file: Path) -> List[str]:
    """How ffmpeg is given a video: as that file, never as a protocol, playlist or option."""
    return ["-f", "mp4", "-protocol_whitelist", "file", "-i", "file:" + os.path.abspath(file)]


def open_video(ffmpeg: str, file: Path, name: str, revision: Optional[str], partial: bool = False) -> Video:
    """List a video's packets, without decoding, in the file's own time.

    A line reads `stream, dts, pts, duration, size, crc[, F=0xNN]`: no F means a key frame, 0x1 in it too, 0x2
    a damaged packet, 0x4 one that an edit list hides (libavformat/framecrcenc.c, libavcodec/packet.h).

    :raises VideoError: when ffmpeg finds no video in it, or finds it cut short.
    """
    no_parser = ["-fflags", "+noparse+nofillin"] if partial else []  # it looks at bytes that are not there
    code, output, log = run_ffmpeg(
        ffmpeg, "-loglevel", "repeat+level+info", "-copyts", *no_parser, *input_arguments(file),
        "-map", "0:V:0", "-c", "copy", "-copyinkf", "-f", "framecrc", "-", meanwhile=can_draw)
    stop_if_killed(code)
    listing = output.decode("ascii", "replace")
    rows = re.findall(r"^0, *(-?\w+), *(-?\w+), *-?\w+, *(\d+), *0x\w+(?:, *F=0x(\w+))?", listing, re.M)
    timed = [(Packet(int(dts), int(pts), int(size), int(flags or "1", 16) & 1 > 0), int(flags or "1", 16))
             for dts, pts, size, flags in rows if "NOPTS" not in dts + pts]
    visible = sorted((packet.pts, packet.key) for packet, flags in timed if not flags & 4)
    header = dict(re.findall(r"^#(\w+)(?: 0)?: (\S+)$", listing, re.M))
    check_listing(file, name, log, bool(visible and code == 0 and {"tb", "software"} <= set(header)))
    packets, pts = tuple(packet for packet, _ in timed), tuple(time for time, _ in visible)
    stream = [""] + [line for line in log if re.match(r"\[info\] +Stream #0:0\S*: Video: ", line)]
    fps = re.search(r"Video: .*?, ([\d.]+)(k?) fps", stream[-1])
    rate = float(fps.group(1)) * (1000 if fps.group(2) else 1) if fps else None
    # -fps_mode came with ffmpeg 5.1 (libavformat 59.27), and -vsync, its name before, went with 9.
    newer = tuple(map(int, re.findall(r"\d+", header["software"])[:2])) >= (59, 27)
    smallest = NO_PICTURE_BYTES if re.search(r"Video: (h264|hevc)\b", stream[-1]) else 0
    regular = (not re.search(FIRST_PACKET_COUNTS, stream[-1]) and len(timed) == len(rows) and packets[0].key
               and not any(flags & 2 or packet.size < smallest for packet, flags in timed)
               and pts[0] >= packets[0].pts and len(set(pts)) == len(pts))
    return Video(ffmpeg, name, file, revision, header.get("dimensions", ""), Fraction(header["tb"]), packets,
                 pts, tuple(k for k, (_, key) in enumerate(visible) if key), regular,
                 ("-fps_mode", "passthrough") if newer else ("-vsync", "0"), rate, partial)


def check_listing(file: Path, name: str, log: Sequence[str], listed: bool) -> None:
    words = quoted(ffmpeg_words(log, file, name))
    at_fault = re.search("Permission denied|not permitted|No such file|nknown input format|output format",
                         words)
    if not listed and at_fault and os.access(file, os.R_OK):
        raise StopRun("ffmpeg cannot read %s: %s; use another ffmpeg or another folder" % (file, words))
    if not listed and (what_else(file) or "moov atom not found" not in words):
        reason = what_else(file) or ("Stream map" not in words and words) or "it holds no pictures"
        raise VideoError("%s cannot be decoded: %s; get the right one" % (name, reason))
    if not listed or any(re.search(r"offset 0x[0-9a-f]+: partial file$", line) for line in log):
        raise VideoError("%s is cut short (%s); get it again" % (name, words))


# The proof by time has its limit where a decoder behaves by what it saw before the key frame. H.264 in 4:4:4
# is decoded as the build of x264 that its SEI message names did it (libavcodec/h264_cabac.c, h264_sei.c);
# MPEG-4 part 2 by its encoder's user data, down to the inverse transform (libavcodec/mpeg4videodec.c). Not
# noticed: H.264 by x264 before build 34 (2005) with a pyramid of B-frames, for the same reason; a file whose
# parameter sets change in the middle, unless they are repeated at its key frames as they have to be.
FIRST_PACKET_COUNTS = r"Video: (h264 \([^)]*4:4:4|mpeg4\b)"
OTHER_KINDS = ((b"\x1aE\xdf\xa3", "a WebM or Matroska file"), (b"RIFF", "an AVI file"), (b"<", "a web page"),
               (b"version https://git-lfs", "a Git LFS pointer, not the file (git lfs pull gets it)"))


MP4_BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide")


def what_else(file: Path) -> str:
    """What a file is that is no MP4, and what to do; nothing where its beginning does not tell."""
    with open(file, "rb") as opened:
        head = opened.read(189)
    text = head[3 * head.startswith(codecs.BOM_UTF8):].lstrip()
    kinds = [kind for sign, kind in OTHER_KINDS if text.startswith(sign)]
    kinds += ["an MPEG transport stream"] * (head[:1] == b"G" == head[188:189])
    kinds += ["an empty file"] * (not head) + ["something else"] * (head[4:8] not in MP4_BOXES)
    return "it is no MP4 but " + kinds[0] if kinds else ""


ERROR_FORM = r"\[(error|fatal|panic)\]"
SIZE_CHANGES = "%s changes its picture size; such videos are not supported"
DECODED_LINE = re.compile(r"(?:\[Eval @ \w+\] )?\[error\] (-?\d+)\.\d+")
SIZE_LINE = re.compile(r"\[graph .*\] \[\w+\] (?:.*incoming frame - )?w: ?(\d+) h: ?(\d+)")
# What ffmpeg says of a picture that is not what was filmed, in 4.2 to 9. Its other errors (SEI messages,
# mmco) are about what stands beside the picture, as long as each packet gives its frame.
DAMAGE = re.compile(
    "no whole pictures|corrupt(?! input)|conceal|damaged|error while decoding|[Ii]nvalid|missing|"
    "[Ee]rror (at MB|splitting|submitting)|[Cc]ould not find ref|out(side)? .*range|marker|overread|illegal|"
    "no frame|partial file|not reached|undecodable")
DAMAGE_NOT_AS_ERROR = r"|corrupt decoded|concealing \d+ DC|undecodable NALU"


def ffmpeg_words(log: Iterable[str], file: Path, name: str, form: str = ERROR_FORM) -> List[str]:
    """All that ffmpeg calls errors in its log, once each, with the video under its own name."""
    errors = [line for line in log if re.search(form, line) and not DECODED_LINE.fullmatch(line)]
    given = "file:" + os.path.abspath(file)
    texts = [re.sub(r"^(\[[^\]]*\] )+", "", line).replace(given, name) for line in errors]
    return list(dict.fromkeys(texts))


def quoted(words: Sequence[str]) -> str:
    return "; ".join(words[:3])


def seek_groups(frame_ids: Sequence[int], key_frame_ids: Sequence[int]) -> List[List[int]]:
    """Split rising ids into runs, one call of ffmpeg each: decode on while that is cheaper than to seek."""
    groups = [[frame_ids[0]]]
    for previous, wanted in zip(frame_ids, frame_ids[1:]):
        cost_of_seek = wanted - last_at(key_frame_ids, wanted) + SEEK_COST_FRAMES
        if wanted - previous <= cost_of_seek and len(groups[-1]) < MAX_FRAMES_PER_CALL:
            groups[-1].append(wanted)
        else:
            groups.append([wanted])
    return groups


def last_at(rising: Sequence[int], limit: int) -> int:
    """The last of the rising numbers that is not above the limit, 0 when there is none."""
    at = bisect.bisect_right(rising, limit)
    return rising[at - 1] if at else 0


tell_once = functools.lru_cache(maxsize=None)(LOG.warning)


def extract_frames(video: Video, frame_ids: Sequence[int], stage: Path) -> None:
    """Write frames/f00.png, f01.png, ..., each proven to be the frame that a full decode has under its id.

    :raises SequenceError: when the video cannot be decoded, or has fewer frames.
    :raises NeedsWholeVideo: when part of the video is not enough to be sure.
    """
    start = 0
    told: Set[str] = set()
    for group in seek_groups(frame_ids, video.key_frame_ids) if video.regular else ():
        entry = seek_arguments(video, group[0])
        frames, sizes, words = decode(video, group, start, stage, entry)
        if (not all("SEI" in text for text in words) or sizes != {video.size}
                or not proven_by_time(frames, video.pts, group, not entry)):
            break  # this stream cannot be entered in the middle, or its index does not tell the truth
        told.update(words)
        start += len(group)
    if start < len(frame_ids) and video.partial:
        raise NeedsWholeVideo("frame %d cannot be proven from a part of it" % frame_ids[start])
    for at in range(start, len(frame_ids), MAX_FRAMES_PER_CALL):
        group = list(frame_ids[at:at + MAX_FRAMES_PER_CALL])
        frames, sizes, words = decode(video, group, at, stage)
        if len(sizes) > 1:
            raise SequenceError(SIZE_CHANGES % video.name)
        damage = [text for text in words if DAMAGE.search(text)]
        if damage:
            raise SequenceError("%s cannot be decoded without errors: %s; get it again"
                                % (video.name, quoted(damage)))
        if len(frames) <= group[-1]:
            raise SequenceError("%s shows only %d frames, fewer than its index says; get it again"
                                % (video.name, len(frames)))
        told.update(words)
    if told:
        tell_once("%s: ffmpeg says: %s", video.name, quoted(sorted(told)))


def seek_arguments(video: Video, first: int) -> List[str]:
    """Where to enter a video to decode a frame: at a key frame before it; no arguments for the beginning.

    MP4 is sought by dts. Half-way to the next frame is too late for the frames that a key frame with a
    smaller dts overtakes, so stay before that.
    """
    if last_at(video.key_frame_ids, first) == 0:
        return []
    pts = video.pts[first]
    neighbour = video.pts[first + 1] if first + 1 < len(video.pts) else pts + 1
    later_keys = [packet.dts for packet in video.packets if packet.key and packet.pts > pts]
    time = min([Fraction(pts + neighbour, 2)] + [dts - Fraction(1) for dts in later_keys])
    return ["-noaccurate_seek", "-seek_timestamp", "1", "-ss", "%.6f" % (time * video.time_base)]


def any_of(terms: List[str]) -> str:
    while len(terms) > 1:  # ffmpeg takes a sum of 100 terms at most, but sums of sums
        terms = ["(%s)" % "+".join(terms[at:at + 20]) for at in range(0, len(terms), 20)]
    return terms[0]


def decode(video: Video, frame_ids: Sequence[int], start: int, stage: Path,
           entry: Optional[Sequence[str]] = None) -> Tuple[List[DecodedFrame], Set[str], List[str]]:
    """Have ffmpeg write frames, from number `start` on: (all decoded up to the last of them, sizes, errors).

    With an `entry` (see seek_arguments), a frame is wanted by its exact time in the file (-copyts keeps
    that); without, by its place in a decode from the start. `print` has a log level for a second
    argument and says for each frame its number, time and whether the decoder took it for a key frame
    (ffmpeg-utils, Expression Evaluation). Without -reinit_filter 0 both would start anew where colours or
    sizes change. Level 1 with the `up` filter: half the time and three quarters of
    the size of ffmpeg's default PNG.
    """
    by_time = entry is not None
    wanted = any_of(["eq(pts,%d)" % video.pts[k] if by_time else "eq(n,%d)" % k for k in frame_ids])
    code, _, log = run_ffmpeg(
        video.ffmpeg, "-loglevel", "repeat+level+verbose", "-copyts", "-reinit_filter", "0", *(entry or ()),
        *input_arguments(video.file), "-map", "0:V:0", "-vf",
        "select='print(n,16)*0+print(pts,16)*0+print(key,16)*0+" + wanted + "',settb=1,setpts=N",
        *video.passthrough, "-frames:v", str(len(frame_ids)), "-c:v", "png", "-compression_level", "1",
        "-pred", "up", "-pix_fmt", "rgb24", "-start_number", str(start), "-y", "f%02d.png",
        cwd=stage / "frames")
    printed = [(at, found) for at, found in enumerate(map(DECODED_LINE.fullmatch, log)) if found]
    values = [int(found.group(1)) for _, found in printed]
    frames = [DecodedFrame(n, pts, key > 0) for n, pts, key in zip(values[::3], values[1::3], values[2::3])]
    last = video.pts[frame_ids[-1]] if by_time else frame_ids[-1]
    reached = [(frame.pts if by_time else frame.n) == last for frame in frames]
    frames = frames[:(reached + [True]).index(True) + 1]
    # A stream that was cut in the middle starts with pictures that nobody can decode: ffmpeg drops them, with
    # an error, before it shows the first frame. Anywhere else an error may mean damage.
    first_line = printed[0][0] if frames and not video.regular else 0
    log_to_last = log[:printed[3 * len(frames) - 1][0]] if frames else log
    words = ffmpeg_words(log_to_last[first_line:], video.file, video.name, ERROR_FORM + DAMAGE_NOT_AS_ERROR)
    if by_time and any(re.search(FIRST_PACKET_COUNTS, line) for line in log):
        words.append("it needs its first packet")  # a listing of part of the video does not show that
    if by_time or code or True in reached:
        paths = frame_paths(stage, start + len(frame_ids))[start:]
        words = why_not_whole(paths, code, ffmpeg_words(log, video.file, video.name)) or words
    sizes = {"x".join(found.groups()) for found in map(SIZE_LINE.search, log_to_last) if found}
    return frames, sizes, words


def why_not_whole(paths: Sequence[Path], code: int, words: Sequence[str]) -> List[str]:
    """What ffmpeg says of pictures that it did not write; StopRun or OSError if the video is not at fault."""
    if all(map(png_size, paths)):
        return []
    told = quoted(words) or "exit code %d" % code
    with open(paths[0].with_name("probe"), "wb") as probe:  # the system's own word, which ffmpeg may not give
        probe.write(os.urandom(PROBE_BYTES))
        probe.flush()
        os.fsync(probe.fileno())
    os.remove(probe.name)
    stop_if_killed(code)
    if re.search(r"Decoder \(codec (?!none)\w+\) not found", "; ".join(words)):
        raise StopRun("ffmpeg cannot work: %s; pip install imageio-ffmpeg for a complete one" % told)
    return ["ffmpeg wrote no whole pictures (%s)" % told]


def stop_if_killed(code: int) -> None:
    if code < 0:
        raise StopRun("ffmpeg was killed by signal %d (%s); is there enough memory, or some limit? The same "
                      "command goes on from here" % (-code, signal.strsignal(-code)))


def proven_by_time(decoded: Sequence[DecodedFrame], pts: Sequence[int], frame_ids: Sequence[int],
                   from_start: bool) -> bool:
    """Whether a decode that started somewhere shows the wanted frames for certain.

    It does when the decoder met a frame that it calls a key frame, not behind the first wanted one (or began
    where the file begins), and every packet from there to the last wanted one gave one frame, in turn. Then
    no frame was lost, doubled, or made from a picture that the decoder never saw: frame k is the k-th of the
    file.
    """
    places = {time: k for k, time in enumerate(pts[:frame_ids[-1] + 1])}
    run = [(places.get(frame.pts, -1), frame.key) for frame in decoded]
    starts = [at for at, (place, key) in enumerate(run)
              if 0 <= place <= frame_ids[0] and (key or from_start and at == place == 0)]
    if not starts:
        return False
    start = run[starts[-1]][0]
    expected = list(range(start, frame_ids[-1] + 1))
    return [place for place, _ in run[starts[-1]:starts[-1] + len(expected)]] == expected


# --- Frames -> overlay and crop

def to_pixels(bbox: Box, width: int, height: int) -> Tuple[float, float, float, float]:
    x1, y1, x2, y2 = bbox
    return x1 / 1000 * width, y1 / 1000 * height, x2 / 1000 * width, y2 / 1000 * height


def overlay_corners(bbox: Box, width: int, height: int) -> Tuple[int, int, int, int]:
    """The rectangle to draw, in pixels, as the evaluator's own fallback computes it."""
    x1, y1, x2, y2 = (int(edge) for edge in to_pixels(bbox, width, height))
    return x1, y1, x2, y2


def label_origin(corners: Tuple[int, int, int, int]) -> Tuple[int, int]:
    """Where the word's lower left corner goes: above the box, but inside the image."""
    return corners[0], max(corners[1] - 6, 12)


def crop_edges(bbox: Box, width: int, height: int) -> Tuple[int, int, int, int]:
    """The target with a margin, cut to the image: left, top, right, bottom in pixels, at least one pixel."""
    x1, y1, x2, y2 = to_pixels(bbox, width, height)
    margin_x, margin_y = CROP_MARGIN * (x2 - x1), CROP_MARGIN * (y2 - y1)
    left, top = min(max(0, int(x1 - margin_x)), width - 1), min(max(0, int(y1 - margin_y)), height - 1)
    right, bottom = min(width, int(x2 + margin_x)), min(height, int(y2 + margin_y))
    return left, top, max(right, left + 1), max(bottom, top + 1)


def draw(png: bytes, bbox: Box) -> Tuple[bytes, Optional[bytes]]:
    """(f00_ann.png, crop.png) for f00.png; without a drawing library a plain copy, and no crop."""
    drawer = next(filter(can_draw, (draw_with_opencv, draw_with_pillow)), None)
    return drawer(png, bbox) if drawer else (png, None)


def can_draw(drawer: Callable[[bytes, Box], Any] = draw) -> bool:
    """Whether a library is there and works."""
    return drawing_trouble(drawer) is None


@functools.lru_cache(maxsize=None)
def drawing_trouble(drawer: Callable[[bytes, Box], Any]) -> Optional[str]:
    """Return why it cannot draw, shown by drawing, since an import alone says little; None if it can."""
    try:
        return None if drawer(ONE_PIXEL, (0, 0, 1000, 1000))[1] else "it makes no crop"
    except (Exception, SystemExit) as error:
        return "%s: %s" % (type(error).__name__, str(error).partition("\n")[0])


def warn_without_opencv(crop: Optional[bytes]) -> None:
    """Say once that OpenCV does not draw, and why if it is installed: its label is the evaluator's."""
    trouble = drawing_trouble(draw_with_opencv)
    if trouble is None:
        return
    cause = IMPORT_ERRORS.get("cv2")
    absent = isinstance(cause, ModuleNotFoundError) and cause.name == "cv2"
    opencv = "OpenCV is not installed" if absent else "OpenCV cannot be used (%s)" % trouble
    if crop:
        tell_once("%s, so Pillow draws the label, in another font than the evaluator's; pip install "
                  "opencv-python-headless, delete each f00_ann.png and run again", opencv)
    else:
        tell_once("%s, nor does Pillow work, so f00_ann.png is a plain copy and crop.png is left out; after "
                  "pip install opencv-python-headless the same command adds them", opencv)


def draw_with_opencv(png: bytes, bbox: Box) -> Tuple[bytes, Optional[bytes]]:
    cv2, numpy = library("cv2"), library("numpy")
    if cv2 is None:
        raise IMPORT_ERRORS["cv2"]
    image = cv2.imdecode(numpy.frombuffer(png, numpy.uint8), cv2.IMREAD_COLOR)
    height, width = image.shape[:2]
    left, top, right, bottom = crop_edges(bbox, width, height)
    crop = image[top:bottom, left:right].copy()
    corners = overlay_corners(bbox, width, height)
    cv2.rectangle(image, corners[:2], corners[2:], GREEN, 2)
    cv2.putText(image, LABEL_TEXT, label_origin(corners), cv2.FONT_HERSHEY_SIMPLEX, 0.55, GREEN, 2)
    encoding = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT]
    if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # as for the frames: half the time, and smaller
        encoding += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]
    annotated, cut_out = (cv2.imencode(".png", picture, encoding)[1].tobytes() for picture in (image, crop))
    return annotated, cut_out


def draw_with_pillow(png: bytes, bbox: Box) -> Tuple[bytes, Optional[bytes]]:
    from PIL import Image, ImageDraw
    image = Image.open(io.BytesIO(png)).convert("RGB")
    crop = image.crop(crop_edges(bbox, *image.size))
    x1, y1, x2, y2 = corners = overlay_corners(bbox, *image.size)
    pen = ImageDraw.Draw(image)
    # OpenCV draws a line of thickness 2 three pixels wide, and rounds the corners off by one pixel.
    for y in (y1, y2):
        pen.rectangle((x1, y - 1, x2, y + 1), fill=GREEN)
    for x in (x1, x2):
        pen.rectangle((x - 1, y1, x + 1, y2), fill=GREEN)
    font, (x, y) = pillow_font(14), label_origin(corners)
    pen.text((x, y - pen.textbbox((0, 0), LABEL_TEXT, font=font)[3]), LABEL_TEXT, fill=GREEN, font=font)
    return pillow_bytes(image, "PNG", compress_level=1), pillow_bytes(crop, "PNG", compress_level=1)


def pillow_font(size: int) -> Any:
    from PIL import ImageFont
    try:
        return ImageFont.load_default(size)
    except TypeError:  # before Pillow 10.1 there is one size only
        return ImageFont.load_default()


def pillow_bytes(image: Any, kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# --- Metadata and manifest

@dataclass(frozen=True)
class Target:
    """What this run wants of a sequence, where it goes, and where its video comes from."""
    sequence: SotSequence
    frame_ids: Tuple[int, ...]
    directory: Path
    repo_id: str
    path: str  # of the video in the repository
    revision: Optional[str]  # a commit that the user asked for, None when any will do
    stride: Optional[int] = None  # as asked for, None for auto
    gt_stub: bool = False
    contact_sheet: bool = False

    def wants_first_of(self, frame_ids: Any) -> bool:
        """Whether the wanted frames are the first of those that a sequence was prepared with."""
        return (rising_ids(frame_ids) or ())[:len(self.frame_ids)] == self.frame_ids


def sequence_meta(target: Target, frame_ids: Sequence[int], revision: Optional[str],
                  clip_fps: Optional[float], image_size: Optional[Sequence[int]]) -> Dict[str, Any]:
    """The contents of sequence_meta.json. `image_size` is [width, height] in pixels."""
    seq, distances = target.sequence, {b - a for a, b in zip(frame_ids, frame_ids[1:])}
    common_stride = distances.pop() if len(distances) == 1 else None
    return {
        "seq_id": seq.seq_id,
        "label": "%s/%s/%d/obj%s" % (seq.scene, seq.camera, seq.init_frame_id, seq.object_id),
        "scene": seq.scene, "camera": seq.camera, "object_id": seq.object_id, "object_type": seq.object_type,
        "init_frame_id": seq.init_frame_id, "init_bbox": list(seq.init_bbox),
        "frame_ids": list(frame_ids), "nframes": len(frame_ids),
        "stride": common_stride if target.stride is None else target.stride,
        "clip_fps": clip_fps if seq.clip_fps is None else seq.clip_fps,
        "gt_available": False, "image_size": image_size,
        "source": {"repo_id": target.repo_id, "path": target.path, "revision": revision},
    }


def gt_requests(targets: Sequence[Target], ready: Mapping[str, Optional[float]], benchmark: str, repo_id: str,
                repo_subdir: str, nframes: int, stride: Optional[int]) -> Dict[str, Any]:
    """The contents of gt_requests.json, in benchmark order. `ready` has the clip_fps of each ready seq_id."""
    keys = ("seq_id", "scene", "camera", "object_id", "object_type", "init_frame_id", "frame_ids", "nframes",
            "stride", "clip_fps")
    requested = [target for target in targets if target.sequence.seq_id in ready]
    metas = [sequence_meta(target, target.frame_ids, None, ready[target.sequence.seq_id], None)
             for target in requested]
    custom = any(set(target.frame_ids) - set(target.sequence.canonical_frame_ids) for target in requested)
    return {
        "format_version": 1, "benchmark": benchmark, "repo_id": repo_id, "repo_subdir": repo_subdir,
        "nframes": nframes, "stride": stride, "submission_required": custom,
        "missing": [target.sequence.seq_id for target in targets if target.sequence.seq_id not in ready],
        "requests": [{key: meta[key] for key in keys} for meta in metas],
    }


GT_FACTS = ("label", "scene", "camera", "object_id", "object_type")


def gt_stub(meta: Mapping[str, Any], nframes: int) -> Dict[str, Any]:
    """The contents of gt.json, by which the evaluator's loader finds a sequence: no ground truth.

    Its frame ids count the prepared images, so the only box, the initial one, has the key "0".
    """
    return {**{key: meta[key] for key in GT_FACTS}, "frame_ids": list(range(nframes)),
            "source_frame_ids": list(meta["frame_ids"][:nframes]),
            "init_bbox": meta["init_bbox"], "gt_bboxes": {"0": meta["init_bbox"]}}


def is_gt_stub(found: Mapping[str, Any]) -> bool:
    """Whether gt_stub made this; anything else in a gt.json is ground truth that somebody put there."""
    return (set(found) == {*GT_FACTS, "frame_ids", "source_frame_ids", "init_bbox", "gt_bboxes"}
            and found["gt_bboxes"] == {"0": found["init_bbox"]})


def contact_sheet(images: Sequence[Tuple[str, Path]]) -> bytes:
    """One JPEG of captioned pictures in reading order, at most 2,000 pixels wide."""
    from PIL import Image, ImageDraw
    gap, caption, columns = 8, 24, 4
    cell = (2000 - gap) // columns - gap
    pictures = []
    for text, path in images:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        picture.thumbnail((cell, cell))
        pictures.append((text, picture))
    row_height = max(picture.height for _, picture in pictures) + caption + gap
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (cell + gap) + gap, rows * row_height + gap), "white")
    pen, font = ImageDraw.Draw(sheet), pillow_font(16)
    for index, (text, picture) in enumerate(pictures):
        x, y = gap + index % columns * (cell + gap), gap + index // columns * row_height
        pen.text((x, y), text, fill="black", font=font)
        sheet.paste(picture, (x, y + caption))
    return pillow_bytes(sheet, "JPEG", quality=88)


# --- Ready or not

def frame_names(count: int) -> List[str]:
    return ["f%02d.png" % index for index in range(count)]


def frame_paths(directory: Path, count: int) -> List[Path]:
    return [directory / "frames" / name for name in frame_names(count)]


def png_size(path: Union[str, Path]) -> Optional[List[int]]:
    """[width, height] of a PNG file that is there and whole, else None."""
    try:
        if not os.path.isfile(path):  # opening a named pipe would wait for ever
            return None
        with open(path, "rb", buffering=0) as file:
            head = file.read(24)
            file.seek(-len(PNG_END), os.SEEK_END)
            is_whole = head[:8] == PNG_SIGNATURE and file.read() == PNG_END
    except OSError:
        return None
    return [int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")] if is_whole else None


def jpeg_is_whole(path: Path) -> bool:
    data = path.read_bytes() if path.is_file() else b""
    return data[:2] == b"\xff\xd8" and data[-2:] == b"\xff\xd9"


def read_object(path: Path) -> Dict[str, Any]:
    """The JSON object in a file; an empty one when it is missing or anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def kept_frames(target: Target) -> Optional[Dict[str, Any]]:
    """The metadata of the frames on disk if they are whole and begin with the wanted ones, else None."""
    meta = read_object(target.directory / META_NAME)
    source, size = meta.get("source"), meta.get("image_size")
    if not target.wants_first_of(meta.get("frame_ids")) or not isinstance(source, dict) or not size:
        return None
    same_source = ((source.get("repo_id"), source.get("path")) == (target.repo_id, target.path)
                   and target.revision in (None, source.get("revision")))
    frames = frame_paths(target.directory, len(target.frame_ids))
    return meta if same_source and all(png_size(frame) == size for frame in frames) else None


def planted_link(directory: Path) -> Optional[str]:
    """Nothing is written through a symbolic link in a sequence's place; the output folder may be one."""
    links = [folder for folder in (directory, directory / "frames") if folder.is_symlink()]
    return "%s is a symbolic link; remove it" % links[0] if links else None


def why_not_ready(target: Target) -> Optional[str]:
    """Why a sequence is not what this run would write, None when it is: the one judge, before and after.

    More frames of the same series are as good: the evaluator reads the first ones.
    """
    directory = target.directory
    link, meta = planted_link(directory), read_object(directory / META_NAME)
    frame_ids: Any = meta.get("frame_ids")
    source, image_size = meta.get("source"), meta.get("image_size")
    if link or not (directory / "frames").is_dir():
        return link or "not prepared yet"
    if not meta or not isinstance(source, dict):
        return "prepared by another program" if meta else "no whole " + META_NAME
    if not target.wants_first_of(frame_ids):
        return "prepared with other frame ids (see --nframes and --stride)"
    if target.revision not in (None, source.get("revision")):
        return "prepared from another revision (see --revision)"
    expected = sequence_meta(target, frame_ids, source.get("revision"), meta.get("clip_fps"), image_size)
    for key in {**expected, **meta}:
        if key not in meta or key not in expected:
            return "prepared %s %s" % ("without" if key in expected else "with an unknown", key)
        if meta[key] != expected[key]:
            return "prepared with another %s" % key
    for name in frame_names(len(target.frame_ids)) + ["f00_ann.png"]:
        if png_size("%s/frames/%s" % (directory, name)) != image_size:  # making Paths takes longer
            return "%s is missing or broken" % name
    if not png_size(directory / "frames/crop.png") and can_draw():
        return "crop.png is missing or broken"
    if gt_to_write(target, meta):
        return "gt.json is missing or lists other frames or another box"
    if target.contact_sheet and not jpeg_is_whole(directory / SHEET_NAME):
        return "contact_sheet.jpg is missing or broken"
    return None


def gt_to_write(target: Target, meta: Mapping[str, Any]) -> Optional[Dict[str, Any]]:
    """The stub for gt.json, if asked for or if one of ours says something else; theirs is never touched."""
    path, stub = target.directory / GT_NAME, gt_stub(meta, len(target.frame_ids))
    if not os.path.lexists(path):
        return stub if target.gt_stub else None
    found = read_object(path)
    return stub if is_gt_stub(found) and found != stub else None


# --- One sequence

def put(staged: Path, path: Path) -> None:
    """Every file of the output gets its name here, complete."""
    for wait in (0.1, 0.3, 1.0, None) if os.name == "nt" else (None,):
        try:
            return os.replace(staged, path)
        except PermissionError:  # on Windows while a viewer or a virus scanner has it open
            if wait is None:
                raise
            time.sleep(wait)


def json_bytes(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode("ascii")


def remove(path: Any) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Let one run at a time change a directory, where system and disk have locks."""
    handle = None
    with suppress(ImportError, OSError):  # Windows, FUSE, some network disks
        import fcntl
        handle = os.open(directory, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def publish(stage: Path, target: Target) -> None:
    """Give a sequence's new files their names, the metadata last.

    From the moment at which the old metadata goes until the new one stands, nothing in the folder counts.
    What is made of the frames goes and comes with them; other files in the folder are the user's. Files are
    replaced, and only those that the new set has not are removed: so runs that publish the same at the same
    time do each other no harm, even without locks.
    """
    made = sorted(path.relative_to(stage) for path in stage.rglob("*.*") if path.name != META_NAME)
    meta, frames = target.directory / META_NAME, target.directory / "frames"
    old = r"(f\d\d+|f00_ann|crop)\.png" if Path("frames/f00.png") in made else r"(f00_ann|crop)\.png"
    frames.mkdir(parents=True, exist_ok=True)
    with exclusive(target.directory):
        if why_not_ready(target) is None:
            return  # another run was faster
        if Path("frames/f00.png") not in made and kept_frames(target) is None:
            raise SequenceError("another run has changed its frames meanwhile; run again")
        if not meta.is_file() or meta.read_bytes() != (stage / META_NAME).read_bytes():
            remove(meta)
        for name in made:
            put(stage / name, target.directory / name)
        there = {Path("frames", name) for name in os.listdir(frames) if re.fullmatch(old, name)}
        for name in {*there, Path(SHEET_NAME)} - set(made):
            remove(target.directory / name)
        put(stage / META_NAME, meta)
        problem = why_not_ready(target)
    if problem:
        raise SequenceError(problem)


def prepare_sequence(target: Target, source: VideoSource, stage: Path, whole: str = "") -> None:
    """Make a sequence ready, or SequenceError; the video is asked for only when frames are missing."""
    count = len(target.frame_ids)
    (stage / "frames").mkdir(exist_ok=True)
    meta = kept_frames(target)
    if meta is None:
        video = source.get(whole)
        if target.frame_ids[-1] >= len(video.pts):
            raise SequenceError(too_short(target, len(video.pts)))
        frames = frame_paths(stage, count)
        extract_frames(video, target.frame_ids, stage)
        sizes = [png_size(frame) for frame in frames]
        if sizes != sizes[:1] * count:
            raise SequenceError(SIZE_CHANGES % video.name)
        meta = sequence_meta(target, target.frame_ids, video.revision, video.fps, sizes[0])
    else:
        frames = frame_paths(target.directory, count)
        meta = sequence_meta(target, meta["frame_ids"], meta["source"]["revision"], meta["clip_fps"],
                             meta["image_size"])
    annotated, crop = stage / "frames/f00_ann.png", stage / "frames/crop.png"
    drawn, cut_out = draw(frames[0].read_bytes(), target.sequence.init_bbox)
    annotated.write_bytes(drawn)
    if cut_out:
        crop.write_bytes(cut_out)
    warn_without_opencv(cut_out)
    stub = gt_to_write(target, meta)
    if stub:
        (stage / GT_NAME).write_bytes(json_bytes(stub))
    if target.contact_sheet or (target.directory / SHEET_NAME).exists() and can_draw(draw_with_pillow):
        titles = [("f00, target marked", annotated), ("the target", crop)]
        titles += [("frame %d" % k, path) for k, path in zip(target.frame_ids, frames)]
        sheet = contact_sheet([(title, path) for title, path in titles if path.exists()])
        (stage / SHEET_NAME).write_bytes(sheet)
    (stage / META_NAME).write_bytes(json_bytes(meta))
    publish(stage, target)


def too_short(target: Target, count: int) -> str:
    """What to tell about a sequence that asks for frames past the end of its video of `count` frames."""
    remedies = what_fits(target.sequence, len(target.frame_ids), target.stride, count)
    hint = " or ".join(remedies) + " would fit" if remedies else (
        "its initial frame %d is past the end: is this the right video?" % target.sequence.init_frame_id)
    return "asks for frame %d, but the video has %d frames (0 to %d); %s" % (
        target.frame_ids[-1], count, count - 1, hint)


@contextmanager
def workplace(output: Path) -> Iterator[Path]:
    """A hidden folder in the output, where files are made; StopRun when something cannot be written."""
    stage = None
    try:
        output.mkdir(parents=True, exist_ok=True)
        stage = tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=output)
        yield Path(stage)
    except OSError as error:
        raise StopRun("%s cannot be written: %s; once that is mended, the same command goes on from here"
                      % (error.filename2 or error.filename or output, error.strerror)) from None
    finally:
        shutil.rmtree(stage or "", ignore_errors=True)


def remove_leftovers(output: Path) -> None:
    """Remove what killed runs left: by age, since no lock tells whether a run on another node is at work."""
    for left in output.glob(STAGING_PREFIX + "*"):
        with suppress(OSError):  # another run was faster
            if time.time() - left.lstat().st_mtime > LEFTOVER_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


# --- Demo and check

DEMO_FLOOR = ("color=c=0x9a938a:s=1280x720:r=30:d=12,drawgrid=w=80:h=80:t=2:c=0x7d766e,"
              "drawbox=x=0:y=0:w=iw:h=150:c=0x5d6b7a:t=fill,drawgrid=w=16:h=16:t=1:c=white@0.06")
DEMO_ROBOT = ("color=c=0xd9822b:s=90x150:r=30:d=12,drawbox=x=15:y=20:w=60:h=34:c=0x24303c:t=fill,"
              "drawbox=x=0:y=125:w=iw:h=25:c=0x24303c:t=fill")
# Of the robot's upper left corner, in pixels, even ones: a pixel of colour is 2x2 pixels of the picture. By
# time (at 30 fps), since ffmpeg counts n from 1 here.
DEMO_PATH = "overlay=x='120+2*round(30*t)':y=360"


def make_demo(args: argparse.Namespace, source_dir: Path) -> None:
    """Film a synthetic warehouse floor with a moving robot, and write a benchmark of it in three flavours.

    The video is made with ffmpeg's own encoder and sources, so that any build of it will do.
    """
    folder = Path(DEFAULT_REPO_SUBDIR, "val/Demo_000/videos")
    video = source_dir / folder / "Camera_01.mp4"
    if video.parent.resolve() != source_dir.parent.resolve() / source_dir.name / folder:
        raise StopRun("%s has a symbolic link in it; remove it" % source_dir)
    lines = "".join(json.dumps(record) + "\n" for record in demo_records())
    benchmark = source_dir / DEMO_BENCHMARK
    if video.exists() and benchmark.is_file() and benchmark.read_text(encoding="ascii") == lines:
        return
    with workplace(source_dir.parent) as stage:
        video.parent.mkdir(parents=True, exist_ok=True)
        if not video.exists():
            LOG.info("Making the demo scene ...")
            code, _, log = run_ffmpeg(
                ffmpeg_of(args), "-loglevel", "repeat+level+error", "-f", "lavfi",
                "-i", DEMO_FLOOR, "-f", "lavfi", "-i", DEMO_ROBOT, "-filter_complex", DEMO_PATH,
                "-c:v", "mpeg4", "-q:v", "3", "-g", "60", "-pix_fmt", "yuv420p", "-f", "mp4", "video.mp4",
                cwd=stage)
            if code != 0:
                raise StopRun("the demo's video cannot be made: %s"
                              % quoted(ffmpeg_words(log, video, video.name)))
            put(stage / "video.mp4", video)
        (stage / DEMO_BENCHMARK).write_text(lines, encoding="ascii")
        put(stage / DEMO_BENCHMARK, benchmark)


def demo_box(k: int) -> List[float]:
    """The robot in frame k, in thousandths."""
    x, y = 120 + 2 * k, 360
    return [round(edge * 1000, 1) for edge in (x / 1280, y / 720, (x + 90) / 1280, (y + 150) / 720)]


def demo_records() -> List[Dict[str, Any]]:
    return [
        {"seq_id": "Demo_000__Camera_01__30__obj1", "scene": "Demo_000", "camera": "Camera_01",
         "object_id": "1", "object_type": "Robot", "init_frame_id": 30, "init_bbox": demo_box(30),
         "canonical_frame_ids": list(range(30, 150, 15)), "clip_fps": 30.0},
        {"seq_id": "Demo_000__Camera_01__100__obj1", "object_type": "Robot",
         "gt_bboxes": {str(k): demo_box(k) for k in range(100, 220, 15)}, "clip_end_frame": 219},
        {"id": "Demo_000__Camera_01__200__obj1", "scene": "Demo_000", "camera": "Camera_01",
         "source_frame_ids": list(range(200, 320, 15)), "init_bbox": demo_box(200)},
    ]


def broken_picture(target: Target) -> Optional[str]:
    """Which picture of a sequence that passes for ready cannot be decoded."""
    frames, image = target.directory / "frames", library("PIL.Image")
    paths = frame_paths(target.directory, len(target.frame_ids)) + [frames / "f00_ann.png"]
    paths += [path for path in [frames / "crop.png"] if path.exists()]
    for path in paths + [target.directory / SHEET_NAME] * target.contact_sheet:
        try:
            with image.open(path) as picture:
                picture.load()
        except Exception as error:  # Pillow raises many things for broken pictures
            return "%s cannot be decoded (%s); delete it and run again" % (path.name, type(error).__name__)
    return None


def check_all(args: argparse.Namespace, targets: Sequence[Target]) -> int:
    """Tell what is ready and what is not, and which videos are still needed: 0 when all are ready, else 1."""
    counts: Dict[str, int] = collections.Counter()
    needed: Set[str] = set()
    for target in targets:
        problem = why_not_ready(target)
        broken = None if problem else broken_picture(target)
        if broken and re.match(r"f\d+\.png", broken) or problem and kept_frames(target) is None:
            needed.add(target.path)
        reason = problem or broken
        state = "ready" if not reason else "partly" if target.directory.is_dir() else "missing"
        counts[state] += 1
        if not args.quiet:
            line = "%-7s %s" % (state, target.sequence.seq_id)
            write_line("%s: %s" % (line, reason) if reason else line, sys.stdout)
    at_hand = {path for path in needed if (
        local_video(args.video_dir, path, args.repo_subdir) if args.video_dir else
        HubFile(args.repo_id, path, args.revision, None, args.hf_cache_dir).cached())}
    for path in sorted(needed) if not args.quiet else ():
        write_line("video   %s: %s" % (path, "at hand" if path in at_hand else "not at hand"), sys.stdout)
    write_line("Check: %d ready, %d partly there, %d missing; videos needed: %d (%d at hand)" % (
        counts["ready"], counts["partly"], counts["missing"], len(needed), len(at_hand)), sys.stdout)
    return 0 if counts["ready"] == len(targets) else 1


# --- Command line

class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise StopRun("%s; see --help" % message)


def whole_number(largest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= largest:
            raise argparse.ArgumentTypeError(
                "expected a whole number from 1 to %d, got %s" % (largest, shown(text)))
        return int(text)
    return parse


def repository_id(text: str) -> str:
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text, re.ASCII):
        return text
    raise argparse.ArgumentTypeError("expected OWNER/NAME, got %s" % shown(text))


def path_name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got nothing")
    return os.path.expanduser(text)


EXAMPLES = """examples:
  python prepare_sot_dataset.py --demo
  python prepare_sot_dataset.py --benchmark sot_benchmark.jsonl \\
      --output-dir SOT_prepared_8f
"""


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="prepare_sot_dataset.py", description=__doc__, epilog=EXAMPLES, allow_abbrev=False,
                    add_help=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(ffmpeg=None)  # see ffmpeg_of
    add = parser.add_argument_group("what to prepare").add_argument
    add("--benchmark", metavar="PATH", type=path_name, help="benchmark file, JSON or JSON Lines; or "
        "hf://datasets/OWNER/NAME/PATH (required, but for --demo)")
    add("--sequences", metavar="ID", nargs="+", action="extend", type=lambda text: text.replace("/", "__"),
        help="prepare these seq_ids only (default: all)")
    add("--demo", action="store_true",
        help="prepare a small synthetic scene: no network, no token, no benchmark")
    add = parser.add_argument_group("which frames").add_argument
    add("--nframes", metavar="N", type=whole_number(MAX_NFRAMES), default=DEFAULT_NFRAMES,
        help="frames per sequence (default: %(default)s)")
    add("--stride", metavar="N", type=whole_number(MAX_FRAME_ID), help="fixed distance in source frames "
        "(default: the benchmark's own frame ids, else at most " + str(DEFAULT_STRIDE) + ")")
    add = parser.add_argument_group("where videos come from").add_argument
    add("--video-dir", metavar="DIR", type=path_name,
        help="a folder laid out like the repository, instead of the network")
    add("--stream", action="store_true",
        help="fetch only the parts of each video that the frames need, and keep none")
    add("--hf-token", metavar="TOKEN", help="read access to the dataset (default: $HF_TOKEN, else your "
        "`hf auth login`, else none)")
    add("--hf-cache-dir", metavar="DIR", type=path_name,
        help="where downloaded videos are kept (default: the hub's own)")
    add("--repo-id", metavar="ID", type=repository_id, default=DEFAULT_REPO_ID,
        help="dataset repository (default: %(default)s)")
    add("--repo-subdir", metavar="DIR", default=DEFAULT_REPO_SUBDIR,
        help="folder inside it (default: %(default)s)")
    add("--revision", metavar="REV", default="main",
        help="branch, tag or commit of it (default: %(default)s)")
    add = parser.add_argument_group("output").add_argument
    add("--output-dir", metavar="DIR", type=path_name,
        help="made if missing (required; default with --demo: " + DEMO_OUTPUT + ")")
    add("--gt-stub", action="store_true",
        help="write gt.json with the initial box for the evaluator's loader")
    add("--contact-sheet", action="store_true", help="write contact_sheet.jpg with all frames for the eye")
    add = parser.add_argument_group("other").add_argument
    add("--check", action="store_true",
        help="say what is ready, partly there or missing; write and download nothing")
    add("--quiet", action="store_true", help="errors and the closing line only")
    add("--version", action="version", version="%(prog)s " + __version__,
        help="show program's version number and exit")
    add("-h", "--help", action="help", help="show this help")
    return parser


def parse_arguments(argv: Optional[Sequence[str]]) -> argparse.Namespace:
    """The options, checked; StopRun when they are wrong."""
    parser = make_parser()
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        options = [option for action in parser._actions for option in action.option_strings]
        names = [text.split("=")[0] for text in unknown if text.startswith("-")] or unknown[:1]  # no values
        near = [[option for option in options if len(name) > 3 and option.startswith(name)]
                + difflib.get_close_matches(name, options, n=1) for name in names]
        parser.error("; ".join("unknown argument " + name + (", did you mean %s?" % close[0] if close else "")
                               for name, close in zip(names, near)))
    if not args.benchmark and not args.demo:
        raise StopRun("--benchmark is missing; to start:", *EXAMPLES.rstrip().split("\n")[1:])
    output = args.output_dir = args.output_dir or (DEMO_OUTPUT if args.demo else "")
    args.repo_subdir = args.repo_subdir.strip("/")
    args.hf_token = (args.hf_token or os.environ.get("HF_TOKEN") or "").strip() or None
    for wrong, text in (
            (not output,
             "--output-dir is missing: where to write, for example --output-dir SOT_prepared_%df"
             % args.nframes),
            (args.demo and (args.benchmark or args.video_dir),
             "--demo makes its own benchmark and video; leave out --benchmark and --video-dir"),
            (args.video_dir and not os.path.isdir(args.video_dir),
             "--video-dir %s: no such folder; expected one laid out like the repository" % args.video_dir),
            (os.path.exists(output) and not os.path.isdir(output),
             "--output-dir %s: is not a folder; choose another" % output),
            (".." in args.repo_subdir.split("/"),
             "--repo-subdir %s: must lie inside the repository" % args.repo_subdir),
            ((args.contact_sheet or args.check) and not can_draw(draw_with_pillow),
             "%s needs a Pillow that works: pip install Pillow" % (
                 "--check" if args.check else "--contact-sheet")),
            (args.hf_token and not re.fullmatch("[!-~]+", args.hf_token),
             "the token (--hf-token or $HF_TOKEN) has characters that no token has; copy it again")):
        if wrong:
            raise StopRun(text)
    return args


def load_benchmark(args: argparse.Namespace) -> List[SotSequence]:
    """The sequences of the file, or StopRun; a wrong record that --sequences leaves out is only told."""
    path = args.benchmark
    remote = re.fullmatch(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", path)
    try:
        if remote:
            repo_id, revision, filename = remote.groups()
            file = HubFile(repo_id, filename, revision or "main", args.hf_token, args.hf_cache_dir)
            path = file.cached() if args.check else file.download()
            if path is None:
                raise StopRun("--benchmark %s is not in the cache, and --check downloads nothing; run once "
                              "without --check" % args.benchmark)
        if Path(path).is_fifo():
            LOG.info("Reading %s, a pipe", path)
        data = Path(path).read_bytes()
    except VideoError as error:
        raise StopRun("benchmark %s; or give a file" % error) from None
    except OSError as error:
        raise StopRun("--benchmark %s cannot be read: %s; expected a file, or hf://datasets/OWNER/NAME/PATH"
                      % (args.benchmark, error.strerror)) from None
    sequences, problems = read_benchmark(data, args.benchmark)
    named = set(args.sequences or []) if sequences else set()
    passed = [text for seq_id, text in problems if named and str(seq_id) not in named]
    fatal = [text for _, text in problems if text not in passed]
    for text in (fatal or passed)[:MAX_LISTED_ERRORS]:
        LOG.log(logging.ERROR if fatal else logging.WARNING, "%s", text)
    more = len(fatal or passed) - MAX_LISTED_ERRORS
    if more > 0:
        LOG.log(logging.ERROR if fatal else logging.WARNING, "... and %d more", more)
    if fatal:
        raise StopRun("%s: mistakes: %d; nothing was written" % (args.benchmark, len(fatal)))
    for doubt in doubts(sequences):
        LOG.warning("%s: %s", args.benchmark, doubt)
    return sequences


def named_targets(targets: Sequence[Target], seq_ids: Optional[Sequence[str]]) -> List[Target]:
    """The targets that --sequences names, in benchmark order; unknown names are told, or StopRun."""
    known = [target.sequence.seq_id for target in targets]
    for seq_id in dict.fromkeys(seq_ids or []):
        if seq_id not in known:
            near = difflib.get_close_matches(seq_id, known, n=3, cutoff=0.0)
            LOG.error("--sequences %s: not in the benchmark; nearest: %s", seq_id, ", ".join(near))
    wanted = [target for target in targets if not seq_ids or target.sequence.seq_id in set(seq_ids)]
    if not wanted:
        raise StopRun("--sequences: none of these is in the benchmark")
    return wanted


# --- The loop

@dataclass
class VideoSource:
    """A video, got and listed once when the first of its sequences asks for it."""
    args: argparse.Namespace
    path: str
    wanted: Sequence[Sequence[int]]
    folder: str  # for what is streamed
    found: Union[None, Video, VideoError] = None

    @property
    def short(self) -> str:
        return "%s/%s" % (self.path.split("/")[-3], os.path.basename(self.path))

    def get(self, why_whole: str = "") -> Video:
        """The video, or what stands in the way, again and again; with a reason, not part of it but all."""
        if self.found is None or why_whole:
            try:
                self.found = self.open(why_whole)
            except VideoError as error:
                self.found = error
        if isinstance(self.found, VideoError):
            raise self.found
        return self.found

    def open(self, why_whole: str) -> Video:
        args = self.args
        if args.video_dir:
            file = local_video(args.video_dir, self.path, args.repo_subdir)
            if file is None:
                raise VideoError("no such video in --video-dir: %s; expected the folders of the repository"
                                 % self.path)
            try:
                file.open("rb").close()
            except OSError as error:
                raise VideoError("%s cannot be read: %s" % (file, error.strerror)) from None
            return open_video(ffmpeg_of(args), file, self.path, None)
        # Of a streamed video some frames may be there already: the whole must be the same.
        revision = self.found.revision if why_whole and isinstance(self.found, Video) else None
        hub_file = HubFile(
            args.repo_id, self.path, revision or args.revision, args.hf_token, args.hf_cache_dir)
        cached = hub_file.cached() if args.stream else None
        if args.stream and not why_whole and not cached:
            LOG.info("Streaming from %s (%s)", self.short, PROGRESS.video)
            try:
                return stream_video(ffmpeg_of(args), hub_file, self.wanted, Path(self.folder, "streamed.mp4"))
            except HubError:
                raise
            except SequenceError as error:
                why_whole = str(error)
        LOG.info("Getting %s (%s)%s", self.short, PROGRESS.video, why_whole and ", whole: " + why_whole)
        file = hub_file.download(any_will_do=cached is not None)
        # A copy in the cache lies in .../snapshots/COMMIT/ and then its path in the repository.
        return open_video(ffmpeg_of(args), file, self.path, file.parents[self.path.count("/")].name)


def prepare_all(args: argparse.Namespace, targets: Sequence[Target], folder: str,
                failures: Dict[str, str]) -> None:
    """Make the sequences ready, video by video; those that fail go into `failures`, seq_id -> reason."""
    by_video: Dict[str, List[Target]] = {}
    for target in sorted(targets, key=lambda target: target.path):
        by_video.setdefault(target.path, []).append(target)
    in_vain = 0
    PROGRESS.begin(len(targets))
    try:
        for number, (path, group) in enumerate(by_video.items(), 1):
            PROGRESS.video = "video %d of %d" % (number, len(by_video))
            source = VideoSource(args, path, [target.frame_ids for target in group], folder)
            for target in group:
                PROGRESS.sequence = seq_id = target.sequence.seq_id
                PROGRESS.tick()
                problem = prepared(target, source)
                if problem:
                    failures[seq_id] = problem
                PROGRESS.made("FAILED" if problem else "ready")
            in_vain = in_vain + 1 if isinstance(source.found, HubError) else 0
            if in_vain == VIDEOS_BEFORE_STOP:
                raise StopRun("the hub did not give %d videos in a row; the same command goes on from here, "
                              "and --video-dir needs no network" % in_vain)
    finally:
        PROGRESS.end()


def prepared(target: Target, source: VideoSource) -> Optional[str]:
    """Make a sequence ready if it is not: None, or the reason why that failed."""
    link = planted_link(target.directory)
    if link or why_not_ready(target) is None:  # another run may have done it meanwhile
        return link
    try:
        with workplace(target.directory.parent) as stage:
            try:
                prepare_sequence(target, source, stage)
            except SequenceError as error:  # whatever goes wrong with part of a video, the whole may serve
                if not getattr(source.found, "partial", False):
                    raise
                prepare_sequence(target, source, stage, str(error))
    except SequenceError as error:
        return str(error)
    return None


def ready_ones(targets: Iterable[Target]) -> Dict[str, Optional[float]]:
    """The clip_fps of those targets that are ready."""
    return {target.sequence.seq_id: read_object(target.directory / META_NAME).get("clip_fps")
            for target in targets if why_not_ready(target) is None}


def run(args: argparse.Namespace) -> int:
    output = Path(args.output_dir)
    if args.demo:
        args.benchmark, args.video_dir = str(output / DEMO_FOLDER / DEMO_BENCHMARK), str(output / DEMO_FOLDER)
        if not args.check:
            make_demo(args, output / DEMO_FOLDER)
    pinned = args.revision if COMMIT_FORM.fullmatch(args.revision) and not args.video_dir else None
    targets = [Target(sequence, frame_ids_of(sequence, args.nframes, args.stride), output / sequence.seq_id,
                      args.repo_id, video_path(sequence, args.repo_subdir), pinned, args.stride, args.gt_stub,
                      args.contact_sheet) for sequence in load_benchmark(args)]
    wanted = named_targets(targets, args.sequences)
    if args.check:
        return check_all(args, wanted)
    remove_leftovers(output)
    ready = ready_ones(wanted)
    already = len(ready)
    todo = [target for target in wanted if target.sequence.seq_id not in ready]
    failures: Dict[str, str] = {}
    if todo:
        before_the_work(args, todo)
        try:
            with tempfile.TemporaryDirectory() if args.stream else nullcontext("") as folder:
                prepare_all(args, todo, folder, failures)
        finally:
            for reason in sorted(set(failures.values())):
                seq_ids = [seq_id for seq_id, text in failures.items() if text == reason]
                LOG.error("%s: %s", ", ".join(seq_ids), reason)
    write_manifest(args, targets, ready)
    write_line("Done: %d ready (%d already were), %d failed" % (
        len(wanted) - len(failures), already, len(failures)), sys.stdout)
    warn_of_mixed_versions([target for target in wanted if target.sequence.seq_id not in failures])
    after_the_work(args, wanted)
    unknown = set(args.sequences or []) - {target.sequence.seq_id for target in wanted}
    return 1 if failures or unknown else 0


def write_manifest(args: argparse.Namespace, targets: Sequence[Target],
                   ready: Mapping[str, Optional[float]]) -> None:
    """Write gt_requests.json until it says what is ready: other runs may write it at the same time."""
    path = Path(args.output_dir, MANIFEST_NAME)
    while True:
        ready = {**ready, **ready_ones(target for target in targets if target.sequence.seq_id not in ready)}
        data = json_bytes(gt_requests(targets, ready, os.path.basename(args.benchmark), args.repo_id,
                                      args.repo_subdir, args.nframes, args.stride))
        if path.is_file() and path.read_bytes() == data:
            return
        with workplace(path.parent) as stage:
            (stage / MANIFEST_NAME).write_bytes(data)
            put(stage / MANIFEST_NAME, path)


def ffmpeg_of(args: argparse.Namespace) -> str:
    """The ffmpeg of this run, looked for when it is first needed."""
    if args.ffmpeg is None:
        with workplace(Path(args.output_dir)):  # no use without a place for the pictures
            args.ffmpeg = find_ffmpeg()
    return str(args.ffmpeg)


def counted(seq_ids: Sequence[str]) -> str:
    return "%d sequence%s, first %s" % (len(seq_ids), "s" * (len(seq_ids) > 1), seq_ids[0])


def before_the_work(args: argparse.Namespace, todo: Sequence[Target]) -> None:
    """Find out what would stop the work before anything is downloaded; say what the user should know."""
    if any(kept_frames(target) is None for target in todo):
        ffmpeg_of(args)
        if args.hf_cache_dir and not args.video_dir:
            os.makedirs(args.hf_cache_dir, exist_ok=True)
    metas = [read_object(target.directory / META_NAME) for target in todo]
    others = [target.sequence.seq_id for target, meta in zip(todo, metas) if meta and "source" not in meta]
    if others:
        LOG.warning("%s: prepared by another program; made anew, a gt.json stays", counted(others))
    past = [target.sequence.seq_id for target in todo
            if target.stride is None and target.sequence.clip_end_frame is not None
            and max(set(target.frame_ids) - set(target.sequence.canonical_frame_ids), default=0)
            > target.sequence.clip_end_frame]
    if past:
        LOG.warning("%s: frames past clip_end_frame, where there may be no ground truth; --nframes or "
                    "--stride of less would stay inside", counted(past))


def warn_of_mixed_versions(ready: Sequence[Target]) -> None:
    """Say so when the sequences of a run come from more than one commit of the dataset."""
    sources = [read_object(target.directory / META_NAME).get("source", {}) for target in ready]
    commits = collections.Counter(source["revision"] for source in sources if source.get("revision"))
    if len(commits) > 1:
        LOG.warning("the sequences come from several versions of the dataset: %s; --revision with one of "
                    "these commits prepares all from that one",
                    ", ".join("%d from %s" % (count, commit) for commit, count in commits.most_common()))


def after_the_work(args: argparse.Namespace, targets: Sequence[Target]) -> None:
    """Warn of what the evaluator will stumble over; say how to go on from a demo."""
    if re.match(r"[5-9]|\d\d", str(getattr(sys.modules.get("cv2"), "__version__", ""))):
        LOG.warning("OpenCV 5 draws the word %s in another font than OpenCV 4; if your evaluator has the "
                    "other one, delete each f00_ann.png and run again with that", LABEL_TEXT)
    given = [(target, read_object(target.directory / GT_NAME)) for target in targets
             if os.path.lexists(target.directory / GT_NAME)]
    other = [target.sequence.seq_id for target, found in given
             if not is_gt_stub(found) and list(target.frame_ids) not in (
                 found.get("source_frame_ids"), found.get("frame_ids"))]
    if other:
        LOG.warning("%s: gt.json is not this program's and was left alone; does it fit these frames?",
                    counted(other))
    if not given and any((target.directory / META_NAME).exists() for target in targets):
        LOG.info("No sequence has a gt.json, by which the evaluator's loader finds it: --gt-stub writes one")
    if args.demo:
        quoted = '"{}"'.format if os.name == "nt" else shlex.quote
        LOG.info("Look at: %s", targets[0].directory / "frames" / "f00_ann.png")
        LOG.info("By hand: python prepare_sot_dataset.py --benchmark %s --video-dir %s --output-dir %s",
                 *map(quoted, (args.benchmark, args.video_dir, args.output_dir)))


def on_signal(number: int, _: Any) -> None:
    """Ctrl-C counts once; one more soon after is the same; a later one: a library has swallowed it."""
    if number == signal.SIGTERM:
        raise Terminated
    if time.monotonic() - getattr(on_signal, "at", -math.inf) > 3:
        setattr(on_signal, "at", time.monotonic())
        raise KeyboardInterrupt


def set_up() -> None:
    """Standard streams that can be written to, our log on one of them, signals as exceptions."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed
            setattr(sys, name, open(os.devnull, "w"))
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a path may hold what the encoding does not
    LOG.handlers, LOG.propagate = [Screen()], False
    LOG.setLevel(logging.INFO)
    with suppress(ValueError):  # not in the main thread, where no signal arrives
        signal.signal(signal.SIGTERM, on_signal)
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as a shell does in the background
            signal.signal(signal.SIGINT, on_signal)


def main(argv: Optional[Sequence[str]] = None) -> int:
    set_up()
    try:
        args = parse_arguments(argv)
        LOG.setLevel(logging.ERROR if args.quiet else logging.INFO)
        return run(args)
    except StopRun as error:
        for line in error.args:
            LOG.error("%s", line)
        return 2
    except SystemExit as done:  # of --help and --version
        write_line("", sys.stdout, end="")
        return int(done.code or 0)
    except OSError as error:
        LOG.error("%s: %s; once that is mended, the same command goes on from here", error.filename or "file",
                  error.strerror or error)
        return 2
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the libraries' own endings are not to be disturbed
        if on_terminal() and os.name != "nt":
            write_line("", sys.stderr, end="\r\x1b[K")  # the terminal has written ^C
        LOG.error("%s", INTERRUPTED)
        return 130
    except Terminated:
        LOG.error("Terminated. The same command goes on from here.")
        return 143


if __name__ == "__main__":
    raise SystemExit(main())

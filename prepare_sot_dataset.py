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
"""Turn a Single Object Tracking benchmark into a directory that VANTAGE-Bench's evaluator can read.

Reads the benchmark (JSON or JSON Lines), gets each camera video that it names, and writes for every
sequence its exact frames, the first frame with the target's box drawn, a crop of the target, and metadata.
Stop it whenever you like: the same command goes on where it was.
"""
from __future__ import annotations

import argparse
import bisect
import collections
import difflib
import functools
import glob
import hashlib
import importlib.util
import io
import json
import math
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple
from urllib.parse import urlsplit

__version__ = "1.0.0"

# --- Constants: units in the names, consequences beside them

DEFAULT_REPO_ID = "nvidia/PhysicalAI-SmartSpaces"
DEFAULT_REPO_SUBDIR = "MTMC_Tracking_2025"
DEFAULT_NFRAMES = 8
DEFAULT_STRIDE = 15  # half a second at the dataset's 30 fps
LAST_TRAIN_WAREHOUSE = 14  # Warehouse_000 to _014 lie in train/, every other scene in val/
CROP_MARGIN = 0.15  # of the box's width and height, on each side
GREEN = (0, 255, 0)  # the evaluator's prompt says GREEN RECTANGLE
LABEL_TEXT = "TARGET"
MAX_FRAME_ID = 999_999_999  # a year of video at 30 fps; keeps every sum below well inside a float's integers
MAX_NFRAMES = 99_999
MAX_BOX_EDGE = 1_000_000  # thousandths; nothing can draw a box that reaches thousands of images far out
MAX_LISTED_ERRORS = 100
SEEK_COST_FRAMES = 50  # what starting ffmpeg costs, in frames of decoding; measured, not critical
MAX_FRAMES_PER_CALL = 1000  # Windows takes command lines of 32 KB
SILENT_CHILD_SECONDS = 180.0  # an ffmpeg that says nothing for so long hangs
RETRY_WAIT_SECONDS = (2.0, 5.0, 15.0, 40.0)  # before the first, second, ... retry of a download
STREAM_BLOCK_BYTES = 1 << 18  # what is read at once while looking for the index
STREAM_SHARE = 0.5  # a video of which more than this share is wanted is downloaded whole
STREAM_SLACK_SECONDS = 0.3  # ffmpeg seeks up to 3/23 s before the asked time (fftools/ffmpeg_demux.c)
STREAM_SLACK_PACKETS = 64  # a decoder with many threads reads on before it shows a frame
MAX_SERVER_WAIT_SECONDS = 300.0  # a longer Retry-After is cut to this
OFFLINE_VIDEOS_BEFORE_STOP = 2  # videos in a row without a connection
SECRET_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN", "HF_TOKEN_PATH", "FFREPORT")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
TEMPORARY_PREFIX = ".tmp-"
META_NAME = "sequence_meta.json"
UNFINISHED_NAME = ".unfinished.json"  # what the images of a sequence that has no metadata yet are meant to be
MANIFEST_NAME = "gt_requests.json"
DEMO_FOLDER, DEMO_BENCHMARK = "demo_source", "demo_benchmark.jsonl"


# --- Errors

class StopRun(Exception):
    """Nothing more can be done in this run: bad input, no ffmpeg, no access, disk full. Exit code 2."""


class BenchmarkError(StopRun):
    def __init__(self, problems: List[str]):
        more = len(problems) - MAX_LISTED_ERRORS
        listed = problems[:MAX_LISTED_ERRORS] + (["... and %d more" % more] if more > 0 else [])
        super().__init__("\n".join(listed))


class SequenceError(Exception):
    """This sequence cannot be prepared; the others can."""


class VideoEnds(Exception):
    """The video showed fewer frames than its list of packets promised."""

    def __init__(self, frame_count: int):
        super().__init__("%d frames" % frame_count)
        self.frame_count = frame_count


class NeedsWholeVideo(Exception):
    """Streaming part of the video will not do, for the reason given."""


class VideoError(SequenceError):
    """No sequence of this video can be prepared."""

    def __init__(self, message: str, no_connection: bool = False):
        super().__init__(message)
        self.no_connection = no_connection


class Terminated(BaseException):
    """SIGTERM arrived; a BaseException, so that nothing mistakes it for a failure of its own."""


# --- The sequence: all that the rest of the program knows of a record. It has no room for ground truth.

Box = Tuple[float, float, float, float]


@dataclass(frozen=True)
class SotSequence:
    """One target in one video. Boxes are (x1, y1, x2, y2) in thousandths of the image; frame ids count from 0."""
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

SEQ_ID_FORM = re.compile(r"(?P<scene>.+?)__(?P<camera>.+?)__(?P<init_frame_id>\d{1,9})__obj(?P<object_id>.+)", re.ASCII)
FILE_NAME_FORM = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
WINDOWS_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
TAKEN_NAMES = (MANIFEST_NAME, DEMO_FOLDER)


def read_benchmark(data: bytes, name: str) -> List[SotSequence]:
    """The sequences of a benchmark file, in its order, equal ones once.

    :raises BenchmarkError: with every problem of the file, each with its line or array index.
    """
    problems: List[str] = []
    sequences: Dict[str, Tuple[str, SotSequence]] = {}
    for where, record in benchmark_records(data):
        if not isinstance(record, dict):
            wrong = record.args[0] if isinstance(record, ValueError) else "expected a JSON object, got " + shown(record)
            problems.append("%s, %s: %s" % (name, where, wrong))
            continue
        fields = record_fields(record)
        sequence, wrongs = parse_record(fields)
        if sequence is not None:
            # Names that differ in letter case only would share a folder on Windows and macOS.
            first_where, first = sequences.setdefault(sequence.seq_id.lower(), (where, sequence))
            if first != sequence:
                wrongs.append("differs from the record with the same seq_id (%s); give one of them another seq_id"
                              % first_where)
        if wrongs:
            place = "%s, %s" % (name, where) + (", seq_id " + shown(fields["seq_id"]) if "seq_id" in fields else "")
            problems += ["%s: %s" % (place, wrong) for wrong in wrongs]
    if not sequences and not problems:
        problems.append("%s: holds no records; expected JSON or JSON Lines" % name)
    if problems:
        raise BenchmarkError(problems)
    return [sequence for _, sequence in sequences.values()]


def benchmark_records(data: bytes) -> Iterator[Tuple[str, Any]]:
    """(place, record) for each record of a JSON array, a single object, or JSON Lines; a ValueError for a broken one."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield "byte %d" % error.start, ValueError("is not UTF-8 text; save the benchmark as UTF-8")
        return
    lines = text.split("\n")
    first = next((line for line in lines if line.strip()), "")
    parsed_first = parse_json(first)
    if not isinstance(parsed_first, dict):
        whole = parsed_first if len(first) == len(text) else parse_json(text)
        if isinstance(whole, list):
            yield from (("item %d of the array" % index, record) for index, record in enumerate(whole))
            return
        if isinstance(whole, dict):
            yield "line 1", whole
            return
        if first.lstrip()[:1] != "{" or first.strip() == "{":
            if text.strip():
                yield "line 1", whole
            return
    del text
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield "line %d" % number, parse_json(line)


def parse_json(text: str) -> Any:
    """The JSON value, or a ValueError (returned, not raised) that says what is wrong but quotes nothing."""
    try:
        return JSON_DECODER.decode(text)
    except json.JSONDecodeError as error:
        return ValueError("is not valid JSON (%s at line %d, column %d)" % (error.msg, error.lineno, error.colno))
    except RecursionError:
        return ValueError("is not a benchmark record: its JSON is nested too deeply")
    except RepeatedKey as error:
        return ValueError("field %s occurs twice in one object" % shown(error.args[0]))
    except ValueError:
        return ValueError("is not valid JSON (a number has too many digits)")


class RepeatedKey(ValueError):
    pass


def without_repeated_keys(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise RepeatedKey(next(key for key, count in collections.Counter(key for key, _ in pairs).items() if count > 1))
    return fields


JSON_DECODER = json.JSONDecoder(object_pairs_hook=without_repeated_keys)


def record_fields(record: Mapping[str, Any]) -> Dict[str, Any]:
    """The fields of a record of any flavour that are not null, under the names of the standard one."""
    metadata = record.get("metadata")
    fields: Dict[str, Any] = {}
    for source in (metadata if isinstance(metadata, dict) else {}, record):
        fields.update((name, value) for name, value in source.items() if value is not None)
    for name, alias in (("seq_id", "id"), ("canonical_frame_ids", "source_frame_ids")):
        if alias in fields:
            fields.setdefault(name, fields[alias])
    return fields


def parse_record(fields: Mapping[str, Any]) -> Tuple[Optional[SotSequence], List[str]]:
    """The fields of a record -> (sequence, []) or (None, what is wrong with it)."""
    form = SEQ_ID_FORM.fullmatch(fields["seq_id"]) if isinstance(fields.get("seq_id"), str) else None
    wrong: List[str] = []

    def take(name: str, parse: Callable[[Any], Any], expected: str, otherwise: Callable[[], Any] = lambda: None) -> Any:
        value = fields.get(name)
        if value is None:
            value = form.group(name) if form and name in form.groupdict() else otherwise()
            if name == "init_frame_id" and isinstance(value, str):
                value = int(value)
        parsed = None if value is None else parse(value)
        if parsed is None and (value is not None or name in REQUIRED_FIELDS):
            wrong.append("field %s: expected %s, got %s" % (name, expected, "nothing" if value is None else shown(value)))
        return parsed

    whole = "a whole number from 0 to %d" % MAX_FRAME_ID
    truth = ground_truth(fields)
    scene = take("scene", file_name, NAME_EXPECTED)
    camera = take("camera", file_name, NAME_EXPECTED)
    object_id = take("object_id", object_name, "a number or a text", lambda: "unknown")
    object_type = take("object_type", lambda v: v if isinstance(v, str) and v else None, "a text", lambda: "object")
    ids = take("canonical_frame_ids", rising_ids, "rising whole numbers from 0 to %d" % MAX_FRAME_ID) or ()
    init_frame_id = take("init_frame_id", frame_id, whole, lambda: ids[0] if ids else
                         min((int(key) for key in truth if re.fullmatch("[0-9]{1,9}", key)), default=None))
    init_bbox = take("init_bbox", box, BOX_EXPECTED, lambda: init_box_of(truth, init_frame_id))
    clip_end_frame = take("clip_end_frame", frame_id, whole)
    clip_fps = take("clip_fps", positive_number, "a positive number")
    if wrong and "seq_id" not in fields and "object_id" in fields:
        return None, wrong  # what the seq_id would be made of
    seq_id = take("seq_id", file_name, NAME_EXPECTED, lambda: "%s__%s__%s__obj%s" % (
        scene, camera, init_frame_id, object_id) if "object_id" in fields else None)
    if seq_id is not None and seq_id.lower() in TAKEN_NAMES:
        wrong.append("field seq_id: the program uses the name %s itself; choose another" % shown(seq_id))
    if ids and init_frame_id is not None and ids[0] != init_frame_id:
        wrong.append("field canonical_frame_ids: starts at %d, but init_frame_id is %d; the initial box belongs to the "
                     "first frame, so they must be the same" % (ids[0], init_frame_id))
    if wrong:
        return None, wrong
    return SotSequence(seq_id, scene, camera, object_id, object_type, init_frame_id, init_bbox, ids,
                       clip_end_frame, clip_fps), []


REQUIRED_FIELDS = ("seq_id", "scene", "camera", "init_frame_id", "init_bbox")
NAME_EXPECTED = ("a name of at most 200 letters, digits, '.', '_' and '-' that can name a file (no leading or closing dot, "
                 "no name that Windows reserves)")
BOX_EXPECTED = "[x1, y1, x2, y2] in thousandths, finite, x1 < x2, y1 < y2, touching the image"


def file_name(value: Any) -> Optional[str]:
    good = isinstance(value, str) and FILE_NAME_FORM.fullmatch(value) and not value.endswith(".")
    return value if good and not WINDOWS_RESERVED.fullmatch(value) else None


def object_name(value: Any) -> Optional[str]:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else ""
    return text if text and text not in ("nan", "inf", "-inf") and len(text) <= 200 else None


def frame_id(value: Any) -> Optional[int]:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_FRAME_ID else None


def rising_ids(value: Any) -> Optional[Tuple[int, ...]]:
    if not isinstance(value, list) or any(frame_id(item) is None for item in value):
        return None
    return tuple(value) if all(a < b for a, b in zip(value, value[1:])) else None


def number(value: Any) -> Optional[float]:
    """The value as a finite float, or None."""
    try:
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        return float(value) if good else None
    except OverflowError:  # an integer too large for a float
        return None


def positive_number(value: Any) -> Optional[float]:
    parsed = number(value)
    return value if parsed is not None and parsed > 0 else None


def box(value: Any) -> Optional[Box]:
    edges = [number(edge) for edge in value] if isinstance(value, list) and len(value) == 4 else [None]
    if None in edges or max(map(abs, edges)) > MAX_BOX_EDGE:
        return None
    x1, y1, x2, y2 = edges
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 and x2 > 0 and y2 > 0 and x1 < 1000 and y1 < 1000 else None


def ground_truth(fields: Mapping[str, Any]) -> Dict[str, Any]:
    """Frame id (as text) -> box, from `gt_bboxes` or the assistant's turn: only for what a record leaves out."""
    if isinstance(fields.get("gt_bboxes"), dict):
        return fields["gt_bboxes"]
    turns = fields.get("conversations")
    for turn in turns if isinstance(turns, list) else []:
        if isinstance(turn, dict) and turn.get("role", turn.get("from")) in ("assistant", "gpt"):
            said = turn.get("content", turn.get("value"))
            parsed = parse_json(said) if isinstance(said, str) else said
            if isinstance(parsed, dict):
                return parsed
    return {}


def init_box_of(truth: Mapping[str, Any], init_frame_id: Optional[int]) -> Any:
    found = truth.get(str(init_frame_id))
    return found if box(found) else None  # a bad one is not even quoted in a message


def json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


# --- Sequences -> frame ids

def frame_ids_of(sequence: SotSequence, nframes: int, stride: Optional[int] = None) -> Tuple[int, ...]:
    """The 0-based frame ids to prepare: canonical ones, else a fixed stride, else a stride that fits the clip."""
    if stride is None and len(sequence.canonical_frame_ids) >= nframes:
        return sequence.canonical_frame_ids[:nframes]
    if stride is None:
        stride = DEFAULT_STRIDE
        if sequence.clip_end_frame is not None and nframes > 1:
            room = (sequence.clip_end_frame - sequence.init_frame_id) // (nframes - 1)
            stride = max(1, min(DEFAULT_STRIDE, room))
    return tuple(sequence.init_frame_id + index * stride for index in range(nframes))


def common_stride(frame_ids: Sequence[int]) -> Optional[int]:
    distances = {b - a for a, b in zip(frame_ids, frame_ids[1:])}
    return distances.pop() if len(distances) == 1 else None


def what_fits(sequence: SotSequence, nframes: int, stride: Optional[int], frame_count: int) -> List[str]:
    """The options with which a sequence that is too long would lie inside a video of `frame_count` frames."""
    inside = bisect.bisect_left(frame_ids_of(sequence, nframes, stride), frame_count)
    fits = [n for n in range(inside, max(0, inside - 1000), -1)
            if frame_ids_of(sequence, n, stride)[-1] < frame_count]
    largest = (frame_count - 1 - sequence.init_frame_id) // (nframes - 1) if nframes > 1 else 0
    return ["--nframes %d" % n for n in fits[:1]] + (["--stride %d" % largest] if largest >= 1 else [])


# --- Scene and camera -> video

def split_of(scene: str) -> str:
    warehouse = re.fullmatch(r"Warehouse_(\d{3})", scene, re.ASCII)
    return "train" if warehouse and int(warehouse.group(1)) <= LAST_TRAIN_WAREHOUSE else "val"


def video_path(sequence: SotSequence, repo_subdir: str) -> str:
    parts = [split_of(sequence.scene), sequence.scene, "videos", sequence.camera + ".mp4"]
    return "/".join(([repo_subdir] if repo_subdir else []) + parts)


def local_video(video_dir: Path, path: str, repo_subdir: str) -> Path:
    """The video in a folder laid out like the repository, with or without its subdirectory.

    :raises VideoError: when there is none.
    """
    candidates = [video_dir / path, video_dir / path[len(repo_subdir):].lstrip("/")]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise VideoError("no such video in --video-dir: %s" % " or ".join(dict.fromkeys(map(str, candidates))))


class Verdict(NamedTuple):
    """What to do about a failed download: 'retry', 'skip' this video or 'stop' the run; and why, in our own words."""
    action: str
    reason: str
    wait_seconds: Optional[float] = None
    no_connection: bool = False
    force_download: bool = False


LOGIN_HINT = ("get a token with read access at https://huggingface.co/settings/tokens and give it with --hf-token or in "
              "$HF_TOKEN")


def judge(error: BaseException) -> Verdict:
    """Sort what huggingface_hub raised, 0.24 to 2.4. Quotes none of its texts: they hold addresses, even tokens.

    The class names are those of `huggingface_hub.utils`. LocalEntryNotFoundError is an EntryNotFoundError, yet only
    wraps whatever the first request met, so the cause decides.
    """
    chain: List[BaseException] = []
    following: Optional[BaseException] = error
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__ or following.__context__
    names = {base.__name__ for link in chain for base in type(link).__mro__}
    responses = [link.response for link in chain if getattr(link, "response", None) is not None]
    status = next((response.status_code for response in responses), None)
    forced = type(error) is ValueError and error.__cause__ is not None  # how force_download=True wraps it
    wrapped = forced or "LocalEntryNotFoundError" in names
    if any(isinstance(link, OSError) and link.errno in (28, 122) for link in chain):
        return Verdict("stop", "the disk with the video cache is full; free some space or choose another --hf-cache-dir")
    if any(isinstance(link, PermissionError) for link in chain):
        return Verdict("stop", "no permission to write the video cache; choose another --hf-cache-dir")
    if "OfflineModeIsEnabled" in names:
        return Verdict("stop", "offline mode (HF_HUB_OFFLINE) is on and the file is not in the cache; switch it off, or "
                               "use --video-dir")
    if "GatedRepoError" in names or (status == 403 and "?" not in str(responses[0].url)):  # else a signed address
        return Verdict("stop", "access refused (403): open the dataset's page on huggingface.co, accept its terms, and "
                               + LOGIN_HINT)
    if status == 401:
        return Verdict("stop", "access refused (401): the token is missing, wrong or expired, or the repository does not "
                               "exist; check --repo-id and " + LOGIN_HINT)
    if "RevisionNotFoundError" in names:
        return Verdict("stop", "the repository has no such revision (404); check --revision")
    if "RepositoryNotFoundError" in names:
        return Verdict("stop", "no such repository (404); check --repo-id")
    if "HFValidationError" in names:
        return Verdict("stop", "not a valid repository name; check --repo-id")
    if "EntryNotFoundError" in names and not wrapped:
        return Verdict("skip", "not found in the repository (404); check --repo-subdir and --revision")
    if status == 429:
        return Verdict("retry", "too many requests (429)", server_wait(responses[0].headers))
    if status == 403:
        return Verdict("retry", "the download address has expired (403)")
    if status is not None and status != 416:
        return Verdict("retry" if status >= 500 else "skip", "the server answered %d" % status)
    if "DamagedDownload" in names:
        return Verdict("retry", "the file arrived damaged (its checksum differs from the hub's)", force_download=True)
    if status == 416 or any("onsistency check failed" in str(link) for link in chain):
        return Verdict("retry", "the file arrived with the wrong length", force_download=True)
    text = " ".join([type(link).__name__ + " " + str(link) for link in chain]).lower()
    for word, reason in (("timeout", "the server stopped answering (time-out)"), ("timed out", "time-out"),
                         ("refused", "no connection"), ("client has been closed", "no connection"),
                         ("reset", "connection reset"), ("incomplete", "connection broken"),
                         ("readerror", "connection broken"), ("protocolerror", "connection broken")):
        if word in text:
            return Verdict("retry", reason, no_connection=wrapped or reason == "no connection")
    if wrapped or "ConnectionError" in names or "ConnectError" in names:
        return Verdict("retry", "no connection", no_connection=True)
    return Verdict("retry", "download failed (%s)" % type(error).__name__)


def server_wait(headers: Mapping[str, str]) -> Optional[float]:
    """Seconds that a 429 asks for: `Retry-After: 7` or `RateLimit: "api";r=0;t=7`."""
    after = re.fullmatch(r"\s*(\d+)\s*", headers.get("Retry-After") or "")
    limit = re.search(r"\bt=(\d+)", headers.get("RateLimit") or "")
    found = after or limit
    return min(float(found.group(1)), MAX_SERVER_WAIT_SECONDS) if found else None


class DamagedDownload(Exception):
    pass


def ask_hub(what: str, request: Callable[[bool], Any], say: Callable[[str], None]) -> Any:
    """Do a request of the hub's client, with retries: the only function that lets the network be used.

    `request` is called with True when what the cache holds must not be used again.

    :raises StopRun: no access, no such repository or revision, offline, disk full.
    :raises VideoError: no such file, or still failing after all retries.
    """
    os.environ["HF_HUB_ENABLE_HF_TRANSFER"] = "0"  # a second way to fetch, without retries
    try:
        from huggingface_hub import constants, file_download, utils
    except ImportError as error:
        raise StopRun("huggingface_hub cannot be imported (%s): pip install -r requirements.txt, or take the videos from "
                      "a folder with --video-dir" % error) from None
    # Its log, its warnings and its bars quote signed addresses.
    utils.logging.set_verbosity_error()
    file_download.http_get = functools.partial(file_download.http_get, displayed_filename=what.rsplit("/", 1)[-1])
    force = False
    for retry in range(len(RETRY_WAIT_SECONDS) + 1):
        try:
            return request(force)
        except NeedsWholeVideo:
            raise
        except Exception as error:  # the HTTP library behind the hub's client differs from version to version
            verdict = judge(error)
        if verdict.action == "stop":
            raise StopRun("%s: %s" % (what, verdict.reason))
        if verdict.action == "skip" or retry == len(RETRY_WAIT_SECONDS):
            tries = " (after %d retries)" % retry if retry else ""
            raise VideoError("%s: %s%s" % (what, verdict.reason, tries), verdict.no_connection)
        wait = RETRY_WAIT_SECONDS[retry] if verdict.wait_seconds is None else verdict.wait_seconds
        say("%s: %s, retry %d/%d in %g s"
            % (what.rsplit("/", 1)[-1], verdict.reason, retry + 1, len(RETRY_WAIT_SECONDS), wait))
        time.sleep(wait)
        force = force or verdict.force_download
        constants.HF_HUB_DISABLE_XET = True  # plain HTTP is the second way to the same bytes
    raise AssertionError("unreachable")


@dataclass(frozen=True)
class HubFile:
    """A file of a dataset on the hub, and how to get at it."""
    repo_id: str
    path: str
    revision: str
    token: Optional[str]
    cache_dir: Optional[str]

    def download(self, say: Callable[[str], None], any_will_do: bool = False) -> Path:
        """Its copy in the local cache, whole and checked; fetched when it is not there or, unless any will do, outdated."""
        def request(force: bool) -> Path:
            from huggingface_hub import hf_hub_download
            was_there = self.cached() is not None and not force
            path = hf_hub_download(self.repo_id, self.path, repo_type="dataset", revision=self.revision,
                                   token=self.token, cache_dir=self.cache_dir, force_download=force,
                                   local_files_only=any_will_do and not force)
            blob = os.path.realpath(path)
            expected = os.path.basename(blob)  # the cache names a large file's blob by its SHA-256
            if os.path.basename(blob) == os.path.basename(path) and not was_there:  # a cache without symbolic links, as on most Windows machines
                expected = self.metadata().etag
            check_download(path, expected)
            return Path(path)
        return ask_hub(self.path, request, say)

    def metadata(self) -> Any:
        """What the hub says of it: `size`, `etag` (SHA-256 of a large file), `commit_hash`, `location` (address)."""
        from huggingface_hub import get_hf_file_metadata
        return get_hf_file_metadata(self.url(), token=self.token, timeout=10)

    def url(self) -> str:
        from huggingface_hub import hf_hub_url
        return hf_hub_url(self.repo_id, self.path, repo_type="dataset", revision=self.revision)

    def cached(self) -> Optional[Path]:
        """Its copy in the local cache, if there is one; asks nobody."""
        try:
            from huggingface_hub import try_to_load_from_cache
        except ImportError:
            return None
        try:
            found = try_to_load_from_cache(self.repo_id, self.path, self.cache_dir, self.revision, "dataset")
        except ValueError:  # no repository can have such a name
            return None
        return Path(found) if isinstance(found, str) else None


class Stream:
    """A video of which only the bytes are fetched that the wanted frames need, into a sparse file of its full length.

    ffmpeg reads that file as any other. Its index is whole, so every frame's place is known as with a download; and
    what the decoder could not have decoded from the bytes at hand is never taken for a frame (see proven_by_time).
    """

    def __init__(self, hub_file: HubFile, local: Path, say: Callable[[str], None]):
        self.hub_file, self.local, self.say = hub_file, local, say
        self.address: Optional[str] = None
        first = ask_hub(hub_file.path, lambda force: self.ask(), say)
        self.size, self.revision = first.size, first.commit_hash
        self.hub_file = replace(hub_file, revision=self.revision)  # the branch may move on meanwhile
        with open(local, "wb") as file:
            file.truncate(self.size)

    def ask(self) -> Any:
        """Ask for the file's size, commit and signed address. The address is good for about an hour."""
        found = self.hub_file.metadata()
        if not found.size or not found.commit_hash or urlsplit(found.location).netloc == urlsplit(self.hub_file.url()).netloc:
            raise NeedsWholeVideo("the hub gives no address that needs no token")
        self.address = found.location
        return found

    def fetch(self, start: int, end: int) -> None:
        """Get the bytes from start up to, not with, end."""
        def request(force: bool) -> None:
            address = self.address or self.ask().location
            self.address = None  # asked again after any failure: it may have expired
            with open(self.local, "r+b") as file:
                file.seek(start)
                for chunk in response_chunks(address, start, end):
                    file.write(chunk)
                if file.tell() != end:
                    raise ConnectionError("incomplete read")
            self.address = address
        ask_hub(self.hub_file.path, request, self.say)

    def fetch_index(self) -> bytes:
        """Get the MP4 index, the `moov` box (ISO/IEC 14496-12), wherever it is."""
        at, have, index = 0, 0, b""
        with open(self.local, "rb", buffering=0) as file:  # a buffer would hold what was there before fetch()
            while at + 8 <= self.size:
                if at + 16 > have:
                    have = min(self.size, at + STREAM_BLOCK_BYTES)
                    self.fetch(at, have)
                file.seek(at)
                length, kind, long_length = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
                length = {0: self.size - at, 1: long_length}.get(length, length)
                if kind in (b"moof", b"sidx") or length < 8:
                    raise NeedsWholeVideo("it is fragmented, so it has no index")
                if kind == b"moov":
                    if at + length > have:
                        self.fetch(have, min(self.size, at + length))
                        have = min(self.size, at + length)
                    file.seek(at)
                    index = file.read(length)
                at += length
        return index

    def fetch_frames(self, index: bytes, packets: PacketList, wanted: Iterable[Sequence[int]]) -> None:
        """Get what ffmpeg reads for the wanted frame ids: from a key frame well before them to some packets behind.

        :raises NeedsWholeVideo: when that is most of the file, or the packets cannot be found in the index.
        """
        places = packet_places(index, [packet.size for packet in packets.packets])
        order = {packet.pts: at for at, packet in enumerate(packets.packets)}
        spans = [(0, STREAM_SLACK_PACKETS)]  # ffmpeg looks at the first packets before it seeks
        for frame_ids in wanted:
            for group in seek_groups(frame_ids, packets.key_frame_ids):
                latest = packets.pts[group[0]] - STREAM_SLACK_SECONDS / packets.time_base
                before = [at for at, packet in enumerate(packets.packets) if packet.key and packet.dts <= latest]
                spans.append((before[-1] if before else 0, order[packets.pts[group[-1]]] + STREAM_SLACK_PACKETS))
        ranges: List[Tuple[int, int]] = []
        for start, end in sorted((min(places[a:b + 1])[0], max(places[a:b + 1])[1]) for a, b in spans):
            if ranges and start <= ranges[-1][1] + STREAM_BLOCK_BYTES:
                ranges[-1] = (ranges[-1][0], max(end, ranges[-1][1]))
            else:
                ranges.append((start, end))
        total = sum(end - start for start, end in ranges)
        if total > STREAM_SHARE * self.size:
            raise NeedsWholeVideo("the frames need %.0f of its %.0f MB" % (total / 1e6, self.size / 1e6))
        for start, end in ranges:
            self.fetch(start, end)


def response_chunks(address: str, start: int, end: int) -> Iterator[bytes]:
    """A part of a file over HTTP, without any token, by the hub client's own session (requests or httpx)."""
    from huggingface_hub.utils import get_session
    session, headers = get_session(), {"Range": "bytes=%d-%d" % (start, end - 1), "Accept-Encoding": "identity"}
    if callable(getattr(session, "stream", None)):  # httpx, from huggingface_hub 1.0 on
        opened, chunks_of = session.stream("GET", address, headers=headers, timeout=15), "iter_bytes"
    else:
        opened, chunks_of = session.get(address, headers=headers, timeout=15, stream=True), "iter_content"
    with opened as response:
        response.raise_for_status()
        if response.status_code != 206:
            raise NeedsWholeVideo("the server sends whole files only")
        yield from getattr(response, chunks_of)(1 << 16)


def boxes(data: bytes, start: int, end: int) -> Iterator[Tuple[bytes, int, int]]:
    """(kind, start, end) of the contents of each MP4 box in a part of the data."""
    while start + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, start)
        if length < 8:
            return
        yield kind, start + 8, min(end, start + length)
        start += length


def packet_places(index: bytes, sizes: Sequence[int]) -> List[Tuple[int, int]]:
    """(start, end) in the file of each of the listed packets, found by their sizes in the index of one track.

    Table layouts: ISO/IEC 14496-12, 8.7 (stsz, stsc, stco, co64).

    :raises NeedsWholeVideo: when they are not found exactly once.
    """
    found: List[List[Tuple[int, int]]] = []
    tables: Dict[bytes, Tuple[int, ...]] = {}

    def walk(start: int, end: int) -> None:
        for kind, inner, inner_end in boxes(index, start, end):
            if kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
                walk(inner, inner_end)
            elif kind in (b"stsz", b"stsc", b"stco", b"co64"):
                width = 8 if kind == b"co64" else 4
                header = 12 if kind == b"stsz" else 8
                count = (inner_end - inner - header) // width
                tables[kind] = struct.unpack_from(">%d%s" % (count, "Q" if width == 8 else "I"), index, inner + header)
            if kind == b"stbl":
                found.extend(matches(tables, sizes))
                tables.clear()

    walk(0, len(index))
    if len(found) != 1:
        raise NeedsWholeVideo("its packets do not match its index")
    return found[0]


def matches(tables: Mapping[bytes, Tuple[int, ...]], sizes: Sequence[int]) -> Iterator[List[Tuple[int, int]]]:
    """The places of the packets in one track, once for each way that their sizes fit it."""
    all_sizes, chunks = tables.get(b"stsz", ()), tables.get(b"co64") or tables.get(b"stco", ())
    runs = [tables.get(b"stsc", ())[at:at + 2] for at in range(0, len(tables.get(b"stsc", ())), 3)]
    places: List[Tuple[int, int]] = []
    for number, offset in enumerate(chunks, 1):
        samples = next((count for first, count in reversed(runs) if first <= number), 0)
        for size in all_sizes[len(places):len(places) + samples]:
            places.append((offset, offset + size))
            offset += size
    for at in range(len(places) - len(sizes) + 1):
        if all_sizes[at] == sizes[0] and list(all_sizes[at:at + len(sizes)]) == list(sizes):
            yield places[at:at + len(sizes)]


def check_download(path: str, expected: str) -> None:
    """Compare a file with its SHA-256, if that is what is expected.

    :raises DamagedDownload: when they differ.
    """
    if not re.fullmatch("[0-9a-f]{64}", expected):
        return
    digest = hashlib.sha256()
    with open(path, "rb") as video:
        for block in iter(lambda: video.read(1 << 20), b""):
            digest.update(block)
    if digest.hexdigest() != expected:
        os.unlink(path)  # nothing may take it for good later
        raise DamagedDownload(path)


def commit_of(cached: Path) -> Optional[str]:
    """The commit in a path of the hub's cache: .../snapshots/COMMIT/file."""
    parts = cached.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-2] else None


# --- Video -> frames

class Packet(NamedTuple):
    """A compressed frame in the file. Times are in units of the stream's time base."""
    dts: int
    pts: int
    size: int  # bytes
    key: bool


@dataclass(frozen=True)
class PacketList:
    """The first video stream's packets in file order; frame k (from 0) of a full decode has the time pts[k]."""
    packets: Tuple[Packet, ...]
    pts: Tuple[int, ...]  # of the packets that are shown, rising
    key_frame_ids: Tuple[int, ...]
    time_base: Fraction
    complete: bool  # up to the video's end, not only past the last frame that is wanted
    regular: bool  # starts with a key frame, nothing is shown before it, no two frames at one time
    size: Tuple[int, int]  # (width, height) in pixels, before any rotation
    passthrough: Tuple[str, ...]  # this ffmpeg's way to say: neither repeat nor drop frames
    fps: Optional[float] = None


@dataclass(frozen=True)
class Video:
    name: str  # its path in the repository, for messages
    file: Path
    revision: Optional[str]
    packets: PacketList
    partial: bool = False  # the file holds only the bytes that the wanted frames need


def find_ffmpeg() -> str:
    """The ffmpeg program: on PATH, in well-known places, or in the imageio-ffmpeg package.

    :raises StopRun: when there is none.
    """
    program = "ffmpeg.exe" if os.name == "nt" else "ffmpeg"
    home = os.path.expanduser("~")
    environment_dir = os.path.dirname(sys.executable)
    places = ["/usr/bin", "/usr/local/bin", "/opt/homebrew/bin", "/snap/bin", environment_dir,
              os.path.join(sys.prefix, "Library", "bin"), "/opt/conda/bin", "/opt/conda/envs/*/bin"]
    places += [os.path.join(home, conda, bin_dir) for conda in ("miniconda3", "anaconda3", "miniforge3", "mambaforge",
                                                               "micromamba", ".conda")
               for bin_dir in ("bin", "envs/*/bin", "Library/bin", "envs/*/Library/bin")]
    places += ["C:/ffmpeg/bin", "C:/Program Files/ffmpeg/bin", "C:/ProgramData/chocolatey/bin",
               os.path.join(home, "scoop", "shims"), os.path.join(home, "AppData/Local/Microsoft/WinGet/Links")]
    on_path = shutil.which("ffmpeg")
    if on_path:
        return on_path
    for place in places:
        for found in sorted(glob.glob(os.path.join(place, program))):
            if os.access(found, os.X_OK):
                return found
    try:
        import imageio_ffmpeg
        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        raise StopRun("ffmpeg not found. Install it with: pip install imageio-ffmpeg (or: apt install ffmpeg, brew "
                      "install ffmpeg, winget install ffmpeg)") from None


held_signals: Optional[List[int]] = None


def on_signal(number: int, _: Any = None) -> None:
    """SIGINT and SIGTERM end the run, but not between the start of a child and the moment when we know it."""
    if held_signals is not None:
        held_signals.append(number)
    elif number == signal.SIGINT:
        raise KeyboardInterrupt
    else:
        raise Terminated


def hold_signals(hold: bool) -> None:
    global held_signals
    arrived = held_signals  # the list itself: a signal may still get into it before the next line
    held_signals = [] if hold else None
    for number in arrived or ():
        on_signal(number)


def run_child(command: Sequence[str], consume: Callable[[Iterator[bytes]], Any]) -> Tuple[int, Any, List[str]]:
    """Run a command, the only way that a child process starts: (exit code, what `consume` made of its output, its log).

    `consume` gets the output in chunks; when it returns early the child is ended, and so it is by any exception.

    :raises SequenceError: when the child says nothing for SILENT_CHILD_SECONDS.
    :raises StopRun: when it cannot be started.
    """
    environment = {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES}
    hold_signals(True)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 env=environment, start_new_session=True)
    except OSError as error:
        hold_signals(False)
        raise StopRun("%s cannot be started: %s" % (command[0], error.strerror)) from None
    assert child.stdout and child.stderr
    last_sign, log, ended, hung = [time.monotonic()], [], threading.Event(), threading.Event()

    def chunks() -> Iterator[bytes]:
        for chunk in iter(lambda: child.stdout.read1(1 << 18), b""):
            last_sign[0] = time.monotonic()
            yield chunk

    def read_log() -> None:
        for line in child.stderr:
            last_sign[0] = time.monotonic()
            log.append(line.decode("utf-8", "replace").rstrip())

    def kill() -> None:
        try:  # with whatever it started itself: ffmpeg may be a wrapper script
            os.killpg(child.pid, signal.SIGKILL) if hasattr(os, "killpg") else child.kill()
        except ProcessLookupError:
            pass

    def watch() -> None:
        while not ended.wait(min(1.0, SILENT_CHILD_SECONDS)):
            if time.monotonic() - last_sign[0] > SILENT_CHILD_SECONDS:
                hung.set()
                kill()
                return

    threads = [threading.Thread(target=work, daemon=True) for work in (read_log, watch)]
    for thread in threads:
        thread.start()
    try:
        hold_signals(False)
        result = consume(chunks())
        if child.stdout.read(1):  # consume had enough
            kill()
        code = child.wait()
    finally:
        if child.poll() is None:
            kill()
        child.wait()
        ended.set()
        for thread in threads:
            thread.join()
        child.stdout.close()
        child.stderr.close()
    if hung.is_set():
        raise SequenceError("ffmpeg said nothing for %g s and was ended; is the disk or the network stuck?"
                            % SILENT_CHILD_SECONDS)
    return code, result, log


def input_arguments(video: Path) -> List[str]:
    """How ffmpeg is given a video: as that file, never as a protocol, playlist or option, whatever it is called or holds."""
    return ["-f", "mp4", "-protocol_whitelist", "file", "-i", "file:" + os.path.abspath(video)]


def listing_command(ffmpeg: str, video: Path, partial: bool) -> List[str]:
    """List the packets of the first video stream that is no cover picture, without decoding, in the file's own time.

    Of a partial file the index alone is believed: a parser would look for key frames in bytes that are not there.
    """
    no_parser = ["-fflags", "+noparse+nofillin"] if partial else []
    return [ffmpeg, "-nostdin", "-hide_banner", "-nostats", "-loglevel", "repeat+level+info", "-copyts",
            *no_parser, *input_arguments(video), "-map", "0:V:0", "-c", "copy", "-copyinkf", "-f", "framecrc", "-"]


def parse_packet_list(chunks: Iterable[bytes], last_wanted: int) -> PacketList:
    """Read `ffmpeg -f framecrc` output until frame `last_wanted` has been passed.

    A packet line reads `stream, dts, pts, duration, size, crc[, F=0xNN]`: no F means a key frame, 0x1 in it too, 0x2 a
    damaged packet, 0x4 one that an edit list hides (libavformat/framecrcenc.c, libavcodec/packet.h). Packets come in
    the order of their dts, and none is shown before its dts, so a dts past the next frame's pts ends the search.
    """
    packets: List[Packet] = []
    visible: List[Tuple[int, bool]] = []
    time_base, size, version, regular, complete = Fraction(0), (0, 0), (0, 0), True, True
    for line in lines_of(chunks):
        if line.startswith("#"):
            base = re.match(r"#tb 0: (\d+)/(\d+)", line)
            time_base = Fraction(int(base.group(1)), int(base.group(2))) if base else time_base
            dimensions = re.match(r"#dimensions 0: (\d+)x(\d+)", line)
            size = (int(dimensions.group(1)), int(dimensions.group(2))) if dimensions else size
            software = re.match(r"#software: Lavf(\d+)\.(\d+)", line)
            version = (int(software.group(1)), int(software.group(2))) if software else version
            continue
        fields = line.split(",")
        flags = next((int(part.split("x")[1], 16) for part in fields[6:] if "F=0x" in part), 1)
        try:
            packet = Packet(int(fields[1]), int(fields[2]), int(fields[4]), bool(flags & 1))
        except ValueError:  # NOPTS: no time, no place
            regular = False
            continue
        packets.append(packet)
        regular = regular and not flags & 2
        if not flags & 4:
            visible.append((packet.pts, packet.key))
        if len(visible) > last_wanted + 2 and len(packets) % 64 == 0:
            if sorted(visible)[last_wanted + 1][0] < packet.dts:
                complete = False
                break
    visible.sort()
    pts = tuple(time for time, _ in visible)
    regular = (regular and bool(pts) and packets[0].key and pts[0] >= packets[0].pts and len(set(pts)) == len(pts))
    # -fps_mode came with ffmpeg 5.1 (libavformat 59.27), and -vsync, its name before, went with 9.
    passthrough = ("-fps_mode", "passthrough") if version >= (59, 27) else ("-vsync", "0")
    key_frame_ids = tuple(k for k, (_, key) in enumerate(visible) if key)
    return PacketList(tuple(packets), pts, key_frame_ids, time_base, complete, regular, size, passthrough)


def lines_of(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.decode("ascii", "replace") for line in lines)
    if rest:
        yield rest.decode("ascii", "replace")


def open_video(ffmpeg: str, file: Path, name: str, revision: Optional[str], last_wanted: int,
               partial: bool = False) -> Video:
    """List a video's packets, as far as the last wanted frame id.

    :raises VideoError: when ffmpeg finds no video in it, or finds it cut short.
    """
    code, packets, log = run_child(listing_command(ffmpeg, file, partial), lambda chunks: parse_packet_list(chunks, last_wanted))
    words = ffmpeg_words(log, file, name)
    if not packets.pts or (packets.complete and code != 0):
        raise VideoError("%s cannot be decoded: %s" % (name, words or "it holds no video frames"))
    if any("partial file" in line for line in log):
        raise VideoError("%s is cut short (%s); get it again" % (name, words))
    described = " ".join(log).rpartition("Output #0")[2]
    fps = re.search(r"Video: .*?, ([\d.]+)(k?) fps", described)
    rate = float(fps.group(1)) * (1000 if fps.group(2) else 1) if fps else None
    return Video(name, file, revision, replace(packets, fps=rate), partial)


def ffmpeg_words(log: Iterable[str], file: Path, name: str) -> str:
    """What ffmpeg calls errors in its log, with the video under its own name."""
    errors = [line for line in log if re.search(r"\[(error|fatal|panic)\]", line) and not DECODED_LINE.fullmatch(line)]
    texts = [re.sub(r"^(\[[^\]]*\] )+", "", line).replace("file:" + os.path.abspath(file), name) for line in errors]
    return "; ".join(list(dict.fromkeys(texts))[:3])


DECODED_LINE = re.compile(r"(?:\[Eval @ \w+\] )?\[error\] (-?\d+)\.\d+")


class Decoded(NamedTuple):
    """One frame as it came out of the decoder, whether it was wanted or not."""
    n: int  # its number in this call, from 0
    pts: int
    key: bool


def read_decode_log(log: Sequence[str], is_last: Callable[[Decoded], bool]) -> Tuple[List[Decoded], List[str], List[str]]:
    """(frames decoded up to the last wanted one, the other lines before the first of them, those between them)."""
    decoded: List[Decoded] = []
    numbers: List[int] = []
    before: List[str] = []
    between: List[str] = []
    for line in log:
        number_line = DECODED_LINE.fullmatch(line)
        if number_line is None:
            (between if decoded else before).append(line)
            continue
        numbers.append(int(number_line.group(1)))
        if len(numbers) == 3:
            decoded.append(Decoded(numbers[0], numbers[1], bool(numbers[2])))
            numbers = []
            if is_last(decoded[-1]):
                break
    return decoded, before, between


def seek_groups(frame_ids: Sequence[int], key_frame_ids: Sequence[int]) -> List[List[int]]:
    """Split rising frame ids into runs for one ffmpeg call each: decode on while that is cheaper than to seek again."""
    groups = [[frame_ids[0]]]
    for previous, wanted in zip(frame_ids, frame_ids[1:]):
        way_from_key_frame = wanted - last_at(key_frame_ids, wanted)
        if wanted - previous <= way_from_key_frame + SEEK_COST_FRAMES and len(groups[-1]) < MAX_FRAMES_PER_CALL:
            groups[-1].append(wanted)
        else:
            groups.append([wanted])
    return groups


def last_at(rising: Sequence[int], limit: int) -> int:
    """The last of the rising numbers that is not above the limit, 0 when there is none."""
    at = bisect.bisect_right(rising, limit)
    return rising[at - 1] if at else 0


def extraction_command(ffmpeg: str, video: Video, frame_ids: Sequence[int], seek: bool) -> List[str]:
    """Write the wanted frames as PNG, one after the other, to standard output, and all decoded frames to the log.

    With `seek`, a frame is wanted by its exact time in the file (-copyts keeps that) and decoding starts at a key frame
    before the first; without, by its place in a decode from the start. `print` has a log level for a second argument
    and says for each frame its number, time and whether the decoder took it for a key frame (ffmpeg-utils, Expression
    Evaluation). Level 1 with the `up` filter: half the time and three quarters of the size of ffmpeg's default PNG.
    """
    packets, first = video.packets, frame_ids[0]
    terms = ["eq(pts,%d)" % packets.pts[k] if seek else "eq(n,%d)" % k for k in frame_ids]
    while len(terms) > 1:  # ffmpeg takes a sum of 100 terms at most, but sums of sums
        terms = ["(%s)" % "+".join(terms[at:at + 20]) for at in range(0, len(terms), 20)]
    start: List[str] = []
    if seek and last_at(packets.key_frame_ids, first) > 0:
        neighbour = packets.pts[first + 1] if first + 1 < len(packets.pts) else packets.pts[first] + 1
        seconds = (packets.pts[first] + neighbour) * packets.time_base / 2
        start = ["-noaccurate_seek", "-seek_timestamp", "1", "-ss", "%.6f" % seconds]
    return [ffmpeg, "-nostdin", "-hide_banner", "-nostats", "-loglevel", "repeat+level+error", "-copyts", *start,
            *input_arguments(video.file), "-map", "0:V:0",
            "-vf", "select='print(n,16)*0+print(pts,16)*0+print(key,16)*0+" + terms[0] + "',settb=1,setpts=N", *packets.passthrough,
            "-frames:v", str(len(frame_ids)), "-c:v", "png", "-compression_level", "1", "-pred", "up",
            "-pix_fmt", "rgb24", "-f", "image2pipe", "-"]


def proven_by_time(decoded: Sequence[Decoded], pts: Sequence[int], frame_ids: Sequence[int]) -> bool:
    """Whether a decode that started somewhere shows the wanted frames for certain.

    It does when the decoder met a frame that it calls a key frame, not behind the first wanted one, and every packet
    from there to the last wanted one gave one frame, in turn. Then no frame was lost, doubled, or made from a picture
    that the decoder never saw, and frame k is the k-th of the file.
    """
    places = {time: k for k, time in enumerate(pts[:frame_ids[-1] + 1])}
    run = [(places.get(frame.pts, -1), frame.key) for frame in decoded]
    starts = [at for at, (place, key) in enumerate(run) if key and 0 <= place <= frame_ids[0]]
    if not starts or [frame.n for frame in decoded] != list(range(len(decoded))):
        return False
    start = run[starts[-1]][0]
    expected = list(range(start, frame_ids[-1] + 1))
    return [place for place, _ in run[starts[-1]:starts[-1] + len(expected)]] == expected


def extract_frames(ffmpeg: str, video: Video, frame_ids: Sequence[int], keep: Callable[[int, bytes], None],
                   settle: Callable[[Sequence[int]], None]) -> None:
    """Get frames by 0-based id: keep(id, png) for each as it comes, settle(ids) once their places are established.

    :raises SequenceError: when the video cannot be decoded.
    :raises VideoEnds: when it has fewer frames.
    :raises NeedsWholeVideo: when part of the video is not enough to be sure.
    """
    todo = list(frame_ids)
    if video.packets.regular:
        for group in seek_groups(frame_ids, video.packets.key_frame_ids):
            count, decoded, errors = decode(ffmpeg, video, group, True, keep)
            if errors or count != len(group) or not proven_by_time(decoded, video.packets.pts, group):
                break  # this stream cannot be entered in the middle, or its list does not tell the truth
            settle(group)
            todo = todo[len(group):]
    if todo and video.partial:
        raise NeedsWholeVideo("frames %d to %d cannot be proven from a part of it" % (todo[0], todo[-1]))
    for start in range(0, len(todo), MAX_FRAMES_PER_CALL):
        group = todo[start:start + MAX_FRAMES_PER_CALL]
        count, decoded, errors = decode(ffmpeg, video, group, False, keep)
        if errors:
            raise SequenceError("%s cannot be decoded without errors: %s" % (video.name, errors))
        if [frame.n for frame in decoded] != list(range(len(decoded))):
            raise SequenceError("%s changes its picture format on the way to frame %d; such videos are not supported"
                                % (video.name, group[-1]))
        if count != len(group):
            raise VideoEnds(len(decoded))
        settle(group)


@functools.lru_cache(maxsize=1)
def frame_count(ffmpeg: str, video: Video) -> int:
    """How many frames a completely listed video shows; its last frame is decoded, for a packet may be half a frame."""
    try:
        extract_frames(ffmpeg, video, [len(video.packets.pts) - 1], lambda k, png: None, lambda ids: None)
    except VideoEnds as error:
        return error.frame_count
    return len(video.packets.pts)


def decode(ffmpeg: str, video: Video, frame_ids: Sequence[int], seek: bool,
           keep: Callable[[int, bytes], None]) -> Tuple[int, List[Decoded], str]:
    """One ffmpeg call: (images that came, frames that were decoded, ffmpeg's words if it met errors)."""
    def consume(chunks: Iterator[bytes]) -> int:
        count = 0
        for count, png in enumerate(split_pngs(chunks), 1):
            if count <= len(frame_ids):
                keep(frame_ids[count - 1], png)
        return count

    packets, last = video.packets, frame_ids[-1]
    code, count, log = run_child(extraction_command(ffmpeg, video, frame_ids, seek), consume)
    decoded, before, between = read_decode_log(
        log, lambda frame: frame.pts == packets.pts[last] if seek else frame.n == last)
    # A stream that was cut in the middle starts with pictures that nobody can decode: ffmpeg drops them, with an error,
    # before it shows the first frame. Anywhere else an error means damage.
    words = ffmpeg_words((before if packets.regular or not decoded else []) + between, video.file, video.name)
    if code != 0 and count != len(frame_ids):
        words = words or "ffmpeg ended with exit code %d" % code
    return count, decoded, words


def split_pngs(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The whole PNG files in a stream of them."""
    buffer = bytearray()
    for chunk in chunks:
        searched = max(0, len(buffer) - len(PNG_END))
        buffer += chunk
        end = buffer.find(PNG_END, searched)
        while end >= 0:
            end += len(PNG_END)
            yield bytes(buffer[:end])
            del buffer[:end]
            end = buffer.find(PNG_END)


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
    """The target with a margin, cut to the image: (left, top, right, bottom) in pixels, at least one pixel."""
    x1, y1, x2, y2 = to_pixels(bbox, width, height)
    margin_x, margin_y = CROP_MARGIN * (x2 - x1), CROP_MARGIN * (y2 - y1)
    left, top = min(max(0, int(x1 - margin_x)), width - 1), min(max(0, int(y1 - margin_y)), height - 1)
    right, bottom = min(width, int(x2 + margin_x)), min(height, int(y2 + margin_y))
    return left, top, max(right, left + 1), max(bottom, top + 1)


@functools.lru_cache(maxsize=None)
def can_draw() -> bool:
    """Whether OpenCV or Pillow is installed. Nothing is imported: a run that has nothing to draw need not wait for it."""
    return any(importlib.util.find_spec(name) for name in ("cv2", "PIL"))


def import_drawing_library() -> None:
    try:
        import cv2  # noqa: F401
    except ImportError:
        pass


def draw(png: bytes, bbox: Box) -> Tuple[bytes, Optional[bytes]]:
    """(f00_ann.png, crop.png) for f00.png; without a drawing library a plain copy, and no crop."""
    if not can_draw():
        return png, None
    try:
        return draw_with_opencv(png, bbox)
    except ImportError as error:
        if importlib.util.find_spec("PIL"):
            return draw_with_pillow(png, bbox)
        raise StopRun("OpenCV cannot be imported (%s): pip install opencv-python-headless, or Pillow" % error) from None


def draw_with_opencv(png: bytes, bbox: Box) -> Tuple[bytes, bytes]:
    import cv2
    import numpy
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
    return cv2.imencode(".png", image, encoding)[1].tobytes(), cv2.imencode(".png", crop, encoding)[1].tobytes()


def draw_with_pillow(png: bytes, bbox: Box) -> Tuple[bytes, bytes]:
    from PIL import Image, ImageDraw
    image = Image.open(io.BytesIO(png)).convert("RGB")
    crop = image.crop(crop_edges(bbox, *image.size))
    x1, y1, x2, y2 = corners = overlay_corners(bbox, *image.size)
    pen = ImageDraw.Draw(image)
    # OpenCV draws a line of thickness 2 three pixels wide, and rounds the corners off by one pixel.
    for edge in ((x1, y1 - 1, x2, y1 + 1), (x1, y2 - 1, x2, y2 + 1), (x1 - 1, y1, x1 + 1, y2), (x2 - 1, y1, x2 + 1, y2)):
        pen.rectangle(edge, fill=GREEN)
    font, (x, y) = pillow_font(14), label_origin(corners)
    pen.text((x, y - pen.textbbox((0, 0), LABEL_TEXT, font=font)[3]), LABEL_TEXT, fill=GREEN, font=font)
    return pillow_png(image), pillow_png(crop)


def pillow_font(size: int) -> Any:
    from PIL import ImageFont
    try:
        return ImageFont.load_default(size)
    except TypeError:  # before Pillow 10.1 there is one size only
        return ImageFont.load_default()


def pillow_png(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


# --- Metadata and manifest

@dataclass(frozen=True)
class Target:
    """What this run wants of a sequence, and where its video comes from."""
    sequence: SotSequence
    frame_ids: Tuple[int, ...]
    repo_id: str
    path: str  # of the video in the repository
    revision: Optional[str]  # a commit that the user asked for, None when any will do
    stride: Optional[int] = None  # as asked for, None for auto
    gt_stub: bool = False
    contact_sheet: bool = False


def sequence_meta(target: Target, frame_ids: Sequence[int], revision: Optional[str], clip_fps: Optional[float],
                  image_size: Optional[Sequence[int]]) -> Dict[str, Any]:
    """The contents of sequence_meta.json. `image_size` is [width, height] in pixels."""
    sequence = target.sequence
    return {
        "seq_id": sequence.seq_id,
        "label": "%s/%s/%d/obj%s" % (sequence.scene, sequence.camera, sequence.init_frame_id, sequence.object_id),
        "scene": sequence.scene,
        "camera": sequence.camera,
        "object_id": sequence.object_id,
        "object_type": sequence.object_type,
        "init_frame_id": sequence.init_frame_id,
        "init_bbox": list(sequence.init_bbox),
        "frame_ids": list(frame_ids),
        "nframes": len(frame_ids),
        "stride": common_stride(frame_ids),
        "clip_fps": clip_fps if sequence.clip_fps is None else sequence.clip_fps,
        "gt_available": False,
        "image_size": image_size,
        "source": {"repo_id": target.repo_id, "path": target.path, "revision": revision},
    }


def gt_requests(targets: Sequence[Target], ready: Mapping[str, Optional[float]], benchmark: str, repo_id: str,
                repo_subdir: str, nframes: int, stride: Optional[int]) -> Dict[str, Any]:
    """The contents of gt_requests.json, in benchmark order. `ready` has the clip_fps of each ready seq_id."""
    custom = any(set(target.frame_ids) - set(target.sequence.canonical_frame_ids) for target in targets)
    entries = []
    for target in targets:
        if target.sequence.seq_id in ready:
            meta = sequence_meta(target, target.frame_ids, None, ready[target.sequence.seq_id], None)
            entries.append({key: meta[key] for key in (
                "seq_id", "scene", "camera", "object_id", "object_type", "init_frame_id", "frame_ids", "nframes",
                "stride", "clip_fps")})
    return {
        "format_version": 1,
        "benchmark": benchmark,
        "repo_id": repo_id,
        "repo_subdir": repo_subdir,
        "nframes": nframes,
        "stride": stride,
        "submission_required": custom,
        "missing": [target.sequence.seq_id for target in targets if target.sequence.seq_id not in ready],
        "requests": entries,
    }


def gt_stub(meta: Mapping[str, Any]) -> Dict[str, Any]:
    """The contents of gt.json, by which the evaluator's loader finds a sequence: public facts, no ground truth.

    Its frame ids count the prepared images, so the only box, the initial one, has the key "0".
    """
    facts = {key: meta[key] for key in ("label", "scene", "camera", "object_id", "object_type")}
    return {**facts, "frame_ids": list(range(meta["nframes"])), "source_frame_ids": meta["frame_ids"],
            "init_bbox": meta["init_bbox"], "gt_bboxes": {"0": meta["init_bbox"]}}


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
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=88)
    return file.getvalue()


# --- Ready or not

def frame_path(directory: str, index: int) -> str:
    return os.path.join(directory, "frames", "f%02d.png" % index)


def annotated_path(directory: str) -> str:
    return os.path.join(directory, "frames", "f00_ann.png")


def crop_path(directory: str) -> str:
    return os.path.join(directory, "frames", "crop.png")


def png_size(path: str) -> Optional[Tuple[int, int]]:
    """(width, height) of a PNG file that is there and whole, else None."""
    try:
        if not os.path.isfile(path):  # opening a named pipe would wait for ever
            return None
        with open(path, "rb", buffering=0) as file:
            head = file.read(24)
            file.seek(-len(PNG_END), os.SEEK_END)
            whole = head[:8] == PNG_SIGNATURE and file.read() == PNG_END
    except OSError:
        return None
    return png_header_size(head) if whole else None


def png_header_size(head: bytes) -> Tuple[int, int]:
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def jpeg_is_whole(path: str) -> bool:
    try:
        with open(path, "rb", buffering=0) as file:
            starts = file.read(2) == b"\xff\xd8"
            file.seek(-2, os.SEEK_END)
            return starts and file.read() == b"\xff\xd9"
    except OSError:
        return False


def read_object(path: str) -> Dict[str, Any]:
    """The JSON object in a file; an empty one when it is missing or anything else."""
    try:
        if not os.path.isfile(path):
            return {}
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def why_not_ready(directory: str, target: Target) -> Optional[str]:
    """Why a sequence is not what this run would write, None when it is: the one judge, before the work and after it.

    More frames of the same series are as good: the evaluator reads the first ones.
    """
    for folder in (directory, os.path.join(directory, "frames")):
        if os.path.islink(folder):
            return "%s is a symbolic link; remove it" % folder
        if not os.path.isdir(folder):
            return "not prepared yet"
    meta = read_object(os.path.join(directory, META_NAME))
    if not meta:
        return "no whole " + META_NAME
    frame_ids, source, image_size = meta.get("frame_ids"), meta.get("source"), meta.get("image_size")
    if (rising_ids(frame_ids) or ())[:len(target.frame_ids)] != target.frame_ids:
        return "prepared with other frame ids (see --nframes and --stride)"
    revision = source.get("revision") if isinstance(source, dict) else None
    if target.revision and revision != target.revision:
        return "prepared from another revision (see --revision)"
    expected = sequence_meta(target, frame_ids, revision, meta.get("clip_fps"), image_size)
    for key in {**expected, **meta}:
        if key not in meta or key not in expected or meta[key] != expected[key]:
            return "prepared with another %s" % key
    names = [frame_path(directory, index) for index in range(len(target.frame_ids))] + [annotated_path(directory)]
    for path in names:
        if list(png_size(path) or "?") != image_size:
            return "%s is missing or broken" % os.path.basename(path)
    if can_draw() and not png_size(crop_path(directory)):
        return "crop.png is missing or broken"
    if target.gt_stub and read_object(os.path.join(directory, "gt.json")) != gt_stub(meta):
        return "gt.json is missing or differs"
    if target.contact_sheet and not jpeg_is_whole(os.path.join(directory, "contact_sheet.jpg")):
        return "contact_sheet.jpg is missing or broken"
    return None


def stage(path: str, data: bytes) -> str:
    """Write data beside a path, under a name that nothing else uses, and return that name."""
    temporary = os.path.join(os.path.dirname(path), TEMPORARY_PREFIX + os.urandom(6).hex())
    try:
        with open(temporary, "xb") as file:
            file.write(data)
    except BaseException as error:
        remove(temporary)
        if isinstance(error, OSError):
            raise StopRun("%s cannot be written: %s; once there is room and permission, the same command goes on"
                          % (path, error.strerror)) from None
        raise
    return temporary


def put(staged: str, path: str) -> bool:
    """Every file of the output gets its name here, complete. False when another run took the staged file for a left one."""
    try:
        os.replace(staged, path)
    except FileNotFoundError:
        return False
    except OSError as error:
        remove(staged)
        raise StopRun("%s cannot be written: %s" % (path, error.strerror)) from None
    return True


def write_file(path: str, data: bytes) -> None:
    while not put(stage(path, data), path):
        pass


def write_json(path: str, value: Mapping[str, Any]) -> None:
    write_file(path, (json.dumps(value, indent=2) + "\n").encode("ascii"))


def remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def tidy(*folders: str) -> None:
    """Remove what a killed run left behind."""
    for folder in folders:
        with os.scandir(folder) as entries:
            left = [entry.path for entry in entries if not entry.is_dir(follow_symlinks=False)
                    and (entry.name.startswith(TEMPORARY_PREFIX) or entry.name == UNFINISHED_NAME)]
        for path in left:
            remove(path)


# --- One sequence, then the loop

def prepare_sequence(directory: str, target: Target, ffmpeg: Callable[[], str], get_video: Callable[[str], Video],
                     on_frame: Callable[[int], None]) -> None:
    """Make a sequence ready, reusing what is right already; the video is asked for only when frames are missing.

    `get_video` takes the reason why part of a streamed video will not do, if that is so.
    Until sequence_meta.json says what the images are, UNFINISHED_NAME says what they are meant to be, so that a later
    run knows which of them it can trust.

    :raises SequenceError: with the reason why it cannot be done.
    """
    frames_dir = os.path.join(directory, "frames")
    for folder in (directory, frames_dir):
        if os.path.islink(folder):
            raise SequenceError("%s is a symbolic link; remove it" % folder)
    meta = read_object(os.path.join(directory, META_NAME))
    longer = replace(target, frame_ids=rising_ids(meta.get("frame_ids")) or (), gt_stub=False, contact_sheet=False)
    if longer.frame_ids[:len(target.frame_ids)] == target.frame_ids and why_not_ready(directory, longer) is None:
        target = replace(target, frame_ids=longer.frame_ids)  # more frames than are wanted: all stay
    stored, statement, right = what_is_there(directory, target)
    if lacks_frames(target, statement, right):
        video = get_video("")
        statement = sequence_meta(target, target.frame_ids, video.revision, video.packets.fps, None)
        right = right_frames(directory, stored, statement)
        if video.packets.complete and target.frame_ids[-1] >= len(video.packets.pts):
            try:
                count = frame_count(ffmpeg(), video)
            except NeedsWholeVideo as error:
                count = frame_count(ffmpeg(), get_video(str(error)))
            raise SequenceError(too_short(target, count))
    os.makedirs(frames_dir, exist_ok=True)
    drawn = 0 in right and stored.get("init_bbox") == statement["init_bbox"]
    if {**stored, "image_size": None} != statement:
        stale = [frame_path(directory, index) for index in range(len(target.frame_ids)) if index not in right]
        stale += [os.path.join(frames_dir, name) for name in os.listdir(frames_dir)
                  if re.fullmatch(r"f\d{2,}\.png", name) and int(name[1:-4]) >= len(target.frame_ids)]
        stale += [] if drawn else [annotated_path(directory), crop_path(directory)]
        stale += [os.path.join(directory, name) for name in ("gt.json", "contact_sheet.jpg", META_NAME)]
        for path in stale:
            remove(path)
        write_json(os.path.join(directory, UNFINISHED_NAME), statement)
    first_png = b""
    if len(right) < len(target.frame_ids):
        index_of = {k: index for index, k in enumerate(target.frame_ids)}
        staged: Dict[int, str] = {}

        def keep(k: int, png: bytes) -> None:
            nonlocal first_png
            if sorted(png_header_size(png)) != sorted(video.packets.size):
                raise SequenceError("%s changes its picture size on the way to frame %d; such videos are not supported"
                                    % (video.name, k))
            if index_of[k] == 0:
                first_png = png
            if k in staged:
                remove(staged[k])
            staged[k] = stage(frame_path(directory, index_of[k]), png)
            on_frame(index_of[k] + 1)

        def settle(frame_ids: Sequence[int]) -> None:
            for k in frame_ids:
                path = frame_path(directory, index_of[k])
                if not put(staged.pop(k), path) and not png_size(path):
                    raise SequenceError("%s was taken away by another program" % path)

        missing = [k for k, index in index_of.items() if index not in right]
        try:
            try:
                extract_frames(ffmpeg(), video, missing, keep, settle)
            except NeedsWholeVideo as error:
                extract_frames(ffmpeg(), get_video(str(error)), missing, keep, settle)
        except VideoEnds as error:
            raise SequenceError(too_short(target, error.frame_count)) from None
        finally:
            for path in staged.values():
                remove(path)
    finish_sequence(directory, target, statement, first_png, drawn)


def what_is_there(directory: str, target: Target) -> Tuple[Dict[str, Any], Dict[str, Any], List[int]]:
    """(what is stored about the images, what is to be stored if no frame is missing, the indices of the right frames)."""
    stored = read_object(os.path.join(directory, META_NAME)) or read_object(os.path.join(directory, UNFINISHED_NAME))
    source = stored.get("source")
    revision = source.get("revision") if isinstance(source, dict) else None
    statement = sequence_meta(target, target.frame_ids, revision, stored.get("clip_fps"), None)
    return stored, statement, right_frames(directory, stored, statement)


def lacks_frames(target: Target, statement: Mapping[str, Any], right: Sequence[int]) -> bool:
    other_revision = target.revision is not None and target.revision != statement["source"]["revision"]
    return len(right) < len(target.frame_ids) or other_revision


def too_short(target: Target, frame_count: int) -> str:
    """What to tell about a sequence that asks for frames past the end of its video."""
    remedies = what_fits(target.sequence, len(target.frame_ids), target.stride, frame_count)
    return "asks for frame %d, but the video has %d frames (0 to %d); %s" % (
        target.frame_ids[-1], frame_count, frame_count - 1, " or ".join(remedies) + " would fit" if remedies else
        "its initial frame %d is past the end: is this the right video?" % target.sequence.init_frame_id)


def right_frames(directory: str, stored: Mapping[str, Any], statement: Mapping[str, Any]) -> List[int]:
    """The indices of the frames on disk that are whole and, by what is stored about them, the ones wanted."""
    if any(stored.get(key) != statement[key] for key in ("source", "scene", "camera")):
        return []
    stored_ids = stored.get("frame_ids")
    pairs = zip(stored_ids if isinstance(stored_ids, list) else [], statement["frame_ids"])
    sizes = {index: png_size(frame_path(directory, index)) for index, (stored_id, wanted) in enumerate(pairs)
             if stored_id == wanted}
    size = tuple(stored["image_size"]) if isinstance(stored.get("image_size"), list) else sizes.get(0)
    return [index for index in sizes if sizes[index] and sizes[index] == size]


def finish_sequence(directory: str, target: Target, statement: Dict[str, Any], first_png: bytes, drawn: bool) -> None:
    """Everything that follows from the frames, sequence_meta.json last."""
    paths = [frame_path(directory, index) for index in range(len(target.frame_ids))]
    sizes = {png_size(path) for path in paths}
    if len(sizes) != 1:
        raise SequenceError("the video's picture changes its size: %s" % ", ".join("%dx%d" % size for size in sizes if size))
    size = sizes.pop()
    annotated, crop = annotated_path(directory), crop_path(directory)
    if not (drawn and png_size(annotated) == size and (png_size(crop) or not can_draw())):
        annotated_png, crop_png = draw(first_png or Path(paths[0]).read_bytes(), target.sequence.init_bbox)
        write_file(annotated, annotated_png)
        if crop_png:
            write_file(crop, crop_png)
    meta = {**statement, "image_size": list(size)}
    if target.gt_stub:
        write_json(os.path.join(directory, "gt.json"), gt_stub(meta))
    if target.contact_sheet:
        titles = [("f00, target marked", annotated), ("the target", crop)]
        titles += [("frame %d" % k, path) for k, path in zip(target.frame_ids, paths)]
        write_file(os.path.join(directory, "contact_sheet.jpg"),
                   contact_sheet([(title, Path(path)) for title, path in titles if os.path.exists(path)]))
    write_json(os.path.join(directory, META_NAME), meta)
    tidy(directory, os.path.join(directory, "frames"))


class Reporter:
    """What a person sees: a bar on a terminal, plain lines elsewhere, nothing raw from the input in either."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self.bar: Any = None
        self.done = self.total = 0
        self.started = 0.0

    def say(self, text: str) -> None:
        if not self.quiet:
            self.write(text)

    def error(self, text: str) -> None:
        for line in text.split("\n"):
            self.write("ERROR: " + line)

    def write(self, text: str) -> None:
        if self.bar is not None:
            self.bar.clear()
        print(printable(text), file=sys.stderr, flush=True)

    def start(self, total: int) -> None:
        self.total, self.started = total, time.time()
        self.open_bar()

    def open_bar(self) -> None:
        if self.quiet or not self.total or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            return
        try:
            from tqdm import tqdm
        except ImportError:
            return
        self.bar = tqdm(total=self.total, initial=self.done, file=sys.stderr, dynamic_ncols=True, leave=False,
                        bar_format="{n_fmt}/{total_fmt} [{elapsed}<{remaining}] {bar:10}{postfix}")
        self.bar.start_t, self.bar.initial = self.started, 0

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def frame(self, seq_id: str, count: int, nframes: int) -> None:
        if self.bar is not None:
            self.bar.set_postfix_str("%s, frame %d/%d" % (seq_id, count, nframes))

    def sequence(self, seq_id: str, result: str) -> None:
        self.done += 1
        if self.bar is not None:
            self.bar.update()
        else:
            self.say("[%d/%d] %s: %s" % (self.done, self.total, seq_id, result))

    @contextmanager
    def video(self, text: str) -> Iterator[None]:
        """Say which video is being got, and leave the terminal's last line to the download's own bar."""
        self.close()
        self.say(text)
        try:
            yield
        finally:
            self.open_bar()


def printable(text: str) -> str:
    """The text without anything that could steer a terminal: control and bidirectional characters, lone surrogates."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def shown(value: Any) -> str:
    """A short form of a value from the input, for messages; nothing nested, for that may hold ground truth."""
    if isinstance(value, dict) or isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        return json_type(value)
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = json_type(value)
    return text if len(text) <= 100 else text[:97] + "..."


def make_demo(ffmpeg: Callable[[], str], source_dir: Path, say: Callable[[str], None]) -> None:
    """Film a synthetic warehouse floor with a moving robot, and write a benchmark of it in three flavours.

    The video is made with ffmpeg's own encoder and sources, so that any build of it will do.
    """
    width, height, seconds, start_x, start_y, speed = 1280, 720, 12, 120, 300, 2
    scene, camera, target_width, target_height = "Demo_000", "Camera_01", 90, 150
    video = source_dir / DEFAULT_REPO_SUBDIR / "val" / scene / "videos" / (camera + ".mp4")
    floor = ("color=c=0x9a938a:s=%dx%d:r=30:d=%d,drawgrid=w=80:h=80:t=2:c=0x7d766e,drawbox=x=0:y=0:w=iw:h=150:c=0x5d6b7a:"
             "t=fill,drawgrid=w=16:h=16:t=1:c=white@0.06" % (width, height, seconds))
    robot = ("color=c=0xd9822b:s=%dx%d:r=30:d=%d,drawbox=x=15:y=20:w=60:h=34:c=0x24303c:t=fill,drawbox=x=0:y=125:w=iw:h=25:"
             "c=0x24303c:t=fill" % (target_width, target_height, seconds))
    path = "overlay=x='%d+%d*n':y='%d+60*sin(n/40)'" % (start_x, speed, start_y)

    def bbox(k: int) -> List[float]:
        x, y = start_x + speed * k, start_y + 60 * math.sin(k / 40)
        return [round(x / width * 1000, 1), round(y / height * 1000, 1),
                round((x + target_width) / width * 1000, 1), round((y + target_height) / height * 1000, 1)]

    inside = os.path.join(os.path.realpath(source_dir.parent), os.path.relpath(video.parent, source_dir.parent))
    if os.path.realpath(video.parent) != inside:
        raise StopRun("%s has a symbolic link in it; remove it" % source_dir)
    os.makedirs(video.parent, exist_ok=True)
    if not video.exists():
        say("Making the demo scene ...")
        tidy(str(video.parent))
        unfinished = str(video.parent / (TEMPORARY_PREFIX + os.urandom(6).hex()))
        code, _, log = run_child(
            [ffmpeg(), "-nostdin", "-hide_banner", "-nostats", "-loglevel", "repeat+level+error", "-y", "-f", "lavfi", "-i",
             floor, "-f", "lavfi", "-i", robot, "-filter_complex", path, "-c:v", "mpeg4", "-q:v", "3", "-g", "60",
             "-pix_fmt", "yuv420p", "-f", "mp4", "file:" + os.path.abspath(unfinished)], lambda chunks: b"".join(chunks))
        if code != 0:
            raise StopRun("the demo's video cannot be made: %s" % ffmpeg_words(log, video, video.name))
        put(unfinished, str(video))
    standard = {"scene": scene, "camera": camera, "object_id": "1", "object_type": "Robot", "init_frame_id": 30,
                "init_bbox": bbox(30), "canonical_frame_ids": list(range(30, 150, 15)), "clip_fps": 30.0}
    records = [
        {"seq_id": "%s__%s__30__obj1" % (scene, camera), **standard},
        {"seq_id": "%s__%s__100__obj1" % (scene, camera), "object_type": "Robot",
         "gt_bboxes": {str(k): bbox(k) for k in range(100, 220, 15)}, "clip_end_frame": 219},
        {"id": "%s__%s__200__obj1" % (scene, camera), "scene": scene, "camera": camera,
         "source_frame_ids": list(range(200, 320, 15)), "init_bbox": bbox(200)},
    ]
    write_file(str(source_dir / DEMO_BENCHMARK), "".join(json.dumps(record) + "\n" for record in records).encode("ascii"))


# --- Check

def picture_problem(directory: str, target: Target) -> Optional[str]:
    """What is wrong with the pictures of a sequence that passes for ready: decodes all of them, draws overlay and crop anew.

    Where another library drew the overlay, its word may look different; the rest may not.
    """
    from PIL import Image, ImageChops
    paths = [frame_path(directory, index) for index in range(len(target.frame_ids))]
    try:
        for path in paths + [os.path.join(directory, "contact_sheet.jpg")] * target.contact_sheet:
            with Image.open(path) as picture:
                picture.load()
        drawn = draw(Path(paths[0]).read_bytes(), target.sequence.init_bbox)
        for path, png in zip((annotated_path(directory), crop_path(directory)), drawn):
            with Image.open(path) as found, Image.open(io.BytesIO(png or b"")) as expected:
                size = expected.size
                changed = found.size != size or ImageChops.difference(found.convert("RGB"), expected.convert("RGB")).getbbox()
            if changed and path == annotated_path(directory) and changed is not True:
                x, y = label_origin(overlay_corners(target.sequence.init_bbox, *size))
                left, top, right, bottom = changed
                changed = not (x - 4 <= left and right <= x + 90 and y - 20 <= top and bottom <= y + 8)
            if changed:
                return "%s is not what f00.png and the initial box give; delete it and run again" % os.path.basename(path)
    except Exception as error:  # Pillow raises many things for broken pictures
        return "%s cannot be decoded (%s); delete it and run again" % (os.path.basename(path), type(error).__name__)
    return None


def check_all(args: argparse.Namespace, targets: Sequence[Target], say: Callable[[str], None]) -> int:
    """Tell what is ready and what is not, and which videos are still needed: 0 when all are ready, else 1."""
    counts: Dict[str, int] = collections.Counter()
    videos: Dict[str, str] = {}
    for target in targets:
        directory = os.path.join(args.output_dir, target.sequence.seq_id)
        problem = why_not_ready(directory, target)
        if problem is None:
            problem = picture_problem(directory, target)
            needs_video = re.match(r"f\d+\.png", problem or "") is not None
        else:
            needs_video = lacks_frames(target, *what_is_there(directory, target)[1:])
        if needs_video and target.path not in videos:
            videos[target.path] = video_at_hand(args, target.path)
        state = "ready" if problem is None else "partly" if os.path.isdir(directory) else "missing"
        counts[state] += 1
        say("%-7s %s%s" % (state, target.sequence.seq_id, ": " + problem if problem else ""))
    for path, place in sorted(videos.items()):
        say("video   %s: %s" % (path, place))
    at_hand = sum(place != TO_GET for place in videos.values())
    print("Check: %d ready, %d partly there, %d missing; videos needed: %d (%d at hand)"
          % (counts["ready"], counts["partly"], counts["missing"], len(videos), at_hand))
    return 0 if counts["ready"] == len(targets) else 1


TO_GET = "not at hand"


def video_at_hand(args: argparse.Namespace, path: str) -> str:
    if args.video_dir:
        try:
            local_video(Path(args.video_dir), path, args.repo_subdir)
            return "in --video-dir"
        except VideoError:
            return TO_GET
    return "in the cache" if HubFile(args.repo_id, path, args.revision, None, args.hf_cache_dir).cached() else TO_GET


# --- Command line

class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise StopRun("%s; see --help" % message)


def whole_number(largest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= largest:
            raise argparse.ArgumentTypeError("expected a whole number from 1 to %d, got %s" % (largest, shown(text)))
        return int(text)
    return parse


def repository_id(text: str) -> str:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", text, re.ASCII):
        raise argparse.ArgumentTypeError("expected OWNER/NAME, got %s" % shown(text))
    return text


EXAMPLES = """examples:
  python prepare_sot_dataset.py --demo --output-dir SOT_demo
  python prepare_sot_dataset.py --benchmark sot_benchmark.jsonl --output-dir SOT_prepared_8f
  python prepare_sot_dataset.py --benchmark sot_benchmark.jsonl --output-dir SOT_prepared_8f --check
"""


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="prepare_sot_dataset.py", description=__doc__, epilog=EXAMPLES, allow_abbrev=False,
                    add_help=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_argument_group("what to prepare")
    what.add_argument("--benchmark", metavar="PATH", help="benchmark file, JSON or JSON Lines; or "
                      "hf://datasets/OWNER/NAME/PATH (required, but for --demo)")
    what.add_argument("--sequences", metavar="ID", nargs="+", help="prepare these seq_ids only (default: all)")
    what.add_argument("--demo", action="store_true", help="prepare a small synthetic scene: no network, no token, no "
                      "benchmark")
    frames = parser.add_argument_group("which frames")
    frames.add_argument("--nframes", metavar="N", type=whole_number(MAX_NFRAMES), default=DEFAULT_NFRAMES,
                        help="frames per sequence (default: %(default)s)")
    frames.add_argument("--stride", metavar="N", type=whole_number(MAX_FRAME_ID), help="fixed distance in source frames "
                        "(default: the benchmark's own frame ids, else at most %d)" % DEFAULT_STRIDE)
    videos = parser.add_argument_group("where videos come from")
    videos.add_argument("--video-dir", metavar="DIR", help="a folder laid out like the repository, instead of the network")
    videos.add_argument("--stream", action="store_true", help="fetch only the parts of each video that the frames need, "
                        "and keep none")
    videos.add_argument("--hf-token", metavar="TOKEN", help="read access to the dataset (default: $HF_TOKEN, else your "
                        "`hf auth login`, else none)")
    videos.add_argument("--hf-cache-dir", metavar="DIR", help="where downloaded videos are kept (default: the hub's own)")
    videos.add_argument("--repo-id", metavar="ID", type=repository_id, default=DEFAULT_REPO_ID,
                        help="dataset repository (default: %(default)s)")
    videos.add_argument("--repo-subdir", metavar="DIR", default=DEFAULT_REPO_SUBDIR,
                        help="folder inside it (default: %(default)s)")
    videos.add_argument("--revision", metavar="REV", default="main", help="branch, tag or commit of it (default: "
                        "%(default)s)")
    output = parser.add_argument_group("output")
    output.add_argument("--output-dir", metavar="DIR", required=True, help="made if missing (required)")
    output.add_argument("--gt-stub", action="store_true", help="write gt.json with the initial box for the evaluator's "
                        "loader")
    output.add_argument("--contact-sheet", action="store_true", help="write contact_sheet.jpg with all frames for the eye")
    other = parser.add_argument_group("other")
    other.add_argument("--check", action="store_true", help="say what is ready, partly there or missing; write and "
                       "download nothing")
    other.add_argument("--quiet", action="store_true", help="errors and the closing line only")
    other.add_argument("--version", action="version", version="%(prog)s " + __version__)
    other.add_argument("-h", "--help", action="help", help="show this help")
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    if not args.benchmark and not args.demo:
        raise StopRun("--benchmark is missing; for a first run without one use --demo")
    if args.demo and (args.benchmark or args.video_dir):
        raise StopRun("--demo makes its own benchmark and video; leave out --benchmark and --video-dir")
    for option in ("output_dir", "video_dir"):
        if getattr(args, option) == "":
            raise StopRun("--%s: expected a folder, got nothing" % option.replace("_", "-"))
    if args.video_dir and not os.path.isdir(args.video_dir):
        raise StopRun("--video-dir %s: no such folder" % args.video_dir)
    if os.path.exists(args.output_dir) and not os.path.isdir(args.output_dir):
        raise StopRun("--output-dir %s: is not a folder" % args.output_dir)
    args.repo_subdir = args.repo_subdir.strip("/")
    if ".." in args.repo_subdir.split("/"):
        raise StopRun("--repo-subdir %s: must lie inside the repository" % args.repo_subdir)
    for option in ("contact_sheet", "check"):
        if getattr(args, option) and not importlib.util.find_spec("PIL"):
            raise StopRun("--%s needs Pillow: pip install Pillow" % option.replace("_", "-"))
    args.hf_token = (args.hf_token or os.environ.get("HF_TOKEN") or "").strip() or None
    if args.hf_token and not re.fullmatch("[!-~]+", args.hf_token):
        raise StopRun("the token (--hf-token or $HF_TOKEN) has characters that no token has; copy it again")


def load_benchmark(args: argparse.Namespace, say: Callable[[str], None]) -> List[SotSequence]:
    path, remote = args.benchmark, re.fullmatch(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", args.benchmark)
    if remote:
        repo_id, revision, filename = remote.groups()
        try:
            path = HubFile(repo_id, filename, revision or "main", args.hf_token, args.hf_cache_dir).download(say)
        except VideoError as error:
            raise StopRun("benchmark %s" % error) from None
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise StopRun("--benchmark %s cannot be read: %s" % (args.benchmark, error.strerror)) from None
    return read_benchmark(data, args.benchmark)


def make_targets(args: argparse.Namespace, sequences: Sequence[SotSequence]) -> List[Target]:
    pinned = args.revision if re.fullmatch("[0-9a-f]{40}", args.revision) and not args.video_dir else None
    return [Target(sequence, frame_ids_of(sequence, args.nframes, args.stride), args.repo_id,
                   video_path(sequence, args.repo_subdir), pinned, args.stride, args.gt_stub, args.contact_sheet)
            for sequence in sequences]


def chosen(targets: Sequence[Target], seq_ids: Optional[Sequence[str]]) -> List[Target]:
    """The targets that --sequences names, in benchmark order.

    :raises StopRun: for a name that the benchmark does not have, with the nearest ones.
    """
    known = {target.sequence.seq_id for target in targets}
    problems = []
    for seq_id in seq_ids or []:
        if seq_id not in known:
            near = difflib.get_close_matches(seq_id, known, n=3, cutoff=0.0)
            problems.append("--sequences %s: not in the benchmark; nearest: %s" % (seq_id, ", ".join(near)))
    if problems:
        raise StopRun("\n".join(problems))
    return [target for target in targets if not seq_ids or target.sequence.seq_id in set(seq_ids)]


class VideoSource:
    """The videos of a run, one at a time: each is got and listed once, however many sequences want it."""

    def __init__(self, args: argparse.Namespace, wanted: Mapping[str, List[Tuple[int, ...]]],
                 ffmpeg: Callable[[], str], reporter: Reporter, folder: str):
        self.args, self.wanted, self.ffmpeg, self.reporter, self.folder = args, wanted, ffmpeg, reporter, folder
        self.path: Optional[str] = None
        self.found: Any = None
        self.without_connection = 0

    def get(self, path: str, why_whole: str = "") -> Video:
        if path != self.path or why_whole:
            self.path = path
            try:
                self.found = self.open(path, why_whole)
                self.without_connection = 0
            except VideoError as error:
                self.found = error
                self.without_connection = self.without_connection + 1 if error.no_connection else 0
                if self.without_connection == OFFLINE_VIDEOS_BEFORE_STOP:
                    raise StopRun("no connection for %d videos in a row: %s. The same command goes on from here; "
                                  "--video-dir needs no network" % (OFFLINE_VIDEOS_BEFORE_STOP, error)) from None
        if isinstance(self.found, VideoError):
            raise self.found
        return self.found

    def open(self, path: str, why_whole: str) -> Video:
        args, last_wanted = self.args, max(frame_ids[-1] for frame_ids in self.wanted[path])
        if args.video_dir:
            return open_video(self.ffmpeg(), local_video(Path(args.video_dir), path, args.repo_subdir), path, None,
                              last_wanted)
        streamed = self.found.revision if why_whole and isinstance(self.found, Video) else None  # of which frames are there
        hub_file = HubFile(args.repo_id, path, streamed or args.revision, args.hf_token, args.hf_cache_dir)
        cached = hub_file.cached() if args.stream else None
        if args.stream and not why_whole and not cached:
            try:
                with self.reporter.video("Streaming from %s" % path):
                    return self.stream(hub_file)
            except NeedsWholeVideo as error:
                why_whole = str(error)
        with self.reporter.video("Getting %s%s" % (path, why_whole and " whole: " + why_whole)):
            file = hub_file.download(self.reporter.say, cached is not None)
        return open_video(self.ffmpeg(), file, path, commit_of(file), last_wanted)

    def stream(self, hub_file: HubFile) -> Video:
        wanted = self.wanted[hub_file.path]
        stream = Stream(hub_file, Path(self.folder, "streamed.mp4"), self.reporter.say)
        index = stream.fetch_index()
        last_listed = max(frame_ids[-1] for frame_ids in wanted) + STREAM_SLACK_PACKETS
        video = open_video(self.ffmpeg(), stream.local, hub_file.path, stream.revision, last_listed, partial=True)
        if not video.packets.regular:
            raise NeedsWholeVideo("its frames cannot be told apart by time")
        last = len(video.packets.pts) - 1  # all that is looked at when more is wanted
        stream.fetch_frames(index, video.packets, [ids if ids[-1] <= last else (last,) for ids in wanted])
        return video


@dataclass
class Outcome:
    """What a run has reached so far."""
    ready: Dict[str, Optional[float]]  # seq_id -> clip_fps
    already: int = 0
    failures: Dict[str, str] = field(default_factory=dict)  # seq_id -> reason


def prepare_all(args: argparse.Namespace, targets: Sequence[Target], outcome: Outcome, ffmpeg: Callable[[], str],
                reporter: Reporter, folder: str) -> None:
    """The loop over the sequences that are not ready yet, those of one video together."""
    by_video: Dict[str, List[Target]] = {}
    for target in targets:
        if target.sequence.seq_id not in outcome.ready:
            by_video.setdefault(target.path, []).append(target)
    if not by_video:
        return
    ffmpeg()  # before anything is downloaded
    if not can_draw():
        reporter.say("WARNING: neither OpenCV nor Pillow is installed, so f00_ann.png is a plain copy and crop.png is left "
                     "out; after pip install opencv-python the same command adds them")
    os.makedirs(args.output_dir, exist_ok=True)
    frame_ids = {path: [target.frame_ids for target in group] for path, group in by_video.items()}
    videos = VideoSource(args, frame_ids, ffmpeg, reporter, folder)
    reporter.start(sum(map(len, by_video.values())))
    # Takes as long as a few frames. No daemon: a run that ends in the middle of an import may hang on its way out.
    threading.Thread(target=import_drawing_library).start()
    for target in (target for group in by_video.values() for target in group):
        seq_id, directory = target.sequence.seq_id, os.path.join(args.output_dir, target.sequence.seq_id)
        try:
            with one_run_at_a_time(directory):
                problem = why_not_ready(directory, target)
                if problem is not None:
                    prepare_sequence(directory, target, ffmpeg, lambda why_whole: videos.get(target.path, why_whole),
                                     lambda count: reporter.frame(seq_id, count, len(target.frame_ids)))
                    problem = why_not_ready(directory, target)
        except SequenceError as error:
            problem = str(error)
        if problem is None:
            outcome.ready.update(ready_ones(args.output_dir, [target]))
        else:
            outcome.failures[seq_id] = problem
        reporter.sequence(seq_id, "ready" if problem is None else "FAILED, " + problem)


@contextmanager
def one_run_at_a_time(directory: str) -> Iterator[None]:
    """Wait until no other run is at work on this sequence, where the system and the disk can tell."""
    try:
        import fcntl
        if not os.path.islink(directory):
            os.makedirs(directory, exist_ok=True)
        folder = os.open(directory, os.O_RDONLY)
    except (ImportError, OSError):  # Windows; or it cannot be made, which will be told when it is needed
        yield
        return
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
        except OSError:  # no locks on this disk
            pass
        yield
    finally:
        os.close(folder)
        try:
            os.rmdir(directory)  # if nothing came of it
        except OSError:
            pass


def ready_ones(output_dir: str, targets: Iterable[Target]) -> Dict[str, Optional[float]]:
    """The clip_fps of those targets that are ready."""
    ready = {}
    for target in targets:
        directory = os.path.join(output_dir, target.sequence.seq_id)
        if why_not_ready(directory, target) is None:
            tidy(directory, os.path.join(directory, "frames"))
            ready[target.sequence.seq_id] = read_object(os.path.join(directory, META_NAME)).get("clip_fps")
    return ready


def write_manifest(args: argparse.Namespace, targets: Sequence[Target], ready: Dict[str, Optional[float]]) -> None:
    """Write gt_requests.json for all of the benchmark, `ready` being those that are known to be ready.

    Another run may be at work on other sequences: whoever ends last must have seen what the others made ready, so
    look once more after writing.
    """
    path, known = os.path.join(args.output_dir, MANIFEST_NAME), -1
    while True:
        ready.update(ready_ones(args.output_dir, [target for target in targets if target.sequence.seq_id not in ready]))
        if len(ready) == known:
            break
        known = len(ready)
        write_json(path, gt_requests(targets, ready, os.path.basename(args.benchmark), args.repo_id, args.repo_subdir,
                                     args.nframes, args.stride))
    tidy(args.output_dir)


def run(args: argparse.Namespace, reporter: Reporter) -> int:
    check_arguments(args)
    ffmpeg = functools.lru_cache(maxsize=None)(find_ffmpeg)
    if args.demo:
        source_dir = Path(args.output_dir, DEMO_FOLDER)
        args.benchmark, args.video_dir = str(source_dir / DEMO_BENCHMARK), str(source_dir)
        if not args.check:
            make_demo(ffmpeg, source_dir, reporter.say)
    targets = make_targets(args, load_benchmark(args, reporter.say))
    wanted = chosen(targets, args.sequences)
    if args.check:
        return check_all(args, wanted, lambda line: None if args.quiet else print(printable(line)))
    outcome = Outcome(ready_ones(args.output_dir, wanted))
    outcome.already = len(outcome.ready)
    try:
        with tempfile.TemporaryDirectory(prefix="prepare_sot_") if args.stream else nullcontext("") as folder:
            prepare_all(args, wanted, outcome, ffmpeg, reporter, folder)
    finally:
        reporter.close()
        for reason in sorted(set(outcome.failures.values())):
            seq_ids = [seq_id for seq_id, text in outcome.failures.items() if text == reason]
            reporter.error("%s: %s" % (", ".join(seq_ids), reason))
    os.makedirs(args.output_dir, exist_ok=True)
    write_manifest(args, targets, dict(outcome.ready))
    if int(getattr(sys.modules.get("cv2"), "__version__", "4").split(".")[0]) > 4:
        reporter.say("WARNING: OpenCV 5 draws the word %s in another font than the evaluator's OpenCV 4: "
                     "pip install 'opencv-python<5'" % LABEL_TEXT)
    print("Done: %d ready (%d already were), %d failed"
          % (len(outcome.ready), outcome.already, len(outcome.failures)))
    if args.demo:
        reporter.say("Look at: " + annotated_path(os.path.join(args.output_dir, wanted[0].sequence.seq_id)))
        reporter.say("By hand: python prepare_sot_dataset.py --benchmark %s --video-dir %s --output-dir %s"
                     % tuple(map(shlex.quote, (args.benchmark, args.video_dir, args.output_dir))))
    return 1 if outcome.failures else 0


def main(argv: Optional[Sequence[str]] = None) -> int:
    reporter = Reporter()

    try:
        signal.signal(signal.SIGTERM, on_signal)
        if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # not where a shell has it ignored
            signal.signal(signal.SIGINT, on_signal)
    except ValueError:  # not in the main thread, where no signal arrives
        pass
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold what the terminal's encoding cannot show
    try:
        args = make_parser().parse_args(argv)
        reporter.quiet = args.quiet
        if args.quiet or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
        return run(args, reporter)
    except StopRun as error:
        reporter.error(str(error))
        return 2
    except OSError as error:
        reporter.error("%s: %s" % (error.filename or "file", error.strerror or error))
        return 2
    except KeyboardInterrupt:
        reporter.write("Interrupted. The same command goes on from here.")
        return 130
    except Terminated:
        reporter.write("Terminated. The same command goes on from here.")
        return 143


if __name__ == "__main__":
    raise SystemExit(main())

"""Hostile and broken input: nothing leaves the output directory, steers the terminal, or tells the ground truth.

The property-based tests try few inputs here, the same ones each time. To try many, at random:

    HOSTILE_EXAMPLES=20000 python -m pytest tests/test_hostile.py -k property
"""
from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prepare_sot_dataset import main
from tests import clips

ROOT = Path(__file__).resolve().parent.parent
Record = Dict[str, Any]


def examples(count: int) -> Any:
    wanted = os.environ.get("HOSTILE_EXAMPLES")
    return settings(deadline=None, max_examples=int(wanted or count), derandomize=not wanted, database=None,
                    suppress_health_check=list(HealthCheck), print_blob=True)


# ---------------------------------------------------------------- one run in a place that is watched


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def steers_a_terminal(char: str) -> bool:
    return char != "\n" and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def prepare(*arguments: str) -> Outcome:
    """Runs the program in this process. An exception out of it would be a traceback for its user."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    outcome = Outcome(code, out.getvalue(), err.getvalue())
    assert code in (0, 1, 2), outcome
    assert "Traceback" not in outcome.err
    assert not [char for char in outcome.out + outcome.err if steers_a_terminal(char)], outcome
    if code and "--check" not in arguments:
        assert any(line.startswith("ERROR: ") and len(line) > 20 for line in outcome.err.splitlines()), outcome
    return outcome


Tree = Dict[str, Tuple[str, Any]]


def snapshot(folder: Path, without: Sequence[Path] = ()) -> Tree:
    """What lies in a folder, links not followed."""
    found: Tree = {}
    for place, folders, files in os.walk(str(folder)):
        here = Path(place)
        folders[:] = [name for name in folders if here / name not in without]
        for name in folders + files:
            path = here / name
            if path in without:
                continue
            key = path.relative_to(folder).as_posix()
            if path.is_symlink():
                found[key] = ("link", os.readlink(str(path)))
            else:
                found[key] = ("file", path.read_bytes()) if path.is_file() else ("folder", None)
    return found


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(str(folder))
    try:
        yield
    finally:
        os.chdir(before)


class Site:
    """A place with videos and an output folder deep inside it; whatever changes around that folder is a fault."""

    def __init__(self, top: Path, clip: Path):
        self.top = top
        self.work = top / "a" / "b"
        self.outside = top / "outside"
        self.output = self.work / "out"
        self.benchmark = self.work / "bench.jsonl"
        self.videos = self.work / "videos"
        self.work.mkdir(parents=True)
        self.outside.mkdir()
        (self.outside / "precious.txt").write_text("not yours\n")
        clips.lay_out(self.videos, clip)

    def run(self, *options: str, nframes: int = 1) -> Outcome:
        before = snapshot(self.top, [self.output])
        with working_in(self.work):
            outcome = prepare("--benchmark", "bench.jsonl", "--video-dir", "videos", "--output-dir", "out",
                              "--nframes", str(nframes), *options)
        assert snapshot(self.top, [self.output]) == before, outcome
        if outcome.code == 2 and not self.output.exists():
            assert not outcome.out
            assert all(line.startswith("ERROR: ") for line in outcome.err.splitlines()), outcome
        return outcome

    def run_on(self, data: bytes, *options: str) -> Outcome:
        """A benchmark file in a fresh output folder."""
        shutil.rmtree(str(self.output), ignore_errors=True)
        self.benchmark.write_bytes(data)
        outcome = self.run(*options)
        if outcome.code == 2:
            assert not self.output.exists(), outcome
        return outcome

    def run_on_records(self, *records: Any, nframes: int = 1) -> Outcome:
        clips.write_benchmark(self.benchmark, records)
        return self.run(nframes=nframes)


def make_small_clip(path: Path) -> None:
    clips.run_ffmpeg(["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=30", "-frames:v", "12", "-c:v", "mpeg4", "-g", "5",
                      str(path)])


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    make_small_clip(path)
    return path


@pytest.fixture(scope="module")
def small_frames(small_clip: Path) -> List[bytes]:
    return clips.full_decode(small_clip)


@pytest.fixture
def site(tmp_path: Path, small_clip: Path) -> Site:
    return Site(tmp_path / "top", small_clip)


@pytest.fixture(scope="module")
def common_site(tmp_path_factory: pytest.TempPathFactory, small_clip: Path) -> Site:
    """For the property-based tests, which cannot have a fresh folder for each example."""
    return Site(tmp_path_factory.mktemp("site") / "top", small_clip)


GOOD = clips.record([2, 4])

# ---------------------------------------------------------------- benchmark files

NASTY_TEXT = ["", " ", "\x1b[2J\x1b]0;owned\x07", "\x9b31m", "\u202etxt.exe", "\u2066\u200f\u061c", "\ud800",
              "\udfff\ud800", "\0",
              "\r", "\n", "a\nERROR: b", "\u2028", "\ufeff", "\U000e0041", "..", "../../../outside/x", "/etc/passwd",
              "C:\\x",
              "\\\\host\\share", "CON", "nul", "COM1.txt", "-i", "--", "%d", "a" * 300, "\u0664\u0662", "\uff0e\uff0e",
              "nan",
              "1e999", "$(touch x)", "`x`", "a;b", "{}", "null", "file:x", "concat:a|b", "http://127.0.0.1:9/x"]
NASTY_NUMBERS = [0, -1, 1, 2, 3, 1.5, -0.0, 1e308, -1e308, 1e-320, float("nan"), float("inf"), float("-inf"), 2 ** 31,
                 2 ** 63, 10 ** 30,
                 -10 ** 30, 10 ** 400, 999_999_999, 1_000_000_000, True, False]
TEXT = st.sampled_from(NASTY_TEXT) | st.text(st.characters(), max_size=8)
SCALAR = st.none() | st.sampled_from(NASTY_NUMBERS) | st.integers() | st.floats() | TEXT
JSON = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=4),
                    max_leaves=12)
BOXLIKE = st.lists(st.sampled_from(NASTY_NUMBERS) | st.floats(-100, 1100), min_size=4, max_size=4)
IDLIKE = st.lists(st.integers(-1, 20) | st.sampled_from(NASTY_NUMBERS), max_size=5)
VALUE = JSON | BOXLIKE | IDLIKE | BOXLIKE.map(lambda box: {"2": box}) | BOXLIKE.map(lambda box: json.dumps({"2": box}))

TRUTH = {"2": [200, 300, 450, 700], "4": [210, 300, 460, 700]}
FLAVOURS: List[Record] = [
    {**GOOD, "clip_end_frame": 9},
    {"seq_id": GOOD["seq_id"], "gt_bboxes": TRUTH},
    {"id": GOOD["seq_id"], "metadata": {name: GOOD[name] for name in GOOD if name != "seq_id"},
     "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": json.dumps(TRUTH)}]},
    {"id": GOOD["seq_id"], "scene": GOOD["scene"], "camera": GOOD["camera"], "source_frame_ids": [2, 4],
     "init_bbox": GOOD["init_bbox"]},
]
FIELDS = sorted({name for record in FLAVOURS for name in record} | set(GOOD))


@st.composite
def nearly_good_records(draw: Any) -> Record:
    record = json.loads(json.dumps(draw(st.sampled_from(FLAVOURS))))
    for _ in range(draw(st.integers(0, 3))):
        place = record["metadata"] if isinstance(record.get("metadata"), dict) and draw(st.booleans()) else record
        name = draw(st.sampled_from(FIELDS) | TEXT)
        if draw(st.booleans()):
            place.pop(name, None)
        else:
            place[name] = draw(VALUE)
    return record


def twice(text: str, draw: Any) -> str:
    """The JSON of an object with one of its keys repeated."""
    keys = re.findall(r'"\w+": ', text)
    return "{" + draw(st.sampled_from(keys)) + json.dumps(draw(SCALAR)) + ", " + text[1:] if keys else text


@st.composite
def benchmark_files(draw: Any) -> bytes:
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=60))
    records = draw(st.lists(nearly_good_records() | nearly_good_records() | JSON, min_size=1, max_size=3))
    ascii_only = draw(st.booleans())
    texts = [json.dumps(record, ensure_ascii=ascii_only) for record in records]
    texts = [twice(text, draw) if text.startswith("{") and draw(st.integers(0, 7)) == 0 else text for text in texts]
    joined = "[%s]" % ", ".join(texts) if draw(st.booleans()) else "\n".join(texts)
    if draw(st.integers(0, 9)) == 0:
        joined = joined[:draw(st.integers(0, len(joined)))]
    return joined.encode(draw(st.sampled_from(["utf-8"] * 8 + ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])),
                         "surrogatepass")


OUTPUT_PATH = re.compile(r"gt_requests\.json|[\w-][\w.-]*(/sequence_meta\.json|/frames(/(f\d\d+|f00_ann|crop)\.png)?)?",
                         re.ASCII)


def assert_only_named_folders(site: Site) -> None:
    """Every folder in the output is that of a sequence, and every file one that the contract names."""
    for path, (kind, _) in snapshot(site.output).items():
        assert kind != "link"
        assert OUTPUT_PATH.fullmatch(path), path


@examples(80)
@given(data=benchmark_files())
def test_property_any_benchmark_file(common_site: Site, data: bytes) -> None:
    outcome = common_site.run_on(data)
    if outcome.code != 2:
        assert_only_named_folders(common_site)


@examples(30)
@given(values=st.dictionaries(st.sampled_from(FIELDS), VALUE, min_size=1, max_size=2),
       flavour=st.sampled_from(FLAVOURS))
def test_property_a_ready_sequence_is_what_its_record_says(common_site: Site, values: Record, flavour: Record) -> None:
    record = {**flavour, **values}
    outcome = common_site.run_on(json.dumps(record).encode("ascii"))
    if outcome.code == 0:
        (meta_path,) = common_site.output.glob("*/sequence_meta.json")
        meta = json.loads(meta_path.read_text(encoding="utf-8"))
        x1, y1, x2, y2 = meta["init_bbox"]
        assert x1 < x2 and y1 < y2 and x1 < 1000 and y1 < 1000 and x2 > 0 and y2 > 0
        assert meta["frame_ids"] == [meta["init_frame_id"]] and 0 <= meta["init_frame_id"] < 12
        for name in ("seq_id", "scene", "camera", "object_type"):
            assert values.get(name) in (None, meta[name])
        assert clips.read_png(meta_path.parent / "frames" / "f00.png")[:2] == (64, 48)


@functools.lru_cache(maxsize=None)
def hostile_files() -> Dict[str, bytes]:
    line = json.dumps(GOOD)
    return {
        "utf_16": (line + "\n").encode("utf-16"), "utf_16_le": line.encode("utf-16-le"),
        "utf_16_be": line.encode("utf-16-be"),
        "utf_32": line.encode("utf-32"), "latin_1": b'{"object_type": "Caf\xe9"}',
        "surrogate_bytes": b'{"seq_id": "\xed\xa0\x80"}',
        "gzip": b"\x1f\x8b\x08\0" + bytes(50), "zip": b"PK\x03\x04" + bytes(50), "nul": bytes(5000),
        "elf": b"\x7fELF" + bytes(range(256)),
        "escape": b"\x1b[2J\x1b[H" * 10, "deep_array": b"[" * 200_000, "deep_object": b'{"a":' * 100_000,
        "deep_and_closed": b"[" * 100_000 + b"]" * 100_000, "deep_lines": (b"[" * 5000 + b"\n") * 20,
        **{"deep_field_%d" % depth: line[:-1].encode() + b', "scene": ' + b"[" * depth + b"]" * depth + b"}"
           for depth in (100, 300, 900, 980, 1500, 5000)},
        **{"deep_box_%d" % depth: b'{"id": "x", "init_bbox": ' + b"[" * depth + b"]" * depth + b"}"
           for depth in (300, 900, 980, 1500, 5000)},
        "deep_conversation": json.dumps({**FLAVOURS[2], "conversations": [
            {"from": "gpt", "value": "[" * 100_000}]}).replace('"init_bbox"', '"x"').encode(),
        "many_digits": line[:-1].encode() + b', "clip_fps": ' + b"9" * 20_000 + b"}",
        "many_digits_id": json.dumps({**GOOD, "object_id": 0}).replace('"object_id": 0',
                                                                       '"object_id": ' + "7" * 20_000).encode(),
        "exponent": line.replace('"clip_fps": 30', '"clip_fps": 1e999999').encode(),
        "negative_exponent": line.replace('"clip_fps": 30', '"clip_fps": 1e-999999').encode(),
        "same_key": b"{" + b'"seq_id": "a", ' * 1000 + b'"seq_id": "b"}',
        "same_key_inside": line[:-1].encode() + b', "gt_bboxes": {"2": [1,2,3,4], "2": [5,6,7,8]}}',
        "nothing_but_commas": b"," * 10_000, "open_text": b'{"seq_id": "' + b"x" * 100_000,
        "escapes": b'{"seq_id": "\\u001b\\u202e\\ud800"}', "bad_escape": b'{"seq_id": "\\x"}',
        "control_in_text": b'{"seq_id": "\x01\x1b"}',
        "lines_of_other_systems": line.replace(", ", ",\u2028").encode(), "vertical": line.encode() + b"\x0b\x0c\n",
    }


@pytest.mark.parametrize("name", list(hostile_files()))
def test_hostile_file(site: Site, name: str) -> None:
    outcome = site.run_on(hostile_files()[name])
    assert len(outcome.err) < 20_000
    if name in ("utf_16", "utf_16_le", "utf_16_be", "utf_32", "gzip", "nul", "elf", "escape", "deep_array", "same_key",
                "deep_object", "deep_and_closed", "exponent", "many_digits", "many_digits_id", "bad_escape"):
        assert outcome.code == 2


def test_a_line_of_100_mb(site: Site) -> None:
    resource = pytest.importorskip("resource")
    with open(str(site.benchmark), "wb") as file:
        file.write(json.dumps(GOOD).encode() + b'\n{"seq_id": "')
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n')

    def limit_memory() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))

    done = subprocess.run(
        [sys.executable, str(ROOT / "prepare_sot_dataset.py"), "--benchmark", str(site.benchmark), "--video-dir",
         str(site.videos),
         "--output-dir", str(site.output)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60,
         preexec_fn=limit_memory)
    site.benchmark.unlink()
    assert done.returncode == 2, done.stderr[-2000:]
    assert b"line 2" in done.stderr and b"seq_id" in done.stderr
    assert len(done.stderr) < 5000 and b"Traceback" not in done.stderr and not done.stdout
    assert not site.output.exists()


# ---------------------------------------------------------------- names

NO_NAMES = ["..", ".", "../x", "../../../outside/x", "x/../../y", "/tmp/x", "/", "\\", "..\\x", "C:", "C:x", "C:\\x",
            "c:/x", "\\\\h\\s\\x",
            "//h/s/x", "~", "~root/x", "CON", "con", "PRN", "aux", "NUL", "nul.txt", "COM1", "com9.mp4", "LPT1",
            "lpt1.a.b", "x:stream",
            "x.", "x ", " x", ".hidden", ".tmp-x", "x\0y", "x\ny", "x\n", "\u2024\u2024/x", "\uff0e\uff0e\uff0fx",
            "a\u0301", "\u202egnp",
            "x" * 201, "?", "*", "a|b", "<x>", '"x"', "$HOME", "%TEMP%", "gt_requests.json", "demo_source"]


@pytest.mark.parametrize("field", ["seq_id", "id", "scene", "camera"])
def test_no_name_reaches_outside(site: Site, field: str) -> None:
    for name in NO_NAMES:
        if name in ("gt_requests.json", "demo_source") and field in ("scene", "camera"):
            continue
        record = {**GOOD, field: name}
        if field == "id":
            del record["seq_id"]
        outcome = site.run_on(json.dumps(record).encode())
        assert outcome.code == 2, (name, outcome)
        assert "field " + field.replace("id", "seq_id", field == "id") in outcome.err


@pytest.mark.parametrize("absolute", [False, True])
def test_names_made_of_parts_reach_nowhere_either(site: Site, absolute: bool) -> None:
    object_id = str(site.outside / "x") if absolute else "/../../../../outside/x"
    record = {name: value for name, value in GOOD.items() if name != "seq_id"}
    assert site.run_on(json.dumps({**record, "object_id": object_id}).encode()).code == 2


@pytest.mark.parametrize("folder", ["..", "../outside", "a/../../..", "/../..", "videos/..", "..\\..", "/"])
def test_no_repository_folder_reaches_outside(site: Site, folder: str) -> None:
    clips.lay_out(site.work, site.videos.glob("**/*.mp4").__next__(), subdir="")
    site.benchmark.write_text(json.dumps(GOOD))
    assert site.run("--repo-subdir", folder).code in (1, 2)


def test_odd_names_that_are_allowed(site: Site, small_clip: Path, small_frames: List[bytes]) -> None:
    names = ["-i", "-y", "--", "-", "x" * 190, "_", "0"]
    for name in names:
        clips.lay_out(site.videos, small_clip, scene=name, camera=name)
    records = [{**GOOD, "seq_id": name, "scene": name, "camera": name} for name in names]
    outcome = site.run_on_records(*records, nframes=2)
    assert outcome.code == 0, outcome
    for name in names:
        assert frames_of(site.output / name) == [small_frames[2], small_frames[4]]


def frames_of(sequence: Path) -> List[bytes]:
    names = sorted(path.name for path in (sequence / "frames").glob("f*.png"))
    return [clips.read_png(sequence / "frames" / name)[2] for name in names if re.fullmatch(r"f\d+\.png", name)]


# ---------------------------------------------------------------- links planted in the output directory

LINKED_FILES = ["gt_requests.json", "SEQ/sequence_meta.json", "SEQ/.unfinished.json", "SEQ/gt.json",
                "SEQ/contact_sheet.jpg",
                "SEQ/frames/f00.png", "SEQ/frames/f01.png", "SEQ/frames/f02.png", "SEQ/frames/f00_ann.png",
                "SEQ/frames/crop.png"]
TEMPORARY_LOOKING = [".tmp-x", "SEQ/.tmp-0123456789ab", "SEQ/frames/.tmp-", "SEQ/frames/f00.png.tmp",
                     "SEQ/frames/f00.png.part",
                     "SEQ/sequence_meta.json.tmp"]


def plant(site: Site, place: str, target: Path) -> None:
    path = site.output / place.replace("SEQ", GOOD["seq_id"])
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(str(path))
    elif path.is_symlink() or path.exists():
        path.unlink()
    try:
        path.symlink_to(target)
    except OSError as error:
        pytest.skip("no symbolic links here: {}".format(error))


class Prepared(NamedTuple):
    """What a run makes where nobody interferes."""
    output: Path
    options: Tuple[str, ...]
    tree: Tree

    def copy_to(self, site: Site) -> None:
        shutil.copytree(str(self.output), str(site.output))


def prepared(folder: Path, clip: Path, *options: str) -> Prepared:
    site = Site(folder / "top", clip)
    site.benchmark.write_text(json.dumps(GOOD))
    assert site.run(*options, nframes=2).code == 0
    return Prepared(site.output, options, snapshot(site.output))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, small_clip: Path) -> Prepared:
    return prepared(tmp_path_factory.mktemp("plain"), small_clip)


@pytest.fixture(scope="module")
def with_extras(tmp_path_factory: pytest.TempPathFactory, small_clip: Path) -> Prepared:
    return prepared(tmp_path_factory.mktemp("extras"), small_clip, "--gt-stub",
                    *(["--contact-sheet"] if has_pillow() else []))


@pytest.mark.parametrize("dangling", [False, True], ids=["to_a_file", "to_nothing"])
@pytest.mark.parametrize("done", [False, True], ids=["fresh", "prepared"])
def test_linked_files_are_replaced_and_not_followed(site: Site, with_extras: Prepared, done: bool,
                                                    dangling: bool) -> None:
    site.benchmark.write_text(json.dumps(GOOD))
    if done:
        with_extras.copy_to(site)
    for number, place in enumerate(LINKED_FILES + TEMPORARY_LOOKING):
        plant(site, place, site.outside / ("new-%d" % number if dangling else "precious.txt"))
    outcome = site.run(*with_extras.options, nframes=2)
    assert outcome.code == 0, outcome
    assert {key: value for key, value in snapshot(site.output).items()
            if not key.endswith((".tmp", ".part"))} == with_extras.tree


@pytest.mark.parametrize("place", LINKED_FILES)
def test_a_single_linked_file_is_replaced(site: Site, with_extras: Prepared, place: str) -> None:
    site.benchmark.write_text(json.dumps(GOOD))
    with_extras.copy_to(site)
    plant(site, place, site.outside / "precious.txt")
    assert site.run(*with_extras.options, nframes=2).code == 0
    # A frame beyond the wanted ones may stay: the sequence could have been prepared with more of them.
    assert {key: value for key, value in snapshot(site.output).items()
            if not key.endswith("f02.png")} == with_extras.tree


@pytest.mark.parametrize("place", ["SEQ", "SEQ/frames"])
@pytest.mark.parametrize("target", ["outside", "outside/new", "elsewhere"])
@pytest.mark.parametrize("done", [False, True], ids=["fresh", "prepared"])
def test_linked_folders_are_not_entered(site: Site, plain: Prepared, place: str, target: str, done: bool) -> None:
    """`elsewhere` holds a prepared sequence: even that must not be tidied, completed or changed."""
    site.benchmark.write_text(json.dumps(GOOD))
    plain.copy_to(site)
    source = site.output / place.replace("SEQ", GOOD["seq_id"])
    shutil.copytree(str(source), str(site.top / "elsewhere"))
    (site.top / "elsewhere" / ".tmp-x").write_text("not yours either\n")
    if not done:
        shutil.rmtree(str(site.output))
    plant(site, place, site.top / target)
    outcome = site.run(nframes=2)
    assert outcome.code in (1, 2) and "link" in outcome.err, outcome


IN_THE_WAY = ["gt_requests.json", "SEQ/sequence_meta.json", "SEQ/frames/f00.png", "SEQ/frames/f00_ann.png",
              "SEQ/frames/f05.png"]


@pytest.mark.parametrize("place", IN_THE_WAY + [".tmp-x", "SEQ/frames/.tmp-x"])
def test_folders_in_the_place_of_files_are_no_crash(site: Site, place: str) -> None:
    site.benchmark.write_text(json.dumps(GOOD))
    path = site.output / place.replace("SEQ", GOOD["seq_id"])
    path.mkdir(parents=True)
    (path / "precious.txt").write_text("not yours\n")
    outcome = site.run(nframes=2)
    assert (path / "precious.txt").read_text() == "not yours\n"
    if place in IN_THE_WAY:
        assert outcome.code and path.name in outcome.err, outcome
        assert not [name for name in snapshot(site.output) if "tmp" in name]
    else:
        assert outcome.code == 0, outcome


@pytest.mark.parametrize("place", ["", "SEQ", "SEQ/frames"])
def test_files_in_the_place_of_folders_are_no_crash(site: Site, place: str) -> None:
    site.benchmark.write_text(json.dumps(GOOD))
    path = site.output / place.replace("SEQ", GOOD["seq_id"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("not yours\n")
    assert site.run(nframes=2).code in (1, 2)
    assert path.read_text() == "not yours\n"


@pytest.mark.parametrize("places", [["demo_source"], ["demo_source/demo_benchmark.jsonl", "VIDEO.part"]],
                         ids=["folder", "files"])
def test_the_demo_follows_no_link(tmp_path: Path, places: List[str]) -> None:
    video = "demo_source/MTMC_Tracking_2025/val/Demo_000/videos/Camera_01.mp4"
    outside = tmp_path / "outside"
    outside.mkdir()
    for place in places:
        path = tmp_path / "out" / place.replace("VIDEO", video)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(outside / ("new-" + path.name) if path.suffix else outside)
    with working_in(tmp_path):
        prepare("--demo", "--output-dir", "out", "--nframes", "1")
    assert not list(outside.iterdir())


# ---------------------------------------------------------------- damaged metadata

META_VALUES: List[Any] = [None, "x", "\x1b[2J", 7, -1, 1.5, True, [], {}, [None], ["x"], [[]], {"revision": []},
                          [2, 4, "x"], [2, 4, None], [2, 4, 4],
                          [4, 2], 10 ** 400]


@pytest.mark.parametrize("missing", ["frames/f01.png", "frames/f00_ann.png", ""])
def test_damaged_metadata_is_never_taken_for_right(site: Site, plain: Prepared, missing: str) -> None:
    site.benchmark.write_text(json.dumps(GOOD))
    plain.copy_to(site)
    sequence = site.output / GOOD["seq_id"]
    meta = json.loads((sequence / "sequence_meta.json").read_text())
    damaged = [{**meta, name: value} for name in ("frame_ids", "image_size", "init_bbox", "scene", "nframes", "extra")
               for value in META_VALUES]
    damaged += [{name: value for name, value in meta.items() if name != left_out} for left_out in meta]
    for wrong in random.Random(missing).sample(damaged, 6) + [{**meta, "image_size": []},
                                                              {**meta, "frame_ids": [2, 4, "x"]}]:
        (sequence / "sequence_meta.json").write_text(json.dumps(wrong))
        if missing:
            (sequence / missing).unlink()
        outcome = site.run(nframes=2)
        assert outcome.code == 0, (wrong, outcome)
        assert snapshot(site.output) == plain.tree, wrong


@pytest.mark.parametrize("data", [b"", bytes(100), b"[]", b"\xff\xfe", b'{"frame_ids": ' + b"[" * 100_000,
                                  b'{"nframes": ' + b"9" * 10_000 + b"}"],
                         ids=lambda data: ascii(data[:20]))
def test_metadata_that_is_none(site: Site, plain: Prepared, data: bytes) -> None:
    site.benchmark.write_text(json.dumps(GOOD))
    plain.copy_to(site)
    for name in ("sequence_meta.json", ".unfinished.json"):
        (site.output / GOOD["seq_id"] / name).write_bytes(data)
    assert site.run(nframes=2).code == 0
    assert snapshot(site.output) == plain.tree


# ---------------------------------------------------------------- the terminal

SPELLS = ["\x1b[2J", "\x1b]0;x\x07", "\x9b31m", "\u202e", "\u2066", "\u200b", "\ufeff", "\x7f", "\r", "\x08", "\u2028",
          "\udc9b", "\U000e0041"]


@pytest.mark.parametrize("field", ["seq_id", "id", "scene", "camera", "object_id", "object_type", "init_frame_id",
                                   "init_bbox",
                                   "canonical_frame_ids", "clip_fps", "clip_end_frame", "metadata", "own field"])
def test_no_control_character_of_a_record_reaches_the_terminal(site: Site, field: str) -> None:
    lines = [json.dumps({**GOOD, "clip_fps": -1, field: value}) for spell in SPELLS
             for value in (spell, [spell], {spell: spell})]
    lines += [json.dumps({**GOOD, spell: 1})[:-1] + ", " + json.dumps({spell: 2})[1:] for spell in SPELLS]
    outcome = site.run_on("\n".join(lines).encode("ascii"))
    assert outcome.code == 2
    for number in range(1, len(lines) + 1):
        assert "line %d," % number in outcome.err or "line %d:" % number in outcome.err


@pytest.mark.parametrize("spell", SPELLS, ids=ascii)
def test_no_control_character_of_an_argument_reaches_the_terminal(site: Site, spell: str) -> None:
    site.benchmark.write_text(json.dumps(GOOD))
    text = "a" + spell + "b"
    for options in (["--sequences", text], ["--sequences", GOOD["seq_id"] + spell], ["--nframes", text],
                    ["--stride", text],
                    ["--repo-id", text], ["--video-dir", text], ["--benchmark", text], ["--" + text], [text],
                    ["--output-dir", "bench.jsonl/" + text], ["--repo-subdir", text]):
        assert site.run(*options).code, options


@pytest.mark.parametrize("spell", ["\x1b[2J", "\u202e", "\x9b31m"], ids=ascii)
def test_no_control_character_of_a_folder_reaches_the_terminal(site: Site, small_clip: Path, spell: str) -> None:
    broken = site.work / "broken.mp4"
    broken.write_bytes(small_clip.read_bytes()[:500])
    folder = site.work / ("videos" + spell)
    try:
        video = clips.lay_out(folder, broken)
    except (OSError, UnicodeError):
        pytest.skip("no such names here")
    site.benchmark.write_text(json.dumps(GOOD))
    assert site.run("--video-dir", str(folder)).code == 1
    video.unlink()
    assert site.run("--video-dir", str(folder)).code == 1


# ---------------------------------------------------------------- paths that look like something else

ODD_PATHS = ["-i", "-", "concat:a|b", "http:/x", "http:", "file:", "pipe:0", "%d", "with spaces",
             "\u00fcml\u00e4ut \u4e2d", "a'b\\c",
             "[x]*"]


@pytest.mark.parametrize("name", ODD_PATHS)
def test_a_path_is_a_path_and_nothing_else(site: Site, small_clip: Path, small_frames: List[bytes], name: str) -> None:
    try:
        (site.work / name).mkdir(parents=True)
    except (OSError, UnicodeError):
        pytest.skip("no such names here")
    clips.lay_out(site.work / name, small_clip)
    clips.write_benchmark(site.work / name / "bench.jsonl", [GOOD])
    before = snapshot(site.top)
    with working_in(site.work):
        outcome = prepare("--benchmark=%s/bench.jsonl" % name, "--video-dir=" + name, "--output-dir=%s/out" % name,
                          "--nframes", "2")
    assert outcome.code == 0, outcome
    assert frames_of(site.work / name / "out" / GOOD["seq_id"]) == [small_frames[2], small_frames[4]]
    assert snapshot(site.top, [site.work / name / "out"]) == before


# ---------------------------------------------------------------- videos that lie

LENGTH = 12
EXACT, FAILS, EITHER = "exact", "fails", "either"


def has_pillow() -> bool:
    try:
        import PIL  # noqa: F401
    except ImportError:
        return False
    return True


def film(size: str, *arguments: str, frames: int = LENGTH, source: str = "testsrc2",
         to: str = "mp4") -> Callable[[Path], None]:
    def make(path: Path) -> None:
        clips.run_ffmpeg(["-f", "lavfi", "-i", "%s=size=%s:rate=30" % (source, size), "-frames:v", str(frames),
                          *arguments,
                          "-f", to, str(path)])
    return make


H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-g", "5", "-bf", "2"]
H265 = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none:keyint=5", "-tag:v", "hvc1"]


def written(text: str) -> Callable[[Path], None]:
    """A text with a real video beside it, that it names."""
    def make(path: Path) -> None:
        film("64x48", "-c:v", "mpeg4", to="mpegts" if "beside.ts" in text else "mp4")(path.with_name("beside.ts"))
        path.write_text(text.replace("FOLDER", str(path.parent)))
    return make


def first_half(*options: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        film("160x120", *H264, *options, frames=60)(path)
        path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    return make


def make_audio_only(path: Path) -> None:
    clips.run_ffmpeg(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=16000:duration=1", "-c:a", "aac", str(path)])


def make_cover_only(path: Path) -> None:
    cover = path.with_name("cover.png")
    clips.run_ffmpeg(["-f", "lavfi", "-i", "color=red:size=64x48:rate=1", "-frames:v", "1", str(cover)])
    clips.run_ffmpeg(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=16000:duration=1", "-i", str(cover), "-map",
                      "0", "-map", "1",
                      "-c:a", "aac", "-c:v", "copy", "-disposition:v:0", "attached_pic", str(path)])


def make_two_sizes(path: Path) -> None:
    parts = [path.with_name("part%d.mp4" % number) for number in (1, 2)]
    for part, size in zip(parts, ("160x120", "96x64")):
        film(size, *H264)(part)
    script = path.with_name("parts.txt")
    script.write_text("".join("file '%s'\n" % part.name for part in parts))
    clips.run_ffmpeg(["-f", "concat", "-i", str(script), "-c", "copy", str(path)])


def made_like(kind: str) -> Callable[[Path], None]:
    return lambda path: clips.make_clip(kind, path)


class Lie(NamedTuple):
    make: Callable[[Path], None]
    answer: str
    frame_ids: Tuple[int, ...] = (0, 1, 6, LENGTH - 1)
    encoder: str = "libx264"


PLAYLIST = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.4,\n%s\n#EXT-X-ENDLIST\n"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="64" height="48">' \
      '<image xlink:href="file://FOLDER/beside.ts" width="64" height="48"/></svg>'
LIES: Dict[str, Lie] = {
    "zero_bytes": Lie(lambda path: path.write_bytes(b"") and None, FAILS),
    "zeros": Lie(lambda path: path.write_bytes(bytes(100_000)) and None, FAILS),
    "hls_playlist": Lie(written(PLAYLIST % "beside.ts"), FAILS),
    "ffconcat_script": Lie(written("ffconcat version 1.0\nfile beside.ts\n"), FAILS),
    "svg": Lie(written(SVG), FAILS),
    "half_with_moov_at_the_end": Lie(first_half(), FAILS),
    "half_with_moov_at_the_start": Lie(first_half("-movflags", "+faststart"), FAILS, (0, 1, 30, 59)),
    "first_frames_of_a_half": Lie(first_half("-movflags", "+faststart"), EITHER, (0, 1, 2)),
    "no_video": Lie(make_audio_only, FAILS),
    "cover_only": Lie(make_cover_only, FAILS),
    "audio_first": Lie(made_like("h264_audio_first"), EXACT, (0, 1, 60, clips.FRAMES - 1)),
    "cover_first": Lie(made_like("h264_cover_first"), EXACT, (0, 1, 60, clips.FRAMES - 1)),
    "two_sizes": Lie(make_two_sizes, EITHER, (0, 6, 14, 23)),
    "two_sizes_behind_the_change": Lie(make_two_sizes, EITHER, (12, 14, 20, 23)),
    "one_pixel": Lie(film("16x16", "-vf", "format=rgb24,scale=1:1", "-c:v", "png"), EXACT, encoder="png"),
    "two_pixels_wide": Lie(film("2x90", *H264), EXACT),
    "8192_wide": Lie(film("8192x64", *H264), EXACT),
    "10_bit_h264": Lie(film("160x90", *H264, "-pix_fmt", "yuv420p10le"), EXACT),
    "10_bit_h265": Lie(film("160x90", *H265, "-pix_fmt", "yuv420p10le"), EXACT, encoder="libx265"),
    "rgb_h264": Lie(film("160x90", "-c:v", "libx264rgb", "-g", "5"), EXACT, encoder="libx264rgb"),
    "rotated": Lie(made_like("h264_rotated"), EXACT, (0, 1, 60, clips.FRAMES - 1)),
    "interlaced": Lie(film("160x96", *H264, "-flags", "+ilme+ildct"), EXACT),
    "non_square_pixels": Lie(film("160x96", "-vf", "setsar=3/2", *H264), EXACT),
    "one_frame": Lie(film("160x96", *H264, frames=1), EXACT, (0,)),
    "transport_stream": Lie(film("160x96", *H264, to="mpegts"), EITHER),
}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studio")


@pytest.fixture(scope="module", autouse=True)
def one_ffmpeg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The program takes the ffmpeg on PATH; let it be the one that the tests measure with."""
    folder = tmp_path_factory.mktemp("bin")
    link = folder / ("ffmpeg.exe" if os.name == "nt" else "ffmpeg")
    try:
        link.symlink_to(Path(clips.ffmpeg_exe()).resolve())
    except OSError:
        shutil.copy(clips.ffmpeg_exe(), str(link))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        yield


def decoded_frame(video: Path, number: int, folder: Path) -> Optional[Tuple[int, int, bytes]]:
    """What `ffmpeg -i` writes as frame `number`, None where it does not get so far."""
    pattern = folder / "%d.ppm"
    with contextlib.suppress(RuntimeError):
        clips.run_ffmpeg(["-i", str(video), "-map", "0:V:0", *clips.passthrough_args(), "-pix_fmt", "rgb24",
                          "-start_number", "0",
                          str(pattern)])
    path = folder / ("%d.ppm" % number)
    if not path.exists():
        return None
    size = re.match(rb"P6\n(\d+) (\d+)\n255\n", path.read_bytes())
    assert size
    return int(size.group(1)), int(size.group(2)), path.read_bytes()[size.end():]


@pytest.mark.parametrize("name", list(LIES))
def test_a_video_that_lies(studio: Path, tmp_path: Path, name: str) -> None:
    lie = LIES[name]
    if not clips.has_encoder(lie.encoder):
        pytest.skip("this ffmpeg has no encoder " + lie.encoder)
    folder = studio / name
    folder.mkdir()
    video = folder / "clip.mp4"
    lie.make(video)
    site = Site(tmp_path / "top", video)
    place = next(site.videos.glob("**/*.mp4")).parent
    for neighbour in set(folder.iterdir()) - {video}:
        shutil.copy(str(neighbour), str(place))
    record = {**clips.record(lie.frame_ids), "clip_fps": None}
    outcome = site.run_on_records(record, nframes=len(lie.frame_ids))
    sequence = site.output / record["seq_id"]
    if outcome.code:
        assert lie.answer in (FAILS, EITHER), outcome
        assert_failed_with_a_reason(outcome, record["seq_id"])
        assert not (sequence / "sequence_meta.json").exists() and not list(sequence.glob("frames/f??.png"))
        return
    assert lie.answer in (EXACT, EITHER), outcome
    (folder / "decoded").mkdir()
    for index, number in enumerate(lie.frame_ids):
        expected = decoded_frame(video, number, folder / "decoded")
        assert expected is not None
        assert clips.read_png(sequence / "frames" / ("f%02d.png" % index)) == expected
    shutil.rmtree(str(folder))
    width, height, _ = clips.read_png(sequence / "frames" / "crop.png")
    assert width >= 1 and height >= 1


def assert_failed_with_a_reason(outcome: Outcome, seq_id: str) -> None:
    assert outcome.code == 1, outcome
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("ERROR: ")]
    reason = line.split(seq_id, 1)[1]
    assert len(reason.replace("MTMC_Tracking_2025/val/Warehouse_016/videos/Camera_11.mp4", "")) > 25, outcome


def test_a_video_that_is_a_link_or_a_folder(site: Site) -> None:
    (video,) = site.videos.glob("**/*.mp4")
    video.rename(video.with_name("real.bin"))
    clips.write_benchmark(site.benchmark, [GOOD])
    video.mkdir()
    assert site.run().code == 1
    video.rmdir()
    video.symlink_to(video.with_name("real.bin"))
    assert site.run(nframes=2).code == 0


def test_a_bad_video_spoils_no_other(site: Site) -> None:
    broken = site.work / "broken.mp4"
    broken.write_bytes(b"")
    clips.lay_out(site.videos, broken, scene="Lab_001")
    outcome = site.run_on_records(clips.record([0, 1], scene="Lab_001"), GOOD, nframes=2)
    assert outcome.code == 1
    assert (site.output / GOOD["seq_id"] / "sequence_meta.json").exists()


# ---------------------------------------------------------------- ground truth

MARK = "5071393"  # in the digits of each ground-truth number, and in nothing else


def marked(number: int) -> float:
    return float("%d.%s%d" % (100 + number * 7 % 400, MARK, number % 9 + 1))


def secret_box(number: int) -> List[float]:
    x, y = marked(number), marked(number + 3)
    return [x, y, round(x + 300, 8), round(y + 250, 8)]


SECRET_BOXES = st.sampled_from([secret_box(number) for number in range(40)])
SPOILED_BOXES = SECRET_BOXES.flatmap(lambda box: st.sampled_from([
    box[:3], box + box, box[::-1], [str(edge) for edge in box], {"box": box}, str(box), [box], [-edge for edge in box],
    box[0], [None] + box]))


@st.composite
def secret_truths(draw: Any) -> Any:
    keys = draw(st.lists(st.sampled_from(["2", "3", "4", "9", "02", "x", "-1", "2.0"]), unique=True, min_size=1))
    truth: Any = {key: draw(SECRET_BOXES if draw(st.integers(0, 3)) else SPOILED_BOXES) for key in keys}
    return draw(st.sampled_from([truth, truth, truth, [truth], list(truth.values()), json.dumps(truth),
                                 {"boxes": truth}]))


@st.composite
def secret_records(draw: Any) -> Record:
    truth = draw(secret_truths())
    if draw(st.booleans()):
        record = {**GOOD, "gt_bboxes": truth}
    else:
        said = json.dumps(truth) if draw(st.integers(0, 3)) else truth
        if isinstance(said, str) and draw(st.integers(0, 5)) == 0:
            said = said[:-2]
        who, what = draw(st.sampled_from([("from", "value"), ("role", "content")]))
        turns = [{who: "human", what: "?"}, {who: draw(st.sampled_from(["gpt", "assistant"])), what: said}]
        record = {"id": GOOD["seq_id"], "metadata": {name: GOOD[name] for name in GOOD if name != "seq_id"},
                  "conversations": turns}
    fields = record.get("metadata", record)
    for name in draw(st.lists(st.sampled_from(["init_bbox", "canonical_frame_ids", "init_frame_id", "object_type",
                                               "scene"]), max_size=2)):
        fields.pop(name, None)
    spoiled = draw(st.sampled_from([None] * 4 + ["clip_fps", "scene", "init_bbox", "canonical_frame_ids", "object_id"]))
    if spoiled:
        fields[spoiled] = draw(st.sampled_from([-1, "", {"2": draw(SECRET_BOXES)}, [draw(SECRET_BOXES)]]))
    return record


@st.composite
def secret_files(draw: Any) -> bytes:
    lines = [json.dumps(draw(secret_records()))]
    if draw(st.integers(0, 3)) == 0:
        other = {**draw(secret_records()), "scene": "Lab_404"}
        lines.append(json.dumps(other).replace("Warehouse_016__", "Lab_404__"))
    trouble = draw(st.sampled_from(["none"] * 4 + ["bad_neighbour", "cut", "key_twice", "as_array", "not_json"]))
    if trouble == "bad_neighbour":
        lines.append(json.dumps({"seq_id": "bad", "gt_bboxes": draw(secret_truths())}))
    elif trouble == "cut":
        lines[-1] = lines[-1][:draw(st.integers(1, len(lines[-1])))]
    elif trouble == "key_twice":
        lines[-1] = lines[-1][:-1] + ', "gt_bboxes": %s, "gt_bboxes": %s}' % (json.dumps(secret_box(1)),
                                                                              json.dumps(secret_box(2)))
    elif trouble == "as_array":
        return ("[%s]" % ",".join(lines)).encode()
    elif trouble == "not_json":
        lines[-1] = lines[-1].replace("[", "[\x01", 1).replace("]", "]]")
    return "\n".join(lines).encode("ascii")


def public_boxes(site: Site) -> List[List[float]]:
    return [json.loads(path.read_text())["init_bbox"] for path in site.output.glob("*/sequence_meta.json")]


def assert_no_secret(site: Site, data: bytes, outcome: Outcome) -> None:
    texts = {"stdout": outcome.out, "stderr": outcome.err}
    for key, (_, content) in (snapshot(site.output) if site.output.exists() else {}).items():
        texts[key] = key + "\n" + ("" if key.endswith(".png") or not content else content.decode("latin-1"))
    public = {repr(float(edge)) for box in public_boxes(site) for edge in box}
    for place, text in texts.items():
        for edge in public if place.endswith(("sequence_meta.json", "/gt.json")) else ():
            text = text.replace(edge, "")
        assert MARK not in text, (place, text, data)


@examples(50)
@given(data=secret_files(), options=st.sampled_from([[], [], ["--gt-stub"], ["--contact-sheet"],
                                                     ["--sequences", GOOD["seq_id"]], ["--check"],
                                                     ["--stride", "30"], ["--sequences", "unknown"], ["--quiet"],
                                                     ["--stride", "1"]]))
def test_property_ground_truth_stays_in_the_input(common_site: Site, data: bytes, options: List[str]) -> None:
    shutil.rmtree(str(common_site.output), ignore_errors=True)
    common_site.benchmark.write_bytes(data)
    if "--contact-sheet" in options and not has_pillow():
        options = []
    assert_no_secret(common_site, data, common_site.run(*options, nframes=2))


SECRET = {str(number): secret_box(number) for number in range(2, 10)}


def secret_record(flavour: int, truth: Any = SECRET, **changes: Any) -> Record:
    record = {name: value for name, value in GOOD.items() if name != "init_bbox"}
    if flavour == 2:
        return {**record, "gt_bboxes": truth, **changes}
    return {"id": record.pop("seq_id"), "metadata": {**record, **changes},
            "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": json.dumps(truth)}]}


@pytest.mark.parametrize("flavour", [2, 3])
class TestGroundTruth:
    def run(self, site: Site, record: Record, *options: str) -> Outcome:
        data = json.dumps(record).encode("ascii")
        outcome = site.run_on(data, *options)
        assert_no_secret(site, data, outcome)
        return outcome

    def test_only_the_initial_box_becomes_public(self, site: Site, flavour: int) -> None:
        outcome = self.run(site, secret_record(flavour), "--gt-stub")
        assert (outcome.code, public_boxes(site)) == (0, [secret_box(2)]), outcome

    def test_of_another_initial_frame(self, site: Site, flavour: int) -> None:
        outcome = self.run(site, secret_record(flavour, init_frame_id=5, canonical_frame_ids=[5, 6]))
        assert (outcome.code, public_boxes(site)) == (0, [secret_box(5)]), outcome

    def test_with_a_public_box_none_of_it(self, site: Site, flavour: int) -> None:
        outcome = self.run(site, secret_record(flavour, init_bbox=[1, 2, 3, 4]))
        assert (outcome.code, public_boxes(site)) == (0, [[1, 2, 3, 4]]), outcome

    def test_when_the_video_is_missing(self, site: Site, flavour: int) -> None:
        shutil.rmtree(str(site.videos))
        site.videos.mkdir()
        assert self.run(site, secret_record(flavour)).code == 1
        assert self.run(site, secret_record(flavour), "--check").code == 1

    def test_when_the_video_ends_early(self, site: Site, flavour: int) -> None:
        assert self.run(site, secret_record(flavour), "--stride", "50", "--nframes", "3").code == 1

    @pytest.mark.parametrize("name, value", [
        ("clip_fps", -1), ("init_bbox", [5, 5, 1, 1]), ("init_bbox", "x"), ("scene", "../x"), ("init_frame_id", 77),
        ("canonical_frame_ids", [9, 8]), ("object_id", [])])
    def test_when_a_record_is_wrong(self, site: Site, flavour: int, name: str, value: Any) -> None:
        assert self.run(site, secret_record(flavour, **{name: value})).code == 2

    @pytest.mark.parametrize("name", ["init_bbox", "canonical_frame_ids", "init_frame_id", "seq_id", "object_id",
                                      "object_type",
                                      "clip_fps", "clip_end_frame", "scene"])
    def test_when_it_stands_in_the_wrong_place(self, site: Site, flavour: int, name: str) -> None:
        for value in (SECRET, list(SECRET.values())):
            assert self.run(site, secret_record(flavour, **{name: value})).code == 2

    @pytest.mark.parametrize("spoil", [
        lambda box: box[:3], lambda box: box[::-1], lambda box: [str(edge) for edge in box], lambda box: {"box": box},
        str,
        lambda box: [box], lambda box: box[0], lambda box: [-edge for edge in box]])
    def test_when_it_is_malformed_itself(self, site: Site, flavour: int, spoil: Callable[[List[float]], Any]) -> None:
        outcome = self.run(site, secret_record(flavour, {**SECRET, "2": spoil(SECRET["2"])}))
        assert outcome.code == 2 and "init_bbox" in outcome.err

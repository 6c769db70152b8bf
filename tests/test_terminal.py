"""What a person sees: on a terminal, in a pipe, in a log, after a typing mistake."""
from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import signal
import struct
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import pytest

import prepare_sot_dataset as program
from tests import clips
from tests.hub_server import Hub
from tests.programs import Environment, at_rename, command, environment, rewritten, run_program, stamps, strays, tree

NFRAMES = 4
IDS = (3, 10, 17, 24)
# The names are as long as those of the real benchmark.
NAMES = ["Warehouse_016__Camera_{}__5600__obj{}".format(camera, number)
         for camera, number in ((11, 353), (11, 354), (12, 355))]
RECORDS = [clips.record(IDS, camera=name.split("__")[1], object_id=name[-3:], seq_id=name) for name in NAMES]
DONE = "Done: 3 ready (0 already were), 0 failed"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")

on_a_terminal = pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals for Python")
Arg = Union[str, Path]


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    bars = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS")
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if bars is None:
        os.environ.pop("HF_HUB_DISABLE_PROGRESS_BARS", None)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    clips.make_clip("mpeg4_bframes", folder / "clip.mp4")
    for camera in ("Camera_11", "Camera_12"):
        clips.lay_out(folder, folder / "clip.mp4", camera=camera)
    clips.write_benchmark(folder / "three.jsonl", RECORDS)
    return folder


def local_args(videos: Path, output: Arg, *more: Arg) -> List[Arg]:
    return ["--benchmark", videos / "three.jsonl", "--video-dir", videos, "--output-dir", output,
            "--nframes", str(NFRAMES), *more]


# ---------------------------------------------------------------- a terminal


STARTS_FASTER = "sys.modules['cv2'] = None  # Pillow draws as well\n"


class Session(NamedTuple):
    code: int
    text: str
    columns: int

    def screen(self) -> List[str]:
        return screen_of(self.text, self.columns)

    def drawn(self) -> List[str]:
        """Each thing that was written over a line, in order."""
        return [part for part in re.split(r"[\r\n]+", self.text) if part.strip()]

    def bars(self) -> List[str]:
        return [part for part in self.drawn() if re.search(r"\d/\d+ \[", part) and "B/s" not in part]


def screen_of(text: str, columns: int) -> List[str]:
    """The lines that are left on an endless terminal of this width."""
    lines: List[List[str]] = [[]]
    row = column = 0
    for sequence, char in re.findall(r"(\x1b\[[0-9;?]*[A-Za-z])|(.)", text, re.S):
        if sequence:
            count = int(re.sub(r"\D", "", sequence) or "1")
            if sequence[-1] == "A":
                row = max(0, row - count)
            elif sequence[-1] == "B":
                row += count
            elif sequence[-1] == "K":
                del lines[row][column:]
        elif char == "\r":
            column = 0
        elif char == "\n":
            row += 1
        else:
            if column == columns:
                row, column = row + 1, 0
            lines += [[] for _ in range(row + 1 - len(lines))]
            lines[row] += [" "] * (column + 1 - len(lines[row]))
            lines[row][column] = char
            column += 1
        lines += [[] for _ in range(row + 1 - len(lines))]
    return ["".join(line).rstrip() for line in lines]


def test_screen_of() -> None:
    assert screen_of("abc\rX\r\n\n12\x1b[A\x1b[2Ay\r\x1b[Kz", 80) == ["z", "", "12"]
    assert screen_of("abcdef\rX", 4) == ["abcd", "Xf"]
    assert screen_of("  0%|    |\r          \rdone\r\n", 80) == ["done", ""]


def on_terminal(args: Sequence[Arg], env: Optional[Environment] = None, columns: int = 120, prologue: str = "") -> Session:
    import fcntl
    import pty
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    env = {"TERM": "xterm", "COLUMNS": None, "LINES": None, **(env or {})}
    process = subprocess.Popen(command(args, prologue=STARTS_FASTER + prologue), env=environment(env),
                               stdin=subprocess.DEVNULL, stdout=slave, stderr=slave)
    os.close(slave)
    written = b""
    try:
        while True:
            try:
                data = os.read(master, 1 << 16)
            except OSError:  # Linux says so when the last writer has gone
                break
            if not data:
                break
            written += data
        return Session(process.wait(60), written.decode("utf-8"), columns)
    finally:
        process.kill()
        os.close(master)


def assert_plain(text: str) -> None:
    controls = sorted({char for char in text.replace("\r\n", "\n") if char != "\n" and not char.isprintable()})
    assert controls == [], text


@pytest.fixture(scope="module")
def local_session(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    return on_terminal(local_args(videos, tmp_path_factory.mktemp("local") / "out"))


@pytest.fixture(scope="module")
def narrow_session(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    return on_terminal(local_args(videos, tmp_path_factory.mktemp("narrow") / "out"), {"NO_COLOR": "1"}, columns=45)


@on_a_terminal
def test_bar_shows_sequence_frames_and_time_left(local_session: Session) -> None:
    assert local_session.code == 0
    bars = local_session.bars()
    for name in NAMES:
        for count in range(1, NFRAMES + 1):
            assert any(name in bar and "{}/{}".format(count, NFRAMES) in bar for bar in bars)
    assert any(re.search(r"\b1/3 \[[\d:]+<\d\d:\d\d", bar) for bar in bars)
    assert not any("[1/3]" in part for part in local_session.drawn())


@on_a_terminal
def test_bar_of_a_common_terminal_has_room_for_sequence_and_frames(videos: Path, tmp_path: Path) -> None:
    session = on_terminal(local_args(videos, tmp_path / "out"), columns=80)
    last = [bar for bar in session.bars() if re.search(r"\b2/3 \[[\d:]+<\d\d:\d\d", bar)]
    assert any(NAMES[2] in bar and re.search(r"\b2/{}\b".format(NFRAMES), bar) for bar in last), last[-1]
    assert_one_line_at_a_time(session)


@on_a_terminal
def test_bar_never_wraps(narrow_session: Session) -> None:
    assert_one_line_at_a_time(narrow_session)


def assert_one_line_at_a_time(session: Session) -> None:
    assert session.bars()
    assert all(len(bar) <= session.columns for bar in session.bars())
    assert [line for line in session.screen() if line] == [DONE]


@on_a_terminal
def test_bar_leaves_nothing_behind(local_session: Session) -> None:
    assert [line for line in local_session.screen() if line] == [DONE]
    assert local_session.text.endswith("\n")


@on_a_terminal
def test_no_bar_where_nothing_is_to_be_done(videos: Path, tmp_path: Path) -> None:
    args = local_args(videos, tmp_path / "out")
    assert run_program(args).returncode == 0
    assert on_terminal(args).text == "Done: 3 ready (3 already were), 0 failed\r\n"


@on_a_terminal
def test_quiet_terminal(videos: Path, tmp_path: Path) -> None:
    assert on_terminal(local_args(videos, tmp_path / "out", "--quiet")).text == DONE + "\r\n"


@on_a_terminal
def test_failure_stands_on_a_line_of_its_own(videos: Path, tmp_path: Path) -> None:
    benchmark = clips.write_benchmark(tmp_path / "b.jsonl", [RECORDS[0], clips.record([2], camera="Camera_99"), RECORDS[2]])
    args: List[Arg] = ["--benchmark", benchmark, "--video-dir", videos, "--output-dir", tmp_path / "out", "--nframes", "1"]
    session = on_terminal(args, columns=400)
    assert session.code == 1
    error, done = [line for line in session.screen() if line]
    assert error.startswith("ERROR: ") and "Camera_99" in error
    assert done == "Done: 2 ready (0 already were), 1 failed"


@on_a_terminal
def test_interruption_stands_on_a_line_of_its_own(videos: Path, tmp_path: Path) -> None:
    session = on_terminal(local_args(videos, tmp_path / "out"), prologue=at_rename("f02.png", "after", signal.SIGINT, 2))
    assert session.code == 130
    (line,) = [line for line in session.screen() if line]
    assert line.startswith("Interrupted.") and "%|" not in line


# ---------------------------------------------------------------- with the hub's own bar

CAMERAS = ("Camera_11", "Camera_12")
VIDEO_BYTES = 700_000
BYTES_PER_SECOND = 1_000_000.0  # the hub's bar is drawn ten times a second


@pytest.fixture(scope="module")
def hub(videos: Path) -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub")
    files: Dict[str, Any] = {}
    for number, camera in enumerate(CAMERAS):
        path = "MTMC_Tracking_2025/val/Warehouse_016/videos/{}.mp4".format(camera)
        clip = (videos / path).read_bytes()
        size = VIDEO_BYTES - len(clip) - 8
        noise = random.Random(number).getrandbits(8 * size).to_bytes(size, "big")
        files[path] = clip + struct.pack(">I4s", size + 8, b"free") + noise
    with Hub(files) as running:
        yield running


def hub_env(hub: Hub, folder: Path, **more: str) -> Dict[str, Optional[str]]:
    inherited = {name: None for name in os.environ if name.startswith("HF_")}
    return {**inherited, **hub.env(folder / "home"), **more}


def hub_args(videos: Path, folder: Path, *more: Arg) -> List[Arg]:
    return ["--benchmark", videos / "three.jsonl", "--output-dir", folder / "out", "--nframes", str(NFRAMES), *more]


@pytest.fixture(scope="module")
def hub_session(hub: Hub, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("hub")
    hub.bandwidth = BYTES_PER_SECOND
    try:
        return on_terminal(hub_args(videos, folder), hub_env(hub, folder))
    finally:
        hub.bandwidth = None


def is_download(part: str) -> bool:
    return "B/s" in part


@on_a_terminal
def test_download_shows_its_speed(hub_session: Session) -> None:
    assert hub_session.code == 0
    assert any(re.search(r"[1-9][\d.]*[kM]B/s", part) for part in hub_session.drawn())


@on_a_terminal
def test_two_bars_do_not_fight(hub_session: Session) -> None:
    kinds = ["download" if is_download(part) else "ours" for part in hub_session.drawn()
             if is_download(part) or part in hub_session.bars()]
    turns = [kind for kind, before in zip(kinds, [None, *kinds]) if kind != before]
    assert turns.count("download") == len(CAMERAS)
    assert kinds.count("ours") > NFRAMES and turns[-1] == "ours"
    assert "\x1b[A" not in hub_session.text  # no bar is drawn above another one


@on_a_terminal
def test_download_leaves_whole_lines(hub_session: Session) -> None:
    lines = [line for line in hub_session.screen() if line]
    expected = [form.format(camera) for camera in CAMERAS for form in (r"Getting \S+/{}\.mp4", r"{}\.mp4: 100%\|.*B/s\]")]
    assert len(lines) == len(expected) + 1 and lines[-1] == DONE
    for line, form in zip(lines, expected):
        assert re.fullmatch(form, line), line


@on_a_terminal
def test_progress_never_goes_back(hub_session: Session) -> None:
    done = [int(found.group(1)) for found in (re.search(r"\b(\d+)/3 \[", bar) for bar in hub_session.bars()) if found]
    assert done == sorted(done)


@on_a_terminal
def test_no_colours(local_session: Session, narrow_session: Session, hub_session: Session) -> None:
    forced = on_terminal(["--help"], {"FORCE_COLOR": "1"})
    for session in (local_session, narrow_session, hub_session, forced):
        assert session.code == 0 and not COLOUR.search(session.text)


@on_a_terminal
def test_dumb_terminal_gets_plain_lines(hub: Hub, videos: Path, tmp_path: Path) -> None:
    session = on_terminal(hub_args(videos, tmp_path), hub_env(hub, tmp_path, TERM="dumb"))
    assert session.code == 0
    assert_plain(session.text)
    lines = session.text.splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith("[")] == [
        "[{}/3] {}".format(number, name) for number, name in enumerate(NAMES, 1)]
    assert lines[-1] == DONE


def test_pipe_gets_plain_lines(hub: Hub, videos: Path, tmp_path: Path) -> None:
    result = run_program(hub_args(videos, tmp_path), hub_env(hub, tmp_path))
    assert result.returncode == 0
    assert_plain(result.stdout + result.stderr)
    assert result.stdout == DONE + "\n"
    paths = ["MTMC_Tracking_2025/val/Warehouse_016/videos/{}.mp4".format(camera) for camera in CAMERAS]
    ready = ["[{}/3] {}: ready".format(number, name) for number, name in enumerate(NAMES, 1)]
    assert result.stderr.splitlines() == ["Getting " + paths[0], *ready[:2], "Getting " + paths[1], ready[2]]


@on_a_terminal
def test_quiet_terminal_has_no_download_bar(hub: Hub, videos: Path, tmp_path: Path) -> None:
    session = on_terminal(hub_args(videos, tmp_path, "--quiet"), hub_env(hub, tmp_path))
    assert session.text == DONE + "\r\n"


# ---------------------------------------------------------------- lines


def failing_benchmark(folder: Path) -> Path:
    """Six sequences of which five fail for three reasons, those of one reason apart from each other."""
    gone = [clips.record([n, n + 1], camera="Camera_99", object_id=n) for n in (1, 2)]
    late = [clips.record([4, 5000], object_id=n) for n in (4, 5)]
    other = clips.record([6, 7], camera="Camera_55", object_id=6)
    return clips.write_benchmark(folder / "failing.jsonl", [gone[0], late[0], RECORDS[0], other, late[1], gone[1]])


def groups(text: str, seq_ids: Sequence[str], reasons: Sequence[str]) -> List[Tuple[str, List[str]]]:
    """(reason, its seq_ids) in the order of the text, whether a reason stands before its seq_ids or behind them."""
    words = sorted([*seq_ids, *reasons], key=len, reverse=True)
    found = re.findall("|".join(map(re.escape, words)), text)
    if found and found[0] in seq_ids:
        found = found[::-1]
        return [(reason, ids[::-1]) for reason, ids in after_each(found, reasons)][::-1]
    return after_each(found, reasons)


def after_each(found: Sequence[str], reasons: Sequence[str]) -> List[Tuple[str, List[str]]]:
    grouped: List[Tuple[str, List[str]]] = []
    for word in found:
        if word in reasons:
            grouped.append((word, []))
        else:
            grouped[-1][1].append(word)
    return grouped


def test_failures_are_listed_at_the_end_by_reason(videos: Path, tmp_path: Path) -> None:
    result = run_program(["--benchmark", failing_benchmark(tmp_path), "--video-dir", videos, "--output-dir",
                          tmp_path / "out", "--nframes", "2"])
    assert result.returncode == 1
    failed: Dict[str, List[str]] = {}
    for seq_id, reason in re.findall(r"^\[\d/\d\] (\S+): FAILED, (.*)$", result.stderr, re.M):
        failed.setdefault(reason, []).append(seq_id)
    lines = result.stderr.splitlines()
    last = max(at for at, line in enumerate(lines) if line.startswith("["))
    closing = "\n".join(lines[last + 1:])
    assert closing.startswith("ERROR: ")
    listed = groups(closing, [seq_id for ids in failed.values() for seq_id in ids], list(failed))
    assert listed == [(reason, failed[reason]) for reason in sorted(failed)]
    assert sorted(len(ids) for ids in failed.values()) == [1, 2, 2]
    assert "ERROR" not in "\n".join(lines[:last + 1])
    assert result.stdout == "Done: 1 ready (0 already were), 5 failed\n"


def test_quiet_failures_are_errors_and_the_closing_line(videos: Path, tmp_path: Path) -> None:
    result = run_program(["--benchmark", failing_benchmark(tmp_path), "--video-dir", videos, "--output-dir",
                          tmp_path / "out", "--nframes", "2", "--quiet"])
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert lines and all(line.startswith("ERROR: ") for line in lines)
    assert result.stdout == "Done: 1 ready (0 already were), 5 failed\n"


def test_closing_line_counts_what_was_asked_for(videos: Path, tmp_path: Path) -> None:
    assert run_program(local_args(videos, tmp_path / "out", "--sequences", NAMES[0])).returncode == 0
    result = run_program(local_args(videos, tmp_path / "out", "--sequences", NAMES[2]))
    assert result.stdout == "Done: 1 ready (0 already were), 0 failed\n"


# ---------------------------------------------------------------- mistakes


def folder_with_traps(folder: Path, videos: Path) -> None:
    shutil.copyfile(str(videos / "three.jsonl"), str(folder / "good.jsonl"))
    (folder / "a-file").write_text("not a folder", encoding="utf-8")
    (folder / "a-folder").mkdir()


GOOD = ["--benchmark", "good.jsonl", "--video-dir", "a-folder", "--output-dir", "out"]
MISTAKES = [
    ("--bogus", [*GOOD, "--bogus"]),
    ("--n-frames", [*GOOD, "--n-frames", "8"]),
    ("--nfram", [*GOOD, "--nfram", "8"]),
    ("stray", [*GOOD, "stray"]),
    ("--benchmark", ["--output-dir", "out"]),
    ("--benchmark", ["--benchmark", "missing.jsonl", "--output-dir", "out"]),
    ("--benchmark", ["--benchmark", "a-folder", "--output-dir", "out"]),
    ("--benchmark", ["--benchmark", "", "--output-dir", "out"]),
    ("--benchmark", ["--benchmark"]),
    ("--output-dir", ["--benchmark", "good.jsonl"]),
    ("--output-dir", ["--demo"]),
    ("--output-dir", ["--benchmark", "good.jsonl", "--video-dir", "a-folder", "--output-dir", "a-file"]),
    ("--output-dir", ["--benchmark", "good.jsonl", "--video-dir", "a-folder", "--output-dir", ""]),
    ("--output-dir", ["--demo", "--output-dir", ""]),
    *[("--nframes", [*GOOD, "--nframes", value]) for value in ("0", "-1", "x", "1.5", "", "1e3", "99999999999")],
    ("--nframes", [*GOOD, "--nframes"]),
    *[("--stride", [*GOOD, "--stride", value]) for value in ("0", "-1", "x", "2.5", "")],
    ("--video-dir", ["--benchmark", "good.jsonl", "--output-dir", "out", "--video-dir", "missing"]),
    ("--video-dir", ["--benchmark", "good.jsonl", "--output-dir", "out", "--video-dir", "a-file"]),
    ("--video-dir", ["--benchmark", "good.jsonl", "--output-dir", "out", "--video-dir", ""]),
    ("--benchmark", ["--demo", "--benchmark", "good.jsonl", "--output-dir", "out"]),
    ("--video-dir", ["--demo", "--video-dir", "a-folder", "--output-dir", "out"]),
    ("--sequences", [*GOOD, "--sequences", "Warehouse_016__Camera_11__5600__obj9"]),
    ("--sequences", [*GOOD, "--sequences"]),
    ("--repo-id", [*GOOD, "--repo-id", "no-owner"]),
    ("--repo-subdir", [*GOOD, "--repo-subdir", "a/../../b"]),
]


@pytest.mark.parametrize("option, args", MISTAKES, ids=[" ".join(args) for _, args in MISTAKES])
def test_mistake_is_named_and_nothing_is_written(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                 capfd: pytest.CaptureFixture[str], option: str, args: List[str]) -> None:
    folder_with_traps(tmp_path, videos)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # a mistake that is not found must not go far
    before = tree(tmp_path)
    assert program.main(args) == 2
    assert tree(tmp_path) == before
    printed = capfd.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert lines and lines[0].startswith("ERROR: ") and option in lines[0], printed.err
    assert "Traceback" not in printed.err and len(lines) <= 3


def test_unknown_sequence_names_the_nearest(videos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    near = NAMES[0].replace("5600", "5601")
    assert program.main([str(arg) for arg in local_args(videos, tmp_path / "out", "--sequences", near)]) == 2
    error = capfd.readouterr().err
    assert near in error and NAMES[0] in error.replace(near, "")


# ---------------------------------------------------------------- help and version


def help_at(columns: int) -> str:
    result = run_program(["--help"], {"COLUMNS": str(columns)})
    assert result.returncode == 0 and result.stderr == ""
    return result.stdout


def test_help_fits_two_screens() -> None:
    lines = help_at(80).splitlines()
    rows = sum(max(1, -(-len(line) // 80)) for line in lines)
    assert rows <= 66


def test_help_has_its_groups_in_order() -> None:
    headings = re.findall(r"^(\S.*):$", help_at(80), re.M)
    assert headings == ["what to prepare", "which frames", "where videos come from", "output", "other", "examples"]


def test_help_puts_options_where_they_belong() -> None:
    parts = re.split(r"^(\S.*):$", help_at(200), flags=re.M)
    options = {heading: re.findall(r"^  (?:-h, )?(--[a-z-]+)", body, re.M)
               for heading, body in zip(parts[1::2], parts[2::2])}
    assert options["what to prepare"] == ["--benchmark", "--sequences", "--demo"]
    assert options["which frames"] == ["--nframes", "--stride"]
    assert set(options["where videos come from"]) >= {"--video-dir", "--hf-token", "--hf-cache-dir", "--repo-id",
                                                      "--repo-subdir", "--revision"}
    assert options["output"] == ["--output-dir", "--gt-stub", "--contact-sheet"]
    assert set(options["other"]) == {"--check", "--quiet", "--version", "--help"}


def test_version_line() -> None:
    result = run_program(["--version"])
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "prepare_sot_dataset.py {}\n".format(program.__version__)


# ---------------------------------------------------------------- demo

DEMO_CPU_SECONDS = 15.0


def cpu_seconds_of_children() -> float:
    spent = os.times()
    return spent.children_user + spent.children_system


class Demo(NamedTuple):
    output: Path
    result: "subprocess.CompletedProcess[str]"
    cpu_seconds: float


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    output = tmp_path_factory.mktemp("demo") / "SOT_demo"
    before = cpu_seconds_of_children()
    result = run_program(["--demo", "--output-dir", output])
    return Demo(output, result, cpu_seconds_of_children() - before)


@pytest.fixture
def filmed(demo: Demo, tmp_path: Path) -> Path:
    """An output directory with the demo's video and nothing else yet."""
    shutil.copytree(str(demo.output / "demo_source"), str(tmp_path / "SOT demo" / "demo_source"))
    return tmp_path / "SOT demo"


def demo_records(output: Path) -> List[Dict[str, Any]]:
    lines = (output / "demo_source" / "demo_benchmark.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def metas(output: Path) -> List[Dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(output.glob("*/sequence_meta.json"))]


def test_demo(demo: Demo) -> None:
    assert demo.result.returncode == 0
    assert demo.result.stdout == DONE + "\n"
    assert demo.cpu_seconds < DEMO_CPU_SECONDS
    assert [meta["frame_ids"][0] for meta in metas(demo.output)] == [100, 200, 30]
    assert strays(demo.output) == []


def test_demo_says_what_to_open(demo: Demo) -> None:
    (line,) = [line for line in demo.result.stderr.splitlines() if line.startswith("Look at: ")]
    assert Path(line.split(": ", 1)[1]).is_file()


def test_demo_records_are_of_different_flavours(demo: Demo) -> None:
    standard, with_truth, sequence_only = demo_records(demo.output)
    assert "canonical_frame_ids" in standard and "gt_bboxes" not in standard
    assert "gt_bboxes" in with_truth and "init_bbox" not in with_truth
    assert "source_frame_ids" in sequence_only and "id" in sequence_only and "seq_id" not in sequence_only


def test_second_demo_does_nothing(demo: Demo, tmp_path: Path) -> None:
    output = tmp_path / "SOT_demo"
    shutil.copytree(str(demo.output), str(output))
    before, whole = stamps(output), tree(output)
    result = run_program(["--demo", "--output-dir", output])
    assert result.returncode == 0 and result.stdout == "Done: 3 ready (3 already were), 0 failed\n"
    assert set(rewritten(before, stamps(output))) <= {"gt_requests.json", "demo_source/demo_benchmark.jsonl"}
    assert tree(output) == whole


def test_demo_can_be_checked(demo: Demo, capfd: pytest.CaptureFixture[str]) -> None:
    before = stamps(demo.output)
    assert program.main(["--demo", "--check", "--output-dir", str(demo.output)]) == 0
    assert rewritten(before, stamps(demo.output)) == []
    assert capfd.readouterr().out.splitlines()[-1].startswith("Check: 3 ready, 0 partly there, 0 missing")


def test_check_of_a_demo_that_was_not_made_writes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--demo", "--check", "--output-dir", str(tmp_path / "out")]) in (1, 2)
    assert tree(tmp_path) == {}
    assert "Traceback" not in capfd.readouterr().err


def test_demo_with_other_frames(filmed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--demo", "--nframes", "16", "--stride", "5", "--output-dir", str(filmed), "--quiet"]) == 0
    assert capfd.readouterr() == (DONE + "\n", "")
    for meta in metas(filmed):
        start = meta["init_frame_id"]
        assert meta["frame_ids"] == list(range(start, start + 80, 5)) and meta["stride"] == 5
    assert len(list(filmed.glob("*/frames/f15.png"))) == 3


def test_demos_command_by_hand_works_as_it_is_printed(filmed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    args = ["--nframes", "1"]
    assert program.main(["--demo", "--output-dir", str(filmed), *args]) == 0
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("By hand: ")]
    words = shlex.split(line.split(": ", 1)[1], posix=os.name != "nt")
    assert words[:2] == ["python", "prepare_sot_dataset.py"]
    assert program.main([word.strip("\"'") for word in words[2:]] + args) == 0
    assert capfd.readouterr().out == "Done: 3 ready (3 already were), 0 failed\n"


# ---------------------------------------------------------------- paths and encodings

STRANGE = ["with space", "gr\u00f6\u00dfe \u00e4\u00f6\u00fc \u00c5", "\u65e5\u672c\u8a9e", "-leading", "--output-dir",
           "100%d %s {}", "it's"]


@pytest.mark.parametrize("name", STRANGE, ids=ascii)
def test_paths_with_a_strange_name(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    plain, strange = tmp_path / "plain", tmp_path / name
    benchmark = clips.write_benchmark(tmp_path / "two.jsonl", RECORDS[1:])
    assert program.main(["--benchmark", str(benchmark), "--video-dir", str(videos), "--output-dir", str(plain),
                         "--nframes", "2"]) == 0
    clips.lay_out(strange, videos / "clip.mp4")
    clips.lay_out(strange, videos / "clip.mp4", camera="Camera_12")
    shutil.copyfile(str(benchmark), str(strange / "two.jsonl"))
    monkeypatch.chdir(tmp_path)
    args = ["--benchmark={}/two.jsonl".format(name), "--video-dir={}".format(name), "--output-dir={}/out".format(name),
            "--nframes", "2"]
    assert program.main(args) == 0
    assert tree(strange / "out") == tree(plain)
    assert program.main([*args, "--check"]) == 0


ASCII_ONLY: List[Dict[str, Optional[str]]] = [
    {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": None, "PYTHONCOERCECLOCALE": None},
    {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": None, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no LC_ALL")
@pytest.mark.parametrize("env", ASCII_ONLY, ids=["ascii streams", "C locale", "strict streams in the C locale"])
def test_ascii_only_surroundings(demo: Demo, videos: Path, tmp_path: Path, env: Environment) -> None:
    output = tmp_path / "gr\u00f6\u00dfe \u65e5\u672c"
    shutil.copytree(str(demo.output / "demo_source"), str(output / "demo_source"))
    result = run_program(["--demo", "--nframes", "1", "--output-dir", output], env)
    assert result.returncode == 0, result.stderr
    assert (result.stdout + result.stderr).isascii() and "Traceback" not in result.stderr
    assert len(metas(output)) == 3
    result = run_program(["--benchmark", output / "gr\u00f6\u00dfe.jsonl", "--output-dir", output], env)
    assert result.returncode == 2 and result.stderr.startswith("ERROR: ") and result.stderr.isascii()
    result = run_program(local_args(videos, tmp_path / "none", "--check", "--repo-subdir", "gr\u00f6\u00dfe"), env)
    assert result.returncode == 1 and "\nvideo" in result.stdout and result.stdout.isascii(), result.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no terminal that can be asked so")
def test_names_from_the_input_cannot_steer_a_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    benchmark = clips.write_benchmark(tmp_path / "evil\x1b[31m.jsonl", [clips.record([1], seq_id="a\x1b[2Jb\r\u202ec")])
    assert program.main(["--benchmark", str(benchmark), "--output-dir", str(tmp_path / "out")]) == 2
    assert_plain(capfd.readouterr().err)

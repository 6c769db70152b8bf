"""Command line: a mistake is told before anything is written; the demo, --check, the closing line and what stands on
a terminal (also after Ctrl-C) serve a person; without a library or ffmpeg that works, a message says what to do.
"""
from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Sequence

import numpy
import pytest
from PIL import Image

import prepare_sot_dataset as program
from tests import clips
from tests.test_docs import blocks
from tests.world import (
    PROGRAM, TIMEOUT_S, Run, World, assert_explained, changed_files, corrupt, fake_ffmpeg, needs_posix,
    replace_copy, screen, stamps, stop_before_change, temporary_files, tree, write_program)

FRAME_IDS = (3, 10, 17)
RECORDS = [clips.record(FRAME_IDS, camera=camera, object_id=number)
           for camera, number in (("Camera_11", 353), ("Camera_11", 354), ("Camera_12", 355))]
SEQ_IDS = [record["seq_id"] for record in RECORDS]
VIDEO_PATHS = [f"MTMC_Tracking_2025/val/Warehouse_016/videos/Camera_{number}.mp4" for number in (11, 12)]
NUMBERED = [f"[{number}/3] {seq_id}: ready" for number, seq_id in enumerate(SEQ_IDS, 1)]
CLOSING = r"{} sequences? ready in \S+ \({} (?:was|were) ready before\), {} failed; (?:\d+ min )?\d+ s"
ALL_NEW, ONE_NEW, NONE_NEW = (CLOSING.format(3, ready_before, 0) + "\n" for ready_before in (0, 2, 3))


def lay_out_three_sequences(world: World) -> World:
    """Three sequences of two videos."""
    world.put_video()
    world.put_video(camera="Camera_12")
    world.write_records(*RECORDS)
    return world


@pytest.fixture()
def unprepared(world: World) -> World:
    return lay_out_three_sequences(world)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output with all three sequences; not to be changed."""
    world = lay_out_three_sequences(World(tmp_path_factory.mktemp("finished")))
    assert world.prepare(nframes=3).code == 0
    return world.output


@pytest.fixture()
def prepared(unprepared: World, finished: Path) -> World:
    replace_copy(finished, unprepared.output)
    return unprepared


@pytest.fixture()
def last_one_missing(prepared: World) -> World:
    """All but the last sequence, which is of a video of its own, are ready."""
    shutil.rmtree(str(prepared.output / SEQ_IDS[2]))
    return prepared


# ---------------------------------------------------------------- mistakes, help, failures

WITHOUT_VIDEOS = "--benchmark good.jsonl --output-dir out "
GOOD = WITHOUT_VIDEOS + "--video-dir videos "
MISTAKES = [  # the command line, and what is said
    ("", r"--benchmark is required.*--demo"),
    ("--output-dir out", r"--benchmark is required"),
    ("--benchmark good.jsonl", r"--output-dir is required"),
    *[(GOOD + word, re.split("[ =]", word)[0] + r"\b")
      for word in ("--bogus", "--n-frames 3", "--nfram=3", "--nframes", "--sequences")],
    (GOOD + "stray", "unrecognized"),
    *[(WITHOUT_VIDEOS + f"--hf-tokn{sign}hf_secret", r"--hf-tokn\b") for sign in ("=", " ")],
    *[(WITHOUT_VIDEOS + f"--hf-token {token}", "token") for token in ("'hf_secret with a space'", "hf_secret\u2026")],
    *[(GOOD + f"--nframes '{number}'", r"--nframes\b.*whole number.*" + re.escape(number))
      for number in ("0", "-1", "x", "1.5", "1e3", "", "99999999999", "\u0663")],
    *[(GOOD + "--stride=" + number, r"--stride\b.*whole number") for number in ("0", "-1", "")],
    *[(GOOD + f"{option} ''", option + r"\b.*path")
      for option in ("--benchmark", "--output-dir", "--video-dir", "--hf-cache-dir")],
    *[(GOOD + wrong, wrong.split(" ")[1].strip("~/") + r"\b.*(folder|directory)") for wrong in (
        "--video-dir missing", "--video-dir a-file", "--output-dir ~/a-file", "--benchmark ~/missing",
        "--benchmark a-folder")],
    (GOOD + "--output-dir a-file/out", "a-file/out.*Not a directory|a-file .*already exists"),
    *[(GOOD + f"--sequences @{name}", rf"--sequences\b.*@{name}\b.*{reason}") for name, reason in (
        ("missing", "cannot be read"), ("a-folder", "cannot be read"), ("an-empty-file", "no seq_id"))],
    (GOOD + "--benchmark https://me:hf_secret@hub/b.jsonl?token=hf_secret", "https://hub/b.jsonl: not a file on"),
    ("--demo --benchmark good.jsonl --output-dir out", r"--benchmark\b"),
    ("--demo --video-dir videos --output-dir out", r"--video-dir\b"),
    ("--demo --check --output-dir out", "demo"),
    *[(GOOD + f"{option} 'a\x1b[2Jb\u202ec\udcff'", r"a\\x1b\[2Jb\\u202ec\\udcff")  # it steers no terminal
      for option in ("--sequences", "--benchmark")],
    (GOOD + "--repo-id no-owner", r"--repo-id\b.*no-owner"),
    *[(GOOD + f"--repo-subdir {path}", r"--repo-subdir\b") for path in ("a/../../b", "..", "/../..")],
]


@pytest.mark.parametrize("words, says", MISTAKES, ids=ascii)
def test_mistake_is_told_and_nothing_is_written(
        unprepared: World, monkeypatch: pytest.MonkeyPatch, words: str, says: str) -> None:
    folder = unprepared.folder
    (folder / "a-folder").mkdir()
    (folder / "a-file").write_text("no folder", encoding="utf-8")
    (folder / "an-empty-file").write_text("\ufeff \n", encoding="utf-8")
    unprepared.benchmark.rename(folder / "good.jsonl")
    monkeypatch.chdir(folder)
    before = tree(folder)
    run = unprepared.run(shlex.split(words), env={"HOME": str(folder), "USERPROFILE": str(folder)})
    assert (run.code, run.out, tree(folder)) == (2, "", before)
    assert re.search("^(prepare_sot_dataset.py: error|ERROR): .*" + says, run.err, re.M), run.err
    assert len(run.err.splitlines()) <= 4 and "hf_secret" not in run.err
    assert_explained(run)


def test_help_and_version(world: World) -> None:
    run = world.run(["--help"], env={"COLUMNS": "80"})
    wide = [line for line in run.out.splitlines() if len(line) > 80]
    assert (run.code, run.err) == (0, "") and all(line.startswith("  python ") for line in wide)
    assert {"HF_TOKEN", "HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE"} <= set(re.findall(r"HF_\w+", run.out))
    assert re.findall(r"^  (\d+) ", run.out, re.M) == ["0", "1", "2", "130"] and "https://" in run.out
    assert world.run(["--version"]).out == f"prepare_sot_dataset.py {program.__version__}\n"


@pytest.mark.parametrize("options", [[], ["--quiet"]], ids=["plain", "quiet"])
def test_every_failure_is_told_once_and_at_the_end(unprepared: World, options: Sequence[str]) -> None:
    unprepared.put_video(camera="Camera_13").write_bytes(b"no video" * 1000)
    broken = [clips.record([k, k + 1], camera="Camera_13", object_id=k) for k in (1, 2, 3)]
    late = [clips.record([4, 5000], object_id=k) for k in (4, 5)]
    gone = [clips.record([6, 7], camera="Camera_99", object_id=6)]
    unprepared.write_records(broken[0], late[0], *gone, broken[1], RECORDS[0], late[1], broken[2])
    run = unprepared.prepare("--gt-stub", *options, nframes=2)
    assert run.code == 1 and re.fullmatch(CLOSING.format(1, 0, 6) + "\n", run.out), run.out
    assert len(run.errors) == 3 and run.err.splitlines()[0 if options else -3:] == run.errors  # --quiet: nothing else
    for reason, records in (("cannot be decoded", broken), ("frame 5000", late), ("no such video", gone)):
        (line,) = [line for line in run.errors if reason in line]
        assert [one for one in (*broken, *late, *gone) if one["seq_id"] in line] == records
        assert run.err.count(reason) == 1 and str(unprepared.videos) not in line, run.err


def test_force_prepares_what_is_selected_again(prepared: World, finished: Path) -> None:
    before = stamps(prepared.output)
    run = prepared.prepare("--force", "--sequences", SEQ_IDS[1], nframes=3)
    assert run.code == 0 and run.tree == tree(finished)
    warning = f"WARNING: 1 sequence, first {SEQ_IDS[1]}: ready, but --force was given; to be replaced\n"
    assert run.err.count("WARNING") == 1 and warning in run.err.split("[1/1]")[0]
    files = {name for name in before if name.startswith(SEQ_IDS[1])}
    assert set(changed_files(before, stamps(prepared.output))) == files


def test_a_stub_of_fewer_frames_than_are_there_is_told(prepared: World) -> None:
    told = ["gt.json lists 2 of the 3 frames that are there; for all, run again with --nframes 3."]
    runs = [prepared.prepare("--gt-stub", nframes=nframes) for nframes in (2, 3)]
    assert [re.findall("gt.json lists.*", run.err) for run in runs] == [told, []]


def test_video_dir_may_be_the_subdirectory_of_the_repository(unprepared: World, finished: Path) -> None:
    folder = unprepared.videos / "MTMC_Tracking_2025"
    run = unprepared.prepare("--video-dir", folder, "--repo-subdir", "/MTMC_Tracking_2025/", nframes=3)
    assert run.code == 0 and run.tree == tree(finished)


def test_verbose_shows_command_lines_and_tracebacks(unprepared: World) -> None:
    plain, verbose = (unprepared.prepare(*options, nframes=3) for options in ([], ["--force", "--verbose"]))
    assert plain.code == verbose.code == 0
    assert re.search(r"ffmpeg\S* .* -i \S+Camera_11\.mp4'? ", verbose.err) and "Camera_11.mp4" not in plain.err
    unprepared.benchmark.write_text("{")
    assert "Traceback" in unprepared.prepare("--verbose").err and "Traceback" not in unprepared.prepare().err


NAMES = ["-i", "concat:a|b", "http:", "pipe:0", "%03d %s %n", "a'b\\c\"d", "[x]*", "\u4e2d", "a\nb", "$(x)",
         "\x1b[2J\u202e", "partial file", "Output #0 Video: h264, 9 fps", "[error] 0.000000"]


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=needs_posix("such names") if re.search(r'[\0-\x1f"*:|\\]', name) else ())
    for name in NAMES], ids=ascii)
def test_a_path_is_a_path_and_nothing_else(
        unprepared: World, finished: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(unprepared.folder)
    Path(name).mkdir()
    for path in (unprepared.videos, unprepared.benchmark):
        path.rename(Path(name, path.name))
    before = tree(unprepared.folder)
    paths = {"--benchmark": "benchmark.jsonl", "--video-dir": "videos", "--output-dir": "out"}
    run = unprepared.prepare(*[f"{option}={name}/{path}" for option, path in paths.items()], nframes=3)
    assert run.code == 0 and tree(Path(name, "out")) == tree(finished), run
    assert all(path.startswith(f"{name}/out") for path in changed_files(before, tree(unprepared.folder)))
    assert_explained(run)


# ---------------------------------------------------------------- the demo

GREEN, ROBOT = (0, 255, 0), ((217, 130, 43), (36, 48, 60))


def opened(path: Path) -> Image.Image:
    with Image.open(str(path)) as picture:
        return picture.convert("RGB")


def place_of(picture: Image.Image, *colours: Sequence[int], tolerance: int = 0) -> tuple[int, ...]:
    """Return what surrounds the pixels of these colours: left, top, right, bottom."""
    pixels = numpy.asarray(picture).astype(int)
    found = numpy.any([abs(pixels - colour).max(axis=2) <= tolerance for colour in colours], axis=0)
    rows, columns = found.any(axis=1).nonzero()[0], found.any(axis=0).nonzero()[0]
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def test_demo_shows_a_marked_robot_and_says_what_the_readme_shows(
        world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.folder)
    world.output = Path("SOT_demo")
    clips.put_clip(world.output / "demo_source", clips.clip("mpeg4_bframes"), "Demo_000", "Camera_01")
    (world.output / "demo_source" / "demo_benchmark.jsonl").write_text("by another version")
    with (world.folder / "said.txt").open("w+") as said:
        process = subprocess.Popen([sys.executable, str(PROGRAM), "--demo"], stdout=said, stderr=said,
                                   env=world.environment())
        assert process.wait(TIMEOUT_S) == 0
    lines = (world.folder / "said.txt").read_text()
    on_a_terminal = re.sub(r"\[\d/3\] .*\n", "", lines).replace(os.sep, "/").replace('"', "")
    assert re.sub(r"; \d+ s\n", "; 8 s\n", on_a_terminal) == blocks("text")[1]
    metas = [world.read_meta(path.parent.name) for path in world.output.glob("*/sequence_meta.json")]
    assert len(metas) == 3
    for meta in metas:
        picture = opened(world.output / meta["seq_id"] / "frames" / "f00.png")
        box = [round(edge / 1000 * size) for edge, size in zip(meta["init_bbox"], picture.size * 2)]
        assert list(place_of(picture, *ROBOT, tolerance=35)) == box, meta["seq_id"]
    before = stamps(world.output)
    by_hand = re.findall("By hand: python prepare_sot_dataset.py (.*)", lines)[0]
    assert re.fullmatch(NONE_NEW * 2, world.run(["--demo"]).out + world.run(shlex.split(by_hand)).out)
    assert "Check: 3 ready" in world.run(["--demo", "--check"]).out
    assert stamps(world.output) == before


# ---------------------------------------------------------------- what is written to a terminal or a pipe

BAR = re.compile(r"\b(\d)/3 sequences\b")


def test_bar_on_a_terminal(unprepared: World) -> None:
    slow = fake_ffmpeg(unprepared.folder / "slow", ["sleep", 0.2])
    run = unprepared.in_terminal("--gt-stub", nframes=3, columns=60, env=slow.env)
    bars = [part for part in re.split(r"[\r\n]+", run.out) if BAR.search(part)]
    counts = [int(match[1]) for match in map(BAR.search, bars) if match]
    assert run.code == 0 and max(map(len, bars)) <= 60
    assert counts == sorted(counts) and len(set(counts)) >= 3
    assert re.fullmatch(".*free\\)" + ALL_NEW.strip().replace(" ", " ?"), "".join(screen(run.out, 60)))
    for option in ("--gt-stub", "--quiet"):
        assert re.fullmatch(NONE_NEW.replace("\n", "\r\n"), unprepared.in_terminal(option, nframes=3).out)


def test_a_terminal_without_a_width_gets_lines(unprepared: World) -> None:
    """As in notebooks, and in containers with a terminal that nobody told its size."""
    run = unprepared.in_terminal(nframes=3, columns=0)
    plan, *numbered, closing, hint = run.out.splitlines()
    assert run.code == 0 and numbered == NUMBERED and re.fullmatch(ALL_NEW, closing + "\n"), run.out
    assert plan.startswith("Output: about ") and "--gt-stub" in hint


def test_ctrl_c_leaves_a_tidy_terminal(unprepared: World) -> None:
    pressed = stop_before_change(unprepared.output / SEQ_IDS[1], 1, signal.SIGINT)
    run = unprepared.in_terminal(nframes=3, changes={"restore_interrupt": {}, **pressed})
    shown = [line for line in screen(run.out, 400) if line]
    assert shown[1:] == [f"ERROR: Interrupted; 1 of 3 sequences are ready in {unprepared.output}. "
                         "Run the same command again to continue."] and "Output:" in shown[0], run.out
    assert run.code == 130 and not temporary_files(run.tree) and SEQ_IDS[0] in run.tree


def test_a_reader_that_goes_ends_the_output_quietly(world: World) -> None:
    records = [clips.record(FRAME_IDS, object_id=number) for number in range(2000)]
    world.write_records(*records)  # their lines are more than a pipe holds
    with world.start("--check") as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline().startswith("missing")
        process.stdout.close()
        assert process.stderr.read() == ""


@needs_posix("streams that are closed, full, or without a reader")
@pytest.mark.parametrize("streams", [">&-", "<&- >&- 2>&-", "2>/dev/full", ">&0", "2>&0", ">&0 2>/dev/full"])
def test_nobody_reads(last_one_missing: World, finished: Path, streams: str) -> None:
    ours, gone = os.pipe()  # in a shell's words: >&0 goes into a pipe whose reader has gone
    os.close(ours)
    shell = ["sh", "-c", 'exec "$@" ' + streams, "sh", sys.executable, str(PROGRAM)]
    done = subprocess.run(
        shell + last_one_missing.arguments([], nframes=3), stdin=gone, capture_output=True, encoding="utf-8",
        env=last_one_missing.environment(), timeout=TIMEOUT_S, check=False)
    os.close(gone)
    assert done.returncode == 0 and tree(last_one_missing.output) == tree(finished)
    assert re.fullmatch("" if re.search("(^| )>", streams) else ONE_NEW, done.stdout)
    lines = [] if "2>" in streams else ["2 of 3 sequences are ready", f"[3/3] {SEQ_IDS[2]}: ready"]
    assert [line for line in done.stderr.splitlines() if line.endswith("ready")] == lines


@needs_posix("locale C")
def test_ascii_only_surroundings(last_one_missing: World, finished: Path) -> None:
    world, strange = last_one_missing, last_one_missing.folder / "gr\u00f6\u00dfe \u65e5\u672c"
    world.videos.rename(strange)
    world.output.rename(strange / "out")
    world.source, world.output = {"--video-dir": strange}, strange / "out"
    world.env.update(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="ascii:strict")
    run = world.prepare(nframes=3, child=True)
    assert run.code == 0 and run.tree == tree(finished), run.err
    check = world.prepare("--check", "--repo-subdir", "\u00df", nframes=3, child=True)
    assert check.code == 1 and "\nvideo" in check.out
    wrong = world.prepare("--benchmark", strange / "\u00df.jsonl", child=True)
    assert wrong.code == 2 and len(wrong.errors) == 1
    words = run.out + run.err + check.out + check.err + wrong.err
    assert words.isascii() and "Traceback" not in words


# ---------------------------------------------------------------- --check and the contact sheet


def check_quietly(world: World, *args: Any, nframes: int = 3) -> Run:
    """Run --check, which touches nothing, starts nothing, and here warns of nothing."""
    before = tree(world.folder), stamps(world.folder)
    run = world.prepare("--check", *args, nframes=nframes)
    assert (tree(world.folder), stamps(world.folder), run.children, run.err) == (*before, (), "")
    return run


@pytest.mark.parametrize("name, damage, reason", [
    ("sequence_meta.json", "cut", r"sequence_meta\.json"),
    ("frames/f02.png", "missing", r"f02\.png is missing"),
    ("frames/f02.png", "flipped", r"f02\.png cannot be decoded.*--force"),
    ("frames/f00_ann.png", "cut", r"f00_ann\.png is missing or incomplete"),
    ("frames/crop.png", "flipped", r"crop\.png cannot be decoded.*--force")])
def test_check_finds_damage_and_says_how_to_repair_it(
        prepared: World, finished: Path, name: str, damage: str, reason: str) -> None:
    corrupt(prepared.output / SEQ_IDS[0] / name, damage)
    run = check_quietly(prepared)
    assert run.code == 1 and re.search(f"^partly  {SEQ_IDS[0]}: .*{reason}", run.out, re.M), run.out
    assert "2 ready, 1 partly there, 0 missing; videos needed: 1 (1 at hand)" in run.out
    advice = re.search(r"run again with (--force --sequences \S+)", run.out)
    assert prepared.prepare(*(advice[1].split() if advice else []), nframes=3).tree == tree(finished)


def test_check_of_each_state(prepared: World) -> None:
    closing = "Check: 3 ready, 0 partly there, 0 missing; videos needed: 0 (0 at hand)"
    assert check_quietly(prepared).out.splitlines() == [f"ready   {seq_id}" for seq_id in SEQ_IDS] + [closing]
    assert check_quietly(prepared, "--quiet", nframes=2)[:2] == (0, closing + "\n")
    assert prepared.prepare("--check", "--sequences", SEQ_IDS[0], "unknown", nframes=3).code == 1
    for options, reason in ((["--stride", 5], "--stride"), (["--nframes", 5], "--nframes"),
                            (["--gt-stub"], r"gt\.json"), (["--contact-sheet"], r"contact_sheet\.jpg")):
        assert len(re.findall(f"^partly .*{reason}", check_quietly(prepared, *options).out, re.M)) == 3
    (prepared.output / SEQ_IDS[1] / "frames" / "f01.png").unlink()
    shutil.rmtree(str(prepared.output / SEQ_IDS[2]))
    (prepared.videos / VIDEO_PATHS[1]).unlink()
    run = check_quietly(prepared)
    assert run.code == 1 and check_quietly(prepared, "--sequences", SEQ_IDS[0]).code == 0
    lines = ("ready   {}\npartly  {}: .*\nmissing {}: .*\nvideo   {}: at hand\nvideo   {}: not at hand\n"
             r"Videos: 1 of 2 are not in \S+" "\n" r"Output: about \d+ MB in \S+ \(.* free\)" "\n"
             r"Check: 1 ready, 1 partly there, 1 missing; videos needed: 2 \(1 at hand\)" "\n")
    assert re.fullmatch(lines.format(*SEQ_IDS, *VIDEO_PATHS), run.out), run.out


def test_check_warns_of_a_disk_that_is_too_small(unprepared: World) -> None:
    series = 99_999 * 200_000  # bytes of a sequence, at least
    count = shutil.disk_usage(str(unprepared.folder)).free // series + 1
    unprepared.write_records(*[clips.record([3], object_id=number) for number in range(count)])
    assert check_quietly(unprepared, nframes=1).code == 1  # without a warning
    run = unprepared.prepare("--check", "--stride", 1, nframes=99_999)
    assert f"WARNING: too little space on the disk of {unprepared.output}\n" in run.err


def test_contact_sheet_shows_the_target_and_the_frames_in_order(prepared: World) -> None:
    boxes = [RECORDS[0]["init_bbox"], [480, 480, 520, 560], [0, 0, 1000, 1000]]
    prepared.write_records(*[{**record, "init_bbox": box} for record, box in zip(RECORDS, boxes)])
    assert prepared.prepare("--contact-sheet", nframes=3).code == 0
    paths = [prepared.output / seq_id / "contact_sheet.jpg" for seq_id in SEQ_IDS]
    for path in paths:
        sheet, pictures = opened(path), []
        width, height = sheet.width // 4, sheet.height // 2
        for x, y in ((0, 0), (2, 0), (3, 0), (0, 1)):  # overlay and three frames; (1, 0) is the crop
            cell = sheet.crop((x * width, y * height, (x + 1) * width, (y + 1) * height))
            left, _, right, bottom = place_of(cell, (100, 100, 100), tolerance=120)  # not white
            top = bottom - (right - left) * clips.HEIGHT // clips.WIDTH  # captions are above
            pictures.append(cell.crop((left, top, right, bottom)).resize((clips.WIDTH, clips.HEIGHT)))
            if (x, y) == (0, 0):  # the crop, small or large, has the same room and takes most of it
                crop = place_of(sheet.crop((width, top, 2 * width, bottom)), (100, 100, 100), tolerance=120)
                shares = (crop[2] - crop[0]) / (right - left), (crop[3] - crop[1]) / (bottom - top)
                assert right - left > 0.95 * width and max(shares) > 0.6  # its own edges may be white
        indexes = [clips.read_index(one.tobytes(), clips.WIDTH, clips.HEIGHT) for one in pictures[1:]]
        assert indexes == list(FRAME_IDS)
        assert place_of(pictures[0], GREEN, tolerance=90)[3] > 50
    content = paths[0].read_bytes()
    corrupt(paths[0], "cut")
    assert paths[0].name in check_quietly(prepared, "--contact-sheet").out and check_quietly(prepared).code == 0
    assert prepared.prepare("--contact-sheet", nframes=3).code == 0 and paths[0].read_bytes() == content


# ---------------------------------------------------------------- libraries that are missing or broken

MISSING = "missing"
NO_GL = "libGL.so.1: cannot open shared object file: No such file or directory"


def without_library(names: str, error: str) -> dict[str, Any]:
    """Return the arguments of a run in which these modules are missing, or their import fails in this way."""
    if error == MISSING:
        return {"without": names.split(), "child": True}
    return {"changes": {"break_imports": {"names": names.split(), "error": error, "words": NO_GL}}}


@pytest.mark.parametrize("names, error, missing", [
    ("cv2", MISSING, "cv2"), ("cv2", "ImportError", "cv2"),
    ("cv2", "", "cv2"),  # what an uninstall leaves behind
    ("numpy", "ImportError", "cv2"), ("cv2 tqdm", "SystemError", "cv2"),
    ("cv2 numpy PIL imageio_ffmpeg", "RuntimeError", "cv2 PIL"), ("PIL", "OSError", "")])
def test_broken_libraries_are_as_if_missing(
        unprepared: World, finished: Path, names: str, error: str, missing: str) -> None:
    world, frames = unprepared, f"{SEQ_IDS[2]}/frames/"
    run = world.prepare(nframes=3, **without_library(names, error))
    assert run.code == 0 and re.search(f"{ALL_NEW}$", run.out)  # OpenCV itself prints that numpy is missing
    assert_explained(run)
    warnings = re.findall("^WARNING: .*", run.err, re.M)
    assert len(warnings) == bool(missing) and all("Pillow" in line for line in warnings)
    assert all("pip install opencv-python-headless" in line for line in warnings)
    assert names != "cv2" or (NO_GL in warnings[0]) == (error == "ImportError")  # as in a slim container
    assert error != MISSING or not re.search("Error|No module", warnings[0])
    nothing_draws = missing == "cv2 PIL"
    assert (run.tree[frames + "f00_ann.png"] == run.tree[frames + "f00.png"]) == nothing_draws
    assert (frames + "crop.png" in run.tree) != nothing_draws
    assert (run.tree == tree(finished)) == (not missing)
    again = world.prepare(nframes=3, without=missing.split())
    assert re.fullmatch(NONE_NEW, again.out) and "WARNING" not in again.err  # nothing was drawn
    assert not nothing_draws or world.prepare(nframes=3).tree == tree(finished)


@pytest.mark.parametrize("name, options, says", [
    ("huggingface_hub", [], "huggingface_hub (is not installed: pip install|cannot be used: .*libGL)"),
    *[("PIL", [option], f"{option} .*pip install Pillow") for option in ("--check", "--contact-sheet")]])
@pytest.mark.parametrize("error", [MISSING, "ImportError"])
def test_a_library_that_is_needed(
        unprepared: World, name: str, options: list[str], says: str, error: str) -> None:
    unprepared.use_cache()
    run = unprepared.prepare(*options, nframes=3, **without_library(name, error))
    assert run.code == 2 and len(re.findall(f"(?i)^.*error: .*{says}", run.err, re.M)) == 1, run.err
    assert_explained(run)


# ---------------------------------------------------------------- which ffmpeg

# What `ffmpeg -codecs` says: real rows of 3.4, 5.1 and 9.0, and of a Linux distribution without patents.
H264_ROW = "DEV.LS h264                 H.264 / AVC / MPEG-4 AVC / MPEG-4 part 10"
PNG_ROW = "DEV..S png                  PNG (Portable Network Graphics) image"
H264_DECODERS = " (decoders: h264 h264_v4l2m2m ) (encoders: libx264 )"


def codecs_of(version: str, h264: str = H264_ROW + H264_DECODERS, png: str = PNG_ROW) -> list[Any]:
    """Return the steps of an ffmpeg that is asked for its version and codecs."""
    header = "Codecs:\n D..... = Decoding supported\n -------\n D.VI.S 012v   Uncompressed 4:2:2 10-bit\n"
    return [["say", f"ffmpeg version {version} Copyright (c) the FFmpeg developers\n"],
            ["print", f"{header} {h264}\n {png}\n"], ["exit", 0]]


UNFIT = {
    "3.4": (codecs_of("3.4.8-0ubuntu0.2"), r"3\.4\.8.*4\.0"),
    "n3.3": (codecs_of("n3.3.9-1-gc7cd9d2"), r"3\.3\.9.*4\.0"),
    "no H.264": (codecs_of("5.1.9", h264="..V.LS" + H264_ROW[6:]), "H.264"),
    "OpenH264 only": (codecs_of("5.1.9", h264=H264_ROW + " (decoders: libopenh264 )"), "H.264"),
    "no PNG": (codecs_of("5.1.9", png="D." + PNG_ROW[2:]), "PNG"),
    "library missing": ([["say", "error while loading shared libraries: libx.so"], ["exit", 127]], "libx.so"),
    "silent": ([["exit", 1]], "code 1")}
FIT = ["4.0", "4.1-static https://johnvansickle.com/ffmpeg/ ", "n9.0.2-17-g2a571b6068-20260930", "10.1",
       "N-12345-gabcdef0", "2026-09-30-git-2a571b6068-full_build-www.gyan.dev"]


@pytest.mark.parametrize("case", UNFIT)
def test_an_ffmpeg_that_is_unfit_is_passed_over(unprepared: World, finished: Path, case: str) -> None:
    codecs, reason = UNFIT[case]
    fake = fake_ffmpeg(unprepared.folder / "fake", codecs=codecs)
    assert unprepared.prepare(nframes=3, env=fake.env).tree == tree(finished)  # by another one
    assert len(fake.calls()) == 1
    shutil.rmtree(str(unprepared.output))
    unprepared.use_cache()  # no hub answers, and the program would say so
    only = {"start_only": {"programs": [str(fake.path)]}}
    run = unprepared.prepare(nframes=3, env=fake.env, changes=only)
    assert run.code == 2 and not re.search("connect|retry", run.err), run
    assert [line for line in run.errors if str(fake.path) in line and re.search(reason, line)], run
    assert "pip install imageio-ffmpeg" in run.err and "Traceback" not in run.err


@pytest.mark.parametrize("version", FIT)
def test_an_ffmpeg_that_is_fit_is_used(unprepared: World, finished: Path, version: str) -> None:
    row = H264_ROW + H264_DECODERS * (version != "4.0")  # without a list the decoder is named like the codec
    fake = fake_ffmpeg(unprepared.folder / "fake", codecs=codecs_of(version, row))
    assert unprepared.prepare(nframes=3, env=fake.env).tree == tree(finished)
    assert len(fake.calls()) > 1


def test_the_package_serves_where_others_are_unfit(unprepared: World, finished: Path) -> None:
    package = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    old = fake_ffmpeg(unprepared.folder / "old", codecs=codecs_of("2.8.15"))
    broken = write_program(unprepared.folder / "broken", "hello\n")
    run = unprepared.prepare(nframes=3, env=old.env, changes={"start_only": {"programs": [package]}})
    assert run.code == 0 and run.tree == tree(finished)
    shutil.rmtree(str(unprepared.output))
    only = {"start_only": {"programs": [str(old.path), str(broken)]}}
    run = unprepared.prepare(nframes=3, env={**old.env, "IMAGEIO_FFMPEG_EXE": str(broken)}, changes=only)
    assert run.code == 2
    for path, reason in ((broken, "cannot be started|[Ee]xec format"), (old.path, "2.8.15")):
        assert [line for line in run.errors if str(path) in line and re.search(reason, line)], run


def test_ffmpeg_is_not_steered_by_where_the_user_stands_and_gets_no_token(unprepared: World, finished: Path) -> None:
    fake = fake_ffmpeg(unprepared.folder / "fake", ["print", "Hi"], ["say", "1.0 [x] Error: 3\n"])
    report = f"file={unprepared.folder / 'report.log'}:level=48"
    secrets = dict.fromkeys(["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN"], "hf_secret")
    relative = fake_ffmpeg(unprepared.folder / "relative")
    path = os.pathsep.join([os.path.relpath(str(relative.path.parent)), fake.env["PATH"]])
    run = unprepared.prepare("--hf-token", "hf_secret", nframes=3, env={
        **fake.env, **secrets, "PATH": path, "FFREPORT": report,
        "AV_LOG_FORCE_COLOR": "1", "AV_LOG_FORCE_256COLOR": "1"})
    assert run.code == 0 and run.tree == tree(finished), run
    assert not relative.calls() and fake.calls() and "PATH" in fake.calls()[0]["env"]
    files = [path.read_bytes() for path in unprepared.output.rglob("*") if path.is_file()]
    texts = [run.out, run.err, json.dumps(fake.calls()), *(data.decode("latin-1") for data in files)]
    assert not [text for text in texts if "hf_secret" in text]

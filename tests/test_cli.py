"""What a person meets: mistakes, help, demo, terminal, pipe, --check, extras; and unhealthy surroundings."""
from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import pytest
from PIL import Image, ImageChops

import prepare_sot_dataset as program
from tests import clips
from tests.world import PATIENCE, PROGRAM, Run, World, rewritten, screen, stamps, strays, tree

IDS = (3, 10, 17)
NFRAMES = ("--nframes", len(IDS))
NAMES = ["Warehouse_016__Camera_{}__3__obj{}".format(*one) for one in ((11, 353), (11, 354), (12, 355))]
RECORDS = [clips.record(IDS, camera=name.split("__")[1], object_id=name[-3:]) for name in NAMES]
PATHS = ["MTMC_Tracking_2025/val/Warehouse_016/videos/Camera_{}.mp4".format(number) for number in (11, 12)]
NUMBERED = ["[{}/3] {}: ready".format(*one) for one in enumerate(NAMES, 1)]
DONE, ALREADY = ("Done: 3 ready ({} already were), 0 failed".format(count) for count in (0, 3))
INTERRUPTED = r"(ERROR: )?Interrupted\. The same command goes on from here\.\s*"
# What runs in the background may have inherited it as ignored.
SIGINT_AT_DEFAULT = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)


def laid_out(world: World) -> World:
    world.video()
    world.video(camera="Camera_12")
    world.records(*RECORDS)
    return world


@pytest.fixture()
def three(world: World) -> World:
    return laid_out(world)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = laid_out(World(tmp_path_factory.mktemp("once")))
    assert world.run(*NFRAMES).code == 0
    return world.output


@pytest.fixture()
def ready(three: World, once: Path) -> World:
    shutil.copytree(str(once), str(three.output))
    return three


def assert_plain(text: str) -> None:
    assert [char for char in text if char != "\n" and not char.isprintable()] == [], text
    assert "Traceback" not in text


def script(world: World, name: str, text: str) -> Dict[str, Optional[str]]:
    """A program that is found before all others, or a module."""
    path = world.folder / "first" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return {"PATH": "{}:{}".format(path.parent, os.environ["PATH"]), "PYTHONPATH": str(path.parent)}


# ---------------------------------------------------------------- mistakes

HUB = "--benchmark good.jsonl --output-dir out"
GOOD = HUB + " --video-dir videos"
MISTAKES = [  # the command line, and what is said
    ("", r"prepare_sot_dataset\.py --demo\n.*prepare_sot_dataset\.py --benchmark \w.*--output-dir \w"),
    *[(GOOD + " " + word, word + r"\b") for word in ("--bogus", "stray", "--nframes", "--sequences")],
    (GOOD + " --n-frames 3", r"--n-frames\b.*--nframes\b"),
    (GOOD + " --sequences a --strid=3", r"--strid\b.*--stride\b"),
    ("--benchmak good.jsonl --output_dir out", r"--benchmak\b.*--benchmark\b"),
    ("--benchmark good.jsonl --out x --video-dirs v", r"--out\b.*--output-dir\?.*--video-dirs\b.*--video-dir\?"),
    (HUB + " --hf-tokn=hf_secret", r"--hf-tokn\b.*--hf-token\b"),
    *[(GOOD + " --nframes " + shlex.quote(number), r"--nframes\b.*whole number.*" + re.escape(number))
      for number in ("0", "-1", "x", "1.5", "1e3", "", "99999999999", "\u0663")],
    *[(GOOD + " --stride=" + number, r"--stride\b.*whole number") for number in ("0", "-1", "x", "")],
    ("--output-dir out", r"--benchmark\b.*missing"),
    ("--benchmark good.jsonl", r"--output-dir\b.*missing"),
    *[(GOOD + " {} ''".format(option), option + r"\b.*path")
      for option in ("--benchmark", "--output-dir", "--video-dir", "--hf-cache-dir")],
    *[(GOOD + " " + wrong, wrong.replace("~", r"/\S+") + r"\b.*(folder|directory)") for wrong in (
        "--video-dir missing", "--video-dir a-file", "--output-dir a-file", "--benchmark ~/missing",
        "--video-dir ~/missing", "--output-dir ~/a-file", "--benchmark a-folder")],
    (GOOD + " --output-dir a-file/out", r"a-file.*(folder|directory)"),
    ("--demo --benchmark good.jsonl --output-dir out", r"--benchmark\b"),
    ("--demo --video-dir videos --output-dir out", r"--video-dir\b"),
    ("--demo --check --output-dir out", r"demo"),
    (GOOD + " --sequences " + NAMES[0][:-1], r"--sequences \S+obj35\b.*" + NAMES[0]),
    (GOOD + " --repo-id no-owner", r"--repo-id\b.*no-owner"),
    (GOOD + " --repo-subdir a/../../b", r"--repo-subdir\b"),
    *[(HUB + " --hf-token " + token, "token") for token in ("'hf_secret with a space'", "hf_secret\u2026")],
]


@pytest.mark.parametrize("words, says", MISTAKES, ids=ascii)
def test_mistake(three: World, monkeypatch: pytest.MonkeyPatch, words: str, says: str) -> None:
    (three.folder / "a-folder").mkdir()
    (three.folder / "a-file").write_text("no folder", encoding="utf-8")
    three.benchmark.rename(three.folder / "good.jsonl")
    three.defaults = {}
    monkeypatch.chdir(three.folder)
    before = tree(three.folder)
    run = three.run(*shlex.split(words), env={"HOME": str(three.folder)})
    assert (run.code, run.out, tree(three.folder)) == (2, "", before)
    assert re.match("ERROR: .*" + says, run.err, re.S) and len(run.err.splitlines()) <= 4, run.err
    assert "hf_secret" not in run.err
    assert_plain(run.err)


def test_help_and_version(world: World) -> None:
    run = world.run("--help", env={"COLUMNS": "80"})
    assert (run.code, run.err, [line for line in run.out.splitlines() if len(line) > 80]) == (0, "", [])
    assert set(re.findall(r"^  (?:-h, )?--([a-z-]+)", run.out, re.M)) == set((
        "benchmark output-dir nframes stride hf-token hf-cache-dir repo-id repo-subdir sequences demo"
        " video-dir stream revision gt-stub contact-sheet check quiet version help").split())
    assert world.run("--version")[:3] == (0, "prepare_sot_dataset.py {}\n".format(program.__version__), "")


@pytest.mark.parametrize("quiet", [(), ("--quiet",)], ids=["told", "quiet"])
def test_every_failure_is_told_once_and_at_the_end(three: World, quiet: Sequence[str]) -> None:
    three.video(camera="Camera_13").write_bytes(b"no video" * 1000)
    broken = [clips.record([k, k + 1], camera="Camera_13", object_id=k) for k in (1, 2, 3)]
    late = [clips.record([4, 5000], object_id=k) for k in (4, 5)]
    gone = [clips.record([6, 7], camera="Camera_99", object_id=6)]
    three.records(broken[0], late[0], *gone, broken[1], RECORDS[0], late[1], broken[2])
    run = three.run("--nframes", 2, "--gt-stub", *quiet)
    assert (run.code, run.out) == (1, "Done: 1 ready (0 already were), 6 failed\n")
    assert len(run.errors) == 3 and run.err.splitlines()[0 if quiet else -3:] == run.errors
    for reason, records in (("cannot be decoded", broken), ("frame 5000", late), ("no such video", gone)):
        (line,) = [line for line in run.errors if reason in line]
        assert [one for one in (*broken, *late, *gone) if one["seq_id"] in line] == records
        assert run.err.count(reason) == 1, run.err


GREEN, ROBOT = (0, 255, 0), ((217, 130, 43), (36, 48, 60))


def place_of(picture: Image.Image, *colours: Sequence[int], tolerance: int = 0) -> Tuple[int, int, int, int]:
    """What surrounds the pixels of these colours: left, top, right, bottom."""
    found = Image.new("L", picture.size)
    for colour in colours:
        alike = Image.new("L", picture.size, 255)
        for channel, wanted in zip(picture.split(), colour):
            near = [255 * (abs(value - wanted) <= tolerance) for value in range(256)]
            alike = ImageChops.darker(alike, channel.point(near))
        found = ImageChops.lighter(found, alike)
    return found.getbbox() or (0, 0, 0, 0)


def opened(path: Path) -> Image.Image:
    with Image.open(str(path)) as picture:
        return picture.convert("RGB")


def assert_box_around_the_robot(folder: Path) -> None:
    marked, crop = opened(folder / "f00_ann.png"), opened(folder / "crop.png")
    left, top, right, bottom = place_of(opened(folder / "f00.png"), *ROBOT, tolerance=45)
    green = place_of(marked, GREEN)  # the word stands above the box
    assert max(abs(green[0] - left), abs(green[2] - right), abs(green[3] - bottom)) <= 4
    upper_edge = place_of(marked.crop((0, top - 4, marked.width, top + 4)), GREEN)
    assert upper_edge[0] <= left and upper_edge[2] >= right - 2
    assert 1.2 < crop.width / (right - left) < 1.4 and 1.2 < crop.height / (bottom - top) < 1.4


def test_demo(world: World, tmp_path: Path) -> None:
    def lines_of(*args: str) -> List[str]:
        process = world.start(*args, cwd=str(tmp_path), stderr=subprocess.STDOUT)
        out, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, out
        return out.splitlines()

    world.defaults, output = {}, tmp_path / "SOT_demo"
    lines = lines_of("--demo")
    assert [line[:6] for line in lines if " Demo_" in line] == ["[1/3] ", "[2/3] ", "[3/3] "]
    assert [line.split(": ")[0] for line in lines[-2:]] == ["Look at", "By hand"] and lines[-4] == DONE
    assert (tmp_path / lines[-2].split(": ")[1]).is_file()
    folders = list(output.glob("Demo_*/frames"))
    for folder in folders:
        assert_box_around_the_robot(folder)
    before, whole = stamps(output), tree(output)
    assert len(folders) == 3 and not strays(whole)
    by_hand = shlex.split(lines[-1].split("python prepare_sot_dataset.py ")[1])
    assert ALREADY in lines_of("--demo") and ALREADY in lines_of(*by_hand)
    assert set(rewritten(before, stamps(output))) <= {"gt_requests.json", "demo_source/demo_benchmark.jsonl"}
    assert tree(output) == whole
    assert lines_of("--demo", "--check")[-1].startswith("Check: 3 ready")


# ---------------------------------------------------------------- what is written to a terminal or a pipe

BAR = re.compile(r"\b(\d)/3 \[[\d:]+<[\d:?]+")


@pytest.mark.parametrize("columns", [100, 60])
def test_bar(three: World, columns: int) -> None:
    slow = script(three, "ffmpeg", '#!/bin/sh\nsleep 0.15\nexec "{}" "$@"\n'.format(clips.ffmpeg_exe()))
    run = three.in_terminal(*NFRAMES, "--gt-stub", columns=columns, env=slow)
    drawn = [part for part in re.split(r"[\r\n]+", run.out) if part.strip()]
    bars = [part for part in drawn if BAR.search(part)]
    counts = [int(found.group(1)) for found in map(BAR.search, bars) if found]
    assert run.code == 0 and max(map(len, drawn)) <= columns
    assert counts == sorted(counts) and len(set(counts)) >= 3
    assert all(any(name[:columns - 40] in bar for bar in bars) for name in NAMES), bars
    assert not [bar for bar in bars if re.search(r"(^|\s),|,\s*$", bar)], bars
    assert [line for line in screen(run.out, columns) if line] == [DONE]
    for options in (["--gt-stub"], ["--quiet"]):
        assert three.in_terminal(*NFRAMES, *options).out == ALREADY + "\r\n"


PRESS_WHENEVER_IT_REMOVES_SOMETHING = """
import os, signal
def hook(event, arguments):
    if event in ("os.remove", "os.rmdir") and {!r} in str(arguments[0]):
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(hook)
"""


def test_ctrl_c_again_and_again(three: World) -> None:
    pressed = PRESS_WHENEVER_IT_REMOVES_SOMETHING.format(NAMES[1])
    run = three.in_terminal(*NFRAMES, columns=100, prologue=pressed, preexec_fn=SIGINT_AT_DEFAULT)
    assert run.code == 130 and re.fullmatch(INTERRUPTED, "\n".join(screen(run.out, 100)).strip())
    assert not strays(run.tree) and NAMES[0] in run.tree


def test_pipe_gets_the_lines_in_order(three: World) -> None:
    with three.hub():
        out, _ = three.start(*NFRAMES, stderr=subprocess.STDOUT).communicate(timeout=PATIENCE)
    first, one, two, second, last, *closing = out.splitlines()
    assert_plain(out)
    assert [one, two, last] == NUMBERED
    for number, line in enumerate((first, second)):
        assert line == "Getting Warehouse_016/{} (video {} of 2)".format(Path(PATHS[number]).name, number + 1)
    assert len(closing) == 2 and DONE in closing and "--gt-stub" in "".join(closing)


C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None}
STRICT = {**C_LOCALE, "PYTHONIOENCODING": "ascii:strict"}


@pytest.mark.parametrize("env", [C_LOCALE, STRICT, {"PYTHONIOENCODING": "ascii"}])
def test_ascii_only_surroundings(three: World, once: Path, env: Dict[str, Optional[str]]) -> None:
    strange = three.videos.with_name("gr\u00f6\u00dfe \u65e5\u672c")
    three.videos.rename(strange)
    three.defaults.update({"--video-dir": strange, "--output-dir": strange / "out"})
    run = three.run(*NFRAMES, env=env, child=True)
    assert run.code == 0 and run.tree == tree(once), run.err
    check = three.run(*NFRAMES, "--check", "--repo-subdir", "\u00df", env=env, child=True)
    assert check.code == 1 and "\nvideo" in check.out
    wrong = three.run("--benchmark", strange / "\u00df.jsonl", env=env, child=True)
    assert wrong.code == 2 and len(wrong.errors) == 1
    said = run.out + run.err + check.out + check.err + wrong.err
    assert said.isascii() and "Traceback" not in said


@pytest.mark.parametrize("name", ["a\x1b[2Jb\r\u202ec", "a\x9b31mb", "a\udcffb"], ids=ascii)
def test_names_cannot_steer_a_terminal(world: World, name: str) -> None:
    world.records(clips.record(IDS, seq_id=name), clips.record(IDS, camera=name), RECORDS[0])
    for args in ([], ["--sequences", name + "x"], ["--benchmark", world.folder / name], ["--" + name]):
        run = world.run(*args)
        assert (run.code, run.out) == (2, "") and re.search(r"\\[nuxr]", run.errors[0])
        assert_plain(run.err)


# ---------------------------------------------------------------- --check and extras


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def spoil(path: Path) -> None:
    """Whole at both ends."""
    data = path.read_bytes()
    path.write_bytes(data[:-60] + bytes(255 - value for value in data[-60:-20]) + data[-20:])


def change_box(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8").replace("450", "451"), encoding="utf-8")


DAMAGES: List[Tuple[str, Callable[[Path], Any], str, bool]] = [  # the last: is the video needed
    ("sequence_meta.json", cut_off, r"sequence_meta\.json", True),
    ("sequence_meta.json", change_box, r"init_bbox", False),
    ("frames/f02.png", Path.unlink, r"f02\.png is missing", True),
    ("frames/f02.png", spoil, r"f02\.png cannot be decoded.*delete it", True),
    ("frames/f00_ann.png", Path.unlink, r"f00_ann\.png is missing", False),
    ("frames/crop.png", spoil, r"crop\.png cannot be decoded", False),
]


def no_videos(world: World) -> None:
    shutil.rmtree(str(world.videos))
    world.videos.mkdir()


def checked(world: World, *args: Any) -> Run:
    """--check, which touches nothing and starts nothing."""
    before = tree(world.folder), stamps(world.folder)
    run = world.run(*NFRAMES, "--check", *args)
    assert (tree(world.folder), stamps(world.folder)) == before
    assert run.children == () and run.err == ""
    return run


@pytest.mark.parametrize("name, damage, why, video", DAMAGES)
def test_check_finds(ready: World, once: Path, name: str, damage: Any, why: str, video: bool) -> None:
    path = ready.output / NAMES[0] / name
    damage(path)
    run = checked(ready)
    assert run.code == 1 and re.search("^partly  {}: .*{}".format(NAMES[0], why), run.out, re.M), run.out
    assert "2 ready, 1 partly there, 0 missing; videos needed: {0} ({0} at hand)".format(+video) in run.out
    if "delete it" in run.out:
        path.unlink()
    if not video:
        no_videos(ready)
    assert ready.run(*NFRAMES).code == 0 and tree(ready.output) == tree(once)


def test_check_of_each_state(ready: World) -> None:
    none_needed = "Check: 3 ready, 0 partly there, 0 missing; videos needed: 0 (0 at hand)"
    assert checked(ready).out.splitlines() == ["ready   " + name for name in NAMES] + [none_needed]
    assert checked(ready, "--quiet", "--nframes", 2)[:2] == (0, none_needed + "\n")
    for option in ("--stride", "--nframes"):
        assert len(re.findall("^partly .*" + option, checked(ready, option, 5).out, re.M)) == 3
    (ready.output / NAMES[1] / "frames" / "f01.png").unlink()
    shutil.rmtree(str(ready.output / NAMES[2]))
    (ready.videos / PATHS[1]).unlink()
    run = checked(ready)
    assert run.code == 1 and checked(ready, "--sequences", NAMES[0]).code == 0
    form = "ready   {}\npartly  {}: .*\nmissing {}: .*\nvideo   {}: at hand\nvideo   {}: not at hand\n"
    closing = r"Check: 1 ready, 1 partly there, 1 missing; videos needed: 2 \(1 at hand\)\n"
    assert re.fullmatch(form.format(*NAMES, *PATHS) + closing, run.out), run.out


def test_check_asks_no_hub(three: World) -> None:
    there = ("--benchmark", "hf://datasets/nvidia/PhysicalAI-SmartSpaces/b.jsonl")
    with three.hub() as hub:
        hub.put("b.jsonl", three.benchmark.read_bytes())
        assert re.search(r"b\.jsonl .*not in the cache", three.run(*NFRAMES, "--check", *there).errors[0])
        run = three.run(*NFRAMES, "--check")
        assert run.code == 1 and "videos needed: 2 (0 at hand)" in run.out
        assert not hub.requests and not three.cache.exists() and not three.output.exists()
        assert three.run(*NFRAMES, *there, "--sequences", NAMES[0]).code == 0
        asked, before = len(hub.requests), tree(three.folder)
        run = three.run("--nframes", 2, "--stride", 1, "--check", *there)
        assert run.code == 1 and "videos needed: 2 (1 at hand)" in run.out
        assert len(hub.requests) == asked and tree(three.folder) == before


@pytest.mark.parametrize("flag, name", [("--gt-stub", "gt.json"), ("--contact-sheet", "contact_sheet.jpg")])
def test_extra_is_added_later_without_the_video(ready: World, flag: str, name: str) -> None:
    no_videos(ready)
    before = stamps(ready.output)
    assert re.search(r"partly .*{}(.*\n)+.*needed: 0".format(name), checked(ready, flag).out)
    assert ready.run(*NFRAMES, flag).code == 0
    changed = rewritten(before, stamps(ready.output))
    assert {seq_id + "/" + name for seq_id in NAMES} <= set(changed)
    assert not [path for path in changed if re.search(r"f\d\d\.png", path)]
    assert checked(ready, flag).code == 0 and ready.run(*NFRAMES, flag).out == ALREADY + "\n"


def test_contact_sheet_shows_the_frames_in_order(ready: World) -> None:
    assert ready.run(*NFRAMES, "--contact-sheet").code == 0
    path = ready.output / NAMES[0] / "contact_sheet.jpg"
    right, sheet = path.read_bytes(), opened(path)
    across, down, pictures = sheet.width // 4, sheet.height // 2, []
    for x, y in ((0, 0), (2, 0), (3, 0), (0, 1)):  # overlay, three frames; (1, 0) is the crop
        cell = sheet.crop((x * across, y * down, (x + 1) * across, (y + 1) * down))
        left, _, _, bottom = place_of(cell, (100, 100, 100), tolerance=120)  # not white; captions are above
        pictures.append(cell.crop((left, bottom - clips.HEIGHT, left + clips.WIDTH, bottom)))
    assert [clips.read_index(one.tobytes(), clips.WIDTH, clips.HEIGHT) for one in pictures[1:]] == list(IDS)
    assert place_of(pictures[0], GREEN, tolerance=90)[3] > 60
    cut_off(path)
    assert path.name in checked(ready, "--contact-sheet").out and checked(ready).code == 0
    assert ready.run(*NFRAMES, "--contact-sheet").code == 0 and path.read_bytes() == right


# ---------------------------------------------------------------- surroundings that are not healthy


BROKEN_IN_USE = """
__version__, IMREAD_COLOR = None, 1
def putText(*_): pass
def imdecode(*_): return None
"""


@pytest.mark.parametrize("code, names", [
    ("raise ImportError('no')", "cv2 PIL"), ("raise OSError('no')", "cv2 PIL"), (BROKEN_IN_USE, "cv2"),
    ("raise RuntimeError('no')", "cv2 numpy PIL tqdm imageio_ffmpeg"), ("raise SystemError('no')", "cv2 tqdm"),
    ("raise SystemExit(3)", "cv2 PIL"), ("raise ImportError('no')", "numpy"),
    ("raise RuntimeError('no')", "PIL imageio_ffmpeg")])
def test_broken_libraries_are_as_if_missing(three: World, once: Path, code: str, names: str) -> None:
    env = [script(three, name + ".py", code) for name in names.split()][0]
    run = three.run(*NFRAMES, env=env, child=True)
    assert run.code == 0 and run.out.endswith(DONE + "\n")  # OpenCV itself prints that numpy is missing
    assert_plain(run.err)
    nothing_draws = "cv2" in names and "PIL" in names
    assert re.findall("WARNING: .*?(pip install|$)", run.err, re.M) == ["pip install"] * nothing_draws
    folder = three.output / NAMES[0] / "frames"
    assert ((folder / "f00.png").read_bytes() == (folder / "f00_ann.png").read_bytes()) == nothing_draws
    assert (folder / "crop.png").exists() != nothing_draws
    if nothing_draws:
        no_videos(three)
        later = three.run(*NFRAMES)
        assert (later.code, later.tree) == (0, tree(once)) and "WARNING" not in later.err
    if names == "cv2 tqdm":
        text = three.in_terminal(*NFRAMES, "--output-dir", three.folder / "other", env=env).out
        assert DONE in text and NUMBERED[2] in text and "Traceback" not in text


@pytest.mark.parametrize("name, prologue, says", [
    ("huggingface_hub", "", "huggingface_hub .*pip install"),
    ("imageio_ffmpeg", "program.os.access = lambda *_, **__: False", "ffmpeg not found.*pip install"),
    ("PIL", "sys.argv.append('--check')", "--check .*pip install Pillow"),
    ("PIL", "sys.argv.append('--contact-sheet')", "--contact-sheet .*pip install Pillow")])
def test_broken_library_that_is_needed(three: World, name: str, prologue: str, says: str) -> None:
    del three.defaults["--video-dir"]
    env = script(three, name + ".py", "raise AttributeError('no')")
    run = three.run(*NFRAMES, env=env, child=True, prologue=prologue)
    assert run.code == 2 and len(run.errors) == 1 and re.match("ERROR: " + says, run.errors[0]), run.err
    assert_plain(run.err)


@pytest.mark.parametrize("streams", [
    ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", ">&0", "2>&0", ">&0 2>/dev/full", "2>&0 >&-"])
def test_nobody_reads(three: World, once: Path, streams: str) -> None:
    ours, gone = os.pipe()  # in a shell's words: >&0 goes into a pipe whose reader has gone
    os.close(ours)
    shell = ["sh", "-c", 'exec "$@" ' + streams, "sh", sys.executable, str(PROGRAM)]
    buffered = three.changed({"PYTHONUNBUFFERED": None})

    def run(*args: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(shell + three.arguments([*NFRAMES, *args]), env=buffered, stdin=gone,
                              capture_output=True, encoding="utf-8", timeout=PATIENCE)

    prepared = run()
    assert prepared.returncode == 0 and tree(three.output) == tree(once)
    assert prepared.stdout == (DONE + "\n" if re.match("2>[^>]*$", streams) else "")
    assert prepared.stderr.splitlines()[:3] == ([] if "2>" in streams else NUMBERED)
    shutil.rmtree(str(three.output / NAMES[2]))
    for option, code in (("--check", 1), ("--help", 0)):
        told = run(option)
        assert (told.returncode, told.stderr) == (code, ""), option
    os.close(gone)


def test_a_pipe_that_nobody_reads(three: World, once: Path) -> None:
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(theirs, b"x" * 1024)
    os.set_blocking(theirs, True)
    os.read(ours, 8192)  # there is room for short lines
    long = "program.LOG.error('%s', 'x' * 100000)"
    process = three.start(*NFRAMES, stderr=theirs, prologue="program.set_up(); " + long)
    try:
        out, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert (process.returncode, out, tree(three.output)) == (0, DONE + "\n", tree(once))
    os.close(ours)
    os.close(theirs)


STOP_AT_IMPORT = """
import sys, time
def hook(event, arguments):
    if event == "import" and arguments[0] == {!r}:
        open({!r}, "w").close()
        for _ in range(2000):
            time.sleep(0.01)
sys.addaudithook(hook)
"""


@pytest.mark.parametrize("presses", [1, 3])
@pytest.mark.parametrize("place", ["argparse", "datetime", "cv2.version", "huggingface_hub", "ffmpeg"])
def test_ctrl_c(three: World, place: str, presses: int) -> None:
    mark = three.folder / "mark"
    if place == "ffmpeg":
        env = script(three, "ffmpeg", "#!/bin/sh\n: > {}\nexec sleep 20\n".format(shlex.quote(str(mark))))
    else:
        env = script(three, "sitecustomize.py", STOP_AT_IMPORT.format(place, str(mark)))
    if place == "huggingface_hub":
        del three.defaults["--video-dir"]
    process = three.start(*NFRAMES, env=env, preexec_fn=SIGINT_AT_DEFAULT, start_new_session=True)
    while not mark.exists() and process.poll() is None:
        time.sleep(0.01)
    for _ in range(presses):
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: ffmpeg gets it too
        time.sleep(0.001)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (130, "") and re.fullmatch("(Getting .*\n)?" + INTERRUPTED, err)
    assert not strays(tree(three.output))

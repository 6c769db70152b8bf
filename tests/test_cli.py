"""What a person meets: mistakes, help, demo, terminal, pipe, --check, extras; and unhealthy surroundings."""
from __future__ import annotations

import functools
import json
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

import numpy
import pytest
from PIL import Image

import prepare_sot_dataset as program
from tests import clips
from tests.world import PATIENCE, PROGRAM, Run, World, rewritten, screen, stamps, strays, tree

IDS = (3, 10, 17)
NFRAMES = ("--nframes", len(IDS))
NAMES = ["Warehouse_016__Camera_{}__3__obj{}".format(*one) for one in ((11, 353), (11, 354), (12, 355))]
RECORDS = [clips.record(IDS, camera=name.split("__")[1], object_id=name[-3:]) for name in NAMES]
PATHS = ["MTMC_Tracking_2025/val/Warehouse_016/videos/Camera_{}.mp4".format(number) for number in (11, 12)]
NUMBERED = ["[{}/3] {}: ready".format(*one) for one in enumerate(NAMES, 1)]
LAST = "[1/1] {}: ready".format(NAMES[2])
DONE, DONE_LAST, ALREADY = ("Done: 3 ready ({} already were), 0 failed".format(count) for count in (0, 2, 3))
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

@pytest.fixture()
def one_left(ready: World) -> World:
    """With the last sequence still to be made, of a video of its own."""
    shutil.rmtree(str(ready.output / NAMES[2]))
    return ready

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

def place_of(picture: Image.Image, *colours: Sequence[int], tolerance: int = 0) -> Tuple[int, ...]:
    """What surrounds the pixels of these colours: left, top, right, bottom."""
    pixels = numpy.asarray(picture).astype(int)
    found = numpy.any([abs(pixels - colour).max(axis=2) <= tolerance for colour in colours], axis=0)
    rows, columns = found.any(axis=1).nonzero()[0], found.any(axis=0).nonzero()[0]
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1

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

def test_the_demos_boxes_fit_the_robot(world: World) -> None:
    """In all its pictures: the robot moves straight on, so two boxes say where it is in any frame."""
    world.output = world.defaults["--output-dir"] = world.folder / "demo"
    assert world.run("--demo").code == 0
    metas = [world.meta(path.parent.name) for path in world.output.glob("*/sequence_meta.json")]
    boxes = {meta["init_frame_id"]: meta["init_bbox"] for meta in metas}
    for record in map(json.loads, next(world.output.rglob("*.jsonl")).read_text().splitlines()):
        boxes.update((int(frame), box) for frame, box in record.get("gt_bboxes", {}).items())
    first, last, count = min(boxes), max(boxes), 0
    for meta in metas:
        for index, frame in enumerate(meta["frame_ids"]):
            picture = opened(world.output / meta["seq_id"] / "frames" / "f{:02d}.png".format(index))
            share = (frame - first) / (last - first)
            on_its_way = [a + share * (b - a) for a, b in zip(boxes[first], boxes[last])]
            for box in (on_its_way, boxes.get(frame, on_its_way)):
                in_pixels = [round(edge / 1000 * size) for edge, size in zip(box, picture.size * 2)]
                assert list(place_of(picture, *ROBOT, tolerance=35)) == in_pixels, (meta["seq_id"], frame)
            count += 1
    assert (len(metas), count) == (3, 24) and len(boxes) > 3

def test_demo(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world.folder)
    world.defaults, world.output = {}, world.folder / "SOT_demo"
    shorter = {name: getattr(program, name).replace(":d=12", ":d=7") for name in ("DEMO_FLOOR", "DEMO_ROBOT")}

    def run(*args: str) -> Run:
        done = world.run(*args, "--nframes", 1, constants=shorter)
        assert done.code == 0, done
        return done

    made = run("--demo")
    lines, folders = made.err.splitlines(), list(world.output.glob("Demo_*/frames"))
    assert [line[:6] for line in lines if " Demo_" in line] == ["[1/3] ", "[2/3] ", "[3/3] "]
    assert [line.split(": ")[0] for line in lines[-2:]] == ["Look at", "By hand"] and made.out == DONE + "\n"
    assert Path(lines[-2].split(": ")[1]).is_file() and len(folders) == 3 and not strays(made.tree)
    for folder in folders:
        assert_box_around_the_robot(folder)
    before = stamps(world.output)
    by_hand = shlex.split(lines[-1].split("python prepare_sot_dataset.py ")[1])
    assert run("--demo").out == run(*by_hand).out == ALREADY + "\n"
    assert set(rewritten(before, stamps(world.output))) <= {"gt_requests.json", "demo_source/demo_benchmark.jsonl"}
    assert tree(world.output) == made.tree
    assert run("--demo", "--check").out.splitlines()[-1].startswith("Check: 3 ready")


# ---------------------------------------------------------------- what is written to a terminal or a pipe

BAR = re.compile(r"\b(\d)/3 \[[\d:]+<[\d:?]+")

def test_bar(three: World) -> None:
    slow = script(three, "ffmpeg", '#!/bin/sh\nsleep 0.15\nexec "{}" "$@"\n'.format(clips.ffmpeg_exe()))
    for columns in (100, 60):
        three.defaults["--output-dir"] = three.folder / str(columns)
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

def test_a_terminal_without_a_width_gets_lines(three: World) -> None:
    """As in notebooks, and in containers with a terminal that nobody told its size."""
    run = three.in_terminal(*NFRAMES, columns=0)
    assert run.code == 0 and not BAR.search(run.out)
    assert [line for line in run.out.splitlines() if line in NUMBERED] == NUMBERED, run.out

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

MANY = 2000

@pytest.fixture()
def many(world: World) -> World:
    """With more lines of --check than a pipe holds."""
    world.records(*[clips.record(IDS, object_id=number) for number in range(MANY)])
    return world

def test_output_waits_for_its_reader(many: World) -> None:
    with many.start("--check") as process:
        time.sleep(4)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (1, "")
    assert len(re.findall("^missing .*__obj", out, re.M)) == MANY and "{} missing".format(MANY) in out

def test_a_reader_that_goes_ends_the_output_quietly(many: World) -> None:
    with many.start("--check") as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline().startswith("missing")
        process.stdout.close()
        assert process.stderr.read() == ""

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None}
STRICT = {**C_LOCALE, "PYTHONIOENCODING": "ascii:strict"}

@pytest.mark.parametrize("env", [C_LOCALE, STRICT, {"PYTHONIOENCODING": "ascii"}])
def test_ascii_only_surroundings(one_left: World, once: Path, env: Dict[str, Optional[str]]) -> None:
    strange = one_left.videos.with_name("gr\u00f6\u00dfe \u65e5\u672c")
    one_left.videos.rename(strange)
    one_left.output.rename(strange / "out")
    one_left.defaults.update({"--video-dir": strange, "--output-dir": strange / "out"})
    run = one_left.run(*NFRAMES, env=env, child=True)
    assert run.code == 0 and run.tree == tree(once), run.err
    check = one_left.run(*NFRAMES, "--check", "--repo-subdir", "\u00df", env=env, child=True)
    assert check.code == 1 and "\nvideo" in check.out
    wrong = one_left.run("--benchmark", strange / "\u00df.jsonl", env=env, child=True)
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
        shutil.rmtree(str(ready.videos / "MTMC_Tracking_2025"))
    assert ready.run(*NFRAMES).code == 0 and tree(ready.output) == tree(once)

def test_check_of_each_state(ready: World) -> None:
    none_needed = "Check: 3 ready, 0 partly there, 0 missing; videos needed: 0 (0 at hand)"
    assert checked(ready).out.splitlines() == ["ready   " + name for name in NAMES] + [none_needed]
    assert checked(ready, "--quiet", "--nframes", 2)[:2] == (0, none_needed + "\n")
    for options, told in ((["--stride", 5], "--stride"), (["--nframes", 5], "--nframes"),
                          (["--gt-stub"], r"gt\.json"), (["--contact-sheet"], r"contact_sheet\.jpg")):
        assert len(re.findall("^partly .*" + told, checked(ready, *options).out, re.M)) == 3
    (ready.output / NAMES[1] / "frames" / "f01.png").unlink()
    shutil.rmtree(str(ready.output / NAMES[2]))
    (ready.videos / PATHS[1]).unlink()
    run = checked(ready)
    assert run.code == 1 and checked(ready, "--sequences", NAMES[0]).code == 0
    form = "ready   {}\npartly  {}: .*\nmissing {}: .*\nvideo   {}: at hand\nvideo   {}: not at hand\n"
    closing = r"Check: 1 ready, 1 partly there, 1 missing; videos needed: 2 \(1 at hand\)\n"
    assert re.fullmatch(form.format(*NAMES, *PATHS) + closing, run.out), run.out

def test_check_asks_no_hub(three: World) -> None:
    with three.hub() as hub:
        run = three.run(*NFRAMES, "--check")
        assert run.code == 1 and "videos needed: 2 (0 at hand)" in run.out
        assert not hub.requests and not three.cache.exists() and not three.output.exists()
        assert three.run(*NFRAMES, "--sequences", NAMES[0]).code == 0
        asked, before = len(hub.requests), tree(three.folder)
        run = three.run("--nframes", 2, "--stride", 1, "--check")
        assert run.code == 1 and "videos needed: 2 (1 at hand)" in run.out
        assert len(hub.requests) == asked and tree(three.folder) == before

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

@pytest.mark.parametrize("code, names, missing", [
    ("raise ImportError('no')", "cv2 PIL", "cv2 PIL"), ("raise SystemExit(3)", "cv2 PIL", "cv2 PIL"),
    ("raise RuntimeError('no')", "cv2 numpy PIL tqdm imageio_ffmpeg", "cv2 PIL"),
    ("raise ImportError('no')", "numpy", "cv2"), ("raise SystemError('no')", "cv2 tqdm", "cv2"),
    ("raise AttributeError('no')", "cv2", "cv2"),
    (BROKEN_IN_USE, "cv2", "cv2"), ("", "cv2", "cv2"),  # what an uninstall leaves behind
    ("raise OSError('no')", "PIL imageio_ffmpeg", "")])
def test_broken_libraries_are_as_if_missing(
        one_left: World, once: Path, code: str, names: str, missing: str) -> None:
    env = [script(one_left, name + ".py", code) for name in names.split()][0]
    run = one_left.run(*NFRAMES, env=env, child=True)
    assert run.code == 0 and run.out.endswith(DONE_LAST + "\n")  # OpenCV itself prints that numpy is missing
    assert_plain(run.err)
    nothing_draws, frames = missing == "cv2 PIL", NAMES[2] + "/frames/"
    assert len(re.findall("WARNING: .*Pillow.*pip install opencv-python", run.err)) == bool(missing)
    assert run.err.count("WARNING") == bool(missing)
    assert (run.tree[frames + "f00_ann.png"] == run.tree[frames + "f00.png"]) == nothing_draws
    assert (frames + "crop.png" in run.tree) != nothing_draws and (run.tree == tree(once)) == (not missing)
    assert one_left.run(*NFRAMES, without=missing.split()).out == ALREADY + "\n"
    (one_left.output / frames / "f00_ann.png").unlink()
    assert one_left.run(*NFRAMES, without=missing.split()).tree == run.tree
    if names == "cv2 tqdm":
        shutil.rmtree(str(one_left.output / NAMES[2]))
        text = one_left.in_terminal(*NFRAMES, env=env).out
        assert DONE_LAST in text and LAST in text and "Traceback" not in text

NO_GL = "libGL.so.1: cannot open shared object file: No such file or directory"

@pytest.mark.parametrize("without", [(), ("PIL",)], ids=["Pillow draws", "nothing draws"])
def test_opencv_that_cannot_be_loaded_is_told_with_the_reason(one_left: World, without: Sequence[str]) -> None:
    """As in a slim container; Pillow's label differs from the evaluator's."""
    env = script(one_left, "cv2.py", "raise ImportError({!r})".format(NO_GL))
    run = one_left.run(*NFRAMES, env=env, child=True, without=without)
    assert run.code == 0 and len(re.findall("^WARNING: .*OpenCV", run.err, re.M)) == 1, run.err
    assert re.search("OpenCV.*" + re.escape(NO_GL) + ".*pip install opencv-python-headless", run.err)
    again = one_left.run(*NFRAMES, env=env, child=True, without=without)
    assert (again.out, "WARNING" in again.err) == (ALREADY + "\n", False)  # nothing was drawn

def test_opencv_that_is_not_there_is_told(one_left: World) -> None:
    shutil.rmtree(str(one_left.output))  # three sequences, one warning
    run = one_left.run(*NFRAMES, without=["cv2"])
    told, = re.findall("^WARNING: .*", run.err, re.M)
    assert run.code == 0 and re.search("OpenCV.*pip install opencv-python-headless", told)
    assert "Error" not in told and "No module" not in told

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
def test_nobody_reads(one_left: World, once: Path, streams: str) -> None:
    ours, gone = os.pipe()  # in a shell's words: >&0 goes into a pipe whose reader has gone
    os.close(ours)
    shell = ["sh", "-c", 'exec "$@" ' + streams, "sh", sys.executable, str(PROGRAM)]
    buffered = one_left.changed({"PYTHONUNBUFFERED": None})

    def run(*args: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(shell + one_left.arguments([*NFRAMES, *args]), env=buffered, stdin=gone,
                              capture_output=True, encoding="utf-8", timeout=PATIENCE)

    prepared, out_is_whole = run(), not re.search("(^| )>", streams)
    assert prepared.returncode == 0 and tree(one_left.output) == tree(once)
    assert prepared.stdout == (DONE_LAST + "\n") * out_is_whole
    assert prepared.stderr.splitlines()[:1] == ([] if "2>" in streams else [LAST])
    shutil.rmtree(str(one_left.output / NAMES[2]))
    for option, code in () if out_is_whole else (("--check", 1), ("--help", 0)):
        told = run(option)
        assert (told.returncode, told.stderr) == (code, ""), option
    os.close(gone)

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

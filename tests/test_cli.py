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
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy
import pytest
from PIL import Image

import prepare_sot_dataset as program
from tests import clips
from tests.world import PATIENCE, PROGRAM, Run, World, at_change, rewritten, screen, stamps, strays, tree

IDS = (3, 10, 17)
NFRAMES = ("--nframes", len(IDS))
NAMES = ["Warehouse_016__Camera_{}__3__obj{}".format(*one) for one in ((11, 353), (11, 354), (12, 355))]
RECORDS = [clips.record(IDS, camera=name.split("__")[1], object_id=name[-3:]) for name in NAMES]
PATHS = [f"MTMC_Tracking_2025/val/Warehouse_016/videos/Camera_{number}.mp4" for number in (11, 12)]
NUMBERED = ["[{}/3] {}: ready".format(*one) for one in enumerate(NAMES, 1)]
GETTING = [f"Getting Warehouse_016/Camera_{number + 10}.mp4 (video {number} of 2)" for number in (1, 2)]
LAST = f"[1/1] {NAMES[2]}: ready"
CLOSING = r"{} sequences? ready in \S+ \({} (?:was|were) ready before\), {} failed; (?:\d+ min )?\d+ s"
DONE, DONE_LAST, ALREADY = (CLOSING.format(3, count, 0) for count in (0, 2, 3))
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

def script(world: World, name: str, text: str) -> dict[str, str | None]:
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
    ("", r"--benchmark is required.*--demo"),
    *[(GOOD + " " + word, re.split("[ =]", word)[0] + r"\b")
      for word in ("--bogus", "--n-frames 3", "--nfram=3", "--nframes", "--sequences")],
    (GOOD + " stray", "unrecognized"),
    *[(HUB + f" --hf-tokn{sign}hf_secret", r"--hf-tokn\b") for sign in ("=", " ")],
    *[(GOOD + " --nframes " + shlex.quote(number), r"--nframes\b.*whole number.*" + re.escape(number))
      for number in ("0", "-1", "x", "1.5", "1e3", "", "99999999999", "\u0663")],
    *[(GOOD + " --stride=" + number, r"--stride\b.*whole number") for number in ("0", "-1", "x", "")],
    ("--output-dir out", r"--benchmark is required"),
    ("--benchmark good.jsonl", r"--output-dir is required"),
    *[(GOOD + f" {option} ''", option + r"\b.*path")
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
    assert re.search("^(prepare_sot_dataset.py: error|ERROR): .*" + says, run.err, re.M), run.err
    assert len(run.err.splitlines()) <= 4 and "hf_secret" not in run.err
    assert_plain(run.err)

def test_help_and_version(world: World) -> None:
    run = world.run("--help", env={"COLUMNS": "80"})
    assert (run.code, run.err, [line for line in run.out.splitlines() if len(line) > 80]) == (0, "", [])
    assert set(re.findall(r"^  (?:-h, )?--([a-z-]+)", run.out, re.M)) == {
        "benchmark", "output-dir", "nframes", "stride", "hf-token", "hf-cache-dir", "repo-id", "repo-subdir",
        "sequences", "demo", "video-dir", "stream", "revision", "gt-stub", "contact-sheet", "force", "check",
        "quiet", "verbose", "version", "help"}
    assert world.run("--version")[:3] == (0, f"prepare_sot_dataset.py {program.__version__}\n", "")

@pytest.mark.parametrize("quiet", [(), ("--quiet",)], ids=["told", "quiet"])
def test_every_failure_is_told_once_and_at_the_end(three: World, quiet: Sequence[str]) -> None:
    three.video(camera="Camera_13").write_bytes(b"no video" * 1000)
    broken = [clips.record([k, k + 1], camera="Camera_13", object_id=k) for k in (1, 2, 3)]
    late = [clips.record([4, 5000], object_id=k) for k in (4, 5)]
    gone = [clips.record([6, 7], camera="Camera_99", object_id=6)]
    three.records(broken[0], late[0], *gone, broken[1], RECORDS[0], late[1], broken[2])
    run = three.run("--nframes", 2, "--gt-stub", *quiet)
    assert run.code == 1 and re.fullmatch(CLOSING.format(1, 0, 6) + "\n", run.out), run.out
    assert len(run.errors) == 3 and run.err.splitlines()[0 if quiet else -3:] == run.errors
    for reason, records in (("cannot be decoded", broken), ("frame 5000", late), ("no such video", gone)):
        (line,) = [line for line in run.errors if reason in line]
        assert [one for one in (*broken, *late, *gone) if one["seq_id"] in line] == records
        assert run.err.count(reason) == 1, run.err

def test_force_prepares_what_is_selected_and_ready_again(ready: World, once: Path) -> None:
    before = stamps(ready.output)
    run = ready.run(*NFRAMES, "--force", "--sequences", NAMES[1])
    assert run.code == 0 and tree(ready.output) == tree(once)
    images = {name for name in before if name.startswith(NAMES[1])}
    assert set(rewritten(before, stamps(ready.output))) == images

def test_verbose_shows_command_lines_and_tracebacks(three: World) -> None:
    three.video(camera="Camera_13").write_bytes(b"no video" * 1000)
    three.records(RECORDS[0], clips.record(IDS, camera="Camera_13"))
    quiet, loud = (three.run(*NFRAMES, *options) for options in ((), ("--force", "--verbose")))
    assert quiet.code == loud.code == 1 and loud.errors == quiet.errors
    assert re.search(r"^.*ffmpeg -nostdin .* -i \S+Camera_11\.mp4 ", loud.err, re.M) and "-nostdin" not in quiet.err
    (three.output / "gt_requests.json").unlink()
    (three.output / "gt_requests.json").mkdir()
    assert "Traceback" in three.run(*NFRAMES, "--verbose").err and "Traceback" not in three.run(*NFRAMES).err

GREEN, ROBOT = (0, 255, 0), ((217, 130, 43), (36, 48, 60))

def place_of(picture: Image.Image, *colours: Sequence[int], tolerance: int = 0) -> tuple[int, ...]:
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
            picture = opened(world.output / meta["seq_id"] / "frames" / f"f{index:02d}.png")
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
    assert [line.split(": ")[0] for line in lines[-2:]] == ["Look at", "By hand"] and re.fullmatch(DONE + "\n", made.out)
    assert Path(lines[-2].split(": ")[1]).is_file() and len(folders) == 3 and not strays(made.tree)
    for folder in folders:
        assert_box_around_the_robot(folder)
    before = stamps(world.output)
    by_hand = shlex.split(lines[-1].split("python prepare_sot_dataset.py ")[1])
    assert all(re.fullmatch(ALREADY + "\n", run(*args).out) for args in (["--demo"], by_hand))
    assert stamps(world.output) == before and tree(world.output) == made.tree
    assert run("--demo", "--check").out.splitlines()[-1].startswith("Check: 3 ready")


# ---------------------------------------------------------------- what is written to a terminal or a pipe

BAR = re.compile(r"\b(\d)/3 sequences\b.* \d\d:\d\d")

def test_bar(three: World) -> None:
    slow = script(three, "ffmpeg", f'#!/bin/sh\nsleep 0.15\nexec "{clips.ffmpeg_exe()}" "$@"\n')
    for columns in (100, 60):
        three.defaults["--output-dir"] = three.folder / str(columns)
        run = three.in_terminal(*NFRAMES, "--gt-stub", columns=columns, env=slow)
        drawn = [part for part in re.split(r"[\r\n]+", run.out) if part.strip()]
        bars = [part for part in drawn if BAR.search(part)]
        counts = [int(found.group(1)) for found in map(BAR.search, bars) if found]
        assert run.code == 0 and max(map(len, bars)) <= columns
        assert counts == sorted(counts) and len(set(counts)) >= 3
        assert re.fullmatch(DONE.replace(" ", " ?"), "".join(screen(run.out, columns)))
    for options in (["--gt-stub"], ["--quiet"]):
        assert re.fullmatch(ALREADY + "\r\n", three.in_terminal(*NFRAMES, *options).out)

def test_a_download_shows_no_signed_address_and_leaves_no_bar(three: World) -> None:
    with three.hub() as hub:
        run = three.in_terminal(*NFRAMES, "--gt-stub", columns=200)
    assert hub.bytes_sent("cdn") and "SIGNED" not in run.out, run.out
    *getting, closing = [line for line in screen(run.out, 200) if line]
    assert getting == GETTING and re.fullmatch(DONE, closing)

def test_a_terminal_without_a_width_gets_lines(three: World) -> None:
    """As in notebooks, and in containers with a terminal that nobody told its size."""
    run = three.in_terminal(*NFRAMES, columns=0)
    assert run.code == 0 and not BAR.search(run.out)
    assert [line for line in run.out.splitlines() if line in NUMBERED] == NUMBERED, run.out

def test_ctrl_c_leaves_a_tidy_terminal(three: World) -> None:
    pressed = at_change(three.output / NAMES[1], 1, signal.SIGINT)
    run = three.in_terminal(*NFRAMES, columns=100, prologue=pressed, preexec_fn=SIGINT_AT_DEFAULT)
    line, count, *empty = screen(run.out, 100)
    assert line == "ERROR: Interrupted. Run the same command again to continue." and not any(empty), run.out
    assert run.code == 130 and not strays(run.tree) and NAMES[0] in run.tree

def test_pipe_gets_the_lines_in_order(three: World) -> None:
    with three.hub():
        out, _ = three.start(*NFRAMES, stderr=subprocess.STDOUT).communicate(timeout=PATIENCE)
    first, one, two, second, last, *closing = out.splitlines()
    assert_plain(out)
    assert [one, two, last] == NUMBERED and [first, second] == GETTING
    assert len(closing) == 2 and re.fullmatch(DONE, closing[0]) and "--gt-stub" in closing[1]

def test_a_reader_that_goes_ends_the_output_quietly(world: World) -> None:
    world.records(*[clips.record(IDS, object_id=number) for number in range(2000)])  # more than a pipe holds
    with world.start("--check") as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline().startswith("missing")
        process.stdout.close()
        assert process.stderr.read() == ""

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None}
STRICT = {**C_LOCALE, "PYTHONIOENCODING": "ascii:strict"}

@pytest.mark.parametrize("env", [C_LOCALE, STRICT, {"PYTHONIOENCODING": "ascii"}])
def test_ascii_only_surroundings(one_left: World, once: Path, env: dict[str, str | None]) -> None:
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
    for args in ([], ["--sequences", name + "x"], ["--benchmark", world.folder / name]):
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

DAMAGES: list[tuple[str, Callable[[Path], Any], str]] = [
    ("sequence_meta.json", cut_off, r"sequence_meta\.json"),
    ("sequence_meta.json", change_box, r"init_bbox"),
    ("frames/f02.png", Path.unlink, r"f02\.png is missing"),
    ("frames/f02.png", spoil, r"f02\.png cannot be decoded.*--force"),
    ("frames/f00_ann.png", Path.unlink, r"f00_ann\.png is missing"),
    ("frames/crop.png", spoil, r"crop\.png cannot be decoded.*--force"),
]

def checked(world: World, *args: Any) -> Run:
    """--check, which touches nothing and starts nothing."""
    before = tree(world.folder), stamps(world.folder)
    run = world.run(*NFRAMES, "--check", *args)
    assert (tree(world.folder), stamps(world.folder)) == before
    assert run.children == () and run.err == ""
    return run

@pytest.mark.parametrize("name, damage, why", DAMAGES)
def test_check_finds(ready: World, once: Path, name: str, damage: Any, why: str) -> None:
    damage(ready.output / NAMES[0] / name)
    run = checked(ready)
    assert run.code == 1 and re.search(f"^partly  {NAMES[0]}: .*{why}", run.out, re.M), run.out
    assert "2 ready, 1 partly there, 0 missing; videos needed: 1 (1 at hand)" in run.out
    advice = re.search(r"run again with (--force --sequences \S+)", run.out)
    assert ready.run(*NFRAMES, *(advice.group(1).split() if advice else [])).code == 0
    assert tree(ready.output) == tree(once)

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

@pytest.mark.parametrize("code, names, missing", [
    ("raise ImportError('no')", "cv2 PIL", "cv2 PIL"),
    ("raise RuntimeError('no')", "cv2 numpy PIL tqdm imageio_ffmpeg", "cv2 PIL"),
    ("raise ImportError('no')", "numpy", "cv2"), ("raise SystemError('no')", "cv2 tqdm", "cv2"),
    ("raise AttributeError('no')", "cv2", "cv2"), ("", "cv2", "cv2"),  # what an uninstall leaves behind
    ("raise OSError('no')", "PIL imageio_ffmpeg", "")])
def test_broken_libraries_are_as_if_missing(
        one_left: World, once: Path, code: str, names: str, missing: str) -> None:
    env = [script(one_left, name + ".py", code) for name in names.split()][0]
    run = one_left.run(*NFRAMES, env=env, child=True)
    assert run.code == 0 and re.search(DONE_LAST + "\n$", run.out)  # OpenCV itself prints that numpy is missing
    assert_plain(run.err)
    nothing_draws, frames = missing == "cv2 PIL", NAMES[2] + "/frames/"
    assert len(re.findall("WARNING: .*Pillow.*pip install opencv-python", run.err)) == bool(missing)
    assert run.err.count("WARNING") == bool(missing)
    assert (run.tree[frames + "f00_ann.png"] == run.tree[frames + "f00.png"]) == nothing_draws
    assert (frames + "crop.png" in run.tree) != nothing_draws and (run.tree == tree(once)) == (not missing)
    assert re.fullmatch(ALREADY + "\n", one_left.run(*NFRAMES, without=missing.split()).out)
    if nothing_draws:
        assert one_left.run(*NFRAMES).tree == tree(once)
    if names == "cv2 tqdm":
        shutil.rmtree(str(one_left.output / NAMES[2]))
        text = one_left.in_terminal(*NFRAMES, env=env).out
        assert re.search(DONE_LAST, text) and LAST in text and "Traceback" not in text

NO_GL = "libGL.so.1: cannot open shared object file: No such file or directory"

def test_opencv_that_cannot_be_loaded_is_told_with_the_reason(one_left: World) -> None:
    """As in a slim container; Pillow's label differs from the evaluator's."""
    env = script(one_left, "cv2.py", f"raise ImportError({NO_GL!r})")
    run = one_left.run(*NFRAMES, env=env, child=True)
    assert run.code == 0 and len(re.findall("^WARNING: .*OpenCV", run.err, re.M)) == 1, run.err
    assert re.search("OpenCV.*" + re.escape(NO_GL) + ".*pip install opencv-python-headless", run.err)
    again = one_left.run(*NFRAMES, env=env, child=True)
    assert re.fullmatch(ALREADY + "\n", again.out) and "WARNING" not in again.err  # nothing was drawn

def test_opencv_that_is_not_there_is_told(one_left: World) -> None:
    shutil.rmtree(str(one_left.output))  # three sequences, one warning
    run = one_left.run(*NFRAMES, without=["cv2"])
    told, = re.findall("^WARNING: .*", run.err, re.M)
    assert run.code == 0 and re.search("OpenCV.*pip install opencv-python-headless", told)
    assert "Error" not in told and "No module" not in told

@pytest.mark.parametrize("name, options, says", [
    ("huggingface_hub", [], "(.*huggingface_hub is not installed: pip install|huggingface_hub cannot be used: .*no)"),
    *[("PIL", [option], f".*{option} .*pip install Pillow") for option in ("--check", "--contact-sheet")]])
@pytest.mark.parametrize("code", ["", "raise ImportError('no')"], ids=["missing", "broken"])
def test_library_that_is_needed(three: World, name: str, options: list[str], says: str, code: str) -> None:
    del three.defaults["--video-dir"]
    env = script(three, name + ".py", code) if code else {}
    run = three.run(*NFRAMES, *options, env=env, child=True, without=[] if code else [name])
    assert run.code == 2 and len(re.findall("(?i)^.*error: " + says, run.err, re.M)) == 1, run.err
    assert_plain(run.err)

@pytest.mark.parametrize("streams", [
    ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", ">&0", "2>&0", ">&0 2>/dev/full", "2>&0 >&-"])
def test_nobody_reads(one_left: World, once: Path, streams: str) -> None:
    ours, gone = os.pipe()  # in a shell's words: >&0 goes into a pipe whose reader has gone
    os.close(ours)
    shell = ["sh", "-c", 'exec "$@" ' + streams, "sh", sys.executable, str(PROGRAM)]
    buffered = one_left.changed({"PYTHONUNBUFFERED": None})

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(shell + one_left.arguments([*NFRAMES, *args]), env=buffered, stdin=gone,
                              capture_output=True, encoding="utf-8", timeout=PATIENCE)

    prepared, out_is_whole = run(), not re.search("(^| )>", streams)
    assert prepared.returncode == 0 and tree(one_left.output) == tree(once)
    assert re.fullmatch((DONE_LAST + "\n") * out_is_whole, prepared.stdout)
    assert prepared.stderr.splitlines()[:1] == ([] if "2>" in streams else [LAST])
    shutil.rmtree(str(one_left.output / NAMES[2]))
    for option, code in () if out_is_whole else (("--check", 1), ("--help", 0)):
        told = run(option)
        assert (told.returncode, told.stderr) == (code, ""), option
    os.close(gone)

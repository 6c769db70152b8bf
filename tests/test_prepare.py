"""Whatever lies in the output, a run makes what a fresh one makes; one that fails or is ended spoils nothing.

For more random kills: KILLS=200 python -m pytest tests/test_prepare.py -k random
"""
from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, Sequence, Tuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests import clips
from tests.world import (
    PATIENCE, RETRY_WAITS, Run, World, age, at_change, clip, obey_permissions, rewritten, stamps, strays, tree)

KILLS = int(os.environ.get("KILLS", "8"))
META, GT, SHEET, MANIFEST = "sequence_meta.json", "gt.json", "contact_sheet.jpg", "gt_requests.json"
IDS = range(3, 3 + 16 * 7, 7)
BOX, OTHER_BOX = (200, 300, 450, 700), (100, 200, 550, 800)
NAME = clips.record(IDS)["seq_id"]
GT_FILE = f"{NAME}/{GT}"
DRAWING = ("cv2", "PIL")
HEAVY = ("cv2", "numpy", "huggingface_hub", "httpx", "requests", "tqdm", "imageio_ffmpeg")


class Wish(NamedTuple):
    """What a run is asked for."""
    nframes: int = 2
    stride: int | None = None
    box: tuple[int, ...] = BOX
    gt: bool = False
    sheet: bool = False
    draws: bool = True  # OpenCV or Pillow is there
    objects: tuple[int, ...] = (7,)  # of which each has a sequence

    @property
    def ids(self) -> list[int]:
        return [IDS[0] + at * (self.stride or IDS.step) for at in range(self.nframes)]

    def ask(self, world: World, *more: Any, **how: Any) -> Run:
        world.records(*[clips.record(IDS, self.box, object_id=number) for number in self.objects])
        options = ["--nframes", self.nframes, *(["--stride", self.stride] if self.stride else []),
                   *["--gt-stub"] * self.gt, *["--contact-sheet"] * self.sheet, *more]
        return world.run(*options, **{"without": () if self.draws else DRAWING, **how})


Fresh = Callable[[Wish], Path]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    """The output of a run that found nothing there; each is made once."""
    made: dict[Wish, Path] = {}

    def folder_of(wish: Wish) -> Path:
        if wish not in made:
            world = World(tmp_path_factory.mktemp("fresh"))
            world.video()
            assert wish.ask(world).code == 0
            assert not wish.gt or json.loads((world.output / NAME / GT).read_text()) == stub(wish)
            made[wish] = world.output
        return made[wish]
    return folder_of


def copy(source: Path, target: Path) -> None:
    shutil.rmtree(str(target), ignore_errors=True)
    shutil.copytree(str(source), str(target))


def lay(world: World, folder: Path) -> Path:
    """A copy of this output in place of what was there; the sequence's own folder."""
    copy(folder, world.output)
    return world.output / NAME


def finished(contents: dict[str, Any]) -> dict[str, Any]:
    """Without what is hidden, and without the manifest, which tells what the last run was asked for."""
    hidden = re.compile(r"(^|/)\.|^" + MANIFEST)
    return {name: sum_ for name, sum_ in contents.items() if not hidden.search(name)}


def stub(wish: Wish) -> dict[str, Any]:
    facts = {"label": "Warehouse_016/Camera_11/3/obj7", "scene": "Warehouse_016", "camera": "Camera_11",
             "object_id": "7", "object_type": "Person"}
    return {**facts, "frame_ids": list(range(wish.nframes)), "source_frame_ids": wish.ids,
            "init_bbox": list(wish.box), "gt_bboxes": {"0": list(wish.box)}}


# ---------------------------------------------------------------- any state, any options

DAMAGES: dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "empty": lambda path: path.write_bytes(b""),
    "deep": lambda path: path.write_bytes(b"[" * 100000),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size))}
DAMAGED = [META, *("frames/" + name for name in ("f00.png", "f01.png", "f03.png", "f00_ann.png", "crop.png"))]
ABSENT = object()
KEYS = ("seq_id", "label", "scene", "camera", "object_id", "object_type", "init_frame_id", "init_bbox",
        "frame_ids", "nframes", "stride", "clip_fps", "gt_available", "image_size", "source")
EDITED: dict[str, tuple[str, Any]] = {  # keys of the metadata
    "another series": ("frame_ids", [3, 11]), "another count": ("nframes", 5),
    "another size": ("image_size", [161, 100]), "another box": ("init_bbox", [200, 300, 450, 701]),
    "a key too many": ("gt_bboxes", {"3": [1, 2, 3, 4]}),
    "another video": ("source", {"repo_id": "nvidia/PhysicalAI-SmartSpaces", "path": "it", "revision": None}),
    **{"no " + key: (key, ABSENT) for key in KEYS}, **{"an empty " + key: (key, {}) for key in KEYS}}
GIVEN = json.dumps({**stub(Wish()), "gt_bboxes": {"0": [1, 2, 3, 4], "1": [2, 3, 4, 5]}})


def edit(path: Path, key: str, value: Any) -> None:
    found = {**json.loads(path.read_text()), key: value}
    path.write_text(json.dumps({name: was for name, was in found.items() if was is not ABSENT}))


def harm(path: Path, kind: str) -> None:
    if kind == "theirs":
        path.write_text(GIVEN, encoding="utf-8")
    elif kind in EDITED:
        with contextlib.suppress(OSError, ValueError, RecursionError):  # an earlier harm left nothing to edit
            edit(path, *EDITED[kind])
    elif path.exists():
        DAMAGES[kind](path)


WISHES = st.builds(Wish, st.sampled_from([2, 4]), st.sampled_from([None, 5]),
                   st.sampled_from([BOX, OTHER_BOX]), st.booleans(), st.booleans(), st.just(True), st.just((7,)))
HARMS = st.one_of(
    st.tuples(st.sampled_from(DAMAGED), st.sampled_from(sorted(DAMAGES))),
    st.tuples(st.just(META), st.sampled_from(sorted(EDITED))),
    st.sampled_from([(GT, "theirs"), (GT, "missing"), (SHEET, "missing")]))
STEPS = st.lists(st.tuples(st.lists(HARMS, max_size=3), WISHES), min_size=1, max_size=3)


def expected(wish: Wish, prepared: int, before: Path, fresh: Fresh) -> dict[str, str]:
    """What a run makes of this output. `prepared`: as many frames, of which the wanted ones are the first."""
    whole = wish._replace(gt=True, sheet=True)
    exact, want = tree(fresh(whole)), tree(fresh(whole._replace(nframes=prepared)))
    want.update({name: exact[name] for name in (MANIFEST, NAME + "/" + GT)})
    gt, sheet = before / NAME / GT, before / NAME / SHEET
    if gt.exists() and gt.read_text() == GIVEN:
        want[NAME + "/" + GT] = tree(before)[NAME + "/" + GT]
    elif not wish.gt and not gt.exists():
        del want[NAME + "/" + GT]
    if not wish.sheet and not sheet.exists():
        del want[NAME + "/" + SHEET]
    return want


ALL_NEW = Wish(4, stride=5, box=OTHER_BOX)
STUBS_AND_SHEETS = [Wish(gt=True), Wish(sheet=True), Wish(gt=True, sheet=True), Wish(), Wish(box=OTHER_BOX), Wish(4),
                    Wish(), Wish(4), Wish(gt=True, box=OTHER_BOX), Wish(stride=5)]


@settings(max_examples=16, suppress_health_check=list(HealthCheck))
@given(WISHES, st.booleans(), STEPS)
@example(Wish(), True, [([], wish) for wish in STUBS_AND_SHEETS])
@example(Wish(4), True, [([], Wish(gt=True))])
@example(Wish(), False, [([], Wish())])
@example(Wish(103, stride=1), True, [([], ALL_NEW)])  # names of three digits
def test_property_any_state_any_options(
        fresh: Fresh, tmp_path_factory: pytest.TempPathFactory, first: Wish, draws: bool,
        steps: Sequence[tuple[list[tuple[str, str]], Wish]]) -> None:
    """What is ready needs no video, also for a stub or a sheet, and in the end nothing at all."""
    world = World(tmp_path_factory.mktemp("any"))
    world.video()
    before, empty = world.folder / "before", world.folder / "empty"
    empty.mkdir()
    sequence = lay(world, fresh(first._replace(draws=draws, gt=True, sheet=draws)))
    for name in [GT] * (not first.gt) + [SHEET] * (draws and not first.sheet):
        (sequence / name).unlink()
    most, harmed = first.nframes, False
    for harms, wish in steps:
        for name, kind in harms:
            harm(sequence / name, kind)
        harmed = harmed or bool(harms)
        kept = (not harmed and world.meta(NAME)["frame_ids"][:wish.nframes] == wish.ids
                and world.meta(NAME)["init_bbox"] == list(wish.box) and (sequence / "frames/crop.png").exists())
        copy(world.output, before)
        left = stamps(world.output)
        run, most = wish.ask(world, *["--video-dir", empty] * kept), max(most, wish.nframes)
        assert (run.code, run.errors) == (0, [])
        changes = rewritten(left, stamps(world.output))
        assert not kept or not run.children and not re.search(r"/f\d+\.png", " ".join(changes))
        prepared = world.meta(NAME)["nframes"]
        assert wish.nframes <= prepared <= most
        made, want = dict(run.tree), expected(wish, prepared, before, fresh)
        assert set(changes) <= {MANIFEST} or finished(tree(before)) != finished(want)
        # Later frames of a longer series may be broken still, and its contact sheet may show them or not.
        idle = [NAME + "/frames/f%02d.png" % at for at in range(wish.nframes, prepared)]
        idle += [NAME + "/" + SHEET] * bool(idle)
        for name in idle:
            made.pop(name, None), want.pop(name, None)
        assert made == want
        left = stamps(world.output)
        again = wish.ask(world, "--video-dir", empty, env={"PATH": str(empty)}, without=HEAVY)
        assert (again.code, again.children, again.tree) == (0, (), run.tree)
        assert rewritten(left, stamps(world.output)) == []


def test_without_a_hub_and_what_draws(world: World, fresh: Fresh) -> None:
    lay(world, fresh(Wish()))
    del world.defaults["--video-dir"]
    left = stamps(world.output)
    assert Wish().ask(world, without={*HEAVY, *DRAWING}).code == 0
    assert rewritten(left, stamps(world.output)) == []
    world.video()
    world.defaults["--video-dir"] = world.videos
    plain = Wish(box=OTHER_BOX, draws=False)
    run = plain.ask(world)
    assert (run.code, run.tree) == (0, tree(fresh(plain)))


def test_pinned_revisions(world: World) -> None:
    made, inside = {}, "MTMC_Tracking_2025/val/Warehouse_016/videos/Camera_11.mp4"
    world.defaults["--hf-cache-dir"] = world.cache
    del world.defaults["--video-dir"]
    for commit, kind in (("1" * 40, "mpeg4_bframes"), ("2" * 40, "png_turned")):
        file = world.cache / "datasets--nvidia--PhysicalAI-SmartSpaces" / "snapshots" / commit / inside
        file.parent.mkdir(parents=True)
        shutil.copyfile(str(clip(kind)), str(file))
        made[commit] = Wish().ask(world, "--revision", commit).tree
        again = Wish().ask(world)  # without a wish for a revision, the one that is there
        assert (again.code, again.children, again.tree) == (0, (), made[commit])
        assert world.meta(NAME)["source"]["revision"] == commit
    assert made["1" * 40][NAME + "/frames/f01.png"] != made["2" * 40][NAME + "/frames/f01.png"]


def test_mixed_versions_of_the_dataset_are_told(world: World) -> None:
    """At the end of a run, and only when what is ready comes from more than one commit."""
    old, new = "a" * 40, "b" * 40
    objects = (7, 8, 9)
    names = [clips.record(IDS, object_id=number)["seq_id"] for number in objects]
    world.defaults["--hf-cache-dir"] = world.cache
    video = world.video()
    snapshots = world.cache / "datasets--nvidia--PhysicalAI-SmartSpaces" / "snapshots"
    for commit in (old, new):
        file = snapshots / commit / video.relative_to(world.videos)
        file.parent.mkdir(parents=True)
        shutil.copyfile(str(video), str(file))
    del world.defaults["--video-dir"]
    wish = Wish(objects=objects)
    one = wish.ask(world, "--revision", old, "--sequences", *names[:2])
    assert one.code == 0 and "--revision" not in one.err
    for options in (["--revision", new, "--sequences", names[2]], []):
        run = wish.ask(world, *options)
        (told,) = re.findall(".*--revision.*", run.err) or [""]
        assert run.code == 0 and bool(told) == (not options), run
    assert re.search(r"\b2\b", told) and re.search(r"\b1\b", told), told
    assert old[:7] in told and new[:7] in told and not re.search(r"\b3\b", told)


# ---------------------------------------------------------------- what is theirs

THEIRS: dict[str, bytes] = {
    "ground truth": GIVEN.encode(),
    "another box": json.dumps({**stub(Wish()), "gt_bboxes": {"0": [1, 2, 3, 4]}}).encode(),
    "a key of theirs": json.dumps({**stub(Wish()), "by": "me"}).encode(),
    "nothing": b"", "half": b'{"label": "Wa', "a list": b"[1]", "no text": b"\xff\xfe\0"}
FITTING = 3  # of them, for Wish()
SEVEN = Wish(objects=tuple(range(len(THEIRS))))
REDOS = {"nothing new": SEVEN, "of another program": SEVEN, "flags": SEVEN._replace(gt=True, sheet=True),
         "another stride": SEVEN._replace(stride=5), "more frames": SEVEN._replace(nframes=4, gt=True),
         "fewer frames": SEVEN._replace(nframes=1, gt=True), "another box": SEVEN._replace(box=OTHER_BOX, gt=True)}
MINE = ["notes.txt", ".mine", "masks/f00.png", "frames/f00_mine.png", "frames/frame1.png", "frames/f1.png",
        "frames/crop_large.png", "frames/f00.txt"]


@pytest.mark.parametrize("redo", REDOS)
def test_what_is_theirs_survives(world: World, fresh: Fresh, redo: str) -> None:
    world.video()
    lay(world, fresh(SEVEN))
    names = [clips.record(IDS, object_id=number)["seq_id"] for number in SEVEN.objects]
    theirs = {name + "/" + GT: data for name, data in zip(names, THEIRS.values())}
    theirs.update({name: b"mine" for name in ["notes.txt", ".mine", "my_results/scores.json"]})
    theirs.update({name + "/" + mine: b"mine" for name in names for mine in MINE})
    for name, data in theirs.items():
        (world.output / name).parent.mkdir(exist_ok=True)
        (world.output / name).write_bytes(data)
    for name in names if redo == "of another program" else ():
        edit(world.output / name / META, "source", ABSENT)
    before = {name: stamp for name, stamp in stamps(world.output).items() if name in theirs}
    run, wish = REDOS[redo].ask(world), REDOS[redo]
    assert (run.code, run.errors) == (0, [])
    assert before.items() - stamps(world.output).items() == set()
    if wish == SEVEN:
        want = tree(fresh(SEVEN))
        assert {name: run.tree[name] for name in want} == want
    unfit = names[FITTING:] if wish.ids == SEVEN.ids else names
    told = [f"WARNING: {len(unfit)} sequences, first {unfit[0]}: gt.json"]
    if redo == "of another program":
        told.insert(0, f"WARNING: {len(names)} sequences, first {names[0]}: prepared by another program")
    assert re.findall("WARNING: .*?(?:gt.json|another program)", run.err) == told


# ---------------------------------------------------------------- killed before every change of a file

CHANGES: dict[str, tuple[Wish | None, Wish]] = {  # what was there, if anything, and what is wanted
    "from nothing": (None, Wish(1, gt=True)),
    "all anew": (Wish(3, gt=True, sheet=True), Wish(stride=5, box=OTHER_BOX)),
    "frames kept": (Wish(1, gt=True), Wish(1, box=OTHER_BOX, gt=True))}
COPIES = """
import shutil
class Copies(list):
    def append(self, path):
        super().append(path)
        shutil.copytree(FOLDER, {!r} + str(len(self)))
changes = Copies()
"""


@pytest.mark.parametrize("case", CHANGES)
def test_killed_before_every_change_of_a_file(world: World, fresh: Fresh, case: str) -> None:
    """What a kill leaves is what lies there at that moment: a copy."""
    first, wish = CHANGES[case]
    world.video()
    lay(world, fresh(first)) if first else (world.output / NAME).mkdir(parents=True)
    (world.output / NAME / "mine.txt").write_text("mine", encoding="utf-8")
    before = finished(tree(world.output))
    kept = Wish(gt=NAME + "/" + GT in before, sheet=NAME + "/" + SHEET in before)
    after = {**tree(fresh(wish._replace(gt=wish.gt or kept.gt, sheet=wish.sheet or kept.sheet))),
             **{name: before[name] for name in (NAME, NAME + "/mine.txt")}}
    killed = str(world.folder / "killed")
    run = wish.ask(world, fork=True, prologue=at_change(world.output, 0) + COPIES.format(killed))
    assert (run.code, run.tree) == (0, after)
    phases, seen = "", []
    for number in range(int(run.out.split()[-1]), 0, -1):
        state = Path(killed + str(number))
        there = tree(state)
        found = finished(there)
        # What has its final name is whole, and the metadata vouches for all of one state or the other.
        assert not [name for name in found if found[name] not in (before.get(name), after.get(name))]
        phase = "n" if found == finished(after) else "o" if first and found == before else "x"
        if phase == "x" and {**found, GT_FILE: ""} == {**finished(after), GT_FILE: ""}:
            phase = "d"  # ready; gt.json, which is derived from it, comes next
        assert phase != "x" or NAME + "/" + META not in found
        phases = phase + phases
        # Of what lies in a hidden folder nothing is read: with more in it, it stands for the same with less.
        hidden = {(folder, "/" in inside) for folder, _, inside in (name.partition(".") for name in strays(there))}
        if (found, hidden) in seen:
            continue
        seen.append((found, hidden))
        for asked, theirs, want in ((first, "o", before), (wish, "n", after)):
            if asked:
                copy(state, world.output)
                age(world.output)
                left = finished(stamps(world.output))
                again = asked.ask(world)
                assert (again.code, strays(again.tree)) == (0, []), phases
                assert finished(again.tree) == finished(want), phases
                assert asked == first or again.tree == want
                assert phase != theirs or finished(stamps(world.output)) == left
    assert re.fullmatch("o{5,}x{3,}d*n+" if first else "x{8,}d*n+", phases), phases


# ---------------------------------------------------------------- redone in vain

def stand_in(world: World, script: str) -> dict[str, str | None]:
    """An environment where a script is called for $real, the ffmpeg; $call counts its calls."""
    folder = world.folder / "stand-in"
    shutil.rmtree(str(folder), ignore_errors=True)
    folder.mkdir()
    head = "#!/bin/sh\nreal='{}'\necho $$ >> '{}/pids'\ncall=$(wc -l < '{}/pids')\n"
    text = head.format(clips.ffmpeg_exe(), folder, folder) + script + '\nexec "$real" "$@"\n'
    (folder / "ffmpeg").write_text(text, encoding="utf-8")
    (folder / "ffmpeg").chmod(0o755)
    return {"PATH": os.pathsep.join([str(folder), os.environ["PATH"]])}


def stand_ins(world: World) -> list[Path]:
    return [Path("/proc", pid) for pid in (world.folder / "stand-in/pids").read_text().split()]


def alive(process: Path) -> bool:
    with contextlib.suppress(OSError):
        return ") Z" not in (process / "stat").read_text()
    return False


FAILURES = {  # the exit code, what is said, and a script in ffmpeg's place
    "missing video": (1, "no such video", ""),
    "ffmpeg fails": (1, "bad luck", '[ $call -lt 3 ] || { echo "[error] bad luck" >&2; exit 1; }'),
    "ffmpeg is killed": (2, "ffmpeg", "[ $call -lt 3 ] || kill -9 $$"),
    "an empty picture": (1, "ffmpeg|whole|f01", '"$real" "$@"; code=$?; [ ! -f f01.png ] || : > f01.png; exit $code')}


@pytest.mark.parametrize("case", FAILURES)
def test_a_redo_that_fails_leaves_the_old_sequence(world: World, fresh: Fresh, case: str) -> None:
    code, words, script = FAILURES[case]
    first, sequence, video = Wish(3, gt=True, sheet=True), world.output / NAME, world.video()
    lay(world, fresh(first))
    if case == "missing video":
        video.unlink()
    before = stamps(sequence), tree(sequence)
    run = ALL_NEW.ask(world, env=stand_in(world, script))
    assert (run.code, len(run.errors)) == (code, 1), run
    assert re.search(words, run.errors[0]) and (code == 2 or NAME in run.errors[0])
    assert (stamps(sequence), tree(sequence)) == before and not strays(run.tree)
    assert code == 2 or world.manifest()["missing"] == [NAME]
    again = first.ask(world)
    assert (again.code, again.children) == (0, ()) and world.manifest()["missing"] == []


@pytest.fixture()
def disk(world: World) -> Iterator[Callable[[str], None]]:
    """Puts the output on a disk in memory with these options, or changes them."""
    folder = world.folder / "disk"
    folder.mkdir()
    world.output = world.defaults["--output-dir"] = folder / "out"

    def mount(options: str) -> None:
        options = "remount," * os.path.ismount(str(folder)) + options
        done = subprocess.run(f"mount -t tmpfs -o {options} none '{folder}'", shell=True, stderr=-1)
        if done.returncode:
            pytest.skip("may not mount a disk that is full: " + done.stderr.decode())

    yield mount
    if os.path.ismount(str(folder)):
        subprocess.run(["umount", "-l", str(folder)], check=True)


SIZE_LIMIT = "[Ss]ize limit|SIGXFSZ|signal 25"  # what ends ffmpeg where files may not be so large
LARGEST = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"


@pytest.mark.parametrize("first", [None, Wish(), ALL_NEW._replace(box=BOX)],
                         ids=["from nothing", "redo", "frames kept"])
def test_no_room(world: World, fresh: Fresh, ffmpeg: str, disk: Callable[[str], None],
                 first: Wish | None) -> None:
    world.video()
    old, new = tree(fresh(first)) if first else {}, fresh(ALL_NEW)
    sizes = [(new / name).stat().st_size for name, what in tree(new).items() if what not in (old.get(name), "folder")]
    needed = sum(-(-size // 4096) * 4096 for size in sizes)
    # As much of the size of the largest file, which needs no disk of its own; or of the room that is needed.
    for size, room in ((0.2, None), (0.999, None), (2, 0), (2, 0.25), (2, 0.5), (2, 0.75)):
        if room is not None:
            disk("size=64m")
        world.output.mkdir(parents=True, exist_ok=True)
        if first:
            lay(world, fresh(first))
        before, state = tree(world.output), os.statvfs(str(world.output))
        used = (state.f_blocks - state.f_bfree) * state.f_frsize
        if room is not None:
            disk(f"size={used + max(room * needed, 1):.0f}")
        run = ALL_NEW.ask(world, fork=True, prologue=LARGEST.format(int(size * max(sizes))))
        assert (run.code, len(run.errors), run.tree) == (2, 1, before), run
        assert re.search(str(world.output) + ".*(No space|too large)|" + SIZE_LIMIT, run.errors[0])
        assert not first or first.ask(world, "--check").code == 0
    disk("size=64m")
    assert ALL_NEW.ask(world).tree == tree(fresh(ALL_NEW))


def test_no_video_is_fetched_for_a_folder_that_cannot_be_written(world: World, disk: Callable[[str], None]) -> None:
    del world.defaults["--video-dir"]  # no hub answers, and whoever asks it says so
    if os.geteuid() == 0:  # whom permission bits do not bind
        disk("size=1m")
        world.output.mkdir()
        disk("ro")
    else:
        world.output.mkdir(mode=0o555)
    run = Wish().ask(world, fork=True, constants={RETRY_WAITS: (0,)})
    assert run.code == 2 and str(world.output) in run.errors[0], run
    assert not re.search("connect|retry", run.err)


def with_two(world: World) -> list[tuple[dict[str, Any], Path]]:
    """A sequence of each of two videos."""
    records = [clips.record(IDS, camera=camera) for camera in ("Camera_11", "Camera_12")]
    world.records(*records)
    return [(record, world.video(camera=record["camera"])) for record in records]


def test_a_video_that_cannot_be_read_is_that_videos_failure(world: World) -> None:
    (blocked, video), (good, _) = with_two(world)
    video.chmod(0)
    with world.start("--nframes", 2, preexec_fn=obey_permissions) as process:
        _, err = process.communicate(timeout=PATIENCE)
    errors = [line for line in err.splitlines() if line.startswith("ERROR:")]
    assert (process.returncode, len(errors)) == (1, 1), err
    assert blocked["seq_id"] in errors[0] and re.search("Permission denied", errors[0]) and "written" not in err
    assert world.manifest()["missing"] == [blocked["seq_id"]] and world.meta(good["seq_id"])["nframes"] == 2


BLAME = "get it again|download it again|damaged|cannot be decoded|no pictures"
KILLED = 'case "$*" in {}) kill -9 $$;; esac'


@pytest.mark.parametrize("call", ["*.mp4*", "*.mp4*.png*"], ids=["whenever it reads a video", "at the pictures"])
def test_a_killed_ffmpeg_is_not_the_videos_fault(world: World, call: str) -> None:
    """As by the system when memory is out: the next video would fare no better."""
    with_two(world)
    run = world.run("--nframes", 2, env=stand_in(world, KILLED.format(call)))
    assert (run.code, len(run.errors)) == (2, 1), run
    assert re.search("SIGKILL|[Kk]illed|signal 9", run.errors[0]) and not re.search(BLAME, run.err), run
    assert "frames" not in " ".join(run.tree)
    assert world.run("--nframes", 2).code == 0


SILENT = """case "$*" in *.mp4*.png*) trap '' XFSZ; exec "$real" "$@" 2> /dev/null;; esac"""


@pytest.mark.parametrize("script, share", [("", 0.2), ("", 0.999), (SILENT, 0.6)], ids=["small", "just", "silent"])
def test_a_limit_on_the_size_of_files_is_not_the_videos_fault(
        world: World, fresh: Fresh, script: str, share: float) -> None:
    """Whether ffmpeg is ended by it or says nothing, as some versions do on a full disk."""
    with_two(world)
    limit = int(share * max(path.stat().st_size for path in fresh(Wish()).rglob("f0?.png")))
    run = world.run("--nframes", 2, env=stand_in(world, script), fork=True, prologue=LARGEST.format(limit))
    assert (run.code, len(run.errors)) == (2, 1), run
    assert re.search(str(world.output) + ".*too large|" + SIZE_LIMIT, run.errors[0]), run
    assert not re.search(BLAME, run.err) and "frames" not in " ".join(run.tree)
    assert world.run("--nframes", 2).code == 0


# ---------------------------------------------------------------- ended while ffmpeg works, or at any moment

def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "never happened"
        time.sleep(0.01)


@pytest.mark.parametrize("whom", ["$PPID", "0"], ids=["the program", "all in its terminal"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_while_ffmpeg_works(world: World, fresh: Fresh, number: int, whom: str) -> None:
    world.video()
    for call in (1, 2, 3):
        script = "[ $call -ne {} ] || {{ sleep {}; kill -{:d} {}; exec sleep 600; }}"
        env = stand_in(world, script.format(call, 0.2, number, whom))
        run = Wish().ask(world, env=env, fork=True, prologue="import os; os.setsid()")
        assert run.code == 128 + number, run
        assert len(run.err.splitlines()) == 1 and re.search("same command", run.err)
        assert len(stand_ins(world)) == call and not strays(run.tree)
        until(lambda: not any(map(alive, stand_ins(world))))  # what is killed takes a moment
    done = Wish().ask(world)
    assert done.tree == tree(fresh(Wish())) and len(done.children) == call


def test_an_orphan_of_a_killed_run_harms_nobody(world: World, fresh: Fresh) -> None:
    world.video()
    env = stand_in(world, "[ $call -ne 3 ] || { kill -9 $PPID; sleep 0.5; }")
    assert ALL_NEW.ask(world, env=env, fork=True).code == -9
    assert any(map(alive, stand_ins(world)))
    assert ALL_NEW.ask(world).code == 0
    until(lambda: not any(map(alive, stand_ins(world))))
    age(world.output)
    assert ALL_NEW.ask(world).tree == tree(fresh(ALL_NEW))


def test_leftovers_go_by_age(world: World, fresh: Fresh) -> None:
    """A younger one may be in use, on another node of a cluster too."""
    world.video()
    killed = Wish().ask(world, fork=True, prologue=at_change(world.output, 1, name=META))
    left = strays(killed.tree)
    assert killed.code == -9 and left
    for days in (0.9, 1.1):
        age(world.output, days)
        run = Wish().ask(world)
        assert (run.code, strays(run.tree)) == (0, left if days < 1 else [])
    assert run.tree == tree(fresh(Wish()))


THREE = [clips.record(range(start, start + 60, 5), camera=camera, object_id=start)
         for start, camera in ((0, "Camera_11"), (4, "Camera_12"), (8, "Camera_11"))]
NAMES = [record["seq_id"] for record in THREE]


def with_three(world: World) -> World:
    world.records(*THREE)
    world.video()
    world.video("png_turned", camera="Camera_12")
    return world


Three = Tuple[Path, float]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Three:
    """The output of a run that nothing disturbed, and its seconds."""
    world = with_three(World(tmp_path_factory.mktemp("three")))
    begun = time.monotonic()
    assert world.run("--nframes", 3, fork=True).code == 0
    return world.output, time.monotonic() - begun


@pytest.mark.parametrize("number", range(KILLS))
def test_random_kills(world: World, three: Three, number: int) -> None:
    with_three(world)
    dice, want = random.Random(number), tree(three[0])
    for _ in range(1 + number % 3):
        killer = "import os, threading; threading.Timer({}, os.kill, (os.getpid(), 9)).start()"
        run = world.run("--nframes", 3, fork=True, prologue=killer.format(dice.uniform(0, 1.1 * three[1])))
        assert run.code in (0, -9)
        assert finished(run.tree).items() <= want.items()
        ready = tuple(name for name in NAMES if name + "/" + META in run.tree)
        assert not [name for name in want if ready and name.startswith(ready) and name not in run.tree]
    age(world.output)
    assert world.run("--nframes", 3).tree == want


# ---------------------------------------------------------------- several runs at once

PARTS = {"the same": [NAMES] * 3, "parts": [[name] for name in NAMES]}
# As between the nodes of a cluster, whose locks do not reach each other.
NO_LOCKS = "import fcntl; fcntl.flock = fcntl.lockf = lambda *_: None\n"


def ended(running: subprocess.Popen[str]) -> tuple[int, list[str]]:
    _, err = running.communicate(timeout=PATIENCE)
    return running.returncode, re.findall("(?m)^(?:ERROR|Traceback).*", err)


@pytest.mark.parametrize("locks", ["", NO_LOCKS], ids=["locks", "no locks"])
@pytest.mark.parametrize("parts", PARTS)
def test_runs_started_together(world: World, three: Three, parts: str, locks: str) -> None:
    with_three(world)
    (world.folder / "elsewhere").mkdir()
    world.output.symlink_to(world.folder / "elsewhere")  # the output folder itself may be a link
    together = [world.start("--nframes", 3, "--sequences", *names, prologue=locks) for names in PARTS[parts]]
    assert [ended(one) for one in together] == [(0, [])] * len(together)
    assert tree(world.output) == tree(three[0]) and world.manifest()["missing"] == []


@pytest.mark.parametrize("number", [1, 2, 4, 7, 11, 16])
@pytest.mark.parametrize("parts", PARTS)
def test_a_run_that_pauses_is_not_disturbed(world: World, three: Three, parts: str, number: int) -> None:
    """Another one comes and goes while it stands before a change of a file."""
    with_three(world).output.mkdir()
    pause = at_change(world.output, number, signal.SIGSTOP)
    first = world.start("--nframes", 3, "--sequences", *PARTS[parts][0], prologue=NO_LOCKS + pause)
    try:
        assert os.WIFSTOPPED(os.waitpid(first.pid, os.WUNTRACED)[1])
        second = world.start("--nframes", 3, "--sequences", *sum(PARTS[parts][1:], []), prologue=NO_LOCKS)
        assert ended(second) == (0, [])
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert ended(first) == (0, [])
    assert tree(world.output) == tree(three[0]) and world.manifest()["missing"] == []


def test_runs_with_different_options_leave_no_mixture(world: World) -> None:
    """One stands before the last file of a sequence while another begins: the metadata fits the pictures."""
    with_three(world)
    several = [["--nframes", 3], ["--nframes", 3, "--stride", 7]]
    alone = []
    for options in several:
        shutil.rmtree(str(world.output), ignore_errors=True)
        alone.append(finished(world.run(*options, "--sequences", NAMES[0]).tree))
    shutil.rmtree(str(world.output))
    world.output.mkdir()
    first = world.start(*several[0], "--sequences", NAMES[0],
                        prologue=at_change(world.output, 1, signal.SIGSTOP, META))
    assert os.WIFSTOPPED(os.waitpid(first.pid, os.WUNTRACED)[1])
    second = world.start(*several[1], "--sequences", NAMES[0])
    with contextlib.suppress(subprocess.TimeoutExpired):  # it waits for the first one, or not
        second.wait(5)
    os.kill(first.pid, signal.SIGCONT)
    for one in (first, second):
        ended(one)
    assert finished(tree(world.output)) in alone


def test_a_finished_output_may_be_read_only(world: World, three: Three) -> None:
    """As a dataset that is shared, or another user's."""
    with_three(world)
    copy(three[0], world.output)
    everything = [world.output, *world.output.rglob("*")]
    before = stamps(world.output)
    for path in everything:
        path.chmod(0o555)
    try:
        for options in ([], ["--check"]):
            with world.start("--nframes", 3, *options, preexec_fn=obey_permissions) as process:
                assert ended(process) == (0, [])
        with world.start("--nframes", 2, preexec_fn=obey_permissions) as process:  # which would change a file
            code, errors = ended(process)
        assert code == 2 and str(world.output) in errors[0] and "Permission denied" in errors[0]
    finally:
        for path in everything:
            path.chmod(0o755)
    assert tree(world.output) == tree(three[0]) and stamps(world.output) == before

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
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import clips
from tests.world import PATIENCE, Run, World, at_change, clip, rewritten, stamps, strays, tree

KILLS = int(os.environ.get("KILLS", "8"))
META, GT, SHEET, MANIFEST = "sequence_meta.json", "gt.json", "contact_sheet.jpg", "gt_requests.json"
IDS = range(3, 3 + 16 * 7, 7)
BOX, OTHER_BOX = (200, 300, 450, 700), (100, 200, 550, 800)
NAME = clips.record(IDS)["seq_id"]
DRAWING = ("cv2", "PIL")
HEAVY = ("cv2", "numpy", "huggingface_hub", "httpx", "requests", "tqdm", "imageio_ffmpeg")



class Wish(NamedTuple):
    """What a run is asked for."""
    nframes: int = 2
    stride: Optional[int] = None
    box: Tuple[int, ...] = BOX
    gt: bool = False
    sheet: bool = False
    draws: bool = True  # OpenCV or Pillow is there

    @property
    def ids(self) -> List[int]:
        return [IDS[0] + at * (self.stride or IDS.step) for at in range(self.nframes)]

    def ask(self, world: World, *more: Any, **how: Any) -> Run:
        world.records(clips.record(IDS, self.box))
        options = ["--nframes", self.nframes, *(["--stride", self.stride] if self.stride else []),
                   *["--gt-stub"] * self.gt, *["--contact-sheet"] * self.sheet, *more]
        return world.run(*options, **{"without": () if self.draws else DRAWING, **how})


Fresh = Callable[[Wish], Path]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Fresh:
    """The output of a run that found nothing there; each is made once."""
    made: Dict[Wish, Path] = {}

    def folder_of(wish: Wish) -> Path:
        if wish not in made:
            world = World(tmp_path_factory.mktemp("fresh"))
            world.video()
            assert wish.ask(world).code == 0
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


def finished(contents: Dict[str, Any]) -> Dict[str, Any]:
    """Without what is hidden, and without the manifest, which every run writes anew."""
    hidden = re.compile(r"(^|/)\.|^" + MANIFEST)
    return {name: sum_ for name, sum_ in contents.items() if not hidden.search(name)}


def stub(wish: Wish) -> Dict[str, Any]:
    facts = {"label": "Warehouse_016/Camera_11/3/obj7", "scene": "Warehouse_016", "camera": "Camera_11",
             "object_id": "7", "object_type": "Person"}
    return {**facts, "frame_ids": list(range(wish.nframes)), "source_frame_ids": wish.ids,
            "init_bbox": list(wish.box), "gt_bboxes": {"0": list(wish.box)}}


# ---------------------------------------------------------------- any state, any options

DAMAGES: Dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "empty": lambda path: path.write_bytes(b""),
    "deep": lambda path: path.write_bytes(b"[" * 100000),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size))}
DAMAGED = [META, *("frames/" + name for name in ("f00.png", "f01.png", "f03.png", "f00_ann.png", "crop.png"))]
ABSENT = object()
KEYS = ("seq_id", "label", "scene", "camera", "object_id", "object_type", "init_frame_id", "init_bbox",
        "frame_ids", "nframes", "stride", "clip_fps", "gt_available", "image_size", "source")
EDITED: Dict[str, Tuple[str, Any]] = {  # keys of the metadata
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
                   st.sampled_from([BOX, OTHER_BOX]), st.booleans(), st.booleans(), st.just(True))
HARMS = st.one_of(
    st.tuples(st.sampled_from(DAMAGED), st.sampled_from(sorted(DAMAGES))),
    st.tuples(st.just(META), st.sampled_from(sorted(EDITED))),
    st.sampled_from([(GT, "theirs"), (GT, "missing"), (SHEET, "missing")]))
STEPS = st.lists(st.tuples(st.lists(HARMS, max_size=3), WISHES), min_size=1, max_size=3)


def expected(wish: Wish, prepared: int, before: Path, fresh: Fresh) -> Dict[str, str]:
    """What a run makes of this output. `prepared`: as many frames, of which the wanted ones are the first."""
    exact = tree(fresh(wish._replace(gt=True, sheet=True)))
    want = tree(fresh(wish._replace(nframes=prepared, gt=True, sheet=True)))
    want.update({name: exact[name] for name in (MANIFEST, NAME + "/" + GT)})
    gt, sheet = before / NAME / GT, before / NAME / SHEET
    if gt.exists() and gt.read_text() == GIVEN:
        want[NAME + "/" + GT] = tree(before)[NAME + "/" + GT]
    elif not wish.gt and not gt.exists():
        del want[NAME + "/" + GT]
    if not wish.sheet and not sheet.exists():
        del want[NAME + "/" + SHEET]
    return want


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(WISHES, st.booleans(), STEPS)
def test_property_any_state_any_options(
        fresh: Fresh, tmp_path_factory: pytest.TempPathFactory, first: Wish, draws: bool,
        steps: Sequence[Tuple[List[Tuple[str, str]], Wish]]) -> None:
    world = World(tmp_path_factory.mktemp("any"))
    world.video()
    sequence = lay(world, fresh(first._replace(draws=draws, sheet=first.sheet and draws)))
    most = first.nframes
    for harms, wish in steps:
        for name, kind in harms:
            harm(sequence / name, kind)
        copy(world.output, world.folder / "before")
        run, most = wish.ask(world), max(most, wish.nframes)
        assert (run.code, run.errors) == (0, [])
        prepared = world.meta(NAME)["nframes"]
        assert wish.nframes <= prepared <= most
        # Later frames of a longer series may be broken still, and its contact sheet may show them or not.
        idle = [NAME + "/frames/f%02d.png" % at for at in range(wish.nframes, prepared)]
        idle += [NAME + "/" + SHEET] * bool(idle)
        made, want = dict(run.tree), expected(wish, prepared, world.folder / "before", fresh)
        for name in idle:
            made.pop(name, None), want.pop(name, None)
        assert made == want
        left = stamps(world.output)
        again = wish.ask(world)
        assert (again.code, again.children, again.tree) == (0, (), run.tree)
        assert rewritten(left, stamps(world.output)) == [MANIFEST]


# ---------------------------------------------------------------- ready, or with frames that can be kept

ALL_NEW = Wish(4, stride=5, box=OTHER_BOX)
NO_VIDEO: Dict[str, Tuple[Wish, Wish, bool]] = {  # what is there, what is wanted, and whether it is ready
    "the same": (Wish(), Wish(), True),
    "with extras": (Wish(gt=True, sheet=True), Wish(gt=True, sheet=True), True),
    "extras no longer asked for": (Wish(gt=True, sheet=True), Wish(), True),
    "fewer frames": (Wish(4), Wish(), True),
    "drawn, and now nothing draws": (Wish(), Wish(draws=False), True),
    "another box with extras": (Wish(gt=True, sheet=True), Wish(box=OTHER_BOX, gt=True, sheet=True), False),
    "a stub": (Wish(), Wish(gt=True), False),
    "a contact sheet": (Wish(), Wish(sheet=True), False),
    "drawn later": (Wish(draws=False), Wish(), False),
    "another box, and now nothing draws": (Wish(), Wish(box=OTHER_BOX, draws=False), False)}


@pytest.mark.parametrize("case", NO_VIDEO)
def test_kept_frames_need_no_video_and_ready_ones_nothing(world: World, fresh: Fresh, case: str) -> None:
    first, wish, ready = NO_VIDEO[case]
    for source in ("a folder without videos", "a hub that cannot be reached"):
        lay(world, fresh(first))
        before, contents = stamps(world.output), finished(tree(world.output))
        without = {*(HEAVY if ready else ()), *(() if wish.draws else DRAWING)}
        run = wish.ask(world, env={"PATH": str(world.videos)} if ready else {}, without=without)
        assert (run.code, run.errors) == (0, []), source
        assert bool(re.search(r"1 ready \(1 already", run.out)) == ready
        assert finished(run.tree) == (contents if ready else finished(tree(fresh(wish))))
        assert world.manifest()["requests"][0]["frame_ids"] == wish.ids
        again = rewritten(before, stamps(world.output))
        assert not [name for name in again if re.search(r"/f\d+\.png", name)]
        assert not ready or (run.children, again) == ((), [MANIFEST])
        world.defaults.pop("--video-dir", None)


def test_more_than_a_hundred_frames(world: World, fresh: Fresh) -> None:
    frames = lay(world, fresh(Wish(103, stride=1))) / "frames"
    names = ["f%02d.png" % at for at in range(100)] + ["f100.png", "f101.png", "f102.png"]
    assert sorted(os.listdir(str(frames))) == sorted([*names, "f00_ann.png", "crop.png"])
    shown = [clips.read_png(frames / name) for name in ("f99.png", "f100.png", "f102.png")]
    assert [clips.read_index(one.rgb, one.width, one.height) for one in shown] == [102, 103, 105]
    world.video()
    assert ALL_NEW.ask(world).tree == tree(fresh(ALL_NEW))


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


# ---------------------------------------------------------------- what is theirs

THEIRS: Dict[str, bytes] = {
    "ground truth": GIVEN.encode(),
    "another box": json.dumps({**stub(Wish()), "gt_bboxes": {"0": [1, 2, 3, 4]}}).encode(),
    "a key of theirs": json.dumps({**stub(Wish()), "by": "me"}).encode(),
    "nothing": b"", "half": b'{"label": "Wa', "a list": b"[1]", "no text": b"\xff\xfe\0"}
FITTING = ("ground truth", "another box", "a key of theirs")  # for Wish()
REDOS = {"nothing new": Wish(), "flags": Wish(gt=True, sheet=True), "another stride": Wish(stride=5),
         "more frames": Wish(4, gt=True), "fewer frames": Wish(1, gt=True),
         "another box": Wish(box=OTHER_BOX, gt=True)}
MINE = ["notes.txt", ".mine", "my_results/scores.json", *(NAME + "/" + name for name in (
    "notes.txt", ".mine", "masks/f00.png", "frames/f00_mine.png", "frames/frame1.png", "frames/f1.png",
    "frames/crop_large.png", "frames/f00.txt"))]


@pytest.mark.parametrize("redo", REDOS)
def test_what_is_theirs_survives(world: World, fresh: Fresh, redo: str) -> None:
    world.video()
    for number, given_back in enumerate(THEIRS):
        sequence = lay(world, fresh(Wish(gt=number % 2 == 0)))
        (sequence / GT).write_bytes(THEIRS[given_back])
        for name in MINE:
            (world.output / name).parent.mkdir(exist_ok=True)
            (world.output / name).write_text("mine", encoding="utf-8")
        before = {name: stamp for name, stamp in stamps(world.output).items()
                  if name in MINE or name.endswith(GT)}
        assert len(before) == len(MINE) + 1
        run = REDOS[redo].ask(world)
        assert (run.code, run.errors) == (0, []), given_back
        assert before.items() - stamps(world.output).items() == set()
        assert (sequence / GT).read_bytes() == THEIRS[given_back]
        fits = given_back in FITTING and REDOS[redo].ids == Wish().ids
        assert len([line for line in run.err.splitlines() if GT in line]) == (0 if fits else 1), run.err


STUBS: Dict[str, Tuple[Wish, Wish]] = {
    "another stride": (Wish(gt=True), Wish(stride=5)), "another box": (Wish(gt=True), Wish(box=OTHER_BOX)),
    "more frames": (Wish(gt=True), Wish(4)), "of more frames the first": (Wish(4, gt=True), Wish()),
    "asked for again": (Wish(4, gt=True), Wish(gt=True, box=OTHER_BOX)),
    "8 over 16": (Wish(16), Wish(8, gt=True))}


@pytest.mark.parametrize("case", STUBS)
def test_stub_never_lies_and_never_vanishes(world: World, fresh: Fresh, case: str) -> None:
    first, wish = STUBS[case]
    sequence, video = lay(world, fresh(first)), world.video()
    for wanted in (wish, first._replace(box=wish.box, gt=False)):
        assert wanted.ask(world).code == 0
        assert json.loads((sequence / GT).read_text()) == stub(wanted)
        if wish.ids == first.ids[:wish.nframes] and video.exists():
            video.unlink()  # all of the first ones are still there


def test_a_folder_of_another_program(world: World, fresh: Fresh) -> None:
    sequence = lay(world, fresh(Wish()))
    edit(sequence / META, "source", ABSENT)
    (sequence / GT).write_text(GIVEN, encoding="utf-8")
    failed = Wish().ask(world)
    assert failed.code == 1
    assert re.search(r"(?s)\b1 sequence.*another program.*gt\.json.*no such video", failed.err)
    world.video()
    assert Wish().ask(world).tree == {**tree(fresh(Wish())), NAME + "/" + GT: tree(sequence)[GT]}


@pytest.mark.parametrize("place", [NAME, NAME + "/frames"])
def test_link_in_place_of_a_folder_is_refused(world: World, fresh: Fresh, place: str) -> None:
    world.video()
    lay(world, fresh(Wish()))
    elsewhere, link = world.folder / "elsewhere", world.output / place
    link.rename(elsewhere)
    link.symlink_to(elsewhere)
    before = stamps(elsewhere), tree(elsewhere)
    for wish in (Wish(), ALL_NEW):
        run = wish.ask(world)
        assert run.code in (1, 2) and len(run.errors) == 1 and re.search("symbolic link", run.errors[0]), run
        assert (stamps(elsewhere), tree(elsewhere)) == before


A_FRAME_GOES = """
import os
before = program.before_the_work
def then_it_goes(args, todo):
    before(args, todo)
    os.remove({!r})
program.before_the_work = then_it_goes
"""


def test_frames_that_go_after_they_were_found_to_be_kept(world: World, fresh: Fresh) -> None:
    """Another run may have made the sequence anew meanwhile."""
    world.video()
    lay(world, fresh(Wish()))
    gone = A_FRAME_GOES.format(str(world.output / NAME / "frames" / "f01.png"))
    run = Wish(box=OTHER_BOX).ask(world, fork=True, prologue=gone)
    assert (run.code, run.tree) == (0, tree(fresh(Wish(box=OTHER_BOX)))), run


def test_the_output_folder_itself_may_be_a_link(world: World, fresh: Fresh) -> None:
    world.video()
    (world.folder / "elsewhere").mkdir()
    world.output.symlink_to(world.folder / "elsewhere")
    run = Wish().ask(world)
    assert (run.code, run.tree) == (0, tree(fresh(Wish()))), run


# ---------------------------------------------------------------- killed before every change of a file

CHANGES: Dict[str, Tuple[Optional[Wish], Wish]] = {  # what was there, if anything, and what is wanted
    "from nothing": (None, Wish(1, gt=True)),
    "all anew": (Wish(3, gt=True, sheet=True), Wish(stride=5, box=OTHER_BOX)),
    "frames kept": (Wish(1, gt=True), Wish(1, box=OTHER_BOX, gt=True))}


@pytest.mark.parametrize("case", CHANGES)
def test_killed_before_every_change_of_a_file(world: World, fresh: Fresh, case: str) -> None:
    first, wish = CHANGES[case]
    start = world.folder / "start"
    world.video()
    copy(fresh(first), start) if first else (start / NAME).mkdir(parents=True)
    (start / NAME / "mine.txt").write_text("mine", encoding="utf-8")
    before = finished(tree(start))
    kept = Wish(gt=NAME + "/" + GT in before, sheet=NAME + "/" + SHEET in before)
    after = {**tree(fresh(wish._replace(gt=wish.gt or kept.gt, sheet=wish.sheet or kept.sheet))),
             **{name: before[name] for name in (NAME, NAME + "/mine.txt")}}
    phases, code = "", -1
    while code:
        lay(world, start)
        run = wish.ask(world, fork=True, prologue=at_change(world.output, len(phases) + 1))
        code, found = run.code, finished(run.tree)
        assert code in (0, -9), run
        # What has its final name is whole, and the metadata vouches for all of one state or the other.
        assert not [name for name in found if found[name] not in (before.get(name), after.get(name))]
        phase = "n" if found == finished(after) else "o" if first and found == before else "x"
        assert phase != "x" or NAME + "/" + META not in found
        phases += phase
        for asked, folder, theirs, want in ((first, "old", "o", before), (wish, "new", "n", after)):
            if asked:
                copy(world.output, world.folder / folder)
                left = finished(stamps(world.folder / folder))
                again = asked.ask(world, "--output-dir", world.folder / folder)
                assert (again.code, strays(again.tree)) == (0, []), phases
                assert finished(again.tree) == finished(want), phases
                assert asked == first or again.tree == want
                assert phase != theirs or finished(stamps(world.folder / folder)) == left
    assert re.fullmatch("o{5,}x{3,}n{2,}" if first else "x{8,}n{2,}", phases), phases


# ---------------------------------------------------------------- redone in vain


def stand_in(world: World, script: str) -> Dict[str, Optional[str]]:
    """An environment where a script is called for $real, the ffmpeg; $call counts its calls."""
    folder = world.folder / "stand-in"
    shutil.rmtree(str(folder), ignore_errors=True)
    folder.mkdir()
    head = "#!/bin/sh\nreal='{}'\necho $$ >> '{}/pids'\ncall=$(wc -l < '{}/pids')\n"
    text = head.format(clips.ffmpeg_exe(), folder, folder) + script + '\nexec "$real" "$@"\n'
    (folder / "ffmpeg").write_text(text, encoding="utf-8")
    (folder / "ffmpeg").chmod(0o755)
    return {"PATH": os.pathsep.join([str(folder), os.environ["PATH"]])}


def stand_ins(world: World) -> List[Path]:
    return [Path("/proc", pid) for pid in (world.folder / "stand-in/pids").read_text().split()]


def alive(process: Path) -> bool:
    with contextlib.suppress(OSError):
        return ") Z" not in (process / "stat").read_text()
    return False


def spoil(video: Path) -> None:
    data = video.read_bytes()
    start, end = len(data) // 16, len(data) // 4
    video.write_bytes(data[:start] + bytes(end - start) + data[end:])


class Failure(NamedTuple):
    words: str
    code: int = 1
    wish: Wish = ALL_NEW
    harm: Callable[[Path], Any] = Path.exists  # to the video
    script: str = ""  # in ffmpeg's place
    prologue: str = "pass"


NO_ROOM = "disk is full|too large"
SMALL_FILES = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))"
FAILURES: Dict[str, Failure] = {
    "missing video": Failure("no such video", harm=Path.unlink),
    "damaged video": Failure("decode", harm=spoil),
    "cut video": Failure("moov|cut|decode", harm=lambda video: video.write_bytes(video.read_bytes()[:-3000])),
    "short video": Failure("120 frames", wish=Wish(3, stride=100)),
    "ffmpeg fails": Failure("bad luck", script='[ $call -lt 3 ] || { echo "[error] bad luck" >&2; exit 1; }'),
    "ffmpeg is killed": Failure("ffmpeg", script="[ $call -lt 3 ] || kill -9 $$"),
    # As ffmpeg 4.2.2 ends on a full disk.
    "an empty picture": Failure(
        "ffmpeg|whole|f01", script='"$real" "$@"; code=$?; [ ! -f f01.png ] || : > f01.png; exit $code'),
    "no room for a frame": Failure(NO_ROOM, 2, prologue=SMALL_FILES),
    "no room for the overlay": Failure(NO_ROOM, 2, Wish(3, box=OTHER_BOX), prologue=SMALL_FILES)}


@pytest.mark.parametrize("case", FAILURES)
def test_a_redo_that_fails_leaves_the_old_sequence(world: World, fresh: Fresh, case: str) -> None:
    failure, first = FAILURES[case], Wish(3, gt=True, sheet=True)
    sequence = lay(world, fresh(first))
    failure.harm(world.video())
    before = stamps(sequence), tree(sequence)
    run = failure.wish.ask(world, env=stand_in(world, failure.script), fork=True, prologue=failure.prologue)
    assert (run.code, len(run.errors)) == (failure.code, 1), run
    assert re.search(failure.words, run.errors[0]) and NAME in run.errors[0]
    assert (stamps(sequence), tree(sequence)) == before and not strays(run.tree)
    assert failure.code == 2 or world.manifest()["missing"] == [NAME]
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
        done = subprocess.run("mount -t tmpfs -o {} none '{}'".format(options, folder), shell=True, stderr=-1)
        if done.returncode:
            pytest.skip("may not mount a disk that is full: " + done.stderr.decode())

    yield mount
    if os.path.ismount(str(folder)):
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("first", [None, Wish()], ids=["from nothing", "redo"])
def test_full_disk(world: World, fresh: Fresh, ffmpeg: str, disk: Callable[[str], None],
                   first: Optional[Wish]) -> None:
    world.video()
    disk("size=64m")
    new = sum(-(-path.stat().st_size // 4096) * 4096 for path in fresh(ALL_NEW).rglob("*") if path.is_file())
    for part in (0, 0.3, 0.7, -1):  # of the room that is needed; -1: read-only
        world.output.mkdir(exist_ok=True)
        if first:
            lay(world, fresh(first))
        before, state = finished(tree(world.output)), os.statvfs(str(world.output))
        used = (state.f_blocks - state.f_bfree) * state.f_frsize
        disk("ro" if part < 0 else "size={:.0f}".format(used + max(part * new, 1)))
        run = ALL_NEW.ask(world)
        assert (run.code, len(run.errors)) == (2, 1), run
        assert str(world.output) in run.errors[0], part
        assert re.search("disk is full|No space|Read-only", run.errors[0])
        assert finished(run.tree) == before and not strays(run.tree)
        disk("rw,size=64m")
        assert not first or first.ask(world).children == ()
    assert ALL_NEW.ask(world).tree == tree(fresh(ALL_NEW))


# ---------------------------------------------------------------- ended while ffmpeg works, or at any moment

CALLS = 3  # of ffmpeg, for one sequence


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "never happened"
        time.sleep(0.01)


@pytest.mark.parametrize("whom", ["$PPID", "0"], ids=["the program", "all in its terminal"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_while_ffmpeg_works(world: World, fresh: Fresh, number: int, whom: str) -> None:
    world.video()
    for call in range(1, CALLS + 1):
        shutil.rmtree(str(world.output), ignore_errors=True)
        script = "[ $call -ne {} ] || {{ sleep {}; kill -{:d} {}; exec sleep 600; }}"
        env = stand_in(world, script.format(call, 0 if call == 2 else 0.2, number, whom))
        run = Wish().ask(world, env=env, fork=True, prologue="import os; os.setsid()")
        assert run.code == 128 + number, run
        assert len(run.err.splitlines()) == 1 and re.search("same command", run.err)
        assert len(stand_ins(world)) == call and not strays(run.tree)
        until(lambda: not any(map(alive, stand_ins(world))))  # what is killed takes a moment
        done = Wish().ask(world)
        assert done.tree == tree(fresh(Wish())) and len(done.children) == CALLS


def test_an_orphan_of_a_killed_run_harms_nobody(world: World, fresh: Fresh) -> None:
    world.video()
    env = stand_in(world, "[ $call -ne 3 ] || { kill -9 $PPID; sleep 0.5; }")
    assert ALL_NEW.ask(world, env=env, fork=True).code == -9
    assert any(map(alive, stand_ins(world)))
    assert ALL_NEW.ask(world).tree == tree(fresh(ALL_NEW))
    until(lambda: not any(map(alive, stand_ins(world))))
    assert tree(world.output) == tree(fresh(ALL_NEW))


FOUR = [clips.record(range(start, start + 60, 5), camera=camera, object_id=start)
        for start, camera in ((0, "Camera_11"), (4, "Camera_12"), (8, "Camera_11"), (12, "Camera_12"))]
NAMES = [record["seq_id"] for record in FOUR]


def with_four(world: World) -> World:
    world.records(*FOUR)
    world.video()
    world.video("png_turned", camera="Camera_12")
    return world


Four = Tuple[Path, float]


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Four:
    """The output of a run that nothing disturbed, and its seconds."""
    world = with_four(World(tmp_path_factory.mktemp("four")))
    begun = time.monotonic()
    assert world.run("--nframes", 3, fork=True).code == 0
    return world.output, time.monotonic() - begun


@pytest.mark.parametrize("number", range(KILLS))
def test_random_kills(world: World, four: Four, number: int) -> None:
    with_four(world)
    dice, want = random.Random(number), tree(four[0])
    for _ in range(1 + number % 3):
        killer = "import os, threading; threading.Timer({}, os.kill, (os.getpid(), 9)).start()"
        run = world.run("--nframes", 3, fork=True, prologue=killer.format(dice.uniform(0, 1.1 * four[1])))
        assert run.code in (0, -9)
        assert finished(run.tree).items() <= want.items()
        ready = tuple(name for name in NAMES if name + "/" + META in run.tree)
        assert not [name for name in want if ready and name.startswith(ready) and name not in run.tree]
    assert world.run("--nframes", 3).tree == want


# ---------------------------------------------------------------- several runs at once

WAITING = "Waiting for another run"
PARTS = {"the same": [NAMES] * 3, "parts": [[name] for name in NAMES]}


def ended(running: "subprocess.Popen[str]") -> Tuple[int, List[str]]:
    _, err = running.communicate(timeout=PATIENCE)
    return running.returncode, re.findall("(?m)^(?:ERROR|Traceback).*", err)


@pytest.mark.parametrize("parts", PARTS)
def test_runs_started_together(world: World, four: Four, parts: str) -> None:
    with_four(world)
    together = [world.start("--nframes", 3, "--sequences", *names) for names in PARTS[parts]]
    assert [ended(one) for one in together] == [(0, [])] * len(together)
    assert tree(world.output) == tree(four[0]) and world.manifest()["missing"] == []


def paused(running: "subprocess.Popen[str]") -> "subprocess.Popen[str]":
    assert os.WIFSTOPPED(os.waitpid(running.pid, os.WUNTRACED)[1])
    return running


# The first run pauses before it makes the sequence's folder, or where it has that or the manifest to itself.
@pytest.mark.parametrize("waits, name", [(False, ""), (True, ""), (True, "f01.png"), (True, META),
                                         (True, MANIFEST)])
def test_a_run_waits_for_one_that_is_at_work(world: World, four: Four, waits: bool, name: str) -> None:
    folder = with_four(world).output / ("" if name == MANIFEST else NAMES[0])
    told = world.folder / "told"
    (folder if waits else world.output).mkdir(parents=True)
    first = paused(world.start("--nframes", 3, "--sequences", *NAMES[:2],
                               prologue=at_change(folder, 1, signal.SIGSTOP, name)))
    with told.open("w") as file, world.start("--nframes", 3, stderr=file) as second:
        until(lambda: waits and WAITING in told.read_text() or second.poll() is not None)
        before = stamps(world.output)
        os.kill(first.pid, signal.SIGCONT)
        assert ended(first) == (0, [])
        assert second.wait(PATIENCE) == 0 and not re.search("(?m)^(ERROR|Traceback)", told.read_text())
    assert (WAITING in told.read_text()) == waits
    assert waits or rewritten(before, stamps(world.output)) == [MANIFEST]
    assert tree(world.output) == tree(four[0])


def test_a_run_that_fails_takes_nothing_from_one_that_waits(world: World, four: Four) -> None:
    """The first has no video, and removes the folder that it made for nothing; the second waits for it."""
    with_four(world)
    asked = ("--nframes", 3, "--sequences", NAMES[0])
    folder, told = world.output / NAMES[0], world.folder / "told"
    (world.folder / "empty").mkdir()
    first = paused(world.start(*asked, "--video-dir", world.folder / "empty",
                               prologue=at_change(folder, 3, signal.SIGSTOP)))
    with told.open("w") as file:
        # It pauses too, where it begins, so that the first one has come to its end by then.
        second = world.start(*asked, stderr=file, prologue=at_change(folder, 1, signal.SIGSTOP))
    until(lambda: WAITING in told.read_text() or second.poll() is not None)
    os.kill(first.pid, signal.SIGCONT)
    assert ended(first)[0] == 1
    os.kill(paused(second).pid, signal.SIGCONT)
    second.communicate(timeout=PATIENCE)
    assert (second.returncode, re.findall("ERROR.*", told.read_text())) == (0, [])
    assert tree(folder) == tree(four[0] / NAMES[0])

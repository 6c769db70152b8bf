"""Resuming: whatever lies in the output, a run ends with what an undisturbed run makes; files of the user stay; and
a run that fails, is ended at any moment (signal, kill, full disk), or meets another run spoils nothing.

For more random kills: KILLS=200 python -m pytest tests/test_resume.py -k random
"""
from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, NamedTuple, Sequence

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests import clips
from tests.world import (
    KILLED, TIMEOUT_S, Run, World, changed_files, clip, corrupt, fake_ffmpeg, make_older, obey_permissions,
    needs_posix, replace_copy, stamps, stop_before_change, temporary_files, tree, until)

KILLS = int(os.environ.get("KILLS", "6"))
META, GT, SHEET, GT_REQUESTS = "sequence_meta.json", "gt.json", "contact_sheet.jpg", "gt_requests.json"
FRAME_IDS = range(3, 3 + 16 * 7, 7)
BOX, OTHER_BOX = (200, 300, 450, 700), (100, 200, 550, 800)
SEQ_ID = clips.record(FRAME_IDS)["seq_id"]
HEAVY = ("cv2", "numpy", "huggingface_hub", "httpx", "requests", "tqdm", "imageio_ffmpeg")


class Options(NamedTuple):
    """What a run is asked for."""
    nframes: int = 2
    stride: int | None = None
    box: Sequence[int] = BOX
    gt_stub: bool = False
    contact_sheet: bool = False
    objects: Sequence[int] = (7,)  # each has a sequence

    @property
    def frame_ids(self) -> list[int]:
        return [FRAME_IDS[0] + index * (self.stride or FRAME_IDS.step) for index in range(self.nframes)]

    @property
    def seq_ids(self) -> list[str]:
        return [clips.record(FRAME_IDS, object_id=number)["seq_id"] for number in self.objects]

    def write_records(self, world: World) -> None:
        world.write_records(*[clips.record(FRAME_IDS, self.box, object_id=number) for number in self.objects])

    def prepare(self, world: World, *args: Any, **how: Any) -> Run:
        self.write_records(world)
        stride = ["--stride", self.stride] if self.stride else []
        flags = ["--gt-stub"] * self.gt_stub + ["--contact-sheet"] * self.contact_sheet
        return world.prepare(*stride, *flags, *args, nframes=self.nframes, **how)

    def stub(self) -> dict[str, Any]:
        """The gt.json of object 7."""
        return {"label": "Warehouse_016/Camera_11/3/obj7", "scene": "Warehouse_016", "camera": "Camera_11",
                "object_id": "7", "object_type": "Person", "frame_ids": list(range(self.nframes)),
                "source_frame_ids": self.frame_ids, "init_bbox": list(self.box),
                "gt_bboxes": {"0": list(self.box)}}


@pytest.fixture(autouse=True)
def video_of_all_sequences(world: World) -> Path:
    return world.put_video()


Outputs = Callable[[Options], Path]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """The output of a run that found nothing there; each is made once and must not be changed."""
    outputs: dict[Options, Path] = {}

    def output_for(options: Options) -> Path:
        if options not in outputs:
            world = World(tmp_path_factory.mktemp("undisturbed"))
            world.put_video()
            assert options.prepare(world).code == 0
            gt = world.output / SEQ_ID / GT
            assert json.loads(gt.read_text()) == options.stub() if options.gt_stub else not gt.exists()
            outputs[options] = world.output
        return outputs[options]
    return output_for


def visible(contents: dict[str, Any]) -> dict[str, Any]:
    """Return what is not hidden, without gt_requests.json: it depends on what the last run was asked for."""
    shown = [name for name in contents if name != GT_REQUESTS and not re.search(r"(^|/)\.", name)]
    return {name: contents[name] for name in shown}


# ---------------------------------------------------------------- any state, any options

GROUND_TRUTH = json.dumps({**Options().stub(), "gt_bboxes": {"0": [1, 2, 3, 4], "1": [2, 3, 4, 5]}})
ABSENT = object()
KEYS = ("seq_id", "label", "scene", "camera", "object_id", "object_type", "init_frame_id", "init_bbox",
        "frame_ids", "nframes", "stride", "clip_fps", "gt_available", "image_size", "source")
EDITS: dict[str, tuple[str, Any]] = {  # of the metadata: a key and its value
    "another series": ("frame_ids", [3, 11]), "another count": ("nframes", 5),
    "another size": ("image_size", [161, 100]), "another box": ("init_bbox", [200, 300, 450, 701]),
    "a key too many": ("gt_bboxes", {"3": [1, 2, 3, 4]}),
    "another video": ("source", {"repo_id": "nvidia/PhysicalAI-SmartSpaces", "path": "it", "revision": None}),
    **{f"no {key}": (key, ABSENT) for key in KEYS}, **{f"an empty {key}": (key, {}) for key in KEYS}}
DAMAGED_FILES = [META, "frames/f00.png", "frames/f01.png", "frames/f03.png", "frames/f00_ann.png",
                 "frames/crop.png"]
DAMAGES = ["missing", "cut", "empty", "nested", "zeros"]
HARMS = st.one_of(
    st.tuples(st.sampled_from(DAMAGED_FILES), st.sampled_from(DAMAGES)),
    st.tuples(st.just(META), st.sampled_from(sorted(EDITS))),
    st.sampled_from([(GT, "ground truth"), (GT, "missing"), (SHEET, "missing")]))
OPTIONS = st.builds(Options, st.sampled_from([2, 4]), st.sampled_from([None, 5]),
                    st.sampled_from([BOX, OTHER_BOX]), st.booleans(), st.booleans(), st.just((7,)))
STEPS = st.lists(st.tuples(st.lists(HARMS, max_size=3), OPTIONS), min_size=1, max_size=3)
ALL_OTHER = Options(4, stride=5, box=OTHER_BOX)
STUBS_AND_SHEETS = [Options(gt_stub=True), Options(contact_sheet=True), Options(), Options(box=OTHER_BOX),
                    Options(4), Options(), Options(gt_stub=True, box=OTHER_BOX), Options(stride=5)]


def edit(path: Path, key: str, value: Any) -> None:
    content = {**json.loads(path.read_text()), key: value}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not ABSENT}))


def harm(path: Path, how: str) -> None:
    if how == "ground truth":
        path.write_text(GROUND_TRUTH, encoding="utf-8")
    elif how in EDITS:
        with contextlib.suppress(OSError, ValueError, RecursionError):  # an earlier harm left nothing to edit
            edit(path, *EDITS[how])
    elif path.exists():
        corrupt(path, how)


def expected_output(options: Options, prepared: int, before: Path, undisturbed: Outputs) -> dict[str, str]:
    """Return what a run makes of the output `before`, where it finds or makes `prepared` frames."""
    everything = options._replace(gt_stub=True, contact_sheet=True)
    exact, wanted = tree(undisturbed(everything)), tree(undisturbed(everything._replace(nframes=prepared)))
    gt_name, sheet_name = f"{SEQ_ID}/{GT}", f"{SEQ_ID}/{SHEET}"
    wanted.update({name: exact[name] for name in (GT_REQUESTS, gt_name)})
    gt = before / gt_name
    if gt.exists() and gt.read_text() == GROUND_TRUTH:
        wanted[gt_name] = tree(before)[gt_name]
    elif not options.gt_stub and not gt.exists():
        del wanted[gt_name]
    if not options.contact_sheet and not (before / sheet_name).exists():
        del wanted[sheet_name]
    return wanted


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(OPTIONS, STEPS)
@example(Options(), [([], options) for options in STUBS_AND_SHEETS])
@example(Options(4), [([], Options(gt_stub=True))])
@example(Options(), [([(META, "another size")], Options())])
@example(Options(103, stride=1), [([], ALL_OTHER)])  # names of three digits
def test_any_state_any_options(
        undisturbed: Outputs, tmp_path_factory: pytest.TempPathFactory, first: Options,
        steps: Sequence[tuple[list[tuple[str, str]], Options]]) -> None:
    """A run gives what an undisturbed run gives, whatever was harmed before, and the same run again changes nothing.

    What is ready needs no video, no network, no ffmpeg and no library.
    """
    world = World(tmp_path_factory.mktemp("any"))
    world.put_video()
    before, no_videos = world.folder / "before", world.folder / "no_videos"
    no_videos.mkdir()
    replace_copy(undisturbed(first), world.output)
    most, is_harmed = first.nframes, False
    for harms, options in steps:
        for name, how in harms:
            harm(world.output / SEQ_ID / name, how)
            is_harmed = True
        is_ready = (not is_harmed and world.read_meta(SEQ_ID)["frame_ids"][:options.nframes] == options.frame_ids
                    and world.read_meta(SEQ_ID)["init_bbox"] == list(options.box))
        replace_copy(world.output, before)
        stamps_before = stamps(world.output)
        run = options.prepare(world, *["--video-dir", no_videos] * is_ready)
        assert (run.code, run.errors) == (0, [])
        changes = changed_files(stamps_before, stamps(world.output))
        assert not is_ready or not run.children and not re.search(r"/f\d+\.png", " ".join(changes))
        prepared, most = world.read_meta(SEQ_ID)["nframes"], max(most, options.nframes)
        assert options.nframes <= prepared <= most
        wanted = expected_output(options, prepared, before, undisturbed)
        assert set(changes) <= {GT_REQUESTS} or visible(tree(before)) != visible(wanted)
        # Later frames of a longer series may still be broken, and its contact sheet may show them or not.
        unseen = {f"{SEQ_ID}/frames/f{index:02d}.png" for index in range(options.nframes, prepared)}
        unseen |= {f"{SEQ_ID}/{SHEET}"} if unseen else set()
        assert set(changed_files(run.tree, wanted)) <= unseen
        stamps_before, source = stamps(world.output), world.source
        world.use_cache()
        again = options.prepare(world, env={"PATH": str(no_videos)}, without=HEAVY)
        world.source = source
        assert (again.code, again.children, again.tree) == (0, (), run.tree)
        assert changed_files(stamps_before, stamps(world.output)) == []


def test_a_pinned_commit_decides_and_a_mixture_is_told(world: World) -> None:
    world.use_cache()
    options, (old, new) = Options(objects=(7, 8, 9)), ("1" * 40, "2" * 40)
    for commit, kind in ((old, "mpeg4_bframes"), (new, "png_turned")):
        folder = world.cache / "datasets--nvidia--PhysicalAI-SmartSpaces" / "snapshots" / commit
        clips.put_clip(folder, clip(kind))
    first = options.prepare(world, "--revision", old)
    again = options.prepare(world)  # any commit serves when none is asked for
    assert (first.code, again.code, again.children, again.tree) == (0, 0, (), first.tree)
    some = options.prepare(world, "--revision", new, "--sequences", options.seq_ids[2])
    assert some.code == 0 and "--revision COMMIT" not in first.err + again.err + some.err
    revisions = [world.read_meta(seq_id)["source"]["revision"] for seq_id in options.seq_ids]
    pictures = {some.tree[f"{seq_id}/frames/f01.png"] for seq_id in options.seq_ids}
    assert revisions == [old, old, new] and len(pictures) == 2
    (line,) = re.findall(".*--revision COMMIT.*", options.prepare(world).err)
    assert re.search(rf"{old[:7]}\w* \(2\).*{new[:7]}\w* \(1\)", line)


# ---------------------------------------------------------------- files that are not the program's

USERS_GT: dict[str, bytes] = {
    "ground truth": GROUND_TRUTH.encode(),
    "another box": json.dumps({**Options().stub(), "gt_bboxes": {"0": [1, 2, 3, 4]}}).encode(),
    "a key more": json.dumps({**Options().stub(), "by": "me"}).encode(),
    "nothing": b"", "half": b'{"label": "Wa', "a list": b"[1]", "no text": b"\xff\xfe\0"}
FITTING = 3  # of them list the frames of Options()
SEVEN = Options(objects=tuple(range(len(USERS_GT))))
SECOND_RUNS = {
    "the same": SEVEN, "of another program": SEVEN,
    "with flags": SEVEN._replace(gt_stub=True, contact_sheet=True),
    "another stride": SEVEN._replace(stride=5), "more frames": SEVEN._replace(nframes=4, gt_stub=True)}
REPLACED = {"of another program": "by another program", "another stride": "with other frame ids",
            "more frames": "with other frame ids"}
USERS_FILES = ["notes.txt", ".mine", "masks/f00.png", "frames/f00_mine.png", "frames/frame1.png",
               "frames/f1.png", "frames/crop_large.png", "frames/f00.txt"]


@pytest.mark.parametrize("case", SECOND_RUNS)
def test_files_of_the_user_stay(world: World, undisturbed: Outputs, case: str) -> None:
    replace_copy(undisturbed(SEVEN), world.output)
    users = {f"{seq_id}/{GT}": data for seq_id, data in zip(SEVEN.seq_ids, USERS_GT.values())}
    users.update({name: b"mine" for name in ["notes.txt", ".mine", "my_results/scores.json"]})
    users.update({f"{seq_id}/{name}": b"mine" for seq_id in SEVEN.seq_ids for name in USERS_FILES})
    for name, data in users.items():
        (world.output / name).parent.mkdir(exist_ok=True)
        (world.output / name).write_bytes(data)
    if case == "of another program":
        for seq_id in SEVEN.seq_ids:
            edit(world.output / seq_id / META, "source", ABSENT)
    before, options = stamps(world.output), SECOND_RUNS[case]
    run = options.prepare(world)
    assert (run.code, run.errors) == (0, [])
    after = stamps(world.output)
    assert {name: before[name] for name in users} == {name: after[name] for name in users}
    if options == SEVEN:
        assert tree(undisturbed(SEVEN)).items() <= run.tree.items()
    unfit = SEVEN.seq_ids[FITTING:] if options.frame_ids == SEVEN.frame_ids else SEVEN.seq_ids
    warnings = [f"WARNING: {len(unfit)} sequences, first {unfit[0]}: gt.json"]
    if case in REPLACED:
        warnings.insert(0, f"WARNING: 7 sequences, first {SEVEN.seq_ids[0]}: prepared {REPLACED[case]}")
    assert re.findall("WARNING: .*?(?:gt.json|another program|other frame ids)", run.err) == warnings


OWN_FILES = [GT_REQUESTS, *(f"{SEQ_ID}/{name}" for name in (
    META, "frames/f00.png", "frames/f01.png", "frames/f00_ann.png", "frames/crop.png"))]


def make_room_for(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.unlink()
    return path


@needs_posix("named pipes, and no symbolic links for everybody")
@pytest.mark.parametrize("kind", ["link to a file", "link to nothing", "named pipe"])
@pytest.mark.parametrize("is_prepared", [True, False])
def test_links_and_pipes_in_place_of_files_are_replaced_and_not_followed(
        world: World, undisturbed: Outputs, kind: str, is_prepared: bool) -> None:
    target = world.folder / "precious.txt"
    if kind == "link to a file":
        target.write_text("not yours")
    if is_prepared:
        replace_copy(undisturbed(Options()), world.output)
    names = [name for name in OWN_FILES if not is_prepared or META not in name]  # with it, images are looked at
    for name in [*names, f"{SEQ_ID}/{GT}"]:
        path = make_room_for(world.output / name)
        os.mkfifo(str(path)) if kind == "named pipe" else path.symlink_to(target)
    before = tree(world.folder)
    run = Options(gt_stub=True).prepare(world, child=True)
    gt = run.tree.pop(f"{SEQ_ID}/{GT}")  # what is there is the user's
    assert run.code == 0 and run.tree == tree(undisturbed(Options())) and gt == before[f"out/{SEQ_ID}/{GT}"]
    assert tree(world.folder).get("precious.txt") == before.get("precious.txt")


@pytest.mark.parametrize("name", [*OWN_FILES, f"{SEQ_ID}/frames/f05.png", "", SEQ_ID, f"{SEQ_ID}/frames"])
def test_a_folder_for_a_file_or_a_file_for_a_folder_is_told(world: World, name: str) -> None:
    mine = world.output / name / "mine.txt" if "." in name else world.output / name
    make_room_for(mine).write_text("mine")
    run = Options().prepare(world)
    assert run.code in (1, 2) and Path(name).name in run.err and mine.read_text() == "mine"
    assert not temporary_files(run.tree)


SERIES: dict[str, tuple[Options | None, Options]] = {  # what was there, if anything, and what is asked for
    "from nothing": (None, Options(1, gt_stub=True)),
    "all replaced": (Options(3, gt_stub=True, contact_sheet=True), Options(stride=5, box=OTHER_BOX))}


@pytest.mark.parametrize("case", SERIES)
def test_killed_before_every_change_of_a_file(world: World, undisturbed: Outputs, case: str) -> None:
    """A kill leaves what lies there at its moment, so a copy of each moment stands for a kill."""
    first, options = SERIES[case]
    replace_copy(undisturbed(first), world.output) if first else (world.output / SEQ_ID).mkdir(parents=True)
    mine = world.output / SEQ_ID / "mine.txt"
    mine.write_text("mine", encoding="utf-8")
    old = visible(tree(world.output))
    kept = first or options  # a stub and a contact sheet that are there are renewed
    finished = tree(undisturbed(options._replace(gt_stub=kept.gt_stub, contact_sheet=kept.contact_sheet)))
    finished.update({f"{SEQ_ID}/mine.txt": old[f"{SEQ_ID}/mine.txt"], SEQ_ID: "folder"})
    new = visible(finished)
    copies = world.folder / "killed"
    copying = {"folder": str(world.output), "copies": str(copies)}
    run = options.prepare(world, changes={"copy_before_changes": copying})
    assert (run.code, run.tree) == (0, finished)
    phases, seen = "", []
    for state in sorted(copies.iterdir(), key=lambda path: int(path.name)):
        found = visible(tree(state))
        # A file with a final name is complete, and the metadata vouches for the old or the new sequence.
        assert not [name for name in found if found[name] not in (old.get(name), new.get(name))]
        any_gt = {f"{SEQ_ID}/{GT}": ""}  # derived from a sequence that is ready
        phase = "n" if {**found, **any_gt} == {**new, **any_gt} else "o" if first and found == old else "x"
        assert phase != "x" or f"{SEQ_ID}/{META}" not in found
        phases += phase
        # Nothing in a hidden folder is read: states that differ only in what lies there count as one.
        parts = [name.partition(".") for name in temporary_files(tree(state))]
        hidden = {(before_dot, "/" in after_dot) for before_dot, _, after_dot in parts}
        if (found, hidden) in seen:
            continue
        seen.append((found, hidden))
        for asked, wanted in ((first, old), (options, new)):
            if asked:
                replace_copy(state, world.output)
                make_older(world.output)
                before = visible(stamps(world.output))
                again = asked.prepare(world)
                assert again.code == 0 and visible(again.tree) == wanted, phases
                assert asked == first or again.tree == finished
                assert found != wanted or visible(stamps(world.output)) == before
    assert re.fullmatch("o+x+n+" if first else "x+n+", phases), phases


# ---------------------------------------------------------------- a second preparation that fails

FAILURES: dict[str, Any] = {  # the reason that is told, and the steps of ffmpeg
    "no video": ("no such video", []),
    "unreadable video": ("Permission denied", []),
    "ffmpeg fails": ("bad luck", [["say", "[error] bad luck\n"], ["exit", 1]]),
    "ffmpeg writes an empty image": ("ffmpeg", [["empty", "f01.png"]])}


@pytest.mark.parametrize("case", [
    pytest.param(case, marks=needs_posix("permission bits") if case == "unreadable video" else ())
    for case in FAILURES])
def test_a_failure_leaves_the_old_sequence_and_other_videos_are_prepared(
        world: World, undisturbed: Outputs, case: str) -> None:
    reason, steps = FAILURES[case]
    replace_copy(undisturbed(Options(3, gt_stub=True, contact_sheet=True)), world.output)
    before = stamps(world.output / SEQ_ID)
    world.put_video(camera="Camera_12")
    other = clips.record(FRAME_IDS, camera="Camera_12")
    if case == "no video":
        world.put_video().unlink()
    world.write_records(clips.record(FRAME_IDS, OTHER_BOX), other)
    fake, how = fake_ffmpeg(world.folder / "fake", *steps, when="Camera_11.mp4"), {}
    if case == "unreadable video":
        world.put_video().chmod(0)
        how["preexec_fn"] = obey_permissions
    run = world.prepare(nframes=2, env=fake.env, **how)
    assert run.code == 1 and len(run.errors) == 1 and "written" not in run.err, run
    assert re.search(f"{SEQ_ID}.*{reason}", run.errors[0])
    assert stamps(world.output / SEQ_ID) == before and not temporary_files(run.tree)
    assert world.read_gt_requests()["missing"] == [SEQ_ID] and world.read_meta(other["seq_id"])["nframes"] == 2


def assert_stopped_without_blame(world: World, run: Run, reason: str) -> None:
    """The next video would fare no better, and this one is not to blame."""
    assert (run.code, len(run.errors)) == (2, 1) and re.search(reason, run.errors[0]), run
    assert not re.search("damaged|download it again|cannot be decoded|no pictures", run.err), run
    assert "frames" not in " ".join(run.tree)
    assert world.prepare(nframes=2).code == 0


@pytest.fixture()
def world_of_two_videos(world: World) -> World:
    world.put_video(camera="Camera_12")
    world.write_records(*[clips.record(FRAME_IDS, camera=camera) for camera in ("Camera_11", "Camera_12")])
    return world


@needs_posix("signals")
@pytest.mark.parametrize("when", [".mp4", ".png"], ids=["at the packets", "at the images"])
def test_a_killed_ffmpeg_stops_the_run(world_of_two_videos: World, when: str) -> None:
    """As the system kills it when memory is out."""
    world = world_of_two_videos
    fake = fake_ffmpeg(world.folder / "fake", ["kill", "itself", 9], when=when)
    assert_stopped_without_blame(world, world.prepare(nframes=2, env=fake.env), "SIGKILL")


@needs_posix("limit on the size of files")
@pytest.mark.parametrize("steps, share", [([], 0.2), ([], 0.999), ([["ignore size limit"]], 0.6)],
                         ids=["small", "just too small", "ffmpeg says nothing"])
def test_a_limit_on_the_size_of_files_stops_the_run(
        world_of_two_videos: World, undisturbed: Outputs, steps: Any, share: float) -> None:
    world = world_of_two_videos
    limit = int(share * max(path.stat().st_size for path in undisturbed(Options()).rglob("f0?.png")))
    fake = fake_ffmpeg(world.folder / "fake", *steps, when=".png")
    env = fake.env if steps else {}  # else its own log would be too large
    run = world.prepare(nframes=2, env=env, changes={"limit_file_size": {"size": limit}})
    assert_stopped_without_blame(world, run, "[Ss]ize limit|SIGXFSZ|signal 25|too large")


def test_a_full_disk_stops_the_run(
        world: World, undisturbed: Outputs, mount_disk: Callable[[str], None]) -> None:
    old, new, world.output = undisturbed(Options()), undisturbed(ALL_OTHER), world.folder / "disk" / "out"
    needed = sum(-(-path.stat().st_size // 4096) * 4096 for path in new.rglob("*.png"))  # in blocks of 4 KiB
    for share in (0, 0.3, 0.7):
        mount_disk("size=64m")
        replace_copy(old, world.output)
        state = os.statvfs(str(world.output))
        used = (state.f_blocks - state.f_bfree) * state.f_frsize
        mount_disk(f"size={used + max(share * needed, 1):.0f}")
        run = ALL_OTHER.prepare(world)
        assert (run.code, len(run.errors), run.tree) == (2, 1, tree(old)), run
        assert re.search(f"{world.output}.*No space", run.errors[0])
    mount_disk("size=64m")
    assert ALL_OTHER.prepare(world).tree == tree(new)


@needs_posix("permission bits")
def test_a_finished_output_may_be_read_only(world: World, undisturbed: Outputs) -> None:
    """As a shared dataset. A run that has to write there stops before anything is fetched."""
    world.use_cache()  # no hub answers, and the program would say so
    replace_copy(undisturbed(Options()), world.output)
    everything, before = [world.output, *world.output.rglob("*")], stamps(world.output)
    for path in everything:
        path.chmod(0o555)
    try:
        for options in ([], ["--check"]):
            assert Options().prepare(world, *options, preexec_fn=obey_permissions).code == 0
        for options in (Options(1), ALL_OTHER):  # the first would change gt_requests.json
            run = options.prepare(world, preexec_fn=obey_permissions)
            assert run.code == 2 and re.search(f"{world.output}.*Permission denied", run.errors[0]), run
            assert not re.search("connect|retry", run.err)
    finally:
        for path in everything:
            path.chmod(0o755)
    assert stamps(world.output) == before


# ---------------------------------------------------------------- ended while ffmpeg works, or at any moment


def is_running(call: dict[str, Any]) -> bool:
    with contextlib.suppress(OSError):
        return ") Z" not in Path(f"/proc/{call['pid']}/stat").read_text()
    return False


@needs_posix("signals")
@pytest.mark.parametrize("target", ["parent", "group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_ffmpeg_works(world: World, undisturbed: Outputs, number: int, target: str) -> None:
    """To the program alone, or to all processes of its terminal."""
    for when in ("-codecs", ".png"):  # when it is tried, and when it decodes
        steps = [["sleep", 0.2], ["kill", target, number], ["sleep", 600]]
        fake = fake_ffmpeg(world.folder / f"fake{when}", *steps, when=when)
        run = Options().prepare(
            world, env=fake.env, changes={"restore_interrupt": {}}, start_new_session=True)
        assert run.code == 128 + number and len(run.errors) == 1 and not temporary_files(run.tree), run
        assert run.err.endswith("Run the same command again to continue.\n") and "0 of 1 seq" in run.errors[0]
        assert when in " ".join(fake.calls()[-1]["arguments"])
        until(lambda fake=fake: not any(map(is_running, fake.calls())))
    assert Options().prepare(world).tree == tree(undisturbed(Options()))


@needs_posix("signals")
def test_an_ffmpeg_that_outlives_a_killed_run_does_no_harm(world: World, undisturbed: Outputs) -> None:
    fake = fake_ffmpeg(world.folder / "fake", ["kill", "parent", 9], ["sleep", 0.5], when=".png")
    assert ALL_OTHER.prepare(world, env=fake.env, child=True).code == KILLED
    assert ALL_OTHER.prepare(world).code == 0
    until(lambda: not any(map(is_running, fake.calls())))
    make_older(world.output)
    assert ALL_OTHER.prepare(world).tree == tree(undisturbed(ALL_OTHER))


def test_leftovers_of_killed_runs_are_removed_after_a_day(world: World, undisturbed: Outputs) -> None:
    """A younger one may be in use, perhaps on another node of a cluster."""
    killed = Options().prepare(world, changes=stop_before_change(world.output, 1, name=META))
    leftovers = temporary_files(killed.tree)
    assert killed.code == KILLED and leftovers
    for days, left in ((0.99, leftovers), (1.01, [])):
        make_older(world.output, days)
        run = Options().prepare(world)
        assert (run.code, temporary_files(run.tree)) == (0, left)
    assert run.tree == tree(undisturbed(Options()))


THREE_OBJECTS = Options(3, objects=(7, 8, 9))


@pytest.fixture(scope="module")
def seconds_of_a_run(undisturbed: Outputs, tmp_path_factory: pytest.TempPathFactory) -> float:
    world, start = World(tmp_path_factory.mktemp("timed")), time.monotonic()
    world.put_video()
    run = THREE_OBJECTS.prepare(world, child=True)
    assert run.code == 0 and run.tree == tree(undisturbed(THREE_OBJECTS))
    return time.monotonic() - start


@pytest.mark.parametrize("seed", range(KILLS))
def test_random_kills(world: World, undisturbed: Outputs, seconds_of_a_run: float, seed: int) -> None:
    THREE_OBJECTS.write_records(world)
    dice, wanted = random.Random(seed), tree(undisturbed(THREE_OBJECTS))
    for _ in range(1 + seed % 3):
        process = world.start(nframes=3)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(dice.uniform(0, 1.1 * seconds_of_a_run))
        if process.poll() is None:
            os.kill(process.pid, 9)
        run = world.finish(process)
        assert run.code in (0, KILLED) and visible(run.tree).items() <= wanted.items()
        ready = tuple(seq_id for seq_id in THREE_OBJECTS.seq_ids if f"{seq_id}/{META}" in run.tree)
        assert not [name for name in wanted if ready and name.startswith(ready) and name not in run.tree]
    make_older(world.output)
    assert THREE_OBJECTS.prepare(world).tree == wanted


# ---------------------------------------------------------------- several runs at once

PARTS = {"all the same": [THREE_OBJECTS.seq_ids] * 3, "each its part": [[seq_id] for seq_id in THREE_OBJECTS.seq_ids]}


def assert_all_prepared(world: World, undisturbed: Outputs, runs: Sequence[Run]) -> None:
    assert [(run.code, run.errors) for run in runs] == [(0, [])] * len(runs), runs
    assert tree(world.output) == tree(undisturbed(THREE_OBJECTS)) and world.read_gt_requests()["missing"] == []


@pytest.mark.parametrize("parts", PARTS)
def test_runs_started_together(world: World, undisturbed: Outputs, parts: str) -> None:
    THREE_OBJECTS.write_records(world)
    (world.folder / "elsewhere").mkdir()
    if os.name != "nt":
        world.output.symlink_to(world.folder / "elsewhere")  # the output folder itself may be a link
    processes = [world.start("--sequences", *seq_ids, nframes=3) for seq_ids in PARTS[parts]]
    assert_all_prepared(world, undisturbed, world.finish_all(*processes))


def run_two(world: World, first_args: Sequence[Any], second_args: Sequence[Any], number: int = 1, name: str = "",
            wait_s: float = TIMEOUT_S, **changes: Any) -> list[Run]:
    """Let one run pause before a change of a file, see `stop_before_change`, until another one has ended.

    Go on after wait_s if the other one waits, too: for the first.
    """
    if os.name == "nt":
        pytest.skip("Windows cannot pause a process")
    world.output.mkdir()
    pause = stop_before_change(world.output, number, signal.SIGSTOP, name)
    first = world.start(*first_args, nframes=3, changes={**changes, **pause})
    assert os.WIFSTOPPED(os.waitpid(first.pid, os.WUNTRACED)[1])
    second = world.start(*second_args, nframes=3, changes=changes)
    with contextlib.suppress(subprocess.TimeoutExpired):
        second.wait(wait_s)
    os.kill(first.pid, signal.SIGCONT)
    return world.finish_all(first, second)


@pytest.mark.parametrize("name", ["", "f00.png", META, GT_REQUESTS], ids=["at the start", "f00.png", META, GT_REQUESTS])
@pytest.mark.parametrize("parts", PARTS)
def test_a_run_that_pauses_is_not_disturbed(
        world: World, undisturbed: Outputs, parts: str, name: str) -> None:
    """By another one that comes and goes, where there are no locks."""
    THREE_OBJECTS.write_records(world)
    mine, *others = PARTS[parts]
    runs = run_two(world, ["--sequences", *mine], ["--sequences", *sum(others, [])], name=name, disable_locks={})
    assert_all_prepared(world, undisturbed, runs)


def test_a_longer_series_that_another_run_has_prepared_meanwhile_stays(world: World, undisturbed: Outputs) -> None:
    Options().write_records(world)
    runs = run_two(world, ["--nframes", 2], [])
    assert [run.code for run in runs] == [0, 0]
    assert visible(tree(world.output)) == visible(tree(undisturbed(Options(3))))


def test_runs_with_different_options_leave_no_mixture(world: World, undisturbed: Outputs) -> None:
    """One stands before the last file of a sequence while the other begins."""
    several = [Options(3), Options(3, stride=5)]
    several[0].write_records(world)
    run_two(world, [], ["--stride", 5], name=META, wait_s=1)
    assert visible(tree(world.output)) in [visible(tree(undisturbed(options))) for options in several]


def test_a_sequence_that_another_run_has_replaced_meanwhile_is_not_ready(world: World) -> None:
    THREE_OBJECTS.write_records(world)
    other = ["--stride", 5, "--sequences", THREE_OBJECTS.seq_ids[0]]
    run, second = run_two(world, [], other, number=3, name=META)
    assert (second.code, run.code) == (0, 1), run
    assert re.match("2 sequences ready .* 0 failed, 1 changed by another run; ", run.out)
    assert world.read_gt_requests()["missing"] == THREE_OBJECTS.seq_ids[:1]

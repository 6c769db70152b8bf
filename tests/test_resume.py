"""A second run does what is missing and nothing else, whatever the first one left."""
from __future__ import annotations

import json
import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, NoReturn, Sequence, Union

import pytest

import prepare_sot_dataset as program
from tests import clips
from tests.programs import ROOT, at_rename, rewritten, run_program, stamps, strays, tree

FOOTAGE = ROOT.parent / "shared" / "footage"
STRIDE = 7  # of the canonical frame ids
NFRAMES = 4
META, MANIFEST = "sequence_meta.json", "gt_requests.json"
COMMITS = ["1" * 40, "2" * 40]


class Job(NamedTuple):
    benchmark: Path
    videos: Path

    def args(self, output: Path, *more: Union[str, int, Path], nframes: int = NFRAMES) -> List[str]:
        return ["--benchmark", str(self.benchmark), "--video-dir", str(self.videos), "--output-dir", str(output),
                "--nframes", str(nframes), *map(str, more)]

    def run(self, output: Path, *more: Union[str, int, Path], nframes: int = NFRAMES) -> int:
        return program.main(self.args(output, *more, nframes=nframes))

    def tree_of_one_run(self, folder: Path, *more: Union[str, int, Path], nframes: int = NFRAMES) -> Dict[str, str]:
        assert self.run(folder, *more, nframes=nframes) == 0
        return tree(folder)


FIRST, SECOND, THIRD = (clips.record(range(start, start + 16 * STRIDE, STRIDE), camera=camera, object_id=number)
                        for number, start, camera in [(0, 3, "Camera_11"), (1, 0, "Camera_12"), (2, 13, "Camera_11")])
NAMES = [entry["seq_id"] for entry in (FIRST, SECOND, THIRD)]
NAME = NAMES[0]


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for camera, kind in (("Camera_11", "h264_bframes"), ("Camera_12", "h264_all_intra")):
        clips.make_clip(kind, folder / (kind + ".mp4"))
        clips.lay_out(folder, folder / (kind + ".mp4"), camera=camera)
    return folder


@pytest.fixture(scope="module")
def job(videos: Path) -> Job:
    return Job(clips.write_benchmark(videos / "three.jsonl", [FIRST, SECOND, THIRD]), videos)


@pytest.fixture(scope="module")
def small(videos: Path) -> Job:
    return Job(clips.write_benchmark(videos / "one.jsonl", [FIRST]), videos)


@pytest.fixture(scope="module")
def masters(tmp_path_factory: pytest.TempPathFactory, job: Job, small: Job) -> Callable[..., Path]:
    """Finished outputs, each made once; tests copy them."""
    folder = tmp_path_factory.mktemp("masters")

    def master(which: Job, *more: Union[str, int], nframes: int = NFRAMES) -> Path:
        name = "-".join(map(str, ("all" if which == job else "one", nframes, *more)))
        if not (folder / name).exists():
            which.tree_of_one_run(folder / name, *more, nframes=nframes)
        return folder / name
    return master


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def copy(master: Path, output: Path) -> Path:
    shutil.copytree(str(master), str(output))
    return output


class ChildStarted(AssertionError):
    pass


@contextmanager
def no_children() -> Iterator[None]:
    def refuse(*args: Any, **_: Any) -> NoReturn:
        raise ChildStarted(args)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse)
        yield


def images(names: Sequence[str]) -> List[str]:
    return [name.rsplit("/", 1)[-1] for name in names if name.endswith(".png")]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


# ---------------------------------------------------------------- nothing to do


def test_the_ban_on_children_bites(small: Job, output: Path) -> None:
    with pytest.raises(ChildStarted), no_children():
        small.run(output)


def test_second_run_writes_the_manifest_and_nothing_else(
        job: Job, masters: Callable[..., Path], output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy(masters(job), output)
    before = stamps(output)
    with no_children():
        assert job.run(output) == 0
    assert set(rewritten(before, stamps(output))) <= {MANIFEST}
    assert tree(output) == tree(masters(job))
    assert "3 ready (3 already were), 0 failed" in capsys.readouterr().out


HEAVY = ("cv2", "numpy", "PIL", "huggingface_hub", "httpx", "requests", "tqdm")
TELL_MODULES = """
import atexit
atexit.register(lambda: print("imported:", sorted(set(sys.modules) & set({!r}))))
""".format(HEAVY)
BAN_CHILDREN = "import subprocess; subprocess.Popen = None"


def test_second_run_needs_no_ffmpeg_no_video_and_none_of_the_packages(
        job: Job, masters: Callable[..., Path], output: Path, tmp_path: Path) -> None:
    copy(masters(job), output)
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    done = run_program(Job(job.benchmark, nowhere).args(output), env={"PATH": str(nowhere)},
                       prologue=TELL_MODULES + "\n" + BAN_CHILDREN)
    assert (done.returncode, done.stderr) == (0, "")
    assert "imported: []" in done.stdout
    assert tree(output) == tree(masters(job))


def test_a_run_with_work_imports_what_it_draws_with(small: Job, output: Path) -> None:
    done = run_program(small.args(output), prologue=TELL_MODULES)
    assert done.returncode == 0
    assert "cv2" in done.stdout or "PIL" in done.stdout


def test_second_run_without_video_dir_needs_no_network(job: Job, masters: Callable[..., Path], output: Path) -> None:
    copy(masters(job), output)
    args = ["--benchmark", str(job.benchmark), "--output-dir", str(output), "--nframes", str(NFRAMES)]
    done = run_program(args, env={"HF_ENDPOINT": "http://127.0.0.1:1"}, prologue=TELL_MODULES + "\n" + BAN_CHILDREN)
    assert (done.returncode, done.stderr) == (0, "")
    assert "imported: []" in done.stdout


# ---------------------------------------------------------------- something is missing or broken


@pytest.mark.parametrize("deleted, truncated", [("f01.png", "f03.png"), ("f03.png", "f01.png")])
def test_one_image_deleted_and_one_truncated(
        job: Job, masters: Callable[..., Path], output: Path, deleted: str, truncated: str) -> None:
    copy(masters(job), output)
    before = stamps(output)
    (output / NAME / "frames" / deleted).unlink()
    damage(output / NAME / "frames" / truncated)
    assert job.run(output) == 0
    assert tree(output) == tree(masters(job))
    made_again = rewritten(before, stamps(output))
    assert sorted(images(made_again)) == ["f01.png", "f03.png"]
    assert not [name for name in made_again if name.startswith((NAMES[1], NAMES[2]))]


@pytest.mark.parametrize("name, harm", [
    ("f00.png", Path.unlink), ("f00.png", damage), ("f02.png", lambda path: path.write_bytes(b"")),
    ("f02.png", lambda path: path.write_bytes(b"not a picture" * 100)),
    ("f02.png", lambda path: path.write_bytes(b"\0" * path.stat().st_size))])
def test_any_damage_to_a_frame_is_repaired(
        small: Job, masters: Callable[..., Path], output: Path, name: str, harm: Callable[[Path], Any]) -> None:
    copy(masters(small), output)
    harm(output / NAME / "frames" / name)
    assert small.run(output) == 0
    assert tree(output) == tree(masters(small))


@pytest.mark.parametrize("names", [["crop.png"], ["f00_ann.png"], ["crop.png", "f00_ann.png"]])
@pytest.mark.parametrize("harm", [Path.unlink, damage])
def test_overlay_and_crop_are_made_again_without_the_video(
        small: Job, masters: Callable[..., Path], output: Path, tmp_path: Path, names: List[str],
        harm: Callable[[Path], Any]) -> None:
    copy(masters(small), output)
    before = stamps(output)
    for name in names:
        harm(output / NAME / "frames" / name)
    with no_children():
        assert Job(small.benchmark, tmp_path).run(output) == 0
    assert tree(output) == tree(masters(small))
    assert set(images(rewritten(before, stamps(output)))) <= {"crop.png", "f00_ann.png"}


def test_a_picture_of_another_size_is_made_again(small: Job, masters: Callable[..., Path], output: Path) -> None:
    copy(masters(small), output)
    frames = output / NAME / "frames"
    shutil.copyfile(str(frames / "crop.png"), str(frames / "f02.png"))
    assert small.run(output) == 0
    assert tree(output) == tree(masters(small))


def test_a_sequence_without_its_frames_folder(small: Job, masters: Callable[..., Path], output: Path) -> None:
    copy(masters(small), output)
    shutil.rmtree(str(output / NAME / "frames"))
    assert small.run(output) == 0
    assert tree(output) == tree(masters(small))


# ---------------------------------------------------------------- something else is wanted


def test_another_box_keeps_the_frames(
        small: Job, masters: Callable[..., Path], output: Path, tmp_path: Path) -> None:
    copy(masters(small), output)
    before = stamps(output)
    moved = Job(clips.write_benchmark(tmp_path / "one.jsonl", [{**FIRST, "init_bbox": [100, 200, 550, 800]}]), tmp_path)
    with no_children():
        assert moved.run(output) == 0
    changed = rewritten(before, stamps(output))
    assert sorted(images(changed)) == ["crop.png", "f00_ann.png"]
    assert read(output / NAME / META)["init_bbox"] == [100, 200, 550, 800]
    contents, old = tree(output), tree(masters(small))
    assert all(contents[name] != old[name] for name in changed if name != MANIFEST)
    with no_children():
        assert small.run(output) == 0
    assert tree(output) == old


def test_another_box_gives_what_a_fresh_run_gives(
        small: Job, masters: Callable[..., Path], output: Path, tmp_path: Path) -> None:
    copy(masters(small), output)
    entry = {**FIRST, "init_bbox": [100, 200, 550, 800]}
    moved = Job(clips.write_benchmark(tmp_path / "one.jsonl", [entry]), small.videos)
    assert moved.run(output) == 0
    assert tree(output) == moved.tree_of_one_run(tmp_path / "fresh")


def test_more_frames_reuse_the_first_ones(job: Job, masters: Callable[..., Path], output: Path) -> None:
    copy(masters(job, nframes=8), output)
    before = stamps(output)
    assert job.run(output, nframes=16) == 0
    assert tree(output) == tree(masters(job, nframes=16))
    made = rewritten(before, stamps(output))
    assert sorted(set(images(made))) == ["f%02d.png" % index for index in range(8, 16)]


def test_fewer_frames_are_ready_at_once_and_none_is_lost(
        job: Job, masters: Callable[..., Path], output: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    copy(masters(job, nframes=16), output)
    before = stamps(output)
    with no_children():
        assert job.run(output, nframes=8) == 0
    assert rewritten(before, stamps(output)) == [MANIFEST]
    assert "3 ready (3 already were)" in capsys.readouterr().out
    assert {len(entry["frame_ids"]) for entry in read(output / MANIFEST)["requests"]} == {8}
    with no_children():
        assert job.run(output, nframes=16) == 0
    assert tree(output) == tree(masters(job, nframes=16))


def test_fewer_frames_do_not_need_the_later_ones(
        small: Job, masters: Callable[..., Path], output: Path) -> None:
    copy(masters(small, nframes=16), output)
    (output / NAME / "frames" / "f12.png").unlink()
    with no_children():
        assert small.run(output, nframes=8) == 0


def test_another_stride_redoes_all_but_the_first_frame(small: Job, masters: Callable[..., Path], output: Path) -> None:
    copy(masters(small), output)
    before = stamps(output)
    assert small.run(output, "--stride", 5) == 0
    assert tree(output) == tree(masters(small, "--stride", 5))
    assert sorted(images(rewritten(before, stamps(output)))) == ["f01.png", "f02.png", "f03.png"]


def test_another_stride_with_fewer_frames_removes_the_old_ones(
        small: Job, masters: Callable[..., Path], output: Path) -> None:
    copy(masters(small, nframes=16), output)
    assert small.run(output, "--stride", 5, nframes=8) == 0
    assert tree(output) == tree(masters(small, "--stride", 5, nframes=8))


def test_a_stride_that_shares_some_frame_ids_puts_none_in_a_wrong_place(
        small: Job, masters: Callable[..., Path], output: Path) -> None:
    copy(masters(small, nframes=8), output)
    assert small.run(output, "--stride", 2 * STRIDE, nframes=4) == 0
    assert tree(output) == tree(masters(small, "--stride", 2 * STRIDE, nframes=4))


def test_one_frame(small: Job, output: Path) -> None:
    assert small.run(output, nframes=1) == 0
    assert sorted(path.name for path in (output / NAME / "frames").iterdir()) == ["crop.png", "f00.png", "f00_ann.png"]
    meta = read(output / NAME / META)
    assert (meta["frame_ids"], meta["nframes"], meta["stride"]) == ([3], 1, None)


def test_more_than_a_hundred_frames(small: Job, output: Path) -> None:
    assert small.run(output, "--stride", 1, nframes=103) == 0
    frames = output / NAME / "frames"
    expected = ["f%02d.png" % index for index in range(100)] + ["f100.png", "f101.png", "f102.png"]
    assert sorted(path.name for path in frames.iterdir()) == sorted([*expected, "f00_ann.png", "crop.png"])
    assert [clips.read_index(pixels, width, height) for name in ("f99.png", "f100.png", "f102.png")
            for width, height, pixels in [clips.read_png(frames / name)]] == [102, 103, 105]
    before = stamps(output)
    assert small.run(output, "--stride", 1, nframes=103) == 0
    assert set(rewritten(before, stamps(output))) <= {MANIFEST}
    assert small.run(output, "--stride", 2, nframes=5) == 0
    assert sorted(path.name for path in frames.glob("f[0-9]*.png") if "ann" not in path.name) == expected[:5]


# ---------------------------------------------------------------- what is not to be trusted


def test_frames_of_unknown_origin(small: Job, masters: Callable[..., Path], output: Path) -> None:
    copy(masters(small), output)
    frames = output / NAME / "frames"
    (output / NAME / META).unlink()
    shutil.copyfile(str(frames / "f03.png"), str(frames / "f01.png"))
    assert small.run(output) == 0
    assert tree(output) == tree(masters(small))


needs_sigkill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")


@needs_sigkill
def test_a_killed_run_of_another_stride(small: Job, masters: Callable[..., Path], output: Path) -> None:
    done = run_program(small.args(output, "--stride", 5), prologue=at_rename("f03.png", "before", signal.SIGKILL))
    assert done.returncode == -signal.SIGKILL
    assert (output / NAME / "frames" / "f02.png").exists()
    assert small.run(output) == 0
    assert tree(output) == tree(masters(small))


@needs_sigkill
def test_a_killed_run_of_the_same_stride_is_continued(small: Job, masters: Callable[..., Path], output: Path) -> None:
    done = run_program(small.args(output), prologue=at_rename("f03.png", "before", signal.SIGKILL))
    assert done.returncode == -signal.SIGKILL
    before = stamps(output)
    assert small.run(output) == 0
    assert tree(output) == tree(masters(small))
    assert not {"f00.png", "f01.png", "f02.png"} & set(images(rewritten(before, stamps(output))))


@pytest.mark.parametrize("text", ["", "{", "[]", "\0" * 500, "[" * 100000])
def test_metadata_that_is_no_metadata(small: Job, masters: Callable[..., Path], output: Path, text: str) -> None:
    copy(masters(small), output)
    (output / NAME / META).write_text(text, encoding="utf-8")
    assert small.run(output) == 0
    assert tree(output) == tree(masters(small))


ABSENT = object()
EDITS: Dict[str, Any] = {
    "seq_id": "another", "label": "another", "scene": "Warehouse_015", "camera": "Camera_12", "object_id": "8",
    "object_type": "Robot", "init_frame_id": 4, "init_bbox": [200, 300, 450, 701], "frame_ids": [3, 10, 17, 25],
    "nframes": 5, "stride": 8, "clip_fps": 25, "gt_available": True, "image_size": [161, 100],
    "source": {"repo_id": "someone/else", "path": "MTMC_Tracking_2025/val/Warehouse_016/videos/Camera_11.mp4",
               "revision": None},
}


def test_the_edits_cover_all_metadata(small: Job, masters: Callable[..., Path]) -> None:
    meta = read(masters(small) / NAME / META)
    assert list(EDITS) == list(meta)
    assert not [key for key in EDITS if EDITS[key] == meta[key]]


def rerun_with_metadata(small: Job, master: Path, output: Path, changes: Dict[str, Any]) -> None:
    copy(master, output)
    meta = {**read(output / NAME / META), **changes}
    text = json.dumps({key: value for key, value in meta.items() if value is not ABSENT})
    (output / NAME / META).write_text(text, encoding="utf-8")
    assert small.run(output, nframes=len(read(master / NAME / META)["frame_ids"])) == 0
    assert tree(output) == tree(master)


@pytest.mark.parametrize("key", EDITS)
def test_metadata_edited_by_hand(small: Job, masters: Callable[..., Path], output: Path, key: str) -> None:
    rerun_with_metadata(small, masters(small), output, {key: EDITS[key]})


@pytest.mark.parametrize("key", EDITS)
def test_metadata_with_a_key_taken_out(small: Job, masters: Callable[..., Path], output: Path, key: str) -> None:
    rerun_with_metadata(small, masters(small), output, {key: ABSENT})


@pytest.mark.parametrize("key", ["stride", "gt_available", "image_size", "source", "frame_ids"])
@pytest.mark.parametrize("value", [None, {}])
def test_metadata_of_a_wrong_type(
        small: Job, masters: Callable[..., Path], output: Path, key: str, value: Any) -> None:
    rerun_with_metadata(small, masters(small), output, {key: value})


def test_a_key_that_is_null_by_right_cannot_be_taken_out(
        small: Job, masters: Callable[..., Path], output: Path) -> None:
    assert read(masters(small, nframes=1) / NAME / META)["stride"] is None
    rerun_with_metadata(small, masters(small, nframes=1), output, {"stride": ABSENT})


def test_metadata_with_a_key_too_many(small: Job, masters: Callable[..., Path], output: Path) -> None:
    rerun_with_metadata(small, masters(small), output, {"gt_bboxes": {"3": [1, 2, 3, 4]}})


# ---------------------------------------------------------------- what lies about


def test_files_of_the_user_survive(small: Job, masters: Callable[..., Path], output: Path) -> None:
    copy(masters(small), output)
    mine = [output / "notes.txt", output / NAME / "notes.txt", output / NAME / "frames" / "f00_mine.png",
            output / NAME / "frames" / "frame1.png", output / "my_results" / "scores.json", output / ".mine"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine", encoding="utf-8")
    before = stamps(output)
    assert small.run(output) == 0
    assert small.run(output, "--stride", 5) == 0
    assert not set(rewritten(before, stamps(output))) & {path.relative_to(output).as_posix() for path in mine}


def left_by_a_killed_run(job: Job, output: Path, name: str) -> List[Path]:
    done = run_program(job.args(output), prologue=at_rename(name, "before", signal.SIGKILL))
    assert done.returncode == -signal.SIGKILL
    left = [output / stray for stray in strays(output)]
    assert left, "the killed run left nothing behind"
    return left


@needs_sigkill
@pytest.mark.parametrize("name", ["f01.png", "f00_ann.png", META, MANIFEST])
def test_a_finished_run_leaves_nothing_of_a_killed_one(
        small: Job, masters: Callable[..., Path], output: Path, name: str) -> None:
    left_by_a_killed_run(small, output, name)
    assert small.run(output) == 0
    assert strays(output) == []
    assert tree(output) == tree(masters(small))


@needs_sigkill
@pytest.mark.parametrize("name", ["f01.png", META, MANIFEST])
def test_leftovers_vanish_also_when_all_is_ready(
        small: Job, masters: Callable[..., Path], output: Path, tmp_path: Path, name: str) -> None:
    left = left_by_a_killed_run(small, tmp_path / "killed", name)
    copy(masters(small), output)
    for path in left:
        shutil.copyfile(str(path), str(output / path.relative_to(tmp_path / "killed")))
    with no_children():
        assert small.run(output) == 0
    assert strays(output) == []
    assert tree(output) == tree(masters(small))


# ---------------------------------------------------------------- revisions


@pytest.fixture
def cached(job: Job, tmp_path: Path) -> Path:
    """The hub's cache with one video in two commits; what is in it is read without the network."""
    inside = Path("MTMC_Tracking_2025", "val", "Warehouse_016", "videos", "Camera_11.mp4")
    for commit, kind in zip(COMMITS, ("h264_bframes", "h264_all_intra")):
        file = tmp_path / "cache" / "datasets--nvidia--PhysicalAI-SmartSpaces" / "snapshots" / commit / inside
        file.parent.mkdir(parents=True)
        shutil.copyfile(str(job.videos / (kind + ".mp4")), str(file))
    return tmp_path / "cache"


def test_a_pinned_revision_is_compared_with_the_stored_one(
        small: Job, cached: Path, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")

    def run(folder: Path, *more: str) -> int:
        return program.main(["--benchmark", str(small.benchmark), "--output-dir", str(folder), "--nframes", "3",
                             "--hf-cache-dir", str(cached), *more])

    for commit in COMMITS:
        assert run(tmp_path / commit, "--revision", commit) == 0
        assert read(tmp_path / commit / NAME / META)["source"]["revision"] == commit
    first, second = (tree(tmp_path / commit) for commit in COMMITS)
    assert first[NAME + "/frames/f01.png"] != second[NAME + "/frames/f01.png"]

    copy(tmp_path / COMMITS[0], output)
    with no_children():
        assert run(output, "--revision", COMMITS[0]) == 0
        assert run(output) == 0
        assert tree(output) == first
    assert run(output, "--revision", COMMITS[1]) == 0
    assert tree(output) == second
    (output / NAME / "frames" / "f02.png").unlink()
    assert run(output, "--revision", COMMITS[0]) == 0
    assert tree(output) == first


# ---------------------------------------------------------------- some of the sequences


def test_manifest_covers_what_earlier_runs_prepared(job: Job, masters: Callable[..., Path], output: Path) -> None:
    def listed() -> List[List[str]]:
        manifest = read(output / MANIFEST)
        return [[entry["seq_id"] for entry in manifest["requests"]], manifest["missing"]]

    assert job.run(output, "--sequences", NAMES[2]) == 0
    assert listed() == [[NAMES[2]], NAMES[:2]]
    assert job.run(output, "--sequences", NAMES[0]) == 0
    assert listed() == [[NAMES[0], NAMES[2]], [NAMES[1]]]
    (output / NAMES[2] / META).unlink()
    assert job.run(output, "--sequences", NAMES[0]) == 0
    assert listed() == [[NAMES[0]], NAMES[1:]]
    assert job.run(output, "--sequences", NAMES[1], NAMES[2]) == 0
    assert tree(output) == tree(masters(job))


def test_one_failure_does_not_stop_the_others(
        videos: Path, masters: Callable[..., Path], job: Job, output: Path, tmp_path: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    without_video = clips.record([5, 6, 7, 8], camera="Camera_99")
    past_the_end = clips.record([100, 110, 119, 120], camera="Camera_12", object_id=12)
    records = [FIRST, without_video, SECOND, past_the_end, THIRD]
    mixed = Job(clips.write_benchmark(tmp_path / "three.jsonl", records), videos)
    assert mixed.run(output) == 1
    said = capsys.readouterr()
    assert "3 ready (0 already were), 2 failed" in said.out
    errors = [line for line in said.err.splitlines() if line.startswith("ERROR:")]
    assert [without_video["seq_id"] in line and "no such video" in line for line in errors].count(True) == 1
    assert [past_the_end["seq_id"] in line and "120 frames" in line for line in errors].count(True) == 1
    assert not [line for line in errors if any(name in line for name in NAMES)]
    assert said.err.splitlines()[-2:] == errors
    contents, fine = tree(output), tree(masters(job))
    assert {name: contents[name] for name in fine if name != MANIFEST} == {
        name: sum_ for name, sum_ in fine.items() if name != MANIFEST}
    assert not [name for name in contents if name.startswith((without_video["seq_id"], past_the_end["seq_id"]))]
    manifest = read(output / MANIFEST)
    assert manifest["missing"] == [without_video["seq_id"], past_the_end["seq_id"]]

    clips.lay_out(tmp_path / "videos", videos / "h264_bframes.mp4", camera="Camera_99")
    assert Job(mixed.benchmark, tmp_path / "videos").run(output) == 1
    assert "4 ready (3 already were), 1 failed" in capsys.readouterr().out


def test_a_failure_keeps_what_was_prepared_before(
        small: Job, masters: Callable[..., Path], output: Path, tmp_path: Path) -> None:
    copy(masters(small), output)
    (tmp_path / "empty").mkdir()
    assert Job(small.benchmark, tmp_path / "empty").run(output, "--stride", 5) == 1
    assert small.run(output, "--stride", 100) == 1
    contents, fine = tree(output), tree(masters(small))
    assert {**contents, MANIFEST: ""} == {**fine, MANIFEST: ""}


# ---------------------------------------------------------------- real footage


@pytest.mark.skipif(not FOOTAGE.is_dir(), reason="real footage not tried: no folder ../shared/footage")
def test_real_footage(output: Path) -> None:
    footage = Job(FOOTAGE / "footage_benchmark.jsonl", FOOTAGE)
    assert footage.run(output, nframes=8) == 0
    eight = stamps(output)
    assert footage.run(output, nframes=16) == 0
    sixteen, contents = stamps(output), tree(output)
    assert not {"f00.png", "f00_ann.png", "crop.png"} & set(images(rewritten(eight, sixteen)))
    with no_children():
        assert footage.run(output, nframes=16) == 0
        assert set(rewritten(sixteen, stamps(output))) <= {MANIFEST}
    names = [entry["seq_id"] for entry in read(output / MANIFEST)["requests"]]
    assert len(names) == 4
    before = stamps(output)
    (output / names[1] / "frames" / "f04.png").unlink()
    damage(output / names[3] / "frames" / "f09.png")
    assert footage.run(output, nframes=16) == 0
    assert tree(output) == contents
    assert [name for name in rewritten(before, stamps(output)) if name.endswith(".png")] == [
        names[1] + "/frames/f04.png", names[3] + "/frames/f09.png"]

"""Whatever ends a run, the next one ends with the bytes of a run that nothing disturbed.

The suite kills the program 20 times at random moments. For 200 kills, with a table of what they hit:

    KILLS=200 python -m pytest tests/test_kills.py -k random -s

Likewise for runs at once, started together or led through random schedules:

    TOGETHER=50 SCHEDULES=50 python -m pytest tests/test_kills.py -k "together or schedule"
"""
from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import pytest

import prepare_sot_dataset as program
from tests import clips
from tests.programs import at_rename, before_change, run_program, start_program, strays, tree

resource = pytest.importorskip("resource", reason="signals, process groups and limits are tried as POSIX has them")

KILLS, TOGETHER, SCHEDULES = (int(os.environ.get(name, default)) for name, default in (
    ("KILLS", "20"), ("TOGETHER", "1"), ("SCHEDULES", "4")))
NFRAMES = 3
META, MANIFEST = "sequence_meta.json", "gt_requests.json"
RECORDS = [clips.record(range(start, start + 8 * 5, 5), camera=camera, object_id=number)
           for number, (start, camera) in enumerate([(30, "Camera_11"), (0, "Camera_12"), (70, "Camera_11")])]
NAMES = [record["seq_id"] for record in RECORDS]


class Job(NamedTuple):
    benchmark: Path
    videos: Path

    def args(self, output: Path, *more: Union[str, int]) -> List[str]:
        return ["--benchmark", str(self.benchmark), "--video-dir", str(self.videos), "--output-dir", str(output),
                "--nframes", str(NFRAMES), "--quiet", *map(str, more)]

    def run(self, output: Path, *more: Union[str, int]) -> int:
        return program.main(self.args(output, *more))


class Reference(NamedTuple):
    folder: Path
    tree: Dict[str, str]
    seconds: float


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("videos")
    for camera, kind in (("Camera_11", "h264_bframes"), ("Camera_12", "h264_all_intra")):
        clips.make_clip(kind, folder / (kind + ".mp4"))
        clips.lay_out(folder, folder / (kind + ".mp4"), camera=camera)
    return Job(clips.write_benchmark(folder / "benchmark.jsonl", RECORDS), folder)


@pytest.fixture(scope="module")
def reference(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder, seconds = tmp_path_factory.mktemp("reference"), []
    for number in range(2):
        start = time.monotonic()
        done = run_program(job.args(folder / str(number)))
        seconds.append(time.monotonic() - start)
        assert (done.returncode, done.stderr) == (0, "")
    trees = [tree(folder / str(number)) for number in range(2)]
    assert trees[0] == trees[1]
    assert len([name for name in trees[0] if name.endswith(META)]) == len(NAMES) and MANIFEST in trees[0]
    return Reference(folder / "0", trees[0], min(seconds))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def assert_finished(output: Path, expected: Dict[str, str]) -> None:
    assert strays(output) == []
    assert tree(output) == expected


def assert_nothing_half_written(output: Path, expected: Dict[str, str]) -> None:
    hidden = set(strays(output))
    named = {name: contents for name, contents in tree(output).items() if name not in hidden}
    assert not [name for name in named if named[name] != expected.get(name)]


def wait_until(condition: Callable[[], Any], process: "subprocess.Popen[str]", seconds: float = 30.0) -> None:
    """Also ends with the process, so that a run faster than the watcher is no error of its own."""
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < end, "never happened"
        time.sleep(0.0005)


# ---------------------------------------------------------------- SIGKILL


PHASES = ("before the first folder", "statement or extraction", "frames in place", "overlay and crop", "metadata",
          "between sequences", "manifest", "after the end")


def phase(output: Path, ended: bool) -> str:
    names = list(tree(output)) if output.exists() else []
    if ended:
        return "after the end"
    if MANIFEST in names or [name for name in strays(output) if "/" not in name]:
        return "manifest"
    folders = [name for name in names if "/" not in name]
    if not folders:
        return "before the first folder"
    if [folder for folder in folders if folder + "/" + META in names and strays(output / folder)]:
        return "metadata"
    unfinished = [folder for folder in folders if folder + "/" + META not in names]
    inside = [name.rsplit("/", 1)[-1] for folder in unfinished for name in tree(output / folder)]
    if "crop.png" in inside:
        return "metadata"
    if "f00_ann.png" in inside or inside.count("f%02d.png" % (NFRAMES - 1)):
        return "overlay and crop"
    if "f00.png" in inside:
        return "frames in place"
    return "statement or extraction" if unfinished else "between sequences"


def kill_after(seconds: float, args: Sequence[str]) -> bool:
    """Whether the run was over before."""
    with start_program(args) as running:
        time.sleep(seconds)
        running.kill()
        running.communicate()
    return running.returncode != -signal.SIGKILL


@pytest.fixture(scope="module")
def hits() -> Iterator["Counter[str]"]:
    counted: "Counter[str]" = Counter()
    yield counted
    print("\n%d random kills:" % sum(counted.values()))
    for name in PHASES:
        print("%5d  %s" % (counted[name], name))


@pytest.mark.parametrize("number", range(KILLS))
def test_random_kill(job: Job, reference: Reference, output: Path, hits: "Counter[str]", number: int) -> None:
    fraction = (number + random.Random(number).random()) / KILLS
    ended = kill_after(fraction * reference.seconds, job.args(output))
    hits[phase(output, ended)] += 1
    if output.exists():
        assert_nothing_half_written(output, reference.tree)
    assert job.run(output) == 0
    assert_finished(output, reference.tree)


def test_random_kills_in_a_row(job: Job, reference: Reference, output: Path) -> None:
    dice = random.Random(0)
    for _ in range(4):
        kill_after(dice.uniform(0.3, 0.9) * reference.seconds, job.args(output))
    assert job.run(output) == 0
    assert_finished(output, reference.tree)


def names_below(folder: Path) -> List[str]:
    return [os.path.join(where, name) for where, folders, files in os.walk(str(folder)) for name in folders + files]


SIGHTS: Dict[str, Callable[[str], bool]] = {
    "a folder": lambda name: name.endswith("frames"),
    "a hidden file beside the frames' folder": lambda name: "/." in name and "/frames/" not in name,
    "a hidden file among the frames": lambda name: "/frames/." in name,
    "the overlay": lambda name: name.endswith("f00_ann.png"),
    "metadata": lambda name: name.endswith(META),
}


@pytest.mark.parametrize("sight", SIGHTS)
def test_killed_at_the_sight_of(job: Job, reference: Reference, output: Path, sight: str) -> None:
    with start_program(job.args(output)) as running:
        wait_until(lambda: any(map(SIGHTS[sight], names_below(output))), running)
        running.kill()
        running.communicate()
    assert running.returncode == -signal.SIGKILL
    assert job.run(output) == 0
    assert_finished(output, reference.tree)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", [META, MANIFEST])
def test_killed_around_the_last_rename(job: Job, reference: Reference, output: Path, name: str, when: str) -> None:
    done = run_program(job.args(output), prologue=at_rename(name, when, signal.SIGKILL))
    assert done.returncode == -signal.SIGKILL
    if name == META:
        written = [path.parent.name for path in output.rglob(META)]
        assert written == ([NAMES[0]] if when == "after" else [])
        assert all((output / NAMES[0] / "frames" / image).exists() for image in ("f00.png", "f02.png", "crop.png"))
    assert job.run(output) == 0
    assert_finished(output, reference.tree)


def test_killed_before_every_change_of_a_run_that_redoes(job: Job, reference: Reference, tmp_path: Path) -> None:
    """With another stride and another box, so that old frames, overlay and crop must never pass for new ones."""
    entry = {**RECORDS[0], "init_bbox": [100, 200, 550, 800]}
    one = Job(clips.write_benchmark(tmp_path / job.benchmark.name, [RECORDS[0]]), job.videos)
    (tmp_path / "moved").mkdir()
    moved = Job(clips.write_benchmark(tmp_path / "moved" / job.benchmark.name, [entry]), job.videos)
    before, after = tmp_path / "before", tmp_path / "after"
    assert one.run(before) == 0 and moved.run(after, "--stride", 7) == 0
    before_tree, after_tree = tree(before), tree(after)

    def killed_before(number: int) -> Optional[Path]:
        work = tmp_path / str(number)
        shutil.copytree(str(before), str(work))
        done = run_program(moved.args(work, "--stride", 7), prologue=before_change(work, signal.SIGKILL, number))
        if done.returncode == 0:
            assert "changes: %d" % (number - 1) in done.stdout
            return None
        assert done.returncode == -signal.SIGKILL
        return work

    number = 1
    for number in range(1, 100):
        work = killed_before(number)
        if work is None:
            break
        back = tmp_path / "back"
        shutil.copytree(str(work), str(back))
        assert moved.run(work, "--stride", 7) == 0
        assert_finished(work, after_tree)
        # Where the metadata stands, it is what the run before the killed one left, or what the killed one ended with.
        if not (back / NAMES[0] / META).exists():
            assert one.run(back) == 0
            assert_finished(back, before_tree)
        shutil.rmtree(str(back))
    assert number > 10


def test_a_killed_run_leaves_nothing_in_the_folder_for_temporary_files(job: Job, output: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    env = {"TMPDIR": str(temporary)}
    done = run_program(job.args(output), env=env, prologue=at_rename(META, "before", signal.SIGKILL))
    assert done.returncode == -signal.SIGKILL
    assert run_program(job.args(output), env=env).returncode == 0
    assert list(tree(temporary)) == []


# ---------------------------------------------------------------- stand-ins for ffmpeg


class StandIn(NamedTuple):
    env: Dict[str, str]
    pids: Path

    def started(self) -> List[int]:
        return [int(line) for line in self.pids.read_text().split()] if self.pids.exists() else []

    def alive(self) -> List[int]:
        return [pid for pid in self.started() if alive(pid)]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        state = Path("/proc/%d/stat" % pid).read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return not Path("/proc/self/stat").exists()
    return state != "Z"  # dead, only nobody has asked for its exit code


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[Callable[[str], StandIn]]:
    made: List[StandIn] = []

    def make(script: str) -> StandIn:
        folder = tmp_path / "bin"
        folder.mkdir()
        pids, file = folder / "pids", folder / "ffmpeg"
        note = "note() { echo $1 >> '%s'; }\nREAL='%s'\n" % (pids, clips.ffmpeg_exe())
        file.write_text("#!/bin/sh\n" + note + script, encoding="utf-8")
        file.chmod(0o755)
        made.append(StandIn({"PATH": os.pathsep.join([str(folder), os.environ.get("PATH", "")])}, pids))
        return made[-1]

    yield make
    for one in made:
        for pid in one.alive():
            os.kill(pid, signal.SIGKILL)


HANGS = "note $$\nexec sleep 600\n"
HANGS_EXTRACTING = 'case "$*" in *framecrc*) exec "$REAL" "$@";; esac\n' + HANGS
SIGNALS_ITS_PARENT = "note $$\nkill -{} $PPID\nexec sleep 600\n"
SPEAKS_SLOWLY = ('case "$*" in *framecrc*) ;; *) for i in 1 2 3 4 5 6 7 8; do sleep 0.2; echo busy >&2; done;; esac\n'
                 'exec "$REAL" "$@"\n')
HANGS_BEHIND_A_WRAPPER = "sleep 600 &\nnote $!\nnote $$\nwait\n"


# ---------------------------------------------------------------- Ctrl-C and SIGTERM


def as_from_a_terminal() -> None:
    # A test runner in the background ignores SIGINT, and its children would too.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def started(args: Sequence[str], **how: Any) -> Iterator["subprocess.Popen[str]"]:
    with start_program(args, start_new_session=True, preexec_fn=as_from_a_terminal, **how) as running:
        try:
            yield running
        finally:
            if running.poll() is None:  # else its number may be another process's by now
                os.killpg(running.pid, signal.SIGKILL)


SETTLED_SECONDS = 0.2  # a child that has been started is waited for
EXIT_CODES: Dict[int, int] = {signal.SIGINT: 130, signal.SIGTERM: 143}
# A terminal sends Ctrl-C to all processes of the run, a batch system SIGTERM to one of them or to all.
WAYS_TO_END = [(signal.SIGINT, os.killpg), (signal.SIGINT, os.kill), (signal.SIGTERM, os.kill)]


def assert_ended_by(signal_number: int, running: "subprocess.Popen[str]") -> None:
    _, said = running.communicate(timeout=10)
    assert running.returncode == EXIT_CODES[signal_number]
    assert len(said.splitlines()) == 1
    assert "same command" in said and "Traceback" not in said


@pytest.mark.parametrize("signal_number, send", WAYS_TO_END)
@pytest.mark.parametrize("script", [HANGS, HANGS_EXTRACTING], ids=["listing", "extracting"])
def test_signal_while_ffmpeg_hangs(
        job: Job, output: Path, stand_in: Callable[[str], StandIn], script: str, signal_number: int,
        send: Callable[[int, int], None]) -> None:
    ffmpeg = stand_in(script)
    with started(job.args(output), env=ffmpeg.env) as running:
        wait_until(ffmpeg.started, running)
        time.sleep(SETTLED_SECONDS)
        send(running.pid, signal_number)
        assert_ended_by(signal_number, running)
        assert ffmpeg.started() and not ffmpeg.alive()


@pytest.mark.parametrize("signal_number", EXIT_CODES)
def test_signal_in_the_moment_in_which_ffmpeg_starts(
        job: Job, output: Path, stand_in: Callable[[str], StandIn], signal_number: int) -> None:
    ffmpeg = stand_in(SIGNALS_ITS_PARENT.format(int(signal_number)))
    with started(job.args(output), env=ffmpeg.env) as running:
        assert_ended_by(signal_number, running)
        assert ffmpeg.started() and not ffmpeg.alive()


@pytest.mark.parametrize("signal_number, send", WAYS_TO_END)
def test_signal_in_the_midst_of_the_work(
        job: Job, reference: Reference, output: Path, signal_number: int, send: Callable[[int, int], None]) -> None:
    with started(job.args(output)) as running:
        wait_until(lambda: any(map(SIGHTS["metadata"], names_below(output))), running)
        send(running.pid, signal_number)
        assert_ended_by(signal_number, running)
    assert_nothing_half_written(output, reference.tree)
    assert job.run(output) == 0
    assert_finished(output, reference.tree)


def test_signal_to_a_wrapper_of_ffmpeg(job: Job, output: Path, stand_in: Callable[[str], StandIn]) -> None:
    ffmpeg = stand_in(HANGS_BEHIND_A_WRAPPER)
    with started(job.args(output), env=ffmpeg.env) as running:
        wait_until(lambda: len(ffmpeg.started()) == 2, running)
        time.sleep(SETTLED_SECONDS)
        os.kill(running.pid, signal.SIGTERM)
        assert_ended_by(signal.SIGTERM, running)
        assert not ffmpeg.alive()


NO_CONNECTION = """
import huggingface_hub
def hf_hub_download(*args, **kwargs):
    raise ConnectionResetError(104, "Connection reset by peer")
huggingface_hub.hf_hub_download = hf_hub_download
"""


@pytest.mark.parametrize("signal_number", EXIT_CODES)
def test_signal_between_two_tries_of_a_download(job: Job, output: Path, signal_number: int) -> None:
    args = ["--benchmark", str(job.benchmark), "--output-dir", str(output)]
    with started(args, constants={"RETRY_WAIT_SECONDS": (60.0,) * 4}, prologue=NO_CONNECTION) as running:
        assert running.stderr
        assert any("retry 1/4" in line for line in iter(running.stderr.readline, ""))
        os.kill(running.pid, signal_number)
        assert_ended_by(signal_number, running)


# ---------------------------------------------------------------- a hanging ffmpeg, and none


@pytest.mark.parametrize("script", [HANGS, HANGS_EXTRACTING, HANGS_BEHIND_A_WRAPPER],
                         ids=["listing", "extracting", "behind a wrapper"])
def test_hanging_ffmpeg_is_ended(
        job: Job, reference: Reference, output: Path, stand_in: Callable[[str], StandIn], script: str) -> None:
    ffmpeg = stand_in(script)
    with started(job.args(output, "--sequences", NAMES[0]), env=ffmpeg.env,
                 constants={"SILENT_CHILD_SECONDS": 1.5}) as running:
        said, errors = running.communicate(timeout=10)
        assert running.returncode == 1
        assert [line for line in errors.splitlines() if line.startswith("ERROR:") and NAMES[0] in line
                and "ffmpeg" in line and "1.5 s" in line]
        assert "1 failed" in said
        assert ffmpeg.started() and not ffmpeg.alive()
    assert job.run(output) == 0
    assert_finished(output, reference.tree)


def test_a_slow_ffmpeg_that_speaks_is_left_alone(
        job: Job, output: Path, stand_in: Callable[[str], StandIn]) -> None:
    done = run_program(job.args(output, "--sequences", NAMES[0]), env=stand_in(SPEAKS_SLOWLY).env,
                       constants={"SILENT_CHILD_SECONDS": 1.0})
    assert (done.returncode, done.stderr) == (0, "")


NO_FFMPEG = """
import glob, shutil
shutil.which = lambda *args, **kwargs: None
glob.glob = lambda *args, **kwargs: []
glob.iglob = lambda *args, **kwargs: iter([])
sys.modules["imageio_ffmpeg"] = None
"""


def test_no_ffmpeg(job: Job, output: Path, tmp_path: Path) -> None:
    done = run_program(job.args(output), env={"PATH": str(tmp_path)}, prologue=NO_FFMPEG)
    assert done.returncode == 2
    assert done.stderr.startswith("ERROR: ffmpeg not found")
    assert "pip install imageio-ffmpeg" in done.stderr and "apt install ffmpeg" in done.stderr
    assert not output.exists()


def test_no_ffmpeg_is_no_matter_when_all_is_ready(job: Job, reference: Reference, output: Path) -> None:
    shutil.copytree(str(reference.folder), str(output))
    done = run_program(job.args(output), prologue=NO_FFMPEG)
    assert (done.returncode, done.stderr) == (0, "")


# ---------------------------------------------------------------- full disk, no permission


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A function that mounts a disk in memory with these options, or changes the one it has mounted."""
    disk = tmp_path / "disk"

    def mount(options: str) -> Path:
        options = ("remount," if os.path.ismount(str(disk)) else "") + options
        disk.mkdir(exist_ok=True)
        if shutil.which("mount") is None:
            pytest.skip("no mount program: a disk that is full or read-only cannot be had")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(disk)], stderr=subprocess.PIPE)
        if done.returncode:
            pytest.skip("may not mount a small disk here: " + done.stderr.decode("utf-8", "replace").strip())
        return disk

    yield mount
    if os.path.ismount(str(disk)):
        subprocess.run(["umount", "-l", str(disk)], check=True)


def assert_stopped_at(done: "subprocess.CompletedProcess[str]", folder: Path, *words: str) -> None:
    assert done.returncode == 2
    errors = done.stderr.splitlines()
    assert len(errors) == 1 and errors[0].startswith("ERROR: ")
    assert str(folder) in errors[0]
    assert any(word in errors[0] for word in words)


@pytest.mark.parametrize("part", [0.3, 0.8])
def test_full_disk(job: Job, reference: Reference, small_disk: Callable[[str], Path], part: float) -> None:
    whole = sum(-(-path.stat().st_size // 4096) * 4096 for path in reference.folder.rglob("*") if path.is_file())
    output = small_disk("size=%d" % (whole * part)) / "out"
    assert_stopped_at(run_program(job.args(output)), output, "No space left")
    assert_nothing_half_written(output, reference.tree)
    small_disk("size=64m")
    assert job.run(output) == 0
    assert_finished(output, reference.tree)


def test_disk_without_room_for_a_single_folder(job: Job, small_disk: Callable[[str], Path]) -> None:
    output = small_disk("size=64k,nr_inodes=1") / "out"
    assert_stopped_at(run_program(job.args(output)), output, "No space left")


def test_file_size_limit(job: Job, reference: Reference, output: Path) -> None:
    largest = max(path.stat().st_size for path in reference.folder.rglob("*.png"))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, largest - 1))

    with start_program(job.args(output), preexec_fn=limit) as running:
        said = running.communicate(timeout=30)
    assert_stopped_at(subprocess.CompletedProcess([], running.returncode, *said), output, "File too large")
    assert_nothing_half_written(output, reference.tree)
    assert job.run(output) == 0
    assert_finished(output, reference.tree)


def test_output_below_a_file(job: Job, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    output = tmp_path / "file" / "out"
    assert_stopped_at(run_program(job.args(output)), output, "Not a directory", "is not a folder")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_a_file_in_place_of_a_sequence(job: Job, reference: Reference, output: Path) -> None:
    output.mkdir()
    in_the_way = output / NAMES[1]
    in_the_way.write_text("mine", encoding="utf-8")
    assert_stopped_at(run_program(job.args(output)), in_the_way, "Not a directory", "File exists", "is not a folder")
    assert in_the_way.read_text(encoding="utf-8") == "mine"
    in_the_way.unlink()
    assert job.run(output) == 0
    assert_finished(output, reference.tree)


def test_unwritable_folder(job: Job, reference: Reference, output: Path, small_disk: Callable[[str], Path]) -> None:
    if os.geteuid() == 0:  # whom permission bits do not bind
        output = small_disk("ro") / "out"
        assert_stopped_at(run_program(job.args(output)), output, "Read-only")
        small_disk("rw")
    else:
        output.mkdir()
        output.chmod(0o555)
        assert_stopped_at(run_program(job.args(output)), output, "Permission denied")
        output.chmod(0o755)
    assert job.run(output) == 0
    assert_finished(output, reference.tree)


# ---------------------------------------------------------------- several runs at once


def run_together(lists: Sequence[Sequence[str]]) -> None:
    running = [start_program(args) for args in lists]
    ended = [(*one.communicate(timeout=60), one.returncode) for one in running]
    assert [(code, errors) for _, errors, code in ended] == [(0, "")] * len(lists)


SHARES: Dict[str, List[List[str]]] = {
    "two, the same": [NAMES, NAMES],
    "two, each its own": [NAMES[:1], NAMES[1:]],
    "four, the same": [NAMES] * 4,
    "four, overlapping": [NAMES[:1], NAMES[:2], NAMES[1:], NAMES],
}


@pytest.mark.parametrize("number", range(TOGETHER))
@pytest.mark.parametrize("share", SHARES)
def test_runs_started_together(job: Job, reference: Reference, output: Path, share: str, number: int) -> None:
    run_together([job.args(output, "--sequences", *names) for names in SHARES[share]])
    assert_finished(output, reference.tree)


def test_a_run_beside_one_that_has_nothing_to_do(job: Job, reference: Reference, output: Path) -> None:
    shutil.copytree(str(reference.folder), str(output))
    run_together([job.args(output)] * 3)
    assert_finished(output, reference.tree)


# One of two runs pauses at an exact place while the other one goes all its way, or as far as it can.
@pytest.mark.parametrize("name, when", [
    ("f00.png", "before"), ("f02.png", "after"), ("crop.png", "before"), (META, "before"), (META, "after"),
    (MANIFEST, "before")])
def test_a_run_that_pauses_while_another_one_works(
        job: Job, reference: Reference, output: Path, name: str, when: str) -> None:
    args = job.args(output, "--sequences", NAMES[0])
    with started(args, prologue=at_rename(name, when, signal.SIGSTOP)) as first:
        _, status = os.waitpid(first.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        with start_program(args) as second:
            try:
                said = second.communicate(timeout=1 + reference.seconds)
            except subprocess.TimeoutExpired:  # the second may wait for the first
                said = ("", "")
            os.kill(first.pid, signal.SIGCONT)
            if second.poll() is None:
                said = second.communicate(timeout=30)
        _, errors = first.communicate(timeout=30)
    assert [(first.returncode, errors), (second.returncode, said[1])] == [(0, "")] * 2
    assert_finished(output / NAMES[0], tree(reference.folder / NAMES[0]))
    assert strays(output) == []


def go_on_to_next_change(running: "subprocess.Popen[str]") -> str:
    """What came of it: the run is "at a change", it "ended", or it "waits" for the other one."""
    os.kill(running.pid, signal.SIGCONT)
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        pid, status = os.waitpid(running.pid, os.WNOHANG | os.WUNTRACED)
        if pid and os.WIFSTOPPED(status):
            return "at a change"
        if pid:
            running.returncode = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            return "ended"
        time.sleep(0.002)
    return "waits"


def exit_code_and_errors(running: "subprocess.Popen[str]") -> Tuple[int, str]:
    errors = running.communicate()[1]
    return running.returncode, errors


def test_a_run_that_believed_a_sequence_new_takes_nothing_from_one_that_finishes_it(
        job: Job, reference: Reference, output: Path) -> None:
    args, stops = job.args(output, "--sequences", NAMES[0]), before_change(output, signal.SIGSTOP)
    frames = output / NAMES[0] / "frames"
    with started(args, prologue=stops) as late, started(args, prologue=stops) as early:
        def step(running: "subprocess.Popen[str]", until: Callable[[], bool]) -> None:
            while running.returncode is None and not until() and go_on_to_next_change(running) == "at a change":
                pass

        step(late, output.exists)
        step(early, (frames / "crop.png").exists)
        step(late, lambda: not (frames / "f00.png").exists())
        for running in (early, late, early):
            step(running, lambda: False)
        ended = [exit_code_and_errors(one) for one in (late, early)]
    assert ended == [(0, "")] * 2
    assert_finished(output / NAMES[0], tree(reference.folder / NAMES[0]))


@pytest.mark.parametrize("number", range(SCHEDULES))
def test_two_runs_led_through_a_schedule(job: Job, reference: Reference, output: Path, number: int) -> None:
    """Both stop before every change below the output folder, and a seeded dice says who goes on."""
    dice = random.Random(number)
    args, stops = job.args(output, "--sequences", NAMES[0]), before_change(output, signal.SIGSTOP)
    with started(args, prologue=stops) as first, started(args, prologue=stops) as second:
        going, waiting = [first, second], None
        while going:
            running = dice.choice([one for one in going if one is not waiting] or going)
            for _ in range(dice.choice([1, 1, 2, 3, 5, 8, 13])):
                came = go_on_to_next_change(running)
                if came != "at a change":
                    break
            waiting = running if came == "waits" else None
            going = [one for one in going if one.returncode is None]
        ended = [exit_code_and_errors(one) for one in (first, second)]
    assert ended == [(0, "")] * 2
    assert_finished(output / NAMES[0], tree(reference.folder / NAMES[0]))


def test_manifest_of_runs_that_end_in_turn_covers_everything(job: Job, reference: Reference, output: Path) -> None:
    """The first run pauses when its manifest is written but has no name yet; the second ends meanwhile."""
    pause = at_rename(MANIFEST, "before", signal.SIGSTOP)
    with started(job.args(output, "--sequences", *NAMES[:2]), prologue=pause) as first:
        os.waitpid(first.pid, os.WUNTRACED)
        assert run_program(job.args(output, "--sequences", NAMES[2])).returncode == 0
        assert json.loads((output / MANIFEST).read_text(encoding="utf-8"))["missing"] == []
        os.kill(first.pid, signal.SIGCONT)
        assert first.communicate(timeout=30)[1] == ""
    assert first.returncode == 0
    assert_finished(output, reference.tree)

"""Times the program beside other ways to the same PNGs: `python tests/bench.py` (Linux, macOS; 5 minutes).

Every row is a whole process from start to end. The rows of a table take turns, round by round, so that a machine that
slows down slows them all. What is not installed is named and left out. No test: run it by hand.
"""
from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Callable, Iterable, List, NamedTuple, Sequence

PROGRAM = Path(__file__).resolve().parent.parent / "prepare_sot_dataset.py"
FPS, GOP, STRIDE, PART_FRAMES, PARTS = 30, 250, 15, 500, 12
FIRST = 4100  # two thirds into the clip, 100 frames behind a key frame
SCENE, CAMERA, SUBDIR = "Bench_000", "Camera_01", "MTMC_Tracking_2025"
BOX = [400.0, 300.0, 480.0, 520.0]
SEQUENCE_STARTS = [150 + 263 * index for index in range(20)]  # at all distances from a key frame

FLOOR = ("color=c=0x8c8a84:s=1920x1080:r=30,format=yuv420p,noise=alls=100,gblur=sigma=8,"
         "drawgrid=w=160:h=120:t=3:c=0x5e5a52,loop=loop=-1:size=1")
TARGET = "color=c=%s:s=%s:r=30,format=yuv420p,noise=alls=40,gblur=sigma=2,loop=loop=-1:size=1"
SCENERY = ("[0][1]overlay=x='mod(3*n,1900)':y='300+100*sin(n/40)'[a];"
           "[a][2]overlay=x='1700-mod(2*n,1700)':y=640,noise=c0s=8:c0f=t")  # the last is the sensor's noise

PYAV = """
import sys, av
clip, out, *ids = sys.argv[1:]
with av.open(clip) as file:
    stream = file.streams.video[0]
    stream.thread_type = "AUTO"
    index_of = {round(int(k) / 30 / stream.time_base): index for index, k in enumerate(ids)}
    file.seek(min(index_of), stream=stream)
    for frame in file.decode(stream):
        if frame.pts in index_of:
            frame.to_image().save("%s/f%02d.png" % (out, index_of[frame.pts]), compress_level=1)
        if frame.pts >= max(index_of):
            break
"""
WATCHED = """
import json, resource, runpy, sys
children, sys.argv = [], sys.argv[1:]
sys.addaudithook(lambda event, args: children.append(1) if event == "subprocess.Popen" else None)
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    print(json.dumps({"exit": end.code, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                      "children": len(children), "imported": sorted({"cv2", "huggingface_hub", "PIL"} & set(sys.modules))}))
"""
Commands = List[List[str]]
Way = Callable[[Path], Commands]  # output folder -> what to run, one command after the other


class Timed(NamedTuple):
    seconds: float
    cpu_seconds: float


def output_of(command: Sequence[str]) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        raise SystemExit("failed: {}\n{}".format(" ".join(command), done.stderr.decode("utf-8", "replace")))
    return done.stdout.decode("utf-8", "replace")


def watched(code: str, *args: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output_of([sys.executable, "-c", code, *map(str, args)]).splitlines()[-1])
    return found


def megabytes(peak: int) -> float:
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def make_clip(ffmpeg: str, clip: Path) -> None:
    """Two GOPs are encoded, the rest of the clip repeats them."""
    part, whole = clip.with_name("part.mp4"), clip.with_name("whole.mp4")
    quiet = [ffmpeg, "-nostdin", "-loglevel", "error", "-y"]
    sources = [item for source in (FLOOR, TARGET % ("0xd9822b", "140x240"), TARGET % ("0x2b52a8", "220x160"))
               for item in ("-f", "lavfi", "-i", source)]
    output_of([*quiet, *sources, "-filter_complex", SCENERY, "-frames:v", str(PART_FRAMES), "-pix_fmt", "yuv420p",
               "-c:v", "libx264", "-preset", "veryfast", "-b:v", "5M", "-maxrate", "6M", "-bufsize", "6M",
               "-g", str(GOP), "-keyint_min", str(GOP), "-sc_threshold", "0", str(part)])
    output_of([*quiet, "-stream_loop", str(PARTS - 1), "-i", str(part), "-c", "copy", str(whole)])
    part.unlink()
    whole.rename(clip)


def ids_from(start: int, count: int) -> list[int]:
    return [start + index * STRIDE for index in range(count)]


def record(ids: Sequence[int], name: str = "1") -> dict[str, Any]:
    return {"seq_id": "%s__%s__%d__obj%s" % (SCENE, CAMERA, ids[0], name), "scene": SCENE, "camera": CAMERA,
            "object_id": name, "object_type": "Robot", "init_frame_id": ids[0], "init_bbox": BOX,
            "canonical_frame_ids": list(ids), "clip_fps": float(FPS)}


def write_benchmark(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    with path.open("w", encoding="ascii") as file:
        file.writelines(json.dumps(item) + "\n" for item in records)
    return path


def program_arguments(benchmark: Path, video_dir: Path, out: Path, nframes: int = 8) -> list[str]:
    return [str(PROGRAM), "--benchmark", str(benchmark), "--video-dir", str(video_dir), "--repo-subdir", SUBDIR,
            "--output-dir", str(out), "--nframes", str(nframes)]


def single_call(ffmpeg: str, clip: Path, ids: Sequence[int], out: Path, prefix: str = "f") -> list[str]:
    passthrough = ["-fps_mode", "passthrough"] if "-fps_mode" in output_of([ffmpeg, "-h", "long"]) else ["-vsync", "0"]
    start = ids[0] - 0.5
    wanted = "+".join(f"between(t,{(k - 0.5 - start) / FPS:.4f},{(k + 0.5 - start) / FPS:.4f})" for k in ids)
    return [ffmpeg, "-nostdin", "-loglevel", "error", "-ss", "%.4f" % (start / FPS), "-i", str(clip),
            "-vf", f"select='{wanted}'", *passthrough, "-frames:v", str(len(ids)), "-compression_level", "1",
            "-pred", "up", "-start_number", "0", str(out / (prefix + "%02d.png"))]


def timed(commands: Commands) -> Timed:
    def cpu() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    start, cpu_start = time.perf_counter(), cpu()
    for command in commands:
        output_of(command)
    return Timed(time.perf_counter() - start, cpu() - cpu_start)


def fresh(out: Path) -> Path:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    return out


def take_turns(ways: dict[str, Way], scratch: Path, rounds: int) -> dict[str, list[Timed]]:
    """All ways once to warm up, then `rounds` times. Their last outputs stay in folders named 0, 1, ..."""
    times: dict[str, list[Timed]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for index, (name, way) in enumerate(ways.items()):
            taken = timed(way(fresh(scratch / str(index))))
            if number:
                times[name].append(taken)
    return times


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print(f"**{title}**\n")
    print("| {} |\n|{}".format(" | ".join(header), " --- |" * len(header)))
    for row in rows:
        print("| {} |".format(" | ".join(row)))
    print(flush=True)


def time_cells(times: Sequence[Timed], single: Sequence[Timed], per: int = 1) -> list[str]:
    """Medians, and the median of the ratios within each round."""
    return ["%.2f" % (median(t.seconds for t in times) / per),
            f"{median(t.seconds / s.seconds for t, s in zip(times, single)):.2f}",
            "%.2f" % (median(t.cpu_seconds for t in times) / per)]


class Bench:
    def __init__(self, ffmpeg: str, clip: Path, scratch: Path, rounds: int):
        self.ffmpeg, self.clip, self.scratch, self.rounds = ffmpeg, clip, scratch, rounds
        self.video_dir = scratch / "videos"
        linked = self.video_dir / SUBDIR / "val" / SCENE / "videos" / (CAMERA + ".mp4")
        linked.parent.mkdir(parents=True)
        linked.symlink_to(clip)

    def one_sequence(self, count: int) -> None:
        ffmpeg, clip, ids = self.ffmpeg, self.clip, ids_from(FIRST, count)
        benchmark = write_benchmark(self.scratch / "one.jsonl", [record(ids)])
        ways: dict[str, Way] = {
            "this program": lambda out: [[sys.executable, *program_arguments(benchmark, self.video_dir, out, count)]],
            "ffmpeg, one call": lambda out: [single_call(ffmpeg, clip, ids, out)]}
        if importlib.util.find_spec("av"):
            ways["PyAV, PNG level 1"] = lambda out: [[sys.executable, "-c", PYAV, str(clip), str(out), *map(str, ids)]]
        times = take_turns(ways, self.scratch, self.rounds)
        pictures = [sorted(path for path in (self.scratch / str(index)).rglob("f*[0-9].png")) for index in range(len(ways))]
        rows = [[name, *time_cells(times[name], times["ffmpeg, one call"]),
                 "%.1f" % (sum(path.stat().st_size for path in paths) / 1e6)] for name, paths in zip(ways, pictures)]
        print_table("1 sequence, %d frames" % count, ("", "seconds", "x one call", "CPU s", "PNG MB"), rows)

    def many_sequences(self) -> None:
        groups = [ids_from(start, 8) for start in SEQUENCE_STARTS]
        benchmark = write_benchmark(self.scratch / "many.jsonl", map(record, groups))
        ways: dict[str, Way] = {
            "this program": lambda out: [[sys.executable, *program_arguments(benchmark, self.video_dir, out)]],
            "ffmpeg, one call each": lambda out: [single_call(self.ffmpeg, self.clip, ids, out, "%d_f" % ids[0])
                                                  for ids in groups]}
        times = take_turns(ways, self.scratch, max(1, self.rounds // 2))
        out = fresh(self.scratch / "watched")
        peak = megabytes(watched(WATCHED, *program_arguments(benchmark, self.video_dir, out))["peak"])
        shutil.rmtree(out)
        print_table("%d sequences of one video, 8 frames" % len(groups),
                    ("", "seconds per sequence", "x one call", "CPU s per sequence", "peak memory of Python"),
                    [[name, *time_cells(taken, times["ffmpeg, one call each"], len(groups)),
                      f"{peak:.0f} MB" if index == 0 else ""] for index, (name, taken) in enumerate(times.items())])

    def nothing_to_do(self, count: int) -> None:
        ids, first, out = ids_from(FIRST, 8), self.scratch / "first", fresh(self.scratch / "ready")
        benchmark = write_benchmark(self.scratch / "first.jsonl", [record(ids)])
        output_of([sys.executable, *program_arguments(benchmark, self.video_dir, first)])
        no_videos = fresh(self.scratch / "no_videos")  # so that whatever is not ready fails
        records = [record(ids, str(number)) for number in range(1, count + 1)]
        for item in records:
            copy_ready(first / record(ids)["seq_id"], out / item["seq_id"], item)
        arguments = program_arguments(write_benchmark(self.scratch / "ready.jsonl", records), no_videos, out)
        seen = watched(WATCHED, *arguments)
        if seen["exit"]:
            raise SystemExit("the copied sequences are not ready for the program")
        times = [timed([[sys.executable, *arguments]]) for _ in range(self.rounds)]
        print_table("Nothing to do (8 frames each; the images are hard links to the same ones)",
                    ("ready sequences", "seconds", "CPU s", "peak memory", "of cv2, huggingface_hub, PIL imported",
                     "child processes"),
                    [[str(count), *time_cells(times, times)[::2], "{:.0f} MB".format(megabytes(seen["peak"])),
                      ", ".join(seen["imported"]) or "none", str(seen["children"])]])


def copy_ready(prepared: Path, copy: Path, item: dict[str, Any]) -> None:
    meta = json.loads((prepared / "sequence_meta.json").read_text(encoding="utf-8"))
    label = "%s/%s/%d/obj%s" % (SCENE, CAMERA, item["init_frame_id"], item["object_id"])
    meta.update(seq_id=item["seq_id"], object_id=item["object_id"], label=label)
    (copy / "frames").mkdir(parents=True)
    for image in (prepared / "frames").iterdir():
        os.link(str(image), str(copy / "frames" / image.name))
    (copy / "sequence_meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="ascii")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="after one to warm up (default: %(default)s)")
    parser.add_argument("--keep-clip", metavar="PATH", type=Path, help="make the clip here, or use the one that is there")
    args = parser.parse_args()
    ffmpeg = shutil.which("ffmpeg") or parser.error("ffmpeg must be on PATH")
    with tempfile.TemporaryDirectory() as folder:
        clip = (args.keep_clip or Path(folder, "clip.mp4")).resolve()
        if not clip.exists():
            make_clip(ffmpeg, clip)
        version = output_of([ffmpeg, "-version"]).split()[2]
        print("%d CPUs, ffmpeg %s, Python %s; 1080p H.264, %d frames, %.0f MB, a key frame every %d; medians of %d rounds\n"
              % (os.cpu_count() or 0, version, platform.python_version(), PARTS * PART_FRAMES, clip.stat().st_size / 1e6,
                 GOP, args.rounds), flush=True)
        bench = Bench(ffmpeg, clip, Path(folder), args.rounds)
        bench.one_sequence(8)
        bench.one_sequence(32)
        bench.many_sequences()
        bench.nothing_to_do(200)


if __name__ == "__main__":
    main()

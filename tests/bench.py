"""Time the program beside other ways to the same PNGs, for the table in README: `python tests/bench.py` (5 minutes).

Each way is a whole process from start to end. The ways take turns, round by round, so that a machine that slows down
slows them all. No test: run it by hand.
"""
from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Sequence

import clips

PROGRAM = Path(__file__).resolve().parent.parent / "prepare_sot_dataset.py"
FPS, GOP, STRIDE, PART_FRAMES, PARTS = 30, 250, 15, 500, 12
FIRST = 4100  # two thirds into the clip, 100 frames behind a key frame
STARTS = [150 + 263 * index for index in range(20)]  # at all distances from a key frame
FLOOR = ("color=c=0x8c8a84:s=1920x1080:r=30,format=yuv420p,noise=alls=100,gblur=sigma=8,"
         "drawgrid=w=160:h=120:t=3:c=0x5e5a52,loop=loop=-1:size=1")
TARGET = "color=c={}:s={}:r=30,format=yuv420p,noise=alls=40,gblur=sigma=2,loop=loop=-1:size=1"
SCENERY = ("[0][1]overlay=x='mod(3*n,1900)':y='300+100*sin(n/40)'[a];"
           "[a][2]overlay=x='1700-mod(2*n,1700)':y=640,noise=c0s=8:c0f=t")  # the last is the sensor's noise
Commands = Sequence[Sequence[str]]


def run(command: Sequence[str]) -> str:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, encoding="utf-8").stdout


def make_clip(ffmpeg: str, clip: Path) -> None:
    """Encode two groups of pictures and repeat them."""
    part = clip.with_name("part.mp4")
    quiet = [ffmpeg, "-nostdin", "-loglevel", "error", "-y"]
    sources = (FLOOR, TARGET.format("0xd9822b", "140x240"), TARGET.format("0x2b52a8", "220x160"))
    inputs = [argument for source in sources for argument in ("-f", "lavfi", "-i", source)]
    run([*quiet, *inputs, "-filter_complex", SCENERY, "-frames:v", str(PART_FRAMES), "-pix_fmt", "yuv420p",
         "-c:v", "libx264", "-preset", "veryfast", "-b:v", "5M", "-maxrate", "6M", "-bufsize", "6M",
         "-g", str(GOP), "-keyint_min", str(GOP), "-sc_threshold", "0", str(part)])
    run([*quiet, "-stream_loop", str(PARTS - 1), "-i", str(part), "-c", "copy", str(clip)])


def frame_ids_from(start: int, count: int) -> list[int]:
    return [start + index * STRIDE for index in range(count)]


class Bench:
    def __init__(self, ffmpeg: str, folder: Path, rounds: int) -> None:
        self.ffmpeg, self.folder, self.rounds = ffmpeg, folder, rounds
        self.output, self.clip = folder / "out", folder / "val/Warehouse_016/videos/Camera_11.mp4"
        self.clip.parent.mkdir(parents=True)
        make_clip(ffmpeg, self.clip)

    def by_program(self, records: Sequence[dict[str, Any]], nframes: int = 8) -> Commands:
        benchmark = self.folder / f"{len(records)}_{nframes}.jsonl"
        clips.write_benchmark(benchmark, records)
        return [[sys.executable, str(PROGRAM), "--benchmark", str(benchmark), "--video-dir", str(self.folder),
                 "--output-dir", str(self.output), "--nframes", str(nframes)]]

    def by_one_call(self, frame_ids: Sequence[int]) -> list[str]:
        """Return the fastest ffmpeg command for these frames; nothing is proven, nothing is drawn."""
        start = frame_ids[0] - 0.5
        times = [((frame_id - 0.5 - start) / FPS, (frame_id + 0.5 - start) / FPS) for frame_id in frame_ids]
        wanted = "+".join(f"between(t,{begin:.4f},{end:.4f})" for begin, end in times)
        return [self.ffmpeg, "-nostdin", "-loglevel", "error", "-ss", f"{start / FPS:.4f}", "-i", str(self.clip),
                "-vf", f"select='{wanted}'", *clips.passthrough_args(), "-frames:v", str(len(frame_ids)),
                "-compression_level", "1", "-pred", "up", str(self.output / f"{frame_ids[0]}_%02d.png")]

    def by_pyav(self, frame_ids: Sequence[int]) -> Commands:
        arguments = [str(self.clip), str(self.output), *map(str, frame_ids)]
        return [[sys.executable, __file__, "--by-pyav", *arguments]]

    def compare(self, title: str, ways: dict[str, Commands], keep_output: bool = False) -> None:
        """Print the median seconds of each way, and the ratio to the last one."""
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(self.rounds + 1):
            for name, commands in ways.items():
                if not keep_output:
                    shutil.rmtree(str(self.output), ignore_errors=True)
                self.output.mkdir(exist_ok=True)
                start = time.perf_counter()
                for command in commands:
                    run(command)
                seconds[name].append(time.perf_counter() - start)
        medians = {name: median(times[1:]) for name, times in seconds.items()}  # the first round warms up
        last = list(medians.values())[-1]
        for name, value in medians.items():
            print(f"{title:24} {name:20} {value:6.2f} s, ratio {value / last:.2f}", flush=True)

    def measure(self) -> None:
        for count in (8, 32):
            frame_ids = frame_ids_from(FIRST, count)
            ways = {"this program": self.by_program([clips.record(frame_ids)], count)}
            if importlib.util.find_spec("av"):
                ways["PyAV, PNG level 1"] = self.by_pyav(frame_ids)
            self.compare(f"{count} frames", {**ways, "one ffmpeg call": [self.by_one_call(frame_ids)]})
        series = [frame_ids_from(start, 8) for start in STARTS]
        self.compare("20 sequences of 8 frames", {
            "this program": self.by_program([clips.record(frame_ids) for frame_ids in series]),
            "20 ffmpeg calls": [self.by_one_call(frame_ids) for frame_ids in series]})
        many = self.by_program([clips.record(frame_ids_from(FIRST, 8), object_id=number) for number in range(200)])
        run(many[0])
        self.compare("200 sequences, all ready", {"this program": many}, keep_output=True)


def extract_by_pyav(clip: str, output: str, *frame_ids: str) -> None:
    import av

    with av.open(clip) as file:
        stream = file.streams.video[0]
        stream.thread_type = "AUTO"
        wanted = {round(int(frame_id) / FPS / stream.time_base): frame_id for frame_id in frame_ids}
        file.seek(min(wanted), stream=stream)
        for frame in file.decode(stream):
            if frame.pts in wanted:
                frame.to_image().save(f"{output}/{wanted[frame.pts]}.png", compress_level=1)
            if frame.pts >= max(wanted):
                break


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="after one to warm up (default: %(default)s)")
    args = parser.parse_args()
    ffmpeg = shutil.which("ffmpeg") or parser.error("ffmpeg must be on PATH")
    with tempfile.TemporaryDirectory() as folder:
        print(f"{os.cpu_count()} CPUs, {run([ffmpeg, '-version']).split(' Copyright')[0]}", flush=True)
        Bench(ffmpeg, Path(folder), args.rounds).measure()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--by-pyav"]:
        extract_by_pyav(*sys.argv[2:])
    else:
        main()

"""Time the program beside the fastest ffmpeg commands for the same PNGs: `python tests/bench.py`, 5 minutes.

Each way is a whole process. The ways take turns, so a machine that slows down slows them all. This is no
test; it makes the numbers under Speed in README.
"""
from __future__ import annotations

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
FPS, STRIDE, ROUNDS = 30, 15, 5
FIRST = 4100  # 100 frames behind a keyframe
STARTS = [150 + 263 * index for index in range(20)]  # at all distances from a keyframe
SCENERY = ("color=c=0x8c8a84:s=1920x1080:r=30,noise=alls=100,gblur=sigma=8,loop=-1:1[floor];"
           "color=c=0xd9822b:s=140x240:r=30,noise=alls=40,gblur=sigma=2,loop=-1:1[target];"
           "[floor][target]overlay=x='mod(3*n,1900)':y='300+100*sin(n/40)',noise=c0s=8:c0f=t")
Commands = Sequence[Sequence[str]]


def make_clip(path: Path) -> None:
    """Encode 500 frames of 1080p with a keyframe every 250, and repeat them."""
    part = path.with_name("part.mp4")
    rate = ["-b:v", "5M", "-maxrate", "6M", "-bufsize", "6M", "-g", "250", "-keyint_min", "250"]
    clips.run_ffmpeg(["-filter_complex", SCENERY, "-frames:v", "500", "-pix_fmt", "yuv420p",
                      "-c:v", "libx264", "-preset", "veryfast", "-sc_threshold", "0", *rate, str(part)])
    clips.run_ffmpeg(["-stream_loop", "11", "-i", str(part), "-c", "copy", str(path)])


def frame_ids_from(start: int, count: int) -> list[int]:
    return [start + index * STRIDE for index in range(count)]


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder, self.output = folder, folder / "out"
        self.clip = folder / "val/Warehouse_016/videos/Camera_11.mp4"
        self.clip.parent.mkdir(parents=True)
        make_clip(self.clip)

    def by_program(self, records: Sequence[dict[str, Any]], nframes: int = 8) -> Commands:
        benchmark = clips.write_benchmark(self.folder / f"{len(records)}_{nframes}.jsonl", records)
        return [[sys.executable, str(PROGRAM), "--benchmark", str(benchmark), "--video-dir", str(self.folder),
                 "--output-dir", str(self.output), "--nframes", str(nframes)]]

    def by_ffmpeg(self, frame_ids: Sequence[int]) -> list[str]:
        """Return one command for these frames; nothing is proven, nothing is drawn."""
        start = (frame_ids[0] - 0.5) / FPS
        times = [frame_id / FPS - start for frame_id in frame_ids]
        wanted = "+".join(f"between(t,{middle - 0.5 / FPS:.4f},{middle + 0.5 / FPS:.4f})" for middle in times)
        images = ["-compression_level", "1", "-pred", "up", str(self.output / f"{frame_ids[0]}_%02d.png")]
        return [clips.ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-ss", f"{start:.4f}",
                "-i", str(self.clip), "-vf", f"select='{wanted}'", *clips.passthrough_args(),
                "-frames:v", str(len(frame_ids)), *images]

    def compare(self, title: str, *ways: Commands, keep_output: bool = False) -> None:
        """Print the median seconds of each way, and the ratio of the first to the last."""
        seconds: list[list[float]] = [[] for _ in ways]
        for _ in range(ROUNDS + 1):
            for times, commands in zip(seconds, ways):
                if not keep_output:
                    shutil.rmtree(str(self.output), ignore_errors=True)
                self.output.mkdir(exist_ok=True)
                start = time.perf_counter()
                for command in commands:
                    subprocess.run(command, check=True, capture_output=True)
                times.append(time.perf_counter() - start)
        medians = [median(times[1:]) for times in seconds]  # the first round warms up
        print(f"{title}: {medians}, ratio {medians[0] / medians[-1]:.2f}", flush=True)

    def measure(self) -> None:
        for count in (8, 32):
            frame_ids = frame_ids_from(FIRST, count)
            program = self.by_program([clips.record(frame_ids)], count)
            self.compare(f"{count} frames, program and ffmpeg", program, [self.by_ffmpeg(frame_ids)])
        series = [frame_ids_from(start, 8) for start in STARTS]
        program = self.by_program([clips.record(frame_ids) for frame_ids in series])
        self.compare("20 sequences, program and ffmpeg", program, [self.by_ffmpeg(ids) for ids in series])
        program = self.by_program([clips.record(series[0], object_id=number) for number in range(200)])
        self.compare("200 sequences that are ready", program, keep_output=True)


if __name__ == "__main__":
    os.environ["TEST_FFMPEG"] = shutil.which("ffmpeg") or ""  # the one that the program takes
    print(f"{os.cpu_count()} CPUs; seconds are medians of {ROUNDS} rounds", flush=True)
    with tempfile.TemporaryDirectory() as name:
        Bench(Path(name)).measure()

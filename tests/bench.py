"""Time the program beside the fastest ffmpeg command for the same PNGs: `python tests/bench.py`, 2 minutes.

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

import clips

PROGRAM = Path(__file__).resolve().parent.parent / "prepare_sot_dataset.py"
FPS, STRIDE, ROUNDS = 30, 15, 5
FIRST = 4100  # 100 frames behind a keyframe
SCENERY = ("color=c=0x8c8a84:s=1920x1080:r=30,noise=alls=100,gblur=sigma=8,loop=-1:1[floor];"
           "color=c=0xd9822b:s=140x240:r=30,noise=alls=40,gblur=sigma=2,loop=-1:1[target];"
           "[floor][target]overlay=x='mod(3*n,1900)':y='300+100*sin(n/40)',noise=c0s=8:c0f=t")


def make_clip(path: Path) -> None:
    """Encode 500 frames of 1080p with a keyframe every 250, and repeat them."""
    part = path.with_name("part.mp4")
    rate = ["-b:v", "5M", "-maxrate", "6M", "-bufsize", "6M", "-g", "250", "-keyint_min", "250"]
    clips.run_ffmpeg(["-filter_complex", SCENERY, "-frames:v", "500", "-pix_fmt", "yuv420p",
                      "-c:v", "libx264", "-preset", "veryfast", "-sc_threshold", "0", *rate, str(part)])
    clips.run_ffmpeg(["-stream_loop", "11", "-i", str(part), "-c", "copy", str(path)])


def by_ffmpeg(clip: Path, output: Path, frame_ids: list[int]) -> list[str]:
    """Return one command for these frames; nothing is proven, nothing is drawn."""
    start = (frame_ids[0] - 0.5) / FPS
    times = [frame_id / FPS - start for frame_id in frame_ids]
    wanted = "+".join(f"between(t,{middle - 0.5 / FPS:.4f},{middle + 0.5 / FPS:.4f})" for middle in times)
    return [clips.ffmpeg_exe(), "-nostdin", "-loglevel", "error", "-ss", f"{start:.4f}", "-i", str(clip),
            "-vf", f"select='{wanted}'", *clips.passthrough_args(), "-frames:v", str(len(frame_ids)),
            "-compression_level", "1", "-pred", "up", str(output / "%02d.png")]


def seconds(command: list[str], output: Path) -> float:
    shutil.rmtree(str(output), ignore_errors=True)
    output.mkdir()
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def measure(folder: Path, count: int) -> None:
    clip, output = folder / "val/Warehouse_016/videos/Camera_11.mp4", folder / "out"
    frame_ids = [FIRST + index * STRIDE for index in range(count)]
    benchmark = clips.write_benchmark(folder / "benchmark.jsonl", [clips.record(frame_ids)])
    program = [sys.executable, str(PROGRAM), "--benchmark", str(benchmark), "--video-dir", str(folder),
               "--output-dir", str(output), "--nframes", str(count)]
    ways = [program, by_ffmpeg(clip, output, frame_ids)]
    rounds = [[seconds(way, output) for way in ways] for _ in range(ROUNDS + 1)][1:]  # the first warms up
    ours, bare = map(median, zip(*rounds))
    print(f"{count} frames: {ours:.2f} s, ffmpeg {bare:.2f} s, ratio {ours / bare:.2f}", flush=True)


if __name__ == "__main__":
    os.environ["TEST_FFMPEG"] = shutil.which("ffmpeg") or ""  # the one that the program takes
    with tempfile.TemporaryDirectory() as name:
        Path(name, "val/Warehouse_016/videos").mkdir(parents=True)
        make_clip(Path(name, "val/Warehouse_016/videos/Camera_11.mp4"))
        for count in (8, 32):
            measure(Path(name), count)

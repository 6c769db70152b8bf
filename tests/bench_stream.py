"""Measures --stream beside the default: bytes, requests, wall time: `python tests/bench_stream.py` (10 minutes).

A local server with the speed of a good line stands in for the hub. The two ways take turns, round by round, each run
with an empty cache, and the middle of the rounds is shown. No test: run it by hand.
"""
from __future__ import annotations

import argparse
import functools
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests import clips, programs  # noqa: E402
from tests.bench_extraction import make_clip  # noqa: E402
from tests.hub_server import Hub  # noqa: E402

SCENE, CAMERA, SUBDIR = "Bench_000", "Camera_01", "MTMC_Tracking_2025"
PATH_IN_REPO = "{}/val/{}/videos/{}.mp4".format(SUBDIR, SCENE, CAMERA)
STRIDE, NFRAMES, TARGET_MB = 15, 8, 150
RULE_SEQUENCES = (5, 8, 10, 12, 15, 20)

Sequences = List[List[int]]


class Line(NamedTuple):
    megabits: float  # per second
    latency_ms: float  # of each request to the second host


class Measured(NamedTuple):
    megabytes: float
    seconds: float
    requests: int
    whole: bool


def count_frames(clip: Path) -> int:
    return sum(not packet.hidden for packet in clips.packets(clip))


def one_sequence(count: int, nframes: int) -> Sequences:
    """Two thirds into the clip, and 100 frames behind a key frame where these are 250 apart."""
    start = count * 2 // 3 // 250 * 250 + 100
    return [[start + STRIDE * index for index in range(nframes)]]


def spread_sequences(count: int, number: int) -> Sequences:
    """Evenly over the clip, at all distances from a key frame."""
    room = count - STRIDE * NFRAMES
    starts = [50 + int((index + 0.5) * (room - 50) / number) for index in range(number)]
    return [[start + STRIDE * index for index in range(NFRAMES)] for start in starts]


def run_once(clip: Path, sequences: Sequences, line: Line, stream: bool, share: Optional[float] = None) -> Measured:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        records = [clips.record(ids, scene=SCENE, camera=CAMERA, object_id=number)
                   for number, ids in enumerate(sequences)]
        arguments = ["--benchmark", str(clips.write_benchmark(folder / "benchmark.jsonl", records)), "--quiet",
                     "--output-dir", str(folder / "out"), "--nframes", str(len(sequences[0])), *["--stream"] * stream]
        with Hub({PATH_IN_REPO: clip}, latency=line.latency_ms / 1000, bandwidth=line.megabits * 1e6 / 8) as hub:
            command = programs.command(arguments, None if share is None else {"STREAM_SHARE": share})
            began = time.monotonic()
            done = subprocess.run(command, env=hub.env(folder), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, encoding="utf-8")
            seconds = time.monotonic() - began
            if done.returncode:
                raise SystemExit(done.stderr)
            whole = any(request.range is None for request in hub.matching(host="cdn"))
            return Measured(hub.bytes_sent() / 1e6, seconds, len(hub.requests), whole)


def take_turns(clip: Path, sequences: Sequences, line: Line, rounds: int,
               share: Optional[float] = None) -> Tuple[Measured, Measured]:
    """(as a download, as a stream)"""
    runs: Dict[bool, List[Measured]] = {False: [], True: []}
    for number in range(rounds):
        for stream in ((False, True), (True, False))[number % 2]:
            runs[stream].append(run_once(clip, sequences, line, stream, share))
    found = [Measured(median(run.megabytes for run in runs[stream]), median(run.seconds for run in runs[stream]),
                      int(median(run.requests for run in runs[stream])), runs[stream][0].whole)
             for stream in (False, True)]
    return found[0], found[1]


def print_table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Each row as soon as it is measured."""
    print("\n| " + " | ".join(header) + " |\n|" + " --- |" * len(header), flush=True)
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |", flush=True)


def cells(name: str, download: Measured, stream: Measured) -> List[str]:
    return [name, "%.1f MB" % download.megabytes, "%.1f MB%s" % (stream.megabytes, " (whole)" * stream.whole),
            "%.1f s" % download.seconds, "%.1f s" % stream.seconds, str(download.requests), str(stream.requests)]


def compare(clip: Path, count: int, line: Line, rounds: int) -> None:
    cases = [("1 sequence, %d frame%s" % (nframes, "s" * (nframes > 1)), one_sequence(count, nframes))
             for nframes in (1, NFRAMES, 32)]
    cases += [("%d sequences of %d frames" % (number, NFRAMES), spread_sequences(count, number)) for number in (5, 20)]
    print_table(["wanted of one video", "bytes, default", "bytes, --stream", "time, default", "time, --stream",
                 "requests, default", "requests, --stream"],
                (cells(name, *take_turns(clip, sequences, line, rounds)) for name, sequences in cases))


def both_ends(clip: Path, count: int, line: Line, scratch: Path) -> None:
    """Bytes of 8 frames over 105, the index behind the pictures and before them; at several places of the video."""
    starts = [count // 10, count // 3 // 250 * 250 + 5, count * 2 // 3 // 250 * 250 + 240, count - 110]

    def rows() -> Iterator[List[str]]:
        for name, flags in (("last", []), ("first", ["-movflags", "faststart"])):
            version = scratch / (name + ".mp4")
            clips.run_ffmpeg(["-i", str(clip), "-map", "0:v:0", "-c", "copy", *flags, str(version)])
            used = [run_once(version, [[start + STRIDE * index for index in range(NFRAMES)]], line, True).megabytes
                    for start in starts]
            # Whether a clip is larger by its length or by its bit rate: no part of it grows faster than the whole.
            scale = max(1.0, TARGET_MB * 1e6 / clip.stat().st_size)
            yield [name, *["%.1f MB" % one for one in used], "%.1f MB" % (max(used) * scale)]

    print_table(["index", *["from frame %d" % start for start in starts], "most, scaled to %d MB" % TARGET_MB], rows())


def judge_rule(clip: Path, count: int, line: Line, rounds: int) -> None:
    """Streams whatever is wanted, to see up to which share of the video that is quicker than a download."""
    size = clip.stat().st_size / 1e6

    def rows() -> Iterator[List[Any]]:
        for number in RULE_SEQUENCES:
            download, stream = take_turns(clip, spread_sequences(count, number), line, rounds, share=2.0)
            yield [number, "%.0f %%" % (100 * stream.megabytes / size), "%.1f s" % download.seconds,
                   "%.1f s" % stream.seconds, "%+.1f s" % (stream.seconds - download.seconds)]

    print_table(["sequences", "share that is fetched", "download", "stream", "difference"], rows())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, help="an MP4 file (default: one is made, 1920x1080, 104 MB)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabits", type=float, default=100.0, help="per second (default: 100)")
    parser.add_argument("--latency-ms", type=float, default=30.0, help="of each request (default: 30)")
    parser.add_argument("--only", choices=["table", "bytes", "rule"], help="one of the three tables")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        clip = args.clip or Path(scratch, "clip.mp4")
        if not args.clip:
            make_clip(clips.ffmpeg_exe(), clip)
        count, line = count_frames(clip), Line(args.megabits, args.latency_ms)
        print("%.0f MB, %d frames; %g Mbit/s, %g ms per request; median of %d rounds; Python %s, %s"
              % (clip.stat().st_size / 1e6, count, line.megabits, line.latency_ms, args.rounds,
                 sys.version.split()[0], hub_client()), flush=True)
        parts = {"table": functools.partial(compare, clip, count, line, args.rounds),
                 "bytes": functools.partial(both_ends, clip, count, line, Path(scratch)),
                 "rule": functools.partial(judge_rule, clip, count, line, args.rounds)}
        for name, part in parts.items():
            if args.only in (None, name):
                part()


def hub_client() -> str:
    import huggingface_hub
    return "huggingface_hub " + str(huggingface_hub.__version__)


if __name__ == "__main__":
    main()

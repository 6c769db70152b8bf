"""A world whose videos lie on the hub of hub_server: what a run gets from there, and whether it is right."""
from __future__ import annotations

import functools
import re
import struct
from importlib import metadata
from pathlib import Path
from typing import Any, Sequence

from tests import clips
from tests.hub_server import REPO, Hub
from tests.world import Run, World, clip

SCENE, IDS = "Warehouse_016", [2, 9]
CAMERAS = [f"Camera_{number:02d}" for number in range(1, 21)]
ONE, TWO, THREE = CAMERAS[:3]
SMALL, BIG = 1 << 19, 4 << 20  # bytes of a video; and of one that pays to be streamed
FLAG_TOKEN = "hf_FLAGxUNMISTAKABLE"
NEVER_SHOWN = ("UNMISTAKABLE", "SIGNED-", "X-Amz-", "Traceback")
PLAIN_HTTP = {"HF_HUB_DISABLE_XET": "1"}
HAS_XET = int(metadata.version("huggingface_hub").split(".")[0]) >= 1  # older clients go by plain HTTP
FILE_HOST, IDLE_HOST = ("xorb", "cdn") if HAS_XET else ("cdn", "xorb")  # that sends files, and that does not


def padded(data: bytes, size: int, end: bytes = b"") -> bytes:
    """Return a clip with bytes behind it that no picture needs."""
    return data + struct.pack(">I4s", size - len(data), b"free") + end.rjust(size - len(data) - 8)


@functools.lru_cache(maxsize=None)
def video_bytes(camera: str, size: int = SMALL) -> bytes:
    """Return the same pictures for each camera, but other bytes at the end."""
    return padded(clip("h264_bframes").read_bytes(), size, camera.encode())


def path_of(camera: str) -> str:
    return f"MTMC_Tracking_2025/val/{SCENE}/videos/{camera}.mp4"


def record_of(camera: str, ids: Sequence[int] = IDS) -> dict[str, Any]:
    return clips.record(ids, scene=SCENE, camera=camera)


def select(*cameras: str) -> Sequence[str]:
    """Return the arguments that select these cameras' sequences."""
    return ["--sequences", *[str(record_of(camera)["seq_id"]) for camera in cameras]]


def retries(run: Run, camera: str = "") -> list[str]:
    """Return the lines that announce a retry."""
    return re.findall(rf"^.*{camera}.*, retry \d/4 in .*", run.err, re.MULTILINE)


class HubWorld:
    def __init__(self, world: World, hub: Hub) -> None:
        self.world, self.hub = world, hub

    def put_videos(self, count: int, size: int = SMALL) -> list[str]:
        """Put so many videos on the hub, with a record each; return their cameras."""
        cameras = CAMERAS[:count]
        self.world.write_records(*map(record_of, cameras))
        for camera in cameras:
            self.hub.put(path_of(camera), video_bytes(camera, size))
        return cameras

    def prepare(self, *args: Any, output: str = "out", token: str | None = FLAG_TOKEN,
                nframes: int = len(IDS), **options: Any) -> Run:
        """Run the program with short waits before retries; whatever it says or writes, it tells no secret."""
        given = [*args, "--output-dir", self.world.folder / output]
        given += [] if token is None else ["--hf-token", token]
        changes = {"shorten_sleeps": {"seconds": 0.02}, **options.pop("changes", {})}
        run = self.world.prepare(*given, nframes=nframes, changes=changes, **options)
        text = "".join([run.out, run.err, *run.tree])
        assert not [word for word in NEVER_SHOWN if word in text], text
        assert not [request for request in self.hub.requests
                    if request.host in ("cdn", "xorb") and request.authorization]
        return run

    def bytes_sent(self, camera: str = "") -> list[int]:
        """Return how many bytes of files came from FILE_HOST, and from IDLE_HOST (with PLAIN_HTTP: the files)."""
        return [self.hub.bytes_sent(host, camera) for host in (FILE_HOST, IDLE_HOST)]

    def is_ready(self, camera: str, output: str = "out") -> bool:
        """Return whether a camera's sequence is there; then it must be right."""
        directory = self.world.folder / output / str(record_of(camera)["seq_id"])
        if not (directory / "sequence_meta.json").is_file():
            return False
        images = map(clips.read_png, sorted((directory / "frames").glob("f[0-9][0-9].png")))
        assert [clips.read_index(image.rgb, image.width, image.height) for image in images] == IDS
        assert f'"revision": "{self.hub.commit}"' in (directory / "sequence_meta.json").read_text()
        return True

    def cached_files(self, camera: str) -> list[Path]:
        """Return all files in the cache that are as large as the video, and end as it does."""
        size = self.hub.repos[REPO][path_of(camera)].size
        return [path for path in self.world.cache.rglob("*") if path.is_file() and not path.is_symlink()
                and path.stat().st_size == size and path.read_bytes().endswith(camera.encode())]

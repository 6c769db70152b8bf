from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Callable, Iterator

import pytest
from hypothesis import settings

from tests import clips
from tests.hub_server import Hub
from tests.hub_world import HubWorld
from tests.world import World

settings.register_profile("same every time", deadline=None, derandomize=True, database=None)
settings.load_profile("same every time")


@pytest.fixture(scope="session", autouse=True)
def chosen_ffmpeg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The program takes the first ffmpeg on PATH: the one that the tests measure with."""
    folder, exe = tmp_path_factory.mktemp("bin"), Path(clips.ffmpeg_exe()).resolve()
    if os.name == "nt":
        shutil.copyfile(str(exe), str(folder / "ffmpeg.exe"))
    else:
        (folder / "ffmpeg").symlink_to(exe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        yield


@pytest.fixture()
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture()
def hub_world(world: World) -> Iterator[HubWorld]:
    """A hub with the videos of two cameras, which come by Xet where the client can."""
    with Hub() as hub:
        world.env.update(hub.env(world.folder), HF_XET_CLIENT_READ_TIMEOUT="1s",
                         HF_XET_CLIENT_CONNECT_TIMEOUT="1s", HF_XET_CLIENT_RETRY_MAX_ATTEMPTS="0")
        world.use_cache()
        hub_world = HubWorld(world, hub)
        hub_world.put_videos(2)
        yield hub_world


@pytest.fixture()
def mount_disk(world: World) -> Iterator[Callable[[str], None]]:
    """Put world.folder/"disk" on a disk in memory with the given options, or change them."""
    if os.name == "nt":
        pytest.skip("Windows has no disks in memory")
    folder = world.folder / "disk"
    folder.mkdir()

    def mount(options: str) -> None:
        options = "remount," * os.path.ismount(str(folder)) + options
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            pytest.skip("only root may mount a disk that is full: " + done.stdout.decode())

    yield mount
    if os.path.ismount(str(folder)):
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(autouse=True)
def nothing_left_behind(
        tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test leaves a child process, or a file in the folder in which it was started."""
    before, cwd = child_processes(), tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(cwd)
    yield
    assert list(cwd.iterdir()) == []
    assert child_processes() <= before


def child_processes() -> set[str]:
    children: set[str] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has just ended
            children.update(path.read_text().split())
    return children

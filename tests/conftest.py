from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any, Iterator

import pytest
from hypothesis import settings

from tests import clips
from tests.hub_world import HubWorld, open_hub_world
from tests.world import World

TEST_TIMEOUT_S = 400  # for one test, on a busy machine

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
    with open_hub_world(world) as one:
        yield one


@pytest.fixture(autouse=True)
def time_limit(request: Any) -> Iterator[None]:
    """A test that hangs fails where it hangs."""
    limited = hasattr(signal, "SIGALRM") and not request.config.getoption("usepdb")
    if limited:
        signal.signal(signal.SIGALRM, fail_hanging_test)
        signal.alarm(TEST_TIMEOUT_S)
    yield
    if limited:
        signal.alarm(0)


def fail_hanging_test(*_: Any) -> None:
    pytest.fail("the test hangs")  # no Exception, so nothing on its way takes it for a failure of its own


@pytest.fixture(autouse=True)
def nothing_left_behind(
        tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test leaves a child process, or a file in the folder in which it was started."""
    before, cwd = child_processes(), tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(cwd)
    yield
    assert list(cwd.iterdir()) == []
    assert set(child_processes()) <= set(before)


def child_processes() -> list[str]:
    return [pid for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was not tested."""
    for report in terminalreporter.stats.get("skipped", []):
        terminalreporter.write_line(f"NOT TESTED {report.nodeid}: {report.longrepr[-1]}")

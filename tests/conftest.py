from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from hypothesis import settings

from tests import clips
from tests.world import World
from tests.world import clip as clip_of

HANGING_SECONDS = 400  # for one test, on a busy machine

settings.register_profile("same every time", deadline=None, derandomize=True, database=None)
settings.load_profile("same every time")


@pytest.fixture(scope="session", autouse=True)
def chosen_ffmpeg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The program takes the ffmpeg on PATH; let it be the one that the tests measure with."""
    with pytest.MonkeyPatch.context() as patch:
        put_first_on_path(clips.ffmpeg_exe(), tmp_path_factory.mktemp("bin"), patch)
        yield


def put_first_on_path(exe: str, folder: Path, patch: pytest.MonkeyPatch) -> None:
    (folder / "ffmpeg").symlink_to(Path(exe).resolve())
    patch.setenv("PATH", str(folder), prepend=os.pathsep)


@pytest.fixture(params=clips.ffmpegs(), ids=lambda exe: Path(exe).name)
def ffmpeg(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each ffmpeg that is here, as the one on PATH; for what depends on how it ends."""
    (tmp_path / "bin").mkdir()
    put_first_on_path(request.param, tmp_path / "bin", monkeypatch)
    return str(request.param)


@pytest.fixture()
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture()
def clip() -> Callable[[str], Path]:
    return clip_of


def children() -> list[str]:
    return [pid for task in Path("/proc/self/task").glob("*/children") for pid in task.read_text().split()]


def hangs(*_: Any) -> None:
    pytest.fail("the test hangs")  # no Exception: nothing on its way takes it for a failure of its own


@pytest.fixture(autouse=True)
def an_end() -> Iterator[None]:
    """A test that hangs fails, where it hangs: the suite always comes to its end."""
    signal.signal(signal.SIGALRM, hangs)
    signal.alarm(HANGING_SECONDS)
    yield
    signal.alarm(0)


@pytest.fixture(autouse=True)
def nothing_left_behind(
        tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No child process, and no file in the folder in which the test was started."""
    before, cwd = children(), tmp_path_factory.mktemp("cwd")
    monkeypatch.chdir(cwd)
    yield
    assert list(cwd.iterdir()) == []
    assert set(children()) <= set(before)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What was not tested is said, not left to a letter s."""
    for report in terminalreporter.stats.get("skipped", []):
        terminalreporter.write_line(f"NOT TESTED {report.nodeid}: {report.longrepr[-1]}")

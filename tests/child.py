"""Start the program as a child of a test, in surroundings that the test asks for.

`World.start` runs this file instead of the program itself. The variable SOT_TEST_CHANGES says in JSON what to
do before `main` is called: set "constants" (name -> value), do "without" some modules, and make "changes"
(function of this file -> its arguments).
"""
from __future__ import annotations

import builtins
import errno
import importlib.abc
import json
import os
import shutil
import signal
import sys
import time
import types
from pathlib import Path
from typing import Any, Callable

sys.path[0] = str(Path(__file__).resolve().parent.parent)


def shorten_sleeps(seconds: float) -> None:
    """Never sleep longer than this."""
    sleep = time.sleep
    time.sleep = lambda asked: sleep(min(asked, seconds))


def disable_locks() -> None:
    """Let locks do nothing, as between the nodes of a cluster."""
    import fcntl

    fcntl.flock = fcntl.lockf = lambda *_: None


def disable_symlinks() -> None:
    """Let os.symlink fail, as on Windows without developer mode."""
    def symlink(*_args: Any, **_options: Any) -> None:
        raise OSError("no symbolic links here")

    os.symlink = symlink


def limit_file_size(size: int) -> None:
    """Let no file of this process or its children grow beyond this size, as `ulimit -f` does."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def use_up_quota(folder: str) -> None:
    """Let no file below a folder be opened to write, as a quota does that is used up."""
    def refuse(path: str, event: str) -> None:
        if event == "open":
            raise OSError(errno.EDQUOT, "Disk quota exceeded", path)

    call_before_changes(folder, refuse)


def break_imports(names: list[str], error: str, words: str) -> None:
    """Let the import of these modules fail; or find an empty one, as an uninstall leaves it, without an error."""
    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, *_: Any) -> None:
            if name in names:
                raise getattr(builtins, error)(words)

    if error:
        sys.meta_path.insert(0, Finder())
    else:
        sys.modules.update((name, types.ModuleType(name)) for name in names)


def restore_interrupt() -> None:
    """Let Ctrl-C interrupt: a process in the background may have inherited that it is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start_only(programs: list[str]) -> None:
    """Let every other program look as if it were not installed."""
    def hook(event: str, arguments: Any) -> None:
        if event == "subprocess.Popen":
            # (program, command line, ...); on Windows the program is None
            started = str(arguments[0] or arguments[1].lstrip('"'))
            if not started.startswith(tuple(programs)):
                raise FileNotFoundError(2, "No such file or directory")

    sys.addaudithook(hook)


def stop_before_change(folder: str, number: int, signal_number: int, name: str = "") -> None:
    """Send this process a signal right before its number-th change of a file below a folder.

    A change: a file or folder is opened to write, gets its name, is made or removed, by Python (not by ffmpeg).
    With a name: right before the number-th time that a file gets this name. Unfinished files lie in hidden folders.
    """
    count = 0

    def stop(path: str, event: str) -> None:
        nonlocal count
        if not name or os.path.basename(path) == name and event == "os.rename":
            count += 1
            if count == number:
                os.kill(os.getpid(), signal_number)

    call_before_changes(folder, stop)


def copy_before_changes(folder: str, copies: str) -> None:
    """Copy a folder to `copies`/1, 2, ... before each change of a file below it: what a kill would leave."""
    count = 0

    def copy(_path: str, _event: str) -> None:
        nonlocal count
        count += 1
        shutil.copytree(folder, os.path.join(copies, str(count)), symlinks=True)

    call_before_changes(folder, copy)


def call_before_changes(folder: str, action: Callable[[str, str], None]) -> None:
    """Call action(path, event) before something below `folder` is opened to write, named, made or removed."""
    def hook(event: str, arguments: Any) -> None:
        path = changed_path(event, arguments)
        if path is None or not (os.path.abspath(path) + os.sep).startswith(folder + os.sep):
            return
        exists = os.path.lexists(path)
        if event == "os.mkdir" and exists or event in ("os.remove", "os.rmdir") and not exists:
            return  # it will fail, so it changes nothing
        action(os.path.abspath(path), event)

    sys.addaudithook(hook)


def changed_path(event: str, arguments: Any) -> str | None:
    """Return the path that an audit event is about to change."""
    if event == "open":
        path, _, flags = arguments
        writes = isinstance(path, (str, bytes)) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        return os.fsdecode(path) if writes else None
    if event in ("os.rename", "os.link", "os.symlink"):
        return os.fsdecode(arguments[1])
    if event == "os.truncate":
        return os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes)) else None
    if event in ("os.remove", "os.rmdir", "os.mkdir"):
        # shutil.rmtree names what is in a folder relative to an open descriptor of the folder.
        descriptor = arguments[-1]  # -1 if there is none
        folder = os.readlink(f"/proc/self/fd/{descriptor}") if descriptor >= 0 else ""
        return os.path.join(folder, os.fsdecode(arguments[0]))
    return None


def main() -> int:
    asked = json.loads(os.environ.pop("SOT_TEST_CHANGES"))
    sys.modules.update(dict.fromkeys(asked["without"]))  # type: ignore[arg-type]
    for name, value in asked["constants"].items():
        module, _, constant = name.rpartition(".")
        changed = importlib.import_module(module or "prepare_sot_dataset")
        getattr(changed, constant)  # a name that the module does not know is a mistake of the test
        setattr(changed, constant, tuple(value) if isinstance(value, list) else value)
    import prepare_sot_dataset

    for name, options in asked["changes"].items():
        globals()[name](**options)
    return prepare_sot_dataset.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())

"""The program as its users start it: a child process; and what it left on the disk."""
from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Union

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "prepare_sot_dataset.py"

Arguments = Sequence[Union[str, Path]]
Environment = Mapping[str, Optional[str]]


def command(args: Arguments, constants: Optional[Mapping[str, Any]] = None, prologue: str = "") -> List[str]:
    """`constants` are set in the module, and `prologue` (Python, with the module as `program`) runs, before main."""
    texts = [str(arg) for arg in args]
    if not constants and not prologue:
        return [sys.executable, str(PROGRAM), *texts]
    lines = ["import sys", "sys.path.insert(0, {!r})".format(str(ROOT)), "import prepare_sot_dataset as program"]
    lines += ["assert hasattr(program, {0!r}); program.{0} = {1!r}".format(name, value)
              for name, value in (constants or {}).items()]
    lines += [prologue, "raise SystemExit(program.main(sys.argv[1:]))"]
    return [sys.executable, "-c", "\n".join(lines), *texts]


def environment(changes: Optional[Environment] = None) -> Dict[str, str]:
    """This process's environment with some variables changed, or taken out where the value is None."""
    merged: Dict[str, Optional[str]] = {**os.environ, **(changes or {})}
    return {name: value for name, value in merged.items() if value is not None}


def run_program(args: Arguments, env: Optional[Environment] = None, constants: Optional[Mapping[str, Any]] = None,
                timeout: float = 60.0, prologue: str = "") -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(args, constants, prologue), env=environment(env), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", timeout=timeout)


def start_program(args: Arguments, env: Optional[Environment] = None, constants: Optional[Mapping[str, Any]] = None,
                  prologue: str = "", **popen: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen(command(args, constants, prologue), env=environment(env), stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", **popen)


# ---------------------------------------------------------------- output trees


def tree(folder: Union[str, Path]) -> Dict[str, str]:
    """Everything below a folder: path -> checksum of a file's bytes, or what else it is."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = "link to " + os.readlink(str(path))
        elif path.is_dir():
            found[name] = "folder"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


class Stamp(NamedTuple):
    """Changes whenever a file is written again, be it with the same bytes."""
    inode: int
    modified_ns: int


def stamps(folder: Union[str, Path]) -> Dict[str, Stamp]:
    found = {}
    for path in Path(folder).rglob("*"):
        if path.is_file():
            state = path.stat()
            found[path.relative_to(folder).as_posix()] = Stamp(state.st_ino, state.st_mtime_ns)
    return found


def rewritten(before: Mapping[str, Stamp], after: Mapping[str, Stamp]) -> List[str]:
    """The files that came, went or were written again."""
    return sorted(name for name in {**before, **after} if before.get(name) != after.get(name))


def strays(folder: Union[str, Path]) -> List[str]:
    """Files that no finished output has: anything hidden or temporary."""
    return sorted(name for name in tree(folder)
                  if name.rsplit("/", 1)[-1].startswith(".") or name.endswith((".tmp", ".part")))


# ---------------------------------------------------------------- stopping at an exact place
#
# Prologues for `command`: the process sends itself a signal between two lines of Python.

SIGNALS_ITSELF = """
import os
def watched(function, number_of_call, number, when, signal_number):
    def call(*args, **kwargs):
        hit = number_of_call(*args) == number
        if hit and when == "before":
            os.kill(os.getpid(), signal_number)
        result = function(*args, **kwargs)
        if hit and when == "after":
            os.kill(os.getpid(), signal_number)
        return result
    return call
"""


def at_rename(name: str, when: str, signal_number: int, number: int = 1) -> str:
    """Right before or after the number-th time that a file gets this name."""
    return SIGNALS_ITSELF + """
renames = []
def number_of_rename(source, target):
    if os.path.basename(str(target)) != {!r}:
        return 0
    renames.append(target)
    return len(renames)
os.replace = watched(os.replace, number_of_rename, {}, {!r}, {})
""".format(name, number, when, int(signal_number))


def before_change(folder: Union[str, Path], signal_number: int, number: int = 0) -> str:
    """Right before the number-th rename, removal or new folder below a folder (0: every one); prints their count."""
    return SIGNALS_ITSELF + """
import atexit
changes = []
def number_of_change(*paths):
    path = str(paths[-1])
    if not path.startswith({!r}) or len(paths) == 1 and not os.path.lexists(path):
        return -1
    changes.append(path)
    return len(changes) if {number} else 0
def number_of_folder(path, *mode):
    return -1 if os.path.isdir(path) else number_of_change(path, path)
os.mkdir = watched(os.mkdir, number_of_folder, {number}, "before", {signal})
for name in ("replace", "unlink"):
    setattr(os, name, watched(getattr(os, name), number_of_change, {number}, "before", {signal}))
atexit.register(lambda: print("changes:", len(changes)))
""".format(str(folder), number=number, signal=int(signal_number))

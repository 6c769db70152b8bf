"""A folder in which the program runs: its videos, its benchmark, its environment; and what it did there."""
from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import IO, Any, Iterator, Mapping, NamedTuple, Optional, Sequence, Union
from unittest import mock

import pyte
import pytest

import prepare_sot_dataset as program
from tests import clips
from tests.hub_server import Hub

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "prepare_sot_dataset.py"
RETRY_WAITS = "RETRY_DELAYS_S"  # the program's constant with the waits before the retries
PATIENCE = 120.0  # seconds for one run; a machine may be busy

Argument = Union[str, int, Path]
Environment = Mapping[str, Optional[str]]  # None: the variable is taken out


class Run(NamedTuple):
    code: int  # negative: the signal that ended it
    out: str
    err: str
    tree: dict[str, str]  # of the output folder
    children: tuple[tuple[str, ...], ...] = ()  # the commands that were started, by a run in this process

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("ERROR:")]


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.videos, self.output, self.cache = folder / "videos", folder / "out", folder / "cache"
        self.benchmark = folder / "benchmark.jsonl"
        self.videos.mkdir()
        self.defaults: dict[str, Path] = {"--benchmark": self.benchmark, "--video-dir": self.videos,
                                          "--output-dir": self.output}
        # Whatever the machine has set up for the hub stays out, and no test reaches the real one.
        self.env: dict[str, str | None] = {name: None for name in os.environ if re.match(
            "HF_|HUGGING|TRANSFORMERS_|FFREPORT|COLUMNS|LINES|(?i:.*_proxy$)", name)}
        self.env.update(HF_ENDPOINT="http://127.0.0.1:1", HF_HOME=str(folder / "hf_home"),
                        HF_HUB_DISABLE_TELEMETRY="1", NO_PROXY="127.0.0.1,localhost",
                        no_proxy="127.0.0.1,localhost", PYTHONDONTWRITEBYTECODE="1")
        self.only_as_child = False

    def video(self, kind: str = "mpeg4_bframes", camera: str = "Camera_11", scene: str = "Warehouse_016",
              **place: str) -> Path:
        return clips.lay_out(self.videos, clip(kind), scene, camera, **place)

    def records(self, *records: dict[str, Any]) -> Path:
        return clips.write_benchmark(self.benchmark, records)

    @contextlib.contextmanager
    def hub(self, **options: Any) -> Iterator[Hub]:
        """Runs get the videos from a hub; as children only, since its client reads the environment once."""
        before = dict(self.defaults), dict(self.env), self.only_as_child
        files = {path.relative_to(self.videos).as_posix(): path for path in self.videos.rglob("*.mp4")}
        with Hub(files, **options) as hub:
            self.env.update(hub.env(self.folder))
            self.defaults = {**self.defaults, "--hf-cache-dir": self.cache}
            del self.defaults["--video-dir"]
            self.only_as_child = True
            try:
                yield hub
            finally:
                self.defaults, self.env, self.only_as_child = before

    # ------------------------------------------------------------ running

    def arguments(self, given: Sequence[Argument]) -> list[str]:
        """With the world's own where none are given; --demo has a benchmark and a video of its own."""
        texts = [str(one) for one in given]
        named = {text.split("=")[0] for text in texts}
        own = {name: path for name, path in self.defaults.items() if name not in named
               and not ("--demo" in named and name in ("--benchmark", "--video-dir"))}
        return [text for name, path in own.items() for text in (name, str(path))] + texts

    def changed(self, env: Environment | None) -> dict[str, str]:
        merged: dict[str, str | None] = {**os.environ, **self.env, **(env or {})}
        return {name: value for name, value in merged.items() if value is not None}

    def prepare(self, *args: Argument, nframes: int | None = None, **how: Any) -> Run:
        return self.run(*(() if nframes is None else ("--nframes", nframes)), *args, **how)

    def run(self, *args: Argument, env: Environment | None = None,
            constants: Mapping[str, Any] | None = None, without: Sequence[str] = (), prologue: str = "",
            child: bool = False, fork: bool = False) -> Run:
        """Runs the program in this process, or in a child: a new one, or a fork, which needs no imports.

        `constants` are set in the module, modules in `without` cannot be imported, and `prologue` (Python,
        with the module as `program`) runs before main; it needs a child.
        """
        if child or self.only_as_child:
            process = self.start(*args, env=env, constants=constants, without=without, prologue=prologue)
            try:
                out, err = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
                process.wait()
            return self.ended(args, process.returncode, out, err)
        if prologue and not fork:
            raise ValueError("a prologue may change this process for good")
        with _text_file() as out_file, _text_file(errors="backslashreplace") as err_file, \
                _as_it_was(self.changed(env), without, out_file, err_file, constants or {}) as children:
            code = _forked(self.arguments(args), prologue) if fork else _main(self.arguments(args))
            texts = [_text_of(file) for file in (out_file, err_file)]
            alive = [one.args for one in children if one.returncode is None and one.poll() is None]
            if alive and not fork:
                raise AssertionError(f"still running: {alive}")
            return self.ended(args, code, *texts, [one.args for one in children])

    def start(self, *args: Argument, env: Environment | None = None,
              constants: Mapping[str, Any] | None = None, without: Sequence[str] = (), prologue: str = "",
              **popen: Any) -> subprocess.Popen[str]:
        lines = ["import sys", f"sys.path.insert(0, {str(ROOT)!r})"]
        lines += [f"sys.modules[{name!r}] = None" for name in without]
        lines += ["import prepare_sot_dataset as program"]
        lines += [f"assert hasattr(program, {name!r}); program.{name} = {value!r}"
                  for name, value in (constants or {}).items()]
        lines += [prologue, "raise SystemExit(program.main(sys.argv[1:]))"]
        changed = constants or without or prologue
        started = ["-c", "\n".join(lines)] if changed else [str(PROGRAM)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([sys.executable, *started, *self.arguments(args)],
                                **{"env": self.changed(env), "encoding": "utf-8", **pipes, **popen})

    def in_terminal(self, *args: Argument, columns: int = 120, env: Environment | None = None,
                    **start: Any) -> Run:
        """In a terminal of this width; `out` is all that was written to it."""
        import fcntl
        import pty
        import termios

        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 50, columns, 0, 0))
        process = self.start(*args, env={"TERM": "xterm", **(env or {})}, stdin=theirs, stdout=theirs,
                             stderr=theirs, **start)
        os.close(theirs)
        written = b""
        try:
            with contextlib.suppress(OSError):  # so Linux says that the last writer has gone
                for some in iter(lambda: os.read(ours, 1 << 16), b""):
                    written += some
            code = process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()
            os.close(ours)
        return self.ended(args, code, written.decode("utf-8", "replace"), "")

    def ended(self, args: Sequence[Argument], code: int, out: str, err: str,
              children: Sequence[Any] = ()) -> Run:
        texts = self.arguments(args)
        named = [texts[at + 1] for at, text in enumerate(texts[:-1]) if text == "--output-dir"]
        output = Path(named[-1]).expanduser() if named else self.output
        return Run(code, out, err, tree(output), tuple(tuple(map(str, one)) for one in children))

    # ------------------------------------------------------------ reading what it made

    def meta(self, seq_id: str) -> dict[str, Any]:
        return dict(json.loads((self.output / seq_id / "sequence_meta.json").read_text(encoding="utf-8")))

    def manifest(self) -> dict[str, Any]:
        return dict(json.loads((self.output / "gt_requests.json").read_text(encoding="utf-8")))


def clip(kind: str) -> Path:
    missing = clips.KINDS[kind].missing()
    if missing:
        pytest.skip(missing)
    return clips.clip(kind)


def _forget() -> None:
    """A run in this process leaves no answers to another, with another PATH or other modules."""
    for cached in vars(program).values():
        getattr(cached, "cache_clear", lambda: None)()


def _main(args: Sequence[str]) -> int:
    _forget()
    try:
        return program.main(list(args))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


def _forked(args: Sequence[str], prologue: str) -> int:
    with warnings.catch_warnings():
        # Of threads; pytest's hold nothing that main needs.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 70
        try:
            exec(prologue, {"program": program})
            code = _main(args)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    try:
        _, status = os.waitpid(pid, 0)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


@contextlib.contextmanager
def _as_it_was(env: dict[str, str], without: Sequence[str], out: IO[str], err: IO[str],
               constants: Mapping[str, Any]) -> Iterator[list[subprocess.Popen[Any]]]:
    """Puts back what main changes in its process, and what the run needed changed."""
    children: list[subprocess.Popen[Any]] = []
    start, cwd = subprocess.Popen.__init__, os.getcwd()

    def recorded(child: subprocess.Popen[Any], *args: Any, **kwargs: Any) -> None:
        start(child, *args, **kwargs)
        children.append(child)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    modules = {name: module for name, module in sys.modules.items() if name.split(".")[0] in without}
    sys.modules.update(dict.fromkeys([*without, *modules]))  # type: ignore[arg-type]
    try:
        with mock.patch.dict(os.environ, env, clear=True), mock.patch.multiple(sys, stdout=out, stderr=err), \
                mock.patch.object(subprocess.Popen, "__init__", recorded), contextlib.ExitStack() as patches:
            for name, value in constants.items():
                patches.enter_context(mock.patch.object(program, name, value))
            yield children
    finally:
        _forget()
        for name in without:
            del sys.modules[name]
        sys.modules.update(modules)
        os.chdir(cwd)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _text_file(errors: str = "strict") -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors=errors, newline="")


def _text_of(file: IO[str]) -> str:
    if not file.closed:
        file.flush()
    file.seek(0)
    return file.read()


# ---------------------------------------------------------------- output trees


def tree(folder: Path) -> dict[str, str]:
    """Everything below a folder: path -> checksum of a file's bytes, or what else it is."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = "link to " + os.readlink(str(path))
        elif path.is_dir():
            found[name] = "folder"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Changes whenever a file is written again, be it with the same bytes."""
    return {path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in folder.rglob("*") if path.is_file()}


def rewritten(before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]) -> list[str]:
    """The files that came, went or were written again."""
    return sorted(name for name in {**before, **after} if before.get(name) != after.get(name))


def strays(names: Mapping[str, str]) -> list[str]:
    """Those that no finished output has: anything hidden or temporary."""
    return sorted(name for name in names if re.search(r"(^|/)\.|\.(tmp|part)$", name))


def age(folder: Path, days: float = 2) -> None:
    """Makes what a killed run left as old as this."""
    for name in strays(tree(folder)):
        if not (folder / name).is_symlink():
            os.utime(str(folder / name), (time.time() - days * 86400,) * 2)


# ---------------------------------------------------------------- stopping at an exact place

_AT_CHANGE = """
import os, sys
main, changes = program.main, []
def counted(argv):
    try:
        return main(argv)
    finally:
        print("changes:", len(changes))
program.main = counted
def hook(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        if not isinstance(path, (str, bytes)) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        path = [path]
    elif event in ("os.rename", "os.link", "os.symlink"):
        path = arguments[:2]
    elif event in ("os.remove", "os.rmdir", "os.mkdir", "os.truncate"):
        # shutil.rmtree names what is in a folder beside an open descriptor of it.
        at = arguments[-1] if event != "os.truncate" else -1
        path = [os.path.join(os.readlink("/proc/self/fd/%d" % at) if at >= 0 else "", arguments[0])]
    else:
        return
    path = os.path.abspath(os.fsdecode(path[-1]))
    if not path.startswith(FOLDER) or NAME and (os.path.basename(path) != NAME or event != "os.rename"):
        return
    if event in ("os.remove", "os.rmdir") and not os.path.lexists(path):
        return
    if event == "os.mkdir" and os.path.isdir(path):
        return
    changes.append(path)
    if len(changes) == NUMBER:
        os.kill(os.getpid(), SIGNAL)
sys.addaudithook(hook)
"""


def at_change(folder: Path, number: int, signal_number: int = getattr(signal, "SIGKILL", 9),
              name: str = "") -> str:
    """A prologue: the process sends itself a signal right before the number-th change below a folder.

    With a name: right before the number-th time that a file gets this name. Number 0 only counts; a run that
    comes to its end prints the count.
    """
    values = {"FOLDER": str(folder), "NUMBER": number, "SIGNAL": int(signal_number), "NAME": name}
    return "".join("{} = {!r}\n".format(*item) for item in values.items()) + _AT_CHANGE


def obey_permissions() -> None:
    """As preexec_fn: the bits of files bind the child, even one of root's (linux/prctl.h, linux/capability.h)."""
    PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2
    if os.geteuid() == 0:
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)


# ---------------------------------------------------------------- what stands on a terminal


def screen(text: str, columns: int) -> list[str]:
    """The lines that are left on a terminal of this width, long enough for all."""
    display = pyte.Screen(columns, 300)
    pyte.Stream(display).feed(text)
    return [line.rstrip() for line in display.display]

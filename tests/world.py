"""World: a folder with videos, a benchmark and an environment, in which the program runs. Run: what it did."""
from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any, Callable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, TextIO, Union
from unittest import mock

import pytest

import prepare_sot_dataset as program
from tests import clips

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
PROGRAM = ROOT / "prepare_sot_dataset.py"
TIMEOUT_S = 120.0  # for one run; a machine may be busy
KILLED = 9 if os.name == "nt" else -9  # the exit code of a process that was killed

Argument = Union[str, int, Path]
Environment = Mapping[str, Optional[str]]  # None: the variable is taken out
Changes = Mapping[str, Mapping[str, Any]]  # function of child.py -> its arguments
Step = List[Any]


def needs_posix(what: str) -> pytest.MarkDecorator:
    """Mark a test that needs something which Windows does not have."""
    return pytest.mark.skipif(os.name == "nt", reason=f"Windows has no {what}")


class Run(NamedTuple):
    """What a run of the program did."""
    code: int
    out: str
    err: str
    tree: dict[str, str]  # of the output folder, see tree()
    children: tuple[tuple[str, ...], ...] = ()  # that it started; known for runs in this process

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("ERROR:")]


def assert_explained(run: Run) -> None:
    """The run ended well or says why, shows no traceback, and writes nothing that could steer a terminal."""
    text = (run.out + run.err).replace("\n", "")
    assert run.code in (0, 1, 2) and "Traceback" not in run.err, run
    assert not {unicodedata.category(char) for char in text} & {"Cc", "Cf", "Cs"}, run  # control, bidirectional
    assert not run.code or re.search("^(ERROR|prepare_sot_dataset.py: error): .{18}", run.err, re.M), run


class World:
    """`prepare` runs the program on it and waits; `start` and `finish` are its halves, for a child.

    `run` takes a whole command line.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.videos, self.output, self.cache = folder / "videos", folder / "out", folder / "cache"
        self.benchmark = folder / "benchmark.jsonl"
        self.videos.mkdir()
        self.source: dict[str, Path] = {"--video-dir": self.videos}
        # No setting of this machine for the hub gets in, and no test reaches the real hub.
        steering = re.compile("HF_|HUGGING|TRANSFORMERS_|FFREPORT|COLUMNS|LINES|(?i:.*_proxy$)")
        self.env: dict[str, str | None] = {name: None for name in os.environ if steering.match(name)}
        self.env.update(HF_ENDPOINT="http://127.0.0.1:1", HF_HOME=str(folder / "hf_home"),
                        HF_HUB_DISABLE_TELEMETRY="1", NO_PROXY="127.0.0.1,localhost",
                        no_proxy="127.0.0.1,localhost", PYTHONDONTWRITEBYTECODE="1",
                        PYTHONIOENCODING="utf-8")  # as `start` reads it, also on Windows

    # ------------------------------------------------------------ what the program reads

    def put_video(self, kind: str = "mpeg4_bframes", camera: str = "Camera_11", scene: str = "Warehouse_016",
                  **place: str) -> Path:
        """Put a clip where the benchmark's records look for it; return its path."""
        return clips.put_clip(self.videos, clip(kind), scene, camera, **place)

    def write_records(self, *records: dict[str, Any]) -> Path:
        """Write the benchmark."""
        return clips.write_benchmark(self.benchmark, records)

    def use_cache(self) -> None:
        """Let runs look for videos in the hub's cache; no hub answers there."""
        self.source = {"--hf-cache-dir": self.cache}

    # ------------------------------------------------------------ running the program

    def prepare(self, *args: Argument, nframes: int | None = None, child: bool = False, **how: Any) -> Run:
        """Run the program with this world's own values where `args` give none: in this process, or as a child.

        `how` may hold: `env`, variables; `constants`, NAME of the program or module.NAME -> value; `without`,
        modules that cannot be imported; `changes`, functions of child.py -> their arguments; and what Popen takes.
        The last two make it a child, whose own children are unknown. Without `nframes` the program's default counts.
        """
        if child or set(how) - {"env", "constants", "without"}:
            return self.finish(self.start(*args, nframes=nframes, **how))
        return self.run(self.arguments(args, nframes), **how)

    def run(self, arguments: Sequence[str], env: Environment | None = None,
            constants: Mapping[str, Any] | None = None, without: Sequence[str] = ()) -> Run:
        """Run the program in this process with exactly these arguments."""
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors, newline="")
                    for errors in ("strict", "backslashreplace"))
        with _restored(self.environment(env), without, out, err, constants or {}) as children:
            code = _call_main(list(arguments))
            out.flush(), err.flush()
            texts = [stream.buffer.getvalue().decode("utf-8") for stream in (out, err)]
            commands = tuple(tuple(map(str, child.args)) for child in children)  # type: ignore[arg-type]
        return Run(code, *texts, tree(self.output_of(arguments)), commands)

    def start(self, *args: Argument, nframes: int | None = None, env: Environment | None = None,
              constants: Mapping[str, Any] | None = None, without: Sequence[str] = (),
              changes: Changes | None = None, **popen: Any) -> subprocess.Popen[str]:
        """Start the program as a child; `finish` waits for it."""
        environment, script = self.environment(env), PROGRAM
        if constants or without or changes:
            script = TESTS / "child.py"
            environment["SOT_TEST_CHANGES"] = json.dumps(
                {"constants": constants or {}, "without": list(without), "changes": changes or {}})
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([sys.executable, str(script), *self.arguments(args, nframes)],
                                **{"env": environment, "encoding": "utf-8", **pipes, **popen})

    def finish(self, process: subprocess.Popen[str]) -> Run:
        """Wait until a child ends, and return what it did."""
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()
            process.wait()
        output = self.output_of(process.args)  # type: ignore[arg-type]
        return Run(process.returncode, out or "", err or "", tree(output))

    def finish_all(self, *processes: subprocess.Popen[str]) -> list[Run]:
        """Wait until all these children have ended, before looking at what they have written."""
        for process in processes:
            process.wait(TIMEOUT_S)
        return [self.finish(process) for process in processes]

    def in_terminal(self, *args: Argument, columns: int = 120, env: Environment | None = None,
                    **options: Any) -> Run:
        """Run the program in a terminal of this width; `out` is all that was written to it."""
        fcntl, pty, termios = map(pytest.importorskip, ("fcntl", "pty", "termios"))  # Windows has none of them
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 50, columns, 0, 0))  # of 50 rows
        process = self.start(*args, env={"TERM": "xterm", **(env or {})}, stdin=theirs, stdout=theirs,
                             stderr=theirs, **options)
        os.close(theirs)
        written = b""
        try:
            with contextlib.suppress(OSError):  # Linux raises it when the last writer has gone
                for chunk in iter(lambda: os.read(ours, 1 << 16), b""):
                    written += chunk
            return self.finish(process)._replace(out=written.decode("utf-8", "replace"))
        finally:
            os.close(ours)

    def arguments(self, args: Sequence[Argument], nframes: int | None = None) -> list[str]:
        """Return the command line: with this world's output, benchmark and videos, unless `args` name them."""
        given = [str(argument) for argument in args]
        names = {argument.split("=")[0] for argument in given}
        own: dict[str, Any] = {"--output-dir": self.output}
        own.update({} if nframes is None else {"--nframes": nframes})
        if "--demo" not in names:  # the demo has a benchmark and a video of its own
            own.update({"--benchmark": self.benchmark, **self.source})
        pairs = [(name, str(value)) for name, value in own.items() if name not in names]
        return [text for pair in pairs for text in pair] + given

    def output_of(self, arguments: Sequence[str]) -> Path:
        named = [after for name, after in zip(arguments, arguments[1:]) if name == "--output-dir"]
        return Path(named[-1]).expanduser() if named else self.output

    def environment(self, env: Environment | None = None) -> dict[str, str]:
        merged: dict[str, str | None] = {**os.environ, **self.env, **(env or {})}
        return {name: value for name, value in merged.items() if value is not None}

    # ------------------------------------------------------------ what the program wrote

    def read_meta(self, seq_id: str) -> dict[str, Any]:
        return dict(json.loads((self.output / seq_id / "sequence_meta.json").read_text(encoding="utf-8")))

    def read_gt_requests(self) -> dict[str, Any]:
        return dict(json.loads((self.output / "gt_requests.json").read_text(encoding="utf-8")))


def clip(kind: str) -> Path:
    """Return the clip of this kind; skip the test where ffmpeg cannot make it."""
    missing = clips.KINDS[kind].missing()
    if missing:
        pytest.skip(missing)
    return clips.clip(kind)


# ---------------------------------------------------------------- a run in this process


def _call_main(arguments: list[str]) -> int:
    _clear_caches()
    try:
        return program.main(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)


def _clear_caches() -> None:
    """Let a run find nothing that another one has learnt with another PATH or other modules."""
    for value in vars(program).values():
        getattr(value, "cache_clear", lambda: None)()


@contextlib.contextmanager
def _restored(env: Mapping[str, str], without: Sequence[str], out: TextIO, err: TextIO,
              constants: Mapping[str, Any]) -> Iterator[list[subprocess.Popen[Any]]]:
    """Change this process as a run needs it, record the children, and put everything back."""
    children: list[subprocess.Popen[Any]] = []
    start, cwd = subprocess.Popen.__init__, os.getcwd()

    def start_recorded(child: subprocess.Popen[Any], *args: Any, **kwargs: Any) -> None:
        start(child, *args, **kwargs)
        children.append(child)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    modules = {name: module for name, module in sys.modules.items() if name.split(".")[0] in without}
    sys.modules.update(dict.fromkeys([*without, *modules]))  # type: ignore[arg-type]  # None: no import of it
    try:
        with contextlib.ExitStack() as patches:
            patches.enter_context(mock.patch.dict(os.environ, env, clear=True))
            patches.enter_context(mock.patch.multiple(sys, stdout=out, stderr=err))
            patches.enter_context(mock.patch.object(subprocess.Popen, "__init__", start_recorded))
            for name, value in constants.items():
                module, _, constant = name.rpartition(".")
                patched = importlib.import_module(module or "prepare_sot_dataset")
                patches.enter_context(mock.patch.object(patched, constant, value))
            yield children
    finally:
        _clear_caches()
        for name in without:
            del sys.modules[name]
        sys.modules.update(modules)
        os.chdir(cwd)
        for number, handler in handlers.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------- folders and files


def tree(folder: Path) -> dict[str, str]:
    """Return everything below a folder: path -> checksum of a file, "folder", or where a link leads."""
    contents = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            contents[name] = "link to " + os.readlink(str(path))
        elif path.is_dir():
            contents[name] = "folder"
        elif path.is_file():
            contents[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            contents[name] = "special"
    return contents


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Return path -> (inode, time) of all files: it changes also when the same bytes are written again."""
    return {path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in folder.rglob("*") if path.is_file()}


def changed_files(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the files that came, went or were written again between two calls of `stamps` or `tree`."""
    return sorted(name for name in {**before, **after} if before.get(name) != after.get(name))


def temporary_files(names: Mapping[str, str]) -> list[str]:
    """Return what no finished output has: anything hidden or temporary."""
    return sorted(name for name in names if re.search(r"(^|/)\.|\.(tmp|part)$", name))


def make_older(folder: Path, days: float = 2) -> None:
    """Let what a killed run left look so many days old."""
    for name in temporary_files(tree(folder)):
        if not (folder / name).is_symlink():
            os.utime(str(folder / name), (time.time() - days * 86400,) * 2)


def replace_copy(source: Path, target: Path) -> None:
    """Put a copy of a folder in place of what was there."""
    shutil.rmtree(str(target), ignore_errors=True)
    shutil.copytree(str(source), str(target), symlinks=True)


def corrupt(path: Path, how: str) -> None:
    """Damage a file: missing, cut (at its end), empty, zeros, nested (JSON), flipped (bytes inside)."""
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes({
            "cut": data[:-20], "empty": b"", "zeros": bytes(len(data)), "nested": b"[" * 100000,
            "flipped": data[:-60] + bytes(255 - value for value in data[-60:-20]) + data[-20:]}[how])


def obey_permissions() -> None:
    """Let the permission bits of files bind a child even if it is root's; to be passed as preexec_fn.

    The numbers are those of linux/prctl.h and linux/capability.h.
    """
    drop_capability, override_permissions, search_any_directory = 24, 1, 2
    if os.geteuid() == 0:
        for capability in (override_permissions, search_any_directory):
            ctypes.CDLL(None).prctl(drop_capability, capability, 0, 0, 0)


def stop_before_change(folder: Path, number: int, signal_number: int = 9, name: str = "") -> Changes:
    """Return the change that lets a run send itself a signal, see child.py."""
    arguments = {"folder": str(folder), "number": number, "signal_number": int(signal_number), "name": name}
    return {"stop_before_change": arguments}


# ---------------------------------------------------------------- programs in place of ffmpeg


class FakeFfmpeg(NamedTuple):
    path: Path
    env: dict[str, str]  # for a run that shall find it before any other

    def calls(self) -> list[dict[str, Any]]:
        """Return the calls so far, with "pid", "arguments" and "env"."""
        log = self.path.parent / "calls.jsonl"
        return [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []


def fake_ffmpeg(folder: Path, *steps: Step, when: str = "", codecs: Sequence[Step] | None = None) -> FakeFfmpeg:
    """Make a program that takes these steps and then does what the real ffmpeg does.

    Steps: ["say", text] on standard error, ["print", text], ["sleep", seconds], ["exit", code],
    ["kill", "itself" | "parent" | "group", signal] (a group needs start_new_session=True, or the tests are hit),
    ["empty", image] after the real one has written it, ["ignore size limit"].
    They are taken by calls whose arguments contain `when`: ".mp4" is in all calls for a video, ".png" in those that
    decode, "-ss" in those that seek, "-codecs" in the one that asks for version and codecs, as `codecs` are.
    """
    folder.mkdir(parents=True)
    behaviour = {"real": clips.ffmpeg_exe(), "steps": steps, "when": when, "codecs": codecs}
    (folder / "behaviour.json").write_text(json.dumps(behaviour), encoding="utf-8")
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    return FakeFfmpeg(_make_launcher(folder), {"PATH": path})


def _make_launcher(folder: Path) -> Path:
    source = (TESTS / "fake_ffmpeg.py").read_text(encoding="utf-8")
    if os.name == "nt":
        from distlib.scripts import ScriptMaker

        (folder / "ffmpeg.py").write_text("#!python\n" + source, encoding="utf-8")
        maker = ScriptMaker(str(folder), str(folder))
        maker.force = True
        maker.make("ffmpeg.py")
        return folder / "ffmpeg.exe"
    return write_program(folder / "ffmpeg", f"#!{sys.executable} -IS\n{source}")  # -IS: starts faster


def write_program(path: Path, text: str) -> Path:
    """Write a file that may be started, though perhaps in vain."""
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def screen(text: str, columns: int) -> list[str]:
    """Return the lines that are left on a terminal of this width, long enough for all."""
    import pyte

    display = pyte.Screen(columns, 300)
    pyte.Stream(display).feed(text)
    return [line.rstrip() for line in display.display]

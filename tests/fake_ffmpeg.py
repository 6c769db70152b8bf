"""Stand in for ffmpeg: take the steps in `behaviour.json` beside this program, then run the real ffmpeg.

`world.fake_ffmpeg` copies this file to where it is needed. It imports nothing but the standard library.
"""
import functools
import json
import os
import signal
import subprocess
import sys
import time

FOLDER = os.path.dirname(os.path.abspath(sys.argv[0]))


def main():
    with open(os.path.join(FOLDER, "behaviour.json"), encoding="utf-8") as file:
        behaviour = json.load(file)
    arguments = sys.argv[1:]
    record_call(arguments)
    command = [behaviour["real"], *arguments]
    if behaviour["codecs"] is not None and "-codecs" in arguments:
        return take_steps(behaviour["codecs"], command)
    if behaviour["when"] in " ".join(arguments):
        return take_steps(behaviour["steps"], command)
    return run_real(command)


def record_call(arguments):
    with open(os.path.join(FOLDER, "calls.jsonl"), "a", encoding="utf-8") as file:
        file.write(json.dumps({"pid": os.getpid(), "arguments": arguments, "env": dict(os.environ)}) + "\n")


def take_steps(steps, command):
    emptied = []
    for name, *values in steps:
        if name == "exit":
            return values[0]
        if name == "empty":  # an image, once the real ffmpeg has written it
            emptied += [os.path.join(os.path.dirname(command[-1]), value) for value in values]
        else:
            STEPS[name](*values)
    code = run_real(command, replace=not emptied)
    for path in filter(os.path.exists, emptied):
        open(path, "w").close()
    return code


def write(descriptor, text):
    os.write(descriptor, text.encode("utf-8"))


def kill(target, number):
    os.kill({"itself": os.getpid(), "parent": os.getppid(), "group": 0}[target], number)


def ignore_size_limit():
    """Do not be ended by a limit on the size of files, and say nothing, as some versions do."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def run_real(command, replace=True):
    if replace and os.name != "nt":
        os.execv(command[0], command)
    return subprocess.call(command)


STEPS = {"print": functools.partial(write, 1), "say": functools.partial(write, 2), "sleep": time.sleep,
         "kill": kill, "ignore size limit": ignore_size_limit}

if __name__ == "__main__":
    sys.exit(main())

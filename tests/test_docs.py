"""README, help, requirements and program say the same, and every command that they show runs."""
from __future__ import annotations

import argparse
import ast
import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

import pytest

import prepare_sot_dataset as program
from tests import clips
from tests.hub_server import Hub
from tests.programs import PROGRAM, ROOT, at_rename, command

README = (ROOT / "README.md").read_text(encoding="utf-8")
PROSE = re.sub(r"^```.*?^```$", "", README, flags=re.M | re.S)
MAX_README_LINES = 190
BENCHMARK_REPO = "nvidia/PhysicalAI-VANTAGE-Bench"
BENCHMARK_PATH = "data/tracking/sot_benchmark.jsonl"
VIDEO_PATH = "MTMC_Tracking_2025/val/Warehouse_016/videos/Camera_11.mp4"
VIDEO_FRAMES = 5720  # the frames of the published record and of the README's samples lie inside
PUBLISHED: Dict[str, Any] = {
    "seq_id": "Warehouse_016__Camera_11__5600__obj353", "scene": "Warehouse_016", "camera": "Camera_11",
    "object_id": "353", "object_type": "Robot", "init_frame_id": 5600, "init_bbox": [799.0, 601.9, 918.8, 956.5],
    "canonical_frame_ids": [5600, 5615, 5630, 5645, 5660, 5675, 5690, 5705], "clip_fps": 30.0,
}
SEQ_ID = str(PUBLISHED["seq_id"])

needs_bash = pytest.mark.skipif(os.name == "nt" or not shutil.which("bash"),
                                reason="the commands are written for bash; on Windows the README has its own section")


# ---------------------------------------------------------------- reading the README


class Block(NamedTuple):
    language: str
    text: str


class Row(NamedTuple):
    first: str
    others: Tuple[str, ...]


def blocks(language: str) -> List[Block]:
    found = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.M | re.S)
    return [Block(name, text) for name, text in found if name == language]


def the_block(language: str, word: str) -> str:
    found = [block.text for block in blocks(language) if word in block.text]
    assert len(found) == 1, "{} blocks of {} with {!r}".format(len(found), language, word)
    return found[0]


def table(header: str) -> List[Row]:
    lines = README.split("| {} |".format(header))[1].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        first, *others = (cell.strip() for cell in line.strip("|").split("|"))
        rows.append(Row(first, tuple(others)))
    assert rows, header
    return rows


def code_words(text: str) -> List[str]:
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", text)]


def inline_commands() -> List[List[str]]:
    """What stands between single backticks and starts, after settings of variables, with a program's name."""
    commands = []
    for text in code_words(PROSE):
        words = shlex.split(text)
        programs = [word for word in words if not re.match(r"[A-Z_]+=", word)]
        if len(programs) > 1 and programs[0] in ("python", "pip", "uv", "py"):
            commands.append(words)
    return commands


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= MAX_README_LINES


def test_readme_names_no_path_of_some_machine() -> None:
    found = re.findall(r"(?<![\w.])(?:/(?:home|root|work|opt|tmp|usr|var|mnt|data|scratch|Users)/|[A-Za-z]:\\)\S*", README)
    assert not found


def test_every_option_that_the_readme_mentions_exists() -> None:
    foreign = {"--array"}  # of sbatch
    known = {name for action in options() for name in action.option_strings}
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", README))
    assert len(mentioned) > 10 and mentioned - foreign <= known


# ---------------------------------------------------------------- requirements


def requirements() -> List[str]:
    return (ROOT / "requirements.txt").read_text(encoding="utf-8").split()


def script_block() -> str:
    # The expression is the one in PEP 723.
    form = r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$"
    found = [match for match in re.finditer(form, PROGRAM.read_text(encoding="utf-8")) if match.group("type") == "script"]
    assert len(found) == 1
    return "".join(line[2:] if line.startswith("# ") else line[1:]
                   for line in found[0].group("content").splitlines(keepends=True))


def test_pep_723_block_equals_requirements() -> None:
    content = script_block()
    listed = re.search(r"^dependencies = \[(.*?)^\]", content, re.M | re.S)
    assert listed and re.findall(r'"([^"]+)"', listed.group(1)) == requirements()
    assert 'requires-python = ">=3.8"' in content.splitlines()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_pep_723_block_is_toml() -> None:
    import tomllib

    content = tomllib.loads(script_block())
    assert content == {"requires-python": ">=3.8", "dependencies": requirements()}


def test_tests_need_the_programs_requirements_first() -> None:
    assert (ROOT / "tests" / "requirements.txt").read_text(encoding="utf-8").split()[:2] == ["-r", "../requirements.txt"]


# ---------------------------------------------------------------- options


def options() -> List[argparse.Action]:
    return list(program.make_parser()._actions)


def usage_of(action: argparse.Action) -> str:
    name = max(action.option_strings, key=len)
    if action.nargs == 0:
        return name
    return "{} {}{}".format(name, action.metavar, " [{} ...]".format(action.metavar) if action.nargs == "+" else "")


def option_rows() -> Dict[str, Row]:
    rows = {}
    for row in table("Option | Default | Meaning"):
        names = code_words(row.first)
        for name in names:
            assert name not in rows
            rows[name] = row
    return rows


def test_option_table_has_the_parsers_options_in_its_order() -> None:
    shown = list(option_rows())
    expected = [usage_of(action) for action in options()]
    assert [name for name in shown if name != "-h"] == expected
    assert "-h" in shown


def test_option_table_has_the_parsers_defaults() -> None:
    rows = option_rows()
    for action in options():
        cell = rows[usage_of(action)].others[0]
        if action.default in (None, False, argparse.SUPPRESS):
            assert action.nargs != 0 or cell == "", cell
        else:
            assert cell.strip("`") == str(action.default)


@pytest.mark.parametrize("name, parsed, shown", [
    ("--benchmark", None, "required"), ("--output-dir", None, "required"), ("--nframes", 8, "8"),
    ("--stride", None, "auto"), ("--hf-token", None, "`$HF_TOKEN`"), ("--hf-cache-dir", None, "the hub's own"),
    ("--repo-id", "nvidia/PhysicalAI-SmartSpaces", "`nvidia/PhysicalAI-SmartSpaces`"),
    ("--repo-subdir", "MTMC_Tracking_2025", "`MTMC_Tracking_2025`"), ("--sequences", None, "all"),
    ("--revision", "main", "`main`"),
])
def test_defaults_are_those_of_the_contract(name: str, parsed: object, shown: str) -> None:
    action, = [action for action in options() if name in action.option_strings]
    assert action.default == parsed
    assert option_rows()[usage_of(action)].others[0].startswith(shown)


# ---------------------------------------------------------------- a folder and a hub to run the commands in


SHIM = """#!/bin/sh
case "$0 $1 $2" in
    *"/python -m pytest"|*/pip*|*/uv*) echo "${{0##*/}} $*" >> "$SHOWN_COMMANDS"; exit 0;;
esac
exec {python} "$@"
"""


class Place(NamedTuple):
    """A copy of the project's own files, and what its commands find around them."""
    folder: Path
    env: Dict[str, str]

    def bash(self, script: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        # Standard error and output come as one text, as on a terminal.
        return subprocess.run(["bash", "-eu", "-o", "pipefail", "-c", script], cwd=str(self.folder),
                              env={**self.env, **variables}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, encoding="utf-8", timeout=120)

    def run(self, *args: Union[str, Path], prologue: str = "") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(command(args, prologue=prologue), cwd=str(self.folder), env=self.env,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              encoding="utf-8", timeout=120)

    def not_run(self) -> List[List[str]]:
        """The commands that only their shims have seen."""
        log = self.folder / "shown-commands"
        return [line.split() for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []

    def ready(self, name: str = "SOT_prepared_8f") -> Set[str]:
        return {path.parent.name for path in (self.folder / name).glob("*/sequence_meta.json")}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "long.mp4"
    clips.run_ffmpeg(["-f", "lavfi", "-i", "testsrc=size=160x96:rate=30", "-frames:v", str(VIDEO_FRAMES),
                      "-c:v", "mpeg4", "-g", "60", "-f", "mp4", str(path)])
    return path


@pytest.fixture(scope="module")
def hub(video: Path) -> Iterator[Hub]:
    benchmark: Dict[str, Union[bytes, Path]] = {BENCHMARK_PATH: (ROOT / "sot_benchmark.jsonl").read_bytes()}
    with Hub({VIDEO_PATH: video.read_bytes()}, more_repos={BENCHMARK_REPO: benchmark}) as running:
        yield running


@pytest.fixture(scope="module")
def new_place(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Place]:
    shims = tmp_path_factory.mktemp("shims")
    for name in ("python", "pip", "uv"):
        (shims / name).write_text(SHIM.format(python=shlex.quote(sys.executable)), encoding="utf-8")
        (shims / name).chmod(0o755)
    cache = tmp_path_factory.mktemp("cache")

    def make() -> Place:
        folder = tmp_path_factory.mktemp("project")
        for name in (PROGRAM.name, "sot_benchmark.jsonl", "requirements.txt"):
            shutil.copyfile(str(ROOT / name), str(folder / name))
        env = {**hub.env(cache), "PATH": str(shims) + os.pathsep + os.environ["PATH"], "PYTHONIOENCODING": "utf-8",
               "SHOWN_COMMANDS": str(folder / "shown-commands")}
        return Place(folder, env)
    return make


@pytest.fixture
def place(new_place: Callable[[], Place]) -> Place:
    return new_place()


class Shown(NamedTuple):
    place: Place
    result: "subprocess.CompletedProcess[str]"


@pytest.fixture(scope="module")
def run_block(new_place: Callable[[], Place]) -> Callable[[str], Shown]:
    @functools.lru_cache(maxsize=None)
    def run(script: str) -> Shown:
        place = new_place()
        return Shown(place, place.bash(script))
    return run


# ---------------------------------------------------------------- every command runs


BASH = [block.text for block in blocks("bash")]


def title(script: str) -> str:
    return script.splitlines()[0][:60]


@needs_bash
@pytest.mark.parametrize("script", BASH, ids=title)
def test_command_of_the_readme_runs(run_block: Callable[[str], Shown], script: str) -> None:
    shown = run_block(script)
    assert shown.result.returncode == 0, shown.result.stdout
    assert "ERROR" not in shown.result.stdout and "Traceback" not in shown.result.stdout
    runs = len(re.findall(r"^[^#\n]*\bpython prepare_sot_dataset\.py ", script, re.M))
    assert len(re.findall(r"^Done: [1-9]\d* ready .*\b0 failed$", shown.result.stdout, re.M)) == runs, shown.result.stdout
    assert runs or shown.place.not_run()
    for words in shown.place.not_run():
        check_words(words)


def test_the_readme_shows_commands() -> None:
    shown = "\n".join(BASH)
    for part in ("pip install -r requirements.txt && python prepare_sot_dataset.py --demo", "hf://", "--sequences",
                 "--gt-stub", "pip install -r tests/requirements.txt && python -m pytest"):
        assert part in shown


@pytest.mark.parametrize("words", inline_commands(), ids=" ".join)
def test_command_in_the_text_names_what_exists(words: List[str]) -> None:
    check_words(words)


def check_words(words: Sequence[str]) -> None:
    """Files, options and variables of a command that is shown, but not run here."""
    settings = [word.split("=")[0] for word in words if re.match(r"[A-Z_]+=", word)]
    name, *args = [word for word in words if not re.match(r"[A-Z_]+=", word)]
    if name in ("python", "py"):
        if args[0] == "-m":
            name, args = args[1], args[2:]
        elif args[0].startswith("tests/bench_"):
            assert (PROGRAM.parent / args[0]).is_file() and len(args) == 1 and not settings
            return
        else:
            name, args = "script", args
    elif name == "uv":
        assert args.pop(0) == "run"
        name = "script"
    {"pip": check_pip, "pytest": check_pytest, "script": check_script}[name](args, settings)


def check_pip(args: Sequence[str], settings: Sequence[str]) -> None:
    assert args[0] == "install" and len(args) > 1 and not settings
    if args[1] == "-r":
        assert all((ROOT / name).is_file() for name in args[2:]) and args[2:]
    else:
        names = [re.split("[<>=]", line)[0].lower() for line in requirements()]
        assert all(re.split("[<>=]", word)[0].lower().replace("-headless", "") in names for word in args[1:])


def check_pytest(args: Sequence[str], settings: Sequence[str]) -> None:
    if not args:
        return
    source = (ROOT / args[0]).read_text(encoding="utf-8")
    assert args[1:2] in ([], ["-k"])
    for word in args[2:]:
        assert re.search(r"def test_\w*{}".format(re.escape(word)), source)
    for name in settings:
        assert '"{}"'.format(name) in source


def check_script(args: Sequence[str], settings: Sequence[str]) -> None:
    assert args[0] == PROGRAM.name and not settings
    program.make_parser().parse_args(args[1:])


def test_powershell_commands_name_what_exists() -> None:
    (block,) = blocks("powershell")
    lines = block.text.splitlines()
    for line in lines:
        setting = re.fullmatch(r'\$env:(\w+) = "hf_\.\.\."', line)
        if setting:
            assert '"{}"'.format(setting.group(1)) in PROGRAM.read_text(encoding="utf-8")
        else:
            check_words(shlex.split(line))
    assert any(PROGRAM.name in line for line in lines)


def test_example_arguments_need_the_files_that_are_there() -> None:
    for name in re.findall(r"--benchmark ([\w./-]+)(?=\s)", "\n".join(BASH)):
        assert (ROOT / name).is_file(), name


def test_check_looks_before_the_download_and_downloads_nothing(place: Place, hub: Hub) -> None:
    real_job = the_block("bash", "hf://").replace("\\\n", "")
    asked = hub.count(path_contains="Camera_11.mp4")
    result = place.run(*shlex.split(real_job)[2:], "--check", "--hf-cache-dir", "empty")
    assert result.returncode == 1, result.stdout
    assert re.search(r"^Check: 0 ready, 0 partly there, 1 missing; videos needed: 1 \(0 at hand\)$", result.stdout, re.M)
    assert hub.count(path_contains="Camera_11.mp4") == asked
    assert not (place.folder / "SOT_prepared_8f").exists()


# ---------------------------------------------------------------- many jobs


ARRAY_SIZE = 10


def array_script() -> str:
    return the_block("bash", "SLURM_ARRAY_TASK_ID")


def spread_benchmark(count: int) -> List[Dict[str, Any]]:
    return [clips.record([n, n + 15], object_id=n, clip_fps=30.0) for n in range(count)]


@needs_bash
def test_two_jobs_of_an_array_do_their_own_parts(place: Place) -> None:
    records = spread_benchmark(12)
    clips.write_benchmark(place.folder / "sot_benchmark.jsonl", records)
    script = array_script().replace("SOT_prepared_8f", "SOT_prepared_8f --nframes 2")
    for task in (1, 0):
        result = place.bash(script, SLURM_ARRAY_TASK_ID=str(task))
        assert result.returncode == 0, result.stdout
        assert re.search(r"^Done: 2 ready \(0 already were\)", result.stdout, re.M), result.stdout
    assert place.ready() == {records[n]["seq_id"] for n in (0, 10, 1, 11)}


@needs_bash
def test_the_jobs_of_an_array_cover_the_benchmark_once(place: Place) -> None:
    assert "--array=0-{}".format(ARRAY_SIZE - 1) in array_script()
    records = spread_benchmark(23)
    clips.write_benchmark(place.folder / "sot_benchmark.jsonl", records)
    (place.folder / PROGRAM.name).write_text(
        "import sys\nprint(*sys.argv[sys.argv.index('--sequences') + 1:], file=open('parts', 'a'))", encoding="utf-8")
    for task in range(ARRAY_SIZE):
        assert place.bash(array_script(), SLURM_ARRAY_TASK_ID=str(task)).returncode == 0
    done = (place.folder / "parts").read_text(encoding="utf-8").split()
    assert sorted(done) == sorted(str(record["seq_id"]) for record in records)


@needs_bash
def test_a_job_of_an_array_without_work_succeeds(place: Place) -> None:
    # The file that comes with the program has one sequence: nine of the ten jobs have nothing to do.
    result = place.bash(array_script(), SLURM_ARRAY_TASK_ID="3")
    assert result.returncode == 0, result.stdout
    assert "ERROR" not in result.stdout


# ---------------------------------------------------------------- what the README says of the output


@needs_bash
def test_demo_prints_what_the_readme_shows(run_block: Callable[[str], Shown]) -> None:
    shown = the_block("text", "Done:").splitlines()
    printed = run_block(the_block("bash", "--demo")).result.stdout.splitlines()
    assert sorted(printed) == sorted(shown)
    assert [line for line in printed if not line.startswith("Done:")] == [
        line for line in shown if not line.startswith("Done:")]


def paths_of_the_tree(text: str) -> Set[str]:
    found: Set[str] = set()
    folders: List[Tuple[int, str]] = []
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        name = re.split(r"  +", line.strip())[0]
        folders = [(depth, folder) for depth, folder in folders if depth < indent]
        if name.endswith("/"):
            folders.append((indent, name))
            continue
        parent = "".join(folder for _, folder in folders)
        several = re.fullmatch(r"f(\d+)\.png \.\.\. f(\d+)\.png", name)
        names = ["f%02d.png" % n for n in range(int(several.group(1)), int(several.group(2)) + 1)] if several else [name]
        found.update(parent + one for one in names)
    return found


@pytest.fixture(scope="module")
def everything(new_place: Callable[[], Place]) -> Place:
    place = new_place()
    result = place.run("--benchmark", "sot_benchmark.jsonl", "--output-dir", "SOT_prepared_8f", "--gt-stub",
                       "--contact-sheet")
    assert result.returncode == 0, result.stdout
    return place


def test_output_tree_is_what_a_run_writes(everything: Place) -> None:
    shown = paths_of_the_tree(the_block("text", "sequence_meta.json"))
    written = {path.relative_to(everything.folder).as_posix() for path in (everything.folder / "SOT_prepared_8f").rglob("*")
               if path.is_file()}
    assert {path.replace("<seq_id>", SEQ_ID) for path in shown} == written


def test_metadata_table_names_exactly_the_keys_of_the_file(everything: Place) -> None:
    rows = table("Key of `sequence_meta.json` | Meaning")
    meta = json.loads((everything.folder / "SOT_prepared_8f" / SEQ_ID / "sequence_meta.json").read_text(encoding="utf-8"))
    named = [name for row in rows for name in code_words(row.first)]
    assert sorted(named) == sorted(meta)
    source, = [row for row in rows if "`source`" in row.first]
    assert set(meta["source"]) <= set(code_words(source.others[0]))
    assert meta["label"] == "Warehouse_016/Camera_11/5600/obj353"


def test_evaluators_config_names_the_directory_of_its_command() -> None:
    config = json.loads(next(text for text in code_words(PROSE) if text.startswith('{"prepared_data_dir"')))
    args = shlex.split(the_block("bash", "--gt-stub"))
    assert config == {"prepared_data_dir": "./" + args[args.index("--output-dir") + 1]}


def test_custom_variant_says_what_the_readme_quotes(place: Place, everything: Place) -> None:
    quoted = '"submission_required": true'
    assert "`{}`".format(quoted) in README
    shutil.copytree(str(everything.folder / "SOT_prepared_8f"), str(place.folder / "custom"))
    assert place.run("--benchmark", "sot_benchmark.jsonl", "--output-dir", "custom", "--stride", "9").returncode == 0
    assert quoted in (place.folder / "custom" / "gt_requests.json").read_text(encoding="utf-8")
    assert quoted not in (everything.folder / "SOT_prepared_8f" / "gt_requests.json").read_text(encoding="utf-8")


# ---------------------------------------------------------------- the four flavours


def sample_records() -> List[Dict[str, Any]]:
    return [json.loads(line) for line in the_block("json", "seq_id").splitlines()]


def test_sample_records_are_one_of_each_flavour() -> None:
    standard, with_truth, conversation, sequence_only = sample_records()
    assert standard == PUBLISHED
    assert set(standard) >= {"seq_id", "canonical_frame_ids", "init_bbox"}
    assert "gt_bboxes" in with_truth and "init_bbox" not in with_truth
    assert conversation["conversations"][-1]["role"] == "assistant" and "metadata" in conversation
    assert set(sequence_only) == {"id", "scene", "camera", "source_frame_ids", "init_bbox"}


def test_sample_records_are_prepared(place: Place, video: Path) -> None:
    (place.folder / "samples.jsonl").write_text(the_block("json", "seq_id"), encoding="utf-8")
    clips.lay_out(place.folder / "videos", video)
    result = place.run("--benchmark", "samples.jsonl", "--video-dir", "videos", "--output-dir", "out")
    assert result.returncode == 0, result.stdout
    assert place.ready("out") == {"Warehouse_016__Camera_11__{}__obj353".format(n) for n in range(5600, 5604)}


def test_published_record_is_the_only_one() -> None:
    text = (ROOT / "sot_benchmark.jsonl").read_text(encoding="utf-8")
    assert text.count("\n") == 1 and text.endswith("\n")
    assert json.loads(text, object_pairs_hook=list) == list(PUBLISHED.items())


# ---------------------------------------------------------------- exit codes and messages


def exit_code_of(place: Place, code: int, video: Path) -> int:
    clips.lay_out(place.folder / "videos", video)
    args: List[Union[str, Path]] = ["--benchmark", "sot_benchmark.jsonl", "--output-dir", "out", "--video-dir", "videos"]
    sent = {130: signal.SIGINT, 143: signal.SIGTERM}.get(code)
    if sent:
        return place.run(*args, prologue=at_rename("f00.png", "after", sent)).returncode
    return place.run(*args, *{0: [], 1: ["--stride", "1000"], 2: ["--nframes", "none"]}[code]).returncode


def documented_exit_codes() -> List[int]:
    found = re.search(r"^Exit codes: (.*?)\n\n", README, re.M | re.S)
    assert found
    return [int(code) for code in re.findall(r"(?:^|, )(\d+)\s", found.group(1))]


def test_readme_names_all_exit_codes() -> None:
    assert documented_exit_codes() == [0, 1, 2, 130, 143]


@pytest.mark.parametrize("code", documented_exit_codes())
def test_exit_code_happens(place: Place, video: Path, code: int) -> None:
    if os.name == "nt" and code > 2:
        pytest.skip("Windows has no such signals")
    assert exit_code_of(place, code, video) == code


@functools.lru_cache(maxsize=None)
def texts_of_the_program() -> Tuple[str, ...]:
    tree = ast.parse(PROGRAM.read_text(encoding="utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return tuple(node.value for node in ast.walk(tree)
                 if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs)


def messages_to_look_up() -> List[str]:
    return [text for row in table("Message | What to do") for text in code_words(row.first)]


@pytest.mark.parametrize("message", messages_to_look_up())
def test_message_is_one_of_the_program(message: str) -> None:
    parts = [re.escape(part) for part in re.split(r" ?\.\.\. ?", message) if part]
    form = re.compile(".*".join(parts))
    assert any(form.search(text) for text in texts_of_the_program())


def test_remedies_exist() -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    rows = "\n".join(row.others[0] for row in table("Message | What to do"))
    for name in re.findall(r"`(HF_\w+)=", rows):
        assert name in Path(constants.__file__).read_text(encoding="utf-8")
    assert "four times" in rows and len(program.RETRY_WAIT_SECONDS) == 4


# ---------------------------------------------------------------- help, version, layout


def help_examples() -> List[List[str]]:
    text = program.make_parser().format_help().split("examples:")[1]
    return [shlex.split(line) for line in text.splitlines() if line.strip()]


def test_examples_of_the_help_run(place: Place, run_block: Callable[[str], Shown]) -> None:
    examples = help_examples()
    assert len(examples) == 3
    if os.name != "nt":  # the demo's video is there already; its frames are not
        demo = run_block(the_block("bash", "--demo")).place.folder / "SOT_demo" / "demo_source"
        shutil.copytree(str(demo), str(place.folder / "SOT_demo" / "demo_source"))
    for words in examples:
        assert words[:2] == ["python", PROGRAM.name]
        result = place.run(*words[2:])
        assert result.returncode == 0, result.stdout
        assert re.search(r"^(Done|Check): [1-9]\d* ready", result.stdout, re.M)


def test_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", program.__version__)
    done = subprocess.run(command(["--version"]), stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    assert (done.returncode, done.stdout, done.stderr) == (
        0, "{} {}\n".format(PROGRAM.name, program.__version__), "")


def test_size_of_the_program_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    lines = len(PROGRAM.read_text(encoding="utf-8").splitlines())
    with capsys.disabled():
        print(" {}: {} lines ".format(PROGRAM.name, lines), end="")


def tracked_files() -> Optional[List[str]]:
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=str(ROOT), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return None
    return [name for name in done.stdout.decode("utf-8").split("\0") if name] if done.returncode == 0 else None


def test_nothing_else_lies_at_the_top() -> None:
    files = tracked_files()
    if not files:
        pytest.skip("no git, or this is no clone")
    allowed = {PROGRAM.name, "sot_benchmark.jsonl", "README.md", "requirements.txt"}
    top = {name for name in files if "/" not in name and not name.startswith(".")}
    folders = {name.split("/")[0] for name in files if "/" in name and not name.startswith(".")}
    assert top == allowed and folders == {"tests"}

"""README: its commands, samples, tables and messages are those of the program."""
from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

import prepare_sot_dataset as program
from tests import clips
from tests.world import PROGRAM, ROOT, TIMEOUT_S, World, needs_posix

README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCE = PROGRAM.read_text(encoding="utf-8")
OPTION = r"(?<![\w-])--?[a-z][\w-]*"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def section(title: str) -> str:
    return re.split(r"\n###? ", README.split(f"# {title}\n", 1)[1])[0]


def table(title: str) -> list[list[str]]:
    """Return the cells of the first table in a section, row by row."""
    rows = [line for line in section(title).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[2:]]


def commands() -> list[str]:
    """Return every call of the program in README's blocks, without what a shell does with its output."""
    lines = "\n".join(blocks("bash") + blocks("powershell")).splitlines()
    calls = [line[line.index("prepare_sot_dataset.py"):] for line in lines if "prepare_sot_dataset.py" in line]
    return [re.split(r" \| ", call)[0].replace('"@ids.0$SLURM_ARRAY_TASK_ID"', "one_id") for call in calls]


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_command_is_understood(command: str) -> None:
    args = program.build_parser().parse_args(shlex.split(command)[1:])
    assert args.demo or args.output_dir and args.benchmark


@needs_posix("bash")
def test_lines_for_slurm(world: World) -> None:
    world.put_video()
    records = [clips.record([k, k + 3]) for k in range(12)]
    folder = world.folder / "job"
    folder.mkdir()
    clips.write_benchmark(folder / "benchmark.jsonl", records)
    shutil.copy(str(PROGRAM), str(folder))
    lines = next(block for block in blocks("bash") if "SLURM" in block)
    options = f"--nframes 2 --video-dir {shlex.quote(str(world.videos))}"
    lines = re.sub("hf://[^ ]+", "benchmark.jsonl", lines).replace("--output-dir", f"{options} --output-dir")
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    for task in (0, 9):
        environment = world.environment({"SLURM_ARRAY_TASK_ID": str(task), "PATH": path})
        subprocess.run(["bash", "-ec", lines], cwd=str(folder), env=environment, check=True,
                       capture_output=True, timeout=TIMEOUT_S)
    lists = [(folder / f"ids.{number:02}").read_text().split() for number in range(10)]
    assert sorted(sum(lists, [])) == sorted(record["seq_id"] for record in records) and all(lists)
    prepared = {path.parent.name for path in (folder / "SOT_prepared_8f").glob("*/sequence_meta.json")}
    assert prepared == {*lists[0], *lists[9]}


# ---------------------------------------------------------------- samples and tables


def test_files_and_keys_are_those_that_are_written(world: World) -> None:
    world.put_video()
    record = clips.record(range(0, 40, 5))
    world.write_records(record)
    run = world.prepare("--gt-stub", "--contact-sheet")
    written = {path.rsplit("/", 1)[-1] for path, what in run.tree.items() if what != "folder"}
    shown = set(re.findall(r"^ +(\w+\.\w+)", blocks("text")[0], re.M))
    assert run.code == 0 and written == shown | {f"f{index:02d}.png" for index in range(8)}
    keys = re.findall(r"`(\w+)`", " ".join(row[0] for row in table("Output structure")))
    assert sorted(keys) == sorted(world.read_meta(record["seq_id"]))


def test_samples_of_all_flavours_are_read_without_a_warning(world: World) -> None:
    sample = next(block for block in blocks("json") if "gt_bboxes" in block)
    sequences, problems = program.read_benchmark(sample.encode())
    assert problems == [] and [one.init_frame_id for one in sequences] == [5600, 5601, 5602, 5604, 5603]
    assert sample.count("conversations") == 2 and '"from": "gpt", "value"' in sample
    world.benchmark.write_text(sample)
    assert world.prepare("--check").err == ""


def test_shipped_benchmark_is_the_published_example() -> None:
    (sequence,), problems = program.read_benchmark((ROOT / "sot_benchmark.jsonl").read_bytes())
    assert problems == [] and sequence.seq_id == "Warehouse_016__Camera_11__5600__obj353"
    assert sequence.seq_id in README and program.video_path(sequence, "MTMC_Tracking_2025") in README


def test_options_and_defaults_are_those_of_the_parser() -> None:
    rows = table("Command-line reference")
    columns = re.findall(r"^  (-.*?)(?:  |$)", program.build_parser().format_help(), re.M)
    documented = re.findall(OPTION, " ".join(row[0] for row in rows))
    assert sorted(documented) == sorted(re.findall(OPTION, " ".join(columns)))
    for row in rows:
        option = re.findall(r"--([a-z][\w-]*)", row[0])[0]
        default = program.build_parser().get_default(option.replace("-", "_"))
        if isinstance(default, (int, str)) and default not in (False, argparse.SUPPRESS):
            assert row[1].strip("`") == str(default), row


def test_messages_are_those_of_the_program() -> None:
    messages = re.findall(r"`([^`]+)`", " ".join(row[0] for row in table("Troubleshooting")))
    parts = re.split(r"\.\.\.|, but|: |\n", "\n".join(messages))
    pieces = [part.strip() for part in parts if len(part) > 5]
    source = re.sub(r'"\s*\n\s*f?"', "", SOURCE)
    assert len(pieces) > 10 and [piece for piece in pieces if piece not in source] == []


# ---------------------------------------------------------------- layout


def test_paths_that_it_names_exist() -> None:
    for name in re.findall(r"(?:tests/\w+\.\w+|\.ci/run)", README):
        assert (ROOT / name).is_file(), name


def test_top_level_is_what_was_agreed_on() -> None:
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("no checkout of git, so nothing says which files belong to the project")
    listed = subprocess.run(["git", "ls-files"], cwd=str(ROOT), capture_output=True, check=True)
    names = {name.split("/")[0] for name in listed.stdout.decode("utf-8").splitlines()}
    assert {name for name in names if not name.startswith(".")} == {
        "prepare_sot_dataset.py", "sot_benchmark.jsonl", "README.md", "tests", "requirements.txt"}


def test_requirements_are_the_same_in_both_places() -> None:
    header = re.findall(r'^#   "(.*)",$', SOURCE, re.M)
    assert header == (ROOT / "requirements.txt").read_text(encoding="utf-8").split()

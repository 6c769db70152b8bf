"""README: its commands, samples, tables and messages are those of the program."""
from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

import prepare_sot_dataset as program
from tests import clips
from tests.world import PROGRAM, ROOT, TIMEOUT_S, World, posix_only, tree

README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCE = PROGRAM.read_text(encoding="utf-8")
BENCHMARK = "data/tracking/sot_benchmark.jsonl"
OPTION = r"(?<![\w-])--?[a-z][\w-]*"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def section(title: str) -> str:
    return README.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def table(title: str) -> list[list[str]]:
    """Return the cells of the first table in a section, row by row."""
    rows = [line for line in section(title).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows[2:]]


def commands() -> list[str]:
    """Return every call of the program in README as one line, its variables filled in."""
    calls = []
    for block in blocks("bash") + blocks("powershell"):
        job = re.search(r'job\(\) { (.*) "\$@"; }', block)
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"^job(?= -)", job[1] if job else "", line.split("  #")[0])
            for part in re.split(r"&&|\|\||^job\(\).*", line):
                start = part.find("prepare_sot_dataset.py")
                if start >= 0:
                    calls.append(part[start:].replace('"$file"', BENCHMARK).replace("$ids", "a b"))
    return calls


# ---------------------------------------------------------------- commands


def test_the_first_command_and_the_command_of_the_tests() -> None:
    assert blocks("bash")[0] == "pip install -r requirements.txt && python prepare_sot_dataset.py --demo\n"
    assert "pip install -r tests/requirements.txt && python -m pytest" in README


def test_all_commands_are_found() -> None:
    calls = README.count("prepare_sot_dataset.py --") + len(re.findall("^job -", README, re.M))
    assert len(commands()) == calls - 2  # one is what the demo prints, one is the definition of job


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_command_is_understood(command: str) -> None:
    args = program.build_parser().parse_args(shlex.split(command)[1:])
    assert args.demo or args.output_dir and args.benchmark


@posix_only("bash")
@pytest.mark.parametrize("task, count", [(0, 3), (7, 0)])
def test_lines_for_slurm(world: World, task: int, count: int) -> None:
    world.video()
    records = [clips.record([k, k + 3]) for k in range(5)]
    records[2]["id"] = records[2].pop("seq_id")
    folder = world.folder / "job"
    (folder / BENCHMARK).parent.mkdir(parents=True)
    clips.write_benchmark(folder / BENCHMARK, records)
    shutil.copy(str(PROGRAM), str(folder))
    lines = next(block for block in blocks("bash") if "SLURM" in block).replace("::10", "::2")
    options = f"--nframes 2 --video-dir {shlex.quote(str(world.videos))}"
    lines = lines.replace("--output-dir", f"{options} --output-dir")
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]
    environment = world.environment({"SLURM_ARRAY_TASK_ID": str(task), "PATH": path})
    subprocess.run(["bash", "-ec", lines], cwd=str(folder), env=environment, check=True, capture_output=True,
                   timeout=TIMEOUT_S)
    assert sum(name.endswith("sequence_meta.json") for name in tree(folder / "SOT_prepared_8f")) == count


# ---------------------------------------------------------------- samples and tables


def test_files_and_keys_are_those_that_are_written(world: World) -> None:
    world.video()
    record = clips.record(range(0, 40, 5))
    world.records(record)
    run = world.prepare("--gt-stub", "--contact-sheet")
    written = {path.rsplit("/", 1)[-1] for path, what in run.tree.items() if what != "folder"}
    shown = set(re.findall(r"^ +(\w+\.\w+)", blocks("text")[1], re.M))
    assert run.code == 0 and written == shown | {f"f{index:02d}.png" for index in range(8)}
    keys = re.findall(r"`(\w+)`", " ".join(row[0] for row in table("What it writes")))
    assert sorted(keys) == sorted(world.meta(record["seq_id"]))


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


def test_configuration_of_the_evaluator_has_its_keys() -> None:
    config = json.loads(next(block for block in blocks("json") if "prepared_data_dir" in block))
    assert set(config["data"]["VANTAGE_SOT"]) == {"class", "dataset", "prepared_data_dir"}


def test_options_and_defaults_are_those_of_the_parser() -> None:
    rows = table("Options")
    columns = re.findall(r"^  (-.*?)(?:  |$)", program.build_parser().format_help(), re.M)
    documented = re.findall(OPTION, " ".join(row[0] for row in rows))
    assert sorted(documented) == sorted(re.findall(OPTION, " ".join(columns)))
    for row in rows:
        option = re.findall(r"--([a-z][\w-]*)", row[0])[0]
        default = program.build_parser().get_default(option.replace("-", "_"))
        if isinstance(default, (int, str)) and default not in (False, argparse.SUPPRESS):
            assert row[1].strip("`") == str(default), row


def test_messages_are_those_of_the_program() -> None:
    messages = re.findall(r"`([^`]+)`", " ".join(row[0] for row in table("When something goes wrong")))
    parts = re.split(r"\.\.\.|, but|: |\n", "\n".join(messages))
    pieces = [part.strip() for part in parts if len(part) > 5]
    source = re.sub(r'"\s*\n\s*f?"', "", SOURCE)
    assert len(pieces) > 10 and [piece for piece in pieces if piece not in source] == []


# ---------------------------------------------------------------- layout


def test_paths_that_it_names_exist() -> None:
    for name in re.findall(r"(?:tests/\w+\.\w+|\.ci/run)", README):
        assert (ROOT / name).is_file(), name


def test_top_level_is_what_was_agreed_on() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout of git, so nothing says which files belong to the project")
    listed = subprocess.run(["git", "ls-files"], cwd=str(ROOT), capture_output=True, check=True)
    names = {name.split("/")[0] for name in listed.stdout.decode("utf-8").splitlines()}
    assert {name for name in names if not name.startswith(".")} == {
        "prepare_sot_dataset.py", "sot_benchmark.jsonl", "README.md", "tests", "requirements.txt"}


def test_requirements_are_the_same_in_both_places() -> None:
    header = re.findall(r'^#   "(.*)",$', SOURCE, re.M)
    assert header == (ROOT / "requirements.txt").read_text(encoding="utf-8").split()

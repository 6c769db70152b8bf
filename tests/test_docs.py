"""README against the program: commands, output, tables, samples, layout."""
from __future__ import annotations

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
from tests.world import PROGRAM, ROOT, World, tree

README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCE = PROGRAM.read_text(encoding="utf-8")
BENCHMARK = "data/tracking/sot_benchmark.jsonl"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def commands() -> list[str]:
    """Every call of the program in the README, as one line, its variables filled in."""
    found = []
    for block in blocks("bash") + blocks("powershell"):
        job = re.search(r'job\(\) { (.*) "\$@"; }', block)
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"^job(?= -)", job.group(1) if job else "", line.split("  #")[0])
            for part in re.split(r"&&|\|\||^job\(\).*", line):
                at = part.find("prepare_sot_dataset.py")
                if at >= 0:
                    found.append(part[at:].replace('"$file"', BENCHMARK).replace("$ids", "a b"))
    return found


def section(title: str) -> str:
    return README.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def rows(title: str) -> list[list[str]]:
    lines = [line for line in section(title).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


# ---------------------------------------------------------------- commands


def test_there_are_commands() -> None:
    assert len(commands()) >= 10 and len(set(commands())) >= 9


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_command_is_understood(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    args = program.parse_arguments(shlex.split(command)[1:])
    assert args.demo or args.output_dir and args.benchmark


def test_two_commands_of_the_first_run() -> None:
    first, tests = blocks("bash")[0], section("For whoever carries on")
    assert first == "pip install -r requirements.txt && python prepare_sot_dataset.py --demo\n"
    assert "pip install -r tests/requirements.txt && python -m pytest\n" in tests


def test_demo_says_what_the_readme_shows(world: World) -> None:
    run = subprocess.run([sys.executable, str(PROGRAM), "--demo"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         env=world.changed(None), encoding="utf-8", cwd=str(world.folder), timeout=100)
    said, shown = (re.sub(r"; \d+ s\n", "; 0 s\n", text) for text in (run.stdout, blocks("text")[0]))
    assert (run.returncode, said) == (0, shown)


def test_files_are_those_of_the_readme(world: World) -> None:
    world.video()
    world.records(clips.record(list(range(0, 40, 5))))
    run = world.run("--gt-stub", "--contact-sheet")
    assert run.code == 0
    written = {path.rsplit("/", 1)[-1] for path, what in run.tree.items() if what != "folder"}
    shown = set(re.findall(r"^ +(\w+\.\w+)", blocks("text")[1], re.M)) | {f"f{index:02d}.png" for index in range(8)}
    assert written == shown
    seq_id = next(name for name in run.tree if "/" not in name and name.startswith("Warehouse"))
    keys = re.findall(r"`(\w+)`", " ".join(row[0] for row in rows("What it writes")))
    assert sorted(keys) == sorted(world.meta(seq_id))


@pytest.mark.skipif(os.name == "nt", reason="the lines are for bash")
@pytest.mark.parametrize("task, count", [(0, 3), (1, 2), (7, 0)])
def test_slurm_lines(world: World, task: int, count: int) -> None:
    world.video()
    records = [clips.record([k, k + 3]) for k in range(5)]
    records[1]["id"] = records[1].pop("seq_id")
    folder = world.folder / "job"
    (folder / BENCHMARK).parent.mkdir(parents=True)
    clips.write_benchmark(folder / BENCHMARK, records)
    lines = next(block for block in blocks("bash") if "SLURM" in block).replace("::10", "::2")
    shutil.copy(str(PROGRAM), str(folder))
    environment = {**world.changed({"SLURM_ARRAY_TASK_ID": str(task)}),
                   "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]}
    lines = lines.replace("--output-dir", f"--nframes 2 --video-dir {shlex.quote(str(world.videos))} --output-dir")
    subprocess.run(["bash", "-ec", lines], cwd=str(folder), env=environment, check=True, stderr=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, timeout=100)
    assert sum(name.endswith("sequence_meta.json") for name in tree(folder / "SOT_prepared_8f")) == count


# ---------------------------------------------------------------- samples and tables


def test_samples_of_all_flavours_are_read() -> None:
    sample = next(block for block in blocks("json") if "gt_bboxes" in block)
    sequences, problems = program.read_benchmark(sample.encode())
    assert problems == [] and [one.init_frame_id for one in sequences] == [5600, 5601, 5602, 5604, 5603]
    assert sample.count("conversations") == 2 and '"from": "gpt", "value"' in sample
    args = program.parse_arguments(["--benchmark", "README.md", "--output-dir", "out"])
    assert program.find_suspicious_values(program.build_jobs(sequences, args)) == []


def test_shipped_benchmark_is_the_published_example() -> None:
    sequences, problems = program.read_benchmark((ROOT / "sot_benchmark.jsonl").read_bytes())
    assert problems == [] and [one.seq_id for one in sequences] == ["Warehouse_016__Camera_11__5600__obj353"]
    assert sequences[0].seq_id in README
    assert program.video_path(sequences[0], program.DEFAULT_REPO_SUBDIR) in README


def test_configuration_of_the_evaluator() -> None:
    config = json.loads(next(block for block in blocks("json") if "prepared_data_dir" in block))
    assert set(config["data"]["VANTAGE_SOT"]) == {"class", "dataset", "prepared_data_dir"}


def test_options_are_those_of_the_parser() -> None:
    options = {option: action for action in program.build_parser()._actions for option in action.option_strings}
    told = rows("Options")
    assert sorted(re.findall(r"(?<![\w-])--?[a-z][\w-]*", " ".join(row[0] for row in told))) == sorted(options)
    for row in told:
        name = re.findall(r"--?[a-z][\w-]*", row[0])[0]
        default = options[name].default
        if isinstance(default, (int, str)) and not isinstance(default, bool) and default != "==SUPPRESS==":
            assert row[1].strip("`") == str(default), row


def test_messages_are_those_of_the_program() -> None:
    words = [word for row in rows("When something goes wrong") for word in re.findall(r"`([^`]+)`", row[0])]
    pieces = [piece.strip() for word in words for piece in re.split(r"\.\.\.|, but|: ", word) if len(piece) > 5]
    source = re.sub(r'"\s*\n\s*f?"', "", SOURCE)
    assert len(pieces) > 10
    assert [piece for piece in pieces if piece not in source] == []


def test_rules_that_a_reader_looks_for() -> None:
    for fact in ("`Warehouse_000` to `Warehouse_014`", "{repo-subdir}/{split}/{scene}/videos/{camera}.mp4",
                 "min(15, (clip_end_frame - init_frame_id) // (nframes - 1))", "need no submission", "export HF_TOKEN=",
                 "--nframes 32", "--stride 5", "--hf-cache-dir", "VANTAGE_SOT_16f", "https://huggingface.co/datasets/"):
        assert fact in README, fact


def test_paths_that_it_names_exist() -> None:
    for name in re.findall(r"(?:tests/\w+\.\w+|\.ci/run)", README):
        assert (ROOT / name).is_file(), name


# ---------------------------------------------------------------- shape


def test_top_level_is_what_was_agreed_on() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout of git, so nothing says which files belong to the project")
    listed = subprocess.run(["git", "ls-files"], cwd=str(ROOT), stdout=subprocess.PIPE, check=True, encoding="utf-8")
    names = {name.split("/")[0] for name in listed.stdout.splitlines()}
    assert {name for name in names if not name.startswith(".")} == {
        "prepare_sot_dataset.py", "sot_benchmark.jsonl", "README.md", "tests", "requirements.txt"}


def test_requirements_are_said_twice_alike() -> None:
    header = re.findall(r'^#   "(.*)",$', SOURCE, re.M)
    assert header == (ROOT / "requirements.txt").read_text(encoding="utf-8").split()


def test_nothing_of_the_footage_is_needed() -> None:
    for path in [PROGRAM, *sorted((ROOT / "tests").glob("*.py"))]:
        assert "shared" + "/" not in path.read_text(encoding="utf-8"), path

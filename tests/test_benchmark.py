"""Benchmark files: what a record means, what is wrong with it, which --sequences are taken, and that only public facts
are written of it, to sequence_meta.json and gt_requests.json.

For many more random files: HOSTILE_EXAMPLES=2000 python -m pytest tests/test_benchmark.py -k any_file
"""
from __future__ import annotations

import codecs
import json
import os
import re
import shutil
from typing import Any, Callable, Dict

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from prepare_sot_dataset import SotSequence, dataset_split, read_benchmark
from tests import clips
from tests.world import Run, World, assert_explained, tree

EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "0"))
Record = Dict[str, Any]

SEQ_ID = "Warehouse_016__Camera_11__5600__obj353"
BOX, IDS = [799.0, 601.9, 918.8, 956.5], [5600, 5615, 5630, 5645, 5660, 5675, 5690, 5705]
STANDARD: Record = {
    "seq_id": SEQ_ID, "scene": "Warehouse_016", "camera": "Camera_11", "object_id": "353",
    "object_type": "Robot", "init_frame_id": 5600, "init_bbox": BOX, "canonical_frame_ids": IDS,
    "clip_fps": 30.0, "clip_end_frame": 5800}
NO_FRAMES: Record = {"seq_id": "own-name", "scene": "Lab_001", "camera": "Camera", "init_bbox": [1, 2, 3, 4]}
MINIMAL = {**NO_FRAMES, "init_frame_id": 3}


def without(record: Record, names: str) -> Record:
    return {name: value for name, value in record.items() if name not in names.split()}


def as_sequence(record: Record) -> SotSequence:
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}
    return SotSequence(**values)


def as_lines(*records: Any) -> bytes:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return text.encode("utf-8", "surrogatepass")


# ---------------------------------------------------------------- flavours and containers

SECRET = "5071393"  # in the digits of each ground-truth number, and nowhere else


def secret_box(number: int) -> list[float]:
    x, y = (float(f"{100 + n}.{SECRET}{n % 9 + 1}") for n in (number, number + 3))
    return [x, y, round(x + 300, 8), round(y + 250, 8)]


def ground_truth(record: Record) -> dict[str, Any]:
    later = {str(frame_id): secret_box(frame_id % 40) for frame_id in record["canonical_frame_ids"][1:]}
    return {**later, str(record["init_frame_id"]): record["init_bbox"]}


def conversation(record: Record, truth: Any, role: str, content: str, user: str, assistant: str) -> Record:
    turns = [{role: user, content: '{"0": "Where is it?"}'}, {role: assistant, content: json.dumps(truth)}]
    return {"id": record["seq_id"], "metadata": without(record, "seq_id init_bbox"), "conversations": turns}


def convert_numbers(convert: Callable[[float], Any], value: Any) -> Any:
    if isinstance(value, list):
        return [convert_numbers(convert, item) for item in value]
    return convert(value) if isinstance(value, (int, float)) else value


# Each turns a standard record and its ground truth into another record that means the same.
FLAVOURS: dict[str, Callable[[Record, Any], Record]] = {
    "standard": lambda record, truth: dict(record),
    "ground truth": lambda record, truth: {**record, "gt_bboxes": truth},
    "ground truth alone": lambda record, truth: {"gt_bboxes": truth, **without(
        record, "scene camera object_id init_frame_id init_bbox canonical_frame_ids")},
    "conversation": lambda record, truth: conversation(
        record, truth, "role", "content", "user", "assistant"),
    "conversation with values": lambda record, truth: conversation(
        record, truth, "from", "value", "human", "gpt"),
    "sequence only": lambda record, truth: {
        **without(record, "seq_id canonical_frame_ids object_id init_frame_id"),
        "id": record["seq_id"], "source_frame_ids": record["canonical_frame_ids"]},
    "label": lambda record, truth: {**record, "seq_id": record["seq_id"].replace("__", "/")},
    "whole floats": lambda record, truth: {
        name: convert_numbers(float, value) for name, value in without(record, "seq_id").items()},
    "strings": lambda record, truth: {name: convert_numbers(str, value) for name, value in record.items()},
    "nulls": lambda record, truth: {
        **record, "object_id": None, "init_frame_id": None, "scene": None, "id": None},
}
CONTAINERS: dict[str, Callable[[list[Record]], str]] = {
    "array": json.dumps,
    "pretty-printed array": lambda records: "\n \n" + json.dumps(records, indent=2),
    "array over lines": lambda records: "[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n",
    "lines": lambda records: "\n".join(map(json.dumps, records)),
    "blank lines": lambda records: "\n\n  \n" + "\n \t\n\n".join(map(json.dumps, records)) + "\n\n",
    "Windows lines": lambda records: "\r\n".join(map(json.dumps, records)) + "\r\n\r\n",
    "one object": lambda records: json.dumps(records[0]),
    "one pretty-printed object": lambda records: json.dumps(records[0], indent=4),
}
VALID_RECORDS = [
    clips.record([3, 9, 20], (0.5, 1.25, 900, 899.5), scene="Hospital_x.y_z", object_id="cart-4", clip_fps=29.97,
                 clip_end_frame=30),
    clips.record([0], (30, 40, 50, 1200), scene="Lab-1", object_id="_9", clip_fps=25, clip_end_frame=0)]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("byte_order_mark", [b"", codecs.BOM_UTF8], ids=["plain", "byte order mark"])
def test_flavours_may_be_mixed_keep_their_order_and_count_once(container: str, byte_order_mark: bytes) -> None:
    records = VALID_RECORDS[:1] if "object" in container else VALID_RECORDS
    flavoured = [flavour(record, ground_truth(record)) for record in records for flavour in FLAVOURS.values()]
    data = byte_order_mark + CONTAINERS[container](flavoured).encode()
    assert read_benchmark(data) == ([as_sequence(record) for record in records], [])


TRUTH = {"5630": BOX, "5615": BOX, "5600": [1, 2, 3, 4]}
WITH_TRUTH = {**without(NO_FRAMES, "init_bbox"), "gt_bboxes": TRUTH}
DERIVED: list[tuple[Record, Record]] = [
    ({"seq_id": "Hospital_003__Camera_0__12__objcart-4", "init_bbox": BOX},
     {"scene": "Hospital_003", "camera": "Camera_0", "init_frame_id": 12, "object_id": "cart-4",
      "object_type": "object", "clip_fps": None, "clip_end_frame": None, "canonical_frame_ids": ()}),
    (without(STANDARD, "seq_id init_frame_id"), {"seq_id": SEQ_ID, "init_frame_id": 5600}),
    (MINIMAL, {"seq_id": "own-name", "object_id": "unknown"}),
    *[({**without(MINIMAL, "seq_id"), name: value}, {"seq_id": "12"})
      for name, value in (("seq_id", 12), ("seq_id", 12.0), ("id", 12))],
    *[({**STANDARD, "object_id": value}, {"object_id": text}) for value, text in ((0, "0"), (353.0, "353"))],
    *[({**STANDARD, "clip_fps": value}, {"clip_fps": None}) for value in (0, -30, "0.0", None)],
    ({**STANDARD, "object_type": "a\u2028line\u0085end"}, {"object_type": "a\u2028line\u0085end"}),
    # From the ground truth come the box of the initial frame, and the ids from the initial frame on.
    (WITH_TRUTH,
     {"init_frame_id": 5600, "init_bbox": (1, 2, 3, 4), "canonical_frame_ids": (5600, 5615, 5630)}),
    ({**WITH_TRUTH, "init_frame_id": 5615}, {"init_bbox": tuple(BOX), "canonical_frame_ids": (5615, 5630)}),
    ({**STANDARD, "gt_bboxes": {"5600": [9, 9, 10, 10], "5601": BOX}},
     {"init_bbox": tuple(BOX), "canonical_frame_ids": tuple(IDS)}),
    ({"id": SEQ_ID, "metadata": without(STANDARD, "seq_id"), "scene": "Lab_002", "clip_fps": None},
     {"scene": "Lab_002", "clip_fps": 30.0}),
    *[({**STANDARD, "init_bbox": box}, {"init_bbox": tuple(box)})
      for box in ([-10, 0, 0.1, 10], [999.9, 0, 1010, 10], [-5, -5, 2000, 2000], [0, 999, 1, 1001])],
]


@pytest.mark.parametrize("record, expected", DERIVED, ids=lambda fields: " ".join(fields)[:40])
def test_missing_fields_are_derived(record: Record, expected: Record) -> None:
    (sequence,), problems = read_benchmark(as_lines(record))
    assert ({name: getattr(sequence, name) for name in expected}, problems) == (expected, [])


# ---------------------------------------------------------------- what is wrong

NAN, INFINITY = float("nan"), float("inf")
BAD_TEXTS: list[Any] = [True, [], {}, ""]
BAD_NAMES = [*BAD_TEXTS, 1.5, "..", ".hidden", "../../x", "a\\b", "C:x", "a b", "\u00e9", "a\n", "x" * 201, "a.", "CON"]
BAD_FOLDERS = [*BAD_NAMES, "a/b", "/etc/x", 5]
BAD_FRAME_IDS = [-1, 1.5, "-1", "1.5", "x", "1_0", True, [], {}, 10 ** 30, NAN, INFINITY]
BAD_BOXES: list[Any] = [
    [], {}, "1,2,3,4", 5, [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, "4x"], [1, 2, 3, "nan"], [1, 2, 3, None],
    [1, 2, True, 4], [[1], 2, 3, 4], [NAN, 2, 3, 4], [1, 2, INFINITY, 4], [-INFINITY, 2, 3, 4],
    [1, 2, 3, 10 ** 400], [3, 2, 3, 4], [4, 2, 3, 4], [1, 4, 3, 4], [1, 5, 3, 4], [1000, 0, 1010, 10],
    [0, 1000, 10, 1010], [-10, 0, 0, 10], [0, -10, 10, 0], [-10, 0, 1000001, 10], [1, 2, 1e300, 4]]
BAD_ASCENDING_IDS: list[Any] = [
    5, "5600", {}, [5600, 5600], [5600, 5599], [5600, "x"], [5600, 5615.5], [5600, None], [5600, [5615]],
    [-5, 3], [5600, True], [5600, 10 ** 30], [5601, 5615]]
INVALID: dict[str, tuple[list[Any], str]] = {  # field -> values, and what the message says of them
    "seq_id": ([*BAD_NAMES, "GT_requests.json", "demo_source"],
               r"(?:reserved|file name.*\{scene\}__\{camera\}__\{init_frame_id\}__obj\{object_id\})"),
    "scene": (BAD_FOLDERS, "name"),
    "camera": (BAD_FOLDERS, "name"),
    "object_id": ([*BAD_TEXTS, NAN], "number or a text"),
    "object_type": ([*BAD_TEXTS, 5], "a text"),
    "init_frame_id": (BAD_FRAME_IDS, "whole number"),
    "init_bbox": (BAD_BOXES, r"\[x1, y1, x2, y2\] in thousandths.*x1 < x2"),
    "canonical_frame_ids": (BAD_ASCENDING_IDS, "(?:ascending whole numbers|init_frame_id)"),
    "clip_end_frame": (BAD_FRAME_IDS, "whole number"),
    "clip_fps": (["fast", "nan", True, [], NAN, INFINITY], "a number"),
}
INCOMPLETE = {
    "seq_id": without(STANDARD, "seq_id object_id"),
    "scene": without(MINIMAL, "scene"),
    "camera": {**MINIMAL, "camera": None},
    "init_frame_id": NO_FRAMES,
    "init_bbox": {**without(STANDARD, "init_bbox"), "gt_bboxes": {"5600": [9, 9, 8, 8], "5615": BOX}},
}


def only_problem(data: bytes) -> Any:
    (problem,) = read_benchmark(data)[1]
    return problem


@pytest.mark.parametrize("field", INVALID)
def test_invalid_or_missing_value_is_reported_with_its_place_and_what_was_expected(field: str) -> None:
    values, expected = INVALID[field]
    for record in [{**STANDARD, field: value} for value in values]:
        problem = only_problem(as_lines(MINIMAL) + b"\n" + as_lines(record))
        assert problem.where == "line 3" and (field == "seq_id" or problem.seq_id == SEQ_ID), record
        assert re.match(f"field {field}: .*{expected}", problem.text), record
    if field in INCOMPLETE:  # then no value is shown
        text = only_problem(as_lines(INCOMPLETE[field])).text
        assert re.match(f"field {field}: missing.*{expected}", text) and not re.search('""|null|None', text)


@pytest.mark.parametrize("change", [
    {"scene": "Lab_1"}, {"camera": "C"}, {"object_id": "354"}, {"object_type": "Person"}, {"clip_fps": 29.97},
    {"init_bbox": [1, 2, 3, 4]}, {"canonical_frame_ids": IDS[:-1]}, {"clip_end_frame": 6000},
    {"seq_id": SEQ_ID.upper()}], ids=str)  # which is the same folder on Windows and macOS
def test_differing_records_with_one_seq_id_are_reported(change: Record) -> None:
    problem = only_problem(as_lines(STANDARD, MINIMAL, {**STANDARD, **change}))
    assert (problem.where, problem.seq_id) == ("line 3", change.get("seq_id", SEQ_ID))
    assert re.match(r"differs.*line 1\b", problem.text)


def reported_problems(world: World, data: bytes) -> list[str]:
    """Return the problems that a run lists; it has done nothing else."""
    world.benchmark.write_bytes(data)
    run = world.prepare(nframes=1)
    assert run.code == 2 and not run.out and not run.children and not world.output.exists(), run
    assert re.search(r": (1 problem|(?!1 )\d+ problems) found; nothing was written$", run.errors[-1])
    assert len(run.errors) == len(run.err.splitlines())
    return [error[len("ERROR: "):] for error in run.errors[:-1]]


BROKEN_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (codecs.BOM_UTF8 + b"\n\n", "no records.*expected JSON"),
    "CSV": (b"a,b\n", "line 1\\b.*not valid JSON.*expected an array of records or one record per line"),
    "array of numbers": (b"[1]", "item 0\\b.*expected an object, got 1"),
    "UTF-16": (codecs.BOM_UTF16_LE + "[{}]".encode("utf-16-le"), "UTF-8"),
    "broken object": (b'{\n"seq_id": "x",\n"scene": ,\n"camera": "y"\n}', "line 3\\b.*JSON"),
    "broken line": (as_lines(STANDARD) + b'{"seq_id": x}\n' + as_lines(STANDARD), "line 2\\b.*JSON"),
    "wrong item": (json.dumps([MINIMAL, {**STANDARD, "scene": ""}], indent=1).encode(), "item 1\\b.*scene"),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_broken_file_is_reported_once_with_one_place(world: World, case: str) -> None:
    data, expected = BROKEN_FILES[case]
    (text,) = reported_problems(world, data)
    assert text.startswith(str(world.benchmark)) and re.search(expected, text)
    assert len(re.findall(r"\bline \d|\bitem \d|\bbyte \d", text)) == 1


def test_all_problems_are_listed_together_up_to_100(world: World) -> None:
    bad_records = [{**MINIMAL, "seq_id": f"n{number}", "clip_fps": "x"} for number in range(8, 158)]
    data = as_lines({**STANDARD, "scene": "a/b", "clip_fps": "x"}, MINIMAL) + b'{"seq_id": \n[1, 2]\n\n'
    data += as_lines({**STANDARD, "init_bbox": [1, 2]}, {**MINIMAL, "clip_fps": 29}, *bad_records)
    expected = [
        f"1, .*{SEQ_ID}.*scene", f"1, .*{SEQ_ID}.*clip_fps", "3: .*JSON", "4: .*object",
        f"6, .*{SEQ_ID}.*init_bbox", "7, .*own-name.*differs.*line 2\\b",
        *[f'{number}, seq_id "n{number}": field clip_fps' for number in range(8, 102)]]
    *problems, rest = reported_problems(world, data)
    problems.sort(key=lambda text: int(re.findall(r"jsonl, line (\d+)", text)[0]))
    assert len(problems) == len(expected) and re.search(r"\b56 more", rest)
    for problem, words in zip(problems, expected):
        assert re.search(f"jsonl, line {words}", problem)


NO_IDS: Record = {"canonical_frame_ids": []}  # so they follow from the stride
SUSPICIOUS: dict[str, list[Record]] = {
    "looks like pixels": [{"init_bbox": [400, 300, 1300, 900]}, {"init_bbox": [-5, 10, 60, 1900]}],
    "looks like fractions": [{"init_bbox": [0.2, 0.3, 0.4, 1]}, {"init_bbox": [500, 500, 500.2, 500.2]}],
    "seq_id does not match": [{"seq_id": "b-first"}, {"seq_id": "Warehouse_016__Camera_11__4__obj2"}],
    "beyond clip_end_frame": [{**NO_IDS, "clip_end_frame": 3}, {**NO_IDS, "clip_end_frame": 1}],
    "": [{"init_bbox": [-50, -50, 1100, 1100]}, {"init_bbox": [0, 0, 1, 1.5]},
         {**NO_IDS, "clip_end_frame": 4}, {"canonical_frame_ids": [3, 9], "clip_end_frame": 5}],
}


def test_suspicious_values_give_one_warning_per_kind_with_a_count(world: World) -> None:
    records = {kind: [{**clips.record([3, 4], object_id=f"{number}{index}"), **change}
                      for index, change in enumerate(changes)]
               for number, (kind, changes) in enumerate(SUSPICIOUS.items())}
    world.write_records(*[record for group in records.values() for record in group])
    run = world.prepare("--check", nframes=2)
    warnings = re.findall("WARNING: .*", run.err)
    assert run.code == 1 and len(warnings) == len(SUSPICIOUS) - 1, run
    for (kind, group), warning in zip(records.items(), warnings):
        assert kind in warning and f": 2 sequences, first {group[0]['seq_id']}" in warning
    (one, _), *_ = records.values()
    run = world.prepare("--check", "--sequences", one["seq_id"], nframes=2)  # of the others nothing is told
    assert run.err.count("WARNING") == run.err.count(f": 1 sequence, first {one['seq_id']}") == 1, run


# ---------------------------------------------------------------- --sequences

FIRST, SECOND, THIRD = (clips.record([3, 4], object_id=number) for number in (1, 2, 3))
FIRST_ID, SECOND_ID, THIRD_ID = (record["seq_id"] for record in (FIRST, SECOND, THIRD))
UNKNOWN_ID, BAD_SECOND = f"{SECOND_ID}5", {**SECOND, "clip_fps": "x"}
WARNED, REFUSED = r"WARNING: [^\n]* line 2\b", r"ERROR: [^\n]* line 2\b"
CLOSEST = rf"ERROR: [^\n]*{UNKNOWN_ID}: not in the benchmark; closest: [^\n]*{SECOND_ID}\b"


@pytest.mark.parametrize("second, selected, code, ready, words", [
    (SECOND, [THIRD_ID, FIRST_ID, FIRST_ID], 0, [FIRST_ID, THIRD_ID], r"\[1/2\]"),
    (SECOND, [FIRST_ID, UNKNOWN_ID], 1, [FIRST_ID], CLOSEST + r".*\[1/1\]"),
    (SECOND, [UNKNOWN_ID, "nowhere"], 2, [], CLOSEST + ".*ERROR: [^\n]*nowhere"),
    (BAD_SECOND, [THIRD_ID, FIRST_ID], 0, [FIRST_ID, THIRD_ID], WARNED),
    (BAD_SECOND, [FIRST_ID, SECOND_ID], 2, [], REFUSED),
    ("", [FIRST_ID], 0, [FIRST_ID], WARNED),
])
def test_selected_sequences_are_prepared_and_others_cannot_stop_them(
        world: World, second: Any, selected: list[str], code: int, ready: list[str], words: str) -> None:
    world.put_video()
    world.write_records(FIRST, second, THIRD)
    # The option may be repeated. The first id is given as a label; the others, if several, in a file.
    first, *others = selected
    (world.folder / "ids").write_text("\ufeff" + "\n".join(others) + "\n\n", encoding="utf-8")
    others = [f"@{world.folder / 'ids'}"] if len(others) > 1 else others
    label = first.replace("__", "/")
    run = world.prepare("--sequences", label, *(["--sequences", *others] if others else []), nframes=1)
    prepared = [name for name in (FIRST_ID, SECOND_ID, THIRD_ID) if f"{name}/sequence_meta.json" in run.tree]
    assert (run.code, prepared, bool(run.errors)) == (code, ready, code > 0), run
    assert world.output.exists() == bool(ready) and re.search(words, run.err, re.DOTALL)
    assert (", 0 failed, 1 not in the benchmark; " in run.out) == (code == 1)


# ---------------------------------------------------------------- what is written of a record

SCENES = [
    clips.record(range(4), scene="Warehouse_001"),
    without(clips.record(range(3, 7), scene="Hospital_000", object_id="cart-4"), "clip_fps"),
    clips.record(range(1, 5), scene="Lab_000", clip_fps=29.97)]
WAREHOUSE_ID, HOSPITAL_ID, LAB_ID = SCENE_IDS = [record["seq_id"] for record in SCENES]


@pytest.fixture
def world_of_three_scenes(world: World) -> World:
    for record in SCENES:
        world.put_video(scene=record["scene"], split=dataset_split(record["scene"]))
    world.write_records(*SCENES)
    return world


def test_contents_of_gt_requests_and_metadata(world_of_three_scenes: World) -> None:
    assert world_of_three_scenes.prepare(nframes=4).code == 0
    entries = [{**without(record, "init_bbox canonical_frame_ids"), "object_id": str(record["object_id"]),
                "nframes": 4, "frame_ids": record["canonical_frame_ids"], "stride": 1,
                "clip_fps": record.get("clip_fps", 30.0)} for record in SCENES]
    repo_id, repo_subdir = "nvidia/PhysicalAI-SmartSpaces", "MTMC_Tracking_2025"
    assert world_of_three_scenes.read_gt_requests() == {
        "format_version": 1, "benchmark": "benchmark.jsonl", "repo_id": repo_id, "repo_subdir": repo_subdir,
        "nframes": 4, "stride": None, "submission_required": False, "missing": [], "requests": entries}
    for record, entry in zip(SCENES, entries):
        scene, camera = record["scene"], record["camera"]
        path = f"{repo_subdir}/{dataset_split(scene)}/{scene}/videos/{camera}.mp4"
        assert world_of_three_scenes.read_meta(record["seq_id"]) == {
            **entry, "label": f"{scene}/{camera}/{record['init_frame_id']}/obj{record['object_id']}",
            "init_bbox": record["init_bbox"], "gt_available": False,
            "image_size": [clips.WIDTH, clips.HEIGHT],
            "source": {"repo_id": repo_id, "path": path, "revision": None}}


def test_gt_requests_cover_what_is_ready_whichever_run_prepared_it(world_of_three_scenes: World) -> None:
    world = world_of_three_scenes
    # Without its video the third one is never ready, so its few ids require no submission.
    world.write_records(*SCENES[:2], {**SCENES[2], "canonical_frame_ids": [1]})
    next(world.videos.glob("*/val/Lab_000/videos/*.mp4")).unlink()

    def assert_gt_requests(missing: list[str], required: bool, frame_ids: list[list[int]], stride: int) -> None:
        manifest = world.read_gt_requests()
        assert (manifest["missing"], manifest["submission_required"]) == (missing, required)
        assert [entry["frame_ids"] for entry in manifest["requests"]] == frame_ids
        assert [entry["stride"] for entry in manifest["requests"]] == [stride] * len(frame_ids)

    assert world.prepare("--sequences", HOSPITAL_ID, nframes=4).code == 0
    assert_gt_requests([WAREHOUSE_ID, LAB_ID], False, [[3, 4, 5, 6]], 1)
    assert world.prepare("--sequences", WAREHOUSE_ID, nframes=2).code == 0
    assert_gt_requests([LAB_ID], False, [[0, 1], [3, 4]], 1)
    run = world.prepare("--stride", 4, nframes=2)
    assert_gt_requests([LAB_ID], True, [[0, 4], [3, 7]], 4)
    assert run.code == 1 and f"send {world.output / 'gt_requests.json'} to" in run.err
    world.prepare("--stride", 4, nframes=1)  # of one frame, too, the stride is the given one
    assert_gt_requests([LAB_ID], False, [[0], [3]], 4)


# ---------------------------------------------------------------- ground truth, and hostile files

RECORD = clips.record([2, 4])
TRUTH_OF_RECORD = {str(frame_id): secret_box(frame_id) for frame_id in (2, 4)}
IMAGES = r"f\d\d+|f00_ann|crop"
OUTPUT_PATH = rf"gt_requests\.json|[\w-][\w.-]*(/((sequence_meta|gt)\.json|frames(/({IMAGES})\.png)?))?"


def assert_no_ground_truth(world: World, *runs: Run) -> None:
    """No box but the initial one reaches a message, a name or a file."""
    texts = [text for run in runs for text in (run.out, run.err, *run.tree)]
    for path in world.output.rglob("*"):
        if path.is_file():
            text = path.read_bytes().decode("latin-1")
            if path.name in ("sequence_meta.json", "gt.json"):
                for edge in world.read_meta(path.parent.name)["init_bbox"]:
                    text = text.replace(repr(float(edge)), "")
            texts.append(text)
    assert [text for text in texts if SECRET in text] == []


def test_ground_truth_of_good_records_stays_hidden(world: World) -> None:
    world.put_video()
    records = [clips.record([3, 4], object_id=str(number)) for number in range(len(FLAVOURS))]
    flavoured = [flavour(record, ground_truth(record)) for flavour, record in zip(FLAVOURS.values(), records)]
    too_late = clips.record([clips.FRAMES, clips.FRAMES + 1])
    world.write_records(*flavoured, {**too_late, "gt_bboxes": ground_truth(too_late)})
    assert SECRET in world.benchmark.read_text()
    prepared = world.prepare("--gt-stub", "--contact-sheet", nframes=2)
    checked = world.prepare("--check", nframes=2)
    assert (prepared.code, checked.code) == (1, 1) and f"{len(FLAVOURS)} sequences ready" in prepared.out
    assert_no_ground_truth(world, prepared, checked)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_ground_truth_in_the_place_of_another_field_stays_hidden(world: World, flavour: str) -> None:
    truth, records = TRUTH_OF_RECORD, []
    for name in [*RECORD, "clip_end_frame"]:
        is_quoted = name in ("init_bbox", "canonical_frame_ids")  # a list of four numbers
        for value in (truth, list(truth.values()), *([] if is_quoted else [truth["4"]])):
            record = FLAVOURS[flavour](RECORD, truth)
            record.get("metadata", record)[name] = value
            records.append(record)
    world.benchmark.write_bytes(as_lines(*records))
    run = world.prepare()
    assert run.code == 2 and not world.output.exists(), run
    assert_no_ground_truth(world, run)


@pytest.mark.parametrize("name, value", [
    ("scene", b"[" * 980 + b"]" * 980), ("gt_bboxes", b'{"a":' * 100_000), ("object_id", b"7" * 20_000),
    ("scene", b'"' + b"x" * 20_000_000 + b'"'),
    ("conversations", b'[{"from": "gpt", "value": "' + b"[" * 99_999 + b'"}], "scene": 0'),
], ids=lambda value: ascii(value[:9]))
def test_monstrous_value_is_refused_in_few_words(world: World, name: str, value: bytes) -> None:
    world.benchmark.write_bytes(json.dumps(RECORD).encode()[:-1] + b', "%s": %s}' % (name.encode(), value))
    run = world.prepare()
    assert_explained(run)
    assert run.code == 2 and len(run.err) < 5000, run


STRANGE: list[Any] = [
    "", "\x1b[2J\x1b]0;x\x07", "\u202etxt.exe", "\ud800", "\0", "a\nERROR: b", "\u2028", "..", "-i",
    "../../x", "C:\\x", "CON", "%d", "a" * 300, "\u0664\u0662", "concat:a|b", 0, -1, 1.5, 1e308, 1e-320, NAN,
    INFINITY, 2 ** 63, 10 ** 400, 999_999_999, 1_000_000_000, True, None]
ANY_JSON = st.recursive(
    st.sampled_from(STRANGE) | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)
VALUES = (ANY_JSON | st.lists(st.sampled_from(STRANGE) | st.floats(-100, 1100), min_size=4, max_size=4)
          | st.lists(st.integers(-1, 20), max_size=5) | st.just(TRUTH_OF_RECORD))


@st.composite
def benchmark_files(draw: Any) -> bytes:
    """Return a file with a few records of any flavour, most of them spoiled in some way."""
    texts = []
    for _ in range(draw(st.integers(1, 3))):
        record = draw(st.sampled_from([*FLAVOURS.values()]))(RECORD, TRUTH_OF_RECORD)
        for _ in range(draw(st.integers(0, 2))):
            place = record.get("metadata", record) if draw(st.booleans()) else record
            if isinstance(place, dict):
                place[draw(st.sampled_from([*RECORD, *record]) | st.text(max_size=8))] = draw(VALUES)
        texts.append(json.dumps(record, ensure_ascii=draw(st.booleans())))
    text = f"[{', '.join(texts)}]" if draw(st.booleans()) else "\n".join(texts)
    whole = text.encode(draw(st.sampled_from(["utf-8"] * 8 + ["utf-16"])), "surrogatepass")
    cut = whole[:draw(st.integers(0, len(whole)))]
    return draw(st.sampled_from([whole] * 8 + [cut, draw(st.binary(max_size=60))]))


@settings(max_examples=EXAMPLES or 60, derandomize=not EXAMPLES, suppress_health_check=list(HealthCheck))
@given(benchmark_files(), st.sampled_from([[], ["--gt-stub"], ["--sequences", RECORD["seq_id"]],
                                           ["--stride", 99]]))
@example(as_lines({**RECORD, "seq_id": None, "object_id": "../../../x"}), [])
def test_any_file_is_prepared_or_refused_and_harms_nothing(
        world: World, data: bytes, options: list[Any]) -> None:
    world.put_video()
    shutil.rmtree(str(world.output), ignore_errors=True)
    world.benchmark.write_bytes(data)
    before = tree(world.folder)
    run = world.prepare(*options, nframes=2)
    assert_explained(run)
    after = {name: content for name, content in tree(world.folder).items() if not re.match("out(/|$)", name)}
    assert after == before
    assert run.code != 2 or not world.output.exists() and not run.out, run
    assert [name for name in run.tree if not re.fullmatch(OUTPUT_PATH, name, re.ASCII)] == []
    assert_no_ground_truth(world, run)
    for path in world.output.glob("*/sequence_meta.json"):
        meta = json.loads(path.read_text())
        x1, y1, x2, y2 = meta["init_bbox"]
        assert x1 < x2 and y1 < y2 and x1 < 1000 and y1 < 1000 and x2 > 0 and y2 > 0
        assert (meta["seq_id"], meta["frame_ids"][0]) == (path.parent.name, meta["init_frame_id"])

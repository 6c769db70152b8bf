"""Benchmark files: what a record means, what is wrong, which frames follow, what is written of it."""
from __future__ import annotations

import codecs
import itertools
import json
import re
from typing import Any, Callable, Dict

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prepare_sot_dataset import (Problem, SotSequence, dataset_split, read_benchmark, select_frame_ids,
                                 suggest_options, video_path)
from tests import clips
from tests.world import World

Record = Dict[str, Any]

SEQ_ID = "Warehouse_016__Camera_11__5600__obj353"
BOX, IDS = [799.0, 601.9, 918.8, 956.5], [5600, 5615, 5630, 5645, 5660, 5675, 5690, 5705]
STANDARD: Record = {
    "seq_id": SEQ_ID, "scene": "Warehouse_016", "camera": "Camera_11", "object_id": "353",
    "object_type": "Robot", "init_frame_id": 5600, "init_bbox": BOX, "canonical_frame_ids": IDS,
    "clip_fps": 30.0, "clip_end_frame": 5800}
NAMED: Record = {"seq_id": "own-name.1", "scene": "Lab_001", "camera": "Camera", "init_bbox": [1, 2, 3, 4]}
PLACED = {**NAMED, "init_frame_id": 3}
SECRET = "5071393"  # in the digits of each ground-truth number that must not become public, nowhere else


def without(record: Record, names: str) -> Record:
    return {name: value for name, value in record.items() if name not in names.split()}


def sequence(**changes: Any) -> SotSequence:
    fields = {**STANDARD, **changes}
    return SotSequence(**{name: tuple(one) if isinstance(one, list) else one for name, one in fields.items()})


def lines(*records: Any) -> bytes:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    return text.encode("utf-8", "surrogatepass")


def only_problem(data: bytes) -> Problem:
    (problem,) = read_benchmark(data)[1]
    return problem


def mistakes(world: World, data: bytes) -> list[str]:
    """All that a run tells, without the closing line; it has done nothing."""
    world.benchmark.write_bytes(data)
    run = world.run("--nframes", 1)
    assert run.code == 2 and not run.out and not run.children and not world.output.exists(), run
    assert "nothing was written" in run.errors[-1] and len(run.errors) == len(run.err.splitlines())
    return [error[len("ERROR: "):] for error in run.errors[:-1]]


# ---------------------------------------------------------------- flavours and containers

def truth(record: Record) -> dict[str, list[float]]:
    box = [float("0." + SECRET), 1, float("5." + SECRET), 99]
    later = {str(frame_id): box for frame_id in record["canonical_frame_ids"][1:]}
    return {**later, str(record["init_frame_id"]): record["init_bbox"]}


def conversation(record: Record, who: str, what: str, asks: str, answers: str) -> Record:
    turns = [{who: asks, what: '{"0": "Where is it?"}'}, {who: answers, what: json.dumps(truth(record))}]
    return {"id": record["seq_id"], "metadata": without(record, "seq_id init_bbox"), "conversations": turns}


def numbers_as(form: Callable[[float], Any], value: Any) -> Any:
    if isinstance(value, list):
        return [numbers_as(form, item) for item in value]
    return form(value) if isinstance(value, (int, float)) else value


# Each turns a standard record into another one that says the same.
FLAVOURS: dict[str, Callable[[Record], Record]] = {
    "standard": dict,
    "ground truth": lambda record: {**record, "gt_bboxes": truth(record)},
    "ground truth alone": lambda record: {"gt_bboxes": truth(record), **without(
        record, "scene camera object_id init_frame_id init_bbox canonical_frame_ids")},
    "conversation": lambda record: conversation(record, "role", "content", "user", "assistant"),
    "conversation with values": lambda record: conversation(record, "from", "value", "human", "gpt"),
    "sequence only": lambda record: {
        **without(record, "seq_id canonical_frame_ids object_id init_frame_id"),
        "id": record["seq_id"], "source_frame_ids": record["canonical_frame_ids"]},
    "label": lambda record: {**record, "seq_id": record["seq_id"].replace("__", "/")},
    "whole floats": lambda record: {
        name: numbers_as(float, value) for name, value in without(record, "seq_id").items()},
    "strings": lambda record: {name: numbers_as(str, value) for name, value in record.items()},
    "nulls": lambda record: {**record, "object_id": None, "init_frame_id": None, "scene": None, "id": None}}
CONTAINERS: dict[str, Callable[[list[Record]], str]] = {
    "array": json.dumps,
    "pretty-printed array": lambda records: "\n \n" + json.dumps(records, indent=2),
    "array over lines": lambda records: "[\n" + ",\n".join(map(json.dumps, records)) + "\n]\n",
    "lines": lambda records: "\n".join(map(json.dumps, records)),
    "blank lines": lambda records: "\n\n  \n" + "\n \t\n\n".join(map(json.dumps, records)) + "\n\n",
    "windows lines": lambda records: "\r\n".join(map(json.dumps, records)) + "\r\n\r\n",
    "one object": lambda records: json.dumps(records[0]),
    "one pretty-printed object": lambda records: json.dumps(records[0], indent=4)}


GOOD = st.builds(
    clips.record, st.sets(st.integers(0, 10 ** 6), min_size=1, max_size=9).map(sorted),
    st.tuples(*[st.floats(0.5, 900)] * 4).map(lambda box: [box[0], box[1], box[0] + box[2], box[1] + box[3]]),
    scene=st.sampled_from(["Warehouse_003", "Lab-1", "Hospital_x.y_z"]),
    object_id=st.sampled_from(["7", "cart-4", "0", "_9"]), clip_fps=st.sampled_from([25, 29.97]),
    clip_end_frame=st.integers(0, 10 ** 6))


@pytest.mark.parametrize("name", CONTAINERS)
@settings(max_examples=30)
@given(records=st.lists(GOOD, min_size=1, max_size=2, unique_by=lambda record: record["seq_id"]),
       mark=st.sampled_from([b"", codecs.BOM_UTF8]))
def test_property_flavours_mix_keep_their_order_and_count_once(
        name: str, records: list[Record], mark: bytes) -> None:
    text = CONTAINERS[name]([flavour(record) for record in records for flavour in FLAVOURS.values()])
    expected = [sequence(**record) for record in (records[:1] if "object" in name else records)]
    assert read_benchmark(mark + text.encode()) == (expected, [])


NAMES = st.sampled_from([*STANDARD, "id", "gt_bboxes", "5600", "conversations", "from", "gpt"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([SEQ_ID, BOX, IDS]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4))


@given(st.binary() | st.builds(lines, JSON) | st.builds(
    lambda one, changes: lines(one, {**STANDARD, **changes}), JSON, st.dictionaries(NAMES, JSON, max_size=3)))
def test_property_any_file_gives_sequences_or_problems(data: bytes) -> None:
    found, problems = read_benchmark(data)
    assert found or problems
    for name in [name for one in found for name in (one.seq_id, one.scene, one.camera)]:
        assert re.fullmatch("[A-Za-z0-9_-][A-Za-z0-9_.-]*", name)


GIVEN = {**without(NAMED, "init_bbox"), "gt_bboxes": {"5630": BOX, "5615": BOX, "5600": [1, 2, 3, 4]}}
DERIVED: list[tuple[Record, Record]] = [
    ({"seq_id": "Hospital_003__Camera_0__12__objcart-4", "init_bbox": BOX},
     {"scene": "Hospital_003", "camera": "Camera_0", "init_frame_id": 12, "object_id": "cart-4",
      "object_type": "object", "clip_fps": None, "clip_end_frame": None, "canonical_frame_ids": ()}),
    (without(STANDARD, "seq_id init_frame_id"), {"seq_id": SEQ_ID, "init_frame_id": 5600}),
    (PLACED, {"seq_id": "own-name.1"}),
    *[({**without(PLACED, "seq_id"), name: value}, {"seq_id": "12"})
      for name, value in (("seq_id", 12), ("seq_id", 12.0), ("id", 12))],
    *[({**STANDARD, "object_id": value}, {"object_id": text}) for value, text in ((0, "0"), (353.0, "353"))],
    *[({**STANDARD, "clip_fps": value}, {"clip_fps": None}) for value in (0, -30, "0.0", None)],
    ({**STANDARD, "canonical_frame_ids": [5600, "5615.0"]}, {"canonical_frame_ids": (5600, 5615)}),
    ({**STANDARD, "object_type": "a\u2028line\u0085end"}, {"object_type": "a\u2028line\u0085end"}),
    # From ground truth: the initial frame's own box, and the ids from the initial frame on.
    (GIVEN, {"init_frame_id": 5600, "init_bbox": (1, 2, 3, 4), "canonical_frame_ids": (5600, 5615, 5630)}),
    ({**GIVEN, "init_frame_id": 5615}, {"init_bbox": tuple(BOX), "canonical_frame_ids": (5615, 5630)}),
    ({**STANDARD, "gt_bboxes": {"5600": [9, 9, 10, 10], "5601": BOX}},
     {"init_bbox": tuple(BOX), "canonical_frame_ids": tuple(IDS)}),
    ({"id": SEQ_ID, "metadata": without(STANDARD, "seq_id"), "scene": "Lab_002", "clip_fps": None},
     {"scene": "Lab_002", "clip_fps": 30.0}),
    *[({**STANDARD, "init_bbox": bbox}, {"init_bbox": tuple(bbox)})
      for bbox in ([-10, 0, 0.1, 10], [999.9, 0, 1010, 10], [-5, -5, 2000, 2000], [0, 999, 1, 1001])]]


@pytest.mark.parametrize("record, expected", DERIVED, ids=lambda value: " ".join(value)[:40])
def test_derived(record: Record, expected: Record) -> None:
    (found,), problems = read_benchmark(lines(record))
    assert ({name: getattr(found, name) for name in expected}, problems) == (expected, [])


# ---------------------------------------------------------------- what is wrong

NO_TEXT = [True, [], {}, ""]
NO_NAME = [*NO_TEXT, 1.5, "..", ".hidden", "../../x", "a\\b", "C:x", "a b", "\u00e9", "a\n", "a\0", "x" * 201]
NO_FRAME = [-1, 1.5, "-1", "1.5", "x", True, [], {}, 10 ** 30, float("nan"), float("inf")]
NO_BOX = [[], {}, "1,2,3,4", 5, [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, "4x"], [1, 2, 3, "nan"],
          [1, 2, 3, None], [1, 2, True, 4], [[1], 2, 3, 4], [float("nan"), 2, 3, 4], [1, 2, float("inf"), 4], [float("-inf"), 2, 3, 4],
          [1, 2, 3, 10 ** 400], [3, 2, 3, 4], [4, 2, 3, 4], [1, 4, 3, 4], [1, 5, 3, 4],
          [1000, 0, 1010, 10], [0, 1000, 10, 1010], [-10, 0, 0, 10], [0, -10, 10, 0],
          [-10, 0, 1000001, 10], [-1e13, 300, 1e13, 700], [1, 2, 1e300, 4], [-1.7e308, 2, 1.7e308, 4]]
NO_IDS = [5, "5600", {}, [5600, 5600], [5600, 5599], [5600, "x"], [5600, 5615.5], [5600, None],
          [5600, [5615]], [-5, 3], [5600, True], [5600, 10 ** 30], [5601, 5615]]
WRONG: dict[str, tuple[list[Any], str]] = {
    "seq_id": (NO_NAME, r"file name.*\{scene\}__\{camera\}__\{init_frame_id\}__obj\{object_id\}"),
    "scene": (NO_NAME + ["a/b", "/etc/x", 5], "name"),
    "camera": (NO_NAME + ["a/b", "/etc/x", 5], "name"),
    "object_id": (NO_TEXT + [float("nan")], "number or a text"),
    "object_type": (NO_TEXT + [5], "a text"),
    "init_frame_id": (NO_FRAME, "whole number"),
    "init_bbox": (NO_BOX, r"\[x1, y1, x2, y2\] in thousandths.*x1 < x2"),
    "canonical_frame_ids": (NO_IDS, "(?:ascending whole numbers|init_frame_id)"),
    "clip_end_frame": (NO_FRAME, "whole number"),
    "clip_fps": (["fast", "nan", True, [], float("nan"), float("inf")], "a number")}
MISSING = {"seq_id": without(STANDARD, "seq_id object_id"), "scene": without(PLACED, "scene"),
           "camera": {**PLACED, "camera": None}, "init_frame_id": NAMED,
           "init_bbox": {**without(STANDARD, "init_bbox"), "gt_bboxes": {"5615": BOX}}}


@pytest.mark.parametrize("field, record", [
    *[(field, {**STANDARD, field: value}) for field in WRONG for value in WRONG[field][0]], *MISSING.items()],
    ids=lambda value: value if isinstance(value, str) else "")
def test_wrong_field(field: str, record: Record) -> None:
    where, seq_id, text = only_problem(lines(PLACED) + b"\n" + lines(record))
    said = "missing.*" if record is MISSING.get(field) else ""
    assert where == "line 3" and (field == "seq_id" or seq_id == record.get("seq_id"))
    assert re.match(f"field {field}: {said}.*{WRONG[field][1]}", text)
    assert not said or not re.search('""|null|None', text)


ONE_MISTAKE: dict[str, tuple[bytes, str]] = {
    "empty": (codecs.BOM_UTF8 + b"\n\n", "no records.*expected JSON"),
    "csv": (b"a,b\n", "line 1\\b.*not valid JSON.*expected an array of records or one record per line"),
    "array of numbers": (b"[1]", "item 0\\b.*expected an object, got 1"),
    "utf-16": (codecs.BOM_UTF16_LE + "[{}]".encode("utf-16-le"), "UTF-8"),
    "nested too deeply": (b"[" * 100000, "line 1\\b.*not valid JSON"),
    "number": (b"42", "line 1\\b.*expected an object, got 42"),
    "text": (b'"x"', 'expected an object, got "x"'), "null": (b"null", "expected an object, got null"),
    "comma behind": (lines(STANDARD) + lines(PLACED).rstrip() + b",", "line 2\\b.*not valid JSON"),
    "ground truth without use": (lines({**without(STANDARD, "init_bbox"), "gt_bboxes": {"1": [1, 2, 3, 4]}}),
                                 "init_bbox: missing"),
    "cut array": (b'[\n{"seq_id": "x"},\n{"seq_id":', "line 3\\b.*JSON"),
    "broken object": (b'{\n"seq_id": "x",\n"scene": ,\n"camera": "y"\n}', "line 3\\b.*JSON"),
    "broken line": (lines(STANDARD) + b'{"seq_id": x}\n' + lines(STANDARD), "line 2\\b.*JSON"),
    "wrong item": (json.dumps([PLACED, {**STANDARD, "scene": ""}], indent=1).encode(), "item 1\\b.*scene"),
    "after blank lines": (b"\n\n" + lines({**STANDARD, "clip_fps": "x"}), "line 3\\b.*clip_fps")}


@pytest.mark.parametrize("case", ONE_MISTAKE)
def test_one_mistake_is_told_once_with_one_place(world: World, case: str) -> None:
    data, expected = ONE_MISTAKE[case]
    (text,) = mistakes(world, data)
    assert text.startswith(str(world.benchmark)) and re.search(expected, text)
    assert len(re.findall(r"\bline \d|\bitem \d|\bbyte \d", text)) == 1


def test_all_mistakes_are_listed_together_up_to_100(world: World) -> None:
    wrong = [{**PLACED, "seq_id": "n%d" % n, "clip_fps": "x"} for n in range(8, 158)]
    data = (lines({**STANDARD, "scene": "a/b", "clip_fps": "x"}, PLACED) + b'{"seq_id": \n[1, 2]\n\n'
            + lines({**STANDARD, "init_bbox": [1, 2]}, {**PLACED, "clip_fps": 29}, *wrong))
    told = [f"1, .*{SEQ_ID}.*scene", f"1, .*{SEQ_ID}.*clip_fps", "3: .*JSON", "4: .*object",
            f"6, .*{SEQ_ID}.*init_bbox", "7, .*own-name.*differs.*line 2\\b",
            *['%d, seq_id "n%d": field clip_fps' % (n, n) for n in range(8, 102)]]
    *found, rest = mistakes(world, data)
    found.sort(key=lambda text: int(re.findall(r"jsonl, line (\d+)", text)[0]))
    assert len(found) == len(told) and re.search(r"\b56 more", rest)
    assert [text for text, each in zip(found, told) if not re.search("jsonl, line " + each, text)] == []


@pytest.mark.parametrize("change", [
    {"scene": "Lab_1"}, {"camera": "C"}, {"object_id": "354"}, {"object_type": "Person"}, {"clip_fps": 29.97},
    {"init_bbox": [1, 2, 3, 4]}, {"canonical_frame_ids": IDS[:-1]}, {"clip_end_frame": 6000},
    {"seq_id": SEQ_ID.upper()}], ids=str)  # one folder on Windows and macOS
def test_differing_records_of_one_name_are_wrong(change: Record) -> None:
    where, seq_id, text = only_problem(lines(STANDARD, PLACED, {**STANDARD, **change}))
    assert (where, seq_id) == ("line 3", change.get("seq_id", SEQ_ID)) and re.match(r"differs.*line 1\b", text)


FREE: Record = {"canonical_frame_ids": []}
DOUBTS = ["looks like pixels", "looks like fractions", "seq_id does not match", "clip_end_frame"]
DOUBTFUL: list[tuple[int | None, list[Record]]] = [
    (0, [{"init_bbox": [400, 300, 1300, 900]}, {"init_bbox": [-5, 10, 60, 1900]}]),
    (1, [{"init_bbox": [0.2, 0.3, 0.4, 1]}, {"init_bbox": [500, 500, 500.2, 500.2]}]),
    (2, [{"seq_id": "b-first"}, {"object_id": "8"}]),
    (2, [{"object_id": "8"}, {"seq_id": "Warehouse_016__Camera_11__4__obj2"}]),
    (3, [{**FREE, "clip_end_frame": 3}, {**FREE, "clip_end_frame": 1}]),
    (None, [{"init_bbox": [-50, -50, 1100, 1100]}, {"init_bbox": [0, 0, 1, 1.5]},
            {"seq_id": "Warehouse_016/Camera_11/3/obj3"}, {**FREE, "clip_end_frame": 4}]),
    (None, [{"canonical_frame_ids": [3, 9], "clip_end_frame": 5}])]  # these ids have their ground truth


def test_a_doubt_is_one_warning_for_the_file(world: World) -> None:
    world.video()
    for doubt, changes in DOUBTFUL:
        records = [{**clips.record([3, 4], object_id=str(n)), **change} for n, change in enumerate(changes, 1)]
        world.records(clips.record([3, 4]), *records)
        run = world.run("--nframes", 2)
        warned = re.findall("WARNING: .*(?:{}).*".format("|".join(DOUBTS)), run.err)
        assert (run.code, len(warned)) == (0, doubt is not None), run
        for text in warned:
            assert re.search(DOUBTS[doubt or 0], text)
            assert re.search(r"\b2\b", text.replace(str(world.folder), ""))
            assert records[0]["seq_id"] in text and records[1]["seq_id"] not in text


A, B, C = (clips.record([3, 4], object_id=number) for number in (1, 2, 3))
A_ID, B_ID, C_ID = (record["seq_id"] for record in (A, B, C))
OTHER, BAD = B_ID + "5", {**B, "clip_fps": "x"}
WARNED, REFUSED = r"WARNING: [^\n]* line 2\b", r"ERROR: [^\n]* line 2\b"
UNKNOWN = rf"ERROR: [^\n]*{OTHER}: not in the benchmark; closest: [^\n]*{B_ID}\b"


@pytest.mark.parametrize("bad, named, code, ready, told", [
    (None, [C_ID, A_ID, A_ID], 0, [A_ID, C_ID], r"\[1/2\]"),
    (None, [A_ID, OTHER], 1, [A_ID], UNKNOWN + r".*\[1/1\]"),
    (None, [OTHER, "nowhere"], 2, [], UNKNOWN + ".*ERROR: [^\n]*nowhere"),
    (BAD, [C_ID, A_ID], 0, [A_ID, C_ID], WARNED), (BAD, [C_ID, OTHER], 1, [C_ID], WARNED),
    (BAD, [A_ID, B_ID], 2, [], REFUSED), (BAD, ["nowhere"], 2, [], "ERROR: [^\n]*nowhere"),
    ({"seq_id": ""}, [A_ID], 0, [A_ID], WARNED), ("", [A_ID], 0, [A_ID], WARNED)])
def test_sequences(world: World, bad: Any, named: list[str], code: int, ready: list[str], told: str) -> None:
    world.video()
    world.records(A, B if bad is None else bad, C)
    first, *others = named  # the option may stand more than once, each time with any number of names
    run = world.run("--nframes", 1, "--sequences", first, *(["--sequences", *others] if others else []))
    made = [name for name in (A_ID, B_ID, C_ID) if name + "/sequence_meta.json" in run.tree]
    assert (run.code, made, bool(run.errors)) == (code, ready, code > 0), run
    assert world.output.exists() == (ready != [])
    assert re.search(told, run.err, re.S)


# ---------------------------------------------------------------- which frames, which video

@pytest.mark.parametrize("canonical, end, nframes, stride, expected", [
    (IDS, 5601, 8, None, IDS), (IDS, None, 3, None, IDS[:3]), (IDS, 5601, 3, 4, [5600, 5604, 5608]),
    ([5600, 5601, 5700], None, 3, None, [5600, 5601, 5700]), ([5600, 5601], None, 2, None, [5600, 5601]),
    ([5600, 5601], None, 3, None, [5600, 5615, 5630]), (IDS, None, 1, 4, [5600]), ([], 9000, 1, None, [5600]),
    *[([], end, nframes, None, [5600 + n * step for n in range(nframes)]) for end, nframes, step in [
        (5705, 8, 15), (5704, 8, 14), (6205, 8, 15), (5698, 8, 14), (5697, 8, 13), (5607, 8, 1), (5606, 8, 1),
        (5000, 8, 1), (5610, 2, 10), (5629, 3, 14), (5630, 3, 15)]]])
def test_canonical_ids_else_a_stride_else_what_fits_the_clip(
        canonical: list[int], end: int | None, nframes: int, stride: int | None,
        expected: list[int]) -> None:
    one = sequence(canonical_frame_ids=canonical, clip_end_frame=end)
    assert select_frame_ids(one, nframes, stride) == tuple(expected)


@pytest.mark.parametrize("split, scenes", [
    ("train", "Warehouse_000 Warehouse_014"),
    ("val", "Warehouse_015 Warehouse_100 Hospital_000 Lab_000 Warehouse_0 warehouse_000 Warehouse_0140")])
def test_split_and_path(split: str, scenes: str) -> None:
    for scene in scenes.split():
        path = video_path(sequence(scene=scene), "a/b")
        assert (dataset_split(scene), path) == (split, f"a/b/{split}/{scene}/videos/Camera_11.mp4")


@given(first=st.integers(0, 30), gaps=st.lists(st.integers(1, 9), max_size=9), room=st.none() | st.integers(0, 90),
       nframes=st.integers(1, 20), stride=st.none() | st.integers(1, 9), count=st.integers(1, 60))
def test_property_what_fits_is_the_most_that_fits(first: int, gaps: list[int], room: int | None, nframes: int,
                                                  stride: int | None, count: int) -> None:
    ids = list(itertools.accumulate([first, *gaps]))
    one = sequence(init_frame_id=first, canonical_frame_ids=ids, clip_end_frame=room and first + room)

    def fits(nframes: int, stride: int | None) -> bool:
        return select_frame_ids(one, nframes, stride)[-1] < count

    assume(not fits(nframes, stride))
    most = [max((n for n in range(1, nframes) if fits(n, stride)), default=0),
            max((s for s in range(1, 60) if fits(nframes, s)), default=0)]
    assert suggest_options(one, nframes, stride, count) == [
        "%s %d" % told for told in zip(("--nframes", "--stride"), most) if told[1]]


def test_past_the_end_of_the_video_the_message_says_what_fits(world: World) -> None:
    world.video()
    fine, late, gone = (clips.record([k], object_id=k) for k in (3, 100, clips.FRAMES))
    world.records(fine, late, gone)
    run = world.run("--nframes", 3)
    assert (run.code, len(run.errors)) == (1, 2)
    assert world.manifest()["missing"] == [late["seq_id"], gone["seq_id"]]
    assert re.search(late["seq_id"] + ".*frame 130.*120 frames.*--nframes 2 or --stride 9 ", run.err)
    assert re.search(gone["seq_id"] + ".*frame 150.*120 frames(?!.*--)", run.err)
    assert {name.split("/")[0] for name in run.tree if name.endswith(".png")} == {fine["seq_id"]}


# ---------------------------------------------------------------- what is written

THREE = [clips.record(range(4), scene="Warehouse_001"),
         without(clips.record(range(3, 7), scene="Hospital_000", object_id="cart-4"), "clip_fps"),
         clips.record(range(1, 5), scene="Lab_000", clip_fps=29.97)]
FIRST, SECOND, THIRD = (record["seq_id"] for record in THREE)


@pytest.fixture
def three(world: World) -> World:
    for record in THREE:
        world.video(scene=record["scene"], split=dataset_split(record["scene"]))
    world.records(*THREE)
    return world


def test_manifest_and_metadata(three: World) -> None:
    assert three.run("--nframes", 4).code == 0
    entries = [{**without(record, "init_bbox canonical_frame_ids"), "object_id": str(record["object_id"]),
                "nframes": 4, "frame_ids": record["canonical_frame_ids"], "stride": 1,
                "clip_fps": record.get("clip_fps", 30.0)} for record in THREE]
    repository = {"repo_id": "nvidia/PhysicalAI-SmartSpaces", "repo_subdir": "MTMC_Tracking_2025"}
    assert three.manifest() == {
        **repository, "format_version": 1, "benchmark": "benchmark.jsonl", "nframes": 4, "stride": None,
        "submission_required": False, "missing": [], "requests": entries}
    for record, entry in zip(THREE, entries):
        path = "MTMC_Tracking_2025/{}/{}/videos/Camera_11.mp4".format(dataset_split(record["scene"]), record["scene"])
        assert three.meta(record["seq_id"]) == {
            **entry, "label": "%(scene)s/%(camera)s/%(init_frame_id)d/obj%(object_id)s" % record,
            "init_bbox": record["init_bbox"], "gt_available": False,
            "image_size": [clips.WIDTH, clips.HEIGHT],
            "source": {"repo_id": repository["repo_id"], "path": path, "revision": None}}


RUNS: list[Any] = [  # nframes, stride, names for --sequences, ready ones, submission required, stride told
    (1, None, [], [FIRST, SECOND], False, None),
    (1, 9, [], [FIRST, SECOND], False, 9),
    (4, None, [SECOND], [SECOND], False, 1),
    (2, None, [FIRST], [FIRST, SECOND], False, 1),  # the other one's 4 frames hold these 2
    (2, 3, [SECOND], [SECOND], False, 3),
    (2, 4, [], [FIRST, SECOND], True, 4),
    (5, 1, [SECOND], [SECOND], True, 1),
    (5, None, [], [FIRST, SECOND], True, 15)]


def test_manifest_covers_what_is_ready_whichever_run_prepared_it(three: World) -> None:
    next(three.videos.glob("*/val/Lab_000/videos/*.mp4")).unlink()
    for nframes, stride, names, ready, required, step in RUNS:
        options = ["--sequences", *names] if names else []
        options += ["--stride", str(stride)] if stride else []
        assert three.run("--nframes", nframes, *options).code == (not names)
        manifest = three.manifest()
        expected = {"nframes": nframes, "stride": stride, "submission_required": required,
                    "missing": [name for name in (FIRST, SECOND, THIRD) if name not in ready]}
        assert {name: manifest[name] for name in expected} == expected
        assert [entry["seq_id"] for entry in manifest["requests"]] == ready
        for entry in manifest["requests"]:
            ids = [entry["init_frame_id"] + n * (step or 0) for n in range(nframes)]
            assert (entry["frame_ids"], entry["nframes"], entry["stride"]) == (ids, nframes, step)
        assert three.meta(SECOND)["stride"] == step


def test_submission_required_follows_from_the_requests(world: World) -> None:
    """A sequence that is not in them, be it for its frames or for its video, asks for no submission."""
    canonical, short = clips.record(range(0, 8, 2)), clips.record(range(1, 3), camera="Camera_12")
    world.records(canonical, short)
    world.video()
    for names, required in ((["--sequences", canonical["seq_id"]], False), ([], False), ([], True)):
        if required:
            world.video(camera="Camera_12")
        world.run("--nframes", 4, *names)
        assert [len(world.manifest()["requests"]), world.manifest()["submission_required"]] == [1 + required, required]


HIDDEN = [float("0." + SECRET)]


@pytest.mark.parametrize("wrong", [
    {}, {"clip_fps": "x"}, {"init_bbox": {"3": HIDDEN}},
    {"init_bbox": None, "gt_bboxes": {"3": HIDDEN}}], ids=str)
def test_no_ground_truth_reaches_a_file_or_a_message(world: World, wrong: Record) -> None:
    world.video()
    good = [flavour(clips.record([3, 4], object_id=str(n))) for n, flavour in enumerate(FLAVOURS.values())]
    late = FLAVOURS["ground truth"](clips.record([clips.FRAMES, clips.FRAMES + 1]))
    world.records(*good, late, *([{**good[1], "seq_id": "x", **wrong}] if wrong else []))
    runs = [world.run("--nframes", 2, *how) for how in (["--gt-stub", "--contact-sheet"], ["--check"])]
    assert [run.code for run in runs] == ([2, 2] if wrong else [1, 1])
    written = [path.read_bytes() for path in world.output.rglob("*") if path.is_file()]
    assert len(written) == (0 if wrong else 1 + 7 * len(good))
    assert SECRET in world.benchmark.read_text()
    said = [(run.out + run.err).encode() for run in runs]
    assert not [data for data in written + said if SECRET.encode() in data]

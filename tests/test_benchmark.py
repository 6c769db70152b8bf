"""Benchmark files: what each flavour of record means, what is wrong, which frames follow, what the manifest says."""
from __future__ import annotations

import codecs
import functools
import json
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import pytest

from prepare_sot_dataset import BenchmarkError, SotSequence, frame_ids_of, main, read_benchmark, split_of, video_path
from tests import clips

Record = Dict[str, Any]

SEQ_ID = "Warehouse_016__Camera_11__5600__obj353"
BOX = [799.0, 601.9, 918.8, 956.5]
IDS = [5600, 5615, 5630, 5645, 5660, 5675, 5690, 5705]
TRUTH = {str(k): [799.0 - n, 601.9, 918.8 - n, 956.5] for n, k in enumerate(IDS)}

STANDARD: Record = {
    "seq_id": SEQ_ID, "scene": "Warehouse_016", "camera": "Camera_11", "object_id": "353", "object_type": "Robot",
    "init_frame_id": 5600, "init_bbox": BOX, "canonical_frame_ids": IDS, "clip_fps": 30.0,
}


def changed(record: Record, **changes: Any) -> Record:
    """The record with some fields replaced; `...` leaves a field out."""
    return {name: value for name, value in {**record, **changes}.items() if value is not ...}


def only(record: Record, *names: str) -> Record:
    return {name: record[name] for name in names}


def conversation(seq_id: str, metadata: Record, boxes: Any, asks: str = "human", answers: str = "gpt") -> Record:
    who, what = ("from", "value") if answers == "gpt" else ("role", "content")
    said = json.dumps(boxes)
    return {"id": seq_id, "metadata": metadata,
            "conversations": [{who: asks, what: '{"0": "<video> Where is it?"}'}, {who: answers, what: said}]}


def lines(*records: Any) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode("utf-8")


def read(*records: Any) -> List[SotSequence]:
    return read_benchmark(lines(*records), "bench.jsonl")


def sequence(**changes: Any) -> SotSequence:
    known: Dict[str, Any] = {
        "seq_id": SEQ_ID, "scene": "Warehouse_016", "camera": "Camera_11", "object_id": "353", "object_type": "Robot",
        "init_frame_id": 5600, "init_bbox": tuple(BOX), "canonical_frame_ids": tuple(IDS), "clip_end_frame": None,
        "clip_fps": 30.0,
    }
    known.update(changes)
    return SotSequence(**known)


# ---------------------------------------------------------------- flavours

METADATA = changed(STANDARD, seq_id=...)
FLAVOURS: Dict[str, Tuple[Record, SotSequence]] = {
    "standard": (STANDARD, sequence()),
    "standard_with_clip_end": (changed(STANDARD, clip_end_frame=5800), sequence(clip_end_frame=5800)),
    "ground_truth": (changed(STANDARD, gt_bboxes=TRUTH), sequence()),
    "ground_truth_and_seq_id_only": (
        {"seq_id": SEQ_ID, "gt_bboxes": TRUTH},
        sequence(object_type="object", canonical_frame_ids=(), clip_fps=None)),
    "conversation": (conversation(SEQ_ID, METADATA, TRUTH), sequence()),
    "conversation_with_roles": (
        conversation(SEQ_ID, METADATA, TRUTH, asks="user", answers="assistant"), sequence()),
    "conversation_without_box": (
        conversation(SEQ_ID, changed(METADATA, init_bbox=...), TRUTH), sequence()),
    "sequence_only": (
        {"id": SEQ_ID, "scene": "Warehouse_016", "camera": "Camera_11", "source_frame_ids": IDS, "init_bbox": BOX},
        sequence(object_type="object", clip_fps=None)),
}


@pytest.mark.parametrize("name", list(FLAVOURS))
def test_flavour(name: str) -> None:
    record, expected = FLAVOURS[name]
    assert read(record) == [expected]


def renamed(record: Record, number: int) -> Record:
    return json.loads(json.dumps(record).replace("obj353", "obj%d" % number))


def test_a_file_may_mix_flavours_and_keeps_its_order() -> None:
    records = [renamed(record, number) for number, (record, _) in enumerate(FLAVOURS.values())]
    names = [SEQ_ID.replace("353", str(number)) for number in range(len(FLAVOURS))]
    assert [found.seq_id for found in read(*records)] == names
    assert [found.seq_id for found in read(*reversed(records))] == names[::-1]


# ---------------------------------------------------------------- containers

TWO = [STANDARD, renamed(STANDARD, 7)]
LINES = [json.dumps(record) for record in TWO]
CONTAINERS = {
    "array": json.dumps(TWO),
    "array_over_lines": json.dumps(TWO, indent=2),
    "array_with_one_record_a_line": "[\n" + ",\n".join(LINES) + "\n]\n",
    "lines": "\n".join(LINES),
    "lines_with_last_newline": "\n".join(LINES) + "\n",
    "blank_lines": "\n\n  \n" + "\n \t\n\n".join(LINES) + "\n\n",
    "windows_lines": "\r\n".join(LINES) + "\r\n\r\n",
    "blank_lines_before_an_array": "\n \n" + json.dumps(TWO, indent=1),
}


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8], ids=["plain", "bom"])
@pytest.mark.parametrize("name", list(CONTAINERS))
def test_container(name: str, mark: bytes) -> None:
    found = read_benchmark(mark + CONTAINERS[name].encode("utf-8"), "b.json")
    assert found == [sequence(), sequence(seq_id=SEQ_ID.replace("353", "7"))]


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8], ids=["plain", "bom"])
@pytest.mark.parametrize("indent", [None, 4])
def test_single_object(indent: Optional[int], mark: bytes) -> None:
    assert read_benchmark(mark + json.dumps(STANDARD, indent=indent).encode("utf-8"), "b.json") == [sequence()]


def test_a_line_separator_inside_a_text_is_no_end_of_line() -> None:
    record = changed(STANDARD, object_type="pallet\u2028jack\u0085")
    found = read_benchmark(json.dumps(record, ensure_ascii=False).encode("utf-8"), "b.jsonl")
    assert [one.object_type for one in found] == ["pallet\u2028jack\u0085"]


# ---------------------------------------------------------------- derived fields


def derived(record: Record) -> SotSequence:
    (found,) = read(record)
    return found


@pytest.mark.parametrize("name, value", [
    ("scene", "Warehouse_016"), ("camera", "Camera_11"), ("init_frame_id", 5600), ("object_id", "353")])
def test_seq_id_gives_each_of_its_parts(name: str, value: Any) -> None:
    record = changed(STANDARD, canonical_frame_ids=..., **{name: ...})
    assert getattr(derived(record), name) == value


def test_seq_id_gives_all_of_its_parts() -> None:
    found = derived({"seq_id": "Hospital_003__Camera_0__12__objcart-4", "init_bbox": BOX})
    assert (found.scene, found.camera, found.init_frame_id, found.object_id) == ("Hospital_003", "Camera_0", 12,
                                                                                 "cart-4")


def test_seq_id_is_made_from_its_parts() -> None:
    assert derived(changed(STANDARD, seq_id=...)).seq_id == SEQ_ID


def test_seq_id_is_made_from_derived_parts() -> None:
    record = changed(STANDARD, seq_id=..., init_frame_id=..., object_id=353)
    assert derived(record).seq_id == SEQ_ID


def test_a_seq_id_of_another_form_is_kept() -> None:
    assert derived(changed(STANDARD, seq_id="my-favourite.1")).seq_id == "my-favourite.1"


@pytest.mark.parametrize("ids_name", ["canonical_frame_ids", "source_frame_ids"])
def test_first_frame_id_gives_the_initial_frame(ids_name: str) -> None:
    record = {**changed(STANDARD, seq_id="own-name", init_frame_id=..., canonical_frame_ids=...), ids_name: IDS}
    assert derived(record).init_frame_id == 5600
    assert derived(record).canonical_frame_ids == tuple(IDS)


def test_first_box_of_the_ground_truth_gives_the_initial_frame() -> None:
    backwards = dict(reversed(list(TRUTH.items())))
    record = {"seq_id": "own-name", "scene": "Lab_001", "camera": "Camera", "object_id": 1, "gt_bboxes": backwards}
    found = derived(record)
    assert (found.init_frame_id, found.init_bbox) == (5600, tuple(TRUTH["5600"]))


def test_initial_box_is_the_ground_truth_of_the_initial_frame_and_of_no_other() -> None:
    found = derived(changed(STANDARD, init_bbox=..., init_frame_id=5630, canonical_frame_ids=..., gt_bboxes=TRUTH))
    assert found.init_bbox == tuple(TRUTH["5630"])
    with pytest.raises(BenchmarkError, match="init_bbox"):
        read(changed(STANDARD, init_bbox=..., gt_bboxes={"5615": BOX}))


def test_own_initial_box_wins_over_the_ground_truth() -> None:
    assert derived(changed(STANDARD, init_bbox=[1, 2, 3, 4], gt_bboxes=TRUTH)).init_bbox == (1, 2, 3, 4)


@pytest.mark.parametrize("given, text", [(353, "353"), ("353", "353"), (0, "0"), ("cart-4", "cart-4")])
def test_object_id_is_a_text_from_then_on(given: Any, text: str) -> None:
    assert derived(changed(STANDARD, object_id=given)).object_id == text


def test_object_type_defaults_to_object() -> None:
    assert derived(changed(STANDARD, object_type=...)).object_type == "object"


def test_a_null_field_is_a_missing_one() -> None:
    empty = dict.fromkeys(["scene", "camera", "object_id", "object_type", "init_frame_id", "clip_fps",
                           "clip_end_frame"])
    assert derived({**STANDARD, **empty}) == sequence(object_type="object", clip_fps=None)


def test_a_null_beside_the_metadata_hides_nothing() -> None:
    record = {**conversation(SEQ_ID, METADATA, TRUTH), "clip_fps": None, "object_type": None}
    assert derived(record) == sequence()


def test_fields_beside_the_metadata_count() -> None:
    record = {**conversation(SEQ_ID, changed(METADATA, scene=...), TRUTH), "scene": "Lab_002"}
    assert derived(record).scene == "Lab_002"


def test_a_sequence_has_no_room_for_ground_truth() -> None:
    for record, _ in FLAVOURS.values():
        texts = [repr(found) for found in read(record)]
        assert not any(str(TRUTH[str(k)][0]) in text for text in texts for k in IDS[1:])


# ---------------------------------------------------------------- what is wrong

NO_NAME = [None, "", 5, True, [], {}, "a/b", "a\\b", "..", ".hidden", "../../x", "/etc/x", "C:x", "a b", "\u00e9",
           "a\n", "a\0b",
           "x" * 201, "CON", "nul.txt", "x."]
NO_FRAME = [-1, 1.5, "5600", True, [], {}, 10 ** 30, float("nan"), float("inf")]
NO_BOX = [[], {}, "1,2,3,4", 5, [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, "4"], [1, 2, 3, None], [1, 2, True, 4],
          [[1], 2, 3, 4],
          [float("nan"), 2, 3, 4], [1, 2, float("inf"), 4], [float("-inf"), 2, 3, 4], [1, 2, 3, 10 ** 400],
          [3, 2, 3, 4], [4, 2, 3, 4], [1, 4, 3, 4], [1, 5, 3, 4],
          [1000, 0, 1010, 10], [0, 1000, 10, 1010], [-10, 0, 0, 10], [0, -10, 10, 0], [2000, 2000, 2010, 2010]]
NO_IDS = [5, "5600", {}, [5600, 5600], [5600, 5599], [5600, "5615"], [5600, 5615.5], [5600, None], [5600, [5615]],
          [-5, 3],
          [5600, True], [5600, 10 ** 30]]
WRONG: List[Tuple[str, Any]] = [
    *[(field, value) for field in ("seq_id", "scene", "camera") for value in NO_NAME if value is not None],
    *[("init_frame_id", value) for value in NO_FRAME],
    *[("init_bbox", value) for value in NO_BOX],
    *[("canonical_frame_ids", value) for value in NO_IDS],
    *[("clip_end_frame", value) for value in NO_FRAME],
    *[("clip_fps", value) for value in ("30", 0, -30, True, [], float("nan"), float("inf"))],
    *[("object_id", value) for value in ([], {}, True, "", float("nan"))],
    *[("object_type", value) for value in (5, True, [], {}, "")],
]
EXPECTATION = {"seq_id": "name", "scene": "name", "camera": "name", "init_frame_id": "whole number",
               "init_bbox": "x1 < x2",
               "canonical_frame_ids": "rising whole numbers", "clip_end_frame": "whole number", "clip_fps": "positive",
               "object_id": "number or a text", "object_type": "text"}


class Answer(NamedTuple):
    code: int
    errors: List[str]
    written: bool


class Desk:
    """A folder with a benchmark file, from which nothing may be fetched."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        self.folder, self.capsys = folder, capsys

    def run(self, data: bytes, *options: str, name: str = "bench.jsonl") -> Answer:
        (self.folder / name).write_bytes(data)
        before = sorted(self.folder.iterdir())
        code = main(["--benchmark", str(self.folder / name), "--output-dir", str(self.folder / "out"), *options])
        out, err = self.capsys.readouterr()
        assert not out
        assert all(line.startswith("ERROR: ") for line in err.splitlines())
        return Answer(code, err.splitlines(), sorted(self.folder.iterdir()) != before)


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("something was fetched or started")

    for door in ("socket.getaddrinfo", "socket.create_connection", "subprocess.Popen"):
        monkeypatch.setattr(door, fail)
    return Desk(tmp_path, capsys)


GOOD = renamed(STANDARD, 1)


@pytest.mark.parametrize("field, value", WRONG, ids=lambda value: ascii(value)[:30])
def test_wrong_field(desk: Desk, field: str, value: Any) -> None:
    answer = desk.run(lines(GOOD) + b"\n" + lines(changed(STANDARD, **{field: value})))
    assert answer.code == 2 and not answer.written
    (error,) = answer.errors
    assert "bench.jsonl" in error and "line 3" in error and "field " + field in error
    assert EXPECTATION[field] in error
    if field != "seq_id":
        assert SEQ_ID in error


MISSING = {
    "seq_id": changed(STANDARD, seq_id=..., object_id=...),
    "scene": changed(STANDARD, seq_id="own-name", scene=...),
    "camera": changed(STANDARD, seq_id="own-name", camera=...),
    "init_frame_id": changed(STANDARD, seq_id="own-name", init_frame_id=..., canonical_frame_ids=...),
    "init_bbox": changed(STANDARD, init_bbox=...),
}


@pytest.mark.parametrize("field", list(MISSING))
def test_missing_field(desk: Desk, field: str) -> None:
    answer = desk.run(lines(GOOD, MISSING[field]))
    assert answer.code == 2 and not answer.written
    (error,) = answer.errors
    assert "bench.jsonl" in error and "line 2" in error and "field " + field in error and "nothing" in error


def test_one_fault_is_one_error_also_where_the_seq_id_is_made() -> None:
    with pytest.raises(BenchmarkError) as caught:
        read(changed(STANDARD, seq_id=..., clip_fps=-1))
    assert "field clip_fps" in str(caught.value) and "field seq_id" not in str(caught.value)


@pytest.mark.parametrize("seq_id_is_in", ["seq_id", "id", "metadata"])
def test_the_seq_id_is_named_where_it_is_known(seq_id_is_in: str) -> None:
    wrong = changed(STANDARD, seq_id=..., clip_fps=-1)
    record = {"metadata": {**wrong, "seq_id": SEQ_ID}} if seq_id_is_in == "metadata" else {**wrong,
                                                                                           seq_id_is_in: SEQ_ID}
    with pytest.raises(BenchmarkError, match=SEQ_ID):
        read(record)


def test_no_empty_seq_id_is_named_where_none_is_known() -> None:
    with pytest.raises(BenchmarkError) as caught:
        read(changed(STANDARD, seq_id=..., scene=..., object_id=...))
    assert '""' not in str(caught.value) and "null" not in str(caught.value)


def test_boxes_of_a_wrong_record_say_what_touches_the_image() -> None:
    for bbox in ([-10, 0, 0.1, 10], [999.9, 0, 1010, 10], [-5, -5, 2000, 2000], [0, 999, 1, 1001]):
        assert derived(changed(STANDARD, init_bbox=bbox)).init_bbox == tuple(bbox)


def test_an_array_is_counted_from_its_items(desk: Desk) -> None:
    answer = desk.run(json.dumps([GOOD, changed(STANDARD, clip_fps=0)], indent=1).encode(), name="bench.json")
    assert answer.code == 2
    assert ["item 1 " in error and "bench.json" in error and SEQ_ID in error for error in answer.errors] == [True]


def test_all_errors_of_a_file_are_listed_together(desk: Desk) -> None:
    answer = desk.run(lines(changed(STANDARD, scene="a/b", clip_fps=-1), GOOD)
                      + b"{\"seq_id\": \n[1, 2]\n"
                      + lines(changed(STANDARD, init_bbox=[1, 2]), changed(GOOD, clip_fps=29)))
    assert answer.code == 2 and not answer.written
    found = [(part, word) for error in answer.errors for part in ("line 1", "line 3", "line 4", "line 5", "line 6")
             for word in ("scene", "clip_fps", "JSON", "object", "init_bbox", "differs") if part + ", " in error + ", "
             or part + ":" in error if word in error.split(": ", 2)[-1]]
    for expected in (("line 1", "scene"), ("line 1", "clip_fps"), ("line 3", "JSON"), ("line 4", "object"),
                     ("line 5", "init_bbox"), ("line 6", "differs")):
        assert expected in found
    assert len(answer.errors) == 6


def test_very_many_errors_end_in_a_count(desk: Desk) -> None:
    answer = desk.run(lines(*[changed(renamed(STANDARD, number), clip_fps=0) for number in range(500)]))
    assert answer.code == 2 and 50 <= len(answer.errors) <= 500
    assert "more" in answer.errors[-1] or len(answer.errors) == 500


@pytest.mark.parametrize("data", [b"", b"\n\n", b"[]", codecs.BOM_UTF8, b"42", b"\"text\"", b"null", b"[1]", b"[[]]",
                                  b"{",
                                  b"[{}", b"{}", b"{]", b"[" * 50, b"\xff\xfe", b"\0\0", b"seq_id,scene\n1,2\n"])
def test_no_benchmark_at_all(desk: Desk, data: bytes) -> None:
    answer = desk.run(data)
    assert answer.code == 2 and not answer.written
    assert answer.errors and all("bench.jsonl" in error for error in answer.errors)


def test_no_benchmark_file(desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for missing in (tmp_path / "nowhere.jsonl", tmp_path):
        assert main(["--benchmark", str(missing), "--output-dir", str(tmp_path / "out")]) == 2
        err = capsys.readouterr().err
        assert err.startswith("ERROR: ") and str(missing) in err
    assert not (tmp_path / "out").exists()


def test_broken_json_is_placed(desk: Desk) -> None:
    (error,) = desk.run(lines(GOOD) + b'{"seq_id": "x", }\n').errors
    assert "line 2" in error and "JSON" in error
    (error,) = desk.run(b'[\n{"seq_id": "x"},\n{"seq_id": }\n]').errors
    assert "line 3" in error and "JSON" in error


def test_a_field_that_occurs_twice_is_an_error(desk: Desk) -> None:
    twice = lines(STANDARD).replace(b'"clip_fps": 30.0', b'"clip_fps": 30.0, "scene": "Warehouse_000"')
    answer = desk.run(lines(GOOD) + twice)
    assert answer.code == 2 and not answer.written
    assert ["line 2" in error and "scene" in error for error in answer.errors] == [True]


# ---------------------------------------------------------------- the same seq_id twice


def test_equal_records_count_once() -> None:
    assert read(STANDARD, GOOD, STANDARD) == [sequence(), sequence(seq_id=GOOD["seq_id"])]
    same = conversation(SEQ_ID, METADATA, TRUTH)
    assert read(STANDARD, same) == [sequence()]


@pytest.mark.parametrize("change", [
    {"scene": "Warehouse_017"}, {"camera": "Camera_12"}, {"object_id": "354"}, {"object_type": "Person"},
    {"init_bbox": [1, 2, 3, 4]}, {"canonical_frame_ids": IDS[:-1]}, {"clip_fps": 29.97}, {"clip_end_frame": 6000},
    {"init_frame_id": 5601, "canonical_frame_ids": ...}], ids=lambda change: next(iter(change)))
def test_differing_records_are_an_error(desk: Desk, change: Record) -> None:
    answer = desk.run(lines(STANDARD, GOOD, changed(STANDARD, **change)))
    assert answer.code == 2 and not answer.written
    (error,) = answer.errors
    assert "line 3" in error and "line 1" in error and SEQ_ID in error and "differ" in error


def test_names_that_one_folder_would_serve_are_an_error() -> None:
    with pytest.raises(BenchmarkError, match="differs"):
        read(STANDARD, changed(STANDARD, seq_id=SEQ_ID.upper()))


# ---------------------------------------------------------------- --sequences


def test_an_unknown_sequence_names_the_nearest(desk: Desk) -> None:
    others = [changed(STANDARD, seq_id="Lab_00%d__Camera__5600__obj1" % n) for n in range(5)]
    wanted = SEQ_ID.replace("353", "335")
    answer = desk.run(lines(*others, STANDARD), "--sequences", wanted)
    assert answer.code == 2 and not answer.written
    (error,) = answer.errors
    assert wanted in error and SEQ_ID in error.split(wanted, 1)[1]


def test_all_unknown_sequences_are_listed(desk: Desk) -> None:
    answer = desk.run(lines(STANDARD, GOOD), "--sequences", "first", SEQ_ID, "second")
    assert answer.code == 2 and not answer.written
    assert ["first" in error or "second" in error for error in answer.errors] == [True, True]


# ---------------------------------------------------------------- which frames


def test_canonical_ids_come_first() -> None:
    assert frame_ids_of(sequence(), 8) == tuple(IDS)
    assert frame_ids_of(sequence(), 3) == tuple(IDS[:3])
    assert frame_ids_of(sequence(), 1) == (5600,)
    uneven = sequence(canonical_frame_ids=(5600, 5601, 5700))
    assert frame_ids_of(uneven, 3) == (5600, 5601, 5700)


def test_a_stride_overrides_canonical_ids() -> None:
    assert frame_ids_of(sequence(), 3, 4) == (5600, 5604, 5608)
    assert frame_ids_of(sequence(clip_end_frame=5601), 3, 4) == (5600, 5604, 5608)
    assert frame_ids_of(sequence(), 1, 4) == (5600,)


def test_too_few_canonical_ids_give_no_frame() -> None:
    assert frame_ids_of(sequence(), 9) == tuple(range(5600, 5600 + 9 * 15, 15))
    assert frame_ids_of(sequence(canonical_frame_ids=(5600, 5601)), 3) == (5600, 5615, 5630)


@pytest.mark.parametrize("end, nframes, stride", [
    (None, 8, 15), (5600 + 7 * 15, 8, 15), (5600 + 7 * 15 - 1, 8, 14), (5600 + 7 * 15 + 500, 8, 15),
    (5600 + 7 * 14, 8, 14),
    (5607, 8, 1), (5606, 8, 1), (5600, 8, 1), (5000, 8, 1), (5610, 2, 10), (5601, 2, 1), (5629, 3, 14), (5630, 3, 15)])
def test_auto_stride_fits_the_clip(end: Optional[int], nframes: int, stride: int) -> None:
    found = frame_ids_of(sequence(canonical_frame_ids=(), clip_end_frame=end), nframes)
    assert found == tuple(5600 + n * stride for n in range(nframes))


@pytest.mark.parametrize("end", [None, 5600, 5601, 9000])
def test_one_frame_needs_no_stride(end: Optional[int]) -> None:
    assert frame_ids_of(sequence(canonical_frame_ids=(), clip_end_frame=end), 1) == (5600,)


# ---------------------------------------------------------------- which video


@pytest.mark.parametrize("scene, split", [
    ("Warehouse_000", "train"), ("Warehouse_014", "train"), ("Warehouse_015", "val"), ("Warehouse_016", "val"),
    ("Warehouse_100", "val"), ("Hospital_000", "val"), ("Lab_000", "val"), ("Warehouse_0", "val"),
    ("warehouse_000", "val"),
    ("Warehouse_0140", "val"), ("Warehouse_014x", "val"), ("xWarehouse_014", "val"), ("Retail_001", "val")])
def test_split(scene: str, split: str) -> None:
    assert split_of(scene) == split


def test_video_path() -> None:
    assert video_path(sequence(), "MTMC_Tracking_2025") == "MTMC_Tracking_2025/val/Warehouse_016/videos/Camera_11.mp4"
    assert video_path(sequence(scene="Warehouse_003", camera="Camera"),
                      "a/b") == "a/b/train/Warehouse_003/videos/Camera.mp4"


# ---------------------------------------------------------------- gt_requests.json


def bench_record(scene: str, first: int, **changes: Any) -> Record:
    return changed(clips.record(range(first, first + 4), scene=scene), **changes)


THREE = [bench_record("Warehouse_001", 0), bench_record("Hospital_000", 3, object_id="cart-4", clip_fps=...),
         bench_record("Lab_000", 1, clip_fps=29.97)]


class Workshop:
    def __init__(self, folder: Path, clip: Path, capsys: pytest.CaptureFixture[str]):
        self.folder, self.capsys = folder, capsys
        for record in THREE:
            clips.lay_out(folder / "videos", clip, record["scene"], split=split_of(record["scene"]))
        clips.write_benchmark(folder / "bench.jsonl", THREE)

    def run(self, *options: str) -> Record:
        code = main(["--benchmark", str(self.folder / "bench.jsonl"), "--video-dir", str(self.folder / "videos"),
                     "--output-dir", str(self.folder / "out"), *options])
        manifest = json.loads((self.folder / "out" / "gt_requests.json").read_text(encoding="utf-8"))
        assert code == (1 if len(self.ids(manifest["requests"])) < len(THREE) and "--sequences" not in options else 0)
        assert len(manifest["requests"]) + len(manifest["missing"]) == len(THREE)
        return manifest

    def lose_video(self, record: Record) -> None:
        (video,) = self.folder.glob("videos/*/*/%s/videos/*.mp4" % record["scene"])
        video.unlink()

    @staticmethod
    def ids(entries: Sequence[Record]) -> List[str]:
        return [entry["seq_id"] for entry in entries]


LENGTH = 25


@pytest.fixture(scope="module")
def short_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clip = tmp_path_factory.mktemp("clip") / "clip.mp4"
    clips.run_ffmpeg(["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25", "-frames:v", str(LENGTH), "-c:v", "mpeg4",
                      str(clip)])
    return clip


@pytest.fixture
def workshop(tmp_path: Path, short_clip: Path, capsys: pytest.CaptureFixture[str]) -> Workshop:
    return Workshop(tmp_path, short_clip, capsys)


def test_manifest_of_canonical_frames(workshop: Workshop) -> None:
    first, second, third = THREE

    def entry(record: Record, object_id: str, clip_fps: float) -> Record:
        return {**only(record, "seq_id", "scene", "camera", "object_type", "init_frame_id"), "object_id": object_id,
                "frame_ids": record["canonical_frame_ids"], "nframes": 4, "stride": 1, "clip_fps": clip_fps}

    assert workshop.run("--nframes", "4") == {
        "format_version": 1, "benchmark": "bench.jsonl", "repo_id": "nvidia/PhysicalAI-SmartSpaces",
        "repo_subdir": "MTMC_Tracking_2025", "nframes": 4, "stride": None, "submission_required": False, "missing": [],
        "requests": [entry(first, "7", 30), entry(second, "cart-4", 25.0), entry(third, "7", 29.97)]}


def test_manifest_is_in_benchmark_order_whichever_run_prepared_what(workshop: Workshop) -> None:
    names = workshop.ids(THREE)
    options = ["--nframes", "2", "--sequences"]
    manifest = workshop.run(*options, names[2])
    assert (workshop.ids(manifest["requests"]), manifest["missing"]) == (names[2:], names[:2])
    manifest = workshop.run(*options, names[0])
    assert (workshop.ids(manifest["requests"]), manifest["missing"]) == ([names[0], names[2]], [names[1]])
    manifest = workshop.run("--nframes", "2")
    assert (workshop.ids(manifest["requests"]), manifest["missing"]) == (names, [])


def test_manifest_names_what_is_missing(workshop: Workshop) -> None:
    workshop.lose_video(THREE[1])
    manifest = workshop.run("--nframes", "2")
    assert manifest["missing"] == [THREE[1]["seq_id"]]
    assert workshop.ids(manifest["requests"]) == [THREE[0]["seq_id"], THREE[2]["seq_id"]]


@pytest.mark.parametrize("options, required", [
    (["--nframes", "4"], False), (["--nframes", "2"], False), (["--nframes", "2", "--stride", "3"], False),
    (["--nframes", "2", "--stride", "4"], True), (["--nframes", "5", "--stride", "1"], True)])
def test_submission_is_required_for_other_than_canonical_frames(
        workshop: Workshop, options: List[str], required: bool) -> None:
    manifest = workshop.run(*options)
    assert manifest["submission_required"] is required
    stride = int(options[3]) if "--stride" in options else 1
    for record, entry in zip(THREE, manifest["requests"]):
        assert entry["frame_ids"] == [record["init_frame_id"] + n * stride for n in range(int(options[1]))]
        assert (entry["nframes"], entry["stride"]) == (int(options[1]), stride)
    assert manifest["stride"] == (stride if "--stride" in options else None)
    assert manifest["nframes"] == int(options[1])


def test_manifest_of_another_variant_counts_only_what_is_ready_for_it(workshop: Workshop) -> None:
    names = workshop.ids(THREE)
    workshop.run("--nframes", "2", "--stride", "4")
    manifest = workshop.run("--nframes", "3", "--stride", "5", "--sequences", names[1])
    assert (workshop.ids(manifest["requests"]), manifest["missing"]) == ([names[1]], [names[0], names[2]])
    assert manifest["requests"][0]["frame_ids"] == [3, 8, 13]


def test_one_frame_has_no_stride(workshop: Workshop) -> None:
    manifest = workshop.run("--nframes", "1")
    assert [(entry["stride"], entry["frame_ids"]) for entry in manifest["requests"]] == [(None, [n]) for n in (0, 3, 1)]


# ---------------------------------------------------------------- past the video's end


def reasons(error_output: str) -> Dict[str, str]:
    """seq_id -> why it failed, from lines like `ERROR: first, second: reason`."""
    found = {}
    for line in error_output.splitlines():
        if line.startswith("ERROR: "):
            names, _, reason = line[len("ERROR: "):].partition(": ")
            found.update(dict.fromkeys(names.split(", "), reason))
    return found


def said(reason: str) -> Dict[str, int]:
    words = reason.replace(",", " ").replace(";", " ").split()
    return {name: int(words[words.index(name) + 1]) for name in ("--nframes", "--stride") if name in words}


ENDING = [
    changed(clips.record([first, *ids]), seq_id="from-%d-%d-%s" % (first, len(ids), end), clip_end_frame=end)
    for first in (0, 20, 23)
    for ids in ((), (first + 1, first + 2, 30))
    for end in (..., first + 2, 40)
]


def last_frame(one: SotSequence, nframes: int, stride: Optional[int]) -> int:
    return frame_ids_of(one, nframes, stride)[-1]


@pytest.mark.parametrize("nframes, stride", [(4, None), (4, 8), (12, None), (40, 1)])
def test_past_the_end(workshop: Workshop, nframes: int, stride: Optional[int]) -> None:
    """Each sequence either fits or is told, before any frame is written, what would."""
    (video,) = workshop.folder.glob("videos/*/*/Lab_000/videos/*.mp4")
    clips.lay_out(workshop.folder / "videos", video)
    clips.write_benchmark(workshop.folder / "bench.jsonl", ENDING)
    main(["--benchmark", str(workshop.folder / "bench.jsonl"), "--video-dir", str(workshop.folder / "videos"),
          "--output-dir", str(workshop.folder / "out"), "--nframes", str(nframes),
          *(["--stride", str(stride)] if stride else [])])
    why = reasons(workshop.capsys.readouterr().err)
    assert set(why) <= {record["seq_id"] for record in ENDING}
    for one in read(*ENDING):
        last = functools.partial(last_frame, one)
        folder = workshop.folder / "out" / one.seq_id
        if last(nframes, stride) < LENGTH:
            assert one.seq_id not in why and (folder / "sequence_meta.json").is_file()
            continue
        reason, fits = why[one.seq_id], said(why[one.seq_id])
        assert not list(folder.glob("**/*.png"))
        assert "%d frames" % LENGTH in reason and str(last(nframes, stride)) in reason
        assert last(fits["--nframes"], stride) < LENGTH
        if stride or len(one.canonical_frame_ids) == 1:
            assert last(fits["--nframes"] + 1, stride) >= LENGTH
        if "--stride" in fits:
            assert last(nframes, fits["--stride"]) < LENGTH <= last(nframes, fits["--stride"] + 1)
        else:
            assert last(nframes, 1) >= LENGTH


def test_an_initial_frame_past_the_end_has_no_remedy(workshop: Workshop) -> None:
    clips.write_benchmark(workshop.folder / "bench.jsonl", [bench_record("Lab_000", LENGTH)])
    main(["--benchmark", str(workshop.folder / "bench.jsonl"), "--video-dir", str(workshop.folder / "videos"),
          "--output-dir", str(workshop.folder / "out")])
    (reason,) = reasons(workshop.capsys.readouterr().err).values()
    assert "%d frames" % LENGTH in reason and not said(reason)

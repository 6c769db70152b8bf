"""Frame ids and paths: which frames of which video a sequence gets, and what is said if it is too short."""
from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prepare_sot_dataset import SotSequence, dataset_split, select_frame_ids, suggest_options, video_path
from tests import clips
from tests.world import World

CANONICAL_IDS = (5600, 5615, 5630, 5645, 5660, 5675, 5690, 5705)


def sequence(
    canonical_frame_ids: tuple[int, ...] = (), clip_end_frame: int | None = None, init_frame_id: int = 5600,
    scene: str = "Warehouse_016",
) -> SotSequence:
    return SotSequence(
        seq_id="any", scene=scene, camera="Camera_11", object_id="353", object_type="Robot",
        init_frame_id=init_frame_id, init_bbox=(1, 2, 3, 4), canonical_frame_ids=canonical_frame_ids,
        clip_end_frame=clip_end_frame)


@pytest.mark.parametrize("canonical_ids, clip_end, nframes, stride, expected", [
    (CANONICAL_IDS, 5601, 8, None, CANONICAL_IDS),
    (CANONICAL_IDS, None, 3, None, CANONICAL_IDS[:3]),
    ((5600, 5601, 5700), None, 3, None, (5600, 5601, 5700)),
    ((5600, 5601), None, 3, None, (5600, 5615, 5630)),
    (CANONICAL_IDS, 5601, 3, 4, (5600, 5604, 5608)),
    (CANONICAL_IDS, None, 1, 4, (5600,)),
    ((), 9000, 1, None, (5600,)),
])
def test_canonical_ids_come_first_and_a_given_stride_replaces_them(
        canonical_ids: tuple[int, ...], clip_end: int | None, nframes: int, stride: int | None,
        expected: tuple[int, ...]) -> None:
    assert select_frame_ids(sequence(canonical_ids, clip_end), nframes, stride) == expected


@pytest.mark.parametrize("clip_end, nframes, stride", [
    (None, 8, 15), (6205, 8, 15), (5705, 8, 15), (5704, 8, 14), (5698, 8, 14), (5697, 8, 13), (5607, 8, 1),
    (5606, 8, 1), (5000, 8, 1), (5610, 2, 10), (5629, 3, 14), (5630, 3, 15)])
def test_without_enough_ids_the_stride_is_15_or_less_to_stay_in_the_clip(
        clip_end: int | None, nframes: int, stride: int) -> None:
    expected = tuple(5600 + index * stride for index in range(nframes))
    assert select_frame_ids(sequence((), clip_end), nframes) == expected


@pytest.mark.parametrize("split, scenes", [
    ("train", ["Warehouse_000", "Warehouse_014"]),
    ("val", ["Warehouse_015", "Warehouse_100", "Hospital_000", "Lab_000", "Warehouse_0", "warehouse_000",
             "Warehouse_0140"])])
def test_video_path(split: str, scenes: list[str]) -> None:
    for scene in scenes:
        path = video_path(sequence(scene=scene), "a/b")
        assert (dataset_split(scene), path) == (split, f"a/b/{split}/{scene}/videos/Camera_11.mp4")


@given(
    first=st.integers(0, 30), gaps=st.lists(st.integers(1, 9), max_size=9),
    clip_length=st.none() | st.integers(0, 90), nframes=st.integers(1, 20),
    stride=st.none() | st.integers(1, 9), frame_count=st.integers(1, 60))
def test_suggested_options_are_the_largest_that_fit(
        first: int, gaps: list[int], clip_length: int | None, nframes: int, stride: int | None,
        frame_count: int) -> None:
    canonical_ids = tuple(itertools.accumulate([first, *gaps]))
    clip_end = None if clip_length is None else first + clip_length
    too_long = sequence(canonical_ids, clip_end, first)

    def fits(nframes: int, stride: int | None) -> bool:
        return select_frame_ids(too_long, nframes, stride)[-1] < frame_count

    assume(not fits(nframes, stride))
    most = max((fewer for fewer in range(1, nframes) if fits(fewer, stride)), default=0)
    largest = max((smaller for smaller in range(1, 60) if fits(nframes, smaller)), default=0)
    options = suggest_options(too_long, nframes, stride, frame_count)
    assert (options.get("--nframes", 0), options.get("--stride", 0)) == (most, largest)


def test_beyond_the_end_of_the_video_the_message_says_what_fits(world: World) -> None:
    world.put_video()
    fits, too_long, starts_too_late = (
        clips.record([first], object_id=first) for first in (3, 100, clips.FRAMES))
    world.write_records(fits, too_long, starts_too_late)
    run = world.prepare(nframes=3)
    assert (run.code, len(run.errors)) == (1, 2)
    assert re.search(f"{too_long['seq_id']}.*frame 130.*120 frames.*--nframes 2 or --stride 9 ", run.err)
    assert re.search(f"{starts_too_late['seq_id']}.*frame 150.*120 frames(?!.*--)", run.err)


def test_one_value_that_fits_all_sequences_that_are_too_long(world: World) -> None:
    world.put_video()
    records = [clips.record([first], object_id=first) for first in (3, 60, 100)]
    world.write_records(*records)
    run = world.prepare("--stride", 40, nframes=4)
    (line,) = run.errors
    assert all(record["seq_id"] in line for record in records) and run.code == 1
    assert "--nframes 1 or --stride 6 would fit all" in line

"""Streaming: --stream fetches the parts of a video that its frames need, or all of it, with equal images."""
from __future__ import annotations

import re
from typing import Sequence

import pytest

from tests import clips
from tests.hub_world import BIG, CAMERAS, FLAG_TOKEN, ONE, TWO, HubWorld, padded, path_of, record_of, retries
from tests.test_hub import FILE_FAULTS, prepare_with_faults
from tests.world import clip

NEVER_STREAMED = ("h264_fragments", "h264_audio_first")  # only plain files with one track can be


def test_streamed_output_is_the_same_and_leaves_nothing_in_the_cache(hub_world: HubWorld) -> None:
    hub = hub_world.hub
    hub_world.put_videos(2, BIG)
    streamed = hub_world.prepare("--stream")
    assert streamed.code == 0 and hub_world.is_ready(ONE) and hub_world.is_ready(TWO)
    assert "Streaming Warehouse_016/Camera_01.mp4 (video 1 of 2)" in streamed.err  # not the size of the whole
    assert hub.bytes_sent("cdn") < BIG / 8 and hub.bytes_sent("xorb") == 0 and not hub_world.cached_files(ONE)
    tokens = {request.authorization for request in hub.requests if request.host == "hub"}
    assert tokens == {f"Bearer {FLAG_TOKEN}"}
    downloaded = hub_world.prepare(output="downloaded")
    assert downloaded.tree == streamed.tree
    count = len(hub.requests)
    from_cache = hub_world.prepare("--stream", output="from_cache")
    assert from_cache.tree == streamed.tree and len(hub.requests) == count


def test_a_part_of_a_video_tells_that_it_is_too_short(hub_world: HubWorld) -> None:
    hub_world.put_videos(1, BIG)
    hub_world.world.write_records(record_of(ONE, [2, clips.FRAMES]))
    run = hub_world.prepare("--stream")
    assert run.code == 1 and "120 frames" in run.errors[0] and sum(hub_world.bytes_sent()) < BIG / 8, run


def test_a_part_may_lie_within_another(hub_world: HubWorld) -> None:
    hub_world.put_videos(1, BIG)
    hub_world.world.write_records(*[record_of(ONE, ids) for ids in ([1, 40, 79, 118], [35, 36, 37, 38])])
    run = hub_world.prepare("--stream", nframes=4)
    assert run.code == 0 and sum(hub_world.bytes_sent()) < BIG / 8, run


@pytest.mark.parametrize("kinds", [list(clips.KINDS)[start::2] for start in (0, 1)], ids=" ".join)  # for two cores
def test_streamed_frames_are_those_of_a_full_decode(hub_world: HubWorld, kinds: Sequence[str]) -> None:
    """Part of a video is enough where it can prove the frames. Each kind is a camera of its own."""
    records = {}
    for kind in kinds:
        if not clips.KINDS[kind].missing():
            count = len(clips.KINDS[kind].shows)
            records[kind] = record_of(kind, [24, 25, 29, 30, count - 10, count - 1])
            hub_world.hub.put(path_of(kind), padded(clip(kind).read_bytes(), BIG))
    hub_world.world.write_records(*records.values())
    run = hub_world.prepare("--stream", nframes=6)
    assert (run.code, retries(run)) == (0, []), run.err
    for kind, one in records.items():
        frames_dir, frames = hub_world.world.output / one["seq_id"] / "frames", clips.full_decode(clip(kind))
        assert clips.shown_ids(frames_dir, frames) == one["canonical_frame_ids"], (kind, run.err)
        never = kind in NEVER_STREAMED
        assert not never or re.search(f"Getting .*{kind}.mp4 .*not possible", run.err), (kind, run.err)
        # For VP9 ffmpeg tells another size while packets are missing.
        by_part = not (clips.KINDS[kind].from_start or kind == "vp9" or never)
        assert not by_part or sum(hub_world.bytes_sent(f"{kind}.mp4")) < BIG / 4, (kind, run.err)


def test_whole_video_comes_where_a_part_does_not_work_or_does_not_pay(hub_world: HubWorld) -> None:
    hub_world.put_videos(2, BIG)
    hub_world.hub.fault(ONE, "ignore-range", stage="cdn")
    hub_world.hub.put(path_of(TWO), clip("h264_bframes").read_bytes())
    run = hub_world.prepare("--stream")
    assert (run.code, retries(run), [*map(hub_world.is_ready, (ONE, TWO))]) == (0, [], [True] * 2), run.err
    reasons = re.findall(r"^Getting.*/(\w+)\.mp4 .*not possible: (the \w+)", run.err, re.MULTILINE)
    assert reasons == [(ONE, "the server"), (TWO, "the frames")], run.err


@pytest.mark.parametrize("kind", ["h264_bframes", "vp9"])  # of which a part is enough, or not
def test_all_requests_are_for_the_commit_that_the_first_answer_tells(hub_world: HubWorld, kind: str) -> None:
    """So a branch that moves meanwhile gives no mixture."""
    hub_world.put_videos(1, BIG)
    hub_world.hub.put(path_of(ONE), padded(clip(kind).read_bytes(), BIG))
    run = hub_world.prepare("--stream")
    assert run.code == 0 and ("was not enough" in run.err) == (kind == "vp9")
    first, *later = re.findall(r"/resolve/(\w+)/", " ".join(request.path for request in hub_world.hub.requests))
    assert first == "main" and set(later) == {hub_world.hub.commit}


def test_faults_of_a_stream(hub_world: HubWorld) -> None:
    """The program itself retries; of no video comes more than a part."""
    faults = [fault._replace(retries=fault.retries or 1) for fault in FILE_FAULTS
              if fault.kind != "wrong-length"]  # half of the file still holds the part
    prepare_with_faults(hub_world, faults, "--stream", size=BIG, env={"HF_DEBUG": "1"})
    assert max(hub_world.hub.bytes_sent("cdn", camera) for camera in CAMERAS) < BIG / 4
    assert hub_world.hub.bytes_sent("xorb") == 0

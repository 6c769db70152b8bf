"""Each fNN.png is, pixel for pixel, the picture that a full decode gives under the frame's number."""
from __future__ import annotations

import functools
import json
import os
import re
import shutil
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests import clips  # noqa: E402

NFRAMES = 8

# ---------------------------------------------------------------- one clip at a time


class Clip(NamedTuple):
    kind: clips.Kind
    path: Path
    width: int
    height: int
    frames: List[bytes]


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module", autouse=True)
def one_ffmpeg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The program takes the ffmpeg on PATH; let it be the one that the tests measure with."""
    folder = tmp_path_factory.mktemp("bin")
    link = folder / ("ffmpeg.exe" if os.name == "nt" else "ffmpeg")
    try:
        link.symlink_to(Path(clips.ffmpeg_exe()).resolve())
    except OSError:
        shutil.copy(clips.ffmpeg_exe(), str(link))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        yield


# Module scope: pytest then runs all tests of one clip in a row, and one decoded clip is in memory at a time.
@pytest.fixture(scope="module", params=list(clips.KINDS))
def clip(request: Any, clip_folder: Path) -> Clip:
    kind = clips.KINDS[request.param]
    if not kind.available():
        pytest.skip(kind.why_not())
    path = clip_folder / (kind.name + ".mp4")
    if not path.exists():
        clips.make_clip(kind.name, path)
    return Clip(kind, path, *clips.decode(path))


# ---------------------------------------------------------------- clips are what they claim to be


# A clip never changes once it is made, and starting ffmpeg is most of these tests' time.
@functools.lru_cache(maxsize=2)
def packets(path: Path) -> List[clips.Packet]:
    return clips.packets(path)


@functools.lru_cache(maxsize=2)
def syntax(path: Path) -> List[Tuple[str, int]]:
    return clips.syntax(path)


def syntax_values(path: Path, wanted: str) -> List[int]:
    return [value for name, value in syntax(path) if name == wanted]


def shown(path: Path) -> List[clips.Packet]:
    return sorted((packet for packet in packets(path) if not packet.hidden), key=lambda packet: packet.pts)


def key_numbers(path: Path) -> List[int]:
    return [number for number, packet in enumerate(shown(path)) if packet.key]


def gaps(path: Path) -> List[Fraction]:
    times = [packet.pts for packet in shown(path)]
    return [after - before for before, after in zip(times, times[1:])]


def reordered(path: Path) -> bool:
    times = [packet.pts for packet in packets(path)]
    return times != sorted(times)


def leading(path: Path) -> List[int]:
    """For each key packet: how many packets behind it in the file are shown before it."""
    listed = packets(path)
    return [sum(other.pts < packet.pts for other in listed[at + 1:]) for at, packet in enumerate(listed) if packet.key]


def h264_pictures(path: Path) -> List[Tuple[int, int, str]]:
    """(nal_ref_idc, nal_unit_type, I/P/B) of each coded picture."""
    pictures: List[Tuple[int, int, str]] = []
    header: Dict[str, int] = {}
    for name, value in syntax(path):
        header[name] = value
        if name == "slice_type":
            pictures.append((header["nal_ref_idc"], header["nal_unit_type"], "PBI"[value % 5]))
    return pictures


def has_edit_list(path: Path) -> bool:
    return any(box.endswith("/elst") for box in clips.box_paths(path))


IDR, CRA, RASL = 5, 21, (8, 9)
EVERY_GOP = list(range(0, clips.FRAMES, clips.GOP))


def plain_h264(path: Path) -> None:
    pictures = h264_pictures(path)
    assert Counter(kind for _, _, kind in pictures)["B"] > len(pictures) / 2
    assert [number for number, (_, unit, _) in enumerate(pictures) if unit == IDR] == EVERY_GOP
    assert key_numbers(path) == EVERY_GOP
    assert reordered(path)


def claims_bframes(clip: Clip) -> None:
    plain_h264(clip.path)
    assert set(gaps(clip.path)) == {Fraction(1, 30)}


def claims_open_gop(clip: Clip) -> None:
    pictures = h264_pictures(clip.path)
    assert key_numbers(clip.path) == EVERY_GOP
    assert [unit for _, unit, _ in pictures].count(IDR) == 1
    assert leading(clip.path)[0] == 0 and min(leading(clip.path)[1:]) > 0
    assert any(kind == "B" and referenced for referenced, _, kind in pictures), "no B-pyramid"


def claims_intra_refresh(clip: Clip) -> None:
    assert [kind for _, _, kind in h264_pictures(clip.path)].count("I") == 1
    assert min(syntax_values(clip.path, "recovery_frame_cnt")) > 0
    assert len(key_numbers(clip.path)) > 1, "the container shows no recovery points"


def claims_all_intra(clip: Clip) -> None:
    assert {kind for _, _, kind in h264_pictures(clip.path)} == {"I"}
    assert key_numbers(clip.path) == list(range(clips.FRAMES))


def claims_29_97(clip: Clip) -> None:
    plain_h264(clip.path)
    assert set(gaps(clip.path)) == {Fraction(1001, 30000)}


def claims_23_976(clip: Clip) -> None:
    plain_h264(clip.path)
    assert set(gaps(clip.path)) == {Fraction(1001, 24000)}


def claims_variable_rate(clip: Clip) -> None:
    plain_h264(clip.path)
    assert len(set(gaps(clip.path))) >= 4 and max(gaps(clip.path)) > 10 * min(gaps(clip.path))


def claims_jitter(clip: Clip) -> None:
    plain_h264(clip.path)
    found = gaps(clip.path)
    assert len(set(found)) >= 4 and max(found) < Fraction(2, 30)
    assert abs(sum(found, Fraction(0)) / len(found) - Fraction(1, 30)) < Fraction(1, 1000)


def claims_one_tick_apart(clip: Clip) -> None:
    plain_h264(clip.path)
    assert gaps(clip.path).count(Fraction(1, 90000)) == clips.FRAMES // 2


def claims_start_offset(clip: Clip) -> None:
    plain_h264(clip.path)
    assert min(packet.pts for packet in clips.packets(clip.path, copy_times=True)) > 1


def claims_negative_start(clip: Clip) -> None:
    plain_h264(clip.path)
    assert not has_edit_list(clip.path)
    assert min(packet.pts for packet in clips.packets(clip.path, copy_times=True)) < -Fraction(1, 10)


def claims_edit_list(clip: Clip) -> None:
    listed = packets(clip.path)
    assert has_edit_list(clip.path)
    assert listed[0].key and listed[0].hidden
    assert len(clip.frames) == sum(not packet.hidden for packet in listed) < len(listed)
    assert clips.read_index(clip.frames[0], clip.width, clip.height) == 33


def claims_two_edits(clip: Clip) -> None:
    listed = packets(clip.path)
    flags = "".join("h" if packet.hidden else "s" for packet in listed)
    assert re.match(r"^s+h+s+", flags), "nothing is hidden in the middle"
    assert len(clip.frames) == flags.count("s")
    numbers = [clips.read_index(frame, clip.width, clip.height) for frame in clip.frames]
    assert numbers == list(range(30)) + list(range(63, 108))


def claims_open_gop_cut(clip: Clip) -> None:
    assert not has_edit_list(clip.path)
    assert IDR not in [unit for _, unit, _ in h264_pictures(clip.path)]
    assert leading(clip.path)[0] > 0
    assert len(clip.frames) == len(shown(clip.path)) - leading(clip.path)[0]


def claims_fragments(clip: Clip) -> None:
    plain_h264(clip.path)
    assert clips.box_paths(clip.path).count("moof") == len(EVERY_GOP)
    assert min(clips.composition_offsets(clip.path)) == 0


def claims_fragments_negative_cts(clip: Clip) -> None:
    plain_h264(clip.path)
    assert clips.box_paths(clip.path).count("moof") == len(EVERY_GOP)
    assert min(clips.composition_offsets(clip.path)) < 0


def claims_faststart(clip: Clip) -> None:
    plain_h264(clip.path)
    names = clips.box_paths(clip.path)
    assert names.index("moov") < names.index("mdat")


def claims_mbaff(clip: Clip) -> None:
    plain_h264(clip.path)
    assert set(syntax_values(clip.path, "frame_mbs_only_flag")) == {0}
    assert set(syntax_values(clip.path, "mb_adaptive_frame_field_flag")) == {1}
    assert set(syntax_values(clip.path, "field_pic_flag")) == {0}


def claims_paff(clip: Clip) -> None:
    fields = Counter(syntax_values(clip.path, "field_pic_flag"))
    assert fields[1] > 0 and fields[0] > 0
    assert len(shown(clip.path)) == fields[1] + fields[0], "a packet holds more than one coded picture"
    assert len(clip.frames) == fields[1] // 2 + fields[0]
    assert set(gaps(clip.path)) == {Fraction(1, 30), Fraction(1, 60)}
    assert {kind for _, _, kind in h264_pictures(clip.path)} == {"I", "P"}


def claims_audio_first(clip: Clip) -> None:
    plain_h264(clip.path)
    assert clips.stream_types(clip.path) == ["audio", "video"]
    assert min(packet.pts for packet in packets(clip.path)) > Fraction(3, 10)


def claims_cover_first(clip: Clip) -> None:
    plain_h264(clip.path)
    assert clips.stream_types(clip.path) == ["cover", "video"]


def claims_rotated(clip: Clip) -> None:
    plain_h264(clip.path)
    assert (clip.width, clip.height) == (clips.HEIGHT, clips.WIDTH)


def claims_1fps(clip: Clip) -> None:
    plain_h264(clip.path)
    assert set(gaps(clip.path)) == {Fraction(1)}


def claims_h265_open_gop(clip: Clip) -> None:
    units = syntax_values(clip.path, "nal_unit_type")
    assert key_numbers(clip.path) == EVERY_GOP
    assert units.count(CRA) == len(EVERY_GOP) - 1
    assert sum(units.count(unit) for unit in RASL) > 0


def claims_h265_cra_cut(clip: Clip) -> None:
    coded = [unit for unit in syntax_values(clip.path, "nal_unit_type") if unit < 32]
    assert not has_edit_list(clip.path)
    assert coded[0] == CRA and coded[1] in RASL
    assert len(clip.frames) == len(shown(clip.path)) - leading(clip.path)[0] < len(shown(clip.path))


def claims_vp9(clip: Clip) -> None:
    assert syntax_values(clip.path, "show_frame").count(0) > 0, "no hidden reference frame"
    assert len(shown(clip.path)) == clips.FRAMES and len(key_numbers(clip.path)) > 1


def claims_av1(clip: Clip) -> None:
    assert syntax_values(clip.path, "show_frame").count(0) > 0, "no hidden reference frame"
    assert len(shown(clip.path)) == clip.kind.frames and len(key_numbers(clip.path)) > 1


def claims_mpeg4_bframes(clip: Clip) -> None:
    types = clips.mpeg4_picture_types(clip.path)
    assert types.count("B") > types.count("P") > types.count("I") == len(key_numbers(clip.path)) > 1
    assert reordered(clip.path)


def claims_mpeg4_no_stss(clip: Clip) -> None:
    types = clips.mpeg4_picture_types(clip.path)
    assert types.count("B") > types.count("P") > types.count("I") > 1
    assert not any(box.endswith("/stss") for box in clips.box_paths(clip.path))
    assert key_numbers(clip.path) == list(range(clips.FRAMES))


CLAIMS: Dict[str, Callable[[Clip], None]] = {
    "h264_bframes": claims_bframes,
    "h264_open_gop": claims_open_gop,
    "h264_intra_refresh": claims_intra_refresh,
    "h264_all_intra": claims_all_intra,
    "h264_29_97": claims_29_97,
    "h264_23_976": claims_23_976,
    "h264_variable_rate": claims_variable_rate,
    "h264_jitter": claims_jitter,
    "h264_one_tick_apart": claims_one_tick_apart,
    "h264_start_offset": claims_start_offset,
    "h264_negative_start": claims_negative_start,
    "h264_edit_list": claims_edit_list,
    "h264_two_edits": claims_two_edits,
    "h264_open_gop_cut": claims_open_gop_cut,
    "h264_fragments": claims_fragments,
    "h264_fragments_negative_cts": claims_fragments_negative_cts,
    "h264_faststart": claims_faststart,
    "h264_mbaff": claims_mbaff,
    "h264_paff": claims_paff,
    "h264_audio_first": claims_audio_first,
    "h264_cover_first": claims_cover_first,
    "h264_rotated": claims_rotated,
    "h264_1fps": claims_1fps,
    "h265_open_gop": claims_h265_open_gop,
    "h265_cra_cut": claims_h265_cra_cut,
    "vp9": claims_vp9,
    "av1": claims_av1,
    "mpeg4_bframes": claims_mpeg4_bframes,
    "mpeg4_no_stss": claims_mpeg4_no_stss,
}


def test_clip_is_what_it_claims_to_be(clip: Clip) -> None:
    CLAIMS[clip.kind.name](clip)


def test_full_decode_counts_from_zero(clip: Clip) -> None:
    assert len(set(clip.frames)) == len(clip.frames), "two pictures are alike: a mix-up would go unseen"
    if clip.kind.indexed:
        numbers = [clips.read_index(frame, clip.width, clip.height) for frame in clip.frames]
        assert numbers == list(range(clip.kind.frames))


# ---------------------------------------------------------------- the program against a full decode


def run_program(clip: Clip, folder: Path, ids: Sequence[Sequence[int]], nframes: int) -> Tuple[int, Path, List[str]]:
    from prepare_sot_dataset import main

    videos, output = folder / "videos", folder / "out"
    clips.lay_out(videos, clip.path)
    records = [clips.record(wanted, object_id=number) for number, wanted in enumerate(ids)]
    benchmark = clips.write_benchmark(folder / "benchmark.jsonl", records)
    try:
        code = main(["--benchmark", str(benchmark), "--output-dir", str(output), "--video-dir", str(videos),
                     "--nframes", str(nframes)])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return code, output, [entry["seq_id"] for entry in records]


def spread(start: int, step: int, count: int) -> List[int]:
    step = max(1, min(step, (count - 1 - start) // (NFRAMES - 1)))
    return [start + step * n for n in range(NFRAMES)]


def eights(numbers: Sequence[int]) -> List[List[int]]:
    chunks = [list(numbers[at:at + NFRAMES]) for at in range(0, len(numbers), NFRAMES)]
    # The last one is filled up from those before it.
    return chunks[:-1] + [list(numbers[-NFRAMES:])]


def wanted_ids(path: Path, count: int) -> List[List[int]]:
    keys = key_numbers(path)
    # Where each frame is (or claims to be) a key frame, or packets are no frames: where the others have theirs.
    if len(keys) > 8 or len(shown(path)) != count:
        keys = list(range(0, count, clips.GOP))
    near_keys = {number for key in keys for number in (key - 1, key, key + 1)}
    ends = {0, 1, count - 2, count - 1}
    awkward = sorted(number for number in near_keys | ends if 0 <= number < count)
    return [
        *reversed(eights(awkward)),  # later frames first: the order in the benchmark must not matter
        spread(count // 3, 1, count),
        spread(7, 15, count),
        spread(0, count, count)[:-1] + [count - 1],
    ]


def differences(clip: Clip, frames_dir: Path, ids: Sequence[int]) -> List[str]:
    found = []
    for position, number in enumerate(ids):
        image = frames_dir / "f{:02d}.png".format(position)
        if not image.exists():
            found.append("{}: missing".format(image.name))
            continue
        width, height, rgb = clips.read_png(image)
        if (width, height, rgb) == (clip.width, clip.height, clip.frames[number]):
            if clip.kind.indexed and clips.read_index(rgb, width, height) != number:
                found.append("{}: shows the wrong number".format(image.name))
            continue
        same = [other for other, frame in enumerate(clip.frames) if frame == rgb]
        found.append("{}: {}x{}, wanted frame {}, is frame {}".format(
            image.name, width, height, number, same[0] if same else "unknown to a full decode"))
    extra = {entry.name for entry in frames_dir.glob("f*.png")} - {"f{:02d}.png".format(n) for n in range(len(ids))}
    return found + ["{}: not asked for".format(name) for name in sorted(extra - {"f00_ann.png"})]


def test_frames_are_those_of_a_full_decode(clip: Clip, tmp_path: Path, capsys: Any) -> None:
    ids = wanted_ids(clip.path, len(clip.frames))
    code, output, seq_ids = run_program(clip, tmp_path, ids, NFRAMES)
    found = {
        seq_id: differences(clip, output / seq_id / "frames", wanted)
        for seq_id, wanted in zip(seq_ids, ids)
    }
    assert not any(found.values()), {seq_id: told for seq_id, told in found.items() if told}
    assert code == 0, capsys.readouterr().err


# Those whose length is easily got wrong from the list of packets or from times, and two plain ones.
LENGTH_KINDS = ["h264_bframes", "h264_variable_rate", "h264_start_offset", "h264_edit_list", "h264_two_edits",
                "h264_open_gop_cut", "h264_fragments", "h264_paff", "h264_audio_first", "h265_cra_cut", "vp9",
                "mpeg4_no_stss"]


@pytest.mark.parametrize("clip", LENGTH_KINDS, indirect=True)
def test_frame_past_the_end_fails_its_sequence_only(clip: Clip, tmp_path: Path, capsys: Any) -> None:
    count = len(clip.frames)
    ids = [[1, count], [2, count + 1000], [count + 5, count + 6], [count - 2, count - 1]]
    code, output, seq_ids = run_program(clip, tmp_path, ids, nframes=2)
    told = capsys.readouterr().err
    assert code == 1, told
    # The number also stands in [1, count] and in names: take it for the length only beside the word.
    length = re.compile(r"\b{0}\s+frames\b|\bframes\b\D{{0,20}}\b{0}\b".format(count))
    for seq_id in seq_ids[:3]:
        assert any(seq_id in line and length.search(line) for line in told.splitlines()), told
        assert not list((output / seq_id / "frames").glob("*"))
        assert not (output / seq_id / "sequence_meta.json").exists()
    assert not differences(clip, output / seq_ids[3] / "frames", ids[3])
    requests = json.loads((output / "gt_requests.json").read_text(encoding="utf-8"))
    assert sorted(requests["missing"]) == sorted(seq_ids[:3])


# ---------------------------------------------------------------- the tests themselves can fail


def write_png(path: Path, width: int, height: int, rgb: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    clips.run_ffmpeg(["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "{}x{}".format(width, height), "-i", "-",
                      "-frames:v", "1", str(path)], stdin=rgb)


def test_each_kind_has_its_claim() -> None:
    assert sorted(CLAIMS) == sorted(clips.KINDS)


def test_every_group_of_ids_rises_and_fits(clip: Clip) -> None:
    for wanted in wanted_ids(clip.path, len(clip.frames)):
        assert len(wanted) == NFRAMES and wanted == sorted(set(wanted))
        assert 0 <= wanted[0] and wanted[-1] < len(clip.frames)


@pytest.fixture()
def few_frames(tmp_path: Path) -> Clip:
    path = tmp_path / "few.mp4"
    clips.make_clip("mpeg4_bframes", path)
    width, height, frames = clips.decode(path)
    return Clip(clips.KINDS["mpeg4_bframes"], path, width, height, frames[:4])


def test_comparison_accepts_the_right_frame_only(few_frames: Clip, tmp_path: Path) -> None:
    folder, (width, height) = tmp_path / "frames", (few_frames.width, few_frames.height)
    right = few_frames.frames[2]
    write_png(folder / "f00.png", width, height, right)
    assert differences(few_frames, folder, [2]) == []
    assert "is frame 2" in differences(few_frames, folder, [1])[0]
    assert differences(few_frames, folder, [2, 3]) == ["f01.png: missing"]
    write_png(folder / "f01.png", width, height, right)
    assert differences(few_frames, folder, [2]) == ["f01.png: not asked for"]


def test_comparison_sees_one_changed_sample(few_frames: Clip, tmp_path: Path) -> None:
    changed = bytearray(few_frames.frames[2])
    changed[-1] ^= 1
    write_png(tmp_path / "frames" / "f00.png", few_frames.width, few_frames.height, bytes(changed))
    assert "unknown to a full decode" in differences(few_frames, tmp_path / "frames", [2])[0]


def test_comparison_sees_a_wrong_shape(few_frames: Clip, tmp_path: Path) -> None:
    write_png(tmp_path / "frames" / "f00.png", few_frames.height, few_frames.width, few_frames.frames[2])
    assert differences(few_frames, tmp_path / "frames", [2])


def test_a_picture_without_a_number_is_no_number(few_frames: Clip) -> None:
    with pytest.raises(ValueError):
        clips.read_index(bytes(len(few_frames.frames[0])), few_frames.width, few_frames.height)


def test_a_number_of_wrong_depth_is_no_rgb_picture(few_frames: Clip, tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    clips.run_ffmpeg(["-i", str(few_frames.path), "-frames:v", "1", "-pix_fmt", "gray", str(path)])
    with pytest.raises(ValueError):
        clips.read_png(path)

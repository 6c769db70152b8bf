"""--check tells the truth and touches nothing; --gt-stub and --contact-sheet write what the evaluator and the eye need."""
from __future__ import annotations

import importlib.util
import io
import json
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple, Union

import pytest

pytest.importorskip("PIL", reason="--check and --contact-sheet need Pillow")
from PIL import Image, ImageChops, ImageDraw  # noqa: E402

import prepare_sot_dataset as program  # noqa: E402
from tests import clips  # noqa: E402
from tests.hub_server import Hub  # noqa: E402
from tests.programs import Stamp, command, rewritten, stamps, strays  # noqa: E402

NFRAMES, STRIDE = 4, 7
FRAMES = range(NFRAMES)
BOX, OTHER_BOX = [200.0, 300.0, 450.0, 700.0], [210.0, 300.0, 450.0, 700.0]
SECRET_BOX = [123.4, 234.5, 345.6, 456.7]  # ground truth of a later frame
FIRST, SECOND, THIRD = (
    clips.record(range(start, start + 16 * STRIDE, STRIDE), BOX, camera=camera, object_id=number)
    for number, (start, camera) in enumerate([(3, "Camera_11"), (0, "Camera_12"), (13, "Camera_11")]))
NAMES = [str(record["seq_id"]) for record in (FIRST, SECOND, THIRD)]
NAME = NAMES[0]
VIDEO_PATHS = {camera: "MTMC_Tracking_2025/val/Warehouse_016/videos/{}.mp4".format(camera)
               for camera in ("Camera_11", "Camera_12")}

with_opencv = pytest.mark.skipif(not importlib.util.find_spec("cv2"), reason="OpenCV is not installed")


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


# ---------------------------------------------------------------- a prepared directory


class Checked(NamedTuple):
    code: int
    states: Dict[str, Tuple[str, str]]  # seq_id -> (state, reason)
    videos: Dict[str, str]  # path -> where it is
    counts: Tuple[int, ...]  # ready, partly, missing, videos needed, of which at hand
    text: str


CLOSING = re.compile(r"^Check: (\d+) ready, (\d+) partly there, (\d+) missing; videos needed: (\d+) \((\d+) at hand\)$",
                     re.M)


def read_check(code: int, text: str) -> Checked:
    closing = CLOSING.search(text)
    assert closing and text.rstrip().endswith(closing.group(0)), text
    states = {seq_id: (state, reason) for state, seq_id, reason in
              re.findall(r"^(ready|partly|missing) +(\S+?)(?:: (.*))?$", text, re.M)}
    videos = dict(re.findall(r"^video +(\S+): (.*)$", text, re.M))
    return Checked(code, states, videos, tuple(map(int, closing.groups())), text)


class Job(NamedTuple):
    benchmark: Path
    videos: Path
    output: Path

    def args(self, *more: Union[str, int, Path]) -> List[str]:
        return ["--benchmark", str(self.benchmark), "--video-dir", str(self.videos), "--output-dir", str(self.output),
                "--nframes", str(NFRAMES), *map(str, more)]

    def run(self, *more: Union[str, int, Path]) -> int:
        return program.main(self.args(*more))

    def folder(self, name: str = NAME) -> Path:
        return self.output / name

    def frame(self, index: int, name: str = NAME) -> Path:
        return self.output / name / "frames" / "f{:02d}.png".format(index)

    def image(self, name: str) -> Path:
        return self.output / NAME / "frames" / (name + ".png")

    def meta(self, name: str = NAME) -> Dict[str, Any]:
        return read_json(self.output / name / "sequence_meta.json")


def read_json(path: Path) -> Dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def traces(*folders: Path) -> Dict[str, Stamp]:
    """Files and folders: a file that came and went would still change its folder's time."""
    found = {}
    for folder in folders:
        for path in [folder, *folder.rglob("*")]:
            state = path.stat()
            found[str(path)] = Stamp(state.st_ino, state.st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for camera, kind in (("Camera_11", "mpeg4_bframes"), ("Camera_12", "mpeg4_no_stss")):
        clips.make_clip(kind, folder / (kind + ".mp4"))
        clips.lay_out(folder, folder / (kind + ".mp4"), camera=camera)
    return folder


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("no-videos")


@pytest.fixture(scope="module")
def masters(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> Callable[..., Path]:
    """Outputs of finished runs, each made once; tests copy them."""
    folder = tmp_path_factory.mktemp("masters")
    benchmark = clips.write_benchmark(folder / "three.jsonl", [FIRST, SECOND, THIRD])

    def master(*more: Union[str, int]) -> Path:
        output = folder / ("out" + "_".join(map(str, more)))
        if not output.exists():
            assert Job(benchmark, videos, output).run(*more) == 0
        return output
    return master


@pytest.fixture
def prepared(masters: Callable[..., Path], videos: Path, tmp_path: Path) -> Callable[..., Job]:
    def copy(*more: Union[str, int], records: Sequence[Dict[str, Any]] = (FIRST, SECOND, THIRD)) -> Job:
        shutil.copytree(str(masters(*more)), str(tmp_path / "out"))
        return Job(clips.write_benchmark(tmp_path / "three.jsonl", records), videos, tmp_path / "out")
    return copy


Check = Callable[..., Checked]


@pytest.fixture
def check(capfd: pytest.CaptureFixture[str]) -> Check:
    def run(job: Job, *more: Union[str, int, Path]) -> Checked:
        capfd.readouterr()
        before = traces(job.output.parent, job.videos)
        code = job.run("--check", *more)
        assert rewritten(before, traces(job.output.parent, job.videos)) == []
        text = capfd.readouterr().out
        checked = read_check(code, text)
        assert code == (0 if checked.counts[0] == sum(checked.counts[:3]) else 1)
        return checked
    return run


# ---------------------------------------------------------------- ready, partly there, missing


def test_ready(prepared: Callable[..., Job], check: Check) -> None:
    checked = check(prepared())
    assert checked.states == {name: ("ready", "") for name in NAMES}
    assert checked.videos == {}
    assert checked.counts == (3, 0, 0, 0, 0)
    assert checked.code == 0


def test_nothing_there_yet(videos: Path, tmp_path: Path, check: Check) -> None:
    job = Job(clips.write_benchmark(tmp_path / "three.jsonl", [FIRST, SECOND, THIRD]), videos, tmp_path / "out")
    checked = check(job)
    assert {state for state, _ in checked.states.values()} == {"missing"}
    assert checked.counts == (0, 0, 3, 2, 2)
    assert not job.output.exists()


def test_one_of_each(prepared: Callable[..., Job], check: Check) -> None:
    job = prepared()
    job.frame(1, NAMES[1]).unlink()
    shutil.rmtree(str(job.folder(NAMES[2])))
    checked = check(job)
    assert [checked.states[name][0] for name in NAMES] == ["ready", "partly", "missing"]
    assert checked.counts == (1, 1, 1, 2, 2)
    assert set(checked.videos) == set(VIDEO_PATHS.values())
    assert checked.code == 1


def test_only_the_sequences_asked_for_count(prepared: Callable[..., Job], check: Check) -> None:
    job = prepared()
    shutil.rmtree(str(job.folder(NAMES[2])))
    checked = check(job, "--sequences", NAMES[1], NAMES[0])
    assert list(checked.states) == NAMES[:2]
    assert checked.counts == (2, 0, 0, 0, 0) and checked.code == 0


def save(image: Image.Image, path: Path) -> None:
    image.save(str(path), "PNG")


def opened(path: Path) -> Image.Image:
    with Image.open(str(path)) as image:
        return image.convert("RGB")


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def damage_the_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    at = len(data) // 2
    data[at:at + 40] = bytes(255 - value for value in data[at:at + 40])
    path.write_bytes(bytes(data))


def damage_one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def narrow(path: Path) -> None:
    save(opened(path).crop((0, 0, clips.WIDTH - 2, clips.HEIGHT)), path)


def repaint(path: Path) -> None:
    image = opened(path)
    ImageDraw.Draw(image).rectangle((120, 80, 124, 84), fill=(255, 0, 0))
    save(image, path)


def change_a_pixel(path: Path) -> None:
    image = opened(path)
    red, green, blue = at(image, 3.5 / image.width, 3.5 / image.height)
    image.putpixel((3, 3), (red, green, blue ^ 1))
    save(image, path)


def change_meta(**fields: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps({**read_json(path), **fields}), encoding="utf-8")
    return change


class Damage(NamedTuple):
    name: str
    file: str
    do: Callable[[Path], Any]
    reason: str  # a regular expression
    shallow: bool  # found without decoding
    video: bool  # needed to mend it


DAMAGES = [
    Damage("meta gone", "sequence_meta.json", Path.unlink, r"sequence_meta\.json", True, True),
    Damage("meta cut", "sequence_meta.json", cut_off, r"sequence_meta\.json", True, True),
    Damage("other box", "sequence_meta.json", change_meta(init_bbox=OTHER_BOX), "init_bbox", True, False),
    Damage("other stride", "sequence_meta.json", change_meta(frame_ids=[3, 8, 13, 18], stride=5), "--stride", True, True),
    Damage("frame gone", "frames/f02.png", Path.unlink, r"f02\.png", True, True),
    Damage("frame truncated", "frames/f02.png", cut_off, r"f02\.png", True, True),
    Damage("frame of another size", "frames/f02.png", narrow, r"f02\.png", True, True),
    Damage("frame damaged in the middle", "frames/f02.png", damage_the_middle, r"f02\.png.*decode", False, True),
    Damage("frame with one wrong bit", "frames/f02.png", damage_one_bit, r"f02\.png.*decode", False, True),
    Damage("first frame damaged", "frames/f00.png", damage_the_middle, r"f00\.png.*decode", False, True),
    Damage("overlay gone", "frames/f00_ann.png", Path.unlink, r"f00_ann\.png", True, False),
    Damage("overlay truncated", "frames/f00_ann.png", cut_off, r"f00_ann\.png", True, False),
    Damage("overlay damaged", "frames/f00_ann.png", damage_the_middle, r"f00_ann\.png.*decode", False, False),
    Damage("overlay repainted", "frames/f00_ann.png", repaint, r"f00_ann\.png", False, False),
    Damage("overlay with one other pixel", "frames/f00_ann.png", change_a_pixel, r"f00_ann\.png", False, False),
    Damage("crop gone", "frames/crop.png", Path.unlink, r"crop\.png", True, False),
    Damage("crop damaged", "frames/crop.png", damage_the_middle, r"crop\.png.*decode", False, False),
    Damage("crop with one other pixel", "frames/crop.png", change_a_pixel, r"crop\.png", False, False),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_damage_is_found_and_named(prepared: Callable[..., Job], check: Check, damage: Damage) -> None:
    job = prepared()
    damage.do(job.folder() / damage.file)
    checked = check(job)
    state, reason = checked.states[NAME]
    assert state == "partly" and re.search(damage.reason, reason), checked.text
    assert checked.counts[:3] == (2, 1, 0)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_video_counts_as_needed_when_frames_are_to_be_made(prepared: Callable[..., Job], check: Check,
                                                           damage: Damage) -> None:
    job = prepared()
    damage.do(job.folder() / damage.file)
    assert set(check(job).videos) == ({VIDEO_PATHS["Camera_11"]} if damage.video else set())


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if not damage.shallow], ids=lambda damage: damage.name)
def test_a_plain_run_skips_what_only_decoding_can_find(prepared: Callable[..., Job], damage: Damage, empty: Path) -> None:
    job = prepared()._replace(videos=empty)
    damage.do(job.folder() / damage.file)
    before = stamps(job.output)
    assert job.run() == 0
    assert rewritten(before, stamps(job.output)) == ["gt_requests.json"]


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if not damage.shallow], ids=lambda damage: damage.name)
def test_what_check_advises_mends_it(prepared: Callable[..., Job], check: Check, damage: Damage) -> None:
    job = prepared()
    path = job.folder() / damage.file
    before = path.read_bytes()
    damage.do(path)
    state, reason = check(job).states[NAME]
    assert state == "partly" and "delete it and run again" in reason
    path.unlink()
    assert job.run() == 0
    assert path.read_bytes() == before or damage.file in ("frames/f00_ann.png", "frames/crop.png")
    assert check(job).code == 0


def test_other_options_than_prepared_with(prepared: Callable[..., Job], check: Check) -> None:
    job = prepared()
    by_stride = check(job, "--stride", "5")
    assert by_stride.counts[:3] == (0, 3, 0) and "--stride" in by_stride.states[NAME][1]
    by_count = check(job, "--nframes", "8")
    assert by_count.counts[:3] == (0, 3, 0) and "--nframes" in by_count.states[NAME][1]
    assert check(job, "--nframes", "2").code == 0


def test_a_changed_box_in_the_benchmark(prepared: Callable[..., Job], check: Check) -> None:
    job = prepared(records=[{**FIRST, "init_bbox": OTHER_BOX}, SECOND, THIRD])
    checked = check(job)
    assert checked.states[NAME][0] == "partly" and "init_bbox" in checked.states[NAME][1]
    assert checked.counts[:3] == (2, 1, 0)


def test_a_crop_of_something_else(prepared: Callable[..., Job], check: Check) -> None:
    job = prepared()
    width, height = opened(job.image("crop")).size
    save(opened(job.frame(0)).crop((60, 10, 60 + width, 10 + height)), job.image("crop"))
    assert check(job).states[NAME][0] == "partly"


def box_of(edges: Sequence[float]) -> program.Box:
    x1, y1, x2, y2 = edges
    return x1, y1, x2, y2


def test_an_overlay_with_its_box_elsewhere(prepared: Callable[..., Job], check: Check) -> None:
    job = prepared()
    drawn = program.draw(job.frame(0).read_bytes(), box_of(OTHER_BOX))[0]
    job.image("f00_ann").write_bytes(drawn)
    assert "f00_ann.png" in check(job).states[NAME][1]


def test_an_overlay_without_any_box(prepared: Callable[..., Job], check: Check) -> None:
    job = prepared()
    shutil.copyfile(str(job.frame(0)), str(job.image("f00_ann")))
    assert "f00_ann.png" in check(job).states[NAME][1]


def pillow_overlay(job: Job) -> Image.Image:
    drawn = program.draw_with_pillow(job.frame(0).read_bytes(), box_of(BOX))[0]
    return Image.open(io.BytesIO(drawn)).convert("RGB")


@with_opencv
def test_the_word_alone_may_differ(prepared: Callable[..., Job], check: Check) -> None:
    job = prepared()
    overlay = pillow_overlay(job)
    assert overlay.tobytes() != opened(job.image("f00_ann")).tobytes()
    save(overlay, job.image("f00_ann"))
    assert check(job).states[NAME] == ("ready", "")


@with_opencv
def test_more_than_the_word_may_not_differ(prepared: Callable[..., Job], check: Check) -> None:
    job = prepared()
    overlay = pillow_overlay(job)
    ImageDraw.Draw(overlay).rectangle((100, 90, 101, 91), fill=(255, 0, 0))
    save(overlay, job.image("f00_ann"))
    assert check(job).states[NAME][0] == "partly"


def test_quiet_check_is_the_closing_line_alone(prepared: Callable[..., Job], check: Check) -> None:
    job = prepared()
    cut_off(job.frame(1))
    checked = check(job, "--quiet")
    assert checked.text.count("\n") == 1 and checked.counts[:3] == (2, 1, 0) and checked.code == 1


# ---------------------------------------------------------------- where the videos are


def test_videos_that_the_folder_lacks(prepared: Callable[..., Job], check: Check, videos: Path, tmp_path: Path) -> None:
    job = prepared()
    partial = tmp_path / "partial"
    clips.lay_out(partial, videos / VIDEO_PATHS["Camera_12"], camera="Camera_12", subdir="")
    job = job._replace(videos=partial)
    for name in NAMES:
        job.frame(0, name).unlink()
    checked = check(job)
    assert checked.counts == (0, 3, 0, 2, 1)
    places = {camera: checked.videos[path] for camera, path in VIDEO_PATHS.items()}
    assert "--video-dir" in places["Camera_12"] and "not" not in places["Camera_12"]
    assert "not" in places["Camera_11"]


def hub_check(hub: Hub, job: Job, cache: Path) -> Checked:
    folders = [folder for folder in (job.output.parent, cache) if folder.exists()]
    before, asked = traces(*folders), len(hub.requests)
    args = ["--benchmark", str(job.benchmark), "--output-dir", str(job.output), "--nframes", str(NFRAMES), "--check",
            "--hf-cache-dir", str(cache)]
    done = subprocess.run(command(args), env=hub.env(cache.parent / "home"), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", timeout=60)
    assert done.stderr == ""
    assert rewritten(before, traces(*folders)) == [] and len(hub.requests) == asked
    return read_check(done.returncode, done.stdout)


def test_videos_in_the_hubs_cache_or_not(prepared: Callable[..., Job], videos: Path, tmp_path_factory:
                                         pytest.TempPathFactory) -> None:
    pytest.importorskip("huggingface_hub")
    job, cache = prepared(), tmp_path_factory.mktemp("hub") / "cache"
    for name in NAMES:
        job.frame(0, name).unlink()
    with Hub({path: (videos / path).read_bytes() for path in VIDEO_PATHS.values()}) as hub:
        checked = hub_check(hub, job, cache)
        assert checked.counts == (0, 3, 0, 2, 0) and not cache.exists()
        assert all("cache" not in place for place in checked.videos.values())
        args = ["--benchmark", str(job.benchmark), "--output-dir", str(cache.parent / "out"), "--nframes", "1",
                "--sequences", NAME, "--hf-cache-dir", str(cache)]
        subprocess.run(command(args), env=hub.env(cache.parent / "home"), stdin=subprocess.DEVNULL, check=True, timeout=60,
                       stdout=subprocess.DEVNULL)
        assert hub.count(host="cdn") == 1
        checked = hub_check(hub, job, cache)
        assert checked.counts == (0, 3, 0, 2, 1) and checked.code == 1
        places = {camera: checked.videos[path] for camera, path in VIDEO_PATHS.items()}
        assert places["Camera_11"] == "in the cache" and "cache" not in places["Camera_12"]


# ---------------------------------------------------------------- --gt-stub


def stub_of(record: Dict[str, Any], ids: Sequence[int], box: Sequence[float]) -> Dict[str, Any]:
    return {
        "label": "Warehouse_016/{}/{}/obj{}".format(record["camera"], ids[0], record["object_id"]),
        "scene": "Warehouse_016", "camera": record["camera"], "object_id": str(record["object_id"]),
        "object_type": record["object_type"], "frame_ids": list(range(len(ids))), "source_frame_ids": list(ids),
        "init_bbox": list(box), "gt_bboxes": {"0": list(box)},
    }


def truth(start: int) -> Dict[str, List[float]]:
    return {str(start): BOX, **{str(start + n): SECRET_BOX for n in range(1, 40)}}


def flavours() -> List[Dict[str, Any]]:
    facts = clips.record([20, 27, 34, 41], BOX, object_id=22)
    with_truth = {**clips.record([21, 28, 35, 42], BOX, object_id=33), "gt_bboxes": truth(21)}
    with_truth.pop("init_bbox")
    conversation = {"id": facts["seq_id"], "metadata": {key: facts[key] for key in facts if key != "seq_id"},
                    "conversations": [{"role": "user", "content": "Where?"},
                                      {"role": "assistant", "content": json.dumps(truth(20))}]}
    sequence_only = {"id": "Warehouse_016__Camera_11__5__obj44", "scene": "Warehouse_016", "camera": "Camera_11",
                     "source_frame_ids": [5, 12, 19, 26], "init_bbox": BOX}
    return [FIRST, with_truth, conversation, sequence_only]


def test_stub_of_every_flavour_has_the_initial_box_alone(videos: Path, tmp_path: Path) -> None:
    job = Job(clips.write_benchmark(tmp_path / "four.jsonl", flavours()), videos, tmp_path / "out")
    assert job.run("--gt-stub") == 0
    ids = {NAME: list(FIRST["canonical_frame_ids"][:NFRAMES]), "Warehouse_016__Camera_11__21__obj33": [21, 28, 35, 42],
           "Warehouse_016__Camera_11__20__obj22": [20, 27, 34, 41], "Warehouse_016__Camera_11__5__obj44": [5, 12, 19, 26]}
    for name, frame_ids in ids.items():
        object_id = name.split("obj")[1]
        facts = {"camera": "Camera_11", "object_id": object_id, "object_type": "object" if object_id == "44" else "Person"}
        assert read_json(job.folder(name) / "gt.json") == stub_of(facts, frame_ids, BOX)
    for path in job.output.rglob("*.json"):
        for value in SECRET_BOX:
            assert str(value) not in path.read_text(encoding="utf-8"), path


@pytest.mark.parametrize("nframes", [1, 8, 16])
def test_stub_fits_the_presets(prepared: Callable[..., Job], nframes: int) -> None:
    job = prepared("--nframes", nframes, "--gt-stub")
    ids = FIRST["canonical_frame_ids"][:nframes]
    assert read_json(job.folder() / "gt.json") == stub_of(FIRST, ids, BOX)
    assert len(list(job.folder().glob("frames/f[0-9][0-9].png"))) == nframes


def test_stub_only_when_asked(prepared: Callable[..., Job], check: Check) -> None:
    job = prepared()
    assert not list(job.output.rglob("gt.json"))
    assert check(job).code == 0
    checked = check(job, "--gt-stub")
    assert checked.counts[:3] == (0, 3, 0) and "gt.json" in checked.states[NAME][1]


@pytest.mark.parametrize("flag, name", [("--gt-stub", "gt.json"), ("--contact-sheet", "contact_sheet.jpg")])
def test_extra_is_added_later_without_the_video(prepared: Callable[..., Job], check: Check, empty: Path, flag: str,
                                                name: str) -> None:
    job = prepared()._replace(videos=empty)
    before = stamps(job.output / NAME / "frames")
    assert job.run(flag) == 0
    assert all((job.folder(seq_id) / name).is_file() for seq_id in NAMES)
    assert rewritten(before, stamps(job.output / NAME / "frames")) == []
    checked = check(job, flag)
    assert checked.code == 0 and strays(job.output) == []


@pytest.mark.parametrize("flag", ["--gt-stub", "--contact-sheet"])
def test_missing_extra_needs_no_video(prepared: Callable[..., Job], check: Check, flag: str) -> None:
    checked = check(prepared(), flag)
    assert checked.counts[:3] == (0, 3, 0)
    assert checked.videos == {} and checked.counts[3:] == (0, 0)


@pytest.mark.parametrize("flag", ["--gt-stub", "--contact-sheet"])
def test_ready_extra_is_not_made_again(prepared: Callable[..., Job], empty: Path, flag: str) -> None:
    job = prepared(flag)._replace(videos=empty)
    before = stamps(job.output)
    assert job.run(flag) == 0
    assert job.run() == 0
    assert rewritten(before, stamps(job.output)) == ["gt_requests.json"]


@pytest.mark.parametrize("flag, name", [("--gt-stub", "gt.json"), ("--contact-sheet", "contact_sheet.jpg")])
def test_broken_extra_is_made_again_when_asked(prepared: Callable[..., Job], check: Check, empty: Path, flag: str,
                                               name: str) -> None:
    job = prepared(flag)._replace(videos=empty)
    path = job.folder() / name
    right = path.read_bytes()
    cut_off(path)
    assert name in check(job, flag).states[NAME][1]
    assert check(job).code == 0
    assert job.run(flag) == 0
    assert path.read_bytes() == right


def test_stub_with_another_box_is_made_again(prepared: Callable[..., Job], check: Check, empty: Path) -> None:
    job = prepared("--gt-stub")._replace(videos=empty)
    change_meta(gt_bboxes={"0": BOX, "1": SECRET_BOX})(job.folder() / "gt.json")
    assert "gt.json" in check(job, "--gt-stub").states[NAME][1]
    assert job.run("--gt-stub") == 0
    assert read_json(job.folder() / "gt.json")["gt_bboxes"] == {"0": BOX}


@pytest.mark.parametrize("flag, name", [("--gt-stub", "gt.json"), ("--contact-sheet", "contact_sheet.jpg")])
def test_changed_box_removes_the_stale_extra(prepared: Callable[..., Job], empty: Path, flag: str, name: str) -> None:
    job = prepared(flag, records=[{**FIRST, "init_bbox": OTHER_BOX}, SECOND, THIRD])._replace(videos=empty)
    stale = (job.folder() / name).read_bytes()
    assert job.run() == 0  # the frames are right, so no video is needed
    assert not (job.folder() / name).exists()
    assert (job.folder(NAMES[1]) / name).exists()
    assert job.run(flag) == 0
    assert (job.folder() / name).read_bytes() != stale
    if flag == "--gt-stub":
        assert read_json(job.folder() / name)["gt_bboxes"] == {"0": OTHER_BOX}


@pytest.mark.parametrize("more", [("--stride", "3"), ("--nframes", "8")], ids=" ".join)
@pytest.mark.parametrize("flag, name", [("--gt-stub", "gt.json"), ("--contact-sheet", "contact_sheet.jpg")])
def test_other_frames_remove_the_stale_extra(prepared: Callable[..., Job], flag: str, name: str,
                                             more: Tuple[str, str]) -> None:
    job = prepared(flag)
    assert job.run(*more) == 0
    assert not list(job.output.rglob(name))


@pytest.mark.parametrize("more", [("--stride", "3"), ("--nframes", "8")], ids=" ".join)
def test_other_frames_renew_the_stub_when_asked(prepared: Callable[..., Job], more: Tuple[str, str]) -> None:
    job = prepared("--gt-stub")
    assert job.run("--gt-stub", *more) == 0
    assert read_json(job.folder() / "gt.json") == stub_of(FIRST, job.meta()["frame_ids"], BOX)


@pytest.mark.parametrize("flag, name", [("--gt-stub", "gt.json"), ("--contact-sheet", "contact_sheet.jpg")])
def test_extra_for_8_of_16_prepared_frames_keeps_all_16(prepared: Callable[..., Job], check: Check, empty: Path,
                                                        flag: str, name: str) -> None:
    job = prepared("--nframes", 16)._replace(videos=empty)
    before = stamps(job.folder() / "frames")
    assert len(before) == 18
    assert job.run("--nframes", 8, flag) == 0
    assert rewritten(before, stamps(job.folder() / "frames")) == []
    assert job.meta()["nframes"] == 16 and (job.folder() / name).is_file()
    if flag == "--gt-stub":
        assert read_json(job.folder() / name)["frame_ids"] == list(range(16))
    for nframes in (8, 16):
        assert check(job, "--nframes", nframes, flag).code == 0
    assert job.run("--nframes", 8) == 0
    assert all(len(entry["frame_ids"]) == 8 for entry in read_json(job.output / "gt_requests.json")["requests"])


# ---------------------------------------------------------------- --contact-sheet

PLAIN_SIZE = (640, 360)  # wider than a column of the sheet, so pictures are made smaller
PLAIN_IDS = list(range(2, 68, 2))
PLAIN_BOX = [250.0, 250.0, 500.0, 750.0]
TARGET_COLOUR = (200, 80, 150)  # y, u, v
CLOSE = 12  # of 255: JPEG and the change of size move colours by less
Colour = Tuple[int, int, int]


def plain_colour(index: int) -> Tuple[int, int, int]:
    return 40 + index, 90 + 35 * (index % 3), 90 + 35 * (index // 3 % 3)


def plain_picture(index: int) -> bytes:
    """One colour all over; at the start of the tracks the target stands in it."""
    width, height = PLAIN_SIZE
    planes = []
    for plane, (value, target) in enumerate(zip(plain_colour(index), TARGET_COLOUR)):
        across, down = (width, height) if plane == 0 else (width // 2, height // 2)
        row = bytes([value]) * across
        left, right = (int(PLAIN_BOX[n] / 1000 * across) for n in (0, 2))
        marked = row[:left] + bytes([target]) * (right - left) + row[right:]
        top, bottom = (int(PLAIN_BOX[n] / 1000 * down) for n in (1, 3))
        inside = index == PLAIN_IDS[0]
        planes.append(b"".join(marked if inside and top <= y < bottom else row for y in range(down)))
    return b"".join(planes)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Job]:
    folder = tmp_path_factory.mktemp("plain")
    clip = folder / "plain.mp4"
    clips.run_ffmpeg(["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", "{}x{}".format(*PLAIN_SIZE), "-framerate", "30",
                      "-i", "-", "-c:v", "mpeg4", "-q:v", "2", "-g", "20", "-f", "mp4", str(clip)],
                     stdin=b"".join(map(plain_picture, range(PLAIN_IDS[-1] + 1))))
    clips.lay_out(folder, clip)
    benchmark = clips.write_benchmark(folder / "one.jsonl", [clips.record(PLAIN_IDS, PLAIN_BOX)])

    def job(nframes: int) -> Job:
        made = Job(benchmark, folder, folder / "out{}".format(nframes))
        if not made.output.exists():
            assert made.run("--nframes", nframes, "--contact-sheet") == 0
        return made
    return job


PLAIN_NAME = "Warehouse_016__Camera_11__2__obj7"


def runs(filled: Sequence[bool]) -> List[Tuple[int, int]]:
    """(start, end) of each unbroken run of True."""
    edges = [at for at in range(len(filled) + 1)
             if (at > 0 and filled[at - 1]) != (at < len(filled) and filled[at])]
    return list(zip(edges[::2], edges[1::2]))


MIN_PICTURE = 60  # rows; captions are lower


class Found(NamedTuple):
    picture: Image.Image
    above: Image.Image  # where the caption is


def ink(image: Image.Image) -> Image.Image:
    """White where the image is not: the sheet's background is white, and no picture here is."""
    return image.convert("L").point(lambda value: 255 if value < 235 else 0)


def filled_rows(mask: Image.Image) -> List[bool]:
    data, width = mask.tobytes(), mask.width
    return [255 in data[y * width:(y + 1) * width] for y in range(mask.height)]


def filled_columns(mask: Image.Image) -> List[bool]:
    return filled_rows(mask.transpose(getattr(Image, "Transpose", Image).TRANSPOSE))


def pictures_of(sheet: Image.Image) -> List[Found]:
    """The pictures of a sheet in reading order, by the white between them."""
    mask, found = ink(sheet), []
    previous_bottom = 0
    for top, bottom in runs(filled_rows(mask)):
        if bottom - top < MIN_PICTURE:
            continue
        for left, right in runs(filled_columns(mask.crop((0, top, sheet.width, bottom)))):
            height = runs(filled_rows(mask.crop((left, top, right, bottom))))[0][1]
            found.append(Found(sheet.crop((left, top, right, top + height)),
                               sheet.crop((left, previous_bottom, right, top))))
        previous_bottom = bottom
    return found


def near(one: Sequence[int], other: Sequence[int]) -> bool:
    return max(abs(a - b) for a, b in zip(one, other)) <= CLOSE


def at(image: Image.Image, x: float, y: float) -> Colour:
    pixel: Any = image.getpixel((int(x * image.width), int(y * image.height)))
    return int(pixel[0]), int(pixel[1]), int(pixel[2])


def green_pixels(image: Image.Image) -> int:
    red, green, blue = image.split()
    strong = green.point(lambda value: 255 if value > 150 else 0)
    for other in (red, blue):
        strong = ImageChops.darker(strong, other.point(lambda value: 255 if value < 110 else 0))
    return int(strong.histogram()[255])


@pytest.mark.parametrize("nframes", [1, 8, 33])
def test_sheet_shows_overlay_crop_and_every_frame_in_order(plain: Callable[[int], Job], nframes: int) -> None:
    job = plain(nframes)
    with Image.open(str(job.folder(PLAIN_NAME) / "contact_sheet.jpg")) as sheet:
        assert sheet.format == "JPEG" and sheet.mode == "RGB"
        assert sheet.width <= 2000
        overlay, crop, *frames = pictures_of(sheet.convert("RGB"))
    assert len(frames) == nframes
    first = opened(job.frame(0, PLAIN_NAME))
    background, target = at(first, 0.9, 0.9), at(first, 0.37, 0.5)
    assert not near(background, target)
    for marked in (overlay.picture, frames[0].picture):
        assert near(at(marked, 0.9, 0.9), background) and near(at(marked, 0.37, 0.5), target)
    assert green_pixels(overlay.picture) > 300
    assert all(green_pixels(frame.picture) < 20 for frame in frames) and green_pixels(crop.picture) < 20
    # The target with its margin: mostly target, with the background around it.
    assert near(at(crop.picture, 0.5, 0.5), target) and near(at(crop.picture, 0.04, 0.5), background)
    shape = crop.picture.width / crop.picture.height
    assert abs(shape - opened(job.folder(PLAIN_NAME) / "frames" / "crop.png").width
               / opened(job.folder(PLAIN_NAME) / "frames" / "crop.png").height) < 0.05
    for index, frame in enumerate(frames):
        assert near(at(frame.picture, 0.9, 0.9), at(opened(job.frame(index, PLAIN_NAME)), 0.9, 0.9)), index
        assert abs(frame.picture.width / frame.picture.height - 16 / 9) < 0.05


def test_neighbours_of_the_plain_clip_differ(plain: Callable[[int], Job]) -> None:
    colours = [at(opened(plain(33).frame(index, PLAIN_NAME)), 0.9, 0.9) for index in range(33)]
    assert all(not near(one, other) for one, other in zip(colours, colours[1:]))


def test_captions_stand_above_the_pictures(plain: Callable[[int], Job]) -> None:
    for found in pictures_of(opened(plain(8).folder(PLAIN_NAME) / "contact_sheet.jpg")):
        assert min(found.above.convert("L").tobytes()) < 100
        assert found.picture.width > 40


def test_captions_hold_the_frame_ids(plain: Callable[[int], Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: List[str] = []
    plain_text = ImageDraw.ImageDraw.text

    def noted(self: Any, place: Any, text: str, *args: Any, **kwargs: Any) -> None:
        written.append(text)
        plain_text(self, place, text, *args, **kwargs)

    job = plain(8)._replace(output=tmp_path / "out")  # made here if no test before did; its captions do not count
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", noted)
    shutil.copytree(str(plain(8).output), str(job.output))
    (job.folder(PLAIN_NAME) / "contact_sheet.jpg").unlink()
    assert job.run("--nframes", 8, "--contact-sheet") == 0
    frame_ids = [int(match.group()) for match in (re.search(r"\b\d+$", text) for text in written) if match]
    assert frame_ids == PLAIN_IDS[:8]


def test_sheet_of_a_small_video(prepared: Callable[..., Job]) -> None:
    with Image.open(str(prepared("--contact-sheet").folder() / "contact_sheet.jpg")) as sheet:
        assert sheet.width <= 2000 and sheet.height < 2000


def test_sheet_is_the_same_when_made_later(prepared: Callable[..., Job], masters: Callable[..., Path], empty: Path) -> None:
    job = prepared()._replace(videos=empty)
    assert job.run("--contact-sheet") == 0
    at_once = masters("--contact-sheet") / NAME / "contact_sheet.jpg"
    assert (job.folder() / "contact_sheet.jpg").read_bytes() == at_once.read_bytes()


def test_check_decodes_the_sheet(prepared: Callable[..., Job], check: Check) -> None:
    job = prepared("--contact-sheet")
    path = job.folder() / "contact_sheet.jpg"
    data = path.read_bytes()
    path.write_bytes(data[:2] + bytes(600) + data[602:])  # whole at both ends
    assert check(job).code == 0
    state, reason = check(job, "--contact-sheet").states[NAME]
    assert state == "partly" and "contact_sheet.jpg" in reason

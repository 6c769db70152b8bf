"""Overlay and crop: to the pixel what the evaluator's prompt and its own fallback stand for."""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import cv2
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prepare_sot_dataset import crop_edges, main, overlay_corners
from tests import clips

ROOT = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT = 322, 182  # thousandths seldom fall on whole pixels
Numbers = Tuple[float, float, float, float]

# ---------------------------------------------------------------- exact values


@pytest.mark.parametrize("bbox, size, corners", [
    ((0, 0, 1000, 1000), (1920, 1080), (0, 0, 1920, 1080)),
    ((799.0, 601.9, 918.8, 956.5), (1920, 1080), (1534, 650, 1764, 1033)),  # 1534.08 650.052 1764.096 1033.02
    ((100.5, 200.9, 300.5, 400.9), (1920, 1080), (192, 216, 576, 432)),  # 192.96 216.972 576.96 432.972
    ((999.9, 999.9, 1000, 1000), (100, 100), (99, 99, 100, 100)),  # 99.99
    ((1.9, 1.9, 3.9, 3.9), (1000, 1000), (1, 1, 3, 3)),
    ((-0.9, -0.9, 0.9, 0.9), (1000, 1000), (0, 0, 0, 0)),  # towards zero, not downwards
    ((-10.9, -1.1, 1010.9, 1001.9), (1000, 1000), (-10, -1, 1010, 1001)),
    ((333.3, 333.3, 666.6, 666.6), (10, 10), (3, 3, 6, 6)),
])
def test_overlay_corners(bbox: Numbers, size: Tuple[int, int], corners: Tuple[int, ...]) -> None:
    assert tuple(overlay_corners(bbox, *size)) == corners


@pytest.mark.parametrize("bbox, size, edges", [
    ((100, 200, 300, 400), (1000, 1000), (70, 170, 330, 430)),
    ((100, 200, 300, 400), (1920, 1080), (134, 183, 633, 464)),  # 134.4 183.6 633.6 464.4
    ((799.0, 601.9, 918.8, 956.5), (1920, 1080), (1499, 592, 1798, 1080)),  # 1499.5 592.6 1798.6 1090.5
    ((100.9, 100.9, 110.9, 110.9), (1000, 1000), (99, 99, 112, 112)),  # 99.4 and 112.4; from corners cut first: 98, 111
    ((0, 0, 1000, 1000), (640, 480), (0, 0, 640, 480)),
    ((5, 5, 100, 100), (1000, 1000), (0, 0, 114, 114)),
    ((900, 900, 995, 995), (1000, 1000), (885, 885, 1000, 1000)),
    ((-500, -500, 100, 100), (1000, 1000), (0, 0, 190, 190)),
    ((950, -20, 1700, 20), (1000, 1000), (837, 0, 1000, 26)),
    ((500, 500, 501, 501), (1000, 1000), (499, 499, 501, 501)),  # 499.85 and 501.15
    ((500.2, 500.2, 500.3, 500.3), (1000, 1000), (500, 500, 501, 501)),  # no whole pixel: one is given
    ((999.9, 999.9, 1000.1, 1000.1), (100, 100), (99, 99, 100, 100)),
    ((-0.1, -0.1, 0.1, 0.1), (100, 100), (0, 0, 1, 1)),
    ((0, 0, 1000, 1000), (1, 1), (0, 0, 1, 1)),
])
def test_crop_edges(bbox: Numbers, size: Tuple[int, int], edges: Tuple[int, ...]) -> None:
    assert tuple(crop_edges(bbox, *size)) == edges


EDGES = st.floats(-3000, 4000) | st.floats(-1, 1) | st.floats(999, 1001) | st.integers(0, 1000)
SPANS = st.tuples(EDGES, EDGES).map(sorted).filter(lambda span: span[0] < span[1] and span[1] > 0 and span[0] < 1000)


@settings(deadline=None, max_examples=300, derandomize=True, database=None)
@given(SPANS, SPANS, st.integers(1, 9000), st.integers(1, 9000))
def test_crop_is_inside_the_image_and_never_empty(
        across: Sequence[float], down: Sequence[float], width: int, height: int) -> None:
    left, top, right, bottom = crop_edges((across[0], down[0], across[1], down[1]), width, height)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    for (low, high), start, end, size in ((across, left, right, width), (down, top, bottom, height)):
        low, high = low / 1000 * size, high / 1000 * size
        margin = 0.15 * (high - low)
        as_said = max(0, int(low - margin)), min(size, int(high + margin))
        assert (start, end) == as_said or as_said[0] >= as_said[1]


# ---------------------------------------------------------------- the images themselves

BOXES: Dict[str, Numbers] = {
    "inside": (200.3, 300.7, 450.9, 700.1),
    "small": (600, 600, 612.5, 640),
    "one_pixel": (500, 500, 503.2, 505.6),
    "thinner_than_a_pixel": (700.1, 400.1, 700.2, 900),
    "whole_image": (0, 0, 1000, 1000),
    "top_left": (0, 0, 120, 90),
    "bottom_right": (880.5, 850.5, 1000, 1000),
    "out_at_the_left": (-130.7, 420, 95.2, 800),
    "out_at_the_top": (300, -90, 520, 140),
    "out_at_the_right": (905, 100.4, 1402, 350),
    "out_at_the_bottom": (450, 930, 640, 1250),
    "around_the_image": (-300, -300, 1300, 1300),
    "last_column": (999.5, 200, 1000, 700),
    "word_near_the_top": (100, 60, 400, 300),
    "word_at_the_very_top": (550, 8, 800, 250),
    "word_past_the_right": (960, 500, 990, 640),
}


def target_of(name: str) -> str:
    return "Lab_000__Camera__3__obj" + name.replace("_", "-")


class Scene(NamedTuple):
    benchmark: Path
    videos: Path

    def arguments(self, output: Path) -> List[str]:
        return ["--benchmark", str(self.benchmark), "--video-dir", str(self.videos), "--output-dir", str(output),
                "--nframes", "1"]


def make_scene(folder: Path, boxes: Dict[str, Numbers]) -> Scene:
    clip = folder / "clip.mp4"
    clips.run_ffmpeg(["-f", "lavfi", "-i", "testsrc2=size=%dx%d:rate=30" % (WIDTH, HEIGHT), "-frames:v", "5",
                      "-c:v", "mpeg4", "-q:v", "2", str(clip)])
    clips.lay_out(folder / "videos", clip, "Lab_000", "Camera")
    records = [clips.record([3], box, "Lab_000", "Camera", name.replace("_", "-")) for name, box in boxes.items()]
    return Scene(clips.write_benchmark(folder / "bench.jsonl", records), folder / "videos")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"), BOXES)


@pytest.fixture(scope="module")
def with_opencv(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("opencv") / "out"
    assert main(scene.arguments(output)) == 0
    return output


Picture = Any  # numpy.ndarray of height x width x 3, RGB


def picture(path: Path) -> Picture:
    width, height, rgb = clips.read_png(path)
    return numpy.frombuffer(rgb, numpy.uint8).reshape(height, width, 3)


def image(output: Path, name: str, file: str) -> Picture:
    return picture(output / target_of(name) / "frames" / file)


GREEN = (0, 255, 0)


def corners(box: Numbers) -> Tuple[int, int, int, int]:
    x1, y1, x2, y2 = box
    return int(x1 / 1000 * WIDTH), int(y1 / 1000 * HEIGHT), int(x2 / 1000 * WIDTH), int(y2 / 1000 * HEIGHT)


def rectangle_drawn(f00: Picture, box: Numbers) -> Picture:
    canvas = f00.copy()
    x1, y1, x2, y2 = corners(box)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), GREEN, 2)
    return canvas


def word_drawn(canvas: Picture, box: Numbers) -> Picture:
    canvas = canvas.copy()
    x1, y1, _, _ = corners(box)
    cv2.putText(canvas, "TARGET", (x1, max(y1 - 6, 12)), cv2.FONT_HERSHEY_SIMPLEX, 0.55, GREEN, 2)
    return canvas


@pytest.mark.parametrize("name", list(BOXES))
def test_overlay_is_what_the_evaluator_would_draw(with_opencv: Path, name: str) -> None:
    f00 = image(with_opencv, name, "f00.png")
    expected = word_drawn(rectangle_drawn(f00, BOXES[name]), BOXES[name])
    assert numpy.array_equal(image(with_opencv, name, "f00_ann.png"), expected)


def expected_crop(f00: Picture, box: Numbers) -> Picture:
    x1, y1, x2, y2 = box[0] / 1000 * WIDTH, box[1] / 1000 * HEIGHT, box[2] / 1000 * WIDTH, box[3] / 1000 * HEIGHT
    w, h = x2 - x1, y2 - y1
    left, right = max(0, int(x1 - 0.15 * w)), min(WIDTH, int(x2 + 0.15 * w))
    top, bottom = max(0, int(y1 - 0.15 * h)), min(HEIGHT, int(y2 + 0.15 * h))
    return f00[top:max(bottom, top + 1), left:max(right, left + 1)]


@pytest.mark.parametrize("name", list(BOXES))
def test_crop_is_cut_out_of_the_plain_frame(with_opencv: Path, name: str) -> None:
    crop = image(with_opencv, name, "crop.png")
    assert crop.size
    assert numpy.array_equal(crop, expected_crop(image(with_opencv, name, "f00.png"), BOXES[name]))


def test_the_frame_itself_stays_plain(scene: Scene, with_opencv: Path) -> None:
    (video,) = scene.videos.glob("**/*.mp4")
    expected = clips.full_decode(video)[3]
    assert all(image(with_opencv, name, "f00.png").tobytes() == expected for name in BOXES)


FAR: Dict[str, Numbers] = {
    "past-32-bits": (-1e13, 300, 1e13, 700), "one-side": (200, 300, 1e300, 700),
    "overflow": (-1.7e308, -1.7e308, 1.7e308, 1.7e308)}


@pytest.mark.parametrize("name", list(FAR))
def test_a_box_that_reaches_far_out_is_refused_or_drawn(
        name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = make_scene(tmp_path, {name: FAR[name]})
    code = main(scene.arguments(tmp_path / "out"))
    if code == 2:
        assert "init_bbox" in capsys.readouterr().err
        return
    assert code == 0
    f00, annotated = (image(tmp_path / "out", name, file) for file in ("f00.png", "f00_ann.png"))
    near = tuple(min(max(edge, -3000), 4000) for edge in FAR[name])
    assert numpy.array_equal(annotated, word_drawn(rectangle_drawn(f00, near), near))


# ---------------------------------------------------------------- other drawing libraries

WITHOUT = """
import sys
blocked = set(sys.argv[1].split(","))

class Without:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in blocked else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from prepare_sot_dataset import main
sys.exit(main(sys.argv[2:]))
"""


def run_without(libraries: str, arguments: Sequence[str],
                path: Sequence[Path] = ()) -> "subprocess.CompletedProcess[str]":
    """The program in a process where these libraries are not installed."""
    folders = os.pathsep.join(map(str, [*path, ROOT]))
    return subprocess.run([sys.executable, "-c", WITHOUT, libraries, *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, universal_newlines=True, env={**os.environ, "PYTHONPATH": folders})


@pytest.fixture(scope="module")
def with_pillow(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("PIL")
    output = tmp_path_factory.mktemp("pillow") / "out"
    done = run_without("cv2", scene.arguments(output))
    assert done.returncode == 0, done.stderr
    return output


def word_area(box: Numbers) -> Tuple[slice, slice]:
    """Rows and columns of the word, with room for another font."""
    x1, y1, _, _ = corners(box)
    (width, height), below = cv2.getTextSize("TARGET", cv2.FONT_HERSHEY_SIMPLEX, 0.55, 2)
    baseline = max(y1 - 6, 12)
    rows = slice(max(0, baseline - height - 6), max(0, baseline + below + 4))
    return rows, slice(max(0, x1 - 4), max(0, x1 + width + 8))


@pytest.mark.parametrize("name", list(BOXES))
def test_pillow_draws_the_rectangle_of_opencv(with_pillow: Path, name: str) -> None:
    box, annotated = BOXES[name], image(with_pillow, name, "f00_ann.png")
    expected = rectangle_drawn(image(with_pillow, name, "f00.png"), box)
    elsewhere = numpy.ones(annotated.shape[:2], bool)
    elsewhere[word_area(box)] = False
    assert elsewhere.any()
    assert numpy.array_equal(annotated[elsewhere], expected[elsewhere])


def greener(before: Picture, after: Picture, area: Tuple[slice, slice]) -> int:
    change = after[area].astype(int) - before[area]
    return int(((change[..., 1] > 40) | (change[..., 0] < -40) | (change[..., 2] < -40)).sum())


@pytest.mark.parametrize("name", [name for name in BOXES if not name.startswith(("out_at_the_left", "around", "last"))])
def test_pillow_writes_the_word_where_opencv_does(with_pillow: Path, name: str) -> None:
    box, f00 = BOXES[name], image(with_pillow, name, "f00.png")
    framed, area = rectangle_drawn(f00, box), word_area(box)
    wanted = greener(framed, word_drawn(framed, box), area)
    found = greener(framed, image(with_pillow, name, "f00_ann.png"), area)
    assert wanted > 20
    assert 0.3 * wanted < found < 2 * wanted


@pytest.mark.parametrize("name", list(BOXES))
def test_pillow_cuts_the_same_crop(with_opencv: Path, with_pillow: Path, name: str) -> None:
    assert numpy.array_equal(image(with_pillow, name, "crop.png"), image(with_opencv, name, "crop.png"))


ONE = {"inside": BOXES["inside"]}


def tree(folder: Path) -> Dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("**/*") if path.is_file()}


def test_an_opencv_that_cannot_be_loaded_is_a_missing_one(tmp_path: Path) -> None:
    """As on servers without libGL, where opencv-python is installed and its import fails."""
    pytest.importorskip("PIL")
    broken = tmp_path / "site" / "cv2"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')\n")
    scene = make_scene(tmp_path, ONE)
    done = run_without("", scene.arguments(tmp_path / "broken"), path=[tmp_path / "site"])
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
    assert run_without("cv2", scene.arguments(tmp_path / "missing")).returncode == 0
    assert tree(tmp_path / "broken") == tree(tmp_path / "missing")


def bare_frames(output: Path) -> Path:
    return output / target_of("inside") / "frames"


def test_without_a_library_the_rest_is_done_and_a_later_run_draws(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene, output = make_scene(tmp_path, ONE), tmp_path / "out"
    done = run_without("cv2,PIL", scene.arguments(output))
    assert done.returncode == 0, done.stderr
    frames = bare_frames(output)
    assert sorted(path.name for path in frames.iterdir()) == ["f00.png", "f00_ann.png"]
    assert (frames / "f00_ann.png").read_bytes() == (frames / "f00.png").read_bytes()
    assert (output / target_of("inside") / "sequence_meta.json").is_file()
    assert json.loads((output / "gt_requests.json").read_text())["missing"] == []

    again = run_without("cv2,PIL", scene.arguments(output))
    assert again.returncode == 0, again.stderr
    assert "1 already" in again.stdout

    shutil.rmtree(str(scene.videos))
    scene.videos.mkdir()
    assert main(scene.arguments(output)) == 0, capsys.readouterr().err
    f00 = picture(frames / "f00.png")
    drawn = word_drawn(rectangle_drawn(f00, BOXES["inside"]), BOXES["inside"])
    assert numpy.array_equal(picture(frames / "f00_ann.png"), drawn)
    assert numpy.array_equal(picture(frames / "crop.png"), expected_crop(f00, BOXES["inside"]))


def test_without_a_library_a_warning_says_what_to_install(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, ONE)
    done = run_without("cv2,PIL", scene.arguments(tmp_path / "out"))
    assert done.returncode == 0
    assert "opencv-python" in done.stderr and "Pillow" in done.stderr and "install" in done.stderr
    assert "ERROR" not in done.stderr

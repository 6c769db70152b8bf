"""Overlay and crop: to the pixel what the evaluator's prompt and its own fallback stand for."""
from __future__ import annotations

import random
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any, Dict, NamedTuple, Sequence, Tuple

import cv2
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prepare_sot_dataset import crop_edges, label_origin, overlay_corners
from tests import clips
from tests.world import World

WIDTH, HEIGHT = 322, 182  # thousandths seldom fall on whole pixels
GREEN = (0, 255, 0)
Box = Sequence[float]
Pixels = Any  # numpy.ndarray of height x width x 3, RGB

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
def test_overlay_corners(bbox: Any, size: Tuple[int, int], corners: Tuple[int, ...]) -> None:
    assert tuple(overlay_corners(bbox, *size)) == corners


@pytest.mark.parametrize("corners, origin", [
    ((40, 100, 60, 120), (40, 94)), ((40, 18, 60, 50), (40, 12)), ((40, 17, 60, 50), (40, 12)),
    ((-7, -30, 60, 50), (-7, 12)),
])
def test_the_word_stands_above_the_box_or_at_the_top(corners: Any, origin: Tuple[int, int]) -> None:
    assert tuple(label_origin(corners)) == origin


@pytest.mark.parametrize("bbox, size, edges", [
    ((100, 200, 300, 400), (1000, 1000), (70, 170, 330, 430)),
    ((100, 200, 300, 400), (1920, 1080), (134, 183, 633, 464)),  # 134.4 183.6 633.6 464.4
    ((799.0, 601.9, 918.8, 956.5), (1920, 1080), (1499, 592, 1798, 1080)),  # 1499.5 592.6 1798.6 1090.5
    ((100.9, 100.9, 110.9, 110.9), (1000, 1000), (99, 99, 112, 112)),  # 99.4 112.4; cut too early: 98 111
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
def test_crop_edges(bbox: Any, size: Tuple[int, int], edges: Tuple[int, ...]) -> None:
    assert tuple(crop_edges(bbox, *size)) == edges


EDGES = st.floats(-3000, 4000) | st.floats(-1, 1) | st.floats(999, 1001) | st.integers(0, 1000)
SPANS = st.tuples(EDGES, EDGES).map(sorted).filter(lambda span: span[0] < min(span[1], 1000) and span[1] > 0)


@settings(max_examples=300)
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

NAMED: Dict[str, Box] = {
    "inside": (200.3, 300.7, 450.9, 700.1),
    "small": (600, 600, 612.5, 640),
    "one-pixel": (500, 500, 503.2, 505.6),
    "thinner-than-a-pixel": (700.1, 400.1, 700.2, 900),
    "whole-image": (0, 0, 1000, 1000),
    "top-left": (0, 0, 120, 90),
    "bottom-right": (880.5, 850.5, 1000, 1000),
    "out-at-the-left": (-130.7, 420, 95.2, 800),
    "out-at-the-top": (300, -90, 520, 140),
    "out-at-the-right": (905, 100.4, 1402, 350),
    "out-at-the-bottom": (450, 930, 640, 1250),
    "around-the-image": (-300, -300, 1300, 1300),
    "huge": (-90000, -90000, 90000, 90000),
    "last-column": (999.5, 200, 1000, 700),
    "word-near-the-top": (100, 60, 400, 300),
    "word-at-the-very-top": (550, 8, 800, 250),
    "word-past-the-right": (960, 500, 990, 640),
}


def any_box(dice: random.Random) -> Box:
    """One that touches the image and often reaches out of it."""
    (x1, x2), (y1, y2) = (sorted((dice.uniform(1, 999), dice.uniform(-300, 1300))) for _ in "xy")
    return x1, y1, x2, y2


BOXES = {**NAMED, **{"any-{}".format(seed): any_box(random.Random(seed)) for seed in range(9)}}
# Where the word would lie out of the image in part, each library cuts it in its own way.
WORDS = [name for name in NAMED if not name.startswith(("out-at-the-left", "around", "huge", "last"))]


class Images(NamedTuple):
    f00: Pixels
    annotated: Pixels
    crop: Pixels


def pixels(path: Path) -> Pixels:
    width, height, rgb = clips.read_png(path)
    return numpy.frombuffer(rgb, numpy.uint8).reshape(height, width, 3)


def images(output: Path, name: str) -> Images:
    frames = output / "Lab_000__Camera__3__obj{}".format(name) / "frames"
    return Images(*(pixels(frames / file) for file in ("f00.png", "f00_ann.png", "crop.png")))


def with_boxes(world: World, boxes: Dict[str, Box]) -> World:
    clip = world.folder / "clip.mp4"
    # No two places alike, and nowhere green.
    scene = "color=s={}x{}:r=30,geq=lum='40+(X+2*Y)/4':cb='90+X/6':cr='150+Y/6'".format(WIDTH, HEIGHT)
    clips.run_ffmpeg(["-f", "lavfi", "-i", scene, "-frames:v", "5", "-c:v", "mpeg4", "-q:v", "2", str(clip)])
    clips.lay_out(world.videos, clip, "Lab_000", "Camera")
    world.records(*(clips.record([3], box, "Lab_000", "Camera", name) for name, box in boxes.items()))
    return world


@pytest.fixture(scope="module")
def drawn_by(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, Path]:
    """One output folder for each library; the frames are made once."""
    world = with_boxes(World(tmp_path_factory.mktemp("world")), BOXES)
    assert world.run("--nframes", 1).code == 0
    by_pillow = world.folder / "pillow"
    shutil.copytree(str(world.output), str(by_pillow))
    for drawing in [*by_pillow.rglob("f00_ann.png"), *by_pillow.rglob("crop.png")]:
        drawing.unlink()
    no_videos = world.folder / "empty"
    no_videos.mkdir()
    run = world.run("--nframes", 1, "--output-dir", by_pillow, "--video-dir", no_videos, without=["cv2"])
    assert run.code == 0, run.err
    return {"cv2": world.output, "PIL": by_pillow}


def corners(box: Box) -> Tuple[int, ...]:
    """Computed without rounding, then cut towards zero."""
    return tuple(int(Fraction(edge) / 1000 * size) for edge, size in zip(box, (WIDTH, HEIGHT, WIDTH, HEIGHT)))


def rectangle_on(f00: Pixels, box: Box) -> Pixels:
    """What OpenCV's thickness 2 looks like: lines three pixels wide, the four corner pixels left out."""
    canvas = f00.copy()
    x1, y1, x2, y2 = corners(box)
    for left, top, right, bottom in ((x1, y1 - 1, x2, y1 + 1), (x1, y2 - 1, x2, y2 + 1),
                                     (x1 - 1, y1, x1 + 1, y2), (x2 - 1, y1, x2 + 1, y2)):
        canvas[max(0, top):max(0, bottom + 1), max(0, left):max(0, right + 1)] = GREEN
    return canvas


def word_on(canvas: Pixels, box: Box) -> Pixels:
    canvas = canvas.copy()
    x1, y1, _, _ = corners(box)
    cv2.putText(canvas, "TARGET", (x1, max(y1 - 6, 12)), cv2.FONT_HERSHEY_SIMPLEX, 0.55, GREEN, 2)
    return canvas


def test_the_model_of_the_rectangle_is_what_opencv_draws(drawn_by: Dict[str, Path]) -> None:
    for name, box in BOXES.items():
        f00 = images(drawn_by["cv2"], name).f00
        by_opencv, (x1, y1, x2, y2) = f00.copy(), corners(box)
        cv2.rectangle(by_opencv, (x1, y1), (x2, y2), GREEN, 2)
        assert numpy.array_equal(rectangle_on(f00, box), by_opencv), name


def test_overlay_is_what_the_evaluator_would_draw(drawn_by: Dict[str, Path]) -> None:
    for name, box in BOXES.items():
        f00, annotated, _ = images(drawn_by["cv2"], name)
        assert numpy.array_equal(annotated, word_on(rectangle_on(f00, box), box)), name


@pytest.mark.parametrize("library", ["cv2", "PIL"])
def test_crop_is_cut_out_of_the_plain_frame(drawn_by: Dict[str, Path], library: str) -> None:
    for name, box in BOXES.items():
        f00, _, crop = images(drawn_by[library], name)
        x1, y1, x2, y2 = (edge / 1000 * size for edge, size in zip(box, (WIDTH, HEIGHT, WIDTH, HEIGHT)))
        w, h = x2 - x1, y2 - y1
        left, right = max(0, int(x1 - 0.15 * w)), min(WIDTH, int(x2 + 0.15 * w))
        top, bottom = max(0, int(y1 - 0.15 * h)), min(HEIGHT, int(y2 + 0.15 * h))
        assert crop.size, name
        assert numpy.array_equal(crop, f00[top:max(bottom, top + 1), left:max(right, left + 1)]), name


def test_the_frame_itself_stays_plain(drawn_by: Dict[str, Path]) -> None:
    (video,) = (drawn_by["cv2"].parent / "videos").rglob("*.mp4")
    expected = clips.full_decode(video)[3].rgb
    for output in drawn_by.values():
        assert all(images(output, name).f00.tobytes() == expected for name in BOXES)


def area_of_the_word(box: Box) -> Tuple[slice, slice]:
    """Its rows and columns, with room for another font."""
    x1, y1, _, _ = corners(box)
    (width, height), _ = cv2.getTextSize("TARGET", cv2.FONT_HERSHEY_SIMPLEX, 0.55, 2)
    baseline = max(y1 - 6, 12)
    rows = slice(max(0, baseline - height - 6), max(0, baseline + 2))
    return rows, slice(max(0, x1 - 4), max(0, x1 + width + 8))


def test_pillow_draws_the_rectangle_of_opencv(drawn_by: Dict[str, Path]) -> None:
    for name, box in BOXES.items():
        f00, annotated, _ = images(drawn_by["PIL"], name)
        elsewhere = numpy.ones(annotated.shape[:2], bool)
        elsewhere[area_of_the_word(box)] = False
        assert elsewhere.any(), name
        assert numpy.array_equal(annotated[elsewhere], rectangle_on(f00, box)[elsewhere]), name


def green_in(before: Pixels, after: Pixels, area: Tuple[slice, slice]) -> int:
    change = after[area].astype(int) - before[area]
    return int(((change[..., 1] > 40) | (change[..., 0] < -40) | (change[..., 2] < -40)).sum())


def test_pillow_writes_the_word_where_opencv_does(drawn_by: Dict[str, Path]) -> None:
    for name in WORDS:
        f00, annotated, _ = images(drawn_by["PIL"], name)
        framed, area = rectangle_on(f00, BOXES[name]), area_of_the_word(BOXES[name])
        wanted = green_in(framed, word_on(framed, BOXES[name]), area)
        assert wanted > 20, name
        assert 0.3 * wanted < green_in(framed, annotated, area) < 2 * wanted, name


@pytest.mark.parametrize("box", [
    (-1e13, 300, 1e13, 700), (200, 300, 1e300, 700), (-1.7e308, -1.7e308, 1.7e308, 1.7e308),
], ids=["past 32 bits", "one side", "overflow"])
def test_a_box_that_reaches_far_out_is_refused_or_drawn(world: World, box: Box) -> None:
    run = with_boxes(world, {"far": box}).run("--nframes", 1)
    if run.code == 2:
        assert "init_bbox" in run.errors[0]
    else:
        f00, annotated, _ = images(world.output, "far")
        near = [min(max(edge, -3000), 4000) for edge in box]
        assert numpy.array_equal(annotated, word_on(rectangle_on(f00, near), near))


# ---------------------------------------------------------------- libraries that are missing or broken


@pytest.mark.parametrize("module", [
    "raise ImportError('libGL.so.1: cannot open shared object file')",  # opencv-python on a server
    "raise AttributeError('_ARRAY_API not found')",  # built for another numpy
    "",  # what an uninstall leaves behind
], ids=["no libGL", "other numpy", "empty"])
def test_an_opencv_that_cannot_be_used_is_a_missing_one(world: World, module: str) -> None:
    (world.folder / "site" / "cv2").mkdir(parents=True)
    (world.folder / "site" / "cv2" / "__init__.py").write_text(module)
    with_boxes(world, {"inside": NAMED["inside"]})
    broken = world.run("--nframes", 1, child=True, env={"PYTHONPATH": str(world.folder / "site")})
    assert broken.code == 0 and "Traceback" not in broken.err, broken.err
    missing = world.run("--nframes", 1, "--output-dir", world.folder / "missing", without=["cv2"])
    assert broken.tree == missing.tree


def test_without_a_library_the_rest_is_done_and_a_later_run_draws(world: World) -> None:
    with_boxes(world, {"inside": NAMED["inside"]})
    run = world.run("--nframes", 1, without=["cv2", "PIL"])
    assert run.code == 0
    assert "opencv-python" in run.err and "Pillow" in run.err and "install" in run.err
    frames = "Lab_000__Camera__3__objinside/frames/"
    assert run.tree[frames + "f00_ann.png"] == run.tree[frames + "f00.png"]
    assert frames + "crop.png" not in run.tree
    assert world.manifest()["missing"] == []
    again = world.run("--nframes", 1, without=["cv2", "PIL"])
    assert "1 already" in again.out and again.tree == run.tree

    shutil.rmtree(str(world.videos))
    world.videos.mkdir()
    later = world.run("--nframes", 1)
    with_boxes(world, {"inside": NAMED["inside"]})
    fresh = world.run("--nframes", 1, "--output-dir", world.folder / "fresh")
    assert later.code == 0 and later.tree == fresh.tree, later.err

"""Overlay and crop: to the pixel what the evaluator's prompt and its own fallback stand for."""
from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path
from typing import Any, Sequence

import cv2
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prepare_sot_dataset import crop_edges, overlay_corners
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
def test_overlay_corners(bbox: Any, size: tuple[int, int], corners: tuple[int, ...]) -> None:
    assert tuple(overlay_corners(bbox, *size)) == corners


@pytest.mark.parametrize("bbox, size, edges", [
    ((100, 200, 300, 400), (1920, 1080), (134, 183, 633, 464)),  # 134.4 183.6 633.6 464.4
    ((799.0, 601.9, 918.8, 956.5), (1920, 1080), (1499, 592, 1798, 1080)),  # 1499.5 592.6 1798.6 1090.5
    ((100.9, 100.9, 110.9, 110.9), (1000, 1000), (99, 99, 112, 112)),  # 99.4 112.4; cut too early: 98 111
    ((-500, -500, 100, 100), (1000, 1000), (0, 0, 190, 190)),
    ((950, -20, 1700, 20), (1000, 1000), (837, 0, 1000, 26)),
    ((500.2, 500.2, 500.3, 500.3), (1000, 1000), (500, 500, 501, 501)),  # no whole pixel: one is given
    ((999.9, 999.9, 1000.1, 1000.1), (100, 100), (99, 99, 100, 100)),
    ((-0.1, -0.1, 0.1, 0.1), (100, 100), (0, 0, 1, 1)),
    ((0, 0, 1000, 1000), (1, 1), (0, 0, 1, 1)),
])
def test_crop_edges(bbox: Any, size: tuple[int, int], edges: tuple[int, ...]) -> None:
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

NAMED: dict[str, Box] = {
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
    "huge": (-1e6, -1e6, 1e6, 1e6),  # the largest that is not refused
    "last-column": (999.5, 200, 1000, 700),
    "word-near-the-top": (100, 60, 400, 300),
    "word-at-the-very-top": (550, 8, 800, 250),
    "word-past-the-right": (960, 500, 990, 640),
}


def any_box(dice: random.Random) -> Box:
    """One that touches the image and often reaches out of it."""
    (x1, x2), (y1, y2) = (sorted((dice.uniform(1, 999), dice.uniform(-300, 1300))) for _ in "xy")
    return x1, y1, x2, y2


BOXES = {**NAMED, **{f"any-{seed}": any_box(random.Random(seed)) for seed in range(9)}}
# Where the word would lie out of the image in part, each library cuts it in its own way.
WORDS = [name for name in NAMED if not name.startswith(("out-at-the-left", "around", "huge", "last"))]


def images(output: Path, name: str) -> list[Pixels]:
    """The first frame, the same with the box, the crop."""
    frames = output / f"Lab_000__Camera__3__obj{name}" / "frames"
    read = [clips.read_png(frames / file) for file in ("f00.png", "f00_ann.png", "crop.png")]
    return [numpy.frombuffer(one.rgb, numpy.uint8).reshape(one.height, one.width, 3) for one in read]


@pytest.fixture(scope="module")
def drawn_by(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One output folder for each library."""
    world = World(tmp_path_factory.mktemp("world"))
    clip, by_pillow = world.folder / "clip.mp4", world.folder / "pillow"
    # No two places alike, and nowhere green.
    scene = f"color=s={WIDTH}x{HEIGHT}:r=30,geq=lum='40+(X+2*Y)/4':cb='90+X/6':cr='150+Y/6'"
    clips.run_ffmpeg(["-f", "lavfi", "-i", scene, "-frames:v", "5", "-c:v", "mpeg4", "-q:v", "2", str(clip)])
    clips.lay_out(world.videos, clip, "Lab_000", "Camera")
    world.records(*[clips.record([3], box, "Lab_000", "Camera", name) for name, box in BOXES.items()])
    for output, without in ((world.output, ()), (by_pillow, ("cv2",))):
        run = world.run("--nframes", 1, "--output-dir", output, without=without)
        assert run.code == 0, run.err
    return {"cv2": world.output, "PIL": by_pillow}


def corners(box: Box) -> tuple[int, ...]:
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


def test_opencv_draws_what_the_evaluator_would_draw(drawn_by: dict[str, Path]) -> None:
    for name, box in BOXES.items():
        f00, annotated, _ = images(drawn_by["cv2"], name)
        by_opencv, (x1, y1, x2, y2) = f00.copy(), corners(box)
        cv2.rectangle(by_opencv, (x1, y1), (x2, y2), GREEN, 2)
        assert numpy.array_equal(rectangle_on(f00, box), by_opencv), name
        assert numpy.array_equal(annotated, word_on(by_opencv, box)), name


@pytest.mark.parametrize("library", ["cv2", "PIL"])
def test_crop_is_cut_out_of_the_plain_frame(drawn_by: dict[str, Path], library: str) -> None:
    (video,) = (drawn_by["cv2"].parent / "videos").rglob("*.mp4")
    plain = clips.full_decode(video)[3].rgb
    for name, box in BOXES.items():
        f00, _, crop = images(drawn_by[library], name)
        left, top, right, bottom = crop_edges(box, WIDTH, HEIGHT)
        assert crop.size and f00.tobytes() == plain, name
        assert numpy.array_equal(crop, f00[top:bottom, left:right]), name


def area_of_the_word(box: Box) -> tuple[slice, slice]:
    """Its rows and columns, with room for another font."""
    x1, y1, _, _ = corners(box)
    (width, height), _ = cv2.getTextSize("TARGET", cv2.FONT_HERSHEY_SIMPLEX, 0.55, 2)
    baseline = max(y1 - 6, 12)
    rows = slice(max(0, baseline - height - 6), max(0, baseline + 2))
    return rows, slice(max(0, x1 - 4), max(0, x1 + width + 8))


def green_in(before: Pixels, after: Pixels, area: tuple[slice, slice]) -> int:
    change = after[area].astype(int) - before[area]
    return int(((change[..., 1] > 40) | (change[..., 0] < -40) | (change[..., 2] < -40)).sum())


def test_pillow_draws_the_rectangle_of_opencv_and_the_word_where_it_does(drawn_by: dict[str, Path]) -> None:
    for name, box in BOXES.items():
        f00, annotated, _ = images(drawn_by["PIL"], name)
        framed, area = rectangle_on(f00, box), area_of_the_word(box)
        elsewhere = numpy.ones(annotated.shape[:2], bool)
        elsewhere[area] = False
        assert elsewhere.any(), name
        assert numpy.array_equal(annotated[elsewhere], framed[elsewhere]), name
        if name in WORDS:
            wanted = green_in(framed, word_on(framed, box), area)
            assert wanted > 20 and 0.3 * wanted < green_in(framed, annotated, area) < 2 * wanted, name

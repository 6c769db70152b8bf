"""Overlay and crop: f00_ann.png is to the pixel what the evaluator draws; crop.png is cut from f00.png."""
from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, Dict, Sequence

import cv2
import numpy
import pytest

from tests import clips
from tests.world import World

WIDTH, HEIGHT = 322, 182  # thousandths seldom fall on whole pixels
GREEN = (0, 255, 0)
Box = Sequence[float]
Pixels = Any  # numpy.ndarray of height x width x 3, RGB
Outputs = Dict[str, Path]  # of each drawing library

BOXES: dict[str, Box] = {
    "inside": (200.3, 300.7, 450.9, 700.1),
    "one-pixel": (500, 500, 503.2, 505.6),
    "thinner-than-a-pixel": (700.1, 400.1, 700.2, 900),
    "infinitesimal": (0, 0, 5e-324, 5e-324),
    "whole-image": (0, 0, 1000, 1000),
    "bottom-right": (880.5, 850.5, 1000, 1000),
    "out-at-the-left": (-130.7, 420, 95.2, 800),
    "out-at-the-top": (300, -90, 520, 140),
    "out-at-the-right": (905, 100.4, 1402, 350),
    "out-at-the-bottom": (450, 930, 640, 1250),
    "huge": (-1e6, -1e6, 1e6, 1e6),  # the largest that is valid
    "endless-column": (9, -1e6, 10, 1e6),
    "last-column": (999.5, 200, 1000, 700),
    "label-near-the-top": (100, 60, 400, 300),
    "label-at-the-very-top": (550, 8, 800, 250),
    "label-past-the-right": (960, 500, 990, 640),
}
# Where part of the label would lie outside the image, each library cuts it off in its own way.
LABEL_IS_CUT = ("out-at-the-left", "huge", "last-column")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """The same sequences prepared with OpenCV and with Pillow."""
    world = World(tmp_path_factory.mktemp("world"))
    clip, pillow_output = world.folder / "clip.mp4", world.folder / "pillow"
    # No two places are alike, and none is green.
    picture = f"color=s={WIDTH}x{HEIGHT}:r=30,geq=lum='40+(X+2*Y)/4':cb='90+X/6':cr='150+Y/6'"
    coder = ["-frames:v", "5", "-c:v", "mpeg4", "-q:v", "2"]
    clips.run_ffmpeg(["-f", "lavfi", "-i", picture, *coder, str(clip)])
    clips.put_clip(world.videos, clip, "Lab_000", "Camera")
    world.write_records(*[clips.record([3], box, "Lab_000", "Camera", name) for name, box in BOXES.items()])
    for output, missing in ((world.output, ()), (pillow_output, ("cv2",))):
        run = world.prepare("--output-dir", output, nframes=1, without=missing)
        assert run.code == 0, run.err
    return {"OpenCV": world.output, "Pillow": pillow_output}


def read_images(output: Path, name: str) -> list[Pixels]:
    """Return the first frame, the same with the box drawn, and the crop."""
    frames = output / f"Lab_000__Camera__3__obj{name}" / "frames"
    images = [clips.read_png(frames / file) for file in ("f00.png", "f00_ann.png", "crop.png")]
    return [numpy.frombuffer(one.rgb, numpy.uint8).reshape(one.height, one.width, 3) for one in images]


def exact_corners(box: Box) -> tuple[int, ...]:
    """Return the corners computed without rounding errors, cut towards zero."""
    sizes = (WIDTH, HEIGHT, WIDTH, HEIGHT)
    return tuple(int(Fraction(edge) / 1000 * size) for edge, size in zip(box, sizes))


def exact_crop(box: Box) -> tuple[slice, ...]:
    """Return the rows and columns of the box with 15 % of its size on each side; at least one pixel each."""
    spans = []
    for low, high, size in ((box[1], box[3], HEIGHT), (box[0], box[2], WIDTH)):
        start, end = (Fraction(edge) / 1000 * size for edge in (low, high))
        margin = (end - start) * 15 / 100
        first = min(max(0, int(start - margin)), size - 1)
        spans.append(slice(first, max(first + 1, min(size, int(end + margin)))))
    return tuple(spans)


def draw_rectangle(image: Pixels, box: Box) -> Pixels:
    canvas, (x1, y1, x2, y2) = image.copy(), exact_corners(box)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), GREEN, 2)
    return canvas


def draw_label(image: Pixels, box: Box) -> Pixels:
    canvas, (x1, y1, _, _) = image.copy(), exact_corners(box)
    cv2.putText(canvas, "TARGET", (x1, max(y1 - 6, 12)), cv2.FONT_HERSHEY_SIMPLEX, 0.55, GREEN, 2)
    return canvas


def label_area(box: Box) -> tuple[slice, slice]:
    """Return the rows and columns of the label, with room for another font."""
    x1, y1, _, _ = exact_corners(box)
    (width, height), _ = cv2.getTextSize("TARGET", cv2.FONT_HERSHEY_SIMPLEX, 0.55, 2)
    bottom = max(y1 - 6, 12) + 2
    return slice(max(0, bottom - height - 8), max(0, bottom)), slice(max(0, x1 - 4), max(0, x1 + width + 8))


def count_green(image: Pixels) -> int:
    return int((image == GREEN).all(axis=2).sum())


@pytest.mark.parametrize("name", BOXES)
def test_overlay_by_opencv_is_the_evaluators(outputs: Outputs, name: str) -> None:
    f00, annotated, _ = read_images(outputs["OpenCV"], name)
    assert numpy.array_equal(annotated, draw_label(draw_rectangle(f00, BOXES[name]), BOXES[name]))


@pytest.mark.parametrize("name", BOXES)
def test_overlay_by_pillow_has_the_same_rectangle_and_a_label_in_the_same_place(
        outputs: Outputs, name: str) -> None:
    f00, annotated, _ = read_images(outputs["Pillow"], name)
    framed, area = draw_rectangle(f00, BOXES[name]), label_area(BOXES[name])
    is_outside = numpy.ones(annotated.shape[:2], bool)
    is_outside[area] = False
    assert is_outside.any() and numpy.array_equal(annotated[is_outside], framed[is_outside])
    if not name.startswith(LABEL_IS_CUT):
        assert count_green(annotated[area]) > count_green(framed[area]) + 5


@pytest.mark.parametrize("library", ["OpenCV", "Pillow"])
def test_crop_is_cut_out_of_the_plain_frame(outputs: Outputs, library: str) -> None:
    for name, box in BOXES.items():
        f00, _, crop = read_images(outputs[library], name)
        assert crop.size and numpy.array_equal(crop, f00[exact_crop(box)]), name

"""Bring a drawing or a photograph of one glyph into the form of the images that a model was trained on.

Each step can be switched off, as the demo shows what it is good for:

- polarity: is the ink brighter than its paper, as in the data? The paper is the median of the border.
- scale: the box around the ink gets the size that it has in the data. MNIST's documentation names 20 × 20 of 28 pixels.
- center: the ink's center of mass, or its box's, comes where the data have it; in MNIST near the middle.
- thicken: strokes become as wide as the data's, thicker or thinner, by their distance from the edge of the ink.

What the data have is measured on them (`measured`), and stored nowhere. Pixels are averaged, so edges are smooth. In
color, and where images have no paper (photographs), the image is cropped to the data's proportions and resampled only.
No TensorFlow here.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jobs.predict.glyph import INK, Form, box_of, center_of_mass, stroke_width

Polarity = Literal["auto", "as-is", "invert"]
Center = Literal["mass", "box", "none"]

_WORKING_SIZE = 112  # pixels, about: drawings are handled in whole multiples of the data's pixels
_MOST_SHRINKING = 4.0  # beyond the sheet's own: it bounds what is averaged, and no glyph needs more
_LONGEST_SIDES = 8  # times the working size
_MOST_THINNING = 0.35  # of a stroke's width: strokes vary in width, and no thin one may vanish
_SMALLEST_SKELETON = 0.25  # of the box: a glyph with a smaller one is a dot
_FAINT = 0.05  # brightness of paper up to which it counts as black


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The steps of fitting: see the module's docstring."""

    polarity: Polarity = "auto"
    center: Center = "mass"
    scale: bool = True
    thicken: bool = True


def fitted(drawing: NDArray[Any], form: Form, steps: Steps) -> NDArray[Any]:
    """Return a drawing in the data's form, float32 [height, width, channels] in [0, 1].

    `drawing`: float32 [rows, columns, 1 or 3] in [0, 1], of any size. Enlarged images of the data's own size, each
    pixel a block of equal ones, are recognized: only `polarity` applies to them, so they are exact.
    """
    drawing = _with_channels(drawing, form.shape[2])
    exact = _reduced(drawing, form.shape)
    if not form.is_glyph:
        fit = _resampled(_cropped(drawing, form.shape), form.shape) if exact is None else exact
        return 1 - fit if steps.polarity == "invert" else fit
    drawing = _coarser(drawing) if exact is None else exact
    if _is_to_invert(drawing, form, steps.polarity):
        drawing = 1 - drawing
    if exact is not None:
        return drawing
    ink = drawing[..., 0] if form.is_ink_bright else 1 - drawing[..., 0]
    ink = _on_black_paper(ink) if steps.polarity == "auto" else ink
    placed = _placed(ink, form, steps)
    return (placed if form.is_ink_bright else 1 - placed)[..., None].astype(np.float32)


def _with_channels(drawing: NDArray[Any], channels: int) -> NDArray[Any]:
    if drawing.shape[2] == channels:
        return drawing
    if channels == 1:
        gray: NDArray[Any] = (drawing @ np.array([0.299, 0.587, 0.114]))[..., None].astype(np.float32)  # ITU-R BT.601
        return gray
    return np.repeat(drawing[..., :1], channels, axis=2)


def _reduced(drawing: NDArray[Any], shape: tuple[int, int, int]) -> NDArray[Any] | None:
    """Return the image of the data's size that the drawing is an enlargement of, pixel by pixel; None if of none."""
    (rows, columns), (height, width) = drawing.shape[:2], shape[:2]
    if rows % height or columns % width:
        return None
    small = drawing[:: rows // height, :: columns // width]
    is_enlarged = (small.repeat(rows // height, axis=0).repeat(columns // width, axis=1) == drawing).all()
    return small.copy() if is_enlarged else None


def _coarser(drawing: NDArray[Any]) -> NDArray[Any]:
    """Return the drawing [rows, columns, 1], averaged to fewer pixels: it takes 9 ms in place of 15."""
    # The longer side counts, too: a drawing is made square, and a line of 60,000 pixels would take 14 GB.
    factor = max(
        min(drawing.shape[:2]) // _WORKING_SIZE, -(-max(drawing.shape[:2]) // (_LONGEST_SIDES * _WORKING_SIZE))
    )
    if factor < 2:
        return drawing
    return np.asarray(Image.fromarray(drawing[..., 0]).reduce(factor))[..., None]


def _cropped(drawing: NDArray[Any], shape: tuple[int, int, int]) -> NDArray[Any]:
    """Return the largest part in the middle that has the data's proportions."""
    rows, columns = drawing.shape[:2]
    scale = min(rows / shape[0], columns / shape[1])
    height, width = max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))
    top, left = (rows - height) // 2, (columns - width) // 2
    return drawing[top : top + height, left : left + width]


def _resampled(drawing: NDArray[Any], shape: tuple[int, int, int]) -> NDArray[Any]:
    planes = [
        np.asarray(Image.fromarray(plane).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))
        for plane in np.moveaxis(np.ascontiguousarray(drawing, np.float32), 2, 0)
    ]
    return np.stack(planes, axis=2).clip(0, 1)


def _is_to_invert(drawing: NDArray[Any], form: Form, polarity: Polarity) -> bool:
    if polarity != "auto":
        return polarity == "invert"
    paper = _paper(drawing[..., 0])
    darkest, brightest = np.percentile(drawing, [0.1, 99.9])
    if brightest - darkest < _FAINT:  # empty
        return bool(paper > 0.5) == form.is_ink_bright
    return bool(brightest - paper > paper - darkest) != form.is_ink_bright


def _paper(gray: NDArray[Any]) -> float:
    return float(np.median(np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])))


def _on_black_paper(ink: NDArray[Any]) -> NDArray[Any]:
    """Return bright ink with paper of 0 and ink of 1. What is black and white already stays as it is."""
    paper, most = _paper(ink), float(np.percentile(ink, 99.9))
    if (paper <= _FAINT and most >= 0.9) or most - paper < _FAINT:
        return ink
    # A photograph's paper is uneven: what differs from it by less than a quarter of the ink counts as paper.
    low = paper + (most - paper) / 4
    result: NDArray[Any] = ((ink - low) / (most - low)).clip(0, 1)
    return result


def _placed(ink: NDArray[Any], form: Form, steps: Steps) -> NDArray[Any]:
    """Return the ink [height, width] scaled and moved to its place. `ink`: [rows, columns], any size."""
    height, width = form.shape[:2]
    fold = max(1, round(_WORKING_SIZE / max(height, width)))  # working pixels of one of the data's
    natural = min(height / ink.shape[0], width / ink.shape[1])  # the sheet fills the image
    box = box_of(ink)
    scale, drawn_width = natural, 0.0
    if box is not None:
        drawn_width = stroke_width(ink, box)
        if steps.scale:
            scale = max(_scale(box, drawn_width, form, steps), natural / _MOST_SHRINKING)
    origin = _origin(ink, scale, form, steps)
    work = _transformed(ink, origin, 1 / (scale * fold), (height * fold, width * fold))
    if box is not None and steps.thicken and form.is_stroke:
        wanted, has = form.stroke_width * fold, drawn_width * scale * fold
        work = _moved_edge(work, max((wanted - has) / 2, -_MOST_THINNING * has))
    result: NDArray[Any] = work.reshape(height, fold, width, fold).mean(axis=(1, 3))
    return result.clip(0, 1)


def _scale(box: tuple[int, int, int, int], drawn_width: float, form: Form, steps: Steps) -> float:
    """Return the data's pixels per pixel of the drawing. Widening a stroke by w makes the box larger by w."""
    top, left, bottom, right = box
    scales = []
    for length, wanted in ((bottom - top, form.box[0]), (right - left, form.box[1])):
        skeleton = length - drawn_width
        is_dot = not (steps.thicken and form.is_stroke) or skeleton < _SMALLEST_SKELETON * length
        scales.append(wanted / length if is_dot else (wanted - form.stroke_width) / skeleton)
    return min(scales)


def _origin(ink: NDArray[Any], scale: float, form: Form, steps: Steps) -> tuple[float, float]:
    """Return the point of the drawing (row, column) that comes to the image's top left corner."""
    height, width = form.shape[:2]
    box = box_of(ink)
    if box is None or (steps.center == "none" and not steps.scale):  # the middle stays the middle
        return ink.shape[0] / 2 - height / scale / 2, ink.shape[1] / 2 - width / scale / 2
    top, left, bottom, right = box
    middle = ((top + bottom) / 2, (left + right) / 2)
    if steps.center == "none":  # the glyph stays where it is on the sheet, but no part of it is cut off
        lengths = ((bottom - top) * scale + 1, (right - left) * scale + 1)
        row, column = (
            np.clip(middle[axis] / ink.shape[axis] * size, half := min(lengths[axis], size) / 2, size - half)
            for axis, size in enumerate((height, width))
        )
        return middle[0] - row / scale, middle[1] - column / scale
    place, goal = (center_of_mass(ink), form.mass) if steps.center == "mass" else (middle, form.middle)
    return place[0] - goal[0] / scale, place[1] - goal[1] / scale


def _transformed(ink: NDArray[Any], origin: tuple[float, float], pitch: float, size: tuple[int, int]) -> NDArray[Any]:
    """Return the part of the ink [*size] that begins at `origin`, `pitch` pixels apart, averaged; outside is 0."""
    box = (origin[1], origin[0], origin[1] + size[1] * pitch, origin[0] + size[0] * pitch)
    before = [max(0, int(np.ceil(-box[axis]))) for axis in (1, 0)]
    after = [max(0, int(np.ceil(box[3 - axis] - ink.shape[axis]))) for axis in (0, 1)]
    padded = np.pad(ink, [(before[0], after[0]), (before[1], after[1])]).astype(np.float32)
    moved = (box[0] + before[1], box[1] + before[0], box[2] + before[1], box[3] + before[0])
    image = Image.fromarray(padded)
    # BOX averages exactly where pixels get larger; bilinear has no blocks where they get smaller.
    method = Image.Resampling.BOX if pitch >= 1 else Image.Resampling.BILINEAR
    return np.asarray(image.resize((size[1], size[0]), method, box=moved))


def _moved_edge(work: NDArray[Any], by: float) -> NDArray[Any]:
    """Return ink whose edge lies `by` pixels further out, smooth over one pixel."""
    from scipy.ndimage import distance_transform_edt

    is_ink = work >= INK
    if not is_ink.any() or is_ink.all():
        return work
    distance = distance_transform_edt(is_ink) - distance_transform_edt(~is_ink)
    distance -= np.sign(distance) / 2  # from pixel centers to the edge between them
    result: NDArray[Any] = (distance + by + 0.5).clip(0, 1)
    return result

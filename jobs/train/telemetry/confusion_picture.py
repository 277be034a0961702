"""Draw a confusion matrix as a picture for TensorBoard, in the colors of report.html."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Pixels; small cells have no numbers. Large, as TensorBoard leaves pixels out of a picture that is wider than its card.
_CELL, _SMALL_CELL, _FONT = 72, 12, 28
_MOST_NUMBERED = 30  # classes
_MARGIN = 170  # pixels for the names of true classes
_LONGEST_NAME = 12  # characters
_LONGEST_OF_COLUMN = 3
_BLUE, _ORANGE, _WHITE = np.array([26, 95, 180]), np.array([179, 72, 14]), np.array([255, 255, 255])


def confusion_picture(confusion: NDArray[Any], names: Sequence[str]) -> NDArray[Any]:
    """Return a picture, uint8 [height, width, 3], of counts int [classes, classes]: rows true, columns predicted.

    Blue: correct; orange: incorrect. A stronger color is a larger share of the true class, by its square root, on a
    scale for each color.
    """
    from PIL import Image, ImageDraw, ImageFont

    classes = len(confusion)
    is_numbered = classes <= _MOST_NUMBERED
    rows = short = names
    if max(map(len, names)) > _LONGEST_OF_COLUMN:  # numbers above the columns, and before the names of the rows
        short = [str(number) for number in range(classes)]
        rows = [f"{number} {name}" for number, name in enumerate(names)]
    cell = _CELL if is_numbered else _SMALL_CELL
    margin = _MARGIN if is_numbered else 0
    picture = Image.new(
        "RGB", (margin + classes * cell, cell + classes * cell if is_numbered else classes * cell), "white"
    )
    draw = ImageDraw.Draw(picture)
    draw.font = ImageFont.load_default(_FONT)
    top = cell if is_numbered else 0
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    largest_error = (shares * (1 - np.eye(classes))).max() or 1.0
    for true in range(classes):
        y = top + true * cell
        if is_numbered:
            draw.text((margin - 14, y + cell // 2), rows[true][:_LONGEST_NAME], "black", anchor="rm")
            draw.text((margin + true * cell + cell // 2, cell // 2), short[true], "black", anchor="mm")
        for guess in range(classes):
            x, count = margin + guess * cell, int(confusion[true, guess])
            strength = float(np.sqrt(shares[true, guess] / (1.0 if true == guess else largest_error)))
            strength *= 0.6 if true == guess else 0.8
            color = _WHITE + strength * ((_BLUE if true == guess else _ORANGE) - _WHITE)
            draw.rectangle((x + 1, y + 1, x + cell - 1, y + cell - 1), tuple(map(int, color)))
            if is_numbered and count:
                draw.text((x + cell // 2, y + cell // 2), _short(count), "black", anchor="mm")
    return np.asarray(picture)


def _short(count: int) -> str:
    return str(count) if count < 10_000 else f"{count / 1000:.0f}k"

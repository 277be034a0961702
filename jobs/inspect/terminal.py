"""Pictures as text: half blocks in color on a terminal, else plain characters from dark to light."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

WIDEST = 18  # characters of a picture
_RAMP = " .:-=+*#%@"
_UPPER_HALF = "\u2580"
_RESET = "\x1b[0m"


@dataclass(frozen=True)
class Screen:
    """What text is written to: its width in characters, and which colors it shows."""

    columns: int
    colors: Literal["none", "256", "millions"]
    has_blocks: bool  # bars and half blocks need a Unicode encoding


def screen() -> Screen:
    """Return what stdout is. NO_COLOR (source: no-color.org) and TERM=dumb mean no colors."""
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    has_blocks = encoding.startswith("utf")
    try:
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        return Screen(80, "none", has_blocks)
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not has_blocks:
        return Screen(columns, "none", has_blocks)
    return Screen(columns, "millions" if os.environ.get("COLORTERM") in ("truecolor", "24bit") else "256", True)


def pictures(images: Sequence[NDArray[Any]], captions: Sequence[str], display: Screen) -> list[str]:
    """Return the lines of images of one size side by side, each under its caption, as wide as the screen.

    `images`: float [height, width, channels] in [0, 1].
    """
    drawn = [_draw(_reduced(image), display) for image in images]
    if not drawn:
        return []
    width = max(_reduced(image).shape[1] for image in images)
    width = max(width, min(WIDEST, max(map(len, captions))))
    per_line = max(1, (display.columns + 2) // (width + 2))
    lines = []
    for start in range(0, len(drawn), per_line):
        group = range(start, min(start + per_line, len(drawn)))
        lines.append("  ".join(captions[at][:width].ljust(width) for at in group).rstrip())
        lines += [*_beside([drawn[at] for at in group], width), ""]
    return lines


def bar(share: float, width: int, display: Screen) -> str:
    """Return a bar that is a share in [0, 1] of `width` characters long; at least a mark if the share is not 0."""
    length = max(round(share * width), 1 if share > 0 else 0)
    return ("\u2588" if display.has_blocks else "#") * length


def _beside(drawn: Sequence[list[tuple[str, int]]], width: int) -> list[str]:
    rows = max(map(len, drawn))
    return ["  ".join(_padded(each, row, width) for each in drawn).rstrip(" ") for row in range(rows)]


def _padded(lines: list[tuple[str, int]], row: int, width: int) -> str:
    text, length = lines[row] if row < len(lines) else ("", 0)
    return text + " " * (width - length)


def _reduced(image: NDArray[Any]) -> NDArray[Any]:
    """Return an image of at most WIDEST pixels a side, each the mean of a square of pixels, with 1 or 3 channels."""
    step = -(-max(image.shape[:2]) // WIDEST)
    height, width = (-(-side // step) for side in image.shape[:2])
    padded = np.pad(
        image, ((0, height * step - image.shape[0]), (0, width * step - image.shape[1]), (0, 0)), mode="edge"
    )
    small = padded.reshape(height, step, width, step, -1).mean(axis=(1, 3))
    return small if small.shape[2] in (1, 3) else small.mean(axis=2, keepdims=True)


def _draw(image: NDArray[Any], display: Screen) -> list[tuple[str, int]]:
    """Return the lines of one image and how many characters each shows; a line is two rows of pixels."""
    if image.shape[0] % 2:
        image = np.concatenate([image, image[-1:] if display.colors == "none" else np.zeros_like(image[-1:])])
    upper, lower = image[::2], image[1::2]
    if display.colors == "none":
        gray = (upper + lower).mean(axis=2) / 2
        return [("".join(_RAMP[round(value * (len(_RAMP) - 1))] for value in row), len(row)) for row in gray.tolist()]
    return [(_line(*pair, display), image.shape[1]) for pair in zip(upper, lower, strict=True)]


def _line(upper: NDArray[Any], lower: NDArray[Any], display: Screen) -> str:
    cells = [
        f"\x1b[38;{_color(top, display)};48;{_color(bottom, display)}m{_UPPER_HALF}"
        for top, bottom in zip(upper, lower, strict=True)
    ]
    return "".join(cells) + _RESET


def _color(pixel: NDArray[Any], display: Screen) -> str:
    """Return a color as ANSI escapes have it: 24 bits, or the nearest of 24 grays or of a cube of 6 x 6 x 6."""
    red, green, blue = (pixel.repeat(3) if len(pixel) == 1 else pixel).tolist()
    if display.colors == "millions":
        return f"2;{round(red * 255)};{round(green * 255)};{round(blue * 255)}"
    if len(pixel) == 1:
        return f"5;{232 + round(red * 23)}"
    return f"5;{16 + 36 * round(red * 5) + 6 * round(green * 5) + round(blue * 5)}"

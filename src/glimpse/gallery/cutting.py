"""Frames, and boxes cut out of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import Image

from glimpse.errors import DataError

Box = tuple[int, int, int, int]
"""Left, top, right and bottom edge, in pixels from the upper left corner of the picture."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that has not been decoded yet.

    Attributes:
        number: of the frame, from 1.
        source: the picture's or the video's path.
        picture: decodes it, or raises a `DataError`; what is wrong, if it is known already that it cannot be had.
    """

    number: int
    source: str
    picture: Callable[[], Image.Image] | DataError = field(repr=False)

    def read(self) -> Image.Image:
        """The frame as an RGB picture.

        Raises:
            DataError: it is missing or cannot be decoded.
        """
        if isinstance(self.picture, DataError):
            raise self.picture
        return self.picture()


def cut(
    image: Image.Image, box: tuple[float, float, float, float], where: str, *, padding: float = 0.0
) -> tuple[Image.Image, Box]:
    """What a picture shows inside a box.

    Args:
        image: the picture.
        box: left, top, right and bottom edge, in pixels; finite.
        where: names the box in errors.
        padding: share of the box's width and height that is added on each of its sides.

    Returns:
        The crop and its edges: with the padding, clipped to the picture, and rounded to whole pixels.

    Raises:
        DataError: the box itself, without padding, has not a pixel of the picture.

    >>> crop, edges = cut(Image.new("RGB", (64, 48)), (10, 20, 30, 60), "here", padding=0.1)
    >>> edges, crop.size
    ((8, 16, 32, 48), (24, 32))
    """
    if _empty(_clipped(box, image.size)):
        shown = ", ".join(f"{edge:g}" for edge in box)
        cause = f"the box {shown} holds nothing of the picture, which is {image.width} x {image.height} pixels"
        raise DataError(where, cause, "correct the box (x0, y0, x1, y1 in pixels), or name the picture it belongs to")
    x0, y0, x1, y1 = box
    across, down = padding * (x1 - x0), padding * (y1 - y0)
    edges = _clipped((x0 - across, y0 - down, x1 + across, y1 + down), image.size)
    return image.crop(edges), edges


def _clipped(box: tuple[float, float, float, float], size: tuple[int, int]) -> Box:
    """The box inside a picture of `size` (width, height), in whole pixels; halves are rounded up."""
    width, height = size
    x0, x1 = (int(min(max(x, 0.0), width) + 0.5) for x in (box[0], box[2]))
    y0, y1 = (int(min(max(y, 0.0), height) + 0.5) for y in (box[1], box[3]))
    return x0, y0, x1, y1


def _empty(box: Box) -> bool:
    x0, y0, x1, y1 = box
    return x1 <= x0 or y1 <= y0

"""Reading a prompt: which part of a crop is the person, said as a box or as a mask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from glimpse.errors import ConfigError

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the crop; the right and lower edges are outside."""
Mask = npt.NDArray[Any]
"""`[h, w]` of the crop, bool or in [0, 1]; true (or 1) is the person."""
Prompt = Box | Sequence[float] | Mask | str | Path
"""A box, a mask, the text `x0,y0,x1,y1`, or the path of a mask image (white is the person)."""

_REMEDY = "give x0,y0,x1,y1 in pixels of the crop, or a mask image in which the person is white"


def read_visible(prompt: Prompt, size: tuple[int, int], where: str = "visible") -> Box | Mask:
    """Read which part of a crop shows the person, and check it against the crop.

    Args:
        prompt: a box, a mask, or the text or path of one.
        size: width and height of the crop in pixels.
        where: what to call the prompt in messages.

    Returns:
        A box of four floats inside the crop, or a mask `[h, w]` (bool, or float32 in [0, 1]).

    Raises:
        ConfigError: the text is neither, the box is empty or leaves the crop, the mask is empty, has other
            values or another size than the crop, or its file cannot be read.

    >>> read_visible("0,0,64,80", (64, 128))
    (0.0, 0.0, 64.0, 80.0)
    >>> read_visible("0,0,64,200", (64, 128))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    glimpse.errors.ConfigError: visible: the box 0,0,64,200 leaves the crop, which is 64 x 128 pixels...
    """
    if isinstance(prompt, np.ndarray):
        return _checked_mask(prompt, size, where)
    if isinstance(prompt, (str, Path)):
        numbers = _numbers(str(prompt))
        if numbers is None:
            return _checked_mask(_mask_file(Path(prompt), where), size, f"{where}: {prompt}")
        return _checked_box(numbers, size, where)
    return _checked_box(prompt, size, where)


def _numbers(text: str) -> list[float] | None:
    """The numbers of a comma-separated text; `None` if it is not one."""
    try:
        return [float(field) for field in text.split(",")]
    except ValueError:
        return None


def _checked_box(values: Sequence[float], size: tuple[int, int], where: str) -> Box:
    try:
        numbers = [float(v) for v in values]
    except (TypeError, ValueError):
        raise ConfigError(where, f"{values!r} is neither a box nor a mask", _REMEDY) from None
    shown = ",".join(f"{v:g}" for v in numbers)
    if len(numbers) != 4 or not np.isfinite(numbers).all():
        raise ConfigError(where, f"a box has four finite numbers, and '{shown}' has not", _REMEDY)
    x0, y0, x1, y1 = numbers
    width, height = size
    if x0 >= x1 or y0 >= y1:
        raise ConfigError(where, f"the box {shown} is empty", "give x0 < x1 and y0 < y1")
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        raise ConfigError(
            where,
            f"the box {shown} leaves the crop, which is {width} x {height} pixels (width x height)",
            "give x0,y0,x1,y1 in pixels of the crop",
        )
    return x0, y0, x1, y1


def _mask_file(path: Path, where: str) -> Mask:
    """Mask `[h, w]` float32 in [0, 1] of an image file, white = 1."""
    try:
        with Image.open(path) as image:
            see_through = image.convert("RGBA").getchannel("A").getextrema()[0] != 255
            mask = np.asarray(image.convert("L"), dtype=np.float32) / 255
        if see_through:
            raise ConfigError(f"{where}: {path}", "the mask is partly transparent", "save it in opaque black and white")
        # Label maps store the person as 1 of 255, which would silently read as hidden.
        if 0 < mask.max() < 0.5:
            raise ConfigError(
                f"{where}: {path}",
                f"the brightest pixel of the mask is {mask.max() * 255:.0f} of 255",
                "save the person as white (255)",
            )
        return mask
    except FileNotFoundError:
        raise ConfigError(where, f"'{path}' is neither four numbers nor a file", _REMEDY) from None
    except UnidentifiedImageError:
        raise ConfigError(f"{where}: {path}", "is not an image", _REMEDY) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{where}: {path}", f"cannot be read ({error})", _REMEDY) from error


def _checked_mask(mask: Mask, size: tuple[int, int], where: str) -> Mask:
    width, height = size
    if mask.shape != (height, width):
        shape = " x ".join(str(n) for n in mask.shape[::-1])
        raise ConfigError(
            where,
            f"the mask is {shape} pixels and the crop {width} x {height} (width x height)",
            "give a mask of the crop's own size, one value a pixel",
        )
    if mask.dtype != np.bool_:
        if not np.issubdtype(mask.dtype, np.number) or np.issubdtype(mask.dtype, np.complexfloating):
            raise ConfigError(where, f"the mask holds {mask.dtype}", "give bool, or numbers in [0, 1]")
        mask = mask.astype(np.float32)
        if not (np.isfinite(mask).all() and mask.min() >= 0 and mask.max() <= 1):
            raise ConfigError(where, "the mask has values outside [0, 1]", "give 1 for the person and 0 elsewhere")
    if not mask.any():
        raise ConfigError(where, "the mask is empty: it marks no pixel as the person", "mark the person white")
    return mask

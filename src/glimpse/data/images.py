"""Bytes to pictures, with every way a file can be bad told apart."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from glimpse.data.samples import Sample
from glimpse.errors import DataError
from glimpse.pictures import MAX_PIXELS

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM", "GIF")
"""What is decoded. Others are refused: some of Pillow's readers start programs."""

BACKDROP = (127, 127, 127)
"""What is put behind transparent pixels."""

_REMEDY = "replace or remove the file, or skip unreadable crops (skip_bad=True, --skip-bad)"


def read_image(sample: Sample) -> Image.Image:
    """The crop as an RGB picture, fully decoded and upright.

    The first frame of several is taken; EXIF orientation is applied; transparent pixels show mid-grey; 16-bit grey is
    scaled to 8 bits; CMYK, palette and grey become RGB.

    Raises:
        DataError: the file is missing, empty, no picture, of a format not read, truncated, damaged or far too large.
    """
    return decode(sample.store.read(sample.name), sample.path)


def decode(data: bytes, where: str) -> Image.Image:
    """`read_image` for bytes at hand; `where` names them in errors."""
    if not data:
        raise DataError(where, "the file is empty", _REMEDY)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            cause = f"the picture is {image.width} x {image.height}, too large for a crop of a person"
            raise DataError(where, cause, "cut the people out first, or scale the picture down")
        image.load()
        upright = ImageOps.exif_transpose(image)
        return _as_rgb(upright, where)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        cause = f"is not a picture of a format that is read ({', '.join(FORMATS)})"
        raise DataError(where, cause, _REMEDY) from error
    except Image.DecompressionBombError as error:
        raise DataError(where, "the picture is too large to be safe", _REMEDY) from error
    # Pillow's readers raise nearly anything on damaged headers: OSError, SyntaxError, struct.error, ValueError, ...
    except Exception as error:
        cause = "the file is truncated" if "truncated" in str(error).lower() else f"the picture is damaged ({error})"
        raise DataError(where, cause, _REMEDY) from error


def as_picture(image: object, where: str) -> Image.Image:
    """A PIL image as it is, or an array `[h, w, 3]` of uint8 as a picture.

    Raises:
        DataError: it is neither; `where` names it.
    """
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
            return Image.fromarray(np.ascontiguousarray(image))
        kind = f"an array {list(image.shape)} of {image.dtype}"
    else:
        kind = "None" if image is None else f"of type {type(image).__name__}"
    raise DataError(where, f"is {kind}, and not a picture", "give a PIL image or an array [h, w, 3] of uint8 (RGB)")


def _as_rgb(image: Image.Image, where: str) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise DataError(where, "has 32-bit pixels, whose range is unknown", "save it with 8 bits per channel")
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        solid = Image.new("RGBA", clear.size, (*BACKDROP, 255))
        return Image.alpha_composite(solid, clear).convert("RGB")
    return image.convert("RGB")


@dataclass(frozen=True)
class ReadImages:
    """What became of a list of samples.

    Attributes:
        images: the pictures that could be read, in order.
        kept: row in the list of each picture.
        bad: one error for each sample that could not be read.
    """

    images: list[Image.Image]
    kept: list[int]
    bad: list[DataError]


def read_all(
    samples: Iterable[Sample], *, skip_bad: bool = False, progress: Callable[[int], None] | None = None
) -> ReadImages:
    """Read every sample.

    Args:
        samples: what to read.
        skip_bad: leave unreadable samples out and list them, instead of raising on the first.
        progress: called with the number of samples done after each.

    Raises:
        DataError: a sample cannot be read and `skip_bad` is off.
    """
    images: list[Image.Image] = []
    kept: list[int] = []
    bad: list[DataError] = []
    for row, sample in enumerate(samples):
        try:
            images.append(read_image(sample))
            kept.append(row)
        except DataError as error:
            if not skip_bad:
                raise
            bad.append(error)
        if progress is not None:
            progress(row + 1)
    return ReadImages(images, kept, bad)

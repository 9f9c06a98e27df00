"""Part maps in files that people already have: label PNGs, npz."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
from PIL import Image

from glimpse.cues.parts import LIP_20, PERSON, Labels, PartMap, PartScheme
from glimpse.cues.readers import CueFile, Reading, files_below, load_arrays, read_bytes, slashed
from glimpse.errors import DataError
from glimpse.pictures import MAX_PIXELS

_REMEDY = "save the labels as a PNG in grey with 8 bits, or with a palette"


def read_parts(path: str | Path, *, scheme: PartScheme = LIP_20) -> CueFile[PartMap]:
    """Read part maps of crops.

    - A folder of label PNGs, `NAME.png` for the crop NAME; folders inside it are part of the names, other files are
      passed over. Pixels of a grey PNG (8 bits), or their places in its palette, are the labels.
    - npz: `names` `[n]` (text) and `labels` `[n, h, w]`; or, for crops of many sizes, one array `[h, w]` per crop,
      which is called what the crop is called.

    For the scheme `PERSON`, maps of 0 and 255 are as good as of 0 and 1.

    Args:
        path: a folder or an npz file.
        scheme: what the numbers mean.

    Returns:
        Part maps by names of crops (of PNGs: their paths in the folder). Files and arrays that are wrong are left out
        and among its problems.

    Raises:
        DataError: the path is neither, cannot be read, or nothing in it can be used.
    """
    reading: Reading[PartMap] = Reading(str(path))
    if os.path.isdir(path):
        _read_folder(reading, Path(path), scheme)
    elif Path(path).suffix.lower() == ".npz":
        _read_npz(reading, path, scheme)
    else:
        raise DataError(path, "is neither a folder nor an npz file", "give a folder of label PNGs, or an npz file")
    return reading.done()


def _read_folder(reading: Reading[PartMap], folder: Path, scheme: PartScheme) -> None:
    files = files_below(folder, ".png")
    if not files:
        raise DataError(folder, "holds no PNG", "give the folder of the label maps, one NAME.png per crop")
    for file in files:
        where = str(folder / file)
        with reading.row(where):
            labels = _decoded(where, read_bytes(where, "a PNG"))
            reading.add(file, where, _part_map(labels, scheme))


def _decoded(where: str, data: bytes) -> Labels:
    """The labels in a PNG.

    Raises:
        DataError: it is no PNG of labels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                cause = f"is {picture.width} x {picture.height} pixels, too large for a crop of a person"
                raise DataError(where, cause, "save it in the size of its crop")
            # Bytes 24 and 25 are the bits of a pixel and the kind. Pillow stretches grey of 2 and 4 bits to 0 .. 255,
            # which would turn label 1 into another label.
            bits, kind = data[24], data[25]
            if kind not in (0, 3):
                raise DataError(where, f"is a colour picture ({picture.mode}), and not one of labels", _REMEDY)
            if kind == 0 and bits not in (1, 8):
                raise DataError(where, f"is in grey with {bits} bits a pixel", _REMEDY)
            return np.asarray(picture).astype(np.uint8)
    except DataError:
        raise
    # Pillow's readers raise nearly anything on damaged files: OSError, SyntaxError, struct.error, ValueError, ...
    except Exception as error:
        raise DataError(where, f"is no PNG or is damaged ({type(error).__name__})", _REMEDY) from error


def _part_map(labels: Labels, scheme: PartScheme) -> PartMap:
    if scheme == PERSON and labels.dtype.kind in "ui" and np.isin(labels, (0, 255)).all():
        labels = labels // 255
    return PartMap(labels, scheme)


def _read_npz(reading: Reading[PartMap], path: str | Path, scheme: PartScheme) -> None:
    arrays = load_arrays(path)
    if {"names", "labels"} <= arrays.keys():
        names, labels = arrays["names"], arrays["labels"]
        if names.ndim != 1 or names.dtype.kind != "U" or labels.ndim != 3 or len(labels) != len(names):
            cause = f"names is {list(names.shape)} of {names.dtype} and labels {list(labels.shape)} of {labels.dtype}"
            raise DataError(path, cause, "write names [n] as text and labels [n, h, w] as whole numbers")
        rows = list(zip(names.tolist(), labels, strict=True))
    else:
        rows = list(arrays.items())
    for name, one in rows:
        where = f"{path}, '{name}'"
        with reading.row(where):
            reading.add(slashed(name), where, _part_map(one, scheme))

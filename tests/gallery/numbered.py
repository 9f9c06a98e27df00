"""Crops whose id, embedding and facts follow from a number, so that each row can be told to be whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from glimpse.embedding import Embedding
from glimpse.gallery.exact import Probes
from glimpse.gallery.fields import to_embedding
from glimpse.gallery.rows import NAMES, Crop, to_crops
from glimpse.gallery.store import Added, Gallery
from glimpse.matching.cascade import Cascade
from glimpse.matching.kernels import MixedDistance, PairGlobalDistance, PartDistance

MADE_BY = "numbered@1"
PARTS, WIDTH = 3, 8

PART = PartDistance()
CASCADE = Cascade(PART, MixedDistance(((0.4, PART), (0.6, PairGlobalDistance()))), 5)


@cache
def _row(number: int) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float16], npt.NDArray[np.float16]]:
    random = np.random.default_rng((1, number))
    parts, globals_ = random.standard_normal((2, PARTS, WIDTH)).astype(np.float16)
    return parts, globals_, random.uniform(0.1, 1.0, PARTS).astype(np.float16)


def embedded(numbers: Iterable[int], *, binary: bool = False) -> Embedding:
    """Parts, global vectors and weights, all numbers of half precision; with `binary` the last part is certain."""
    which = list(numbers)
    rows = [_row(number) for number in which or [0]]
    parts, globals_, weights = (
        torch.from_numpy(np.stack(each)).float()[: len(which)] for each in zip(*rows, strict=True)
    )
    if binary:
        weights = (weights > 0.6).float()
        weights[:, -1] = 1
    return Embedding({"parts": parts, "globals": globals_, "weights": weights}, MADE_BY)


def id_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def known(number: int) -> Crop:
    """What is known of a crop; of every fifth only where it comes from."""
    crop = Crop(id=id_of(number), source=f"crop-{number}-.jpg")
    if number % 5 == 4:
        return crop
    return crop.model_copy(
        update={
            "pid": f"person-{number % 7}-",
            "camera": f"c{number % 3}",
            "track": f"path-{number % 4}-",
            "time": 10.0 * number,
            "frame": number,
            "box": (0.0, 1.0, 2.0, float(number)),
            "tags": tuple(tag for tag, each in (("even", 2), ("third", 3)) if number % each == 0),
        }
    )


def picture(number: int) -> bytes:
    """What stands for a thumbnail."""
    return f"picture-{number}-".encode() * 3


def create(folder: Path, *, binary: bool = False, thumbnails: int = 8, audit: bool = True) -> Gallery:
    example = embedded([0], binary=binary)
    return Gallery.of(folder, example, MADE_BY, method="numbered", thumbnails=thumbnails, who="tester", audit=audit)


def add(gallery: Gallery, numbers: Sequence[int], *, binary: bool = False) -> Added:
    return gallery.add_embedded(
        embedded(numbers, binary=binary), [known(n) for n in numbers], [picture(n) for n in numbers]
    )


def numbers(gallery: Gallery) -> list[int]:
    """Of its crops, in the order they came."""
    return [number_of(crop) for crop in gallery.crops()]


def number_of(crop: Crop) -> int:
    assert crop.source is not None
    return int(crop.source.split("-")[1])


def probes(*numbers: int) -> Probes:
    """Each a query of its own."""
    return Probes.single(embedded(numbers))


def whole(gallery: Gallery, *, binary: bool = False) -> list[int]:
    """Numbers of all rows, after comparing each with what its number says."""
    gallery.table.refresh()
    columns = [*NAMES, "thumbnail", *(field.column for field in gallery.info.fields)]
    table = gallery.table.rows(columns)
    crops = to_crops(table)
    found = [number_of(crop) for crop in crops]
    if found:
        stored, expected = to_embedding(table, gallery.info.fields, MADE_BY), embedded(found, binary=binary)
        for name in expected.names:
            assert torch.equal(stored[name].float(), expected[name]), name
    for crop, number, small in zip(crops, found, table["thumbnail"].to_pylist(), strict=True):
        assert crop.id == id_of(number)
        assert small == picture(number)
    assert len(set(found)) == len(found)
    return found

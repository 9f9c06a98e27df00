"""Cues drawn over their crops, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from glimpse.cues.cache import CueCache, digest_of
from glimpse.cues.parts import PartMap
from glimpse.cues.points import KeyPoints
from glimpse.data import Sample, decode
from glimpse.errors import ConfigError, DataError
from glimpse.files import atomic

HEIGHT = 256
"""Of a drawn crop, in pixels."""
_COLOURS = (
    (230, 25, 75),
    (60, 180, 75),
    (0, 130, 200),
    (255, 225, 25),
    (145, 30, 180),
    (245, 130, 48),
    (70, 240, 240),
    (240, 50, 230),
    (210, 245, 60),
    (250, 190, 212),
)
_GAP, _EMPTY = 6, (40, 40, 40)


def draw_points(image: Image.Image, points: KeyPoints, threshold: float = 0.2) -> Image.Image:
    """The crop with the key points of a score above `threshold` and the bones between them, 256 pixels high.

    The target person is green, others are grey; points on the left of a body are blue, on the right red.
    """
    scale = HEIGHT / image.height
    picture = image.resize((max(1, round(image.width * scale)), HEIGHT), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    target = points.target(threshold)
    # The target last, so that nobody is drawn over it.
    people = sorted(points.values, key=lambda person: target is not None and np.array_equal(person, target))
    for number, person in enumerate(people, start=1):
        bone = (60, 220, 90) if number == len(people) else (150, 150, 150)
        sure = person[:, 2] > threshold
        places = [(float(x * scale), float(y * scale)) for x, y in person[:, :2]]
        for first, last in points.skeleton.bones:
            a, b = points.skeleton.row(first), points.skeleton.row(last)
            if sure[a] and sure[b]:
                draw.line((places[a], places[b]), fill=bone, width=2)
        for row, (x, y) in enumerate(places):
            name = points.skeleton.points[row]
            colour = {"left": (60, 120, 255), "right": (255, 70, 70)}.get(name.split("_")[0], (255, 255, 255))
            if sure[row]:
                draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
    return picture


def draw_parts(image: Image.Image, parts: PartMap) -> Image.Image:
    """The crop with its parts coloured half through, 256 pixels high; the background is darkened.

    Groups of the scheme have one colour each, where it has any; else labels have.
    """
    size = (max(1, round(image.width * HEIGHT / image.height)), HEIGHT)
    picture = np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float32)
    labels = np.asarray(Image.fromarray(parts.labels).resize(size, Image.Resampling.NEAREST))
    groups = tuple(parts.scheme.groups) or parts.scheme.labels[1:]
    # Labels of the body that are in no group stay grey.
    table = np.full((len(parts.scheme.labels), 3), 160, np.float32)
    table[0] = 0
    for number, group in enumerate(groups):
        table[list(parts.scheme.rows(group))] = _COLOURS[number % len(_COLOURS)]
    return Image.fromarray((0.5 * picture + 0.5 * table[labels]).round().astype(np.uint8))


def write_sheet(
    samples: Sequence[Sample],
    cache: CueCache,
    path: str | Path,
    *,
    points: str | None = None,
    parts: str | None = None,
    count: int = 24,
    seed: int = 0,
    columns: int = 12,
) -> list[str]:
    """Draw the cues of some crops into one picture: the crop itself, its key points and its parts, one below the other.

    Args:
        samples: crops to choose from, at random.
        cache: where the cues are.
        path: a .png or .jpg.
        points, parts: sources, may be left out where there is only one.
        count: how many crops.
        seed: of the choice.
        columns: crops beside each other.

    Returns:
        Names of the crops, row by row. A crop without cues of a kind has a dark field there.

    Raises:
        ConfigError: the cache is empty, a source is not there or not named, or `path` cannot be written.
        DataError: a crop cannot be read.
    """
    tables = [
        cache.points(points) if points is not None or cache.sources("points") else None,
        cache.parts(parts) if parts is not None or cache.sources("parts") else None,
    ]
    kept = [table for table in tables if table is not None]
    if not kept:
        raise ConfigError(cache.folder, "has no cues", "make some: glimpse cues make")
    if not samples or count < 1:
        raise DataError("crops", "there is none to draw", "choose a split that has crops")
    rows = np.random.default_rng(seed).permutation(len(samples))[:count]
    chosen = [samples[row] for row in sorted(rows.tolist())]
    strips: list[list[Image.Image]] = []
    for sample in chosen:
        data = sample.store.read(sample.name)
        image = decode(data, sample.path)
        width = max(1, round(image.width * HEIGHT / image.height))
        strip = [image.resize((width, HEIGHT), Image.Resampling.BICUBIC)]
        for table in kept:
            found: KeyPoints | PartMap | None = table.get(digest_of(data))
            if found is None:
                strip.append(Image.new("RGB", (width, HEIGHT), _EMPTY))
            else:
                strip.append(draw_points(image, found) if isinstance(found, KeyPoints) else draw_parts(image, found))
        strips.append(strip)
    sheet = _joined(strips, columns)
    save_picture(sheet, path)
    return [sample.name for sample in chosen]


def save_picture(picture: Image.Image, path: str | Path) -> None:
    """Write a picture whole or not at all, in the format that the ending of `path` names.

    Raises:
        ConfigError: it names none, or `path` cannot be written.
    """
    with atomic(path) as draft:
        try:
            picture.save(draft)
        except ValueError as error:
            raise ConfigError(path, "has no ending that a picture has", "let it end in .png or .jpg") from error


def _joined(strips: list[list[Image.Image]], columns: int) -> Image.Image:
    """Strips beside each other, `columns` in a row."""
    lines = [strips[i : i + columns] for i in range(0, len(strips), columns)]
    width = max(sum(strip[0].width + _GAP for strip in line) for line in lines) - _GAP
    tall = len(strips[0]) * (HEIGHT + _GAP)
    sheet = Image.new("RGB", (width, len(lines) * (tall + _GAP) - 2 * _GAP), (255, 255, 255))
    for i, line in enumerate(lines):
        x = 0
        for strip in line:
            for j, picture in enumerate(strip):
                sheet.paste(picture, (x, i * (tall + _GAP) + j * (HEIGHT + _GAP)))
            x += strip[0].width + _GAP
    return sheet

"""Contact sheets: a few people of a dataset, one row each, to be looked at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from glimpse.annotate.show import save_picture
from glimpse.data import Sample, decode
from glimpse.errors import ConfigError, DataError

HEIGHT = 192
"""Of a shown crop, in pixels."""
_GAP, _LINE = 4, 16
_PAPER, _INK, _QUERY = (255, 255, 255), (40, 40, 40), (214, 96, 28)


def write_contact_sheet(
    splits: Mapping[str, Sequence[Sample]],
    path: str | Path,
    *,
    people: int = 8,
    crops: int = 10,
    seed: int = 0,
) -> list[int]:
    """Draw crops of some people into one picture, a row for each; queries come first and have a coloured frame.

    Args:
        splits: crops by the name of their split, as `open_splits` gives them.
        path: a .png or .jpg.
        people: how many, at random.
        crops: of each person at most, at random, in the order of cameras.
        seed: of both choices.

    Returns:
        The ids of the people, from the top. Junk and distractors are nobody's.

    Raises:
        ConfigError: a number is not positive, or `path` cannot be written.
        DataError: nobody is there to show, or a crop cannot be read.
    """
    if people < 1 or crops < 1:
        raise ConfigError("contact sheet", f"{people} people with {crops} crops are none", "give at least 1 of each")
    of: dict[int, list[tuple[bool, Sample]]] = defaultdict(list)
    for split, samples in splits.items():
        for sample in samples:
            if sample.pid > 0:
                of[sample.pid].append((split == "query", sample))
    if not of:
        raise DataError("contact sheet", "no crop is of a known person", "choose a split that has people")
    rng = np.random.default_rng(seed)
    pids = sorted(of)
    chosen = sorted(pids[row] for row in rng.permutation(len(pids))[:people])
    rows: list[list[tuple[bool, Sample, Image.Image]]] = []
    for pid in chosen:
        picked = sorted(rng.permutation(len(of[pid]))[:crops].tolist())
        ordered = sorted((of[pid][row] for row in picked), key=lambda each: (not each[0], each[1].camid or 0))
        rows.append([(query, sample, _scaled(sample)) for query, sample in ordered])
    width = max(sum(image.width + _GAP for *_, image in row) for row in rows) + _GAP
    sheet = Image.new("RGB", (max(width, 120), len(rows) * (HEIGHT + _LINE + _GAP) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    for number, (pid, row) in enumerate(zip(chosen, rows, strict=True)):
        y, x = _GAP + number * (HEIGHT + _LINE + _GAP), _GAP
        for query, sample, image in row:
            said = f"{pid}, camera {sample.camid}" if not query else f"{pid}, query"
            draw.text((x, y), said if image.width > 70 else str(pid), _QUERY if query else _INK, font)
            sheet.paste(image, (x, y + _LINE))
            if query:
                draw.rectangle((x, y + _LINE, x + image.width - 1, y + _LINE + HEIGHT - 1), outline=_QUERY, width=3)
            x += image.width + _GAP
    save_picture(sheet, path)
    return chosen


def _scaled(sample: Sample) -> Image.Image:
    image = decode(sample.store.read(sample.name), sample.path)
    return image.resize((max(1, round(image.width * HEIGHT / image.height)), HEIGHT), Image.Resampling.BICUBIC)

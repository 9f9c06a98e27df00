"""Whole datasets with something in front of their crops, and the truth about what is hidden."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glimpse.cues.cache import CueTable, digest_of
from glimpse.cues.parts import BODY, PartMap, PartScheme
from glimpse.data import SPLITS, Dataset, Sample, Split, decode, holdout, open_dataset
from glimpse.errors import ConfigError, DataError
from glimpse.files import folder_draft, publish
from glimpse.synthetic.cutouts import largest_box
from glimpse.synthetic.occlusion import EDGES, FROM_CROPS, KINDS, SIDES, Kind, Occluder, Side, to_tensor

STRIPS = 6
"""Horizontal strips whose visible share is written down."""
MOST = 0.7
"""Largest share of a crop that can be covered."""

_SOURCES = 256  # crops that are cut from at most
_HELD_OUT = 50  # identities: what recipes keep out of training unless told otherwise


@dataclass(frozen=True)
class Occlude:
    """What is to be put in front of crops.

    Attributes:
        kinds: what covers; one is drawn for each crop.
        sides: where it stands; one is drawn for each crop.
        fraction: least and greatest share of the height or width that it reaches over, in [0, 0.7].
        seed: of every choice.

    Raises:
        ConfigError: something is not known, given twice or out of range, or does not go together.
    """

    kinds: tuple[Kind, ...] = ("object",)
    sides: tuple[Side, ...] = EDGES
    fraction: tuple[float, float] = (0.4, 0.4)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, given, known in (("kinds", self.kinds, KINDS), ("sides", self.sides, SIDES)):
            if not given or len(set(given)) != len(given):
                raise ConfigError(name, f"{list(given)} has none, or one twice", f"choose among {', '.join(known)}")
            for each in given:
                if each not in known:
                    raise ConfigError(name, f"'{each}' is not known", f"choose among {', '.join(known)}")
        low, high = self.fraction
        if not 0 <= low <= high <= MOST:
            raise ConfigError("fraction", f"{low} to {high} is out of range", f"give shares from 0 to {MOST}")
        if "border" in self.kinds and "centre" in self.sides:
            raise ConfigError("sides", "a picture does not end in the centre", f"choose among {', '.join(EDGES)}")
        if self.seed < 0:
            raise ConfigError("seed", f"{self.seed} is negative", "give 0 or more")

    def drawn(self, row: int, sources: Sequence[Tensor], masks: Sequence[Tensor]) -> Occluder:
        """What covers crop number `row` of a split."""
        rng = np.random.default_rng((self.seed, row, 1))
        kind = self.kinds[int(rng.integers(len(self.kinds)))]
        side = self.sides[int(rng.integers(len(self.sides)))]
        fraction = float(rng.uniform(*self.fraction))
        used = kind in FROM_CROPS
        return Occluder(kind, side, fraction, sources if used else (), self.seed, masks if used else ())


@dataclass(frozen=True)
class OccludedSet:
    """What `write_occluded` wrote.

    Attributes:
        spec: what opens the new dataset.
        truth: the folder with `truth.csv`, `prompts.csv` and the masks.
        covered: crops with something in front.
        copied: crops that were left as they are.
        visible: mean visible share of the covered crops.
        cut_out: whether people were cut out of their crops.
    """

    spec: str
    truth: Path
    covered: int
    copied: int
    visible: float
    cut_out: bool


def write_occluded(
    spec: str,
    out: str | Path,
    how: Occlude | None = None,
    *,
    splits: Sequence[Split] = ("query",),
    sources: Sequence[Sample] | None = None,
    masks: CueTable[PartMap, PartScheme] | None = None,
    truth: str | Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> OccludedSet:
    """Write a dataset again with something in front of some of its crops, in the same layout.

    Beside it, in the truth folder, lie `truth.csv` (what is in front, where, how far it reaches, and the visible share
    of the crop and of six strips of it), `prompts.csv` (the largest rectangle in which all is visible, for
    `evaluate --prompts`) and `masks/NAME.png` (white where the crop is visible). Both folders appear whole or not at
    all, and the same arguments give the same pixels.

    Args:
        spec: the dataset, see `open_dataset`.
        out: a folder that does not exist yet or is empty.
        how: what is put in front.
        splits: whose crops are covered; the others are copied.
        sources: crops that objects and people are cut from. If not given, those of the 50 training identities that
            recipes hold out: nobody whom a network trained by them has seen.
        masks: part maps of the sources; people are cut out where there is one.
        truth: the folder of the truth; `OUT-truth` if not given.
        progress: called with the number of crops done since the last call.

    Raises:
        ConfigError: an argument is out of range, a folder is not free or cannot be written to, there are no sources,
            or a crop of `splits` is in another split as well.
        DataError: a crop cannot be read, or the dataset has not such a split.
    """
    how = how or Occlude()
    dataset = open_dataset(spec)
    target = Path(out)
    beside = Path(truth) if truth is not None else target.with_name(f"{target.name}-truth")
    covered = [(row, sample) for split in dict.fromkeys(splits) for row, sample in enumerate(dataset.split(split))]
    copied = _others(dataset, {sample.name for _, sample in covered}, splits)
    root, files = _files(dataset)
    patches, cutouts = _sources(dataset, how, sources, masks)
    shares: list[float] = []
    truths: list[list[str]] = []
    prompts: list[list[str]] = []
    with folder_draft(target) as draft, folder_draft(beside) as known:
        for row, sample in covered:
            image = decode(sample.store.read(sample.name), sample.path)
            occluder = how.drawn(row, patches, cutouts)
            seen, visible = occluder(row, to_tensor(image))
            _write(draft / sample.name, _encoded(seen, sample))
            whole = visible.numpy()
            share = float(whole.sum()) / (image.width * image.height)
            strips = [part.mean() if part.size else 0.0 for part in np.array_split(whole, STRIPS)]
            said = (occluder.kind, occluder.side, f"{occluder.fraction:.4f}", *(f"{s:.4f}" for s in (share, *strips)))
            truths.append([sample.name, str(sample.pid), *said])
            box = largest_box(whole)
            if box is not None:
                prompts.append([sample.name, *map(str, box)])
            picture = io.BytesIO()
            Image.fromarray(whole).save(picture, "PNG")
            _write(known / "masks" / f"{sample.name}.png", picture.getvalue())
            shares.append(share)
            _advance(progress)
        for sample in copied:
            _write(draft / sample.name, sample.store.read(sample.name))
            _advance(progress)
        for name in files:
            shutil.copyfile(root / name, draft / name)
        strip_columns = [f"visible_strip_{strip}" for strip in range(1, STRIPS + 1)]
        columns = ["path", "pid", "kind", "side", "fraction", "visible", *strip_columns]
        _write(known / "truth.csv", _table(columns, truths))
        _write(known / "prompts.csv", _table(["path", "x0", "y0", "x1", "y1"], prompts))
        publish(draft, target)
        publish(known, beside)
    kind = dataset.spec.partition(":")[0]
    return OccludedSet(
        spec=f"{kind}:{target / files[0] if files else target}",
        truth=beside,
        covered=len(covered),
        copied=len(copied),
        visible=float(np.mean(shares)) if shares else 1.0,
        cut_out=bool(cutouts) and "person" in how.kinds,
    )


def _others(dataset: Dataset, covered: set[str], splits: Sequence[Split]) -> list[Sample]:
    """Crops of the other splits, each once."""
    found: dict[str, Sample] = {}
    for split in SPLITS:
        if split in splits:
            continue
        for sample in getattr(dataset, split):
            if sample.name in covered:
                cause = f"is in the split '{split}' too, and only {' and '.join(splits)} is to be covered"
                raise ConfigError(sample.path, cause, f"cover {split} as well, or use a layout with a file for each")
            found[sample.name] = sample
    return list(found.values())


def _files(dataset: Dataset) -> tuple[Path, list[str]]:
    """The list that a dataset is read from, where it is one: its folder, and its name."""
    kind, _, path = dataset.spec.partition(":")
    if kind != "csv":
        return Path(), []
    return Path(path).parent, [Path(path).name]


def _sources(
    dataset: Dataset,
    how: Occlude,
    sources: Sequence[Sample] | None,
    masks: CueTable[PartMap, PartScheme] | None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Crops that occluders are cut from, and where people are in them; the second is empty without part maps."""
    if not set(how.kinds) & set(FROM_CROPS):
        return [], []
    if sources is None:
        if not dataset.train:
            cause = "has no training crops to cut objects and people from"
            raise ConfigError(dataset.name, cause, "give a dataset with --sources, or cover with grey, thing or border")
        _, held = holdout(dataset.train, identities=_HELD_OUT, seed=0)
        sources = [*held.query, *held.gallery]
    sources = [sample for sample in sources if sample.pid > 0] or list(sources)
    if not sources:
        raise ConfigError("sources", "are no crops", "give a dataset that has training crops")
    chosen = np.sort(np.random.default_rng(how.seed).permutation(len(sources))[:_SOURCES])
    patches, cutouts = [], []
    for row in chosen.tolist():
        data = sources[row].store.read(sources[row].name)
        image = to_tensor(decode(data, sources[row].path))
        patches.append(image)
        found = masks.get(digest_of(data)) if masks is not None else None
        # Without a map nothing is cut out; a window of the crop covers in its place.
        empty = np.zeros(image.shape[1:], np.bool_)
        cutouts.append(torch.from_numpy(found.mask(BODY) if found is not None else empty))
    if masks is not None and not any(bool(mask.any()) for mask in cutouts):
        cause = f"has part maps of none of the {len(cutouts)} crops that people are cut from"
        raise DataError(masks.source, cause, "make them: glimpse cues make SOURCES --split train --masks ESTIMATOR")
    return patches, cutouts if masks is not None else []


def _encoded(seen: Tensor, sample: Sample) -> bytes:
    """The pixels in the format that the crop's name promises; JPEG with little loss."""
    suffix = Path(sample.name).suffix.lower()
    kind = {".jpg": "JPEG", ".jpeg": "JPEG"}.get(suffix, Image.registered_extensions().get(suffix, "PNG"))
    file = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(seen.permute(1, 2, 0).numpy()).save(file, kind, **options)
    return file.getvalue()


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _advance(progress: Callable[[int], None] | None) -> None:
    if progress is not None:
        progress(1)

"""Data sets of rendered people, in the layout of Market-1501, with cues, truth and a card."""

from __future__ import annotations

import csv
import io
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from glimpse.cues.cache import CueCache, Row, digest_of
from glimpse.cues.parts import LIP_20, PartMap
from glimpse.cues.points import KeyPoints
from glimpse.cues.skeleton import COCO_17
from glimpse.errors import ConfigError
from glimpse.files import check_free, folder_draft, publish
from glimpse.processes import mapped
from glimpse.provenance import commit
from glimpse.synthetic.people import KINDS, InFront, Kind, Population, scene_of, sides_of
from glimpse.synthetic.render import Crop, render

ImageFormat = Literal["jpg", "png"]
Progress = Callable[[int], None]

PARTS = ("head", "upper", "lower", "shoes")
"""Groups of LIP-20 whose visible share is written down."""
STRIPS = 6
"""Horizontal strips whose visible share is written down."""
SCORES = (0.0, 0.0, 0.6, 1.0)
"""Score of a key point in the cues: outside of the crop, hidden by something, behind the person's own body, seen."""
CUES = "truth"
"""Name of the cues of what can be seen."""
WHOLE = "truth-whole"
"""Name of the part maps as if nothing were in front."""

_LEAST, _MOST = 0.15, 0.9  # visible share of an occluded crop, as far as eight attempts can bring it there
_ATTEMPTS = 8
_TRAIN, _QUERY, _GALLERY = "bounding_box_train", "query", "bounding_box_test"


@dataclass(frozen=True)
class Rates:
    """Shares of the crops of each part that have something in front, each in [0, 1].

    The defaults are Occluded-Duke's (Miao et al., ICCV 2019): all queries, and a tenth of all others.
    """

    train: float = 0.1
    query: float = 1.0
    gallery: float = 0.1

    def __post_init__(self) -> None:
        for name in ("train", "query", "gallery"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"rates.{name}", f"{getattr(self, name)} is not a share", "give 0 to 1")

    def of(self, part: str) -> float:
        """The rate of a part of the data set."""
        return {_TRAIN: self.train, _QUERY: self.query, _GALLERY: self.gallery}[part]


@dataclass(frozen=True)
class Rendered:
    """What `render_dataset` wrote.

    Attributes:
        path: the folder or the zip.
        cues: the folder of the cues; `None` if none were asked for.
        truth: CSV with what is known of every crop; of a zip, the zip, where it is `truth.csv`.
        train, query, gallery: crops in each part.
        occluded: crops with something in front, in each part.
        seconds: that rendering took.
    """

    path: Path
    cues: Path | None
    truth: Path
    train: int
    query: int
    gallery: int
    occluded: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def crops(self) -> int:
        """Of all parts."""
        return self.train + self.query + self.gallery


def render_dataset(
    out: str | Path,
    population: Population | None = None,
    *,
    crops: int = 4,
    size: tuple[int, int] = (128, 64),
    rates: Rates | None = None,
    kinds: Mapping[Kind, float] | None = None,
    image_format: ImageFormat = "jpg",
    cues: bool = True,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Rendered:
    """Render a data set in the layout of Market-1501, with cues and the truth about every crop.

    Of a test person, the first crop by each camera is a query and the others are gallery. `truth.csv` says of every
    crop what is in front, who, and which share of the body, of its parts and of strips of the crop can be seen;
    `people.csv` says who is whose near twin; `README.md` is a card. Cues (key points, part maps of what can be seen
    and of the whole person) lie in `cues`, or beside a zip in a folder `NAME-cues`.

    All of it appears whole or not at all. The same arguments give the same bytes with any number of `jobs`.

    Args:
        out: a folder that does not exist yet or is empty, or a new file `NAME.zip`.
        population: who walks past the cameras.
        crops: of each person by each camera, 2 to 999.
        size: rows and columns of the crops.
        rates: shares of the crops with something in front.
        kinds: weights of what can be in front; all alike, and another person twice as often, if `None`.
        image_format: `"jpg"`, of the camera's quality, or `"png"`.
        cues: whether to write cues (extra `cues`).
        jobs: processes.
        progress: called with the number of crops done since the last call.

    Raises:
        ConfigError: an argument is out of range, `out` is there or cannot be written to, or pyarrow is not installed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     crowd = Population(people=4, train=2, cameras=2)
    ...     made = render_dataset(Path(folder) / "people", crowd, crops=2, cues=False)
    ...     made.train, made.query, made.gallery, made.occluded["query"]
    (8, 4, 4, 4)
    """
    population, rates = population or Population(), rates or Rates()
    weights = _weights(kinds)
    if not 2 <= crops <= 999:
        raise ConfigError("crops", f"{crops} is out of range", "give 2 to 999")
    if image_format not in get_args(ImageFormat):
        raise ConfigError("image_format", f"'{image_format}' is not a format", "choose jpg or png")
    if size[0] < 16 or size[1] < 8:
        raise ConfigError("size", f"{size[0]} x {size[1]} is too small", "give at least 16 x 8")
    if population.cameras < 2 and population.train < population.people:
        raise ConfigError("cameras", "a search needs two", "give at least 2, or let all people be for training")
    started = time.perf_counter()
    target = Path(out)
    zipped = target.suffix.lower() == ".zip"
    beside = target.with_name(f"{target.stem}-cues") if zipped else None
    if beside is not None and cues:
        check_free(beside)
    plans = tuple(_plans(population, crops, rates, weights, size, image_format))
    counts = Counter({_TRAIN: 0, _QUERY: 0, _GALLERY: 0})
    occluded = dict(counts)
    with folder_draft(target, zipped) as draft:
        room = draft / "crops"
        where = draft / "cues" if zipped else room / "cues"
        with ExitStack() as stack:
            writers = _cue_writers(where, stack) if cues else None
            pack = stack.enter_context(_Package(draft / "crops.zip" if zipped else room, zipped))
            rows: list[list[str]] = []
            made = stack.enter_context(mapped(_shoot, plans, jobs, threads=1))
            for plan, shot in zip(plans, made, strict=True):
                pack.add(plan.name, shot.data)
                rows.append([plan.name, str(plan.pid), str(plan.camera), *shot.truth])
                counts[plan.part] += 1
                occluded[plan.part] += plan.hidden
                if writers is not None:
                    writers(plan.name, size, shot)
                if progress is not None:
                    progress(1)
            pack.add("truth.csv", _table(_TRUTH, rows))
            pack.add("people.csv", _table(("pid", "part", "twin_of", "differs_in"), _people(population)))
            seconds = time.perf_counter() - started
            pack.add("README.md", _card(population, crops, size, rates, weights, counts, occluded))
        publish(draft / "crops.zip" if zipped else room, target)
        if beside is not None and cues:
            publish(where, beside)
    return Rendered(
        path=target,
        cues=None if not cues else beside or target / "cues",
        truth=target if zipped else target / "truth.csv",
        train=counts[_TRAIN],
        query=counts[_QUERY],
        gallery=counts[_GALLERY],
        occluded=occluded,
        seconds=seconds,
    )


# --- data sets -----------------------------------------------------------------------------------------------------

_TRUTH = (
    "file",
    "pid",
    "camera",
    "in_front",
    "side",
    "in_front_pid",
    "visible",
    *(f"visible_{part}" for part in PARTS),
    *(f"visible_strip_{strip}" for strip in range(1, STRIPS + 1)),
)


@dataclass(frozen=True)
class _Plan:
    """One crop that is to be rendered; what it needs to be drawn anywhere."""

    population: Population
    part: str
    name: str
    pid: int
    camera: int
    shot: int
    hidden: bool
    weights: tuple[tuple[Kind, float], ...]
    size: tuple[int, int]


@dataclass(frozen=True)
class _Shot:
    """One crop that was rendered: the file, the row of truth behind its name, and its cues."""

    data: bytes
    truth: tuple[str, ...]
    points: np.ndarray
    visible: np.ndarray
    amodal: np.ndarray


def _plans(
    population: Population,
    crops: int,
    rates: Rates,
    weights: tuple[tuple[Kind, float], ...],
    size: tuple[int, int],
    image_format: ImageFormat,
) -> Iterator[_Plan]:
    for pid in range(1, population.people + 1):
        for camera in range(1, population.cameras + 1):
            for shot in range(crops):
                part = _TRAIN if pid <= population.train else _QUERY if shot == 0 else _GALLERY
                draw = np.random.default_rng((population.seed, 3, pid, camera, shot)).random()
                frame = 1 + 25 * (shot + crops * pid)
                name = f"{part}/{pid:04d}_c{camera}s1_{frame % 10**6:06d}_{shot % 100:02d}.{image_format}"
                yield _Plan(population, part, name, pid, camera, shot, draw < rates.of(part), weights, size)


def _shoot(plan: _Plan) -> _Shot:
    """Render a crop of a data set."""
    seeds = (plan.population.seed, 1, plan.pid, plan.camera, plan.shot)
    in_front: InFront | None = None
    best: tuple[float, Crop, InFront | None] | None = None
    for attempt in range(_ATTEMPTS if plan.hidden else 1):
        rng = np.random.default_rng((*seeds, attempt)) if attempt else np.random.default_rng(seeds)
        in_front = _drawn(plan.weights, rng) if plan.hidden else None
        crop = render(scene_of(plan.population, plan.pid, plan.camera, rng, plan.size, None, in_front), plan.size, rng)
        share = crop.visible_share()
        # Hidden enough to matter, and enough left to know somebody by.
        off = max(_LEAST - share, share - _MOST, 0.0) if plan.hidden else 0.0
        if best is None or off < best[0]:
            best = (off, crop, in_front)
        if off == 0:
            break
    assert best is not None
    _, crop, in_front = best
    shares = [crop.visible_share(), *(crop.visible_share(part) for part in PARTS), *crop.visible_strips(STRIPS)]
    where = ("none", "", "") if in_front is None else (in_front.kind, in_front.side, str(crop.in_front or ""))
    points = np.concatenate([crop.keypoints, np.asarray(SCORES, np.float32)[crop.states][:, None]], 1)
    quality = plan.population.camera(plan.camera).quality
    file = io.BytesIO()
    if plan.name.endswith(".png"):
        crop.image.save(file, "PNG")
    else:
        crop.image.save(file, "JPEG", quality=quality)
    truth = (*where, *("" if np.isnan(share) else f"{share:.4f}" for share in shares))
    return _Shot(file.getvalue(), truth, points, crop.visible.labels, crop.amodal.labels)


def _drawn(weights: tuple[tuple[Kind, float], ...], rng: np.random.Generator) -> InFront:
    chances = np.array([weight for _, weight in weights])
    kind = weights[int(rng.choice(len(weights), p=chances / chances.sum()))][0]
    sides = sides_of(kind)
    side = sides[int(rng.integers(len(sides)))]
    # Below a head and above the feet: a person is not as high as the crop, and things have depth.
    low, high = (0.25, 0.6) if side in ("top", "bottom", "centre") else (0.3, 0.65)
    return InFront(kind, side, float(rng.uniform(low, high)))


def _weights(kinds: Mapping[Kind, float] | None) -> tuple[tuple[Kind, float], ...]:
    given = kinds or {kind: 2.0 if kind == "person" else 1.0 for kind in KINDS}
    for kind, weight in given.items():
        if kind not in KINDS:
            raise ConfigError("kinds", f"'{kind}' is not known", f"choose among {', '.join(KINDS)}")
        if not (weight >= 0 and np.isfinite(weight)):
            raise ConfigError(f"kinds.{kind}", f"{weight} is no weight", "give 0 or more")
    if not sum(given.values()) > 0:
        raise ConfigError("kinds", "nothing is left that could be in front", "give one of them a weight above 0")
    return tuple(sorted(given.items()))


def _people(population: Population) -> list[list[str]]:
    rows = []
    for pid in range(1, population.people + 1):
        _, other, item = population.twin(pid)
        rows.append([str(pid), "train" if pid <= population.train else "test", str(other or ""), item])
    return rows


def _cue_writers(folder: Path, stack: ExitStack) -> Callable[[str, tuple[int, int], _Shot], None]:
    cache = CueCache(folder)
    points = stack.enter_context(cache.writer(CUES, COCO_17))
    parts = stack.enter_context(cache.writer(CUES, LIP_20))
    whole = stack.enter_context(cache.writer(WHOLE, LIP_20))

    def write(name: str, size: tuple[int, int], shot: _Shot) -> None:
        digest = digest_of(shot.data)
        points.add(Row(digest, name, size, KeyPoints(shot.points[None], COCO_17)))
        parts.add(Row(digest, name, size, PartMap(shot.visible, LIP_20)))
        whole.add(Row(digest, name, size, PartMap(shot.amodal, LIP_20)))

    return write


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue().encode()


class _Package:
    """Files that go into a folder or into a zip."""

    def __init__(self, path: Path, zipped: bool) -> None:
        self._path = path
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) if zipped else None

    def __enter__(self) -> _Package:
        return self

    def __exit__(self, *_: object) -> None:
        if self._zip is not None:
            self._zip.close()

    def add(self, name: str, data: bytes) -> None:
        if self._zip is not None:
            # Without the time of day, so that the same people give the same file.
            self._zip.writestr(zipfile.ZipInfo(name), data)
            return
        path = self._path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


_CARD = """\
# People who do not exist

Crops of rendered people for person re-identification, with exact truth. No photograph was used, and nobody is shown:
the pictures may be used for anything.

Made by `glimpse data render` (glimpse {version}, {commit}); the same settings and version give the same bytes.

| setting | value |
|---|---|
| people | {people}: {train} for training, the others for testing |
| near twins | {twins} people differ from another in one item only (`people.csv`) |
| cameras | {cameras} |
| crops | {crops} of each person by each camera, {height} x {width} |
| with something in front | of training {rates.train:g}, of queries {rates.query:g}, of gallery {rates.gallery:g} |
| what is in front (weight) | {kinds} |
| seed | {seed} |

| part | crops | with something in front |
|---|---|---|
{parts}

## What is known of every crop

- `truth.csv`: person, camera; what is in front (`none` if nothing is) and on which side, and the id of the person if it
  is one; the visible share of the body, of head, upper and lower body and shoes, and of the body in each of {strips}
  equal strips of the crop, from the top (empty where there is nothing to see). A share counts pixels of the body that
  can be seen, of all that could be seen from there if nothing were in front and the crop did not end; of strips, of
  all in the crop.
- cues, by content of the file: key points `{cues}` (COCO's 17; score 1 seen, 0.6 behind the own body, 0 hidden or
  outside), part maps `{cues}` (LIP's labels of what can be seen) and `{whole}` (the whole person).

## Protocol

File names and folders are Market-1501's. Queries are searched in the gallery without crops of the same person by the
same camera. No person of the training part is in the others.

## What it is not

People differ in clothes, hair, build and what they carry, as rendered; faces hardly differ. Numbers measured here say
how methods compare, and not how well they do on photographs.
"""


def _card(
    population: Population,
    crops: int,
    size: tuple[int, int],
    rates: Rates,
    weights: tuple[tuple[Kind, float], ...],
    counts: Counter[str],
    occluded: dict[str, int],
) -> bytes:
    text = _CARD.format(
        version=version("glimpse-reid"),
        commit=commit() or "installed",
        people=population.people,
        train=population.train,
        twins=sum(1 for pid in range(1, population.people + 1) if population.twin(pid)[1]),
        cameras=population.cameras,
        crops=crops,
        height=size[0],
        width=size[1],
        rates=rates,
        kinds=", ".join(f"{kind} ({weight:g})" for kind, weight in weights if weight),
        seed=population.seed,
        parts="\n".join(f"| {part} | {counts[part]} | {occluded[part]} |" for part in (_TRAIN, _QUERY, _GALLERY)),
        strips=STRIPS,
        cues=CUES,
        whole=WHOLE,
    )
    return text.encode()

"""A trained method ready to use: its weights, its card, and crops in, embeddings out."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import resources
from itertools import islice, zip_longest
from operator import length_hint
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args, get_type_hints

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import Tensor

from glimpse.backbones import BackboneName, Look, Start, build_backbone, load_start, preprocessing, read_safetensors
from glimpse.backbones.fast import Precision, folded, in_bfloat16, keep_freed_memory
from glimpse.backbones.openvino import OpenVino, has_openvino
from glimpse.cues.needs import Cues, heat_on_input
from glimpse.cues.skeleton import Skeleton
from glimpse.cues.sources import PointSource, Read, open_points
from glimpse.data import Sample, read_image
from glimpse.data.images import BACKDROP, as_picture
from glimpse.data.transforms import EvalTransform, Interpolation, Visible
from glimpse.data.transforms import shown as point_shown
from glimpse.embedding import Embedding
from glimpse.errors import ConfigError, DataError, WeightsError, first_problem
from glimpse.files import atomic, write_text
from glimpse.matching import Distance
from glimpse.methods import METHODS, Method, Peer, Region
from glimpse.pictures import Triple
from glimpse.processes import one_thread

PEER_MARK = "person-reidentification-retail-0265"


class Card(BaseModel):
    """What a weights file is: written beside it as JSON.

    Attributes:
        method, options: what `METHODS[method]` is built with.
        backbone: its name.
        visibility: whether it has a head that tells which cells are visible.
        size: height and width of the input.
        mean, std: pre-processing, of RGB in [0, 1].
        interpolation: of the resize to `size`.
        ids: training identities that its classifiers know; 0 if they were left out.
        start: where the backbone's weights came from.
        training_data: data set and split that trained it.
        terms: licence of the weights and terms of the data.
        cues: what made the cues that it learnt from, by their kind.
        recipe: every setting of the training, as the recipe had them.
        metrics: measured on held-out identities, by name.
        seed, epochs, minutes, machine, commit, command, glimpse: how it was made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    options: dict[str, Any] = {}
    backbone: BackboneName
    visibility: bool = False
    size: tuple[int, int]
    mean: Triple
    std: Triple
    interpolation: Interpolation = "bicubic"
    ids: int = Field(default=0, ge=0)
    start: Start | None = None
    training_data: str = ""
    terms: str = ""
    cues: dict[str, str] = {}
    recipe: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    seed: int | None = None
    epochs: int | None = None
    minutes: float | None = None
    machine: str = ""
    commit: str = ""
    command: str = ""
    glimpse: str = ""


@dataclass(frozen=True)
class Embedded:
    """What `Model.embed_samples` gives.

    Attributes:
        embedding: one row per crop that could be read.
        kept: row of `samples` for each row of `embedding`.
        bad: an error for each crop that was skipped.
    """

    embedding: Embedding
    kept: list[int]
    bad: list[DataError]


Engine = Literal["auto", "torch", "openvino"]
_MANY = 512
"""Crops from which on compiling the backbone costs less time than it saves."""


class _Batch(NamedTuple):
    """Crops ready for the network: `[n, 3, H, W]`, what of them is visible if one has a prompt, and their cues."""

    images: Tensor
    shown: Tensor | None
    cues: Cues | None


class _Crop(NamedTuple):
    """A crop to embed, what of it is the person, what reads its file, if it is as it lies there, and its path."""

    image: Image.Image
    visible: Visible | None = None
    read: Read | None = None
    path: str = ""


Edit = Callable[[int, Image.Image], tuple[Image.Image, Visible | None]]
"""Changes crop number i before it is embedded, and may say what of it is visible."""


class Model:
    """A method with weights: turns crops into embeddings, and has the distance that compares them.

    Args:
        method: the network.
        card: what it is.
        made_by: name and hash that its embeddings carry.
        device: where it runs.
        precision: what it computes in; `auto` takes bfloat16 where the processor is quick with it.
        batch: crops per pass.
        engine: what runs the backbone: `torch`, `openvino` (on CPU, with the extra `cpu` installed; quicker, after some
            seconds of compiling), or `auto`: OpenVINO, where it can be had, for jobs of 512 crops or more. Crops with
            a prompt always go through torch. Cosines between what the two give of a crop are above 0.999.
        keypoints: where the key points of crops come from, for methods that need them to search.

    Raises:
        ConfigError: there is no such precision or engine, the engine cannot be had, or `batch` is below 1.
    """

    def __init__(
        self,
        method: Method,
        card: Card,
        made_by: str,
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "auto",
        batch: int = 32,
        engine: Engine = "auto",
        keypoints: PointSource | None = None,
    ) -> None:
        if precision not in get_args(Precision):
            raise ConfigError(
                "precision", f"'{precision}' is not known", f"choose one of {', '.join(get_args(Precision))}"
            )
        if batch < 1:
            raise ConfigError("batch", f"{batch} crops per pass are too few", "give at least 1")
        if engine not in get_args(Engine):
            raise ConfigError("engine", f"'{engine}' is not known", f"choose one of {', '.join(get_args(Engine))}")
        on_cpu = torch.device(device).type == "cpu"
        if engine == "openvino" and not on_cpu:
            raise ConfigError("engine", "'openvino' runs on the CPU only", "choose torch, or device cpu")
        if engine == "openvino" and not has_openvino():
            raise ConfigError(
                "engine", "OpenVINO is not installed", "install the extra: pip install 'glimpse-reid[cpu]'"
            )
        keep_freed_memory()
        self.engine: Engine = engine if engine != "auto" or (on_cpu and has_openvino()) else "torch"
        self._openvino: OpenVino | None = None
        self.method = method.eval().to(device)
        self.card = card
        self.made_by = made_by
        self.device = torch.device(device)
        self.batch = batch
        self.bfloat16 = in_bfloat16(precision, device)
        self.keypoints = keypoints
        self._backbone = folded(method.backbone).to(device).to(memory_format=torch.channels_last)
        self._transform = EvalTransform(card.size, card.mean, card.std, card.interpolation)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input."""
        return self.card.size

    @property
    def regions(self) -> tuple[Region, ...]:
        """Where each part lies in a crop."""
        return self.method.regions

    @property
    def part_names(self) -> list[str]:
        """Names of the parts, in the order of the embedding's."""
        return [region.name for region in self.regions]

    def distance(self, **options: Any) -> Distance:
        """The method's distance.

        Args:
            options: its test-time options, such as `gamma` and `neighbours` of QPM.

        Raises:
            ConfigError: the method has no such option, or a value is none that it takes.
        """
        where = f"distance of '{self.card.method}'"
        known = list(inspect.signature(self.method.distance).parameters)
        types = get_type_hints(type(self.method).distance)
        checked: dict[str, Any] = {}
        for name, value in options.items():
            if name not in known:
                remedy = f"its options are {', '.join(known)}" if known else "it has no options: leave them out"
                raise ConfigError(where, f"has no option '{name}'", remedy)
            try:
                checked[name] = TypeAdapter(types[name]).validate_python(value)
            except ValidationError as error:
                cause = f"option '{name}' cannot be {value!r} ({first_problem(error)[1]})"
                raise ConfigError(where, cause, f"give {name} such a value") from error
        return self.method.distance(**checked)

    def embed(self, images: Iterable[Image.Image], visible: Iterable[Visible | None] | None = None) -> Embedding:
        """Embed crops.

        Args:
            images: PIL images of any size, or arrays `[h, w, 3]` of uint8.
            visible: for each, the region that is the person: a box `(x0, y0, x1, y1)` or a mask `[h, w]` in pixels of
                the crop, or `None` for the whole crop.

        Raises:
            DataError: there is no image, one is no picture, there are not as many regions as images, or a region does
                not fit its crop.
            ConfigError: the method needs key points and has no source of them.
        """
        rows = list(self._embeddings(_side_by_side(_pictures(images), visible), length_hint(images, _MANY)))
        if not rows:
            raise DataError("images", "there is nothing to embed", "give at least one crop")
        return Embedding.cat(rows)

    def embed_stream(
        self, crops: Iterable[tuple[Image.Image, Read | None, str]], *, count: int = _MANY
    ) -> Iterator[Embedding]:
        """Embed crops as they come, a batch at a time and in their order.

        Args:
            crops: for each its picture, what reads its file if it has one (by which its key points may be known), and
                what to call it in errors. They are taken some batches ahead.
            count: about how many, by which `engine="auto"` chooses.

        Raises:
            DataError: the key points of a crop cannot be had.
            ConfigError: the method needs key points and has no source of them.
        """
        return self._embeddings((_Crop(image, None, read, path) for image, read, path in crops), count)

    def blank(self) -> Embedding:
        """The embedding of one grey crop of which no key point is known: names and shapes of what the weights give."""
        height, width = self.size
        needs = self.method.needs(self.method.options, "search")
        cues = None
        if needs.points is not None:
            cues = Cues(torch.zeros(1, len(needs.points), 3), torch.zeros(1, 0, height, width), torch.ones(1, 2))
        image, _ = self._transform(Image.new("RGB", (width, height), BACKDROP), None)
        return self._finish(self._look(_Batch(image[None], None, cues)), cues)

    def visibility(self, images: Iterable[Image.Image], visible: Iterable[Visible | None] | None = None) -> Tensor:
        """What of each crop shows the person, as the weights see it: their visibility head, times the prompt.

        Args:
            images, visible: see `embed`.

        Returns:
            float32 `[n, h, w]` in [0, 1], one value per cell of the map (16 x 16 pixels of the input).

        Raises:
            WeightsError: the weights have no visibility head.
            DataError: as `embed` does.
        """
        if self.method.backbone.visibility is None:
            cause = "have no head that tells what is visible"
            raise WeightsError(self.made_by, cause, "train them with `visibility: true`, or choose others")
        rows: list[Tensor] = []
        for batch in self._batches(_side_by_side(_pictures(images), visible)):
            seen = self._look(batch).seen
            assert seen is not None
            rows.append(seen.float().cpu())
        if not rows:
            raise DataError("images", "there is nothing to look at", "give at least one crop")
        return torch.cat(rows)

    def embed_samples(
        self,
        samples: Sequence[Sample],
        *,
        edit: Edit | None = None,
        skip_bad: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Embedded:
        """Read and embed the crops of a dataset.

        Args:
            samples: which.
            edit: changes each crop before it is embedded.
            skip_bad: leave out crops that cannot be read, and report them, instead of stopping at the first.
            progress: called with the number of crops done since the last call.

        Raises:
            DataError: a crop cannot be read (without `skip_bad`), or none can.
            ConfigError: the method needs key points and has no source of them.
        """
        kept: list[int] = []
        bad: list[DataError] = []

        def crops() -> Iterator[_Crop]:
            for row, sample in enumerate(samples):
                try:
                    image = read_image(sample)
                except DataError as error:
                    if not skip_bad:
                        raise
                    bad.append(error)
                    continue
                kept.append(row)
                shown, visible = edit(row, image) if edit is not None else (image, None)
                read = partial(sample.store.read, sample.name) if shown is image else None
                yield _Crop(shown, visible, read, sample.path)

        rows = []
        for found in self._embeddings(crops(), len(samples)):
            rows.append(found)
            if progress is not None:
                progress(len(rows[-1]))
        if not rows:
            raise DataError(
                samples[0].path if samples else "crops", "no crop can be read", "check that the path holds images"
            )
        return Embedded(Embedding.cat(rows), kept, bad)

    def _batches(self, crops: Iterator[_Crop]) -> Iterator[_Batch]:
        """Read and transform the next batch while the network works on this one."""
        needs = self.method.needs(self.method.options, "search")
        if needs.points is not None and self.keypoints is None:
            cause = f"'{self.card.method}' compares crops by key points, and nothing gives them"
            remedy = "name an estimator or a cache: --keypoints movenet:PATH, --keypoints cache:FOLDER (keypoints=)"
            raise ConfigError(self.made_by, cause, remedy)

        def make() -> _Batch | None:
            chunk = list(islice(crops, self.batch))
            if not chunk:
                return None
            images, shown = zip(*(self._transform(crop.image, crop.visible) for crop in chunk), strict=True)
            prompted = any(crop.visible is not None for crop in chunk)
            cues = None if needs.points is None else self._cues(chunk, shown, needs.points, needs.heat)
            return _Batch(torch.stack(images), torch.stack(shown) if prompted else None, cues)

        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(make)
            while (batch := ahead.result()) is not None:
                ahead = reader.submit(make)
                yield batch

    def _cues(self, crops: Sequence[_Crop], shown: Sequence[Tensor], skeleton: Skeleton, with_heat: bool) -> Cues:
        """Key points of the targets, in pixels of the input, and heat maps, if they are wanted and given."""
        height, width = self.size
        points, scales = torch.zeros(len(crops), len(skeleton), 3), torch.zeros(len(crops), 2)
        heat: dict[int, Tensor] = {}
        assert self.keypoints is not None
        for row, crop in enumerate(crops):
            across, down = crop.image.size
            scales[row] = torch.tensor([width / across, height / down])
            try:
                people = self.keypoints(crop.image, crop.read)
            except DataError as error:
                raise DataError(crop.path or error.where, error.cause, error.remedy) from error
            people = None if people is None else people.to(skeleton)
            target = None if people is None else people.target()
            if with_heat and people is not None and (heights := people.heights) is not None:
                heat[row] = heat_on_input(torch.from_numpy(heights), shown[row])
            if target is not None:
                points[row] = torch.from_numpy(target)
                points[row, :, :2] *= scales[row]
                points[row, :, 2] *= point_shown(points[row], shown[row])
        cues = Cues(points, torch.zeros(len(crops), 0, height, width), scales)
        if not heat:
            return cues
        blank = torch.zeros_like(next(iter(heat.values())))
        return cues._replace(heat=torch.stack([heat.get(row, blank) for row in range(len(crops))]))

    def _embeddings(self, crops: Iterator[_Crop], count: int) -> Iterator[Embedding]:
        """One embedding per batch, in order."""
        batches = self._batches(crops)
        if self.engine == "torch" or (self.engine == "auto" and count < _MANY):
            yield from (self._finish(self._look(batch), batch.cues) for batch in batches)
            return
        if self._openvino is None:
            self._openvino = OpenVino(self.method.backbone, self.size, bfloat16=self.bfloat16)
        ahead: deque[tuple[Callable[[], Look], Cues | None]] = deque()
        with one_thread():
            for batch in batches:
                start = self._openvino.start(batch.images) if batch.shown is None else partial(self._look, batch)
                ahead.append((start, batch.cues))
                if len(ahead) == self._openvino.jobs:
                    look, cues = ahead.popleft()
                    yield self._finish(look(), cues)
            for look, cues in ahead:
                yield self._finish(look(), cues)

    @torch.inference_mode()
    def _look(self, batch: _Batch) -> Look:
        images = batch.images.to(self.device, memory_format=torch.channels_last)
        seen = None if batch.shown is None or not self.method.knows_prompts else batch.shown.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            found: Look = self._backbone.look(images, seen)
            return found

    @torch.inference_mode()
    def _finish(self, look: Look, cues: Cues | None) -> Embedding:
        cues = None if cues is None else Cues(*(tensor.to(self.device) for tensor in cues))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            outputs = self.method.heads(look.features, look.seen, cues)
        embedding = self.method.embed(outputs).to("cpu")
        return Embedding(embedding.tensors, self.made_by)

    def save(self, path: str | Path, *, for_search: bool = False) -> None:
        """Write weights to `path` (.safetensors) and the card beside it (.json), each whole or not at all.

        Args:
            path: of the weights.
            for_search: leave out the classifiers and store half precision: what matching needs, at half the size.
        """
        save(self.method, self.card, path, for_search=for_search)


def _pictures(images: Iterable[Image.Image]) -> Iterator[Image.Image]:
    try:
        return (as_picture(image, f"image {row}") for row, image in enumerate(images))
    except TypeError as error:
        cause = f"{type(images).__name__} is not a list of pictures"
        raise DataError("images", cause, "give a list, such as [image]") from error


def _side_by_side(images: Iterable[Image.Image], visible: Iterable[Visible | None] | None) -> Iterator[_Crop]:
    if visible is None:
        yield from map(_Crop, images)
        return
    end = object()
    for row, (one, region) in enumerate(zip_longest(images, visible, fillvalue=end)):
        if one is end or region is end:
            cause = f"has {'fewer' if region is end else 'more'} regions than there are crops (crop {row} is the first)"
            raise DataError("visible", cause, "give a box, a mask or None for each crop")
        yield _Crop(cast("Image.Image", one), cast("Visible | None", region))


def save(method: Method, card: Card, path: str | Path, *, for_search: bool = False) -> None:
    """Write the weights of `method` to `path` (.safetensors) and `card` beside it; see `Model.save`.

    Raises:
        ConfigError: `path` does not end in .safetensors.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ConfigError(path, "is not a name for weights", "let it end in .safetensors")
    tensors = {k: v.detach().cpu().contiguous() for k, v in method.state_dict().items()}
    if for_search:
        tensors = {
            k: v.half() if v.is_floating_point() and "running_var" not in k else v
            for k, v in tensors.items()
            if "classifier" not in k
        }
        card = card.model_copy(update={"ids": 0})
    with atomic(path) as draft:
        about = {"format": "glimpse-weights-1", "method": card.method, "training_data": card.training_data}
        about |= {"mean": json.dumps(card.mean), "std": json.dumps(card.std)}
        save_file(tensors, draft, about)
    write_text(path.with_suffix(".json"), card.model_dump_json(indent=2) + "\n")


def build(card: Card) -> Method:
    """The network that `card` describes, with random weights.

    Raises:
        WeightsError: the card names a method that is not known, or options that it has not.
    """
    if card.method not in METHODS:
        raise WeightsError(f"method '{card.method}'", "is not known", f"choose one of {', '.join(METHODS)}")
    kind = METHODS[card.method]
    try:
        options = kind.Options(**card.options)
    except ValidationError as error:
        raise ConfigError(
            f"options of '{card.method}'", _said(error), "see the method's page for its options"
        ) from error
    return kind(build_backbone(card.backbone, visibility=card.visibility), card.ids, options)


def packaged() -> dict[str, Path]:
    """Weights that are installed with glimpse, by name."""
    folder = Path(str(resources.files("glimpse") / "weights"))
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def load(
    weights: str | Path = "default",
    *,
    device: torch.device | str = "cpu",
    precision: Precision = "auto",
    batch: int = 32,
    engine: Engine = "auto",
    keypoints: str | PointSource | None = None,
) -> Model:
    """Load weights.

    Args:
        weights: `default` or another name that `glimpse models` lists, or the path of a .safetensors file with its card
            (.json) beside it. The published file of the peer (`osnet_lct_reid.safetensors`) is read without a card.
        device, precision, batch, engine: see `Model`.
        keypoints: see `Model`; or the text that names a source, such as `movenet:PATH` or `cache:FOLDER`.

    Raises:
        WeightsError: there is no such file, it is damaged, or it does not fit its card.
        ConfigError: `keypoints` names no source.
    """
    source = open_points(keypoints) if isinstance(keypoints, str) else keypoints
    installed = packaged()
    path = installed.get(str(weights), Path(weights))
    if not path.exists() and path.suffix != ".safetensors":
        names = ", ".join(installed) or "none"
        raise WeightsError(
            str(weights), f"is neither a file nor installed weights ({names})", "give the path of a .safetensors file"
        )
    tensors, metadata = read_safetensors(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if PEER_MARK in metadata.get("source", "") and "head_fc.weight" in tensors:
        return _load_peer(
            path, tensors, metadata, digest, device=device, precision=precision, batch=batch, engine=engine
        )
    card = read_card(path.with_suffix(".json"))
    method = build(card)
    wanted = method.state_dict()
    missing = sorted(
        set(wanted) - set(tensors) - ({k for k in wanted if "classifier" in k} if card.ids == 0 else set())
    )
    extra = sorted(set(tensors) - set(wanted))
    wrong = [k for k in wanted if k in tensors and wanted[k].shape != tensors[k].shape]
    if missing or extra or wrong:
        first = (missing + extra + wrong)[0]
        raise WeightsError(
            path,
            f"does not fit its card (first tensor that differs: {first})",
            "keep .safetensors and .json of one training together",
        )
    method.load_state_dict({k: v.to(wanted[k].dtype) for k, v in tensors.items()}, strict=False)
    name = path.stem if str(weights) in installed else card.method
    return Model(
        method,
        card,
        f"{name}@{digest[:8]}",
        device=device,
        precision=precision,
        batch=batch,
        engine=engine,
        keypoints=source,
    )


def read_card(path: Path) -> Card:
    """Read a card.

    Raises:
        WeightsError: it is missing, is not JSON, or has wrong or unknown fields.
    """
    try:
        return Card.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise WeightsError(
            path, "the card of the weights is missing", "keep the .json beside the .safetensors"
        ) from error
    except OSError as error:
        raise WeightsError(path, f"the card cannot be read ({error.strerror})", "check the file's rights") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(path, f"is not JSON ({error})", "write it again by training or `Model.save`") from error
    except ValidationError as error:
        raise WeightsError(path, _said(error), "write it again by training or `Model.save`") from error


def _load_peer(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str], digest: str, **how: Any) -> Model:
    backbone = build_backbone("osnet_lct_x1_0")
    start = load_start(backbone, "osnet_lct_x1_0", path)
    method = Peer(backbone, 0)
    heads = {k: v.float() for k, v in tensors.items() if k.startswith("head_")}
    unexpected = method.load_state_dict(heads, strict=False).unexpected_keys
    if unexpected:
        raise WeightsError(path, f"has tensors that the peer has not ({unexpected[0]})", "use the file as published")
    mean, std = preprocessing(metadata)
    card = Card(
        method="peer",
        backbone="osnet_lct_x1_0",
        size=(256, 128),
        mean=mean,
        std=std,
        start=start,
        training_data=metadata.get("training_data", ""),
        terms=metadata.get("source", ""),
    )
    return Model(method, card, f"peer@{digest[:8]}", **how)


def _said(error: ValidationError) -> str:
    field, said = first_problem(error)
    return f"field '{field}': {said}"


__all__ = [
    "Card",
    "Edit",
    "Embedded",
    "Engine",
    "Model",
    "Precision",
    "build",
    "load",
    "packaged",
    "read_card",
    "save",
]

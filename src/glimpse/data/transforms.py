"""What happens to a crop before a network sees it: for training (random, seeded) and for embedding.

Geometry is done by the kernels of torchvision's transforms v2, so that `tv_tensors` (masks, key points, boxes) that
belong to a crop move along with it. The image itself goes through the same kernels without their dispatcher, and
everything on it runs on uint8 pixels at the smallest size that serves: a training run has few cores to spare for this.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Annotated, Literal, Self, TypeVar

import numpy as np
import PIL.Image
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from glimpse.errors import ConfigError, DataError
from glimpse.pictures import IMAGENET_MEAN, IMAGENET_STD, Triple
from glimpse.synthetic.cutouts import Cutout, thing
from glimpse.synthetic.occlusion import Side, covered_region, object_patch, person_patch, to_tensor

Visible = tuple[float, float, float, float] | np.ndarray | Tensor
"""Where the person is in a crop: a box `(x0, y0, x1, y1)` in its pixels, or a mask `[h, w]`, bool or in [0, 1]."""
Interpolation = Literal["bilinear", "bicubic"]

_Share = Annotated[float, Field(ge=0.0, le=1.0)]
_Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
_Strength = Annotated[float, Field(ge=0.0, lt=1.0)]
_Size = tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
_Std = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]

_Name = TypeVar("_Name", bound=str)
_LUMA = torch.tensor([0.299, 0.587, 0.114])
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_FROM_YIQ = torch.linalg.inv(_TO_YIQ)
_THINGS = 48  # rendered for each side
_DRAWS = 64  # uniform numbers per crop, drawn at once: the stream does not depend on which options are on


def _check_range(name: str, values: tuple[float, float]) -> None:
    if values[0] > values[1]:
        raise ValueError(f"{name}: the least, {values[0]}, is above the greatest, {values[1]}")


def _check_weights(name: str, weights: Mapping[_Name, float]) -> None:
    if not sum(weights.values()) > 0:
        raise ValueError(f"{name}: no weight is above 0")


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Zoom(_Settings):
    """Show only the upper, lower, left or right part of a crop, enlarged to the full size.

    A detector that sees half a person crops that half: the network must know it at that scale.

    Attributes:
        p: how often.
        keep: least and greatest share of the height (upper, lower) or width (left, right) that stays.
        sides: which parts may be kept, with their weights.
    """

    p: _Share = 0.3
    keep: tuple[_Share, _Share] = (0.4, 0.9)
    sides: dict[Side, _Weight] = {"top": 2.0, "bottom": 1.0, "left": 1.0, "right": 1.0}

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_range("keep", self.keep)
        _check_weights("sides", self.sides)
        return self


class Occlusion(_Settings):
    """Cover a crop from one side.

    Attributes:
        p: how often.
        fraction: least and greatest share of the height or width that is covered.
        kinds: what covers, with weights: uniform grey, noise, texture cut from beside a person, another person, a
            rendered thing with an outline.
        sides: where it stands, with weights.
    """

    p: _Share = 0.5
    fraction: tuple[_Share, _Share] = (0.1, 0.65)
    kinds: dict[Literal["grey", "noise", "object", "person", "thing"], _Weight] = {
        "grey": 1.0,
        "noise": 1.0,
        "object": 3.0,
        "person": 3.0,
    }
    sides: dict[Side, _Weight] = {"top": 1.0, "bottom": 2.0, "left": 1.0, "right": 1.0}

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_range("fraction", self.fraction)
        _check_weights("kinds", self.kinds)
        _check_weights("sides", self.sides)
        return self

    @property
    def needs_occluders(self) -> bool:
        """Whether crops to take occluders from must be given."""
        return self.p > 0 and bool(self.kinds.get("object") or self.kinds.get("person"))


class Jitter(_Settings):
    """Change colours as another camera would.

    Brightness, contrast and saturation are multiplied by a number within `1 +- strength`; hue is turned by up to
    `hue` of a full circle (in the YIQ plane, so that the whole change is one 3 x 3 matrix).
    """

    p: _Share = 1.0
    brightness: _Strength = 0.2
    contrast: _Strength = 0.15
    saturation: _Strength = 0.15
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0


class Erasing(_Settings):
    """Erase a rectangle (Zhong et al., "Random Erasing Data Augmentation", AAAI 2020), filled with the mean colour.

    Attributes:
        p: how often.
        area: least and greatest share of the crop.
        aspect: least and greatest height / width, drawn on a logarithmic scale.
    """

    p: _Share = 0.5
    area: tuple[_Share, _Share] = (0.02, 0.4)
    aspect: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.3, 3.33)

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_range("area", self.area)
        _check_range("aspect", self.aspect)
        return self


class TransformSettings(_Settings):
    """What `TrainTransform` does, in the order it does it; `None` leaves a step out.

    Attributes:
        size: height and width that the network sees.
        zoom: partial crops.
        jitter: colours.
        interpolation: of the resize, always antialiased.
        flip: how often a crop is mirrored.
        pad: a crop is moved by up to this many pixels each way, and what comes in is filled with the mean colour
            (the same as padding by `pad` and cropping at random).
        occlusion: occluders from one side.
        erasing: random erasing.
        mean, std: of the channels, for pixels in [0, 1].
        swap: for each target, pairs of rows that trade places when a crop is mirrored: left and right key points.

    >>> TransformSettings(size=(128, 64), occlusion=Occlusion(p=0.3)).occlusion.fraction
    (0.1, 0.65)
    """

    size: _Size = (256, 128)
    zoom: Zoom | None = None
    jitter: Jitter | None = None
    interpolation: Interpolation = "bicubic"
    flip: _Share = 0.5
    pad: Annotated[int, Field(ge=0)] = 10
    occlusion: Occlusion | None = None
    erasing: Erasing | None = Erasing()
    mean: tuple[_Share, _Share, _Share] = IMAGENET_MEAN
    std: _Std = IMAGENET_STD
    swap: dict[str, tuple[tuple[int, int], ...]] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.pad >= min(self.size):
            raise ValueError(f"pad {self.pad} would move a crop of {self.size} out of sight")
        return self


class TrainTransform:
    """Turn a decoded crop into what a network trains on: resized, moved, occluded, erased, normalised.

    All random numbers come from the generator that is handed in, or from torch's own, which a `DataLoader` seeds in
    each worker: the same seed gives the same crops.

    Args:
        settings: what is done.
        occluders: decoded crops, uint8 `[3, h, w]` each (or one tensor `[n, 3, h, w]`), that occluders are cut from:
            usually the training crops themselves. Things are rendered, once for all crops.

    Raises:
        ConfigError: object or person occluders are asked for and no crops are given.

    >>> transform = TrainTransform(TransformSettings(size=(64, 32)))
    >>> crop = torch.zeros(3, 128, 64, dtype=torch.uint8)
    >>> image, visible = transform(crop, torch.Generator().manual_seed(0))
    >>> image.shape, visible.shape, image.dtype, visible.dtype
    (torch.Size([3, 64, 32]), torch.Size([64, 32]), torch.float32, torch.float32)
    """

    def __init__(self, settings: TransformSettings, occluders: Sequence[Tensor] | Tensor = ()) -> None:
        if settings.occlusion is not None and settings.occlusion.needs_occluders and not len(occluders):
            raise ConfigError(
                "occlusion.kinds",
                "object and person need crops to be cut from",
                "give occluders or set their weights to 0",
            )
        self.settings = settings
        self.occluders = occluders
        self._things: dict[Side, list[Cutout]] = {}
        if settings.occlusion is not None and settings.occlusion.p > 0 and settings.occlusion.kinds.get("thing"):
            self._things = _rendered(settings.occlusion, settings.size)
        self._mode = InterpolationMode(settings.interpolation)
        self._scale, self._shift, self._fill = _normalisation(settings.mean, settings.std)

    def __call__(self, image: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Transform one crop.

        Args:
            image: uint8 `[3, h, w]`; it is not changed.
            generator: where random choices come from; torch's own if none is given.

        Returns:
            The normalised image, float32 `[3, H, W]`, and what of it shows the original crop, float32 `[H, W]`:
            1, or 0 where it was covered, erased or moved in from outside.

        Raises:
            DataError: `image` is not a uint8 image.
        """
        return self.with_targets(image, {}, generator)[:2]

    def with_targets(
        self, image: Tensor, targets: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Transform one crop and what belongs to it.

        Args:
            image: uint8 `[3, h, w]`; it is not changed.
            targets: `tv_tensors.Mask`, `KeyPoints` (x, y from the upper left corner of the upper left pixel) and
                `BoundingBoxes` move with the crop; other tensors stay as they are. When the crop is mirrored, the rows
                named in `settings.swap` trade places in any of them.
                Key points may end outside the image: `shown` tells.
            generator: where random choices come from; torch's own if none is given.

        Returns:
            Image and visible as `__call__` does, and the targets.
        """
        _check_pixels(image)
        generator = torch.default_generator if generator is None else generator
        u = iter(torch.rand(_DRAWS, generator=generator).tolist())
        settings, moved = self.settings, dict(targets)
        height, width = settings.size

        if settings.zoom is not None and next(u) < settings.zoom.p:
            top, left, rows, columns = _kept_window(image, settings.zoom, u)
            image = image[:, top : top + rows, left : left + columns]
            moved = {name: _crop(t, top, left, rows, columns) for name, t in moved.items()}

        # Colours are changed at whichever size has fewer pixels; crops are usually smaller than what networks see.
        late = image.shape[1] * image.shape[2] > height * width
        jitter = settings.jitter if settings.jitter is not None and next(u) < settings.jitter.p else None
        if jitter is not None and not late:
            image = _jittered(image, jitter, u)
        if image.shape[1:] != settings.size:
            image = F.resize_image(image, [height, width], interpolation=self._mode, antialias=True)
            moved = {name: _resize(t, height, width) for name, t in moved.items()}
        if jitter is not None and late:
            image = _jittered(image, jitter, u)

        if next(u) < settings.flip:
            image = image.flip(-1)
            moved = {name: _flip(t, settings.swap.get(name, ())) for name, t in moved.items()}

        # A canvas of the mean colour that the crop is put on: padding and cropping in one copy.
        dy, dx = (int(next(u) * (2 * settings.pad + 1)) - settings.pad for _ in range(2))
        canvas = torch.empty(3, height, width, dtype=torch.uint8)
        visible = torch.ones(height, width)
        if dy or dx:
            canvas.copy_(self._fill.expand_as(canvas))
            visible.zero_()
            here = (slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0)))
            there = (slice(max(-dy, 0), height - max(dy, 0)), slice(max(-dx, 0), width - max(dx, 0)))
            canvas[:, here[0], here[1]] = image[:, there[0], there[1]]
            visible[here] = 1.0
            moved = {name: _crop(t, -dy, -dx, height, width) for name, t in moved.items()}
        else:
            canvas.copy_(image)

        if settings.occlusion is not None and next(u) < settings.occlusion.p:
            self._occlude(canvas, visible, settings.occlusion, u, generator)
        if settings.erasing is not None and next(u) < settings.erasing.p:
            rows, columns = _erased_size(height, width, settings.erasing, u)
            top, left = int(next(u) * (height - rows + 1)), int(next(u) * (width - columns + 1))
            canvas[:, top : top + rows, left : left + columns] = self._fill
            visible[top : top + rows, left : left + columns] = 0.0
        return canvas.float().mul_(self._scale).sub_(self._shift), visible, moved

    def _occlude(
        self, canvas: Tensor, visible: Tensor, how: Occlusion, u: Iterator[float], generator: torch.Generator
    ) -> None:
        """Cover `canvas` `[3, H, W]` and note it in `visible` `[H, W]`, both in place."""
        side, kind = _choice(how.sides, next(u)), _choice(how.kinds, next(u))
        low, high = how.fraction
        top, left, rows, columns = covered_region(canvas.shape[1], canvas.shape[2], side, low + (high - low) * next(u))
        if not rows or not columns:
            return
        region = canvas[:, top : top + rows, left : left + columns]
        source = int(next(u) * len(self.occluders))
        if kind == "grey":
            region.fill_(int(256 * next(u)))
        elif kind == "noise":
            region.copy_(torch.randint(256, region.shape, generator=generator, dtype=torch.uint8))
        elif kind == "object":
            region.copy_(object_patch(self.occluders[source], (rows, columns), generator))
        elif kind == "thing":
            of = self._things[side]
            covered, left_over = of[int(next(u) * len(of))].over(canvas)
            canvas.copy_(covered)
            visible[~left_over] = 0.0
            return
        else:
            region.copy_(person_patch(self.occluders[source], side, (rows, columns), generator))
        visible[top : top + rows, left : left + columns] = 0.0


class EvalTransform:
    """Turn a crop, and what of it is the person, into what a network embeds. Nothing is random.

    Args:
        size: height and width that the network sees.
        mean, std: of the channels, for pixels in [0, 1].
        interpolation: of the resize, always antialiased.
        fill: what hidden pixels become, see `neutralise`.

    >>> transform = EvalTransform((256, 128))
    >>> image, visible = transform(PIL.Image.new("RGB", (64, 128)), (0, 0, 64, 64))
    >>> image.shape, visible[64].mean().item(), visible[192].mean().item()
    (torch.Size([3, 256, 128]), 1.0, 0.0)
    """

    def __init__(
        self,
        size: tuple[int, int],
        mean: Triple = IMAGENET_MEAN,
        std: Triple = IMAGENET_STD,
        interpolation: Interpolation = "bicubic",
        fill: Literal["visible", "mean"] = "visible",
    ) -> None:
        self.size = size
        self.mean = mean
        self.fill = fill
        self._mode = InterpolationMode(interpolation)
        self._scale, self._shift, _ = _normalisation(mean, std)

    def __call__(self, image: PIL.Image.Image | Tensor, visible: Visible | None = None) -> tuple[Tensor, Tensor]:
        """Transform one crop.

        Args:
            image: PIL image, or uint8 `[3, h, w]`.
            visible: where the person is; the whole crop if `None`.

        Returns:
            The normalised image, float32 `[3, H, W]`, and what is visible, float32 `[H, W]` in [0, 1].

        Raises:
            DataError: `image` is not a uint8 image, or `visible` does not fit it or shows nothing of it.
        """
        pixels = to_tensor(image) if isinstance(image, PIL.Image.Image) else image
        _check_pixels(pixels)
        shown = torch.ones(self.size)
        if visible is not None:
            mask = visible_mask(visible, *pixels.shape[-2:])
            # Before the resize, so that no hidden colour bleeds into visible pixels.
            pixels = neutralise(pixels, mask, self.mean if self.fill == "mean" else None)
            shown = F.resize_image(
                mask[None], list(self.size), interpolation=InterpolationMode.BILINEAR, antialias=True
            )[0].clamp_(0.0, 1.0)
        pixels = F.resize_image(pixels, list(self.size), interpolation=self._mode, antialias=True)
        return pixels.contiguous().float().mul_(self._scale).sub_(self._shift), shown


def visible_mask(visible: Visible, height: int, width: int) -> Tensor:
    """Give a visible region as a mask, float32 `[height, width]` in [0, 1].

    A box covers the pixels whose centre is inside it; what lies outside the image is cut off.

    Raises:
        DataError: a box is not four numbers in order, a mask has another size than the image or values outside
            [0, 1], or nothing is visible.

    >>> visible_mask((1, 0, 3, 1), 2, 4).tolist()
    [[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """
    if isinstance(visible, tuple):
        if len(visible) != 4 or not (visible[0] < visible[2] and visible[1] < visible[3]):
            raise DataError("visible", f"{visible} is not a box", "give x0 < x1 and y0 < y1 as (x0, y0, x1, y1)")
        x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
        inside_x, inside_y = (x >= visible[0]) & (x < visible[2]), (y >= visible[1]) & (y < visible[3])
        mask = (inside_y[:, None] & inside_x[None]).float()
    else:
        mask = torch.as_tensor(visible).float()
        if tuple(mask.shape) != (height, width):
            raise DataError(
                "visible",
                f"the mask is {list(mask.shape)} but the image is {height} x {width}",
                "give one value for each pixel of the crop",
            )
        if not bool(((mask >= 0) & (mask <= 1)).all()):
            raise DataError("visible", "the mask has values outside [0, 1]", "give bool, or shares between 0 and 1")
    if not bool((mask > 0).any()):
        raise DataError("visible", "nothing of the crop is visible", "leave the crop out, or check the box or mask")
    return mask


def neutralise(image: Tensor, visible: Tensor, fill: tuple[float, float, float] | None = None) -> Tensor:
    """Paint what is hidden in one colour: the mean colour of what is visible, unless `fill` names another.

    Hidden pixels still pass through the network's convolutions and its normalisation layers. In the mean colour of the
    visible pixels they leave each channel's mean over the crop as it is, so instance normalisation (IBN, OSNet-AIN)
    is shifted by nothing, and the edge between visible and hidden is as weak as one colour can make it.

    Args:
        image: uint8 `[3, h, w]`; it is not changed.
        visible: `[h, w]` in [0, 1], with something above 0; pixels in between are blended.
        fill: a colour in [0, 1], such as the mean that images are normalised with.

    Returns:
        uint8 `[3, h, w]`.

    >>> image = torch.tensor([[10, 30, 99]] * 3).byte()[:, None]
    >>> neutralise(image, torch.tensor([[1.0, 1.0, 0.0]]))[0].tolist()
    [[10, 30, 20]]
    """
    pixels = image.float()
    if fill is None:
        colour = (pixels * visible).sum((1, 2), keepdim=True) / visible.sum()
    else:
        colour = torch.tensor(fill).view(3, 1, 1) * 255
    return (pixels * visible + colour * (1 - visible)).round_().to(torch.uint8)


def shown(points: Tensor, visible: Tensor) -> Tensor:
    """Tell which key points `[k, 2]` (x, y in pixels) lie inside the image and are not hidden, bool `[k]`.

    >>> shown(torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]]), torch.tensor([[1.0, 0.0]])).tolist()
    [True, False, False]
    """
    height, width = visible.shape
    xy = points.as_subclass(Tensor).float().floor().long()
    inside = (xy[:, 0] >= 0) & (xy[:, 0] < width) & (xy[:, 1] >= 0) & (xy[:, 1] < height)
    values = visible[xy[:, 1].clamp(0, height - 1), xy[:, 0].clamp(0, width - 1)]
    return inside & (values >= 0.5)


def _check_pixels(image: Tensor) -> None:
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise DataError("image", f"is {image.dtype} {list(image.shape)}", "give uint8 pixels [3, h, w]")


def _normalisation(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Scale and shift that normalise as `pixels * scale - shift`, and the mean colour as uint8; `[3, 1, 1]` each."""
    centre, spread = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
    return 1 / (255 * spread), centre / spread, (centre * 255).round().to(torch.uint8)


def _choice(weights: Mapping[_Name, float], u: float) -> _Name:
    sums = list(accumulate(weights.values()))
    # Above the last sum only by rounding; an entry of weight 0 is never met because its sum equals the one before.
    return list(weights)[min(bisect_right(sums, u * sums[-1]), len(sums) - 1)]


def _kept_window(image: Tensor, how: Zoom, u: Iterator[float]) -> tuple[int, int, int, int]:
    """Top, left, rows, columns of the part of `image` that stays."""
    height, width = image.shape[1:]
    side, share = _choice(how.sides, next(u)), how.keep[0] + (how.keep[1] - how.keep[0]) * next(u)
    top, left, rows, columns = covered_region(height, width, side, share)
    # A crop of a few pixels keeps at least one.
    return min(top, height - 1), min(left, width - 1), max(rows, 1), max(columns, 1)


def _jittered(image: Tensor, how: Jitter, u: Iterator[float]) -> Tensor:
    """Brightness, saturation, hue and contrast as one matrix and one offset, uint8 `[3, h, w]` to the same."""
    brightness, contrast, saturation = (
        1 + strength * (2 * next(u) - 1) for strength in (how.brightness, how.contrast, how.saturation)
    )
    matrix = saturation * torch.eye(3) + (1 - saturation) * _LUMA.expand(3, 3)
    if how.hue:
        angle = torch.tensor(2 * torch.pi * how.hue * (2 * next(u) - 1))
        c, s = torch.cos(angle), torch.sin(angle)
        turn = torch.eye(3)
        turn[1, 1], turn[1, 2], turn[2, 1], turn[2, 2] = c, -s, s, c
        matrix = _FROM_YIQ @ turn @ _TO_YIQ @ matrix
    matrix = brightness * matrix
    pixels = image.reshape(3, -1).float()
    # Contrast pulls towards the mean grey of the crop, which is linear in its mean colour. The 0.5 rounds.
    grey = float(_LUMA @ matrix @ pixels.mean(1))
    offset = torch.full((3, 1), (1 - contrast) * grey + 0.5)
    changed = torch.addmm(offset, contrast * matrix, pixels).clamp_(0, 255)
    return changed.to(torch.uint8).view(image.shape)


def _erased_size(height: int, width: int, how: Erasing, u: Iterator[float]) -> tuple[int, int]:
    """Rows and columns of the rectangle to erase; if ten draws do not fit, the last is cut at the edges."""
    rows = columns = 1
    for _ in range(10):
        area = (how.area[0] + (how.area[1] - how.area[0]) * next(u)) * height * width
        aspect = how.aspect[0] * (how.aspect[1] / how.aspect[0]) ** next(u)
        rows, columns = max(1, round((area * aspect) ** 0.5)), max(1, round((area / aspect) ** 0.5))
        if rows <= height and columns <= width:
            break
    return min(rows, height), min(columns, width)


def _rendered(how: Occlusion, size: tuple[int, int]) -> dict[Side, list[Cutout]]:
    """Things for each side that may be covered, reaching as far as `how` says."""
    low, high = max(how.fraction[0], 0.01), min(how.fraction[1], 0.99)
    rng = np.random.default_rng(0)
    return {
        side: [thing(side, float(rng.uniform(low, high)), size, rng) for _ in range(_THINGS)]
        for side, weight in how.sides.items()
        if weight > 0
    }


def _crop(target: Tensor, top: int, left: int, rows: int, columns: int) -> Tensor:
    return F.crop(target, top, left, rows, columns) if _moves(target) else target


def _resize(target: Tensor, height: int, width: int) -> Tensor:
    return F.resize(target, [height, width]) if _moves(target) else target


def _flip(target: Tensor, swap: Sequence[tuple[int, int]]) -> Tensor:
    if _moves(target):
        target = F.horizontal_flip(target)
    if isinstance(target, tv_tensors.KeyPoints):
        # torchvision takes them for centres of pixels, x to width - 1 - x; here they are measured from the corner.
        target = tv_tensors.wrap(target + torch.tensor([1, 0], device=target.device), like=target)
    if not swap:
        return target
    order = list(range(target.shape[0]))
    for a, b in swap:
        order[a], order[b] = order[b], order[a]
    rows = target[order]
    # Indexing gives a plain tensor; key points must stay key points to move on.
    return tv_tensors.wrap(rows, like=target) if _moves(target) else rows


def _moves(target: Tensor) -> bool:
    return isinstance(target, tv_tensors.TVTensor)

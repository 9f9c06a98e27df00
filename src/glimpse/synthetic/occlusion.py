"""Seeded occlusion of real crops: cover a known share of a crop with something that looks real.

Every random choice comes from a `torch.Generator` that is handed in, or from one seeded by (seed, index), so that the
same crop is covered in the same way on every run, in whatever order crops are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from glimpse.errors import ConfigError
from glimpse.synthetic import cutouts
from glimpse.synthetic.obstacles import SIDES as SIDES
from glimpse.synthetic.obstacles import Side as Side

Kind = Literal["object", "person", "grey", "thing", "border"]

KINDS: tuple[Kind, ...] = get_args(Kind)
EDGES: tuple[Side, ...] = ("top", "bottom", "left", "right")
"""Sides that are edges of a crop: all but the centre."""

FROM_CROPS: tuple[Kind, ...] = ("object", "person")
"""Kinds that are cut from crops of other people."""

_BORDER = 0.2  # share of a crop's width, at each edge, that mostly shows background
_GREY = 128


def generator_for(seed: int, *keys: int) -> torch.Generator:
    """Give a generator that depends on all of its arguments and on nothing else.

    Neighbouring keys give unrelated streams. `seed` and `keys` must not be negative.

    >>> a, b = generator_for(7, 1), generator_for(7, 1)
    >>> torch.equal(torch.rand(3, generator=a), torch.rand(3, generator=b))
    True
    """
    state = np.random.SeedSequence([seed, *keys]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)


def covered_region(height: int, width: int, side: Side, fraction: float) -> tuple[int, int, int, int]:
    """Give the rows and columns that an occluder of `fraction` covers: `(top, left, rows, columns)`.

    Exactly `round(fraction * height)` rows (top, bottom) or `round(fraction * width)` columns (left, right, centre).

    Raises:
        ConfigError: `side` is not a side, or `fraction` is not in [0, 1].

    >>> covered_region(128, 64, "bottom", 0.25), covered_region(128, 64, "right", 0.5)
    ((96, 0, 32, 64), (0, 32, 128, 32))
    """
    if side not in SIDES:
        raise ConfigError("side", f"'{side}' is not a side", f"choose one of {', '.join(SIDES)}")
    if not 0.0 <= fraction <= 1.0:
        raise ConfigError("fraction", f"{fraction} is not a share of the crop", "give a number between 0 and 1")
    if side in ("top", "bottom"):
        rows = round(fraction * height)
        return (0 if side == "top" else height - rows), 0, rows, width
    columns = round(fraction * width)
    left = {"left": 0, "right": width - columns}.get(side, (width - columns) // 2)
    return 0, left, height, columns


def occlude(image: Tensor, occluder: Tensor, side: Side, fraction: float) -> tuple[Tensor, Tensor]:
    """Cover exactly `round(fraction * h)` rows or `round(fraction * w)` columns of a crop, from one side.

    Args:
        image: uint8 `[3, h, w]`; it is not changed.
        occluder: uint8 `[3, h', w']`; resized to the covered region if it does not have its size.
        side: where the occluder stands.
        fraction: share of the crop that is covered, in [0, 1].

    Returns:
        The covered crop, uint8 `[3, h, w]`, and what is visible of the original, bool `[h, w]`.

    Raises:
        ConfigError: an argument is out of range or not a uint8 image.

    >>> image, visible = occlude(torch.zeros(3, 8, 4, dtype=torch.uint8), torch.full((3, 2, 4), 9).byte(), "top", 0.25)
    >>> image[0, :, 0].tolist(), visible.float().mean().item()
    ([9, 9, 0, 0, 0, 0, 0, 0], 0.75)
    """
    _check_image("image", image)
    _check_image("occluder", occluder)
    height, width = image.shape[-2:]
    top, left, rows, columns = covered_region(height, width, side, fraction)
    visible = torch.ones(height, width, dtype=torch.bool)
    covered = image.clone()
    if rows and columns:
        patch = _resized(occluder, rows, columns)
        covered[:, top : top + rows, left : left + columns] = patch
        visible[top : top + rows, left : left + columns] = False
    return covered, visible


def object_patch(background: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Cut a textured patch from what stands beside a person.

    The outer fifth of a crop, left or right, is mostly background. A random stretch of it is enlarged, tiled in
    mirror image (so that no seams show) to `size`, and made brighter or darker with a slope.

    Args:
        background: a crop of somebody, uint8 `[3, h, w]`.
        size: rows and columns of the patch.
        generator: where random choices come from.

    Returns:
        uint8 `[3, *size]`.

    >>> patch = object_patch(torch.randint(256, (3, 128, 64)).byte(), (40, 64), generator_for(0))
    >>> tuple(patch.shape), patch.dtype
    ((3, 40, 64), torch.uint8)
    """
    _check_image("background", background)
    rows, columns = _check_size(size)
    u = torch.rand(6, generator=generator).tolist()
    height, width = background.shape[-2:]
    border = max(1, round(_BORDER * width))
    strip = background[..., :border] if u[0] < 0.5 else background[..., width - border :]
    # At least half of the height, so that a patch has more than one tone.
    taken = max(1, round(height * (0.5 + 0.5 * u[1])))
    start = int(u[2] * (height - taken + 1))
    strip = strip[:, start : start + taken]
    zoom = 1.0 + 2.0 * u[3]
    strip = _resized(strip, max(1, round(taken * zoom * 0.5)), max(1, round(border * zoom)))
    tiled = strip[:, _mirror(rows, strip.shape[-2])][:, :, _mirror(columns, strip.shape[-1])]
    slope = torch.linspace(1.0 - 0.25 * u[5], 1.0 + 0.25 * u[5], rows)[:, None]
    patch: Tensor = (tiled * (slope * (0.5 + u[4]))).clamp_(0, 255).to(torch.uint8)
    return patch


def person_patch(other: Tensor, side: Side, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Cut the window of somebody else's crop that would show if that person stood in front.

    The crop is enlarged without distortion until it fills the window. Left and right show its central columns (a body,
    cut by the edge of the crop), bottom shows its upper body (somebody shorter or nearer), top any rows.

    Args:
        other: a crop of somebody else, uint8 `[3, h, w]`.
        side: where that person stands.
        size: rows and columns of the window.
        generator: where random choices come from.

    Returns:
        uint8 `[3, *size]`.

    >>> person_patch(torch.zeros(3, 128, 64, dtype=torch.uint8), "left", (256, 50), generator_for(0)).shape
    torch.Size([3, 256, 50])
    """
    _check_image("other", other)
    rows, columns = _check_size(size)
    u, flip = torch.rand(2, generator=generator).tolist()
    height, width = other.shape[-2:]
    scale = max(rows / height, columns / width)
    # Cut first, then enlarge: what lies outside the window is never resampled.
    window_h, window_w = min(height, max(1, round(rows / scale))), min(width, max(1, round(columns / scale)))
    spare_h, spare_w = height - window_h, width - window_w
    top = 0 if side == "bottom" else round(u * spare_h)
    # Within a quarter of the spare columns from the centre: the body, not the background beside it.
    left = round((0.5 + 0.5 * (u - 0.5)) * spare_w)
    window = _resized(other[:, top : top + window_h, left : left + window_w], rows, columns)
    return window.flip(-1) if flip < 0.5 else window


def grey_patch(size: tuple[int, int]) -> Tensor:
    """Give a uniform grey patch, uint8 `[3, *size]`: an occluder without any texture."""
    rows, columns = _check_size(size)
    return torch.full((3, rows, columns), _GREY, dtype=torch.uint8)


@dataclass(frozen=True)
class Occluder:
    """Cover crops in the same way on every run: all choices follow from `seed` and the index of the crop.

    The source is drawn before anything else, so the same query meets the same occluder at every fraction and side.

    Args:
        kind: what covers: `"object"` (texture from the edges of a source), `"person"` (a source), `"grey"`, `"thing"`
            (rendered, with an outline), `"border"` (the picture ends: what lies beyond is cut off).
        side: where it stands.
        fraction: share of the crop that is covered, in [0, 1]; of what has an outline, how far it reaches.
        sources: decoded crops, uint8 `[3, h, w]` each, of people who are not being looked for
            (the training set's); needed for objects and people.
        seed: not negative.
        masks: where the person is in each source, bool `[h, w]`: people are cut out then; windows of their crops cover
            if not given.

    Raises:
        ConfigError: kind, side, fraction or seed is out of range, or there are no sources.

    >>> half = Occluder("grey", "left", 0.5)
    >>> image, visible = half(0, torch.zeros(3, 8, 4, dtype=torch.uint8))
    >>> image[0, 0].tolist(), visible[0].tolist()
    ([128, 128, 0, 0], [False, False, True, True])
    """

    kind: Kind
    side: Side
    fraction: float
    sources: Sequence[Tensor] = field(default=(), repr=False)
    seed: int = 0
    masks: Sequence[Tensor] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError("kind", f"'{self.kind}' is not a kind of occluder", f"choose one of {', '.join(KINDS)}")
        covered_region(1, 1, self.side, self.fraction)
        if self.seed < 0:
            raise ConfigError("seed", f"{self.seed} is negative", "give 0 or more")
        if self.kind in FROM_CROPS and not len(self.sources):
            raise ConfigError("sources", f"no crops to take a '{self.kind}' from", "give at least one crop")
        if len(self.masks) not in (0, len(self.sources)):
            cause = f"are {len(self.masks)}, of {len(self.sources)} sources"
            raise ConfigError("masks", cause, "give one for each source, or none")
        if self.kind == "border" and self.side == "centre":
            raise ConfigError("side", "a picture does not end in the centre", f"choose {', '.join(EDGES)}")

    def __call__(self, index: int, image: Tensor) -> tuple[Tensor, Tensor]:
        """Cover the crop number `index`.

        Args:
            index: its position in the list of queries (0 or more).
            image: uint8 `[3, h, w]`; it is not changed.

        Returns:
            The covered crop, uint8 `[3, h, w]`, and what is visible, bool `[h, w]`; of a border what is left of the
            crop, which is smaller.
        """
        _check_image("image", image)
        height, width = image.shape[-2:]
        _, _, rows, columns = covered_region(height, width, self.side, self.fraction)
        if not rows or not columns:
            return image.clone(), torch.ones(height, width, dtype=torch.bool)
        if self.kind == "border":
            return _cut(image, self.side, rows, columns)
        if self.kind == "grey":
            return occlude(image, grey_patch((rows, columns)), self.side, self.fraction)
        generator = generator_for(self.seed, index)
        if self.kind == "thing":
            if self.fraction == 1:
                raise ConfigError("fraction", "a thing would hide everything", "give less than 1")
            rng = np.random.default_rng((self.seed, index))
            return cutouts.thing(self.side, self.fraction, (height, width), rng).over(image)
        number = int(torch.randint(len(self.sources), (1,), generator=generator))
        source = self.sources[number]
        if self.kind == "object":
            return occlude(image, object_patch(source, (rows, columns), generator), self.side, self.fraction)
        if self.masks:
            grow = 1.0 + 0.15 * float(torch.rand(1, generator=generator))
            found = cutouts.person(source, self.masks[number], self.side, self.fraction, (height, width), grow)
            if found is not None:
                return found.over(image)
        return occlude(image, person_patch(source, self.side, (rows, columns), generator), self.side, self.fraction)

    def edit(self, index: int, image: PIL.Image.Image) -> tuple[PIL.Image.Image, np.ndarray]:
        """Cover a PIL image: the form that `Model.embed_samples(edit=...)` calls.

        Returns:
            The covered image (RGB) and what is visible, bool `[h, w]`.
        """
        covered, visible = self(index, to_tensor(image))
        return PIL.Image.fromarray(covered.permute(1, 2, 0).numpy()), visible.numpy()


def to_tensor(image: PIL.Image.Image) -> Tensor:
    """Give the pixels of a PIL image as uint8 RGB `[3, h, w]`.

    >>> to_tensor(PIL.Image.new("L", (4, 8), 7)).shape
    torch.Size([3, 8, 4])
    """
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def _cut(image: Tensor, side: Side, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """What is left of a crop without its first or last rows or columns; at least one of each."""
    height, width = image.shape[-2:]
    rows, columns = min(rows, height - 1), min(columns, width - 1)
    kept = {
        "top": image[:, rows:],
        "bottom": image[:, : height - rows],
        "left": image[:, :, columns:],
        "right": image[:, :, : width - columns],
    }[side].contiguous()
    return kept, torch.ones(kept.shape[-2:], dtype=torch.bool)


def _mirror(length: int, period: int) -> Tensor:
    """Indices `[length]` that run up and down a `period` of pixels, as a mirror at each end would show them."""
    up_down = torch.cat([torch.arange(period), torch.arange(period - 1, -1, -1)])
    return up_down.repeat(-(-length // (2 * period)))[:length]


def _resized(image: Tensor, rows: int, columns: int) -> Tensor:
    if tuple(image.shape[-2:]) == (rows, columns):
        return image
    if rows == columns == 1:
        # PyTorch's antialiased uint8 kernel cannot write a single pixel.
        return image.float().mean((1, 2), keepdim=True).to(torch.uint8)
    resized: Tensor = F.resize_image(image, [rows, columns], interpolation=InterpolationMode.BILINEAR, antialias=True)
    return resized


def _check_image(name: str, image: Tensor) -> None:
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise ConfigError(
            name, f"is {image.dtype} {list(image.shape)}, not a uint8 image [3, h, w]", "give decoded RGB pixels"
        )


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    rows, columns = size
    if rows < 1 or columns < 1:
        raise ConfigError("size", f"{rows} x {columns} has no pixels", "give at least one row and one column")
    return rows, columns

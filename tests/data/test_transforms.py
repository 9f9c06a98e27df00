import numpy as np
import PIL.Image
import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors

from glimpse.data.transforms import (
    Erasing,
    EvalTransform,
    Jitter,
    Occlusion,
    TrainTransform,
    TransformSettings,
    Zoom,
    neutralise,
    shown,
    visible_mask,
)
from glimpse.errors import ConfigError, DataError
from glimpse.pictures import IMAGENET_MEAN, IMAGENET_STD

STILL = TransformSettings(size=(128, 64), flip=0.0, pad=0, erasing=None)
OCCLUDERS = torch.randint(256, (9, 3, 128, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(9))
ALL = {"zoom": Zoom(p=0.5), "jitter": Jitter(hue=0.05), "occlusion": Occlusion(), "erasing": Erasing()}


def still(**changes) -> TransformSettings:
    return TransformSettings(**{**STILL.model_dump(exclude_none=True), "erasing": None, **changes})


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crop(seed: int = 0, height: int = 128, width: int = 64) -> torch.Tensor:
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=seeded(seed))


def denormalised(image: torch.Tensor) -> torch.Tensor:
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    return (image * std + mean) * 255


def test_with_everything_off_only_normalises():
    image, visible = TrainTransform(STILL)(crop(), seeded(0))
    expected = (crop().float() / 255 - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(
        3, 1, 1
    )
    torch.testing.assert_close(image, expected, atol=1e-5, rtol=0)
    assert (visible == 1).all()


def test_same_seed_same_crop_and_the_input_is_left_alone():
    transform = TrainTransform(TransformSettings(**ALL), OCCLUDERS)
    image = crop()
    for seed in range(10):
        first, second = transform(image, seeded(seed)), transform(image, seeded(seed))
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
    assert not torch.equal(transform(image, seeded(0))[0], transform(image, seeded(1))[0])
    assert torch.equal(image, crop())


def test_without_a_generator_follows_the_global_seed():
    transform = TrainTransform(TransformSettings(**ALL), OCCLUDERS)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        first = transform(crop())[0]
        torch.manual_seed(5)
        assert torch.equal(first, transform(crop())[0])


@pytest.mark.parametrize("seed", range(40))
def test_a_drawn_point_is_found_where_the_key_point_went(seed):
    # A white dot on black in a crop, through zoom, resize, flip and shift.
    x, y = 10 + seed, 20 + 2 * seed
    image = torch.zeros(3, 128, 64, dtype=torch.uint8)
    image[:, y : y + 2, x : x + 2] = 255
    settings_ = TransformSettings(size=(256, 128), zoom=Zoom(p=0.7), erasing=None)
    points = tv_tensors.KeyPoints([[x + 1, y + 1]], canvas_size=(128, 64), dtype=torch.float32)
    mask = tv_tensors.Mask((image[0] > 0).to(torch.uint8))
    box = tv_tensors.BoundingBoxes([[x, y, x + 2, y + 2]], format="XYXY", canvas_size=(128, 64), dtype=torch.float32)
    out, visible, moved = TrainTransform(settings_).with_targets(
        image, {"points": points, "mask": mask, "box": box}, seeded(seed)
    )
    point = moved["points"][0].as_subclass(torch.Tensor)
    assert isinstance(moved["points"], tv_tensors.KeyPoints)
    assert moved["points"].canvas_size == (256, 128)
    bright = (denormalised(out)[0] > 140) & (visible > 0)  # the fill is 124
    if not shown(point[None], visible)[0]:
        assert bright.sum() <= 40
        return
    assert bright.any()
    centre = bright.nonzero().float().mean(0).flip(0) + 0.5
    assert (centre - point).abs().max() <= 0.8
    inside = moved["mask"].as_subclass(torch.Tensor).nonzero().float().mean(0).flip(0) + 0.5
    assert (inside - point).abs().max() <= 1.0  # masks are resized to the nearest pixel
    x0, y0, x1, y1 = moved["box"][0].tolist()
    assert x0 - 1.5 <= point[0] <= x1 + 1.5
    assert y0 - 1.5 <= point[1] <= y1 + 1.5


def test_flip_renames_left_and_right_and_twice_is_nothing():
    settings_ = still(flip=1.0, swap={"points": ((0, 1),), "confidence": ((0, 1),), "parts": ((1, 2),)})
    transform = TrainTransform(settings_)
    targets = {
        "points": tv_tensors.KeyPoints([[5.0, 1.0], [50.0, 2.0], [30.0, 3.0]], canvas_size=(128, 64)),
        "confidence": torch.tensor([0.1, 0.2, 0.3]),
        "parts": tv_tensors.Mask(torch.arange(3)[:, None, None].expand(3, 128, 64).to(torch.uint8)),
        "other": torch.tensor([7, 8, 9]),
    }
    image, _, once = transform.with_targets(crop(), targets, seeded(0))
    assert once["points"].tolist() == [[14.0, 2.0], [59.0, 1.0], [34.0, 3.0]]
    assert once["confidence"].tolist() == pytest.approx([0.2, 0.1, 0.3])
    assert once["parts"][:, 0, 0].tolist() == [0, 2, 1]
    assert once["other"].tolist() == [7, 8, 9]
    plain = TrainTransform(STILL)(crop(), seeded(0))[0]
    assert torch.equal(image.flip(-1), plain)
    _, _, twice = transform.with_targets(crop(), once, seeded(0))
    for name, target in targets.items():
        assert type(twice[name]) is type(target)
        assert torch.equal(twice[name], target)


def test_shift_is_padding_and_a_random_crop():
    transform = TrainTransform(still(pad=10))
    offsets = set()
    for seed in range(60):
        image, visible = transform(crop(), seeded(seed))
        rows, columns = visible.any(1).nonzero().flatten(), visible.any(0).nonzero().flatten()
        assert visible.sum() == len(rows) * len(columns)
        dy = int(rows[0]) if rows[0] else int(rows[-1]) - 127
        dx = int(columns[0]) if columns[0] else int(columns[-1]) - 63
        offsets |= {("y", dy), ("x", dx)}
        padded = torch.nn.functional.pad(TrainTransform(STILL)(crop(), seeded(0))[0], (10, 10, 10, 10))
        expected = padded[:, 10 - dy : 10 - dy + 128, 10 - dx : 10 - dx + 64]
        torch.testing.assert_close(image, expected, atol=0.01, rtol=0)  # the mean colour is rounded to uint8
    assert {o for a, o in offsets if a == "y"} >= {-10, 10}
    assert max(abs(o) for _, o in offsets) == 10


@pytest.mark.parametrize("kind", ["grey", "noise", "object", "person"])
@pytest.mark.parametrize("side", ["top", "bottom", "left", "right"])
def test_occlusion_hides_what_its_mask_says(kind, side):
    how = Occlusion(p=1.0, fraction=(0.25, 0.25), kinds={kind: 1.0}, sides={side: 1.0})
    image, visible = TrainTransform(still(occlusion=how), OCCLUDERS)(crop(), seeded(0))
    plain = TrainTransform(STILL)(crop(), seeded(0))[0]
    assert visible.mean() == 0.75
    hidden_rows, hidden_columns = {
        "top": (slice(0, 32), slice(None)),
        "bottom": (slice(96, None), slice(None)),
        "left": (slice(None), slice(0, 16)),
        "right": (slice(None), slice(48, None)),
    }[side]
    assert (visible[hidden_rows, hidden_columns] == 0).all()
    assert torch.equal(image[:, visible > 0], plain[:, visible > 0])
    assert (image[:, visible == 0] != plain[:, visible == 0]).float().mean() > 0.9


@pytest.mark.parametrize("side", ["top", "bottom", "left", "right", "centre"])
def test_rendered_things_hide_what_their_mask_says(side):
    how = Occlusion(p=1.0, fraction=(0.3, 0.5), kinds={"thing": 1.0}, sides={side: 1.0})
    transform = TrainTransform(still(occlusion=how))  # no crops are needed to cut them from
    plain = TrainTransform(STILL)(crop(), seeded(0))[0]
    shares = []
    for seed in range(8):
        image, visible = transform(crop(), seeded(seed))
        assert torch.equal(image[:, visible > 0], plain[:, visible > 0])
        assert visible.unique().tolist() == [0.0, 1.0]
        shares.append(visible.mean().item())
    assert min(shares) > 0.35
    assert max(shares) < 0.95
    assert len(set(shares)) > 3
    again = TrainTransform(still(occlusion=how))(crop(), seeded(5))
    assert torch.equal(again[1], transform(crop(), seeded(5))[1])


def test_erasing_fills_with_the_mean_and_stays_within_its_area():
    transform = TrainTransform(still(erasing=Erasing(p=1.0)))
    plain = TrainTransform(STILL)(crop(), seeded(0))[0]
    for seed in range(60):
        image, visible = transform(crop(), seeded(seed))
        share = 1 - visible.mean().item()
        assert 0.01 <= share <= 0.42
        assert image[:, visible == 0].abs().max() < 0.01
        assert torch.equal(image[:, visible > 0], plain[:, visible > 0])


def test_erasing_that_cannot_fit_is_cut_at_the_edges():
    how = Erasing(p=1.0, area=(0.9, 0.9), aspect=(50.0, 50.0))
    _, visible = TrainTransform(still(erasing=how))(crop(), seeded(0))
    assert (visible == 0).any()
    assert (visible == 1).any()


@pytest.mark.parametrize(
    ("side", "rows", "columns"),
    [
        ("top", slice(0, 64), slice(None)),
        ("bottom", slice(64, 128), slice(None)),
        ("left", slice(None), slice(0, 32)),
        ("right", slice(None), slice(32, 64)),
    ],
)
def test_zoom_shows_the_kept_half_at_full_size(side, rows, columns):
    how = Zoom(p=1.0, keep=(0.5, 0.5), sides={side: 1.0})
    image, visible = TrainTransform(still(zoom=how))(crop(), seeded(0))
    half = EvalTransform((128, 64))(crop()[:, rows, columns].contiguous())[0]
    torch.testing.assert_close(image, half)
    assert (visible == 1).all()


def test_jitter_without_strength_changes_nothing_and_grey_stays_grey():
    none = Jitter(brightness=0, contrast=0, saturation=0)
    image = TrainTransform(still(jitter=none))(crop(), seeded(0))[0]
    torch.testing.assert_close(denormalised(image), crop().float(), atol=1.01, rtol=0)
    grey = torch.randint(40, 200, (1, 128, 64), generator=seeded(0)).expand(3, -1, -1).to(torch.uint8)
    strong = Jitter(brightness=0.2, contrast=0.2, saturation=0.5, hue=0.5)
    for seed in range(10):
        pixels = denormalised(TrainTransform(still(jitter=strong))(grey, seeded(seed))[0])
        assert (pixels.amax(0) - pixels.amin(0)).max() <= 2.0


def test_brightness_alone_multiplies():
    image = torch.full((3, 128, 64), 100, dtype=torch.uint8)
    how = Jitter(brightness=0.2, contrast=0, saturation=0)
    values = {
        round(denormalised(TrainTransform(still(jitter=how))(image, seeded(s))[0]).mean().item()) for s in range(50)
    }
    assert min(values) >= 80
    assert max(values) <= 120
    assert len(values) > 10


@given(
    height=st.integers(1, 200),
    width=st.integers(1, 100),
    size=st.sampled_from([(128, 64), (96, 96), (33, 17)]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_any_crop_size_gives_finite_numbers_of_the_asked_shape(height, width, size, seed):
    transform = TrainTransform(TransformSettings(size=size, **ALL), OCCLUDERS)
    image, visible = transform(crop(0, height, width), seeded(seed))
    assert image.shape == (3, *size)
    assert image.is_contiguous()
    assert image.isfinite().all()
    assert visible.shape == size
    assert set(visible.unique().tolist()) <= {0.0, 1.0}


def test_eval_agrees_with_pillow():
    pixels = PIL.Image.fromarray(crop(3).permute(1, 2, 0).numpy()).resize((64, 128))
    small = pixels.resize((32, 64), PIL.Image.Resampling.BICUBIC)
    image, visible = EvalTransform((64, 32))(pixels)
    expected = torch.from_numpy(np.array(small)).permute(2, 0, 1).float()
    assert (denormalised(image) - expected).abs().max() <= 2.0
    assert (visible == 1).all()


def test_eval_does_not_see_hidden_pixels():
    mask = np.zeros((128, 64), dtype=bool)
    mask[:64] = True
    one, other = crop(0), crop(0)
    other[:, 64:] = 255 - other[:, 64:]
    transform = EvalTransform((256, 128))
    image, visible = transform(one, mask)
    assert torch.equal(image, transform(other, mask)[0])
    assert torch.equal(image, transform(one, (0, 0, 64, 64))[0])
    assert not torch.equal(transform(one)[0], transform(other)[0])
    assert visible[:120].min() == 1
    assert visible[136:].max() == 0


def test_neutral_colour_keeps_the_mean_or_is_the_one_asked_for():
    mask = torch.zeros(128, 64)
    mask[:50] = 1
    image = crop(1)
    mean = image[:, :50].float().mean((1, 2))
    torch.testing.assert_close(neutralise(image, mask).float().mean((1, 2)), mean, atol=0.5, rtol=0)
    filled = EvalTransform((128, 64), fill="mean")(image, mask)[0]
    assert filled[:, 60:].abs().max() < 0.01
    assert torch.equal(neutralise(image, torch.ones(128, 64)), image)


def test_a_soft_mask_moves_to_the_new_size():
    mask = torch.full((128, 64), 0.25)
    _, visible = EvalTransform((64, 32))(crop(), mask)
    torch.testing.assert_close(visible, torch.full((64, 32), 0.25))


@pytest.mark.parametrize(
    ("visible", "message"),
    [
        ((3, 0, 3, 9), "is not a box"),
        ((100, 0, 200, 9), "nothing of the crop is visible"),
        (np.zeros((128, 64), dtype=bool), "nothing of the crop is visible"),
        (np.ones((64, 128), dtype=bool), r"mask is \[64, 128\] but the image is 128 x 64"),
        (np.full((128, 64), 2.0), r"outside \[0, 1\]"),
        (np.full((128, 64), np.nan), r"outside \[0, 1\]"),
    ],
)
def test_wrong_regions_are_named(visible, message):
    with pytest.raises(DataError, match=message):
        visible_mask(visible, 128, 64)


def test_wrong_pixels_are_named():
    with pytest.raises(DataError, match="give uint8 pixels"):
        TrainTransform(STILL)(torch.zeros(3, 4, 4))
    with pytest.raises(DataError, match="give uint8 pixels"):
        EvalTransform((8, 4))(torch.zeros(3, 4, 4))


def test_occluders_must_be_given_when_needed():
    with pytest.raises(ConfigError, match="give occluders"):
        TrainTransform(still(occlusion=Occlusion()))
    TrainTransform(still(occlusion=Occlusion(kinds={"grey": 1.0})))(crop(), seeded(0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sise": (1, 2)}, "Extra inputs"),
        ({"size": (0, 4)}, "greater than 0"),
        ({"flip": 1.5}, "less than or equal to 1"),
        ({"pad": 64, "size": (128, 64)}, "out of sight"),
        ({"occlusion": {"fraction": (0.6, 0.2)}}, "fraction: the least, 0.6, is above"),
        ({"occlusion": {"kinds": {"grey": 0.0}}}, "kinds: no weight is above 0"),
        ({"occlusion": {"kinds": {"tree": 1.0}}}, "Input should be 'grey'"),
        ({"zoom": {"sides": {}}}, "sides: no weight"),
        ({"erasing": {"aspect": (3.0, 0.3)}}, "aspect: the least"),
        ({"std": (0.2, 0.2, 0.0)}, "greater than 0"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        TransformSettings(**wrong)

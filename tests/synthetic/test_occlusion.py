import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glimpse.errors import ConfigError
from glimpse.synthetic.occlusion import (
    EDGES,
    KINDS,
    SIDES,
    Occluder,
    covered_region,
    generator_for,
    object_patch,
    occlude,
    person_patch,
    to_tensor,
)


def crop(seed: int, height: int = 32, width: int = 16) -> torch.Tensor:
    return torch.randint(256, (3, height, width), generator=generator_for(seed), dtype=torch.uint8)


SOURCES = [crop(s) for s in range(100, 107)]


@given(
    side=st.sampled_from(SIDES),
    fraction=st.floats(0, 1),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
)
@settings(max_examples=80, deadline=None)
def test_occlude_covers_exactly_the_rounded_share(side, fraction, height, width):
    image = torch.full((3, height, width), 10, dtype=torch.uint8)
    covered, visible = occlude(image, torch.full((3, 5, 7), 200, dtype=torch.uint8), side, fraction)
    for y in range(height):
        for x in range(width):
            hidden = {
                "top": y < round(fraction * height),
                "bottom": y >= height - round(fraction * height),
                "left": x < round(fraction * width),
                "right": x >= width - round(fraction * width),
                "centre": (width - round(fraction * width)) // 2
                <= x
                < (width - round(fraction * width)) // 2 + round(fraction * width),
            }[side]
            assert bool(visible[y, x]) == (not hidden)
            assert covered[:, y, x].tolist() == [200 if hidden else 10] * 3
    assert (image == 10).all()


def test_occlude_keeps_an_occluder_of_the_right_size_as_it_is():
    patch = crop(1, 8, 16)
    covered, _ = occlude(crop(0), patch, "bottom", 0.25)
    assert torch.equal(covered[:, 24:], patch)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "border"])
@pytest.mark.parametrize("side", SIDES)
def test_occluder_gives_the_same_in_any_order_and_leaves_visible_pixels_alone(kind, side):
    occluder = Occluder(kind, side, 0.4, SOURCES, seed=3)
    images = [crop(i) for i in range(4)]
    forward = [occluder(i, images[i]) for i in range(4)]
    for i in (2, 0, 3, 1):
        covered, visible = occluder(i, images[i])
        assert torch.equal(covered, forward[i][0])
        assert torch.equal(visible, forward[i][1])
        assert torch.equal(covered[:, visible], images[i][:, visible])
        assert torch.equal(images[i], crop(i))


@pytest.mark.parametrize("kind", ["object", "person"])
def test_seed_and_index_both_change_the_occluder(kind):
    image = torch.zeros(3, 32, 16, dtype=torch.uint8)
    first = Occluder(kind, "left", 0.5, SOURCES, seed=0)(0, image)[0]
    assert not torch.equal(first, Occluder(kind, "left", 0.5, SOURCES, seed=1)(0, image)[0])
    assert not torch.equal(first, Occluder(kind, "left", 0.5, SOURCES, seed=0)(1, image)[0])


def test_the_same_source_is_met_at_every_fraction():
    flat = [torch.full((3, 32, 16), value, dtype=torch.uint8) for value in range(0, 250, 10)]
    image = torch.full((3, 32, 16), 255, dtype=torch.uint8)
    for index in range(5):
        seen = {int(Occluder("person", "top", f, flat)(index, image)[0][0, 0, 0]) for f in (0.1, 0.4, 0.7)}
        assert len(seen) == 1


def test_nothing_is_covered_at_zero_and_everything_at_one():
    image = crop(0)
    same, visible = Occluder("person", "left", 0.0, SOURCES)(0, image)
    assert torch.equal(same, image)
    assert visible.all()
    assert not Occluder("person", "left", 1.0, SOURCES)(0, image)[1].any()


def test_a_person_in_front_is_not_distorted():
    # A crop with a white square in the middle: in the window the square stays square.
    other = torch.zeros(3, 128, 64, dtype=torch.uint8)
    other[:, 54:74, 22:42] = 255
    window = person_patch(other, "left", (256, 96), generator_for(0))[0] > 127
    rows, columns = window.any(1).sum().item(), window.any(0).sum().item()
    assert rows == columns == 40


def test_bottom_shows_the_head_and_sides_the_body():
    rows = torch.arange(128, dtype=torch.uint8)[:, None].expand(3, 128, 64)
    assert person_patch(rows, "bottom", (40, 64), generator_for(5))[0, :, 0].tolist() == list(range(40))
    columns = torch.arange(64, dtype=torch.uint8)[None].expand(3, 128, 64)
    for seed in range(20):
        window = person_patch(columns, "right", (128, 16), generator_for(seed))
        assert 16 <= int(window.float().mean()) <= 48


def test_object_patch_comes_from_the_edges_and_keeps_texture():
    crop_ = torch.zeros(3, 100, 50, dtype=torch.uint8)
    crop_[0, :, 10:40] = 255  # the person: red, and the only red there is
    crop_[1] = torch.randint(256, (100, 50), generator=generator_for(0), dtype=torch.uint8)
    for seed in range(10):
        patch = object_patch(crop_, (60, 50), generator_for(seed))
        assert patch.shape == (3, 60, 50)
        assert patch[0].max() == 0
        assert patch[1].float().std() > 5


@pytest.mark.parametrize("side", EDGES)
def test_a_border_leaves_the_rest_of_the_crop(side):
    image = crop(0)
    left, visible = Occluder("border", side, 0.25)(0, image)
    kept = {"top": image[:, 8:], "bottom": image[:, :24], "left": image[:, :, 4:], "right": image[:, :, :12]}[side]
    assert torch.equal(left, kept)
    assert visible.shape == left.shape[1:]
    assert visible.all()
    assert Occluder("border", side, 1.0)(0, image)[0].numel() > 0


def test_a_thing_reaches_about_as_far_as_is_asked_and_further_with_the_fraction():
    image = torch.full((3, 128, 64), 255, dtype=torch.uint8)
    for side in SIDES:
        hidden = []
        for fraction in (0.2, 0.4, 0.6):
            visible = torch.stack([Occluder("thing", side, fraction, seed=2)(i, image)[1] for i in range(12)])
            hidden.append(1 - visible.float().mean().item())
            if side in ("top", "bottom"):
                reached = (~visible).any(2).float().mean(1)
                assert (reached - fraction).abs().max() < 0.15
        assert hidden[0] < hidden[1] < hidden[2]
        assert hidden[0] > 0.05


def test_people_are_cut_out_where_there_is_a_mask():
    other, mask = torch.full((3, 32, 16), 200, dtype=torch.uint8), torch.zeros(32, 16, dtype=torch.bool)
    mask[4:28, 5:11] = True
    image = torch.full((3, 64, 32), 10, dtype=torch.uint8)
    covered, visible = Occluder("person", "left", 0.5, [other], masks=[mask])(0, image)
    # As tall as the crop or a little more, up to its middle, and no wider than the person.
    assert not visible[:, 8:15].any()
    assert visible[:, 17:].all()
    assert (covered[:, visible] == 10).all()
    assert (covered[:, ~visible] > 100).all()
    # Nobody in the mask: a window of the crop covers.
    _, window = Occluder("person", "left", 0.5, [other], masks=[~torch.ones_like(mask)])(0, image)
    assert not window[:, :16].any()
    assert window[:, 16:].all()


def test_edit_is_the_same_as_call_for_pil_images():
    occluder = Occluder("object", "right", 0.3, SOURCES)
    image = PIL.Image.fromarray(crop(0).permute(1, 2, 0).numpy())
    edited, visible = occluder.edit(2, image)
    covered, mask = occluder(2, crop(0))
    assert torch.equal(to_tensor(edited), covered)
    assert torch.equal(torch.from_numpy(visible), mask)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Occluder("tree", "left", 0.5), "'tree' is not a kind"),
        (lambda: Occluder("grey", "above", 0.5), "'above' is not a side"),
        (lambda: Occluder("grey", "left", 1.5), "1.5 is not a share"),
        (lambda: Occluder("grey", "left", 0.5, seed=-1), "negative"),
        (lambda: Occluder("person", "left", 0.5), "no crops to take a 'person' from"),
        (lambda: Occluder("person", "left", 0.5, SOURCES, masks=[crop(0)[0] > 9]), "are 1, of 7 sources"),
        (lambda: Occluder("border", "centre", 0.5), "does not end in the centre"),
        (lambda: Occluder("thing", "top", 1.0)(0, crop(0)), "a thing would hide everything"),
        (lambda: covered_region(4, 4, "left", float("nan")), "not a share"),
        (lambda: occlude(torch.zeros(3, 4, 4), crop(0), "left", 0.5), "not a uint8 image"),
        (lambda: object_patch(crop(0), (0, 4), generator_for(0)), "no pixels"),
    ],
)
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ConfigError, match=message):
        make()

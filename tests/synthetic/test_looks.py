"""Who somebody is, and what it makes of a body: labels are LIP's."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from glimpse.cues.parts import LIP_20
from glimpse.synthetic.body import Pose, pose_body
from glimpse.synthetic.looks import CLOTHES, TWIN_ITEMS, Look, dress, make_look, near_twin
from glimpse.synthetic.materials import Material
from glimpse.synthetic.shapes import BOX, Solid

PLAIN: dict[str, Any] = {
    **{"top": "shirt", "sleeves": "long", "lower": "trousers", "hair": "short", "hat": "none", "bag": "none"},
    **{"shoes": "low", "scarf": False, "sunglasses": False, "gloves": False},
}
ALWAYS = {"face", "left_arm", "right_arm", "left_shoe", "right_shoe"}  # hands are of arms


def wearing(**changes: Any) -> Look:
    return replace(make_look(1), **{**PLAIN, **changes})


def solids_of(look: Look, **pose: Any) -> list[Solid]:
    return dress(look, pose_body(look.build, Pose(**pose), (0, 6), 0), 3, [])


def labels_of(look: Look) -> set[str]:
    return {LIP_20.labels[solid.label] for solid in solids_of(look)}


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({}, {"upper_clothes", "pants", "hair"}),
        ({"top": "sweater"}, {"upper_clothes", "pants", "hair"}),
        ({"top": "jacket"}, {"upper_clothes", "pants", "hair"}),
        ({"top": "coat"}, {"coat", "pants", "hair"}),
        ({"top": "dress"}, {"dress", "left_leg", "right_leg", "socks", "hair"}),
        ({"top": "dress", "lower": "shorts"}, {"dress", "left_leg", "right_leg", "socks", "hair"}),
        ({"lower": "skirt"}, {"upper_clothes", "skirt", "left_leg", "right_leg", "socks", "hair"}),
        ({"lower": "shorts"}, {"upper_clothes", "pants", "left_leg", "right_leg", "socks", "hair"}),
        ({"hair": "bald"}, {"upper_clothes", "pants"}),
        ({"hat": "cap"}, {"upper_clothes", "pants", "hair", "hat"}),
        ({"hat": "beanie"}, {"upper_clothes", "pants", "hair", "hat"}),
        ({"hat": "brim"}, {"upper_clothes", "pants", "hair", "hat"}),
        ({"scarf": True}, {"upper_clothes", "pants", "hair", "scarf"}),
        ({"sunglasses": True}, {"upper_clothes", "pants", "hair", "sunglasses"}),
        ({"shoes": "boots"}, {"upper_clothes", "pants", "hair"}),
        ({"bag": "backpack"}, {"upper_clothes", "pants", "hair", "background"}),
        ({"bag": "shoulder"}, {"upper_clothes", "pants", "hair", "background"}),
        ({"bag": "handbag"}, {"upper_clothes", "pants", "hair", "background"}),
        ({"sleeves": "short"}, {"upper_clothes", "pants", "hair"}),
        ({"sleeves": "none"}, {"upper_clothes", "pants", "hair"}),
    ],
)
def test_clothes_have_the_labels_that_they_are(changes: dict[str, Any], labels: set[str]) -> None:
    assert labels_of(wearing(**changes)) == ALWAYS | labels


def test_hands_in_gloves_are_gloves_and_not_arms() -> None:
    assert labels_of(wearing(gloves=True)) == ALWAYS - {"left_arm", "right_arm"} | {
        *("glove", "upper_clothes", "pants", "hair")
    }


@pytest.mark.parametrize("hair", ["short", "long", "bun", "tail"])
def test_hair_of_every_kind_is_on_the_head_and_differs(hair: str) -> None:
    look = wearing(hair=hair)
    body = pose_body(look.build, Pose(), (0, 6), 0)
    of_it = [solid for solid in solids_of(look) if LIP_20.labels[solid.label] == "hair"]
    assert all(np.linalg.norm(solid.a - body.joints["head"]) < 0.25 for solid in of_it)
    assert len(of_it) == {"short": 1, "long": 4, "bun": 2, "tail": 2}[hair]


@pytest.mark.parametrize(
    ("sleeves", "labels"),
    [("none", {"left_arm"}), ("short", {"left_arm", "upper_clothes"}), ("long", {"upper_clothes"})],
)
def test_sleeves_begin_at_the_shoulder(sleeves: str, labels: set[str]) -> None:
    look = wearing(sleeves=sleeves)
    body = pose_body(look.build, Pose(), (0, 6), 0)
    shoulder, elbow = body.joints["left_shoulder"], body.joints["left_elbow"]
    arm = [solid for solid in dress(look, body, 1, []) if (solid.a == shoulder).all()]
    assert {LIP_20.labels[solid.label] for solid in arm} == labels
    cloth = [solid for solid in arm if LIP_20.labels[solid.label] == "upper_clothes"]
    ends = {"none": 0.0, "short": 0.62, "long": 1.0}
    long = max((np.linalg.norm(solid.b - solid.a) for solid in cloth), default=0.0)
    assert long == pytest.approx(ends[sleeves] * np.linalg.norm(elbow - shoulder))


def test_left_limbs_are_on_the_left() -> None:
    for changes in ({"sleeves": "none", "lower": "shorts"}, {"sleeves": "short", "top": "dress"}):
        for solid in solids_of(wearing(**changes)):
            label = LIP_20.labels[solid.label]
            if label.startswith(("left_", "right_")):
                # Heading 0 is towards the camera: the left is where x grows.
                assert (0.5 * (solid.a + solid.b)[0] > 0) == label.startswith("left_"), label


def test_all_solids_are_of_the_owner_and_what_is_carried_is_no_part_of_the_body() -> None:
    for bag, boxes in (("backpack", 0), ("shoulder", 1), ("handbag", 1)):
        look = wearing(bag=bag)
        solids = solids_of(look)
        assert {solid.owner for solid in solids} == {3}
        carried = [solid for solid in solids if solid.label == 0]
        assert len(carried) == len(solids) - len(solids_of(wearing()))
        assert sum(solid.kind == BOX for solid in carried) == boxes


def test_a_handbag_hangs_beside_a_skirt() -> None:
    for seed in range(40):
        look = replace(make_look(seed), top="dress", bag="handbag")
        body = pose_body(look.build, Pose(left_arm="carry", right_arm="carry", phase=seed, stride=0.3), (0, 6), 0)
        solids = dress(look, body, 1, [])
        (bag,) = (solid for solid in solids if solid.kind == BOX)
        hem = max(solid.rb for solid in solids if LIP_20.labels[solid.label] == "dress" and solid.b[1] < bag.a[1])
        inner = abs((bag.a - body.joints["pelvis"]) @ body.pelvis.axes[0]) - bag.half[0]
        assert inner > 0.5 * hem
        assert bag.a[1] > 0.1


def test_thighs_stay_inside_a_skirt() -> None:
    """Where thighs begin, a skirt is wider than they are."""
    for seed in range(60):
        look = replace(make_look(seed), lower="skirt", top="shirt")
        body = pose_body(look.build, Pose(), (0, 6), 0)
        solids = dress(look, body, 1, [])
        skirt = [solid for solid in solids if LIP_20.labels[solid.label] == "skirt"]
        thigh = max((s for s in solids if LIP_20.labels[s.label] == "left_leg"), key=lambda s: s.a[1])
        y = thigh.a[1]
        (part,) = (solid for solid in skirt if solid.b[1] - 1e-9 <= y < solid.a[1])
        at = (part.a[1] - y) / (part.a[1] - part.b[1])
        assert part.ra + at * (part.rb - part.ra) > abs(thigh.a[0]) + thigh.ra


def test_materials_are_added_behind_those_that_are_there() -> None:
    look, materials = wearing(), [Material((1, 2, 3))]
    solids = dress(look, pose_body(look.build, Pose(), (0, 6), 0), 1, materials)
    assert materials[0] == Material((1, 2, 3))
    assert {solid.material for solid in solids} <= set(range(1, len(materials)))
    tops = [materials[s.material] for s in solids if LIP_20.labels[s.label] == "upper_clothes"]
    assert {top.first for top in tops} == {look.top_colour}


def test_the_same_seeds_are_the_same_person_and_others_are_not() -> None:
    assert make_look(4, 2) == make_look(4, 2)
    looks = [make_look(4, seed) for seed in range(200)]
    assert len(set(looks)) == 200


def test_everything_that_can_be_worn_is_worn() -> None:
    looks = [make_look(0, seed) for seed in range(1500)]
    kinds = {"top": 5, "sleeves": 3, "lower": 3, "hair": 5, "hat": 4, "bag": 4, "shoes": 2, "top_pattern": 9}
    for name, count in kinds.items():
        assert len({getattr(look, name) for look in looks}) == count, name
    for name in ("scarf", "sunglasses", "gloves"):
        assert 0.01 < np.mean([getattr(look, name) for look in looks]) < 0.3
    heights = [look.build.height for look in looks]
    assert min(heights) < 1.2
    assert 1.6 < np.median(heights) < 1.8
    assert {labels for look in looks[:300] for labels in labels_of(look)} == {*LIP_20.labels} - {"jumpsuits"}


def test_a_near_twin_differs_in_one_item_only() -> None:
    changed: dict[str, set[str]] = {item: set() for item in TWIN_ITEMS}
    for seed in range(400):
        look = make_look(0, seed)
        twin, item = near_twin(look, 9, seed)
        assert (twin, item) == near_twin(look, 9, seed)
        now = {f.name for f in fields(Look) if getattr(look, f.name) != getattr(twin, f.name)}
        assert now
        changed[item] |= now
        if item in ("top", "lower", "shoes"):
            before, after = (getattr(each, f"{item}_colour") for each in (look, twin))
            assert np.linalg.norm(np.subtract(before, after)) > 60
        assert not (item == "lower" and look.top == "dress")  # nobody would see it
    assert changed == {
        "top": {"top_colour"},
        "pattern": {"top_pattern"},
        "lower": {"lower_colour"},
        "shoes": {"shoes_colour"},
        "bag": {"bag"},
        "hat": {"hat"},
        "hair": {"hair", "hair_colour"},
    }


def test_colours_of_clothes_can_be_told_apart() -> None:
    apart = [np.linalg.norm(np.subtract(a, b)) for n, a in enumerate(CLOTHES) for b in CLOTHES[:n]]
    assert min(apart) > 35
    for seed in range(100):
        look = make_look(0, seed)
        assert np.linalg.norm(np.subtract(look.top_colour, look.top_second)) > 60

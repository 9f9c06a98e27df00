"""Looks: who somebody is, in clothes, hair, build and what they carry; and the solids that show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np

from glimpse.synthetic.body import LEFT, RIGHT, Body, Build, head_size
from glimpse.synthetic.materials import Colour, Material, Pattern
from glimpse.synthetic.shapes import Frame, Solid, Vector, box, cone

Top = Literal["shirt", "sweater", "jacket", "coat", "dress"]
Sleeves = Literal["none", "short", "long"]
Lower = Literal["trousers", "shorts", "skirt"]
Hair = Literal["short", "long", "bun", "tail", "bald"]
Hat = Literal["none", "cap", "beanie", "brim"]
Bag = Literal["none", "backpack", "shoulder", "handbag"]
Shoes = Literal["low", "boots"]
Item = TypeVar("Item")

SKIN: tuple[Colour, ...] = ((244, 212, 188), (230, 186, 148), (203, 150, 110), (152, 102, 70), (96, 62, 44))
HAIR: tuple[Colour, ...] = ((24, 20, 20), (54, 38, 28), (98, 66, 40), (182, 142, 82), (150, 148, 146), (128, 54, 30))
CLOTHES: tuple[Colour, ...] = (
    (30, 30, 34),
    (232, 232, 228),
    (124, 126, 130),
    (186, 30, 38),
    (222, 116, 38),
    (232, 198, 66),
    (58, 134, 70),
    (34, 78, 56),
    (80, 160, 204),
    (36, 64, 142),
    (30, 36, 76),
    (120, 62, 146),
    (224, 134, 166),
    (122, 82, 52),
    (202, 182, 144),
    (42, 150, 146),
)
_LOWER_COLOURS = (0, 0, 2, 9, 10, 10, 13, 14, 1, 7, 3)

HAT, HAIR_LABEL, GLOVE, GLASSES, UPPER, DRESS, COAT, SOCKS, PANTS = 1, 2, 3, 4, 5, 6, 7, 8, 9
SCARF, SKIRT, FACE, LEFT_ARM, RIGHT_ARM, LEFT_LEG, RIGHT_LEG, LEFT_SHOE, RIGHT_SHOE = 11, 12, 13, 14, 15, 16, 17, 18, 19
"""Numbers of LIP's labels (Gong et al., CVPR 2017)."""


@dataclass(frozen=True)
class Look:
    """What makes somebody that person: the same from every camera.

    Attributes:
        build: proportions.
        skin, hair_colour, lower_second, shoes_colour, socks, bag_colour, hat_colour, scarf_colour: sRGB.
        top, sleeves, lower, hair, hat, bag, shoes: kinds.
        top_colour, top_second, top_pattern, top_scale: of the upper clothes; an open coat shows `top_second`.
        lower_colour, lower_second, lower_pattern: of what is worn below.
        scarf, sunglasses, gloves: whether they are worn.
    """

    build: Build
    skin: Colour
    hair: Hair
    hair_colour: Colour
    top: Top
    sleeves: Sleeves
    top_colour: Colour
    top_second: Colour
    top_pattern: Pattern
    top_scale: float
    lower: Lower
    lower_colour: Colour
    lower_second: Colour
    lower_pattern: Pattern
    shoes: Shoes
    shoes_colour: Colour
    socks: Colour
    bag: Bag
    bag_colour: Colour
    hat: Hat
    hat_colour: Colour
    scarf: bool
    scarf_colour: Colour
    sunglasses: bool
    gloves: bool


TWIN_ITEMS = ("top", "pattern", "lower", "shoes", "bag", "hat", "hair")
"""What a near twin may differ in."""


def make_look(*seeds: int) -> Look:
    """Draw somebody; the same seeds give the same person.

    >>> make_look(7, 1) == make_look(7, 1), make_look(7, 1) == make_look(7, 2)
    (True, False)
    """
    rng = np.random.default_rng(seeds)
    colour = _Colours(rng)
    woman, child = rng.random() < 0.5, rng.random() < 0.08
    if child:
        height = float(rng.uniform(1.05, 1.45))
        build = Build(height, float(rng.uniform(0.9, 1.15)), 0.92, 0.95, 0.0, float(1.55 - 0.3 * height))
    else:
        height = float(np.clip(rng.normal(1.65 if woman else 1.77, 0.07), 1.48, 2.0))
        girth = float(np.clip(rng.normal(1.0, 0.13), 0.8, 1.45))
        belly = max(0.0, 0.25 * (girth - 1.05)) if not woman else 0.1 * max(0.0, girth - 1.1)
        build = Build(height, girth, 0.9 if woman else 1.03, 1.1 if woman else 0.95, belly)
    lower: Lower = _one(rng, ("trousers", "shorts", "skirt"), (0.62, 0.18, 0.20) if woman else (0.78, 0.22, 0.0))
    tops: tuple[Top, ...] = ("shirt", "sweater", "jacket", "coat", "dress")
    top: Top = _one(rng, tops, (0.38, 0.2, 0.18, 0.1, 0.14) if woman else (0.46, 0.24, 0.2, 0.1, 0.0))
    sleeves: Sleeves = "long" if top in ("sweater", "jacket", "coat") else _one(rng, ("none", "short", "long"), _BARE)
    patterns: tuple[Pattern, ...] = ("plain", "stripes", "bars", "checks", "dots", "logo", "gradient", "block")
    pattern: Pattern = _one(rng, patterns, (0.42, 0.1, 0.05, 0.08, 0.06, 0.14, 0.05, 0.1))
    if top in ("jacket", "coat") and rng.random() < 0.6:
        pattern = "open"
    top_colour = colour.cloth()
    return Look(
        build=build,
        skin=_one(rng, SKIN, (0.3, 0.26, 0.2, 0.14, 0.1)),
        hair=_one(rng, _HAIRS, (0.16, 0.44, 0.16, 0.22, 0.02) if woman else (0.8, 0.06, 0.02, 0.02, 0.1)),
        hair_colour=_one(rng, HAIR, (0.3, 0.26, 0.16, 0.12, 0.1, 0.06)),
        top=top,
        sleeves=sleeves,
        top_colour=top_colour,
        top_second=colour.other_than(top_colour),
        top_pattern=pattern,
        top_scale=float(rng.choice((0.7, 1.0, 1.4))),
        lower=lower,
        lower_colour=colour.near(CLOTHES[int(rng.choice(_LOWER_COLOURS))]),
        lower_second=colour.cloth(),
        lower_pattern=_one(rng, ("plain", "checks", "bars", "dots"), (0.88, 0.05, 0.04, 0.03)),
        shoes="boots" if rng.random() < 0.2 else "low",
        shoes_colour=colour.near(CLOTHES[int(rng.choice((0, 0, 1, 1, 2, 3, 9, 13)))]),
        socks=colour.near(CLOTHES[int(rng.choice((0, 1, 1, 2, 3)))]),
        bag=_one(rng, ("none", "backpack", "shoulder", "handbag"), (0.52, 0.2, 0.16, 0.12)),
        bag_colour=colour.cloth(),
        hat=_one(rng, ("none", "cap", "beanie", "brim"), (0.8, 0.1, 0.06, 0.04)),
        hat_colour=colour.cloth(),
        scarf=bool(top in ("jacket", "coat") and rng.random() < 0.3),
        scarf_colour=colour.cloth(),
        sunglasses=bool(rng.random() < 0.08),
        gloves=bool(top == "coat" and rng.random() < 0.3),
    )


def near_twin(look: Look, *seeds: int) -> tuple[Look, str]:
    """Give somebody who differs in one item only, and say in which (one of `TWIN_ITEMS`).

    >>> twin, item = near_twin(make_look(1), 5)
    >>> item in TWIN_ITEMS, twin != make_look(1), twin.build == make_look(1).build
    (True, True, True)
    """
    rng = np.random.default_rng(seeds)
    colour = _Colours(rng)
    # A dress is all that is worn below.
    item = str(rng.choice([item for item in TWIN_ITEMS if item != "lower" or look.top != "dress"]))
    if item == "top":
        return replace(look, top_colour=colour.other_than(look.top_colour, look.top_second)), item
    if item == "pattern":
        patterns: tuple[Pattern, ...] = ("plain", "stripes", "checks", "logo", "block")
        return replace(look, top_pattern=_other(rng, patterns, look.top_pattern)), item
    if item == "lower":
        return replace(look, lower_colour=colour.other_than(look.lower_colour)), item
    if item == "shoes":
        return replace(look, shoes_colour=colour.other_than(look.shoes_colour)), item
    if item == "bag":
        bags: tuple[Bag, ...] = ("none", "backpack", "shoulder", "handbag")
        return replace(look, bag=_other(rng, bags, look.bag)), item
    if item == "hat":
        hats: tuple[Hat, ...] = ("none", "cap", "beanie", "brim")
        return replace(look, hat=_other(rng, hats, look.hat)), item
    hair = _other(rng, _HAIRS[:4], look.hair)
    return replace(look, hair=hair, hair_colour=_other(rng, HAIR, look.hair_colour)), item


def dress(look: Look, body: Body, owner: int, materials: list[Material]) -> list[Solid]:
    """Put a look on a body.

    Args:
        look: who it is.
        body: where the joints are; of `look.build`.
        owner: number that the solids carry; above 0.
        materials: of the picture; new ones are added at its end.

    Returns:
        Solids with LIP's labels; what is carried has label 0 and the same owner.
    """
    return _Dresser(look, body, owner, materials).all()


# --- from a look to solids -----------------------------------------------------------------------------------------

_BARE = (0.1, 0.5, 0.4)
_WAIST, _SKIRT = 0.085, 0.24  # how far the waist is above the pelvis, and the hem of a skirt below, of the height
_HAIRS: tuple[Hair, ...] = ("short", "long", "bun", "tail", "bald")


class _Dresser:
    def __init__(self, look: Look, body: Body, owner: int, materials: list[Material]) -> None:
        self.look, self.body, self.owner = look, body, owner
        self.tall, self.girth = look.build.height, look.build.girth
        self.materials = materials
        self.solids: list[Solid] = []
        self.skin = self._material(Material(look.skin, folds=0.1))
        self.top = self._material(
            Material(look.top_colour, look.top_second, look.top_pattern, look.top_scale, folds=0.6)
        )
        # A logo, a zip and a hem colour are on the trunk, not on sleeves.
        whole: Pattern = "plain" if look.top_pattern in ("logo", "open", "block", "gradient") else look.top_pattern
        self.sleeve = self._material(Material(look.top_colour, look.top_second, whole, look.top_scale, folds=0.6))
        self.lower = self._material(Material(look.lower_colour, look.lower_second, look.lower_pattern, folds=0.6))

    def all(self) -> list[Solid]:
        self._trunk()
        for side, name in ((LEFT, "left"), (RIGHT, "right")):
            self._arm(side, name)
            self._leg(side, name)
        self._skirt()
        self._head()
        self._bag()
        return self.solids

    def _material(self, material: Material) -> int:
        self.materials.append(material)
        return len(self.materials) - 1

    def _add(
        self,
        a: Vector,
        b: Vector,
        ra: float,
        rb: float,
        frame: Frame,
        material: int,
        label: int,
        depth: float = 1.0,
        flat: bool = False,
    ) -> None:
        """A cone with radii relative to the height, pressed from front to back."""
        press = frame.axes[2]
        solid = cone(
            a,
            b,
            ra * self.tall,
            rb * self.tall,
            frame=frame,
            material=material,
            label=label,
            owner=self.owner,
            press=press,
            depth=depth,
            flat=flat,
        )
        self.solids.append(solid)

    def _trunk(self) -> None:
        look, body, joint = self.look, self.body, self.body.joints
        up, forward = body.trunk.axes[1], body.trunk.axes[2]
        label = {"coat": COAT, "dress": DRESS}.get(look.top, UPPER)
        thick = {"shirt": 0.003, "dress": 0.002, "sweater": 0.007, "jacket": 0.011, "coat": 0.013}[look.top]
        waist = (0.070 + thick) * self.girth * (0.96 + 0.04 * look.build.hips)
        chest = (0.085 + thick) * (0.75 + 0.25 * self.girth) * look.build.shoulders
        hips = (0.078 + thick * 0.5) * self.girth * look.build.hips
        self._add(joint["waist"], joint["chest"], waist, chest, body.trunk, self.top, label, depth=0.7)
        if look.build.belly > 0.005:
            at = joint["waist"] + look.build.belly * forward
            self._add(at, at + 0.05 * self.tall * up, waist * 0.9, waist * 0.7, body.trunk, self.top, label, depth=0.8)
        # Shoulders slope from the neck to the arms.
        for name in ("left", "right"):
            shoulder = joint[f"{name}_shoulder"] - 0.012 * self.tall * up
            inner = joint["neck"] - 0.018 * self.tall * up
            radius = 0.034 + thick
            bare = look.sleeves == "none"
            end = shoulder + 0.25 * (inner - shoulder) if bare else shoulder
            self._add(inner, end, 0.042, radius, body.trunk, self.top, label)
            self._add(joint["chest"], end, 0.07, 0.03 + thick, body.trunk, self.top, label, depth=0.72)
        # The seat: trousers, or what hangs over them.
        seat = self.lower if look.lower != "skirt" and look.top != "dress" else self.top
        seat_label = PANTS if seat == self.lower else label
        pelvis = joint["pelvis"] - 0.005 * self.tall * np.array([0, 1.0, 0])
        self._add(pelvis, joint["waist"], hips, waist * 0.82, body.pelvis, seat, seat_label, depth=0.74)
        if look.top != "dress":
            # The hem of the top, flat at its end.
            drop = {"shirt": 0.055, "sweater": 0.05, "jacket": 0.07, "coat": 0.26}[look.top]
            low = joint["pelvis"] + np.array([0, 0.03 - drop, 0]) * self.tall
            # Around the seat and the tops of the thighs.
            wide = max(hips, 0.052 * look.build.hips + 0.053 * (0.55 + 0.45 * self.girth)) + 0.006
            wide += (0.25 * drop if look.top == "coat" else 0.0) + self._spread(0.6 * drop / 0.26)
            depth = 0.8
            if look.lower == "skirt":  # over the skirt
                wide, depth = max(wide, self._skirt_radius(drop - 0.03) + 0.006), 0.92
            start = joint["waist"] + 0.02 * self.tall * up
            self._add(start, low, waist * 1.02, wide, body.trunk, self.top, label, depth=depth, flat=True)

    def _spread(self, share: float) -> float:
        """How far the knees are apart along the walk, relative to the height, times a share."""
        left, right = self.body.joints["left_knee"], self.body.joints["right_knee"]
        return share * 0.5 * float(np.hypot(*(left - right)[[0, 2]])) / self.tall

    def _arm(self, side: int, name: str) -> None:
        look, joint, limb = self.look, self.body.joints, self.body.limbs
        bare = LEFT_ARM if side == LEFT else RIGHT_ARM
        label = {"coat": COAT, "dress": DRESS}.get(look.top, UPPER)
        thick = {"shirt": 0.005, "dress": 0.003, "sweater": 0.006, "jacket": 0.010, "coat": 0.011}[look.top]
        girth = 0.6 + 0.4 * self.girth
        shoulder, elbow, wrist, hand = (joint[f"{name}_{each}"] for each in ("shoulder", "elbow", "wrist", "hand"))
        upper, fore = limb[f"{name}_upper_arm"], limb[f"{name}_forearm"]
        long = look.sleeves == "long"
        if long:
            self._add(shoulder, elbow, 0.03 * girth + thick, 0.024 * girth + thick, upper, self.sleeve, label)
            self._add(elbow, wrist, 0.023 * girth + thick, 0.016 * girth + thick, fore, self.sleeve, label)
        else:
            self._add(shoulder, elbow, 0.029 * girth, 0.022 * girth, upper, self.skin, bare)
            self._add(elbow, wrist, 0.022 * girth, 0.015 * girth, fore, self.skin, bare)
            if look.sleeves == "short":
                cuff = shoulder + 0.62 * (elbow - shoulder)
                radius = 0.031 * girth + thick
                self._add(shoulder, cuff, radius, radius + 0.003, upper, self.sleeve, label, flat=True)
                self._add(shoulder, shoulder, radius, radius, upper, self.sleeve, label)
        palm = self._material(Material((40, 38, 40))) if look.gloves else self.skin
        self._add(wrist, hand, 0.015, 0.017, fore, palm, GLOVE if look.gloves else bare, depth=0.7)

    def _leg(self, side: int, name: str) -> None:
        look, joint, limb = self.look, self.body.joints, self.body.limbs
        bare = LEFT_LEG if side == LEFT else RIGHT_LEG
        shoe = LEFT_SHOE if side == LEFT else RIGHT_SHOE
        girth = 0.55 + 0.45 * self.girth
        hip, knee, ankle = (joint[f"{name}_{each}"] for each in ("hip", "knee", "ankle"))
        heel, toe = joint[f"{name}_heel"], joint[f"{name}_toe"]
        thigh, shin = limb[f"{name}_thigh"], limb[f"{name}_shin"]
        covered = look.lower == "trousers" and look.top != "dress"
        if covered:
            self._add(hip, knee, 0.053 * girth, 0.037 * girth, thigh, self.lower, PANTS)
            self._add(knee, ankle, 0.037 * girth, 0.027, shin, self.lower, PANTS)
        else:
            self._add(hip, knee, 0.048 * girth, 0.032 * girth, thigh, self.skin, bare)
            self._add(knee, ankle, 0.032 * girth, 0.019, shin, self.skin, bare)
            calf = knee + 0.28 * (ankle - knee) - 0.008 * self.tall * shin.axes[2]
            self._add(calf, knee + 0.55 * (ankle - knee), 0.029 * girth, 0.022 * girth, shin, self.skin, bare)
            if look.lower == "shorts" and look.top != "dress":
                end = hip + 0.78 * (knee - hip)
                self._add(hip, end, 0.055 * girth, 0.047 * girth, thigh, self.lower, PANTS, flat=True)
            top = knee + 0.72 * (ankle - knee)
            self._add(top, ankle, 0.024, 0.021, shin, self._material(Material(look.socks)), SOCKS, flat=True)
        leather = self._material(Material(look.shoes_colour, folds=0.2))
        self._add(heel, toe, 0.024, 0.019, shin, leather, shoe)
        self._add(ankle, heel + 0.45 * (toe - heel), 0.022, 0.021, shin, leather, shoe)
        if look.shoes == "boots":
            top = knee + 0.45 * (ankle - knee)
            self._add(top, ankle, 0.041 * girth, 0.031, shin, leather, shoe, flat=True)

    def _skirt(self) -> None:
        look, joint = self.look, self.body.joints
        if look.top != "dress" and look.lower != "skirt":
            return
        material, label = (self.top, DRESS) if look.top == "dress" else (self.lower, SKIRT)
        waist, middle = joint["waist"], joint["pelvis"]
        low = middle - np.array([0, _SKIRT * self.tall, 0])
        for a, b, drops in ((waist, middle, (-_WAIST, 0.0)), (middle, low, (0.0, _SKIRT))):
            ra, rb = (self._skirt_radius(drop) for drop in drops)
            self._add(a, b, ra, rb, self.body.pelvis, material, label, depth=0.9, flat=True)

    def _skirt_radius(self, drop: float) -> float:
        """Of a skirt or dress so far below the pelvis, both relative to the height."""
        thighs = 0.052 * self.look.build.hips + 0.048 * (0.55 + 0.45 * self.girth) + 0.006
        hem = max(thighs, 0.084 * self.girth * self.look.build.hips + 0.03) + self._spread(0.95)
        return float(np.interp(drop, (-_WAIST, 0, _SKIRT), (0.072 * self.girth, thighs, hem)))

    def _head(self) -> None:
        look, body, joint = self.look, self.body, self.body.joints
        left, up, forward = body.head.axes
        size = head_size(look.build)
        relative = size / self.tall
        centre = joint["head"]
        face = self._material(Material(look.skin, folds=0.0, face=True))
        self._add(joint["neck"] - 0.03 * self.tall * up, centre, 0.031, 0.033, body.head, self.skin, FACE)
        low = centre - 0.42 * size * up + 0.05 * size * forward
        self._add(low, centre + 0.3 * size * up, 0.72 * relative, 0.92 * relative, body.head, face, FACE)
        self._add(joint["nose"], joint["nose"], 0.13 * relative, 0.13 * relative, body.head, self.skin, FACE)
        for name in ("left", "right"):
            self._add(
                joint[f"{name}_ear"], joint[f"{name}_ear"], 0.17 * relative, 0.17 * relative, body.head, face, FACE
            )
        if look.hair != "bald":
            hair = self._material(Material(look.hair_colour, folds=0.8))
            back = centre + 0.3 * size * up - 0.2 * size * forward
            low = centre - 0.25 * size * up - 0.32 * size * forward
            self._add(low, back, 0.76 * relative, 1.02 * relative, body.head, hair, HAIR_LABEL)
            if look.hair == "long":
                end = centre - 1.9 * size * up - 0.55 * size * forward
                self._add(low, end, 0.95 * relative, 0.8 * relative, body.head, hair, HAIR_LABEL, depth=0.75)
                for side in (LEFT, RIGHT):
                    start = centre + (0.2 * up + side * 0.78 * left - 0.1 * forward) * size
                    end = centre + (-1.4 * up + side * 0.95 * left - 0.15 * forward) * size
                    self._add(start, end, 0.32 * relative, 0.25 * relative, body.head, hair, HAIR_LABEL)
            elif look.hair == "bun":
                bun = centre + 0.95 * size * up - 0.8 * size * forward
                self._add(bun, bun, 0.45 * relative, 0.45 * relative, body.head, hair, HAIR_LABEL)
            elif look.hair == "tail":
                start = centre + 0.35 * size * up - 1.1 * size * forward
                end = centre - 1.6 * size * up - 1.25 * size * forward
                self._add(start, end, 0.34 * relative, 0.2 * relative, body.head, hair, HAIR_LABEL)
        if look.hat != "none":
            felt = self._material(Material(look.hat_colour, folds=0.3))
            top = centre + 0.42 * size * up - 0.08 * size * forward
            if look.hat == "beanie":
                self._add(top, top + 0.5 * size * up, 1.08 * relative, 0.8 * relative, body.head, felt, HAT)
            else:
                crown = top + (0.75 if look.hat == "brim" else 0.3) * size * up
                self._add(top, crown, 1.07 * relative, 0.85 * relative, body.head, felt, HAT, flat=look.hat == "brim")
                if look.hat == "brim":
                    self._add(
                        top, top - 0.12 * size * up, 1.1 * relative, 1.75 * relative, body.head, felt, HAT, flat=True
                    )
                else:
                    brim = top + 0.05 * size * up
                    tip = brim + 1.45 * size * forward
                    peak = Frame(body.head.origin, np.stack([left, forward, up]))
                    self._add(brim, tip, 0.8 * relative, 0.55 * relative, peak, felt, HAT, depth=0.16)
        if look.sunglasses:
            glass = self._material(Material((18, 18, 20), folds=0.0))
            a, b = (joint[f"{name}_eye"] + 0.06 * size * forward for name in ("left", "right"))
            self._add(
                a + 0.2 * size * left, b - 0.2 * size * left, 0.2 * relative, 0.2 * relative, body.head, glass, GLASSES
            )
        if look.scarf:
            wool = self._material(Material(look.scarf_colour, folds=0.8))
            at = joint["neck"] + 0.005 * self.tall * up
            self._add(at, at + 0.02 * self.tall * up, 0.056, 0.05, body.trunk, wool, SCARF)
            start = at + 0.055 * self.tall * forward + 0.02 * self.tall * left
            self._add(start, start - 0.13 * self.tall * up, 0.02, 0.022, body.trunk, wool, SCARF, depth=0.6)

    def _bag(self) -> None:
        look, body, joint = self.look, self.body, self.body.joints
        left, up, forward = body.trunk.axes
        if look.bag == "none":
            return
        stuff = self._material(Material(look.bag_colour, folds=0.4))
        if look.bag == "backpack":
            behind = -(0.1 * self.girth + 0.02) * self.tall * forward
            low = joint["waist"] + 0.03 * self.tall * up + behind
            self._add(low, low + 0.13 * self.tall * up, 0.085, 0.075, body.trunk, stuff, 0, depth=0.62)
            pocket = low - 0.04 * self.tall * forward + 0.015 * self.tall * up
            self._add(pocket, pocket + 0.03 * self.tall * up, 0.055, 0.055, body.trunk, stuff, 0, depth=0.5)
            for side in (LEFT, RIGHT):
                start = joint["neck"] + (side * 0.055 * left + 0.004 * up + 0.035 * forward) * self.tall
                end = joint["waist"] + (side * 0.075 * left + 0.05 * up + 0.058 * self.girth * forward) * self.tall
                self._add(start, end, 0.013, 0.011, body.trunk, stuff, 0)
                over = joint["neck"] + (side * 0.055 * left - 0.004 * up - 0.06 * forward) * self.tall
                self._add(start, over, 0.013, 0.013, body.trunk, stuff, 0)
            return
        side = LEFT if look.bag_colour[0] % 2 else RIGHT
        if look.bag == "shoulder":
            hip = joint["pelvis"] + (side * (0.098 * self.girth + 0.02) * left - 0.01 * up) * self.tall
            size = (0.03 * self.tall, 0.075 * self.tall, 0.09 * self.tall)
            self.solids.append(box(Frame(hip, body.trunk.axes), size, stuff, owner=self.owner))
            over = joint["neck"] + (-side * 0.05 * left - 0.005 * up) * self.tall
            for way in (1.0, -1.0):
                # Over the chest and over the back, outside of the trunk.
                middle = (
                    joint["chest"] + (-side * 0.01 * left + way * (0.066 + 0.01 * self.girth) * forward) * self.tall
                )
                self._add(over, middle, 0.01, 0.01, body.trunk, stuff, 0)
                self._add(middle, hip + way * 0.03 * self.tall * forward, 0.01, 0.01, body.trunk, stuff, 0)
            return
        name = "left" if side == LEFT else "right"
        hand = joint[f"{name}_hand"]
        size = (0.03 * self.tall, 0.075 * self.tall, 0.1 * self.tall)
        # Beside what is worn.
        aside = float((hand - joint["pelvis"]) @ body.pelvis.axes[0]) * side / self.tall
        skirt = self._skirt_radius(float(joint["pelvis"][1] - hand[1]) / self.tall + 0.115) + 0.035
        shift = max(0.0, skirt - aside) if look.top in ("dress", "coat") or look.lower == "skirt" else 0.0
        top = hand + self.tall * (side * shift * body.pelvis.axes[0] - np.array([0, 0.04, 0]))
        frame = Frame(top - np.array([0, 0.075 * self.tall, 0]), body.pelvis.axes)
        self.solids.append(box(frame, size, stuff, owner=self.owner))
        self._add(hand, top, 0.008, 0.008, body.pelvis, stuff, 0)


class _Colours:
    """Colours of clothes, never twice quite the same."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def near(self, colour: Colour) -> Colour:
        r, g, b = np.clip(np.asarray(colour) + self.rng.integers(-12, 13, 3), 8, 245).tolist()
        return r, g, b

    def cloth(self) -> Colour:
        return self.near(CLOTHES[int(self.rng.integers(len(CLOTHES)))])

    def other_than(self, *colours: Colour) -> Colour:
        """A colour that can be told from these: at least 90 away, of 442."""
        far = [each for each in CLOTHES if all(np.hypot.reduce(np.subtract(each, other)) > 90 for other in colours)]
        return self.near(far[int(self.rng.integers(len(far)))])


def _one(rng: np.random.Generator, items: Sequence[Item], chances: Sequence[float]) -> Item:
    return items[int(rng.choice(len(items), p=np.asarray(chances) / np.sum(chances)))]


def _other(rng: np.random.Generator, items: Sequence[Item], now: Item) -> Item:
    rest = [item for item in items if item != now]
    return rest[int(rng.integers(len(rest)))]

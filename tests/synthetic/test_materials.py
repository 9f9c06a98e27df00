"""Patterns at points of a surface where they are known, in metres: across, along and out."""

from __future__ import annotations

import numpy as np
import pytest

from glimpse.errors import ConfigError
from glimpse.synthetic.materials import CLOTH, PATTERNS, Material, Pattern, colours, linear

RED, BLUE = (200, 30, 20), (20, 40, 190)


def share(pattern: Pattern, *places: tuple[float, float, float], scale: float = 1.0) -> list[float]:
    """How much of the second colour each place has."""
    material = Material(RED, BLUE, pattern, scale, folds=0)
    found = colours([material], np.zeros(len(places), int), np.array(places, np.float32))
    first, second = linear(RED), linear(BLUE)
    shares = (found - first) @ (second - first) / ((second - first) @ (second - first))
    np.testing.assert_allclose(found, first + shares[:, None] * (second - first), atol=1e-6)
    return np.round(shares, 4).tolist()


@pytest.mark.parametrize(
    ("pattern", "second", "first"),
    [
        ("stripes", [(0, 0.01, 0), (0.3, 0.1, 0)], [(0, 0.06, 0), (0, -0.01, 0)]),  # 9 cm, the lower half
        ("bars", [(0.01, 0, 0), (0.09, 0.5, 0)], [(0.05, 0, 0), (-0.01, 0, 0)]),  # 8 cm
        ("checks", [(0.01, 0.07, 0), (0.07, 0.01, 0)], [(0.01, 0.01, 0), (0.07, 0.07, 0)]),  # fields of 6 cm
        ("dots", [(0.05, 0.05, 0), (0.0, 0.15, 0)], [(0.0, 0.05, 0), (0.05, 0.15, 0)]),  # every 10 cm, rows shifted
        ("logo", [(0.05, 0.17, 0.1), (0.05, 0.17, -0.1)], [(0.09, 0.17, 0.1), (0, 0.3, 0.1), (0, 0.17, 0.01)]),
        ("block", [(0, 0.09, 0)], [(0, 0.11, 0)]),
        ("open", [(0.04, 0, 0.1)], [(0.04, 0, -0.1), (0.06, 0, 0.1)]),
        ("bricks", [(0.15, 0.01, 0), (0.01, 0.06, 0)], [(0.15, 0.06, 0), (0.01, 0.18, 0)]),  # joints; rows shifted
        ("plain", [], [(0.1, 0.2, 0.3)]),
    ],
)
def test_where_patterns_have_their_second_colour(
    pattern: Pattern, second: list[tuple[float, float, float]], first: list[tuple[float, float, float]]
) -> None:
    assert share(pattern, *second, *first) == [1] * len(second) + [0] * len(first)


def test_patterns_that_blend() -> None:
    assert share("gradient", (0, 0.25, 0), (0, 0, 0), (0, -0.25, 0)) == [0, 0.5, 1]
    mottled = share("leaves", *np.random.default_rng(0).uniform(-0.5, 0.5, (500, 3)).tolist())
    assert min(mottled) == 0
    assert max(mottled) == 1
    assert np.mean(mottled) == pytest.approx(0.5, abs=0.1)


def test_a_larger_scale_is_a_larger_pattern() -> None:
    place = (0.01, 0.07, 0.05)
    for pattern in ("stripes", "bars", "checks", "dots", "gradient", "block", "bricks"):
        grown = tuple(2 * each for each in place)
        assert share(pattern, place) == share(pattern, grown, scale=2)


def test_clothes_are_not_printed_with_bricks() -> None:
    assert "open" not in CLOTH
    assert set(CLOTH) < set(PATTERNS)
    assert not {"leaves", "bricks"} & set(CLOTH)


def test_folds_lighten_and_darken_and_keep_the_mean() -> None:
    places = np.random.default_rng(0).uniform(-0.4, 0.4, (20_000, 3)).astype(np.float32)
    rows = np.zeros(len(places), int)
    flat = colours([Material(RED, folds=0)], rows, places)
    creased = colours([Material(RED, folds=1)], rows, places)
    np.testing.assert_allclose(creased.mean(0), flat.mean(0), rtol=0.02)
    light = creased[:, 0] / flat[:, 0]
    assert 0.7 < light.min() < 0.85
    assert 1.15 < light.max() < 1.3
    assert (colours([Material(RED, folds=0)], rows, places) == linear(RED)).all()


def test_a_face_has_eyes_and_a_mouth_in_front() -> None:
    skin = Material((230, 186, 148), folds=0, face=True)
    names = {"left eye": (0.032, 0.012, 0.1), "right eye": (-0.032, 0.012, 0.1), "mouth": (0, -0.062, 0.1)}
    places = np.array([*names.values(), (0, 0.05, 0.1), *(np.array([*names.values()]) * [1, 1, -1])], np.float32)
    left, right, mouth, *rest = colours([skin], np.zeros(7, int), places)
    plain = linear(skin.first)
    assert (left == right).all()
    assert left.sum() < 0.2 * plain.sum()
    assert mouth[1] / mouth[0] < 0.7 * plain[1] / plain[0]  # redder
    assert (np.array(rest) == plain).all()


def test_every_point_has_the_colour_of_its_own_material() -> None:
    materials = [Material(RED, folds=0), Material(BLUE, folds=0), Material((9, 9, 9), folds=0)]
    rows = np.array([1, 0, 1, 2, 0])
    found = colours(materials, rows, np.zeros((5, 3), np.float32))
    assert (found == np.stack([linear(materials[row].first) for row in rows])).all()
    assert colours(materials, rows[:0], np.zeros((0, 3), np.float32)).shape == (0, 3)


def test_light_is_linear() -> None:
    np.testing.assert_allclose(linear((0, 255, 128)), [0, 1, (128 / 255) ** 2.2], rtol=1e-6)


def test_wrong_materials_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"material.pattern: 'fur' is no pattern\. Remedy: choose one of plain, stri"):
        Material(RED, pattern="fur")
    for scale in (0, -1, float("nan")):
        with pytest.raises(ConfigError, match=rf"material.scale: {scale} is not positive\. Remedy: give 1 for a med"):
            Material(RED, scale=scale)

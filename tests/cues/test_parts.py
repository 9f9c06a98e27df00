"""Part maps: what the numbers mean, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from glimpse.cues.parts import ATR_18, LIMBS, LIP_20, PERSON, SCHEMES, PartMap, PartScheme
from glimpse.errors import ConfigError, DataError

FOUR = ("head", "upper", "lower", "shoes")


def test_the_known_schemes_number_labels_as_their_sources_do():
    assert (len(LIP_20.labels), len(ATR_18.labels), len(LIMBS.labels), len(PERSON.labels)) == (20, 18, 5, 2)
    assert {LIP_20.labels[5], LIP_20.labels[9], LIP_20.labels[13]} == {"upper_clothes", "pants", "face"}
    assert {ATR_18.labels[4], ATR_18.labels[6], ATR_18.labels[11]} == {"upper_clothes", "pants", "face"}
    assert set(SCHEMES) == {"lip-20", "atr-18", "limbs", "person"}


@pytest.mark.parametrize("scheme", [LIP_20, ATR_18, LIMBS])
def test_the_four_parts_share_no_label_and_all_are_of_the_body(scheme):
    assert scheme.has((*FOUR, "body"))
    rows = [row for part in FOUR for row in scheme.rows(part)]
    assert len(set(rows)) == len(rows)
    assert set(rows) <= set(scheme.rows("body")) == set(range(1, len(scheme.labels)))


def test_a_person_mask_does_not_tell_the_parts():
    assert PERSON.has(("body", "person"))
    assert not PERSON.has(("body", "head"))
    assert not PERSON.has(("background",))


@pytest.mark.parametrize("scheme", [LIP_20, ATR_18])
def test_left_and_right_trade_places_in_the_mirror(scheme):
    assert [(scheme.labels[a][5:], scheme.labels[b][6:]) for a, b in scheme.swap] == [
        (name, name) for name in (label[5:] for label in scheme.labels if label.startswith("left_"))
    ]


def test_a_group_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(ConfigError) as error:
        PERSON.rows("head")
    assert str(error.value) == "part maps 'person': have no part 'head'. Remedy: choose from body, person."


@pytest.mark.parametrize(
    ("labels", "groups", "said"),
    [
        (("background", "a", "a"), {}, "a label is named twice"),
        (("background",), {}, "at least 2 items"),
        (("background", "a"), {"b": ()}, "the group 'b' is empty"),
        (("background", "a"), {"b": ("background",)}, "the group 'b' is empty, is 'body', or holds what is no label"),
        (("background", "a"), {"body": ("a",)}, "the group 'body'"),
    ],
)
def test_what_is_no_scheme_is_refused(labels, groups, said):
    with pytest.raises(ValidationError, match=said):
        PartScheme(name="odd", labels=labels, groups=groups)


@given(arrays(np.int64, (4, 3), elements=st.integers(0, 19)), st.sampled_from([*FOUR, "body", "face"]))
def test_the_mask_of_a_part_has_the_pixels_of_its_labels(labels, part):
    found = PartMap(labels, LIP_20)
    assert found.size == (4, 3)
    assert found.labels.dtype == np.uint8
    names = LIP_20.groups.get(part, (part,)) if part != "body" else LIP_20.labels[1:]
    expected = [[LIP_20.labels[label] in names for label in row] for row in labels]
    assert found.mask(part).tolist() == expected


@pytest.mark.parametrize(
    ("labels", "cause"),
    [
        (np.zeros((2, 2, 3), np.uint8), "is an array [2, 2, 3] of uint8"),
        (np.zeros((2, 2)), "is an array [2, 2] of float64"),
        (np.zeros((0, 2), np.uint8), "is an array [0, 2] of uint8"),
        (np.array([[20]]), "has the label 20, and 'lip-20' ends at 19"),
        (np.array([[-1]]), "has the label -1, and 'lip-20' ends at 19"),
        (np.array([[300]]), "has the label 300, and 'lip-20' ends at 19"),
    ],
)
def test_what_is_no_part_map_is_named(labels, cause):
    with pytest.raises(DataError) as error:
        PartMap(labels, LIP_20)
    assert (error.value.where, error.value.cause) == ("part map", cause)
    assert error.value.remedy

"""Label PNGs and npz come in as they are; what is wrong is said."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from glimpse.cues import part_files
from glimpse.cues.part_files import read_parts
from glimpse.cues.parts import LIMBS, LIP_20, PERSON
from glimpse.cues.readers import matched
from glimpse.errors import DataError

LABELS = np.arange(20, dtype=np.uint8).reshape(5, 4)


def save(path, labels=LABELS, mode="L", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(labels)
    if mode == "P":
        picture.putpalette([255 - n % 256 for n in range(768)])
    elif mode != "L":
        picture = picture.convert(mode)
    picture.save(path, **options)


def said(path, **options) -> tuple[str, str]:
    with pytest.raises(DataError) as error:
        read_parts(path, **options)
    assert error.value.remedy
    return error.value.where, error.value.cause


def test_grey_and_palette_pngs_hold_labels(tmp_path):
    save(tmp_path / "query" / "a.png")
    save(tmp_path / "b.PNG", mode="P")
    save(tmp_path / "c.png", LABELS % 4, mode="P", bits=2)
    save(tmp_path / "d.jpg")
    file = read_parts(tmp_path)
    assert list(file.found) == ["b.PNG", "c.png", "query/a.png"]
    np.testing.assert_array_equal(file.found["query/a.png"].labels, LABELS)
    np.testing.assert_array_equal(file.found["b.PNG"].labels, LABELS)
    np.testing.assert_array_equal(file.found["c.png"].labels, LABELS % 4)
    assert file.found["b.PNG"].scheme == LIP_20
    assert file.problems == ()
    assert file.where["query/a.png"] == f"{tmp_path}/query/a.png"
    assert sorted(matched(file, {"query/a.jpg": 1, "b.jpg": 2, "x/c.jpg": 3}).found) == [
        "b.jpg",
        "query/a.jpg",
        "x/c.jpg",
    ]


def test_a_person_is_255_or_1(tmp_path):
    person = (LABELS % 2).astype(bool)
    save(tmp_path / "a.png", person * np.uint8(255))
    save(tmp_path / "b.png", person * np.uint8(1))
    save(tmp_path / "c.png", person * np.uint8(255), mode="1")
    save(tmp_path / "d.png", person * np.uint8(128))
    file = read_parts(tmp_path, scheme=PERSON)
    for name in ("a.png", "b.png", "c.png"):
        np.testing.assert_array_equal(file.found[name].labels, person)
    assert [one.cause for one in file.problems] == ["part map has the label 128, and 'person' ends at 1"]
    only = tmp_path / "limbs"
    save(only / "a.png", person * np.uint8(255))
    assert said(only, scheme=LIMBS)[1].startswith("part map has the label 255, and 'limbs' ends at 4")


def grey_png_of_4_bits(path):
    """Pillow does not write these: the header and one row, by hand."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 2, 1, 4, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\x00\x01")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def test_what_is_no_map_of_labels_is_left_out_and_named(tmp_path, monkeypatch):
    monkeypatch.setattr(part_files, "MAX_PIXELS", 100)
    save(tmp_path / "a.png")
    save(tmp_path / "colour.png", mode="RGB")
    save(tmp_path / "deep.png", LABELS.astype(np.uint16))
    grey_png_of_4_bits(tmp_path / "four.png")
    save(tmp_path / "high.png", LABELS + np.uint8(1))
    save(tmp_path / "jpeg.png", format="JPEG")
    save(tmp_path / "large.png", np.zeros((11, 10), np.uint8))
    save(tmp_path / "pale.png", mode="LA")
    (tmp_path / "short.png").write_bytes((tmp_path / "a.png").read_bytes()[:-30])
    (tmp_path / "text.png").write_text("no picture")
    file = read_parts(tmp_path)
    assert list(file.found) == ["a.png"]
    assert [(one.where.removeprefix(f"{tmp_path}/"), one.cause) for one in file.problems] == [
        ("colour.png", "is a colour picture (RGB), and not one of labels"),
        ("deep.png", "is in grey with 16 bits a pixel"),
        ("four.png", "is in grey with 4 bits a pixel"),
        ("high.png", "part map has the label 20, and 'lip-20' ends at 19"),
        ("jpeg.png", "is no PNG or is damaged (UnidentifiedImageError)"),
        ("large.png", "is 10 x 11 pixels, too large for a crop of a person"),
        ("pale.png", "is a colour picture (LA), and not one of labels"),
        ("short.png", "is no PNG or is damaged (OSError)"),
        ("text.png", "is no PNG or is damaged (UnidentifiedImageError)"),
    ]
    assert all(one.remedy for one in file.problems)


def test_paths_that_cannot_be_used_are_named(tmp_path):
    assert said(tmp_path) == (str(tmp_path), "holds no PNG")
    assert said(tmp_path / "none") == (str(tmp_path / "none"), "is neither a folder nor an npz file")
    assert said(tmp_path / "none.npz") == (str(tmp_path / "none.npz"), "cannot be read (No such file or directory)")
    save(tmp_path / "colour.png", mode="RGB")
    assert said(tmp_path) == (
        f"{tmp_path}/colour.png",
        "is a colour picture (RGB), and not one of labels; nothing else can be used",
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(arrays(np.uint8, (2, 4, 3), elements=st.integers(0, 19)))
def test_both_layouts_of_npz_say_the_same(tmp_path, labels):
    np.savez(tmp_path / "one.npz", names=np.array(["q/a.jpg", "b.jpg"]), labels=labels)
    np.savez(tmp_path / "each.npz", **{"q/a.jpg": labels[0], "b.jpg": labels[1]})
    for name in ("one.npz", "each.npz"):
        file = read_parts(tmp_path / name)
        assert list(file.found) == ["q/a.jpg", "b.jpg"]
        np.testing.assert_array_equal([one.labels for one in file.found.values()], labels)
        assert file.problems == ()


def test_crops_of_an_npz_may_differ_in_size(tmp_path):
    np.savez(tmp_path / "each.npz", **{"a.jpg": np.zeros((2, 3), int), "b.jpg": np.full((4, 1), 255)})
    file = read_parts(tmp_path / "each.npz", scheme=PERSON)
    assert {name: one.size for name, one in file.found.items()} == {"a.jpg": (2, 3), "b.jpg": (4, 1)}
    assert file.found["b.jpg"].labels.all()


def test_wrong_arrays_are_named(tmp_path):
    path = tmp_path / "maps.npz"
    np.savez(path, **{"a.jpg": LABELS, "b.jpg": LABELS + 1, "c.jpg": LABELS / 2})
    file = read_parts(path)
    assert list(file.found) == ["a.jpg"]
    assert [(one.where, one.cause) for one in file.problems] == [
        (f"{path}, 'b.jpg'", "part map has the label 20, and 'lip-20' ends at 19"),
        (f"{path}, 'c.jpg'", "part map is an array [5, 4] of float64"),
    ]
    np.savez(path, names=np.array(["a.jpg", "a.jpg", ""]), labels=np.stack([LABELS] * 3))
    assert [one.cause for one in read_parts(path).problems] == [
        f"is of 'a.jpg', as is {path}, 'a.jpg'",
        "does not name its crop",
    ]
    np.savez(path, names=np.array(["a.jpg"]), labels=LABELS)
    assert said(path) == (str(path), "names is [1] of <U5 and labels [5, 4] of uint8")

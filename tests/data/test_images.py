from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from glimpse.data.images import BACKDROP, decode, read_all, read_image
from glimpse.data.samples import Sample
from glimpse.data.stores import FolderStore
from glimpse.errors import DataError


def picture(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (8, 16)) -> bytes:
    return saved(Image.new("RGB", size, colour), "JPEG")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def stripes() -> Image.Image:
    """Left half red, right half blue; 4 wide, 6 high."""
    image = Image.new("RGB", (4, 6), (255, 0, 0))
    image.paste((0, 0, 255), (2, 0, 4, 6))
    return image


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_formats_without_loss(kind: str) -> None:
    image = decode(saved(stripes(), kind), "x")
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(stripes()))


def test_webp() -> None:
    assert np.array_equal(np.asarray(decode(saved(stripes(), "WEBP", lossless=True), "x")), np.asarray(stripes()))


def test_jpeg_is_close() -> None:
    pixels = np.asarray(decode(picture((200, 30, 30)), "x")).reshape(-1, 3)
    assert np.abs(pixels.astype(int) - [200, 30, 30]).max() <= 3


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 100, (100, 100, 100)),
        ("1", 1, (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("I;16", 256 * 100 + 77, (100, 100, 100)),
    ],
)
def test_other_modes_become_rgb(mode: str, colour: object, expected: tuple[int, ...]) -> None:
    image = decode(saved(Image.new(mode, (2, 2), colour), "TIFF"), "x")  # type: ignore[arg-type]
    assert image.mode == "RGB"
    assert image.getpixel((1, 1)) == expected


def test_sixteen_bit_png_is_scaled_not_clipped() -> None:
    image = decode(saved(Image.fromarray(np.full((2, 2), 32896, np.uint16)), "PNG"), "x")
    assert image.getpixel((0, 0)) == (128, 128, 128)


def test_transparent_pixels_show_the_backdrop() -> None:
    rgba = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    rgba.putpixel((1, 0), (0, 255, 0, 255))
    image = decode(saved(rgba, "PNG"), "x")
    assert image.getpixel((0, 0)) == BACKDROP
    assert image.getpixel((1, 0)) == (0, 255, 0)


def test_palette_with_transparency() -> None:
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([9, 9, 9, 0, 255, 0])
    palette.putpixel((0, 0), 0)
    image = decode(saved(palette, "PNG", transparency=0), "x")
    assert image.getpixel((0, 0)) == BACKDROP
    assert image.getpixel((1, 0)) == (0, 255, 0)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to see it upright
    image = decode(saved(stripes(), "PNG", exif=exif), "x")
    assert image.size == (6, 4)
    assert image.getpixel((0, 0)) == (255, 0, 0)
    assert image.getpixel((0, 3)) == (0, 0, 255)


def test_first_frame_of_several() -> None:
    frames = [Image.new("RGB", (2, 2), (250, 0, 0)), Image.new("RGB", (2, 2), (0, 0, 250))]
    data = saved(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    assert decode(data, "x").getpixel((0, 0)) == (250, 0, 0)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "the file is empty"),
        (b"hello, this is text", "is not a picture of a format that is read"),
        (picture()[:200], r"the file is truncated|the picture is damaged"),
        (picture(size=(64, 128))[:-200], "the file is truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a picture of a format that is read"),
        (saved(Image.new("F", (2, 2), 0.5), "TIFF"), "has 32-bit pixels"),
    ],
    ids=["empty", "text", "header only", "truncated", "postscript", "float"],
)
def test_bad_files_say_what_is_wrong(data: bytes, cause: str) -> None:
    with pytest.raises(DataError, match=f"^a/b.jpg: ({cause})") as caught:
        decode(data, "a/b.jpg")
    assert "Remedy: " in str(caught.value)


def test_damaged_png() -> None:
    data = bytearray(saved(stripes(), "PNG"))
    data[data.index(b"IDAT") + 6] ^= 0xFF
    with pytest.raises(DataError, match=r"^x: the picture is damaged"):
        decode(bytes(data), "x")


@pytest.mark.filterwarnings("ignore")
def test_any_flipped_byte_gives_a_picture_or_a_data_error() -> None:
    for whole in (saved(stripes(), "PNG"), picture(), saved(stripes(), "TIFF"), saved(stripes(), "BMP")):
        for place in range(0, len(whole), 3):
            data = bytearray(whole)
            data[place] ^= 0xFF
            try:
                image = decode(bytes(data), "x")
            except DataError:
                continue
            assert image.mode == "RGB"


def test_a_huge_picture_is_refused_before_it_is_decoded() -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(DataError, match="9000 x 9000, too large for a crop"):
        decode(data, "x")


def test_read_all_stops_or_lists_what_is_bad(folder) -> None:
    root = folder(["1.jpg", "3.jpg"])
    (root / "2.jpg").write_bytes(b"")
    store = FolderStore(root)
    samples = [Sample(store, f"{row}.jpg", row) for row in (1, 2, 3, 4)]
    with pytest.raises(DataError, match=r"2\.jpg: the file is empty"):
        read_all(samples)
    done: list[int] = []
    read = read_all(samples, skip_bad=True, progress=done.append)
    assert read.kept == [0, 2]
    assert [image.size for image in read.images] == [(8, 16)] * 2
    assert [error.where.rpartition("/")[2] for error in read.bad] == ["2.jpg", "4.jpg"]
    assert done == [1, 2, 3, 4]
    assert read_image(samples[0]).size == (8, 16)

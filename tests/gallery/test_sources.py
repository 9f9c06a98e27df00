"""Crops read again from where they came, and galleries embedded anew."""

from __future__ import annotations

import csv
import io
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colours import Colours, coming, crowd
from PIL import Image

from glimpse.errors import DataError, GalleryError
from glimpse.gallery import Ask, Filter, Gallery, open_incoming, open_mot, sources
from glimpse.gallery.incoming import Incoming, file_content
from glimpse.gallery.rows import Crop
from glimpse.gallery.sources import again, picture_of, pictures_of, read_bytes

MODEL: Any = Colours()


def png(seed: int, size: tuple[int, int] = (32, 64)) -> bytes:
    """Noise in blocks, so that cuts differ and videos keep them apart."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(file, "PNG")
    return file.getvalue()


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path


def from_folder(root: Path) -> Path:
    """Files with names that tell person, camera and frame."""
    (root / "crops" / "deep").mkdir(parents=True)
    (root / "crops" / "0001_c1s1_000451_03.png").write_bytes(png(1))
    (root / "crops" / "deep" / "0002_c2s1_000100_00.png").write_bytes(png(2))
    return root / "crops"


def from_zip(root: Path) -> Path:
    return zipped(root / "crops.zip", {"a/0001_c1s1_000451_03.png": png(3), "b.zip.d/c.png": png(4)})


def from_zip_in_zip(root: Path) -> Path:
    inner = zipped(root / "inner", {"a/b.png": png(5), "c.png": png(6)})
    zipped(root / "outer.zip", {"x/Inner.ZIP": inner.read_bytes(), "loose.png": png(7)})
    inner.unlink()
    return root / "outer.zip" / "x" / "Inner.ZIP"


def from_list(root: Path) -> Path:
    """A picture that is a crop as a whole, and two boxes of it, and another picture."""
    (root / "a.png").write_bytes(png(8, (64, 64)))
    (root / "b.png").write_bytes(png(9))
    rows = [
        ("a.png", "anna", "door", "12.5", "t1", "red;hat", "", "", "", ""),
        ("a.png", "bob", "door", "13", "", "", "3", "4.4", "30", "60"),
        ("b.png", "", "", "", "", "", "", "", "", ""),
        ("a.png", "", "", "", "", "x", "-5", "0", "20.6", "99"),
    ]
    with open(root / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "pid", "camera", "time", "track", "tags", "x0", "y0", "x1", "y1"), *rows])
    return root / "list.csv"


BOXES = "1,7,3,4,30,40,1,-1,-1,-1\n2,7,5,4,30,40,1,-1,-1,-1\n2,8,40,10,20,30,1,-1,-1,-1\n4,7,8,4,30,40,1,-1,-1,-1\n"


def boxes(root: Path) -> Path:
    (root / "boxes.txt").write_text(BOXES)
    return root / "boxes.txt"


def frames(root: Path) -> dict[str, bytes]:
    return {f"{number:06}.png": png(20 + number, (64, 64)) for number in range(1, 5)}


Opened = Callable[[Path], Any]


def mot_folder(root: Path) -> Any:
    (root / "img1").mkdir()
    for name, data in frames(root).items():
        (root / "img1" / name).write_bytes(data)
    return open_mot(boxes(root), root / "img1")


def mot_zip(root: Path) -> Any:
    return open_mot(boxes(root), zipped(root / "frames.zip", frames(root)))


def mot_video(root: Path) -> Any:
    return open_mot(boxes(root), video(root / "street.mkv"))


def video(path: Path, numbers: Sequence[int] = (1, 2, 3, 4, 5, 6)) -> Path:
    av = pytest.importorskip("av", reason="needs PyAV (the extra video)")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in numbers:
            picture = Image.open(io.BytesIO(png(20 + number, (64, 64))))
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return path


KINDS: dict[str, tuple[Opened, str]] = {
    "folder": (lambda root: open_incoming(from_folder(root)), "crops/0001_c1s1_000451_03.png"),
    "zip": (lambda root: open_incoming(from_zip(root)), "crops.zip"),
    "zip in zip": (lambda root: open_incoming(from_zip_in_zip(root)), "outer.zip"),
    "list": (lambda root: open_incoming(from_list(root)), "a.png"),
    "mot folder": (mot_folder, "img1/000002.png"),
    "mot zip": (mot_zip, "frames.zip"),
    "mot video": (mot_video, "street.mkv"),
}


def good(found: Sequence[Incoming | DataError]) -> list[Incoming]:
    assert [each for each in found if isinstance(each, DataError)] == []
    return [each for each in found if isinstance(each, Incoming)]


def filled(root: Path, kind: str, **how: Any) -> tuple[Gallery, list[Incoming]]:
    """A gallery of crops of that kind, and what they were when they came."""
    crops = list(KINDS[kind][0](root))
    gallery = Gallery.create(root / "g", MODEL, **how)
    assert gallery.add(MODEL, crops).added == len(crops)
    return gallery, good(crops)


@pytest.mark.parametrize("kind", KINDS)
def test_crops_come_again_as_they_came(tmp_path: Path, kind: str) -> None:
    gallery, came = filled(tmp_path, kind)
    back = good(list(again(gallery.crops())))
    assert {crop.content: crop for crop in back} == {crop.content: crop for crop in came}
    pictures = {crop.content: crop.read() for crop in came}
    assert all(crop.read() == pictures[crop.content] for crop in back)
    shown = pictures_of(gallery.crops(), [None] * len(came))
    assert shown == [pictures[crop.id] for crop in gallery.crops()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gone", [True, False])
def test_what_is_gone_or_changed_is_said_for_each_crop(tmp_path: Path, kind: str, gone: bool) -> None:
    gallery, came = filled(tmp_path, kind)
    file = tmp_path / KINDS[kind][1]
    whole = file.read_bytes()
    file.unlink()
    if not gone and file.suffix == ".zip":
        zipped(file, {crop.source.removeprefix(f"{file}/"): png(99) for crop in came})
    elif not gone and file.suffix == ".mkv":
        video(file, (11, 12))
    elif not gone:
        file.write_bytes(png(99, (64, 64)))
    found = list(again(gallery.crops()))
    hit = [crop for crop in came if crop.source.startswith(str(file))]
    errors = [each for each in found if isinstance(each, DataError)]
    assert len(errors) == len(hit) > 0
    assert {crop.content for crop in found if isinstance(crop, Incoming)} == {
        crop.content for crop in came if crop not in hit
    }
    for error in errors:
        assert error.where in [crop.source for crop in hit]
        assert error.cause
        assert error.remedy
    assert [image is None for image in pictures_of(gallery.crops(), [None] * len(came))].count(True) == len(hit)
    file.write_bytes(whole)
    good(list(again(gallery.crops())))


def test_what_is_said(tmp_path: Path) -> None:
    brought = "bring the file back to where it was, or delete the crop from the gallery"
    image = coming(tmp_path / "a.png", crowd(1)[0])
    crop = Crop(id=image.content, source=image.source)
    (tmp_path / "a.png").write_bytes(png(1))
    zipped(tmp_path / "a.zip", {"b.png": png(1)})
    box = (0.0, 0.0, 8.0, 8.0)
    cases = {
        crop: "is not the file any more that was added",
        crop.model_copy(update={"box": box}): "does not show any more what was cut from it",
        crop.model_copy(update={"box": (90.0, 0.0, 99.0, 9.0)}): "does not show any more what was cut from it",
        crop.model_copy(update={"source": f"{tmp_path}/b.png"}): "there is no such file any more",
        crop.model_copy(update={"source": f"{tmp_path}/a.zip/c.png"}): "there is no such file in the zip any more",
        crop.model_copy(update={"source": None}): "nothing says where the crop came from",
    }
    for each, cause in cases.items():
        (error,) = again([each])
        assert isinstance(error, DataError)
        assert (error.where, error.cause, error.remedy) == (each.source or each.id, cause, brought)


def test_a_path_that_is_not_absolute_says_from_where_it_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "crops").mkdir()
    (tmp_path / "crops" / "a.png").write_bytes(png(1))
    crop = Crop(id=file_content(png(1)), source="crops/a.png")
    good(list(again([crop])))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (error,) = again([crop])
    assert isinstance(error, DataError)
    assert error.cause == f"there is no such file in {tmp_path}/elsewhere, from where it is looked for"
    assert error.remedy.startswith("go to the folder that it was added from, ")


def test_each_zip_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, _ = filled(tmp_path, "zip in zip")
    more = [coming(tmp_path / "x.png", crowd(1)[0]), *open_incoming(tmp_path / "outer.zip")]
    gallery.add(MODEL, more)
    opened: list[str] = []
    store = sources.ZipStore

    def counting(path: str, inner: str | None = None) -> Any:
        opened.append(inner or path)
        return store(path, inner)

    monkeypatch.setattr(sources, "ZipStore", counting)
    assert len(good(list(again(gallery.crops())))) == 4
    assert sorted(opened) == [str(tmp_path / "outer.zip"), "x/Inner.ZIP"]


def test_each_picture_and_video_is_read_once_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, came = filled(tmp_path, "mot video")
    (tmp_path / "list").mkdir()
    listed, _ = filled(tmp_path / "list", "list")
    crops = gallery.crops()[::-1]
    crops = [each for pair in zip(crops, listed.crops(), strict=True) for each in pair]  # as two processes add them
    decoded: list[str] = []
    of_video: list[str] = []
    decode, opened = sources.decode, sources.Video

    def counting(data: bytes, where: str) -> Image.Image:
        decoded.append(where)
        return decode(data, where)

    def opening(path: str) -> Any:
        of_video.append(path)
        return opened(path)

    monkeypatch.setattr(sources, "decode", counting)
    monkeypatch.setattr(sources, "Video", opening)
    back = good(list(again(crops)))
    assert {crop.content for crop in back} == {crop.id for crop in crops}
    assert decoded == [f"{tmp_path}/list/a.png"]
    assert of_video == [f"{tmp_path}/street.mkv"]
    assert len(came) == 4


def test_without_the_extra_videos_are_left_out_and_the_rest_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery, came = filled(tmp_path, "mot video")
    gallery.add(MODEL, [coming(tmp_path / "x.png", crowd(1)[0])])
    monkeypatch.setitem(sys.modules, "av", None)
    found = list(again(gallery.crops()))
    errors = [each for each in found if isinstance(each, DataError)]
    assert len(errors) == len(came)
    assert {error.remedy for error in errors} == {"install the extra: pip install 'glimpse-reid[video]'"}
    assert len(found) == len(came) + 1
    shown = pictures_of(gallery.crops(), [None] * 5)
    assert [image is not None for image in shown] == [False] * 4 + [True]


def test_thumbnails_come_first_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    crop_, other = coming(tmp_path / "a.png", crowd(1)[0]), crowd(2)[1]
    crop = Crop(id=crop_.content, source=crop_.source)
    file = io.BytesIO()
    other.save(file, "PNG")
    assert picture_of(crop, file.getvalue()) == other
    assert picture_of(crop, b"no picture") == crowd(1)[0]
    assert picture_of(crop, None) == crowd(1)[0]
    assert picture_of(crop.model_copy(update={"source": None}), b"no picture") is None


def test_files_and_files_in_zips_are_read(tmp_path: Path) -> None:
    from_zip_in_zip(tmp_path)
    assert read_bytes(str(tmp_path / "outer.zip" / "loose.png")) == png(7)
    assert read_bytes(str(tmp_path / "outer.zip" / "x" / "Inner.ZIP" / "a" / "b.png")) == png(5)
    assert zipfile.is_zipfile(io.BytesIO(read_bytes(str(tmp_path / "outer.zip" / "x" / "Inner.ZIP"))))
    with pytest.raises(DataError, match=r"Inner\.ZIP/z\.png: there is no such file in the zip"):
        read_bytes(str(tmp_path / "outer.zip" / "x" / "Inner.ZIP" / "z.png"))
    (tmp_path / "text").write_text("no zip")
    with pytest.raises(DataError, match="is not a zip"):
        read_bytes(str(tmp_path / "text" / "a.png"))


# ---------------------------------------------------------------- embedding anew


NEW: Any = Colours("colours@2")


@pytest.mark.parametrize("kind", KINDS)
def test_a_gallery_embedded_anew_knows_what_the_old_one_knew(tmp_path: Path, kind: str) -> None:
    gallery, came = filled(tmp_path, kind, thumbnails=24)
    gallery.update(Filter(ids=(came[0].content,)), {"pid": "changed", "tags": ("late",)})
    done: list[int] = []
    new, added = gallery.re_embed(tmp_path / "new", NEW, progress=done.append)
    assert (added.added, added.known, added.bad, sum(done)) == (len(came), 0, (), len(came))
    assert (new.info.made_by, new.info.thumbnails) == ("colours@2", 24)

    def facts(each: Gallery) -> dict[str, Crop]:
        return {crop.id: crop.model_copy(update={"added": None}) for crop in each.crops()}

    assert facts(new) == facts(gallery)
    picture = came[0].read()
    for each, model in ((gallery, MODEL), (new, NEW)):
        assert each.search(model, picture, Ask(top=1))[0].crop.pid == "changed"
        assert each.thumbnail(int(each.table.row_ids()[0])) is not None
    assert new.verify().problems == ()


def test_it_can_be_stopped_and_done_again(tmp_path: Path) -> None:
    crops = [coming(tmp_path / f"{i:02}.png", image, pid=str(i)) for i, image in enumerate(crowd(30))]
    gallery = Gallery.create(tmp_path / "g", MODEL)
    gallery.add(MODEL, crops)
    (tmp_path / "03.png").rename(tmp_path / "kept.png")
    stopped: Any = Colours("colours@2")

    def stream(given: Any) -> Any:
        for row, each in enumerate(Colours.embed_stream(stopped, given)):
            if row == 12:
                raise KeyboardInterrupt
            yield each

    stopped.embed_stream = stream
    with pytest.raises(KeyboardInterrupt):
        gallery.re_embed(tmp_path / "new", stopped)
    assert len(Gallery.open(tmp_path / "new")) == 12
    again_: Any = Colours("colours@2")
    new, added = gallery.re_embed(tmp_path / "new", again_)
    assert (added.added, added.known) == (17, 12)
    assert again_.embedded == 17
    assert [error.where for error in added.bad] == [f"{tmp_path}/03.png"]
    (tmp_path / "kept.png").rename(tmp_path / "03.png")
    new, added = gallery.re_embed(tmp_path / "new", again_)
    assert (added.added, added.known, added.bad) == (1, 29, ())
    assert {crop.pid for crop in new.crops()} == {str(i) for i in range(30)}


def test_a_gallery_of_still_other_weights_is_not_added_to(tmp_path: Path) -> None:
    gallery, _ = filled(tmp_path, "folder")
    third: Any = Colours("colours@3")
    Gallery.create(tmp_path / "new", third)
    with pytest.raises(GalleryError, match="holds embeddings of the weights colours@3, and these are of colours@2"):
        gallery.re_embed(tmp_path / "new", NEW)
    with pytest.raises(GalleryError, match="holds embeddings of the weights colours@1, and these are of colours@2"):
        gallery.re_embed(tmp_path / "g", NEW)
    assert len(gallery) == 2

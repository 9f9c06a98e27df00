from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colours import Colours, coming
from PIL import Image

from glimpse.errors import ConfigError
from glimpse.gallery import Ask, Crop, Filter, Gallery, write_report
from glimpse.gallery.answers import Answer
from glimpse.synthetic.people import render_person

MODEL: Any = Colours()


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rendered people: three in a gallery without thumbnails, and another crop of the first."""
    folder = tmp_path_factory.mktemp("report")
    crops = [
        coming(folder / f"{pid:04}.png", render_person(pid).image, pid=f"p<{pid}>", camera="1", time=60.0 * pid)
        for pid in (1, 2, 3)
    ]
    render_person(1, 1).image.save(folder / "query.png")
    for name, height in (("plain", 0), ("small", 32)):
        Gallery.create(folder / name, MODEL, thumbnails=height).add(MODEL, crops)
    return folder


def search(gallery: Path, query: Any, ask: Ask | None = None, **how: Any) -> Answer:
    return Gallery.open(gallery, audit=False).search(MODEL, query, ask or Ask(pictures=True), **how)


def page_of(folder: Path, *answers: Answer, command: str = "") -> str:
    write_report(folder / "hits.html", answers, MODEL.regions, command=command)
    return (folder / "hits.html").read_text(encoding="utf-8")


def drawn(page: str) -> list[Image.Image]:
    """The pictures in a page, the query first."""
    found = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(each))) for each in found]


def far(a: Image.Image, b: Image.Image) -> float:
    """Mean difference of two pictures at the size of the second."""
    difference = np.asarray(a.convert("RGB").resize(b.size), float) - np.asarray(b.convert("RGB"), float)
    return float(np.abs(difference).mean())


@pytest.mark.parametrize(("gallery", "height"), [("plain", 128), ("small", 32)])
def test_it_shows_the_query_and_the_hits(people: Path, tmp_path: Path, gallery: str, height: int) -> None:
    answer = search(people / gallery, people / "query.png", visible=(0, 0, 64, 96))
    query, *hits = drawn(page_of(tmp_path, answer))
    assert query.size == (64, 128)
    assert [picture.height for picture in hits] == [height] * 3
    for picture, hit in zip(hits, answer, strict=True):
        own = Image.open(hit.crop.source or "")
        others = [Image.open(other.crop.source or "") for other in answer if other is not hit]
        assert far(own, picture) < min(far(other, picture) for other in others)


def test_what_cannot_be_shown_is_said_so_and_thumbnails_outlive_their_files(people: Path, tmp_path: Path) -> None:
    moved = people / "0002.png"
    data = moved.read_bytes()
    moved.unlink()
    try:
        page = page_of(tmp_path, search(people / "plain", people / "query.png"))
        assert len(drawn(page)) == 3
        assert page.count("cannot be shown") == 1
        moved.write_bytes((people / "0003.png").read_bytes())  # another picture under the old name
        assert page_of(tmp_path, search(people / "plain", people / "query.png")).count("cannot be shown") == 1
        assert len(drawn(page_of(tmp_path, search(people / "small", people / "query.png")))) == 4
    finally:
        moved.write_bytes(data)


@pytest.mark.parametrize("gallery", ["plain", "small"])
def test_a_crop_of_the_gallery_is_shown_as_the_query(people: Path, tmp_path: Path, gallery: str) -> None:
    first = Gallery.open(people / gallery, audit=False).crops()[0]
    query, *hits = drawn(page_of(tmp_path, search(people / gallery, Crop(id=first.id))))
    assert far(Image.open(people / "0001.png"), query) < 12
    assert len(hits) == 2


def test_it_loads_nothing_and_escapes_what_it_shows(people: Path, tmp_path: Path) -> None:
    where = Filter(cameras=("1", "<script>"), after=30.0)
    answer = search(people / "plain", people / "query.png", Ask(pictures=True, where=where, group="pid"))
    page = page_of(tmp_path, answer, command="glimpse gallery search '<b>'")
    assert not re.findall(r"<(?:script|link|iframe|object|embed)\b", page)
    assert {address.partition(":")[0] for address in re.findall(r'(?:src|href)="([^"]*)"', page)} == {"data"}
    assert "url(" not in page
    assert "@import" not in page
    assert "<title>Search for query.png</title>" in page
    assert "cameras 1, &lt;script&gt;; after 30" in page
    assert "person p&lt;1&gt;, camera 1, time 60, 1 crop" in page
    assert "glimpse gallery search &#39;&lt;b&gt;&#39;" in page
    assert f"{answer.gallery} (3 crops compared, exact)" in page


def test_names_persons_and_notes_are_shown(people: Path, tmp_path: Path) -> None:
    answer = search(people / "plain", people / "0002.png")
    page = page_of(tmp_path, answer)
    assert "1 crop of the gallery left out: the query itself." in page
    assert ">0001.png</span>" in page
    assert "p&lt;2&gt;" not in page
    two = page_of(tmp_path, answer, search(people / "plain", people / "query.png"))
    assert "<title>Search for 2 queries</title>" in two
    assert len(drawn(two)) == 3 + 4


def test_an_empty_answer_is_a_page_too(people: Path, tmp_path: Path) -> None:
    ask = Ask(pictures=True, where=Filter(pids=("nobody",)))
    page = page_of(tmp_path, search(people / "plain", people / "query.png", ask))
    assert "Nothing was compared: no crop fits." in page
    assert len(drawn(page)) == 1


def test_a_page_takes_no_folders_place(people: Path, tmp_path: Path) -> None:
    (tmp_path / "hits.html").mkdir()
    with pytest.raises(ConfigError, match=r"hits\.html: is a folder, and a file is to be written there"):
        page_of(tmp_path, search(people / "plain", people / "query.png"))

"""What a filter leaves, against a loop over all crops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numbered import create, embedded, id_of, known

from glimpse.errors import ConfigError
from glimpse.gallery.filters import ALL, Filter
from glimpse.gallery.rows import Crop
from glimpse.gallery.store import Gallery

ODD = (
    "it's",
    "''",
    '"',
    "a\\b",
    "\\'",
    "--",
    "a;b",
    "`x`",
    "%",
    "_",
    "NULL",
    "",
    " ",
    "a\nb",
    "\x00",
    "né☃",
    "$1",
    "{}",
)


def _named(number: int, name: str) -> Crop:
    return Crop(id=id_of(number), pid=name, camera=name, track=name, source=name, tags=(name, "odd"), time=-0.5)


CROPS = [known(n) for n in range(30)] + [_named(100 + i, name) for i, name in enumerate(ODD)]


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    made = create(tmp_path_factory.mktemp("filters") / "gallery", audit=False)
    made.add_embedded(embedded(range(len(CROPS))), CROPS)
    return made


def fits(crop: Crop, f: Filter) -> bool:
    return (
        (not f.ids or crop.id in f.ids)
        and (not f.pids or crop.pid in f.pids)
        and (not f.cameras or crop.camera in f.cameras)
        and (not f.tracks or crop.track in f.tracks)
        and (not f.sources or crop.source in f.sources)
        and (crop.camera is None or crop.camera not in f.not_cameras)
        and (crop.source is None or crop.source not in f.not_sources)
        and crop.id not in f.not_ids
        and (f.after is None or (crop.time is not None and crop.time >= f.after))
        and (f.before is None or (crop.time is not None and crop.time < f.before))
        and all(tag in crop.tags for tag in f.tags)
    )


def some(of: Callable[[Crop], str | None]) -> st.SearchStrategy[tuple[str, ...]]:
    values = sorted({value for crop in CROPS if (value := of(crop)) is not None})
    return st.just(()) | st.lists(st.sampled_from([*values, "nowhere"]), max_size=12).map(tuple)


TIMES = st.none() | st.sampled_from([-0.5, 0.0, 10.0, 95.0, 280.0, 1e-9, 1e22, -1e300])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_filter_leaves_what_fits(gallery: Gallery, data: st.DataObject) -> None:
    draw = data.draw
    after, before = draw(TIMES), draw(TIMES)
    if after is not None and before is not None and after >= before:
        before = None
    chosen = Filter(
        ids=draw(some(lambda c: c.id)),
        pids=draw(some(lambda c: c.pid)),
        cameras=draw(some(lambda c: c.camera)),
        tracks=draw(some(lambda c: c.track)),
        sources=draw(some(lambda c: c.source)),
        not_cameras=draw(some(lambda c: c.camera)),
        not_sources=draw(some(lambda c: c.source)),
        not_ids=draw(some(lambda c: c.id)),
        after=after,
        before=before,
        tags=draw(st.lists(st.sampled_from(["even", "third", "odd", *ODD]), max_size=2).map(tuple)),
    )
    assert [crop.id for crop in gallery.crops(chosen)] == [crop.id for crop in CROPS if fits(crop, chosen)]


@pytest.mark.parametrize("name", ODD)
def test_any_text_can_be_a_name(gallery: Gallery, name: str) -> None:
    for chosen in (Filter(pids=(name,)), Filter(tags=(name,)), Filter(sources=(name,)), Filter(tracks=(name,))):
        assert [crop.pid for crop in gallery.crops(chosen)] == [name]
    assert len(gallery.crops(Filter(not_cameras=(name,)))) == len(CROPS) - 1


def test_what_is_not_known_is_no_reason_to_leave_out() -> None:
    assert sum(crop.camera is None for crop in CROPS) == 6
    assert [fits(crop, Filter(not_cameras=("c0", "c1", "c2"))) for crop in CROPS[:5]] == [False] * 4 + [True]


def test_whether_a_filter_says_anything() -> None:
    assert Filter().empty
    assert ALL.sql() == ""
    assert not Filter(after=0.0).empty
    assert Filter(after=0.0, tags=("a",)).said() == {"after": 0.0, "tags": ("a",)}


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"after": float("nan")}, r"after: nan is no time\. Remedy: give seconds as a number\."),
        ({"before": float("inf")}, r"before: inf is no time\. Remedy"),
        ({"after": 2.0, "before": 2.0}, r"after: 2 is not before 2\. Remedy: give after < before\."),
        ({"pids": ("\udcff",)}, r"pids: '\\udcff' cannot be written in UTF-8\. Remedy: correct the name\."),
    ],
)
def test_what_is_no_filter(given_: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Filter(**given_)  # type: ignore[arg-type]


def test_times_of_any_kind_of_number(gallery: Gallery) -> None:
    assert Filter(after=np.float64(1.5), before=2).sql() == "time >= 1.5 AND time < 2.0"
    assert len(gallery.crops(Filter(before=np.float32(10.0)))) == 1 + len(ODD)  # type: ignore[arg-type]

"""Which crops of a gallery are meant: by camera, time, tags, person, track, source or id."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from glimpse.errors import ConfigError
from glimpse.gallery.rows import in_utf8


@dataclass(frozen=True, slots=True)
class Filter:
    """Crops that fit all that is given; all crops if nothing is.

    A crop whose camera (time, source) is not known fits neither a demand for one nor is it left out by
    `not_cameras` (`not_sources`); it does not fit a range of time.

    Args:
        ids, pids, cameras, tracks, sources: one of these.
        not_cameras, not_sources, not_ids: none of these.
        after, before: time in seconds, `after <= time < before`.
        tags: all of these.

    Raises:
        ConfigError: a time is not finite, the range is empty, or a text cannot be written in UTF-8.

    >>> Filter(cameras=("door",), tags=("rain",), not_sources=("it's.jpg",)).sql()
    "camera IN ('door') AND (source IS NULL OR source NOT IN ('it''s.jpg')) AND array_contains(tags, 'rain')"
    >>> Filter().sql()
    ''
    """

    ids: tuple[str, ...] = ()
    pids: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    tracks: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    not_cameras: tuple[str, ...] = ()
    not_sources: tuple[str, ...] = ()
    not_ids: tuple[str, ...] = ()
    after: float | None = None
    before: float | None = None
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("after", "before"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ConfigError(name, f"{value} is no time", "give seconds as a number")
        if self.after is not None and self.before is not None and self.after >= self.before:
            raise ConfigError("after", f"{self.after:g} is not before {self.before:g}", "give after < before")
        for name, values in self.said().items():
            for text in values if isinstance(values, tuple) else ():
                try:
                    in_utf8(text)
                except ValueError as error:
                    raise ConfigError(name, str(error), "correct the name") from error

    @property
    def empty(self) -> bool:
        """Whether it leaves nothing out."""
        return not self.said()

    def sql(self) -> str:
        """As a condition on the table's columns; empty if all crops fit."""
        said = []
        for name in ("ids", "pids", "cameras", "tracks", "sources"):
            values = getattr(self, name)
            if values:
                said.append(f"{name[:-1]} IN ({_list(values)})")
        for name in ("cameras", "sources", "ids"):
            values, column = getattr(self, f"not_{name}"), name[:-1]
            if values:
                said.append(f"({column} IS NULL OR {column} NOT IN ({_list(values)}))")
        if self.after is not None:
            said.append(f"time >= {float(self.after)!r}")
        if self.before is not None:
            said.append(f"time < {float(self.before)!r}")
        said += [f"array_contains(tags, {quoted(tag)})" for tag in self.tags]
        return " AND ".join(said)

    def said(self) -> dict[str, object]:
        """What is given, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value
            for name, value in values.items()
            if not (value is None or (isinstance(value, tuple) and not value))
        }


ALL = Filter()
"""Every crop."""


def quoted(text: str) -> str:
    """As a text in SQL.

    >>> quoted("it's")
    "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"


def _list(values: tuple[str, ...]) -> str:
    return ", ".join(map(quoted, values))

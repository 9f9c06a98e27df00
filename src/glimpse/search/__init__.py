"""Searching a folder of crops for a person, and saying what each hit hangs on.

The room is named after its one verb, so the module itself can be called: `glimpse.search(model, query, gallery)`
is `glimpse.search.search(model, query, gallery)`, whichever of the two was imported first.
"""

from __future__ import annotations

import sys
from types import ModuleType

from glimpse.data.visible import Prompt, read_visible
from glimpse.search.gallery import Gallery, embed_gallery, load_gallery
from glimpse.search.hits import Hit, SearchResult
from glimpse.search.records import SearchRecord, schema
from glimpse.search.report import write_report
from glimpse.search.run import search

__all__ = [
    "Gallery",
    "Hit",
    "Prompt",
    "SearchRecord",
    "SearchResult",
    "embed_gallery",
    "load_gallery",
    "read_visible",
    "schema",
    "search",
    "write_report",
]


class _Callable(ModuleType):
    """A module that is called as its function `search`."""

    __call__ = staticmethod(search)


sys.modules[__name__].__class__ = _Callable

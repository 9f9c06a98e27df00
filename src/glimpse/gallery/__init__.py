"""The persistent store of crops and the search over it."""

from glimpse.gallery.answers import Answer, Found
from glimpse.gallery.exact import Probes, Ranked
from glimpse.gallery.filters import Filter
from glimpse.gallery.incoming import Incoming, IncomingCrops, open_incoming
from glimpse.gallery.mot import MotOptions, open_mot
from glimpse.gallery.port import export, import_into
from glimpse.gallery.report import write_report
from glimpse.gallery.rows import Crop
from glimpse.gallery.search import Ask, search_gallery
from glimpse.gallery.store import Added, Gallery, Info, Verified

__all__ = [
    "Added",
    "Answer",
    "Ask",
    "Crop",
    "Filter",
    "Found",
    "Gallery",
    "Incoming",
    "IncomingCrops",
    "Info",
    "MotOptions",
    "Probes",
    "Ranked",
    "Verified",
    "export",
    "import_into",
    "open_incoming",
    "open_mot",
    "search_gallery",
    "write_report",
]

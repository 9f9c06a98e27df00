"""One file per paper: network, losses, distance."""

from collections.abc import Mapping

from glimpse.methods.baseline import Baseline, BaselineOptions
from glimpse.methods.fpr import FPR, FPROptions
from glimpse.methods.method import Method, Outputs, Region
from glimpse.methods.pcb import PCB, PCBOptions
from glimpse.methods.peer import Peer, PeerOptions
from glimpse.methods.pgfa import PGFA, PGFAOptions
from glimpse.methods.pirt import Pirt, PirtOptions
from glimpse.methods.qpm import QPM, QPMOptions
from glimpse.methods.sgsfa import SGSFA, SGSFAOptions

METHODS: Mapping[str, type[Method]] = {m.name: m for m in (Baseline, PCB, PGFA, SGSFA, Pirt, QPM, FPR, Peer)}
"""Methods by name."""

__all__ = [
    "FPR",
    "METHODS",
    "PCB",
    "PGFA",
    "QPM",
    "SGSFA",
    "Baseline",
    "BaselineOptions",
    "FPROptions",
    "Method",
    "Outputs",
    "PCBOptions",
    "PGFAOptions",
    "Peer",
    "PeerOptions",
    "Pirt",
    "PirtOptions",
    "QPMOptions",
    "Region",
    "SGSFAOptions",
]

"""Which crops a gallery has: their ids in memory, 16 bytes each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glimpse.errors import GalleryError

_DIGITS = np.full(256, 255, np.uint8)
_DIGITS[list(b"0123456789abcdef")] = range(16)

Halves = npt.NDArray[np.uint64]
Keys = npt.NDArray[np.uint64]


def halves(ids: Sequence[str] | pa.Array) -> Halves:
    """Ids as two numbers each, `[n, 2]`.

    Raises:
        GalleryError: one is not 32 hexadecimal digits.

    >>> halves(["00000000000000ff0000000000000001"]).tolist()
    [[255, 1]]
    """
    array = ids if isinstance(ids, pa.Array) else pa.array(ids, pa.string())
    text = array.cast(pa.binary()).to_pylist() if len(array) else []
    joined = b"".join(text)
    digits = _DIGITS[np.frombuffer(joined, np.uint8)]
    if any(len(each) != 32 for each in text) or (digits == 255).any():
        bad = next(each for each in text if len(each) != 32 or set(each) - set(b"0123456789abcdef"))
        cause = f"'{bad.decode(errors='replace')}' is no id of a crop"
        raise GalleryError("id", cause, "ids are 32 hexadecimal digits, in lower case")
    pairs = digits.reshape(-1, 16, 2)
    return np.ascontiguousarray(pairs[..., 0] << 4 | pairs[..., 1]).view(">u8").astype(np.uint64).reshape(-1, 2)


def _keys_of(ids: Halves) -> Keys:
    """One number for each id, which ids that were made up, such as 1, 2, 3, do not share either."""
    keys: Keys = ids[:, 0] ^ (ids[:, 1] * np.uint64(0x9E3779B97F4A7C15))
    return keys


@dataclass
class Ids:
    """The ids of a table, kept up to date by reading what came since.

    Attributes:
        version: of the table that they are of; 0 before the first reading.
    """

    version: int = 0
    _parts: dict[tuple[int, str], Halves] = field(default_factory=dict)
    # Keys in order and their ids; one attribute, as another thread may ask while they are replaced.
    _held: tuple[Keys, Halves] = field(default_factory=lambda: (np.zeros(0, np.uint64), np.zeros((0, 2), np.uint64)))

    def refresh(self, dataset: Any) -> None:
        """Read the ids of fragments that are new or have lost rows."""
        if dataset.version == self.version:
            return
        parts: dict[tuple[int, str], Halves] = {}
        for fragment in dataset.get_fragments():
            # A fragment never changes but by a deletion, which gives it a new file of those.
            key = (fragment.fragment_id, str(fragment.metadata.deletion_file))
            if key in self._parts:
                parts[key] = self._parts[key]
                continue
            column = dataset.scanner(columns=["id"], fragments=[fragment]).to_table().column("id")
            parts[key] = halves(column.combine_chunks())
        held_keys, held = self._held
        before = self._parts
        if not before.keys() <= parts.keys():
            held_keys, held, before = held_keys[:0], held[:0], {}
        came = [ids for key, ids in parts.items() if key not in before]
        if came:
            new = np.concatenate(came)
            keys = _keys_of(new)
            order = np.argsort(keys, kind="stable")
            place = np.searchsorted(held_keys, keys[order])
            held_keys = np.insert(held_keys, place, keys[order])
            held = np.insert(held, place, new[order], axis=0)
        self._held, self._parts, self.version = (held_keys, held), parts, dataset.version

    def __len__(self) -> int:
        return len(self._held[0])

    def has(self, ids: Sequence[str] | pa.Array) -> npt.NDArray[np.bool_]:
        """Whether each is there, `[n]`."""
        wanted = halves(ids)
        found = np.zeros(len(wanted), np.bool_)
        keys = _keys_of(wanted)
        held_keys, held = self._held
        place = np.searchsorted(held_keys, keys)
        # One step, unless two ids have the same key.
        while True:
            inside = place < len(held_keys)
            inside[inside] &= held_keys[place[inside]] == keys[inside]
            if not inside.any():
                return found
            found[inside] |= (held[place[inside]] == wanted[inside]).all(1)
            place = np.where(inside, place + 1, len(held_keys))

    def __contains__(self, one: object) -> bool:
        return isinstance(one, str) and bool(self.has([one])[0])

    def repeated(self) -> int:
        """How many ids are there more than once."""
        _, held = self._held
        ordered = held[np.lexsort((held[:, 1], held[:, 0]))]
        return int((ordered[1:] == ordered[:-1]).all(1).sum())

"""PK batches: p people, k crops each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from glimpse.data.words import people
from glimpse.errors import ConfigError, DataError


class PKSampler:
    """Batches of p people with k crops each, as batch-hard triplets need them (Hermans et al., 2017, arXiv 1703.07737).

    People come in turn, in a new order each round; so do the crops of a person. No batch holds a person twice, nor a
    crop twice unless its person has fewer than k, whose crops are repeated. An epoch is as many batches as there are
    crops for, at least one. Give it to `DataLoader(batch_sampler=...)`.

    Args:
        pids: person id of each row of the dataset, `[n]`; any integers.
        p: people per batch and process.
        k: crops per person.
        seed: with the epoch, decides every batch.
        rank, world_size: which of how many processes this is: they share the order and take different people of it, and
            all have the same number of batches.
        keep_single: keep people with a single crop, repeated k times, although they give no positive pair.

    Attributes:
        report: what is repeated or left out, in words; empty if nothing.

    Raises:
        ConfigError: p, k, rank or world_size make no sense.
        DataError: fewer than p * world_size people can be used.

    >>> sampler = PKSampler([1, 1, 1, 2, 2, 3, 3, 4, 4], p=2, k=2, seed=0)
    >>> len(sampler), [len(batch) for batch in sampler]
    (2, [4, 4])
    """

    def __init__(
        self,
        pids: Sequence[int],
        p: int,
        k: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        keep_single: bool = False,
    ) -> None:
        for name, value in (("p", p), ("k", k), ("world_size", world_size)):
            if value < 1:
                raise ConfigError(name, f"is {value}", "give at least 1")
        if not 0 <= rank < world_size:
            raise ConfigError("rank", f"is {rank} of {world_size} processes", f"give 0 to {world_size - 1}")
        rows: dict[int, list[int]] = {}
        for row, pid in enumerate(pids):
            rows.setdefault(int(pid), []).append(row)
        single = [] if keep_single or k == 1 else [pid for pid, own in rows.items() if len(own) == 1]
        for pid in single:
            del rows[pid]
        self.p, self.k, self.seed, self.rank, self.world_size = p, k, seed, rank, world_size
        self.epoch = 0
        self.skip = 0
        self._rows = [np.array(rows[pid], dtype=np.int64) for pid in sorted(rows)]
        few = sum(len(own) < k for own in self._rows)
        said = []
        if single:
            said.append(f"{people(len(single))} with a single crop left out.")
        if few:
            said.append(f"{people(few)} with fewer than {k} crops, which are repeated in a batch.")
        self.report = " ".join(said)
        if len(self._rows) < p * world_size:
            processes = f" and process, {world_size} processes" if world_size > 1 else ""
            cause = f"{people(len(self._rows))} can be used, but batches need {p} different people each{processes}"
            remedy = f"give p <= {len(self._rows) // world_size}, or more people"
            raise DataError("PK sampler", f"{cause}. {self.report}".rstrip(" ."), remedy)
        crops = sum(len(own) for own in self._rows)
        self._batches = max(1, crops // (p * k * world_size))

    @property
    def sampler(self) -> PKSampler:
        """Itself: Lightning calls `batch_sampler.sampler.set_epoch` at the start of each epoch."""
        return self

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Choose the epoch that the next iteration gives.

        Args:
            epoch: from 0.
            skip: batches of it to leave out, to go on inside an epoch.
        """
        if epoch < 0 or not 0 <= skip <= self._batches:
            cause = f"epoch {epoch}, batch {skip} is not one of {self._batches} batches"
            raise ConfigError("epoch", cause, "give an epoch from 0 and a batch inside it")
        self.epoch = epoch
        self.skip = skip

    def __len__(self) -> int:
        return self._batches - self.skip

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = _Round(np.arange(len(self._rows)), rng)
        crops: dict[int, _Round] = {}
        for batch in range(self._batches):
            # All processes draw the same, so that their shares never overlap; each keeps its own p people.
            drawn = order.draw(self.p * self.world_size)
            picked = [crops.setdefault(who, _Round(self._rows[who], rng)).draw(self.k) for who in drawn]
            if batch >= self.skip:
                own = picked[self.rank * self.p : (self.rank + 1) * self.p]
                yield [row for rows in own for row in rows]


class _Round:
    """Items in turn, shuffled anew each round, and in one draw none more often than there have to be."""

    def __init__(self, items: np.ndarray[tuple[int], np.dtype[np.int64]], rng: np.random.Generator) -> None:
        self.items = items
        self.rng = rng
        self.left: list[int] = []

    def draw(self, count: int) -> list[int]:
        taken: list[int] = []
        while len(taken) < count:
            if not self.left:
                self.left = self.rng.permutation(self.items).tolist()
                # Those that this draw has most of go to the end of the new round.
                self.left.sort(key=taken.count)
            need = count - len(taken)
            taken.extend(self.left[:need])
            del self.left[:need]
        return taken

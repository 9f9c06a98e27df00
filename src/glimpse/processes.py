"""Work in several processes that end with the one that started them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

from glimpse.errors import ConfigError

Item = TypeVar("Item")
Result = TypeVar("Result")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def mapped(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    jobs: int,
    *,
    chunk: int = 16,
    start: Callable[..., None] | None = None,
    given: tuple[Any, ...] = (),
    threads: int | None = None,
) -> Iterator[Iterator[Result]]:
    """Give the results of `work` for each item, in their order.

    Args:
        work: a function of a module, since processes are started afresh.
        items: what is worked on.
        jobs: processes; with 1, or with no more than `chunk` items, all is done in this one.
        chunk: items that are handed to a process at a time.
        start: called with `given` once in each process before any work.
        given: arguments of `start`.
        threads: of each process, where libraries would start more; left to them if `None`.

    Raises:
        ConfigError: `jobs` is not positive, or a process was killed.
    """
    if jobs < 1:
        raise ConfigError("jobs", f"{jobs} processes are too few", "give at least 1")
    if jobs == 1 or len(items) <= chunk:
        if start is not None:
            start(*given)
        yield map(work, items)
        return
    # Fork would copy the locks of libraries that run threads.
    with (
        _environment({} if threads is None else dict.fromkeys(_THREADS, str(threads))),
        ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (start, given)) as pool,
    ):
        try:
            yield pool.map(work, items, chunksize=chunk)
        except BrokenProcessPool as error:
            cause = "a process was killed, perhaps for want of memory"
            raise ConfigError("jobs", cause, "start again with fewer") from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch work on one thread, in this thread and in those begun meanwhile: something else has the other cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables, which new processes inherit, while the block runs; what the user has set stays."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


def _begin(start: Callable[..., None] | None, given: tuple[Any, ...]) -> None:
    if start is not None:
        start(*given)
    # Nothing else ends a process that waits for work when the one that gives it is killed.
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

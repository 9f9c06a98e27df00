"""Works on galleries until it is killed, and says in a file what it has done.

Started once, as importing takes seconds; for each line `JOB FOLDER REPORT NUMBER` on standard input it forks a process
that does the job, and prints its number. What is forked has used neither Lance nor torch before.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numbered import CASCADE, PART, add, create, id_of, numbers, probes

from glimpse.errors import GlimpseError
from glimpse.gallery import shortlist
from glimpse.gallery.filters import Filter
from glimpse.gallery.store import Gallery

Say = Callable[..., None]


def mixed(folder: Path, say: Say, seed: int) -> None:
    """Adds, deletes, changes, compacts and indexes for ever; each is said before it begins and when it has returned."""
    gallery = Gallery.open(folder)
    there = set(numbers(gallery))
    fresh = 1000 * seed
    choice = random.Random(seed)
    say(ready=True)
    while True:
        what = choice.choices(("add", "delete", "update", "compact", "index"), (6, 3, 2, 2, 1))[0]
        if what == "add":
            some = list(range(fresh, fresh + choice.randint(1, 30)))
            fresh += len(some)
        else:
            some = choice.sample(sorted(there), min(len(there), choice.randint(1, 20 if len(there) < 150 else 100)))
        say(do=what, numbers=some)
        chosen = Filter(ids=tuple(id_of(number) for number in some) or ("",))
        if what == "add":
            add(gallery, some)
            there |= set(some)
        elif what == "delete":
            gallery.delete(chosen)
            there -= set(some)
        elif what == "update":
            gallery.update(chosen, {"pid": "changed", "tags": None})
        elif what == "compact":
            gallery.compact()
        elif there:
            gallery.index(PART, rebuild=choice.random() < 0.3)
        say(done=True)


def adding(folder: Path, say: Say, step: int) -> None:
    """Adds 0 to 299 forwards (step above 0) or 100 to 399 backwards, so many at a time."""
    gallery = Gallery.open(folder)
    every = list(range(300)) if step > 0 else list(range(399, 99, -1))
    for start in range(0, len(every), abs(step)):
        added = add(gallery, every[start : start + abs(step)])
        say(added=added.added, known=added.known)


def searching(folder: Path, say: Say, number: int) -> None:
    gallery = Gallery.open(folder)
    while not (folder / "stop").exists():
        for mode in ("exact", "fast"):
            for distance in (PART, CASCADE):
                found = gallery.nearest(distance, probes(number, number + 1), 8, mode=mode)
                say(rows=[each.row_ids.tolist() for each in found])
        say(crops=len(gallery.crops(Filter(cameras=("c1",)))))


def compacting(folder: Path, say: Say, number: int) -> None:
    gallery = Gallery.open(folder)
    while not (folder / "stop").exists():
        gallery.compact()
        say(compacted=True)
        if number:
            gallery.index(CASCADE)


def full(folder: Path, say: Say, limit: int) -> None:
    """Does everything where no file can become larger than so many bytes."""
    gallery = Gallery.open(folder)
    tries: dict[str, Callable[[], Any]] = {
        "create": lambda: create(folder.with_name(f"new-{limit}")),
        "add": lambda: add(gallery, range(5000, 5400)),
        "delete": lambda: gallery.delete(Filter(pids=("person-1-",))),
        "update": lambda: gallery.update(Filter(pids=("person-2-",)), {"camera": "full"}),
        "index": lambda: gallery.index(PART, rebuild=True),
        "compact": gallery.compact,
    }
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    errors: dict[str, str] = {}
    for name, work in tries.items():
        try:
            work()
        except GlimpseError as error:
            errors[name] = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    say(errors=errors)


JOBS: dict[str, Callable[[Path, Say, int], None]] = {
    each.__name__: each for each in (mixed, adding, searching, compacting, full)
}


def _fork(job: str, folder: Path, report: str, number: int) -> int:
    process = os.fork()
    if process:
        return process
    signal.alarm(120)  # nothing is left behind for long
    handle = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def say(**what: Any) -> None:
        os.write(handle, json.dumps(what).encode() + b"\n")

    try:
        JOBS[job](folder, say, number)
        say(end=True)
    except BaseException:
        say(error=traceback.format_exc())
    finally:
        os._exit(0)


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are not waited for
    shortlist.QUERIES = 4
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    import lance  # noqa: F401

    print("ready", flush=True)
    for line in sys.stdin:
        job, folder, report, number = line.split()
        print(_fork(job, Path(folder), report, int(number)), flush=True)


if __name__ == "__main__":
    main()

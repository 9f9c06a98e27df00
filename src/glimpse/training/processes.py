"""Several processes for one training: started together, ended together, their errors and result handed back."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from glimpse.errors import GlimpseError

_PATIENCE = timedelta(days=7)  # one process may compute maps or validate while the others wait; the dead are noticed
_T = TypeVar("_T")


@dataclass(frozen=True)
class Place:
    """Which of how many processes this is.

    Attributes:
        rank: from 0.
        world: number of processes.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            dist.barrier()


class _Gather(torch.autograd.Function):
    """Rows of all processes; backwards, the sum of what all of them say of this process's rows.

    torch's own writes gradients in channels-last order into memory that it reads in the usual order.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        """`[n, ...]` to `[world * n, ...]`."""
        everywhere = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(everywhere, rows)
        return torch.cat(everywhere)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """`[world * n, ...]` to `[n, ...]`."""
        (gradient,) = gradients
        total = gradient.contiguous().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def gathered(rows: Tensor) -> Tensor:
    """Rows `[n, ...]` of all processes in order of rank, `[world * n, ...]`; gradients flow back to their owners.

    Each process must have as many rows. Gradients are summed over processes: where each computes the same loss of all
    rows, and gradients of weights are then averaged, they come out as those of one process.
    """
    everywhere: Tensor = _Gather.apply(rows.contiguous())
    return everywhere


def launch(work: Callable[[Place], _T], world: int) -> _T:
    """Run `work` in `world` new processes that can talk to each other, and give what the first of them returns.

    Processes on GPUs (one each) talk through NCCL, others through gloo; on CPU they share the cores. If one fails, all
    are ended. They are spawned: a script that calls this needs `if __name__ == "__main__":`.

    Args:
        work: a function, or a bound method, that can be pickled; so must be what it returns.
        world: number of processes.

    Raises:
        GlimpseError: as a process raised it.
    """
    with tempfile.TemporaryDirectory() as folder:
        processes = start_processes(  # type: ignore[no-untyped-call]
            _start, (world, folder, work), world, join=False, start_method="spawn"
        )
        try:
            while not processes.join():
                pass
        except (ProcessRaisedException, ProcessExitedException):
            for told in sorted(Path(folder).glob("error-*")):
                raise pickle.loads(told.read_bytes()) from None
            raise
        finally:
            for process in processes.processes:
                process.terminate()
        result: _T = pickle.loads((Path(folder) / "result").read_bytes())
        return result


def _start(rank: int, world: int, folder: str, work: Callable[[Place], object]) -> None:
    """What a new process does."""
    on_gpu = torch.cuda.is_available()
    # Lightning takes the processes as they are when it finds these.
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT="0", NODE_RANK="0", LOCAL_RANK=str(rank), WORLD_SIZE=str(world)
    )
    if on_gpu:
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(max(1, torch.get_num_threads() // world))
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=world,
        timeout=_PATIENCE,
    )
    try:
        result = work(Place(rank, world))
    except GlimpseError as error:
        (Path(folder) / f"error-{rank}").write_bytes(pickle.dumps(error))
        raise
    if rank == 0:
        (Path(folder) / "result").write_bytes(pickle.dumps(result))
    dist.barrier()
    dist.destroy_process_group()

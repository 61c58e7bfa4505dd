"""Processes that train one model together, each on its share of every step's rows.

`torchrun` starts them; all read the same data and make the same plan. What crosses between them is
each step's gradients, summed, and what the first of them says of an evaluation or a checkpoint: it
alone evaluates and writes. A step's rows are those that one process would take, so options mean
what they mean for one, and so does a checkpoint.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from offramp.training.checkpoint import Checkpoint

T = TypeVar("T")

_PATIENCE = timedelta(days=7)
"""Others wait so long while the first evaluates; one that died is noticed by `torchrun`."""


class Group:
    """One process alone, which has nobody to tell anything."""

    rank, size = 0, 1

    @property
    def is_first(self) -> bool:
        """Whether this process evaluates and writes."""
        return self.rank == 0

    def share(self, rows: Sequence[T]) -> Sequence[T]:
        """This process's part of a step's rows."""
        return rows

    def add_up(self, parameters: Sequence[nn.Parameter], loss: float) -> float:
        """Make each gradient the sum of all processes' ones; the sum of their losses."""
        return loss

    def told(self, value: Callable[[], Any]) -> Any:
        """JSON values, which the first process works out."""
        return value()

    def checkpoint(self, kept: Checkpoint | None) -> Checkpoint | None:
        """The first process's."""
        return kept

    def copy(self, module: nn.Module) -> None:
        """Give the module the weights that it has in the first process."""

    def reseed(self, seed: int, moment: int) -> None:
        """Let each process but the first draw random numbers of its own from here on."""

    def wait(self) -> None:
        """Go on when all are here."""


class _Together(Group):
    """Several processes, on the CPU, by gloo."""

    def __init__(self) -> None:
        # One of its own: the program's may be for other devices.
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def share(self, rows: Sequence[T]) -> Sequence[T]:
        return rows[self.rank :: self.size]  # sorted by length, so shares are of like size

    def add_up(self, parameters: Sequence[nn.Parameter], loss: float) -> float:
        # Whose gradient is none in every process has none afterwards: it is not to be decayed.
        there = [float(parameter.grad is not None) for parameter in parameters]
        gradients = [
            torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in parameters
        ]
        flat = torch.cat([*gradients, torch.tensor([*there, loss])])
        dist.all_reduce(flat, group=self._group)
        sizes = [parameter.numel() for parameter in parameters]
        *sums, counts = torch.split(flat, [*sizes, len(there) + 1])
        for parameter, gradient, count in zip(parameters, sums, counts.tolist(), strict=False):
            parameter.grad = gradient.view_as(parameter) if count else None
        return float(counts[-1])

    def told(self, value: Callable[[], Any]) -> Any:
        said = json.dumps(value() if self.is_first else None).encode()
        return json.loads(self._sent(torch.frombuffer(bytearray(said), dtype=torch.uint8)))

    def checkpoint(self, kept: Checkpoint | None) -> Checkpoint | None:
        there = self.told(lambda: None if kept is None else [kept.values, _shapes(kept)])
        if there is None:
            return None
        values, shapes = there
        tensors = {}
        for name, (shape, dtype) in shapes.items():
            empty = torch.empty(shape, dtype=getattr(torch, dtype))
            tensors[name] = empty if kept is None else kept.tensors[name].contiguous()
            if tensors[name].numel():
                dist.broadcast(tensors[name], 0, group=self._group)
        return Checkpoint(values, tensors)

    def copy(self, module: nn.Module) -> None:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0, group=self._group)

    def reseed(self, seed: int, moment: int) -> None:
        if not self.is_first:
            torch.manual_seed(((seed * 1_000_003 + self.rank) * 1_000_003 + moment) % 2**63)

    def wait(self) -> None:
        dist.barrier(group=self._group)

    def _sent(self, content: Tensor) -> bytes:
        length = torch.tensor([len(content)])
        dist.broadcast(length, 0, group=self._group)
        if not self.is_first:
            content = torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(content, 0, group=self._group)
        return bytes(content.tolist())


def training_group() -> Group:
    """The processes that `torchrun` started, or that the program has put together; or one."""
    if not dist.is_available():
        return Group()
    if not dist.is_initialized():
        if not dist.is_torchelastic_launched() or int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return Group()
        dist.init_process_group("gloo", timeout=_PATIENCE)
        atexit.register(_leave)
    return _Together() if dist.get_world_size() > 1 else Group()


def is_first_process() -> bool:
    """Whether this one would tell and write, now that a run was made."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _shapes(kept: Checkpoint) -> dict[str, tuple[list[int], str]]:
    return {
        name: (list(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in kept.tensors.items()
    }


__all__ = ["Group", "is_first_process", "training_group"]

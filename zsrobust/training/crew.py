"""The processes that train together: they share every batch and take the same steps."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class Crew:
    """The place of a process in torch.distributed; a crew of one if that is not started."""

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> "Crew":
        """Return the crew that torch.distributed started."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes the files."""
        return self.rank == 0

    def part(self, positions: Tensor) -> tuple[Tensor, float]:
        """Return this process's positions (n,) of a batch (N,), and the weight of its gradients, 1.

        If the batch has fewer images than processes, a process without images takes the first image
        with weight 0. Every process needs the same gradients to add.
        """
        mine = positions.tensor_split(self.size)[self.rank]
        return (mine, 1.0) if len(mine) else (positions[:1], 0.0)

    def add_up(self, parameters: Iterable[nn.Parameter], totals: Tensor) -> Tensor:
        """Return the summed totals (n,), and add up the gradients in place, in one message."""
        if self.size == 1:
            return totals
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        message = torch.cat([totals.float(), *(gradient.flatten() for gradient in gradients)])
        distributed.all_reduce(message)
        sums, *added = message.split([len(totals), *(gradient.numel() for gradient in gradients)])
        for gradient, whole in zip(gradients, added, strict=True):
            gradient.copy_(whole.view_as(gradient))
        return torch.as_tensor(sums.to(totals))

    def leaders(self, number: int, device: torch.device) -> int:
        """Return the number of the leading process, after waiting for all processes."""
        if self.size == 1:
            return number
        given = torch.tensor(number if self.leads else 0, device=device)
        distributed.all_reduce(given)
        return int(given)

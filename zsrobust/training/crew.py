"""The processes that train together: they share each batch and take the same step."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class Crew:
    """A process's place among those of torch.distributed; alone if that is not started."""

    rank: int = 0
    size: int = 1

    @classmethod
    def here(cls) -> "Crew":
        """Return the crew that was started."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes the files."""
        return self.rank == 0

    def part(self, positions: Tensor) -> tuple[Tensor, float]:
        """Return this process's images of a batch (N,), and the weight of what it finds on them, 1.

        Where there are fewer images than processes, some take the first image again, with weight 0:
        every process has the same gradients to add.
        """
        mine = positions.tensor_split(self.size)[self.rank]
        return (mine, 1.0) if len(mine) else (positions[:1], 0.0)

    def add_up(self, parameters: Iterable[nn.Parameter], totals: Tensor) -> Tensor:
        """Add the gradients over all processes in place, and return the added totals (n,)."""
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
        """Return the number that the leading process gave; all wait for each other."""
        if self.size == 1:
            return number
        given = torch.tensor(number if self.leads else 0, device=device)
        distributed.all_reduce(given)
        return int(given)

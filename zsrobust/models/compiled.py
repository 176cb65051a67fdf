"""A classifier compiled by torch, for batches of a few sizes."""

import os
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import cache_folder

PARTS = (16, 4, 1)  #: the batch divided by these: sizes that a graph is compiled for


def compiler(device: torch.device) -> dict[str, Any]:
    """Return the arguments of torch.compile for a device: CUDA graphs on a GPU."""
    return {"mode": "reduce-overhead"} if device.type == "cuda" else {}


def prepare() -> None:
    """Compile something trivial: at its first call, torch replaces methods of nn.Module."""
    torch.compile(torch.Tensor.clone, backend="eager")(torch.zeros(1))


class Filled(nn.Module):
    """A compiled classifier whose batches have few sizes: the last image fills what is left.

    Its features, embeddings and tokens are those of the plain classifier, not compiled. Graphs are
    compiled again for each new `Filled`; torch takes what it knows from zsrobust's cache folder.
    """

    def __init__(self, classifier: nn.Module, batch: int, **arguments: Any) -> None:
        """Take the classifier, the largest batch, and the arguments of torch.compile."""
        super().__init__()
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
        torch.compiler.reset()  # graphs of earlier classifiers count against torch's limit
        self.plain = classifier
        self.sizes = sorted({-(-batch // part) for part in PARTS})
        self.compiled: Any = torch.compile(classifier, dynamic=False, **arguments)

    def __getattr__(self, name: str) -> Any:
        """Return what only the plain classifier has."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("plain"), name)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, K) of images (N, 3, S, S) in [0, 1].

        Raises ZSRobustError if torch cannot compile the classifier.
        """
        number, most = len(images), self.sizes[-1]
        if number > most:
            return torch.cat([self(part) for part in images.split(most)])
        size = next(size for size in self.sizes if number <= size)
        more = images[-1:].expand(size - number, -1, -1, -1)
        try:
            with warnings.catch_warnings():  # torch asks for the gradient of what is no leaf
                warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor")
                logits: Tensor = self.compiled(torch.cat([images, more]))
        except torch._dynamo.exc.TorchDynamoException as error:
            raise ZSRobustError(
                f"torch cannot compile this classifier: {str(error).strip().splitlines()[0]} "
                "Leave out --compile."
            ) from error
        return logits[:number].clone()  # the next replay of a CUDA graph overwrites its output

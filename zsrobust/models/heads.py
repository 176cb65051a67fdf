"""Heads: what turns the classes of a dataset into the rows that image embeddings are compared with.

A tower without a head of its own has the backbone's: its text tower encodes the prompts.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import Wording
from zsrobust.models.clip import Clip


class Head(Protocol):
    """What makes a head from the class names and templates of a dataset."""

    def __call__(self, wording: Wording, scale: float | None = None) -> Tensor:
        """Return the head, (K, D) float32: a unit-norm row for each class, times the logit scale.

        `scale` replaces the model's own logit scale.
        """
        ...


def of_texts(clip: Clip, *others: str) -> Head:
    """Return the head of a CLIP's text tower.

    Its prompts are those of the dataset. With `others`, all of them templates, it is the first of
    these that the dataset does not use.
    """

    def head(wording: Wording, scale: float | None = None) -> Tensor:
        unused = [template for template in others if template not in wording.templates]
        worded = wording._replace(templates=(unused[0],)) if unused else wording
        return clip.head(worded.prompts, scale)

    return head


class Context(nn.Module):
    """Learned vectors in the place of a template's words: the text of a class is [vectors][name].

    This is the unified context of CoOp, with the class name at the end (Zhou et al., IJCV 2022,
    arXiv 2109.01134). As in its code, a period ends the text, and "_" in a name becomes a space.
    """

    def __init__(self, clip: Clip, vectors: Tensor) -> None:
        """Take a CLIP, whose text tower stays frozen, and the vectors (M, width).

        Raises ZSRobustError for a text tower without token embeddings.
        """
        super().__init__()
        self.clip = clip
        self.vectors = nn.Parameter(vectors)
        self._read: dict[tuple[str, ...], Tensor] = {}  # the tokens of class names, read once
        _token_embedding(clip)

    @classmethod
    def start(cls, clip: Clip, tokens: int, seed: int) -> "Context":
        """Return a context of `tokens` vectors from N(0, 0.02²), as in CoOp's code."""
        if tokens < 1:
            raise ZSRobustError(f"A context of {tokens} tokens learns nothing. Use: tokens=16")
        weight = _token_embedding(clip).weight
        generator = torch.Generator().manual_seed(seed)
        vectors = torch.randn(tokens, weight.shape[1], generator=generator) * 0.02
        return cls(clip, vectors.to(weight))

    @classmethod
    def of_words(cls, clip: Clip, words: str) -> "Context":
        """Return the context of some words: its vectors are the embeddings of their tokens."""
        (tokens,) = clip.tokenize([words])
        table = _token_embedding(clip).weight
        inside = tokens[1 : int(tokens.argmax())]  # without the tokens of start and end
        return cls(clip, table[inside.to(table.device)].detach().clone())

    def forward(self, wording: Wording, scale: float | None = None) -> Tensor:
        """Return the head, (K, D), with a gradient for the vectors; its templates do not count.

        Raises ZSRobustError for a class name that does not fit into the text tower.
        """
        model = self.clip.model
        if wording.classes not in self._read:
            self._read[wording.classes] = self._tokens(wording.classes)
        tokens = self._read[wording.classes].to(self.vectors.device)
        with self._inserted():
            parts = [model.encode_text(each, normalize=True) for each in tokens.split(256)]
        head: Tensor = torch.cat(parts) * (model.logit_scale.exp() if scale is None else scale)
        return head

    def _tokens(self, classes: Sequence[str]) -> Tensor:
        """Return the tokens of the texts, (K, L), with places for the vectors after the first."""
        names, count = [f"{name.replace('_', ' ')}." for name in classes], len(self.vectors)
        alone: Tensor = self.clip.tokenize(names)
        whole: Tensor = self.clip.tokenize([f"{'X ' * count}{name}" for name in names])
        room = whole.shape[1]
        for name, end in zip(names, alone.argmax(1).tolist(), strict=True):
            if end + 1 + count > room:
                raise ZSRobustError(
                    f"The class {name!r} and {count} tokens of context need {end + 1 + count} "
                    f"tokens, but the text tower reads {room}. Learn a shorter one: tokens=4"
                )
        places = whole[:, 1 : 1 + count]
        if not (places == places[0, 0]).all() or not whole[:, 1 + count :].equal(
            alone[:, 1 : room - count]
        ):
            raise ZSRobustError(
                f"The tokenizer of {self.clip.name} does not keep places for a context. "
                "Expected that of CLIP. Choose another backbone."
            )
        return whole

    @contextmanager
    def _inserted(self) -> Iterator[None]:
        """Within it, the text tower reads the vectors after the first token of every text."""

        def insert(module: nn.Module, given: Any, embedded: Tensor) -> Tensor:
            vectors = self.vectors.expand(len(embedded), -1, -1)
            rest = embedded[:, 1 + len(self.vectors) :]
            return torch.cat([embedded[:, :1], vectors, rest], dim=1)

        hook = _token_embedding(self.clip).register_forward_hook(insert)
        try:
            yield
        finally:
            hook.remove()


def _token_embedding(clip: Clip) -> nn.Embedding:
    """Return the text tower's table of tokens; raises ZSRobustError if it has none."""
    for tower in (clip.model, getattr(clip.model, "text", None)):
        found = getattr(tower, "token_embedding", None)
        if isinstance(found, nn.Embedding):
            return found
    raise ZSRobustError(
        f"The text tower of {clip.name} has no table of tokens, so it cannot learn a context. "
        "Choose a backbone such as ViT-B-32."
    )

"""Visual prompts, which VPT defenses learn instead of the tower's weights."""

import copy

import torch
from torch import Tensor, nn

from zsrobust.core.errors import ZSRobustError
from zsrobust.models.clip import Clip


class AppendTokens(nn.Module):
    """A replacement of the tower's `ln_pre`: it appends the learnable tokens, then normalizes."""

    def __init__(self, norm: nn.Module, tokens: Tensor) -> None:
        """Take the tower's own norm and the tokens, (T, width)."""
        super().__init__()
        self.norm = norm
        self.tokens = nn.Parameter(tokens)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return (N, L + T, width) from the class and patch tokens, (N, L, width)."""
        tokens = self.tokens.expand(len(embeddings), -1, -1)
        return torch.as_tensor(self.norm(torch.cat([embeddings, tokens], dim=1)))


class PromptedEncoder(nn.Module):
    """A frozen image tower with learnable prompts: an image and tokens.

    The image prompt is added to the normalized input. It has the input's size, or it is a
    `BorderPrompt`. The tokens follow the patch tokens and include their own position embedding.
    Both follow section 4.1 of the PMG-AFT paper; TeCoA's code adds them after normalization.
    """

    def __init__(
        self, tower: nn.Module, side: int, tokens: Tensor, border: "BorderPrompt | None" = None
    ) -> None:
        """Take a vision transformer of open_clip, its input side in pixels, and tokens (T, width).

        Raises ZSRobustError for a tower without tokens, or one that pools over all its tokens.
        """
        super().__init__()
        norm = getattr(tower, "ln_pre", None)
        pools_class_token = getattr(tower, "pool_type", None) == "tok"
        if norm is None or not pools_class_token or getattr(tower, "attn_pool", None) is not None:
            raise ZSRobustError(
                "This image tower cannot take visual prompts. Visual prompts need a vision "
                "transformer that pools its class token. Use a backbone such as ViT-B-32."
            )
        self.tower = copy.deepcopy(tower).requires_grad_(False)
        self.border = border
        if border is None:
            self.image_prompt = nn.Parameter(torch.zeros(3, side, side, device=tokens.device))
        if len(tokens):
            self.tower.ln_pre = AppendTokens(norm, tokens)

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (N, D) of normalized images (N, 3, S, S)."""
        prompt = self.image_prompt if self.border is None else self.border()
        return torch.as_tensor(self.tower(images + prompt))


class BorderPrompt(nn.Module):
    """A learnable border, the padding prompt of TeCoA's code; inside it, nothing is added."""

    framed: Tensor

    def __init__(self, side: int, width: int, start: Tensor) -> None:
        """Take the side of the image, the border's width, and the start, (3, pixels of the border).

        A border of 30 pixels around 224 has 3 · 23,280 = 69,840 numbers.
        """
        super().__init__()
        framed = torch.ones(side, side, dtype=torch.bool, device=start.device)
        framed[width : side - width, width : side - width] = False
        self.register_buffer("framed", framed.flatten().nonzero()[:, 0], persistent=False)
        self.side, self.pixels = side, nn.Parameter(start)

    def forward(self) -> Tensor:
        """Return the prompt, (3, S, S), with zeros inside the border."""
        empty = self.pixels.new_zeros(3, self.side**2)
        return empty.index_copy(1, self.framed, self.pixels).view(3, self.side, self.side)


def prompted(
    clip: Clip, tokens: int, seed: int, border: int | None = None, std: float = 0.02
) -> PromptedEncoder:
    """Return CLIP's image tower with an image prompt and `tokens` tokens from N(0, std²).

    Without `border` the image prompt starts at zero: the paper does not specify how prompts start,
    and this one starts at CLIP. 0.02 is the usual standard deviation of tokens. A `border`, in
    pixels of an image of 224, is scaled to the tower's side, at least one pixel, and starts at
    N(0, std²). TeCoA's code: 30 pixels and a standard deviation of 1.
    """
    embedding = getattr(clip.encoder, "class_embedding", torch.zeros(0))
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(tokens, *embedding.shape, generator=generator) * std
    frame = None
    if border is not None:
        width = max(1, round(border * clip.side / 224))
        count = clip.side**2 - (clip.side - 2 * width) ** 2
        pixels = torch.randn(3, count, generator=generator) * std
        frame = BorderPrompt(clip.side, width, pixels.to(embedding.device))
    return PromptedEncoder(clip.encoder, clip.side, start.to(embedding.device), frame)

"""Visual prompts: what VPT defenses learn around open_clip's vision transformer."""

import copy

import torch
from torch import Tensor, nn

from zsrobust.core.errors import ZSRobustError
from zsrobust.models.clip import Clip


class AppendTokens(nn.Module):
    """Replaces the tower's `ln_pre`: appends learnable tokens, then normalizes."""

    def __init__(self, norm: nn.Module, tokens: Tensor) -> None:
        """Take the tower's own norm and the tokens, (T, width)."""
        super().__init__()
        self.norm = norm
        self.tokens = nn.Parameter(tokens)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return (N, L + T, width) from the class and patch tokens, (N, L, width)."""
        return torch.as_tensor(
            self.norm(torch.cat([embeddings, self.tokens.expand(len(embeddings), -1, -1)], dim=1))
        )


class PromptedEncoder(nn.Module):
    """A frozen image tower with a learnable image at its input and learnable tokens.

    The image prompt has the size of the (normalized) input; the tokens carry their own position
    embedding. Both as in section 4.1 of the PMG-AFT paper; that they follow normalization is
    TeCoA's code.
    """

    def __init__(self, tower: nn.Module, side: int, tokens: Tensor) -> None:
        """Take open_clip's vision transformer, its input side, and the tokens, (T, width).

        Raises ZSRobustError for a tower that has no tokens to stand beside, or pools over all of
        them.
        """
        super().__init__()
        norm = getattr(tower, "ln_pre", None)
        if (
            norm is None
            or getattr(tower, "pool_type", None) != "tok"
            or getattr(tower, "attn_pool", None) is not None
        ):
            raise ZSRobustError(
                "Visual prompts need a vision transformer that pools its class token, such as "
                "ViT-B-32."
            )
        self.tower = copy.deepcopy(tower).requires_grad_(False)
        self.image_prompt = nn.Parameter(torch.zeros(3, side, side, device=tokens.device))
        if len(tokens):
            self.tower.ln_pre = AppendTokens(norm, tokens)

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (N, D) of normalized images (N, 3, S, S)."""
        return torch.as_tensor(self.tower(images + self.image_prompt))


def prompted(clip: Clip, tokens: int, seed: int) -> PromptedEncoder:
    """Return CLIP's image tower with prompts: the image is 0, the tokens are N(0, 0.02²).

    The paper does not say how prompts start; 0.02 is the usual standard deviation of tokens.
    """
    embedding = getattr(clip.encoder, "class_embedding", torch.zeros(0))
    start = (
        torch.randn(tokens, *embedding.shape, generator=torch.Generator().manual_seed(seed)) * 0.02
    )
    return PromptedEncoder(clip.encoder, clip.side, start.to(embedding.device))

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

    The image prompt is added to the normalized input, and has its size. The tokens follow the patch
    tokens and include their own position embedding. Both follow section 4.1 of the PMG-AFT paper;
    TeCoA's code adds them after normalization.
    """

    def __init__(self, tower: nn.Module, side: int, tokens: Tensor) -> None:
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
        self.image_prompt = nn.Parameter(torch.zeros(3, side, side, device=tokens.device))
        if len(tokens):
            self.tower.ln_pre = AppendTokens(norm, tokens)

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (N, D) of normalized images (N, 3, S, S)."""
        return torch.as_tensor(self.tower(images + self.image_prompt))


def prompted(clip: Clip, tokens: int, seed: int) -> PromptedEncoder:
    """Return CLIP's image tower with an image prompt of zeros and `tokens` tokens from N(0, 0.02²).

    The paper does not specify how prompts start. A zero image prompt starts at CLIP. 0.02 is the
    usual standard deviation of tokens.
    """
    embedding = getattr(clip.encoder, "class_embedding", torch.zeros(0))
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(tokens, *embedding.shape, generator=generator) * 0.02
    return PromptedEncoder(clip.encoder, clip.side, start.to(embedding.device))

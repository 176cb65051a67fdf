"""Patch tokens of open_clip's vision transformers, from the pass that embeds the image."""

from typing import Any

from torch import Tensor, nn

from zsrobust.core.errors import ZSRobustError


def embed(encoder: nn.Module, images: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the embeddings (N, D) of normalized images, and the last states of their patches.

    The states, (N, L, width), come from the same pass, before the tower's last norm. They do not
    contain the class token or learned prompts. They are None for a tower without patch tokens.
    """
    tower = _transformer(encoder)
    if tower is None:
        return encoder(images), None
    states: list[Tensor] = []
    hook = tower.transformer.register_forward_hook(lambda _, given, out: states.append(out))
    try:
        embeddings: Tensor = encoder(images)
    finally:
        hook.remove()
    patches = tower.grid_size[0] * tower.grid_size[1]
    return embeddings, states[-1][:, 1 : 1 + patches]


def project(encoder: nn.Module, states: Tensor | None) -> Tensor:
    """Return the tokens (N, L, D) of the patches' states, normed and projected as the class token.

    They are not normalized to length 1. Raises ZSRobustError for a tower without patch tokens.
    """
    tower = _transformer(encoder)
    if tower is None or states is None:
        raise ZSRobustError(
            "This image tower has no patch tokens. They need a vision transformer of open_clip "
            "that pools without attention and drops no patches, such as ViT-B-32."
        )
    # A tower in bfloat16 leaves bfloat16 states; its weights are float32.
    normed: Tensor = tower.ln_post(states.to(tower.class_embedding.dtype))
    return normed if tower.proj is None else normed @ tower.proj


def _transformer(encoder: nn.Module) -> Any:
    """Return the vision transformer in an encoder; None if it has no tokens for single patches."""
    for part in encoder.modules():
        if hasattr(part, "grid_size") and hasattr(part, "ln_post"):
            pools = getattr(part, "attn_pool", None) is None and part.pool_type in ("tok", "avg")
            return part if pools and isinstance(part.patch_dropout, nn.Identity) else None
    return None

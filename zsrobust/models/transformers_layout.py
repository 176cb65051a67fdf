"""The layout of transformers' CLIPModel and SiglipModel, as open_clip's.

LEAF's weights are published in it. open_clip's SigLIP has an image tower of timm.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

#: A name that only this layout has.
TOLD_BY = "text_model.embeddings.token_embedding.weight"
#: Names outside of blocks, or their beginnings, and those of open_clip.
OUTSIDE = {
    "vision_model.embeddings.patch_embedding.": "visual.conv1.",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.": "visual.ln_pre.",  # so it is spelled there
    "vision_model.post_layernorm.": "visual.ln_post.",
    "visual_projection.weight": "visual.proj",
    "text_model.embeddings.token_embedding.": "token_embedding.",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.": "ln_final.",
    "text_projection.weight": "text_projection",
}
TOWERS = {"vision_model": "visual.transformer.resblocks", "text_model": "transformer.resblocks"}
INSIDE = {
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
}
#: The same names of SigLIP.
SIGLIP_OUTSIDE = {
    "vision_model.embeddings.patch_embedding.": "visual.trunk.patch_embed.proj.",
    "vision_model.embeddings.position_embedding.weight": "visual.trunk.pos_embed",
    "vision_model.post_layernorm.": "visual.trunk.norm.",
    "vision_model.head.probe": "visual.trunk.attn_pool.latent",
    "vision_model.head.attention.out_proj.": "visual.trunk.attn_pool.proj.",
    "vision_model.head.layernorm.": "visual.trunk.attn_pool.norm.",
    "vision_model.head.mlp.": "visual.trunk.attn_pool.mlp.",
    "text_model.embeddings.token_embedding.": "text.token_embedding.",
    "text_model.embeddings.position_embedding.weight": "text.positional_embedding",
    "text_model.final_layer_norm.": "text.ln_final.",
    "text_model.head.": "text.text_projection.",
}
SIGLIP_TOWERS = {
    "vision_model": "visual.trunk.blocks",
    "text_model": "text.transformer.resblocks",
}
TIMM_INSIDE = {"self_attn.out_proj": "attn.proj", "layer_norm1": "norm1", "layer_norm2": "norm2"}
POOLED = "vision_model.head.attention.in_proj_"  #: queries, keys and values of SigLIP's pooling
BLOCK = re.compile(r"(vision_model|text_model)\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


def as_open_clip(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a whole CLIP's weights under open_clip's names; other layouts are returned as given.

    The projections are transposed, and queries, keys and values are one matrix. Names that are not
    known stay as they are.
    """
    if TOLD_BY not in weights:
        return dict(weights)
    siglip = f"{POOLED}weight" in weights
    outside, towers = (SIGLIP_OUTSIDE, SIGLIP_TOWERS) if siglip else (OUTSIDE, TOWERS)
    made: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.endswith(".position_ids"):  # a count from 0, in older files
            continue
        found = BLOCK.fullmatch(name)
        if found is None:
            if name.startswith(POOLED):
                kind = name.removeprefix(POOLED)
                query, *pair = tensor.chunk(3)
                made[f"visual.trunk.attn_pool.q.{kind}"] = query
                made[f"visual.trunk.attn_pool.kv.{kind}"] = torch.cat(pair)
                continue
            if siglip and name == "vision_model.embeddings.position_embedding.weight":
                tensor = tensor[None]
            start = next((each for each in outside if name.startswith(each)), "")
            turned = name in ("visual_projection.weight", "text_projection.weight")
            made[outside.get(start, "") + name.removeprefix(start)] = tensor.T if turned else tensor
            continue
        tower, block, part, kind = found.groups()
        place = f"{towers[tower]}.{block}"
        timm = siglip and tower == "vision_model"
        inside = TIMM_INSIDE if timm else INSIDE
        if part == "self_attn.q_proj":
            others = [name.replace("q_proj", each) for each in ("k_proj", "v_proj")]
            rows = [tensor, *(weights[other] for other in others if other in weights)]
            made[f"{place}.attn.{'qkv.' if timm else 'in_proj_'}{kind}"] = torch.cat(rows)
        elif part not in ("self_attn.k_proj", "self_attn.v_proj"):
            made[f"{place}.{inside.get(part, part)}.{kind}"] = tensor
    return {name: tensor.contiguous() for name, tensor in made.items()}

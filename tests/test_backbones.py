"""Backbones: families of open_clip, folders of transformers, and their preprocessing."""

import json
from importlib.util import find_spec

import fresh
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hubserver import HubServer, hub_environment
from PIL import Image
from safetensors.torch import save_file

from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import Cut, cache
from zsrobust.models import tokenizers, transformers_folder
from zsrobust.models.clip import cut_for, load_clip
from zsrobust.models.tokenizers import ByteTokenizer
from zsrobust.models.transformers_layout import as_open_clip

SIZES = [(64, 64), (97, 41), (41, 97), (33, 200), (65, 64)]
WIDTH, SIDE = 32, 32


def picture(width, height):
    rng = np.random.RandomState(width + 1000 * height)
    return Image.fromarray(rng.randint(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
def test_every_way_of_resizing_is_open_clips_bit_for_bit(mode, interpolation):
    from open_clip.transform import image_transform

    for level in (0, 127) if mode == "longest" else (0,):
        cut = Cut(
            48,
            interpolation=interpolation,
            squash=mode == "squash",
            pad=level if mode == "longest" else None,
        )
        theirs = image_transform(
            48, False, (0.0,) * 3, (1.0,) * 3, mode, interpolation, fill_color=level
        )
        for size in SIZES:
            expected = (theirs(picture(*size)) * 255).round().byte().numpy()
            ours = np.asarray(cache._cut(picture(*size), cut)).transpose(2, 0, 1)
            assert np.array_equal(ours, expected), size


def test_a_cut_without_padding_is_stored_as_before():
    stored = {"side": 48, "zoom": 1.0, "interpolation": "bicubic", "squash": False}
    assert Cut(48).stored == stored
    assert Cut(48, pad=0).stored == {**stored, "pad": 0}
    with pytest.raises(ZSRobustError, match="pad is not valid"):
        Cut(48, squash=True, pad=0)


def test_random_weights_read_bytes_where_the_tokenizer_is_on_the_hub():
    tokens = ByteTokenizer(6)(["ab", "", "long text"])
    assert tokens.tolist() == [
        [99, 100, 1, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [110, 113, 112, 105, 34, 1],
    ]


def test_a_missing_transformers_is_named_with_its_command_before_any_work(monkeypatch):
    monkeypatch.setattr(tokenizers, "find_spec", lambda name: None)
    monkeypatch.setattr("open_clip.create_model", lambda *args, **options: pytest.fail("worked"))
    with pytest.raises(ZSRobustError, match=r"pip install 'zsrobust\[siglip\]'"):
        tokenizers.check_hub_tokenizer("SigLIP/webli", {"hf_tokenizer_name": "timm/none"})
    tokenizers.check_hub_tokenizer("ViT-B-32/openai", {})  # needs none


def test_a_missing_tokenizer_of_the_hub_is_named(monkeypatch):
    monkeypatch.setattr(tokenizers, "find_spec", lambda name: object())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ZSRobustError, match=r"hf download timm/none"):
        tokenizers.check_hub_tokenizer("SigLIP/webli", {"hf_tokenizer_name": "timm/none"})


def test_coca_embeds_images_as_vectors(monkeypatch):
    import open_clip

    config = dict(open_clip.get_model_config("coca_ViT-B-32"))
    tiny = {"width": WIDTH, "layers": 1, "heads": 2}
    small = {**config["vision_cfg"], "image_size": SIDE, "width": 64, "layers": 1}
    config |= {
        "embed_dim": WIDTH,
        "vision_cfg": {**small, "attn_pooler_heads": 2},
        "text_cfg": {**config["text_cfg"], **tiny},
        "multimodal_cfg": {**config["multimodal_cfg"], **tiny, "attn_pooler_heads": 2},
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "coca_tiny", config)
    clip = load_clip("coca_tiny/random:0")
    images = torch.rand(2, 3, SIDE, SIDE)
    classifier = clip.classifier([["a cat"], ["a dog"], ["a fox"]])
    assert classifier(images).shape == (2, 3)
    clip.model.visual.output_tokens = True  # as open_clip leaves it: pooled, and tokens
    pooled, _ = clip.model.visual(classifier.prepared(images))
    logits = F.normalize(pooled, dim=-1) @ classifier.head.T
    clip.model.visual.output_tokens = False
    assert torch.equal(classifier(images), logits)


def layout(kind):
    """Return the configuration of a tiny CLIP or SigLIP of transformers."""
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    text = {**tower, "vocab_size": 300, "max_position_embeddings": 16}
    vision = {**tower, "image_size": SIDE, "patch_size": 16}
    if kind == "clip":
        text |= {"eos_token_id": 299, "bos_token_id": 298, "pad_token_id": 0}
        return {"text_config": text, "vision_config": vision, "projection_dim": 24}
    return {"text_config": {**text, "projection_size": WIDTH}, "vision_config": vision}


def preprocessor(kind):
    size = {"height": SIDE, "width": SIDE} if kind == "siglip" else {"shortest_edge": SIDE}
    mean = [0.5, 0.4, 0.3]
    return {"image_mean": mean, "image_std": [0.5] * 3, "size": size, "resample": 2}


def save(folder, kind, weights):
    """Write a folder in transformers' layout, without its tokenizer."""
    folder.mkdir(exist_ok=True)
    config = {"model_type": kind, **layout(kind)}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor(kind)))
    save_file(
        {name: each.contiguous() for name, each in weights.items()}, folder / "model.safetensors"
    )
    return f"local-dir:{folder}"


def as_transformers(weights, kind):
    """Return open_clip's weights under transformers' names, written from its documented classes."""
    made = {}
    vision, text = ("vision_model.", "text_model.")
    for name, each in weights.items():
        if name in ("logit_scale", "logit_bias"):
            made[name] = each.reshape(1) if kind == "siglip" else each
            continue
        tower = vision if name.startswith("visual.") else text
        short = name.removeprefix("visual.").removeprefix("trunk.").removeprefix("text.")
        short = (
            short.removeprefix("transformer.").removeprefix("resblocks.").removeprefix("blocks.")
        )
        number, _, part = short.partition(".")
        if number.isdigit():
            place = f"{tower}encoder.layers.{number}."
            kind_of = part.rpartition(".")[2] if "in_proj" not in part else part.rpartition("_")[2]
            if "in_proj" in part or "qkv" in part:
                for letter, rows in zip("qkv", each.chunk(3), strict=True):
                    made[f"{place}self_attn.{letter}_proj.{kind_of}"] = rows
                continue
            for old, new in {
                "attn.out_proj": "self_attn.out_proj", "attn.proj": "self_attn.out_proj",
                "c_fc": "fc1", "c_proj": "fc2", "ln_1": "layer_norm1", "ln_2": "layer_norm2",
                "norm1": "layer_norm1", "norm2": "layer_norm2",
            }.items():  # fmt: skip
                if part.startswith(old) or part.startswith(f"mlp.{old}"):
                    part = part.replace(old, new, 1)
                    break
            made[place + part] = each
        else:
            _outside(made, tower, short, each, kind)
    return made


def _outside(made, tower, short, each, kind):
    names = {
        "conv1.weight": "embeddings.patch_embedding.weight",
        "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
        "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
        "class_embedding": "embeddings.class_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "ln_pre.weight": "pre_layrnorm.weight", "ln_pre.bias": "pre_layrnorm.bias",
        "ln_post.weight": "post_layernorm.weight", "ln_post.bias": "post_layernorm.bias",
        "norm.weight": "post_layernorm.weight", "norm.bias": "post_layernorm.bias",
        "ln_final.weight": "final_layer_norm.weight", "ln_final.bias": "final_layer_norm.bias",
        "text_projection.weight": "head.weight", "text_projection.bias": "head.bias",
        "attn_pool.latent": "head.probe",
    }  # fmt: skip
    if short == "pos_embed":
        made[f"{tower}embeddings.position_embedding.weight"] = each[0]
    elif short in ("proj", "text_projection"):
        made["visual_projection.weight" if short == "proj" else "text_projection.weight"] = each.T
    elif short.startswith("attn_pool.q."):
        made[f"{tower}head.attention.in_proj_{short[12:]}"] = each
    elif short.startswith("attn_pool.kv."):
        whole = f"{tower}head.attention.in_proj_{short[13:]}"
        made[whole] = torch.cat([made[whole], each])
    elif short in names:
        made[tower + names[short]] = each
    else:
        old, new = next(
            (old, new)
            for old, new in {"attn_pool.proj.": "head.attention.out_proj.",
                             "attn_pool.norm.": "head.layernorm.",
                             "attn_pool.mlp.": "head.mlp."}.items()
            if short.startswith(old)
        )  # fmt: skip
        made[tower + new + short.removeprefix(old)] = each


def built(kind):
    """Return a tiny open_clip model of the layout, with weights of a fixed draw."""
    config = transformers_folder._clip(layout(kind)) if kind == "clip" else None
    config = config or transformers_folder._siglip(layout(kind))
    model = transformers_folder._model(config, layout(kind)).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(each.shape, generator=generator) * 0.2
        for name, each in model.state_dict().items()
    }


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_weights_survive_the_way_to_transformers_names_and_back(kind):
    weights = built(kind)
    theirs = as_transformers(weights, kind)
    ours = as_open_clip(theirs)
    assert ours.keys() == weights.keys()
    for name, each in ours.items():
        assert torch.equal(each.reshape(weights[name].shape), weights[name]), name


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_folder_of_transformers_is_a_backbone(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(transformers_folder, "_tokenizer", lambda *given: ByteTokenizer(16))
    weights = built(kind)
    clip = load_clip(save(tmp_path / kind, kind, as_transformers(weights, kind)))
    assert cut_for(clip) == Cut(SIDE, interpolation="bilinear", squash=kind == "siglip")
    assert clip.mean == (0.5, 0.4, 0.3)
    for name, each in clip.model.state_dict().items():
        assert torch.equal(each, weights[name]), name


def test_the_digest_names_the_approximation_of_gelu(tmp_path, monkeypatch):
    monkeypatch.setattr(transformers_folder, "_tokenizer", lambda *given: ByteTokenizer(16))
    weights = as_transformers(built("siglip"), "siglip")
    place = save(tmp_path, "siglip", weights)
    before = load_clip(place).digest
    assert load_clip(place).digest == before
    config = json.loads((tmp_path / "config.json").read_bytes())
    for tower in ("text_config", "vision_config"):
        config[tower]["hidden_act"] = "gelu"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_clip(place).digest != before


def print_backbones(*places):
    """Print the digest of each backbone, or why it cannot be loaded."""
    transformers_folder._tokenizer = lambda *given: ByteTokenizer(16)
    for place in places:
        try:
            print(json.dumps(load_clip(place).digest))
        except ZSRobustError as error:
            print(json.dumps(str(error)))


def test_a_repository_of_transformers_is_downloaded_once_and_then_a_backbone_offline(tmp_path):
    weights = as_transformers(built("clip"), "clip")
    folder = tmp_path / "clip"
    place = save(folder, "clip", weights)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    image = {"image_processor": json.loads(files["preprocessor_config.json"])}
    torch.save(weights, tmp_path / "weights.bin")
    older = files | {"pytorch_model.bin": (tmp_path / "weights.bin").read_bytes()}
    newer = files | {"processor_config.json": json.dumps(image).encode(), "flax.msgpack": b"-"}

    def run(*places, **changed):
        done = fresh.Process(
            print_backbones,
            *places,
            folder=tmp_path,
            environment=hub_environment(hub.url, tmp_path, **changed),
        ).end()
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    with HubServer() as hub:
        hub.add("org/older", without(older, "model.safetensors"), kind="model")
        hub.add("org/newer", without(newer, "preprocessor_config.json"), kind="model")
        hub.add("org/half", without(files, "model.safetensors"), kind="model")
        places = ["hf-hub:org/newer", "hf-hub:org/older", "hf-hub:org/half", "hf-hub:org/nobody"]
        here, newer, older, half, nobody = run(place, *places)
        assert here == newer == older
        assert "hf-hub:org/half has no model.safetensors and no pytorch_model.bin" in half
        assert "hf-hub:org/nobody: there is no such repository" in nobody
        got = [len(hub.asked(name, "GET")) for name in (*transformers_folder.WEIGHTS, ".msgpack")]
        assert got == [1, 1, 0]
        assert run(*places[:2], HF_HUB_OFFLINE="1") == [newer, older]
        assert [len(hub.asked(name, "GET")) for name in transformers_folder.WEIGHTS] == [1, 1]


def without(files, name):
    return {key: value for key, value in files.items() if key != name}


@pytest.mark.parametrize("missing", ["model.safetensors", "preprocessor_config.json"])
def test_a_missing_file_of_a_folder_is_named(tmp_path, missing):
    place = save(tmp_path, "clip", as_transformers(built("clip"), "clip"))
    (tmp_path / missing).unlink()
    with pytest.raises(ZSRobustError, match=missing):
        load_clip(place)


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_logits_equal_those_of_transformers(tmp_path, monkeypatch, kind):
    import transformers

    config, made = {
        "clip": (transformers.CLIPConfig, transformers.CLIPModel),
        "siglip": (transformers.SiglipConfig, transformers.SiglipModel),
    }[kind]
    theirs = made(config(**layout(kind))).eval()
    theirs.load_state_dict(as_transformers(built(kind), kind))
    monkeypatch.setattr(transformers_folder, "_tokenizer", lambda *given: None)
    clip = load_clip(save(tmp_path, kind, theirs.state_dict()))
    tokens = torch.arange(2, 66).reshape(4, 16)
    tokens[:, -3] = 299  # the end of CLIP's texts
    images = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    clip.tokenize = lambda prompts: tokens
    classifier = clip.classifier([["a"], ["b"], ["c"], ["d"]])
    with torch.no_grad():
        expected = theirs(
            input_ids=tokens, pixel_values=classifier.prepared(images)
        ).logits_per_image
        bias = clip.model.logit_bias if kind == "siglip" else 0
        assert torch.allclose(classifier(images) + bias, expected, rtol=0, atol=1e-5)
    assert expected.std() > 100 * 1e-5  # far above the tolerance


@pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
def test_a_folders_own_tokenizer_is_used(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"[PAD]": 0, "[UNK]": 1, "a": 2, "cat": 3}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))  # noqa: S106  # no secret
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    place = save(tmp_path, "siglip", as_transformers(built("siglip"), "siglip"))
    made.save(str(tmp_path / "tokenizer.json"))
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about))
    tokens = load_clip(place).tokenize(["a cat", "a dog"])
    assert tokens.tolist() == [[2, 3] + [0] * 14, [2, 1] + [0] * 14]

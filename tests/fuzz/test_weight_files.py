"""Checkpoints of ours, and weights of others: safetensors, torch's archives and pickles, open_clip's folders."""

import io
import json
import pickle
import struct
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import safetensors.torch
import torch
from fuzz_inputs import TEXTS, damaged, edited, inputs, judge, weird
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import make_clip, moved

from zsrobust.defenses.weights import load_tower
from zsrobust.models.clip import load_clip
from zsrobust.training import Checkpoint, Recipe


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return load_clip(make_clip(tmp_path_factory.mktemp("clip") / "vit").backbone)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(2, dtype=torch.float16)}
METADATA = {
    "recipe": Recipe(objective="tecoa", attack="pgd2", eps=1 / 255).to_dict(),
    "sources": {"backbone": "0" * 64, "images": "1" * 64},
    "history": [{"loss": 1.0, "accuracy": 0.5, "distance": 0.1, "seconds": 2.0}],
}


def saved(metadata):
    return safetensors.torch.save(
        TENSORS, {storable(name): json.dumps(value) for name, value in metadata.items()}
    )


def storable(name: str) -> str:
    return name.encode(errors="replace").decode()


def with_header(header) -> bytes:
    """A safetensors file of this header, whatever it says, and 40 bytes."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(40)


OURS = saved(METADATA)
(SIZE,) = struct.unpack("<Q", OURS[:8])
HEADER = json.loads(OURS[8 : 8 + SIZE])
DTYPES = [
    "F64",
    "F32",
    "F16",
    "BF16",
    "I64",
    "U8",
    "BOOL",
    "F8_E4M3",
    "F8_E5M2",
    "F8_E8M0",
    "F4",
    "F6_E2M3",
    "C64",
    "U16",
    "U64",
    "X",
    "",
]
claims = (
    st.integers(0, 2**63)
    | st.sampled_from([0, 1, 6, 24, 28, 40, 41, 10**12, 2**62, -1])
    | st.sampled_from(DTYPES)
)


def use(path: Path) -> None:
    checkpoint = Checkpoint.read(path)
    assert isinstance(checkpoint.digest, str)
    assert checkpoint.epoch_seconds >= 0 or checkpoint.epoch_seconds < 0


@inputs(4_000)
@given(content=damaged([OURS]))
def test_damaged_checkpoints(content, place):
    (place / "ours.safetensors").write_bytes(content)
    judge("checkpoint, bytes", lambda: use(place / "ours.safetensors"))


@inputs(3_000)
@given(header=edited(HEADER, claims | weird))
def test_headers_of_checkpoints(header, place):
    (place / "ours.safetensors").write_bytes(with_header(header))
    judge("checkpoint, header", lambda: use(place / "ours.safetensors"))


@inputs(1_500)
@given(metadata=edited(METADATA))
def test_recipes_of_checkpoints(metadata, clip, place):
    if isinstance(metadata.get("sources"), dict):
        metadata["sources"]["backbone"] = clip.digest
    (place / "ours.safetensors").write_bytes(saved(metadata))
    judge("checkpoint, recipe", lambda: load_tower(str(place / "ours.safetensors"), clip))


def packed(content, **how) -> bytes:
    torch.save(content, buffer := io.BytesIO(), **how)
    return buffer.getvalue()


SHARED = torch.zeros(1)
PACKED = [
    packed({"state_dict": TENSORS, "epoch": 3}),
    packed(TENSORS),
    packed(
        {
            "vision_encoder_state_dict": {f"module.{name}": each for name, each in TENSORS.items()},
            "add_prompter": {},
        }
    ),
    packed(TENSORS, _use_new_zipfile_serialization=False),
    packed(
        {
            "sparse": TENSORS["weight"].to_sparse(),
            "giant": SHARED.expand(10**6, 10**6),
            "complex": torch.zeros(2, dtype=torch.complex64),
        }
    ),
    pickle.dumps({"state_dict": {"a": [1.0] * 3}}, 2),
]


@inputs(3_000)
@given(content=damaged(PACKED), name=st.sampled_from(["a.pt", "b.bin", "c.safetensors"]))
def test_weights_of_others(content, name, clip, place):
    (place / name).write_bytes(content)
    judge("weights, bytes", lambda: load_tower(str(place / name), clip))


KINDS = [
    lambda each: each.double(),
    lambda each: each.to(torch.complex64),
    lambda each: each.to_sparse(),
    lambda each: each.bool(),
    lambda each: each[..., None],
    lambda each: each * float("nan"),
    lambda each: each.to(torch.int8),
    lambda each: each.to("meta"),
    lambda each: each.clone().requires_grad_(True),
    lambda each: each.new_zeros(1).expand(10**5, 10**5),
    lambda each: 3,
    lambda each: "x",
    lambda each: {"a": each},
    lambda each: torch.quantize_per_tensor(each, 0.1, 0, torch.qint8),
    lambda each: each.t() if each.ndim == 2 else each,
]


def changed(kind, each):
    """Return what a kind makes of a small tensor; what it was, where torch cannot."""
    if not isinstance(each, torch.Tensor) or each.numel() > 10**6:
        return each
    with suppress(RuntimeError, NotImplementedError):  # torch lacks this kind for this dtype
        return kind(each)
    return each


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@inputs(500)
@given(data=st.data())
def test_tensors_of_other_kinds(data, clip, place):
    weights = moved(clip.encoder.state_dict(), seed=1)
    for _ in range(data.draw(st.integers(0, 3))):
        name = data.draw(st.sampled_from([*sorted(map(str, weights)), *TEXTS[:4]]))
        place_of = data.draw(
            st.sampled_from([name, name, f"visual.{name}", 7, "state_dict", "partial_state_dict"])
        )
        weights[place_of] = changed(data.draw(st.sampled_from(KINDS)), weights.get(name, SHARED))
    wrapped = data.draw(
        st.sampled_from(
            [
                weights,
                {"state_dict": weights},
                {"partial_state_dict": weights},
                {"partial_state_dict": {f"visual.{name}": weights[name] for name in weights}},
                {"a": weights},
                [weights],
            ]
        )
    )
    if isinstance(wrapped, dict) and data.draw(st.booleans()):
        wrapped["vision_encoder_state_dict"] = wrapped
    torch.save(wrapped, place / "kinds.pt")
    judge("weights, tensors", lambda: load_tower(str(place / "kinds.pt"), clip))


@inputs(1_000)
@given(data=st.data())
def test_configurations_of_folders(data, clip, place):
    folder = place / "folder"
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_model.safetensors").write_bytes(OURS)
    (folder / "open_clip_config.json").write_text(json.dumps(data.draw(edited(clip.config))))
    judge("open_clip_config.json", lambda: load_tower(str(folder), clip))


@inputs(1_000)
@given(text=st.sampled_from(TEXTS) | st.text(max_size=20))
def test_places(text, clip):
    if "/" in text and "." not in text:  # may be a repository of the hub, which is not asked here
        return
    judge("weights:PLACE", lambda: load_tower(text, clip))

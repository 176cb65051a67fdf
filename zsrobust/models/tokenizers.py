"""Tokenizers that open_clip does not ship: of a folder, of the hub, and of random weights."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.hub import check_network

#: A hub's or a folder's tokenizer has one of these files.
FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json")


def check_transformers(backbone: str) -> None:
    """Raise ZSRobustError if transformers, which a backbone's texts need, is not installed."""
    if find_spec("transformers") is None:
        raise ZSRobustError(
            f"The backbone {backbone} needs the package transformers, which is not installed. "
            "Next: pip install 'zsrobust[siglip]'"
        )


def check_hub_tokenizer(backbone: str, text: Mapping[str, Any]) -> None:
    """Raise ZSRobustError if a tokenizer of the hub cannot be loaded: checked before any work.

    `text` is open_clip's `text_cfg`. An architecture without such a tokenizer passes.
    """
    from huggingface_hub import try_to_load_from_cache

    if not (text.get("hf_tokenizer_name") or text.get("hf_model_name")):
        return
    check_transformers(backbone)
    name = text.get("hf_tokenizer_name") or text["hf_model_name"]
    if not any(isinstance(try_to_load_from_cache(name, file), str) for file in FILES):
        check_network(
            f"The tokenizer of {backbone} is {name} of the hub, which is not on this machine",
            "Next: hf download " + name + ", where there is a {}.",
        )


class ByteTokenizer:
    """A tokenizer for random weights: a text's bytes, then one end, then padding.

    Random embeddings give tokens no meaning, so any ids will do. It needs no files.
    """

    def __init__(self, context_length: int) -> None:
        """Take the number of tokens of a text."""
        self.context_length = context_length

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return token ids, (N, context length); 0 is padding, 1 the end, a byte its value + 2."""
        tokens = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        for row, text in zip(tokens, texts, strict=True):
            ids = [byte + 2 for byte in text.encode()[: self.context_length - 1]] + [1]
            row[: len(ids)] = torch.tensor(ids)
        return tokens


class FolderTokenizer:
    """The tokenizer of a folder in transformers' layout, padded to the context length."""

    def __init__(self, folder: Path, context_length: int) -> None:
        """Load the tokenizer; no code of the folder is run."""
        from transformers import AutoTokenizer

        self.context_length = context_length
        self.tokenizer: Any = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return token ids, (N, context length)."""
        tokens: Tensor = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.context_length,
            return_tensors="pt",
        ).input_ids
        return tokens

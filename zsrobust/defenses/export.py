"""Export: a defense as a folder that plain open_clip loads, with a model card."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from tabulate import tabulate
from torch import Tensor

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.files import write_atomically
from zsrobust.core.hub import check_network, hub_error
from zsrobust.core.specs import normalize
from zsrobust.defenses import Defense, Tower, Wrapped, defenses
from zsrobust.defenses.places import CONFIG, FILES
from zsrobust.defenses.weights import Weights
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.clip import Clip, weights_digest
from zsrobust.results.cell import versions
from zsrobust.results.identity import differences
from zsrobust.results.store import Store, read

TEXTS = ["a photo of a dog", "ZSROBUST, naïve: 1/255!"]  #: on which two tokenizers must agree


def export(spec: str, workshop: Workshop, out: Path, results: Store) -> Path:
    """Write the CLIP of a defense as a folder that open_clip loads, and return the folder.

    `results` is where the numbers of its card are read. Raises ZSRobustError for a tower that is
    not of CLIP's shape, and for a folder that holds anything but an earlier export.
    """
    _check_free(out)
    defense = defenses.create(spec)
    if isinstance(defense, Wrapped):
        raise ZSRobustError(
            f"{spec} cannot be exported: it acts at test time, and a folder has weights only. "
            f"Export what it is around: zsrobust export {defense.of}"
        )
    if any(recipe.trainable == "prompts" for recipe in defense.recipes(workshop.suite)):
        raise ZSRobustError(f"{spec} cannot be exported: open_clip cannot load visual prompts.")
    if any(recipe.trainable == "context" for recipe in defense.recipes(workshop.suite)):
        raise ZSRobustError(
            f"{spec} cannot be exported: open_clip cannot load a learned context. "
            "Export the tower that it is for: zsrobust export tecoa"
        )
    spec = normalize(spec)
    results.load()  # so that a damaged result is an error before the training, not after
    tower, clip = workshop.tower(spec), workshop.clip
    if tower.head is not None:
        raise ZSRobustError(
            f"{spec} cannot be exported: its text tower is not the backbone's. "
            "Use the folder that it came from"
        )
    rows = _results(spec, workshop, tower, results)
    weights = _whole(spec, clip, tower)
    digests = {
        "image_tower": weights_digest(tower.encoder.state_dict()),
        "model": weights_digest(weights),
    }
    about = {"defense": spec, "suite": workshop.suite.name, **digests, **tower.identity}
    config = {**clip.config, "zsrobust": about}
    write_atomically(
        out / CONFIG, (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
    )
    write_atomically(out / FILES[0], safetensors.torch.save(weights, {"format": "pt"}))
    _write_tokenizer(clip, out)
    write_atomically(out / "README.md", _card(defense, clip, about, rows).encode())
    return out


def push(folder: Path, repo: str, token: str | None = None) -> str:
    """Upload an exported folder to a repository of the hub, and return its address."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    if not _is_export(folder):
        raise ZSRobustError(
            f"{folder} is no export. Make one: zsrobust export DEFENSE --out {folder}"
        )
    check_network(f"{repo} cannot be uploaded from here")
    api = HfApi(token=token)
    try:
        address = str(api.create_repo(repo, exist_ok=True))
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="zsrobust export")
    except (OSError, HFValidationError) as error:
        raise hub_error(f"Cannot upload to {repo}", error) from error
    return address


def _is_export(folder: Path) -> bool:
    try:
        return "zsrobust" in json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError):
        return False


def _check_free(out: Path) -> None:
    if out.exists() and not (out.is_dir() and (_is_export(out) or not any(out.iterdir()))):
        raise ZSRobustError(
            f"{out} holds something other than an earlier export. Choose another folder: --out DIR"
        )


def _whole(spec: str, clip: Clip, tower: Tower) -> dict[str, Tensor]:
    """Return the weights of the backbone with the tower in the place of its own."""
    theirs, ours = tower.encoder.state_dict(), clip.encoder.state_dict()
    if type(tower.encoder) is not type(clip.encoder) or theirs.keys() != ours.keys():
        raise ZSRobustError(
            f"{spec} cannot be exported: open_clip has no {type(tower.encoder).__name__}. "
            "Visual prompts stay in zsrobust."
        )
    weights = clip.model.state_dict() | {
        f"visual.{name}": tensor for name, tensor in theirs.items()
    }
    return {
        name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()
    }  # clones share nothing


def _write_tokenizer(clip: Clip, out: Path) -> None:
    """Write the tokenizer's files; raises ZSRobustError if its tokens would differ."""
    import open_clip

    if hasattr(clip.tokenize, "save_pretrained"):
        with tempfile.TemporaryDirectory() as folder:
            clip.tokenize.save_pretrained(folder)
            for file in filter(Path.is_file, Path(folder).iterdir()):
                write_atomically(out / file.name, file.read_bytes())
    tokenize: Any = open_clip.get_tokenizer(f"local-dir:{out}")
    if not tokenize(TEXTS).equal(clip.tokenize(TEXTS)):
        raise ZSRobustError(
            f"The tokenizer of {clip.name} cannot be exported: it gives other tokens from {out}."
        )


def _results(spec: str, workshop: Workshop, tower: Tower, store: Store) -> list[dict[str, Any]]:
    """Return a row for every stored cell of a defense that was measured with this tower."""
    stored = store.load()
    own = stored[(stored["defense"] == spec) & (stored["suite"] == workshop.suite.name)].to_dict(
        "records"
    )
    expected = json.loads(json.dumps({"spec": spec, **tower.identity}))
    cells = [
        cell
        for cell in own
        if not list(differences(read(Path(cell["path"])).identity.defense.to_json(), expected))
    ]

    def percent(cell: Mapping[Any, Any], count: str) -> str:
        return f"{cell[count] / cell['images']:.2%}" if cell["status"] == "ok" else "—"

    return [
        {
            "dataset": cell["dataset_title"],
            "protocol": cell["protocol"],
            "attack": cell["attack"],
            "eps": cell["eps"],
            "images": cell["images"],
            "clean": percent(cell, "clean_correct"),
            "robust": percent(cell, "robust_correct"),
        }
        for cell in cells
    ]


def _card(
    defense: Defense, clip: Clip, about: Mapping[str, Any], rows: list[dict[str, Any]]
) -> str:
    """Return the model card: front matter, loading, recipe, sources, results."""
    matter = ["library_name: open_clip", "pipeline_tag: zero-shot-image-classification"]
    if isinstance(defense, Weights) and defense.license:
        matter.append(f"license: {defense.license}")
    matter.append("tags: [clip, adversarial-robustness, zsrobust]")
    recipe = about.get("recipe", {})
    sources = {name: value for name, value in about.items() if name != "recipe"}
    start = "\n".join(["---", *matter, "---"])
    return f"""{start}

# {defense.title}

{clip.name} with the image tower of the defense `{about["defense"]}` ({defense.paper}).
The text tower is the backbone's.
Written by `zsrobust export`.

## Loading it

```python
import open_clip

place = "local-dir:FOLDER"  # or "hf-hub:ORG/NAME"
model, _, preprocess = open_clip.create_model_and_transforms(place)
tokenizer = open_clip.get_tokenizer(place)
model.eval().requires_grad_(False)  # frozen, its numbers are zsrobust's to the last bit
```

With zsrobust: `zsrobust run --suite {about["suite"]} --defense weights:FOLDER`

## Recipe

{_listing(recipe) if recipe else "No recipe: it was not trained by zsrobust."}

## Sources

{_listing(sources)}

## Versions

{_listing(versions())}

## Results

{_measured(rows)}
"""


def _listing(fields: Mapping[str, Any]) -> str:
    return "\n".join(f"* {name}: `{value}`" for name, value in fields.items())


def _measured(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "None so far."
    table = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
    note = "Robust: correct without and under attack (`reference`: correct under attack)."
    return f"{table}\n\n{note}"

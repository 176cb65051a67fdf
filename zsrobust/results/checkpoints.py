"""Verification of checkpoints: their digests, and the cells that were measured with them."""

import json
import re
from pathlib import Path

from zsrobust.core.errors import counted
from zsrobust.results.digests import checkpoint_place, read_weights, seal
from zsrobust.results.findings import Verified, removal, verify_unfinished
from zsrobust.results.repair import Cells

#: The metadata of checkpoints stored before checkpoints had a digest.
OLDER = {"recipe", "sources", "prompts", "history"}

#: The names of checkpoints, and of trainings that are not finished.
CHECKPOINT = re.compile(r".+-[0-9a-f]{16}\.(safetensors|partial)")


def verify_checkpoints(folder: Path, cells: Cells, found: Verified) -> None:
    """Verify the checkpoints in a folder, and that they are those of the trained cells."""
    uses = _uses(folder, cells)
    if not folder.is_dir():
        if uses:
            found.notes.append(
                f"the folder {folder} is missing: {counted(len(uses), 'checkpoint')} of these "
                "cells not verified. Next: zsrobust verify --checkpoints FOLDER"
            )
        return
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    checkpoints = [path for path in files if CHECKPOINT.fullmatch(path.name)]
    user = {path: users[0] for (path, _), users in uses.items()}
    digests = {path: _verify_digest(path, user.get(path), cells, found) for path in checkpoints}
    for (path, digest), users in sorted(uses.items()):
        which = f"{counted(len(users), 'cell')}, first {users[0]}"
        again = _retrain(users[0], cells)
        if path not in digests:
            found.find(path, f"the checkpoint of these cells is missing: {which}", again)
        elif digests[path] not in (None, digest):
            found.find(path, f"its weights are not those of these cells: {which}", again)
    found.checkpoints = sum(path.suffix == ".safetensors" for path in checkpoints)
    if found.undigested:
        found.notes.append(
            f"{counted(found.undigested, 'checkpoint')} stored before checkpoints had a digest: "
            "only the cells that use them verify them"
        )
    verify_unfinished(files, found)


def _uses(folder: Path, cells: Cells) -> dict[tuple[Path, str], list[Path]]:
    """Return the cells of trained defenses, by their checkpoint's path and weights' digest."""
    uses: dict[tuple[Path, str], list[Path]] = {}
    for path, result in cells.results.items():
        for made in result.identity.defense.trained.values():
            place = folder / checkpoint_place(result.identity.suite, made["recipe"])
            uses.setdefault((place, made["checkpoint"]), []).append(path)
    return uses


def _retrain(user: Path, cells: Cells) -> str:
    """Return the command that trains the checkpoint of a cell if it is missing."""
    return cells.command(user, all_datasets=True, force=False)


def _verify_digest(path: Path, user: Path | None, cells: Cells, found: Verified) -> str | None:
    """Return the digest of a checkpoint's weights; None, with a finding, if it is damaged."""
    try:
        metadata, weights = read_weights(path)
        place = checkpoint_place("", json.loads(metadata["recipe"]))
        older = path.suffix == ".safetensors" and metadata.keys() <= OLDER
        found.undigested += older
        sealed = older or metadata["digest"] == seal(metadata, weights)
        if path.name != place.with_suffix(path.suffix).name or not sealed:
            raise ValueError("its digest does not fit")
        return weights
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        again = f"; {_retrain(user, cells)}" if user else ", and it is trained again"
        wrong = f"damaged ({error or type(error).__name__})"
        found.find(path, wrong, removal(path) + again)
        return None

"""Descriptions of classes: several sentences for each class, from a file of the data root.

The file is JSON: an object from class names to lists of sentences, as SAFT's authors release it.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.values import read_json


def read_descriptions(name: str, classes: Sequence[str]) -> list[list[str]]:
    """Return the descriptions of each class, in label order, from `descriptions/NAME.json`.

    Raises ZSRobustError if the data root is not set, if the file is missing or is not such an
    object, and if it lacks a class.
    """
    root = os.environ.get("ZSROBUST_DATA")
    path = Path(root or "DATA", "descriptions", f"{name}.json")
    if root is None or not path.is_file():
        why = "" if root else ", and ZSROBUST_DATA is not set"
        raise ZSRobustError(
            f"Descriptions of the classes of {name} are missing: {path} does not exist{why}. "
            'Expected a JSON object, as {"goldfish": ["a small orange fish", …]}. SAFT\'s authors '
            "release some (github.com/tmlr-group/SAFT, prompts/, MIT license): copy the file "
            "there, and use --data-root"
        )
    try:
        found = read_json(path.read_text(encoding="utf-8"), dict[str, list[str]], str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ZSRobustError(f"{path} cannot be read: {error}.") from None
    missing = [each for each in classes if not found.get(each)]
    if missing:
        raise ZSRobustError(
            f"{path} lacks descriptions of {len(missing)} of the {len(classes)} classes of {name}: "
            f"{', '.join(missing[:5])}. Add them under these names."
        )
    return [found[each] for each in classes]

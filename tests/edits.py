"""Results as tests want them: a stored one, with parts of its identity and fields replaced."""

import json
from typing import Any

from zsrobust.results import Result


def edited(result: Result, identity: dict[str, Any] | None = None, **fields: Any) -> Result:
    """Return a result with other fields; parts of the identity by their dotted names, "attack.eps"."""
    stored = json.loads(json.dumps(result.to_json()))
    for name, value in (identity or {}).items():
        *parts, key = name.split(".")
        place = stored["identity"]
        for part in parts:
            place = place[part]
        place[key] = value
    return Result.from_json({**stored, **fields})

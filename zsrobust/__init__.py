"""zsrobust: the zero-shot adversarial robustness of CLIP, measured."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zsrobust.registry import ZSRobustError
    from zsrobust.results import load_results
    from zsrobust.runner import evaluate

__all__ = ["ZSRobustError", "evaluate", "load_results"]

_HOMES = {"ZSRobustError": "registry", "load_results": "results", "evaluate": "runner"}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for, so that the command line starts at once."""
    if name not in _HOMES:
        raise AttributeError(f"module 'zsrobust' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"zsrobust.{_HOMES[name]}"), name)

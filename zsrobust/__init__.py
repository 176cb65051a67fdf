"""zsrobust: the zero-shot adversarial robustness of CLIP, measured."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zsrobust import attacks, datasets, defenses
    from zsrobust.core.errors import ZSRobustError
    from zsrobust.evaluation.redflags.doctor import Diagnosis
    from zsrobust.results import Result, Results, load_results
    from zsrobust.running.single import diagnose, evaluate

__all__ = [
    "Diagnosis",
    "Result",
    "Results",
    "ZSRobustError",
    "attacks",
    "datasets",
    "defenses",
    "diagnose",
    "evaluate",
    "load_results",
]

#: The module that defines each public name. The other names are subpackages.
_HOMES = {
    "Diagnosis": "evaluation.redflags.doctor",
    "Result": "results",
    "Results": "results",
    "ZSRobustError": "core.errors",
    "diagnose": "running.single",
    "evaluate": "running.single",
    "load_results": "results",
}


def __getattr__(name: str) -> Any:
    """Return a public name, imported on first use, so that the command line starts quickly."""
    if name not in __all__:
        raise AttributeError(f"module 'zsrobust' has no attribute {name!r}")
    from importlib import import_module

    if name not in _HOMES:
        return import_module(f"zsrobust.{name}")
    return getattr(import_module(f"zsrobust.{_HOMES[name]}"), name)

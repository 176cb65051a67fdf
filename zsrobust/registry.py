"""The names that plugins import: the registry, functions for spec strings, and the error type."""

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.registry import Registry, load_plugin_file, load_plugins
from zsrobust.core.specs import format_eps, join_spec, parse_eps, split_spec

__all__ = [
    "Registry",
    "ZSRobustError",
    "format_eps",
    "join_spec",
    "load_plugin_file",
    "load_plugins",
    "parse_eps",
    "split_spec",
]

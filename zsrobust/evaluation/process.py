"""The process's settings that an attack may leave changed, and how they are restored."""

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as hooks


class Setting(NamedTuple):
    """One setting of the process: its name for a message, and how it is read and written."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


def _attribute(name: str, owner: Any, attribute: str) -> Setting:
    return Setting(
        name, lambda: getattr(owner, attribute), lambda value: setattr(owner, attribute, value)
    )


def _global_hooks(name: str) -> Setting:
    """Return the setting of one of torch's dictionaries of hooks that run in every module."""
    registered: dict[int, Any] = getattr(hooks, name)

    def write(before: dict[int, Any]) -> None:
        registered.clear()
        registered.update(before)

    return Setting(name.strip("_").replace("_", " "), lambda: dict(registered), write)


def _autocast(device: str) -> Setting:
    return Setting(
        f"autocast on {device}",
        lambda: torch.is_autocast_enabled(device),
        lambda value: torch.set_autocast_enabled(device, value),
    )


def _deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # an attack removed the folder that it had entered
        return ""


def _interrupt(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread() and handler is not None:
        signal.signal(signal.SIGINT, handler)


SETTINGS = (
    Setting("gradient mode", torch.is_grad_enabled, torch.set_grad_enabled),
    Setting("default dtype", torch.get_default_dtype, torch.set_default_dtype),
    Setting("number of threads", torch.get_num_threads, torch.set_num_threads),
    Setting(
        "deterministic algorithms",
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        _deterministic,
    ),
    Setting("anomaly mode", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    Setting("working directory", _folder, os.chdir),
    Setting("Ctrl-C handler", lambda: signal.getsignal(signal.SIGINT), _interrupt),
    Setting(
        "float32 matmul precision",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    _attribute("TF32 of matmul", torch.backends.cuda.matmul, "allow_tf32"),
    _attribute("TF32 of cuDNN", torch.backends.cudnn, "allow_tf32"),
    _attribute("cuDNN", torch.backends.cudnn, "enabled"),
    _attribute("cuDNN benchmark", torch.backends.cudnn, "benchmark"),
    _attribute("cuDNN deterministic", torch.backends.cudnn, "deterministic"),
    _attribute("oneDNN", torch.backends.mkldnn, "enabled"),
    *map(_autocast, ("cpu", "cuda")),
    *map(
        _global_hooks,
        (
            "_global_forward_hooks",
            "_global_forward_pre_hooks",
            "_global_backward_hooks",
            "_global_backward_pre_hooks",
        ),
    ),
)


@contextmanager
def restored(
    modules: list[nn.Module], changed: set[str], seed: int, device: torch.device
) -> Iterator[None]:
    """Restore the process and the modes of the modules at the end; add what differed to `changed`.

    Inside, torch's global random numbers start at `seed`. The random states of torch, NumPy and
    Python are restored without a report, because an attack may use them.
    """
    before = [setting.read() for setting in SETTINGS]
    parts = [part for module in modules for part in module.modules()]
    modes = [part.training for part in parts]
    weights = [weight for module in modules for weight in module.parameters()]
    learning = [weight.requires_grad for weight in weights]
    python, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        try:
            yield
        finally:
            for setting, value in zip(SETTINGS, before, strict=True):
                if setting.read() != value:
                    changed.add(setting.name)
                    setting.write(value)
            if [part.training for part in parts] != modes:
                changed.add("train and eval modes")
            if [weight.requires_grad for weight in weights] != learning:
                changed.add("gradients of weights")
            for part, mode in zip(parts, modes, strict=True):
                part.training = mode
            for weight, flag in zip(weights, learning, strict=True):
                weight.requires_grad_(flag)
            random.setstate(python)
            np.random.set_state(numbers)

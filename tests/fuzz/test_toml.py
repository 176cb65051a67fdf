"""A user's files: suites, protocols, datasets and weights."""

import tomllib
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from fuzz_inputs import damaged, edited, inputs, judge, toml
from hypothesis import given
from PIL import Image

from zsrobust.attacks import attacks
from zsrobust.core.registry import load_plugins
from zsrobust.datasets import datasets
from zsrobust.defenses import defenses
from zsrobust.running.entries import _loaded, load_entries
from zsrobust.settings import protocols, suites


def ours(package, name):
    return resources.files(package).joinpath(f"{name}.toml").read_bytes()


SUITES = [ours("zsrobust.settings.suites", name) for name in suites.names()]
PROTOCOLS = [ours("zsrobust.settings.protocols", name) for name in protocols.names()]
SUITE = {**tomllib.loads(SUITES[0].decode()), "limits": {"autoattack": 32}}
ENTRIES = {
    "dataset": {
        "birds": {
            "folder": "birds",
            "classes": ["a", "b"],
            "templates": ["a photo of a {}."],
            "title": "Birds",
            "side": 4,
            "dropped": ["c"],
        },
        "own": {
            "like": "cifar10",
            "folder": "birds",
            "folders": ["a", "b"],
            "by_class": True,
            "may_be_shown": False,
        },
        "far": {
            "like": "cifar10",
            "size": 5,
            "sources": [
                {"repo": "a/b", "revision": "0" * 40, "format": "parquet", "test": ["test"]}
            ],
        },
    },
    "weights": {
        "mine": {
            "title": "Mine",
            "paper": "x",
            "where": "mine.pt",
            "sha256": "0" * 64,
            "backbone": "ViT-B-32/openai",
        }
    },
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toml")
    for name in ("a", "b"):
        (folder / "birds" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "birds" / name / "0.png")
    return folder


def use(suite):
    """What a run asks of a suite before it starts."""
    for name in ("pgd10", "autoattack", "pgd"):
        attacks.create(name, suite.attack)
    for name in ("tecoa", "pmg_aft", "vpt_tecoa", "interpolation"):
        defenses.create(name).recipes(suite)


@inputs(7_000)
@given(content=damaged(SUITES))
def test_damaged_suites(content, place):
    (place / "mine.toml").write_bytes(content)
    judge("suite.toml, bytes", lambda: use(suites.load(str(place / "mine.toml"))))


@inputs(8_000)
@given(values=edited(SUITE))
def test_edited_suites(values, place):
    (place / "mine.toml").write_text(toml(values), errors="replace")
    judge("suite.toml, values", lambda: use(suites.load(str(place / "mine.toml"))))


@inputs(5_000)
@given(content=damaged(PROTOCOLS))
def test_damaged_protocols(content, place):
    (place / "mine.toml").write_bytes(content)
    judge("protocol.toml, bytes", lambda: protocols.load(str(place / "mine.toml")).switches)


@inputs(4_000)
@given(values=edited(tomllib.loads(PROTOCOLS[0].decode())))
def test_edited_protocols(values, place):
    (place / "mine.toml").write_text(toml(values), errors="replace")
    judge("protocol.toml, values", lambda: protocols.load(str(place / "mine.toml")).switches)


@pytest.fixture
def registered():
    """What a file registers is forgotten."""
    load_plugins()
    kept = [(registry, dict(registry)) for registry in (datasets._entries, defenses._entries)]

    def forget() -> None:
        for registry, before in kept:
            registry.clear()
            registry.update(before)
        _loaded.clear()

    yield forget
    forget()


def load_and_list(path: Path, known: set[str]) -> None:
    load_entries(path)
    for name in set(datasets) - known:
        datasets[name].prompts()


@inputs(4_000)
@given(values=edited(ENTRIES))
def test_edited_entries(values, place, registered):
    (place / "mine.toml").write_text(toml(values), errors="replace")
    known = set(datasets)
    judge("entries.toml, values", lambda: load_and_list(place / "mine.toml", known))
    registered()


@inputs(3_000)
@given(content=damaged([toml(ENTRIES).encode()]))
def test_damaged_entries(content, place, registered):
    (place / "mine.toml").write_bytes(content)
    known = set(datasets)
    judge("entries.toml, bytes", lambda: load_and_list(place / "mine.toml", known))
    registered()

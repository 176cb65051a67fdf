"""Values that contradict each other are refused, also where every digest was computed again."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from zsrobust import results
from zsrobust.core.errors import ZSRobustError
from zsrobust.results import store
from zsrobust.results.cell import Outcomes
from zsrobust.results.plausible import TOLERANCE, most
from zsrobust.results.verification import verify

STORED = Path(__file__).parents[1] / "results"
PLACE = Path("mini/sound/pgd10-eps=6-255/tecoa/mini_cells.json")


def sealed(path, stored):
    """Write a result with a digest that fits, whatever it says."""
    stored.pop("digest", None)
    digest = hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()
    path.write_bytes(store.laid_out({**stored, "digest": digest}))


def forge(folder, place=PLACE, outcomes=None, identity=None, **fields):
    """Copy a cell of the repository with other values and right digests; return its path."""
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".json", ".npz", ".samples.npz"):
        shutil.copy((STORED / place).with_suffix(suffix), path.parent)
    stored = json.loads(path.read_bytes())
    for name, value in (identity or {}).items():
        part, key = name.split(".")
        stored["identity"][part][key] = value
    if outcomes is not None:
        content = outcomes(Outcomes.read(path)).to_bytes()
        path.with_suffix(".npz").write_bytes(content)
        stored["outcomes"] = hashlib.sha256(content).hexdigest()
    sealed(path, {**stored, **fields})
    return path


def moved(name, value):
    """Return a change of outcomes: the last image gets another value."""

    def change(outcomes):
        array = getattr(outcomes, name).copy()
        array[-1] = value
        return dataclasses.replace(outcomes, **{name: array})

    return change


def test_a_cell_with_new_digests_and_true_values_passes(tmp_path):
    forge(tmp_path, outcomes=lambda outcomes: outcomes)
    assert verify(tmp_path).lines[-1] == "1 cell: all as they were stored"


@pytest.mark.parametrize(
    "fields",
    [
        {"seconds": -1.0},
        {"forward": -1},
        {"backward": -5},
        {"batch_size": 0},
        {"batch_size": -256},
        {"disagreements": -1},
        {"disagreements": 10**6},
        {"predicted": {"seconds": -1.0, "forward": 1, "backward": 1}},
        {"training": {"epoch_seconds": -2.0, "history": []}},
    ],
)
def test_impossible_measurements(tmp_path, fields):
    path = forge(tmp_path, **fields)
    (finding,) = verify(tmp_path).findings
    assert next(iter(fields)) in finding.wrong or "epoch_seconds" in finding.wrong
    with pytest.raises(ZSRobustError, match="is not a result of zsrobust"):
        results.read(path)


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("perturbation", np.nan, "some perturbations are not finite"),
        ("perturbation", np.inf, "some perturbations are not finite"),
        ("perturbation", -0.001, "some perturbations are not finite, or negative"),
        ("perturbation", 7 / 255, "a perturbation of 0.027451 is beyond eps 0.0235294"),
        ("perturbation", 6 / 255 + 1.2e-6, "is beyond eps"),
        ("clean", 10**6, "some predictions are of no class"),
        ("adversarial", -1, "some predictions are of no class"),
        ("adversarial", 99, "some predictions are of no class"),
    ],
)
def test_impossible_outcomes(tmp_path, name, value, wrong):
    path = forge(tmp_path, outcomes=moved(name, value))
    found = verify(tmp_path).findings
    assert any(wrong in each.wrong and each.path == path.with_suffix(".npz") for each in found)


def test_classes_are_those_of_the_identity(tmp_path):
    forge(tmp_path, identity={"dataset.classes": 1})
    (finding,) = verify(tmp_path).findings
    assert "the dataset's classes are 0 to 0" in finding.wrong


def test_a_norm_that_does_not_exist(tmp_path):
    forge(tmp_path, identity={"attack.norm": "l0"})
    assert any("a norm is linf or l2" in each.wrong for each in verify(tmp_path).findings)


def test_the_bound_is_the_referees():
    from zsrobust.evaluation import referee

    assert TOLERANCE == referee.TOLERANCE
    assert most("linf", 0.5) == 0.5 + TOLERANCE
    assert most("l2", 0.5, 3 * 224 * 224) == 0.5 + TOLERANCE * (3 * 224 * 224) ** 0.5

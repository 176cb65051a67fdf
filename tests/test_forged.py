"""Values that contradict each other are refused, also where every digest was computed again."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
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
    assert any(
        "a norm is one of linf, l2, l1, patch" in each.wrong for each in verify(tmp_path).findings
    )


def test_the_bound_is_the_referees():
    from zsrobust.evaluation.bounds import Bound

    assert Bound(0.5, "linf", False).tolerance == TOLERANCE
    assert most("linf", 0.5) == 0.5 + TOLERANCE
    assert most("l2", 0.5, 3 * 224 * 224) == 0.5 + TOLERANCE * (3 * 224 * 224) ** 0.5


def said(folder):
    """What `zsrobust verify` finds, with the rules of red flags."""
    from zsrobust.evaluation.redflags.consistency import contradictions

    return [finding.wrong for finding in verify(folder, examine=contradictions).findings]


def test_every_stored_cell_of_the_repository_passes():
    from zsrobust.evaluation.redflags.consistency import contradictions

    found = verify(STORED, examine=contradictions)
    assert found.findings == []
    assert found.cells == len(results.paths(STORED)) > 400


@pytest.mark.parametrize(
    ("identity", "wrong"),
    [
        ({"attack.steps": 1}, "the attack pgd10 has steps 10, but 1 is stored"),
        ({"attack.loss": "margin"}, "the attack pgd10 has loss ce, but margin is stored"),
        ({"attack.random_start": False}, "has random_start True, but False is stored"),
        ({"attack.step_size": "1/255"}, "has step_size 0.0117647"),
        ({"attack.norm": "l2"}, "has norm linf, but l2 is stored"),
        ({"defense.title": "PMG-AFT"}, "its title is 'PMG-AFT', not 'FT-TeCoA'"),
        ({"defense.title": "FT-TeCoA (ours)"}, "its title is 'FT-TeCoA (ours)', not 'FT-TeCoA'"),
    ],
)
def test_an_identity_that_contradicts_its_specs(tmp_path, identity, wrong):
    forge(tmp_path, identity=identity)
    (found,) = said(tmp_path)
    assert wrong in found


def placed(folder, **identity):
    """Forge a cell under another spec, in the place of this spec."""
    path = forge(
        folder, identity={name.replace("__", "."): each for name, each in identity.items()}
    )
    stored = json.loads(path.read_bytes())
    place = (
        folder
        / results.Result.from_json(
            {key: value for key, value in stored.items() if key not in ("format", "digest")}
        ).path
    )
    for suffix in (".json", ".npz", ".samples.npz"):
        place.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(suffix).rename(place.with_name(place.name + suffix))
    return said(folder)


def test_the_fields_of_a_spec_are_those_that_are_stored(tmp_path):
    (wrong,) = placed(tmp_path, attack__spec="pgd:steps=20")
    assert "the attack pgd:steps=20 has steps 20, but 10 is stored" in wrong
    assert (
        placed(tmp_path / "a", attack__spec="pgd:early_stop=true,step_size=0.0117647058823529")
        == []
    )
    assert placed(tmp_path / "b", attack__spec="plugin:rounds=3") == []


def test_the_title_of_a_defense_names_the_other_one(tmp_path):
    spec = "interpolation:of=tecoa,weight=0.6"
    title = "interpolation (0.6, FT-TeCoA)"
    assert placed(tmp_path / "a", defense__spec=spec, defense__title=title) == []
    (wrong,) = placed(
        tmp_path / "b", defense__spec=spec, defense__title="interpolation (0.6, CLIP)"
    )
    assert "its title is 'interpolation (0.6, CLIP)', not 'interpolation'" in wrong
    soup = "soup:of=tecoa+fare"
    for title, fine in (("soup (FT-TeCoA + FARE)", True), ("soup (FT-TeCoA + PMG-AFT)", False)):
        found = placed(tmp_path / title, defense__spec=soup, defense__title=title)
        assert (found == []) == fine
    assert placed(tmp_path / "c", defense__spec="plugin", defense__title="Any") == []


def checks(**changed):
    stored = json.loads((STORED / PLACE).read_bytes())["checks"]
    return {**stored, **changed}


def test_flags_that_were_emptied(tmp_path):
    forge(tmp_path, checks=checks(zero_gradients=0.9, vanishing=1e6), flags=[])
    assert said(tmp_path) == [
        "its measurements raise the flag zero_gradients, which is missing",
        "its measurements raise the flag vanishing, which is missing",
    ]


def test_flags_that_no_measurement_raises(tmp_path):
    forge(tmp_path, checks=checks(zero_gradients=0.0), flags=["zero_gradients"])
    assert said(tmp_path) == ["its measurements do not raise the flag zero_gradients"]


def test_what_cannot_be_certain_is_no_contradiction(tmp_path):
    """A measurement that is missing, a flag of a plugin, and the rules of another version."""
    known = checks()
    del known["zero_gradients"]
    forge(tmp_path, checks=known, flags=["odd_flag", "zero_gradients"])
    assert said(tmp_path) == []
    forge(tmp_path, checks=checks(zero_gradients=0.9), flags=[], versions={"zsrobust": "0.0.9"})
    assert said(tmp_path) == []


def test_the_command_finds_them_and_imports_no_torch(tmp_path):
    forge(tmp_path / "results", checks=checks(zero_gradients=0.9), flags=[])
    script = """
import sys
from click.testing import CliRunner
from zsrobust.cli import main
done = CliRunner().invoke(main, ["verify", "results"])
assert done.exit_code == 1, done.output
assert "its measurements raise the flag zero_gradients" in done.output
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


def test_the_names_are_those_of_the_registries():
    """A built-in attack or defense that is new or changed needs a line in `registered.toml`."""
    script = """
from zsrobust.attacks import attacks
from zsrobust.defenses import defenses
from zsrobust.defenses import Wrapped
from zsrobust.evaluation.identity import identify_attack
from zsrobust.results.registered import registered
left_out = ("plan", "options", "method")
fields = {name: identify_attack(attacks[name], 10) for name in attacks}
assert registered()["attacks"] == {
    name: {key: each[key] for key in each if key not in left_out} for name, each in fields.items()
}, fields
titles = {name: defenses[name].title for name in defenses if name != "weights"}
known = registered()["defenses"]
assert titles == {name: known.get(name) for name in titles}, titles
around = [name for name in defenses if hasattr(defenses[name], "of")]
assert registered()["around"]["names"] == around, around
"""
    subprocess.run([sys.executable, "-c", script], check=True)

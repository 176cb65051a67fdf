import masked
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from zsrobust.attacks.draws import Draws
from zsrobust.attacks.pgd import PGD
from zsrobust.cli.display import print_diagnoses as show
from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import datasets
from zsrobust.defenses.workshop import Workshop
from zsrobust.evaluation.redflags.doctor import Diagnosis, measure
from zsrobust.results.flags import look_up
from zsrobust.running import single
from zsrobust.running.single import diagnose
from zsrobust.settings import suites
from zsrobust.testing import LinearClassifier, toy

HONEST = [
    "clip",
    "tecoa:epochs=1,limit=128",
    "pmg_aft:epochs=1,limit=128",
    "interpolation:of=tecoa,epochs=1,limit=128",
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Return the mini suite's CLIP on a dataset."""
    workshop = Workshop(suites.load("mini"), tmp_path_factory.mktemp("none"))
    return workshop.clip.classifier(datasets["mini_positions"].prompts())


@pytest.mark.parametrize("spec", HONEST)
def test_honest_defenses_pass(spec, checkpoints):
    found = diagnose(spec, dataset="mini_positions", limit=8, checkpoints=checkpoints)
    assert found.verdict == "passes", found


@pytest.mark.parametrize("kind", [masked.Purifier, masked.RandomResize])
def test_masked_clips_are_caught(kind, clip):
    found = diagnose(kind(clip), dataset="mini_positions", limit=4)
    assert not found.passes
    assert masked.CAUGHT[kind] <= set(found.flags), found
    assert found.verdict.startswith("do not trust it: ")


@pytest.mark.parametrize("kind", [masked.BySize, masked.ByCalls])
def test_masked_clips_that_escaped_are_caught(kind, clip):
    assert not diagnose(kind(clip), dataset="mini_positions", limit=4).passes


def sample(classes=5):
    classifier, data = toy(classes, 16)
    draws = Draws.of(0, "toy", np.arange(16))
    return (
        classifier,
        torch.from_numpy(data.pixels).float() / 255,
        torch.from_numpy(data.labels),
        draws,
    )


@pytest.mark.parametrize("kind", masked.CAUGHT)
def test_masked_linear_classifiers_are_caught(kind):
    classifier, pixels, labels, draws = sample()
    attack = PGD(eps=8 / 255, step_size=2 / 255)
    found = Diagnosis("module", "toy", measure(kind(classifier), attack, pixels, labels, draws))
    assert not found.passes
    assert masked.CAUGHT[kind] <= set(found.flags), found
    assert Diagnosis("module", "toy", measure(classifier, attack, pixels, labels, draws)).passes


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_stronger_attack_never_leaves_more_and_of_a_linear_classifier_what_nothing_breaks(
    classes,
):
    classifier, pixels, labels, draws = sample(classes)
    found = measure(classifier, PGD(eps=0.01, step_size=0.001, steps=2), pixels, labels, draws)
    with torch.no_grad():
        logits = classifier(pixels)
    rows = (
        classifier.weight[labels][:, None] - classifier.weight
    )  # (N, K, D): how the margin to each class changes
    margins = logits.gather(1, labels[:, None]) - logits - 0.01 * rows.abs().sum(2)
    safe = margins.scatter(1, labels[:, None], torch.inf).amin(1) > 0
    assert found["strongest"] == pytest.approx(float(safe.float().mean()))
    assert found["clean"] == 1
    assert found["strongest"] < found["pgd"]
    assert found["overstated"] == pytest.approx(found["pgd"] - found["strongest"])


def test_a_weak_attack_is_told():
    classifier, pixels, labels, draws = sample()
    checks = measure(
        classifier,
        PGD(eps=0.01, step_size=1e-5, steps=1, random_start=False),
        pixels,
        labels,
        draws,
    )
    assert "overstated" in Diagnosis("module", "toy", checks).flags


@pytest.mark.parametrize(
    ("left", "verdict"),
    [(0.125, "passes"), (0.25, "do not trust it: the undefended model survives")],
)
def test_the_undefended_model_must_fall_and_no_other(left, verdict, monkeypatch, checkpoints):
    shares = {
        "images": 8.0,
        "correct": 6.0,
        "clean": 0.75,
        "pgd": left,
        "strongest": left,
        "overstated": 0.0,
    }
    monkeypatch.setattr(single, "measure", lambda *_, **__: dict(shares))
    about = {"dataset": "mini_positions", "limit": 2, "checkpoints": checkpoints}
    assert diagnose("clip", **about).verdict == verdict
    assert diagnose("interpolation:of=clip", **about).verdict == "passes"


def test_what_is_never_right_does_not_pass(clip):
    class Wrong(nn.Module):
        def forward(self, images):
            return -clip(images)

    found = diagnose(Wrong(), dataset="mini_positions", limit=8)
    assert not found.passes
    assert found.verdict == "the classifier is wrong on every image of the sample"
    assert found.flags == []


def test_a_module_that_raises_is_one_line():
    class Broken(nn.Module):
        def forward(self, images):
            raise RuntimeError("no")

    with pytest.raises(ZSRobustError, match="Broken could not be examined: RuntimeError: no"):
        diagnose(Broken(), dataset="mini_positions", limit=8)
    with pytest.raises(ZSRobustError, match=r"logits \(1, 3\)"):
        diagnose(LinearClassifier(torch.zeros(3, 3 * 32 * 32)), dataset="mini_positions", limit=8)


def test_the_table_says_what_is_wrong_and_what_to_do(capsys):
    checks = {
        "images": 8.0,
        "correct": 8.0,
        "clean": 1.0,
        "pgd": 0.5,
        "strongest": 0.25,
        "zero_gradients": 1.0,
    }
    show(
        [
            Diagnosis("clip", "a", {**checks, "zero_gradients": 0.0}),
            Diagnosis("odd[/]", "a", checks),
        ],
        Console(width=200),
    )
    text = capsys.readouterr().out
    assert "odd[/]" in text
    assert "passes" in text
    assert "do not trust it: zero gradients" in text
    assert "100.0 │   50.0 │     25.0" in text
    assert look_up("zero_gradients").remedy in " ".join(text.split())


PLUGIN = """
import torch
from torch import nn
from zsrobust.defenses import Wrapped, defenses
from zsrobust.models.wrappers import Purified, Wrapper

class Pure(Wrapped):
    def wrapper(self, workshop):
        return Wrapper(lambda classifier: Purified(classifier, lambda images: images.detach() + 1e-9 * (images - images.detach())))

defenses.register("pure")(Pure(title="Pure", paper="nowhere", of="clip"))
"""


def test_the_command_catches_a_plugins_defense(zsrobust, tmp_path):
    (tmp_path / "pure.py").write_text(PLUGIN)
    command = ("doctor", "--suite", "mini", "--dataset", "mini_positions", "--limit", "4")
    fine = zsrobust(*command)
    assert "passes" in fine.stdout
    assert "clip" in fine.stdout
    caught = zsrobust("--plugin", "pure.py", *command, "--defense", "pure", ok=1)
    assert "vanishing gradients" in caught.stdout
    assert "What to do" in caught.stdout
    assert not list(tmp_path.rglob("*.json"))
    assert "Unknown defense" in zsrobust(*command, "--defense", "nope", ok=2).stderr


def test_a_target_is_what_is_attacked():
    classifier, pixels, labels, draws = sample()
    attack = PGD(eps=0.02, step_size=0.005)
    plain = measure(classifier, attack, pixels, labels, draws)
    aware = measure(
        masked.StopGradient(classifier), attack, pixels, labels, draws, target=classifier
    )
    assert aware["strongest"] == plain["strongest"]
    assert aware["zero_gradients"] == 0


def test_a_run_prints_the_red_flags_their_words_and_the_next_command(zsrobust, tmp_path):
    (tmp_path / "pure.py").write_text(PLUGIN)
    request = (
        "--suite",
        "mini",
        "--limit",
        "8",
        "--attack",
        "pgd10",
        "--dataset",
        "mini_positions",
    )
    defenses = ("--defense", "pure", "--defense", "clip")
    printed = zsrobust("--plugin", "pure.py", "run", *request, *defenses, whole=True).stdout
    assert "!1 Red flag: the loss grows far more than its gradient predicts." in printed
    assert "   pure under pgd10 6/255: Positions (1 dataset)" in printed
    marks = {
        name: line.split("│")[-2].strip().split(",")
        for line in printed.splitlines()
        for name in ("pure", "clip")
        if line.startswith(f"│ {name} ")
    }
    assert "1" in marks["pure"]
    assert "1" not in marks["clip"]
    line = "Next: zsrobust --plugin pure.py doctor --suite mini --defense pure --dataset mini_positions"
    assert line in printed.splitlines()
    assert "vanishing gradients" in zsrobust(*line.split()[2:], "--limit", "4", ok=1).stdout

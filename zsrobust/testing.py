"""Checks for authors of attacks, defenses and datasets. Each raises AssertionError."""

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from zsrobust.attacks import Attack, attacks
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.scenes import Scene, Training
from zsrobust.datasets import Cut, Images, datasets
from zsrobust.datasets.pixels import tensor
from zsrobust.defenses import defenses
from zsrobust.defenses.workshop import Workshop
from zsrobust.evaluation.meter import Meter
from zsrobust.evaluation.referee import Case, judge
from zsrobust.models.clip import cut_for
from zsrobust.running.entries import load_suite


class LinearClassifier(nn.Module):
    """A linear map of pixels (N, 3, S, S) to logits (N, K). Its worst case is known."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Take the weight, (K, 3·S·S), and the bias, (K,)."""
        super().__init__()
        self.weight = nn.Parameter(weight)
        zeros = torch.zeros(len(weight), dtype=weight.dtype)
        self.bias = nn.Parameter(zeros if bias is None else bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return images.flatten(1) @ self.weight.T + self.bias

    def features(self, images: Tensor) -> Tensor:
        """Return the logits as embeddings (N, K), for attacks on features."""
        return self(images)  # type: ignore[no-any-return]  # a module's call is not typed


def toy(
    classes: int, images: int = 24, side: int = 8, seed: int = 0
) -> tuple[LinearClassifier, Images]:
    """Return a linear classifier, and images in [0.25, 0.75] that it classifies correctly."""
    rng = np.random.RandomState(seed)
    weight = torch.from_numpy(rng.randn(classes, 3 * side * side)).float()
    pixels = rng.randint(64, 192, (images, 3, side, side)).astype(np.uint8)
    classifier = LinearClassifier(weight, -weight.sum(1) / 2)  # balanced around gray
    with torch.no_grad():
        logits = classifier(torch.from_numpy(pixels).float() / 255)
    return classifier, Images(pixels=pixels, labels=logits.argmax(1).numpy())


def toy_scene(classifier: nn.Module, images: Tensor, labels: Tensor) -> Scene:
    """Return a scene in which every other module is the classifier itself.

    Nothing that an attack trains on it is reused.
    """
    return Scene(
        ways={"unrolled": lambda: classifier, "undefended": lambda: classifier},
        unrolled=lambda steps: classifier,
        other=lambda spec: classifier,
        worded=lambda texts: [classifier],
        training=lambda count: Training(images[:count], labels[:count], classifier, ()),
    )


def _check(condition: object, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def check_attack(spec: str, classes: tuple[int, ...] = (2, 3, 5)) -> None:
    """Check that an attack keeps the rules, breaks a toy, is reproducible, changes no weight."""
    attack = attacks.create(spec, {"eps": 16 / 255, "step_size": 8 / 255})
    with warnings.catch_warnings():
        # An attack's warnings become flags of a result. They do not break the rules.
        warnings.simplefilter("ignore", UserWarning)
        _check_classes(spec, attack, classes)


def _check_classes(spec: str, attack: Attack, classes: tuple[int, ...]) -> None:
    for number in classes:
        classifier, images = toy(number)
        before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
        pixels = torch.from_numpy(images.pixels).float() / 255
        labels = torch.from_numpy(images.labels)
        state = torch.random.get_rng_state()
        scene = toy_scene(classifier, pixels, labels)
        case = Case(Meter(classifier), attack, spec, images, seed=1, batch_size=24, scene=scene)
        seen = Meter(classifier, scene=scene)
        attack(seen, pixels, labels, Draws.of(0, "toy", np.arange(len(labels))))
        first = judge(case)
        _check(
            torch.equal(state, torch.random.get_rng_state()),
            f"{spec} changed torch's global random state",
        )
        again = judge(case)
        _check(
            first.clean_correct == len(images),
            "the toy classifier should be right about all its images",
        )
        _check(
            first.robust_correct < len(images),
            f"{spec} broke none of {len(images)} easy images of {number} classes",
        )
        _check(
            np.array_equal(first.adversarial, again.adversarial),
            f"{spec} does not repeat itself from the same seed",
        )
        if attack.packs:
            packed = judge(dataclasses.replace(case, batch_size=7))
            _check(
                np.array_equal(first.adversarial, packed.adversarial),
                f"{spec} depends on how images are packed",
            )
        for name, parameter in classifier.named_parameters():
            _check(
                parameter.requires_grad and parameter.grad is None,
                f"{spec} left a gradient on {name}, or froze it",
            )
            _check(torch.equal(parameter, before[name]), f"{spec} changed the weight {name}")


def check_defense(spec: str, suite: str = "mini", checkpoints: str | Path = "checkpoints") -> None:
    """Check a defense on a suite: shapes, precision, gradients, determinism.

    A missing checkpoint is trained first.
    """
    workshop = Workshop(load_suite(suite), Path(checkpoints))
    defense = defenses.create(spec)
    _check(defense.title and defense.paper, f"{spec} needs a title and a paper")
    recipe = defense.recipe_for(workshop.suite)
    _check(
        recipe is None or recipe == defenses.create(spec).recipe_for(workshop.suite),
        f"{spec}: the recipe changes",
    )
    tower, again = workshop.tower(spec), workshop.tower(spec)
    _check(tower.identity == again.identity, f"{spec} has two identities")
    dataset = datasets[workshop.suite.datasets[0]]
    cut = cut_for(workshop.clip)
    images = tensor(dataset.open("test", cut), np.arange(4), cut)
    classifier = tower.classifier(workshop.clip, dataset.worded()).eval()
    wrapper = tower.wrapper
    deployed = wrapper.wrap(classifier).eval() if wrapper else classifier
    target: nn.Module | None = wrapper.target(classifier, tower.knowledge) if wrapper else None
    if tower.attacked:
        target = tower.classifier(workshop.clip, dataset.worded(), attacked=True)
    seen = deployed if target is None else target.eval()
    points = images.clone().requires_grad_()
    logits = deployed(points)
    _check(
        logits.shape == (4, len(dataset.classes)), f"{spec} returns logits {tuple(logits.shape)}"
    )
    _check(
        logits.dtype == torch.float32 and torch.isfinite(logits).all(),
        f"{spec} returns logits that are not finite float32",
    )
    _check(
        torch.equal(logits, deployed(points)), f"{spec} returns other logits for the same images"
    )
    with torch.no_grad():
        _check(
            torch.allclose(logits, deployed(images), atol=1e-3),
            f"{spec} returns other logits without gradients",
        )
    _check(
        not any(parameter.requires_grad for parameter in tower.encoder.parameters()),
        f"{spec}: the tower is not frozen",
    )
    attacked = seen(points)
    if tower.knowledge == "adaptive":
        _check(
            torch.allclose(logits, attacked, atol=1e-3),
            f"{spec}: its surrogate returns other logits than it does",
        )
    _check(
        attacked.requires_grad,
        f"{spec} has no gradient for the images; a wrapper declares a surrogate then",
    )
    (gradient,) = torch.autograd.grad(attacked.sum(), points)
    _check(
        torch.isfinite(gradient).all() and gradient.abs().sum() > 0,
        f"{spec} has no gradient for the images",
    )


def check_dataset(name: str, cut: Cut | None = None) -> None:
    """Check a dataset: its metadata, sizes, types, labels, and that it opens the same twice.

    `cut` is the cut of images without a fixed size; by default, to squares of 224 pixels.
    """
    check_entry(name)
    dataset, cut = datasets[name], cut or Cut(224)
    images = dataset.open("test", cut)
    side = dataset.side or cut.side
    _check(images.pixels.dtype == np.uint8, f"{name}: pixels are {images.pixels.dtype}, not uint8")
    _check(
        images.pixels.shape == (dataset.size, 3, side, side), f"{name}: shape {images.pixels.shape}"
    )
    _check(
        images.labels.dtype == np.int64 and len(images.labels) == dataset.size,
        f"{name}: labels are not int64 (N,)",
    )
    _check(
        set(images.labels.tolist()) == set(range(len(dataset.classes))),
        f"{name}: labels are not 0 to K - 1, all of them",
    )
    _check(images.digest == dataset.open("test", cut).digest, f"{name} opens differently twice")


def check_entry(name: str) -> None:
    """Check a dataset's metadata, without opening it: sizes, classes, templates, origin."""
    dataset = datasets[name]
    _check(
        dataset.title and dataset.group and dataset.about,
        f"{name} needs a title, a group and a line about it",
    )
    _check(
        dataset.size > 0 and (dataset.train_size is None or dataset.train_size > 0),
        f"{name}: sizes are not positive",
    )
    _check(len(dataset.classes) > 1, f"{name} has fewer than two classes")
    _check(
        dataset.load or dataset.origin, f"{name} has neither a function to load it nor an origin"
    )
    for wording in ("plain", *dataset.wordings):
        classes, templates = dataset.wordings.get(wording, (dataset.classes, dataset.templates))
        _check(
            len(classes) == len(dataset.classes) > 1,
            f"{name}: {len(classes)} classes in its {wording} wording",
        )
        _check(
            templates and all(template.count("{}") == 1 for template in templates),
            f"{name}: templates",
        )
    groups = dataset.look_alikes()
    _check(
        len(dataset.classes) - sum(map(len, groups)) + len(groups) > 1,
        f"{name}: all classes share their prompts",
    )

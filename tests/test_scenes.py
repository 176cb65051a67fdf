"""Attacks that use a scene, what a scene gives them, and the machinery of defenses that they know."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from optima import numbers

from zsrobust.attacks import attacks
from zsrobust.attacks import universal as universal_page
from zsrobust.attacks.losses import cross_entropy
from zsrobust.attacks.notes import Note
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.scenes import Scene, Training
from zsrobust.attacks.transfer import Transfer
from zsrobust.attacks.universal import Universal
from zsrobust.attacks.worded import Worded
from zsrobust.core.errors import ZSRobustError
from zsrobust.evaluation.meter import Meter
from zsrobust.models.heads import Context, of_texts
from zsrobust.running.bench import Bench
from zsrobust.running.plan import Cell, Key
from zsrobust.running.single import evaluate
from zsrobust.running.stage import Stage
from zsrobust.settings import protocols, suites
from zsrobust.testing import LinearClassifier, toy

EPS = 8 / 255


def toy_images(classes=3, count=24, seed=0):
    """Return a linear classifier, images in [0, 1] and labels."""
    classifier, images = toy(classes, count, seed=seed)
    return (
        classifier,
        torch.from_numpy(images.pixels).float() / 255,
        torch.from_numpy(images.labels),
    )


def linear(classes, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    weight = scale * torch.randn(classes, 3 * 8 * 8, generator=generator)
    return LinearClassifier(weight, -weight.sum(1) / 2)


@pytest.fixture(autouse=True)
def _nothing_trained():
    universal_page._trained.clear()
    yield
    universal_page._trained.clear()


# Other texts


@pytest.mark.parametrize("more", [{}, {"random_start": False}, {"norm": "l2", "eps": 1.0}])
def test_the_defenders_own_text_is_pgd_without_early_stop_to_the_last_bit(more):
    classifier, images, labels = toy_images()
    given = {"eps": EPS, "step_size": 2 / 255, "steps": 7, **more}
    seen = Meter(classifier, scene=Scene(worded=lambda texts: [classifier]))
    found = Worded(**given)(seen, images, labels, numbers(images))
    plain = Meter(classifier)
    expected = PGD(**given, early_stop=False)(plain, images, labels, numbers(images))
    assert torch.equal(found, expected)
    assert (seen.forward_passes, seen.backward_passes) == (plain.forward_passes, 7 * 24)


def test_several_texts_are_the_mean_of_the_losses():
    classifier, images, labels = toy_images()
    modules = [linear(3, seed, scale) for seed, scale in ((1, 0.2), (2, 1.0), (3, 3.0))]
    seen = Meter(classifier, scene=Scene(worded=lambda texts: modules))
    attack = Worded(eps=EPS, step_size=3 / 255, steps=5, random_start=False)
    found = attack(seen, images, labels, numbers(images))
    doubles = [LinearClassifier(each.weight.double(), each.bias.double()) for each in modules]
    clean = images.double()
    points = clean
    for _ in range(5):
        points = points.detach().requires_grad_()
        losses = [F.cross_entropy(each(points), labels, reduction="none") for each in doubles]
        (gradient,) = torch.autograd.grad(torch.stack(losses).mean(0).sum(), points)
        delta = (points + 3 / 255 * gradient.sign() - clean).clamp(-EPS, EPS)
        points = (clean + delta).clamp(0, 1)
    assert torch.allclose(found.double(), points, atol=1e-6)
    assert (seen.forward_passes, seen.backward_passes) == (3 * 5 * 24, 3 * 5 * 24)
    one = Worded(eps=EPS, step_size=3 / 255, steps=5, random_start=False)(
        Meter(classifier, scene=Scene(worded=lambda texts: modules[:1])),
        images,
        labels,
        numbers(images),
    )
    assert not torch.equal(one, found)


def test_an_attacker_with_other_texts_and_no_gradient_is_noted():
    classifier, images, labels = toy_images()
    flat = LinearClassifier(torch.zeros(3, 192))
    seen = Meter(classifier, scene=Scene(worded=lambda texts: [flat]))
    with pytest.warns(Note, match="^attack_zero_gradients$"):
        attacks.create("semantic")(seen, images, labels, numbers(images))


def test_the_names_of_attacks_with_other_texts_say_what_they_read():
    assert attacks.create("semantic").reads == {"worded": "descriptions"}
    assert attacks.create("prompt_mismatch").reads == {"worded": "a picture of the {}."}
    other = attacks.create("prompt_mismatch:texts=a drawing of a {}")
    assert other.reads == {"worded": "a drawing of a {}"}
    assert other.passes(3) == (10, 10)
    assert attacks.create("semantic").passes(3) == (50, 50)
    with pytest.raises(ZSRobustError, match="no field 'a drawing'"):
        attacks.create("prompt_mismatch:texts=a {}, a drawing")


# The universal perturbation


def biased(count=32):
    """Return a classifier of two classes, images far from the edges, and labels of which one in eight is 1."""
    generator = torch.Generator().manual_seed(0)
    images = 0.4 + 0.2 * torch.rand(count, 3, 8, 8, generator=generator)
    return linear(2, 1, 0.05), images, (torch.arange(count) % 8 == 0).long()


def test_on_a_linear_model_enough_steps_reach_the_best_universal_perturbation():
    """The loss is a function of w · δ alone; where most labels are 0, it is largest at eps · sign(w₁ - w₀)."""
    classifier, images, labels = biased()
    best = EPS * (classifier.weight[1] - classifier.weight[0]).sign().view(3, 8, 8).detach()
    training = Training(images, labels, classifier, ())
    # 10 steps of eps / 10 reach the corner, 9 do not. A batch of all images has no luck with its order.
    short, enough = (Universal(eps=EPS, epochs=epochs, batch=32) for epochs in (9, 10))
    assert torch.allclose(short.train(Meter(classifier), training), 0.9 * best)
    delta = enough.train(Meter(classifier), training)
    assert torch.allclose(delta, best, atol=1e-7)
    with torch.no_grad():
        reached = cross_entropy(classifier(images + delta), labels).sum()
        signs = torch.randn(200, 3, 8, 8, generator=torch.Generator().manual_seed(2)).sign()
        for other in [-delta, *(EPS * signs)]:
            assert cross_entropy(classifier(images + other), labels).sum() < reached


def test_a_universal_perturbation_is_a_loop_of_sign_steps_on_the_summed_loss():
    classifier, images, labels = toy_images(count=20)
    attack = Universal(eps=EPS, epochs=3, batch=8, rate=0.3)
    found = attack.train(Meter(classifier), Training(images, labels, classifier, (), seed=5))
    source = universal_page.Draws.of(5, "universal", np.arange(20))
    delta, batches = torch.zeros(3, 8, 8), []
    for epoch in range(3):
        order = source.uniform((), "universal order", epoch).argsort(stable=True)
        assert sorted(order.tolist()) == list(range(20))
        batches += order.split(8)
    assert len(batches) == 9
    for chosen in batches:
        delta = delta.detach().requires_grad_()
        loss = F.cross_entropy(classifier(images[chosen] + delta), labels[chosen], reduction="sum")
        (gradient,) = torch.autograd.grad(loss, delta)
        delta = (delta + 0.3 * EPS * gradient.sign()).clamp(-EPS, EPS)
    assert torch.allclose(found, delta, atol=1e-7)
    other = attack.train(Meter(classifier), Training(images, labels, classifier, (), seed=6))
    assert not torch.equal(found, other)


def test_one_perturbation_is_added_to_all_images_and_clipped():
    classifier, images, labels = biased()
    scene = Scene(training=lambda count: Training(images[:count], labels[:count], classifier, ()))
    seen = Meter(classifier, scene=scene)
    images[0], images[1] = 0, 1
    attack = Universal(eps=EPS, images=24, epochs=2)
    found = attack(seen, images, labels, numbers(images))
    delta = found[2] - images[2]
    assert torch.allclose(found, (images + delta).clamp(0, 1), atol=1e-7)
    assert (found.min(), found.max()) == (0, 1)
    assert (found - images).abs().max() <= EPS + 1e-7
    assert (seen.forward_passes, seen.backward_passes) == (2 * 24, 2 * 24)


def test_a_perturbation_is_trained_once_and_reused_to_the_last_bit():
    classifier, images, labels = toy_images()

    def found(key, attack, size=None):
        scene = Scene(training=lambda count: Training(images, labels, classifier, key))
        seen = Meter(classifier, size, scene)
        return attack(seen, images, labels, numbers(images)), seen.forward_passes

    attack = Universal(eps=EPS, epochs=2)
    first, passes = found(("a",), attack)
    again, more = found(("a",), attack)
    assert torch.equal(first, again)
    assert (passes, more) == (2 * 24, 0)
    assert found(("b",), attack)[1] == 2 * 24
    assert found(("a",), dataclasses.replace(attack, eps=EPS / 2))[1] == 2 * 24
    universal_page._trained.clear()
    anew, passes = found(("a",), attack)
    assert torch.equal(first, anew)
    assert passes == 2 * 24
    packed, passes = found((), attack, 5)  # an empty key: nothing is kept or reused
    assert torch.equal(first, packed)
    assert passes == 2 * 24
    assert found((), attack)[1] == 2 * 24
    for number in range(universal_page.KEPT + 3):
        found((str(number),), attack)
    assert len(universal_page._trained) == universal_page.KEPT


def test_images_of_another_size_get_the_perturbation_resized_within_eps():
    classifier, images, labels = toy_images()
    small = F.interpolate(images, size=4)
    scene = Scene(training=lambda count: Training(images, labels, classifier, ()))
    found = Universal(eps=EPS, epochs=1)(
        Meter(classifier, scene=scene), small, labels, numbers(small)
    )
    assert found.shape == small.shape
    assert 0 < (found - small).abs().max() <= EPS + 1e-7


def test_a_training_set_without_images_is_one_line():
    classifier, images, labels = toy_images()
    scene = Scene(training=lambda count: Training(images[:0], labels[:0], classifier, ()))
    with pytest.raises(ZSRobustError, match="needs training images"):
        attacks.create("universal")(Meter(classifier, scene=scene), images, labels, numbers(images))


@pytest.mark.filterwarnings("ignore::zsrobust.attacks.notes.Note")
def test_a_classifier_without_a_scene_is_one_line():
    classifier, images, labels = toy_images()
    for spec in ("semantic", "universal", "transfer"):
        with pytest.raises(ZSRobustError, match="needs more than a classifier"):
            attacks.create(spec)(classifier, images, labels, numbers(images))


# Transfer


def test_transferred_images_are_those_of_the_member_on_the_source():
    classifier, images, labels = toy_images()
    source = linear(3, 7)
    asked = []
    scene = Scene(other=lambda spec: asked.append(spec) or source)
    attack = Transfer(eps=EPS, source="tecoa", attack="pgd:steps=4", step_size=3 / 255)
    seen, alone = Meter(classifier, scene=scene), Meter(source)
    found = attack(seen, images, labels, numbers(images))
    member = PGD(eps=EPS, steps=4, step_size=3 / 255, early_stop=False)
    assert torch.equal(found, member(alone, images, labels, numbers(images)))
    assert asked == ["tecoa"]
    assert (seen.forward_passes, seen.backward_passes) == (
        alone.forward_passes,
        alone.backward_passes,
    )
    assert attack.passes(3) == member.passes(3)


# The scene of a cell


@pytest.fixture
def bench(checkpoints):
    from zsrobust.defenses.workshop import Workshop

    suite = suites.load("mini")
    return Bench(suite, protocols.load("sound"), Workshop(suite, checkpoints))


def cell_of(bench, spec="clip", attack="universal", eps=EPS, seed=0, dataset="mini_shapes"):
    return Cell.of(Key(spec, attack, eps, dataset, 8, seed), bench.suite, bench.protocol)


def scene_in(bench, cell):
    return bench.deploy(cell, bench.workshop.tower(cell.key.defense)).scene


def test_the_head_of_a_text_is_that_of_the_dataset_with_this_template(bench):
    cell = cell_of(bench, attack="prompt_mismatch")
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    (module,) = scene_in(bench, cell).worded("a drawing of a {}")
    texts = [[f"a drawing of a {name}"] for name in cell.dataset.classes]
    expected = bench.workshop.clip.classifier(texts)
    own = bench.workshop.clip.classifier(cell.dataset.prompts())
    assert torch.equal(module(pixels), expected(pixels))
    assert not torch.equal(module(pixels), own(pixels))
    five = scene_in(bench, cell).worded("descriptions")
    described = cell.dataset.descriptions()
    assert len(five) == 5
    for number, each in enumerate(five):
        texts = [[descriptions[number]] for descriptions in described]
        assert torch.equal(each(pixels), bench.workshop.clip.classifier(texts)(pixels))
    with pytest.raises(ZSRobustError, match="is no template: it has 2 places"):
        scene_in(bench, cell).worded("a {} of {}")


def test_texts_go_through_the_text_tower_of_the_defense_but_replace_a_learned_context(bench):
    cell, clip = cell_of(bench, attack="prompt_mismatch"), bench.workshop.clip
    own = copy.deepcopy(clip)
    own._heads.clear()
    with torch.no_grad():
        own.model.token_embedding.weight.mul_(-1)
    texts = [[f"a drawing of a {name}"] for name in cell.dataset.classes]
    tower, context = bench.workshop.tower("clip"), Context.start(clip, 4, 0)
    for head, expected in ((of_texts(own), own), (context, clip), (None, clip)):
        scene = Stage(bench, cell, dataclasses.replace(tower, head=head)).scene
        (module,) = scene.worded("a drawing of a {}")
        assert torch.equal(module.head, expected.head(texts))
    assert not torch.equal(own.head(texts), clip.head(texts))


def test_every_dataset_of_the_mini_suite_has_descriptions(bench):
    from zsrobust.datasets import datasets

    for name in bench.suite.datasets:
        found = datasets[name].descriptions()
        assert len(found) == len(datasets[name].classes)
        assert {len(set(each)) for each in found} == {5}
        assert not any("{" in text for each in found for text in each)


def test_the_training_set_is_a_balanced_part_of_the_suites_with_its_own_classes(bench):
    scene = scene_in(bench, cell_of(bench))
    training = scene.training(50)
    assert training.images.shape == (50, 3, 32, 32)
    assert np.bincount(training.labels).tolist() == [2] * 25
    with torch.no_grad():
        logits = training.classifier(training.images)
    assert logits.shape == (50, 25)
    assert (logits.argmax(1) == training.labels).float().mean() > 0.8
    assert scene.training(50) is training  # built once for all batches of the cell


def test_the_key_of_a_training_names_what_a_perturbation_depends_on(bench):
    def key(bench=bench, count=8, **more):
        return scene_in(bench, cell_of(bench, **more)).training(count).key

    assert key() == key(dataset="mini_letters") == key(eps=EPS / 2)
    halved = dataclasses.replace(bench, protocol=protocols.load("reference"))
    other = [key(seed=1), key(count=9), key(spec="ttc:of=clip"), key(bench=halved)]
    other.append(key(spec="ttc:of=clip,knowledge=oblivious"))
    assert len({key(), *other}) == 6


def stored_in(folder):
    cells = [json.loads(path.read_text()) for path in folder.rglob("*.json")]
    return {
        (cell["identity"]["attack"]["spec"], cell["identity"]["dataset"]["name"]): cell
        for cell in cells
    }


COMMAND = ("run", "--suite", "mini", "--baseline", "none", "--defense", "clip", "--limit", "4")


def test_a_universal_cell_has_the_same_numbers_with_the_cache_as_without_it(zsrobust, tmp_path):
    spec = "universal:epochs=1,images=25"
    command = (*COMMAND, "--attack", spec, "--dataset", "mini_letters")
    zsrobust(*command, "--dataset", "mini_shapes", "--results", "both")
    universal_page._trained.clear()
    zsrobust(*command, "--results", "alone")
    both, alone = (stored_in(tmp_path / name) for name in ("both", "alone"))
    name = (spec, "mini_letters")
    assert len(both) == 2
    assert all(both[name][each] == alone[name][each] for each in ("identity", "outcomes"))
    # The training counts in the cell that trained.
    others = 4 + both[name]["clean_correct"]
    assert (alone[name]["forward"], alone[name]["backward"]) == (25 + others, 25)
    passes = [(cell["forward"], cell["backward"]) for cell in both.values()]
    assert sorted(backward for _, backward in passes) == [0, 25]


def test_a_run_of_the_attacks_that_use_a_scene_names_what_they_read(zsrobust, tmp_path):
    reads = {
        "universal:epochs=1,images=25": "training",
        "prompt_mismatch": "prompts",
        "semantic": "prompts",
        "transfer:attack=pgd2,source=clip": "other",
    }
    chosen = [part for spec in reads for part in ("--attack", spec)]
    zsrobust(*COMMAND, *chosen, "--dataset", "mini_shapes", "--results", "runs")
    stored = {spec: cell["identity"]["attack"] for (spec, _), cell in stored_in(tmp_path).items()}
    assert stored.keys() == reads.keys()
    for spec, identity in stored.items():
        assert {"training", "prompts", "other"} & identity.keys() == {reads[spec]}
    assert stored["semantic"]["texts"] == "descriptions"  # the field stays as the spec has it
    assert stored["prompt_mismatch"]["prompts"] != stored["semantic"]["prompts"]
    assert stored["universal:epochs=1,images=25"]["training"]["dataset"] == "mini_train"
    zsrobust("verify", "runs")


def test_images_of_another_defense_say_nothing_about_gradients(tmp_path):
    found = {
        attack: evaluate(
            "clip", attack=attack, dataset="mini_shapes", limit=4, checkpoints=tmp_path
        )
        for attack in ("transfer", "pgd2")
    }
    assert "coupled" in found["transfer"].checks
    assert "standing" not in found["transfer"].checks
    assert "standing" in found["pgd2"].checks

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zsrobust.attacks.pgd import PGD
from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import Dataset, Images
from zsrobust.defenses import defenses
from zsrobust.defenses.pmg_aft import OPTIONS, kl
from zsrobust.defenses.workshop import Workshop
from zsrobust.models.clip import Clip, load_clip
from zsrobust.models.visual_prompts import PromptedEncoder
from zsrobust.models.zeroshot import ZeroShotClassifier
from zsrobust.settings import suites
from zsrobust.testing import check_defense
from zsrobust.training import Checkpoint, Recipe, Step, objectives, train, trained_encoder

MINI = suites.load("mini")
TRAINED = ["ft_standard", "tecoa", "pmg_aft", "pmg_aft_code", "vpt_tecoa", "vpt_pmg_aft"]


@pytest.fixture
def step():
    """A batch in float64 with a student, another teacher, and given adversarial images."""
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def classifier():
        tower = nn.Sequential(nn.Flatten(), nn.Linear(12, 5).double())
        with torch.no_grad():
            tower[1].weight.copy_(randn(5, 12))
        return ZeroShotClassifier(tower, head, [0.5] * 3, [0.25] * 3, 2)

    head = F.normalize(randn(4, 5), dim=-1) * 10
    images = torch.rand(6, 3, 2, 2, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    return Step(
        images,
        labels,
        classifier(),
        classifier(),
        lambda x, y: (x + 0.05).clamp(0, 1),
        dict(OPTIONS),
    )


def by_hand(step):
    """Return the three losses of section 3.3 as plain sums over images and classes."""
    adversarial = step.craft(step.images, step.labels)
    p_adv = step.student(adversarial).softmax(1).tolist()
    p_ori = step.teacher(adversarial).softmax(1).tolist()
    p_clean = step.student(step.images).softmax(1).tolist()
    n = len(step.labels)
    robust = -sum(math.log(p_adv[i][y]) for i, y in enumerate(step.labels.tolist())) / n

    def divergence(p, q):
        return (
            sum(
                a * math.log(a / b)
                for row, other in zip(p, q, strict=True)
                for a, b in zip(row, other, strict=True)
            )
            / n
        )

    return (
        robust,
        divergence(p_adv, p_ori),
        divergence(p_adv, p_clean),
        divergence(p_ori, p_adv),
        divergence(p_clean, p_adv),
    )


def test_pmg_aft_is_the_papers_equation_direction_and_mean_included(step):
    robust, general, clean, *_ = by_hand(step)
    step.options.update(alpha=0.7, beta=0.3)
    assert objectives["pmg_aft"](step).item() == pytest.approx(
        robust + 0.7 * general + 0.3 * clean, rel=1e-12
    )


def test_the_released_code_sums_and_turns_the_divergences_around(step):
    robust, general, clean, general_code, clean_code = by_hand(step)
    step.options = {"direction": "code"}
    assert objectives["pmg_aft_code"](step).item() == pytest.approx(
        robust + 6 * (general_code + clean_code), rel=1e-12
    )
    step.options = {"direction": "paper"}
    assert objectives["pmg_aft_code"](step).item() == pytest.approx(
        robust + 6 * (general + clean), rel=1e-12
    )


def test_pmg_aft_with_alpha_and_beta_zero_is_tecoa_and_asks_for_nothing_else(step):
    step.options.update(alpha=0.0, beta=0.0)
    loss = objectives["pmg_aft"](step)
    assert "teacher_features" not in step.__dict__
    assert "clean_features" not in step.__dict__
    again = Step(step.images, step.labels, step.student, step.teacher, step.craft, {})
    assert (
        loss.item()
        == objectives["tecoa"](again).item()
        == pytest.approx(by_hand(step)[0], rel=1e-12)
    )


def test_ft_standard_never_crafts(step):
    loss = objectives["ft_standard"](step)
    assert "adversarial" not in step.__dict__
    assert loss.item() == pytest.approx(
        F.cross_entropy(step.student(step.images), step.labels).item(), rel=1e-12
    )


@pytest.mark.parametrize(
    ("layer", "distance", "expected"),
    [
        ("output", "l2", lambda s, t: ((s[0].softmax(1) - t[0].softmax(1)) ** 2).sum(1).mean()),
        ("feature", "l2", lambda s, t: ((s[1] - t[1]) ** 2).sum(1).mean()),
        ("feature", "cosine", lambda s, t: (1 - (s[1] * t[1]).sum(1)).mean()),
    ],
)
def test_the_layers_and_distances_of_table_5(step, layer, distance, expected):
    adversarial = step.craft(step.images, step.labels)
    student = (step.student(adversarial), step.student.features(adversarial))
    teacher = (step.teacher(adversarial), step.teacher.features(adversarial))
    step.options.update(layer=layer, distance=distance, beta=0.0)
    loss = objectives["pmg_aft"](step) - F.cross_entropy(student[0], step.labels)
    assert loss.item() == pytest.approx(expected(student, teacher).item(), rel=1e-10)


def test_kl_on_features_is_refused(step):
    step.options.update(layer="feature", distance="kl")
    with pytest.raises(ZSRobustError, match="l2 or cosine"):
        objectives["pmg_aft"](step)


def test_the_teacher_takes_no_gradient_and_the_clean_target_does_unless_stopped(step):
    gradients = {}
    for stop in (False, True):
        fresh = Step(
            step.images,
            step.labels,
            step.student,
            step.teacher,
            step.craft,
            {**OPTIONS, "stop_gradient": stop},
        )
        step.student.zero_grad()
        objectives["pmg_aft"](fresh).backward()
        gradients[stop] = step.student.encoder[1].weight.grad.clone()
        assert step.teacher.encoder[1].weight.grad is None
    assert not torch.allclose(gradients[False], gradients[True])


def test_kl_of_equal_rows_is_zero_and_survives_certainty():
    logits = torch.tensor([[1000.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    assert kl(logits, logits).tolist() == [0.0, 0.0]


def test_the_paper_recipes_and_their_digests_are_pinned():
    digests = {name: defenses[name].recipe.digest for name in TRAINED}
    assert digests == PINNED
    recipe = defenses["pmg_aft"].recipe
    assert (recipe.lr, recipe.epochs, recipe.batch_size, recipe.momentum, recipe.warmup) == (
        5e-5,
        10,
        256,
        0.9,
        1000,
    )


def test_the_mini_recipes_of_adversarial_methods_differ_in_their_losses_alone():
    recipes = [
        defenses[name].recipe_for(MINI).to_dict() for name in ("tecoa", "pmg_aft", "pmg_aft_code")
    ]
    code = (
        "logit_scale",
        "normalization",
        "zoom",
        "interpolation",
        "prompts",
    )  # of the released code's classifier
    shared = [
        {k: v for k, v in recipe.items() if k not in ("objective", "options", *code)}
        for recipe in recipes
    ]
    assert shared[0] == shared[1] == shared[2]
    assert (
        defenses.create("tecoa:lr=1,epochs=2").recipe_for(MINI).digest
        != defenses["tecoa"].recipe_for(MINI).digest
    )
    assert defenses.create("pmg_aft:alpha=1").recipe_for(MINI) == defenses["pmg_aft"].recipe_for(
        MINI
    )


def test_unset_fields_stay_out_of_the_digest():
    assert "logit_scale" not in Recipe(objective="tecoa").to_dict()
    assert Recipe(objective="tecoa", logit_scale=1.0).digest != Recipe(objective="tecoa").digest


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_clip(MINI.backbone)


@pytest.fixture
def tiny():
    """A dataset of 12 images in two classes, and a quick recipe on it."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (12, 3, 32, 32), generator=generator, dtype=torch.uint8).numpy()
    images = Images(pixels=pixels, labels=torch.arange(12).remainder(2).numpy())
    dataset = Dataset(
        title="tiny",
        group="general",
        about="",
        classes=("cat", "dog"),
        templates=("a {}",),
        size=12,
        side=32,
        load=lambda split: images,
    )
    recipe = Recipe(
        objective="tecoa",
        attack="pgd2",
        eps=0.01,
        step_size=0.01,
        epochs=2,
        batch_size=5,
        lr=0.01,
        warmup=2,
    )
    return dataset, images, recipe


def test_training_writes_a_checkpoint_that_gives_back_the_same_tower(clip, tiny, tmp_path):
    dataset, images, recipe = tiny
    calls = []
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    written = train(
        recipe, clip, dataset, images, tmp_path / "a.safetensors", lambda *call: calls.append(call)
    )
    assert [call[:2] for call in calls] == [(done, 6) for done in range(1, 7)]
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in clip.model.state_dict().items()
    )
    read = Checkpoint.read(tmp_path / "a.safetensors")
    assert read.recipe == recipe.to_dict()
    assert len(read.history) == 2
    assert read.weights.keys() == dict(clip.encoder.named_parameters()).keys()
    tower = trained_encoder(clip, recipe, read)
    assert all(
        torch.equal(tensor, written.weights[name]) for name, tensor in tower.named_parameters()
    )
    moved = sum(
        (read.weights[n] - p).double().square().sum() for n, p in clip.encoder.named_parameters()
    )
    size = sum(p.double().square().sum() for p in clip.encoder.parameters())
    assert read.history[-1]["distance"] == pytest.approx(float((moved / size).sqrt()), rel=1e-9)
    again = train(recipe, clip, dataset, images, tmp_path / "b.safetensors")
    assert again.digest == read.digest
    assert again.sources == read.sources == {"backbone": clip.digest, "images": images.digest}
    assert all(torch.equal(tensor, again.weights[name]) for name, tensor in written.weights.items())


def test_training_images_take_every_step_of_the_attack(tiny):
    _, _, recipe = tiny
    assert recipe.crafting() == PGD(eps=0.01, step_size=0.01, steps=2, early_stop=False)


def test_a_loss_that_is_not_finite_stops_the_training(clip, tiny, tmp_path):
    dataset, images, recipe = tiny
    with pytest.raises(ZSRobustError, match=r"the loss is nan at step \d+. Lower lr"):
        train(
            Recipe(**{**vars(recipe), "lr": 1e30}),
            clip,
            dataset,
            images,
            tmp_path / "a.safetensors",
        )
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_is_cut_short_or_does_not_fit_is_refused(clip, tiny, tmp_path):
    dataset, images, recipe = tiny
    path = tmp_path / "a.safetensors"
    checkpoint = train(recipe, clip, dataset, images, path)
    del checkpoint.weights["proj"]
    with pytest.raises(ZSRobustError, match=r"does not fit .* proj"):
        trained_encoder(clip, recipe, checkpoint)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ZSRobustError, match="is damaged"):
        Checkpoint.read(path)


def test_a_checkpoint_made_from_other_weights_or_images_is_refused(checkpoints):
    workshop = Workshop(MINI, checkpoints)
    workshop.tower("tecoa:epochs=1,limit=128")
    workshop.clip.digest = "another"
    with pytest.raises(
        ZSRobustError, match="was made from another backbone than there is now. Move it away"
    ):
        workshop.tower("tecoa:epochs=1,limit=128")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tecoa:momentum=-1", "momentum = -1.0 is not valid; expected a number, 0 or above"),
        ("tecoa:epochs=0", "epochs = 0 is not valid; expected a whole number above 0"),
        ("tecoa:eps=8", "eps = 8.0 is not valid; expected a bound such as '8/255'"),
        ("tecoa:lr=nan", "lr = nan is not valid; expected a number above 0"),
        (f"tecoa:seed={2**63}", "seed = 9223372036854775808 is not valid; expected a whole number"),
        ("vpt_tecoa:tokens=4097", "options.tokens = 4097 is not valid"),
        ("vpt_tecoa:tokens=-1", "options.tokens = -1 is not valid; expected a whole number from 0"),
        ("tecoa:train_on=mini_shapes", "mini_train and mini_objects have a training split"),
        ("tecoa:train_on=mini_handwriting", "mini_train and mini_objects have a training split"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(spec, message, tmp_path):
    with pytest.raises(ZSRobustError, match=message):
        Workshop(MINI, tmp_path).tower(spec)


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.25])
def test_interpolation_lies_on_the_line_and_ends_at_its_ends(weight, checkpoints):
    workshop = Workshop(MINI, checkpoints)
    mixed = workshop.tower(
        f"interpolation:of=tecoa,epochs=1,limit=128,weight={weight}"
    ).encoder.state_dict()
    tuned = workshop.tower("tecoa:epochs=1,limit=128").encoder.state_dict()
    for name, original in workshop.clip.encoder.state_dict().items():
        if weight in (0.0, 1.0):
            assert torch.equal(mixed[name], (original, tuned[name])[int(weight)])
        else:
            assert torch.allclose(mixed[name], 0.75 * original + 0.25 * tuned[name], atol=1e-6)


def test_interpolation_needs_a_tower_of_clips_shape(checkpoints):
    with pytest.raises(ZSRobustError, match="does not have CLIP's shape"):
        Workshop(MINI, checkpoints).tower("interpolation:of=vpt_tecoa,epochs=1,limit=128,tokens=0")


def test_zero_prompts_and_no_tokens_are_the_plain_encoder(clip):
    images = torch.randn(3, 3, 32, 32)
    plain = PromptedEncoder(clip.encoder, 32, torch.zeros(0, 128))
    with torch.no_grad():
        assert torch.equal(plain(images), clip.encoder(images))
    assert [name for name, p in plain.named_parameters() if p.requires_grad] == ["image_prompt"]


def test_tokens_stand_beside_the_patches_and_both_prompts_matter(clip):
    images = torch.randn(3, 3, 32, 32)
    seen = []
    prompted = PromptedEncoder(clip.encoder, 32, torch.randn(7, 128))
    prompted.tower.transformer.register_forward_hook(
        lambda module, given, out: seen.append(out.shape)
    )
    assert not torch.allclose(prompted(images), clip.encoder(images))
    assert seen[0] == (3, 1 + 16 + 7, 128)
    prompted(images).sum().backward()
    learned = {name: p.grad for name, p in prompted.named_parameters() if p.grad is not None}
    assert learned.keys() == {"image_prompt", "tower.ln_pre.tokens"}
    assert all(g.abs().sum() > 0 for g in learned.values())


def test_visual_prompts_say_that_they_need_a_vision_transformer():
    with pytest.raises(ZSRobustError, match="need a vision transformer"):
        PromptedEncoder(SimpleNamespace(), 32, torch.zeros(0, 128))


@pytest.mark.parametrize(
    "spec",
    [
        "clip",
        *(f"{name}:epochs=1,limit=128" for name in TRAINED if "vpt" not in name),
        "interpolation:epochs=1,limit=128",
        "vpt_tecoa:epochs=1,limit=128,tokens=2",
        "vpt_pmg_aft:epochs=1,limit=128,tokens=2",
    ],
)
def test_every_defense_holds_the_contract(spec, checkpoints):
    check_defense(spec, checkpoints=checkpoints)


PINNED = {
    "ft_standard": "2f7809439f57223b",
    "tecoa": "1b87ddc243d35be7",
    "pmg_aft": "55bfe8f4ca52deff",
    "pmg_aft_code": "68b3ac33915fbcdf",
    "vpt_tecoa": "7fa6e461de88621c",
    "vpt_pmg_aft": "91122aad3c12a9fc",
}

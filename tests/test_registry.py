import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsrobust.attacks import attacks
from zsrobust.attacks.pgd import PGD
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.registry import Registry, load_plugin_file
from zsrobust.core.specs import format_eps, join_spec, parse_eps, split_spec
from zsrobust.defenses import defenses

words = st.text(st.characters(categories=["Ll", "Nd"], include_characters="_./"), min_size=1)


names = st.from_regex(r"[a-z_][a-z0-9_]*", fullmatch=True)


@given(words, st.dictionaries(names, words))
def test_specs_make_a_round_trip(name, fields):
    assert split_spec(join_spec(name, fields)) == (name, fields)


@pytest.mark.parametrize(
    "path", ["weights/tecoa.pt", "runs/eps=1/best.pt", "./a=b.pt", "org/name@main"]
)
def test_a_path_is_a_positional_field(path):
    assert split_spec(f"weights:{path}") == ("weights", {"": path})


@given(st.integers(1, 254))
def test_eps_makes_a_round_trip_as_a_fraction_of_255(whole):
    assert format_eps(parse_eps(f"{whole}/255")) == f"{whole}/255"


@given(st.floats(1e-6, 0.999))
def test_eps_makes_a_round_trip_as_a_number(eps):
    assert parse_eps(format_eps(eps)) == pytest.approx(eps, abs=1e-9)


@pytest.mark.parametrize(
    "text", ["0", "1", "8", "-1/255", "8/0", "nan", "eight", "", "inf", "255/255"]
)
def test_eps_outside_its_range_is_refused(text):
    with pytest.raises(ZSRobustError, match="Write it as 8/255"):
        parse_eps(text)


def test_a_name_is_taken_once():
    registry: Registry[int] = Registry("thing", "things", accepts=int)
    assert registry.register("one")(1) == 1
    with pytest.raises(ZSRobustError, match="'one' is taken"):
        registry.register("one")(2)


@pytest.mark.parametrize("name", ["../../x", "", "Upper", "1st", "a-b", "a b", "ä", "a\n", None])
@pytest.mark.parametrize(
    "registry", [attacks, defenses, Registry("thing", "things", accepts=object)]
)
def test_a_name_that_would_not_fit_into_specs_and_file_names_is_refused(registry, name):
    with pytest.raises(ZSRobustError, match="name .* is not valid. Use lower-case") as caught:
        registry.register(name)(1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "given"),
    [("text", "an object of type str"), (None, "NoneType"), (PGD, "the class PGD")],
)
def test_an_attack_of_another_type_is_refused_and_the_base_class_named(entry, given):
    expected = f"'mine' is .*{given}. .*from zsrobust.attacks import Attack"
    with pytest.raises(ZSRobustError, match=expected) as caught:
        attacks.register("mine")(entry)
    assert "\n" not in str(caught.value)
    assert "mine" not in attacks


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 10**400}, "steps must be a finite number"),
        ({"eps": "8/255"}, "eps must be a finite number"),
        ({"norm": "l0"}, "The norm 'l0' is not valid. Choose one of linf, l2, l1, patch"),
    ],
)
def test_an_attack_made_in_python_is_checked_too(fields, message):
    with pytest.raises(ZSRobustError, match=message):
        PGD(**fields)


@pytest.mark.parametrize(
    ("registry", "spec", "message"),
    [
        (attacks, "pgdd", "Unknown attack 'pgdd'. Did you mean pgd"),
        (attacks, "pgd:stepz=3", "has no field 'stepz'. Its fields: eps, norm, steps, step_size"),
        (attacks, "pgd:steps=many", "steps='many' is not a whole number"),
        (attacks, "pgd:steps=-1", "steps must be positive, not -1"),
        (attacks, "pgd:eps=8", "eps 8 is beyond any pixel"),
        (attacks, "pgd:step_size=inf", "must be a finite number"),
        (attacks, "pgd:norm=l2,eps=inf", "must be a finite number"),
        (attacks, "pgd:eps=1e-8", "eps 1e-08 is too small in linf: float32 pixels do not move"),
        (attacks, "mim:eps=1e-30", "eps 1e-30 is too small in linf"),
        (attacks, "pgd:norm=l2,eps=1e-6", "eps 1e-06 is too small in l2"),
        (attacks, "square:queries=3000000000", "queries must be below 2147483648"),
        (defenses, "tecoa:backbone=ViT-B-32/openai", "has no field 'backbone'"),
        (attacks, "pgd:loss=hinge", "is not one of ce, margin"),
        (attacks, "pgd:early_stop=maybe", "is not true or false"),
        (attacks, "pgd:eps=1/0", "eps='1/0' is not a number"),
        (attacks, "pgd:steps=1,steps=2", "sets 'steps' twice"),
        (attacks, "pgd:100", "has no field '100'"),
        (defenses, "pmg-aft", "Did you mean pmg_aft"),
        (defenses, "clip:lr=1", "has no field 'lr'. Its fields: none"),
        (defenses, "pmg_aft:gamma=1", "has no field 'gamma'"),
        (defenses, "pmg_aft:distance=l7", "is not one of kl, l2, cosine"),
        (defenses, "interpolation:weight=2", r"is not in \[0, 1\]"),
        (defenses, "interpolation:of=tekoa", "Did you mean tecoa"),
    ],
)
def test_a_bad_spec_is_one_clear_line(registry, spec, message):
    with pytest.raises(ZSRobustError, match=message) as caught:
        registry.create(spec)
    assert "\n" not in str(caught.value)


def test_defaults_fill_only_what_the_spec_leaves_open():
    attack = attacks.create("pgd10:eps=2/255", {"eps": 0.5, "step_size": 0.25, "unknown": 1})
    assert (attack.eps, attack.step_size, attack.steps) == (2 / 255, 0.25, 10)


def test_a_plugin_that_fails_to_import_is_named(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("1 / 0")
    with pytest.raises(ZSRobustError, match=r"broken.py fails to import: ZeroDivisionError"):
        load_plugin_file(path)
    with pytest.raises(ZSRobustError, match="The plugin file .* is missing"):
        load_plugin_file(tmp_path / "absent.py")

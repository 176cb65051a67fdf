"""Suites and protocols: ours by name, a user's from a file that may be like another."""

import pytest

from zsrobust.core.errors import ZSRobustError
from zsrobust.settings import protocols, suites


@pytest.mark.parametrize("load", [suites.load, protocols.load])
@pytest.mark.parametrize("name", ["", "pape", "mini.toml", "../mini", "suites/mini"])
def test_a_name_that_is_unknown_is_one_line_with_the_next_command(load, name):
    with pytest.raises(ZSRobustError, match="See: zsrobust list (suites|protocols)") as caught:
        load(name)
    assert "\n" not in str(caught.value)


def test_a_suite_file_takes_over_what_it_does_not_give_and_adds_to_tables(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'like = "mini"\ntitle = "mine"\nprinted = ["1"]\n[recipe]\nepochs = 1\n[dataset.a]\nx = 1'
    )
    mini, mine = suites.load("mini"), suites.load(str(path))
    assert (mine.name, mine.title, mine.asked) == ("mine", "mine", str(path))
    assert mine.recipe == {**mini.recipe, "epochs": 1}
    assert (mine.attack, mine.datasets, mine.sweep) == (mini.attack, mini.datasets, mini.sweep)
    assert (mini.second, mine.second, mine.printed) == ("mini_second", None, ("1",))


def test_texts_such_as_8_255_are_numbers(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('like = "mini"\nsweep = ["8/255", 0.5]\n[attack]\neps = 0.25')
    mine = suites.load(str(path))
    assert (mine.sweep, mine.attack["eps"]) == ((8 / 255, 0.5), 0.25)
    for wrong in ("8/0", "٨/255", "1_0/255", "-8/255", "8/255/1", "0.5", "260/255"):
        path.write_text(f'like = "mini"\nsweep = ["{wrong}"]')
        with pytest.raises(ZSRobustError, match=r"sweep\[0\] = .* is not valid; expected a bound"):
            suites.load(str(path))


def test_a_suite_without_eps_or_a_field_is_one_line(tmp_path):
    path = tmp_path / "mine.toml"
    whole = 'title = "t"\nbackbone = "b"\ntrain_on = "a"\ndatasets = ["a"]\n'
    path.write_text(whole + "attack = {steps = 3}")
    with pytest.raises(ZSRobustError, match="attack.eps is missing. Add it"):
        suites.load(str(path))
    path.write_text(whole)
    with pytest.raises(ZSRobustError, match="attack is missing; expected a table"):
        suites.load(str(path))


def test_a_protocol_file_may_be_like_another(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('like = "reference"\nprecision = "float16"')
    reference = protocols.load("reference")
    assert protocols.load(str(path)).switches == {**reference.switches, "precision": "float16"}
    path.write_text("like = 'mine'")
    with pytest.raises(ZSRobustError, match="Unknown protocol 'mine'"):
        protocols.load(str(path))


@pytest.mark.parametrize("spec", ["sound:logit_scale=nan", "sound:zoom=inf"])
def test_a_switch_is_a_finite_number(spec):
    with pytest.raises(ZSRobustError, match="is not valid; expected a finite number"):
        protocols.load(spec)

"""A selection chooses cells, and its command, parsed by the real command line, makes the same ones."""

import shlex
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zsrobust import load_results
from zsrobust.cli import main
from zsrobust.core.errors import ZSRobustError
from zsrobust.core.specs import join_spec, parse_eps
from zsrobust.results.selection import Selection, known_suite
from zsrobust.settings import protocols, suites

STORED = Path(__file__).parents[1] / "results"
MINI = suites.load("mini")

words = st.text(st.characters(categories=["L", "Nd"], include_characters="-./' $"), min_size=1)
values = words.map(str.strip).filter(bool)
fields = st.dictionaries(st.sampled_from(["steps", "norm", "loss"]), values, max_size=2)
specs = st.builds(join_spec, values, fields)
bounds = st.integers(1, 254).map(lambda whole: f"{whole}/255") | st.floats(1e-9, 0.99).map(repr)


def parsed(command: str) -> tuple[Selection, dict]:
    """What the command line makes of a command: a selection, and the other options."""
    program, name, *arguments = shlex.split(command)
    assert program == "zsrobust"
    options = main.commands[name].make_context(name, arguments).params
    (seed,) = options["seeds"] or (0,)
    (eps,) = options["bounds"] or (None,)
    attack = (options["attacks"] or ["pgd10"])[0]
    chosen = {"attack": attack, "eps": eps, "limit": options["limit"], "seed": seed}
    protocol = protocols.load(options["protocol"]).name
    return Selection.of(suites.load(options["suite"]), protocol=protocol, **chosen), options


@settings(max_examples=200, deadline=None)
@given(
    attack=specs,
    eps=st.none() | bounds.map(parse_eps),
    suite=st.sampled_from(["mini", "paper", "mini_second"]),
    protocol=st.sampled_from(["sound", "reference", "reference:precision=float16"]),
    limit=st.none() | st.integers(1, 10**6),
    seed=st.integers(0, 2**63 - 1),
    defenses=st.lists(specs, max_size=2),
    dataset=st.none() | values,
    force=st.booleans(),
)
def test_the_command_makes_the_selected_cells(suite, defenses, dataset, force, **chosen):
    selection = Selection.of(suites.load(suite), **chosen)
    found, options = parsed(selection.command(defenses, dataset=dataset, force=force))
    assert found == selection
    assert list(options["defenses"]) == defenses
    assert list(options["datasets"]) == ([] if dataset is None else [dataset])
    assert options["force"] == force


@settings(max_examples=100, deadline=None)
@given(
    eps=st.none() | bounds.map(parse_eps),
    limit=st.none() | st.integers(1, 10**6),
    seed=st.integers(0, 9),
    what=st.sampled_from(["table", "figure"]),
)
def test_a_table_or_a_figure_is_named_where_it_makes_exactly_these_cells(eps, limit, seed, what):
    selection = Selection.of(MINI, eps=eps, limit=limit, seed=seed)
    found, options = parsed(selection.command(["clip"], **{what: "1"}))
    assert found == selection
    named = options["numbers" if what == "table" else "figures"]
    assert list(named) == (["1"] if selection.usual else [])
    assert list(options["defenses"]) == ([] if selection.usual else ["clip"])


def test_the_command_leaves_out_what_is_the_default():
    assert Selection.of(MINI).command(["clip"]) == (
        "zsrobust run --suite mini --defense clip --attack pgd10"
    )
    assert Selection.of(MINI).command(table="1") == "zsrobust run --suite mini --table 1"
    assert Selection.of(MINI, seed=2, limit=8, protocol="reference").command(figure="1") == (
        "zsrobust run --suite mini --protocol reference --figure 1 --limit 8 --seed 2"
    )


def test_the_eps_of_the_option_comes_before_that_of_the_spec_and_this_before_the_suites():
    assert Selection.of(MINI).eps == 6 / 255
    assert Selection.of(MINI, attack="pgd:eps=2/255,steps=3").eps == 2 / 255
    both = Selection.of(MINI, attack="pgd:steps=3,eps=2/255", eps=3 / 255)
    assert (both.attack, both.eps) == ("pgd:steps=3", 3 / 255)
    with pytest.raises(ZSRobustError, match="eps '8'"):
        Selection.of(MINI, attack="pgd:eps=8")


def test_a_file_of_ones_own_is_named_again(tmp_path):
    file = tmp_path / "my own.toml"
    file.write_text('like = "mini"\ntitle = "mine"\n')
    command = Selection.of(suites.load(str(file))).command(table="1")
    assert command == f"zsrobust run --suite '{file}' --table 1"
    protocol = tmp_path / "mild.toml"
    protocol.write_text('judged = "final"\n')
    asked = Selection.of(MINI, protocol="mild", protocol_asked=str(protocol))
    assert parsed(asked.command())[0].protocol == "mild"
    assert "--protocol mild.toml" in Selection.of(MINI, protocol="mild").command()


def test_a_suite_that_is_not_ours_has_no_eps_of_its_own():
    other = known_suite("other", ["a", "b"])
    assert other.datasets == ("a", "b")
    command = Selection(suite=other, eps=1e-5).command(["clip"], table="1")
    assert command == ("zsrobust run --suite other.toml --defense clip --attack pgd10 --eps 1e-05")
    assert known_suite("mini") == MINI


def test_the_cells_are_those_of_the_selection_and_of_its_size():
    frame = load_results(STORED)
    found = Selection.of(MINI).cells(frame)
    about = found[["suite", "protocol", "attack", "eps", "seed"]].drop_duplicates()
    assert about.to_numpy().tolist() == [["mini", "sound", "pgd10", "6/255", 0]]
    assert found["limit"].isna().all()
    limited = frame.assign(limit=100.0).where(frame["dataset"] == "mini_cells", frame)
    assert set(Selection.of(MINI, limit=100).cells(limited)["dataset"]) == {"mini_cells"}
    small = Selection.of(MINI, limit=int(found["images"].max())).cells(frame)
    assert len(small) == len(found)  # whole sets with no more images than the limit
    assert Selection.of(MINI, limit=1).cells(frame).empty

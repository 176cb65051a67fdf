"""Specs, bounds and values of the command line."""

from typing import Literal

import pytest
from fuzz_inputs import TEXTS, inputs, judge, words
from hypothesis import given
from hypothesis import strategies as st

from zsrobust.attacks import attacks
from zsrobust.core.files import slug
from zsrobust.core.specs import format_eps, join_spec, parse_eps, parse_fields, split_spec
from zsrobust.datasets import datasets
from zsrobust.defenses import defenses
from zsrobust.settings import protocols, suites

KEYS = [
    "",
    "eps",
    "steps",
    "step_size",
    "restarts",
    "norm",
    "loss",
    "random_start",
    "of",
    "weight",
    "lr",
    "epochs",
    "alpha",
    "layer",
    "distance",
    "precision",
    "zoom",
    "engine",
    "seed",
    "limit",
    "tokens",
    "knowledge",
    "PGD",
    "alpha",
]
VALUES = [
    "1",
    "3",
    "0.5",
    "8/255",
    "none",
    "true",
    "false",
    "ce",
    "margin",
    "linf",
    "l2",
    "kl",
    "cosine",
    "feature",
    "tecoa",
    "bfloat16",
]


def mostly(known: list[str]) -> st.SearchStrategy[str]:
    return st.integers(0, 9).flatmap(lambda rare: words if rare == 9 else st.sampled_from(known))


@st.composite
def specs(draw: st.DrawFn, names: list[str]) -> str:
    name = draw(mostly(names))
    parts = draw(st.lists(st.tuples(mostly(KEYS), mostly(VALUES)), max_size=3))
    return (
        f"{name}:{','.join(f'{key}={value}' if key else value for key, value in parts)}"
        if parts
        else name
    )


@inputs(12_000)
@given(words)
def test_any_text_splits_or_is_refused(text):
    found = judge("split_spec", lambda: split_spec(text))
    if found:
        assert isinstance(join_spec(*found), str)


@inputs(8_000)
@given(specs(list(attacks)))
def test_attacks(spec):
    judge("attacks.create", lambda: attacks.create(spec, suites.load("mini").attack))


@inputs(8_000)
@given(specs(list(defenses)))
def test_defenses(spec):
    mini = suites.load("mini")
    judge("defenses.create", lambda: defenses.create(spec).recipes(mini))


@inputs(4_000)
@given(specs(protocols.names()))
def test_protocols(spec):
    judge("protocols.load", lambda: protocols.load(spec))


@inputs(2_000)
@given(words)
def test_names(name):
    judge("names", lambda: suites.load(name))
    judge("names", lambda: datasets[name])


@inputs(10_000)
@given(
    words
    | st.fractions().map(str)
    | st.floats().map(repr)
    | st.integers().map(lambda n: f"{n}/255")
)
def test_bounds(text):
    eps = judge("parse_eps", lambda: parse_eps(text))
    if eps is not None:
        assert 0 < eps < 1
        assert parse_eps(format_eps(eps)) == pytest.approx(eps, abs=1e-9)


@inputs(8_000)
@given(words, st.sampled_from([int, float, bool, str, float | None, Literal["a", "b"] | None]))
def test_values(text, kind):
    judge("parse_fields", lambda: parse_fields({"key": text}, {"key": kind}, "it"))


@inputs(4_000)
@given(st.lists(st.sampled_from(TEXTS) | st.text(), min_size=1, max_size=3).map("".join))
def test_a_slug_is_one_name_of_any_disk(text):
    name = judge("slug", lambda: slug(text))
    assert len(name.encode()) <= 200
    assert name == slug(name)
    assert name[0] != "."
    assert not {"/", "\\", "\0", "\n", " "} & set(name)

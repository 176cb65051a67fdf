"""What files hold is of its types, or one line names file, field, value and what was expected."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from zsrobust.core.errors import ZSRobustError
from zsrobust.core.values import (
    Bound,
    Count,
    Line,
    Name,
    Scalar,
    check,
    check_fields,
    fits,
    read_json,
    read_toml,
)


@dataclass(frozen=True, kw_only=True)
class Source:
    repo: Line
    order: Literal["canonical"] | None = None


@dataclass(frozen=True, kw_only=True)
class Menu:
    title: Line
    steps: int = 10
    rate: float = 0.5
    eps: Bound = 0.1
    datasets: tuple[Line, ...] = ()
    limits: Mapping[str, Count] = field(default_factory=dict)
    recipe: Mapping[str, Scalar | Mapping[str, Scalar]] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    more: Any = None


def test_a_file_becomes_the_type_that_is_asked_for():
    text = (
        'title = "t"\nrate = 3\ndatasets = ["a"]\n[recipe.encoder]\nlr = 1\n[[sources]]\nrepo = "r"'
    )
    assert read_toml(text, Menu, "mine.toml") == Menu(
        title="t",
        rate=3.0,
        datasets=("a",),
        recipe={"encoder": {"lr": 1}},
        sources=(Source(repo="r"),),
    )
    assert read_json(b'{"title": "t", "sources": [{"repo": "r", "order": null}]}', Menu, "a") == (
        Menu(title="t", sources=(Source(repo="r"),))
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("steps = true", "steps = True is not valid; expected a whole number."),
        ("steps = 1.0", "steps = 1.0 is not valid; expected a whole number."),
        ("rate = nan", "rate = nan is not valid; expected a finite number."),
        ("rate = 1e400", "rate = inf is not valid; expected a finite number."),
        ("eps = 2.0", "eps = 2.0 is not valid; expected a bound such as '8/255' or 0.03."),
        ("datasets = 'abc'", "datasets = 'abc' is not valid; expected a list."),
        ("datasets = ['a', 3]", "datasets[1] = 3 is not valid; expected a line of text."),
        ("title = 'a\x7fb'", None),
        (r'title = "a\nb"', r"title = 'a\nb' is not valid; expected a line of text."),
        ("title = ''", "title = '' is not valid; expected a line of text."),
        ("limits = {pgd = 0}", "limits.pgd = 0 is not valid; expected a whole number above 0."),
        (
            "recipe = {encoder = {lr = []}}",
            "recipe.encoder.lr = [] is not valid; expected a number, text, or true or false.",
        ),
        ("sources = [{}]", "sources[0]: repo is missing; expected a line of text."),
        (
            "sources = [{repo = 'r', order = 'x'}]",
            "sources[0].order = 'x' is not valid; expected one of canonical.",
        ),
        ("more = [{a = inf}]", "more[0].a = inf is not valid; expected a finite number."),
        (f"steps = '{'x' * 1000}'", "is not valid; expected a whole number."),
        ("steps = 2020-01-01", "steps = datetime.date(2020, 1, 1) is not valid"),
        ("step = 3", "mine.toml: Unknown field 'step'. Did you mean steps? Its fields: title,"),
        ("sources = [{rep = 'r'}]", "mine.toml: sources[0]: Unknown field 'rep'. Did you mean"),
        ("steps = [[[", "mine.toml is not valid TOML: Invalid value (at end of document)."),
    ],
)
def test_the_one_line_of_a_wrong_file(line, message):
    start = "" if line.startswith("title") else 'title = "t"\n'
    with pytest.raises(ZSRobustError) as caught:
        read_toml(start + line, Menu, "mine.toml", "See: zsrobust list suites")
    told = str(caught.value)
    assert (message or "is not valid TOML: ") in told
    assert "mine.toml" in told
    assert "\n" not in told
    assert len(told) < 250
    assert told.endswith("See: zsrobust list suites") or "Unknown field" in told


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[", "a.json is not valid JSON"),
        (b'{"title": NaN}', "a.json is not valid JSON"),
        (b"[" * 10**5, "a.json is not valid JSON"),
        (b"\xff", "a.json is not valid JSON"),
        (b"[]", "a.json: [] is not valid; expected a table."),
        (b'{"title": "\\ud800"}', "a.json is not valid JSON"),
        (b"{}", "a.json: title is missing; expected a line of text."),
    ],
)
def test_the_one_line_of_wrong_json(content, message):
    with pytest.raises(ZSRobustError) as caught:
        read_json(content, Menu, "a.json")
    assert message in str(caught.value)


def test_fields_of_an_instance():
    check_fields(Menu(title="t"), "The menu")
    with pytest.raises(ZSRobustError, match="The menu: steps = 'x' is not valid; expected a whole"):
        check_fields(Menu(title="t", steps="x"), "The menu")
    with pytest.raises(ZSRobustError, match="The menu: steps = a number of thousands of digits"):
        check_fields(Menu(title="t", steps=[10**5000]), "The menu")


def test_names():
    assert check("birds_2", Name, "It") == "birds_2"
    for name in ("../birds", "2birds", "", "bïrds", "a\n", "a" * 101):
        with pytest.raises(ZSRobustError, match="expected a name of letters, digits and _"):
            check(name, Name, "It")


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (1, float, True),
        (10**400, float, False),
        (float("nan"), Any, False),
        (True, int, False),
        (None, int | None, True),
        ({"a": float("inf")}, dict[str, Any], False),
        ([{"a": 1.5}], list[dict[str, float]], True),
        ("ce", Literal["ce", "dlr"], True),
        ("x", Literal["ce", "dlr"], False),
    ],
)
def test_fits(value, kind, expected):
    assert fits(value, kind) is expected

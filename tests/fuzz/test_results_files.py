"""Stored results: their JSON, the arrays beside them, and what tables, figures and the report make of weird ones."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fuzz_inputs import TEXTS, damaged, edited, inputs, judge
from hypothesis import given
from hypothesis import strategies as st

from zsrobust import results
from zsrobust.core.errors import UNPRINTABLE, ZSRobustError
from zsrobust.reporting import comparison, comparison_formats, formats, report, tables
from zsrobust.results import store
from zsrobust.results.cell import Outcomes, Samples
from zsrobust.results.identity import Identity
from zsrobust.results.selection import Selection
from zsrobust.settings import suites

STORED = Path(__file__).parents[2] / "results/mini/sound/pgd10-eps=6-255"
CELLS = [STORED / "clip/mini_shapes.json", STORED / "tecoa/mini_arrows.json"]
JSON = [path.read_bytes() for path in CELLS]
NPZ = [path.with_suffix(".npz").read_bytes() for path in CELLS]
SAMPLES = [path.with_suffix(".samples.npz").read_bytes() for path in CELLS]
MINI = suites.load("mini")


def read(path: Path):
    """Read a cell where it is; one that belongs elsewhere is put there and read again."""
    try:
        return results.read(path)
    except ZSRobustError as error:
        if "belongs elsewhere" not in str(error):
            raise
    stored = json.loads(path.read_bytes())
    place = Identity.from_json(stored["identity"]).path
    other = path.parents[4] / place.with_name(place.name + ".json")
    assert other.resolve().is_relative_to(path.parents[4].resolve())
    other.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, other)
    try:
        return results.read(other)
    finally:
        other.unlink()


def sign(stored) -> bytes:
    """A document with the digest that belongs to it, or it alone would give every edit away."""
    if isinstance(stored, dict):
        stored.pop("digest", None)
        stored["digest"] = store._digest(stored)
    return json.dumps(stored).encode()


@pytest.fixture
def cell(tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / CELLS[0].relative_to(STORED.parents[2])
    path.parent.mkdir(parents=True)
    return path


@inputs(8_000)
@given(content=damaged(JSON))
def test_damaged_results(content, cell):
    cell.write_bytes(content)
    judge("result.json, bytes", lambda: read(cell))


@inputs(12_000)
@given(stored=edited(json.loads(JSON[0])))
def test_edited_results(stored, cell):
    cell.write_bytes(sign(stored))
    judge("result.json, values", lambda: read(cell))


@inputs(8_000)
@given(content=damaged(NPZ))
def test_outcomes(content, cell):
    cell.with_suffix(".npz").write_bytes(content)
    found = judge("outcomes.npz", lambda: Outcomes.read(cell))
    if found:
        found.mean_per_class()


@inputs(4_000)
@given(content=damaged(SAMPLES))
def test_samples(content, cell):
    cell.with_suffix(".samples.npz").write_bytes(content)
    judge("samples.npz", lambda: Samples.read(cell))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The rows of two defenses."""
    folder = tmp_path_factory.mktemp("shown") / "results"
    for defense in ("clip", "tecoa"):
        shutil.copytree(
            STORED / defense, folder / (STORED / defense).relative_to(STORED.parents[2])
        )
    return folder


numbers = st.integers(0, 10**12) | st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def odd(draw: st.DrawFn) -> dict[str, Any]:
    """A result that may be read, whose texts and numbers nobody would expect."""
    stored = json.loads(JSON[0])
    texts = st.sampled_from([text for text in TEXTS if not UNPRINTABLE.search(text)]) | st.text(
        st.characters(exclude_categories="C")
    )
    stored["identity"]["defense"]["title"] = draw(texts)
    stored["identity"]["dataset"]["title"] = draw(texts)
    stored["identity"][draw(texts)] = draw(texts)
    stored["images"] = draw(st.sampled_from([1, 200, 10**12]))
    stored["clean_correct"] = draw(st.sampled_from([0, 1, stored["images"]]))
    stored["robust_correct"] = 0
    more = {
        "flags": st.lists(texts, max_size=2),
        "messages": st.lists(texts, max_size=2),
        "versions": st.dictionaries(texts, texts, max_size=2),
        "device": texts,
        "error": texts,
        "seconds": numbers,
        "status": st.sampled_from(["ok", "failed"]),
        "training": st.fixed_dictionaries(
            {
                "epoch_seconds": numbers,
                "history": st.lists(st.fixed_dictionaries({"distance": numbers}), max_size=2),
            }
        ),
        "predicted": st.fixed_dictionaries(
            {"seconds": numbers, "forward": numbers, "backward": numbers}
        ),
    }
    for name in draw(st.lists(st.sampled_from(sorted(more)), max_size=3)):
        stored[name] = draw(more[name])
    return stored


def tell(folder: Path) -> None:
    """Every table that is made of a folder, in every format."""
    frame = results.load_results(folder)
    for number in ("1", "2"):
        page = tables.build(number, frame, Selection.of(MINI), intervals=True)
        for suffix in formats.FORMATS:
            formats.render(page, suffix)
    compared = comparison.compare(frame, "clip", "tecoa", Selection.of(MINI))
    comparison_formats.render(compared, ".md")


def show(folder: Path) -> None:
    """The report, with its figures."""
    page = report.build(store.Store(folder))
    assert page.count("<script") == 1  # ours


@inputs(600)
@given(stored=odd())
def test_tables_of_odd_results(stored, folder):
    (folder / CELLS[0].relative_to(STORED.parents[2])).write_bytes(sign(stored))
    judge("tables of odd results", lambda: tell(folder))


@pytest.mark.filterwarnings("ignore:Glyph")  # of letters that the font of figures lacks
@inputs(40)
@given(stored=odd(), content=damaged(NPZ[:1]), samples=damaged(SAMPLES[:1]), whole=st.booleans())
def test_reports_of_odd_results(stored, content, samples, whole, folder):
    cell = folder / CELLS[0].relative_to(STORED.parents[2])
    cell.with_suffix(".npz").write_bytes(NPZ[0] if whole else content)
    cell.with_suffix(".samples.npz").write_bytes(SAMPLES[0] if whole else samples)
    stored["outcomes"] = hashlib.sha256(cell.with_suffix(".npz").read_bytes()).hexdigest()
    cell.write_bytes(sign(stored))
    judge("report of odd results", lambda: show(folder))

"""Tables that mirror the paper's: a pure function of the stored results. No torch here."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import pandas as pd

from zsrobust.core.errors import ZSRobustError, counted, suggest
from zsrobust.core.specs import format_eps
from zsrobust.reporting import columns, reported
from zsrobust.reporting.columns import DASH, UNAWARE, Column, Entry, costs, mark_best, points
from zsrobust.reporting.contents import ROWS, TABLES, Table, find, needs, suite_name
from zsrobust.reporting.formats import Page
from zsrobust.reporting.measures import Measure
from zsrobust.reporting.reported import Claim
from zsrobust.reporting.rows import Finder
from zsrobust.reporting.seeds import Runs
from zsrobust.results.selection import Selection
from zsrobust.settings.suites import Suite

__all__ = ["ROWS", "TABLES", "Table", "build", "find", "needs", "suite_name"]

Line = tuple[str, list[Entry]]  #: the title of a row, and its entries


class _Block(NamedTuple):
    """Lines of a table that are ranked among themselves: one metric at one bound, or all."""

    lead: Mapping[str, str]  #: what distinguishes its lines from those of other blocks, by heading
    eps: float | None  #: None is the selection's own
    columns: list[Column]


def build(
    number: str,
    results: pd.DataFrame,
    selection: Selection,
    *,
    intervals: bool = False,
    compare: bool = False,
    more: Sequence[str] = (),
    seeds: Sequence[int] = (),
    train_seeds: Sequence[int] = (),
) -> Page:
    """Return a table of the selected cells, from the DataFrame of `load_results`.

    The table's own attacks replace that of the selection. `suite_name` has its suite. Means are
    printed only for complete rows. `intervals` adds 95% intervals. `compare` adds the paper's
    numbers, the differences, and doubts about the paper's numbers. `more` adds rows by their specs.
    Several `seeds` of the attacks and `train_seeds` give means with their standard deviations.
    Raises ZSRobustError for an unknown table or row, for a table without cells, for an eps other
    than the suite's where the table has its own bounds, and for `compare` where the paper has no
    numbers. So does a table that is over training seeds itself.
    """
    table = find(number)
    selection = replace(selection, attack=table.attack)
    suite, eps = selection.suite, selection.bound
    if table.swept and not selection.usual:
        raise ZSRobustError(f"Table {number} shows bounds of the suite's `sweep`. Leave out --eps.")
    if table.seeded and (len(seeds) > 1 or train_seeds):
        raise ZSRobustError(
            f"Table {number} is over training seeds itself. Give one --seed, and no --train-seed."
        )
    own = results[results["suite"] == suite.name]
    datasets = dict(zip(own["dataset"], own["dataset_title"], strict=True))
    runs = Runs(results, selection, seeds, train_seeds)
    chosen = _titles(table, runs, own, more)
    if table.measures is not None:
        measures = table.measures(suite)
        header, lines = _measured(measures, table, chosen, runs)
        compared, leads = 0, int(table.ranks is not None)
    else:
        measures = []
        blocks = _blocks(table, suite, datasets)
        leads = len(blocks[0].lead)
        header, lines, compared = _accuracies(
            blocks, table, chosen, runs, number if compare and eps == "1/255" else ""
        )
    cells = runs.cells
    if cells.empty:
        raise _no_cells(number, table, selection, runs)
    if compare and not compared:
        raise ZSRobustError(
            f"The paper has no numbers for Table {number} of the suite {suite.name} at eps {eps}. "
            "It has numbers for the suites paper and paper_cifar100 at eps 1/255. Try: "
            "zsrobust table 1 --compare paper"
        )
    below = _underneath(cells, table, selection, datasets, measures, intervals)
    if not table.with_cost:
        needed = [(spec, need) for spec in chosen for need in table.needs(spec, suite)]
        below += costs((chosen[spec], runs.first.row(need)) for spec, need in needed)
    if runs.note:
        below.append(runs.note)
    if compare:
        below.append("paper: as printed in arXiv 2401.04350. difference: ours minus the paper's.")
    return Page(
        f"Table {number}. {table.caption}, {suite.name} suite, eps {_bounds(table, selection)}."
        + "".join(f" {line}" for line in _parts_of(cells)),
        ["Method", *header],
        lines,
        below,
        intervals,
        leads,
        {name: datasets.get(name, name) for name in suite.datasets} if table.columned else {},
    )


def _parts_of(cells: pd.DataFrame) -> list[str]:
    """Return a sentence for each AutoAttack among the cells: the parts that ran.

    "AutoAttack" means several lists in published tables. Where datasets have too few classes for a
    part, other parts run there; the sentence names them, the most frequent list first.
    """
    ran: dict[str, dict[str, dict[str, None]]] = {}
    for cell in cells.to_dict("records"):
        attack, plan = str(cell["attack"]), cell["plan"]
        if attack.startswith("autoattack") and isinstance(plan, Mapping) and "parts" in plan:
            titles = ran.setdefault(attack, {}).setdefault(_listed(plan), {})
            titles[str(cell["dataset_title"])] = None
    sentences = []
    for attack, lists in sorted(ran.items()):
        first, *others = sorted(lists, key=lambda each: -len(lists[each]))
        exceptions = [f"; on {', '.join(lists[each])}: {each}" for each in others]
        name = "AutoAttack" if len(ran) == 1 else f"AutoAttack ({attack})"
        sentences.append(f"{name}: {first}{''.join(exceptions)}.")
    return sentences


def _listed(plan: Mapping[str, Any]) -> str:
    """Return the parts of an AutoAttack's plan as text: "apgd-ce (5 starts), apgd-t"."""
    starts = {"apgd-ce": f" ({plan['restarts']} starts)"} if "restarts" in plan else {}
    parts = ", ".join(f"{part}{starts.get(part, '')}" for part in plan["parts"])
    return f"{parts} (means of {plan['eot']} passes)" if "eot" in plan else parts


def _bounds(table: Table, selection: Selection) -> str:
    """Return the bounds of a table as text: "6/255", or several."""
    shown = table.bounds(selection.suite)
    return ", ".join(selection.bound if eps is None else format_eps(eps) for eps in shown)


def _measured(
    measures: Sequence[Measure], table: Table, chosen: Mapping[str, str], runs: Runs
) -> tuple[list[str], list[Line]]:
    """Return the headings and the lines of a table of measures, ranked if it has a rule."""
    rivals = dict.fromkeys(chosen, True)

    def read(finder: Finder) -> list[list[Entry]]:
        by_measure = []
        for measure in measures:
            found = {spec: [finder.row(need) for need in measure.needs(spec)] for spec in chosen}
            by_measure.append(measure.entries(found))
            for spec, rows in found.items():
                if measure.ranked:  # the worst case is oblivious only if all its attacks are
                    judge = all if measure.worst else any
                    rivals[spec] &= not judge(row.oblivious for row in rows)
        return [list(line) for line in zip(*by_measure, strict=True)]

    entries = runs.lines(list(chosen), read)
    mark_best(
        [line for line, rival in zip(entries, rivals.values(), strict=True) if rival],
        [measure.ranked for measure in measures],
    )
    titles = [measure.title for measure in measures]
    named = {spec: _named(title, not rivals[spec]) for spec, title in chosen.items()}
    if table.ranks is None:
        return titles, list(zip(named.values(), entries, strict=True))
    by_spec = dict(zip(chosen, entries, strict=True))
    ranks = table.ranks(
        {spec: dict(zip(titles, by_spec[spec], strict=True)) for spec in chosen if rivals[spec]}
    )
    unranked = {spec: Entry("", about=UNAWARE) for spec in chosen if not rivals[spec]}
    lines = [(named[spec], [rank, *by_spec[spec]]) for spec, rank in {**ranks, **unranked}.items()]
    return ["Rank", *titles], lines


def _named(title: str, oblivious: bool) -> str:
    """Return the title of a row, which says in words what an oblivious attack is."""
    return f"{title}: {UNAWARE}" if oblivious else title


def _blocks(table: Table, suite: Suite, datasets: Mapping[str, str]) -> list[_Block]:
    """Return the blocks of a table of accuracies; all have the same headings."""
    if not table.by_dataset:
        return [
            _Block(_lead(table, eps), eps, columns.averages(table.metrics))
            for eps in table.bounds(suite)
        ]
    titles = {name: datasets.get(name, name) for name in suite.datasets}
    several = len(table.metrics) > 1
    return [
        _Block(
            {**_lead(table, eps), **({"Accuracy": metric} if several else {})},
            eps,
            columns.by_dataset(titles, metric),
        )
        for eps in table.bounds(suite)
        for metric in table.metrics
    ]


def _lead(table: Table, eps: float | None) -> dict[str, str]:
    return {} if eps is None else {"Eps": format_eps(eps)}


def _accuracies(
    blocks: Sequence[_Block],
    table: Table,
    chosen: Mapping[str, str],
    runs: Runs,
    compared: str,
) -> tuple[list[str], list[Line], int]:
    """Return the headings and the lines of a table, and how many lines are the paper's.

    `compared` is the number of the table to compare with the paper, or "".
    """
    suite, lines, of_paper = runs.selections[0].suite, [], 0
    for block in blocks:
        lead = [Entry(text) for text in block.lead.values()]
        filled, oblivious = _filled(block, table, list(chosen), runs)
        for spec, entries in zip(chosen, filled, strict=True):
            lines.append((_named(chosen[spec], spec in oblivious), [*lead, *entries]))
            if compared in suite.printed:
                beside = _beside(compared, spec, dict(zip(block.columns, entries, strict=True)))
                lines += beside
                of_paper += len(beside)
    header = [*blocks[0].lead, *(column.title for column in blocks[0].columns)]
    return header, lines, of_paper


def _filled(
    block: _Block, table: Table, specs: Sequence[str], runs: Runs
) -> tuple[list[list[Entry]], set[str]]:
    """Return the entries of a block by line, over the seeds, and the specs of oblivious attacks.

    The best of each column is marked. Numbers of oblivious attacks do not count.
    """
    suite, oblivious = runs.selections[0].suite, set[str]()

    def read(finder: Finder) -> list[list[Entry]]:
        found = [finder.row(table.need(spec, block.eps, suite)) for spec in specs]
        oblivious.update(spec for spec, row in zip(specs, found, strict=True) if row.oblivious)
        return [[column.entry(row) for column in block.columns] for row in found]

    lines = runs.lines(specs, read)
    rivals = [line for spec, line in zip(specs, lines, strict=True) if spec not in oblivious]
    mark_best(rivals, [column.ranked for column in block.columns])
    return lines, oblivious


def _no_cells(number: str, table: Table, selection: Selection, runs: Runs) -> ZSRobustError:
    subset = f", subsets of {selection.limit} images" if selection.limit else ""
    return ZSRobustError(
        f"Table {number} has no stored cells under {table.attack}: suite {selection.suite.name}, "
        f"protocol {selection.protocol}, eps {selection.bound}, {runs.named}{subset}. "
        f"Next: {runs.command(list(table.rows), number)}"
    )


def _titles(table: Table, runs: Runs, own: pd.DataFrame, more: Sequence[str]) -> dict[str, str]:
    """Return the titles of all rows by their specs.

    A row of a table of measures has the title that its cells store, which can be more precise.
    `more` adds rows, with their specs if another row has the same title.
    """
    selection = runs.selections[0]
    cells = own
    if not (table.swept or table.measures):
        cells = pd.concat([each.cells(own) for each in runs.selections])
    spec_of = "defense" if selection.train_seed is None else "method"
    known = dict(zip(cells[spec_of], cells["defense_title"], strict=True))
    for spec in more:
        if spec not in known:
            see = f"Next: {selection.command([spec])}"
            raise suggest("defense among these results:", spec, list(known), see)
    titles = dict(table.rows)
    if table.measures:
        titles |= {spec: known[spec] for spec in titles if spec in known}
    taken = [*titles.values(), *(known[spec] for spec in more)]
    further = {
        spec: f"{known[spec]} ({spec})" if taken.count(known[spec]) > 1 else known[spec]
        for spec in more
    }
    return {**titles, **further}


def _beside(number: str, spec: str, ours: Mapping[Column, Entry]) -> list[Line]:
    """Return the lines of the paper's numbers and of the differences; none without numbers."""
    claims = [_claim(number, spec, column) for column in ours]
    if not any(claims):
        return []
    theirs, differences = [], []
    seconds = reported.seconds(number, spec)
    for (column, entry), claim in zip(ours.items(), claims, strict=True):
        printed = difference = Entry()
        if column.name == "time" and seconds is not None:
            printed = Entry(str(seconds))
        if claim is not None:
            printed = Entry(f"{claim.percent:.2f}", notes=tuple(reported.doubts(claim)))
            if entry.share is not None:
                difference = Entry(points(entry.share - Fraction(claim.percent) / 100))
        theirs.append(printed)
        differences.append(difference)
    return [("· paper", theirs), ("· difference", differences)]


def _claim(number: str, spec: str, column: Column) -> Claim | None:
    if column.name == "average":
        return reported.average(number, spec)
    if column.name in find(number).metrics:
        return reported.average(number, spec, column.name)
    return reported.cell(number, spec, column.name)


def _other_bounds(cells: pd.DataFrame, selection: Selection) -> dict[str, str]:
    """Return the bounds that differ from the selection's, as text, by attack."""
    bounds = dict(zip(cells["attack"], cells["eps"], strict=True))
    return {str(attack): str(eps) for attack, eps in bounds.items() if eps != selection.bound}


def _underneath(
    cells: pd.DataFrame,
    table: Table,
    selection: Selection,
    titles: Mapping[str, str],
    measures: Sequence[Measure],
    intervals: bool,
) -> list[str]:
    """Return the paragraphs below a table: what its numbers were measured on, and how."""
    suite = selection.suite
    names = dict.fromkeys([table.attack, *sorted(set(cells["attack"]))])
    other = {} if table.swept else _other_bounds(cells, selection)
    attacks = ", ".join(f"{each} at eps {other[each]}" if each in other else each for each in names)
    bound = f"{'otherwise ' if other else ''}eps {_bounds(table, selection)}"
    target = titles.get(suite.train_on, suite.train_on)
    has_times = table.columned
    zero_shot = (
        f" Zero-shot means leave out {target}, the target dataset of training."
        if not measures
        else ""
    )
    averaged = counted(len(suite.datasets[:: table.every]), "dataset")
    lines = [
        f"Suite {suite.name} ({suite.title}); protocol {selection.protocol}; "
        f"attack{'s' if ',' in attacks else ''} {attacks}, {bound}; "
        f"{DASH}: not measured, or failed."
        + (" Time: seconds of one training epoch." if has_times else ""),
        f"Means are over {averaged}.{zero_shot} Above "
        "chance: the mean of (accuracy - chance) / (1 - chance), at least 0 for each dataset. "
        "Chance is the share of the most frequent class, which a constant answer scores.",
    ]
    if intervals:
        lines.append(
            "In brackets: 95% intervals, Wilson's for an accuracy, and for a mean from a bootstrap "
            "over the images of each dataset."
        )
    if table.note:
        lines.append(table.note)
    lines += dict.fromkeys(measure.note for measure in measures if measure.note)
    sizes = [
        f"{titles[name]} {'/'.join(map(str, sorted(set(group['images']))))}"
        for name in suite.datasets
        if not (group := cells[cells["dataset"] == name]).empty
    ]
    versions = sorted(
        {f"{name} {number}" for each in cells["versions"] for name, number in each.items()}
    )
    return [
        *lines,
        f"Images: {', '.join(sizes) or 'none'}.",
        f"Versions: {', '.join(versions) or 'none'}.",
    ]

"""Results as Python shows them: one line of text, or a table of HTML."""

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from zsrobust.results.flags import look_up

if TYPE_CHECKING:
    from zsrobust.results.cell import Result

_HEADINGS = ["Defense", "Attack", "eps", "Dataset", "Seed", "Images"]
_HEADINGS += ["Clean (%)", "Robust (%)", "Flags"]


def line(result: "Result") -> str:
    """Return a result in one line: what was measured, the images, and accuracies in percent."""
    about = result.identity.about
    under = "{defense} under {attack} {eps} on {dataset}".format_map(about)
    seed = f" with seed {about['seed']}" if about["seed"] else ""
    return f"Result({under}{seed}: {_counts(result)}{_flags(result, ', flags: ')})"


def html(results: Iterable["Result"]) -> str:
    """Return a table of HTML with a row for each result; intervals are 95%."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in _HEADINGS)
    body = "".join(f"<tr>{_row(result)}</tr>" for result in results)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _counts(result: "Result") -> str:
    if result.status == "failed":
        return "failed"
    clean, robust = 100 * result.clean_accuracy, 100 * result.robust_accuracy
    return f"{result.images} images, clean {clean:.1f}%, robust {robust:.1f}%"


def _flags(result: "Result", before: str = "") -> str:
    return before + ", ".join(result.flags) if result.flags else ""


def _row(result: "Result") -> str:
    about = result.identity.about
    names = ("defense", "attack", "eps", "dataset", "seed")
    texts = [str(about[name]) for name in names] + [str(result.images)]
    if result.status == "failed":
        texts += ["failed", "failed"]
    else:
        texts += [
            _percent(result.clean_accuracy, result.clean_interval),
            _percent(result.robust_accuracy, result.robust_interval),
        ]
    texts.append(", ".join(look_up(name).title for name in result.flags))
    return "".join(f"<td>{escape(text)}</td>" for text in texts)


def _percent(share: float, interval: tuple[float, float]) -> str:
    low, high = (100 * end for end in interval)
    return f"{100 * share:.1f} [{low:.1f}, {high:.1f}]"

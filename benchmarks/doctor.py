"""Write the doctor's power into docs/numbers.md: masked defenses caught, honest ones flagged.

python benchmarks/doctor.py --checkpoints CHECKPOINTS
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tabulate import tabulate
from torch import nn
from torchvision.transforms.functional import gaussian_blur

import zsrobust
from zsrobust.core.errors import ZSRobustError
from zsrobust.datasets import datasets
from zsrobust.defenses.workshop import Workshop
from zsrobust.evaluation.redflags.rules import raised
from zsrobust.settings import suites
from zsrobust.testing import LinearClassifier

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import masked  # noqa: E402  # the tests and this page use the same defenses

DATASET, LIMIT = "mini_shapes", 32  # of the masked defenses; the doctor takes a quarter
HONEST_ON = [
    *("mini_shapes", "mini_colors", "mini_objects", "mini_letters"),
    *("mini_textures", "mini_cells", "mini_positions", "mini_handwriting"),
]
SPECS = [
    *("clip", "ft_standard", "tecoa", "pmg_aft"),
    *("interpolation:of=tecoa,weight=0.4", "vpt_tecoa"),
]
PLACE = re.compile(r"(<!-- doctor -->\n).*(<!-- end of doctor -->)", re.DOTALL)


class Then(nn.Module):
    """A classifier with a change before it and one after it."""

    def __init__(
        self, classifier: nn.Module, before: Callable = lambda x: x, after: Callable = lambda x: x
    ) -> None:
        """Take the classifier, the change of images, and the change of logits."""
        super().__init__()
        self.classifier, self.before, self.after = classifier, before, after

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self.after(self.classifier(self.before(images)))


def masked_rows(clip: nn.Module, true: str) -> Iterator[list[str]]:
    """Yield a row for each masked defense."""
    for kind, classes in masked.KINDS.items():
        for made in classes:
            about = {"dataset": DATASET, "attack": "pgd10"}
            try:
                cell = zsrobust.evaluate(made(clip).eval(), limit=LIMIT, **about)
                number = f"{cell.robust_correct} of {cell.images}"
                flags = raised(cell.checks or {})
            except ZSRobustError:
                number, flags = "the cell fails", ["the cell fails"]
            found = zsrobust.diagnose(made(clip).eval(), dataset=DATASET, limit=LIMIT // 4)
            by_doctor = [] if found.passes else found.flags
            print(made.__name__, number, flags, by_doctor, flush=True)
            yield [
                kind, f"`{made.__name__}`", number, true,
                "caught" if flags else "missed",
                "caught" if by_doctor else "missed",
            ]  # fmt: skip


def honest(clip: nn.Module, classes: int) -> Iterator[tuple[str, nn.Module]]:
    """Yield honest modules by title."""
    yield "Gaussian blur", Then(clip, lambda x: gaussian_blur(x, [3, 3], [0.8, 0.8]))
    for value in (0.5, 1.5, 2.0):
        yield f"temperature {value:g}", Then(clip, after=lambda z, value=value: z / value)
    yield "tanh-squashed logits", Then(clip, after=lambda z: 30 * torch.tanh(z / 30))
    weight = torch.randn(classes, 3 * 32 * 32, generator=torch.Generator().manual_seed(0))
    yield "linear classifier", LinearClassifier(weight, -weight.sum(1) / 2)


def honest_rows(workshop: Workshop, checkpoints: Path) -> Iterator[list[str]]:
    """Yield a row for each honest defense: the flags on each dataset."""
    raised_by: dict[str, list[str]] = {}
    for dataset in HONEST_ON:
        clip = workshop.clip.classifier(datasets[dataset].prompts()).eval()
        modules = honest(clip, len(datasets[dataset].classes))
        for title, defense in [*((spec, spec) for spec in SPECS), *modules]:
            about = {"dataset": dataset, "attack": "pgd10", "limit": LIMIT}
            cell = zsrobust.evaluate(defense, checkpoints=checkpoints, **about)
            flags = raised(cell.checks or {})
            print(dataset, title, cell.robust_correct, flags, flush=True)
            raised_by.setdefault(title, []).extend(f"{dataset}: {flag}" for flag in flags)
    for title, flags in raised_by.items():
        yield [title, str(len(HONEST_ON)), str(len(flags)), ", ".join(flags)]


def main() -> None:
    """Measure, and write the tables into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "numbers.md")
    options = parser.parse_args()
    workshop = Workshop(suites.load("mini"), options.checkpoints)
    clip = workshop.clip.classifier(datasets[DATASET].prompts()).eval()
    strong = zsrobust.evaluate("clip", dataset=DATASET, attack="autoattack", limit=LIMIT)
    rows = list(masked_rows(clip, f"{strong.robust_correct} of {strong.images}"))
    heads = ["kind", "defense", "PGD-10", "true", "cell", "doctor"]
    parts = [
        summary(rows),
        tabulate(rows, heads, "pipe"),
        tabulate(
            list(honest_rows(workshop, options.checkpoints)),
            ["honest", "datasets", "flags", "which"],
            "pipe",
        ),
    ]
    page = options.out.read_text()
    text = "\n\n".join(parts)
    options.out.write_text(PLACE.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page))


def summary(rows: list[list[str]]) -> str:
    """Return the counts in words."""
    cell, doctor = (sum(row[place] == "caught" for row in rows) for place in (4, 5))
    return (
        f"Of {len(rows)} masked defenses around CLIP on `{DATASET}`, the red flags of a cell catch "
        f"{cell}, and the doctor catches {doctor}."
    )


if __name__ == "__main__":
    main()

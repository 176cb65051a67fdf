"""The processes of torchrun: what they find together is what one finds."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zsrobust.evaluation.referee import Judged
from zsrobust.results.cell import Outcomes, Samples
from zsrobust.running.shares import joined

TWO = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
RUN = (
    "run",
    "--suite",
    "mini",
    "--defense",
    "clip",
    "--attack",
    "pgd2",
    "--dataset",
    "mini_cells",
    "--limit",
    "33",
)
FAILS = """
import time
from zsrobust import ZSRobustError
from zsrobust.training import ranks
try:
    with ranks.together("cpu"):
        assert ranks.decided(lambda: ranks.rank()) == 0
        assert ranks.gathered(ranks.rank()) == ([0, 1] if ranks.leads() else [])
        if ranks.rank() == 1:
            raise ZSRobustError("out of luck")
        ranks.decided(lambda: time.sleep(0.1))
        ranks.gathered(None)
except ZSRobustError as error:
    print(f"Error: {error}")
    raise SystemExit(2)
"""


def torchrun(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*TWO, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_two_processes_find_what_one_finds(zsrobust, tmp_path):
    done = torchrun(tmp_path, "-m", "zsrobust", *RUN, "--results", "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("33 images attacked") == 1
    zsrobust(*RUN, whole=True)
    place = Path("mini/sound/pgd2-eps=6-255/clip/mini_cells.limit=33.json")
    single, double = (
        json.loads((tmp_path / folder / place).read_text()) for folder in ("results", "two")
    )
    assert double.pop("device") == "cpu and 1 more"
    for name in (
        "identity",
        "images",
        "clean_correct",
        "robust_correct",
        "flags",
        "checks",
        "forward",
        "backward",
        "status",
    ):
        assert single[name] == double[name], name
    for kind in (Outcomes, Samples):
        for name, array in vars(kind.read(tmp_path / "results" / place)).items():
            np.testing.assert_array_equal(array, getattr(kind.read(tmp_path / "two" / place), name))


def test_when_one_process_fails_it_alone_says_why(tmp_path):
    (tmp_path / "fails.py").write_text(FAILS)
    done = torchrun(tmp_path, "fails.py")
    assert done.returncode != 0
    assert done.stdout == "Error: out of luck\n"
    assert (
        "Traceback"
        not in done.stderr.split("torch.distributed.elastic")[0].split("Sending process")[0]
    )


def share(number: int, count: int, images: int, **more) -> Judged:
    positions = np.arange(number, images, count)
    adversarial = (positions % 5 == 3).astype(np.int64)  # labels are 0: 3 and 8 are broken
    outcomes = Outcomes(positions * 0, positions * 0, adversarial, positions.astype(np.float32))
    kept = [
        place[0] for place in (np.flatnonzero(adversarial == kind) for kind in (1, 0)) if len(place)
    ]
    samples = Samples(
        positions=np.array(kept, dtype=np.int64),
        pixels=np.stack([np.full((3, 2, 2), positions[place], dtype=np.uint8) for place in kept]),
        change=np.full((len(kept), 3, 2, 2), 127, dtype=np.int8),
        scale=0.1 * (number + 1),
    )
    values = {
        "images": len(positions),
        "robust_correct": int((adversarial == 0).sum()),
        "clean_correct": len(positions),
    }
    beside = {"outcomes": outcomes, "samples": samples, "seconds": float(number), "forward": 2}
    return Judged(**{**values, **beside, **more})


@pytest.mark.parametrize(("count", "images"), [(1, 10), (2, 10), (3, 10), (4, 9), (9, 9)])
def test_shares_are_put_together_in_the_order_of_the_images(count, images):
    result = joined(
        [
            share(number, count, images, notes=[f"flag_{number % 2}"], messages=[f"{number % 2}"])
            for number in range(count)
        ]
    )
    outcomes, samples = result.outcomes, result.samples
    assert outcomes.perturbation.tolist() == list(range(images))
    assert (result.images, result.robust_correct, result.forward) == (
        images,
        outcomes.robust_correct,
        2 * count,
    )
    assert result.seconds == count - 1
    assert result.notes == [f"flag_{kind}" for kind in range(min(count, 2))]
    assert result.messages == [str(kind) for kind in range(min(count, 2))]
    assert samples.positions.tolist() == [3, 0]
    assert samples.pixels[:, 0, 0, 0].tolist() == [3, 0]
    np.testing.assert_allclose(
        samples.change[:, 0, 0, 0] * samples.scale / 127, [0.1 * (3 % count + 1), 0.1], atol=0.002
    )


def test_a_cell_fails_with_its_share():
    result = joined([share(0, 2, 10), Judged(images=5, error="no")])
    assert (result.failed, result.error, result.images, result.robust_correct) == (
        True,
        "no",
        10,
        0,
    )
    assert result.outcomes is None
    assert result.samples is None

"""The attacks of zsrobust."""

from collections.abc import Callable

from torch import Tensor

from adapters import Run, Task
from zsrobust.attacks import Attack
from zsrobust.attacks.apgd import APGD
from zsrobust.attacks.autoattack import AutoAttack
from zsrobust.attacks.cw import CW
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.fab import FAB
from zsrobust.attacks.mim import MIM
from zsrobust.attacks.pgd import PGD
from zsrobust.attacks.square import Square
from zsrobust.evaluation.meter import Meter

PACKAGE = "zsrobust"


def _run(make: Callable[[Task], Attack]) -> Run:
    def run(classifier: Meter, images: Tensor, labels: Tensor, task: Task) -> Tensor:
        draws = Draws.of(task.seed, task.dataset, task.positions, images.device)
        return make(task)(classifier, images, labels, draws)

    return run


def _iterative(attack: type[PGD] | type[MIM]) -> Run:
    return _run(lambda task: attack(eps=task.eps, step_size=task.step_size, steps=task.steps))


ATTACKS: dict[str, Run] = {
    "pgd": _iterative(PGD),
    "mim": _iterative(MIM),
    "cw": _iterative(CW),
    "apgd-ce": _run(lambda task: APGD(eps=task.eps, loss="ce", steps=task.steps)),
    "apgd-dlr": _run(lambda task: APGD(eps=task.eps, loss="dlr", steps=task.steps)),
    "apgd-t": _run(lambda task: APGD(eps=task.eps, loss="targeted", steps=task.steps)),
    "fab-t": _run(lambda task: FAB(eps=task.eps, steps=task.steps, targets=task.targets)),
    "square": _run(lambda task: Square(eps=task.eps, queries=task.queries)),
    "autoattack": _run(lambda task: AutoAttack(eps=task.eps)),
}

"""The momentum iterative method and its variants for transfer, in l∞ and l2."""

from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsrobust.attacks import attacks, frozen
from zsrobust.attacks.draws import Draws
from zsrobust.attacks.geometry import per_image
from zsrobust.attacks.losses import cross_entropy
from zsrobust.attacks.notes import note_if
from zsrobust.attacks.search import Iterative
from zsrobust.core.errors import ZSRobustError

#: The smallest resized image, as a share of the side: `resize_rate` of torchattacks. DI's paper
#: resizes to 299 of 330 pixels at least.
RESIZED = 0.9
#: The standard deviations between a Gaussian kernel's center and its edge: `nsig` of the code
#: released beside arXiv 1904.02884 (attack_iter.py), and of torchattacks.
DEVIATIONS = 3.0
#: The exponent of the number of values in the look-ahead's unit; see `MIM.ahead`.
UNIT = {"linf": 1.0, "l2": 0.5}


@dataclass(frozen=True, kw_only=True)
class MIM(Iterative):
    """MI-FGSM (Dong et al., CVPR 2018, arXiv 1710.06081): steps along a sum of gradients.

    Eqs. 6 and 7 on cross-entropy, from the image itself: g ← μ·g + ∇J / ‖∇J‖₁; x ← x + α·sign(g),
    in l2 x + α·g / ‖g‖₂. The paper's α is eps / steps; here it is `step_size`, as for PGD. It draws
    no random numbers.

    Three variants make the images transfer to other models, alone or together: DI, TI and NI.
    torchattacks has diversity=0.5 for DI, kernel=15 and diversity=0.5 for TI.
    """

    decay: float = 1.0  #: μ; 0 leaves the iterative method without momentum
    early_stop: bool = True  #: an image stays at the first iterate that breaks it
    #: DI (Xie et al., CVPR 2019, arXiv 1803.06978): the probability that the gradient of a step is
    #: taken at an image resized to a random size, at a random place on black.
    diversity: float | None = None
    #: TI (Dong et al., CVPR 2019, arXiv 1904.02884): the side of a Gaussian kernel that the
    #: gradient is convolved with, an odd number.
    kernel: int | None = None
    #: NI (Lin et al., ICLR 2020, arXiv 1908.06281): whether the gradient is taken where the
    #: momentum leads, as Nesterov's.
    nesterov: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("decay", "diversity"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ZSRobustError(
                    f"An attack's {name} must be in [0, 1], not {value}. See: zsrobust list attacks"
                )
        if self.kernel is not None and (self.kernel < 1 or self.kernel % 2 == 0):
            raise ZSRobustError(
                f"An attack's kernel must be an odd number of pixels, not {self.kernel}. "
                "Try: mim:kernel=15"
            )

    def full(self) -> Self:
        """Return the same attack without early stops: every image takes all steps."""
        return replace(self, early_stop=False)

    @property
    def elsewhere(self) -> bool:
        """Whether gradients are taken elsewhere than at the iterates."""
        return bool(self.diversity or self.nesterov)

    def passes(self, classes: int) -> tuple[int, int]:
        """Return the numbers of forward and of backward passes that an image takes at most.

        Where gradients are taken elsewhere, early stopping takes one more pass in all steps but the
        first.
        """
        more = self.steps - 1 if self.early_stop and self.elsewhere else 0
        return self.steps + more, self.steps

    def __call__(
        self,
        classifier: nn.Module,
        images: Tensor,
        labels: Tensor,
        draws: Draws,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return adversarial images (N, 3, S, S) in [0, 1]; see `zsrobust.attacks.Attack`."""
        adversarial, momentum = images.clone(), torch.zeros_like(images)
        left = torch.arange(len(images), device=images.device)
        stuck = torch.zeros((), dtype=torch.bool, device=images.device)
        with frozen(classifier):
            for step in range(self.steps):
                stops = self.early_stop and step > 0  # the first is the clean image
                if stops and self.elsewhere:
                    with torch.no_grad():
                        left = left[classifier(adversarial[left]).argmax(1) == labels[left]]
                    if not len(left):
                        break
                points = self.ahead(adversarial[left], momentum[left]).requires_grad_()
                logits = classifier(self.diverse(points, draws[left], step))
                (gradient,) = torch.autograd.grad(cross_entropy(logits, labels[left]).sum(), points)
                if stops and not self.elsewhere:
                    safe = (logits.argmax(1) == labels[left]).nonzero()[:, 0]
                    left, gradient = left[safe], gradient[safe]
                if not len(left):
                    break
                gradient = self.smooth(gradient)
                size = per_image(gradient.flatten(1).norm(p=1, dim=1))
                stuck |= ~size.all()
                momentum[left] = self.decay * momentum[left] + gradient / size.clamp_min(
                    torch.finfo(size.dtype).tiny
                )
                adversarial[left] = self.move(images[left], adversarial[left], momentum[left])
        note_if(stuck, "attack_zero_gradients")
        return adversarial

    def ahead(self, points: Tensor, momentum: Tensor) -> Tensor:
        """Return where gradients are taken, (N, 3, S, S): with NI, at x + α·μ·u·g.

        The paper's x + α·μ·g divides gradients by ‖∇J‖₁, which would make the look-ahead vanish;
        torchattacks divides by the mean of |∇J|. The unit u is the ratio of the two, the number of
        values; in l2 it is its square root. After one gradient of equal magnitudes, the
        look-ahead has the size α·μ in the norm.
        """
        if not self.nesterov:
            return points
        unit: float = points[0].numel() ** UNIT[self.norm]
        return points + self.step_size * self.decay * unit * momentum

    def diverse(self, points: Tensor, draws: Draws, step: int) -> Tensor:
        """Return the images that the classifier sees, (N, 3, S, S): with DI, some are resized.

        A chosen image has a random side in [0.9 · S, S) and a random place; what is left is black.
        """
        if not self.diversity or not len(points):
            return points
        side = points.shape[-1]
        smallest = int(RESIZED * side)
        chosen = draws.uniform((), "mim diversity", step).to(points) < self.diversity
        sides = smallest + draws.integers(side - smallest, (), "mim side", step).to(points.device)
        places = draws.uniform((2,), "mim place", step).to(points.device).double()
        first = (places * (side - sides + 1)[:, None]).long()
        rows, columns = (resizing(side, sides, each).to(points) for each in first.unbind(1))
        seen = torch.einsum("nij,ncjk,nlk->ncil", rows, points, columns)
        return torch.where(per_image(chosen), seen, points)

    def smooth(self, gradient: Tensor) -> Tensor:
        """Return gradients (N, 3, S, S): with TI, convolved with a Gaussian, zero around them."""
        if self.kernel is None:
            return gradient
        weight = gaussian(self.kernel).to(gradient).expand(3, 1, -1, -1)
        return F.conv2d(gradient, weight, padding=self.kernel // 2, groups=3)


def resizing(side: int, sides: Tensor, first: Tensor) -> Tensor:
    """Return matrices (N, S, S) float64 that resize S pixels to `sides` (N,), and pad with zeros.

    The resized pixels begin at `first`, (N,). They are those of bilinear interpolation as in
    `torch.nn.functional.interpolate`, without smoothing.
    """
    place = torch.arange(side, device=sides.device, dtype=torch.float64)
    scale = (side / sides.double())[:, None]
    source = (place - first[:, None] + 0.5) * scale - 0.5
    inside = (place >= first[:, None]) & (place < (first + sides)[:, None])
    weights = (1 - (source[:, :, None] - place).abs()).clamp_min(0)
    return weights * inside[:, :, None]


def gaussian(side: int) -> Tensor:
    """Return a Gaussian kernel (side, side) float64 of sum 1; its edge is at 3 deviations."""
    line = torch.exp(-0.5 * torch.linspace(-1, 1, side, dtype=torch.float64).mul(DEVIATIONS) ** 2)
    kernel = line[:, None] * line
    return kernel / kernel.sum()


attacks.register("mim")(MIM())

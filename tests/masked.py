"""Defenses that only seem to be: an honest classifier behind something that attacks do not get through."""

import torch
import torch.nn.functional as F
from torch import nn


class Masked(nn.Module):
    """A classifier that sees other images than it was given."""

    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, images):
        return self.classifier(self.change(images))

    def change(self, images):
        return images


class Quantized(Masked):
    def change(self, images):
        return (images * 8).round() / 8


class StopGradient(Masked):
    def change(self, images):
        return images.detach() + 0 * images


class Detached(Masked):
    def forward(self, images):
        return self.classifier(images.detach())


class Hot(Masked):
    """A temperature that saturates."""

    def forward(self, images):
        return self.classifier(images) / 1e-3


class RandomResize(Masked):
    def change(self, images):
        side = images.shape[-1]
        small = int(torch.randint(side * 3 // 4, side + 1, ()))
        top, left = (int(torch.randint(0, side - small + 1, ())) for _ in range(2))
        resized = F.interpolate(images, size=small, mode="bilinear", align_corners=False)
        return F.pad(resized, (left, side - small - left, top, side - small - top))


class Purifier(Masked):
    """It changes nothing, and lets hardly any gradient through."""

    def change(self, images):
        return images.detach() + 1e-12 * (images - images.detach())


class Probabilities(Masked):
    def forward(self, images):
        return self.classifier(images).softmax(1)


class Coupled(Masked):
    """Images are centered around the mean of their batch."""

    def change(self, images):
        return images - images.mean(0, keepdim=True) + 0.5


class Inside(Masked):
    """Every image is moved to where the classifier is surer of itself."""

    def change(self, images):
        with torch.enable_grad():
            points = images.detach().requires_grad_()
            sure = self.classifier(points).logsumexp(1).sum()
            (gradient,) = torch.autograd.grad(sure, points)
        return images + 0.01 * gradient.sign()


class Shattered(Masked):
    """It hardly changes what is seen, and its gradient points anywhere."""

    def change(self, images):
        return images + 1e-4 * torch.sin(1e6 * images)


class Constant(Masked):
    """What it returns has nothing to do with the image."""

    def forward(self, images):
        return self.classifier(torch.full_like(images, 0.5)) + 0 * images.sum()


#: The five of the brief and more: by class, the flags that catch it.
CAUGHT = {
    Quantized: {"zero_gradients"},
    StopGradient: {"zero_gradients"},
    Detached: {"zero_gradients"},
    Hot: {"saturated"},
    RandomResize: {"unstable"},
    Purifier: {"vanishing"},
    Probabilities: {"probabilities"},
    Coupled: {"coupled"},
    Inside: {"inside"},
}

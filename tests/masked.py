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
    levels = 8

    def change(self, images):
        return (images * self.levels).round() / self.levels


class StopGradient(Masked):
    def change(self, images):
        return images.detach() + 0 * images


class Detached(Masked):
    def forward(self, images):
        return self.classifier(images.detach())


class Hot(Masked):
    """A temperature that saturates."""

    def forward(self, images):
        return self.classifier(images) / self.temperature

    temperature = 1e-3


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
        return images.detach() + self.leak * (images - images.detach())

    leak = 1e-12


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
        return images + 1e-4 * torch.sin(self.rate * images)

    rate = 1e6


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


def posing(value, gradient):
    """Return a tensor with the values of one and the gradient of the other."""
    return value.detach() + gradient - gradient.detach()


class BySize(Masked):
    """In a batch of more than `size` images, its gradient is turned round."""

    size = 2

    def forward(self, images):
        logits = self.classifier(images)
        return posing(logits, -logits) if len(images) > self.size else logits


class BySmallSize(BySize):
    """The same for images that come alone."""

    def forward(self, images):
        logits = self.classifier(images)
        return posing(logits, -logits) if len(images) <= self.size else logits


class ByCalls(Masked):
    """From the hundredth call on, its gradient is turned round."""

    after = 100

    def __init__(self, classifier):
        super().__init__(classifier)
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        logits = self.classifier(images)
        return posing(logits, -logits) if self.calls > self.after else logits


class Drowned(Masked):
    """Its gradient is lost in noise that is always the same."""

    scale = 1e4

    def forward(self, images):
        logits = self.classifier(images)
        shape = (images[0].numel(), logits.shape[1])
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(images)
        return posing(logits, logits + self.scale * images.flatten(1) @ noise)


class Memory(Masked):
    """It remembers the logits of images it sees, and adds a hundredth of the real ones."""

    radius = 0.1

    def __init__(self, classifier):
        super().__init__(classifier)
        self.seen, self.logits = None, None

    @torch.no_grad()
    def remember(self, images, logits):
        if self.seen is None:
            self.seen, self.logits = images.detach().clone(), logits.detach().clone()
        distance = (images[:, None] - self.seen[None]).abs().flatten(2).amax(2)
        near, place = distance.min(1)
        new = near > self.radius
        if new.any():
            self.seen = torch.cat([self.seen, images[new].detach()])
            self.logits = torch.cat([self.logits, logits[new].detach()])
            return self.remember(images, logits)
        return self.logits[place]

    def forward(self, images):
        logits = self.classifier(images)
        return self.remember(images, logits) + 0.01 * logits


class Contrast(Masked):
    """Brightness rises in steep steps."""

    levels, steep = 8, 60

    def change(self, images):
        whole = (images * self.levels).floor()
        part = images * self.levels - whole
        return (whole.detach() + torch.sigmoid(self.steep * (part - 0.5))) / self.levels


class Turned(Masked):
    """The gradient of every fifth image is turned round."""

    every = 5

    def forward(self, images):
        logits = self.classifier(images)
        turned = torch.arange(len(images), device=images.device)[:, None] % self.every == 0
        return torch.where(turned, posing(logits, -logits), logits)


#: Those that escaped the first measurements: by class, the flags that catch it.
ESCAPED = {
    BySize: {"fickle", "misleading"},
    BySmallSize: {"fickle"},
    Drowned: {"misleading"},
    Memory: {"cliffs"},
    Turned: {"misleading"},
}


class Noisy(Masked):
    """It adds fresh noise."""

    size = 0.1

    def change(self, images):
        return images + self.size * torch.randn_like(images)


class Decoy(Masked):
    """Its gradient is turned round, or belongs to another class."""

    turned = True

    def forward(self, images):
        logits = self.classifier(images)
        return posing(logits, -logits if self.turned else logits.roll(1, 1))


def variant(kind, **fields):
    """Return a masked defense with other fields; its name gives them."""
    title = ", ".join(f"{name}={value:g}" for name, value in fields.items())
    return type(f"{kind.__name__}({title})", (kind,), fields)


#: Masked defenses by kind, for `benchmarks/doctor.py`.
KINDS = {
    "shattered": [
        *[variant(Quantized, levels=each) for each in (4, 8, 16, 32)],
        StopGradient,
        Detached,
        *[variant(Shattered, rate=each) for each in (1e4, 1e5, 1e6)],
        *[variant(Contrast, levels=a, steep=b) for a, b in ((4, 60), (8, 60), (8, 200))],
    ],
    "stochastic": [RandomResize, *[variant(Noisy, size=each) for each in (0.05, 0.2)]],
    "vanishing": [variant(Purifier, leak=each) for each in (1e-12, 1e-4)],
    "saturating": [Probabilities, *[variant(Hot, temperature=each) for each in (1e-3, 1e-2)]],
    "drowned": [variant(Drowned, scale=each) for each in (1e2, 1e4, 1e6)],
    "decoy": [variant(Decoy, turned=each) for each in (True, False)],
    "batch or calls": [
        Coupled,
        *[variant(BySize, size=each) for each in (2, 24)],
        variant(BySmallSize, size=2),
        *[variant(ByCalls, after=each) for each in (20, 100)],
    ],
    "memory": [variant(Memory, radius=each) for each in (0.05, 0.1, 0.3)],
    "image by image": [variant(Turned, every=each) for each in (2, 3, 5)],
    "test time": [Inside],
}

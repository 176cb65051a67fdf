"""Resizing on the device: every bit is Pillow's; identities name it where images are resized."""

import numpy as np
import pytest
import torch
from PIL import Image

from zsrobust.datasets import Cut, Dataset, Images, cache
from zsrobust.datasets.pixels import fit, resizing, tensor
from zsrobust.evaluation.identity import identify_dataset

RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def squares(side, count=2):
    """Return noise, black and white noise with its extremes, and a step; (n, 3, S, S) uint8."""
    rng = np.random.RandomState(side)
    noise = rng.randint(0, 256, (count, 3, side, side), dtype=np.uint8)
    step = np.zeros((1, 3, side, side), dtype=np.uint8)
    step[..., side // 2 :, side // 3 :] = 255
    return np.concatenate([noise, np.where(noise[:1] < 128, 0, 255).astype(np.uint8), step])


def pillow(pixels, resize):
    """Return what `resize` makes of each square as a Pillow image, (n, 3, S, S)."""
    pictures = [Image.fromarray(square.transpose(1, 2, 0)) for square in pixels]
    return np.stack([np.asarray(resize(picture)).transpose(2, 0, 1) for picture in pictures])


@pytest.mark.parametrize("interpolation", RESAMPLING)
@pytest.mark.parametrize("own", [32, 33, 47, 64, 95, 96, 100, 128, 224, 256, 300, 333, 512])
def test_resizing_is_pillows_bit_for_bit(own, interpolation):
    pixels = squares(own)
    for side in (32, 65, 96, 224, 256, 301, 512):
        ours = fit(torch.from_numpy(pixels), Cut(side, interpolation=interpolation))
        theirs = pillow(
            pixels, lambda x, side=side: x.resize((side, side), RESAMPLING[interpolation])
        )
        assert ours.dtype == torch.uint8
        assert np.array_equal(ours.numpy(), theirs), side


@pytest.mark.parametrize("own", [32, 64, 96, 224, 256, 300])
def test_resized_and_cropped_pixels_equal_torchvisions(own):
    from torchvision import transforms

    pixels = squares(own, count=1)
    for cut in (Cut(224, 256 / 224, "bilinear"), Cut(224), Cut(96, squash=True)):
        mode = transforms.InterpolationMode(cut.interpolation)
        theirs = pillow(
            pixels,
            transforms.Compose(
                [transforms.Resize(cut.resized, mode), transforms.CenterCrop(cut.side)]
            ),
        )
        assert np.array_equal(fit(torch.from_numpy(pixels), cut).numpy(), theirs)
        assert np.array_equal(pillow(pixels, lambda x, cut=cut: cache._cut(x, cut)), theirs)


def test_ties_round_up():
    levels = torch.arange(0, 64, 2, dtype=torch.uint8).expand(1, 3, 32, 32).contiguous()
    doubled = fit(levels, Cut(64, interpolation="bilinear"))
    # The steps between the levels 0, 2 and 4 are 0.5, 1.5, 2.5 and 3.5; half to even: 0, 2, 2, 4.
    assert doubled[0, 0, 0, 1:5].tolist() == [1, 2, 3, 4]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_returns_the_same():
    for own, cut in ((64, Cut(224, 256 / 224, "bilinear")), (32, Cut(224)), (300, Cut(96))):
        pixels = torch.from_numpy(squares(own))
        assert torch.equal(fit(pixels.cuda(), cut).cpu(), fit(pixels, cut))


def images(side, cut=None):
    return Images(pixels=squares(side), labels=np.zeros(4, dtype=np.int64), cut=cut)


def test_only_identities_of_resized_images_name_the_resizing():
    dataset = Dataset(
        title="x",
        group="own",
        about="",
        classes=("a", "b"),
        templates=("a {}",),
        size=4,
        side=64,
    )
    zoomed = Cut(224, 256 / 224)
    assert resizing(images(64), zoomed) == {"resized": "pillow"}
    for pixels, cut in (
        (images(224), Cut(224)),
        (images(256), zoomed),  # only cropped
        (images(64), None),  # attacked at its own size
        (images(224, zoomed), zoomed),  # cut by Pillow when it was prepared
    ):
        assert resizing(pixels, cut) == {}
        assert "resized" not in identify_dataset(dataset, pixels.facts, cut=cut)
    assert identify_dataset(dataset, images(64).facts, cut=zoomed)["resized"] == "pillow"


def test_squares_of_their_own_size_are_returned_as_they_are():
    own = images(32)
    whole = tensor(own, np.array([2, 0]), Cut(32))
    assert whole.dtype == torch.float32
    assert whole.is_contiguous()
    assert torch.equal(whole, torch.from_numpy(own.pixels[[2, 0]]).float() / 255)

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zsrobust.attacks.draws import GOLDEN, Draws, _mix


def test_the_numbers_are_those_of_splitmix64():
    # The first outputs for seed 0, of Vigna's reference implementation.
    states = torch.tensor([1, 2, 3]) * GOLDEN
    assert [value % 2**64 for value in _mix(states).tolist()] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=8, unique=True), st.data())
def test_an_images_numbers_are_its_own(positions, data):
    draws = Draws.of(3, "cifar10", np.array(positions))
    chosen = torch.tensor(
        data.draw(st.lists(st.integers(0, len(positions) - 1), max_size=8)), dtype=torch.long
    )
    for draw in (Draws.uniform, Draws.normal):
        numbers = draw(draws, (3, 2), "start", 1)
        assert numbers.shape == (len(positions), 3, 2)
        assert torch.equal(draw(draws[chosen], (3, 2), "start", 1), numbers[chosen])


def test_another_seed_dataset_position_or_key_gives_other_numbers():
    base = Draws.of(0, "a", np.array([0])).uniform((8,), "x")
    others = [
        Draws.of(1, "a", np.array([0])).uniform((8,), "x"),
        Draws.of(0, "b", np.array([0])).uniform((8,), "x"),
        Draws.of(0, "a", np.array([1])).uniform((8,), "x"),
        Draws.of(0, "a", np.array([0])).uniform((8,), "y"),
        Draws.of(0, "a", np.array([0])).uniform((8,), "x", 0),
    ]
    assert all(not torch.isclose(base, other).any() for other in others)


def test_they_are_uniform_normal_and_independent():
    draws = Draws.of(0, "a", np.arange(64))
    uniform, normal = draws.uniform((4096,), "u").double(), draws.normal((4096,), "n").double()
    n = uniform.numel()
    assert 0 <= uniform.min() < uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 4 * (1 / 12 / n) ** 0.5
    assert abs(uniform.var() - 1 / 12) < 4 * (1 / 180 / n) ** 0.5
    assert abs(normal.mean()) < 4 / n**0.5
    assert abs(normal.var() - 1) < 4 * (2 / n) ** 0.5
    counts = np.histogram(uniform.numpy(), bins=256, range=(0, 1))[0]
    assert ((counts - n / 256) ** 2 / (n / 256)).sum() < 255 + 5 * (
        2 * 255
    ) ** 0.5  # χ² of 255 degrees of freedom
    correlation = torch.corrcoef(uniform - 0.5)
    assert (correlation - torch.eye(64)).abs().max() < 6 / 4096**0.5


@pytest.mark.parametrize("end", [1, 2, 7])
def test_integers_reach_every_value_and_no_other(end):
    assert set(Draws.of(0, "a", np.arange(4)).integers(end, (100,), "i").unique().tolist()) == set(
        range(end)
    )

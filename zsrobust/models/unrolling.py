"""Optimizations at test time: exact steps, which an attack can differentiate through."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention import SDPBackend, sdpa_kernel

from zsrobust.models.wrappers import bpda

#: A step: from a state and fixed tensors, such as the image, to the next state. The second argument
#: tells whether gradients of gradients are needed (`create_graph`).
Step = Callable[[tuple[Tensor, ...], bool], Tensor]


def optimized(step: Step, state: Tensor, *given: Tensor, steps: int, unroll: int = 0) -> Tensor:
    """Return the state after `steps` steps: step((state, *given), graph) is the next state.

    The last `unroll` steps can be differentiated. They keep their inputs only and run again in the
    backward pass, one at a time, so that memory does not grow with what a step computes.
    """
    for number in range(steps):
        if number < steps - unroll:
            with torch.no_grad():
                state = step((state, *given), False).detach()
        else:
            state = _Repeated.apply(step, state, *given)
    return state


def signs(gradient: Tensor) -> Tensor:
    """Return the signs of gradients (N, 3, S, S), with a useful gradient of their own.

    The sign's own is zero, which would end an unrolled optimization there. Its stand-in is the
    gradient divided by its mean size in the image, as large as the sign on average.
    """
    size = gradient.detach().abs().mean(dim=(1, 2, 3), keepdim=True)
    return bpda(gradient.sign(), gradient / size.clamp_min(torch.finfo(size.dtype).tiny))


class _Repeated(torch.autograd.Function):
    """A step whose graph is built in the backward pass."""

    @staticmethod
    def forward(ctx: Any, step: Step, *inputs: Tensor) -> Tensor:
        ctx.step = step
        ctx.save_for_backward(*inputs)
        return step(inputs, False).detach()

    @staticmethod
    @once_differentiable  # a second derivative would lack terms: it is an error
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[1:]
        # The step takes a gradient at the state, whether or not the attack asks for one.
        inputs = tuple(
            each.detach().requires_grad_(place == 0 or asked)
            for place, (each, asked) in enumerate(zip(ctx.saved_tensors, needed, strict=True))
        )
        # The fused kernels of attention have no second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            after = ctx.step(inputs, True)
            wanted = [each for each, asked in zip(inputs, needed, strict=True) if asked]
            found = iter(torch.autograd.grad(after, wanted, gradient, allow_unused=True))
        return None, *(next(found) if asked else None for asked in needed)

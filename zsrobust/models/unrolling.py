"""Optimizations at test time: exact steps, which an attack can differentiate through."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

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


class _Repeated(torch.autograd.Function):
    """A step whose graph is built in the backward pass."""

    @staticmethod
    def forward(ctx: Any, step: Step, *inputs: Tensor) -> Tensor:
        ctx.step = step
        ctx.save_for_backward(*inputs)
        return step(inputs, False).detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs = tuple(
            each.detach().requires_grad_(needed)
            for each, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        )
        with torch.enable_grad():
            after = ctx.step(inputs, True)
            wanted = [each for each in inputs if each.requires_grad]
            found = iter(torch.autograd.grad(after, wanted, gradient, allow_unused=True))
        return None, *(next(found) if each.requires_grad else None for each in inputs)

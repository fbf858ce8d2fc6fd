"""Functions of tensors as programs that ``torch.compile`` makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

PROGRAMS = 64
"""Of one function: every camera's batch size times every subset of three tasks."""

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R], device: torch.device) -> Callable[P, R]:
    """The same function; each input shape and set of tasks gets a program of its own, in up to minutes.

    The results allow several backward passes.

    Args:
        function: a module, or a function of tensors.
        device: where it runs.

    Raises:
        ValueError: for a CPU without a C++ compiler.
    """
    # Loading the compiler takes a second.
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    if device.type == "cpu":
        try:
            get_cpp_compiler()
        except InvalidCxxCompiler:
            raise ValueError(
                "torch.compile needs a C++ compiler on a CPU and finds none: install g++, or name one in CXX"
            ) from None
    # A backward pass would otherwise use up what the next one needs; it looks here, too, so this stays.
    torch._functorch.config.donated_buffer = False
    # Programs for any shape would be slower.
    program = torch.compile(function, dynamic=False)

    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        # Past torch's own limit of eight programs it would go back to eager without a word.
        with torch._dynamo.config.patch(recompile_limit=PROGRAMS, fail_on_recompile_limit_hit=True):
            return program(*args, **kwargs)

    return run

"""Which parameters the tasks share, read from the autograd graph of the network's outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pvt_mtl_perception.model.network import MultiTaskNetwork


@dataclass(frozen=True, eq=False)
class Division:
    """The trainable parameters by the tasks that reach them.

    Attributes:
        shared: those that the outputs of two tasks or more depend on, in the network's order.
        reached: for each task, the positions in ``shared`` that it depends on, ascending.
        own: for each task, the parameters that no other task depends on.
    """

    shared: tuple[nn.Parameter, ...]
    reached: Mapping[str, tuple[int, ...]]
    own: Mapping[str, tuple[nn.Parameter, ...]]

    def parameters_of(self, task: str) -> tuple[nn.Parameter, ...]:
        """All that a task depends on: what it shares, then its own."""
        return (*(self.shared[i] for i in self.reached[task]), *self.own[task])


def divide(parameters: list[nn.Parameter], outputs: Mapping[str, Any]) -> Division:
    """Divides parameters by the outputs that depend on them.

    Args:
        parameters: all of the network's, in its order; those without ``requires_grad`` are left out.
        outputs: for each task a tensor, or tensors nested in mappings and sequences.
    """
    users: dict[nn.Parameter, list[str]] = {p: [] for p in parameters if p.requires_grad}
    for task, output in outputs.items():
        for leaf in _leaves(list(_tensors(output))):
            if leaf in users:
                users[leaf].append(task)
    shared = [p for p, tasks in users.items() if len(tasks) > 1]
    return Division(
        shared=tuple(shared),
        reached={task: tuple(i for i, p in enumerate(shared) if task in users[p]) for task in outputs},
        own={task: tuple(p for p, tasks in users.items() if tasks == [task]) for task in outputs},
    )


def divide_parameters(network: MultiTaskNetwork) -> Division:
    """The division of a network, from a forward pass over one small image.

    The pass runs in evaluation mode: it draws no random numbers and changes no statistics.
    """
    modes = {module: module.training for module in network.modules()}
    image = next(network.parameters()).new_zeros(1, 3, 64, 64)
    try:
        network.eval()
        with torch.enable_grad():
            output = network(image)
    finally:
        for module, training in modes.items():
            module.training = training
    return divide(list(network.parameters()), {task: getattr(output, task) for task in network.tasks})


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _leaves(outputs: list[Tensor]) -> Iterator[Any]:
    """The leaf tensors that a graph accumulates gradients into."""
    stack = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen = set(stack)
    while stack:
        node = stack.pop()
        # Only the nodes that accumulate into a leaf have the attribute.
        if (variable := getattr(node, "variable", None)) is not None:
            yield variable
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                stack.append(following)

"""A LiteRT graph that is put together operator by operator; ``packing`` makes files of such.

Source of the operators and their options: LiteRT's schema, which ``ai_edge_litert`` brings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

SAME, VALID = 0, 1
"""The schema's numbers for windows that reach over the border, onto zeros, and that do not."""


@dataclass(frozen=True)
class Node:
    """A tensor of a graph."""

    index: int
    shape: tuple[int, ...]
    """As it lies in memory; of what is computed, the first dimension is the batch's, here 1."""
    dtype: str


@dataclass
class Operator:
    """One step of a graph. What it multiplies by may still be changed."""

    code: str
    inputs: list[Node]
    output: Node
    options: dict[str, Any]
    weights: Array | None = None
    """Of a convolution or a linear layer, output channels first; of a depthwise one, last."""
    bias: Array | None = None
    is_layer: bool = False
    """Whether the weights were learnt."""
    scales: Array | None = None
    """Of int8 weights, one per output channel."""
    more: tuple[Node, ...] = ()
    """Further outputs."""
    settled: bool = False
    """Whether something reads the output as it is now."""


@dataclass
class Graph:
    """Operators in order, for a batch of any size."""

    operators: list[Operator] = field(default_factory=list)
    tensors: list[Node] = field(default_factory=list)
    constants: dict[int, Array] = field(default_factory=dict)
    """By the tensor's index."""
    scales: dict[int, Array] = field(default_factory=dict)
    """Of int8 constants, one per row."""
    inputs: list[Node] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    """Of inputs and whatever else has one."""
    _makers: dict[int, Operator] = field(default_factory=dict)

    def input(self, name: str, shape: Sequence[int], dtype: str) -> Node:
        """What the graph is given.

        Args:
            name: For whoever runs it.
            shape: Of a batch of one.
            dtype: float32 or uint8.
        """
        node = self._new(shape, dtype)
        self.inputs.append(node)
        self.names[node.index] = name
        return node

    def constant(self, value: Array, scales: Array | None = None) -> Node:
        """A tensor that never changes.

        Args:
            value: float32, int32 or int8.
            scales: Of int8, one per row.
        """
        node = self._new(value.shape, str(value.dtype))
        self.constants[node.index] = value
        if scales is not None:
            self.scales[node.index] = scales
        return node

    def add(
        self,
        code: str,
        inputs: Sequence[Node],
        shape: Sequence[int],
        options: Mapping[str, Any] | None = None,
        *,
        dtype: str = "float32",
        weights: Array | None = None,
        bias: Array | None = None,
        unread: str | None = None,
    ) -> Node:
        """One more operator.

        Args:
            code: Its name in the schema, such as ``CONV_2D``.
            inputs: In the schema's order, without weights and bias.
            shape: Of the output.
            options: By the schema's names, ``fused`` for the activation.
            dtype: Of the output.
            weights: See ``Operator``.
            bias: (output channels,).
            unread: Type of a second output that the schema asks for.

        Returns:
            Its output.
        """
        output = self._new(shape, dtype)
        for node in inputs:
            self.settle(node)
        more = () if unread is None else (self._new(shape, unread),)
        operator = Operator(
            code, list(inputs), output, dict(options or {}), weights, bias, more=more
        )
        self.operators.append(operator)
        self._makers[output.index] = operator
        return output

    def branch(
        self,
        condition: Node,
        inputs: Sequence[Node],
        subgraphs: tuple[int, int],
        outputs: Sequence[tuple[tuple[int, ...], str]],
    ) -> list[Node]:
        """Run one of two subgraphs of the file.

        Args:
            condition: (1,) bool.
            inputs: Of both subgraphs.
            subgraphs: Their numbers: if the condition holds, and if not.
            outputs: Shape and type of each.

        Returns:
            Their outputs.
        """
        first, *more = (self._new(shape, dtype) for shape, dtype in outputs)
        options = {"thenSubgraphIndex": subgraphs[0], "elseSubgraphIndex": subgraphs[1]}
        everything = [condition, *inputs]
        self.operators.append(Operator("IF", everything, first, options, more=tuple(more)))
        for node in everything:
            self.settle(node)
        return [first, *more]

    def maker(self, node: Node) -> Operator | None:
        """The operator that computes a tensor; None of an input, or if others read it already."""
        made = self._makers.get(node.index)
        return made if made is not None and not made.settled else None

    def made_by(self, node: Node) -> Operator | None:
        """The operator that computes a tensor; None of an input."""
        return self._makers.get(node.index)

    def remade(self, step: Operator, shape: Sequence[int]) -> Node:
        """Give an operator that nothing reads yet an output of another shape."""
        del self._makers[step.output.index]
        step.output = self._new(shape, step.output.dtype)
        self._makers[step.output.index] = step
        return step.output

    def settle(self, node: Node) -> None:
        """From now on a tensor stays what it is."""
        if node.index in self._makers:
            self._makers[node.index].settled = True

    def is_input(self, node: Node) -> bool:
        """Whether a tensor is given."""
        return node in self.inputs

    def copied(self, node: Node) -> Node:
        """The same numbers as another tensor."""
        shape = self.constant(np.array([-1, *node.shape[1:]], np.int32))
        return self.add("RESHAPE", [node, shape], node.shape, dtype=node.dtype)

    def _new(self, shape: Sequence[int], dtype: str) -> Node:
        node = Node(len(self.tensors), tuple(int(size) for size in shape), dtype)
        self.tensors.append(node)
        return node

"""Any network as a chain: traced, and cut after named submodules.

A cut must be crossed by one tensor. The parts share the network's own parameters, under its own
names, and compute what it computes in eval mode, bit for bit.

Source: Reed et al., "torch.fx: Practical Program Capture and Transformation for Deep Learning in
Python" (2022).
"""

from __future__ import annotations

import difflib
import inspect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx._symbolic_trace import _assert_is_none
from torch.utils.flop_counter import FlopCounterMode

from ztw_rl.core.cost import counted
from ztw_rl.errors import UserError


@dataclass(frozen=True)
class Cut:
    """A network as a chain of blocks and a head."""

    blocks: tuple[nn.Module, ...]
    """One before each place, in order."""
    head: nn.Module
    """From the last place's features to (B, C) logits."""
    places: tuple[str, ...]
    """Names of the submodules that it is cut after."""
    shapes: tuple[tuple[int, ...], ...]
    """Of one sample's features at each place, without the batch."""
    n_classes: int
    """C."""


def cut(network: nn.Module, example: Tensor, places: Sequence[str] | int) -> Cut:
    """Cut a network after some of its submodules.

    Example:
        >>> found = cut(network, torch.zeros(1, 3, 224, 224), 3)  # a ResNet-18
        >>> found.places
        ('layer1.0', 'layer2', 'layer3')

    Args:
        network: From (B, …) to (B, C) logits. It is put into eval mode, and shares its parameters
            with the parts.
        example: (B, …), any input of the right shape and type, where the network is.
        places: Names of submodules, as ``network.named_modules()`` has them; or how many places
            are wanted, which then divide the operations most nearly equally: behind submodules that
            hold others, not inside of what occurs several times, where there are such.

    Raises:
        UserError: The network cannot be traced, does not give (B, C), or cannot be cut there.
    """
    network.eval()
    graph, outputs = _traced(network)
    whole = _whole(network, example)
    if isinstance(places, int):
        names = _spread(network, graph, outputs, example, places)
    else:
        names = tuple(places)
    nodes = [_node(name, outputs) for name in names]
    *blocks, head = _parts(network, graph, nodes, names)
    shapes, logits = _measured(blocks, head, names, example)
    if not torch.equal(logits, whole):
        raise UserError(
            "the network does something else when torch.fx has traced it; take what depends on its "
            "input's values out of it"
        )
    return Cut(tuple(blocks), head, names, shapes, logits.shape[1])


def chain(blocks: Sequence[nn.Module], head: nn.Module, example: Tensor) -> Cut:
    """A network that comes in parts, such as one that cannot be traced.

    Args:
        blocks: In order, each from the features of the one before; a place lies after each. They
            are put into eval mode, and so is the head.
        head: From the last block's features to (B, C) logits.
        example: (B, …), any input of the right shape and type, where the parts are.

    Raises:
        UserError: There is no block, or one of them or the head gives something else.
    """
    if not blocks:
        raise UserError("there are no blocks, so there is no place for an exit")
    for part in (*blocks, head):
        part.eval()
    _whole(nn.Sequential(*blocks, head), example)
    names = tuple(f"block {number}" for number in range(len(blocks)))
    shapes, logits = _measured(blocks, head, names, example)
    return Cut(tuple(blocks), head, names, shapes, logits.shape[1])


@torch.no_grad()
def _measured(
    blocks: Sequence[nn.Module], head: nn.Module, names: Sequence[str], example: Tensor
) -> tuple[tuple[tuple[int, ...], ...], Tensor]:
    """Shape of one sample's features after each block, and (B, C) logits."""
    shapes: list[tuple[int, ...]] = []
    x = example
    for name, block in zip(names, blocks, strict=True):
        x = block(x)
        if not isinstance(x, Tensor) or x.ndim < 2 or len(x) != len(example):
            raise UserError(f"'{name}' gives no tensor with a row for each sample; cut elsewhere")
        shapes.append(tuple(x.shape[1:]))
    return tuple(shapes), head(x)


@torch.no_grad()
def _whole(network: nn.Module, example: Tensor) -> Tensor:
    """(B, C) logits of the network as it came.

    Raises:
        UserError: It fails, or gives something else.
    """
    try:
        logits = network(example)
    # It is the user's code, which may fail in any way.
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"the network cannot read the example, {example.dtype} {tuple(example.shape)} "
            f"({reason}); give what it takes, on its device"
        ) from None
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(example):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"the network must give (B, C) logits, not {found}")
    return logits


PLAIN = (NoneType, bool, int, float, str)
"""Types of defaults that a trace can be made for."""
CHECKS = (torch._assert, _assert_is_none)
"""What a graph only makes sure of."""


class _Tracer(fx.Tracer):
    """Remembers which node each submodule's output is."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[str, list[fx.Node | None]] = {}

    def call_module(
        self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        result = super().call_module(m, forward, args, kwargs)
        node = result.node if isinstance(result, fx.Proxy) else None
        self.outputs.setdefault(self.path_of_module(m), []).append(node)
        return result


def _traced(network: nn.Module) -> tuple[fx.Graph, dict[str, list[fx.Node | None]]]:
    """The network's graph, and the output of each call of each submodule."""
    tracer = _Tracer()
    try:
        graph = tracer.trace(network, _defaults(network))
    # Tracing runs the user's code on stand-ins for tensors, which may fail in any way.
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"torch.fx cannot trace the network ({reason}); take that out of it"
        ) from None
    # Checks of shapes would tie a part to what lies before it; those of defaults, to what is not
    # passed on.
    for node in reversed(graph.nodes):
        if node.target in CHECKS:
            graph.erase_node(node)
    graph = fx.GraphModule(network, graph).graph
    graph.eliminate_dead_code()
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    for node in inputs[1:]:
        if node.users:
            raise UserError(f"the network takes more than one input: '{node.name}'")
    return graph, tracer.outputs


def _defaults(network: nn.Module) -> dict[str, Any]:
    """What the network takes for inputs beside the first, where it says so itself."""
    inputs = list(inspect.signature(network.forward).parameters.values())
    return {p.name: p.default for p in inputs[1:] if isinstance(p.default, PLAIN)}


def _node(name: str, outputs: dict[str, list[fx.Node | None]]) -> fx.Node:
    """The output of a submodule."""
    if name not in outputs:
        near = difflib.get_close_matches(name, outputs, n=1, cutoff=0.0)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UserError(f"the network calls no submodule '{name}'{hint}")
    calls = outputs[name]
    if len(calls) > 1:
        raise UserError(f"'{name}' is called {len(calls)} times, so it is no place to cut at")
    if calls[0] is None:
        raise UserError(f"'{name}' gives no single tensor, so it is no place to cut at")
    return calls[0]


def _ancestors(node: fx.Node) -> set[fx.Node]:
    """The node, and all that it is computed from."""
    found: set[fx.Node] = set()
    left = [node]
    while left:
        here = left.pop()
        if here not in found:
            found.add(here)
            left += here.all_input_nodes
    return found


def _crossing(before: set[fx.Node], node: fx.Node) -> list[fx.Node]:
    """What else than ``node`` is computed before a cut and read behind it; parameters may be."""
    return [
        other
        for other in before
        if other is not node
        and other.op != "get_attr"
        and any(user not in before for user in other.users)
    ]


def _parts(
    network: nn.Module, graph: fx.Graph, nodes: Sequence[fx.Node], names: Sequence[str]
) -> list[fx.GraphModule]:
    """One module for each place, and the rest."""
    (output,) = (node for node in graph.nodes if node.op == "output")
    first = next(node for node in graph.nodes if node.op == "placeholder")
    parts: list[fx.GraphModule] = []
    entry, done = first, {first}
    for name, node in zip((*names, "output"), (*nodes, output), strict=True):
        before = _ancestors(node)
        if entry not in before or node is entry:
            raise UserError(f"'{name}' does not come after '{names[len(parts) - 1]}'")
        others = [other.name for other in _crossing(before, node)]
        if node is not output and others:
            shown = ", ".join(sorted(others)[:3])
            raise UserError(
                f"a cut after '{name}' is crossed by more than its output: {shown}; cut elsewhere"
            )
        made = fx.Graph()
        copies = {entry: made.placeholder("x")}
        for old in graph.nodes:
            own = old in before and old not in done
            # What only reads parameters is needed again wherever it is used.
            read = any(user in before and user not in done for user in old.users)
            if own or (old.op == "get_attr" and read):
                copies[old] = made.node_copy(old, copies.__getitem__)
        if node is not output:
            made.output(copies[node])
        parts.append(fx.GraphModule(network, made))
        entry, done = node, done | before
    return parts


class _Meter(fx.Interpreter):
    """Runs a graph and says how many operations lie before each node's end."""

    def __init__(self, module: fx.GraphModule, counter: FlopCounterMode) -> None:
        super().__init__(module)
        self._counter = counter
        self.until: dict[str, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.until[n.name] = int(self._counter.get_total_flops())
        return result


def _around(name: str) -> list[str]:
    """Names of the submodules that hold a submodule."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def _spread(
    network: nn.Module,
    graph: fx.Graph,
    outputs: dict[str, list[fx.Node | None]],
    example: Tensor,
    n: int,
) -> tuple[str, ...]:
    """The n places that divide the operations most nearly equally."""
    if n < 1:
        raise UserError(f"exits must be at least 1, not {n}")
    with counted() as counter:
        meter = _Meter(fx.GraphModule(network, graph), counter)
        meter.run(example)
    total = int(counter.get_total_flops())
    modules = dict(network.named_modules())
    candidates: dict[fx.Node, str] = {}
    for name, calls in outputs.items():
        node = calls[0]
        if len(calls) == 1 and node is not None and not _crossing(_ancestors(node), node):
            # Of several names of one tensor the outermost.
            candidates[node] = min(candidates.get(node, name), name, key=len)
    ends = {name: meter.until[node.name] for node, name in candidates.items()}
    inside = {name: end for name, end in ends.items() if 0 < end < total}
    kinds = Counter(type(module) for module in modules.values() if any(module.children()))
    repeated = {
        name
        for name, module in modules.items()
        if kinds[type(module)] > 1 and not isinstance(module, nn.Sequential)
    }
    holding = {name for name in inside if any(modules[name].children())}
    boundaries = {name for name in holding if not repeated & set(_around(name))}
    chosen: list[str] = []
    for pool in (boundaries, holding, set(inside)):
        chosen = []
        for k in range(1, n + 1):
            free = sorted(
                (name for name in pool if not chosen or inside[name] > inside[chosen[-1]]),
                key=lambda name: (inside[name], len(name)),
            )
            if not free:
                break
            chosen.append(min(free, key=lambda name: abs(inside[name] - k * total / (n + 1))))
        if len(chosen) == n:
            return tuple(chosen)
    raise UserError(
        f"the network has {len(chosen)} places to cut at, not {n}; ask for fewer exits or name them"
    )

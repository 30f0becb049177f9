"""Any network as a chain: traced, and cut after named submodules.

A cut must be crossed by one tensor. The parts share the network's own parameters, under its own
names, and compute what it computes in eval mode, bit for bit.

Source: Reed et al., "torch.fx: Practical Program Capture and Transformation for Deep Learning in
Python" (2022).
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

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
    if isinstance(places, int):
        names = _spread(network, graph, outputs, example, places)
    else:
        names = tuple(places)
    nodes = [_node(name, outputs) for name in names]
    blocks, shapes, x = [], [], example
    parts = _parts(network, graph, nodes, names)
    with torch.no_grad():
        for name, block in zip(names, parts[:-1], strict=True):
            x = block(x)
            if not isinstance(x, Tensor) or x.ndim < 2 or len(x) != len(example):
                raise UserError(
                    f"'{name}' gives no tensor with a row for each sample; cut elsewhere"
                )
            blocks.append(block)
            shapes.append(tuple(x.shape[1:]))
        logits, whole = parts[-1](x), network(example)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(example):
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"the network must give (B, C) logits, not {found}")
    if not torch.equal(logits, whole):
        raise UserError(
            "the network does something else when torch.fx has traced it; take what depends on its "
            "input's values out of it"
        )
    return Cut(tuple(blocks), parts[-1], names, tuple(shapes), logits.shape[1])


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
        graph = tracer.trace(network)
    # Tracing runs the user's code on stand-ins for tensors, which may fail in any way.
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"torch.fx cannot trace the network ({reason}); take that out of it"
        ) from None
    # Checks of shapes would tie a part to what lies before it.
    for node in reversed(graph.nodes):
        if node.target is torch._assert:
            graph.erase_node(node)
    graph = fx.GraphModule(network, graph).graph
    graph.eliminate_dead_code()
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    # Further inputs that have defaults are taken as such.
    for node in inputs[1:]:
        if node.users:
            raise UserError(f"the network takes more than one input: '{node.name}'")
    return graph, tracer.outputs


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
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
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

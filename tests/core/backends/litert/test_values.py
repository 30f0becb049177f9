from __future__ import annotations

import numpy as np

from ztw_rl.core.backends.litert.graph import Graph
from ztw_rl.core.backends.litert.values import Columns, Maps, Value, as_blocks, flattened


def test_the_order_of_flattened_maps():
    """Two channels of 1×2: memory has (0, 0), (1, 0), (0, 1), (1, 1) of channel and column."""
    graph = Graph()
    maps = Value(
        graph.input("x", (1, 1, 2, 2), "float32"), (1, 2, 1, 2), Maps(), np.array([3.0, 5])
    )
    flat = flattened(graph, maps)
    assert isinstance(flat.layout, Columns)
    assert flat.layout.order.tolist() == [0, 2, 1, 3]
    assert flat.scale.tolist() == [3, 5, 3, 5]
    assert [step.code for step in graph.operators] == ["RESHAPE"]


def test_blocks_are_made_once():
    graph = Graph()
    x = Value(graph.input("x", (1, 4, 84, 84), "uint8"), (1, 4, 84, 84))
    blocks = as_blocks(graph, x, 4)
    assert blocks.node.shape == (1, 21, 21, 64)
    assert as_blocks(graph, blocks, 4) is blocks
    assert [step.code for step in graph.operators] == ["RESHAPE", "TRANSPOSE", "RESHAPE"]

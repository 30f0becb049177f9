"""Where a call of ONNX Runtime spends its time, node by node, as its own profiler says.

The profiler counts in whole microseconds and slows small nodes down, so sums exceed what the same
calls take without it: the shares are what to read.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ztw_rl.deployed import OUTPUTS

PRODUCTS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul")
N_CALLS = 300


@dataclass(frozen=True)
class Profile:
    """Median microseconds of one exit's graph, for one call."""

    backbone: float
    """Convolutions and matrix products that the next exit builds on; of the last exit, all."""
    classifier: float
    """The same of the internal classifier."""
    small: float
    """Everything else, such as pooling, concatenation, softmax and changes of layout."""
    n_small: int
    """Nodes of that kind."""


def profile(
    graph: bytes, feed: Mapping[str, npt.NDArray[Any]]
) -> tuple[Profile, dict[str, npt.NDArray[Any]]]:
    """Run a graph on one thread.

    Args:
        graph: One exit's, serialised; see ``ztw_rl.deploy``.
        feed: Its inputs.

    Returns:
        Its times, and its outputs by name.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "onnx")
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        for _ in range(N_CALLS):
            outputs = session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    names = [output.name for output in session.get_outputs()]
    return _summed(events, is_last=OUTPUTS[0] not in names), dict(zip(names, outputs, strict=True))


def _summed(events: list[dict[str, Any]], is_last: bool) -> Profile:
    durations: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            durations[event["name"], event["args"]["op_name"]].append(event["dur"])
    backbone: list[float] = []
    classifier: list[float] = []
    small: list[float] = []
    for (name, kind), times in durations.items():
        if kind not in PRODUCTS:
            group = small
        elif is_last or name.startswith(OUTPUTS[0]):
            group = backbone
        else:
            group = classifier
        group.append(statistics.median(times))
    return Profile(sum(backbone), sum(classifier), sum(small), len(small))


def profile_exits(graphs: tuple[bytes, ...], x: npt.NDArray[np.uint8]) -> list[Profile]:
    """Every exit's graph in turn, each on the outputs of the one before.

    Args:
        graphs: One per exit.
        x: (1, …), one observation.
    """
    found = []
    feed: dict[str, npt.NDArray[Any]] = {"features": x}
    for graph in graphs:
        here, outputs = profile(graph, feed)
        found.append(here)
        if OUTPUTS[0] in outputs:
            feed = {"features": outputs[OUTPUTS[0]], "logits": outputs[OUTPUTS[1]]}
            if len(found) == len(graphs) - 1:
                # NatureCNN's last exit is outside the ensemble and reads no logits.
                del feed["logits"]
    return found

"""A backend on OpenVINO, from ONNX graphs, to be compared with; it is no dependency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
from torch import Tensor

from ztw_rl import deployed
from ztw_rl.core.backends.onnx import export_graphs
from ztw_rl.core.backends.sessions import SessionsBackend, interface
from ztw_rl.core.model import EarlyExitModel


class OpenVinoSession:
    """An ONNX graph as a session; see ``deployed.Session``.

    Args:
        graph: Serialised.
        n_threads: For the work inside a layer.
    """

    def __init__(self, graph: bytes, n_threads: int) -> None:
        import openvino

        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": n_threads, "PERFORMANCE_HINT": "LATENCY"}
        # Else it rounds to bfloat16 where the processor can.
        settings["INFERENCE_PRECISION_HINT"] = "f32"
        compiled = core.compile_model(core.read_model(graph), "CPU", settings)
        self._request = compiled.create_infer_request()

    def run(
        self, output_names: Sequence[str], input_feed: Mapping[str, npt.NDArray[Any]]
    ) -> list[npt.NDArray[Any]]:
        """Compute the named outputs."""
        self._request.infer(dict(input_feed), share_inputs=True)
        # Copied, since the next call writes into the same memory.
        return [self._request.get_tensor(name).data.copy() for name in output_names]


def openvino(model: EarlyExitModel, x: Tensor, n_threads: int = 1) -> SessionsBackend:
    """Export a model and run it at once, without a file.

    Args:
        model: In eval mode, on the CPU.
        x: (1, …), any input of the right shape and type.
        n_threads: For the work inside a layer.

    Raises:
        UserError: A package that exports is missing.
    """
    graphs = export_graphs(model, x)
    sessions = [OpenVinoSession(graph, n_threads) for graph in graphs.exits]
    return SessionsBackend(
        "OpenVINO",
        deployed.DeployedModel(sessions, interface(model, x)),
        OpenVinoSession(graphs.backbone, n_threads),
    )

"""Segments compiled ahead of time by AOTInductor, and what runs them without the model."""

from __future__ import annotations

import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy.typing as npt
import torch
from torch import Tensor, nn

from ztw_rl import deploy
from ztw_rl.core.backends.backbone import Backbone
from ztw_rl.core.backends.eager import Segments, SegmentsBackend, require_compiler
from ztw_rl.core.model import EarlyExitModel, Segment, SegmentOutput
from ztw_rl.core.runtime import Runtime
from ztw_rl.decision import Decision, Rule
from ztw_rl.errors import UserError

KIND = "aoti"
LARGEST_BATCH = 2**16


def package_file(m: int) -> str:
    """Name of exit m's compiled segment inside the artefact."""
    return f"exit_{m}.pt2"


def torch_version() -> str:
    """Major and minor version, such as ``2.13``: compiled code runs with the same one."""
    return ".".join(torch.__version__.split(".")[:2])


class _Plain(nn.Module):
    """A segment whose output is a plain tuple, which the compiler can name in its package."""

    def __init__(self, segment: Segment) -> None:
        super().__init__()
        self.segment = segment

    def forward(self, features: Tensor, logits: Tensor | None = None) -> tuple[Tensor, ...]:
        """See ``Segment.forward``."""
        return tuple(self.segment(features, logits))


@torch.no_grad()
def compile_segments(model: EarlyExitModel, x: Tensor) -> tuple[bytes, ...]:
    """Compile each segment for any batch size; takes about ten seconds each.

    Args:
        model: In eval mode, on the CPU.
        x: (1, …), any input of the right shape and type.

    Raises:
        UserError: There is no C++ compiler.
    """
    require_compiler("use the format onnx")
    # A batch of one would be taken for a constant.
    inputs: tuple[Tensor, ...] = (torch.cat([x, x]),)
    packages = []
    for m, own in enumerate(model.answering()):
        segment = _Plain(own).eval()
        packages.append(_package(segment, inputs, package_file(m)))
        inputs = segment(*inputs)[:2]
    return tuple(packages)


def _package(module: nn.Module, inputs: tuple[Tensor, ...], name: str) -> bytes:
    """A module compiled for any batch size."""
    from torch import _inductor

    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # The compiler warns of its own internals.
        warnings.simplefilter("ignore")
        program = torch.export.export(
            module, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs)
        )
        path = _inductor.aoti_compile_and_package(
            program,
            package_path=str(Path(folder) / name),
            # Else the number of threads here would be compiled in.
            inductor_configs={"cpp.dynamic_threads": True},
        )
        return Path(path).read_bytes()


@torch.no_grad()
def aoti(model: EarlyExitModel, x: Tensor) -> SegmentsBackend:
    """Compile a model and run it at once, without a file.

    Args:
        model: In eval mode, on the CPU.
        x: (1, …), any input of the right shape and type.

    Raises:
        UserError: There is no C++ compiler.
    """
    from torch._inductor import aoti_load_package

    packages = [*compile_segments(model, x)]
    packages.append(_package(Backbone(model), (torch.cat([x, x]),), "backbone.pt2"))
    *segments, backbone = (aoti_load_package(io.BytesIO(package)) for package in packages)
    return SegmentsBackend("AOTInductor", [_named(segment) for segment in segments], backbone)


class AotiModel:
    """An exported file of the format aoti.

    Args:
        segments: One per exit, see ``model.Segment``; for batches of at least one.
        metadata: What ``metadata.json`` holds.
    """

    def __init__(
        self, segments: Sequence[Callable[..., Sequence[Tensor]]], metadata: Mapping[str, Any]
    ) -> None:
        self.metadata = metadata
        self.n_exits = len(segments)
        self._segments = Segments([_named(segment) for segment in segments])
        dtype = cast("torch.dtype", getattr(torch, metadata["input_dtype"]))
        self._example = torch.zeros(1, *metadata["input_shape"], dtype=dtype)
        self.rule: Rule = metadata.get("rule", "confidence")
        self._proposed = self._runtime(metadata["thresholds"])

    def predict(self, x: Tensor, threshold: npt.ArrayLike | None = None) -> Decision:
        """Answer a batch; samples that have left are computed no further.

        Args:
            x: (B, …), with the shape and type that the metadata name.
            threshold: τ for all ICs, or E−1 of them; by default those in the metadata.

        Raises:
            UserError: ``x`` or the thresholds don't fit.
        """
        runtime = self._proposed
        if threshold is not None:
            runtime = self._runtime(threshold)
        if len(x):
            return runtime.predict(x)
        # Compiled code takes no empty batch.
        one = runtime.predict(torch.cat([x, x.new_zeros(1, *x.shape[1:])]))
        return Decision(one.labels[:0], one.exits[:0], one.confidences[:0], one.log_probs[:0])

    def _runtime(self, threshold: npt.ArrayLike) -> Runtime:
        return Runtime(self._segments, self._example, threshold, self.rule)


def _named(segment: Callable[..., Sequence[Tensor]]) -> Callable[..., SegmentOutput]:
    def run(features: Tensor, logits: Tensor | None) -> SegmentOutput:
        outputs = segment(features) if logits is None else segment(features, logits)
        # Files of former versions have no signal beside the confidence.
        features, logits, log_probs, confidence = outputs[:4]
        return SegmentOutput(features, logits, log_probs, confidence, outputs[-1])

    return run


def load(path: str | Path) -> AotiModel:
    """Read an artefact. It holds machine code, so read only what you trust.

    Raises:
        UserError: The file is missing, damaged, no such artefact, or made with another PyTorch.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            metadata = json.loads(archive.read(deploy.METADATA_FILE))
            if metadata["format"] != deploy.FORMAT or metadata["kind"] != KIND:
                raise UserError(f"{path} is no AOTInductor artefact; export it again")
            if metadata["torch"] != torch_version():
                raise UserError(
                    f"{path} was compiled with PyTorch {metadata['torch']}, and this is "
                    f"{torch_version()}; export it again"
                )
            packages = [archive.read(package_file(m)) for m in range(metadata["n_exits"])]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; make it with: ztw-rl export") from None
    except deploy.UNREADABLE as error:
        raise UserError(f"{path} is damaged ({error}); export it again") from None
    from torch._inductor import aoti_load_package

    try:
        segments = [aoti_load_package(io.BytesIO(package)) for package in packages]
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be run here ({reason}); export it again") from None
    try:
        return AotiModel(segments, metadata)
    except (UserError, KeyError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        where = deploy.METADATA_FILE
        raise UserError(f"{path} is damaged ({where}: {error}); export it again") from None

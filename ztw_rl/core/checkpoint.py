"""Checkpoints, weights and their fingerprints: safetensors for tensors, JSON for all else."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ztw_rl.core.files import load_json, save_json, write_atomically
from ztw_rl.errors import UserError
from ztw_rl.settings import parse_stored

T = TypeVar("T")

STATE = "state.json"
"""A checkpoint's counters."""


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None
) -> None:
    """Write named tensors as safetensors, atomically.

    Args:
        path: The file, ``*.safetensors``.
        tensors: Anything ``state_dict`` gives.
        dtype: Floating-point tensors are stored in this type; their own by default.

    Raises:
        UserError: It cannot be written.
    """
    stored = {
        name: (t.to(dtype) if dtype is not None and t.is_floating_point() else t)
        .detach()
        .cpu()
        .contiguous()
        .clone()
        for name, t in tensors.items()
    }

    def write(temporary: Path) -> None:
        try:
            save_file(stored, temporary)
        except SafetensorError as error:
            raise OSError(str(error)) from None

    write_atomically(path, write)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU.

    Raises:
        UserError: The file is missing, truncated, or of another format.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; is its folder complete?") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); restore or delete it") from None
    return tensors


def load_weights(module: nn.Module, path: Path, misfit: str) -> None:
    """Put a file's tensors into a module that has exactly these.

    Args:
        module: Where they go, by name.
        path: Written by ``save_tensors``.
        misfit: What is said of ``path`` if the tensors are others.

    Raises:
        UserError: The file is missing or damaged, or does not fit.
    """
    try:
        module.load_state_dict(load_tensors(path))
    except RuntimeError:
        raise UserError(f"{path} {misfit}") from None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser whose state is tensors only, such as Adam's moments."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": t for i, entry in state.items() for name, t in entry.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what ``optimizer_tensors`` gave; learning rates stay as the optimiser has them.

    Moments get their parameter's memory layout, which files do not keep: fused optimisers take
    it for granted.

    Raises:
        UserError: They are another network's.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    # A parameter that has had no gradient yet has no state, so fewer than all may be there.
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)] if index in map(str, range(len(parameters))) else None
        if parameter is None or (key != "step" and tensor.shape != parameter.shape):
            raise UserError("optimizer.safetensors in the checkpoint belongs to another network")
        if key != "step":
            tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


KEPT_CHECKPOINTS = 2


def checkpoints(run_dir: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    steps = {p: p.name.removeprefix("step_") for p in (run_dir / "checkpoints").glob("step_*")}
    return sorted((p for p in steps if steps[p].isdigit()), key=lambda p: int(steps[p]))


def newest_checkpoint(run_dir: Path) -> Path:
    """The newest complete checkpoint of a run.

    Raises:
        UserError: There is none.
    """
    found = checkpoints(run_dir)
    if not found:
        raise UserError(f"{run_dir} has no checkpoint yet; begin again, or wait for the first")
    return found[-1]


def save_checkpoint(
    run_dir: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Any
) -> Path:
    """Write tensors and counters as one folder that appears all at once; older ones are pruned.

    Args:
        run_dir: The run.
        step: Names the checkpoint, and orders it among the others.
        tensors: File stem, such as ``optimizer``, to named tensors.
        state: A dataclass of counters; ``load_state`` gives it back.

    Returns:
        The folder, ``run_dir/checkpoints/step_<step>``.
    """
    target = run_dir / "checkpoints" / f"step_{step:09d}"
    if not target.exists():
        partial = target.with_name(f".{target.name}")
        shutil.rmtree(partial, ignore_errors=True)
        for stem, named in tensors.items():
            save_tensors(partial / f"{stem}.safetensors", named)
        save_json(partial / STATE, asdict(state))
        partial.rename(target)
    for old in checkpoints(run_dir)[:-KEPT_CHECKPOINTS]:
        shutil.rmtree(old)
    return target


def save_training(
    run_dir: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, state: Any
) -> Path:
    """A checkpoint of a module and its optimiser; see ``save_checkpoint``."""
    tensors = {"model": module.state_dict(), "optimizer": optimizer_tensors(optimizer)}
    return save_checkpoint(run_dir, step, tensors, state)


def load_training(checkpoint: Path, module: nn.Module, misfit: str) -> dict[str, Tensor]:
    """Put what ``save_training`` wrote into a module.

    Args:
        checkpoint: The folder.
        module: Where the weights go.
        misfit: What is said of their file if they are another network's.

    Returns:
        The optimiser's state, for ``load_optimizer_tensors``.

    Raises:
        UserError: A file is missing or damaged, or does not fit.
    """
    load_weights(module, checkpoint / "model.safetensors", misfit)
    return load_tensors(checkpoint / "optimizer.safetensors")


def load_state(kind: type[T], checkpoint: Path) -> T:
    """The counters of a checkpoint, as the dataclass that ``save_checkpoint`` was given.

    Raises:
        UserError: The file is missing or damaged, or holds something else.
    """
    path = checkpoint / STATE
    return parse_stored(kind, load_json(path), path)


N_DIGITS = 16
"""Hexadecimal digits: 64 bits, enough for weights that nobody forges."""


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """A digest of named tensors.

    Floating-point numbers count as rounded to halves, which is how agents are stored, so that
    weights have one fingerprint before and after.

    Args:
        tensors: Anything ``state_dict`` gives, on any device and in any memory format.

    Returns:
        Hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float16)
        values = tensor.contiguous().numpy()
        little_endian = values.astype(values.dtype.newbyteorder("<"))
        digest.update(f"{name} {values.dtype.name} {tuple(values.shape)}\n".encode())
        digest.update(little_endian.tobytes())
    return digest.hexdigest()[:N_DIGITS]

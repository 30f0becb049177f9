"""How training steps run: in this process alone, or in several through accelerate."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ztw_rl.core.device import resolve_device
from ztw_rl.errors import UserError
from ztw_rl.supervised.config import Precision
from ztw_rl.supervised.data.source import Shard


class Engine(Protocol):
    """What training needs to know of processes."""

    device: torch.device
    shard: Shard
    """This process's number and the number of all."""

    def prepare(self, module: nn.Module) -> nn.Module:
        """The module, its gradients averaged over the processes in the backward pass."""
        ...

    def share(self, value: Any) -> Any:
        """The first process's ``value``, in every process."""
        ...

    def any_stopped(self, stopped: bool) -> bool:
        """Whether the user stopped any process."""
        ...


class SingleProcess:
    """No other processes.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ….

    Raises:
        UserError: This machine has no such device.
    """

    def __init__(self, device: str) -> None:
        self.device = resolve_device(device)
        self.shard = Shard()

    def prepare(self, module: nn.Module) -> nn.Module:
        """See ``Engine``."""
        return module

    def share(self, value: Any) -> Any:
        """See ``Engine``."""
        return value

    def any_stopped(self, stopped: bool) -> bool:
        """See ``Engine``."""
        return stopped


class SeveralProcesses:
    """One of the processes that ``torchrun`` started; accelerate connects them.

    Args:
        device: ``cpu`` for gloo; ``cuda`` for the process's own GPU; ``auto``.

    Raises:
        UserError: accelerate is not installed, this machine has no such device or too few GPUs,
            or ``device`` is a single GPU.
    """

    def __init__(self, device: str) -> None:
        requested = resolve_device(device)
        if device.startswith("cuda:"):
            raise UserError(
                f"--device {device} is one GPU, but each process takes its own; use --device cuda "
                "and choose GPUs with CUDA_VISIBLE_DEVICES"
            )
        if requested.type == "cuda":
            resolve_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        try:
            from accelerate import Accelerator
            from accelerate.utils import DistributedDataParallelKwargs
        except ModuleNotFoundError:
            raise UserError(
                "accelerate is needed for several processes; "
                "install it with: pip install 'ztw-rl[distributed]'"
            ) from None
        # An IC whose pooling has nothing to do leaves its mixing weight out of the loss.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self._accelerator = Accelerator(cpu=requested.type == "cpu", kwargs_handlers=[unused])
        self.device = self._accelerator.device
        self.shard = Shard(self._accelerator.process_index, self._accelerator.num_processes)

    def prepare(self, module: nn.Module) -> nn.Module:
        """See ``Engine``."""
        prepared: nn.Module = self._accelerator.prepare_model(module)
        return prepared

    def share(self, value: Any) -> Any:
        """See ``Engine``."""
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def any_stopped(self, stopped: bool) -> bool:
        """See ``Engine``."""
        flag = torch.tensor(float(stopped), device=self.device)
        total: Tensor = self._accelerator.reduce(flag, reduction="sum")
        return bool(total.item() > 0)


def make_engine(device: str) -> Engine:
    """The engine that suits how the program was started: alone, or by ``torchrun``.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ….

    Raises:
        UserError: This machine has no such device, or accelerate is missing.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return SeveralProcesses(device) if several else SingleProcess(device)


def arithmetic(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which a forward pass computes in ``precision``."""
    enabled = precision == "bfloat16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)

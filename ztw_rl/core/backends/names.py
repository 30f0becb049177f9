"""What backends are called; imports nothing heavy."""

from __future__ import annotations

from typing import Literal

BackendName = Literal["eager", "compiled", "onnx", "litert"]
ON_CPU: tuple[BackendName, ...] = ("onnx", "litert")
"""Those that run on the CPU alone."""

from __future__ import annotations

import re

import pytest

from ztw_rl.core.backends.compiled import require_compiler
from ztw_rl.errors import UserError


def test_no_compiler(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UserError, match=r"no C\+\+ compiler .*; use another"):
        require_compiler("use another")


def test_the_compiler_is_the_one_that_pytorch_takes(monkeypatch):
    """The program named by CXX and no other; PyTorch looks for 'ccache g++' as it stands."""
    monkeypatch.setattr("shutil.which", lambda name: name if name in ("g++", "clang++") else None)
    for name in ("g++", "clang++"):
        monkeypatch.setenv("CXX", name)
        require_compiler("use another")
    for name in ("ccache g++", "icpx", ""):
        monkeypatch.setenv("CXX", name)
        with pytest.raises(UserError, match=rf"there is no C\+\+ compiler '{re.escape(name)}'"):
            require_compiler("use another")

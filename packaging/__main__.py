"""Run a program of this folder: python packaging macos.wheels --torch 2.4.1.

Its rooms are Python packages that use each other's modules, tools/cpu_torch.py and
what the build itself knows of PyTorch (cmake/).
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit(__doc__)
    folders = HERE, HERE.parent / "tools", HERE.parent / "cmake"
    sys.path[:1] = map(str, folders)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

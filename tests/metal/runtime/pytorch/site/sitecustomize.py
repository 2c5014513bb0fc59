"""Every Python with this folder on PYTHONPATH has MPS as soon as it imports torch.

So have pytest's workers and the children that tests start.
"""

from __future__ import annotations

import atexit
import importlib.abc
import importlib.machinery
import importlib.util
import os
import pathlib
import sys
import time
from collections.abc import Sequence
from types import ModuleType

# Seconds in which PyTorch's thread for the device lets a backward's graph go.
LAST_MOMENT = 0.1


class Finder(importlib.abc.MetaPathFinder):
    """Finds torch as ever, and has the stand-in loaded right after it.

    PyTorch looks for MPS once, maybe while what needs it is imported.
    """

    def find_spec(
        self,
        name: str,
        _path: Sequence[str] | None,
        _target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Return torch's spec with another loader's end, also to who only looks."""
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_load(module: ModuleType) -> None:
            execute(module)
            folder = pathlib.Path(os.environ["ORCHARD_LIBRARY_DIR"])
            (library,) = folder.glob("_C.torch*.so")
            module.ops.load_library(str(library))
            # As orchard_ops.sim.enable has it: glibc's pthread_exit unwinds PyTorch's
            # thread of the device, which aborts; a Mac's is assumed not to.
            atexit.register(time.sleep, LAST_MOMENT)

        spec.loader.exec_module = execute_and_load  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Finder())

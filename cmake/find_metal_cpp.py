"""Print the folder of Apple's metal-cpp headers, for CMake.

They come with the PyPI package mlx-metal, which the interpreter that builds may
have; a packager names a folder instead (-DORCHARD_METAL_CPP_DIR).
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path


def metal_cpp() -> Path:
    """Return the folder that holds ``Metal/Metal.hpp``."""
    try:
        files = importlib.metadata.files("mlx-metal") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.as_posix().endswith("metal_cpp/Metal/Metal.hpp"):
            return Path(str(file.locate())).resolve().parent.parent
    raise SystemExit(
        "no metal-cpp headers: pip install mlx-metal into the interpreter that "
        "builds, or pass -DORCHARD_METAL_CPP_DIR=<folder with Metal/Metal.hpp>"
    )


if __name__ == "__main__":
    print(metal_cpp().as_posix())

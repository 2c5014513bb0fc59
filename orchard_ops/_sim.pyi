"""The simulator alone: Metal kernels on NumPy arrays (csrc/device/sim/python)."""

from collections.abc import Sequence
from typing import Any

class Options:
    is_eager: bool
    has_foreign_layout: bool
    matrix_order: int

class Kernel:
    @property
    def entry(self) -> str: ...
    @property
    def info(self) -> dict[str, Any]: ...
    def dispatch(
        self,
        arguments: Sequence[Any],
        threadgroups: int | Sequence[int],
        threads_per_threadgroup: int | Sequence[int],
        threadgroup_bytes: int = 0,
        strict: bool | None = None,
        seed: int | None = None,
        timeout: float | None = None,
    ) -> dict[str, int]: ...

def accept(
    text: str, defines: dict[str, str], language_version: int
) -> tuple[int, list[str]]: ...
def compile(text: str, entry: str, defines: dict[str, str] = {}) -> Kernel: ...
def options() -> Options: ...
def set_compiler(command: str) -> None: ...

"""The simulator alone: Metal kernels on NumPy arrays (csrc/device/sim/python)."""

from collections.abc import Sequence
from typing import Any

CHECKS: tuple[str, ...]

class Options:
    seed: int
    strict: bool
    timeout: float
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
        arguments: Sequence[tuple[int, Any, int]],
        threadgroups: tuple[int, int, int],
        threads_per_threadgroup: tuple[int, int, int],
        threadgroup_bytes: Sequence[int],
        threads: tuple[int, int, int],
        strict: bool | None,
        allowed: Sequence[str],
        has_foreign_layout: bool | None,
        seed: int | None,
        timeout: float | None,
    ) -> dict[str, int]: ...

class Text:
    def accept(self, language_version: int) -> tuple[int, list[str]]: ...
    def compile(
        self, entry: str, constants: dict[str, bool | int | float]
    ) -> Kernel: ...
    def names(self) -> list[str]: ...

def options() -> Options: ...
def set_compiler(command: str) -> None: ...
def text(
    text: str,
    name: str,
    defines: Sequence[tuple[str, str]],
    include: Sequence[str],
) -> Text: ...

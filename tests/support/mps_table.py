"""The operators that MPS has in each PyTorch: what mps_operators.txt lists."""

from __future__ import annotations

from paths import TESTS

TABLE = TESTS / "metal" / "mps_operators.txt"


def minor(version: str) -> str:
    """Return ``"2.4"`` of ``"2.4.1+cu121"``."""
    return ".".join(version.split(".")[:2])


def lacking() -> tuple[set[str], dict[str, list[str]]]:
    """Return the minors of the wheels, and each operator's that lack it."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    wheels = next(line for line in lines if line.startswith("# wheels: ")).split()[2:]
    rows = (line.split() for line in lines if not line.startswith("#"))
    minors = {name: [minor(v) for v in versions] for name, *versions in rows}
    return {minor(v) for v in wheels}, minors


def operators(version: str) -> list[str]:
    """Return the names of the operators that a PyTorch has on MPS."""
    wheels, minors = lacking()
    assert minor(version) in wheels, f"no macOS wheel of PyTorch {version} is listed"
    return [name for name, without in minors.items() if minor(version) not in without]

"""``orchard-ops doctor``: what is installed, what is found, and whether it works."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

import orchard_ops

from .. import _native
from .._errors import translate
from ._device import STORAGE_MODES, choose_device, storage_mode

__all__ = ["doctor"]

# Eight float32 roundings of sums over 17 keys: a wrong kernel is off by far more.
MAX_ERROR = 1e-5


def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the findings as JSON only.")
    ] = False,
) -> None:
    """Show versions, device, libraries and caches, and check a small attention.

    The exit status is 1 if the device is missing or computes something wrong.
    """
    findings = _versions()
    try:
        device = choose_device()
        findings.update(_device_findings(device))
        findings["largest_error"] = _check(device)
        findings["ok"] = bool(findings["largest_error"] <= MAX_ERROR)
    except (orchard_ops.OrchardError, RuntimeError) as error:
        # What fails inside backward passes through autograd untyped.
        known = translate(error) if isinstance(error, RuntimeError) else error
        findings.update(ok=False, error=str(known))
    findings["libraries"] = {
        name: str(path) for name, path in _native.loaded_libraries().items()
    }
    if as_json:
        typer.echo(json.dumps(findings, indent=2))
    else:
        _print(findings)
    if not findings["ok"]:
        raise typer.Exit(1)


def _versions() -> dict[str, Any]:
    return {
        "orchard_ops": orchard_ops.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _device_findings(device: torch.device) -> dict[str, Any]:
    storages = []
    for mode in STORAGE_MODES if device.type == "metalsim" else STORAGE_MODES[:1]:
        with storage_mode(device, mode):
            sample = torch.empty(4, 16, device=device)[1:]
        storages.append(asdict(orchard_ops.storage.describe(sample)))
    return {
        "device": str(device),
        "device_name": storages[0]["device_name"],
        "storages": storages,
    }


def _check(device: torch.device) -> float:
    """Return the largest error of a small attention and its gradients."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(1, 2, 17, 16, generator=generator) for _ in range(4)]
    exact = _results([part.double() for part in parts])
    actual = _results([part.to(device) for part in parts])
    return max(
        float((got.cpu().double() - want).abs().max())
        for got, want in zip(actual, exact)
    )


def _results(parts: list[Tensor]) -> list[Tensor]:
    q, k, v = (part.detach().requires_grad_() for part in parts[:3])
    out = orchard_ops.flash_attention(q, k, v, is_causal=True)
    assert isinstance(out, Tensor)
    gradients = torch.autograd.grad(out, (q, k, v), parts[3])
    return [out.detach(), *gradients]


def _print(findings: dict[str, Any]) -> None:
    table = Table(show_header=False)
    for name, value in findings.items():
        for line in value if isinstance(value, list) else [value]:
            text = (
                "\n".join(f"{key}: {item}" for key, item in line.items())
                if isinstance(line, dict)
                else str(line)
            )
            table.add_row(name, escape(text))
    Console().print(table)

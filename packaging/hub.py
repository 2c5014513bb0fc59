"""Lay out the repository of Hugging Face's kernels hub, out of finished wheels.

The package ``kernels`` loads a folder ``build/torch24-metal-aarch64-darwin``: the
package's own modules with the libraries for one PyTorch, and a ``metadata.json`` that
names each file's digest.  Libraries and modules are those of the wheels, byte for byte.

Usage: python packaging hub WHEEL... [--out dist/hub]
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import contents
from project import ROOT, Failure, table

PROJECT = table("pyproject.toml")["project"]
NAME = str(PROJECT["name"])
# The hub's commands are not ours, and a kernel may import PyTorch alone: of the
# benchmark it holds the model, by which `tune` chooses what to measure.
MODEL = "__init__|assumptions|calibration|chips|kernels|model|peer|search"
LEFT_OUT = re.compile(rf"^(cli|_demo|_doctor)/|^_perf/(?!({MODEL})\.py$)")
ABSOLUTE = re.compile(rb"^\s*(import|from) orchard_ops\b", re.MULTILINE)
# What is for one PyTorch, or in a folder for some of them.
LIBRARY = re.compile(r"orchard_ops/(?:abi[01]/)?_\w+\.torch(\d+\.\d+)\.so$")
FOLDER = re.compile(r"orchard_ops/abi[01]/")
LICENCE = re.compile(r"\.dist-info/licenses/(.+)$")
# For older versions of `kernels`, which look one folder further in.
INNER = '''\
"""The kernel of the folder above."""

import importlib.util
import sys
from pathlib import Path

if "{id}" not in sys.modules:
    _path = Path(__file__).parent.parent / "__init__.py"
    _spec = importlib.util.spec_from_file_location("{id}", _path)
    sys.modules["{id}"] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules["{id}"])
__all__ = sys.modules["{id}"].__all__
globals().update({{name: getattr(sys.modules["{id}"], name) for name in __all__}})
'''
CARD = """\
---
license: mit
library_name: kernels
tags:
- kernel
- metal
---

# {name} {version}

{summary}.

```python
import torch
from kernels import get_kernel

attention = get_kernel("OWNER/{name}", version={major}, trust_remote_code=True)
q = k = v = torch.randn(1, 8, 1024, 64, device="mps", requires_grad=True)
attention.flash_attention(q, k, v, is_causal=True).sum().backward()
```

Variants: {variants}.
"""


def variant_name(torch_minor: str, backend: str, system: str) -> str:
    """Return the name of a variant's folder: torch24-metal-aarch64-darwin."""
    return f"torch{torch_minor.replace('.', '')}-{backend}-{system}"


def kept(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return what of a wheel goes into a variant, by its path there.

    Raises:
        Failure: a module imports the installed package, which need not be there.
    """
    found = {}
    for name, data in files.items():
        place = name.removeprefix("orchard_ops/")
        if licence := LICENCE.search(name):
            found[licence[1]] = data
        elif place == name or LEFT_OUT.match(place) or ".pyc" in place:
            continue
        elif place.endswith(".py") and ABSOLUTE.search(data):
            raise Failure(
                f"{name}: expected relative imports alone, came `import orchard_ops`: "
                "on the hub the package has another name"
            )
        else:
            found[place] = data
    return found


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return path → digest as the hub's metadata writes it."""
    return {
        name: base64.b64encode(hashlib.sha256(data).digest()).decode()
        for name, data in sorted(files.items())
    }


def variant(files: Mapping[str, bytes], backend: str) -> dict[str, bytes]:
    """Return path → content of a variant's folder."""
    found = kept(files)
    # The same files, the same name; others can be loaded beside them.
    digest = hashlib.sha256(json.dumps(digests(found)).encode()).hexdigest()
    name = f"_orchard_ops_{backend}_{digest[:7]}"
    found["orchard_ops/__init__.py"] = INNER.format(id=name).encode()
    metadata = {
        "name": NAME,
        "id": name,
        "version": int(PROJECT["version"].partition(".")[0]),
        "license": "mit",
        "python-depends": [],
        "backend": {"type": backend},
        "digest": {"algorithm": "sha256", "files": digests(found)},
    }
    return {**found, "metadata.json": json.dumps(metadata, indent=1).encode() + b"\n"}


def card(names: list[str]) -> str:
    """Return the repository's README."""
    return CARD.format(
        name=NAME,
        version=PROJECT["version"],
        summary=PROJECT["description"],
        major=PROJECT["version"].partition(".")[0],
        variants=", ".join(f"`{name}`" for name in names),
    )


def only(files: Mapping[str, bytes], torch_minor: str, place: str) -> dict[str, bytes]:
    """Return a wheel's files without the libraries for other PyTorches."""

    def is_for_it(name: str) -> bool:
        library, folder = LIBRARY.match(name), FOLDER.match(name)
        fits = library is None or library[1] == torch_minor
        return fits and (folder is None or folder[0] == place)

    return {name: data for name, data in files.items() if is_for_it(name)}


def by_torch(wheel: Path) -> dict[str, dict[str, bytes]]:
    """Return PyTorch minor → the files of a wheel that serve it."""
    files = contents.read_wheel(wheel)
    places = contents.carried(files)
    if not places:
        raise Failure(f"{wheel.name}: expected _C.torch….so, found no operators")
    return {name: only(files, name, place) for name, place in places.items()}


def system(wheel: Path) -> tuple[str, str]:
    """Return the backend and the system of a wheel, by its tag."""
    if wheel.name.endswith("_arm64.whl"):
        return "metal", "aarch64-darwin"
    machine = re.search(r"linux\w*?_(x86_64|aarch64)\b", wheel.stem)
    if machine is None:
        raise Failure(f"{wheel.name}: expected a wheel for Linux or for macOS arm64")
    return "cpu", f"{machine[1]}-linux"


def lay_out(wheels: list[Path], out: Path) -> list[str]:
    """Write the repository; return its variants.

    A variant is for one PyTorch and one system, so a wheel makes several.
    """
    shutil.rmtree(out, ignore_errors=True)
    names = []
    for wheel in sorted(wheels):
        backend, where = system(wheel)
        for torch_minor, files in by_torch(wheel).items():
            name = variant_name(torch_minor, backend, where)
            names.append(name)
            for place, data in variant(files, backend).items():
                path = out / "build" / name / place
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
    (out / "README.md").write_text(card(names), encoding="utf-8")
    shutil.copy(ROOT / "LICENSE", out)
    return names


def main() -> None:
    """Lay out what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheels", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "dist" / "hub")
    options = parser.parse_args()
    for name in lay_out(options.wheels, options.out):
        print(f"{options.out / 'build' / name}")


if __name__ == "__main__":
    main()

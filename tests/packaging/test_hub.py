"""The hub's layout is what the package `kernels` reads, and its kernels work.

`nox -s release` runs this: it needs `kernels`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

# Its own name is also that of a folder of this project.
pytest.importorskip("kernels.variants", reason="the release session has it")

import hub
import project
from kernels import variants  # type: ignore[attr-defined]
from kernels._rust import Digest, DigestAlgorithm, Metadata
from kernels.backends import Metal
from packaging.version import Version

# Forward and backward on the CPU and on the simulator, against float64.
SMOKE = """
import sys, torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

def check(kernel):
    assert kernel.__name__.startswith("_orchard_ops_cpu_"), kernel.__name__
    assert "orchard_ops" not in sys.modules
    kernel.sim.enable()
    data = [torch.randn(1, 2, 33, 24, generator=torch.Generator().manual_seed(n))
            for n in range(4)]
    def run(attention, device, dtype):
        q, k, v, grad = (x.to(device, dtype) for x in data)
        q, k, v = (x.requires_grad_() for x in (q, k, v))
        out = attention(q, k, v, is_causal=True)
        parts = (out, *torch.autograd.grad(out, (q, k, v), grad))
        return [x.detach().cpu().double() for x in parts]
    exact = run(sdpa, "cpu", torch.float64)
    for device in ("cpu", "metalsim"):
        got = run(kernel.flash_attention, device, torch.float32)
        assert max((a - b).abs().max() for a, b in zip(got, exact)) < 1e-5, device
"""
LOCAL = """
from kernels import get_local_kernel
from pathlib import Path
kernel = get_local_kernel(Path(sys.argv[1]), backend="cpu")
check(kernel)
"""
BY_NAME = """
from kernels import get_kernel
kernel = get_kernel("someone/orchard-ops", version=0, backend="cpu")
check(kernel)
"""
TWICE = """
import sys
from kernels import get_local_kernel
from pathlib import Path
for folder in sys.argv[1:]:
    get_local_kernel(Path(folder), backend="cpu")
"""
OLDER = """
import importlib.util
from pathlib import Path
(inner,) = Path(sys.argv[1]).glob("build/*/orchard_ops/__init__.py")
spec = importlib.util.spec_from_file_location("inner", inner)
kernel = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kernel)
assert "flash_attention" in kernel.__all__
check(sys.modules[kernel.flash_attention.__module__.partition(".")[0]])
"""


@pytest.fixture(scope="module")
def repository() -> Path:
    """Return the repository that the session has laid out of the wheel it built."""
    if "ORCHARD_HUB" not in os.environ:
        pytest.skip("ORCHARD_HUB names no repository: nox -s release makes one")
    return Path(os.environ["ORCHARD_HUB"])


def another(repository: Path, out: Path) -> Path:
    """Return the repository of another release: a module has another text."""
    shutil.copytree(repository, out)
    (folder,) = (out / "build").iterdir()
    files = {
        f"orchard_ops/{path.relative_to(folder)}": path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "metadata.json"
    }
    del files["orchard_ops/orchard_ops/__init__.py"]
    files["orchard_ops/sdpa.py"] += b"# Of another release.\n"
    for place, data in hub.variant(files, "cpu").items():
        (folder / place).write_bytes(data)
    return out


def loaded(code: str, *folders: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a process that has neither our package nor a network."""
    local = f"someone/orchard-ops={folders[0]}"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "LOCAL_KERNELS": local}
    for name in ("ORCHARD_LIBRARY_DIR", "PYTHONPATH"):
        environment.pop(name, None)
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, folders)],
        env=environment,
        text=True,
        capture_output=True,
    )


@pytest.mark.parametrize("load", [LOCAL, BY_NAME, OLDER], ids=["path", "name", "older"])
def test_kernels_loads_it_and_it_trains(repository: Path, load: str) -> None:
    """By its path, by a name that LOCAL_KERNELS maps to it, and as older versions."""
    done = loaded(SMOKE + load, repository)
    assert done.returncode == 0, done.stderr


def test_a_second_copy_is_refused(repository: Path, tmp_path: Path) -> None:
    """PyTorch would end the process, as both register the same operators."""
    done = loaded(TWICE, repository, another(repository, tmp_path / "other"))
    assert done.returncode == 1
    assert "expected one orchard-ops in a process" in done.stderr


def test_the_metadata_is_what_kernels_reads(repository: Path, tmp_path: Path) -> None:
    """Names, licence, backend and the digest of every file."""
    (folder,) = (repository / "build").iterdir()
    metadata = Metadata.read_from_file(folder / "metadata.json")
    assert (metadata.name.python_name, metadata.version) == ("orchard_ops", 0)
    assert metadata.license == "mit"
    digest = Digest.hash_variant(DigestAlgorithm.SHA256, folder)
    assert metadata.digest is not None
    metadata.digest.validate(digest)
    shutil.copytree(folder, tmp_path / "broken")
    (tmp_path / "broken" / "sdpa.py").write_text("")
    digest = Digest.hash_variant(DigestAlgorithm.SHA256, tmp_path / "broken")
    with pytest.raises(Exception, match=r"sdpa\.py"):
        metadata.digest.validate(digest)


def test_every_wheel_for_macos_has_a_variant() -> None:
    """Each PyTorch of versions.toml; with macOS 26, as `kernels` asks, it is taken."""
    names = []
    for version in project.versions()["wheels"]["torch"]:
        found = hub.variant_name(project.minor(version), "metal", "aarch64-darwin")
        asked: dict[str, Any] = {
            **{"selected_backend": Metal(), "cpu": "aarch64", "os": "darwin"},
            "torch_version": Version(project.minor(version)),
            **{"torch_cxx11_abi": None, "tvm_ffi_version": None},
        }
        parsed = variants.parse_variant(found)
        taken, _ = variants._resolve_variant_for_system(
            [parsed], **asked, macos_version=Version("26.0")
        )
        assert taken == [parsed]
        refused, _ = variants._resolve_variant_for_system(
            [parsed], **asked, macos_version=Version("15.5")
        )
        assert refused == []
        names.append(found)
    assert "torch24-metal-aarch64-darwin" in names
    assert f"`{names[0]}`" in hub.card(names)


def test_a_variant_holds_what_the_wheel_holds() -> None:
    """The libraries byte for byte, both licences, and no command's modules."""
    info = "orchard_ops-0.1.0.dist-info"
    wheel = {
        **{"orchard_ops/__init__.py": b"from . import sdpa\n"},
        **{
            "orchard_ops/_C.torch2.4.so": b"library",
            "orchard_ops/cli/__init__.py": b"typer",
        },
        **{f"{info}/licenses/LICENSE": b"MIT", f"{info}/METADATA": b""},
        f"{info}/licenses/metal-cpp-LICENSE.txt": b"Apache",
    }
    made = hub.variant(wheel, "metal")
    assert {*made} == {
        *("__init__.py", "_C.torch2.4.so", "LICENSE", "metal-cpp-LICENSE.txt"),
        *("metadata.json", "orchard_ops/__init__.py"),
    }
    assert made["_C.torch2.4.so"] == b"library"
    again = json.loads(
        hub.variant({**wheel, "orchard_ops/_C.torch2.4.so": b""}, "metal")[
            "metadata.json"
        ]
    )
    assert json.loads(made["metadata.json"])["id"] != again["id"]


def test_a_wheel_for_many_pytorches_makes_many_variants(tmp_path: Path) -> None:
    """Each holds its own libraries, and of folders for some its own."""
    wheel = tmp_path / "orchard_ops-0.1.0-py3-none-macosx_13_0_arm64.whl"
    names = ["__init__.py", "liborchard_device.dylib", "_C.torch2.4.so"]
    names += ["_C.torch2.13.so", "abi1/_C.torch2.9.so", "abi1/_sim.cpython-311.so"]
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in names:
            archive.writestr(f"orchard_ops/{name}", name)
    made = hub.lay_out([wheel], tmp_path / "hub")
    held = {
        variant: {
            str(path.relative_to(tmp_path / "hub" / "build" / variant))
            for path in (tmp_path / "hub" / "build" / variant).rglob("*.so")
        }
        for variant in made
    }
    assert held == {
        "torch24-metal-aarch64-darwin": {"_C.torch2.4.so"},
        "torch213-metal-aarch64-darwin": {"_C.torch2.13.so"},
        "torch29-metal-aarch64-darwin": {
            *("abi1/_C.torch2.9.so", "abi1/_sim.cpython-311.so")
        },
    }
    assert all(
        f"`{name}`" in (tmp_path / "hub" / "README.md").read_text() for name in made
    )


@pytest.mark.parametrize(
    ("tag", "found"),
    [
        ("py3-none-macosx_13_0_arm64", ("metal", "aarch64-darwin")),
        ("cp311-cp311-linux_x86_64", ("cpu", "x86_64-linux")),
        ("cp311-cp311-manylinux_2_28_aarch64", ("cpu", "aarch64-linux")),
    ],
)
def test_a_wheels_tag_tells_backend_and_system(
    tag: str, found: tuple[str, str]
) -> None:
    """As the hub names them."""
    assert hub.system(Path(f"orchard_ops-0.1.0-{tag}.whl")) == found


def test_an_absolute_import_is_refused() -> None:
    """On the hub the package has another name."""
    with pytest.raises(project.Failure, match=r"sdpa\.py: expected relative imports"):
        hub.variant({"orchard_ops/sdpa.py": b"import orchard_ops\n"}, "metal")

"""Prove the binaries of one wheel against the libraries that it will meet."""

from __future__ import annotations

from pathlib import Path

from project import Failure

from macos import checks, macho
from macos.build import zig_library


def libraries(tree: Path) -> list[macho.MachO]:
    """Return a PyTorch's libraries."""
    folder = tree / "torch" / "lib"
    return [macho.read(folder / f"lib{name}.dylib") for name in ("c10", "torch_cpu")]


def libsystem_stub() -> Path:
    """Return the text stub of libSystem that zig carries."""
    return zig_library() / "libc" / "darwin" / "libSystem.tbd"


def owners_for(target: str, torch: list[macho.MachO]) -> checks.Owners:
    """Return who exports what, where a PyTorch runs on a macOS."""
    owners = checks.Owners()
    for library in torch:
        owners.add_library(library)
        if checks.number(library.minimum_os) <= checks.number(target):
            owners.add_witness(library)
    owners.add_known(target)
    # On a Mac too, where Apple's linker knows the symbols but does not list them.
    names = checks.tbd_symbols(libsystem_stub().read_text())
    owners.exports.setdefault(checks.SYSTEM, set()).update(names)
    return owners


def write_stubs(owners: checks.Owners, folder: Path) -> None:
    """Write stubs of the system's libraries but libSystem, which zig has."""
    for name, owner in {
        "libc++.1.tbd": checks.CXX,
        "libobjc.tbd": checks.OBJC,
        "Metal.framework/Metal.tbd": checks.METAL,
        "Foundation.framework/Foundation.tbd": checks.FOUNDATION,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(owners.stub(owner))


def check(
    tables: dict[str, str],
    folders: list[str],
    target: str,
    owners: checks.Owners,
    binaries: list[Path],
    objects: list[Path],
) -> tuple[int, list[str]]:
    """Prove binaries; return the number of symbols and the messages they send."""
    problems, count = [], 0
    for path in binaries:
        binary = macho.read(path)
        owners.add_library(binary)
        found = checks.unowned(binary, owners)
        found += checks.misbuilt(binary, target, path.read_bytes(), folders)
        problems += [f"{path.name}: {sentence}" for sentence in found]
        count += len(binary.imports)
    used = checks.messages([macho.read(path) for path in objects])
    problems += checks.unfit_messages(used, tables, target)
    if problems:
        raise Failure("\n".join(problems))
    return count, sorted(tables[name] for name in used)

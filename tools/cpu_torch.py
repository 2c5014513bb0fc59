"""Install a PyTorch that runs on the CPU alone, from the wheels that locks/ pins.

PyPI's Linux x86-64 wheels are CUDA builds: with the libraries they ask for they
take about 5 GB. Only their CPU half is needed to test orchard-ops, so this tool
unpacks a wheel without its CUDA libraries and puts stub libraries in their
place: the same sonames and symbol versions, functions that return an error.
The result imports, computes and compiles extensions as usual;
``torch.cuda.is_available()`` is False. Wheels without CUDA are taken as is.

The unpacked tree is kept in a private per-user cache and hard-linked into every
environment that asks for it. It is for tests: do not redistribute it.

Usage: python tools/cpu_torch.py 2.4.1 [--python VENV/bin/python] [numpy<2 ...]
       python tools/cpu_torch.py --tree FOLDER  (an unpacked wheel, changed in place)
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

# CUDA's libraries.  NVPL is not one of them: it is the CPU's BLAS on arm64.
CUDA = r"lib(torch_cuda|c10_cuda|caffe2_nvrtc|torch_nvshmem|nccl|nv(?!pl)|cu)[^/]*$"
# Files of a CUDA wheel that the CPU half never opens.
DROPPED = re.compile(rf"torch/lib/{CUDA}|nvfuser|torch/(bin/test_|test/|lib/[^/]*\.a$)")
CUDA_REQUIREMENT = re.compile(r"Requires-Dist:\s*(nvidia-|cuda-|triton|pytorch-triton)")
# What any Linux with a C++ runtime has; every other unknown soname is stubbed.
SYSTEM_SONAMES = (
    *("libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0"),
    *("libstdc++.so.6", "libgcc_s.so.1", "libz.so.1"),
    "libquadmath.so.0",  # From 2.15 on: its own gfortran asks for it.
    *("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"),
)
GIL_CHECKER = "_ZN4c10d15get_gil_checkerEv"
NCCL_OPTIONS = "_ZN4c10d16ProcessGroupNCCL7OptionsC"  # The constructors.
CLASS_TYPE_INFO = "_ZTVN10__cxxabiv117__class_type_infoE"
STUB_HEAD = f"""
extern char {CLASS_TYPE_INFO}[];
static long nothing(void) {{ return 0; }}
"""
SMOKE_TEST = """
import torch
x = torch.ones(3, requires_grad=True)
torch.nn.functional.gelu(x).sum().backward()
assert x.grad is not None and not torch.cuda.is_available()
print(torch.__version__)
"""
QUERY = """
import json, sysconfig, sys
print(json.dumps([sys.implementation.cache_tag, sysconfig.get_platform(),
                  sysconfig.get_path('platlib')]))
"""


def say(text: str) -> None:
    """Print a progress line at once, also into a log."""
    print(f"[cpu_torch] {text}", flush=True)


def output(*command: str | Path) -> str:
    """Run a command and return what it prints."""
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def cache_root() -> Path:
    """Return the private cache folder, made if need be."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(base) / "orchard-ops-dev" / "torch"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    root.chmod(0o700)  # Fails, as it should, when the folder is someone else's.
    return root


def unpack(wheel: Path, into: Path) -> bool:
    """Unpack a wheel without its CUDA parts; say whether it had any."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        has_cuda = "torch/lib/libtorch_cuda.so" in names
        for info in archive.infolist():
            if has_cuda and DROPPED.match(info.filename):
                continue
            target = Path(archive.extract(info, into))
            mode = info.external_attr >> 16 & 0o777
            if mode and target.is_file():
                target.chmod(mode)
    return has_cuda


def versioned(line: str) -> tuple[str, str]:
    """Split a line of ``nm -D`` into symbol and version ("" if none)."""
    symbol, _, version = line.split()[-1].partition("@")
    return symbol, version.lstrip("@")


def defined_symbols(libraries: Iterable[str | Path]) -> set[str]:
    """Return every symbol that the libraries export."""
    lines: list[str] = []
    for library in libraries:
        lines += output("nm", "-D", "--defined-only", library).splitlines()
    return {versioned(line)[0] for line in lines}


def system_libraries() -> list[str]:
    """Return the paths of the libraries that every Linux has."""
    paths = [output("gcc", f"-print-file-name={s}").strip() for s in SYSTEM_SONAMES]
    return [path for path in paths if "/" in path]  # gcc echoes what it lacks.


class Gaps:
    """What a set of libraries needs and nobody provides, by soname."""

    def __init__(self, libraries: list[Path]) -> None:
        """Examine the libraries of a tree."""
        self.versions: dict[str, dict[str, set[str]]] = {}
        self.unversioned: set[str] = set()
        present = {library.name for library in libraries} | set(SYSTEM_SONAMES)
        self._provided = defined_symbols([*libraries, *system_libraries()])
        for library in libraries:
            dynamic = output("readelf", "-dVW", library)
            for soname in re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic):
                if soname not in present:
                    self.versions.setdefault(soname, {})
            self._add_symbols(library, self._version_owners(dynamic, present))

    def _version_owners(self, dynamic: str, present: set[str]) -> dict[str, str]:
        owners: dict[str, str] = {}
        soname = ""
        needs = dynamic.partition(".gnu.version_r'")[2]
        for key, value in re.findall(r"(File|Name): (\S+)", needs):
            if key == "File":
                soname = value
            elif soname not in present:
                owners[value] = soname
                self.versions.setdefault(soname, {}).setdefault(value, set())
        return owners

    def _add_symbols(self, library: Path, owners: dict[str, str]) -> None:
        for line in output("nm", "-D", "--undefined-only", library).splitlines():
            symbol, version = versioned(line)
            if version in owners:
                self.versions[owners[version]][version].add(symbol)
            elif line.split()[0] == "U" and not re.match("_?Py", symbol):
                self.unversioned |= {symbol} - self._provided


def stub_definition(symbol: str) -> str:
    """Return C source that defines one missing symbol."""
    if symbol.startswith("_ZTI"):  # Compared by address and name, never called.
        return f'void* {symbol}[2] = {{{CLASS_TYPE_INFO} + 16, "{symbol[4:]}"}};'
    if symbol.startswith(("_ZTV", "_ZTS")):
        return f"void* {symbol}[64];"
    if symbol == GIL_CHECKER:  # Its result is written to when torch is imported.
        return f"void* {symbol}(void) {{ static void* checker[8]; return checker; }}"
    if symbol.startswith(NCCL_OPTIONS):  # Importing makes one; exiting drops it.
        body = "static void* table[64] = {[2 ... 63] = nothing}; *self = table + 2;"
        return f"void {symbol}(void** self) {{ {body} }}"
    status = 100 if symbol.startswith(("cuda", "cupti")) else 0  # 100: no device.
    return f"long {symbol}(void) {{ return {status}; }}"


def build_stub(out: Path, nodes: dict[str, set[str]], loose: set[str]) -> None:
    """Compile one stub library: symbols by version, and those without one."""
    symbols = sorted(set(loose).union(*nodes.values()))
    script = "".join(
        f"{node} {{ global: {' '.join(f'{s};' for s in sorted(names | {'_'}))} }};\n"
        for node, names in nodes.items()
    )
    with tempfile.TemporaryDirectory() as folder:
        source, version_script = Path(folder, "stub.c"), Path(folder, "stub.map")
        source.write_text("\n".join([STUB_HEAD, *map(stub_definition, symbols)]))
        version_script.write_text(script)
        flags = ["-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{out.name}"]
        flags += [f"-Wl,--version-script={version_script}"] if nodes else []
        output("gcc", *flags, source, "-o", out, "-lstdc++")


def add_stubs(tree: Path) -> None:
    """Fill the gaps that the dropped CUDA libraries leave in a tree."""
    gaps = Gaps(sorted(p for p in tree.rglob("*.so*") if p.is_file()))
    # A stub of anything else would give wrong numbers instead of an error.
    if others := [name for name in gaps.versions if not re.match(CUDA, name)]:
        raise SystemExit(
            f"cpu_torch: {tree} needs {others}: not CUDA, so no stub will do"
        )
    count = len(gaps.unversioned) + sum(
        len(names) for nodes in gaps.versions.values() for names in nodes.values()
    )
    say(f"stubbing {count} symbols in {len(gaps.versions)} CUDA libraries")
    for soname, nodes in gaps.versions.items():
        loose = set() if nodes else gaps.unversioned
        build_stub(tree / "torch" / "lib" / soname, nodes, loose)


def forget_cuda(tree: Path) -> None:
    """Let PyTorch say that it was built without CUDA.

    From 2.14 on it replaces some CUDA kernels when it is imported, and does not
    expect to find none.
    """
    module = tree / "torch" / "backends" / "cuda" / "__init__.py"
    text = module.read_text(encoding="utf-8")
    module.write_text(
        text.replace("return torch._C._has_cuda", "return False"), encoding="utf-8"
    )


def settle_metadata(tree: Path) -> list[str]:
    """Drop CUDA requirements, list the files; return what is left to require."""
    info = next(tree.glob("torch-*.dist-info"))
    lines = (info / "METADATA").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not CUDA_REQUIREMENT.match(line)]
    (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
    files = sorted(str(p.relative_to(tree)) for p in tree.rglob("*") if p.is_file())
    (info / "RECORD").write_text("".join(f'"{name}",,\n' for name in files))
    needs = [line.partition(":") for line in lines if "Requires-Dist:" in line]
    return [need.strip() for _, _, need in needs if "extra ==" not in need]


def drop_cuda(tree: Path) -> None:
    """Make an unpacked wheel one for the CPU; one without CUDA stays as it is."""
    if not (tree / "torch" / "lib" / "libtorch_cuda.so").exists():
        say(f"no CUDA in {tree}")
        return
    for path in sorted(tree.rglob("*")):
        if path.is_file() and DROPPED.match(path.relative_to(tree).as_posix()):
            path.unlink()
    add_stubs(tree)
    forget_cuda(tree)
    settle_metadata(tree)


def make_tree(version: str, python: str, work: Path, also: list[str]) -> Path:
    """Return a new, tested tree in a working folder."""
    import locked  # The flake takes this file alone, and installs nothing with it.

    say(f"downloading torch {version}")
    options = ("--only-binary=:all:", "--no-cache-dir", "--dest", work)
    locked.pip(python, "download", [locked.wheel(f"torch=={version}")], *options)
    wheel = next(work.glob("torch-*.whl"))
    say(f"unpacking {wheel.name}, {wheel.stat().st_size >> 20} MB")
    tree = work / "tree"
    has_cuda = unpack(wheel, tree)
    wheel.unlink()
    if has_cuda:
        add_stubs(tree)
        forget_cuda(tree)
    needs = settle_metadata(tree)
    (tree / "needs.json").write_text(json.dumps(needs))
    locked.pip(python, "install", locked.chosen([*locked.TORCH_NEEDS, *also]))
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    subprocess.run([python, "-c", SMOKE_TEST], check=True, env=environment)
    return tree


def add_bytecode(tree: Path, python: str) -> None:
    """Compile the modules, as pip does: importing their text takes twice as long."""
    # Some of PyTorch's files are written for newer Pythons: they stay text.
    command = [python, "-m", "compileall", "-qq", "-j0", str(tree)]
    subprocess.run(command, check=False)


def cached_tree(version: str, python: str, tag: str, also: list[str]) -> Path:
    """Return the cache's tree for a version and interpreter, made once."""
    root = cache_root()
    tree = root / f"{version}-{tag}"
    with (root / f"{version}-{tag}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tree.exists():
            with tempfile.TemporaryDirectory(prefix="making-", dir=root) as work:
                make_tree(version, python, Path(work), also).rename(tree)
        if not (tree / "torch" / "__pycache__").exists():
            add_bytecode(tree, python)
    return tree


def link_or_copy(source: str, target: str) -> None:
    """Hard-link a file, or copy it to another file system."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def main() -> None:
    """Install the version asked for into the interpreter asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("version", nargs="?", help="exact version, such as 2.4.1")
    parser.add_argument("--tree", type=Path, help="an unpacked wheel to change")
    parser.add_argument("--python", default=sys.executable, help="install into this")
    parser.add_argument("also", nargs="*", help="requirements to install beside it")
    options = parser.parse_intermixed_args()
    if options.tree:
        drop_cuda(options.tree.resolve())
        return
    if not options.version:
        parser.error("name a version, or --tree")
    import locked

    needs = locked.chosen([*locked.TORCH_NEEDS, *options.also])
    tag, platform, site = json.loads(output(options.python, "-c", QUERY))
    if not platform.startswith("linux"):
        wheel = locked.wheel(f"torch=={options.version}")
        locked.pip(options.python, "install", [wheel, *needs])
        return
    tag = f"{tag}-{platform}"
    tree = cached_tree(options.version, options.python, tag, options.also)
    locked.pip(options.python, "install", needs)
    shutil.copytree(
        *(tree, site),
        copy_function=link_or_copy,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("needs.json"),
    )
    say(f"torch {options.version} is in {site}")


if __name__ == "__main__":
    main()

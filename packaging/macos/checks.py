"""Prove a macOS binary without running it.

Every undefined symbol must have an owner that exists on the oldest macOS that
the binary is for, and every Objective-C message an entry in metal-cpp's tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from macos.macho import MachO

SYSTEM = "/usr/lib/libSystem.B.dylib"
CXX = "/usr/lib/libc++.1.dylib"
OBJC = "/usr/lib/libobjc.A.dylib"
FRAMEWORKS = "/System/Library/Frameworks"
METAL = f"{FRAMEWORKS}/Metal.framework/Versions/A/Metal"
FOUNDATION = f"{FRAMEWORKS}/Foundation.framework/Versions/C/Foundation"

STRING = "St3__112basic_stringIcNS_11char_traitsIcEENS_9allocatorIcEEE"
OSTRINGSTREAM = "NSt3__119basic_ostringstreamIcNS_11char_traitsIcEENS_9allocatorIcEEEE"
STREAMBUF = "St3__115basic_streambufIcNS_11char_traitsIcEEE"
STRINGBUF = "NSt3__115basic_stringbufIcNS_11char_traitsIcEENS_9allocatorIcEEEE"
CREATE_DIRECTORIES = (
    "St3__14__fs10filesystem20__create_directoriesERKNS1_4pathEPNS_10error_codeE"
)
# What PyTorch's own libraries import from the system is there.  These are the
# others that we use, with the macOS that brought them: libc++'s as its header
# __configuration/availability.h says (LLVM 12), those of 11.0 because PyTorch 2.4.1
# needs them and loads there (other versions need some of them), the rest as Apple
# documents.
SINCE = {
    CXX: {
        f"__ZTT{OSTRINGSTREAM}": "12.3",
        f"__ZTV{OSTRINGSTREAM}": "12.3",
        f"__ZTV{STRINGBUF}": "12.3",
        f"__ZN{STRING}21__grow_by_and_replaceEmmmmmmPKc": "10.9",
        f"__ZN{STREAMBUF}C2Ev": "11.0",
        f"__ZN{STREAMBUF}D2Ev": "11.0",
        "__ZNSt20bad_array_new_lengthC1Ev": "11.0",
        "__ZNSt20bad_array_new_lengthD1Ev": "11.0",
        "__ZTISt20bad_array_new_length": "11.0",
        f"__ZN{CREATE_DIRECTORIES}": "10.15",
    },
    OBJC: {
        "_class_respondsToSelector": "10.5",
        "_objc_copyClassList": "10.7",
        "_objc_getProtocol": "10.5",
        "_objc_lookUpClass": "10.0",
        "_objc_msgSend": "10.0",
        "_object_getClass": "10.5",
        "_sel_registerName": "10.0",
    },
    METAL: {
        "_MTLCopyAllDevices": "10.11",
        "_MTLCopyAllDevicesWithObserver": "10.13",
        "_MTLCreateSystemDefaultDevice": "10.11",
        "_MTLRemoveDeviceObserver": "10.13",
    },
    FOUNDATION: {},
}
# Every class and selector that we use, with the macOS that brought it: one that
# is not here fails until someone has looked it up.
MESSAGES = {
    "10.0": """
        NSAutoreleasePool NSProcessInfo NSString UTF8String alloc contents drain init
        length localizedDescription methodSignatureForSelector: processInfo release
        respondsToSelector: retain stringWithCString:encoding:
        """,
    "10.10": "isOperatingSystemAtLeastVersion:",
    "10.11": """
        MTLCompileOptions addCompletedHandler: commandBuffer commit
        computeCommandEncoder device dispatchThreadgroups:threadsPerThreadgroup:
        endEncoding error maxThreadsPerThreadgroup maxTotalThreadsPerThreadgroup name
        newBufferWithLength:options: newCommandQueue
        newComputePipelineStateWithFunction:error: newFunctionWithName:
        newLibraryWithSource:options:error: setBuffer:offset:atIndex:
        setBytes:length:atIndex: setComputePipelineState: setFastMathEnabled:
        setLanguageVersion: setThreadgroupMemoryLength:atIndex: status storageMode
        waitUntilCompleted
        """,
    "10.12": "recommendedMaxWorkingSetSize",
    "10.13": "maxThreadgroupMemoryLength registryID",
    "10.14": "dispatchType memoryBarrierWithScope:",
    "10.15": "GPUEndTime GPUStartTime supportsFamily:",
    "15.0": "setMathFloatingPointFunctions: setMathMode:",
}
# pipeline.cpp asks the system before it sends these.
GUARDED = {"setMathMode:", "setMathFloatingPointFunctions:"}
# Whose weak imports may be missing: metal-cpp names constants of newer systems so,
# and how many a build imports depends on its SDK.
WEAK_FROM = (METAL, FOUNDATION)
# A private copy of the C++ runtime would export these, and PyTorch's exceptions
# would not unwind through it.
RUNTIME = re.compile(r"__Zn[aw]m|__Zd[al]Pv|___cxa_|___gxx_|__ZTVN10__cxxabiv1")
MESSAGE = re.compile(r"__ZN(?:3MTL|2NS)7Private(?:8Selector|5Class)\d+s_k(\w+)E$")


def number(version: str) -> tuple[int, ...]:
    """Return a version that compares as one."""
    return tuple(map(int, version.split(".")))


@dataclass
class Owners:
    """Who exports what: libraries by install name."""

    exports: dict[str, set[str]] = field(default_factory=dict)

    def add_library(self, library: MachO) -> None:
        """Take a library's own exports."""
        self.exports.setdefault(library.install_name, set()).update(library.exports)

    def add_witness(self, library: MachO) -> None:
        """Take what a library that is known to load needs of the system."""
        for symbol, owner in library.imports.items():
            if owner.startswith("/") and symbol not in library.weak_imports:
                self.exports.setdefault(owner, set()).add(symbol)

    def add_known(self, target: str) -> None:
        """Take the table above, as far as the oldest macOS has it."""
        for owner, symbols in SINCE.items():
            self.exports.setdefault(owner, set()).update(
                s for s, since in symbols.items() if number(since) <= number(target)
            )

    def stub(self, owner: str) -> str:
        """Return a text stub of a system library for the linker."""
        symbols = ", ".join(f"'{s}'" for s in sorted(self.exports.get(owner, ())))
        return (
            "--- !tapi-tbd\ntbd-version: 4\ntargets: [ arm64-macos ]\n"
            f"install-name: '{owner}'\nexports:\n  - targets: [ arm64-macos ]\n"
            f"    symbols: [ {symbols} ]\n...\n"
        )


def tbd_symbols(text: str) -> set[str]:
    """Return every symbol that a text stub of libSystem names."""
    return set(re.findall(r"[_$A-Za-z][\w$.]*", text))


def unowned(binary: MachO, owners: Owners) -> list[str]:
    """Return a sentence for each symbol whose owner does not export it."""
    problems = []
    for symbol, owner in sorted(binary.imports.items()):
        if symbol in binary.weak_imports and owner in WEAK_FROM:
            continue  # The loader takes its absence.
        if not owner:
            problems.append(f"{symbol} is looked up in no library by name")
        elif owner not in owners.exports:
            problems.append(f"{symbol} comes from {owner}, which is not allowed")
        elif symbol not in owners.exports[owner]:
            problems.append(f"{symbol} is not known to be in {owner}")
    return problems


def metal_cpp_tables(headers: Path) -> dict[str, str]:
    """Return accessor → selector, and class → class, of metal-cpp's tables."""
    entry = re.compile(
        r'_(?:NS|MTL)_PRIVATE_DEF_(?:SEL\(\s*(\w+),\s*"([^"]+)"\)|CLS\((\w+)\))'
    )
    tables: dict[str, str] = {}
    for name in ("Foundation/NSPrivate.hpp", "Metal/MTLHeaderBridge.hpp"):
        for accessor, selector, kind in entry.findall((headers / name).read_text()):
            tables[accessor or kind] = selector or kind
    return tables


def messages(objects: list[MachO]) -> set[str]:
    """Return the accessors of every class and selector that objects use."""
    names = [MESSAGE.match(s) for found in objects for s in found.imports]
    return {match[1] for match in names if match}


def unfit_messages(used: set[str], tables: dict[str, str], target: str) -> list[str]:
    """Return a sentence for each accessor that may not reach its object."""
    since = {name: v for v, names in MESSAGES.items() for name in names.split()}
    problems = []
    for accessor in sorted(used):
        name = tables.get(accessor)
        if name is None:
            problems.append(f"{accessor} is in none of metal-cpp's tables")
        elif name not in since:
            problems.append(f"{name} is new: add it to MESSAGES in macos/checks.py")
        elif number(since[name]) > number(target) and name not in GUARDED:
            problems.append(f"{name} needs macOS {since[name]} and is not guarded")
    return problems


def misbuilt(binary: MachO, target: str, image: bytes, folders: list[str]) -> list[str]:
    """Return a sentence for each thing that would not load or not travel."""
    problems = []
    if binary.minimum_os != target:
        problems.append(f"minimum macOS is {binary.minimum_os}, not {target}")
    name = "" if binary.is_bundle else f"@rpath/{binary.path.name}"
    if binary.install_name != name:
        problems.append(f"install name is {binary.install_name}")
    if not binary.is_signed:
        problems.append("no signature: arm64 macOS refuses to load it")
    for rpath in binary.rpaths:
        if not rpath.startswith("@loader_path"):
            problems.append(f"rpath {rpath} is absolute")
    problems += [f"holds the path {f}" for f in folders if f.encode() in image]
    runtime = sorted(filter(RUNTIME.match, binary.exports))
    problems += [f"holds a C++ runtime of its own: {symbol}" for symbol in runtime[:3]]
    return problems

"""Read what a Mach-O library for arm64 needs, offers and says of itself.

Only the load commands and the symbol table are read: enough to prove a binary
on a machine that cannot run it.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass, field
from pathlib import Path

MAGIC = 0xFEEDFACF  # 64 bits, little endian
ARM64 = 0x0100000C
BUNDLE = 8  # A module of Apple's linker: it has no name for others to link to.
SYMTAB, ID_DYLIB, UUID, RPATH, BUILD_VERSION, SIGNATURE = (
    *(0x2, 0xD, 0x1B, 0x8000001C, 0x32, 0x1D),
)
LOAD_DYLIBS = {0xC: "strong", 0x80000018: "weak", 0x8000001F: "re-export"}
# Of a symbol: type bits, and its library's number in n_desc.
STAB, PRIVATE_EXTERNAL, TYPE, EXTERNAL = 0xE0, 0x10, 0x0E, 0x01
WEAK_REFERENCE = 0x40
FLAT_LOOKUP = 0xFE
THIS_LIBRARY = 0


@dataclass
class MachO:
    """A library: `imports` maps a symbol to the install name that must have it."""

    path: Path
    install_name: str = ""
    uuid: str = ""
    minimum_os: str = ""
    sdk: str = ""
    is_bundle: bool = False
    is_signed: bool = False
    libraries: list[str] = field(default_factory=list)
    rpaths: list[str] = field(default_factory=list)
    exports: set[str] = field(default_factory=set)
    imports: dict[str, str] = field(default_factory=dict)
    weak_imports: set[str] = field(default_factory=set)


def version(packed: int) -> str:
    """Return 13.0 or 13.1.2 for a packed version."""
    major, minor, patch = packed >> 16, packed >> 8 & 0xFF, packed & 0xFF
    return f"{major}.{minor}.{patch}" if patch else f"{major}.{minor}"


def text_at(data: mmap.mmap, at: int) -> str:
    """Return the zero-terminated text at an offset."""
    return data[at : data.find(b"\0", at)].decode()


def read_symbols(data: mmap.mmap, at: int, found: MachO) -> None:
    """Sort the symbols of a LC_SYMTAB into exports and imports."""
    offset, count, strings, _ = struct.unpack_from("<4I", data, at + 8)
    table = data[offset : offset + 16 * count]
    for name_at, kind, _, description, _ in struct.iter_unpack("<IBBHQ", table):
        if kind & STAB or not kind & EXTERNAL or kind & PRIVATE_EXTERNAL:
            continue
        name = text_at(data, strings + name_at)
        if kind & TYPE:  # Defined here.
            found.exports.add(name)
            continue
        ordinal = description >> 8
        is_flat = ordinal in (THIS_LIBRARY, FLAT_LOOKUP)
        found.imports[name] = "" if is_flat else found.libraries[ordinal - 1]
        if description & WEAK_REFERENCE:
            found.weak_imports.add(name)


def read(path: Path) -> MachO:
    """Read a thin arm64 library."""
    found = MachO(path)
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        magic, machine, _, kind, count, _ = struct.unpack_from("<6I", data)
        if (magic, machine) != (MAGIC, ARM64):
            raise SystemExit(f"{path}: no thin arm64 Mach-O file")
        found.is_bundle = kind == BUNDLE
        at, symbols = 32, 0
        for _ in range(count):
            command, size = struct.unpack_from("<2I", data, at)
            first = struct.unpack_from("<I", data, at + 8)[0]
            if command in LOAD_DYLIBS:
                found.libraries.append(text_at(data, at + first))
            elif command == ID_DYLIB:
                found.install_name = text_at(data, at + first)
            elif command == RPATH:
                found.rpaths.append(text_at(data, at + first))
            elif command == UUID:
                found.uuid = data[at + 8 : at + 24].hex()
            elif command == BUILD_VERSION:
                minimum, sdk = struct.unpack_from("<2I", data, at + 12)
                found.minimum_os, found.sdk = version(minimum), version(sdk)
            elif command == SIGNATURE:
                found.is_signed = True
            elif command == SYMTAB:
                symbols = at
            at += size
        read_symbols(data, symbols, found)
        data.close()
    return found

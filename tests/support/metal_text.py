"""What the kernels declare, read from their text; for metal_constructs.py."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from paths import ROOT

TOKEN = re.compile(r"\[\[|\]\]|::|->|[<>=!]=|&&|\|\||<<|>>|0[xX]\w+|\.?\d[\w.]*|\w+|\S")
NAME = re.compile(r"[A-Za-z_]\w*")
SPACES = {"device", "constant", "thread", "threadgroup"}


def words(text: str) -> set[str]:
    """Return the words of a text."""
    return set(NAME.findall(text))


# Words of C++ that say nothing about Metal, and those that do.
PLAIN = words(
    "break case const continue default do else false for if return sizeof "
    "static_assert struct switch true void while"
)
LANGUAGE = words(
    "auto class constexpr decltype enum inline namespace static static_cast "
    "reinterpret_cast template typedef typename union using"
)
NUMBERS = ["bool", "uchar", "ushort", "int", "uint", "long", "ulong"]
NUMBERS += ["half", "bfloat", "float"]
VECTOR = re.compile(f"({'|'.join(NUMBERS)})[234]")
# What the host puts in for these, and how the page writes them.
HOST_TYPES = {"ELEM": "T", "OPERAND": "O", "MASK_ELEM": "M"}
# Each of them, or float.
HOST_TYPES |= {"RESULT": "T", "RESULT_OPERAND": "O"}
SWIZZLE = re.compile(r"[xyzw]{1,4}|[rgba]{1,4}")


def kernel_files() -> list[Path]:
    """Return every text that Metal's compiler may get."""
    found = (ROOT / "kernels").rglob("*")
    return sorted(p for p in found if p.suffix in (".h", ".metal"))


def device_text(text: str) -> str:
    """Drop comments, join continued lines and drop what only the host compiles."""
    text = re.sub(r"//.*|/\*.*?\*/", "", text).replace("\\\n", " ")
    kept: list[str] = []
    hidden: list[bool | None] = []  # of each open #if; None: not about the compiler
    for line in text.splitlines():
        head, *rest = line.split() or [""]
        if head.startswith("#if"):
            is_version = rest == ["__METAL_VERSION__"]
            hidden.append(head == "#ifndef" if is_version else None)
        elif head == "#else" and hidden[-1] is not None:
            hidden[-1] = not hidden[-1]
        elif head == "#endif":
            hidden.pop()
        if not any(hidden):
            kept.append(line)
    return "\n".join(kept) + "\n"


@dataclass
class Declared:
    """Names that the kernels declare themselves."""

    names: set[str]
    globals: set[str]
    structs: set[str]
    results: dict[str, str]  # function → type
    members: dict[str, dict[str, str]]  # member → struct → type
    aliases: dict[str, str]
    macros: dict[str, str]


# As clang-format writes them: `int x`, `vec<T, 2> x`, `T* x`, and `T *x` in a macro.
_DECLARATOR = re.compile(
    r"(?:(?P<type>[A-Za-z_]\w*)\s+|(?<=\S)>\s+|(?<=[\w>])[*&]\s+|(?<=\w )[*&](?=\w))"
    r"\b(?P<name>[A-Za-z_]\w*)\s*(?=[;,=)(\[:])"
)
_NO_TYPE = {"return", "else", "case", "goto", "namespace", "define", "pragma"}


def declared(texts: dict[Path, str]) -> Declared:
    """Read the declarations of all kernels."""
    out = Declared(set(), set(), set(), {}, {}, {}, {})
    for text in texts.values():
        for macro, arguments in re.findall(r"#define (\w+)(?:\(([^)]*)\))?", text):
            out.names |= {macro, *NAME.findall(arguments)}
            out.globals.add(macro)
        out.macros.update(re.findall(r"#define (\w+) +(\S.*)", text))
        code = re.sub(r"^\s*#(?!define).*", "", text, flags=re.M)
        code = re.sub(r"\[\[.*?\]\]", "[[]]", code, flags=re.S)
        for found in _DECLARATOR.finditer(code):
            if found["type"] not in _NO_TYPE and found["name"] not in PLAIN:
                out.names.add(found["name"])
        for head in re.findall(r"template\s*<([^>]*)>", code):
            out.names |= set(re.findall(r"(\w+)\s*(?:,|$)", head))
        for body in re.findall(r"\benum\s*\{([^}]*)\}", code):
            out.names |= set(re.findall(r"(\w+)\s*=", body))
        for old, new in re.findall(r"typedef\s+([^;]+?)\s(\w+);", code):
            out.names.add(new)
            out.aliases.setdefault(new, " ".join(old.split()))
        for name in re.findall(r"\bstruct\s+(\w+)", code):
            out.names.add(name)
            out.structs.add(name)
        read_structs(code, out)
        read_globals(code, out)
    return out


def read_structs(code: str, out: Declared) -> None:
    """Note the members of every struct and their types."""
    whole = r"\bstruct\s+(\w+)\s*(?:<[^>]*>)?\s*\{(.*?)\n\};"
    member = r"^  (?=\S)([\w ]+?(?:<[^>]*>)?)\s?([*&]?)\s?(\w+)(\[.*\])?;"
    for struct, body in re.findall(whole, code, re.S):
        for kind, stars, name, array in re.findall(member, body, re.M):
            if not kind.startswith("typedef"):
                full = kind + stars + ("*" if array else "")
                out.members.setdefault(name, {})[struct] = full


def read_globals(code: str, out: Declared) -> None:
    """Note what is declared outside of functions and structs."""
    depth, top = 0, []
    for letter in re.sub(r"#define.*", "", code):
        depth -= letter == "}"
        top.append(letter if depth == 0 else "")
        depth += letter == "{"
    text = "".join(top)
    out.globals |= set(re.findall(r"\bstruct\s+(\w+)", text))
    out.globals |= set(re.findall(r"typedef[^;]*?(\w+);", text))
    for result, name in re.findall(r"([\w*&]+)\s+(\w+)\s*\(", text):
        if name not in PLAIN and result not in _NO_TYPE:
            out.globals.add(name)
    for result, name in re.findall(
        r"(?:inline|constexpr|METAL_FUNC|void)\s+((?:[\w]+\s)*[\w]+[*&]?)\s+(\w+)\s*\(",
        code,
    ):
        out.results[name] = result


def close(tokens: list[str], at: int) -> int:
    """Return where the bracket that opens at `at` closes; >> closes two."""
    start, depth = tokens[at], 0
    end_mark = {"<": ">", "(": ")", "[": "]"}[start]
    for end in range(at, len(tokens)):
        if start == "<" and tokens[end] == ">>":
            tokens[end : end + 1] = [">", ">"]
        depth += (tokens[end] == start) - (tokens[end] == end_mark)
        if depth == 0:
            return end
    raise AssertionError(f"{start} never closes")

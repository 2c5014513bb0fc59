"""Which constructs of Metal the kernels use, read from their own text.

docs/metal-rules.md says of each where else it is known to compile.  No compiler is
asked: tokens, declarations and the types that they show.
"""

from __future__ import annotations

import re
from pathlib import Path

import specialisations
from metal_text import (
    HOST_TYPES,
    LANGUAGE,
    NAME,
    NUMBERS,
    PLAIN,
    SPACES,
    SWIZZLE,
    TOKEN,
    VECTOR,
    Declared,
    close,
)
from metal_types import Types

Construct = tuple[str, str]  # the table of the page that lists it, and its form


def host_defines() -> set[str]:
    """Return the macros that the host defines, from the golden list."""
    return {name for s in specialisations.golden() for name in s.defines}


class Reader:
    """Lists the constructs of one text."""

    def __init__(self, text: str, own: Declared, hosts: set[str]) -> None:
        """Split the text into directives, attributes and code."""
        self.own, self.hosts, self.found = own, hosts, set[Construct]()
        for line in re.findall(r"^\s*#\s*(include <.*?>|pragma .*)", text, re.M):
            self.add("Preprocessor", "#" + " ".join(line.split()))
        if "__METAL_VERSION__" in text:
            self.add("Preprocessor", "__METAL_VERSION__")
        code = re.sub(r"^\s*#\s*define \w+(\([^)]*\))?", " ", text, flags=re.M)
        code = re.sub(r"^\s*#.*", "", code, flags=re.M)
        self.attributes(code)
        code = re.sub(r"\[\[.*?\]\]", " ", code, flags=re.S)
        self.tokens = TOKEN.findall(code)

    def add(self, kind: str, form: str) -> None:
        """Note one use."""
        self.found.add((kind, form))

    def attributes(self, code: str) -> None:
        """Note attributes, with the type of the parameter that has one."""
        for before, body in re.findall(r"(\w+\s+\w+|)\s*\[\[(.*?)\]\]", code, re.S):
            plain = re.sub(r"\(.*\)", "(n)", " ".join(body.split()), flags=re.S)
            if not before or plain.startswith(("buffer", "kernel", "max_total")):
                for one in plain.split(", "):
                    self.add("Attributes", f"[[{one}]]")
            else:
                self.add("Attributes", f"{before.split()[0]} [[{plain}]]")

    def read(self) -> None:
        """Walk the tokens once."""
        for at, token in enumerate(self.tokens):
            before = self.tokens[at - 1] if at else ""
            after = self.tokens[at + 1] if at + 1 < len(self.tokens) else ""
            if before == "." and SWIZZLE.fullmatch(token) and after != "(":
                if token not in self.own.members:
                    self.add("Types", f".{token}")
            elif "#" in (before, after):
                continue  # a part of a name
            elif token in SPACES:
                self.space(at)
            elif self.is_matrix(token) and NAME.fullmatch(after):
                if self.tokens[at + 2] in "[(":
                    self.matrix(at)
            elif token in LANGUAGE:
                self.language(at, token)
            elif token == "kernel":
                self.add("Attributes", "kernel")
            elif after == "(" and (token in HOST_TYPES or token in self.own.aliases):
                self.call(at)
            elif NAME.fullmatch(token) and self.is_foreign(token):
                self.foreign(at, token, after)

    def is_foreign(self, token: str) -> bool:
        """Whether neither the kernels, nor C++, nor the host declare a name."""
        return not (token in self.own.names or token in PLAIN or token in self.hosts)

    def language(self, at: int, token: str) -> None:
        """Note a word of C++, and what a template is of."""
        if token != "template":
            self.add("C++", token)
            return
        end = close(self.tokens, at + 1) + 1
        is_full = end == at + 3
        if self.tokens[end] != "struct":
            self.add("C++", "template <int N> function")
        elif self.tokens[end + 2] != "<":
            self.add("C++", "template <int N> struct")
        else:
            self.add("C++", f"template {'<>' if is_full else '<int N>'} struct S<1>")

    def foreign(self, at: int, token: str, after: str) -> None:
        """Note a name of Metal's library: a type, a function or a macro."""
        if after == "(":
            self.call(at)
        elif after == "<":
            end = close(self.tokens, at + 1)
            if self.tokens[end + 1] == "(":
                self.call(at)
            if token in ("vec", "simdgroup_matrix"):
                self.add("Types", self.spell(at, end + 1))
        elif after == "::":
            if token not in ("fast", "precise"):
                self.add("Library names", token)
        elif self.tokens[at - 1] == "::":
            self.add("Library names", f"{self.tokens[at - 2]}::{token}")
        elif token.isupper():
            self.add("Preprocessor", token)
        elif token == "metal":
            self.add("Library names", token)
        else:
            self.add("Types", token)

    def space(self, at: int) -> None:
        """Note an address space's form: pointer, reference, array or cast."""
        end, is_const = at + 1, False
        while self.tokens[end] in ("const", "typename"):
            is_const |= self.tokens[end] == "const"
            end += 1
        kind = self.tokens[end]
        while self.tokens[end + 1] in ("<", "::"):
            end = (
                close(self.tokens, end + 1) if self.tokens[end + 1] == "<" else end + 2
            )
        declarator = self.tokens[end + 1]
        value = "matrix" if self.is_matrix(kind) else "T"
        form = f"{self.tokens[at]} {'const ' if is_const else ''}{value}"
        if declarator in "*&":
            form += declarator
            if self.tokens[at - 1] == "(" and self.tokens[end + 2] == ")":
                form = f"({form})"
        else:
            form += " name[n]"
        self.add("Address spaces", form)

    def matrix(self, at: int) -> None:
        """Note an array of matrices, or a function that returns one."""
        self.add(
            "Matrices", "matrix name[n]" if self.tokens[at + 2] == "[" else "matrix f()"
        )

    def is_matrix(self, kind: str) -> bool:
        """Whether a type is one of the kernels' names for a simdgroup_matrix."""
        return self.own.aliases.get(kind, "").startswith("simdgroup_matrix")

    def spell(self, start: int, end: int) -> str:
        """Write tokens as the page does."""
        words = [HOST_TYPES.get(t, t) for t in self.tokens[start:end]]
        return "".join(words).replace(",", ", ")

    def call(self, at: int) -> None:
        """Note a call with the types of its operands."""
        opens = at + 1
        if self.tokens[opens] == "<":
            opens = close(self.tokens, opens) + 1
        name = self.spell(at, opens)
        if name in self.own.aliases:
            name = self.shown(self.types(at).alias(name))
        if self.tokens[at - 1] == "::":
            name = f"{self.tokens[at - 2]}::{name}"
        if self.tokens[at - 1] == ".":
            element = self.shown(self.types(at).postfix_before(at - 1))
            self.add("Matrices", f"{element}.{name}()")
            return
        types = [self.shown(t) for t in self.types(at).arguments(opens)]
        kind = "Functions"
        if "simdgroup" in name:
            kind = "Matrices"
        elif (
            name in NUMBERS
            or name in HOST_TYPES.values()
            or (name.startswith("vec<") or VECTOR.fullmatch(name))
        ):
            kind = "Conversions"
        self.add(kind, f"{name}({', '.join(types)})")

    def types(self, at: int) -> Types:
        """Return what reads the expression at a token."""
        return Types(self.tokens, self.own, at)

    def shown(self, kind: str | None) -> str:
        """Write a type as the page does: a value's without const and space."""
        if kind is None:
            return "_"
        words = [HOST_TYPES.get(w, w) for w in re.findall(r"\w+|[<>,*]", kind)]
        is_pointer = "*" in words
        words = [
            w for w in words if is_pointer or w not in SPACES | {"const", "static"}
        ]
        text = " ".join(words)
        text = re.sub(r" ?([<>*]) ?", r"\1", text).replace(" ,", ",")
        return re.sub(r"simdgroup_matrix<(\w+), 8, 8>", r"matrix<\1>", text)


def constructs(texts: dict[Path, str], own: Declared) -> set[Construct]:
    """List what texts use that declare, or see declared, names of their own."""
    hosts, found = host_defines(), set[Construct]()
    for text in texts.values():
        reader = Reader(text, own, hosts)
        reader.read()
        found |= reader.found
    return found


def host_types() -> set[Construct]:
    """List the types that only the host names, from the golden list."""
    names = ("ELEM", "OPERAND", "MASK_ELEM")
    every = specialisations.golden()
    return {("Types", s.defines[name]) for s in every for name in names}

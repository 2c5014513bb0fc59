"""The types of a kernel's expressions, as far as its declarations show them."""

from __future__ import annotations

import re

from metal_text import (
    HOST_TYPES,
    NAME,
    NUMBERS,
    SPACES,
    SWIZZLE,
    VECTOR,
    Declared,
    close,
)


class Types:
    """The types of expressions, as far as declarations show them."""

    def __init__(self, tokens: list[str], own: Declared, at: int) -> None:
        """Start at a token."""
        self.tokens, self.own, self.at = tokens, own, at

    def arguments(self, opens: int) -> list[str | None]:
        """Return the type of each argument of the call that opens at `opens`."""
        found: list[str | None] = []
        self.at = opens + 1
        while self.tokens[self.at] != ")":
            found.append(self.expression())
            if self.tokens[self.at] == ",":
                self.at += 1
        return found

    def peek(self) -> str:
        """Return the token at hand."""
        return self.tokens[self.at]

    def expression(self) -> str | None:
        """Read one expression; the wider operand gives the type."""
        kinds = [self.unary()]
        is_truth = False
        while self.peek() not in (",", ")", "]", ":", ";", "?"):
            operator = self.peek()
            is_truth |= operator in ("==", "!=", "<", ">", "<=", ">=", "&&", "||")
            is_shift = operator in ("<<", ">>")
            self.at += 1
            right = self.unary()
            kinds += [] if is_shift else [right]
        if self.peek() == "?":
            self.at += 1
            kinds = [self.expression()]
            self.at += 1  # the colon
            kinds.append(self.expression())
            is_truth = False
        return "bool" if is_truth else self.widest(kinds)

    def widest(self, kinds: list[str | None]) -> str | None:
        """Return what an operator makes of its operands' types."""
        known = [self.plain(k) for k in kinds if k]
        pointers = [k for k in known if "*" in k]
        if pointers:
            return pointers[0]
        ranked = [k for k in known if k in NUMBERS]
        if len(ranked) == len(known) and ranked:
            return max(ranked, key=NUMBERS.index)
        return known[0] if known else None

    def plain(self, kind: str) -> str:
        """Resolve the kernels' own typedefs."""
        words = kind.split()
        base = words[-1].rstrip("*&") if words else ""
        if base in self.own.aliases:
            kind = kind.replace(base, self.alias(base))
        kind = kind.replace("&", "")
        if "*" not in kind:
            kind = " ".join(w for w in kind.split() if w not in SPACES | {"const"})
        return kind

    def alias(self, name: str) -> str:
        """Return what the nearest typedef before this place calls so."""
        for end in range(self.at, 0, -1):
            if self.tokens[end] == name and self.tokens[end + 1] == ";":
                start = end
                while self.tokens[start] not in ("typedef", ";"):
                    start -= 1
                if self.tokens[start] == "typedef":
                    return " ".join(self.tokens[start + 1 : end])
        return self.own.aliases[name]

    def unary(self) -> str | None:
        """Read an operand with what stands before it."""
        token = self.peek()
        if token in ("-", "!", "~", "*", "&", "+"):
            self.at += 1
            kind = self.unary()
            if token == "*" and kind:
                kind = kind.replace("*", "", 1)
            return "bool" if token == "!" else kind
        if token == "(":
            self.at += 1
            if self.peek() in SPACES:
                start = self.at
                while self.peek() != ")":
                    self.at += 1
                kind = " ".join(self.tokens[start : self.at])
                self.at += 1
                self.unary()
                return kind
            inner = self.expression()
            self.at += 1
            return self.postfix(inner)
        return self.postfix(self.primary())

    def primary(self) -> str | None:
        """Read a literal, a name or a call."""
        token = self.peek()
        self.at += 1
        if token[0].isdigit() or token[0] == ".":
            if token[-1] in "uU":
                return "uint"
            is_float = "." in token or (token[-1] == "f" and "x" not in token)
            if self.peek() in "-+" and token[-1] == "e":  # 1e-3f
                self.at += 2
            return "float" if is_float else "int"
        if token in ("true", "false"):
            return "bool"
        if self.peek() == "::" and token == "mem_flags":
            self.at += 2
            return token
        while self.peek() == "::":
            token = self.tokens[self.at + 1]
            self.at += 2
        if self.peek() == "<" and token in ("as_type", "vec", "simdgroup_matrix"):
            end = close(self.tokens, self.at)
            inside = " ".join(self.tokens[self.at + 1 : end])
            self.at = end + 1
            self.arguments(self.at)
            self.at += 1
            return inside if token == "as_type" else f"{token}<{inside}>"
        if self.peek() == "(":
            return self.called(token)
        return self.variable(token)

    def called(self, name: str) -> str | None:
        """Read a call's arguments; return its result's type."""
        kinds = self.arguments(self.at)
        self.at += 1
        if name in NUMBERS or name in HOST_TYPES or VECTOR.fullmatch(name):
            return name
        if name in self.own.results:
            return self.own.results[name]
        if name in (
            "min",
            "max",
            "abs",
            "fma",
            "log2",
            "exp2",
            "tanh",
        ) or name.startswith("simd_s"):
            return self.widest(kinds[: 1 if name.startswith("simd") else None])
        return None

    def variable(self, name: str) -> str | None:
        """Return the type in the nearest declaration before this use."""
        if name in self.own.macros:  # a constant
            body = self.own.macros[name]
            if body in self.own.macros:
                return self.variable(body)
            return "float" if re.search(r"\d\.\d|\de\d", body) else "int"
        for end in range(self.at - 2, 0, -1):
            if self.tokens[end] != name or self.tokens[end + 1] not in ";,=)[(":
                continue
            kind = self.declared_before(end)
            if kind and self.tokens[end + 1] == "[":
                return (kind if kind.split()[0] in SPACES else f"thread {kind}") + "*"
            if kind:
                return kind
        return None

    def declared_before(self, end: int) -> str | None:
        """Return the type that ends in front of the declarator at `end`, if any."""
        start = end
        while self.tokens[start - 1] in "*&":
            start -= 1
        stars = "".join(self.tokens[start:end])
        if self.tokens[start - 1] == ">":
            opening = start - 2
            while self.tokens[opening] != "<":
                opening -= 1
            return "".join(self.tokens[opening - 1 : start]) + stars
        kind = self.tokens[start - 1]
        if not self.is_type(kind):
            return None
        words = [kind]
        while self.tokens[start - 2] in SPACES | {"const"}:
            words.insert(0, self.tokens[start - 2])
            start -= 1
        return " ".join(words) + stars

    def is_type(self, name: str) -> bool:
        """Whether a name is that of a type."""
        is_own = name in self.own.aliases or name in self.own.structs
        is_vector = VECTOR.fullmatch(name) is not None
        return is_own or is_vector or name in [*NUMBERS, *HOST_TYPES, "Packed"]

    def postfix(self, kind: str | None) -> str | None:
        """Follow members and indices."""
        while self.peek() in (".", "["):
            if self.peek() == "[":
                self.at += 1
                self.expression()
                self.at += 1
                kind = self.element(kind)
                continue
            name = self.tokens[self.at + 1]
            self.at += 2
            if self.peek() == "(":
                self.at = close(self.tokens, self.at) + 1
                continue
            kind = self.member(kind, name)
        return kind

    def member(self, kind: str | None, name: str) -> str | None:
        """Return the type of a member or of a vector's component."""
        if SWIZZLE.fullmatch(name) and len(name) == 1 and kind:
            vector = self.element(self.plain(kind))
            if vector != self.plain(kind):
                return vector
        of = self.own.members.get(name, {})
        struct = self.plain(kind or "")
        kinds = {of[struct]} if struct in of else set(of.values())
        return self.plain(kinds.pop()) if len(kinds) == 1 else None

    def element(self, kind: str | None) -> str | None:
        """Return what an index gives: of an array, pointer, vector or matrix."""
        if kind is None:
            return None
        kind = self.plain(kind)
        if "*" in kind:
            return self.plain(kind.replace("*", "", 1))
        found = re.search(r"(?:vec|simdgroup_matrix) ?< ?(\w+)", kind)
        if found:
            return found[1]
        found = VECTOR.fullmatch(kind)
        return found[1] if found else kind

    def postfix_before(self, dot: int) -> str | None:
        """Return the type of the expression that ends in front of a dot."""
        start = dot - 1
        depth = 0
        while start >= 0:
            token = self.tokens[start]
            depth += token in ")]"
            depth -= token in "(["
            is_link = NAME.fullmatch(token) or token in ".[]" or depth > 0
            if depth < 0 or not is_link:
                break
            start -= 1
        self.at = start + 1
        kind = self.primary()
        while self.at < dot:
            if self.peek() == "[":
                self.at += 1
                self.expression()
                self.at += 1
                kind = self.element(kind)
            else:
                kind = self.member(kind, self.tokens[self.at + 1])
                self.at += 2
        return self.plain(kind) if kind else None

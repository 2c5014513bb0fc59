"""Small mistakes: what is looked for in a line of a source, and what is put there.

Comments, strings, docstrings and what only a Mac's build compiles are left alone.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Callable

Rules = tuple[tuple[str, "str | Callable[[re.Match[str]], str]"], ...]
HIDDEN = "\0"  # stands for what no rule may touch


@dataclass(frozen=True)
class Mutant:
    """One line of a file of this tree, counted from 0, and what takes its place."""

    file: str
    line: int
    old: str
    new: str

    def __str__(self) -> str:
        """Name the place, and both lines."""
        new = self.new.strip() or "nothing"
        return f"{self.file}:{self.line + 1}: {self.old.strip()} -> {new}"


def _swap(match: re.Match[str]) -> str:
    return f"{match[1]}({match[3]}, {match[2]}"


def _other_side(match: re.Match[str]) -> str:
    return match[1] + {"left": "right", "right": "left"}[match[2]]


ARITHMETIC: Rules = (
    (r" <= ", " < "), (r" >= ", " > "), (r" < ", " <= "), (r" > ", " >= "),
    (r" == ", " != "), (r" != ", " == "), (r" \+ ", " - "), (r" - ", " + "),
    (r" \+= ", " -= "), (r" \*= ", " += "), (r" \* ", " + "), (r" / ", " * "),
    (r" & ", " | "), (r"\bmin\(", "max("), (r"\bmax\(", "min("),
    (r"(window_)(left|right)", _other_side),  # the wrong side of a mask
    (r"(\w+)\((\w[\w.]*), (\w[\w.]*)\b(?=[,)])", _swap),  # arguments
)  # fmt: skip
CLANG: Rules = (
    *ARITHMETIC,
    (r" && ", " || "), (r" \|\| ", " && "), (r" % ", " / "), (r"\+ 1\b", "+ 2"),
    # A statement that is left out: a barrier, a rescaling, a step of a loop.
    (r"^ +[\w:]+(<[^;]*>)?\([^;]*\);$", ""), (r"^ +[\w.\[\]]+ [*+|]?= [^;]*;$", ""),
)  # fmt: skip
KERNELS: Rules = (
    *CLANG,
    (r"\b1\.0f", "0.0f"), (r"\b0\.0f", "1.0f"), (r" = 0;", " = 1;"),
    (r"\bp\.k\.row", "p.q.row"), (r"\bp\.q\.row", "p.k.row"),  # strides
    (r"\bp\.v\.row", "p.k.row"), (r"\bp\.out\.row", "p.q.row"),
)  # fmt: skip
HOST: Rules = (
    *CLANG,
    (r"\btrue\b", "false"), (r"\bfalse\b", "true"), (r"!(?=[\w(])", ""),
    (r"\[0\]", "[1]"), (r"\[1\]", "[0]"), (r" = 0;", " = 1;"), (r"-1\b", "0"),
    # A check that is missing, or that always strikes.
    (r"^( +(?:\} else )?if) \((?!constexpr).*\) \{$", r"\1 (false) {"),
    (r"^( +(?:\} else )?if) \((?!constexpr).*\) \{$", r"\1 (true) {"),
    (r"^( +if) \(.*\) (?=(return|throw|continue|break)\b)", r"\1 (false) "),
    (r"^ +[\w.>-]+\([^;]*\);$", ""),
)  # fmt: skip
PYTHON: Rules = (
    *ARITHMETIC,
    (r" and ", " or "), (r" or ", " and "), (r"\bnot (?!in\b)", ""),
    (r" is not None", " is None"), (r" is None", " is not None"),
    (r" not in ", " in "), (r" // ", " * "), (r" % ", " // "),
    (r"\bTrue\b", "False"), (r"\bFalse\b", "True"),  # wrong defaults among them
    (r"(?<![\w.])0(?![\w.])", "1"), (r"(?<![\w.-])1(?![\w.])", "2"),
    (r"(?<![\w)\]])-1\b", "0"), (r"\b0\.0\b", "1.0"), (r"\b1\.0\b", "0.5"),
    (r"^( +(?:el)?if) .*:$", r"\1 False:"), (r"^( +(?:el)?if) .*:$", r"\1 True:"),
    (r"^( +)return [^(\[{]+$", r"\1return None"), (r"^( +)[\w.]+\(.*\)$", r"\1pass"),
)  # fmt: skip


def _hide(match: re.Match[str]) -> str:
    return HIDDEN * len(match[0])


def _clang_code(text: str) -> list[str]:
    """Return the lines of C++ or Metal; what rules leave alone is hidden."""
    lines, of_a_mac = [], False
    for line in text.split("\n"):
        if line.startswith("#"):
            of_a_mac = line.startswith("#ifdef ORCHARD_WITH_METAL")
        code = re.sub(r'"(\\.|[^"\\])*"', _hide, line).partition("//")[0].rstrip()
        skipped = ("#", "typedef", "template", "static_assert", "using ", "namespace")
        is_left = of_a_mac or code.lstrip().startswith(skipped)
        lines.append("" if is_left else code)
    return lines


def _python_code(text: str) -> list[str]:
    """Return the lines of Python; what rules leave alone is hidden."""
    lines = [list(line) for line in text.split("\n")]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    for token in tokens:
        name = tokenize.tok_name[token.type]
        if name not in ("STRING", "COMMENT") and not name.startswith("FSTRING"):
            continue
        (first, begin), (last, end) = token.start, token.end
        for number in range(first, last + 1):
            line = lines[number - 1]
            start = begin if number == first else 0
            stop = end if number == last else len(line)
            line[start:stop] = (" " if name == "COMMENT" else HIDDEN) * (stop - start)
    joined = ["".join(line).rstrip() for line in lines]
    skipped = ("import ", "from ", "def ", "@", "class ")
    return [
        # A default is a part of a definition of several lines, or of one.
        "" if line.lstrip().startswith(skipped) and "=" not in line else line
        for line in joined
    ]


def mutants_of(file: str, text: str, rules: Rules) -> Iterator[Mutant]:
    """Yield all that the rules make of a file's text, each once."""
    codes = (_python_code if file.endswith(".py") else _clang_code)(text)
    lines = text.split("\n")
    seen = set()
    for number, code in enumerate(codes):
        for pattern, put in rules:
            for match in re.finditer(pattern, code):
                new = match.expand(put) if isinstance(put, str) else put(match)
                old = lines[number]
                changed = old[: match.start()] + new + old[match.end() :]
                mutant = Mutant(file, number, old, changed)
                if changed != old and mutant not in seen:
                    seen.add(mutant)
                    yield mutant


def mutated(text: str, mutant: Mutant) -> str:
    """Return a text with its mutant."""
    lines = text.split("\n")
    assert lines[mutant.line] == mutant.old
    lines[mutant.line] = mutant.new
    return "\n".join(lines)


def of_same_length(text: str, mutant: Mutant) -> str:
    """Return a kernel's text with its mutant, of the same length: comments give way."""
    longer = len(mutant.new) - len(mutant.old)
    lines = mutated(text, mutant).split("\n")
    lines[mutant.line] += " " * -longer
    if longer > 0:
        first = next(i for i, at in enumerate(lines) if at.startswith("// "))
        assert len(lines[first]) > longer + 2
        lines[first] = lines[first][: len(lines[first]) - longer]
    changed = "\n".join(lines)
    assert len(changed) == len(text)
    return changed

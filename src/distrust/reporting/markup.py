"""Markup: how text, names and whole tables are written in LaTeX, Markdown and HTML; what a name holds stays text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

Lines = Sequence[Sequence[str]]

TEX = {
    "\\": r"\textbackslash{}", "{": r"\textbraceleft{}", "}": r"\textbraceright{}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "−": "$-$",
    "–": "--", "→": r"$\rightarrow$", **{sign: f"\\{sign}" for sign in "&%$#_"},
}  # fmt: skip


class Name(str):
    """A word that is typed, such as a method; set apart where the markup can."""


class Markup(NamedTuple):
    """One way to write.

    Args:
        words: escapes text.
        name: writes a `Name`.
        whole: a table from its caption, its label, which columns hold numbers, its headings and its lines.
    """

    words: Callable[[str], str]
    name: Callable[[str], str]
    whole: Callable[[str, str, Sequence[bool], Sequence[str], Lines], str]

    def text(self, *parts: str) -> str:
        """Words and names, one after the other, on one line."""
        lines = ((self.name if isinstance(part, Name) else self.words, " ".join(part.splitlines())) for part in parts)
        return "".join(write(line) for write, line in lines)


def latex(text: str) -> str:
    """Text as LaTeX and BibTeX print it; braces stay balanced, which BibTeX counts."""
    return "".join(TEX.get(sign, sign) for sign in text)


def plain_key(*parts: str) -> str:
    """A label or a key that LaTeX and BibTeX take: letters, digits, dots and dashes."""
    return re.sub(r"[^\w.-]|_", "-", "-".join(filter(None, parts)), flags=re.ASCII)


def markdown(head: Sequence[str], rows: Lines) -> str:
    """A table of Markdown from cells that are marked up already, each line with its end."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _markdown_words(text: str) -> str:
    """Signs that Markdown would act on; `_` inside a word and brackets that no parenthesis follows are none."""
    acting = re.sub(r"[\\`*~$^{}#]|(?<!\w)_|_(?!\w)|\](?=[(\[:])", r"\\\g<0>", text)
    return acting.replace("&", "&amp;").replace("<", "&lt;")


def _markdown_name(text: str) -> str:
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def _latex_table(caption: str, label: str, numbers: Sequence[bool], head: Sequence[str], lines: Lines) -> str:
    columns = "".join("r" if number else "l" for number in numbers)
    told = [" & ".join(line) for line in lines]
    told = [f"{{}}{line}" if line.startswith(("[", "*")) else line for line in told]  # which \\ would take for its own
    return "\n".join([
        "% \\usepackage{booktabs}", "\\begin{table}", "  \\centering", f"  \\caption{{{caption}}}",
        f"  \\label{{tab:{label}}}", f"  \\begin{{tabular}}{{{columns}}}", "    \\toprule",
        f"    {' & '.join(head)} \\\\", "    \\midrule", *(f"    {line} \\\\" for line in told), "    \\bottomrule",
        "  \\end{tabular}", "\\end{table}", "",
    ])  # fmt: skip


def _html_table(caption: str, label: str, numbers: Sequence[bool], head: Sequence[str], lines: Lines) -> str:
    rows = [("th", head), *(("td", line) for line in lines)]
    told = ("".join(f"<{tag}>{cell}</{tag}>" for cell in line) for tag, line in rows)
    return f"<table><caption>{caption}</caption>\n{''.join(f'<tr>{line}</tr>{chr(10)}' for line in told)}</table>\n"


def _text_table(caption: str, label: str, numbers: Sequence[bool], head: Sequence[str], lines: Lines) -> str:
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    padded = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in (head, *lines))
    return "".join(f"{line.rstrip()}\n" for line in padded)


MARKUP = {
    "text": Markup(str, str, _text_table),
    "markdown": Markup(
        _markdown_words, _markdown_name, lambda caption, label, numbers, *cells: f"{caption}\n\n{markdown(*cells)}"
    ),
    "latex": Markup(latex, lambda text: f"\\texttt{{{latex(text)}}}", _latex_table),
    "html": Markup(escape, escape, _html_table),
}

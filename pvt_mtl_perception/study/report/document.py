"""A report as sections of text, tables and figures, written as one HTML file or as Markdown with pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from pvt_mtl_perception.evaluation.html import Table, png_address
from pvt_mtl_perception.study.folder import write_atomically

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Figure:
    """A picture with a line below it.

    Attributes:
        name: of its file, without suffix.
        png: its content.
        caption: the line.
    """

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Item:
    """A line of a list.

    Attributes:
        text: the line.
        badge: a word that stands before it, such as a verdict; may be empty.
    """

    text: str
    badge: str = ""


@dataclass(frozen=True)
class Part:
    """A part of a section.

    Attributes:
        title: may be empty.
        text: paragraphs.
        items: a list below them.
        figures, tables: after that, in this order.
    """

    title: str = ""
    text: Sequence[str] = ()
    items: Sequence[Item] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Section:
    """A part of the report with a heading.

    Attributes:
        title: the heading.
        parts: what stands below.
    """

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Document:
    """The report.

    Attributes:
        title: of the whole.
        lead: paragraphs below the title.
        sections: in order.
    """

    title: str
    lead: Sequence[str]
    sections: Sequence[Section]


def _markdown(text: str) -> str:
    """Text whose characters mean nothing to Markdown, also in a cell of a table."""
    escaped = re.sub(r"([\\`*|<\[\]])", r"\\\1", text)
    # Within a word an underscore is only that.
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", escaped)


def _numeric(table: Table) -> list[bool]:
    """Whether each column holds numbers, to be aligned at the right."""
    return [
        all(re.match(r"[-+<\d]|$", row[column]) for row in table.rows) for column in range(len(table.head))
    ]


def _render(template: str, document: Document, autoescape: bool) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["address"] = png_address
    environment.filters["md"] = _markdown
    environment.filters["numeric"] = _numeric
    return environment.get_template(template).render(document=document)


def write_html(path: Path, document: Document) -> None:
    """Writes the report as one HTML file that holds its pictures; replaces the file whole.

    Raises:
        OSError: from the file system.
    """
    write_atomically(path, _render("report.html.jinja", document, autoescape=True))


def write_markdown(path: Path, document: Document) -> None:
    """Writes the report as Markdown with its pictures in ``figures`` beside it.

    Raises:
        OSError: from the file system.
    """
    folder = path.parent / "figures"
    folder.mkdir(exist_ok=True)
    figures = [figure for section in document.sections for part in section.parts for figure in part.figures]
    for figure in figures:
        (folder / f"{figure.name}.png").write_bytes(figure.png)
    text = _render("report.md.jinja", document, autoescape=False)
    write_atomically(path, re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")

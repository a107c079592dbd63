"""What MkDocs asks while it builds the site: pages from other folders, tables of results, the command line.

- Documents that lie elsewhere (the README, the lab book, cards of checkpoints, ...) become pages: `SOURCES`. Their
  links are written for a reader of the repository, and are turned into links of the site.
- A line `<!-- table: NAME -->` becomes a table of `evals.quoted`, a line `<!-- commands -->` the help of all commands.
"""

from __future__ import annotations

import html
import os
import posixpath
import re
from collections.abc import Iterator
from typing import Any

import click
from mkdocs.structure.files import File, Files

from evals.common import RESULTS, ROOT
from evals.quoted import TABLES
from gmae_tools.cli import main

# Where a file of the repository appears on the site; * stands for a part of a name.
SOURCES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "checkpoints/*/README.md": "checkpoints/*.md",
    "evals/README.md": "lab-book.md",
    "evals/studies/*.md": "lab-book/*.md",
    "evals/results/*.md": "lab-book/results/*.md",
    "evals/results/*.csv": "lab-book/results/*.csv",
    "evals/results/*.jsonl": "lab-book/results/*.jsonl",
    "evals/results/*.png": "lab-book/results/*.png",
}
LINK = re.compile(r"(!?)\[(?P<text>[^\]]*)\]\((?P<path>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")
TABLE = re.compile(r"^<!-- table: ([\w-]+) -->$", re.MULTILINE)
COMMANDS = "<!-- commands -->"


def places() -> dict[str, str]:
    """Paths on the site by paths in the repository, of everything in `SOURCES` and `docs/`."""
    found = {path.relative_to(ROOT).as_posix(): path.relative_to(ROOT / "docs").as_posix()
             for path in (ROOT / "docs").rglob("*") if path.is_file()}  # fmt: skip
    for pattern, place in SOURCES.items():
        match = re.compile(re.escape(pattern).replace(r"\*", "([^/]+)"))
        for path in ROOT.glob(pattern):
            name = path.relative_to(ROOT).as_posix()
            found[name] = place.replace("*", "".join(match.fullmatch(name).groups()))  # type: ignore[union-attr]
    return found


def on_files(files: Files, config: Any, **_: object) -> Files:
    """Add what lies outside `docs/`."""
    for name, place in places().items():
        if not name.startswith("docs/"):
            files.append(File.generated(config, place, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """Put in what is generated, let links lead to pages of the site, and let guides be found before the API."""
    markdown = TABLE.sub(lambda found: TABLES[found[1]](RESULTS), markdown)
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, "\n".join(command_pages()))
    where = places()
    here = page.file.src_uri
    if here.startswith(("api/", "lab-book/")):
        page.meta.setdefault("search", {"boost": 0.5})
    home = next((name for name, place in where.items() if place == here), f"docs/{here}")
    return LINK.sub(lambda found: relinked(found, home, here, where), markdown)


def relinked(link: re.Match[str], home: str, here: str, where: dict[str, str]) -> str:
    """A link of a document in the repository, `home`, as it has to be on its page, `here`.

    What exists in the repository and not on the site, such as code, keeps its text alone.
    """
    target = posixpath.normpath(posixpath.join(posixpath.dirname(home), link["path"]))
    place = where.get(target) or where.get(f"{target}/README.md")
    if place:
        path = posixpath.relpath(place, posixpath.dirname(here) or ".")
        return f"{link[1]}[{link['text']}]({path}{link['anchor'] or ''})"
    return link["text"] if os.path.lexists(ROOT / target) else link[0]


# --- the command line --------------------------------------------------------------------------------


def command_pages() -> Iterator[str]:
    """The help of every command in Markdown, with a heading for each."""
    yield from command_page(main, click.Context(main, info_name="gmae-tools", **main.context_settings), 0)


def command_page(command: click.Command, context: click.Context, level: int) -> Iterator[str]:
    """The help of a command and of its sub-commands."""
    if level:
        yield f"\n{'#' * (level + 1)} {context.command_path}\n"
        yield from help_text(command)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"\n```text\n{context.command_path} {usage}\n```\n"
    records = [each.get_help_record(context) for each in command.params]
    if any(record and record[1] for record in records):
        yield "| option | |\n|---|---|"
        yield from (
            f"| {cell(record[0], code=True)} | {cell(record[1])} |" for record in records if record and record[1]
        )
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                yield from command_page(inner, click.Context(inner, info_name=name, parent=context), level + 1)


def help_text(command: click.Command) -> Iterator[str]:
    """The paragraphs of a help; those that click is told not to wrap stay as they are."""
    for paragraph in (command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):
            yield f"\n```text\n{paragraph[1:].strip()}\n```\n"
        else:
            yield f"\n{escaped(' '.join(paragraph.split()))}\n"


def cell(text: str, code: bool = False) -> str:
    """Text in a cell of a table."""
    text = " ".join(text.split())
    if code:
        return f"<code>{html.escape(text).replace('|', '&#124;')}</code>"
    return escaped(text).replace("|", "&#124;")


def escaped(text: str) -> str:
    """Plain text as Markdown that says the same."""
    return re.sub(r"([\\`*_\[\]])", r"\\\1", html.escape(text, quote=False))

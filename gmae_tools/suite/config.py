"""Which benchmarks there are: a TOML file that names scripts, their arguments, and the files they write.

`evals/report.toml` is such a file, and explains itself. What cannot be meant is refused before anything is run.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gmae_tools.errors import GmaeToolsError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RESULTS, WORK, CHECKPOINT = "results", "work", "checkpoint"
OWN_NAMES = (CHECKPOINT, RESULTS, WORK)  # that arguments may refer to, beside those of data sets
TABLES, FIGURES = (".csv",), (".png", ".svg")  # suffixes
_PART, _FILE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*"), re.compile(r"[A-Za-z0-9][\w.-]*")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Table:
    """A CSV file that a part writes, and how it is to be read.

    Attributes:
        file: its name in the folder of results.
        caption: what is in it, beyond the question.
        higher, lower: columns whose highest or lowest number is the best.
        within: columns that have to be equal for rows to compete.
        apart: what stands in the first column of rows that do not compete.
    """

    file: str
    caption: str = ""
    higher: tuple[str, ...] = ()
    lower: tuple[str, ...] = ()
    within: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A PNG or SVG file that a part writes: its name in the folder of results, and what it shows."""

    file: str
    caption: str = ""


@dataclass(frozen=True)
class Part:
    """A benchmark.

    Attributes:
        name: lower-case letters, digits, dashes.
        question: that it answers.
        script: a Python file, whose docstring states the protocol.
        arguments: for it, with placeholders: `{checkpoint}`, `{results}` (folder for tables and figures), `{work}`
            (folder for what it needs to go on after an interruption), and `{name}` of a data set.
        quick: further arguments of a quick run.
        tables, figures: that it writes; a part that does not write all of them has failed.
    """

    name: str
    question: str
    script: Path
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()

    @property
    def uses(self) -> set[str]:
        """The placeholders in its arguments."""
        return {name for argument in (*self.arguments, *self.quick) for name in _PLACEHOLDER.findall(argument)}

    @property
    def files(self) -> list[str]:
        """All that it has to write."""
        return [table.file for table in self.tables] + [figure.file for figure in self.figures]

    def public_name(self, file: str) -> str:
        """A file's name beside those of other parts."""
        return file if file.replace("_", "-").startswith(self.name) else f"{self.name}-{file}"


@dataclass(frozen=True)
class DataSet:
    """Where a data set may lie under the folder of all (the first that is there counts), and how to get it."""

    paths: tuple[str, ...]
    get: str = ""


@dataclass(frozen=True)
class Config:
    """What a configuration file says."""

    title: str
    parts: tuple[Part, ...]
    data: Mapping[str, DataSet] = field(default_factory=dict)

    def check_names(self, names: Collection[str]) -> None:
        """Make sure that there are parts of these names.

        Raises:
            GmaeToolsError: there is none of some name.
        """
        known = [part.name for part in self.parts]
        for name in names:
            if name not in known:
                raise GmaeToolsError(f"there is no part {name}; there are {', '.join(known)}")

    def find_data(
        self, root: Path | None, given: Mapping[str, Path] | None = None
    ) -> tuple[dict[str, Path], dict[str, str]]:
        """Where the data sets are, and what to pass for those that are missing.

        Args:
            root: folder of the data sets.
            given: the places of some of them, by name.

        Raises:
            GmaeToolsError: a given one is unknown, or not there.
        """
        given = given or {}
        for name, path in given.items():
            if name not in self.data:
                raise GmaeToolsError(f"there is no data set {name}; there are: {', '.join(self.data) or 'none'}")
            if not path.exists():
                raise GmaeToolsError(f"{name}: there is no {path}")
        found, missing = {}, {}
        for name, data in self.data.items():
            places = [given[name]] if name in given else [root / path for path in data.paths] if root else []
            place = next((path for path in places if path.exists()), None)
            if place:
                found[name] = place
            else:
                missing[name] = f"needs {name}: pass --data {name}=PATH" + f", or {data.get}" * bool(data.get)
        return found, missing


def fill(argument: str, values: Mapping[str, str]) -> str:
    """An argument whose placeholders are replaced, except those that have no value."""
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), argument)


def read_config(path: Path) -> Config:
    """Read a configuration; scripts are found beside it.

    Raises:
        GmaeToolsError: the file cannot be read, or says something that cannot be meant.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GmaeToolsError(f"{path}: cannot be read ({error.strerror}); give a TOML file, or --all") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GmaeToolsError(f"{path}: not TOML: {error}") from None
    try:
        return _parse(_Entry(document, "the file"), path.parent)
    except GmaeToolsError as error:
        raise GmaeToolsError(f"{path}: {error}") from None


class _Entry:
    """A table of TOML, asked for what it may hold; what nobody has asked for is refused at the end."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise GmaeToolsError(f"{where} has to be a table")
        self.values, self.where, self.asked = value, where, list[str]()

    def get(self, name: str) -> object:
        self.asked.append(name)
        return self.values.get(name)

    def text(self, name: str, default: str | None = None) -> str:
        value = self.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise GmaeToolsError(f"{self.where}: {name} has to be there, and a text")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.get(name) or []
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise GmaeToolsError(f"{self.where}: {name} has to be a list of texts")
        return tuple(value)

    def words(self, name: str) -> tuple[str, ...]:
        """A text as a shell takes it apart."""
        try:
            return tuple(shlex.split(self.text(name, "")))
        except ValueError as error:
            raise GmaeToolsError(f"{self.where}: {name}: {error}") from None

    def entries(self, name: str) -> list[_Entry]:
        value = self.get(name) or []
        if not isinstance(value, list):
            raise GmaeToolsError(f"{self.where}: {name} has to be a list of tables")
        return [_Entry(each, f"{self.where}: {name} {number}") for number, each in enumerate(value, 1)]

    def named_entries(self, name: str) -> dict[str, _Entry]:
        value = self.get(name) or {}
        return {key: _Entry(each, f"{name}.{key}") for key, each in _Entry(value, name).values.items()}

    def end(self) -> None:
        for name in self.values:
            if name not in self.asked:
                raise GmaeToolsError(f"{self.where}: {name} is unknown; there are {', '.join(self.asked)}")


def _parse(entry: _Entry, folder: Path) -> Config:
    title = entry.text("title")
    data = {name: _parse_data(each) for name, each in entry.named_entries("data").items()}
    parts = tuple(_parse_part(each, folder) for each in entry.entries("parts"))
    entry.end()
    if not parts:
        raise GmaeToolsError("there has to be a part: [[parts]]")
    taken: set[str] = set()
    for part in parts:
        _check(part, (*OWN_NAMES, *data))
        for name in (part.name, *map(part.public_name, part.files)):
            if name in taken:
                raise GmaeToolsError(f"part {part.name}: {name} is there already")
            taken.add(name)
    return Config(title, parts, data)


def _parse_data(entry: _Entry) -> DataSet:
    data = DataSet(entry.texts("paths"), entry.text("get", ""))
    entry.end()
    return data


def _parse_part(entry: _Entry, folder: Path) -> Part:
    name = entry.text("name")
    entry.where = f"part {name}"
    part = Part(
        name=name,
        question=entry.text("question"),
        script=folder / entry.text("script"),
        arguments=entry.words("arguments"),
        quick=entry.words("quick"),
        tables=tuple(map(_parse_table, entry.entries("tables"))),
        figures=tuple(map(_parse_figure, entry.entries("figures"))),
    )
    entry.end()
    return part


def _parse_table(entry: _Entry) -> Table:
    table = Table(
        file=entry.text("file"),
        caption=entry.text("caption", ""),
        higher=entry.texts("higher"),
        lower=entry.texts("lower"),
        within=entry.texts("within"),
        apart=entry.texts("apart"),
    )
    entry.end()
    return table


def _parse_figure(entry: _Entry) -> Figure:
    figure = Figure(entry.text("file"), entry.text("caption", ""))
    entry.end()
    return figure


def _check(part: Part, known: Sequence[str]) -> None:
    """What would go wrong later."""
    where = f"part {part.name}"
    if not _PART.fullmatch(part.name):
        raise GmaeToolsError(f"{where}: names are of lower-case letters, digits and dashes")
    if not part.script.is_file():
        raise GmaeToolsError(f"{where}: there is no script {part.script}")
    for name in part.uses - set(known):
        raise GmaeToolsError(f"{where}: {{{name}}} is unknown; there are {', '.join(known)}")
    for items, suffixes in ((part.tables, TABLES), (part.figures, FIGURES)):
        for item in items:
            if not _FILE.fullmatch(item.file) or Path(item.file).suffix not in suffixes:
                raise GmaeToolsError(f"{where}: {item.file} has to be the name of a {' or '.join(suffixes)} file")

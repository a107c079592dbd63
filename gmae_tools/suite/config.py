"""The configuration of benchmarks: a TOML file that names scripts, their arguments, and the files that they write.

`evals/report.toml` is such a file and explains the keys. Mistakes are refused before anything is run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from gmae_tools.errors import GmaeToolsError

RESULTS, WORK, CHECKPOINT = "results", "work", "checkpoint"
OWN_NAMES = (CHECKPOINT, RESULTS, WORK)  # placeholders of arguments beside the names of data sets
TABLES, FIGURES = (".csv",), (".png", ".svg")  # suffixes
_PART, _FILE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*"), re.compile(r"[A-Za-z0-9][\w.-]*")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_PLACE = re.compile(r"\.(\w+)(?:\[(\d+)\])?")  # of msgspec's messages: $.parts[0].tables[1].higher


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A CSV file that a part writes, and how it is shown."""

    file: str  # name in the folder of results
    caption: str = ""
    higher: tuple[str, ...] = ()  # columns whose highest number is the best
    lower: tuple[str, ...] = ()
    within: tuple[str, ...] = ()  # columns in which rows must agree to be compared
    apart: tuple[str, ...] = ()  # first cells of rows that are not compared

    def __post_init__(self) -> None:
        _check_file(self.file, TABLES)


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A PNG or SVG file that a part writes: its name in the folder of results, and what it shows."""

    file: str
    caption: str = ""

    def __post_init__(self) -> None:
        _check_file(self.file, FIGURES)


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A benchmark: a script that answers a question. The docstring of its file states the protocol.

    Its arguments are written as in a shell, with placeholders: `{checkpoint}`, `{results}` (folder for tables and
    figures), `{work}` (folder for what is needed to continue after an interruption), `{name}` of a data set.
    """

    name: str  # lower-case letters, digits and dashes
    question: str
    module: str = ""  # run with `python -m`, below the folder of the configuration or one of its parents
    script: Path = Path()  # or else a file, relative to that folder; `read_config` fills in that of a module
    arguments: str = ""
    quick: str = ""  # further arguments of a quick run
    tables: tuple[Table, ...] = ()  # if it does not write all tables and figures it has failed
    figures: tuple[Figure, ...] = ()

    def __post_init__(self) -> None:
        if not _PART.fullmatch(self.name):
            raise ValueError("names are of lower-case letters, digits and dashes")
        for key in ("arguments", "quick"):
            try:
                shlex.split(getattr(self, key))
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None

    def words(self, quick: bool) -> list[str]:
        """The arguments, those of a quick run included if `quick`."""
        return shlex.split(self.arguments) + (shlex.split(self.quick) if quick else [])

    @property
    def root(self) -> Path:
        """The folder from which its modules are imported."""
        return self.script.parents[self.module.count(".")]

    @property
    def uses(self) -> set[str]:
        """The placeholders in its arguments."""
        return {name for word in self.words(quick=True) for name in _PLACEHOLDER.findall(word)}

    @property
    def files(self) -> list[str]:
        """Names of all files that it writes."""
        return [table.file for table in self.tables] + [figure.file for figure in self.figures]

    def public_name(self, file: str) -> str:
        """The name of one of its files beside those of other parts."""
        return file if file.replace("_", "-").startswith(self.name) else f"{self.name}-{file}"


class DataSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Paths of a data set in the folder of all, of which the first existing one is used, and how to get it."""

    paths: tuple[str, ...] = ()
    get: str = ""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a configuration file."""

    title: str
    parts: tuple[Part, ...]
    data: dict[str, DataSet] = {}

    def check_names(self, names: Collection[str]) -> None:
        """Refuse names of no part."""
        known = [part.name for part in self.parts]
        for name in names:
            if name not in known:
                raise GmaeToolsError(f"there is no part {name}; there are {', '.join(known)}")

    def find_data(
        self, root: Path | None, given: Mapping[str, Path] | None = None
    ) -> tuple[dict[str, Path], dict[str, str]]:
        """The paths of the data sets that are found, and messages about the missing ones, both by name.

        They are looked for under `root`, unless their place is given. An unknown or missing given one is refused.
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


_KINDS: dict[str, type[msgspec.Struct]] = {"parts": Part, "tables": Table, "figures": Figure, "data": DataSet}


def fill(argument: str, values: Mapping[str, str]) -> str:
    """Replace the placeholders of an argument; those without a value stay."""
    return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), argument)


def read_config(path: Path) -> Config:
    """Read a configuration. If something in it is wrong, the error names the key."""
    try:
        document = msgspec.toml.decode(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise GmaeToolsError(f"{path}: cannot be read ({error.strerror}); give a TOML file, or --all") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise GmaeToolsError(f"{path}: not TOML: {error}") from None
    try:
        config = msgspec.convert(document, Config, dec_hook=lambda kind, value: kind(value))
        config = msgspec.structs.replace(config, parts=tuple(_located(part, path.parent) for part in config.parts))
        _check(config)
    except msgspec.ValidationError as error:
        raise GmaeToolsError(f"{path}: {_in_words(str(error), document)}") from None
    except GmaeToolsError as error:
        raise GmaeToolsError(f"{path}: {error}") from None
    return config


def _in_words(message: str, document: Any) -> str:
    """A message of msgspec whose place names the part instead of its number, and that lists the known keys."""
    problem, _, place = message.partition(" - at `$")
    steps = _PLACE.findall(place)
    where = [f"{name} {int(index) + 1}" if index else name for name, index in steps]
    if steps and steps[0][0] == "parts" and (index := steps[0][1]):
        where[0] = f"part {document['parts'][int(index)].get('name', int(index) + 1)}"
    problem = problem.replace("`", "").replace("Object ", "").replace("object", "table").replace("Expected", "expected")
    if "unknown field" in problem:
        kind = _KINDS[steps[-1][0]] if steps else Config
        problem += f"; there are {', '.join(kind.__struct_fields__)}"
    return f"{', '.join(where) or 'the file'}: {problem}"


def _located(part: Part, folder: Path) -> Part:
    """The part with the path of its Python file."""
    below = Path(*part.module.split(".")).with_suffix(".py") if part.module else part.script
    folders = [folder, *folder.resolve().parents] if part.module else [folder]
    script = next((place / below for place in folders if (place / below).is_file()), None)
    if script is None:
        wanted = f"module {part.module} below its folder or a parent" if part.module else f"script {folder / below}"
        raise GmaeToolsError(f"part {part.name}: there is no {wanted}")
    return msgspec.structs.replace(part, script=script)


def _check_file(name: str, suffixes: tuple[str, ...]) -> None:
    if not _FILE.fullmatch(name) or Path(name).suffix not in suffixes:
        raise ValueError(f"{name} has to be the name of a {' or '.join(suffixes)} file")


def _check(config: Config) -> None:
    """Check what concerns several parts: names and placeholders."""
    if not config.parts:
        raise GmaeToolsError("there has to be a part: [[parts]]")
    known = (*OWN_NAMES, *config.data)
    taken: set[str] = set()
    for part in config.parts:
        for name in part.uses - set(known):
            raise GmaeToolsError(f"part {part.name}: {{{name}}} is unknown; there are {', '.join(known)}")
        for name in (part.name, *map(part.public_name, part.files)):
            if name in taken:
                raise GmaeToolsError(f"part {part.name}: {name} is there already")
            taken.add(name)

"""Runs of the command line to be killed and hindered, what they work on, and what they leave."""

from __future__ import annotations

import io
import itertools
import json
import multiprocessing
import os
import re
import resource
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image

import gmae_tools

OUT = "out"  # what every run calls its folder

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOAD = [
    "accelerate",
    "gmae_tools.cli.edges",
    "gmae_tools.benchmarks.edge_methods",
    "gmae_tools.benchmarks.edges",
    "gmae_tools.encoder.invariance",
    "gmae_tools.pretrain.loop",
    "gmae_tools.encoder.probe",
    "gmae_tools.suite.page",
    "gmae_tools.report.pr_curve",
    "pandas",
    "scipy.io",
    __name__,
]
_SECONDS = 300.0  # that a run may take at most
_LINGER = 3.0  # seconds that what it has started may take to end after it
_NUMBERS = itertools.count()


# --- runs --------------------------------------------------------------------------------------------


class Run:
    """A command in a process and a process group of its own, forked from one that has the libraries loaded.

    Args:
        arguments: of `gmae-tools`.
        folder: its working directory; made if missing.
        file_size: no file may become longer than so many bytes; what is written beyond fails, as on a full disk.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, *, file_size: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._log = folder, folder / f"run-{next(_NUMBERS)}"
        _start_server()
        here, there = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(target=_work, args=(there, list(arguments), folder, self._log, file_size))
        self._process.start()
        there.close()
        assert here.poll(_SECONDS)
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._start

    @property
    def code(self) -> int | None:
        """How it ended, -9 if by SIGKILL; None if it has not."""
        return self._process.exitcode

    def ends(self, seconds: float) -> bool:
        """Whether it ends within so many seconds after its beginning."""
        self._process.join(max(0.0, seconds - self.seconds))
        return self.code is not None

    def finish(self) -> int | None:
        """Its exit code; None if it hangs, and is killed."""
        hangs = not self.ends(_SECONDS)
        if hangs:
            self.send(signal.SIGKILL)
            self._process.join()
        return None if hangs else self.code

    def kill(self) -> None:
        """`kill -9`, of the process alone."""
        self._process.kill()
        self._process.join()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all processes of the group, as a terminal does; there may be none any more."""
        with suppress(ProcessLookupError):
            os.killpg(self._group, number)

    def leaves_processes(self) -> bool:
        """Whether processes of the group live on when this one has ended; they are killed."""
        end = time.monotonic() + _LINGER
        while time.monotonic() < end:
            try:
                os.killpg(self._group, 0)
            except ProcessLookupError:
                return False
            time.sleep(0.02)
        self.send(signal.SIGKILL)
        return True

    @property
    def _group(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def stdout(self) -> str:
        return self._log.with_suffix(".stdout").read_text(encoding="utf-8", errors="replace")

    @property
    def stderr(self) -> str:
        return self._log.with_suffix(".stderr").read_text(encoding="utf-8", errors="replace")

    @property
    def last_words(self) -> str:
        """The last line that it has written to stderr."""
        return (self.stderr.split("\n")[-2:-1] or [""])[0].rpartition("\r")[2]

    @property
    def errors(self) -> list[str]:
        """The lines that it has called errors."""
        return [line for line in self.stderr.splitlines() if line.startswith("error: ")]


def _start_server() -> None:
    """Start the process that runs are forked from, with this package and no other one, unless it runs."""
    paths = [str(Path(gmae_tools.__file__).parents[1]), str(Path(__file__).parents[2])]
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, [*paths, os.environ.get("PYTHONPATH")])),
        "PYTHONWARNINGS": "ignore::UserWarning:multiprocessing.resource_tracker",  # of what killed runs do not return
    }
    with patch.dict(os.environ, environment):
        _CONTEXT.set_forkserver_preload(_PRELOAD)
        forkserver.ensure_running()


def _work(there: Connection, arguments: list[str], folder: Path, log: Path, file_size: int | None) -> None:
    """What the process of a run does."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where all this runs in the background
    os.chdir(folder)
    for descriptor, suffix in ((1, ".stdout"), (2, ".stderr")):
        file = os.open(log.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    import torch

    from gmae_tools.cli import main

    torch.set_num_threads(1)
    there.send(None)
    main(arguments, prog_name="gmae-tools")


# --- what they work on -------------------------------------------------------------------------------


def make_data(folder: Path, count: int = 20) -> None:
    """`bsds500/` and `saliency/` of `count` photographs, `classes/` for probes, a model `nano/`, and `report.toml`."""
    from scipy.io import savemat

    chance = np.random.default_rng(0)
    bsds, saliency = folder / "bsds500", folder / "saliency"
    places = [bsds / "images" / "val", bsds / "groundTruth" / "val", saliency / "images", saliency / "masks"]
    places += [folder / "classes" / name for name in ("even", "odd")]
    for place in places:
        place.mkdir(parents=True)
    for number in range(count):
        photo, inside = _scene(chance)
        name = f"{number:04}"
        Image.fromarray(photo).save(places[0] / f"{name}.jpg", quality=95)
        Image.fromarray(photo).save(places[2] / f"{name}.jpg", quality=95)
        Image.fromarray(inside.astype(np.uint8) * 255).save(places[3] / f"{name}.png")
        Image.fromarray(photo).save(places[4 + number % 2] / f"{name}.png")
        outlines = np.empty((1, 2), object)
        for annotator in range(2):
            outline = inside & ~np.roll(inside, 1, annotator)
            outlines[0, annotator] = {"Boundaries": outline.astype(np.uint8)}
        savemat(places[1] / f"{name}.mat", {"groundTruth": outlines})
    _make_checkpoint(folder / "nano")
    _make_report(folder)


def _scene(chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A bright ellipse on a dark, noisy ground, uint8 [64, 96, 3], and where it is, bool [64, 96]."""
    y, x = np.mgrid[:64, :96]
    (cy, cx), (ry, rx) = chance.uniform((20, 30), (44, 66)), chance.uniform(6, 18, 2)
    inside = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
    dark, bright = chance.uniform(0, 100, 3), chance.uniform(150, 255, 3)
    photo = np.where(inside[..., None], bright, dark) + chance.normal(0, 8, (64, 96, 3))
    return np.clip(photo, 0, 255).astype(np.uint8), inside


def _make_checkpoint(folder: Path) -> None:
    import torch

    from gmae_tools import checkpoints
    from gmae_tools.model import GMAE, GMAEConfig

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GMAE(GMAEConfig.preset("nano", max_scale=6.0))
        torch.nn.init.normal_(model.decoder.head.weight, std=0.4)
    checkpoints.save(model, folder)


_STEPS = '''
"""How long is a step? Four steps of `--pause` seconds, which go on where they stopped."""

import sys, time
from pathlib import Path

options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
work, results = Path(options["--work"]), Path(options["--results"])
try:
    for step in range(4):
        if not (work / f"{step}").exists():
            time.sleep(float(options["--pause"]))
            (work / f"{step}").write_text("")
    print("four steps")
    (results / "NAME.csv").write_text("name,value\\na,0.25\\nb,-1.5\\n" + 400 * "a long table,1\\n")
except OSError as error:
    sys.exit(str(error))
'''


def _make_report(folder: Path) -> None:
    sections = ['title = "Steps"']
    for name in ("first", "second", "third"):
        (folder / f"{name}.py").write_text(_STEPS.replace("NAME", name).lstrip())
        sections.append(
            f'[[parts]]\nname = "{name}"\nquestion = "How long is a step?"\nscript = "{name}.py"\n'
            'arguments = "--work {work} --results {results} --pause 0.1"\n'
            f'tables = [{{ file = "{name}.csv", caption = "Steps.", higher = ["value"] }}]\n'
        )
    (folder / "report.toml").write_text("\n".join(sections))


@dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
        name: as people call it.
        arguments: all of them; results go into the folder `OUT` of the working directory.
        again: what is added to go on.
        tells: whether it prints how the run went, beside results.
    """

    name: str
    arguments: tuple[str, ...]
    again: tuple[str, ...] = ()
    tells: bool = False


def commands(data: Path, steps: int = 60) -> dict[str, Command]:
    """Commands that write into a folder, by name; `data` is what `make_data` has made, `steps` are of pretraining."""
    bsds, saliency = data / "bsds500", data / "saliency"
    photos, truths = saliency / "images", bsds / "groundTruth" / "val"
    nano, cpu = ("--checkpoint", data / "nano"), ("--device", "cpu")
    pretrain = [
        "pretrain", "--data", bsds, "--preset", "nano", "--samples", 8 * steps, "--batch-size", 8, "--resolution",
        "32,48", "--log-every", 2, "--save-every", 0, "--precision", "float32", "--cache", f"{OUT}/cache", *cpu,
    ]  # fmt: skip
    looks = ("--scales", "1,2", *nano, *cpu)
    few = ("--k", "16,all", "--layers", 2, *nano, *cpu)
    lines: dict[str, Sequence[object]] = {
        "pretrain": pretrain,
        "edges --dataset": ("edges", "--dataset", "bsds500", "--root", data, "--thresholds", 33, *looks),
        "segment --dataset": ("segment", "--dataset", saliency, "--jobs", 2, *looks),
        "report": ("report", data / "report.toml", *nano),
        "layers": ("layers", photos, *few),
        "layers --refine": ("layers", photos, "--refine", 5, *few),
        "probe": ("probe", data / "classes", "--neighbours", 3, *nano, *cpu),
        "invariance": ("invariance", photos, "--ratios", "0.5", "--batch-size", 8, *nano, *cpu),
        "datasets pack": ("datasets", "pack", bsds, "--shard-mb", 0.03),
        "edges": ("edges", photos, *looks),
        "segment": ("segment", photos, *looks),
        "reconstruct": ("reconstruct", photos, *nano, *cpu),
        "export": ("export", photos, *nano, *cpu),
        "density": ("density", photos, *nano, *cpu),
        "view": ("view", photos, *nano, *cpu),
        "score edges": ("score", "edges", saliency / "masks", truths),
        "score masks": ("score", "masks", saliency / "masks", saliency / "masks"),
    }
    again = {"pretrain": ("--resume",)}
    return {
        name: Command(name, (*map(str, line), "-o", OUT), again.get(name, ()), name == "report")
        for name, line in lines.items()
    }


# --- what they leave ---------------------------------------------------------------------------------


def results(folder: Path) -> dict[str, bytes]:
    """The content of all files below a folder by name, without what depends on the clock."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            timeless = next((clean for pattern, clean in _TIMELESS.items() if fnmatch(name, pattern)), bytes)
            found[name] = timeless(path.read_bytes())
    return found


def difference(expected: Mapping[str, bytes], found: Mapping[str, bytes]) -> str:
    """What differs between the results of two runs, in a few words; empty if nothing does."""
    lacking, surplus = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    other = [name for name in expected if name in found and expected[name] != found[name]]
    parts = (("lacks", lacking), ("has also", surplus), ("has another", other))
    return "; ".join(f"{what} {', '.join(names[:3])}" for what, names in parts if names)


def leftovers(folder: Path) -> list[str]:
    """Names of the temporary files below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.tmp*"))


def _log(content: bytes) -> bytes:
    lines = [json.loads(text) for text in content.decode().splitlines()]
    return json.dumps([_without(each, "seconds", "images_per_second", "waiting") for each in lines]).encode()


def _config(content: bytes) -> bytes:
    document = json.loads(content)
    return json.dumps({**document, "training": _without(document.get("training", {}), "seconds")}).encode()


def _state(content: bytes) -> bytes:
    import torch

    state = _without(torch.load(io.BytesIO(content), weights_only=True), "seconds")
    return repr([(path, value) for path, value in _leaves("", state)]).encode()


def _leaves(path: str, value: Any) -> Iterator[tuple[str, object]]:
    """What a state holds, by its place in there; of a tensor its type, shape and bytes."""
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _leaves(f"{path}/{key}", value[key])
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _leaves(f"{path}/{number}", each)
    elif hasattr(value, "numpy"):
        yield path, (str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes())
    else:
        yield path, value


def _part(content: bytes) -> bytes:
    return json.dumps(_without(json.loads(content), "seconds", "runs", "finished")).encode()


def _record(content: bytes) -> bytes:
    document = json.loads(content)
    parts = [_without(part, "seconds", "runs", "finished") for part in document["parts"]]
    return json.dumps({**document, "parts": parts}).encode()


def _page(content: bytes) -> bytes:
    return re.sub(rb'<p class="run">.*?</p>', b"", content, flags=re.DOTALL)


def _without(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


_TIMELESS: dict[str, Callable[[bytes], bytes]] = {  # patterns of names, and what takes times out of such a file
    "log.jsonl": _log,
    "model/config.json": _config,
    "state.pt": _state,
    "report.json": _record,
    "report.html": _page,
    "parts/*/state.json": _part,
}

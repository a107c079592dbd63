"""A checkpoint is loaded whole and right, or refused in a line that names the file and what is wrong; it runs no code.

- Pickles that call functions (of the shell, of Python, of torch; as a file of their own, inside an official `.pth`, in
  the settings beside the weights, where a folder should hold safetensors): each would write a file, which must not
  appear; that it would is made sure of by a plain pickle.
- Damage of every kind to folders, to checkpoints in pieces and to official files: truncated, missing, lacking, surplus,
  of other shapes and types, not finite, claiming more than there is; configurations of other models, absurd, of wrong
  types, too nested, no JSON. `load`, `load_any` and the command line must refuse each in one line, and say the same.
- Mutated files (see pictures) in processes of little memory: configurations, headers of weights, indices, official
  files.
"""

from __future__ import annotations

import argparse
import builtins
import json
import os
import pickle
import random
import shutil
import struct
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file

from gmae_tools import checkpoints
from gmae_tools.checkpoint_names import CONFIG_FILE
from gmae_tools.checkpoints import INDEX_FILE, WEIGHTS_FILE
from gmae_tools.cli import main
from gmae_tools.errors import GmaeToolsError
from gmae_tools.mae import MAE, MAEConfig
from gmae_tools.model import GMAE, GMAEConfig
from tests.reliability.mutations import mutated
from tests.reliability.outcome import Outcome, TimeBox
from tests.reliability.workers import Attempt, attempts, fault_of

PART = "checkpoints"
FILES = 20_000
MEMORY = 1_000_000_000  # bytes, beyond what torch maps to begin with
PATIENCE = 60.0  # seconds
OFFICIAL = "mae.pth"
_BIG = 1 << 40


def campaign(box: TimeBox, seed: int, data: Path | None) -> Iterator[Outcome]:
    """Hostile pickles and damage, then mutated files for the rest of the time."""
    with tempfile.TemporaryDirectory(prefix="checkpoints-") as name:
        folder = Path(name)
        models = Models(folder)
        yield from pickles(models)
        for kind, damages in DAMAGES.items():
            yield damage(models, kind, damages)
        yield from mutations(box, seed, FILES, models)


class Models:
    """Checkpoints of the smallest preset with random weights: in one file, in pieces, and an official one.

    Args:
        folder: for them, and for what is made of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        torch.manual_seed(0)
        model = GMAE(GMAEConfig.preset("nano"))
        checkpoints.save(model, folder / "whole")
        checkpoints.save(model, folder / "pieces", max_shard_mb=0.2)
        (folder / "official").mkdir()
        mae = MAE(MAEConfig.preset("nano", decoder_width=32, decoder_heads=16))
        torch.save({"model": official(mae), "args": argparse.Namespace(lr=1e-4)}, folder / "official" / OFFICIAL)
        self.photo = folder / "photo.png"
        Image.fromarray(np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3)).save(self.photo)

    def copy(self, kind: str) -> Path:
        """A new copy of the folder of that kind."""
        return Path(shutil.copytree(self.folder / kind, self.folder / "tried" / kind, dirs_exist_ok=False))

    def clear(self) -> None:
        """Remove the copies."""
        shutil.rmtree(self.folder / "tried", ignore_errors=True)


def official(model: MAE) -> dict[str, torch.Tensor]:
    """Its weights under the names of the official checkpoints."""
    names = {"decoder.mask_token": "mask_token", "decoder.embed.": "decoder_embed.", "decoder.norm.": "decoder_norm."}
    names |= {"decoder.blocks.": "decoder_blocks.", "decoder.head.": "decoder_pred.", "encoder.": ""}
    patches = (model.config.image_size // model.config.patch_size) ** 2
    weights = {"pos_embed": torch.zeros(1, 1 + patches, model.config.width)}
    for name, tensor in model.state_dict().items():
        ours = next(prefix for prefix in names if name.startswith(prefix))
        weights[names[ours] + name.removeprefix(ours)] = tensor
    return weights


# --- code --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """What pickle makes a call of a function: `function(*arguments)` when it is read."""

    function: Callable[..., object]
    arguments: tuple[object, ...]

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments


def calls(trace: Path) -> dict[str, Call]:
    """Calls that would make the file `trace`."""
    source = f"open({str(trace)!r}, 'w').close()"
    return {
        "os.system": Call(os.system, (f"touch {trace}",)),
        "subprocess": Call(subprocess.check_call, (["touch", str(trace)],)),
        "exec": Call(builtins.exec, (source,)),
        "eval": Call(builtins.eval, (source,)),
        "open": Call(builtins.open, (str(trace), "w")),
        "torch.save": Call(torch.save, ([], str(trace))),
        "partial": Call(partial(os.system, f"touch {trace}"), ()),
    }


def pickles(models: Models) -> Iterator[Outcome]:
    """Files that would make another file."""
    trace = models.folder / "trace"
    failures: list[str] = []
    times = 0
    for name, call in calls(trace).items():
        pickle.loads(pickle.dumps(call))
        if not trace.exists():
            failures.append(f"{name}: runs nothing even where it may")
        trace.unlink(missing_ok=True)
        for place, write in PLACES.items():
            times += 1
            path = write(models, call)
            try:
                checkpoints.load_any(path)
                failures.append(f"{name} {place}: loaded")
            except GmaeToolsError as error:
                fault = fault_of(str(error), path if path.is_file() else path / WEIGHTS_FILE)
                failures += [f"{name} {place}: {fault}"] if fault else []
            if trace.exists():
                failures.append(f"{name} {place}: was run")
                trace.unlink()
            models.clear()
    yield Outcome(PART, "pickles that would run code", times, tuple(failures))


def _save_official(models: Models, content: object, *, zipped: bool = True) -> Path:
    path = models.copy("official") / OFFICIAL
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def _beside(models: Models, call: Call) -> Path:
    return _save_official(models, {"model": {"cls_token": torch.zeros(1)}, "extra": call})


def _in_settings(models: Models, call: Call) -> Path:
    return _save_official(models, {"model": {}, "args": argparse.Namespace(norm_pix_loss=call)})


def _in_old_layout(models: Models, call: Call) -> Path:
    return _save_official(models, {"model": call}, zipped=False)


def _bare(models: Models, call: Call) -> Path:
    path = models.copy("official") / OFFICIAL
    path.write_bytes(pickle.dumps(call))
    return path


def _as_safetensors(models: Models, call: Call) -> Path:
    folder = models.copy("whole")
    torch.save(call, folder / WEIGHTS_FILE)
    return folder


PLACES: dict[str, Callable[[Models, Call], Path]] = {
    "beside weights": _beside,
    "in settings": _in_settings,
    "in torch's old layout": _in_old_layout,
    "alone": _bare,
    "in place of safetensors": _as_safetensors,
}


# --- damage ------------------------------------------------------------------------------------------

Change = Callable[[Path], object]  # of a folder


@dataclass(frozen=True)
class Damages:
    """Ways to damage a checkpoint.

    kind: the folder of `Models`; file: which must be named; ways: by name, what to do and words that must be said.
    """

    kind: str
    file: str
    ways: Mapping[str, tuple[Change, str]]


def damage(models: Models, name: str, damages: Damages) -> Outcome:
    """Each damage to a copy of the checkpoint."""
    failures: list[str] = []
    for way, (change, words) in damages.ways.items():
        folder = models.copy(damages.kind)
        change(folder)
        checkpoint = folder / OFFICIAL if damages.kind == "official" else folder
        failures += [f"{way}: {fault}" for fault in faults(checkpoint, folder / damages.file, words, models.photo)]
        models.clear()
    return Outcome(PART, f"damaged {name}", len(damages.ways), tuple(failures))


def faults(checkpoint: Path, file: Path, words: str, photo: Path) -> Iterator[str]:
    """What is wrong with how a damaged checkpoint is refused, by the library and by the command line."""
    lines = set()
    for load in (checkpoints.load, checkpoints.load_any):
        if load is checkpoints.load and file.name == OFFICIAL:
            continue  # it takes folders alone
        try:
            load(checkpoint)
            yield f"{load.__name__} loaded it"
        except GmaeToolsError as error:
            lines.add(str(error))
        except Exception as error:
            yield f"{load.__name__} raised {type(error).__name__}: {error}"
    for line in lines:
        fault = fault_of(line, file) or ("" if words in line else f"does not say {words!r}: {line}")
        if fault:
            yield fault
    out = checkpoint.parent / "out"
    for command in (
        ["checkpoints", "list", str(checkpoint)],
        ["reconstruct", str(photo), "--checkpoint", str(checkpoint), "-o", str(out)],
    ):
        result = CliRunner().invoke(main, command)
        if result.exception and not isinstance(result.exception, SystemExit):
            yield f"{command[0]} raised {result.exception!r}"
        elif result.exit_code != 1 or result.stderr not in {f"error: {line}\n" for line in lines}:
            yield f"{command[0]} ended with {result.exit_code} and said {result.stderr!r}"
        if out.exists():
            yield f"{command[0]} made {out.name}"


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    """Change those in the only file of weights, or in the first piece."""

    def apply(folder: Path) -> None:
        path = min(folder.glob("model*.safetensors"))
        weights = load_file(path)
        change(weights)
        save_file(weights, path)

    return apply


def tensor(value: torch.Tensor, name: str = "decoder.bias") -> Change:
    """Put in this one."""
    return tensors(lambda weights: weights.update({name: value}))


def entry(**changes: object) -> Change:
    """Change what the header of the weights says about a tensor."""

    def apply(folder: Path) -> None:
        data = (folder / WEIGHTS_FILE).read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        header["decoder.bias"].update(changes)
        text = json.dumps(header).encode()
        (folder / WEIGHTS_FILE).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])

    return apply


def length(size: int) -> Change:
    """Let the file of weights claim a header so long."""

    def apply(folder: Path) -> None:
        data = (folder / WEIGHTS_FILE).read_bytes()
        (folder / WEIGHTS_FILE).write_bytes(struct.pack("<Q", size) + data[8:])

    return apply


def settings(**changes: object) -> Change:
    """Change the configuration beside the model's own part."""

    def apply(folder: Path) -> None:
        document = json.loads((folder / CONFIG_FILE).read_text())
        (folder / CONFIG_FILE).write_text(json.dumps({**document, **changes}))

    return apply


def model(**changes: object) -> Change:
    """Change the model's part of the configuration."""

    def apply(folder: Path) -> None:
        values = json.loads((folder / CONFIG_FILE).read_text())["model"]
        settings(model={**values, **changes})(folder)

    return apply


def content(file: str, data: str | bytes) -> Change:
    """Replace what is in a file."""
    return lambda folder: (folder / file).write_bytes(data.encode() if isinstance(data, str) else data)


def replaced(file: str, make: Callable[[Path], object]) -> Change:
    """Put something else in the place of a file."""

    def apply(folder: Path) -> None:
        (folder / file).unlink()
        make(folder / file)

    return apply


def cut(file: str, size: int) -> Change:
    """Make a file so long."""
    return lambda folder: os.truncate(folder / file, size)


def document(change: Callable[[dict[str, Any]], object]) -> Change:
    """Change what the official file holds."""

    def apply(folder: Path) -> None:
        held = torch.load(folder / OFFICIAL, weights_only=False)
        change(held)
        torch.save(held, folder / OFFICIAL)

    return apply


def weight(value: torch.Tensor, name: str = "norm.bias") -> Change:
    """Put this tensor into the official file."""
    return document(lambda held: held["model"].update({name: value}))


def without(name: str) -> Change:
    """Take a tensor out of the official file."""
    return document(lambda held: held["model"].pop(name))


def archive_bomb(folder: Path) -> None:
    """Let the official file unpack to 100 MB of zeros."""
    with zipfile.ZipFile(folder / OFFICIAL, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("bomb", "w") as file:
        for _ in range(100):
            file.write(bytes(1_000_000))


NAN, INF = float("nan"), float("inf")
UNSAFE, NOT_PLAIN = "damaged or not safetensors", "not a file of plain weights"
NOT_FINITE = "has NaN or infinite values"
NO_DICT, NO_MAE = "holds no state dict", "no weights of a whole MAE"
NESTED = '{"format": ' + 100_000 * "[" + 100_000 * "]" + "}"
HOSTILE = "\x1b[2J\n" * 200_000
FIRST, SECOND = (f"model-{number:05}-of-00003.safetensors" for number in (1, 2))

DAMAGES = {
    "weights": Damages("whole", WEIGHTS_FILE, {
        "missing": (replaced(WEIGHTS_FILE, lambda path: None), "missing"),
        "empty": (content(WEIGHTS_FILE, b""), UNSAFE),
        "truncated": (cut(WEIGHTS_FILE, 100_000), UNSAFE),
        "truncated header": (cut(WEIGHTS_FILE, 100), UNSAFE),
        "longer": (cut(WEIGHTS_FILE, 10_000_000), UNSAFE),
        "a header of 2^63 bytes": (length(1 << 63), UNSAFE),
        "a header of 50 GB": (length(50_000_000_000), UNSAFE),
        "a nested header": (content(WEIGHTS_FILE, struct.pack("<Q", len(NESTED)) + NESTED.encode()), UNSAFE),
        "a tensor beyond the end": (entry(shape=[_BIG], data_offsets=[0, 4 * _BIG]), UNSAFE),
        "overlapping tensors": (entry(data_offsets=[0, 56]), UNSAFE),
        "an unknown type": (entry(dtype="F77"), UNSAFE),
        "a web page": (content(WEIGHTS_FILE, "<html>404</html>"), UNSAFE),
        "NaN": (tensor(torch.full((14,), NAN)), f"decoder.bias {NOT_FINITE}"),
        "an infinite number": (tensors(lambda found: found["decoder.bias"][3:4].fill_(-INF)), NOT_FINITE),
        "numbers beyond float32": (tensor(torch.full((14,), 1e300, dtype=torch.float64)), NOT_FINITE),
        "whole numbers": (tensor(torch.zeros(14, dtype=torch.int64)), "decoder.bias holds int64"),
        "truth values": (tensor(torch.zeros(14, dtype=torch.bool)), "decoder.bias holds bool"),
        "another shape": (tensor(torch.zeros(7)), "decoder.bias has shape [7], the configuration asks for [14]"),
        "no dimensions": (tensor(torch.zeros(())), "decoder.bias has shape []"),
        "lacking": (tensors(lambda found: found.pop("encoder.norm.bias")), "lacks 1 tensors, such as encoder."),
        "surplus": (tensor(torch.zeros(1), "head.bias"), "has unknown 1 tensors, such as head.bias"),
        "a hostile name": (tensor(torch.zeros(1), HOSTILE), "has unknown 1 tensors"),
        "of another width": (model(width=96), "has shape"),
        "of another depth": (model(depth=9), "lacks 84 tensors"),
        "of fewer Gaussians": (model(queries=17), "has shape"),
        "of a model far larger": (model(width=60_000, depth=200), "lacks"),
    }),
    "configurations": Damages("whole", CONFIG_FILE, {
        "missing": (replaced(CONFIG_FILE, lambda path: None), "missing"),
        "empty": (content(CONFIG_FILE, b""), "damaged"),
        "no JSON": (content(CONFIG_FILE, "format: gmae"), "damaged"),
        "no text": (content(CONFIG_FILE, b"\xff\xfe\x00\x01"), "damaged"),
        "a list": (content(CONFIG_FILE, "[1]"), "damaged"),
        "nested": (content(CONFIG_FILE, NESTED), "damaged"),
        "20 MB": (content(CONFIG_FILE, b" " * 20_000_000), "damaged (too large)"),
        "endless": (replaced(CONFIG_FILE, lambda path: path.symlink_to("/dev/zero")), "missing"),
        "a pipe": (replaced(CONFIG_FILE, os.mkfifo), "missing"),
        "a folder": (replaced(CONFIG_FILE, os.mkdir), "missing"),
        "another program's": (content(CONFIG_FILE, '{"model_type": "vit", "hidden_size": 768}'), "format None"),
        "a later format": (settings(format="gmae-tools/9"), "format 'gmae-tools/9'"),
        "a hostile format": (settings(format=HOSTILE), "format"),
        "an unknown architecture": (settings(architecture="gan"), "architecture 'gan'"),
        "an architecture of lists": (settings(architecture=[[]]), "architecture [[]]"),
        "another of our architectures": (settings(architecture="mae"), "not a configuration of this version's MAE"),
        "no model": (settings(model=None), "no configuration of a model"),
        "a model of a list": (settings(model=[1, 2]), "no configuration of a model"),
        "an unknown setting": (model(widht=3), "widht"),
        "a camera of text": (model(camera="pinhole"), "amera"),
        "a camera of numbers as text": (model(camera={"distance": "8"}), "camera"),
        "a camera nowhere": (model(camera={"distance": NAN}), "camera"),
        "a camera too far away": (model(camera={"distance": 10**400}), "camera"),
        "a camera without end": (model(camera={"blur": 1e308}), "camera"),
        "a camera of another kind": (model(camera={"kind": "fisheye"}), "camera kind 'fisheye'"),
        "a width of 0": (model(width=0), "width is 0"),
        "a width below 0": (model(width=-48), "width is -48"),
        "a width of 10^12": (model(width=10**12), "width is 1000000000000"),
        "a width of 10^400": (model(width=10**400), "width is 1000"),
        "a width of text": (model(width="48"), "width is '48'"),
        "a width of a list": (model(width=[48]), "width is [48]"),
        "a width of lists in lists": (model(width=json.loads(900 * "[" + 900 * "]")), "width is [[["),
        "a width that is true": (model(width=True), "width is True"),
        "half a width": (model(width=48.5), "width is 48.5"),
        "a depth of 10^9": (model(depth=10**9), "depth is 1000000000"),
        "a decoder of 10^9 blocks": (model(decoder_depth=10**9), "decoder_depth is 1000000000"),
        "pictures of 10^9 px": (model(image_size=16 * 10**8), "image_size is 1600000000"),
        "patches of a pixel": (model(image_size=4096, patch_size=1), "patches at most"),
        "a million million Gaussians": (model(gaussians_per_query=60_000, queries=60_000), "Gaussians at most"),
        "a scale without end": (model(max_scale=INF), "max_scale is inf"),
        "a scale of 10^300": (model(max_scale=1e300), "max_scale is 1e+300"),
        "a scale that is true": (model(max_scale=True), "max_scale is True"),
    }),
    "first pieces": Damages("pieces", FIRST, {
        "missing": (replaced(FIRST, lambda path: None), "missing"),
        "truncated": (cut(FIRST, 50_000), UNSAFE),
        "another shape": (tensors(lambda found: found.update({name: torch.zeros(1) for name in found})), "has shape"),
        "NaN": (tensors(lambda found: min(found.items())[1].fill_(NAN)), NOT_FINITE),
    }),
    "second pieces": Damages("pieces", SECOND, {
        "the first again": (lambda folder: shutil.copy(folder / FIRST, folder / SECOND), "holds, too"),
    }),
    "indices": Damages("pieces", INDEX_FILE, {
        "truncated": (cut(INDEX_FILE, 60), "damaged"),
        "nested": (content(INDEX_FILE, NESTED), "damaged"),
        "a list": (content(INDEX_FILE, '{"weight_map": ["a"]}'), "damaged"),
        "numbers": (content(INDEX_FILE, '{"weight_map": {"a": 3}}'), "damaged"),
        "another file": (content(INDEX_FILE, '{"weight_map": {"a": "/etc/passwd"}}'), "names other files"),
        "a file elsewhere": (content(INDEX_FILE, f'{{"weight_map": {{"a": "../{FIRST}"}}}}'), "names other files"),
        "nothing": (content(INDEX_FILE, '{"weight_map": {}}'), "lacks"),
        "a piece lacks a tensor": (tensors(lambda found: found.pop(min(found))), "lacks 1 tensors"),
        "a piece has one more": (tensor(torch.zeros(1), "head.bias"), "has unknown 1 tensors, such as head.bias"),
    }),
    "pieces without index": Damages("pieces", WEIGHTS_FILE, {
        "missing": (replaced(INDEX_FILE, lambda path: None), "missing"),
    }),
    "official files": Damages("official", OFFICIAL, {
        "missing": (replaced(OFFICIAL, lambda path: None), "no such file"),
        "empty": (content(OFFICIAL, b""), NOT_PLAIN),
        "a web page": (content(OFFICIAL, "<html>404</html>"), NOT_PLAIN),
        "truncated": (cut(OFFICIAL, 100_000), NOT_PLAIN),
        "an archive bomb": (archive_bomb, "unpacked, it would be larger"),
        "a list": (lambda folder: torch.save([torch.zeros(3)], folder / OFFICIAL), NO_DICT),
        "numbers": (document(lambda held: held.update(model={"epoch": 3})), NO_DICT),
        "tensors by number": (document(lambda held: held.update(model={3: torch.zeros(3)})), NO_DICT),
        "an encoder alone": (without("mask_token"), NO_MAE),
        "lacking": (without("decoder_pred.bias"), "lacks 1 tensors, such as decoder.head.bias"),
        "surplus": (weight(torch.zeros(3), "head.bias"), "has unknown 1 tensors, such as encoder.head.bias"),
        "NaN": (weight(torch.full((48,), NAN)), NOT_FINITE),
        "infinite": (weight(torch.full((48,), INF)), NOT_FINITE),
        "another shape": (weight(torch.zeros(7)), "encoder.norm.bias has shape [7]"),
        "whole numbers": (weight(torch.zeros(48, dtype=torch.int32)), "holds int32"),
        "a sparse tensor": (weight(torch.zeros(48).to_sparse()), NO_DICT),
        "a tensor without numbers": (weight(torch.zeros(48, device="meta")), NO_DICT),
        "one number as many": (weight(torch.zeros(1).expand(1, 1, _BIG), "cls_token"), "more numbers than the file"),
        "no positions": (weight(torch.zeros(1, 0, 48), "pos_embed"), NO_MAE),
        "an absurd width": (weight(torch.zeros(1, 1, 70_000), "cls_token"), "width is 70000"),
        "patches of nothing": (weight(torch.zeros(48, 3, 0, 0), "patch_embed.proj.weight"), "_size is 0"),
    }),
}  # fmt: skip


# --- mutated files -----------------------------------------------------------------------------------

MUTATED = {
    "configuration": ("whole", CONFIG_FILE),
    "header of weights": ("whole", WEIGHTS_FILE),
    "index": ("pieces", INDEX_FILE),
    "official file": ("official", OFFICIAL),
}


def mutations(box: TimeBox, seed: int, count: int, models: Models) -> Iterator[Outcome]:
    """`count` files, as many of each kind, while there is time."""
    task = partial(try_mutation, models.folder, seed)
    tally = attempts(task, kind_of, count, box, models.folder, memory=MEMORY, seconds=PATIENCE)
    for kind in MUTATED:
        failures = tuple(f"seed {seed}, {failure}" for failure in tally.failures_of(kind))
        yield Outcome(PART, f"mutated {kind}", tally.times(kind), failures, f"{tally.note(kind)}, peak {tally.peak} MB")


def kind_of(number: int) -> str:
    """What the file of this number is."""
    return list(MUTATED)[number % len(MUTATED)]


def try_mutation(folder: Path, seed: int, number: int) -> Attempt:
    """Load a checkpoint one of whose files is mutated."""
    rng = random.Random(f"{seed} {number}")
    source, file = MUTATED[kind_of(number)]
    copy = folder / f"mutated-{os.getpid()}-{source}"
    if not copy.exists():
        shutil.copytree(folder / source, copy)
    original = (folder / source / file).read_bytes()
    if file in (WEIGHTS_FILE, OFFICIAL) and rng.random() < 0.8:  # nothing is asked of the weights themselves
        head = 8 + int.from_bytes(original[:8], "little") if file == WEIGHTS_FILE else len(original) // 4
        how, start = mutated(rng, original[:head], [original[:head]])
        data = start + original[head:]
    else:
        how, data = mutated(rng, original, [original])
    (copy / file).write_bytes(data)
    path = copy / OFFICIAL if source == "official" else copy
    try:
        model = checkpoints.load_any(path)
    except GmaeToolsError as error:
        fault = "" if str(error).startswith(str(copy)) else f"names no file: {error}"
        fault = fault or fault_of(str(error), Path(str(error).split(": ")[0]))
        return Attempt("refused", f"{how}: {fault}" if fault else "")
    finally:
        (copy / file).write_bytes(original)
    good = all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values())
    return Attempt("loaded", "" if good else f"{how}: loaded with NaN")

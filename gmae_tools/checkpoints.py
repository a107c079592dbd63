"""Checkpoints: a folder with `config.json` and `model.safetensors`, encoder and decoder together.

`config.json` says which model it is: a GMAE, which is the default, or one of the models that it is compared with.

Weights may also be in several files, `model-00001-of-00003.safetensors` and so on, with an index
`model.safetensors.index.json` that names the file of each tensor; this is the layout of Hugging Face's libraries.
Safetensors reads the weights without running code. They become a model only if their names and shapes are those of the
configuration and all numbers are finite.

The name of a checkpoint is that of an embedded one (`gmae-tiny`), the path of a folder, or `hf://ORG/NAME[@REVISION]`
on the Hugging Face hub. The name of a checkpoint of GMAE's authors, or of an official one of MAE, is the path of its
`.ckpt` or `.pth` file, of which only tensors and numbers are read.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, get_args

import huggingface_hub
import torch
from huggingface_hub import CommitOperationAdd
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import load_file as read_safetensors
from safetensors.torch import save as to_bytes

from gmae_tools.arguments import path_name
from gmae_tools.checkpoint_names import (
    AUTHORS_SUFFIX,
    CONFIG_FILE,
    FILE_SUFFIXES,
    HUB_PREFIX,
    LARGEST_JSON,
    embedded,
    local_path,
)
from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats import authors, official_mae
from gmae_tools.formats.torch_files import check_plain, read_torch
from gmae_tools.images import one_line, printable
from gmae_tools.mae import CMAE, MAE, RMAE, CMAEConfig, MAEConfig, RMAEConfig
from gmae_tools.model import GMAE, Autoencoder, AutoencoderConfig, GMAEConfig
from gmae_tools.system.devices import has_bf16, resolve_device
from gmae_tools.system.files import atomic_path, write_json
from gmae_tools.system.precision import Precision

_log = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
INDEX_FILE = "model.safetensors.index.json"
FORMAT = "gmae-tools/1"
_SHARDS, _SHARD = "model-*-of-*.safetensors", re.compile(r"model-[0-9]+-of-[0-9]+\.safetensors")
_FILES = [CONFIG_FILE, WEIGHTS_FILE, INDEX_FILE, _SHARDS]
_ADDRESS = re.compile(r"[\w.-]+/[\w.-]+(@\S+)?")  # ORG/NAME[@REVISION]
_HEADER_BYTES = 256  # largest entry of a tensor in the header of a safetensors file

Model = TypeVar("Model", bound=Autoencoder)

# The classes of models by their names in `config.json`.
_ARCHITECTURES: dict[str, tuple[type[Autoencoder], type[AutoencoderConfig]]] = {
    "gmae": (GMAE, GMAEConfig),
    "mae": (MAE, MAEConfig),
    "r-mae": (RMAE, RMAEConfig),
    "c-mae": (CMAE, CMAEConfig),
}


def load(name: str | os.PathLike[str], device: str | torch.device = "cpu", *, precision: Precision = "float32") -> GMAE:
    """Load a GMAE in evaluation mode.

    Args:
        name: an embedded checkpoint, a folder, `hf://ORG/NAME[@REVISION]` (downloaded once, then cached), or a file of
            the authors' code, `*.ckpt`.
        device: device of the model; `auto` is a GPU if there is one, else the CPU.
        precision: arithmetic of the transformer in `predict` and `look`. `bf16` is twice as fast on hardware that has
            it (see `gmae-tools doctor`), and moves Gaussians by less than a hundredth of the picture.

    Raises:
        GmaeToolsError: there is no such checkpoint, it cannot be fetched, it is damaged, or it is of another model; or
            there is no such device or precision.
    """
    if precision not in get_args(Precision):
        raise GmaeToolsError(f"precision {precision!r}: use {' or '.join(get_args(Precision))}")
    model = load_any(name, device)
    if not isinstance(model, GMAE):
        problem = f"{os.fspath(name)}: {_architecture(model)} predicts no Gaussians; choose a GMAE"
        raise GmaeToolsError(f"{problem}, or look at this one with reconstruct, probe or invariance")
    if precision == "bf16" and not has_bf16(resolve_device(device)):
        _log.warning("there is no bf16 on this hardware: torch emulates it, and float32 is much faster")
    model.precision = precision
    return model


def load_any(name: str | os.PathLike[str], device: str | torch.device = "cpu") -> Autoencoder:
    """Load a GMAE or a model that it is compared with, in evaluation mode.

    Args:
        name: as for `load`, or the path of an official MAE checkpoint, `*.pth`.
        device: as for `load`.

    Raises:
        GmaeToolsError: as for `load`, but other models are not refused.
    """
    name, where = path_name(name, "a checkpoint, or its name"), resolve_device(device)
    if (path := file_of_others(name)) is not None:
        return load_file(path).to(where)
    return load_folder(find(name)).to(where)


def file_of_others(name: str | os.PathLike[str]) -> Path | None:
    """Return the path that a name stands for if it is a single file of another program, else None."""
    path = Path(os.path.expanduser(name))
    return path if path.name.endswith(FILE_SUFFIXES) and not path.is_dir() else None


def _architecture(model: Autoencoder) -> str:
    return next(name for name, (kind, _) in _ARCHITECTURES.items() if type(model) is kind)


def find(name: str | os.PathLike[str]) -> Path:
    """Return the folder of a checkpoint, which may be fetched from the hub; arguments and errors as for `load`."""
    text = os.fspath(name)
    if text.startswith(HUB_PREFIX):
        return fetch(text.removeprefix(HUB_PREFIX))
    folder = local_path(text)
    if not folder.is_dir():
        raise GmaeToolsError(f"{text}: is a file, but a checkpoint is a folder with {CONFIG_FILE}")
    return folder


def is_local(name: str | os.PathLike[str]) -> bool:
    """Return whether a name is that of an embedded checkpoint, a folder or a file, and not of a repository."""
    text = os.fspath(name)
    return text in embedded() or file_of_others(text) is not None or os.path.isdir(os.path.expanduser(text))


def push(folder: str | os.PathLike[str], repository: str, *, private: bool = False) -> str:
    """Upload a checkpoint folder to the hub as `ORG/NAME`, and return its address for `load`.

    If the folder has no `README.md`, a model card is uploaded, too.

    Raises:
        GmaeToolsError: the folder is no valid checkpoint, or the hub refuses.
    """
    model, repository = load_folder(folder), repository.removeprefix(HUB_PREFIX)
    files = [path for pattern in (*_FILES, CARD_FILE) for path in sorted(Path(folder).glob(pattern))]
    additions = [CommitOperationAdd(path.name, path) for path in files]
    if not (Path(folder) / CARD_FILE).exists():
        card = model.generate_model_card(repository=repository)
        additions.append(CommitOperationAdd(CARD_FILE, str(card).encode("utf-8")))
    api = huggingface_hub.HfApi()
    with hub_errors(f"{HUB_PREFIX}{repository}: the hub refused"):
        api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(repository, additions, commit_message="Upload a checkpoint of gmae-tools")
    return HUB_PREFIX + repository


def fetch(address: str, **options: Any) -> Path:
    """Return the folder of a repository on the hub, which is downloaded unless the cache has it.

    Args:
        address: `ORG/NAME[@REVISION]`.
        options: options of `huggingface_hub.snapshot_download`, such as `cache_dir`.

    Raises:
        GmaeToolsError: it cannot be fetched.
    """
    if not _ADDRESS.fullmatch(address):
        raise GmaeToolsError(f"{HUB_PREFIX}{address}: no repository of the hub; write {HUB_PREFIX}ORG/NAME[@REVISION]")
    repository, _, revision = address.partition("@")
    problem = f"{HUB_PREFIX}{address}: cannot be fetched"
    with hub_errors(problem):
        try:
            fetched = huggingface_hub.snapshot_download(
                repository, revision=revision or None, allow_patterns=_FILES, **options
            )
        except LocalEntryNotFoundError:
            refs = Path(options.get("cache_dir") or HF_HUB_CACHE, f"models--{repository.replace('/', '--')}", "refs")
            others = sorted(path.relative_to(refs).as_posix() for path in refs.rglob("*") if path.is_file())
            if not others:
                raise
            why = f"the hub cannot be reached, and of this repository only {', '.join(others)} was fetched before"
            raise GmaeToolsError(f"{problem}: {why}") from None
    return Path(fetched)


@contextmanager
def hub_errors(problem: str) -> Iterator[None]:
    """Turn all errors of the hub into a `GmaeToolsError` of one line that begins with `problem`."""
    try:
        yield
    except GmaeToolsError:
        raise
    except Exception as error:  # the errors of the hub's client and its HTTP library differ between versions
        raise GmaeToolsError(f"{problem}: {_hub_problem(error)}") from None


def _hub_problem(error: Exception) -> str:
    """Say in a few words why the hub refused, where its own message takes several lines."""
    if isinstance(error, GatedRepoError):
        return "access must be granted on its page first; then log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return "no such repository, or a private one; if so, log in with `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(error, LocalEntryNotFoundError):
        return "the hub cannot be reached, and no copy was fetched before; check the connection"
    return one_line(error)


def save(
    model: Autoencoder,
    folder: str | os.PathLike[str],
    *,
    half: bool = False,
    training: dict[str, Any] | None = None,
    max_shard_mb: float | None = None,
) -> None:
    """Write a checkpoint folder.

    Args:
        model: the model to save.
        folder: folder of the checkpoint, made if it is missing. Existing files are replaced whole, the weights before
            the configuration.
        half: whether weights are stored as float16, in half the space; loading converts them to float32.
        training: how the weights were made (recipe, samples, scores), for the entry `training` of `config.json`.
        max_shard_mb: largest size of a file of weights in megabytes (1,000,000 bytes); None for a single file.

    Raises:
        GmaeToolsError: a single tensor is larger than a file may be.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dtype = torch.float16 if half else torch.float32
    weights = {name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in model.state_dict().items()}
    if max_shard_mb is None:
        _write_weights(folder / WEIGHTS_FILE, weights)
        _remove_shards(folder)
    else:
        _write_shards(folder, weights, int(max_shard_mb * 1e6))
    about = {"architecture": _architecture(model), "model": model.config.to_dict(), "training": training or {}}
    write_json(folder / CONFIG_FILE, {"format": FORMAT, **about})


def _write_weights(path: Path, weights: dict[str, torch.Tensor]) -> None:
    with atomic_path(path) as temporary:  # `save_file` makes files that other users cannot read
        temporary.write_bytes(to_bytes(weights, metadata={"format": "pt"}))  # Hugging Face's name for torch


def _write_shards(folder: Path, weights: dict[str, torch.Tensor], limit: int) -> None:
    """Write weights in files of at most `limit` bytes and their index.

    Older shards and their index are removed first, so that an interruption never leaves a mixture of old and new ones.
    """
    room = limit - _HEADER_BYTES * (len(weights) + 1)
    name, largest = max(weights.items(), key=lambda item: item[1].nbytes)
    if largest.nbytes > room:
        least = (largest.nbytes + limit - room) / 1e6
        raise GmaeToolsError(f"pieces of {limit / 1e6:g} MB cannot hold {name}: allow at least {least:.2g} MB")
    split = huggingface_hub.split_torch_state_dict_into_shards(
        weights, filename_pattern="model{suffix}.safetensors", max_shard_size=room
    )
    _remove_shards(folder)
    for file, tensors in split.filename_to_tensors.items():
        _write_weights(folder / file, {tensor: weights[tensor] for tensor in tensors})
    if split.is_sharded:
        write_json(folder / INDEX_FILE, {"metadata": split.metadata, "weight_map": split.tensor_to_filename})
        (folder / WEIGHTS_FILE).unlink(missing_ok=True)


def _remove_shards(folder: Path) -> None:
    for path in (folder / INDEX_FILE, *folder.glob(_SHARDS)):
        path.unlink(missing_ok=True)


def load_folder(folder: str | os.PathLike[str]) -> Autoencoder:
    """Load the model of a checkpoint folder, in evaluation mode, as float32 on the CPU.

    Raises:
        GmaeToolsError: a file is missing, damaged, or does not fit the configuration beside it.
    """
    folder = Path(folder)
    kind, config = _read_config(folder / CONFIG_FILE)
    weights: dict[str, torch.Tensor] = {}
    origins: dict[str, Path] = {}
    files = weights_files(folder)
    for path in files:
        for name, tensor in _read_weights(path).items():
            if name in weights:
                raise GmaeToolsError(f"{path}: holds {printable(name)}, which {origins[name].name} holds, too")
            weights[name], origins[name] = tensor, path
    model = _build(kind, config, weights, files[0] if len(files) == 1 else folder / INDEX_FILE, origins)
    model.provenance = _training(folder)
    return model


def training_of(name: str | os.PathLike[str]) -> dict[str, Any]:
    """Return how the weights of a checkpoint were made, as given to `save`; an empty dict if it does not say.

    Args:
        name: as for `load_any`.

    Raises:
        GmaeToolsError: as for `load_any`.
    """
    if (path := file_of_others(name)) is not None:
        return {"imported_from": path.name}
    return _training(find(name))


def _training(folder: Path) -> dict[str, Any]:
    training = _read_json(folder / CONFIG_FILE).get("training")
    return training if isinstance(training, dict) else {}


def weights_files(folder: Path) -> list[Path]:
    """Return the single file of weights, or all files that the index names."""
    whole, index = folder / WEIGHTS_FILE, folder / INDEX_FILE
    if os.path.lexists(whole) or not index.exists():
        return [whole]
    pieces = _read_json(index).get("weight_map")
    names = pieces.values() if isinstance(pieces, dict) else [None]
    if not all(isinstance(name, str) and _SHARD.fullmatch(name) for name in names):
        raise GmaeToolsError(f"{index}: damaged (names other files); fetch the checkpoint again")
    return [folder / name for name in sorted(set(names))]


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        return read_safetensors(path)
    except FileNotFoundError:
        raise GmaeToolsError(
            f"{path}: missing; a checkpoint is {CONFIG_FILE} and {WEIGHTS_FILE} (or all its pieces) in one folder"
        ) from None
    except Exception as error:  # safetensors raises its own type, and others
        raise GmaeToolsError(f"{path}: damaged or not safetensors ({one_line(error)}); fetch it again") from None


def _read_config(path: Path) -> tuple[type[Autoencoder], AutoencoderConfig]:
    """Read the class and the configuration of a model."""
    document = _read_json(path)
    written, architecture, values = document.get("format"), document.get("architecture", "gmae"), document.get("model")
    try:
        if written != FORMAT:
            raise GmaeToolsError(f"format {written!r}, this version reads {FORMAT!r}")
        if not isinstance(architecture, str) or architecture not in _ARCHITECTURES:
            raise GmaeToolsError(f"architecture {architecture!r}, this version knows {', '.join(_ARCHITECTURES)}")
        if not isinstance(values, dict):
            raise GmaeToolsError("damaged (no configuration of a model); fetch the checkpoint again")
        model, config = _ARCHITECTURES[architecture]
        return model, config.from_dict(values)
    except (GmaeToolsError, RecursionError) as error:  # RecursionError if values are nested too deeply to be printed
        raise GmaeToolsError(f"{path}: {one_line(error)}") from None


def _read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file with an object, such as a configuration or an index."""
    try:
        if not path.is_file():  # a pipe is refused, because it might never end
            raise GmaeToolsError(f"{path}: missing; is this the folder of a checkpoint?")
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError("too large")
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise ValueError("no JSON object")
        return document
    except (OSError, ValueError, RecursionError) as error:
        raise GmaeToolsError(f"{path}: damaged ({one_line(error)}); fetch the checkpoint again") from None


# --- files of others ------------------------------------------------------------------------------------


def load_file(path: str | os.PathLike[str]) -> Autoencoder:
    """Load a model in evaluation mode from a file of GMAE's authors or of the official MAE; the weights tell which.

    Raises:
        GmaeToolsError: the file cannot be read, or holds another model.
    """
    document = read_torch(path, [*official_mae.KNOWN, *authors.KNOWN])
    model: Autoencoder
    if os.fspath(path).endswith(AUTHORS_SUFFIX) or authors.is_authors(document):
        if not check_plain(authors.state_tensors(document), path):
            raise GmaeToolsError(f"{path}: holds no state dict; expected the layout of the authors' checkpoints")
        with _named(path):
            gmae, weights = authors.from_authors(document)
        model = _build(GMAE, gmae, weights, Path(path))
    else:
        weights, settings = official_mae.parts(document, path)
        # Without settings the targets were not normalised, as in the published `mae_visualize_*.pth`.
        normalised = getattr(settings, "norm_pix_loss", False) is True
        with _named(path):
            mae = official_mae.official_config(weights, normalise_targets=normalised)
        model = _build(MAE, mae, official_mae.from_official(weights), Path(path))
    model.provenance = training_of(path)
    return model


@contextmanager
def _named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let errors begin with the path of the file."""
    try:
        yield
    except GmaeToolsError as error:
        raise GmaeToolsError(f"{path}: {error}") from None


# --- checks ---------------------------------------------------------------------------------------------


def _build(
    kind: type[Model],
    config: AutoencoderConfig,
    weights: Mapping[str, torch.Tensor],
    path: Path,
    origins: Mapping[str, Path] | None = None,
) -> Model:
    """Make the model of a configuration with the given weights, in evaluation mode.

    Tensors that are missing or unknown, of a wrong shape or not finite are refused. Errors name the `path` of the file
    or of the index, and the file of a tensor if there are several (`origins`).
    """
    with torch.device("meta"):  # takes no memory, whatever the configuration claims
        wanted = kind(config).state_dict()  # type: ignore[call-arg]  # each has its own decoder
    for problem, names in (("lacks", wanted.keys() - weights.keys()), ("has unknown", weights.keys() - wanted.keys())):
        if names:
            example = printable(min(names))
            raise GmaeToolsError(f"{path}: {problem} {len(names)} tensors, such as {example}; another model's weights?")
    found = {}
    for name, tensor in weights.items():
        file = (origins or {}).get(name, path)
        if tensor.shape != wanted[name].shape:
            shapes = f"{list(tensor.shape)}, the configuration asks for {list(wanted[name].shape)}"
            raise GmaeToolsError(f"{file}: {name} has shape {shapes}")
        found[name] = finite(tensor, f"{file}: {name}")
    return kind.with_weights(config, found).eval()


def finite(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """Convert weights to float32.

    Raises:
        GmaeToolsError: they are not floating-point numbers, or one is not finite as float32; the error begins with
            `name`.
    """
    if not tensor.is_floating_point():
        raise GmaeToolsError(f"{name} holds {str(tensor.dtype).removeprefix('torch.')}, no floating-point numbers")
    tensor = tensor.float()
    if not torch.isfinite(tensor).all():
        raise GmaeToolsError(f"{name} has NaN or infinite values; the training run diverged")
    return tensor

"""Models as Hugging Face's libraries have them: `from_pretrained`, `save_pretrained`, `push_to_hub`, model cards."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin

from gmae_tools import checkpoints
from gmae_tools.errors import GmaeToolsError
from gmae_tools.mae import CMAE, MAE, CMAEConfig, MAEConfig
from gmae_tools.model import GMAE, Autoencoder, GMAEConfig
from tests.oracles.hub import Hub, serve

KINDS: dict[str, tuple[Any, Any]] = {"gmae": (GMAE, GMAEConfig), "mae": (MAE, MAEConfig), "c-mae": (CMAE, CMAEConfig)}


def made(kind: str, seed: int = 0) -> Autoencoder:
    torch.manual_seed(seed)
    model, config = KINDS[kind]
    return model(config.preset("nano"))


def assert_same(found: Autoencoder, wanted: Autoencoder) -> None:
    assert type(found) is type(wanted) and found.config == wanted.config and not found.training
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


# --- folders ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_is_a_checkpoint_with_a_card(kind: str, tmp_path: Path) -> None:
    model = made(kind)
    assert isinstance(model, PyTorchModelHubMixin)
    model.provenance = {"samples": 12_345, "psnr": 21.3456}
    model.save_pretrained(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert_same(type(model).from_pretrained(tmp_path / "saved"), model)
    assert_same(checkpoints.load_any(tmp_path / "saved"), model)
    assert checkpoints.training_of(tmp_path / "saved") == model.provenance
    again = Autoencoder.from_pretrained(str(tmp_path / "saved"))
    assert_same(again, model)
    assert again.provenance == model.provenance
    card = ModelCard.load(tmp_path / "saved" / "README.md")
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"]) == ("gmae-tools", "image-feature-extraction")
    assert (data["license"], data["metrics"]) == ("unknown", ["psnr"]) and "masked-autoencoder" in data["tags"]
    assert ("gaussian-splatting" in data["tags"]) == (kind == "gmae")
    digest = hashlib.sha256((tmp_path / "saved" / "model.safetensors").read_bytes()).hexdigest()
    assert digest in card.text and "12,345 samples" in card.text and "21.35 dB" in card.text
    assert ("64 Gaussians: 16 queries x 4" in card.text) == (kind == "gmae")


def test_the_card_says_what_it_is_told_and_is_not_replaced(tmp_path: Path) -> None:
    told = {"license": "cc-by-4.0", "datasets": ["ILSVRC/imagenet-1k"], "repository": "me/nano"}
    made("gmae").save_pretrained(tmp_path, model_card_kwargs=told)
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.license, card.data.datasets) == ("cc-by-4.0", ["ILSVRC/imagenet-1k"])
    assert "metrics" not in card.data.to_dict() and 'GMAE.from_pretrained("me/nano")' in card.text
    (tmp_path / "README.md").write_text("# Mine\n")
    made("gmae", 1).save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
    assert_same(GMAE.from_pretrained(tmp_path), made("gmae", 1).eval())


def test_embedded_checkpoints_go_by_name() -> None:
    model = GMAE.from_pretrained("gmae-tiny")
    assert model.config.k == 1024 and model.provenance is not None and model.provenance["samples"] == 39712


def test_other_models_are_refused(tmp_path: Path) -> None:
    made("mae").save_pretrained(tmp_path)
    with pytest.raises(GmaeToolsError, match=r"holds weights of MAE, not of GMAE$"):
        GMAE.from_pretrained(tmp_path)


def test_models_are_copied_as_any_module(tmp_path: Path) -> None:
    model = made("gmae").eval()
    assert_same(copy.deepcopy(model), model)
    torch.save(model, tmp_path / "whole.pt")
    assert_same(torch.load(tmp_path / "whole.pt", weights_only=False), model)


def test_the_card_of_what_comes_along_is_up_to_date(repository: Path) -> None:
    """Its head is what the hub reads, and its digest that of the weights beside it."""
    for name in checkpoints.embedded():
        folder = repository / "checkpoints" / name
        card = ModelCard.load(folder / "README.md")
        data = card.data.to_dict()
        assert data["license"] == "mit" and data["library_name"] == "gmae-tools"
        assert data["pipeline_tag"] == "image-feature-extraction"
        assert data["tags"] and data["datasets"] and data["metrics"][0] == "psnr"
        assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() in card.text


# --- the hub ----------------------------------------------------------------------------------------------

# Runs the real client, whose settings come from the environment when it is imported: one line of JSON an operation.
CLIENT = """
import json, sys
from gmae_tools import checkpoints
from gmae_tools.errors import GmaeToolsError
from gmae_tools.mae import MAE
from gmae_tools.model import GMAE

for operation, kind, argument, other, options in json.loads(sys.argv[1]):
    try:
        kind = {"GMAE": GMAE, "MAE": MAE}[kind]
        if operation == "push_to_hub":
            result = str(kind.from_pretrained(argument).push_to_hub(other, **options))
        elif operation == "push":
            result = checkpoints.push(argument, other)
        else:
            kind.from_pretrained(argument, **options).save_pretrained(other)
            result = "loaded"
    except GmaeToolsError as error:
        result = f"error: {error}"
    print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Hub, dict[str, str]]:
    """One session of the real client with an imitated hub: its folder, the hub afterwards, and the results."""
    folder = tmp_path_factory.mktemp("hub")
    for name, model in (("gmae", made("gmae")), ("mae", made("mae")), ("other", made("gmae", 1))):
        checkpoints.save(model, folder / name)
    hub = Hub()
    files = {file.name: file.read_bytes() for file in (folder / "other").iterdir()}
    hub.commit("org/two", "main", {file.name: file.read_bytes() for file in (folder / "gmae").iterdir()})
    hub.commit("org/two", "v2", files)
    card = {"license": "mit"}
    operations: dict[str, tuple[object, ...]] = {
        "push": ("push_to_hub", "GMAE", str(folder / "gmae"), "org/pushed", {"model_card_kwargs": card}),
        "pushed": ("load", "GMAE", "org/pushed", str(folder / "1"), {}),
        "push mae": ("push_to_hub", "MAE", str(folder / "mae"), "org/mae", {"private": True}),
        "mae": ("load", "MAE", "org/mae", str(folder / "2"), {}),
        "newest": ("load", "GMAE", "hf://org/two", str(folder / "3"), {"cache_dir": str(folder / "cache")}),
        "revision": ("load", "GMAE", "org/two", str(folder / "4"), {"revision": "v2"}),
        "another kind": ("load", "GMAE", "org/mae", "", {}),
        "none": ("load", "GMAE", "org/nothing", "", {}),
        "offline": ("load", "GMAE", "org/two", "", {"revision": "v3", "local_files_only": True}),
        "denied": ("push_to_hub", "GMAE", str(folder / "gmae"), "denied/pushed", {}),
        "folder": ("push", "GMAE", str(folder / "gmae"), "org/folder", {}),
    }  # fmt: skip
    with serve(hub):
        environment = {
            **os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_made_up", "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, json.dumps(list(operations.values()))],
            env=environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    return folder, hub, dict(zip(operations, results, strict=True))


def test_models_go_to_the_hub_and_come_back(session: tuple[Path, Hub, dict[str, str]]) -> None:
    folder, hub, results = session
    assert "/org/pushed/" in results["push"] and results["pushed"] == results["mae"] == "loaded"
    assert_same(checkpoints.load(folder / "1"), made("gmae"))
    assert_same(checkpoints.load_any(folder / "2"), made("mae"))
    files = hub.repositories["org/pushed"]["main"]
    assert set(files) == {"config.json", "model.safetensors", "README.md"}
    assert ModelCard(files["README.md"].decode()).data.license == "mit"
    assert b'GMAE.from_pretrained("org/pushed")' in files["README.md"]


def test_revisions_are_told_apart(session: tuple[Path, Hub, dict[str, str]]) -> None:
    folder, _, results = session
    assert results["newest"] == results["revision"] == "loaded"
    assert_same(checkpoints.load(folder / "3"), made("gmae"))
    assert_same(checkpoints.load(folder / "4"), made("gmae", 1))
    assert (folder / "cache").is_dir()


def test_a_pushed_folder_without_a_card_gets_one(session: tuple[Path, Hub, dict[str, str]]) -> None:
    folder, hub, results = session
    assert results["folder"] == "hf://org/folder"
    assert "library_name: gmae-tools" in hub.repositories["org/folder"]["main"]["README.md"].decode()
    assert not (folder / "gmae" / "README.md").exists()


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        ("another kind", "org/mae: holds weights of MAE, not of GMAE"),
        ("none", "hf://org/nothing: cannot be fetched: no such repository"),
        ("offline", "hf://org/two@v3: cannot be fetched: the hub cannot be reached"),
        ("denied", "hf://denied/pushed: the hub refused: "),
    ],
)
def test_trouble_is_one_line(session: tuple[Path, Hub, dict[str, str]], operation: str, message: str) -> None:
    result = session[2][operation]
    assert result.startswith(f"error: {message}") and "\n" not in result and len(result) < 400

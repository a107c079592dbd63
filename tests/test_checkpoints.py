"""Checkpoints: what is saved comes back, from folders and from the hub; what is damaged is refused and named."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from gmae_tools import checkpoint_names, checkpoints
from gmae_tools.camera import Camera
from gmae_tools.errors import GmaeToolsError
from gmae_tools.formats.official_mae import official_config
from gmae_tools.mae import CMAE, MAE, CMAEConfig, MAEConfig
from gmae_tools.model import GMAE, RGB_MEAN, GMAEConfig
from tests.oracles.hub import Hub, serve
from tests.oracles.mae import OfficialMAE, save_official

CONFIG = GMAEConfig.preset("nano", queries=9, max_scale=1.5, camera=Camera("pinhole", distance=3.0, focal=2.0))


def made(seed: int) -> GMAE:
    torch.manual_seed(seed)
    return GMAE(CONFIG)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoints.save(made(0), tmp_path / "model")
    return tmp_path / "model"


def assert_equal(actual: GMAE, expected: GMAE, **tolerance: float) -> None:
    assert actual.config == expected.config
    mine, theirs = actual.state_dict(), expected.state_dict()
    assert mine.keys() == theirs.keys()
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], **(tolerance or {"rtol": 0, "atol": 0}), msg=name)


# --- models that GMAE is compared with -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mae", "c-mae"])
def test_other_models_come_back_and_are_refused_where_gaussians_are_wanted(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    changes: dict[str, Any] = {"normalise_targets": True} if kind == "mae" else {"embedding": 7}
    model = MAE(MAEConfig.preset("nano", **changes)) if kind == "mae" else CMAE(CMAEConfig.preset("nano", **changes))
    checkpoints.save(model, tmp_path, half=True, max_shard_mb=0.1)
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == kind
    again = checkpoints.load_any(tmp_path)
    assert type(again) is type(model) and again.config == model.config and not again.training
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=2**-11, atol=2**-25, msg=name)
    with pytest.raises(GmaeToolsError) as caught:
        checkpoints.load(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: {kind} predicts no Gaussians; choose a GMAE, or look at this one with "
        "reconstruct, probe or invariance"
    )


def test_loading_leaves_the_callers_random_numbers_alone(folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    model = checkpoints.load_any(folder)
    assert torch.equal(torch.rand(4), expected)
    assert all(parameter.requires_grad and parameter.device.type == "cpu" for parameter in model.parameters())
    assert torch.equal(model.rgb_mean.flatten(), torch.tensor(RGB_MEAN))


def test_a_folder_that_does_not_say_is_a_gmaes(folder: Path) -> None:
    document = json.loads((folder / "config.json").read_text())
    assert document.pop("architecture") == "gmae"
    (folder / "config.json").write_text(json.dumps(document))
    assert_equal(checkpoints.load(folder), made(0))
    assert type(checkpoints.load_any(folder)) is GMAE


@pytest.mark.parametrize("architecture", ["gan", None])
def test_an_unknown_architecture_is_named(folder: Path, architecture: Any) -> None:
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**document, "architecture": architecture}))
    known = r"config\.json: architecture .*, this version knows gmae, mae, r-mae, c-mae"
    with pytest.raises(GmaeToolsError, match=known):
        checkpoints.load_any(folder)


# --- official MAE checkpoints -----------------------------------------------------------------------------

LIKE = MAEConfig(
    image_size=32, patch_size=8, width=128, depth=3, heads=2, decoder_width=64, decoder_depth=2, decoder_heads=16
)


@pytest.fixture
def published() -> OfficialMAE:
    torch.manual_seed(0)
    return OfficialMAE(4, 8, 128, 3, 2, 64, 2, 16, norm_pix_loss=False)


def test_an_official_checkpoint_is_a_whole_mae(published: OfficialMAE, tmp_path: Path) -> None:
    save_official({"model": published.state_dict()}, tmp_path / "mae.pth")
    model = checkpoints.load_any(tmp_path / "mae.pth")
    assert isinstance(model, MAE) and model.config == LIKE and not model.training
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        _, predictions, mask = published((images - model.rgb_mean) / model.rgb_std, torch.rand(2, 16), 4)
        torch.testing.assert_close(model(images, mask.bool()), predictions, rtol=1e-4, atol=1e-5)
    checkpoints.save(model, tmp_path / "ours")
    assert checkpoints.load_any(tmp_path / "ours").config == LIKE


def test_settings_beside_the_weights_tell_of_normalised_targets(published: OfficialMAE, tmp_path: Path) -> None:
    """As the official training code saves them: a plain namespace, the only thing but tensors that is let in."""
    settings = argparse.Namespace(norm_pix_loss=True, lr=1e-4, model="mae_vit_base_patch16")
    half = {name: tensor.half() for name, tensor in published.state_dict().items()}
    save_official({"model": half, "args": settings, "epoch": 3}, tmp_path / "mae.pth")
    model = checkpoints.load_any(tmp_path / "mae.pth")
    assert model.config.normalise_targets and model.decoder.head.weight.dtype == torch.float32


@pytest.mark.parametrize(("width", "heads"), [(768, 12), (1024, 16), (1280, 16)], ids=["ViT-B", "ViT-L", "ViT-H"])
def test_heads_of_the_official_models(width: int, heads: int) -> None:
    shapes = {"cls_token": (1, 1, width), "mask_token": (1, 1, 512), "pos_embed": (1, 197, width),
              "patch_embed.proj.weight": (width, 3, 16, 16), "blocks.0.norm1.weight": (width,),
              "blocks.1.norm1.weight": (width,), "decoder_blocks.0.norm1.weight": (512,)}  # fmt: skip
    config = official_config({name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    assert (config.image_size, config.patch_size, config.width, config.depth, config.heads) == (
        224,
        16,
        width,
        2,
        heads,
    )
    assert (config.decoder_width, config.decoder_depth, config.decoder_heads) == (512, 1, 16)


def test_official_files_that_will_not_do(published: OfficialMAE, tmp_path: Path) -> None:
    whole = published.state_dict()
    encoder = {name: tensor for name, tensor in whole.items() if "decoder" not in name and name != "mask_token"}
    for content, message in (
        ({"model": encoder}, "no weights of a whole MAE .*'mask_token'.*; an encoder alone makes no pictures"),
        ({"model": {**whole, "norm.bias": torch.full((128,), torch.nan)}}, "NaN or infinite"),
        ({"model": {name: whole[name] for name in whole if name != "decoder_pred.bias"}}, "lacks 1 tensors"),
        ({"model": 3}, "holds no state dict"),
    ):
        save_official(content, tmp_path / "mae.pth")
        with pytest.raises(GmaeToolsError, match=message) as caught:
            checkpoints.load_any(tmp_path / "mae.pth")
        assert str(caught.value).startswith(f"{tmp_path / 'mae.pth'}: ") and "\n" not in str(caught.value)
    with pytest.raises(GmaeToolsError, match=r"gone\.pth: no such file"):
        checkpoints.load_any(tmp_path / "gone.pth")


# --- folders ------------------------------------------------------------------------------------------


def test_what_is_saved_comes_back_exactly(folder: Path) -> None:
    model = checkpoints.load(folder)
    assert not model.training
    assert_equal(model, made(0))
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(images).means, made(0).eval()(images).means)
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_half_precision_halves_the_file_and_loads_as_float32(folder: Path) -> None:
    checkpoints.save(made(0), folder.parent / "half", half=True)
    model = checkpoints.load(folder.parent / "half")
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert_equal(model, made(0), rtol=2**-11, atol=2**-25)  # of float16: half a step of the mantissa, of subnormals
    full, half = ((parent / "model.safetensors").stat().st_size for parent in (folder, folder.parent / "half"))
    assert 0.45 < half / full < 0.6


def test_saving_again_replaces(folder: Path) -> None:
    checkpoints.save(made(1), folder)
    assert_equal(checkpoints.load(folder), made(1))


def test_a_checkpoint_can_be_read_by_whom_its_folder_can(folder: Path) -> None:
    assert len({file.stat().st_mode for file in folder.iterdir()}) == 1


def test_the_training_is_told(tmp_path: Path) -> None:
    checkpoints.save(made(0), tmp_path, training={"samples": 7})
    document = json.loads((tmp_path / "config.json").read_text())
    assert document["training"] == {"samples": 7}
    said = {"kind": "pinhole", "distance": 3.0, "focal": 2.0, "blur": 0.3}
    assert said.items() <= document["model"]["camera"].items()
    assert_equal(checkpoints.load(tmp_path), made(0))


def test_names_and_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.chdir(folder.parent)
    for name in (str(folder), "model", "./model/", "~/model", Path("model")):
        assert checkpoints.find(name).samefile(folder), name


def test_embedded_checkpoints_go_by_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (roots := tmp_path / "roots").mkdir()
    shutil.copytree(folder, roots / "gmae-ours")
    (roots / "no-checkpoint").mkdir()
    monkeypatch.setattr(checkpoint_names, "EMBEDDED_ROOTS", (roots, tmp_path / "missing"))
    monkeypatch.chdir(tmp_path)
    assert checkpoint_names.embedded() == ["gmae-ours"]
    assert_equal(checkpoints.load("gmae-ours"), made(0))
    (tmp_path / "gmae-ours").mkdir()  # a folder of the user's does not stand in front of it
    assert_equal(checkpoints.load("gmae-ours"), made(0))
    with pytest.raises(GmaeToolsError, match="one of: gmae-ours"):
        checkpoints.load("gmae-yours")


def test_what_comes_with_the_package_loads() -> None:
    assert "gmae-tiny" in checkpoint_names.embedded()
    for name in checkpoint_names.embedded():
        model = checkpoints.load(name)
        with torch.no_grad():
            assert model(torch.rand(1, 3, 64, 64)).k == model.config.k


# --- pieces -------------------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.fixture
def pieces(tmp_path: Path) -> Path:
    checkpoints.save(made(0), tmp_path / "pieces", half=True, max_shard_mb=0.1)
    return tmp_path / "pieces"


def test_pieces_are_small_and_come_back(pieces: Path) -> None:
    shards = [name for name in names(pieces) if name.startswith("model-")]
    count = len(shards)
    assert count > 2 and shards == [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    assert names(pieces) == ["config.json", *shards, "model.safetensors.index.json"]
    assert max((pieces / shard).stat().st_size for shard in shards) <= 100_000
    assert_equal(checkpoints.load(pieces), made(0), rtol=2**-11, atol=2**-25)


@pytest.mark.skipif(not hasattr(huggingface_hub, "load_torch_model"), reason="needs huggingface_hub 0.28")
def test_the_layout_is_that_of_hugging_face(pieces: Path) -> None:
    """Their own loader, into a module of the same parameters."""
    model = made(1)
    huggingface_hub.load_torch_model(model, pieces, safe=True)
    assert_equal(model, checkpoints.load(pieces))
    index = json.loads((pieces / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == model.state_dict().keys()
    assert index["metadata"]["total_size"] == sum(2 * tensor.numel() for tensor in model.state_dict().values())


def test_one_piece_is_the_usual_file(tmp_path: Path) -> None:
    checkpoints.save(made(0), tmp_path, max_shard_mb=16)
    assert names(tmp_path) == ["config.json", "model.safetensors"]
    assert_equal(checkpoints.load(tmp_path), made(0))


def test_whole_and_in_pieces_replace_each_other(folder: Path) -> None:
    for seed, limit in ((1, 0.2), (2, 0.3), (3, None), (4, 0.25)):
        checkpoints.save(made(seed), folder, max_shard_mb=limit)
        assert_equal(checkpoints.load(folder), made(seed))
        used = {path.name for path in checkpoints.weights_files(folder)}
        assert {name for name in names(folder) if name.endswith(".safetensors")} == used
        assert (used == {"model.safetensors"}) == (limit is None)


def test_killed_between_pieces_it_is_refused_not_mixed(pieces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = checkpoints._write_weights

    def dying_write(path: Path, weights: dict[str, torch.Tensor]) -> None:
        if "00002" in path.name:
            raise KeyboardInterrupt
        write(path, weights)

    monkeypatch.setattr(checkpoints, "_write_weights", dying_write)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(made(1), pieces, half=True, max_shard_mb=0.1)
    with pytest.raises(GmaeToolsError, match="missing"):
        checkpoints.load(pieces)


def test_pieces_too_small_for_a_tensor_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GmaeToolsError, match=r"pieces of 0.01 MB cannot hold \S+: allow at least 0.\d+ MB") as caught:
        checkpoints.save(made(0), tmp_path, max_shard_mb=0.01)
    assert names(tmp_path) == []
    least = float(str(caught.value).split("at least ")[1].split()[0])
    checkpoints.save(made(0), tmp_path, max_shard_mb=least * 1.05)  # it is stated to two digits
    assert max(file.stat().st_size for file in tmp_path.iterdir()) <= least * 1.05e6


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: next(f.glob("model-00002*")).unlink(), r"model-00002-of-\d+.safetensors: missing"),
        (lambda f: os.truncate(next(f.glob("model-00002*")), 100), "00002-of-.*damaged or not safetensors"),
        (lambda f: (f / "model.safetensors.index.json").unlink(), "model.safetensors: missing"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{"), "index.json: damaged"),
        (lambda f: (f / "model.safetensors.index.json").write_text("[]"), "index.json: damaged"),
        (
            lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}'),
            "index.json: damaged",
        ),
        (
            lambda f: (f / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"a": next(f.glob("model-00001*")).name}})
            ),
            "lacks",
        ),
    ],
    ids=["missing", "truncated", "no index", "half an index", "a list", "other files", "incomplete"],
)
def test_damaged_pieces_are_refused_in_one_line(pieces: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(pieces)
    with pytest.raises(GmaeToolsError, match=message) as caught:
        checkpoints.load(pieces)
    assert "\n" not in str(caught.value)


# --- damage -------------------------------------------------------------------------------------------


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def reconfigure(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((folder / "config.json").read_text())
    change(document)
    (folder / "config.json").write_text(json.dumps(document))


def poison(value: float) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda weights: weights["decoder.bias"].__setitem__(3, value)


WEIGHTS_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda f: (f / "model.safetensors").unlink(), "missing"),
    "truncated": (lambda f: os.truncate(f / "model.safetensors", 1000), "damaged or not safetensors"),
    "short header": (lambda f: os.truncate(f / "model.safetensors", 4), "damaged or not safetensors"),
    "empty": (lambda f: os.truncate(f / "model.safetensors", 0), "damaged or not safetensors"),
    "text": (lambda f: (f / "model.safetensors").write_text("version https://git-lfs"), "damaged or not safetensors"),
    "folder": (lambda f: ((f / "model.safetensors").unlink(), (f / "model.safetensors").mkdir()), "damaged or not"),
    "NaN": (lambda f: rewrite(f, poison(float("nan"))), "decoder.bias has NaN or infinite values"),
    "infinite": (lambda f: rewrite(f, poison(float("inf"))), "decoder.bias has NaN or infinite values"),
    "shape": (
        lambda f: rewrite(f, lambda w: w.update({"decoder.bias": torch.zeros(7)})),
        r"decoder.bias has shape \[7\], the configuration asks for \[14\]",
    ),
    "lacking": (
        lambda f: rewrite(f, lambda w: w.pop("encoder.norm.bias")),
        "lacks 1 tensors, such as encoder.norm.bias",
    ),
    "surplus": (
        lambda f: rewrite(f, lambda w: w.update({"head.bias": torch.zeros(1)})),
        "has unknown 1 tensors, such as head.bias",
    ),
    "another width": (lambda f: reconfigure(f, lambda d: d["model"].update(width=96)), "has shape"),
    "another depth": (lambda f: reconfigure(f, lambda d: d["model"].update(depth=3)), "lacks 12 tensors"),
}
CONFIG_DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda f: (f / "config.json").unlink(), "missing; is this the folder of a checkpoint"),
    "truncated": (lambda f: os.truncate(f / "config.json", 50), "damaged"),
    "binary": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "damaged"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "damaged"),
    "of something else": (lambda f: (f / "config.json").write_text('{"architectures": ["ViT"]}'), "format None"),
    "no model": (lambda f: reconfigure(f, lambda d: d.update(model=None)), "damaged|not a configuration"),
    "later format": (lambda f: reconfigure(f, lambda d: d.update(format="gmae-tools/9")), "format 'gmae-tools/9'"),
    "unknown setting": (lambda f: reconfigure(f, lambda d: d["model"].update(widht=3)), "widht"),
    "impossible": (lambda f: reconfigure(f, lambda d: d["model"].update(heads=0)), "heads is 0"),
}


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        pytest.param(file, *case, id=f"{file}: {name}")
        for file, cases in (("model.safetensors", WEIGHTS_DAMAGE), ("config.json", CONFIG_DAMAGE))
        for name, case in cases.items()
    ],
)
def test_damage_is_refused_in_one_line(folder: Path, file: str, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(GmaeToolsError, match=message) as caught:
        checkpoints.load(folder)
    assert str(caught.value).startswith(f"{folder / file}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["no-such-thing", "/no/such/thing", "~nobody-at-all/model", "", "../checkpoints-not"])
def test_unknown_names_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(GmaeToolsError) as caught:
        checkpoints.load(name)
    assert "\n" not in str(caught.value)


def test_a_failed_save_leaves_the_old_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoints.save(made(1), folder)
    assert_equal(checkpoints.load(folder), made(0))
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors"]


# --- the hub --------------------------------------------------------------------------------------------

# Runs the real client, whose settings come from the environment when it is imported: one line of JSON an operation.
CLIENT = """
import json, sys, urllib.request
from gmae_tools import checkpoints
from gmae_tools.errors import GmaeToolsError

for operation, argument, out in json.loads(sys.argv[1]):
    try:
        if operation == "load":
            checkpoints.save(checkpoints.load(argument), out)
            result = "loaded"
        elif operation == "push":
            result = checkpoints.push(argument, out)
        else:
            result = urllib.request.urlopen(argument).status
    except GmaeToolsError as error:
        result = f"error: {error}"
    print(json.dumps(result))
"""


Session = tuple[Path, Hub, dict[str, str]]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    """One session of the real client with an imitated hub: its folder, the hub afterwards, and the results."""
    folder = tmp_path_factory.mktemp("hub")
    files = []
    for seed in range(2):
        checkpoints.save(made(seed), folder / f"made-{seed}")
        files.append({file.name: file.read_bytes() for file in sorted((folder / f"made-{seed}").iterdir())})
    (folder / "made-0" / "README.md").write_text("# Nano\n")
    (folder / "made-0" / "notes.txt").write_text("not for the hub")
    hub = Hub()
    hub.commit("org/nano", "v1", files[1])
    hub.commit("org/nano", "main", {**files[0], "huge.bin": b"never fetched"})
    hub.commit("org/cut", "main", {**files[0], "model.safetensors": files[0]["model.safetensors"][:5000]})
    hub.commit("org/text-only", "main", {"README.md": b"hello"})
    with serve(hub):
        made_0 = str(folder / "made-0")
        operations = {
            "newest": ("load", "hf://org/nano", str(folder / "newest")),
            "revision": ("load", "hf://org/nano@v1", str(folder / "revision")),
            "no such revision": ("load", "hf://org/nano@v9", ""),
            "no such repository": ("load", "hf://org/unknown", ""),
            "damaged weights": ("load", "hf://org/cut", ""),
            "not a checkpoint": ("load", "hf://org/text-only", ""),
            "not a name": ("load", "hf://not//a name", ""),
            "push": ("push", made_0, "org/pushed"),
            "pushed": ("load", "hf://org/pushed", str(folder / "pushed")),
            "push without right": ("push", made_0, "denied/pushed"),
            "push no checkpoint": ("push", str(folder), "org/nothing"),
            "down": ("down", f"{hub.url}/down", ""),
            "offline but cached": ("load", "hf://org/nano@v1", str(folder / "cached")),
            "offline": ("load", "hf://org/never-seen", ""),
            "offline, other revisions cached": ("load", "hf://org/nano@v9", ""),
            "offline, not a name": ("load", "hf://foo", ""),
            "push offline": ("push", made_0, "org/late"),
        }
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


def test_load_from_the_hub(session: Session) -> None:
    folder, _, results = session
    assert results["newest"] == results["revision"] == "loaded"
    assert_equal(checkpoints.load(folder / "newest"), made(0))
    assert_equal(checkpoints.load(folder / "revision"), made(1))
    assert not list(folder.rglob("huge.bin"))  # only what a checkpoint is made of


def test_push_to_the_hub_and_back(session: Session) -> None:
    folder, hub, results = session
    assert (results["push"], results["pushed"]) == ("hf://org/pushed", "loaded")
    assert_equal(checkpoints.load(folder / "pushed"), made(0))
    assert set(hub.repositories["org/pushed"]["main"]) == {"config.json", "model.safetensors", "README.md"}
    assert "org/nothing" not in hub.repositories


def test_what_was_fetched_loads_without_a_connection(session: Session) -> None:
    folder, _, results = session
    assert results["offline but cached"] == "loaded"
    assert_equal(checkpoints.load(folder / "cached"), made(1))


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        ("no such revision", "hf://org/nano@v9: cannot be fetched: the repository has no such revision"),
        ("no such repository", "hf://org/unknown: cannot be fetched: no such repository, or a private one"),
        ("damaged weights", "model.safetensors: damaged"),
        ("not a checkpoint", "config.json: missing"),
        ("not a name", "hf://not//a name: no repository of the hub; write hf://ORG/NAME[@REVISION]"),
        ("offline, not a name", "hf://foo: no repository of the hub; write hf://ORG/NAME[@REVISION]"),
        ("offline, other revisions cached", "and of this repository only main, v1 was fetched before"),
        ("offline", "hf://org/never-seen: cannot be fetched: the hub cannot be reached"),
        ("push without right", "hf://denied/pushed: the hub refused: "),
        ("push no checkpoint", "config.json: missing"),
        ("push offline", "hf://org/late: the hub refused: "),
    ],
)
def test_trouble_with_the_hub_is_one_line(session: Session, operation: str, message: str) -> None:
    result = session[2][operation]
    assert result.startswith("error: ") and message in result
    assert "\n" not in result and len(result) < 400

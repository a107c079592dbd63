"""A folder of predictions never holds a mixture, and goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gmae_tools import __version__, checkpoints
from gmae_tools.benchmarks.map_files import read_soft_map
from gmae_tools.benchmarks.predictions import MAPS, SETTINGS, claim, predict_maps, weights_of
from gmae_tools.errors import CannotWriteError, GmaeToolsError
from gmae_tools.model import GMAE, GMAEConfig
from gmae_tools.system.files import file_sha256


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Three grey pictures, each darker than the one before."""
    paths = [tmp_path / "photos" / f"{name}.png" for name in ("a", "b", "c")]
    paths[0].parent.mkdir()
    for path, level in zip(paths, (200, 100, 50), strict=True):
        Image.fromarray(np.full((4, 6, 3), level, np.uint8)).save(path)
    return paths


def brightness(photo: np.ndarray) -> np.ndarray:
    return (photo[..., 0] / 255).astype(np.float32)


# --- claiming ----------------------------------------------------------------------------------------


def test_settings_are_noted_and_the_same_ones_come_again(tmp_path: Path) -> None:
    for _ in range(2):
        claim(tmp_path / "out", {"readout": "sobel", "scales": (3, 4), "flip": None})
    noted = json.loads((tmp_path / "out" / SETTINGS).read_text())
    assert noted == {"version": __version__, "readout": "sobel", "scales": [3, 4], "flip": None}


def test_other_settings_are_refused_or_replace_what_depends_on_them(tmp_path: Path) -> None:
    parts = (MAPS, "masks", "scores.json")
    claim(tmp_path, {"readout": "sobel"}, parts=parts)
    (tmp_path / MAPS).mkdir()
    for name in ("scores.json", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(GmaeToolsError, match=r"holds results of readout sobel, not canny; use --overwrite"):
        claim(tmp_path, {"readout": "canny"}, parts=parts)
    assert (tmp_path / MAPS).exists() and (tmp_path / "scores.json").exists()
    claim(tmp_path, {"readout": "canny"}, parts=parts, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", SETTINGS]
    assert json.loads((tmp_path / SETTINGS).read_text())["readout"] == "canny"


@pytest.mark.parametrize("settings", [None, "{", "[]"])
def test_results_of_unknown_settings_are_refused(settings: str | None, tmp_path: Path) -> None:
    (tmp_path / MAPS).mkdir()
    if settings is not None:
        (tmp_path / SETTINGS).write_text(settings)
    with pytest.raises(GmaeToolsError, match="unknown settings"):
        claim(tmp_path, {"readout": "sobel"})
    claim(tmp_path, {"readout": "sobel"}, overwrite=True)
    assert not (tmp_path / MAPS).exists()
    claim(tmp_path, {"readout": "sobel"})


def test_weights_in_pieces_have_a_digest_too(checkpoint: Path, tmp_path: Path) -> None:
    assert weights_of(str(checkpoint)) == file_sha256(checkpoint / "model.safetensors")
    digests = set()
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        checkpoints.save(GMAE(GMAEConfig.preset("nano")), tmp_path / "pieces", max_shard_mb=0.2)
        digests.add(weights_of(str(tmp_path / "pieces")))
    assert len(digests) == 2
    piece = min((tmp_path / "pieces").glob("model-*"))
    piece.unlink()
    with pytest.raises(GmaeToolsError, match=f"{piece.name}: missing"):
        weights_of(str(tmp_path / "pieces"))


def test_fingerprint_is_the_files_sha256(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # more than a block
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


# --- predicting --------------------------------------------------------------------------------------


def test_every_predictor_maps_every_photograph(photos: list[Path], tmp_path: Path) -> None:
    bright, dark = tmp_path / "bright", tmp_path / "dark"
    bright.mkdir()
    dark.mkdir()
    done = list(predict_maps(photos, {bright: brightness, dark: lambda photo: 1 - brightness(photo)}))
    assert done == photos
    for name, level in (("a", 200), ("b", 100), ("c", 50)):
        np.testing.assert_array_equal(read_soft_map(bright / MAPS / f"{name}.png"), np.full((4, 6), level / 255))
        np.testing.assert_array_equal(read_soft_map(dark / MAPS / f"{name}.png"), np.full((4, 6), (255 - level) / 255))


def test_only_missing_maps_are_predicted_and_only_their_photographs_read(photos: list[Path], tmp_path: Path) -> None:
    list(predict_maps(photos, {tmp_path: brightness}))
    kept = (tmp_path / MAPS / "a.png").stat().st_mtime_ns
    (tmp_path / MAPS / "b.png").unlink()
    photos[0].write_bytes(b"no picture")
    calls: list[int] = []

    def counted(photo: np.ndarray) -> np.ndarray:
        calls.append(int(photo[0, 0, 0]))
        return brightness(photo)

    assert list(predict_maps(photos, {tmp_path: counted})) == photos
    assert calls == [100]
    assert (tmp_path / MAPS / "a.png").stat().st_mtime_ns == kept


def test_a_folder_that_vanishes_is_not_made_again(photos: list[Path], tmp_path: Path) -> None:
    """It would lack the maps that lay there."""
    out = tmp_path / "out"
    out.mkdir()

    def lose_the_folder(photo: np.ndarray) -> np.ndarray:
        if photo[0, 0, 0] == 100:
            out.rename(tmp_path / "gone")
        return brightness(photo)

    maps = predict_maps(photos, {out: lose_the_folder})
    next(maps)
    with pytest.raises(CannotWriteError, match=r"out/maps: cannot write there \(No such file or directory\)"):
        next(maps)
    with pytest.raises(FileNotFoundError):
        next(predict_maps(photos, {out: brightness}))
    assert not out.exists()

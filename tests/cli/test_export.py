"""`gmae-tools export` from the command line: files that show the picture, also in a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from gmae_tools import checkpoints, formats
from gmae_tools.camera import Camera, project
from gmae_tools.cli import main
from gmae_tools.gaussians import Gaussians
from gmae_tools.images import read_image
from gmae_tools.model import GMAEConfig
from gmae_tools.prediction import predict_gaussians
from gmae_tools.splatting import rasterize

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
K = GMAEConfig.preset("nano").k
HEIGHT, WIDTH = 48, 80


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    rgb = [x / WIDTH, y / HEIGHT, (np.sin(x / 5) + 1) / 2]
    path = tmp_path / "photos" / "wide <1>.png"
    path.parent.mkdir()
    Image.fromarray((np.stack(rgb, -1) * 255).astype(np.uint8)).save(path)
    return path


def export(checkpoint: Path, *arguments: str | Path) -> Result:
    command = ["export", "--checkpoint", str(checkpoint), *map(str, arguments)]
    return CliRunner().invoke(main, command, catch_exceptions=False)


def expected_picture(checkpoint: Path, photo: Path) -> np.ndarray:
    """Float RGB `[H, W, 3]` on white, as the model's own camera shows it."""
    model = checkpoints.load(str(checkpoint))
    splats = project(predict_gaussians(model, read_image(photo)), model.camera, HEIGHT, WIDTH)
    picture = rasterize(splats, HEIGHT, WIDTH, background=torch.ones(3)).image[0].movedim(0, -1)
    assert picture.std() > 0.05
    return picture.numpy()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.square(a - b).mean()))


def test_every_format(checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    forms = ["ply", "splat", "npz", "svg"]
    result = export(checkpoint, photo, "-o", tmp_path / "out", *(f"--format={form}" for form in forms))
    assert (result.exit_code, result.stderr) == (0, "")
    files = [tmp_path / "out" / f"wide <1>.{suffix}" for suffix in (*forms, "json")]
    assert result.stdout.splitlines() == list(map(str, files))
    assert sorted((tmp_path / "out").iterdir()) == sorted(files)
    record = json.loads(files[-1].read_text())
    assert (record["image"], record["checkpoint"], record["k"]) == (str(photo), checkpoint.name, K)
    assert record["files"] == [file.name for file in files[:-1]]
    assert Camera(**record["camera"]) == checkpoints.load(str(checkpoint)).camera
    assert Gaussians.load(files[2]).k == K
    assert files[1].stat().st_size == 32 * K


@pytest.mark.parametrize("fov", [20, 70])
@pytest.mark.parametrize("form", ["ply", "splat", "npz"])
def test_what_is_exported_is_read_back(checkpoint: Path, photo: Path, tmp_path: Path, form: str, fov: int) -> None:
    """Through the camera that the file, or the JSON file beside it, says."""
    assert export(checkpoint, photo, "-o", tmp_path, "--fov", str(fov), "--format", form).exit_code == 0
    viewer = json.loads((tmp_path / "wide <1>.json").read_text())["viewer"]
    assert viewer["fov_x_degrees"] == pytest.approx(fov)
    scene = formats.read(tmp_path / f"wide <1>.{form}")
    assert (scene.k, scene.height, scene.width) == (K, HEIGHT, WIDTH)
    if form != "npz":
        assert scene.camera.kind == "pinhole"
        assert scene.camera.focal == pytest.approx(1 / np.tan(np.radians(fov) / 2))
    seen = scene.render()[0].movedim(0, -1).numpy()
    difference = np.abs(seen - expected_picture(checkpoint, photo)).mean()
    assert difference < (0.02 if form == "splat" else 1e-5)  # .splat has 8 bits


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome")
def test_a_browser_shows_the_svg(checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    assert export(checkpoint, photo, "-o", tmp_path, "--format", "svg").exit_code == 0
    assert CHROMIUM
    (tmp_path / "page.html").write_text(
        "<body style='margin:0'><img style='display:block' src='wide %3C1%3E.svg'></body>"
    )
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=400,300",
        f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'page.png'}",
        (tmp_path / "page.html").as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    shown = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))[:HEIGHT, :WIDTH] / 255
    assert psnr(shown, expected_picture(checkpoint, photo)) > 38


def test_refined_gaussians_are_exported(checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    for steps in ("0", "3"):
        result = export(checkpoint, photo, "-o", tmp_path / steps, "--format", "npz", "--refine", steps)
        assert result.exit_code == 0
    before, after = (Gaussians.load(tmp_path / steps / "wide <1>.npz") for steps in ("0", "3"))
    assert not torch.equal(before.colors, after.colors)
    assert json.loads((tmp_path / "3" / "wide <1>.json").read_text())["refine"] == 3


def test_one_bad_picture_does_not_stop_the_others(checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    (photo.parent / "broken.png").write_text("not a picture")
    result = export(checkpoint, photo.parent, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and "broken.png" in result.stderr
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--format", "obj"], 2, "'obj' is not one of"),
        (["--fov", "90"], 2, "90.0 is not in the range 5<=x<=80"),
        (["--checkpoint", "no-such-checkpoint"], 1, "no-such-checkpoint"),
        (["--out", "photos/wide <1>.png"], 1, "cannot write there"),
    ],
)
def test_mistakes_end_in_one_line(
    checkpoint: Path, photo: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(photo.parent.parent)
    result = export(checkpoint, "photos", *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert not (photo.parent.parent / "export").exists()

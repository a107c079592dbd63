"""Files of Gaussians wherever a command takes a photograph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from gmae_tools import formats
from gmae_tools.camera import Camera, CameraKind
from gmae_tools.cli import main
from gmae_tools.cli.layers import fit_ks, parse_ks
from gmae_tools.errors import GmaeToolsError
from gmae_tools.scene import Scene
from tests.some_gaussians import K, some_gaussians

HEIGHT, WIDTH = 36, 48
COMMANDS = ("layers", "edges", "segment", "density", "view", "export")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with the same Gaussians as .ply, .splat and .npz; the .splat does not say how it is seen."""
    folder = tmp_path / "files"
    folder.mkdir()
    for number, suffix in enumerate(formats.READABLE):
        formats.write(folder / f"scene{number}{suffix}", Scene(some_gaussians(), Camera(), HEIGHT, WIDTH))
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    rgb = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(rgb).save(path)
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments], catch_exceptions=False)


def quick(command: str) -> list[str]:
    """Options that keep a command short."""
    return {"layers": ["--k", "10%,all", "--layers", "2"], "edges": ["--readout", "layers", "--layers", "4"]}.get(
        command, []
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_every_format_without_a_model(
    command: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gmae_tools.checkpoints.load", None)  # no model is loaded
    out = tmp_path / "out"
    result = invoke(command, files, *quick(command), "--size", f"{WIDTH}x{HEIGHT}", "-o", out)
    assert (result.exit_code, result.stderr) == (0, "")
    written = {path.relative_to(out).parts[0].split(".")[0] for path in out.iterdir()}
    assert {"scene0", "scene1", "scene2"} <= written or command == "density"


def test_a_page_of_fewer_gaussians_says_so(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("view", files / "scene0.ply", "-o", tmp_path / "out", "--layers", "2")
    assert invoke(*arguments).stderr == ""
    monkeypatch.setattr("gmae_tools.report.page.MOST_SPLATS", 15)
    assert f"of {K} Gaussians the page shows up to 15 that look alike\n" in invoke(*arguments).stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_damaged_file_is_reported_and_the_others_are_done(command: str, files: Path, tmp_path: Path) -> None:
    (files / "scene1.splat").unlink()
    (files / "broken.ply").write_bytes(b"ply\nformat")
    result = invoke(command, files, *quick(command), "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "broken.ply" in result.stderr and result.stderr.count("\n") == 1
    assert any((tmp_path / "out").iterdir())


def test_photographs_and_gaussians_mix(checkpoint: Path, files: Path, photo: Path, tmp_path: Path) -> None:
    result = invoke(
        "layers", photo, files / "scene0.ply", "--checkpoint", checkpoint, "--k", "8,all", "--layers", 2,
        "--format", "json", "-o", tmp_path / "out",
    )  # fmt: skip
    assert (result.exit_code, result.stderr) == (0, "")
    rows = json.loads(result.stdout)
    assert [(Path(row["image"]).name, row["k"], row["psnr"] is None) for row in rows] == [
        ("photo.png", 8, False), ("photo.png", "all", False), ("scene0.ply", 8, True), ("scene0.ply", "all", True),
    ]  # fmt: skip


def test_a_photograph_to_compare_with_and_to_refine_to(files: Path, photo: Path, tmp_path: Path) -> None:
    result = invoke(
        "layers", files / "scene1.splat", "--photo", photo, "--refine", 3, "--k", "all", "--layers", 2,
        "--format", "json", "-o", tmp_path / "out",
    )  # fmt: skip
    assert (result.exit_code, result.stderr) == (0, "")
    (row,) = json.loads(result.stdout)
    assert row["psnr"] > row["psnr_before"] > 0


def test_export_and_its_sidecar_come_back(files: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert invoke("export", files / "scene2.npz", "--format", "splat", "--format", "ply", "-o", first).exit_code == 0
    assert invoke("export", first / "scene2.ply", "--format", "splat", "-o", second).exit_code == 0
    original = formats.read(files / "scene2.npz").render()
    for path in (first / "scene2.ply", first / "scene2.splat", second / "scene2.splat"):
        tolerance = 1e-5 if path.suffix == ".ply" else 0.03  # of 8 bits
        assert (formats.read(path).render() - original).abs().mean() < tolerance
    refused = invoke("export", first / "scene2.ply", "-o", first)
    assert refused.exit_code == 1 and "choose another one with --out" in refused.stderr


def test_looks_are_for_photographs(files: Path, tmp_path: Path) -> None:
    result = invoke("edges", files / "scene0.ply", *quick("edges"), "--flip", "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert (
        result.stderr == "warning: --scales and --flip are for photographs: files of Gaussians are read in one look\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photo.png", "--size", "48x36"], "--size: is for files of Gaussians"),
        (["files", "--photo", "photo.png"], "belongs to one file of Gaussians, not to 3 inputs"),
        (["photo.png", "--photo", "photo.png"], "--photo: is for files of Gaussians"),
        (["files/scene0.ply", "--photo", "photo.png", "--size", "48x36"], "--size: the picture is as large"),
        (["files/scene0.ply", "--photo", "none.png"], "--photo none.png: no such file"),
        (["files/scene0.ply", "--refine", "3"], "--refine fits Gaussians to a photograph"),
        (["files/scene0.ply", "--layers", str(K + 1)], f"--layers {K + 1}: use 1 to {K}"),
        (["files/scene0.ply", "--k", str(K + 1)], f"--k {K + 1}: there are {K} Gaussians"),
        (["files/scene0.ply", "--k", "0%"], "'0%' is not a number of 1 or more, a share such as 10%"),
        (["files/scene1.splat"], "nothing says how its Gaussians are seen"),
    ],
)
def test_bad_combinations(
    arguments: list[str], message: str, files: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photo.parent)
    result = invoke("layers", *arguments, "-o", "out")
    assert result.exit_code == 1
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_a_photograph_of_another_shape_is_refused(files: Path, tmp_path: Path) -> None:
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "tall.png")
    result = invoke("layers", files / "scene0.ply", "--photo", tmp_path / "tall.png", "-o", tmp_path / "out")
    assert result.exit_code == 1 and "is not that of the picture" in result.stderr


def test_shares() -> None:
    assert fit_ks(parse_ks("all,10%,32"), 1000) == {"32": 32, "10%": 100, "all": 1000}
    assert fit_ks(None, 1_000_000) == {"1%": 10_000, "3%": 30_000, "10%": 100_000, "30%": 300_000, "all": 1_000_000}
    assert list(fit_ks(None, 100)) == ["32", "64", "all"]
    with pytest.raises(GmaeToolsError, match="101%"):
        parse_ks("101%")


def test_kinds_of_cameras_are_those_of_the_camera() -> None:
    assert set(formats.CAMERAS) == set(get_args(CameraKind))

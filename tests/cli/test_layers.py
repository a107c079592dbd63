"""`gmae-tools layers` from the command line, with a small model of random weights."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import gmae_tools
from gmae_tools import prediction, splatting
from gmae_tools.benchmarks import pipeline
from gmae_tools.cli import main
from gmae_tools.cli._options import folder_names
from gmae_tools.gaussians import Gaussians
from gmae_tools.images import read_image
from gmae_tools.model import GMAEConfig
from gmae_tools.splatting import Renderer, choose_backend
from gmae_tools.zeroshot import layers as strips

K = GMAEConfig.preset("nano").k


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a wide and a tall photograph."""
    folder = tmp_path / "photos"
    folder.mkdir()
    write_photo(folder / "tall.jpg", 60, 41)
    write_photo(folder / "wide.png", 37, 80)
    return folder


def write_photo(path: Path, height: int, width: int) -> None:
    y, x = np.mgrid[:height, :width]
    rgb = [x / width, y / height, (np.sin(x / 5) + 1) / 2]
    Image.fromarray((np.stack(rgb, -1) * 255).astype(np.uint8)).save(path)


def layers(checkpoint: Path, *arguments: str | Path) -> Result:
    command = ["layers", "--checkpoint", str(checkpoint), *map(str, arguments)]
    return CliRunner().invoke(main, command, catch_exceptions=False)


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_writes_everything_in_the_photographs_own_size(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    result = layers(checkpoint, photos, "-o", tmp_path / "out", "--k", "8,all", "--layers", "3")
    assert (result.exit_code, result.stderr) == (0, "")
    for name, size in (("tall", (60, 41)), ("wide", (37, 80))):
        folder = tmp_path / "out" / name
        own_size = ["depth.png", "first_008.png", "first_all.png", "layer_01.png", "layer_02.png", "layer_03.png"]
        assert sorted(path.name for path in folder.iterdir()) == sorted([*own_size, "gaussians.npz", "sheet.png"])
        pictures = [read(folder / file) for file in own_size]
        assert {picture.shape for picture in pictures} == {(*size, 3)}
        assert len({picture.tobytes() for picture in pictures}) == len(own_size)
        assert all(picture.std() > 1 for picture in pictures)
        depths = Gaussians.load(folder / "gaussians.npz").means[0, :, 2]
        assert len(depths) == K
        assert (depths.diff() >= 0).all()


def test_table_measures_the_files_that_were_written(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    result = layers(checkpoint, photos, "-o", tmp_path, "--k", "8,64,all", "--format", "json")
    rows = json.loads(result.stdout)
    assert [(Path(row["image"]).name, row["k"]) for row in rows] == [
        (name, k) for name in ("tall.jpg", "wide.png") for k in (8, 64, "all")
    ]
    coverages = [row["coverage"] for row in rows[:3]]
    assert 0 < coverages[0] < coverages[1] == coverages[2] <= 1
    for row in rows:
        photo = read_image(row["image"])
        k = "all" if row["k"] == "all" else f"{row['k']:03}"
        picture = read(tmp_path / Path(row["image"]).stem / f"first_{k}.png")
        assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(photo, picture), abs=1e-3)
        assert row["ssim"] == pytest.approx(structural_similarity(photo, picture, channel_axis=-1), abs=1e-4)
    with open(tmp_path / "layers.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [{**row, "k": str(row["k"])} for row in rows] == [
        {**row, **{name: pytest.approx(float(row[name])) for name in ("psnr", "ssim", "coverage")}} for row in table
    ]


def test_csv_on_stdout_is_the_file(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    result = layers(checkpoint, photos / "tall.jpg", "-o", tmp_path, "--format", "csv")
    assert result.stdout == (tmp_path / "layers.csv").read_text()
    assert [line.split(",")[1] for line in result.stdout.splitlines()] == ["k", "32", "64", "all"]  # default, K = 64


def test_backgrounds_show_where_nothing_is(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    pictures = {}
    for background in ("white", "black", "transparent"):
        out = tmp_path / background
        result = layers(checkpoint, photos / "wide.png", "-o", out, "--k", "4", "--background", background)
        assert result.exit_code == 0
        pictures[background] = read(out / "wide" / "first_004.png").astype(float)
    alpha = pictures["transparent"][..., 3:] / 255
    assert pictures["transparent"].shape == (37, 80, 4)
    assert alpha.min() < 0.1 < 0.5 < alpha.max()
    for background, level in (("white", 255), ("black", 0)):
        expected = pictures["transparent"][..., :3] * alpha + (1 - alpha) * level
        assert abs(expected - pictures[background]).max() < 2.5  # 8 bits of colour times 8 bits of alpha


def test_transparent_pictures_are_measured_on_white(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    tables = [
        layers(checkpoint, photos, "-o", tmp_path / background, "--background", background).stdout
        for background in ("white", "transparent")
    ]
    assert tables[0] == tables[1]


def test_a_picture_in_many_strips_is_the_same(
    checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for name, pixels in (("whole", 1 << 18), ("strips", 500)):
        monkeypatch.setattr(strips, "STRIP_PIXELS", pixels)
        results.append(layers(checkpoint, photos, "-o", tmp_path / name, "--format", "json"))
    for a, b in zip(*(json.loads(result.stdout) for result in results), strict=True):
        assert a == {**b, "psnr": pytest.approx(b["psnr"], abs=1e-3), "ssim": pytest.approx(b["ssim"], abs=1e-4)}
    for path in (tmp_path / "whole").rglob("*.png"):
        other = read(tmp_path / "strips" / path.relative_to(tmp_path / "whole"))
        assert abs(read(path).astype(int) - other).max() <= 1


def test_one_bad_picture_does_not_stop_the_others(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "text.jpg").write_text("not a picture")
    broken = (photos / "tall.jpg").read_bytes()
    (photos / "truncated.jpg").write_bytes(broken[: len(broken) // 2])
    result = layers(checkpoint, photos, tmp_path / "missing.jpg", "-o", tmp_path / "out")
    assert result.exit_code == 1
    errors = result.stderr.splitlines()
    assert len(errors) == 3
    assert all(line.startswith("error: ") for line in errors)
    for name in ("text.jpg", "truncated.jpg", "missing.jpg"):
        assert sum(name in line for line in errors) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["layers.csv", "tall", "wide"]


def test_names_that_meet_do_not_overwrite_each_other(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    write_photo(photos / "wide.jpg", 20, 20)
    result = layers(checkpoint, photos, "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["layers.csv", "tall", "wide_jpg", "wide_png"]
    assert read(tmp_path / "out" / "wide_jpg" / "depth.png").shape[0] == 20


def test_folder_names() -> None:
    def names(*paths: str) -> list[str]:
        return folder_names(Path(path) for path in paths)

    assert names("x/a.jpg", "b.png") == ["a", "b"]
    assert names("a.jpg", "A.png") == ["a_jpg", "A_png"]  # some file systems know no case
    assert names("x/a.jpg", "y/a.jpg", "z/a.JPG") == ["a_jpg", "a_jpg_2", "a_JPG_3"]
    assert names("a_jpg.png", "x/a.jpg", "y/a.jpg") == ["a_jpg", "a_jpg_2", "a_jpg_3"]


def test_folder_names_of_many_pictures_of_one_name_take_no_time() -> None:
    start = time.process_time()
    names = folder_names(Path(f"{number}/photo.jpg") for number in range(30_000))
    assert len(set(names)) == 30_000 and names[-1] == "photo_jpg_30000"
    assert time.process_time() - start < 5  # it would be minutes if each were compared with all


def test_a_second_run_leaves_no_pictures_of_the_first(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    photo = photos / "tall.jpg"
    layers(checkpoint, photo, "-o", tmp_path / "out", "--k", "8,16,all", "--layers", "4")
    (tmp_path / "out" / "tall" / "layer_notes.txt").write_text("mine")
    layers(checkpoint, photo, "-o", tmp_path / "out", "--k", "16", "--layers", "2")
    names = [
        "depth.png",
        "first_016.png",
        "gaussians.npz",
        "layer_01.png",
        "layer_02.png",
        "layer_notes.txt",
        "sheet.png",
    ]
    assert sorted(path.name for path in (tmp_path / "out" / "tall").iterdir()) == names


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (3, 2)])
def test_tiny_pictures(checkpoint: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    write_photo(tmp_path / "dot.png", *size)
    result = layers(checkpoint, tmp_path / "dot.png", "-o", tmp_path / "out", "--k", "all", "--format", "json")
    assert result.exit_code == 0
    assert read(tmp_path / "out" / "dot" / "first_all.png").shape == (*size, 3)
    row = json.loads(result.stdout)[0]
    assert row["psnr"] > 0
    assert row["ssim"] is None  # no window of 3 x 3 px fits


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--k", "0"], "--k 0: '0' is not a number of 1 or more"),
        (["--k", "8,-3"], "'-3' is not"),
        (["--k", "eight"], "'eight' is not"),
        (["--k", ""], "--k : '' is not"),
        (["--k", "8,,16"], "'' is not"),
        (["--k", "65"], "--k 65: there are 64 Gaussians"),
        (["--layers", "0"], "--layers 0: use 1 to 64"),
        (["--layers", "65"], "--layers 65: use 1 to 64"),
        (["--device", "abacus"], "device 'abacus' is not available"),
        (["--device", "cpu", "--backend", "gsplat"], "splatting backend gsplat renders on a CUDA GPU, not on cpu: "),
        (["--checkpoint", "no-such-checkpoint"], "no-such-checkpoint"),
        (["--out", "photos/wide.png"], "--out photos/wide.png: cannot write there"),
        (["--out", "/dev/null/deeper"], "--out /dev/null/deeper: cannot write there"),
    ],
)
def test_mistakes_end_in_one_line_before_any_work(
    checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(photos.parent)
    result = layers(checkpoint, "photos", *(["-o", "out"] if "--out" not in arguments else []), *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not (photos.parent / "out").exists()


def test_every_picture_is_drawn_by_the_backend_asked_for(
    checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = []

    def choose(backend: Renderer, device: object) -> Renderer:
        chosen.append(backend)
        return choose_backend(backend, device)

    for module in (splatting, pipeline):
        monkeypatch.setattr(module, "choose_backend", choose)
    for backend in ("cpu", "dense"):
        chosen.clear()
        folder = tmp_path / backend
        assert layers(checkpoint, photos / "wide.png", "--backend", backend, "-o", folder).exit_code == 0
        assert len(chosen) > 3 and set(chosen) == {backend}
    for name in ("first_all.png", "layer_02.png", "depth.png"):
        pictures = [read(tmp_path / backend / "wide" / name).astype(int) for backend in ("cpu", "dense")]
        assert np.abs(pictures[0] - pictures[1]).max() <= 2  # a pixel near a threshold


def test_no_picture_at_all(checkpoint: Path, tmp_path: Path) -> None:
    result = layers(checkpoint, tmp_path, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path}: no pictures here")
    assert not (tmp_path / "out").exists()


def test_the_embedded_checkpoint_on_the_bundled_photograph(tmp_path: Path) -> None:
    """The figures that `make demo` shows; tolerances allow for other processors and versions of torch."""
    photo = Path(gmae_tools.__file__).parent / "assets" / "demo.jpg"
    arguments = ["layers", str(photo), "-o", str(tmp_path), "--device", "cpu", "--format", "json"]
    rows = json.loads(CliRunner().invoke(main, arguments, catch_exceptions=False).stdout)
    assert [row["k"] for row in rows] == [32, 64, 128, 256, 512, "all"]
    np.testing.assert_allclose([row["psnr"] for row in rows], [5.01, 5.25, 5.52, 6.03, 7.67, 27.69], atol=0.05)
    np.testing.assert_allclose(
        [row["ssim"] for row in rows], [0.3542, 0.3623, 0.3495, 0.274, 0.2447, 0.7086], atol=0.005
    )
    coverage = [0.0123, 0.0336, 0.073, 0.1749, 0.3993, 0.9988]
    np.testing.assert_allclose([row["coverage"] for row in rows], coverage, atol=0.005)


def test_a_failure_while_writing_leaves_nothing(
    checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    result = layers(checkpoint, photos / "tall.jpg", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "cannot be written (No space left on device)" in result.stderr
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_folder_that_vanishes_ends_the_run(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of the first picture, whose other files make it again."""
    for name in ("a", "b"):
        Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(tmp_path / f"{name}.png")
    out = tmp_path / "out"
    original = prediction.predict_gaussians

    def lose_the_folder(*arguments: object) -> object:
        out.rename(tmp_path / "gone")
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(prediction, "predict_gaussians", lose_the_folder)
    arguments = [
        "layers",
        str(tmp_path),
        "-o",
        str(out),
        "--checkpoint",
        str(checkpoint),
        "--layers",
        "1",
        "--jobs",
        "1",
    ]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"error: {out}: has vanished, and with it what was written before; start again\n"

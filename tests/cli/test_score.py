"""`gmae-tools score edges` on small folders: every format in and out, and what may be wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from scipy.io import savemat

from gmae_tools.benchmarks import map_files
from gmae_tools.benchmarks.map_files import read_soft_map
from gmae_tools.cli import main
from gmae_tools.errors import GmaeToolsError

SHAPE = (48, 64)
KEYS = ["ods", "ods_threshold", "ods_precision", "ods_recall", "ois", "ois_precision", "ois_recall"]
KEYS += ["ap", "r50", "images", "thresholds", "protocol"]


def line(column: int) -> np.ndarray:
    lines = np.zeros(SHAPE, bool)
    lines[:, column] = True
    return lines


def write_truth(path: Path, *maps: np.ndarray) -> None:
    cells = np.empty((1, len(maps)), object)
    for index, boundaries in enumerate(maps):
        cells[0, index] = {"Boundaries": boundaries.astype(np.uint8)}
    savemat(path, {"groundTruth": cells})


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three images: found perfectly; found with a false line as strong; and found at half the strength."""
    predictions, truths = tmp_path / "detector", tmp_path / "truth"
    predictions.mkdir()
    truths.mkdir()
    for name in "abc":
        write_truth(truths / f"{name}.mat", line(20), line(20))
    Image.fromarray(line(20).astype(np.uint8) * 204).save(predictions / "a.png")
    np.save(predictions / "b.npy", 0.8 * (line(20) | line(50)))
    ucm2 = np.zeros((2 * SHAPE[0] + 1, 2 * SHAPE[1] + 1))
    ucm2[2::2, 2::2] = 0.4 * line(20)
    savemat(predictions / "c.mat", {"ucm2": ucm2})
    return predictions, truths


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["score", "edges", *map(str, arguments)])


def test_scores_as_json(folders: tuple[Path, Path]) -> None:
    result = run(*folders, "--thresholds", 9, "--format", "json")
    assert result.exit_code == 0, result.output
    scores = json.loads(result.stdout)
    assert list(scores) == KEYS
    assert (scores["images"], scores["thresholds"]) == (3, 9)
    # Up to 0.4 all three lines are found beside a false one.
    assert 0.1 <= scores["ods_threshold"] <= 0.4
    assert (scores["ods_recall"], scores["ods_precision"]) == pytest.approx((1, 0.75))
    assert (scores["ois_recall"], scores["ois_precision"]) == (1, 0.75)
    assert scores["r50"] == pytest.approx(0.5)  # half-way from nothing found (0, 0) to (2/3, 2/3)
    assert scores["protocol"]["deviations"] == []
    assert "scoring" in result.stderr


def test_scores_as_csv_and_table(folders: tuple[Path, Path]) -> None:
    table = run(*folders, "--thresholds", 9, "--no-thin", "--max-distance", 0.02).stdout
    assert "ODS  0.8571" in table
    assert "deviations: max_distance 0.02 instead of 0.0075; binary maps not thinned" in table
    rows = run(*folders, "--thresholds", 9, "--format", "csv").stdout.splitlines()
    assert len(rows) == 2
    assert rows[0].split(",") == KEYS


def test_files_written_and_counts_used_again(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    counted: list[str] = []
    count = map_files._count

    def spy(pair: map_files.MapAndTruth, *rest: object) -> object:
        counted.append(pair.name if pair.prediction else f"human {pair.name}")
        return count(pair, *rest)

    monkeypatch.setattr(map_files, "_count", spy)
    arguments = (*folders, "--thresholds", 9, "-o", out, "--format", "json", "--jobs", 2)
    first = run(*arguments)
    assert first.exit_code == 0, first.output
    assert sorted(counted) == ["a", "b", "c", "human a", "human b", "human c"]
    assert json.loads((out / "scores.json").read_text()) == json.loads(first.stdout)
    assert json.loads((out / "human.json").read_text()) == {
        "f": 1.0,
        "precision": 1.0,
        "recall": 1.0,
        "images": 3,
    }
    images = pd.read_csv(out / "images.csv")
    assert images["image"].tolist() == ["a", "b", "c"]
    assert images["precision"].tolist() == [1, 0.5, 1]
    curve = pd.read_csv(out / "curve.csv")
    assert curve["threshold"].tolist() == pytest.approx(np.arange(1, 10) / 10)
    assert curve["recall"].tolist() == pytest.approx([1] * 4 + [2 / 3] * 4 + [0])
    with Image.open(out / "curve.png") as figure:
        assert len(np.unique(np.asarray(figure).reshape(-1, 4), axis=0)) > 20

    counted.clear()
    assert run(*arguments).stdout == first.stdout
    assert counted == []
    # A changed file, and a damaged one of the cache, are counted again; other thresholds make everything
    # anew.
    np.save(folders[0] / "b.npy", 0.9 * line(20))
    (out / "counts" / "c.json").write_text("{")
    assert json.loads(run(*arguments).stdout)["ods"] == 1
    assert sorted(counted) == ["b", "c"]
    counted.clear()
    run(*folders, "--thresholds", 5, "-o", out, "--no-human")
    assert sorted(counted) == ["a", "b", "c"]


def test_missing_surplus_and_double_files(folders: tuple[Path, Path]) -> None:
    predictions, truths = folders
    (predictions / "a.png").unlink()
    refused = run(*folders)
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: image a has no soft map in")
    write_truth(truths / "d.mat", line(20))
    np.save(predictions / "e.npy", 0.8 * line(20))
    assert "(nor have 1 others)" in run(*folders).stderr
    (truths / "a.mat").unlink()
    (truths / "d.mat").unlink()
    assert "image e has no ground truth" in run(*folders).stderr
    scored = run(*folders, "--subset", "--thresholds", 3)
    assert scored.exit_code == 0
    assert "deviations: only the 2 images both folders have" in scored.stdout
    Image.fromarray(line(20)).save(predictions / "b.png")
    assert "two files for one image" in run(*folders).stderr


def test_wrong_sizes_values_and_folders(folders: tuple[Path, Path], tmp_path: Path) -> None:
    np.save(folders[0] / "b.npy", np.zeros((5, 6)))
    refused = run(*folders)
    assert refused.exit_code == 1
    assert "b.npy: the map has shape [5, 6], its ground truth [48, 64]" in refused.stderr.splitlines()[-1]
    np.save(folders[0] / "b.npy", np.full(SHAPE, 3.0))
    assert "b.npy: a soft boundary map lies in [0, 1]" in run(*folders).stderr
    (tmp_path / "empty" / "test").mkdir(parents=True)
    refused = run(folders[0], tmp_path / "empty")
    assert "no .mat files" in refused.stderr
    assert "folders test" in refused.stderr
    assert run(folders[0], tmp_path / "nowhere").exit_code == 2


def test_soft_maps_of_every_kind(tmp_path: Path) -> None:
    soft = np.linspace(0, 1, 12).reshape(3, 4)
    Image.fromarray(np.rint(soft * 255).astype(np.uint8)).save(tmp_path / "8.png")
    Image.fromarray(np.rint(soft * 65535).astype(np.uint16)).save(tmp_path / "16.png")
    Image.fromarray(np.rint(soft * 255).astype(np.uint8)).convert("RGB").save(tmp_path / "grey.png")
    np.save(tmp_path / "float.npy", soft.astype(np.float32))
    np.save(tmp_path / "bytes.npy", np.rint(soft * 255).astype(np.uint8))
    savemat(tmp_path / "single.mat", {"edges": soft})
    assert len(list(tmp_path.iterdir())) == 6
    for path in tmp_path.iterdir():
        read = read_soft_map(path)
        assert read.dtype == np.float64
        np.testing.assert_allclose(read, soft, atol=1e-5 if path.stem in ("16", "float", "single") else 2e-3)
    Image.fromarray(soft > 0.5).save(tmp_path / "binary.png")
    np.testing.assert_array_equal(read_soft_map(tmp_path / "binary.png"), soft > 0.5)


def test_files_that_are_no_soft_maps(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3), "red").save(tmp_path / "colour.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "broken.npy").write_bytes(b"no array")
    (tmp_path / "broken.mat").write_bytes(b"no matrix")
    (tmp_path / "map.jpg").write_bytes(b"")
    np.save(tmp_path / "deep.npy", np.zeros((2, 3, 4)))
    np.save(tmp_path / "words.npy", np.array([["a", "b"]]))
    savemat(tmp_path / "two.mat", {"a": np.zeros((3, 3)), "b": np.zeros((3, 3))})
    for path in tmp_path.iterdir():
        with pytest.raises(GmaeToolsError, match=path.name):
            read_soft_map(path)

"""Maps that were not exported as they were meant: refused or warned of, edges and figures alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from scipy.io import savemat

from gmae_tools.cli import main
from gmae_tools.errors import GmaeToolsError
from gmae_tools.metrics.map_levels import MapLevels, check_levels

SHAPE = (40, 56)
NAMES = "abcd"


@pytest.fixture(params=["edges", "masks"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def truths(kind: str, tmp_path: Path) -> Path:
    """Ground truth of four pictures: a line or a square in each."""
    folder = tmp_path / "truths"
    folder.mkdir()
    for index, name in enumerate(NAMES):
        if kind == "edges":
            cells = np.empty((1, 1), object)
            cells[0, 0] = {"Boundaries": right(kind, index).astype(np.uint8)}
            savemat(folder / f"{name}.mat", {"groundTruth": cells})
        else:
            Image.fromarray(right(kind, index)).save(folder / f"{name}.png")
    return folder


def right(kind: str, index: int) -> np.ndarray:
    truth = np.zeros(SHAPE, bool)
    if kind == "edges":
        truth[:, 10 + 5 * index] = True
    else:
        truth[8:24, 8 + 3 * index : 30 + 3 * index] = True
    return truth


def score(kind: str, truths: Path, maps: list[np.ndarray], *options: str) -> Result:
    folder = truths.parent / "maps"
    folder.mkdir(exist_ok=True)
    for name, values in zip(NAMES, maps, strict=True):
        Image.fromarray(values).save(folder / f"{name}.png")
    return CliRunner().invoke(main, ["score", kind, str(folder), str(truths), "--format", "csv", *options])


def messages(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith(("error: ", "warning: "))]


def maps_of(kind: str) -> list[np.ndarray]:
    return [right(kind, index).astype(np.uint8) for index in range(len(NAMES))]


def test_maps_as_they_should_be_are_scored_without_a_word(kind: str, truths: Path) -> None:
    result = score(kind, truths, [255 * each for each in maps_of(kind)])
    assert (result.exit_code, messages(result)) == (0, [])


@pytest.mark.parametrize("factor", [1, 255])
def test_the_bottom_of_the_range_is_refused(kind: str, truths: Path, factor: int) -> None:
    """Maps of 0 and 1 in 8 bits; maps of 0 to 255 in 16."""
    depth: type = np.uint8 if factor == 1 else np.uint16
    result = score(kind, truths, [(factor * each).astype(depth) for each in maps_of(kind)])
    assert (result.exit_code, result.stdout) == (1, "")
    advice = "if they hold 0 and 1, save them as 0 and 255; if 0 to 255 in 16 bits, save them in 8"
    assert messages(result) == [f"error: no map is brighter than 1 of 255: {advice}"]


def test_dim_maps_are_warned_of(kind: str, truths: Path) -> None:
    result = score(kind, truths, [40 * each for each in maps_of(kind)])
    assert result.exit_code == 0
    (message,) = messages(result)
    assert message.startswith("warning: no map is brighter than 0.16 of 1: stretch them to the whole range")


def test_constant_maps_are_counted(kind: str, truths: Path) -> None:
    maps = [255 * each for each in maps_of(kind)]
    maps[1] = np.zeros_like(maps[1])
    result = score(kind, truths, maps)
    assert result.exit_code == 0
    assert messages(result) == [
        "warning: 1 of 4 maps have the same level everywhere, such as b; were they written as they were meant?"
    ]


def test_inverted_maps_are_warned_of(kind: str, truths: Path) -> None:
    result = score(kind, truths, [255 - 255 * each for each in maps_of(kind)])
    assert result.exit_code == 0
    (message,) = messages(result)
    assert message.startswith("warning: the maps look inverted") and "255 - map" in message


def test_stretched_maps_may_be_of_any_range(tmp_path: Path) -> None:
    levels = {"a": MapLevels(0.0, 1 / 255, 0.001)}
    check_levels(levels, stretched=True)
    with pytest.raises(GmaeToolsError, match="brighter than 1 of 255"):
        check_levels(levels)
    check_levels({})


def test_a_poor_method_is_not_taken_for_an_inverted_one(caplog: pytest.LogCaptureFixture) -> None:
    generator = np.random.default_rng(0)
    truth = right("masks", 0)
    check_levels({str(number): MapLevels.of(generator.random(SHAPE), truth) for number in range(20)})
    assert caplog.messages == []
    assert MapLevels.of(truth.astype(float), truth).contrast == 1
    assert MapLevels.of(truth.astype(float), np.zeros(SHAPE, bool)).contrast is None

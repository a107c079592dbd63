"""A folder of results never holds a mixture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gmae_tools import __version__
from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.settings import SETTINGS, claim

MAPS = ("maps",)


def test_settings_are_noted_and_the_same_ones_come_again(tmp_path: Path) -> None:
    for _ in range(2):
        claim(tmp_path / "out", {"readout": "sobel", "scales": (3, 4), "flip": None}, parts=MAPS)
    noted = json.loads((tmp_path / "out" / SETTINGS).read_text())
    assert noted == {"version": __version__, "readout": "sobel", "scales": [3, 4], "flip": None}


def test_other_settings_are_refused_or_replace_what_depends_on_them(tmp_path: Path) -> None:
    parts = ("maps", "masks", "scores.json")
    claim(tmp_path, {"readout": "sobel"}, parts=parts)
    (tmp_path / "maps").mkdir()
    for name in ("scores.json", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(GmaeToolsError, match=r"holds results of readout sobel, not canny; use --overwrite"):
        claim(tmp_path, {"readout": "canny"}, parts=parts)
    assert (tmp_path / "maps").exists() and (tmp_path / "scores.json").exists()
    claim(tmp_path, {"readout": "canny"}, parts=parts, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", SETTINGS]
    assert json.loads((tmp_path / SETTINGS).read_text())["readout"] == "canny"


def test_scores_of_other_rules_are_removed_and_maps_stay(tmp_path: Path) -> None:
    def note(readout: str, thresholds: int, overwrite: bool = False) -> list[str]:
        """What is left after a claim, of which maps and scores are made then."""
        rules = {"thresholds": thresholds}
        claim(tmp_path, {"readout": readout}, scoring=rules, parts=MAPS, scores=("scores.json",), overwrite=overwrite)
        left = [path.name for path in sorted(tmp_path.iterdir())]
        (tmp_path / "maps").mkdir(exist_ok=True)
        (tmp_path / "scores.json").touch()
        return left

    assert note("sobel", 99) == [SETTINGS]
    assert note("sobel", 99) == ["maps", "scores.json", SETTINGS]
    assert note("sobel", 33) == note("sobel", 99, overwrite=True) == ["maps", SETTINGS]
    with pytest.raises(GmaeToolsError, match="readout sobel, not canny"):
        note("canny", 99)
    assert note("canny", 33, overwrite=True) == [SETTINGS]
    assert json.loads((tmp_path / SETTINGS).read_text())["thresholds"] == 33


@pytest.mark.parametrize("settings", [None, "{", "[]"])
def test_results_of_unknown_settings_are_refused(settings: str | None, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    if settings is not None:
        (tmp_path / SETTINGS).write_text(settings)
    with pytest.raises(GmaeToolsError, match="unknown settings"):
        claim(tmp_path, {"readout": "sobel"}, parts=MAPS)
    claim(tmp_path, {"readout": "sobel"}, parts=MAPS, overwrite=True)
    assert not (tmp_path / "maps").exists()
    claim(tmp_path, {"readout": "sobel"}, parts=MAPS)

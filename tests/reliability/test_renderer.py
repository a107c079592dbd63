"""The renderer's part of the reliability campaign, shortened."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from gmae_tools.camera import Camera
from gmae_tools.splatting import rasterize


@pytest.fixture(scope="module")
def renderer() -> ModuleType:
    from tests.reliability import renderer

    return renderer


def test_scenes_of_any_numbers(renderer: ModuleType) -> None:
    tried, failed, compared = renderer.try_scenes(60, seed=0)
    assert tried >= 60 and failed is None
    assert compared > 0.9


@pytest.mark.parametrize("seed", [0, 1])
def test_threads_and_batches_change_no_bit(renderer: ModuleType, seed: int) -> None:
    assert renderer.differing_bits(seed) is None


def test_a_renderer_that_errs_is_found_out(renderer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def brighter(*arguments: object, **options: object) -> object:
        raster = rasterize(*arguments, **options)  # type: ignore[arg-type]
        if options.get("backend") == "cpu":
            raster.image.data.mul_(1.001)
        return raster

    monkeypatch.setattr(renderer, "rasterize", brighter)
    _, failed, _ = renderer.try_scenes(10, seed=0)
    assert failed is not None and "differ from the dense reference: Scene(seed=" in failed and "\n" not in failed


def test_gradients_that_are_none_are_found_out(renderer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(*arguments: object, **options: object) -> object:
        raster = rasterize(*arguments, **options)  # type: ignore[arg-type]
        raster.image.register_hook(lambda gradient: gradient * torch.nan)
        return raster

    monkeypatch.setattr(renderer, "rasterize", spoilt)
    scene = renderer.Scene(0, 3, (), Camera(), 16, 16)
    with pytest.raises(sys.modules["tests.reliability.flaws"].Flaw, match="gradient of means is not finite"):
        renderer.check_scene(scene)


def test_an_endless_needle_is_compared_but_along_its_axis(renderer: ModuleType) -> None:
    """There sigma is -5e-9 or 0 as rounding will have it, and what is below 0 is not drawn."""
    camera = Camera(kind="gmae", distance=8.0, focal=8.0)
    compared = renderer.check_scene(
        renderer.Scene(33, 4, (("scales", 0, 0, 1e30), ("means", 0, 0, 0.0)), camera, 90, 130)
    )
    assert 0.99 < compared < 1


def test_what_is_no_number_is_refused(renderer: ModuleType) -> None:
    scene = renderer.Scene(0, 3, (("scales", 1, 2, float("inf")),), Camera(), 16, 16)
    assert renderer.check_scene(scene) is None


def test_the_suite_runs_with_bounds_checks(renderer: ModuleType, tmp_path: Path) -> None:
    """One test that passes and one that reads beyond an array, which only the checks notice."""
    (tmp_path / "test_bounds.py").write_text(
        "import numba, numpy, pytest\n"
        "@numba.njit\n"
        "def at(array, index):\n    return array[index]\n"
        "def test_inside():\n    assert at(numpy.ones(3), 2) == 1\n"
        "def test_outside():\n    at(numpy.ones(3), 3)\n"
    )
    outcome = renderer.run_suite_with_bounds_checks(60.0, (str(tmp_path / "test_bounds.py"),))
    assert len(outcome.failures) == 1 and "test_outside" in outcome.failures[0]
    assert "1 passed" in outcome.note
    assert "stopped" in renderer.run_suite_with_bounds_checks(0.1).note

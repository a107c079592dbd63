"""The campaign of damaged and hostile checkpoints, in small; and that it notices what it should."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import pytest
import torch

from gmae_tools import checkpoints
from gmae_tools.model import GMAE
from tests import needs


@pytest.fixture(scope="module")
def part() -> ModuleType:
    return importlib.import_module("tests.reliability.checkpoints")


@pytest.fixture(scope="module")
def models(part: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    needs.safe_torch()
    return part.Models(tmp_path_factory.mktemp("models"))


def test_pickles_run_nothing(part: ModuleType, models: Any) -> None:
    (outcome,) = part.pickles(models)
    assert outcome.failures == () and outcome.times == 35


@pytest.mark.parametrize(
    "name",
    ["weights", "configurations", "first pieces", "second pieces", "indices", "pieces without index", "official files"],
)
def test_damage_is_refused_everywhere_in_the_same_line(part: ModuleType, models: Any, name: str) -> None:
    outcome = part.damage(models, name, part.DAMAGES[name])
    assert outcome.failures == () and outcome.times == len(part.DAMAGES[name].ways)


def test_all_damage_is_tested(part: ModuleType) -> None:
    (mark,) = test_damage_is_refused_everywhere_in_the_same_line.pytestmark  # type: ignore[attr-defined]
    assert mark.args[1] == list(part.DAMAGES)


def test_mutated_files(part: ModuleType, models: Any) -> None:
    """Here rather than in processes of their own, which take long to import torch."""
    tried = [part.try_mutation(models.folder, 1, number) for number in range(60)]
    assert [attempt.failure for attempt in tried] == 60 * [""]
    assert {attempt.answer for attempt in tried} == {"loaded", "refused"}


def test_a_loader_that_runs_code_is_noticed(part: ModuleType, models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: load(*args, **{**kwargs, "weights_only": False}))
    (outcome,) = part.pickles(models)
    assert sum(failure.endswith("was run") for failure in outcome.failures) == 28  # all but those in safetensors


@pytest.mark.parametrize(
    ("loader", "failure"),
    [
        (lambda name, *_: GMAE(part_config()), "load loaded it"),
        (lambda name, *_: [][0], "load raised IndexError"),
        (lambda name, *_: refuse("damaged or not safetensors"), "does not begin with the file"),
        (lambda name, *_: refuse(f"{name}/model.safetensors: oh"), "does not say 'damaged or not safetensors'"),
        (lambda name, *_: refuse(f"{name}/model.safetensors: damaged\nor not"), "not a line"),
    ],
)
def test_other_answers_are_noticed(
    part: ModuleType, models: Any, monkeypatch: pytest.MonkeyPatch, loader: Any, failure: str
) -> None:
    monkeypatch.setattr(checkpoints, "load", loader)
    monkeypatch.setattr(checkpoints.load, "__name__", "load")
    damages = part.DAMAGES["weights"]
    empty = part.Damages(damages.kind, damages.file, {"empty": damages.ways["empty"]})
    assert any(failure in each for each in part.damage(models, "weights", empty).failures)


def part_config() -> Any:
    from gmae_tools.model import GMAEConfig

    return GMAEConfig.preset("nano")


def refuse(problem: str) -> None:
    raise checkpoints.GmaeToolsError(problem)

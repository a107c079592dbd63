"""The mean of models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from gmae_tools import checkpoints
from gmae_tools.cli import main
from gmae_tools.errors import GmaeToolsError
from gmae_tools.mae import MAE, MAEConfig
from gmae_tools.model import GMAE, GMAEConfig
from gmae_tools.pretrain.soup import average


def nano(seed: int, **changes: int) -> GMAE:
    torch.manual_seed(seed)
    return GMAE(GMAEConfig.preset("nano", image_size=32, **changes))


def test_every_parameter_is_the_mean() -> None:
    models = [nano(seed) for seed in range(3)]
    mean = average(models)
    assert not mean.training
    for name, parameter in mean.named_parameters():
        expected = sum(dict(model.named_parameters())[name] for model in models) / 3
        torch.testing.assert_close(parameter, expected)
    changed, kept = next(mean.parameters()), next(models[0].parameters()).clone()
    with torch.no_grad():
        changed.add_(1)  # shares nothing with them
    assert torch.equal(next(models[0].parameters()), kept)


def test_the_mean_of_a_model_with_itself_is_the_model() -> None:
    model = nano(0).eval()
    picture = torch.rand(1, 3, 32, 32)
    assert torch.equal(average([model, model])(picture).means, model(picture).means)


@pytest.mark.parametrize(
    ("others", "problem"),
    [
        (lambda: [], "give two or more"),
        (lambda: [nano(1, queries=9)], "model 2 is not configured"),
        (lambda: [nano(1), MAE(MAEConfig.preset("nano", image_size=32))], "model 3 is not configured"),
    ],
)
def test_refuses(others: Callable[[], list[GMAE]], problem: str) -> None:
    with pytest.raises(GmaeToolsError, match=problem):
        average([nano(0), *others()])


def test_command(tmp_path: Path) -> None:
    for seed in (0, 1):
        checkpoints.save(nano(seed), tmp_path / str(seed), training={"samples": 10 + seed})
    out = tmp_path / "mean"
    result = CliRunner().invoke(
        main, ["checkpoints", "average", str(tmp_path / "0"), str(tmp_path / "1"), "-o", str(out)]
    )
    assert (result.exit_code, result.stdout) == (0, f"{out}\n"), result.output
    mean = checkpoints.load(out)
    torch.testing.assert_close(mean.state_dict(), average([nano(0), nano(1)]).state_dict())
    assert checkpoints.training_of(out) == {"average_of": [{"samples": 10}, {"samples": 11}]}
    refused = CliRunner().invoke(main, ["checkpoints", "average", str(out), "-o", str(tmp_path / "none")])
    assert refused.exit_code == 1 and refused.stderr == "error: an average of 1 model: give two or more\n"
    assert not (tmp_path / "none").exists()

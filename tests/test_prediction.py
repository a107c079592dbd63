"""From photographs to Gaussians."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gmae_tools import checkpoints
from gmae_tools.errors import GmaeToolsError
from gmae_tools.model import GMAE, GMAEConfig
from gmae_tools.prediction import predict_gaussians, resolve_device


@pytest.fixture(scope="module")
def model() -> GMAE:
    """A nano model whose output depends on its input."""
    torch.manual_seed(0)
    model = GMAE(GMAEConfig.preset("nano")).eval()
    torch.nn.init.normal_(model.decoder.head.weight, std=0.4)
    return model


def photo(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (np.stack([x / width, y / height, np.full_like(x, 0.3, float)], -1) * 255).astype(np.uint8)


def test_a_picture_of_the_models_size_is_seen_as_it_is(model: GMAE) -> None:
    picture = photo(64, 64)
    found = predict_gaussians(model, picture)
    expected = model(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)
    torch.testing.assert_close(found.means, expected.means)
    torch.testing.assert_close(found.colors, expected.colors)
    assert not found.means.requires_grad


def test_size_and_shape_of_the_picture_hardly_matter(model: GMAE) -> None:
    reference = predict_gaussians(model, photo(64, 64)).means
    for height, width in ((128, 128), (480, 321), (33, 200)):
        difference = predict_gaussians(model, photo(height, width)).means - reference
        assert 0 < difference.abs().max() < 0.05  # sampling of the gradients
    assert (predict_gaussians(model, 255 - photo(64, 64)).means - reference).abs().max() > 0.2


@pytest.mark.parametrize("size", [(32, 96), (80, 64)])
def test_other_grids_on_request(model: GMAE, size: tuple[int, int]) -> None:
    gaussians = predict_gaussians(model, photo(50, 75), size)
    assert (gaussians.batch_size, gaussians.k) == (1, model.config.k)
    assert not torch.equal(gaussians.means, predict_gaussians(model, photo(50, 75)).means)


def test_bf16_is_less_exact_and_leaves_the_weights_as_they_are(tmp_path: Path, model: GMAE) -> None:
    checkpoints.save(model, tmp_path / "model")
    exact, fast = (checkpoints.load(tmp_path / "model", precision=precision) for precision in ("float32", "bf16"))
    assert fast.dtype == torch.float32
    wanted, found = (predict_gaussians(each, photo(64, 64)) for each in (exact, fast))
    assert found.means.dtype == torch.float32
    assert 1e-4 < (found.means - wanted.means).abs().max() < 0.05
    with pytest.raises(GmaeToolsError, match=r"^precision 'half': use float32 or bf16$"):
        checkpoints.load(tmp_path / "model", precision="half")  # type: ignore[arg-type]


@pytest.mark.parametrize("there", [True, False])
def test_bf16_that_is_emulated_is_warned_of(
    there: bool, tmp_path: Path, model: GMAE, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.save(model, tmp_path / "model")
    monkeypatch.setattr(checkpoints, "has_bf16", lambda device: there)
    checkpoints.load(tmp_path / "model", precision="bf16")
    assert ("float32 is much faster" in caplog.text) is not there


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("abacus", "cuda:99", ""):
        with pytest.raises(GmaeToolsError, match="not available"):
            resolve_device(name)


def test_what_is_offered_instead_of_a_device_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(name: str, cuda: str | None, gpus: int) -> str:
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        with pytest.raises(GmaeToolsError) as caught:
            resolve_device(name)
        return str(caught.value).partition(" is not available here: ")[2]

    name = "cuda:99"
    assert refusal(name, None, 0) == "this torch is built without CUDA; use auto or cpu"
    assert refusal(name, "12.8", 0) == "torch sees no CUDA GPU (check its driver with nvidia-smi); use auto or cpu"
    assert refusal(name, "12.8", 1) == "use auto, cpu or cuda"
    assert refusal("abacus", "12.8", 4) == "use auto, cpu or cuda:0 to cuda:3"

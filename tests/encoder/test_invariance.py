"""Invariance of an encoder: features of both versions by hand, and the cases in which CKA is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gmae_tools.encoder import invariance as invariance_module
from gmae_tools.encoder.invariance import InvarianceCurve, invariance, occlusions, shuffled_batches
from gmae_tools.encoder.occlusion import Occlusion
from gmae_tools.errors import GmaeToolsError
from gmae_tools.mae import CMAE, CMAEConfig
from gmae_tools.metrics.cka import MinibatchCKA
from gmae_tools.model import GMAE, Autoencoder, GMAEConfig
from gmae_tools.report.invariance import curve_rows, plot_invariance, wide_table

PICTURES = torch.rand(24, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def pictures(numbers: np.ndarray) -> Tensor:
    return PICTURES[numbers]


@pytest.fixture(scope="module")
def model() -> Autoencoder:
    torch.manual_seed(0)
    return GMAE(GMAEConfig.preset("nano")).eval()


def curve_of(curves: list[InvarianceCurve], tokens: str, kind: str, ratio: float) -> InvarianceCurve:
    (found,) = [each for each in curves if (each.tokens, each.kind, each.ratio) == (tokens, kind, ratio)]
    return found


@torch.no_grad()
def test_curves_are_those_by_hand(model: Autoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Picture by picture, with lists of the patches that are seen."""
    monkeypatch.setattr(invariance_module, "_AT_ONCE_ON_CPU", 5)
    batches = [np.arange(12), np.arange(12, 24)]
    curves = invariance(model, "nano", pictures, batches, [Occlusion("block", 0.5), Occlusion("halves", 0.5)])
    assert len(curves) == 5 and all(len(each.cka) == len(each.error) == 4 for each in curves)
    expected: dict[tuple[str, str], MinibatchCKA] = {}
    for batch in batches:
        pairs: dict[tuple[str, str], list[tuple[Tensor, Tensor]]] = {}
        for number in batch:
            image, one = PICTURES[number : number + 1], np.array([number])
            whole = torch.stack(model.encode(image, return_blocks=True))[:, 0]  # [4, 17, 48]
            for kind in ("block", "halves"):
                mask = Occlusion(kind, 0.5).sample((4, 4), one)  # type: ignore[arg-type]
                seen = torch.stack(model.encode(image, mask, return_blocks=True))[:, 0]
                places = [1 + place for place in range(16) if not mask[0, place]]
                if kind == "block":
                    shared = torch.stack([whole[:, place] for place in places]).mean(0)
                    pairs.setdefault((kind, "shared"), []).append((shared, seen[:, 1:].mean(1)))
                    other = whole
                else:
                    other = torch.stack(model.encode(image, ~mask, return_blocks=True))[:, 0]
                pairs.setdefault((kind, "mean"), []).append((other[:, 1:].mean(1), seen[:, 1:].mean(1)))
                pairs.setdefault((kind, "class"), []).append((other[:, 0], seen[:, 0]))
        for key, found in pairs.items():
            x, y = (torch.stack(side, 1) for side in zip(*found, strict=True))
            expected.setdefault(key, MinibatchCKA()).update(x, y)
    for (kind, tokens), metric in expected.items():
        curve = curve_of(curves, tokens, kind, 0.5)
        torch.testing.assert_close(
            torch.tensor(curve.cka), metric.compute().float(), rtol=1e-3, atol=1e-4, equal_nan=True
        )


def test_what_is_known_before_the_first_block(model: Autoencoder) -> None:
    curves = invariance(model, "nano", pictures, [np.arange(24)], occlusions((0.25, 0.75)))
    assert len(curves) == 2 * 2 * 3 + 2
    for curve in curves:
        first, *later = curve.cka
        if curve.tokens == "shared":
            assert first == pytest.approx(1, abs=1e-6) and all(value < 1 for value in later)
        elif curve.tokens == "class":
            assert math.isnan(first) and not any(map(math.isnan, later))
        else:
            assert first < 0.999
    low, high = (curve_of(curves, "mean", "random", ratio).cka[-1] for ratio in (0.25, 0.75))
    assert low > high


def test_an_encoder_that_sees_nothing_of_the_context_is_invariant(model: Autoencoder) -> None:
    """Without attention the tokens that both versions have are the same all the way."""
    blind = GMAE(GMAEConfig.preset("nano")).eval()
    for block in blind.encoder.blocks:
        torch.nn.init.zeros_(block.attn.proj.weight)  # type: ignore[union-attr, arg-type]
    curves = invariance(blind, "blind", pictures, [np.arange(24)], [Occlusion("random", 0.75)])
    assert curve_of(curves, "shared", "random", 0.75).cka == pytest.approx([1, 1, 1, 1], abs=1e-6)


def test_batches_are_random_and_hold_everything_once() -> None:
    batches = shuffled_batches(1000, 256)
    assert sorted(map(len, batches)) == [250] * 4
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
    assert batches[0].tolist() != sorted(batches[0].tolist())
    assert [len(batch) for batch in shuffled_batches(5, 8)] == [5]
    with pytest.raises(GmaeToolsError, match="at least 4"):
        shuffled_batches(3, 256)


def test_tables_and_figure(tmp_path: Path) -> None:
    curves = [
        InvarianceCurve("a", "class", "random", 0.5, [math.nan, 0.9, 0.7], [math.nan, 0.01, 0.01]),
        InvarianceCurve("random:a", "class", "random", 0.5, [math.nan, 0.3, 0.2, 0.1], [math.nan] * 4),
        InvarianceCurve("a", "class", "halves", 0.5, [math.nan, 0.8, 0.6], [math.nan, 0.02, 0.02]),
    ]
    table = wide_table(curves).splitlines()
    assert table[0].split() == ["model", "tokens", "occlusion", "ratio", "0", "1", "2", "norm"]
    assert table[2].split()[3:] == ["0.50", "-", "0.900", "-", "0.700"]
    assert [row["block"] for row in curve_rows(curves)] == ["0", "1", "norm", "0", "1", "2", "norm", "0", "1", "norm"]
    plot_invariance(tmp_path / "figure.png", curves, "title")
    plot_invariance(tmp_path / "without.svg", curves[:2], "title")
    assert (tmp_path / "figure.png").stat().st_size > 10_000 and "random:a" in (tmp_path / "without.svg").read_text()


@torch.no_grad()
def test_mask_tokens_count_as_no_patch(model: Autoencoder) -> None:
    """Of an encoder that is given tokens for hidden patches, too, the features are of the visible ones."""
    light = CMAE(CMAEConfig.preset("nano", head="light")).eval()
    batches = [np.arange(12), np.arange(12, 24)]
    curves = invariance(light, "light", pictures, batches, [Occlusion("random", 0.5), Occlusion("halves", 0.5)])
    expected = {"shared": MinibatchCKA(), "halves": MinibatchCKA()}
    for batch in batches:
        images, whole = PICTURES[batch], light.encode(PICTURES[batch], return_blocks=True)
        for kind, cka in expected.items():
            mask = Occlusion("halves" if kind == "halves" else "random", 0.5).sample((4, 4), batch)
            seen = light.encode(images, mask, return_blocks=True)
            other = light.encode(images, ~mask, return_blocks=True) if kind == "halves" else whole
            places = ~mask if kind != "halves" else mask

            def means(stages: list[Tensor], chosen: Tensor) -> Tensor:
                return torch.stack(
                    [
                        torch.stack([x[1:][row].mean(0) for x, row in zip(stage, chosen, strict=True)])
                        for stage in stages
                    ]
                )

            cka.update(means(other, places), means(seen, ~mask))
    for tokens, kind, name in (("shared", "random", "shared"), ("mean", "halves", "halves")):
        found = curve_of(curves, tokens, kind, 0.5)
        assert found.cka == pytest.approx(expected[name].compute().tolist(), abs=1e-4)

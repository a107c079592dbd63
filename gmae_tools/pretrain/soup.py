"""Model soup: the mean of the weights of models that share their start (arXiv 2203.05482).

Runs that share a start and differ in seed or recipe mostly end in one basin, where the mean of their weights is at
least as good as each of them. The mean of models from different starts is worthless. Measure a mean before using it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch

from gmae_tools.errors import GmaeToolsError
from gmae_tools.model import Autoencoder

Model = TypeVar("Model", bound=Autoencoder)


@torch.no_grad()
def average(models: Sequence[Model]) -> Model:
    """A new model in evaluation mode, whose parameters are the means of theirs.

    Args:
        models: Two or more models with the same configuration, on one device.

    Raises:
        GmaeToolsError: There are fewer than two, or their configurations differ.
    """
    if len(models) < 2:
        raise GmaeToolsError(f"an average of {len(models)} model: give two or more")
    first, *others = models
    for number, other in enumerate(others, 2):
        if (type(other), other.config) != (type(first), first.config):
            raise GmaeToolsError(
                f"model {number} is not configured as the first; only weights of one shape can be averaged"
            )
    mean = copy.deepcopy(first)
    states = [model.state_dict() for model in models]
    mean.load_state_dict({name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]})
    return mean.eval()

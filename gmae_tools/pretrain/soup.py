"""Model soup: the mean of the weights of models that were trained on from the same start (arXiv 2203.05482).

Runs that share a start and differ in seed or recipe mostly end in one basin, where their mean is at least as good as
each of them. Models from different starts do not, and their mean is worthless: look at its figures before using it.
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
        models: two or more with the same configuration, on one device.

    Raises:
        GmaeToolsError: there are fewer, or their configurations differ.
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

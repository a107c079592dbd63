"""The objectives of pretraining by name. All share encoder, photographs and schedule."""

from __future__ import annotations

from gmae_tools.pretrain.objectives.gmae import GMAEObjective
from gmae_tools.pretrain.objectives.mae import MAEObjective
from gmae_tools.pretrain.objectives.objective import Objective
from gmae_tools.pretrain.objectives.siamese import CMAEObjective, RMAEObjective

__all__ = ["OBJECTIVES", "CMAEObjective", "GMAEObjective", "MAEObjective", "Objective", "RMAEObjective"]

OBJECTIVES: dict[str, type[Objective]] = {
    each.name: each for each in (GMAEObjective, MAEObjective, RMAEObjective, CMAEObjective)
}

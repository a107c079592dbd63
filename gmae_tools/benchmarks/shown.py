"""How terminals and notebooks display the results of benchmarks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


class ShownTable(ABC):
    """Results that terminals and notebooks display as a table."""

    @abstractmethod
    def to_pandas(self) -> pd.DataFrame:
        """Return the results as a table."""

    def __repr__(self) -> str:
        return self.to_pandas().to_string(index=False, float_format="{:.3f}".format)

    def _repr_html_(self) -> str:
        return self.to_pandas().to_html(index=False, float_format="{:.3f}".format)

"""How results of benchmarks show themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


class ShownTable(ABC):
    """Results that a terminal and a notebook show as their table."""

    @abstractmethod
    def to_pandas(self) -> pd.DataFrame:
        """The results as a table."""

    def __repr__(self) -> str:
        return self.to_pandas().to_string(index=False, float_format="{:.3f}".format)

    def _repr_html_(self) -> str:
        return self.to_pandas().to_html(index=False, float_format="{:.3f}".format)

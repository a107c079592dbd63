"""The table of a probe: accuracies with their intervals, and differences from the first model."""

from __future__ import annotations

from collections.abc import Sequence

from gmae_tools.encoder.probe import Answers
from gmae_tools.metrics.accuracy import mean_class_accuracy, paired_difference, wilson_interval
from gmae_tools.report.tables import Row

_TEXTS, _NUMBERS = ("model", "tokens", "method", "k"), ("top1", "low", "high", "mean_class", "difference", "within")
COLUMNS: dict[str, int | None] = dict.fromkeys(_TEXTS) | dict.fromkeys(_NUMBERS, 3)


def probe_rows(answers: Sequence[Answers]) -> list[Row]:
    """Rows of `COLUMNS`, in the order of `answers`.

    `low` and `high` bound the 95 % interval of `top1`. `difference` is the difference of `top1` from the first model
    with the same tokens, method and k, and `within` is half the width of its 95 % interval.
    """
    first: dict[tuple[str, str, int | None], Answers] = {}
    rows: list[Row] = []
    for each in answers:
        rival = first.setdefault((each.tokens, each.method, each.k), each)
        difference, within = (None, None) if rival is each else paired_difference(each.correct, rival.correct)
        low, high = wilson_interval(int(each.correct.sum()), len(each.correct))
        by_class = mean_class_accuracy(each.correct, each.labels)
        scores = float(each.correct.mean()), low, high, by_class, difference, within
        rows.append(dict(zip(COLUMNS, (each.model, each.tokens, each.method, each.k, *scores), strict=True)))
    return rows

"""The table of a probe: accuracies with their intervals, and differences from the first model."""

from __future__ import annotations

from collections.abc import Sequence

from gmae_tools.encoder.probe import Answers
from gmae_tools.metrics.accuracy import mean_class_accuracy, paired_difference, wilson_interval
from gmae_tools.report.tables import Row

COLUMNS = {
    "model": None, "tokens": None, "method": None, "k": None, "top1": 3, "low": 3, "high": 3, "mean_class": 3,
    "difference": 3, "within": 3,
}  # fmt: skip


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
        rows.append(
            {"model": each.model, "tokens": each.tokens, "method": each.method, "k": each.k,
             "top1": float(each.correct.mean()), "low": low, "high": high,
             "mean_class": mean_class_accuracy(each.correct, each.labels),
             "difference": difference, "within": within}
        )  # fmt: skip
    return rows

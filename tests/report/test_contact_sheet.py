"""Contact sheets: where pictures and text come to lie. And the colours of depth."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from gmae_tools.report.contact_sheet import Panel, Section, contact_sheet, of_all
from gmae_tools.report.figures import NO_DEPTH, PALETTE, STYLE, add_caption, depth_colors, depth_scale, verbatim

RED = np.full((30, 50, 3), (255, 0, 0), np.uint8)


def boxes(sheet: np.ndarray, color: tuple[int, int, int] = (255, 0, 0)) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of the rectangles of a colour, in reading order."""
    mask = (sheet == color).all(-1)
    found = []
    while mask.any():
        top, left = np.argwhere(mask)[0]
        width = int(np.argmin(np.append(mask[top, left:], False)))
        height = int(np.argmin(np.append(mask[top:, left], False)))
        assert mask[top : top + height, left : left + width].all()
        mask[top : top + height, left : left + width] = False
        found.append((int(top), int(left), height, width))
    return found


def test_text_is_drawn_as_it_is_on_one_line() -> None:
    sheet = contact_sheet("a\nb", "\udce9", [Section("\x1b[31m", [Panel(RED, "x\ny", "z")])])
    np.testing.assert_array_equal(sheet, contact_sheet("a b", "?", [Section("?[31m", [Panel(RED, "x y", "z")])]))
    figure = Figure()
    axes = figure.add_subplot(xlabel=verbatim("$x^$ \\frac{$ \udce9"))
    add_caption(figure, "$x^$ \\frac{$\n\udce9")
    figure.savefig(io.BytesIO(), format="svg")
    assert axes.get_xlabel() == "\\$x^\\$ \\frac{\\$ ?"


def test_panels_fill_rows_and_keep_their_size() -> None:
    sheet = contact_sheet(
        "title", "subtitle", [Section("a", [Panel(RED, "x")] * 5), Section("b", [Panel(RED, "y")])], 3
    )
    found = boxes(sheet)
    assert [box[2:] for box in found] == [(30, 50)] * 6
    tops, lefts = [box[0] for box in found], [box[1] for box in found]
    assert tops[0] == tops[1] == tops[2] < tops[3] == tops[4] < tops[5]
    assert lefts[0] == lefts[3] == lefts[5] < lefts[1] == lefts[4] < lefts[2]


def test_a_subtitle_says_that_not_all_are_shown() -> None:
    assert of_all([1, 2], 2) == ""
    assert of_all([1, 2], 10_000) == "; the first 2 of 10,000 pictures"


def test_text_is_drawn_below_its_panel_and_keeps_clear_of_the_neighbours() -> None:
    def ink_below_panels(caption: str, note: str) -> np.ndarray:
        panels = [Panel(RED, ""), Panel(RED, caption, note), Panel(RED, "")]
        sheet = contact_sheet("t", "s", [Section("h", panels)])
        top = boxes(sheet)[0][0]
        return np.flatnonzero((sheet[top + 32 :] < 200).any((0, 2)))

    assert not len(ink_below_panels("", ""))
    left = boxes(contact_sheet("t", "s", [Section("h", [Panel(RED, "")] * 3)]))[1][1]
    for caption, note in (
        ("cap", ""),
        ("", "note"),
        ("a caption far too long for the panel", "and a note, too long too"),
    ):
        ink = ink_below_panels(caption, note)
        assert len(ink) > 5
        assert left <= ink.min()
        assert ink.max() < left + 50


def test_page_is_wide_enough_for_headings_and_no_wider_than_its_columns() -> None:
    narrow = contact_sheet("t", "s", [Section("heading", [Panel(RED, "")])])
    wide = contact_sheet("t", "s", [Section("heading", [Panel(RED, "")] * 20)], 10)
    assert 480 < narrow.shape[1] < wide.shape[1] < 10 * 70 + 100


def test_depth_bar_runs_from_near_to_far() -> None:
    picture = np.full((40, 200, 3), 255, np.uint8)
    sheet = contact_sheet("t", "s", [Section("h", [Panel(picture, "depth", depth_scale=True)])])
    starts = np.argwhere((sheet == depth_scale()[0]).all(-1))  # brightest yellow
    top, left = starts[0]
    assert len(starts) >= 8
    brightness = sheet[top, left : left + 100].astype(int).sum(-1)
    assert (np.diff(brightness) <= 0).all()
    assert brightness[0] - brightness[-1] > 300


def test_near_is_bright_and_nothing_is_grey() -> None:
    depth = np.array([[7.0, 8.0, 9.0, 5.0, 99.0, 8.0]])
    alpha = np.array([[1.0, 1.0, 1.0, 1.0, 1.0, 0.1]])
    colors = depth_colors(depth, alpha, 7.0, 9.0)
    brightness = colors.astype(float).sum(-1)[0]
    assert brightness[0] > brightness[1] > brightness[2]
    np.testing.assert_array_equal(colors[0, [0, 2]], colors[0, [3, 4]])
    assert tuple(colors[0, 5]) == NO_DEPTH


def test_the_style_is_one_that_matplotlib_takes() -> None:
    with matplotlib.rc_context(STYLE):
        (line,) = Figure().add_subplot().plot([0, 1])
        assert line.get_color() == PALETTE[0]


@pytest.mark.parametrize("value", [8.0, 0.0])
def test_flat_depth_is_one_colour(value: float) -> None:
    colors = depth_colors(np.full((4, 4), value), np.ones((4, 4)), value, value)
    assert len(np.unique(colors.reshape(-1, 3), axis=0)) == 1

"""The demo's page: gradio's components, and what happens when they are used.

Gradio is imported when the page is built, because it is optional. It reads the annotations of functions that take an
event, which must not be strings. Therefore this module has no `from __future__ import annotations`.
"""

import logging
from importlib.resources import files
from pathlib import PurePath
from typing import Any

from gmae_tools.demo import html
from gmae_tools.demo.exhibit import EDGES, MOST_BYTES, Exhibit, Workshop, read_dropped
from gmae_tools.errors import GmaeToolsError
from gmae_tools.images import read_image
from gmae_tools.report.web import asset, to_base64

KEPT = 3600  # seconds for which an unused photograph is kept; it is removed at once when the page is closed
FIRST_K = 256  # first value of the slider
FONTS = ("system-ui", "sans-serif")  # fonts of the visitor's own machine, so that none is downloaded
EXAMPLE = "demo.jpg"

_log = logging.getLogger(__name__)
_ASSETS = "gmae_tools.demo"


def build(workshop: Workshop) -> Any:
    """The page, a `gradio.Blocks`, for photographs that the workshop takes apart."""
    import gradio as gr

    count = workshop.model.config.k
    first = min(FIRST_K, count)

    example = workshop.exhibit(read_image(str(files("gmae_tools") / "assets" / EXAMPLE)), EXAMPLE)

    def show(exhibit: Exhibit, k: int, edges: str) -> tuple[Any, ...]:
        """Everything about a photograph: the values of `shown`."""
        return (
            exhibit, html.status(), html.nearest(exhibit, k), html.photograph(exhibit), html.edges(exhibit, edges),
            html.figure_and_ground(exhibit), *html.depth_and_layers(exhibit), html.facts(exhibit),
        )  # fmt: skip

    def refused(problem: str) -> tuple[Any, ...]:
        """The page as it is, but for a sentence."""
        return (gr.skip(), html.status(problem), *(gr.skip() for _ in shown[2:]))

    def take(k: int, edges: str, event: gr.EventData) -> tuple[Any, ...]:
        dropped = dict(event._data)
        name = str(dropped.get("name", "photograph"))
        try:
            if int(dropped.get("size", 0)) > MOST_BYTES:
                raise GmaeToolsError(f"{name}: more than {MOST_BYTES // 1_000_000} MB; make it smaller first")
            photo = read_dropped(str(dropped.get("data", "")), name, workshop.max_pixels)
            return show(workshop.exhibit(photo, name), k, edges)
        except GmaeToolsError as error:
            return refused(f"{error}.")
        except Exception:  # whatever it was, the visitor shall read a sentence
            _log.exception("%s could not be taken apart", name)
            return refused(f"{name}: it could not be taken apart; try another photograph.")

    def draw(exhibit: Exhibit | None, k: int) -> tuple[Any, Any]:
        return (gr.skip(), html.status(html.GONE)) if exhibit is None else (html.nearest(exhibit, k), gr.skip())

    def trace(exhibit: Exhibit | None, edges: str) -> tuple[Any, Any]:
        return (gr.skip(), html.status(html.GONE)) if exhibit is None else (html.edges(exhibit, edges), gr.skip())

    def saved(exhibit: Exhibit | None, suffix: str, kind: str) -> tuple[Any, Any]:
        if exhibit is None:
            return gr.skip(), html.status(html.GONE)
        content = exhibit.ply() if suffix == ".ply" else exhibit.page()
        name = html.escape(PurePath(exhibit.name).stem + suffix)
        return f'<data data-name="{name}" data-type="{kind}">{to_base64(content)}</data>', gr.skip()

    # What every visitor sees first comes with the page.
    _, nothing, *pictures, first_facts = show(example, first, EDGES[0])
    begin_nearest, begin_photograph, begin_edges, begin_figure, begin_depth, begin_layers = pictures
    plain: dict[str, Any] = {"apply_default_css": False}

    with gr.Blocks(title="gmae-tools", analytics_enabled=False, fill_width=True) as page:
        kept = gr.State(None, time_to_live=KEPT)
        gr.HTML(html.INTRODUCTION, elem_id="introduction", **plain)
        with gr.Row(elem_id="room", equal_height=False):
            with gr.Column(elem_id="desk", min_width=240, scale=1):
                script = asset("drop.js", _ASSETS).replace("MOST_BYTES", str(MOST_BYTES))
                drop = gr.HTML(html.DROP, js_on_load=script, elem_id="drop", **plain)
                status = gr.HTML(nothing, elem_id="said", **plain)
                again = gr.Button("Use the bundled photograph", size="sm", elem_id="example")
                facts = gr.HTML(first_facts, elem_id="facts", **plain)
                with gr.Row(elem_id="downloads"):
                    ply = gr.Button("Gaussians (.ply)", size="sm", elem_id="save-ply", min_width=100)
                    web = gr.Button("Page (.html)", size="sm", elem_id="save-page", min_width=100)
                gr.HTML(html.PRIVACY, elem_id="privacy", **plain)
                save = gr.HTML("", js_on_load=asset("save.js", _ASSETS), elem_id="save", visible="hidden", **plain)
            with gr.Column(elem_id="wall", min_width=320, scale=4):
                with gr.Row(elem_id="pair"):
                    nearest = gr.HTML(begin_nearest, elem_id="nearest", min_width=260, **plain)
                    photograph = gr.HTML(begin_photograph, elem_id="photograph", min_width=260, **plain)
                slider = gr.Slider(1, count, first, step=1, label="Nearest Gaussians", elem_id="k")
                with gr.Row(elem_id="three"):
                    with gr.Column(elem_id="edges-column", min_width=200):
                        edges = gr.HTML(begin_edges, elem_id="edges", **plain)
                        readout = gr.Dropdown(
                            list(EDGES), value=EDGES[0], label="Edges read out by", elem_id="readout", filterable=False,
                            container=False, show_label=False,
                        )  # fmt: skip
                    figure = gr.HTML(begin_figure, elem_id="figure", min_width=200, **plain)
                    depth = gr.HTML(begin_depth, elem_id="depth", min_width=200, **plain)
                layers = gr.HTML(begin_layers, elem_id="layers", **plain)

        shown = [kept, status, nearest, photograph, edges, figure, depth, layers, facts]
        quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
        slow: dict[str, Any] = {"show_progress_on": [photograph], "api_visibility": "private", "concurrency_limit": 2}
        page.load(lambda: example, None, [kept], **quick)
        again.click(lambda k, edges: show(example, k, edges), [slider, readout], shown, **slow)
        drop.upload(take, [slider, readout], shown, **slow)
        slider.input(draw, [kept, slider], [nearest, status], trigger_mode="always_last", queue=False, **quick)
        readout.input(trace, [kept, readout], [edges, status], trigger_mode="always_last", **quick)
        ply.click(lambda exhibit: saved(exhibit, ".ply", "application/octet-stream"), [kept], [save, status], **quick)
        web.click(lambda exhibit: saved(exhibit, ".html", "text/html"), [kept], [save, status], **quick)
    return page


def theme() -> Any:
    """A `gradio.Theme` with the colours of all our pages (`report/assets/theme.css`), light and dark."""
    import gradio as gr

    colors = {
        "body_background_fill": "room", "body_text_color": "ink", "body_text_color_subdued": "muted",
        "background_fill_primary": "paper", "background_fill_secondary": "room", "block_background_fill": "paper",
        "block_label_text_color": "muted", "block_title_text_color": "muted", "border_color_primary": "hairline",
        "block_border_color": "hairline", "input_background_fill": "paper", "input_border_color": "hairline",
        "button_secondary_background_fill": "control", "button_secondary_background_fill_hover": "hairline",
        "button_secondary_text_color": "ink", "button_secondary_border_color": "hairline",
        "slider_color": "accent", "color_accent": "accent", "border_color_accent": "accent",
    }  # fmt: skip
    fonts = [gr.themes.Font(name) for name in FONTS]
    mono = [gr.themes.Font(name) for name in ("ui-monospace", "monospace")]
    base = gr.themes.Base(font=fonts, font_mono=mono, radius_size="md", text_size="md", spacing_size="md")
    given = {name: f"var(--{color})" for name, color in colors.items()}
    dark = {f"{name}_dark": value for name, value in given.items() if hasattr(base, f"{name}_dark")}
    return base.set(**given, **dark)


def head() -> str:
    """The page's own style, as an element: gradio would rewrite the rules of a bare one."""
    return f"<style>{asset('theme.css')}{asset('demo.css', _ASSETS)}</style>"

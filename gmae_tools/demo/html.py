"""The parts of the demo's page that change, as HTML. All text is escaped, and pictures are embedded in it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gmae_tools.demo.exhibit import MOST_BYTES, Exhibit, encoded
from gmae_tools.report.web import data_uri, encodable

INTRODUCTION = """<header>
<h1>A photograph, taken apart</h1>
<p>A Gaussian masked autoencoder rebuilds a photograph from hundreds of 3-D Gaussians, which come in an order of depth.
Drop a photograph, and look at what the nearest ones draw.</p>
</header>"""

# The input lies, unseen, over the whole area: dropping, pressing and the keyboard all reach it.
DROP = f"""<label class="drop">
<input type="file" accept="image/*,.heic,.heif" aria-describedby="status">
<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M12 16V4m0 0L7 9m5-5 5 5M4 16v4h16v-4"/></svg>
<span>Drop a photograph</span>
<small>or press to choose one, up to {MOST_BYTES // 1_000_000}&nbsp;MB</small>
</label>"""

PRIVACY = """<p class="small">Photographs stay in this server's memory, for you alone, and go when you close the page.
Nothing is written to disk.</p>"""

GONE = "What was here is no longer kept: drop the photograph again."


@dataclass(frozen=True)
class CaptionedPicture:
    """A picture, uint8 RGB `[H, W, 3]`, with a caption."""

    picture: np.ndarray
    caption: str
    note: str = ""  # more of the caption, muted
    lines: bool = False  # whether it is of lines on white, which want to be encoded without loss


def escape(text: str) -> str:
    """Text for HTML."""
    return html.escape(encodable(text))


def figure(shown: CaptionedPicture) -> str:
    """A picture above its caption."""
    source = data_uri(encoded(shown.picture, lines=shown.lines), "image/png" if shown.lines else "image/jpeg")
    height, width = shown.picture.shape[:2]
    note = f" <span>{escape(shown.note)}</span>" if shown.note else ""
    return (
        f'<figure><img src="{source}" width="{width}" height="{height}" alt="{escape(shown.caption)}">'
        f"<figcaption>{escape(shown.caption)}{note}</figcaption></figure>"
    )


def nearest(exhibit: Exhibit, k: int) -> str:
    """Show the picture of the nearest `k` Gaussians."""
    k = min(max(1, k), exhibit.scene.k)
    picture, quality = exhibit.nearest(k)
    return figure(CaptionedPicture(picture, f"Nearest {k:,} of {exhibit.scene.k:,}", f"{quality:.1f} dB"))


def edges(exhibit: Exhibit, name: str) -> str:
    """Show one of the edge maps."""
    return figure(CaptionedPicture(exhibit.edges(name), "Edges", name, lines=True))


def depth_and_layers(exhibit: Exhibit) -> tuple[str, str]:
    """Show the depth map, and the strip of depth groups."""
    pictures, depth = exhibit.layers()
    last = len(pictures) - 1
    ends = {0: "nearest", last: "farthest"} if last else {}
    strip = "".join(figure(CaptionedPicture(each, str(n + 1), ends.get(n, ""))) for n, each in enumerate(pictures))
    layers = f'<h2>{len(pictures)} layers of depth, each alone</h2><div class="strip">{strip}</div>'
    return figure(CaptionedPicture(depth, "Depth", "bright is near")), layers


def figure_and_ground(exhibit: Exhibit) -> str:
    """Show the foreground, with the background faded."""
    picture, share = exhibit.figure()
    return figure(CaptionedPicture(picture, "Figure and ground", f"{share:.0%} figure"))


def photograph(exhibit: Exhibit) -> str:
    """Show the photograph."""
    height, width = exhibit.size
    return figure(CaptionedPicture(exhibit.scene.picture(), "Photograph", f"{width:,} × {height:,} px"))


def facts(exhibit: Exhibit) -> str:
    """List the photograph, the model and the time in a table of two columns."""
    steps = exhibit.workshop.refine
    rows: Sequence[tuple[str, str]] = [
        ("Photograph", exhibit.name),
        ("Model", exhibit.workshop.checkpoint + (f", refined in {steps} steps" if steps else "")),
        ("Gaussians", f"{exhibit.scene.k:,}"),
        ("Predicted in", f"{exhibit.seconds:.2f} s"),
    ]
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{escape(value)}</dd>' for name, value in rows)}</dl>"


def status(problem: str = "") -> str:
    """Show what went wrong, in a sentence that screen readers speak; empty if there is no problem."""
    return f'<p id="status" role="status"{" class=problem" * bool(problem)}>{escape(problem)}</p>'

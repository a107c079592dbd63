"""An interactive 3-D view of Gaussians in a browser, served by viser."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING

import numpy as np

from gmae_tools.camera import quats_to_rotations
from gmae_tools.formats.perspective import PerspectiveView
from gmae_tools.gaussians import Gaussians
from gmae_tools.report.viser_there import require_viser
from gmae_tools.scene import Scene
from gmae_tools.system.ports import check_free

if TYPE_CHECKING:
    import viser

WHITE = np.full((1, 1, 3), 255, np.uint8)


@contextmanager
def serve(
    scene: Scene, view: PerspectiveView, *, host: str, port: int, title: str, source: str
) -> Iterator[viser.ViserServer]:
    """Serve a scene (from `perspective.for_viewers`) in background threads, until the context ends.

    At first, visitors see it from where it looks like its picture. They can turn and move the scene, choose the number
    of nearest Gaussians, and return to the first view. The page shows the `source` of the Gaussians.

    Raises:
        GmaeToolsError: `viser` is not installed, or the port is taken.
    """
    require_viser()
    import viser

    check_free(host, port)
    with redirect_stdout(io.StringIO()):  # stdout is for results
        server = viser.ViserServer(host, port, label=title, verbose=False)
    try:
        _furnish(server, scene.gaussians.sort_by_depth(), view, source)
        yield server
    finally:
        with redirect_stdout(io.StringIO()):
            server.stop()


def _furnish(server: viser.ViserServer, gaussians: Gaussians, view: PerspectiveView, source: str) -> None:
    """Add the Gaussians, nearest first, and the controls."""
    arrays = _arrays(gaussians)

    def show(nearest: int) -> None:
        centres, covariances, colors, opacities = (array[:nearest] for array in arrays)
        server.scene.add_gaussian_splats("/gaussians", centres, covariances, colors, opacities)

    server.gui.configure_theme(show_share_button=False)  # sharing would send the scene to another server
    server.gui.add_text("Gaussians", source, disabled=True)
    slider = server.gui.add_slider("Nearest", min=1, max=gaussians.k, step=1, initial_value=gaussians.k)
    slider.on_update(lambda _: show(slider.value))
    button = server.gui.add_button("Back to the picture")
    button.on_click(lambda event: _face(event.client, view) if event.client else None)
    server.scene.set_up_direction("-y")
    server.scene.set_background_image(WHITE, format="png")
    server.on_client_connect(lambda client: _face(client, view))
    show(gaussians.k)


def _arrays(gaussians: Gaussians) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Centres `[K, 3]`, covariances `[K, 3, 3]`, colours `[K, 3]` and opacities `[K, 1]`."""
    axes = quats_to_rotations(gaussians.quats) * gaussians.scales[..., None, :]
    tensors = (gaussians.means, axes @ axes.mT, gaussians.colors, gaussians.opacities[..., None])
    means, covariances, colors, opacities = (tensor[0].detach().cpu().numpy() for tensor in tensors)
    return means, covariances, colors, opacities


def _face(client: viser.ClientHandle, view: PerspectiveView) -> None:
    """Move a visitor to the point from which the whole scene looks like its picture."""
    across, down = view.sides
    half = max(down, across / client.camera.aspect)  # half of the window's height at the origin
    client.camera.up_direction = (0.0, -1.0, 0.0)
    client.camera.position = (0.0, 0.0, -view.distance)
    client.camera.look_at = (0.0, 0.0, 0.0)
    client.camera.fov = 2 * math.atan(half / view.distance)

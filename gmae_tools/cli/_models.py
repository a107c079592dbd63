"""The models that commands work with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gmae_tools.cli._progress import busy

if TYPE_CHECKING:
    from gmae_tools.model import GMAE
    from gmae_tools.splatting import Backend


def open_gmae(checkpoint: str, device: str, backend: Backend) -> GMAE:
    """A GMAE on its device, once it is certain that its Gaussians can be drawn there.

    Raises:
        GmaeToolsError: there is no such device, the backend cannot draw there, or the checkpoint cannot be loaded.
    """
    with busy(f"loading {checkpoint}"):
        from gmae_tools import checkpoints
        from gmae_tools.prediction import resolve_device
        from gmae_tools.splatting import choose_backend

        where = resolve_device(device)
        choose_backend(backend, where)  # one that cannot draw is refused before any work
        return checkpoints.load(checkpoint, device=where)

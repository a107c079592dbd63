"""The folder of maps of a benchmark, and the digest of the weights that made them."""

from __future__ import annotations

import hashlib
import json

from gmae_tools.errors import GmaeToolsError
from gmae_tools.system.files import file_sha256

MAPS = "maps"  # folder of the maps


def weights_of(checkpoint: str) -> str:
    """Compute the SHA-256 of a checkpoint's weights; for weights in several files, the digest of the files' digests.

    Raises:
        GmaeToolsError: there is no such checkpoint, or a file is missing.
    """
    from gmae_tools.checkpoints import file_of_others, find, weights_files  # loads torch, so it is imported here

    file = file_of_others(checkpoint)
    try:
        digests = [file_sha256(path) for path in ([file] if file else weights_files(find(checkpoint)))]
    except FileNotFoundError as error:
        raise GmaeToolsError(f"{error.filename}: missing; fetch the checkpoint again") from None
    return digests[0] if len(digests) == 1 else hashlib.sha256(json.dumps(digests).encode()).hexdigest()

"""Commands on several pictures: results do not depend on how many are worked on at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from gmae_tools.cli import main
from gmae_tools.images import write_image

COMMANDS = {
    "layers": ("--layers", "2"),
    "segment": (),
    "edges": ("--readout", "regions", "--readout", "layers", "--layers", "4", "--scales", "1,2"),
    "density": (),
    "export": ("--format", "npz", "--format", "ply"),
    "view": ("--layers", "2", "--side", "64"),
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Five pictures of different sizes, the third damaged."""
    rng = np.random.default_rng(0)
    for number in range(5):
        write_image(tmp_path / "photos" / f"{number}.png", rng.random((40 + 3 * number, 50, 3)))
    (tmp_path / "photos" / "2.png").write_bytes(b"no picture")
    return tmp_path / "photos"


def run(command: str, photos: Path, checkpoint: Path, jobs: int) -> tuple[str, list[str], dict[str, bytes]]:
    """Stdout, the errors, and all files that a command writes."""
    out = photos.parent / "out"
    arguments = [command, str(photos), *COMMANDS[command], "--jobs", str(jobs), "-o", str(out)]
    done = CliRunner().invoke(main, [*arguments, "--checkpoint", str(checkpoint)], catch_exceptions=False)
    assert done.exit_code == 1  # for the damaged picture
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    out.rename(photos.parent / f"{command}-{jobs}")
    return done.stdout, [line for line in done.stderr.splitlines() if line.startswith("error")], files


@pytest.mark.parametrize("command", list(COMMANDS))
def test_any_number_of_jobs_gives_the_same_bytes_in_the_same_order(
    command: str, photos: Path, checkpoint: Path
) -> None:
    alone, together = (run(command, photos, checkpoint, jobs) for jobs in (1, 3))
    assert together == alone
    printed, errors, files = alone
    assert len(errors) == 1 and "2.png" in errors[0]
    assert printed and files
    names = {"export": "out/{}.npz", "edges": None}.get(command, "photos/{}.png")
    if names:
        places = [printed.index(names.format(number)) for number in (0, 1, 3, 4)]
        assert places == sorted(places)

"""The script that draws the README's pictures, with a small model."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from evals.benchmarks import readme_pictures


@pytest.mark.slow
def test_draws_them_all(repository: Path, checkpoint: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(readme_pictures.main, ["--checkpoint", str(checkpoint), "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    made = {path.stem: Image.open(path).size for path in tmp_path.iterdir()}
    named = {path.stem for path in (repository / "docs" / "images").iterdir()}
    if "view.png stays as it is" not in result.output:
        assert made.pop("view") == readme_pictures.WINDOW
    assert set(made) == named - {"view"}
    assert all(width > 1000 for width, _ in made.values())

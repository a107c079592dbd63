"""The script that draws the pictures of the README and of the site."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from evals.benchmarks import readme_pictures
from evals.benchmarks.readme_pictures import GalleryPicture, gallery, keep


@pytest.mark.slow
def test_draws_them_all(repository: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(readme_pictures.main, ["-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    made = {path.name: Image.open(path).size for path in tmp_path.iterdir()}
    named = {path.name for path in (repository / "docs" / "images").iterdir()}
    if "view.jpg stays as it is" not in result.output:
        assert made["view.jpg"] == readme_pictures.WINDOW
    assert set(made) | {"view.jpg"} == named
    assert all(700 < width <= readme_pictures.WIDEST for width, _ in made.values())


def test_commands_are_those_of_the_gallery() -> None:
    text = "<!-- picture: a.jpg of b/c.png -->\n```bash\ngmae-tools layers x.jpg \\\n    --out d/e  # why\n```\n"
    assert gallery(text) == [GalleryPicture("a.jpg", "b/c.png", [["layers", "x.jpg", "--out", "d/e"]])]
    assert gallery(text)[0].folder == "d/e"
    assert len(gallery(readme_pictures.GALLERY.read_text(encoding="utf-8"))) > 5


def test_pictures_become_as_coarse_as_they_must(tmp_path: Path) -> None:
    noise = Image.effect_noise((readme_pictures.WIDEST, 400), 30).convert("RGB")
    noise.save(tmp_path / "best.jpg", quality=90)
    keep(noise.resize((2 * noise.width, 2 * noise.height)), tmp_path / "kept.jpg")
    with Image.open(tmp_path / "kept.jpg") as picture:
        assert picture.size == noise.size
    sizes = [(tmp_path / name).stat().st_size for name in ("kept.jpg", "best.jpg")]
    assert sizes[0] <= readme_pictures.LARGEST < sizes[1]

"""The notebook of the documentation runs from its first cell to its last, and is the one that its source makes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE, NOTEBOOK = ROOT / "docs" / "tutorial.py", ROOT / "docs" / "tutorial.ipynb"
MAKE = "make it anew: jupytext --to ipynb docs/tutorial.py"

pytestmark = pytest.mark.skipif(not NOTEBOOK.exists(), reason="needs a checkout")


def cells(notebook: Any) -> list[tuple[str, str, list[str]]]:
    return [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]


def test_is_made_of_its_source_without_outputs() -> None:
    jupytext = pytest.importorskip("jupytext", reason="needs jupytext")
    notebook = jupytext.read(NOTEBOOK)
    assert cells(notebook) == cells(jupytext.read(SOURCE)), MAKE
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells), MAKE


def test_begins_with_one_line_that_installs() -> None:
    jupytext = pytest.importorskip("jupytext", reason="needs jupytext")
    first = next(cell for cell in jupytext.read(NOTEBOOK).cells if cell.cell_type == "code")
    assert first.source == "%pip install --quiet gmae-tools"


@pytest.mark.slow
def test_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own, on the drawn data set."""
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient")
    pytest.importorskip("ipykernel", reason="needs ipykernel")
    import nbformat

    monkeypatch.delenv("GMAE_TOOLS_DATA", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = tmp_path / "here"
    folder.mkdir()
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    html = [output.data["text/html"] for output in shown if "text/html" in output.get("data", {})]
    assert sum(each.startswith('<img src="data:image/png') for each in html) >= 7, "scenes, layers, edges, masks"
    (table,) = (each for each in html if "gradient" in each and "regions" in each)
    assert "ods" in table.lower()
    assert (folder / "evaluations").is_dir() and (folder / "scene.ply").is_file()

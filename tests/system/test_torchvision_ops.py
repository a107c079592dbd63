"""Each case needs a process of its own: an import happens once, and operators cannot be taken back."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# A package called torchvision that, like the real one, dies where an operator is missing.
FAKE_TORCHVISION = """
    import torch
    from . import extension
    torch.library.register_fake("torchvision::nms")(lambda dets, scores, iou_threshold: dets)
    assert extension is __import__("sys").modules["torchvision"].extension
"""


def run(code: str, folder: Path | None = None) -> str:
    """Run `code` in a new process, with the modules in `folder` before all others; return what it printed."""
    path = f"import sys; sys.path.insert(0, {str(folder)!r})\n" if folder else ""
    done = subprocess.run(
        [sys.executable, "-c", path + textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def fake_torchvision(tmp_path: Path) -> Path:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(textwrap.dedent(FAKE_TORCHVISION))
    (package / "extension.py").write_text("print('extension loaded')\n")
    return tmp_path


def test_timm_imports_and_builds_a_model() -> None:
    printed = run("""
        from gmae_tools.system.torchvision_ops import ensure_torchvision
        assert ensure_torchvision() == ensure_torchvision()
        import timm, torch
        model = timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=1)
        print(tuple(model(torch.zeros(1, 3, 224, 224)).shape))
    """)
    assert printed == "(1, 3)\n"


def test_missing_operators_are_declared_and_the_import_is_whole(fake_torchvision: Path) -> None:
    printed = run(
        """
        import torch
        try:
            import torchvision
        except RuntimeError as error:
            print(error)
        from gmae_tools.system.torchvision_ops import ensure_torchvision
        print(ensure_torchvision(), ensure_torchvision())
        import torchvision
        print(torch.ops.torchvision.nms.default._schema)
        """,
        fake_torchvision,
    )
    assert "operator torchvision::nms does not exist" in printed and "False False" in printed
    assert "torchvision::nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" in printed


def test_working_operators_are_left_alone(fake_torchvision: Path) -> None:
    """With operators that load, nothing is declared, imported twice or replaced."""
    printed = run(
        """
        import torch
        torch.library.define(
            "torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        )
        torch.library.impl("torchvision::nms", "cpu")(lambda dets, scores, iou_threshold: dets + 41)
        from gmae_tools.system.torchvision_ops import ensure_torchvision
        assert ensure_torchvision()
        print(int(torch.ops.torchvision.nms(torch.ones(1), torch.ones(1), 0.5)))
        print(hasattr(torch.ops.torchvision, "qnms"))
        """,
        fake_torchvision,
    )
    assert printed.splitlines() == ["extension loaded", "42", "False"]


def test_other_failures_are_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('the disk is on fire')\n")
    printed = run(
        """
        from gmae_tools.system.torchvision_ops import ensure_torchvision
        try:
            ensure_torchvision()
        except RuntimeError as error:
            print(error)
        """,
        tmp_path,
    )
    assert printed == "the disk is on fire\n"

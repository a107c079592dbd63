"""What can be refused without torch is refused before it is loaded, which takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

# Runs command after command in one fresh process, and tells what each ends with, and whether torch was loaded by then.
CODE = """
import json, sys
from click.testing import CliRunner
from gmae_tools.cli import main

for arguments in json.load(sys.stdin):
    result = CliRunner().invoke(main, arguments)
    print(json.dumps([result.exit_code, result.stderr, "torch" in sys.modules]))
"""
PICTURES = ("density", "edges", "export", "layers", "reconstruct", "segment", "view", "view3d")
SCENES = tuple(command for command in PICTURES if command != "reconstruct")  # which take files of Gaussians
DATA = ("probe", "invariance", "finetune")


def test_wrong_input_is_refused_before_torch_is_loaded(repository: Path, tmp_path: Path) -> None:
    photo = str(repository / "gmae_tools" / "assets" / "demo.jpg")
    nowhere, out = str(tmp_path / "nowhere"), ["-o", str(tmp_path / "out")]
    cases: list[tuple[list[str], str]] = []
    for command in PICTURES:
        given = [] if command == "view3d" else out
        cases += [
            ([command, nowhere, *given], "no such file"),
            ([command, photo, *given, "--device", "abacus"], "device 'abacus' is not available here: use auto, cpu or"),
            ([command, photo, *given, "--checkpoint", nowhere], "no checkpoint"),
        ]
    gaussians = tmp_path / "someone.ply"
    gaussians.touch()
    for command in SCENES:
        given, ply = [] if command == "view3d" else out, str(gaussians)
        cases += [
            ([command, f"{nowhere}.ply", *given], "no such file"),
            ([command, photo, *given, "--size", "64x48"], "--size: is for files of Gaussians (.ply, .splat, .npz)"),
            ([command, photo, *given, "--photo", photo], "--photo: is for files of Gaussians"),
            ([command, ply, *given, "--photo", nowhere], f"--photo {nowhere}: no such file"),
            ([command, ply, *given, "--photo", photo, "--size", "64x48"], "--size: the picture is as large as"),
            ([command, ply, *given, "--refine", "5"], "--refine fits Gaussians to a photograph"),
        ]
    for command in DATA:
        cases += [
            ([command, nowhere, *out], "no such file or folder"),
            ([command, str(tmp_path), *out, "--device", "abacus"], "device 'abacus'"),
            ([command, str(tmp_path), *out, "--checkpoint", f"random:{nowhere}"], "no checkpoint"),
        ]
    train = ["pretrain", *out, "--data"]
    cases += [
        (["layers", photo, *out, "--k", "0"], "--k 0"),
        (["layers", photo, *out, "--k", "1025"], "--k 1025: there are 1024 Gaussians"),
        (["layers", photo, *out, "--layers", "0"], "--layers 0: use 1 to 1024"),
        (["layers", photo, *out, "--layers", "1025"], "--layers 1025: use 1 to 1024"),
        (["view", photo, *out, "--layers", "1025"], "--layers 1025: use 1 to 1024"),
        (["layers", photo, *out, "--layers", "0", "--checkpoint", "hf://a/b"], "use 1 to the number of Gaussians"),
        (["edges", "--dataset", "bsds500", "--root", nowhere, *out], "BSDS500 not found under"),
        (["segment", "--dataset", "ecssd", "--root", nowhere, *out], "ecssd not found under"),
        (["segment", "--dataset", nowhere, *out], "neither a data set"),
        (["segment", "--dataset", "voc07", "--root", nowhere, *out], "VOC2007 not found under"),
        (["segment", "--dataset", "coco", "--root", nowhere, *out], "COCO not found under"),
        ([*train, nowhere], "no such file or folder"),
        ([*train, photo, "--warm-start", "no-such.pth"], "no-such.pth: no such file"),
        ([*train, photo, "--warm-start", nowhere], "no checkpoint"),
        ([*train, photo, "--set", "queries"], "expected KEY=VALUE"),
        ([*train, photo, "--crop-scale", "0.5"], "--crop-scale takes two numbers"),
        ([*train, photo, "--device", "abacus"], "device 'abacus'"),
        (["report", nowhere, *out], "nowhere"),
        (["report", "--all", *out, "--checkpoint", nowhere], "no checkpoint"),
        (["checkpoints", "list", nowhere], "no checkpoint"),
        (["checkpoints", "average", nowhere, *out], "no checkpoint"),
        (["checkpoints", "export", "--timm", nowhere, "-o", str(tmp_path / "x.pth")], "no checkpoint"),
    ]
    (tmp_path / "a.jpg").touch()
    done = subprocess.run(
        [sys.executable, "-c", CODE], input=json.dumps([arguments for arguments, _ in cases]),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for (arguments, message), (code, stderr, loaded) in zip(cases, answers, strict=True):
        assert not loaded, arguments
        assert code == 1 and message in stderr and stderr.count("\n") == 1, (arguments, stderr)
    assert not (tmp_path / "out").exists()

"""Folders for results: found to be writable, for one run alone, cleared of what killed runs left."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from gmae_tools.cli import ModuleGroup
from gmae_tools.cli._options import check_device, output_folder, print_failure, when_interrupted
from gmae_tools.errors import CannotWriteError, GmaeToolsError
from gmae_tools.system import files
from gmae_tools.system.files import sole_run

LEFT = ".a.0123abcd.tmp.png"


def run(out: Path, *parts: str, launched: bool = False, interrupt: str | None = None) -> Result:
    """A command that writes into a folder, within a group as ours."""

    @click.command("work")
    def work() -> None:
        folder = output_folder(str(out), *parts, launched=launched)
        click.echo(" ".join(sorted(path.name for path in folder.rglob(".*"))))
        if interrupt:
            when_interrupted(interrupt)
        if interrupt is not None:
            raise KeyboardInterrupt

    class OneCommand(ModuleGroup):
        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
            return work

    return CliRunner().invoke(OneCommand("group"), ["work"])


def test_only_what_runs_of_ours_left_is_cleared(tmp_path: Path) -> None:
    for folder in (".", "maps", "features/one", "mine"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / LEFT).touch()
    result = run(tmp_path, "maps", "features/*", "missing")
    assert (result.exit_code, result.stdout) == (0, f"{LEFT}\n")
    assert (tmp_path / "mine" / LEFT).exists()


def test_processes_of_one_launch_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first keeps other runs out; the others come in, and clear nothing that it may be writing."""
    monkeypatch.setattr(files, "_TURNOVER", 0.0)
    (tmp_path / LEFT).touch()
    with sole_run(tmp_path):
        monkeypatch.setenv("RANK", "1")
        assert run(tmp_path, launched=True).stdout == f"{LEFT}\n"
        assert "another run is writing there" in run(tmp_path).stderr, "these know nothing of each other"
        monkeypatch.setenv("RANK", "0")
        assert "another run is writing there" in run(tmp_path, launched=True).stderr
    assert run(tmp_path, launched=True).stdout == "\n"


@pytest.mark.parametrize(
    ("text", "message"), [("", "the same command continues with the results in {}"), ("begin again", "begin again")]
)
def test_what_is_said_after_ctrl_c(tmp_path: Path, text: str, message: str) -> None:
    result = run(tmp_path, interrupt=text)
    assert result.exit_code == 130
    assert result.stderr == f"error: interrupted: {message.format(tmp_path)}\n"


def test_pictures_that_fail_are_reported_unless_all_would(capsys: pytest.CaptureFixture[str]) -> None:
    print_failure(Path("a.png"), GmaeToolsError("damaged"))
    print_failure(Path("a.png"), GmaeToolsError("a.png: damaged"))
    assert capsys.readouterr().err == 2 * "error: a.png: damaged\n"
    with pytest.raises(CannotWriteError, match="full"):
        print_failure(Path("a.png"), CannotWriteError("full"))


@pytest.mark.parametrize("name", ["auto", "cpu", "mps", "cuda", "cuda:1"])
def test_devices_that_only_torch_knows_are_left_to_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "2.13.0")
    assert check_device(None, None, name) == name  # type: ignore[arg-type]


def test_cuda_is_not_offered_where_torch_is_built_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "2.13.0+cpu")
    with pytest.raises(GmaeToolsError) as caught:
        check_device(None, None, "cuda")  # type: ignore[arg-type]
    assert str(caught.value).endswith("is not available here: this torch is built without CUDA; use auto or cpu")
    for name in ("meta", "cuda:x", ""):
        with pytest.raises(GmaeToolsError, match=r"use auto, cpu or cuda$"):
            check_device(None, None, name)  # type: ignore[arg-type]

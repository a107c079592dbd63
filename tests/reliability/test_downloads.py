"""The campaign's part of downloads and archives, shortened; and that it notices what it should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from gmae_tools.datasets.download import unpack_tar
from gmae_tools.errors import GmaeToolsError


@pytest.fixture(scope="module")
def campaign() -> ModuleType:
    from tests.reliability import downloads

    return downloads


# --- servers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_downloads_from_troubled_servers(campaign: ModuleType, seed: int, tmp_path: Path) -> None:
    campaign.try_download(seed, tmp_path)


def test_each_trouble_alone(campaign: ModuleType, tmp_path: Path) -> None:
    for trouble in campaign.TROUBLES:
        folder = tmp_path / trouble
        folder.mkdir()
        campaign.try_download(3, folder, (trouble,))


@pytest.mark.parametrize(
    ("broken", "flaw"),
    [
        (lambda target: target.write_bytes(b"half"), "is not what it should be"),
        (lambda target: target.with_name("temporary").touch(), "left behind"),
        (lambda target: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_bad_download_is_found_out(
    campaign: ModuleType, broken: Callable[[Path], object], flaw: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = campaign.download

    def download(url: str, target: Path, **options: object) -> None:
        real(url, target, **options)
        broken(target)

    monkeypatch.setattr(campaign, "download", download)
    with pytest.raises(campaign.Flaw, match=flaw):
        campaign.try_download(3, tmp_path, ("none",))


# --- archives ----------------------------------------------------------------------------------------


def test_archives_of_all_sorts_in_little_memory_and_time(campaign: ModuleType) -> None:
    assert campaign.unpack_apart(0, 40) == []


@pytest.mark.parametrize("kind", ["tar", "gz"])
def test_every_hostile_member_is_refused_in_one_line(campaign: ModuleType, kind: str, tmp_path: Path) -> None:
    for name, make in campaign.HOSTILE.items():
        archive, folder = tmp_path / "archive", tmp_path / "a" / "b"
        archive.write_bytes(campaign.PACKERS[kind](campaign.member("a/0.bin", b"good") + make() + campaign.END))
        if name in campaign.HARMLESS:
            continue
        with pytest.raises(GmaeToolsError) as refused:
            unpack_tar(archive, folder / "out", max_bytes=1 << 20)
        assert "\n" not in str(refused.value), name
        assert not list(folder.iterdir()), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "archive"]
    assert not Path("/tmp/gmae-tools-was-here").exists()


def test_a_process_that_takes_too_much_is_found_out(campaign: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "PATIENCE", -10.0)
    assert campaign.unpack_apart(0, 10) == ["archives 0 to 9: no end"]


@pytest.mark.parametrize("seed", [0, 1])
def test_full_disks(campaign: ModuleType, seed: int, tmp_path: Path) -> None:
    campaign.try_full_disk(seed, tmp_path)

"""Gaussians: choosing, sorting, joining, and files that come back as they were or are refused in one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import COLUMNS, LAYOUT, PACKED, Gaussians

LAST = {"means": (3,), "scales": (3,), "quats": (4,), "colors": (3,), "opacities": ()}


def some(batch: int = 2, k: int = 5, seed: int = 0) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)
    return Gaussians(**{name: torch.rand(batch, k, *shape, generator=generator) for name, shape in LAST.items()})


def assert_equal(actual: Gaussians, expected: dict[str, Tensor]) -> None:
    for name in LAST:
        torch.testing.assert_close(getattr(actual, name), expected[name], rtol=0, atol=0, msg=name)


def arrays(gaussians: Gaussians, change: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> dict[str, Tensor]:
    """What is expected of each attribute, spelt out without the methods under test."""
    return {name: change(getattr(gaussians, name)) for name in LAST}


# --- the container --------------------------------------------------------------------------------


def test_the_numbers_of_a_gaussian_are_packed_in_the_order_of_the_layout() -> None:
    gaussians = some()
    packed = gaussians.pack()
    assert packed.shape == (2, 5, PACKED) == (2, 5, 14)
    assert list(LAYOUT) == list(LAST)
    for name, last in LAST.items():
        assert torch.equal(packed[..., COLUMNS[name]].view(2, 5, *last), getattr(gaussians, name)), name
    assert_equal(Gaussians.unpack(packed), arrays(gaussians))


def test_sizes_and_device() -> None:
    gaussians = some(2, 5)
    assert (gaussians.batch_size, gaussians.k, gaussians.device) == (2, 5, torch.device("cpu"))


@pytest.mark.parametrize(("batch", "k"), [(0, 5), (2, 0)])
def test_nothing_is_a_batch_too(batch: int, k: int) -> None:
    gaussians = some(batch, k).sort_by_depth()
    assert (gaussians.batch_size, gaussians.k) == (batch, k)


@pytest.mark.parametrize("name", LAST)
@pytest.mark.parametrize(
    "damage",
    [lambda t: t[:, :4], lambda t: t[:1], lambda t: t[..., None], lambda t: t[0]],
    ids=["K", "B", "too many dimensions", "too few"],
)
def test_shapes_that_do_not_fit_are_refused(name: str, damage: Callable[[Tensor], Tensor]) -> None:
    tensors = arrays(some())
    tensors[name] = damage(tensors[name])
    with pytest.raises(GmaeToolsError, match=r"^Gaussians: \w+ has shape \[.*\], expected \[.*\]$"):
        Gaussians(**tensors)


def test_attributes_cannot_be_replaced() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        some().means = torch.zeros(2, 5, 3)  # type: ignore[misc]


# --- choosing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "index",
    [slice(1, 4), slice(None, None, 2), torch.tensor([4, 0, 0]), torch.tensor([True, False, False, True, True])],
    ids=["slice", "step", "indices", "mask"],
)
def test_select_for_the_whole_batch(index: Tensor | slice) -> None:
    gaussians = some()
    kept = np.arange(5)[index if isinstance(index, slice) else index.numpy()]
    assert_equal(gaussians.select(index), arrays(gaussians, lambda t: t[:, kept]))


def test_select_for_each_set() -> None:
    gaussians = some()
    index = torch.tensor([[3, 1, 1], [0, 4, 2]])
    assert_equal(gaussians.select(index), arrays(gaussians, lambda t: torch.stack([t[0, [3, 1, 1]], t[1, [0, 4, 2]]])))


def test_select_passes_gradients_to_what_was_chosen() -> None:
    gaussians = some().map(lambda t: t.requires_grad_())
    gaussians.select(torch.tensor([[1], [2]])).means.sum().backward()
    expected = torch.zeros(2, 5, 3)
    expected[0, 1] = expected[1, 2] = 1
    assert torch.equal(gaussians.means.grad, expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [1, -1, np.int64(1), slice(1, None)])
def test_a_single_index_keeps_the_batch(index: int | slice) -> None:
    gaussians = some()
    assert_equal(gaussians[index], arrays(gaussians, lambda t: t[1:]))


def test_loops_over_the_batch_end() -> None:
    gaussians = some(3)
    sets = list(gaussians)  # type: ignore[call-overload]  # by __getitem__, until it raises IndexError
    assert [one.batch_size for one in sets] == [1, 1, 1]
    assert_equal(Gaussians.stack(sets), arrays(gaussians))
    for index in (3, -4):
        with pytest.raises(IndexError):
            gaussians[index]


def test_sort_by_depth_is_nearest_first_and_stable() -> None:
    gaussians = some(2, 6)
    z = torch.tensor([[0.5, -0.5, 0.5, -1.0, 0.5, -0.5], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    gaussians = dataclasses.replace(gaussians, means=torch.cat([gaussians.means[..., :2], z[..., None]], -1))
    orders = [sorted(range(6), key=lambda i: row[i]) for row in z.tolist()]  # Python's sort is stable
    assert orders == [[3, 1, 5, 0, 2, 4], [0, 1, 2, 3, 4, 5]]
    assert_equal(
        gaussians.sort_by_depth(), arrays(gaussians, lambda t: torch.stack([t[0, orders[0]], t[1, orders[1]]]))
    )


# --- moving and joining ---------------------------------------------------------------------------


def test_to_moves_everything() -> None:
    moved = some().to("meta")
    assert moved.device == torch.device("meta")
    assert {getattr(moved, name).device.type for name in LAST} == {"meta"}


@pytest.mark.cuda
def test_to_the_gpu_and_back() -> None:
    gaussians = some()
    assert gaussians.to("cuda").device.type == "cuda"
    assert_equal(gaussians.to("cuda").sort_by_depth().to("cpu"), arrays(gaussians.sort_by_depth()))


def test_detach_cuts_the_graph() -> None:
    gaussians = some().map(lambda t: t.requires_grad_())
    assert not any(getattr(gaussians.detach(), name).requires_grad for name in LAST)
    assert_equal(gaussians.detach(), arrays(gaussians, Tensor.detach))


def test_stack_joins_batches() -> None:
    first, second = some(2, seed=1), some(3, seed=2)
    joined = Gaussians.stack([first, second])
    assert joined.batch_size == 5
    assert_equal(joined[:2], arrays(first))
    assert_equal(joined[2:], arrays(second))


@pytest.mark.parametrize("parts", [[], [some(k=5), some(k=4)]], ids=["none", "different K"])
def test_stack_refuses(parts: list[Gaussians]) -> None:
    with pytest.raises(GmaeToolsError, match="sets of one size"):
        Gaussians.stack(parts)


# --- files ----------------------------------------------------------------------------------------


def test_files_come_back_exactly(tmp_path: Path) -> None:
    gaussians = some().map(lambda t: t.requires_grad_())
    path = tmp_path / "picture.gaussians"  # no suffix is forced on it
    gaussians.save(path)
    assert_equal(Gaussians.load(path), arrays(gaussians, Tensor.detach))
    assert [file.name for file in tmp_path.iterdir()] == ["picture.gaussians"]


def test_files_are_plain_numpy(tmp_path: Path) -> None:
    gaussians = some()
    gaussians.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert set(archive) == set(LAST)
        for name in LAST:
            assert archive[name].dtype == np.float32
            np.testing.assert_array_equal(archive[name], getattr(gaussians, name).numpy())


def test_double_precision_is_read_as_single(tmp_path: Path) -> None:
    gaussians = some()
    np.savez(tmp_path / "a.npz", **{name: tensor.double().numpy() for name, tensor in arrays(gaussians).items()})
    assert_equal(Gaussians.load(tmp_path / "a.npz"), arrays(gaussians))


def truncated(path: Path) -> None:
    some().save(path)
    path.write_bytes(path.read_bytes()[:-200])


def flipped(path: Path) -> None:
    some(2, 500).save(path)
    data = bytearray(path.read_bytes())
    data[200:300] = bytes(100)
    path.write_bytes(data)


def without_quats(path: Path) -> None:
    np.savez(path, **{name: np.zeros((1, 2, *last), np.float32) for name, last in LAST.items() if name != "quats"})


def of_words(path: Path) -> None:
    np.savez(path, **dict.fromkeys(LAST, np.array(["a"])))


def of_objects(path: Path) -> None:
    np.savez(path, **dict.fromkeys(LAST, np.array([print])))


def one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def of_other_shapes(path: Path) -> None:
    np.savez(path, **dict.fromkeys(LAST, np.zeros((1, 2, 3), np.float32)))


@pytest.mark.parametrize(
    "write",
    [truncated, flipped, without_quats, of_words, of_objects, one_array, of_other_shapes,
     lambda path: path.write_text("no Gaussians"), lambda path: path.write_bytes(b""), Path.mkdir, lambda path: None],
    ids=["truncated", "flipped", "lacking", "words", "objects", "one array", "shapes", "text", "empty", "folder",
         "missing"],
)  # fmt: skip
def test_damaged_files_are_refused_in_one_line(tmp_path: Path, write: Callable[[Path], object]) -> None:
    path = tmp_path / "a.npz"
    write(path)
    with pytest.raises(GmaeToolsError) as caught:
        Gaussians.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    old = some(seed=1)
    old.save(path)

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        some(seed=2).save(path)
    assert_equal(Gaussians.load(path), arrays(old))
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]

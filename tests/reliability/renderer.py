"""The renderer with numbers that nobody should give it.

Scenes come from hypothesis: ordinary ones, ones of extreme numbers (0, denormal, up to 1e30, negative scales,
quaternions of length zero), and ones with NaN or infinity somewhere, under all cameras and in pictures from 1 x 1 px
on. Asked of each: a picture that is finite, with coverage in [0, 1], the dense reference's wherever single precision
can tell (see `clear_pixels`), and finite gradients; or, where a number is NaN or infinite, one line that says so.

Results must not depend, in any bit, on the number of threads nor on how a batch is cut: pictures, coverage, depth,
owners, groups, and the gradients of all parameters of the Gaussians (the gradient of a background that a batch shares
is a sum over the batch, and depends on the cut to rounding). At last the renderer's tests run with numba's bounds
checks, which see every index of a kernel, those of vectors included; and nothing of what is not a kernel.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path

import hypothesis
import torch
from hypothesis import strategies as st
from torch import Tensor

from gmae_tools.camera import Camera, Splats, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import Gaussians
from gmae_tools.splatting import rasterize, rasterize_groups
from tests.reliability.flaws import require
from tests.reliability.outcome import Outcome, TimeBox

ROOT = Path(__file__).resolve().parents[2]

PART = "renderer"
SUITE = ("tests/splatting/test_splatting.py", "tests/splatting/test_simd.py")

_SIZES = ((1, 1), (1, 300), (70, 1), (16, 16), (17, 33), (2, 65), (90, 130))
_BATCH = 100  # scenes between two looks at the clock
_EPSILON = 2.0**-22  # of single precision, with what a few operations lose
_TOLERANCE = 1e-4  # of a picture, relative to the largest colour
_MINUTES_FOR_SUITE = 3  # at least; most of it is compiling


# --- scenes ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """Random Gaussians of which some numbers are changed.

    Attributes:
        seed, k: of the Gaussians before, one set of K.
        changes: name, Gaussian, channel and new value.
        camera, height, width: of the picture.
    """

    seed: int
    k: int
    changes: tuple[tuple[str, int, int, float], ...]
    camera: Camera
    height: int
    width: int

    def gaussians(self) -> Gaussians:
        """New leaves of float32 that collect gradients."""
        generator = torch.Generator().manual_seed(self.seed)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(1, self.k, *shape, generator=generator)

        quats = torch.randn(1, self.k, 4, generator=generator)
        gaussians = Gaussians(2.2 * uniform(3) - 1.1, 4 * uniform(3) ** 3, quats, uniform(3), uniform())
        for name, k, channel, value in self.changes:
            getattr(gaussians, name).view(self.k, -1)[k, channel] = value
        return gaussians.map(lambda tensor: tensor.requires_grad_())


_ZEROS = st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 1e-38, 1e-20, 1e-8])
_EXTREME = _ZEROS | st.sampled_from([1e30, -1e30, 1e20, 1e12, 1e9, -1e9, 1e6, -1e3, 50.0]) | st.floats(-9, 9, width=32)
_CHANGES = {  # number of channels, and what one may become
    "means": (3, _EXTREME),
    "scales": (3, _EXTREME),
    "quats": (4, _EXTREME),
    "colors": (3, _ZEROS | st.floats(-1e6, 1e6, width=32)),
    "opacities": (1, _ZEROS | st.sampled_from([1.0, 1 / 255, 0.999]) | st.floats(-1, 2, width=32)),
}
_NO_NUMBER = st.sampled_from([float("nan"), float("inf"), float("-inf")])


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Any scene; one in five has numbers that are none."""
    k = draw(st.integers(0, 12))
    broken = draw(st.integers(0, 4)) == 4
    changes = []
    for _ in range(draw(st.integers(0, 6)) if k else 0):
        name = draw(st.sampled_from(list(_CHANGES)))
        channels, extreme = _CHANGES[name]
        value = draw(_NO_NUMBER if broken else extreme)
        changes.append((name, draw(st.integers(0, k - 1)), draw(st.integers(0, channels - 1)), value))
    camera = Camera(
        draw(st.sampled_from(["gmae", "pinhole", "orthographic"])),
        draw(st.sampled_from([8.0, 1.5, 100.0])),
        draw(st.sampled_from([8.0, 1.0])),
        draw(st.sampled_from([0.3, 0.0])),
    )
    return Scene(draw(st.integers(0, 999)), k, tuple(changes), camera, *draw(st.sampled_from(_SIZES)))


# --- what is asked of each ---------------------------------------------------------------------------


def check_scene(scene: Scene) -> float | None:
    """Draw a scene forwards and backwards.

    Returns:
        The share of pixels that were compared with the dense reference, None for a scene that was refused, rightly.

    Raises:
        Flaw: something is not as it should be.
    """
    gaussians = scene.gaussians()
    inputs = [getattr(gaussians, field.name) for field in fields(gaussians)]
    finite = all(bool(tensor.isfinite().all()) for tensor in inputs)
    try:
        splats = project(gaussians, scene.camera, scene.height, scene.width)
        raster = rasterize(splats, scene.height, scene.width, background=torch.ones(3), owners=True, backend="cpu")
    except GmaeToolsError as error:
        require(not finite, f"refused: {error}")
        require("\n" not in str(error) and "NaN or infinite" in str(error), f"unclear: {error}")
        return None
    pictures = [raster.image, raster.alpha, raster.owner_weight]
    require(all(picture is not None and picture.isfinite().all() for picture in pictures), "the picture is not finite")
    require(raster.alpha.min() >= 0 and raster.alpha.max() <= 1 + 1e-6, "alpha is not within 0..1")
    require(raster.owner is not None and raster.owner.min() >= -1 and raster.owner.max() < scene.k, "no such owner")
    require(finite or _hidden(gaussians, splats), "NaN or infinity was drawn")
    if finite:
        weights = torch.linspace(-1, 1, raster.image.numel()).view_as(raster.image)
        loss = (raster.image * weights).sum() + (raster.alpha * weights[:, :1]).sum()
        for field, gradient in zip(fields(gaussians), torch.autograd.grad(loss, inputs), strict=True):
            require(gradient.isfinite().all(), f"gradient of {field.name} is not finite")
    return _compare(splats, raster.image, scene.height, scene.width)


def _hidden(gaussians: Gaussians, splats: Splats) -> bool:
    """Whether nothing is NaN or infinite but opacities of what cannot be seen."""
    others = [gaussians.means, gaussians.scales, gaussians.quats, gaussians.colors]
    broken = ~gaussians.opacities.isfinite()
    return all(bool(tensor.isfinite().all()) for tensor in others) and not bool(splats.opacities[broken].any())


@torch.no_grad()
def _compare(splats: Splats, image: Tensor, height: int, width: int) -> float:
    """Share of pixels that were compared with the dense reference in double precision."""
    exact = Splats(*(getattr(splats, field.name).double() for field in fields(splats)))
    background = torch.ones(3, dtype=torch.float64)
    truth = rasterize(exact, height, width, background=background, backend="dense").image
    clear = clear_pixels(exact, height, width)
    brightest = torch.cat([splats.colors.flatten().abs(), torch.ones(1)]).max()
    wrong = ((image.double() - truth).abs() > _TOLERANCE * brightest) & clear
    require(not wrong.any(), f"{int(wrong.any(1).sum())} pixels differ from the dense reference")
    return float(clear.double().mean())


def clear_pixels(splats: Splats, height: int, width: int) -> Tensor:
    """Mask `[B, 1, H, W]` of the pixels that single precision can tell, given splats in double precision.

    At the others rounding may decide: sigma is the sum of terms so large that their error matters, or is that close to
    the renderer's thresholds (sigma >= 0, alpha >= 1/255, transmittance > 1e-4). To 0 sigma is close where its terms
    cancel: all along a needle whose length is infinite for the picture, and whose conic is singular.
    """
    order = splats.depths.argsort(dim=1, stable=True)
    means, conics = (tensor.take_along_dim(order[..., None], 1) for tensor in (splats.means, splats.conics))
    opacities = splats.opacities.take_along_dim(order, 1)[:, None, None]
    x, y = torch.arange(width) + 0.5, torch.arange(height) + 0.5
    dx = x[None, None, :, None] - means[:, None, None, :, 0]  # [B, 1, W, K]
    dy = y[None, :, None, None] - means[:, None, None, :, 1]  # [B, H, 1, K]
    a, b, c = conics[:, None, None].unbind(-1)
    sigma = 0.5 * (a * dx**2 + c * dy**2) + b * dx * dy
    rounding = _EPSILON * (a.abs() * dx**2 + c.abs() * dy**2 + (b * dx * dy).abs())
    error = rounding + 1e-5
    alpha = (opacities * torch.exp(-sigma.clamp_min(0))).clamp(max=0.999)
    seen = alpha > 0.99 / 255
    maybe = opacities * torch.exp(-(sigma - error).clamp_min(0)) > 0.99 / 255
    cutoff = (opacities * 255).clamp_min(1e-30).log()
    doubt = (sigma.abs() < 2 * rounding) | ((sigma - cutoff).abs() <= error)
    doubt |= error * alpha > _TOLERANCE / 10
    after = (1 - alpha * seen * (sigma >= 0)).cumprod(-1)
    doubt |= (after / 1e-4 - 1).abs() < 0.05
    return ~(doubt & maybe).any(-1)[:, None]


def try_scenes(count: int, seed: int) -> tuple[int, str | None, float]:
    """Check `count` scenes.

    Returns:
        How many were tried, the simplest that failed, if any, and the mean share of pixels that were compared.
    """
    tried, failed = 0, ""
    shares: list[float] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck),
        report_multiple_bugs=False, print_blob=False,
    )  # fmt: skip
    @hypothesis.given(scenes())
    def check(scene: Scene) -> None:
        nonlocal tried, failed
        tried += 1
        try:
            share = check_scene(scene)
        except Exception as error:
            failed = f"{error}: {scene}"  # the last is the simplest
            raise
        if share is not None:
            shares.append(share)

    try:
        check()
    except Exception as error:
        return tried, " ".join((failed or repr(error)).split()), 0.0
    return tried, None, sum(shares) / max(1, len(shares))


# --- the same bits -----------------------------------------------------------------------------------


def draw_everything(gaussians: Gaussians, camera: Camera, height: int, width: int) -> list[Tensor]:
    """Pictures, coverage, depth, owners, groups, and the gradients of them all, each with the batch first."""
    leaves = gaussians.map(lambda tensor: tensor.detach().clone().requires_grad_())
    splats = project(leaves, camera, height, width)
    raster = rasterize(splats, height, width, background=torch.ones(3), depth=True, owners=True, backend="cpu")
    sizes = [gaussians.k // 4] * 4
    groups = rasterize_groups(splats, height, width, sizes, backend="cpu")
    assert raster.depth is not None and raster.owner is not None and raster.owner_weight is not None
    loss = raster.image.square().sum() + raster.depth.sum() + groups.images.square().sum()
    gradients = torch.autograd.grad(loss, [getattr(leaves, field.name) for field in fields(leaves)])
    pictures = [raster.image, raster.alpha, raster.depth, raster.owner, raster.owner_weight, groups.images]
    return [*pictures, groups.alphas, *gradients]


def random_gaussians(chance: random.Random) -> tuple[Gaussians, Camera, int, int]:
    """A batch large enough for several threads, a camera, and a size that is no multiple of anything."""
    batch, k = chance.randint(1, 9), chance.randint(100, 900)
    generator = torch.Generator().manual_seed(chance.getrandbits(32))

    def uniform(*shape: int) -> Tensor:
        return torch.rand(batch, k, *shape, generator=generator)

    quats = torch.randn(batch, k, 4, generator=generator)
    gaussians = Gaussians(2.2 * uniform(3) - 1.1, 4 * uniform(3) ** 3, quats, uniform(3), uniform() ** 2)
    camera = Camera(chance.choice(["gmae", "pinhole", "orthographic"]))
    return gaussians, camera, chance.randint(40, 250), chance.randint(40, 250)


def differing_bits(seed: int) -> str | None:
    """Draw one random batch with 1, 2 and 3 threads and in pieces; says what differs, if anything does."""
    chance = random.Random(seed)
    gaussians, camera, height, width = random_gaussians(chance)
    case = f"seed {seed}: B = {gaussians.batch_size}, K = {gaussians.k}, {height} x {width} px, {camera.kind}"
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = draw_everything(gaussians, camera, height, width)
        for threads in (2, 3):
            torch.set_num_threads(threads)
            if not _all_equal(expected, draw_everything(gaussians, camera, height, width)):
                return f"{threads} threads change a result ({case})"
        cuts = sorted({0, gaussians.batch_size, *(chance.randrange(gaussians.batch_size) for _ in range(2))})
        pieces = [draw_everything(gaussians[start:end], camera, height, width) for start, end in pairwise(cuts)]
        joined = [torch.cat(parts) for parts in zip(*pieces, strict=True)]
        return None if _all_equal(expected, joined) else f"cutting the batch at {cuts} changes a result ({case})"
    finally:
        torch.set_num_threads(before)


def _all_equal(expected: list[Tensor], actual: list[Tensor]) -> bool:
    return all(map(torch.equal, expected, actual))


# --- bounds ------------------------------------------------------------------------------------------


def run_suite_with_bounds_checks(seconds: float, suite: tuple[str, ...] = SUITE) -> Outcome:
    """The renderer's tests with every index of every kernel checked; kernels are compiled anew for it."""
    tried = "renderer's tests with bounds checks on"
    with tempfile.TemporaryDirectory() as cache:
        surroundings = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": cache, "OMP_NUM_THREADS": "2"}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *suite]
        process = subprocess.Popen(
            command, cwd=ROOT, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            printed, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return Outcome(PART, tried, 0, (), f"stopped after {seconds:.0f} s: give it more --minutes")
    lines = printed.strip().splitlines() or ["nothing printed"]
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    if process.returncode and not failures:
        failures = [lines[-1]]
    return Outcome(PART, tried, 1, tuple(failures), lines[-1])


# --- the part ----------------------------------------------------------------------------------------


def campaign(box: TimeBox, seed: int, data: Path | None) -> Iterator[Outcome]:
    """Scenes of any numbers, then threads and batches; where there is time, the suite with bounds checks."""
    long = box.left() > 60 * 2 * _MINUTES_FOR_SUITE
    yield _try_scenes_until(box.share(0.3 if long else 0.7), seed)
    yield _compare_bits_until(box.share(0.3 if long else 1), seed)
    if long:
        yield run_suite_with_bounds_checks(box.left())


def _try_scenes_until(box: TimeBox, seed: int) -> Outcome:
    total, failure, shares = 0, None, []
    while not failure and (not box.over() or not total):
        tried, failure, share = try_scenes(_BATCH, seed * 1_000_003 + total)
        total += tried
        shares.append(share)
    note = f"{100 * sum(shares) / len(shares):.0f} % of all pixels compared with the dense reference"
    return Outcome(PART, "scenes of ordinary, extreme and broken numbers", total, (failure,) if failure else (), note)


def _compare_bits_until(box: TimeBox, seed: int) -> Outcome:
    results: list[str | None] = []
    while not box.over() or not results:
        results.append(differing_bits(seed * 1_000_003 + len(results)))
    failures = tuple(filter(None, results))
    return Outcome(PART, "batches with 1, 2 and 3 threads and in pieces, bit by bit", len(results), failures)

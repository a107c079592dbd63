"""Refinement: Gaussians are fitted to their photograph by gradient descent through the renderer.

Predictions are blurry, and a few dozen steps make them sharp. By default depths do not change, so that the layers of
the refined Gaussians are those of the prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gmae_tools.camera import Camera, longest_axes, project
from gmae_tools.errors import GmaeToolsError
from gmae_tools.gaussians import COLUMNS, LAYOUT, Gaussians
from gmae_tools.images import resize, to_tensor
from gmae_tools.metrics.differentiable import ssim
from gmae_tools.metrics.pictures import SSIM_WINDOW
from gmae_tools.splatting import Backend, Raster, rasterize
from gmae_tools.system.precision import working_dtype

if TYPE_CHECKING:
    from gmae_tools.scene import Scene

MAX_PIXELS = 1 << 18  # larger photographs are made smaller: a few thousand Gaussians hold no finer detail
PLATEAU_STEPS, PLATEAU_GAIN = 25, 0.02  # steps and dB of the rule that ends a fit early; see `refine`

_BETAS, _EPSILON = (0.8, 0.9), 1e-12  # of Adam; the gradients have no noise, which allows short memories
_COOLDOWN = 1 / 3  # the share of the steps over which the rates fall to 0
_GROWTH, _GROWTHS = 0.3, 5  # share of the steps in which Gaussians are added, and number of times
_SPLIT = math.sqrt(0.75)  # distance of children from their parent in its standard deviations; they are half as long
_SCALE_RANGE = math.log(100)  # Gaussians grow or shrink by this at most, which keeps exp() and the conics finite

Progress = Callable[[int, float], None]  # takes the number of steps done, and the mean of the best PSNRs so far


@dataclass(frozen=True)
class Rates:
    """Step sizes of Adam, chosen by `evals/studies/refinement_rates.py`.

    Attributes:
        means: Step in x and y, in units of the mean distance sqrt(H W / K) px of the Gaussians.
        depth: Step in depth, in scene units; 0 keeps the depths. Only the sizes of footprints give depth a gradient,
            because the order has none.
        scales: Step of the logarithms of the scales.
        quats: Step of the quaternions, in units of their length.
        colors, opacities: Steps in units of the range [0, 1], to which the values are clamped.
    """

    means: float = 0.1
    depth: float = 0.0
    scales: float = 0.12
    quats: float = 0.03
    colors: float = 0.02
    opacities: float = 0.03

    def __post_init__(self) -> None:
        for name, rate in vars(self).items():
            if not 0 <= rate < math.inf:
                raise GmaeToolsError(f"rates: {name} must be a number of 0 or more")


@dataclass(frozen=True)
class RefineOptions:
    """Settings of a fit.

    Attributes:
        k: Number of Gaussians of each set in the end, at least K; None to add none. In the first steps, those Gaussians
            are split in two whose pixels (in which they have the largest weight) have the largest error.
        rates: Step sizes.
        ssim_weight: Weight of 1 - SSIM, which is added to the squared error; 0.01 is a good choice. Pictures need
            sides of at least 7 px.
        background: Grey level in [0, 1] behind the Gaussians, on which PSNR is measured.
        backend: Backend of `rasterize`.

    Raises:
        GmaeToolsError: A number is out of its range.
    """

    k: int | None = None
    rates: Rates = field(default_factory=Rates)
    ssim_weight: float = 0.0
    background: float = 1.0
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.ssim_weight < math.inf:
            raise GmaeToolsError(f"refine: ssim_weight {self.ssim_weight}: use 0 or more")
        if not 0 <= self.background <= 1:
            raise GmaeToolsError(f"refine: background {self.background} is not in [0, 1]")


DEFAULTS = RefineOptions()


@dataclass(frozen=True)
class Refinement:
    """The result of `refine`.

    Attributes:
        gaussians: The state of each set with the highest PSNR; the start if no step improved it.
        psnr_before, psnr_after: PSNR of the start and of `gaussians` in dB, float64 `[B]`.
        history: PSNR of the start and after each step, float64 `[steps taken + 1, B]`.
    """

    gaussians: Gaussians
    psnr_before: np.ndarray
    psnr_after: np.ndarray
    history: np.ndarray


def refine(
    gaussians: Gaussians,
    image: Tensor,
    camera: Camera,
    steps: int,
    options: RefineOptions = DEFAULTS,
    *,
    progress: Progress | None = None,
) -> Refinement:
    """Fit Gaussians to pictures by Adam.

    The loss is the mean squared error, expected over backgrounds that are uniform in [0, 1]^3. It has a closed form,
    (image + T/2 - x)^2 + T^2/12, where T is the light that is left for the background. No random numbers are needed, so
    the same input gives the same result.

    Step sizes stay constant until the last third of the steps, in which they fall to 0. As soon as no set has gained
    `PLATEAU_GAIN` dB within `PLATEAU_STEPS` steps, they begin to fall, and the fit ends when they are 0.

    Args:
        gaussians: Sets `[B, K]`, each of which is fitted to its own picture.
        image: RGB in [0, 1] `[B, 3, H, W]`.
        camera: Camera that renders them.
        steps: Largest number of steps; 0 only measures.
        options: Settings of the fit.
        progress: Called after each step.

    Raises:
        GmaeToolsError: Arguments do not fit together, or are not finite.
    """
    _check(gaussians, image, steps, options)
    with torch.inference_mode(False), torch.enable_grad():
        return _Fit(gaussians, image, camera, options).run(steps, progress)


def refine_scene(
    scene: Scene, steps: int, options: RefineOptions = DEFAULTS, *, progress: Progress | None = None
) -> Scene:
    """Fit the Gaussians of a scene to its photograph, which is first made smaller if it has more than `MAX_PIXELS`.

    Args:
        scene: A scene with its photograph.
        steps, options, progress: Arguments of `refine`.

    Raises:
        GmaeToolsError: The scene has no photograph, or `refine` raises an error.
    """
    if scene.photo is None:
        raise GmaeToolsError("refine: this scene has no photograph to be fitted to")
    shrink = min(1.0, math.sqrt(MAX_PIXELS / (scene.height * scene.width)))
    small = resize(scene.photo, max(1, round(scene.height * shrink)), max(1, round(scene.width * shrink)))
    found = refine(scene.gaussians, to_tensor(small), scene.camera, steps, options, progress=progress)
    return replace(scene, gaussians=found.gaussians)


class _Adam:
    """Adam (Kingma and Ba 2015) with a step size for each value. Gaussians that split take their memories along."""

    def __init__(self, rates: Tensor) -> None:
        self.rates, self.steps = rates, 0
        self.mean, self.square = torch.zeros_like(rates), torch.zeros_like(rates)

    def step(self, parameters: Tensor, gradient: Tensor, factor: float) -> None:
        """Move `parameters` in place by `factor` times the rates."""
        self.steps += 1
        fast, slow = _BETAS
        self.mean.lerp_(gradient, 1 - fast)
        self.square.lerp_(gradient.square(), 1 - slow)
        spread = (self.square / (1 - slow**self.steps)).sqrt_().add_(_EPSILON)
        parameters.addcdiv_(self.mean * self.rates, spread, value=-factor / (1 - fast**self.steps))

    def select(self, rows: Tensor, index: Tensor) -> None:
        """Keep the Gaussians `index` `[B, k]`, which may name one twice."""
        self.rates, self.mean, self.square = (x[rows, index] for x in (self.rates, self.mean, self.square))


class _Fit:
    """The state of a fit.

    `parameters` `[B, K, 14]` are the packed Gaussians, except that scales are `scales` times exp of their parameters.
    Parameters that have not moved therefore reproduce the start to the bit.
    """

    def __init__(self, start: Gaussians, image: Tensor, camera: Camera, options: RefineOptions) -> None:
        dtype = working_dtype(*vars(start).values())
        # A clone can be trained, an inference tensor cannot.
        self.start = start.map(lambda tensor: tensor.detach().to(dtype).clone())
        self.image, self.camera, self.options = image.to(self.start.means), camera, options
        self.k = options.k or start.k
        self.height, self.width = image.shape[-2:]
        self.rows = torch.arange(start.batch_size, device=start.device)[:, None]
        self.scales = self.start.scales
        self.start_parameters = replace(self.start, scales=torch.zeros_like(self.scales)).pack()
        self.parameters = self.start_parameters.clone()
        self.adam = _Adam(self._rates(options.rates))
        self._forget_best()

    def run(self, steps: int, progress: Progress | None) -> Refinement:
        growth = _growth_plan(self.start.k, self.k, steps)
        history: list[Tensor] = []
        cooldown, end, step = math.ceil(steps * _COOLDOWN), steps, 0
        while True:
            self.parameters.requires_grad_()
            raster = self._render()
            history.append(self._keep_best(raster))
            if progress and step:
                progress(step, float(self.best[-1].mean()))
            if step == end:
                break
            if step in growth:
                raster = self._grow(growth[step])
            self._step(raster, min(1.0, (end - step) / cooldown))
            step += 1
            if self._is_flat():
                end = min(end, step + cooldown)
        return self._result(torch.stack(history))

    def _rates(self, rates: Rates) -> Tensor:
        """Step sizes `[B, K, 14]`."""
        spacing = math.sqrt(self.height * self.width / self.k)
        across, down = 2 * spacing / self.width, 2 * spacing / self.height  # as a normalised length
        columns = [rates.means * across, rates.means * down, rates.depth]
        columns += [getattr(rates, name) for name, size in LAYOUT.items() if name != "means" for _ in range(size)]
        result = self.parameters.new_tensor(columns).repeat(*self.parameters.shape[:2], 1)
        result[..., COLUMNS["quats"]] *= self.start.quats.norm(dim=-1, keepdim=True)
        return result

    def _gaussians(self, parameters: Tensor) -> Gaussians:
        unpacked = Gaussians.unpack(parameters)
        return replace(unpacked, scales=self.scales * unpacked.scales.exp())

    def _render(self, owners: bool = False) -> Raster:
        splats = project(self._gaussians(self.parameters), self.camera, self.height, self.width)
        return rasterize(splats, self.height, self.width, owners=owners, backend=self.options.backend)

    def _step(self, raster: Raster, factor: float) -> None:
        left = 1 - raster.alpha
        picture = raster.image + left / 2
        loss = _mean_square(picture - self.image) + _mean_square(left) / 12
        if self.options.ssim_weight:
            loss = loss + self.options.ssim_weight * (1 - ssim(picture, self.image))
        gradient = torch.autograd.grad(loss.sum(), self.parameters)[0].nan_to_num_(0.0, 0.0, 0.0)
        with torch.no_grad():
            self.adam.step(self.parameters, gradient, factor)
            self.parameters[..., COLUMNS["scales"]].clamp_(-_SCALE_RANGE, _SCALE_RANGE)
            for name in ("colors", "opacities"):
                self.parameters[..., COLUMNS[name]].clamp_(0, 1)

    def _forget_best(self) -> None:
        self.best = [self.parameters.new_full((self.start.batch_size,), -math.inf, dtype=torch.float64)]
        self.best_parameters = self.parameters.detach().clone()

    @torch.no_grad()
    def _keep_best(self, raster: Raster) -> Tensor:
        """PSNR of each set `[B]`; remembers the parameters of the sets that have never been better."""
        picture = raster.image + (1 - raster.alpha) * self.options.background
        psnr = -10 * _mean_square(picture - self.image).double().log10()
        better = psnr > self.best[-1]
        self.best.append(torch.where(better, psnr, self.best[-1]))
        self.best_parameters = torch.where(better[:, None, None], self.parameters, self.best_parameters)
        return psnr

    def _is_flat(self) -> bool:
        """Whether no set has gained `PLATEAU_GAIN` within `PLATEAU_STEPS` steps, since Gaussians were last added."""
        if self.parameters.shape[1] < self.k or len(self.best) <= PLATEAU_STEPS + 1:
            return False
        return bool((self.best[-1] - self.best[-1 - PLATEAU_STEPS]).max() < PLATEAU_GAIN)

    def _grow(self, k: int) -> Raster:
        """Split the Gaussians with the largest errors until there are `k`, and render them."""
        with torch.no_grad():
            while (missing := k - self.parameters.shape[1]) > 0:
                self._split(self._errors().topk(min(missing, self.parameters.shape[1]), dim=1).indices)
        self._forget_best()
        self.parameters.requires_grad_()
        return self._render()

    def _errors(self) -> Tensor:
        """Squared error `[B, K]` in the pixels in which each Gaussian has the largest weight."""
        raster = self._render(owners=True)
        assert raster.owner is not None
        error = (raster.image + (1 - raster.alpha) / 2 - self.image).square().sum(1).flatten(1)
        owner = raster.owner.flatten(1).long()
        return error.new_zeros(self.parameters.shape[:2]).scatter_add_(1, owner.clamp_min(0), error * (owner >= 0))

    def _split(self, chosen: Tensor) -> None:
        """Replace each `chosen` Gaussian `[B, n]` by two, side by side along its longest axis."""
        count, rows = self.parameters.shape[1], self.rows
        longest, moves = longest_axes(self._gaussians(self.parameters), self.camera, self.height, self.width)
        children = torch.arange(count, count + chosen.shape[1], device=chosen.device).expand_as(chosen)
        index = torch.cat([torch.arange(count, device=chosen.device).expand(len(rows), count), chosen], 1)
        self.parameters, self.scales = self.parameters.detach()[rows, index], self.scales[rows, index]
        self.adam.select(rows, index)
        for place, side in ((chosen, -1), (children, 1)):
            self.parameters[rows, place, :2] += side * _SPLIT * moves[rows, chosen]
            self.scales[rows, place, longest[rows, chosen]] *= math.sqrt(1 - _SPLIT**2)  # keeps their joint variance

    def _result(self, history: Tensor) -> Refinement:
        # Sets that densification made worse return to the start, filled up to K with invisible Gaussians.
        before, count = history[0], self.start.k
        worse = (self.best[-1] < before)[:, None, None]
        index = torch.arange(self.k, device=worse.device) % count
        filled = self.start_parameters[:, index]
        filled[:, count:, -1] = 0
        self.scales = torch.where(worse, self.start.scales[:, index], self.scales)
        found = self._gaussians(torch.where(worse, filled, self.best_parameters)).detach()
        after = torch.maximum(self.best[-1], before)
        return Refinement(found, *(psnr.cpu().numpy() for psnr in (before, after, history)))


def _mean_square(pictures: Tensor) -> Tensor:
    """Mean square of each picture `[B]`."""
    return pictures.square().mean((1, 2, 3))


def _growth_plan(start: int, end: int, steps: int) -> dict[int, int]:
    """The number of Gaussians from certain steps on. It grows by equal factors in the first part of the fit."""
    if start == end:
        return {}
    times = min(_GROWTHS, math.ceil(steps * _GROWTH))
    sizes = [round(start * (end / start) ** ((turn + 1) / times)) for turn in range(times)]
    return {int(turn * steps * _GROWTH / times): size for turn, size in enumerate(sizes)}


def _check(gaussians: Gaussians, image: Tensor, steps: int, options: RefineOptions) -> None:
    count, k = gaussians.k, options.k
    if image.ndim != 4 or image.shape[:2] != (gaussians.batch_size, 3) or not image.numel() or not count:
        sets = f"{gaussians.batch_size} sets of {count} Gaussians"
        raise GmaeToolsError(f"refine: pictures of shape {list(image.shape)} for {sets}; use [B, 3, H, W]")
    if not image.is_floating_point() or not ((image >= 0) & (image <= 1)).all():
        raise GmaeToolsError("refine: the pictures must be floating point in [0, 1], without NaN")
    if steps < 0:
        raise GmaeToolsError(f"refine: {steps} steps; use 0 or more")
    if k is not None and (k < count or (k > count and not steps)):
        raise GmaeToolsError(f"refine: cannot go from {count} to {k} Gaussians in {steps} steps; it only adds some")
    if options.ssim_weight and min(image.shape[-2:]) < SSIM_WINDOW:
        raise GmaeToolsError(f"refine: ssim_weight {options.ssim_weight}: use 0 below {SSIM_WINDOW} px")

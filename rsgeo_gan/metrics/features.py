"""Features that distances between sets of images compare: a fixed random network, for any bands, without weights.

Nothing is downloaded, so a distance is named after its features, such as `random-conv-v1-seed0-4band`, and is
comparable with distances of the same name and digest only; it is never an FID.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["FeatureBackend", "RandomConv"]

_WIDTHS = [16, 32, 64, 64]
_CHANNELS = sum(_WIDTHS)
_LEVELS = ("s1", "s2", "s4", "s8")
_FLAT = 1e-6
"""Deviation below which a feature does not vary."""
_LIMIT = 2.0
"""Deviations that a description approaches but does not pass, so that a few odd tiles do not decide a distance."""


class FeatureBackend(Protocol):
    """What a distance needs of a feature network.

    Attributes:
        name: Says which features these are; distances carry it.
        in_bands: Bands of the images it takes.
        digest: Hash of weights and fit; only distances of equal name and digest are comparable.
    """

    name: str
    in_bands: int

    @property
    def digest(self) -> str: ...  # noqa: D102

    def describe(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return one vector per image, shape (B, D), NaN where an image has too few valid pixels."""


class RandomConv(nn.Module):
    """VGG-like network of random orthogonal filters: two 3 x 3 convolutions per level, ReLU, average pooling, no bias.

    Random features keep local structure at every scale and know no objects. `fit` brings the maps of every channel to
    mean 0 and deviation 1 over real tiles, and finds the `dims` directions in which real tiles, described by every
    channel's mean and deviation, differ most; along each their variance becomes 1. Without it the brightness of a
    tile drowns its texture. Weights are fixed; gradients pass through to the images.

    Args:
        in_bands: Bands of the images.
        dims: Length of an image's description; few, so that some ten real and fake images can be compared.
        seed: Of the weights.

    Attributes:
        name: Version, seed, bands and dims.
    """

    mean: Tensor
    deviation: Tensor
    centre: Tensor
    axes: Tensor

    def __init__(self, in_bands: int, dims: int = 16, seed: int = 0) -> None:
        super().__init__()
        if in_bands < 1 or not 1 <= dims <= 2 * _CHANNELS:
            raise ValueError(
                f"RandomConv: expected in_bands >= 1 and 1 <= dims <= {2 * _CHANNELS}, got {in_bands} and {dims}"
            )
        self.in_bands = in_bands
        self.dims = dims
        self.name = f"random-conv-v1-seed{seed}-{in_bands}band-{dims}d"
        draw = torch.Generator().manual_seed(seed)
        self.levels = nn.ModuleList()
        channels = in_bands
        for width in _WIDTHS:
            layers: list[nn.Module] = []
            for wide in (channels, width):
                conv = nn.Conv2d(wide, width, 3, padding=1, padding_mode="reflect", bias=False)
                nn.init.orthogonal_(conv.weight, 2**0.5, generator=draw)
                layers += [conv, nn.ReLU()]
            self.levels.append(nn.Sequential(*layers))
            channels = width
        self.requires_grad_(False)
        for name, shape in (
            ("mean", (_CHANNELS,)),
            ("deviation", (_CHANNELS,)),
            ("centre", (2 * _CHANNELS,)),
            ("axes", (2 * _CHANNELS, dims)),
        ):
            self.register_buffer(name, torch.zeros(shape))

    @property
    def digest(self) -> str:
        """Return a hash of weights and fit; only distances of equal name and digest are comparable."""
        state = hashlib.sha256()
        for value in self.state_dict().values():
            state.update(value.detach().cpu().contiguous().numpy().tobytes())
        return state.hexdigest()[:12]

    @torch.no_grad()
    def fit(self, tiles: Iterable[Tensor | tuple[Tensor, Tensor]]) -> RandomConv:
        """Standardise on real tiles of the size that will be compared; some hundred, several times `dims` at least.

        Args:
            tiles: Batches of images, shape (B, C, H, W), model domain, or of images and masks (B, 1, H, W).

        Returns:
            This backend.

        Raises:
            ValueError: If there are not more usable tiles than `dims`.
        """
        batches = [(batch, None) if isinstance(batch, Tensor) else batch for batch in tiles]
        found = [self._pooled(*self._maps(images, mask)).double().cpu() for images, mask in batches]
        pooled = torch.cat(found) if found else torch.empty(0, 2 * _CHANNELS)
        pooled = pooled[torch.isfinite(pooled).all(dim=1)]
        if len(pooled) <= self.dims:
            raise ValueError(
                f"RandomConv.fit: expected more than {self.dims} tiles with a wholly valid neighbourhood, got "
                f"{len(pooled)}; give more real tiles or lower dims"
            )
        means, deviations = pooled[:, :_CHANNELS], pooled[:, _CHANNELS:]
        mean = means.mean(dim=0)
        deviation = ((deviations.square() + means.square()).mean(dim=0) - mean.square()).clamp_min(0).sqrt()
        centre, spread = pooled.mean(dim=0), pooled.std(dim=0)
        # A channel that is the same on all real tiles keeps its own scale.
        deviation, spread = (torch.where(v > _FLAT, v, 1.0) for v in (deviation, spread))
        _, strength, axes = torch.linalg.svd((pooled - centre) / spread, full_matrices=False)
        strength = strength[: self.dims].clamp_min(_FLAT) / (len(pooled) - 1) ** 0.5
        axes = axes[: self.dims].T / strength / spread[:, None]
        for own, value in ((self.mean, mean), (self.deviation, deviation), (self.centre, centre), (self.axes, axes)):
            own.copy_(value)
        return self

    def forward(self, images: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Compute standardised feature maps.

        Args:
            images: Shape (B, C, H, W), model domain [-1, 1], H and W at least 16.
            mask: Validity, shape (B, 1, H, W); what lies under 0 is taken as 0.

        Returns:
            By level `s1`, `s2`, `s4`, `s8`: shape (B, c, H // s, W // s).

        Raises:
            ValueError: If the bands or the size are wrong, or `fit` was not called.
        """
        self._check_fitted()
        maps = self._maps(images, mask)[0]
        mean, deviation = (torch.split(v[:, None, None], _WIDTHS) for v in (self.mean, self.deviation))
        return {level: (x - m) / d for level, x, m, d in zip(_LEVELS, maps, mean, deviation, strict=True)}

    def describe(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return where each image lies among the real tiles: in deviations of theirs along `dims` directions, up to 2.

        Made of every channel's mean and deviation over the image at every level; the deviations tell texture, such
        as speckle, apart from its average.

        Args:
            images: As in `forward`.
            mask: Cells count whose receptive field is wholly valid.

        Returns:
            Shape (B, dims), float32; NaN where a level has no such cell.

        Raises:
            ValueError: As `forward`.
        """
        self._check_fitted()
        place = (self._pooled(*self._maps(images, mask)) - self.centre) @ self.axes
        return _LIMIT * torch.tanh(place / _LIMIT)

    def _check_fitted(self) -> None:
        if not self.axes.any():
            raise ValueError("RandomConv: not standardised yet; call fit with real tiles first")

    @staticmethod
    def _pooled(maps: list[Tensor], valid: list[Tensor]) -> Tensor:
        """Mean, then deviation of every channel over valid cells, (B, 2 C); NaN where there is none."""
        means, deviations = [], []
        for x, v in zip(maps, valid, strict=True):
            share = v / v.sum(dim=(2, 3), keepdim=True)
            mean = (x * share).sum(dim=(2, 3), keepdim=True)
            means.append(mean[..., 0, 0])
            deviations.append(((x - mean).square() * share).sum(dim=(2, 3)).clamp_min(_FLAT**2).sqrt())
        return torch.cat([*means, *deviations], dim=1)

    def _maps(self, images: Tensor, mask: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        """Raw features by level, and which cells saw valid pixels only."""
        if images.ndim != 4 or images.shape[1] != self.in_bands or min(images.shape[-2:]) < 16:
            raise ValueError(
                f"RandomConv: expected (B, {self.in_bands}, H, W) with H, W >= 16, got {tuple(images.shape)}; "
                "make a backend for the bands of the images"
            )
        x = images.float()
        valid = torch.ones_like(x[:, :1])
        if mask is not None:
            valid = (mask > 0).to(x).expand_as(valid)
            x = torch.where(valid > 0, x, x.new_zeros(()))
        hole = 1 - valid
        maps, seen = [], []
        for k, level in enumerate(self.levels):
            if k:
                x, hole = F.avg_pool2d(x, 2), F.max_pool2d(hole, 2)
            x, hole = level(x), F.max_pool2d(hole, 5, 1, 2)
            maps.append(x)
            seen.append(1 - hole)
        return maps, seen

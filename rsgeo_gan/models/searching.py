"""Compares an image with references of the same place, and brings what lies there to where it is like the image.

Reference: Zhang et al., 2019, arXiv:1903.00834 (SRNTT), section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.models.features import FeatureBackend
from rsgeo_gan.models.matching import PATCH, Match, match, swap
from rsgeo_gan.models.resolver import zoom_steps
from rsgeo_gan.models.sampling import FILL_PX, UP_PX, coarsen, enlarge
from rsgeo_gan.optics import reach_px

__all__ = ["ReferenceSearch", "spread"]

_STRIDES = {"s1": 1, "s2": 2, "s4": 4}
_FLAT = 1e-4
_ROUGHEST = 3.0
"""Most contrast that a reference may have at full resolution, in that of the image; noise, averaged, hides far more."""
_FAINT = 1e-3
"""Root mean square of features, in standard deviations, below which a patch shows nothing that could be compared."""


class ReferenceSearch(nn.Module):
    """What a network needs to look up places of an image in references.

    Images are compared as features of their common bands at the resolution of the image read: the image enlarged, the
    references made as coarse and enlarged alike, and their mean around each place is left out, so that smooth places,
    which all look alike, say nothing.

    Args:
        features: Frozen feature network for as many bands as `common` has pairs.
        bands: For every band of the image made the band of the image read that shows the same.
        scale: Pixels of the image made along one of the image read.
        common: Pairs of a band of the image made and a band of the references that show the same, counted from 0.
        window_px: Largest distance of a match along rows and columns, coarse pixels; None for a search of the whole
            reference.
        mtf: Contrast at the coarse Nyquist frequency of the optics by which references are made coarse; plain means
            when None.
    """

    def __init__(
        self,
        features: FeatureBackend,
        bands: Sequence[int],
        scale: int,
        common: Sequence[tuple[int, int]],
        window_px: int | None,
        mtf: float | None,
    ) -> None:
        super().__init__()
        self.bands = tuple(bands)
        self.scale = scale
        self.common = list(common)
        self.window_px = window_px
        self.mtf = mtf
        self.features = features
        self.levels = _levels(scale)

    @property
    def channels_of_levels(self) -> list[int]:
        """Channels of the features at each level."""
        return [self.features.taps[_tap_of(self.scale // cells)[0]].channels for cells in self.levels]

    @property
    def search_radius_px(self) -> int | None:
        """Half of what a place and the features put there depend on, in coarse pixels; None where it has no bound."""
        if self.window_px is None:
            return None
        seen = -(-self.features.taps[_tap_of(self.scale)[0]].radius_px // self.scale)
        blurred = 0 if self.mtf is None else reach_px(self.scale, self.mtf)
        # An overlapping patch, the window, the patch there, its surroundings, and what its features look at.
        return 1 + self.window_px + 2 + seen + FILL_PX + UP_PX + blurred

    @torch.no_grad()
    def radiometry(
        self, low: Tensor, reference: Tensor, mask: Tensor | None = None, mask_reference: Tensor | None = None
    ) -> Tensor:
        """Measure by which gain and bias each common band of a reference gets the mean and deviation of the image's.

        Both are compared on the coarse grid, where both are valid. The gain is smaller where it would give the
        reference itself more than three times the image's deviation, as it does to noise.

        Args:
            low: See `transfer`, as the rest.
            reference: References.
            mask: Validity of the image.
            mask_reference: Validity of the references.

        Returns:
            Shape (B, R, number of common bands, 2), gain and bias; 1 and 0 where nothing can be measured.
        """
        self.check_reference(low, reference)
        sharp, valid = self._common_of(reference, mask_reference)
        coarse, both = self._coarse(sharp, valid)
        batch, count = reference.shape[:2]
        if mask is not None:
            both = both * (mask > 0).float().repeat_interleave(count, dim=0)
            low = torch.where(mask > 0, low, low.new_zeros(()))
        wanted = self._common_low(low).repeat_interleave(count, dim=0)
        (mean, wide), (own, scatter) = (_deviation(image, both) for image in (wanted, coarse))
        scatter = scatter.maximum(_deviation(sharp, valid)[1] / _ROUGHEST)
        gain = torch.where((scatter > _FLAT) & (wide > _FLAT), wide / scatter.clamp_min(_FLAT), 1.0)
        bias = torch.where(both.flatten(2).any(dim=2), mean - gain * own, 0.0)
        return torch.stack([gain, bias], dim=-1).view(batch, count, len(self.common), 2)

    def textures(self, image: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Return the features of an image at the levels of `Transfer.maps`, by which textures are compared.

        Args:
            image: Shape (B, C', s · h, s · w), model domain; gradients pass through.
            mask: Validity, shape (B, 1, s · h, s · w).

        Returns:
            By level.
        """
        return self._at_levels(image[:, [mine for mine, _ in self.common]], mask)

    def clean(self, mask: Tensor) -> dict[str, Tensor]:
        """Tell by level which cells of `textures` saw valid pixels only, (B, 1, H, W) to (B, 1, h, w)."""
        taps = {cells: _tap_of(self.scale // cells) for cells in self.levels}
        return {
            f"x{cells}": -_pooled(-self.features.seen(mask, tap), pooled, largest=True)
            for cells, (tap, pooled) in taps.items()
        }

    def trusted(self, gate: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Weigh `textures` by level: by the gate of a transfer, and by 0 where a cell saw an invalid pixel.

        Args:
            gate: Of the transfer, shape (B, 1, h, w).
            mask: Validity of the image made, shape (B, 1, s · h, s · w).
        """
        return {level: spread(gate, clean) * clean for level, clean in self.clean(mask).items()}

    def check_reference(self, low: Tensor, reference: Tensor) -> None:
        """See that references fit the image.

        Raises:
            ValueError: If they have too few bands or another size, or the image is smaller than a patch.
        """
        bands = max(other for _, other in self.common) + 1
        size = tuple(length * self.scale for length in low.shape[-2:])
        if reference.ndim != 5 or reference.shape[2] < bands or tuple(reference.shape[-2:]) != size:
            raise ValueError(
                f"{type(self).__name__}: expected references (B, R, {bands} or more, {size[0]}, {size[1]}) for an "
                f"image of {tuple(low.shape)}, got {tuple(reference.shape)}; warp them onto the finer grid"
            )
        if min(low.shape[-2:]) < 3:
            raise ValueError(
                f"{type(self).__name__}: expected an image of 3 x 3 pixels or more, got {tuple(low.shape)}"
            )

    def _common_low(self, low: Tensor) -> Tensor:
        return low[:, [self.bands[mine] for mine, _ in self.common]].float()

    def _common_of(self, reference: Tensor, mask_reference: Tensor | None) -> tuple[Tensor, Tensor]:
        """Common bands of all references, (B R, bands, H, W), 0 where invalid, and their validity, (B R, 1, H, W)."""
        sharp = reference[:, :, [other for _, other in self.common]].float().flatten(0, 1)
        if mask_reference is None:
            return sharp, torch.ones_like(sharp[:, :1])
        valid = (mask_reference > 0).float().flatten(0, 1)[:, None]
        return torch.where(valid > 0, sharp, sharp.new_zeros(())), valid

    def _coarse(self, sharp: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """References on the coarse grid, from valid pixels, and which of its pixels are wholly valid."""
        share = coarsen(valid, self.scale, self.mtf)
        coarse = coarsen(sharp * valid, self.scale, self.mtf) / share.clamp_min(1e-6)
        return coarse, -F.max_pool2d(-valid, self.scale)

    def matched(
        self,
        low: Tensor,
        reference: Tensor,
        mask: Tensor | None,
        mask_reference: Tensor | None,
        radiometry: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Bring references to the radiometry of the image.

        Returns:
            Their common bands, shape (B R, bands, H, W), 0 where invalid, and their validity, (B R, 1, H, W).
        """
        if radiometry is None:
            radiometry = self.radiometry(low, reference, mask, mask_reference)
        sharp, valid = self._common_of(reference, mask_reference)
        levels = radiometry.to(sharp).expand(*reference.shape[:2], -1, -1).reshape(-1, len(self.common), 2, 1, 1)
        return (sharp * levels[:, :, 0] + levels[:, :, 1]) * valid, valid

    def search(self, low: Tensor, sharp: Tensor, mask: Tensor | None, valid: Tensor) -> Match:
        """Match an image with references that are made as coarse as it is; `sharp` and `valid` are from `matched`."""
        tap, pooled = _tap_of(self.scale)
        count = len(sharp) // len(low)
        coarse, whole = self._coarse(sharp, valid)
        parts = (enlarge(self._common_low(low), self.scale, mask), enlarge(coarse, self.scale, whole))
        # What lies in their place in the sharp references must have seen nothing invalid.
        radius = -(-self.features.taps[tap].radius_px // self.scale)
        clean = 1 - F.max_pool2d(1 - whole, 2 * radius + 1, 1, radius)
        clean = clean.view(len(low), count, *low.shape[-2:])
        with torch.autocast(low.device.type, enabled=False):
            query, keys = (_detrended(_pooled(self.features(part, (tap,))[tap], pooled)) for part in parts)
            folded = keys.view(len(low), count, *keys.shape[1:])
            least = _FAINT * (PATCH**2 * query.shape[1]) ** 0.5
            return match(query, folded, clean, mask, self.window_px, least=least)

    def _at_levels(self, image: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        taps = {cells: _tap_of(self.scale // cells) for cells in self.levels}
        if mask is not None:
            image = torch.where(mask > 0, image, image.new_zeros(()))
        found = self.features(image.float(), {tap for tap, _ in taps.values()})
        return {f"x{cells}": _pooled(found[tap], pooled) for cells, (tap, pooled) in taps.items()}

    def swapped(self, sharp: Tensor, valid: Tensor, place: Tensor) -> dict[str, Tensor]:
        """Return by level the features of the references, put where a match says."""
        with torch.autocast(sharp.device.type, enabled=False):
            levels, batch = self._at_levels(sharp, valid), len(place)
        folded = {name: found.view(batch, -1, *found.shape[1:]) for name, found in levels.items()}
        return {f"x{cells}": swap(folded[f"x{cells}"], place, cells) for cells in self.levels}


def _deviation(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every band over valid pixels, each (B, bands); 0 where there is none."""
    share, flat = mask.flatten(2), image.flatten(2)
    total = share.sum(dim=2).clamp_min(1)
    mean = (flat * share).sum(dim=2) / total
    return mean, (((flat - mean[..., None]).square() * share).sum(dim=2) / total).sqrt()


def spread(trust: Tensor, like: Tensor) -> Tensor:
    """Bring a map on the coarse grid to the size of another."""
    if trust.shape[-2:] == like.shape[-2:]:
        return trust
    return F.interpolate(trust, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _levels(scale: int) -> list[int]:
    """Cells along a coarse pixel at each level, from 1 to the scale."""
    cells = [1]
    for step in zoom_steps(scale):
        cells.append(cells[-1] * step)
    return cells


def _tap_of(stride: int) -> tuple[str, int]:
    """Tap of the largest stride that divides one, and by how much it is then averaged."""
    tap = next(tap for tap, own in reversed(_STRIDES.items()) if stride % own == 0)
    return tap, stride // _STRIDES[tap]


def _pooled(x: Tensor, side: int, *, largest: bool = False) -> Tensor:
    if side == 1:
        return x
    return F.max_pool2d(x, side) if largest else F.avg_pool2d(x, side)


def _detrended(x: Tensor) -> Tensor:
    """Take from features their mean around each place: all that is smooth would otherwise be alike, sea and field."""
    return x - F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), PATCH, 1)

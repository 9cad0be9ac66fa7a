"""Super-resolution that takes texture from references: where they are similar, and as much as they are.

References: Zhang et al., 2019, arXiv:1903.00834 (SRNTT). The search is held to a window around the same place on the
ground, and what is taken counts by a gate that rises with similarity, so that a useless reference leaves the image as
one without a reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.models.constraint import Form, constrain, constraint_radius_px
from rsgeo_gan.models.features import FeatureBackend
from rsgeo_gan.models.matching import PATCH, Match, match, swap
from rsgeo_gan.models.sampling import FILL_PX, UP_PX, coarsen, enlarge
from rsgeo_gan.models.superres import Conv, PixelShuffle, ResidualConvs, SRResNet, reach, zoom_steps
from rsgeo_gan.optics import MTF, reach_px

__all__ = ["TextureTransfer", "Transfer"]

_STRIDES = {"s1": 1, "s2": 2, "s4": 4}
_UNRELATED = 0.95
"""Quantile of the similarity to unrelated references at which the gate begins to open."""
_HIGHEST_FLOOR = 0.95
_LEGACY = (-20.0, 0.65)
"""Slope and shift of the released weight, which falls with similarity."""
_FLAT = 1e-4
_FAINT = 1e-3
"""Root mean square of features, in standard deviations, below which a patch shows nothing that could be compared."""


@dataclass(frozen=True)
class Transfer:
    """What came of a transfer.

    Attributes:
        image: Shape (B, C', s · h, s · w).
        similarity: Cosine with the best place of the references, shape (B, 1, h, w), -1 to 1; -1 where there is none.
        gate: Share of what is taken over, shape (B, 1, h, w), 0 to 1.
        match: Reference, and rows and columns to its place, coarse pixels, shape (B, 3, h, w), int64; reference -1
            where there is none.
        maps: Features put in place by level, `x1` on the coarse grid and so on to `x<scale>`, before the gate.
    """

    image: Tensor
    similarity: Tensor
    gate: Tensor
    match: Tensor
    maps: dict[str, Tensor] = field(default_factory=dict)


class _Inject(nn.Module):
    """Adds to features what residual blocks make of them beside those of a reference."""

    def __init__(self, width: int, taken: int, blocks: int) -> None:
        super().__init__()
        self.enter = Conv(width + taken, width)
        self.body = nn.Sequential(*(ResidualConvs(width) for _ in range(blocks)), Conv(width, width))

    def forward(self, x: Tensor, taken: Tensor) -> Tensor:
        """Add to (B, width, H, W) what (B, taken, H, W) gives."""
        out: Tensor = x + self.body(F.relu(self.enter(torch.cat([x, taken], dim=1))))
        return out


class TextureTransfer(nn.Module):
    """Content from the image, texture from references of the same place, another date, or another instrument.

    Images are compared as features of their common bands at the resolution of the image read: the image enlarged, the
    references made as coarse and enlarged alike, and their mean around each place is left out, so that smooth places,
    which all look alike, say nothing. What lies in their place in the sharp references is put in stead, at
    several resolutions, and a network makes details of it, which are added to what the content network makes alone.
    Features that are put in, and details that come out, are each multiplied by the root of the gate
    g = (s - s0) / (1 - s0), limited to 0 and 1, of the similarity s: where it is shut, the image is that of the content
    network, exactly. s0 is what unrelated references reach, see `calibrate`.

    Args:
        content: Trained network of the same bands and scale.
        features: Frozen feature network for as many bands as `common` has pairs.
        common: Pairs of a band of the image made and a band of the references that show the same, counted from 0; the
            first bands of both, as many as the features take, when None.
        window_px: Largest distance of a match along rows and columns, coarse pixels; None for a search of the whole
            reference, whose products cannot be made window by window.
        floor: s0, which then stays; measured by `calibrate` when None, 0 before.
        gate: Let similarity decide. False trusts every reference alike, wherever it shows something.
        frozen_content: Do not train the content network.
        legacy_sign: The gate as released, sigmoid(0.65 - 20 s), which falls with similarity; for comparison.
        blocks: Residual blocks on the coarse grid, half as many at each finer one; as many as the content network's
            when None.
        form: Constraint imposed on the image, see `rsgeo_gan.models.constrain`; none when None.
        mtf: Contrast at the coarse Nyquist frequency of the optics by which references are made coarse; plain means
            when None.

    Raises:
        ValueError: If bands do not fit, or a number is out of range.
    """

    stride = 1
    floor: Tensor
    calibrated_on: Tensor

    def __init__(
        self,
        content: SRResNet,
        features: FeatureBackend,
        common: Sequence[Sequence[int]] | None = None,
        window_px: int | None = 8,
        floor: float | None = None,
        gate: bool = True,
        frozen_content: bool = True,
        legacy_sign: bool = False,
        blocks: int | None = None,
        form: Form | None = None,
        mtf: float | None = None,
    ) -> None:
        super().__init__()
        pairs = [[k, k] for k in range(features.in_channels)] if common is None else [list(pair) for pair in common]
        self._check(content, features, pairs, window_px, floor)
        self.in_channels, self.out_channels, self.scale = content.in_channels, content.out_channels, content.scale
        self.common = [(pair[0], pair[1]) for pair in pairs]
        self.window_px = window_px
        self.given_floor = floor
        self.gated = gate
        self.legacy_sign = legacy_sign
        self.form = form
        self.mtf = mtf
        self.frozen_content = frozen_content
        self.content = content.requires_grad_(not frozen_content)
        self.features = features
        self.register_buffer("floor", torch.tensor(0.0 if floor is None else float(floor)))
        self.register_buffer("calibrated_on", torch.zeros((), dtype=torch.int64))
        self.levels = _levels(self.scale)
        self.depth = content.blocks if blocks is None else blocks
        width = content.width
        taps = [_tap_of(self.scale // cells)[0] for cells in self.levels]
        self.inject = nn.ModuleList(
            _Inject(width, features.taps[tap].channels, self._blocks_at(k)) for k, tap in enumerate(taps)
        )
        self.grow = nn.ModuleList(PixelShuffle(width, step) for step in zoom_steps(self.scale))
        self.last = Conv(width, max(1, width // 2))
        self.head = Conv(max(1, width // 2), self.out_channels, 1, gain=0.0)

    @staticmethod
    def _check(
        content: SRResNet, features: FeatureBackend, pairs: list[list[int]], window: int | None, floor: float | None
    ) -> None:
        if len(pairs) != features.in_channels or not pairs:
            raise ValueError(
                f"TextureTransfer: {len(pairs)} pairs of common bands, but features of {features.in_channels} bands; "
                "set in_channels of the features to the number of pairs"
            )
        if any(len(pair) != 2 or not 0 <= pair[0] < content.out_channels or pair[1] < 0 for pair in pairs):
            raise ValueError(
                f"TextureTransfer: expected pairs of a band made, below {content.out_channels}, and a band of the "
                f"references, got {pairs}"
            )
        if (window is not None and window < 0) or (floor is not None and not 0 <= floor < 1):
            raise ValueError(f"TextureTransfer: expected window_px >= 0 and 0 <= floor < 1, got {window} and {floor}")

    def _blocks_at(self, level: int) -> int:
        return max(1, self.depth // 2**level)

    @property
    def bands(self) -> tuple[int, ...]:
        """For every output band the input band whose interpolation it corrects."""
        return self.content.bands

    @property
    def calibrated(self) -> bool:
        """Tell whether the floor is known."""
        return self.given_floor is not None or bool(self.calibrated_on > 0)

    @property
    def receptive_radius_px(self) -> int | None:
        """Radius of what an output pixel depends on, in pixels of the image read; None where it has no bound."""
        own = 0 if self.form is None else constraint_radius_px(self.form, self.scale, self.mtf or MTF)
        alone = self.content.receptive_radius_px
        if self.window_px is None or own is None or alone is None:
            return None
        seen = -(-self.features.taps[self._key_tap()[0]].radius_px // self.scale)
        blurred = 0 if self.mtf is None else reach_px(self.scale, self.mtf)
        # An overlapping patch, the window, the patch there, its surroundings, and what its features look at.
        matched = 1 + self.window_px + 2 + seen + FILL_PX + UP_PX + blurred
        made: list[tuple[int, int]] = []
        for level, cells in enumerate(self.levels):
            more = 1 if level + 1 < len(self.levels) else 2
            made.append((cells, 2 + 2 * self._blocks_at(level) + more))
        return max(alone, max(matched, self.content.content_radius_px) + reach(made[::-1])) + own

    def _key_tap(self) -> tuple[str, int]:
        return _tap_of(self.scale)

    def enlarged(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return what details are added to, shape (B, C', s · h, s · w), float32."""
        return self.content.enlarged(low, mask)

    def forward(
        self,
        low: Tensor,
        reference: Tensor,
        mask: Tensor | None = None,
        mask_reference: Tensor | None = None,
        radiometry: Tensor | None = None,
    ) -> Tensor:
        """Make the finer image, see `transfer`."""
        return self.transfer(low, reference, mask, mask_reference, radiometry).image

    def transfer(
        self,
        low: Tensor,
        reference: Tensor,
        mask: Tensor | None = None,
        mask_reference: Tensor | None = None,
        radiometry: Tensor | None = None,
    ) -> Transfer:
        """Make the finer image, and say what the references gave to it.

        Args:
            low: Image, shape (B, C, h, w), model domain, h and w at least 3.
            reference: References on the finer grid, shape (B, R, Cr, s · h, s · w), their own model domain.
            mask: Validity of the image, shape (B, 1, h, w); everything is valid when None.
            mask_reference: Validity of the references, shape (B, R, s · h, s · w).
            radiometry: Gain and bias of the references, see `radiometry`; measured on this image when None.

        Returns:
            Image, similarity, gate, match and swapped features.

        Raises:
            ValueError: If shapes do not fit.
        """
        self._check_reference(low, reference)
        with torch.no_grad() if self.frozen_content else nullcontext():
            content = self.content.forward_features(low, mask)
            alone = self.content.forward_head(content, low, mask)
        with torch.no_grad(), torch.autocast(low.device.type, enabled=False):
            sharp, valid = self._matched(low, reference, mask, mask_reference, radiometry)
            found = self._search(low, sharp, mask, valid)
            maps = self._swapped(sharp, valid, found.place)
            similarity, place = _edged(found.similarity), _edged(found.place)
            if mask is not None:
                similarity = torch.where(mask > 0, similarity, -1.0)
                place = torch.where(mask > 0, place, place.new_tensor([-1, 0, 0]).view(1, 3, 1, 1))
            gate = self.gate_of(similarity)
        x, trust = content, gate.sqrt()
        for level, cells in enumerate(self.levels):
            taken = maps[f"x{cells}"]
            x = self.inject[level](x, taken * _spread(trust, taken))
            if level < len(self.grow):
                x = self.grow[level](x)
        details = self.head(F.relu(self.last(x)))
        image = alone.float() + details.float() * _spread(trust, details)
        if self.form is not None:
            image = constrain(image, low[:, list(self.bands)], self.scale, self.form, mask, mtf=self.mtf or MTF)
        return Transfer(image, similarity, gate, place, maps)

    def gate_of(self, similarity: Tensor) -> Tensor:
        """Return how far the gate is open, 0 to 1; always shut where there is no reference, which is said by -1."""
        there = similarity > -1
        if not self.gated:
            return there.float()
        if self.legacy_sign:
            slope, shift = _LEGACY
            return torch.sigmoid(slope * similarity + shift) * there
        return ((similarity - self.floor) / (1 - self.floor)).clamp(0, 1) * there

    @torch.no_grad()
    def radiometry(
        self, low: Tensor, reference: Tensor, mask: Tensor | None = None, mask_reference: Tensor | None = None
    ) -> Tensor:
        """Measure by which gain and bias each common band of a reference gets the mean and deviation of the image's.

        Both are compared on the coarse grid, where both are valid.

        Args:
            low: See `transfer`, as the rest.
            reference: References.
            mask: Validity of the image.
            mask_reference: Validity of the references.

        Returns:
            Shape (B, R, number of common bands, 2), gain and bias; 1 and 0 where nothing can be measured.
        """
        self._check_reference(low, reference)
        sharp, valid = self._common_of(reference, mask_reference)
        coarse, both = self._coarse(sharp, valid)
        batch, count = reference.shape[:2]
        if mask is not None:
            both = both * (mask > 0).float().repeat_interleave(count, dim=0)
            low = torch.where(mask > 0, low, low.new_zeros(()))
        wanted = self._common_low(low).repeat_interleave(count, dim=0)
        share = both.flatten(2)
        total = share.sum(dim=2).clamp_min(1)
        moments = []
        for image in (wanted, coarse):
            flat = image.flatten(2)
            mean = (flat * share).sum(dim=2) / total
            spread = ((flat - mean[..., None]).square() * share).sum(dim=2) / total
            moments.append((mean, spread.sqrt()))
        (mean, spread), (own, scatter) = moments
        gain = torch.where((scatter > _FLAT) & (spread > _FLAT), spread / scatter.clamp_min(_FLAT), 1.0)
        bias = torch.where(share.sum(dim=2) > 0, mean - gain * own, 0.0)
        return torch.stack([gain, bias], dim=-1).view(batch, count, len(self.common), 2)

    @torch.no_grad()
    def calibrate(
        self, low: Tensor, reference: Tensor, mask: Tensor | None = None, mask_reference: Tensor | None = None
    ) -> None:
        """Set the floor of the gate to what unrelated references reach: the 95 % quantile of their similarity.

        A floor that was given when the network was made stays. Standardise the features before.

        Args:
            low: Images, see `transfer`, as the rest.
            reference: References of other places.
            mask: Validity of the images.
            mask_reference: Validity of the references.
        """
        if self.given_floor is not None:
            return
        sharp, valid = self._matched(low, reference, mask, mask_reference, None)
        found = self._search(low, sharp, mask, valid)
        seen = found.similarity[found.place[:, :1] >= 0]
        if not len(seen):
            return
        # A quantile of so many values at most as torch sorts at once.
        seen = seen[:: len(seen) // 2**22 + 1]
        self.floor.copy_(seen.quantile(_UNRELATED).clamp(0, _HIGHEST_FLOOR))
        self.calibrated_on += 1

    def textures(self, image: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """Return the features of an image at the levels of `Transfer.maps`, by which textures are compared.

        Args:
            image: Shape (B, C', s · h, s · w), model domain; gradients pass through.
            mask: Validity, shape (B, 1, s · h, s · w).

        Returns:
            By level.
        """
        return self._at_levels(image[:, [mine for mine, _ in self.common]], mask)

    def _check_reference(self, low: Tensor, reference: Tensor) -> None:
        bands = max(other for _, other in self.common) + 1
        size = tuple(length * self.scale for length in low.shape[-2:])
        if reference.ndim != 5 or reference.shape[2] < bands or tuple(reference.shape[-2:]) != size:
            raise ValueError(
                f"TextureTransfer: expected references (B, R, {bands} or more, {size[0]}, {size[1]}) for an image of "
                f"{tuple(low.shape)}, got {tuple(reference.shape)}; warp them onto the finer grid"
            )
        if min(low.shape[-2:]) < 3:
            raise ValueError(f"TextureTransfer: expected an image of 3 x 3 pixels or more, got {tuple(low.shape)}")

    def _common_low(self, low: Tensor) -> Tensor:
        return low[:, [self.content.bands[mine] for mine, _ in self.common]].float()

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

    def _matched(
        self,
        low: Tensor,
        reference: Tensor,
        mask: Tensor | None,
        mask_reference: Tensor | None,
        radiometry: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Common bands of all references in the radiometry of the image, and their validity."""
        if radiometry is None:
            radiometry = self.radiometry(low, reference, mask, mask_reference)
        sharp, valid = self._common_of(reference, mask_reference)
        levels = radiometry.to(sharp).expand(*reference.shape[:2], -1, -1).reshape(-1, len(self.common), 2, 1, 1)
        return (sharp * levels[:, :, 0] + levels[:, :, 1]) * valid, valid

    def _search(self, low: Tensor, sharp: Tensor, mask: Tensor | None, valid: Tensor) -> Match:
        """Match the image with references that were made as coarse as it is."""
        tap, pooled = self._key_tap()
        count = len(sharp) // len(low)
        coarse, whole = self._coarse(sharp, valid)
        parts = (enlarge(self._common_low(low), self.scale, mask), enlarge(coarse, self.scale, whole))
        query, keys = (_detrended(_pooled(self.features(part, (tap,))[tap], pooled)) for part in parts)
        # What lies in their place in the sharp references must have seen nothing invalid.
        radius = -(-self.features.taps[tap].radius_px // self.scale)
        clean = 1 - F.max_pool2d(1 - whole, 2 * radius + 1, 1, radius)
        folded = keys.view(len(low), count, *keys.shape[1:])
        clean = clean.view(len(low), count, *low.shape[-2:])
        least = _FAINT * (PATCH**2 * query.shape[1]) ** 0.5
        return match(query, folded, clean, mask, self.window_px, least=least)

    def _at_levels(self, image: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        taps = {cells: _tap_of(self.scale // cells) for cells in self.levels}
        if mask is not None:
            image = torch.where(mask > 0, image, image.new_zeros(()))
        found = self.features(image.float(), {tap for tap, _ in taps.values()})
        return {f"x{cells}": _pooled(found[tap], pooled) for cells, (tap, pooled) in taps.items()}

    def _swapped(self, sharp: Tensor, valid: Tensor, place: Tensor) -> dict[str, Tensor]:
        levels, batch = self._at_levels(sharp, valid), len(place)
        folded = {name: found.view(batch, -1, *found.shape[1:]) for name, found in levels.items()}
        return {f"x{cells}": swap(folded[f"x{cells}"], place, cells) for cells in self.levels}


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


def _pooled(x: Tensor, side: int) -> Tensor:
    return x if side == 1 else F.avg_pool2d(x, side)


def _detrended(x: Tensor) -> Tensor:
    """Take from features their mean around each place: all that is smooth would otherwise be alike, sea and field."""
    return x - F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), PATCH, 1)


def _edged(inner: Tensor) -> Tensor:
    """Give the outermost cells what their neighbours have."""
    padded = F.pad(inner.float(), (1, 1, 1, 1), mode="replicate")
    return padded.to(inner.dtype)


def _spread(trust: Tensor, like: Tensor) -> Tensor:
    """Bring a map on the coarse grid to the size of another."""
    if trust.shape[-2:] == like.shape[-2:]:
        return trust
    return F.interpolate(trust, size=like.shape[-2:], mode="bilinear", align_corners=False)

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
from rsgeo_gan.models.resolver import Conv, PixelShuffle, ResidualConvs, reach, zoom_steps
from rsgeo_gan.models.searching import ReferenceSearch, spread
from rsgeo_gan.models.superres import SRResNet

__all__ = ["TextureTransfer", "Transfer"]

_UNRELATED = 0.95
"""Quantile of the similarity to unrelated references at which the gate begins to open."""
_HIGHEST_FLOOR = 0.95
_LEGACY = (-20.0, 0.65)
"""Slope and shift of the released weight, which falls with similarity."""
_LEAK = 0.2
"""Slope below 0: features of textures have long tails, and one large step would shut plain ReLUs for good."""
_QUIET = 0.1
"""Gain of what is added to the content at first, for the same reason."""


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
        self.body = nn.Sequential(*(ResidualConvs(width) for _ in range(blocks)), Conv(width, width, gain=_QUIET))

    def forward(self, x: Tensor, taken: Tensor) -> Tensor:
        """Add to (B, width, H, W) what (B, taken, H, W) gives."""
        out: Tensor = x + self.body(F.leaky_relu(self.enter(torch.cat([x, taken], dim=1)), _LEAK))
        return out


class TextureTransfer(ReferenceSearch):
    """Content from the image, texture from references of the same place, another date, or another instrument.

    What lies in the sharp references where they are most like each place of the image is put in its stead, at several
    resolutions, and a network makes details of it, which are added to what the content network makes alone. Features
    that are put in, and details that come out, are each multiplied by the root of the gate g = (s - s0) / (1 - s0),
    limited to 0 and 1, of the similarity s: where it is shut, the image is that of the content network, exactly. s0 is
    what unrelated references reach, see `calibrate`.

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
        pairs = [[k, k] for k in range(features.in_channels)] if common is None else [list(pair) for pair in common]
        self._check(content, features, pairs, window_px, floor)
        super().__init__(features, content.bands, content.scale, [(pair[0], pair[1]) for pair in pairs], window_px, mtf)
        self.in_channels, self.out_channels = content.in_channels, content.out_channels
        self.given_floor = floor
        self.gated = gate
        self.legacy_sign = legacy_sign
        self.form = form
        self.frozen_content = frozen_content
        self.content = content.requires_grad_(not frozen_content)
        self.register_buffer("floor", torch.tensor(0.0 if floor is None else float(floor)))
        self.register_buffer("calibrated_on", torch.zeros((), dtype=torch.int64))
        self.depth = content.blocks if blocks is None else blocks
        width = content.width
        self.inject = nn.ModuleList(
            _Inject(width, channels, self._blocks_at(k)) for k, channels in enumerate(self.channels_of_levels)
        )
        self.grow = nn.ModuleList(PixelShuffle(width, step, _LEAK) for step in zoom_steps(self.scale))
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

    def train(self, mode: bool = True) -> TextureTransfer:
        """Switch to training or back; a content network that does not learn keeps its statistics too."""
        super().train(mode)
        if not any(parameter.requires_grad for parameter in self.content.parameters()):
            self.content.eval()
        return self

    @property
    def calibrated(self) -> bool:
        """Tell whether the floor is known."""
        return self.given_floor is not None or bool(self.calibrated_on > 0)

    @property
    def receptive_radius_px(self) -> int | None:
        """Radius of what an output pixel depends on, in pixels of the image read; None where it has no bound."""
        own = 0 if self.form is None else constraint_radius_px(self.form, self.scale, self.mtf)
        alone, matched = self.content.receptive_radius_px, self.search_radius_px
        if matched is None or own is None or alone is None:
            return None
        made: list[tuple[int, int]] = []
        for level, cells in enumerate(self.levels):
            more = 1 if level + 1 < len(self.levels) else 2
            made.append((cells, 2 + 2 * self._blocks_at(level) + more))
        return max(alone, max(matched, self.content.content_radius_px) + reach(made[::-1])) + own

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
        self.check_reference(low, reference)
        with torch.no_grad() if self.frozen_content else nullcontext():
            content = self.content.forward_features(low, mask)
            alone = self.content.forward_head(content, low, mask)
        with torch.no_grad():
            sharp, valid = self.matched(low, reference, mask, mask_reference, radiometry)
            found = self.search(low, sharp, mask, valid)
            maps = self.swapped(sharp, valid, found.place)
            similarity, place = _edged(found.similarity), _edged(found.place)
            if mask is not None:
                similarity = torch.where(mask > 0, similarity, -1.0)
                place = torch.where(mask > 0, place, place.new_tensor([-1, 0, 0]).view(1, 3, 1, 1))
            gate = self.gate_of(similarity)
        x, trust = content, gate.sqrt()
        for level, cells in enumerate(self.levels):
            taken = maps[f"x{cells}"]
            x = self.inject[level](x, taken * spread(trust, taken))
            if level < len(self.grow):
                x = self.grow[level](x)
        details = self.head(F.leaky_relu(self.last(x), _LEAK))
        image = alone.float() + details.float() * spread(trust, details)
        return Transfer(self._constrained(image, low, mask), similarity, gate, place, maps)

    def alone(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """Make the image that there is without a reference: that of the content network, under the constraint."""
        return self._constrained(self.content(low, mask=mask), low, mask)

    def _constrained(self, image: Tensor, low: Tensor, mask: Tensor | None) -> Tensor:
        if self.form is None:
            return image
        return constrain(image, low[:, list(self.bands)], self.scale, self.form, mask, self.mtf)

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
        sharp, valid = self.matched(low, reference, mask, mask_reference)
        found = self.search(low, sharp, mask, valid)
        seen = found.similarity[found.place[:, :1] >= 0]
        if not len(seen):
            return
        # A quantile of so many values at most as torch sorts at once.
        seen = seen[:: len(seen) // 2**22 + 1]
        self.floor.copy_(seen.quantile(_UNRELATED).clamp(0, _HIGHEST_FLOOR))
        self.calibrated_on += 1


def _edged(inner: Tensor) -> Tensor:
    """Give the outermost cells what their neighbours have."""
    padded = F.pad(inner.float(), (1, 1, 1, 1), mode="replicate")
    return padded.to(inner.dtype)

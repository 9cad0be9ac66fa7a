"""Scores of a trained rung on the piece it has not seen, with the references that a rung may be given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.metrics import (
    RandomConv,
    consistency,
    correctness,
    ergas,
    feature_distance,
    log_spectral_distance,
    psnr,
    spectral_angle,
    ssim,
    synthesis,
)
from sharp.data import TILE_PX, Part, tiles
from sharp.systems import Scaled, enlarged, feeds, transfers

REFERENCES = ("truth", "other", "shifted", "another place", "noise", "none")
"""From the best there could be to nothing at all."""
SHIFT_PX = 2
"""Of a shifted reference, coarse pixels, along both axes."""
_PATCH_PX = 32
STRIPS = 2

Given = tuple[Tensor, Tensor]
"""Reference (1, Cr, s h, s w) and its validity (1, 1, s h, s w)."""


class Judge:
    """Holds what all rungs of a scene are compared with.

    Args:
        data: Scene in the model domain.
    """

    def __init__(self, data: Scaled) -> None:
        self.data = data
        bands = data.train.truth.shape[1]
        self.backend = RandomConv(bands, dims=4).fit([patches(data.train)])
        sides = sorted(data.test.truth.shape[-2:])
        self.side = min(TILE_PX, sides[0] // 4 * 4, sides[1] // 8 * 4)
        self.corners = tiles(data.test, self.side)
        truth = data.scene.test.truth
        values = truth[:, :, data.test.mask[0, 0] > 0].flatten()[:: max(1, truth.numel() // 1_000_000)]
        self.range = float(values.quantile(0.999) - values.quantile(0.001))
        scale = data.scene.scale
        self.low = self._tiles(data.scene.test.low, scale)
        self.truth = self._tiles(truth)
        self.truth_model = self._tiles(data.test.truth)

    def _tiles(self, image: Tensor, step: int = 1) -> Tensor:
        side = self.side // step
        cut = [image[0, :, y // step : y // step + side, x // step : x // step + side] for y, x in self.corners]
        return torch.stack(cut)

    @torch.no_grad()
    def made(
        self, network: nn.Module, given: Given | None = None, takes: bool = False
    ) -> tuple[Tensor, dict[str, float]]:
        """Sharpen the whole piece, model domain; of a texture transfer also the means of similarity and gate."""
        test = self.data.test
        if not takes:
            image: Tensor = network(test.low, mask=test.mask_low)
            return image, {}
        reference, seen = self._nothing() if given is None else given
        found = network.transfer(test.low, reference[:, None], test.mask_low, seen)  # type: ignore[operator]
        whole = test.mask_low > 0
        return found.image, {
            "similarity": float(found.similarity[whole].mean()),
            "gate": float(found.gate[whole].mean()),
        }

    def _nothing(self) -> Given:
        test, bands = self.data.test, self.data.train.reference.shape[1]  # type: ignore[union-attr]
        return torch.zeros(1, bands, *test.truth.shape[-2:]), torch.zeros_like(test.mask)

    def given(self, kind: str) -> Given | None:
        """Return a reference of `REFERENCES`, in the model domain, or None where the scene has none of it."""
        test, scene = self.data.test, self.data.scene
        if kind == "none":
            return self._nothing()
        if test.reference is None or test.mask_reference is None:
            return None
        reference, seen = test.reference, test.mask_reference
        height, width = reference.shape[-2:]
        step = SHIFT_PX * scene.scale
        if kind == "other":
            return reference, seen
        if kind == "truth":
            reference = reference.clone()
            for band, at in scene.common:
                reference[:, at] = test.truth[:, band]
            return reference, test.mask
        if kind == "shifted":
            return tuple(torch.roll(v, (step, step), (2, 3)) for v in (reference, seen))  # type: ignore[return-value]
        if kind == "another place":
            turned = [torch.roll(v, (height // 2, width // 2), (2, 3)).flip(2) for v in (reference, seen)]
            return turned[0], turned[1]
        draw = torch.Generator().manual_seed(0)
        mean, spread = reference.mean(dim=(2, 3), keepdim=True), reference.std(dim=(2, 3), keepdim=True)
        return mean + spread * torch.randn(reference.shape, generator=draw), torch.ones_like(seen)

    def __call__(self, name: str, network: nn.Module) -> dict[str, dict[str, float]]:
        """Score a rung, once without references or once with each."""
        if not transfers(name):
            return {"": self.scores(*self.made(network))}
        if feeds(name):
            return {"": self.scores(*self.made(network, enlarged(self.data.test, self.data.scene), takes=True))}
        found = {}
        for kind in REFERENCES:
            given = self.given(kind)
            if given is not None:
                found[kind] = self.scores(*self.made(network, given, takes=True))
        return found

    def scores(self, image: Tensor, more: dict[str, float]) -> dict[str, float]:
        """Score an image of the whole piece, tile by tile, in physical units where they matter."""
        model = self._tiles(image)
        physical = self.data.physical(model)
        scale = self.data.scene.scale
        positive = physical.clamp_min(1e-4)
        kept = consistency(self.low, physical)
        detail = correctness(self.low, positive, self.truth)
        found: dict[str, Any] = {
            "psnr_db": psnr(physical, self.truth, self.range),
            "ssim": ssim(physical, self.truth, self.range),
            "sam_deg": spectral_angle(positive, self.truth) if model.shape[1] > 1 else torch.full((1,), torch.nan),
            "ergas": ergas(physical, self.truth, scale),
            "fdist": feature_distance(model, self.truth_model, self.backend),
            "spectrum_db": log_spectral_distance(model, self.truth_model),
            "area_error": (F.avg_pool2d(physical, scale) - self.low).abs().mean(),
            "reflectance": kept.reflectance,
            "spatial_px": kept.spatial,
            "synthesis": synthesis(self.low, positive, self.truth),
            "hallucination": detail.hallucination,
            "omission": detail.omission,
            "improvement": detail.improvement,
        }
        return {key: float(value.nanmean()) for key, value in found.items()} | more

    def pictures(self, name: str, network: nn.Module) -> dict[str, Tensor]:
        """Return tiles to look at, physical units, red first: input (nearest), made, truth, and the reference."""
        scene = self.data.scene
        given = self.given("other") if transfers(name) else None
        given = enlarged(self.data.test, scene) if feeds(name) else given
        image, _ = self.made(network, given, takes=transfers(name))
        spread = torch.stack([truth.std() for truth in self.truth])
        chosen = spread.argsort(descending=True)[:STRIPS]
        shown = list(scene.shown)
        near = self.low.repeat_interleave(scene.scale, 2).repeat_interleave(scene.scale, 3)
        found = {"input": near, "made": self.data.physical(self._tiles(image)), "truth": self.truth}
        found = {key: value[chosen][:, shown].clone() for key, value in found.items()}
        if scene.test.reference is not None:
            reference = self._tiles(scene.test.reference)[chosen]
            found["reference"] = (reference[:, shown] if reference.shape[1] > max(shown) else reference[:, :1]).clone()
        return found


def patches(part: Part, side: int = _PATCH_PX) -> Tensor:
    """Patches of the truth beside one another, those that are wholly valid."""
    image, seen = (v.unfold(2, side, side).unfold(3, side, side) for v in (part.truth, part.mask))
    image, seen = (v.permute(0, 2, 3, 1, 4, 5).flatten(0, 2) for v in (image, seen))
    return image[seen.flatten(1).mean(dim=1) >= 0.999]

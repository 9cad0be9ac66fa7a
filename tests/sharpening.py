"""Tiny networks of super-resolution with bounded reach, and checkpoints of them, for tests of products."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.sensors import Scaler
from tests.generation import EO_BANDS, EO_SCALER

SCALE = 2
REFERENCE_SCALER = Scaler("aerial", "display", ("red", "green"), (0.0, 0.0), (255.0, 255.0))
HERE = "tests.sharpening"


class Toy(nn.Module):
    """Nearest neighbours plus what two convolutions say; wider than its cores are in tests."""

    stride = 1

    def __init__(self, in_channels: int = 3, out_channels: int = 3, scale: int = SCALE) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.scale = in_channels, out_channels, scale
        self.body = nn.Conv2d(in_channels, 4, 5, padding=2)
        self.head = nn.Conv2d(4, out_channels * scale**2, 3, padding=1)

    @property
    def receptive_radius_px(self) -> int:
        return 3

    def forward(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        low = low if mask is None else low * mask
        detail = F.pixel_shuffle(self.head(torch.tanh(self.body(low))), self.scale)
        return F.interpolate(low, scale_factor=self.scale, mode="nearest") + detail


@dataclass
class Found:
    image: Tensor
    similarity: Tensor
    gate: Tensor


class ToyTransfer(Toy):
    """Adds the detail of the first reference where there is one; its radiometry is matched to the scene's."""

    def __init__(self, in_channels: int = 3, out_channels: int = 3, scale: int = SCALE, gate: float = 1.0) -> None:
        super().__init__(in_channels, out_channels, scale)
        self.open = gate

    def radiometry(self, low: Tensor, reference: Tensor, mask=None, mask_reference=None) -> Tensor:
        weight = torch.ones_like(reference[:, :, 0]) if mask_reference is None else mask_reference
        return low.mean() - (reference.mean(dim=2) * weight).sum() / weight.sum().clamp_min(1)

    def forward(self, low, reference, mask=None, mask_reference=None, radiometry=None):
        return self.transfer(low, reference, mask, mask_reference, radiometry).image

    def transfer(self, low, reference, mask=None, mask_reference=None, radiometry=None) -> Found:
        bias = self.radiometry(low, reference, mask, mask_reference) if radiometry is None else radiometry
        seen = mask_reference[:, :1]
        gate = self.open * F.avg_pool2d(seen, self.scale)
        detail = (reference[:, 0].mean(dim=1, keepdim=True) + bias) * seen
        return Found(super().forward(low, mask) + self.open * detail, gate * 2 - 1, gate)


def checkpoint(path: Path, network: nn.Module | None = None, *, spec: tuple[str, dict] | None = None, **facts) -> Path:
    """Write what `rsgeo-gan fit` writes for a super-resolution; toys get random weights, others say what they are."""
    network = network or Toy()
    if spec is None:
        draw = torch.Generator().manual_seed(0)
        for parameter in network.parameters():
            nn.init.normal_(parameter, 0, 0.1, generator=draw)
        given = {"in_channels": network.in_channels, "out_channels": network.out_channels, "scale": network.scale}
        if isinstance(network, ToyTransfer):
            given["gate"] = network.open
        spec = f"{HERE}.{type(network).__name__}", given
    known = {
        "source": EO_SCALER.to_dict(),
        "target": EO_SCALER.to_dict(),
        "scale": network.scale,
        "references": 0,
        "gsd": 10.0,
        "source_sensor": "sentinel2-l2a",
        "target_sensor": "sentinel2-l2a",
    }
    if isinstance(network, ToyTransfer):
        known |= {"reference": REFERENCE_SCALER.to_dict(), "references": 1, "common": [[2, 0], [1, 1]]}
    content = {
        "state_dict": {f"generator.{key}": value for key, value in network.state_dict().items()},
        "hyper_parameters": {"generator": {"class_path": spec[0], "init_args": spec[1]}},
        "rsgeo_gan": {
            "format": 1,
            "task": "rsgeo_gan.tasks.SuperResolution",
            "version": "0.1.0",
            "facts": known | facts,
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


__all__ = ["EO_BANDS", "EO_SCALER", "HERE", "REFERENCE_SCALER", "SCALE", "Toy", "ToyTransfer", "checkpoint"]

"""Frozen networks that describe an image for matching, texture and perceptual terms.

A backend maps an image in the model domain to maps at strides 1, 2 and 4 and a deeper one, `s1`, `s2`, `s4` and
`deep`, standardised per channel. Its weights never change; gradients pass through to the image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.models.blocks import pad_edges

__all__ = ["FeatureBackend", "RandomFeatures", "Tap", "VGGFeatures"]

_EPS = 1e-6
_FIRST_PX = 64
"""Side of the noise that standardises a backend before it has seen data."""


class Tap(NamedTuple):
    """One output of a backend.

    Attributes:
        channels: Its channels.
        stride: Image pixels per cell; cell i covers pixels i * stride and following.
        radius_px: A cell depends on no pixel farther from its own, per axis.
    """

    channels: int
    stride: int
    radius_px: int


class FeatureBackend(nn.Module):
    """Convolutions with reflected edges, ReLUs and poolings, tapped on the way, standardised per channel.

    Args:
        in_channels: Bands of the image.
        layers: Convolutions in order as (channels, tap or ""), or "pool".
        maximum: Pool by the maximum instead of the mean.
        bias: Convolutions have a bias.
    """

    taps: dict[str, Tap]

    def __init__(
        self, in_channels: int, layers: Sequence[tuple[int, str] | str], *, maximum: bool = False, bias: bool = False
    ) -> None:
        super().__init__()
        self.in_channels, self.maximum = in_channels, maximum
        self.convs = nn.ModuleList()
        self.taps = {}
        self._plan: list[str] = []
        channels, stride, radius = in_channels, 1, 0
        for layer in layers:
            if isinstance(layer, str):
                radius, stride = radius + stride, 2 * stride
                self._plan.append("pool")
                continue
            self.convs.append(nn.Conv2d(channels, layer[0], 3, bias=bias))
            channels, radius = layer[0], radius + stride
            self._plan.append(layer[1])
            if layer[1]:
                self.taps[layer[1]] = Tap(channels, stride, radius)
                self.register_buffer(f"mean_{layer[1]}", torch.zeros(channels))
                self.register_buffer(f"std_{layer[1]}", torch.ones(channels))
        self.register_buffer("fits", torch.zeros((), dtype=torch.int64))
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> FeatureBackend:
        """Stay in evaluation mode."""
        return super().train(False)

    @property
    def fitted(self) -> bool:
        """Tell whether the statistics are those of real images."""
        return bool(self.get_buffer("fits") > 0)

    @property
    def digest(self) -> str:
        """Short hash of all weights and statistics: names what was measured with this backend."""
        found = hashlib.sha256(repr((type(self).__name__, self._plan, self.maximum)).encode())
        for name, value in sorted(self.state_dict().items()):
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]

    def forward(self, image: Tensor, taps: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Describe an image.

        Args:
            image: Shape (B, C, H, W), model domain, finite; fill gaps first.
            taps: Names of the maps wanted; all by default.

        Returns:
            Standardised maps by tap, shape (B, channels, H // stride, W // stride).

        Raises:
            ValueError: If the band count is wrong or a tap unknown.
        """
        found = self._raw(image, self.taps if taps is None else taps)
        return {tap: (x - self._statistic("mean", tap)) / self._statistic("std", tap) for tap, x in found.items()}

    @torch.no_grad()
    def fit(self, images: Tensor | Iterable[Tensor], mask: Tensor | None = None) -> None:
        """Measure mean and deviation of every channel on real images, and keep them.

        A tap of which no cell counts keeps what it has, and the network is `fitted` only when all have been measured.

        Args:
            images: Batches (B, C, H, W), model domain, or one batch.
            mask: Validity of one batch, shape (B, 1, H, W); a cell counts where its own pixels are all valid.
        """
        sums: dict[str, list[Tensor]] = {}
        for batch in [images] if isinstance(images, Tensor) else images:
            filled = batch if mask is None else torch.where(mask > 0, batch, batch.new_zeros(()))
            with torch.autocast(filled.device.type, enabled=False):
                raw = self._raw(filled.float(), self.taps)
            for tap, x in raw.items():
                x = x.double()
                valid = x.new_ones(len(x), 1, *x.shape[-2:])
                if mask is not None:
                    valid = 1 - F.max_pool2d(1 - (mask > 0).to(x), self.taps[tap].stride)
                fresh = [valid.sum(), (x * valid).sum((0, 2, 3)), (x.square() * valid).sum((0, 2, 3))]
                sums[tap] = [
                    a + b for a, b in zip(sums.get(tap, [torch.zeros_like(f) for f in fresh]), fresh, strict=True)
                ]
        measured = set()
        for tap, (count, total, squares) in sums.items():
            if count < 2:
                continue
            measured.add(tap)
            mean = total / count
            spread = (squares / count - mean.square()).clamp_min(0).sqrt()
            # A channel that never varies says nothing; dividing by its spread would let rounding speak.
            spread = torch.where(spread > 1e-3 * spread.max(), spread, spread.max().clamp_min(_EPS))
            self.get_buffer(f"mean_{tap}").copy_(mean)
            self.get_buffer(f"std_{tap}").copy_(spread)
        if measured == set(self.taps):
            self.get_buffer("fits").fill_(1)

    def seen(self, mask: Tensor, tap: str) -> Tensor:
        """Tell which cells of a tap depend on valid pixels only, (B, 1, H, W) to (B, 1, h, w)."""
        stride, radius = self.taps[tap].stride, self.taps[tap].radius_px
        hole = F.max_pool2d(1 - (mask > 0).float(), 2 * radius + 1, 1, radius)
        return 1 - F.max_pool2d(hole, stride)

    def _statistic(self, kind: str, tap: str) -> Tensor:
        return self.get_buffer(f"{kind}_{tap}")[:, None, None]

    def _prepared(self, image: Tensor) -> Tensor:
        """Bring the model domain to what the convolutions expect."""
        return image

    def _raw(self, image: Tensor, taps: Iterable[str]) -> dict[str, Tensor]:
        wanted = set(taps)
        if image.ndim != 4 or image.shape[1] != self.in_channels:
            raise ValueError(f"{type(self).__name__}: expected (B, {self.in_channels}, H, W), got {tuple(image.shape)}")
        if wanted - set(self.taps):
            raise ValueError(
                f"{type(self).__name__}: unknown taps {sorted(wanted - set(self.taps))}; choose from {list(self.taps)}"
            )
        found: dict[str, Tensor] = {}
        x, convs = self._prepared(image), iter(self.convs)
        for step in self._plan:
            if found.keys() == wanted:
                break
            if step == "pool":
                x = F.max_pool2d(x, 2) if self.maximum else F.avg_pool2d(x, 2)
                continue
            x = F.relu(next(convs)(pad_edges(x, 1, 1, 1, 1)))
            if step in wanted:
                found[step] = x
        return found


class RandomFeatures(FeatureBackend):
    """Random convolutions, the same for a seed on every machine: any bands, no weights to fetch.

    They keep local structure, which matching and texture need, and know nothing of objects. Until `fit` they are
    standardised on noise whose amplitude falls with frequency, as that of landscapes does.

    Args:
        in_channels: Bands of the image.
        width: Channels of `s1`; twice and four times as many at `s2` and `s4`, eight times at `deep` (stride 8).
        seed: Of the weights.
        orthogonal: Draw orthogonal filters, which describe more with as many channels; otherwise Gaussian ones.
    """

    def __init__(self, in_channels: int, width: int = 16, seed: int = 0, orthogonal: bool = True) -> None:
        plan: list[tuple[int, str] | str] = [(width, "s1"), (width, ""), "pool", (2 * width, "s2"), (2 * width, "")]
        plan += ["pool", (4 * width, "s4"), (4 * width, ""), "pool", (8 * width, "deep")]
        super().__init__(in_channels, plan)
        draw = torch.Generator().manual_seed(seed)
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            weight = torch.randn(conv.weight.shape, generator=draw, dtype=torch.float64)
            fan = weight[0].numel()
            if orthogonal:
                weight = _orthogonal(weight.flatten(1)).reshape(weight.shape) * fan**0.5
            with torch.no_grad():
                conv.weight.copy_(weight * (2 / fan) ** 0.5)
        self.fit(_landscape(4, in_channels, _FIRST_PX, draw))
        self.get_buffer("fits").zero_()


class VGGFeatures(FeatureBackend):
    """VGG19 with weights of a local file, tapped as the reference of texture transfer does.

    Args:
        path: State dict of torchvision's VGG19, with or without classifier.
        bands: Which bands of the image are red, green and blue.
        in_channels: Bands of the image; by default as many as `bands` need.

    Raises:
        ValueError: If the file holds other weights.
    """

    _CHANNELS = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, 256, "pool", 512, 512, 512, 512, "pool", 512)
    _NAMES: ClassVar[dict[int, str]] = {0: "s1", 2: "s2", 4: "s4", 12: "deep"}

    def __init__(self, path: str | Path, bands: Sequence[int] = (0, 1, 2), in_channels: int | None = None) -> None:
        plan: list[tuple[int, str] | str] = []
        for layer in self._CHANNELS:
            number = sum(not isinstance(known, str) for known in plan)
            plan.append(layer if isinstance(layer, str) else (layer, self._NAMES.get(number, "")))
        super().__init__(3, plan, maximum=True, bias=True)
        self.bands = tuple(bands)
        self.in_channels = max(bands) + 1 if in_channels is None else in_channels
        state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        at = 0
        for conv, layer in zip(self.convs, (n for n in range(len(plan)) if plan[n] != "pool"), strict=True):
            # In torchvision's list a ReLU follows every convolution.
            at = 2 * layer - sum(known == "pool" for known in plan[:layer])
            for name in ("weight", "bias"):
                key = f"features.{at}.{name}"
                if key not in state or state[key].shape != getattr(conv, name).shape:
                    raise ValueError(f"VGGFeatures: {path} has no {key} of VGG19; give torchvision's vgg19 state dict")
                with torch.no_grad():
                    getattr(conv, name).copy_(state[key])
        self.register_buffer("centre", torch.tensor([0.485, 0.456, 0.406]), persistent=False)
        self.register_buffer("spread", torch.tensor([0.229, 0.224, 0.225]), persistent=False)

    def _prepared(self, image: Tensor) -> Tensor:
        rgb = (image[:, list(self.bands)] + 1) / 2
        return (rgb - self.get_buffer("centre")[:, None, None]) / self.get_buffer("spread")[:, None, None]


def _orthogonal(weight: Tensor) -> Tensor:
    """Make rows orthonormal, in groups where there are more rows than columns."""
    groups = []
    for rows in torch.split(weight, weight.shape[1]):
        q, r = torch.linalg.qr(rows.T)
        groups.append((q * r.diagonal().sign()).T)
    return torch.cat(groups)


def _landscape(count: int, bands: int, size: int, draw: torch.Generator) -> Tensor:
    """Noise with amplitude falling as one over frequency, of unit deviation over two: bands half alike."""
    noise = torch.randn(count, bands + 1, size, size, generator=draw)
    distance = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)).clamp_min(1 / size)
    smooth = torch.fft.irfft2(torch.fft.rfft2(noise) / distance, s=(size, size))
    smooth = smooth / smooth.std(dim=(2, 3), keepdim=True)
    return 0.35 * (smooth[:, 1:] + smooth[:, :1])

"""Frozen feature networks that judge texture: random filters for any bands, or a trained VGG19 from a local file.

Features are standardised channel by channel, or one strong channel would decide every comparison. Weights are never
downloaded.

Reference: Simonyan and Zisserman, 2015, arXiv:1409.1556 (VGG); its layers, names and strides are those of the taps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.errors import CheckpointError

__all__ = ["TAPS", "FeatureNetwork", "RandomFeatures", "VGGFeatures"]

TAPS = {"s1": 1, "s2": 2, "s4": 4, "deep": 8}
"""Taps of `RandomFeatures` with their strides in pixels; `deep` of `VGGFeatures` has 16."""

_FLAT = 1e-6
"""Deviation below which a channel does not vary."""
_VGG = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 1))
"""Channels and convolutions of each level up to relu5_1."""
_RGB_MEAN = (0.485, 0.456, 0.406)
_RGB_DEVIATION = (0.229, 0.224, 0.225)


class FeatureNetwork(nn.Module):
    """Levels of 3 x 3 convolutions and ReLU with pooling between them, frozen; gradients pass through to the images.

    A tap follows the first convolution of its level. Cell i of a tap of stride t covers pixels t i to t i + t - 1.

    Args:
        in_channels: Bands of the images.
        sizes: Channels and number of convolutions of each level.
        bias: Let convolutions have biases.
        pool: Halves a map.
        taps: Tap of each level; None for a level without.
    """

    mean: Tensor
    deviation: Tensor
    fits: Tensor

    def __init__(
        self,
        in_channels: int,
        sizes: Sequence[tuple[int, int]],
        *,
        bias: bool,
        pool: Callable[[Tensor, int], Tensor],
        taps: Sequence[str | None],
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self._pool = pool
        self._levels = dict(zip(taps, range(len(sizes)), strict=True))
        self._levels.pop(None, None)
        self._inner = in_channels
        self.levels = nn.ModuleList()
        channels = in_channels
        for width, count in sizes:
            self.levels.append(
                nn.ModuleList(
                    nn.Conv2d(channels if k == 0 else width, width, 3, padding=1, padding_mode="replicate", bias=bias)
                    for k in range(count)
                )
            )
            channels = width
        self.widths = {tap: sizes[level][0] for tap, level in self._levels.items()}
        total = sum(self.widths.values())
        self.register_buffer("mean", torch.zeros(total))
        self.register_buffer("deviation", torch.ones(total))
        self.register_buffer("fits", torch.zeros((), dtype=torch.long))
        self.requires_grad_(False)
        super().train(False)

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the taps, finest first."""
        return tuple(self._levels)

    @property
    def fitted(self) -> bool:
        """Tell whether features are standardised."""
        return bool(self.fits > 0)

    @property
    def digest(self) -> str:
        """Return a hash of weights and fit; only features of equal digest are comparable."""
        state = hashlib.sha256()
        for value in self.state_dict().values():
            state.update(value.detach().cpu().contiguous().numpy().tobytes())
        return state.hexdigest()[:12]

    def stride_of(self, tap: str) -> int:
        """Return a tap's stride in pixels."""
        return int(2 ** self._levels[tap])

    def reach_px(self, tap: str) -> int:
        """Return how many pixels beyond its own a cell of a tap looks."""
        level = self._levels[tap]
        return sum(2**k * len(convs) for k, convs in enumerate(self.levels) if k < level) + 2**level  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> FeatureNetwork:
        """Stay in evaluation mode."""
        return super().train(False)

    def forward(
        self, images: Tensor, mask: Tensor | None = None, taps: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Compute standardised features.

        Args:
            images: Shape (B, C, H, W), model domain [-1, 1], sides whole multiples of the coarsest stride asked for, or
                what is left over is not covered.
            mask: Validity, shape (B, 1, H, W); what lies under 0 is taken as 0.
            taps: Which to compute; all when None.

        Returns:
            By tap, shape (B, c, H / stride, W / stride), float32.

        Raises:
            ValueError: If the bands, the size or a tap are wrong.
        """
        asked = self.taps if taps is None else tuple(taps)
        raw = self._maps(images, mask, asked)
        means, deviations = self._moments(self.mean), self._moments(self.deviation)
        return {tap: (raw[tap] - means[tap]) / deviations[tap] for tap in asked}

    def seen(self, mask: Tensor, tap: str) -> Tensor:
        """Return which cells of a tap saw valid pixels only, shape (B, 1, h, w); the image's outside does not count."""
        hole = 1 - (mask > 0).float()
        for level, convs in enumerate(self.levels):
            if level:
                hole = F.max_pool2d(hole, 2)
            last = level == self._levels[tap]
            radius = 1 if last else len(convs)  # type: ignore[arg-type]
            hole = F.max_pool2d(hole, 2 * radius + 1, 1, radius)
            if last:
                break
        return 1 - hole

    @torch.no_grad()
    def fit(self, images: Tensor, mask: Tensor | None = None) -> FeatureNetwork:
        """Bring every channel to mean 0 and deviation 1 over real images; weights stay as they are.

        Args:
            images: Shape (B, C, H, W), model domain.
            mask: Validity, shape (B, 1, H, W); cells count that saw valid pixels only, or all where there is none.

        Returns:
            This network.
        """
        raw = self._maps(images, mask, self.taps)
        means, deviations = [], []
        for tap, x in raw.items():
            share = torch.ones_like(x[:, :1]) if mask is None else self.seen(mask, tap)
            share = (share if share.any() else torch.ones_like(share)).double()
            total = share.sum()
            mean = (x * share).sum(dim=(0, 2, 3)) / total
            spread = ((x - mean[:, None, None]).square() * share).sum(dim=(0, 2, 3)) / total
            means.append(mean)
            deviations.append(spread.sqrt())
        deviation = torch.cat(deviations)
        self.mean.copy_(torch.cat(means))
        # A channel that is the same everywhere keeps its own scale.
        self.deviation.copy_(torch.where(deviation > _FLAT, deviation, 1.0))
        self.fits.fill_(1)
        return self

    def _moments(self, values: Tensor) -> dict[str, Tensor]:
        parts = torch.split(values[:, None, None], list(self.widths.values()))
        return dict(zip(self.widths, parts, strict=True))

    def _input(self, images: Tensor) -> Tensor:
        return images

    def _maps(self, images: Tensor, mask: Tensor | None, taps: Sequence[str]) -> dict[str, Tensor]:
        """Raw features by tap; levels beyond the last one asked for are not computed."""
        name = type(self).__name__
        unknown = set(taps) - set(self.taps)
        if unknown or not taps:
            raise ValueError(f"{name}: expected taps out of {self.taps}, got {tuple(taps)}")
        depth = max(self._levels[tap] for tap in taps)
        if images.ndim != 4 or images.shape[1] != self.in_channels or min(images.shape[-2:]) < 2**depth:
            raise ValueError(
                f"{name}: expected (B, {self.in_channels}, H, W) with H, W >= {2**depth}, got {tuple(images.shape)}; "
                "make a backend for the bands of the images, and larger patches"
            )
        found: dict[str, Tensor] = {}
        names = {level: tap for tap, level in self._levels.items()}
        with torch.autocast(images.device.type, enabled=False):
            x = images.float()
            if mask is not None:
                x = torch.where(mask > 0, x, x.new_zeros(()))
            x = self._input(x)
            for level, convs in enumerate(self.levels[: depth + 1]):
                x = self._pool(x, 2) if level else x
                for k, layer in enumerate(convs):  # type: ignore[arg-type]
                    x = F.relu(layer(x))
                    if k == 0 and level in names:
                        found[names[level]] = x
                    if k == 0 and level == depth:
                        break
        return {tap: found[tap] for tap in taps}


class RandomFeatures(FeatureNetwork):
    """VGG-like network of random filters, for any bands: keeps local structure at every stride and knows no objects.

    Args:
        in_channels: Bands of the images.
        width: Channels at stride 1; twice and four times as many at strides 2 and 4, and four times at 8.
        seed: Of the weights.
        orthogonal: Draw filters that are orthogonal to each other, which wastes none; otherwise independent ones.
    """

    def __init__(self, in_channels: int, width: int = 16, seed: int = 0, orthogonal: bool = True) -> None:
        if in_channels < 1 or width < 1:
            raise ValueError(
                f"RandomFeatures: expected one band and one channel or more, got {in_channels} and {width}"
            )
        sizes = [(width, 2), (2 * width, 2), (4 * width, 2), (4 * width, 1)]
        super().__init__(in_channels, sizes, bias=False, pool=F.avg_pool2d, taps=tuple(TAPS))
        draw = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and orthogonal:
                nn.init.orthogonal_(module.weight, 2**0.5, generator=draw)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=draw)


class VGGFeatures(FeatureNetwork):
    """VGG19 up to relu5_1, on three bands as red, green and blue, with weights from a local file.

    Args:
        path: State dict of torchvision's `vgg19`, saved by `torch.save`.
        bands: Places of red, green and blue among the bands of the images.
        in_channels: Bands of the images.

    Raises:
        CheckpointError: If the file is missing or holds no weights of this network.
        ValueError: If there are not three bands, or one is not there.
    """

    def __init__(self, path: Path | str, bands: Sequence[int] = (0, 1, 2), in_channels: int = 3) -> None:
        if len(bands) != 3 or not all(0 <= band < in_channels for band in bands):
            raise ValueError(
                f"VGGFeatures: expected three places of red, green, blue among {in_channels} bands, got {tuple(bands)}"
            )
        super().__init__(3, _VGG, bias=True, pool=F.max_pool2d, taps=("s1", "s2", "s4", None, "deep"))
        self.in_channels = in_channels
        self.bands = list(bands)
        for name, values in (("shift", _RGB_MEAN), ("span", _RGB_DEVIATION)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        convs = [module for module in self.modules() if isinstance(module, nn.Conv2d)]
        for module, (weight, bias) in zip(convs, _vgg_weights(Path(path), len(convs)), strict=True):
            if module.weight.shape != weight.shape:
                raise CheckpointError(f"{path}: expected a filter of {tuple(module.weight.shape)}, got {weight.shape}")
            with torch.no_grad():
                module.weight.copy_(weight)
                if module.bias is not None:
                    module.bias.copy_(bias)

    def _input(self, images: Tensor) -> Tensor:
        shift, span = self.get_buffer("shift"), self.get_buffer("span")
        return ((images[:, self.bands] + 1) / 2 - shift) / span


def _vgg_weights(path: Path, count: int) -> list[tuple[Tensor, Tensor]]:
    """Read filters and biases of the first convolutions, in their order."""
    if not path.is_file():
        raise CheckpointError(
            f"There is no file of weights {path}. Weights are never downloaded: put torchvision's vgg19 there, or use "
            "RandomFeatures, which needs none."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        content = content.get("state_dict", content)
        places = sorted(
            int(name.split(".")[1]) for name in content if name.startswith("features.") and name.endswith(".weight")
        )
        found = [(content[f"features.{k}.weight"], content[f"features.{k}.bias"]) for k in places[:count]]
    except Exception as error:  # Unpickling fails in many ways.
        raise CheckpointError(
            f"{path} cannot be read as weights of VGG19: {type(error).__name__}. Expected the state dict of "
            "torchvision's vgg19, saved by torch.save."
        ) from error
    if len(found) != count:
        raise CheckpointError(f"{path}: expected {count} convolutions of VGG19 or more, got {len(found)}")
    return found

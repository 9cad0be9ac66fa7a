"""Instance normalisation that respects nodata and can be frozen for a whole scene.

Instance statistics differ from tile to tile, so a scene translated tile by tile shows its tiles.
Here the moments are pooled once over sample windows of the scene, layer by layer in the order the
network runs them, and then used as constants by every tile: the tiled output equals the untiled one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SceneNorm", "collecting", "frozen_state", "is_frozen", "load_frozen_state", "unfreeze"]


class SceneNorm(nn.Module):
    """Instance normalisation with masked moments and a frozen state.

    Three behaviours, in this order of precedence: *frozen* (constants of the scene), *collecting* (moments
    pooled over batch and space become the constants, see `collecting`), *instance* (moments per sample
    and channel). With a mask, moments count valid pixels only and invalid pixels leave as zero, the mean.
    Moments are float32 whatever the input type; the biased variance is used, as instance norm does.

    Args:
        channels: Number of channels.
        affine: Learn one gain and one offset per channel.
        eps: Added to the variance.
    """

    mean: Tensor | None
    variance: Tensor | None
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, channels: int, *, affine: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels = channels
        self.eps = eps
        self.collecting = False
        self.register_parameter("weight", nn.Parameter(torch.ones(channels)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(channels)) if affine else None)
        # Facts of a scene, not of the model: never part of its state_dict.
        self.register_buffer("mean", None, persistent=False)
        self.register_buffer("variance", None, persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise.

        Args:
            x: Features, shape (B, C, H, W).
            mask: Validity at the same resolution, shape (B, 1, H, W), 1 valid and 0 not.

        Returns:
            Normalised features, same shape and dtype as `x`.

        Raises:
            ValueError: If the mask has another size than the features.
        """
        if mask is not None and mask.shape[-2:] != x.shape[-2:]:
            raise ValueError(
                f"SceneNorm: expected a mask of {tuple(x.shape[-2:])}, got {tuple(mask.shape[-2:])}; "
                "resample the mask to the resolution of the features"
            )
        if self.collecting and self.mean is None:
            self._collect(x, mask)
        if self.mean is not None:
            wide = _wide(x)
            mean, variance = self.mean.to(wide), self.variance.to(wide)  # type: ignore[union-attr]
            y = F.batch_norm(x, mean, variance, self.weight, self.bias, False, 0.0, self.eps)
            return y if mask is None else y * mask.to(y.dtype)
        if mask is None and x.shape[-2:].numel() > 1:
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        return self._masked(x, x.new_ones(x.shape[0], 1, 1, 1) if mask is None else mask)

    def _masked(self, x: Tensor, mask: Tensor) -> Tensor:
        wide = _wide(x)
        centred, variance = _moments(x.to(wide), mask.to(wide), dim=(2, 3))[1:]
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight.view(1, -1, 1, 1)
        y = centred * scale
        if self.bias is not None:
            y = y + self.bias.view(1, -1, 1, 1) * mask.to(wide)
        return y.to(x.dtype)

    @torch.no_grad()
    def _collect(self, x: Tensor, mask: Tensor | None) -> None:
        valid = x.new_ones(x.shape[0], 1, 1, 1) if mask is None else mask
        mean, _, variance = _moments(x.to(torch.float32), valid.to(torch.float32), dim=(0, 2, 3))
        self.mean, self.variance = mean.reshape(-1), variance.reshape(-1)

    def extra_repr(self) -> str:
        """Name the size and the state in the printed network."""
        state = "frozen" if self.mean is not None else "instance"
        return f"{self.channels}, affine={self.weight is not None}, {state}"


def _wide(x: Tensor) -> torch.dtype:
    """The type moments are used in: float32, or float64 for float64 features."""
    return torch.promote_types(x.dtype, torch.float32)


def _moments(x: Tensor, valid: Tensor, dim: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of the valid pixels, the deviations from it (zero where invalid), and their biased variance.

    Mean 0 and variance 1 where nothing is valid. The gradient keeps one tensor of the size of `x`.
    """
    count = (valid.expand(-1, -1, *x.shape[-2:])).sum(dim=dim, keepdim=True)
    per_pixel = 1.0 / count.clamp_min(1.0)
    mean = (x * valid).sum(dim=dim, keepdim=True) * per_pixel
    centred = (x - mean).mul_(valid)
    variance = centred.square().sum(dim=dim, keepdim=True) * per_pixel
    return mean, centred, torch.where(count > 0, variance, torch.ones_like(variance))


def _norms(network: nn.Module) -> dict[str, SceneNorm]:
    return {name: module for name, module in network.named_modules() if isinstance(module, SceneNorm)}


@contextmanager
def collecting(network: nn.Module) -> Iterator[nn.Module]:
    """Freeze a network's normalisation from one pass over sample windows of a scene.

    Inside the context the next forward pass pools, at each layer in order, the moments over batch and
    space of the valid pixels, freezes them and normalises with them, so the following layers see what they
    will see later. No gradient is recorded. Leaving the context with an error unfreezes the network.

    Args:
        network: Any module holding `SceneNorm` layers; earlier frozen moments are dropped.

    Yields:
        The same network.

    Raises:
        ValueError: If no pass was made inside the context.

    Example:
        >>> from rsgeo_gan.models import ResNetGenerator
        >>> generator = ResNetGenerator(1, 1, width=4, blocks=1)
        >>> with collecting(generator):
        ...     _ = generator(torch.rand(4, 1, 32, 32))
        >>> is_frozen(generator)
        True
    """
    norms = _norms(network)
    unfreeze(network)
    for norm in norms.values():
        norm.collecting = True
    try:
        with torch.no_grad():
            yield network
    except BaseException:
        unfreeze(network)
        raise
    finally:
        for norm in norms.values():
            norm.collecting = False
    missing = [name for name, norm in norms.items() if norm.mean is None]
    if missing:
        unfreeze(network)
        raise ValueError(
            f"collecting: no data passed through {len(missing)} of {len(norms)} normalisation layers "
            f"(first: {missing[0]}); run the whole network on the sample windows inside the context"
        )


def unfreeze(network: nn.Module) -> None:
    """Return every `SceneNorm` of a network to instance statistics."""
    for norm in _norms(network).values():
        norm.mean = norm.variance = None


def is_frozen(network: nn.Module) -> bool:
    """Tell whether all `SceneNorm` layers of a network use frozen moments (True when it has none)."""
    return all(norm.mean is not None for norm in _norms(network).values())


def frozen_state(network: nn.Module) -> dict[str, Tensor]:
    """Export the frozen moments: `<layer>.mean` and `<layer>.variance`, float32, shape (C,), on the CPU.

    Raises:
        ValueError: If the network is not frozen.
    """
    state: dict[str, Tensor] = {}
    for name, norm in _norms(network).items():
        if norm.mean is None or norm.variance is None:
            raise ValueError(f"frozen_state: layer {name} is not frozen; run `collecting` first")
        state[f"{name}.mean"] = norm.mean.detach().cpu().clone()
        state[f"{name}.variance"] = norm.variance.detach().cpu().clone()
    return state


def load_frozen_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Freeze a network with moments exported by `frozen_state`.

    Raises:
        ValueError: If names or sizes differ from the network's; the network is then left as it was.
    """
    norms = _norms(network)
    expected = {f"{name}.{key}": norm.channels for name, norm in norms.items() for key in ("mean", "variance")}
    got = {name: value.numel() for name, value in state.items()}
    if expected != got:
        odd = sorted(set(expected.items()) ^ set(got.items()))
        raise ValueError(
            f"load_frozen_state: expected {len(expected)} moments, got {len(got)}; first difference {odd[0]}; "
            "the moments belong to a network of another shape"
        )
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    for name, norm in norms.items():
        norm.mean = state[f"{name}.mean"].to(device, torch.float32, copy=True)
        norm.variance = state[f"{name}.variance"].to(device, torch.float32, copy=True)

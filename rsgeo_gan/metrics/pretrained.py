"""Features of trained networks, from weights at a local path: Inception, and ResNets of torchgeo.

Weights are never downloaded. Only Inception with the weights of the original definition, on three bands, may be called
FID; everything else is FD with the name of its network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import Inception3
from torchvision.models.inception import InceptionA, InceptionC, InceptionE

from rsgeo_gan.errors import CheckpointError

__all__ = ["InceptionBackend", "ResNetBackend", "load_weights"]

_ORIGINAL_CLASSES = 1008
"""Outputs of the network that the definition of FID names; torchvision's own weights have 1000."""
_INCEPTION_PX = 299
_USABLE = 0.99
"""Share of valid pixels below which an image has no features; these networks know no mask."""

State = Mapping[str, Tensor]


def load_weights(path: Path | str) -> dict[str, Tensor]:
    """Read a state dict from a local file, without running any code in it.

    Args:
        path: `.safetensors`, or what `torch.save` wrote: a state dict, or a dict that holds one as `state_dict`.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        CheckpointError: If the file is missing, is damaged, or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(
            f"There is no file of weights {path}. Weights are never downloaded: put the file there, or use the "
            "random-conv backend, which needs none."
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # Unpickling fails in many ways.
        raise CheckpointError(
            f"{path} cannot be read as weights: {_first_line(error)} Expected a state dict (tensors by name), saved by "
            "torch.save or as safetensors; load it where it came from and save its state_dict()."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(
            f"{path}: expected a state dict (tensors by name), got {type(content).__name__}"
            f"{' with other values' if isinstance(content, Mapping) and content else ''}; "
            "save the network's state_dict()."
        )
    return {str(name): value for name, value in content.items()}


class _Trained(nn.Module):
    """A frozen network in evaluation mode, with a digest."""

    name: str
    in_bands: int
    network: nn.Module

    @property
    def digest(self) -> str:
        """Return a hash of weights and scaling; only distances of equal name and digest are comparable."""
        return _digest(self.state_dict())

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode."""
        return super().train(False)

    def describe(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the network's pooled features.

        Args:
            images: Shape (B, C, H, W), model domain [-1, 1].
            mask: Validity, shape (B, 1, H, W); what lies under 0 is taken as 0.

        Returns:
            Shape (B, D), float32; NaN where more than 1 % of an image is invalid.

        Raises:
            ValueError: If the number of bands is wrong.
        """
        if images.ndim != 4 or images.shape[1] != self.in_bands:
            raise ValueError(
                f"{type(self).__name__}: expected (B, {self.in_bands}, H, W), got {tuple(images.shape)}; "
                "make a backend for the bands of the images"
            )
        x = images.float()
        if mask is None:
            return self._features(x)
        valid = mask > 0
        found = self._features(torch.where(valid, x, x.new_zeros(())))
        usable = valid.float().mean(dim=(1, 2, 3)) >= _USABLE
        return torch.where(usable[:, None], found, found.new_tensor(torch.nan))

    def _features(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _fill(self, state: State, layout: str, spare: tuple[str, ...]) -> None:
        """Load the network's weights and freeze it; name what does not fit."""
        kept = {name: value for name, value in state.items() if not name.startswith(spare)}
        own = self.network.state_dict()
        missing = [name for name in own if name not in kept and not name.endswith("num_batches_tracked")]
        unknown = [name for name in kept if name not in own]
        unlike = [name for name in own if name in kept and kept[name].shape != own[name].shape]
        if missing or unknown or unlike:
            raise CheckpointError(
                f"{type(self).__name__}: these are no weights of {layout}: {len(missing)} tensors missing"
                f"{_some(missing)}, {len(unknown)} unknown{_some(unknown)}, {len(unlike)} of another shape"
                f"{_some(unlike)}; give the state dict of that network."
            )
        self.network.load_state_dict(kept, strict=False)
        self.requires_grad_(False)
        self.eval()


class InceptionBackend(_Trained):
    """Inception v3, last pooled features (2048), in one of two forms told by the weights.

    With the weights of the original definition (1008 outputs; the layout of the public PyTorch ports) pooling and
    resizing follow that definition: averages leave padding out, the last block takes a maximum, images are resized to
    299 x 299 without centring pixels. With torchvision's weights (1000 outputs) the network is torchvision's. Images
    are rounded to 8 bits first, as that definition asks, so no gradient passes.

    Three bands are seen at a time. Images of another number of bands are seen once per triplet, and the features are
    put side by side.

    Reference: Szegedy et al., 2016, arXiv:1512.00567; Heusel et al., 2017, arXiv:1706.08500.

    Args:
        state: Weights by name, see `load_weights`.
        in_bands: Bands of the images.
        triplets: Which bands, counted from 0, stand for red, green and blue; by default (0, 1, 2) for three bands, one
            band thrice for one, and as many triplets as hold every band otherwise.

    Attributes:
        name: `inception-v3-fid` for the original weights on three bands, else with what differs.
        is_fid: Whether a Fréchet distance of these features may be called FID.

    Raises:
        CheckpointError: If the weights are of another network.
        ValueError: If a triplet names a band that is not there.
    """

    def __init__(self, state: State, in_bands: int = 3, triplets: Sequence[tuple[int, int, int]] | None = None) -> None:
        super().__init__()
        self.in_bands = in_bands
        self.triplets = tuple(tuple(t) for t in triplets) if triplets is not None else _triplets(in_bands)
        if not self.triplets or any(len(t) != 3 or not all(0 <= band < in_bands for band in t) for t in self.triplets):
            raise ValueError(
                f"InceptionBackend: expected triplets of bands 0 to {in_bands - 1}, got {list(self.triplets)}"
            )
        outputs = len(state["fc.bias"]) if "fc.bias" in state else 0
        self.original = outputs == _ORIGINAL_CLASSES
        self.network = _original() if self.original else _torchvision(outputs or 1000)
        self._fill(state, "Inception v3", ("AuxLogits.",))
        self.network.fc = nn.Identity()
        self.is_fid = self.original and in_bands == 3 and len(self.triplets) == 1
        which = "fid" if self.original else "imagenet"
        bands = "" if in_bands == 3 and len(self.triplets) == 1 else f"-{in_bands}band-{len(self.triplets)}triplets"
        self.name = f"inception-v3-{which}{bands}"

    @classmethod
    def from_file(
        cls, path: Path | str, in_bands: int = 3, triplets: Sequence[tuple[int, int, int]] | None = None
    ) -> Self:
        """Load the weights from a local file; see `load_weights` for its errors."""
        return cls(load_weights(path), in_bands, triplets)

    def _features(self, x: Tensor) -> Tensor:
        x = ((x.clamp(-1, 1) + 1) * 127.5).round()
        return torch.cat([self.network(self._prepared(x[:, list(t)])) for t in self.triplets], dim=1)

    def _prepared(self, x: Tensor) -> Tensor:
        """Resized and normalised as the weights expect."""
        if self.original:
            return (_corner_resize(x, _INCEPTION_PX) - 128) / 128
        x = F.interpolate(x / 255, size=(_INCEPTION_PX, _INCEPTION_PX), mode="bilinear", antialias=True)
        mean, std = (x.new_tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        return (x - mean) / std


class ResNetBackend(_Trained):
    """ResNet18 or ResNet50 as in torchgeo, pooled features (512 or 2048); the weights tell which.

    The image goes back to analysis units, then to the scale that the weights were trained with.

    Args:
        state: Weights by name; a classifier in them is left out.
        label: What the weights are, such as "MoCo-S2"; part of the name.
        low: Analysis value of -1 in the model domain, one per band (`Scaler.low`).
        high: Analysis value of 1 (`Scaler.high`).
        mean: Analysis value that the weights take as 0, one per band or one for all: 0 for reflectance, for SAR the
            mean in dB that they were trained with.
        std: Analysis units per unit of the network's input: 1 for reflectance, for SAR the deviation in dB.

    Attributes:
        name: Network, label and bands.

    Raises:
        CheckpointError: If the weights are of another network or of other bands.
        ValueError: If a range is empty.
    """

    gain: Tensor
    bias: Tensor

    def __init__(
        self,
        state: State,
        label: str,
        low: Sequence[float],
        high: Sequence[float],
        mean: Sequence[float] | float = 0.0,
        std: Sequence[float] | float = 1.0,
    ) -> None:
        super().__init__()
        self.in_bands = len(low)
        ends = [torch.as_tensor(v, dtype=torch.float64).expand(self.in_bands) for v in (low, high, mean, std)]
        if len(high) != len(low) or not (ends[1] > ends[0]).all() or not (ends[3] > 0).all():
            raise ValueError(
                f"ResNetBackend: expected low < high for the same bands and std > 0, got low {list(low)}, high "
                f"{list(high)}, std {std}"
            )
        first = state.get("conv1.weight")
        if first is None or first.ndim != 4:
            raise CheckpointError(
                "ResNetBackend: these are no weights of a ResNet: there is no convolution conv1.weight; give the state "
                "dict of torchgeo's resnet18 or resnet50."
            )
        if first.shape[1] != self.in_bands:
            raise CheckpointError(
                f"ResNetBackend: the weights take {first.shape[1]} bands, the images have {self.in_bands}; select the "
                "bands that the weights were trained with, in their order."
            )
        from torchgeo.models import resnet18, resnet50

        deep = "layer1.0.conv3.weight" in state
        self.network = (resnet50 if deep else resnet18)(in_chans=self.in_bands, num_classes=0)
        arch = "resnet50" if deep else "resnet18"
        self._fill(state, arch, ("fc.",))
        self.name = f"{arch}-{label}-{self.in_bands}band"
        span = (ends[1] - ends[0]) / 2
        self.register_buffer("gain", (span / ends[3])[:, None, None].float())
        self.register_buffer("bias", ((ends[0] + span - ends[2]) / ends[3])[:, None, None].float())

    @classmethod
    def from_file(
        cls,
        path: Path | str,
        label: str,
        low: Sequence[float],
        high: Sequence[float],
        mean: Sequence[float] | float = 0.0,
        std: Sequence[float] | float = 1.0,
    ) -> Self:
        """Load the weights from a local file; see `load_weights` for its errors."""
        return cls(load_weights(path), label, low, high, mean, std)

    def _features(self, x: Tensor) -> Tensor:
        return self.network(x * self.gain + self.bias)


class _MeanA(InceptionA):  # type: ignore[misc]
    """Average pooling over the pixels that are there."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        *others, _ = super()._forward(x)
        return [*others, self.branch_pool(_mean_pool(x))]


class _MeanC(InceptionC):  # type: ignore[misc]
    """Average pooling over the pixels that are there."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        *others, _ = super()._forward(x)
        return [*others, self.branch_pool(_mean_pool(x))]


class _MeanE(InceptionE):  # type: ignore[misc]
    """Average pooling over the pixels that are there."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        *others, _ = super()._forward(x)
        return [*others, self.branch_pool(_mean_pool(x))]


class _MaxE(InceptionE):  # type: ignore[misc]
    """Maximum in place of the average."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        *others, _ = super()._forward(x)
        return [*others, self.branch_pool(F.max_pool2d(x, 3, 1, 1))]


def _mean_pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _torchvision(outputs: int, transform_input: bool = True) -> Inception3:
    """The network as torchvision builds it for its weights: they expect [-1, 1], which it makes of its usual input."""
    return Inception3(num_classes=outputs, aux_logits=False, init_weights=False, transform_input=transform_input)


def _original() -> Inception3:
    """The network of the original definition: other pooling than torchvision's."""
    network = _torchvision(_ORIGINAL_CLASSES, transform_input=False)
    network.Mixed_5b = _MeanA(192, pool_features=32)
    network.Mixed_5c = _MeanA(256, pool_features=64)
    network.Mixed_5d = _MeanA(288, pool_features=64)
    network.Mixed_6b = _MeanC(768, channels_7x7=128)
    network.Mixed_6c = _MeanC(768, channels_7x7=160)
    network.Mixed_6d = _MeanC(768, channels_7x7=160)
    network.Mixed_6e = _MeanC(768, channels_7x7=192)
    network.Mixed_7b = _MeanE(1280)
    network.Mixed_7c = _MaxE(2048)
    return network


def _corner_resize(x: Tensor, size: int) -> Tensor:
    """Bilinear resizing with the first pixel of both images at one place, as old TensorFlow does."""
    for dim in (2, 3):
        length = x.shape[dim]
        place = torch.arange(size, device=x.device, dtype=torch.float32) * (length / size)
        before = place.floor().long()
        share = (place - before).view(-1, 1) if dim == 2 else place - before
        after = (before + 1).clamp_max(length - 1)
        x = x.index_select(dim, before) * (1 - share) + x.index_select(dim, after) * share
    return x


def _triplets(bands: int) -> tuple[tuple[int, ...], ...]:
    """Triplets that hold every band; a short last one begins earlier."""
    if bands < 3:
        return ((0, bands - 1, bands - 1),) if bands else ()
    starts = [*range(0, bands - 2, 3)]
    if bands % 3:
        starts.append(bands - 3)
    return tuple((start, start + 1, start + 2) for start in starts)


def _digest(state: State) -> str:
    found = hashlib.sha256()
    for value in state.values():
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:12]


def _some(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})" if names else ""


def _first_line(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".:")
    return f"{text[:160]}."

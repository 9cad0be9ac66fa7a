"""Tensor side of normalisation and augmentation.

Values reach the networks normalised already: the datasets fold a scaler into their one multiplication.
The modules here do the same for tensors from elsewhere, and undo it. Augmentation keeps the look direction
of the radar: layover and shadow fall away from the sensor, so a mirrored SAR image is one that no orbit
of this direction could have taken.
"""

from __future__ import annotations

import kornia.augmentation as K
import torch
from torch import Tensor, nn

from rsgeo_gan.sensors import Scaler

__all__ = ["Augmentation", "Denormalize", "Normalize", "Turns"]

Sample = dict[str, Tensor]


class _Affine(nn.Module):
    gain: Tensor
    bias: Tensor

    def __init__(self, scaler: Scaler) -> None:
        super().__init__()
        self.bands = scaler.bands
        self.register_buffer("gain", torch.from_numpy(scaler.gain)[:, None, None])
        self.register_buffer("bias", torch.from_numpy(scaler.bias)[:, None, None])

    def _check(self, image: Tensor) -> None:
        if image.shape[-3] != len(self.bands):
            raise ValueError(
                f"{type(self).__name__}: expected {len(self.bands)} bands ({', '.join(self.bands)}) in dimension -3, "
                f"got {tuple(image.shape)}"
            )


class Normalize(_Affine):
    """Analysis units to the model domain [-1, 1].

    Args:
        scaler: Fitted scaler of the sensor.
    """

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise.

        Args:
            image: Analysis units, shape (..., C, H, W).
            mask: Validity, shape (..., 1, H, W); invalid pixels become 0 even when they are NaN.

        Returns:
            float32 in [-1, 1], same shape.

        Raises:
            ValueError: If the band count is another.
        """
        self._check(image)
        scaled = (image.double() * self.gain + self.bias).clamp(-1, 1).float()
        return scaled if mask is None else torch.where(mask > 0, scaled, scaled.new_zeros(()))


class Denormalize(_Affine):
    """The model domain back to analysis units; the inverse of `Normalize` for values that were not clipped.

    Args:
        scaler: Fitted scaler of the sensor.
    """

    def forward(self, image: Tensor) -> Tensor:
        """Undo the normalisation, shape (..., C, H, W), float32.

        Raises:
            ValueError: If the band count is another.
        """
        self._check(image)
        return ((image.double() - self.bias) / self.gain).float()


class Augmentation(nn.Module):
    """Random geometry for a batch of samples, by kornia, as torchgeo applies it: on the device, by key.

    Entries whose names begin with `image` or `mask` move together; all others pass. Without `flips` nothing is
    changed.

    Args:
        flips: Mirror left-right and up-down, each with probability 1/2. Only for pairs of optical, near-nadir
            images: a flip turns the look direction of SAR round.
    """

    def __init__(self, flips: bool = False) -> None:
        super().__init__()
        self.flips = flips
        self.steps = (
            K.AugmentationSequential(
                K.RandomHorizontalFlip(p=0.5), K.RandomVerticalFlip(p=0.5), data_keys=None, keepdim=True
            )
            if flips
            else None
        )

    def forward(self, batch: Sample) -> Sample:
        """Return the batch, moved or as it was."""
        if self.steps is None:
            return batch
        moved: Sample = self.steps(batch)
        return moved


class Turns(nn.Module):
    """Mirrors and quarter turns for a batch whose images have different sizes of one place.

    All entries of a sample whose names begin with `image` or `mask` move alike, whatever their sizes; samples move
    independently, each of the eight ways with equal probability. Images that are not square are not turned by a
    quarter.

    Args:
        active: Whether anything is moved at all. Only for optical, near-nadir images, see `Augmentation`.
    """

    def __init__(self, active: bool = True) -> None:
        super().__init__()
        self.active = active

    def forward(self, batch: Sample) -> Sample:
        """Return the batch, moved or as it was."""
        moving = [key for key, value in batch.items() if key.startswith(("image", "mask")) and value.ndim == 4]
        if not self.active or not moving:
            return batch
        first = batch[moving[0]]
        left, up, over = torch.rand(3, len(first), 1, 1, 1, device=first.device) < 0.5
        square = all(batch[key].shape[-1] == batch[key].shape[-2] for key in moving)
        moved = dict(batch)
        for key in moving:
            value = batch[key]
            value = torch.where(left, value.flip(-1), value)
            value = torch.where(up, value.flip(-2), value)
            moved[key] = torch.where(over, value.transpose(-1, -2), value) if square else value
        return moved

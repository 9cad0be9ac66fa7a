"""Augmentation in front of a discriminator, for any number of bands, as strong as its overfitting asks for.

Every image that a discriminator sees, real or generated, passes through the same random changes, so that few real
images do not wear out. As each change happens with a probability well below 1, the generator still learns what
unchanged images look like.

Reference: Karras et al., Training generative adversarial networks with limited data, NeurIPS 2020 (probability per
operation, the sign heuristic). Other than there, brightness and contrast are drawn per band, since there is no colour
space of N bands, and pixels are moved by whole steps only: interpolation would change the spectrum that is judged.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

__all__ = ["HIGHEST_P", "AdaptiveAugmentation", "augment"]

HIGHEST_P = 0.8
"""Beyond this probability changes leak into what is generated."""


def augment(
    image: Tensor,
    mask: Tensor | None,
    p: Tensor | float,
    *,
    turns: bool = True,
    shift: float = 0.125,
    brightness: float = 0.2,
    contrast: float = 0.5,
    cutout: float = 0.5,
) -> tuple[Tensor, Tensor | None]:
    """Change each image of a batch at random; differentiable, also twice, in the image.

    Args:
        image: Images, shape (B, C, H, W), in the model domain with invalid pixels 0.
        mask: Validity, shape (B, 1, H, W), moved along; 0 where something was cut out.
        p: Probability of each operation, for each image on its own.
        turns: Mirror and turn by quarters (halves where H and W differ); a mirrored or turned SAR image shows a look
            direction of its own, so this is for optical, near-nadir images.
        shift: Largest translation in both directions, share of the side; what moves in is a reflection. 0 for none.
        brightness: Standard deviation of what is added to a band, model units. 0 for none.
        contrast: Standard deviation of the binary logarithm of a band's factor. 0 for none.
        cutout: Side of the square that is cut out, share of the image's. 0 for none.

    Returns:
        Images and mask, same shapes; the mask is None when none was given.

    Raises:
        ValueError: If the shapes do not fit.
    """
    if image.ndim != 4 or (mask is not None and mask.shape != (len(image), 1, *image.shape[-2:])):
        raise ValueError(
            f"augment: expected images (B, C, H, W) and a mask (B, 1, H, W), got {tuple(image.shape)} and "
            f"{None if mask is None else tuple(mask.shape)}"
        )
    draw = _Draw(image, p)
    if turns or shift:
        image, mask = _moved(image, mask, draw, turns=turns, shift=shift)
    if contrast:
        factor = torch.exp2(contrast * draw.normal(image.shape[1]))
        image = image * torch.where(draw.chosen(), factor, torch.ones_like(factor))
    if brightness:
        added = brightness * draw.normal(image.shape[1])
        image = image + torch.where(draw.chosen(), added, torch.zeros_like(added))
        image = image if mask is None else image * (mask > 0)
    if cutout:
        kept = _kept(draw, cutout)
        image, mask = image * kept, mask if mask is None else mask * kept
    return image, mask


class _Draw:
    """Random numbers for each image of a batch, from the generator of its device."""

    def __init__(self, image: Tensor, p: Tensor | float) -> None:
        self.batch, _, self.height, self.width = image.shape
        self.like = image
        self.p = p

    def uniform(self) -> Tensor:
        """Shape (B,), float32."""
        return torch.rand(self.batch, device=self.like.device)

    def normal(self, bands: int) -> Tensor:
        """Shape (B, C, 1, 1), in the images' type."""
        numbers = torch.randn(self.batch, bands, 1, 1, device=self.like.device)
        return numbers.to(self.like.dtype)

    def chosen(self) -> Tensor:
        """Whether an operation happens, shape (B, 1, 1, 1), bool."""
        return (self.uniform() < self.p)[:, None, None, None]

    def whole(self, count: int) -> Tensor:
        """Numbers 0 to count - 1, shape (B,), int64."""
        return (self.uniform() * count).long().clamp_(max=count - 1)


def _moved(
    image: Tensor, mask: Tensor | None, draw: _Draw, *, turns: bool, shift: float
) -> tuple[Tensor, Tensor | None]:
    """Turn, mirror and shift by picking rows and columns."""
    height, width = draw.height, draw.width
    rows = torch.arange(height, device=image.device).expand(draw.batch, height)
    cols = torch.arange(width, device=image.device).expand(draw.batch, width)
    swapped = torch.zeros(draw.batch, dtype=torch.bool, device=image.device)
    if shift:
        picked = draw.chosen().flatten()
        rows = _reflected(rows - _steps(draw, height, shift, picked), height)
        cols = _reflected(cols - _steps(draw, width, shift, picked), width)
    if turns:
        mirrored = draw.chosen().flatten() & (draw.whole(2) == 1)
        quarter = torch.where(draw.chosen().flatten(), draw.whole(4), 0)
        if height == width:
            swapped = quarter % 2 == 1
        else:
            quarter = quarter // 2 * 2
        upended = (quarter == 1) | (quarter == 2)
        rows = torch.where(upended[:, None], height - 1 - rows, rows)
        cols = torch.where((mirrored ^ (quarter >= 2))[:, None], width - 1 - cols, cols)
    moved = [_picked(layer, rows, cols, swapped if turns and height == width else None) for layer in (image, mask)]
    assert moved[0] is not None
    return moved[0], moved[1]


def _steps(draw: _Draw, side: int, shift: float, picked: Tensor) -> Tensor:
    """Whole steps between both limits, 0 where nothing is shifted, shape (B, 1)."""
    most = round(shift * side)
    return torch.where(picked, draw.whole(2 * most + 1) - most, 0)[:, None]


def _reflected(places: Tensor, side: int) -> Tensor:
    """Fold positions that lie outside back at the borders, without doubling the border."""
    return side - 1 - (side - 1 - places.abs()).abs()


def _picked(layer: Tensor | None, rows: Tensor, cols: Tensor, swapped: Tensor | None) -> Tensor | None:
    if layer is None:
        return None
    if swapped is not None:
        layer = torch.where(swapped[:, None, None, None], layer.transpose(2, 3), layer)
    batch, bands, height, width = layer.shape
    layer = layer.gather(2, rows[:, None, :, None].expand(batch, bands, height, width))
    return layer.gather(3, cols[:, None, None, :].expand(batch, bands, height, width))


def _kept(draw: _Draw, share: float) -> Tensor:
    """1 outside a square whose centre lies anywhere in the image, 0 inside, shape (B, 1, H, W)."""
    row = torch.arange(draw.height, device=draw.like.device) + 0.5
    col = torch.arange(draw.width, device=draw.like.device) + 0.5
    tall = (row - (draw.uniform() * draw.height)[:, None]).abs() < share * draw.height / 2
    wide = (col - (draw.uniform() * draw.width)[:, None]).abs() < share * draw.width / 2
    cut = draw.chosen() & (tall[:, None, :, None] & wide[:, None, None, :])
    return (~cut).to(draw.like.dtype)


class AdaptiveAugmentation(nn.Module):
    """`augment` with a probability that follows how sure a discriminator is of the real images.

    With r the mean sign of the logits of real images, p rises while r is above the target and falls while it is
    below: a discriminator that knows the training images by heart has r near 1, one that cannot tell has r near 0.
    The probability and the counts behind it are part of the state, so a resumed run goes on as it would have.

    Args:
        p: Probability at the start.
        target: Wanted mean sign of the logits of real images.
        speed_images: Real images over which p moves by 1.
        interval: Batches whose signs are averaged before p moves.
        limit: Highest probability, at most 0.8.
        turns: See `augment`; off for SAR.
        shift: See `augment`.
        brightness: See `augment`.
        contrast: See `augment`.
        cutout: See `augment`.

    Attributes:
        p: The probability now, a tensor without dimensions.
    """

    p: Tensor
    signs: Tensor
    images: Tensor
    batches: Tensor

    def __init__(
        self,
        p: float = 0.0,
        target: float = 0.6,
        speed_images: float = 100_000,
        interval: int = 4,
        limit: float = HIGHEST_P,
        turns: bool = True,
        shift: float = 0.125,
        brightness: float = 0.2,
        contrast: float = 0.5,
        cutout: float = 0.5,
    ) -> None:
        super().__init__()
        if not 0 <= p <= limit <= HIGHEST_P:
            raise ValueError(
                f"AdaptiveAugmentation: expected 0 <= p <= limit <= {HIGHEST_P}, got p {p} and limit {limit}; "
                "stronger augmentation shows in what is generated"
            )
        if not (-1 < target < 1 and speed_images > 0 and interval >= 1):
            raise ValueError(
                "AdaptiveAugmentation: expected -1 < target < 1, speed_images > 0 and interval >= 1, got "
                f"{target}, {speed_images} and {interval}"
            )
        if not (0 <= shift < 1 and 0 <= cutout <= 1 and brightness >= 0 and contrast >= 0):
            raise ValueError(
                "AdaptiveAugmentation: expected 0 <= shift < 1, 0 <= cutout <= 1, brightness >= 0 and contrast >= 0, "
                f"got {shift}, {cutout}, {brightness} and {contrast}"
            )
        self.target = target
        self.speed_images = speed_images
        self.interval = interval
        self.limit = limit
        self.turns = turns
        self.shift = shift
        self.brightness = brightness
        self.contrast = contrast
        self.cutout = cutout
        self.register_buffer("p", torch.tensor(float(p)))
        self.register_buffer("signs", torch.zeros(()))
        self.register_buffer("images", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, image: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Change images (B, C, H, W) and their mask (B, 1, H, W), with a new draw at every call.

        Raises:
            ValueError: If the shapes do not fit.
        """
        return augment(
            image,
            mask,
            self.p,
            turns=self.turns,
            shift=self.shift,
            brightness=self.brightness,
            contrast=self.contrast,
            cutout=self.cutout,
        )

    @torch.no_grad()
    def observe(self, real_logits: Tensor) -> None:
        """Take in the logits of a batch of real images, and move p after every `interval` batches.

        Processes that train together share what they saw, so that p is one for all.

        Args:
            real_logits: Logits, shape (B, 1) or (B, 1, h, w); an image with several has their mean sign.
        """
        signs = torch.nan_to_num(real_logits.detach().float()).sign().flatten(1).mean(dim=1)
        seen = torch.stack([signs.sum(), torch.full_like(signs[0], len(signs))])
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(seen)
        self.signs += seen[0]
        self.images += seen[1]
        self.batches += 1
        full = self.batches >= self.interval
        step = torch.sign(self.signs / self.images - self.target) * self.images / self.speed_images
        self.p.copy_(torch.where(full, (self.p + step).clamp(0, self.limit), self.p))
        for count in (self.signs, self.images, self.batches):
            count.mul_(~full)

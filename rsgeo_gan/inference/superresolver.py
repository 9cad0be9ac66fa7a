"""Turns a checkpoint of super-resolution into a network that sharpens windows of a scene: what `superres` asks.

Everything that could depend on the window a pixel is computed in (the matching of a reference's radiometry, the
moments of normalisation) is measured once for a scene and then kept, so that windows meet without seams.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from rsgeo_gan.errors import CheckpointError
from rsgeo_gan.inference.checkpoints import TRUSTED, build, fill, read_checkpoint, with_residual
from rsgeo_gan.inference.devices import device_of
from rsgeo_gan.inference.sharpfacts import SharpFacts
from rsgeo_gan.models import SceneNorm, collecting
from rsgeo_gan.models.matching import PATCH
from rsgeo_gan.provenance import digest_of

__all__ = ["COPIES", "Sharpened", "SuperResolver", "turned"]

COPIES = 8
"""Turned and mirrored copies that an image has, itself included."""


@dataclass(frozen=True)
class Sharpened:
    """What a network makes of a window.

    Attributes:
        image: Shape (B, C', s · h, s · w), model units, on the CPU.
        similarity: How alike the best place of the references is, shape (B, 1, h, w), -1 to 1; None without references.
        gate: Share of the reference's texture that is let in, shape (B, 1, h, w), 0 to 1; None likewise.
    """

    image: Tensor
    similarity: Tensor | None = None
    gate: Tensor | None = None


class SuperResolver:
    """A network of super-resolution, its scalers, and its halo.

    Attributes:
        network: The network, in evaluation mode, without gradients.
        facts: What the checkpoint knows about its data.
        digest: SHA-256 of the checkpoint file.
        scale: Pixels of the answer along a side of one of the scene's.
        halo_px: Margin, in pixels of the scene, that a window needs around the part that is kept.
        stride: Read origins must be whole multiples of this many pixels.
        noise_channels: 0; such networks take no noise.
        takes_reference: Whether the network takes references.
        least_px: Smallest side of a scene that it takes.
        precision: "fp32", or "bf16" for mixed precision.
    """

    noise_channels = 0

    def __init__(
        self,
        network: nn.Module,
        facts: SharpFacts,
        *,
        digest: str = "",
        device: str = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        self.precision = precision
        self.device = device_of(device)
        self.network = network.to(self.device).eval().requires_grad_(False)
        self.facts = facts
        self.digest = digest
        self.scale = int(getattr(network, "scale", 0))
        if self.scale != facts.scale:
            raise CheckpointError(
                f"{type(network).__name__} divides pixels by {self.scale or 'nothing it tells'}, the checkpoint's data "
                f"by {facts.scale}; train again with one scale."
            )
        known = inspect.signature(network.forward).parameters
        self.takes_reference = "reference" in known
        self._takes_mask = "mask" in known
        self.least_px = PATCH if self.takes_reference else 1
        self._radiometry: Tensor | None = None
        self.stride = int(getattr(network, "stride", 1))
        self.halo_px = _halo(network, self.stride)

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        trusted: Sequence[str] = TRUSTED,
        device: str = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> Self:
        """Read a checkpoint of a super-resolution.

        Where weights were averaged during training, the averaged ones are used: they are what the checkpoint's
        `state_dict` holds.

        Args:
            path: The `.ckpt` file.
            trusted: Packages whose networks may be built.
            device: Torch device of the network, or "auto" for a GPU where there is one.
            precision: Of the computation.

        Raises:
            CatalogError: If there is no such device.
            CheckpointError: If the file is missing, damaged, not one of ours, does not hold together, or is of another
                kind.
        """
        path = Path(path)
        device_of(device)
        content = read_checkpoint(path)
        digest = digest_of(path)
        facts = SharpFacts.read(content["rsgeo_gan"], path, digest)
        spec, weights = with_residual(content, "generator", "SummedResolvers")
        with torch.random.fork_rng(devices=[]):
            network = build(spec, tuple(trusted), f"{path}: generator")
        fill(network, weights, f"{path}: the weights of generator", str(content["rsgeo_gan"].get("version")))
        return cls(network, facts, digest=digest, device=device, precision=precision)

    def freeze(
        self,
        low: Tensor,
        mask: Tensor | None = None,
        reference: Tensor | None = None,
        mask_reference: Tensor | None = None,
    ) -> None:
        """Fix what depends on a whole scene to what sample windows of it say.

        Args:
            low: Windows, shape (N, C, h, w), model units.
            mask: Validity, shape (N, 1, h, w).
            reference: References on the finer grid, shape (N, R, Cr, s · h, s · w).
            mask_reference: Their validity, shape (N, R, s · h, s · w).
        """
        self._radiometry = None
        if self.takes_reference and reference is not None and hasattr(self.network, "radiometry"):
            network: Any = self.network
            # Clouds in one of the two alone would decide over mean and deviation; they lie beyond the training's range.
            mask, mask_reference = _within(low, mask, 1), _within(reference, mask_reference, 2)
            with torch.inference_mode():
                given = (
                    part if part is None else _side_by_side(part) for part in (low, reference, mask, mask_reference)
                )
                self._radiometry = network.radiometry(
                    *(part if part is None else part.to(self.device) for part in given)
                )
        if any(isinstance(module, SceneNorm) for module in self.network.modules()):
            with collecting(self.network):
                self(low, mask, reference, mask_reference)

    def __call__(
        self,
        low: Tensor,
        mask: Tensor | None = None,
        reference: Tensor | None = None,
        mask_reference: Tensor | None = None,
    ) -> Sharpened:
        """Sharpen a batch.

        Args:
            low: Images, shape (B, C, h, w), float32, model units, 0 where invalid.
            mask: Validity, shape (B, 1, h, w); None when all pixels count.
            reference: References on the finer grid, shape (B, R, Cr, s · h, s · w); None where there is none.
            mask_reference: Their validity, shape (B, R, s · h, s · w).

        Returns:
            The image, and what the references came to.
        """
        network: Any = self.network
        given: dict[str, Tensor | None] = {"mask": mask} if self._takes_mask else {}
        if self.takes_reference:
            if reference is None:
                reference, mask_reference = self._nothing(low)
            given |= {"reference": reference, "mask_reference": mask_reference}
        arguments: dict[str, Any] = {
            name: None if value is None else value.to(self.device) for name, value in given.items()
        }
        if self._radiometry is not None:
            arguments["radiometry"] = self._radiometry
        with (
            torch.inference_mode(),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"),
        ):
            if not self.takes_reference:
                return Sharpened(network(low.to(self.device), **arguments).float().cpu())
            found = network.transfer(low.to(self.device), **arguments)
            return Sharpened(*(part.float().cpu() for part in (found.image, found.similarity, found.gate)))

    def _nothing(self, low: Tensor) -> tuple[Tensor, Tensor]:
        """A reference that shows nothing anywhere."""
        bands = len(self.facts.reference.bands) if self.facts.reference is not None else 1
        shape = (len(low), 1, *(length * self.scale for length in low.shape[2:]))
        return torch.zeros(*shape[:2], bands, *shape[2:]), torch.zeros(shape)

    def spread(
        self,
        image: Tensor,
        low: Tensor,
        mask: Tensor | None = None,
        reference: Tensor | None = None,
        mask_reference: Tensor | None = None,
        *,
        copies: int = COPIES,
    ) -> Tensor:
        """Say how much the answer depends on which way up the image was shown.

        Args:
            image: The answer for the image as it is.
            low: See `__call__`, as the rest.
            mask: Validity.
            reference: References.
            mask_reference: Their validity.
            copies: Turned and mirrored copies to ask, 2 to 8, the image as it is counted.

        Returns:
            Standard deviation over the copies, model units, same shape as the image.
        """
        # Of deviations from the first answer, so that equal answers have a spread of exactly 0.
        total, squares = torch.zeros_like(image), torch.zeros_like(image)
        for turn, mirrored in list(_copies())[1:copies]:
            beside = (
                None if part is None else turned(part, turn, mirrored) for part in (mask, reference, mask_reference)
            )
            answer = self(turned(low, turn, mirrored), *beside).image
            apart = turned(answer, -turn, False).flip(-1) if mirrored else turned(answer, -turn, False)
            apart = apart - image
            total += apart
            squares += apart**2
        mean = total / copies
        return (squares / copies - mean**2).clamp_min(0).sqrt()


def _copies() -> Iterator[tuple[int, bool]]:
    """Quarter turns and mirrorings, the image as it is first, then those that differ most from it."""
    return (
        (turn, mirrored)
        for mirrored, turns in ((False, (0, 2)), (True, (0, 2)), (False, (1, 3)), (True, (1, 3)))
        for turn in turns
    )


def turned(image: Tensor, quarter_turns: int, mirrored: bool) -> Tensor:
    """Mirror an image left to right where asked, then turn it; over its last two dimensions."""
    return torch.rot90(image.flip(-1) if mirrored else image, quarter_turns, (-2, -1))


def _within(images: Tensor, mask: Tensor | None, bands: int) -> Tensor:
    """Validity of what lies within the range of the training in all bands; all of the valid where nothing does."""
    inside = (images.abs() <= 1).all(dim=bands, keepdim=bands == 1).to(images)
    inside = inside if mask is None else inside * mask
    return inside if inside.any() or mask is None else mask


def _side_by_side(windows: Tensor) -> Tensor:
    """Put windows (N, ..., h, w) below each other as one image (1, ..., N · h, w)."""
    return torch.cat(tuple(windows), dim=-2)[None]


def _halo(network: nn.Module, stride: int) -> int:
    radius = getattr(network, "receptive_radius_px", None)
    if radius is None:
        raise CheckpointError(
            f"{type(network).__name__} states no receptive_radius_px, so no halo makes its windows seamless: it looks "
            "at the whole image, as a global search of references or a constraint in Fourier space does. Train with a "
            "window of matching (window_px) and the local constraint."
        )
    return -(-int(radius) // stride) * stride

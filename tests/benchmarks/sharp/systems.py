"""The rungs, and one short training of each by the package's own tasks."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from rsgeo_gan.losses import LeastSquares, Perceptual
from rsgeo_gan.models import (
    RRDB,
    SRCNN,
    Bicubic,
    Constrained,
    PatchDiscriminator,
    RandomFeatures,
    SRResNet,
    TextureTransfer,
)
from rsgeo_gan.tasks import AdversarialTask, ReferenceSuperResolution, SuperResolution
from sharp.data import MTF, Part, Scene

EPOCHS = 10
_WHOLE = 0.95


@dataclass(frozen=True)
class Size:
    """How large networks and trainings are.

    Attributes:
        width: Channels of the networks.
        blocks: Residual blocks of SRResNet; RRDB has a quarter of them.
        side_px: Side of the patches, coarse pixels at scale 4; half as much again at scale 2.
        batch: Patches in a batch.
        steps: Batches of a training; those that start from a trained network take half.
        lr: Learning rate, a tenth of it in the last quarter.
        decay: Of the moving average of the weights.
        window_px: How far around its place a match is looked for, coarse pixels.
        device: Lightning's accelerator.
    """

    width: int = 16
    blocks: int = 4
    side_px: int = 16
    batch: int = 4
    steps: int = 400
    lr: float = 1e-3
    decay: float = 0.98
    window_px: int = 4
    device: str = "cpu"


FULL = Size(64, 16, 32, 16, 40_000, 2e-4, 0.999, 8, "auto")


@dataclass(frozen=True)
class Scaled:
    """A scene in the model domain, with the numbers that lead back: value = low + (model + 1) / 2 * span."""

    scene: Scene
    train: Part
    test: Part
    low: Tensor
    span: Tensor

    def physical(self, image: Tensor) -> Tensor:
        """Bring an image in the model domain back to the units of the scene."""
        return (image + 1) / 2 * self.span + self.low


def scaled(scene: Scene) -> Scaled:
    """Bring a scene to the model domain by the 0.1 and 99.9 % quantiles of the piece to learn from; nothing is cut."""
    ends = _ends(scene.train.truth, scene.train.mask)
    seen = scene.train.reference, scene.train.mask_reference
    ends_reference = None if seen[0] is None or seen[1] is None else _ends(seen[0], seen[1])

    def brought(part: Part) -> Part:
        low, truth = _model(part.low, ends, part.mask_low), _model(part.truth, ends, part.mask)
        part = replace(part, low=low, truth=truth)
        if ends_reference is None or part.reference is None or part.mask_reference is None:
            return part
        return replace(part, reference=_model(part.reference, ends_reference, part.mask_reference))

    return Scaled(scene, brought(scene.train), brought(scene.test), *ends)


def _model(image: Tensor, ends: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
    low, span = ends
    return (2 * (image - low) / span - 1) * mask


def _ends(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    values = image[0].flatten(1)[:, mask.flatten() > 0]
    values = values[:, :: values.shape[1] // 200_000 + 1]
    low, high = (values.quantile(q, dim=1)[None, :, None, None] for q in (0.001, 0.999))
    return low, high - low


class Patches(IterableDataset[dict[str, Tensor]]):
    """Batches of random patches of a piece, flipped and turned alike on both grids.

    Args:
        part: Model domain.
        scale: Fine pixels per coarse pixel.
        side: Of the patches, coarse pixels.
        batch: Patches in a batch.
        length: Batches in an epoch.
        seed: Of the draws.
    """

    def __init__(self, part: Part, scale: int, side: int, batch: int, length: int, seed: int) -> None:
        self.part, self.scale, self.batch, self.length = part, scale, batch, length
        self.side = min(side, *part.low.shape[-2:])
        self.draw = torch.Generator().manual_seed(seed)
        whole = F.avg_pool2d(part.mask, self.side * scale, scale)[0, 0]
        self.corners = (whole >= _WHOLE).nonzero().tolist()

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for _ in range(self.length):
            yield self._batch()

    def _batch(self) -> dict[str, Tensor]:
        names = {
            "image": (self.part.low, 1),
            "mask_valid": (self.part.mask_low, 1),
            "image_target": (self.part.truth, self.scale),
            "mask_valid_target": (self.part.mask, self.scale),
            "image_reference": (self.part.reference, self.scale),
            "mask_reference": (self.part.mask_reference, self.scale),
        }
        found: dict[str, list[Tensor]] = {}
        for _ in range(self.batch):
            corner, turns, flip = (int(torch.randint(n, (), generator=self.draw)) for n in (len(self.corners), 4, 2))
            y, x = self.corners[corner]
            for name, (image, step) in names.items():
                if image is None:
                    continue
                cut = image[0, :, y * step : (y + self.side) * step, x * step : (x + self.side) * step]
                cut = torch.rot90(cut, turns, (1, 2))
                found.setdefault(name, []).append(cut.flip(2) if flip else cut)
        return {name: torch.stack(cuts) for name, cuts in found.items()}


RUNGS = ("bicubic", "SRCNN", "SRResNet", "RRDB", "adversarial", "SRNTT-l2", "SRNTT")
"""From the plainest up; the last three start from the trained SRResNet."""
CONTROLS = (
    "SRResNet, longer",
    "SRResNet + local",
    "SRResNet + mtf",
    "SRNTT-l2, fed the input",
    "SRNTT-l2, no gate",
    "SRNTT, no gate",
    "SRNTT-l2, truth not shown",
)
"""SRResNet trained as long as those that start from it, and under two constraints; a transfer as large whose reference
is the enlarged input; transfers that trust every reference alike; one that never sees the truth as a reference, which
the others do in a quarter of their samples."""
LAST = "SRResNet, longer"
"""The control without which what starts from the trained SRResNet has an advantage of batches."""
PLAIN = ("SRCNN", "SRResNet", "RRDB")


def transfers(name: str) -> bool:
    """Tell whether a rung takes a reference."""
    return name.startswith("SRNTT")


def feeds(name: str) -> bool:
    """Tell whether a network gets its own enlarged input for a reference."""
    return "fed" in name


def enlarged(part: Part, scene: Scene) -> tuple[Tensor, Tensor]:
    """Return the input by bicubic interpolation in the place of the reference, and its validity."""
    wide = F.interpolate(part.low, scale_factor=scene.scale, mode="bicubic")
    found = wide.new_zeros(1, 1 + max(at for _, at in scene.common), *wide.shape[-2:])
    for band, at in scene.common:
        found[:, at] = wide[:, band]
    return found, part.mask


def train(name: str, data: Scaled, seed: int, size: Size, content: nn.Module | None) -> tuple[nn.Module, float]:
    """Train one rung.

    Args:
        name: Of `RUNGS` or `CONTROLS`.
        data: Scene in the model domain.
        seed: Of weights and patches.
        size: Of network and training.
        content: SRResNet of this seed; None for the plain rungs.

    Returns:
        Network with averaged weights, in evaluation mode, and the seconds it took.

    Raises:
        ValueError: If a rung needs the trained SRResNet or a reference and there is none.
    """
    seed_everything(seed, verbose=False)
    bands, scale = data.train.truth.shape[1], data.scene.scale
    if name == "bicubic":
        return Bicubic(bands, bands, scale=scale).eval(), 0.0
    if name in PLAIN:
        return _fitted(SuperResolution(_plain(name, bands, scale, size), **_rates(size)), data.train, scale, seed, size)
    if content is None:
        raise ValueError(f"{name} starts from the trained SRResNet of its seed; train that first")
    if "+" in name:
        return Constrained(content, form="mtf" if "mtf" in name else "local", mtf=MTF).eval(), 0.0
    size, content = replace(size, steps=size.steps // 2), copy.deepcopy(content)
    if name == LAST:
        return _fitted(SuperResolution(content, **_rates(size)), data.train, scale, seed, size)
    judges: dict[str, Any] = {}
    if name == "adversarial" or "l2" not in name:
        judges = {
            "discriminator": PatchDiscriminator(bands, size.width, layers=2),
            "adversarial": LeastSquares(),
            "perceptual": Perceptual(RandomFeatures(bands, width=size.width // 2, seed=1, orthogonal=True)),
        }
    if name == "adversarial":
        weights = {"pixel": 1.0, "perceptual": 0.005, "adversarial": 0.01}
        return _fitted(
            SuperResolution(content, **judges, weights=weights, **_rates(size)), data.train, scale, seed, size
        )
    part = data.train
    if part.reference is None or part.mask_reference is None:
        raise ValueError(f"{name}: the scene {data.scene.name} has no reference to learn from")
    if feeds(name):
        reference, seen = enlarged(part, data.scene)
        part = replace(part, reference=reference, mask_reference=seen)
    features = RandomFeatures(len(data.scene.common), width=size.width // 2, seed=0, orthogonal=True)
    network = TextureTransfer(
        content,  # type: ignore[arg-type]
        features,
        common=data.scene.common,
        window_px=size.window_px,
        gate="no gate" not in name,
        blocks=max(1, size.blocks // 2),
        mtf=MTF,
    )
    weights = {"reconstruction": 1.0, "texture": 0.0, "perceptual": 0.0, "adversarial": 0.0}
    if judges:
        weights |= {"texture": 0.005, "perceptual": 0.005, "adversarial": 0.01}
    more = _rates(size) | ({"truth_share": 0.0} if "not shown" in name or feeds(name) else {})
    task = ReferenceSuperResolution(network, **judges, weights=weights, **more)
    return _fitted(task, part, scale, seed, size)


def _plain(name: str, bands: int, scale: int, size: Size) -> nn.Module:
    makers: dict[str, Callable[[], nn.Module]] = {
        "SRCNN": lambda: SRCNN(bands, bands, scale=scale, width=2 * size.width),
        "SRResNet": lambda: SRResNet(bands, bands, scale=scale, width=size.width, blocks=size.blocks),
        "RRDB": lambda: RRDB(bands, bands, scale=scale, width=size.width, blocks=max(1, size.blocks // 4)),
    }
    return makers[name]()


def empty(data: Scaled, size: Size) -> nn.Module:
    """Return an SRResNet for a scene whose weights are still to be filled in."""
    return _plain("SRResNet", data.train.truth.shape[1], data.scene.scale, size)


def _rates(size: Size) -> dict[str, Any]:
    return {"lr": size.lr, "lr_discriminator": 0.3 * size.lr, "drop_at": 0.75, "clip_norm": 1.0}


def _fitted(task: AdversarialTask, part: Part, scale: int, seed: int, size: Size) -> tuple[nn.Module, float]:
    side = size.side_px * (3 if scale == 2 else 2) // 2
    batches = Patches(part, scale, side, size.batch, size.steps // EPOCHS, seed)
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator=size.device,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[EMAWeightAveraging(decay=size.decay, use_buffers=False)],
    )
    start = time.perf_counter()
    trainer.fit(task, train_dataloaders=DataLoader(batches, batch_size=None))
    network: nn.Module = task.generator  # type: ignore[assignment]
    return network.cpu().eval(), time.perf_counter() - start

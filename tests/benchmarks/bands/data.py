"""Images to learn: waves of known frequencies, and chips of a real optical scene."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import rasterio
import torch
from torch import Tensor

from rsgeo_gan.metrics import planted_waves

COUNT = 2000
"""Images to learn and, drawn apart, to be judged on: twice as many at most."""


@dataclass(frozen=True)
class Data:
    """Images in [-1, 1], shape (N, C, H, W).

    Attributes:
        train: To learn.
        test: Of other seeds or another part of the scene.
        waves: Planted waves (kx, ky); none for scenes.
        gsd_m: Size of a pixel, metres; 0 for waves.
    """

    train: Tensor
    test: Tensor
    waves: tuple[tuple[int, int], ...] = ()
    gsd_m: float = 0.0


def toy(side_px: int) -> Data:
    """Mean, a slow and a fast wave of equal distribution, at 1/32 and 5/16 cycles per pixel along both axes."""
    slow, fast = side_px // 32, 5 * side_px // 16
    waves = ((0, 0), (slow, slow), (fast, fast))
    train, test = (planted_waves(COUNT, side_px, waves, seed) / len(waves) for seed in (7, 23))
    return Data(train, test, waves)


def optical(folder: Path | None, side_px: int) -> Data | None:
    """Chips on multiples of 16 px of 8-bit scenes of three bands; the last quarter of the columns is for judging.

    The carriers of the reference's branches have whole periods there, so chips need no place.
    """
    paths = sorted(folder.rglob("*_s2rgb.tif")) if folder and folder.is_dir() else []
    chips: dict[str, list[Tensor]] = {"train": [], "test": []}
    gsd = 0.0
    for path in paths:
        with rasterio.open(path) as scene:
            if min(scene.shape) < 512 or scene.count != 3:
                continue
            values, gsd = torch.from_numpy(scene.read()).float(), abs(scene.transform.a)
        border = values.shape[2] * 3 // 4 // 16 * 16
        for kind, part in (("train", values[..., :border]), ("test", values[..., border:])):
            cut = part.unfold(1, side_px, side_px).unfold(2, side_px, side_px)  # (3, rows, columns, H, W)
            cut = cut.permute(1, 2, 0, 3, 4).flatten(0, 1)
            # Display values are clipped at zero where the scene ends.
            chips[kind].append(cut[(cut > 0).float().mean(dim=(1, 2, 3)) > 0.95])
    if not chips["train"]:
        return None
    order = torch.Generator().manual_seed(0)
    found = {}
    for kind, parts in chips.items():
        whole = torch.cat(parts)
        found[kind] = whole[torch.randperm(len(whole), generator=order)[: 2 * COUNT]] / 127.5 - 1
    return Data(found["train"], found["test"][:COUNT], gsd_m=gsd)

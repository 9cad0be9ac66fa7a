"""Judges sets of generated images against real ones, where no image has a partner: distances, spectra, coverage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn

from rsgeo_gan.metrics import (
    FeatureBackend,
    RandomConv,
    frechet_distance,
    kernel_distance,
    precision_recall,
    radial_psd,
)

__all__ = ["LEAST_PX", "Judge", "least_contrast"]

LEAST_PX = 16
"""Side of images below which random features do not describe them."""

_DIMS = 16
"""Length of a description where there are real images enough for it."""
_FITTED = ("mean", "deviation", "centre", "axes")
_KINDS = ("real", "fake")
_NEIGHBOURS = 3
_FLOOR = 1e-12
"""Least power of a spectrum, in squared units of the model domain."""


class Judge:
    """Collects real and generated images of an epoch and compares the two sets.

    Without a backend it makes a `RandomConv` of its own, which it standardises once, on the first set of real images;
    until then it keeps images, afterwards descriptions only. A few dozen images allow fewer than its 16
    dimensions. Everything is compared over all processes.

    Args:
        backend: Feature network, ready for use; a random one when None.
    """

    def __init__(self, backend: FeatureBackend | None = None) -> None:
        self.backend = backend
        self._fits = backend is None
        self.forget()

    def forget(self) -> None:
        """Forget the images taken in, but not how features are standardised."""
        self._images: dict[str, list[tuple[Tensor, Tensor]]] = {kind: [] for kind in _KINDS}
        self._features: dict[str, list[Tensor]] = {kind: [] for kind in _KINDS}
        self._spectra: dict[str, list[Tensor]] = {kind: [] for kind in _KINDS}

    @property
    def name(self) -> str:
        """Name of the features, which a distance has to carry; empty while there are none."""
        return "" if self.backend is None else self.backend.name

    @torch.no_grad()
    def add(self, kind: str, images: Tensor, mask: Tensor) -> None:
        """Take in images, "real" or "fake", shape (B, C, H, W), model domain, and their validity (B, 1, H, W)."""
        whole = mask.flatten(1).bool().all(dim=1)
        if whole.any():
            self._spectra[kind].append(radial_psd(images[whole]).cpu())
        if self.backend is None:
            self._images[kind].append((images.float().cpu(), mask.float().cpu()))
        else:
            self._features[kind].append(self._described(images, mask))

    def _described(self, images: Tensor, mask: Tensor) -> Tensor:
        if isinstance(self.backend, nn.Module):
            self.backend.to(images.device)
        assert self.backend is not None
        return self.backend.describe(images.float(), mask).float().cpu()

    @torch.no_grad()
    def scores(self) -> dict[str, Tensor]:
        """Compare what was taken in and forget it.

        Returns:
            `fd` and `kd`, the Fréchet and the kernel distance; `precision` and `recall`; `spectrum_db`, the log
            spectral distance of wholly valid images, dB; `images`, how many of a kind were compared. NaN where there
            are too few.
        """
        if self.backend is None:
            self._fit()
        sets = [_gathered(self._features[kind]) for kind in _KINDS]
        spectra = [_gathered(self._spectra[kind]) for kind in _KINDS]
        self.forget()
        real, fake = (x[torch.isfinite(x).all(dim=1)] for x in sets)
        nothing = torch.tensor(torch.nan)
        found = dict.fromkeys(("fd", "kd", "precision", "recall", "spectrum_db"), nothing)
        found["images"] = torch.tensor(float(min(len(real), len(fake))))
        if min(len(real), len(fake)) > 1:
            found |= {"fd": frechet_distance(real, fake).float(), "kd": kernel_distance(real, fake).float()}
            found |= dict(zip(("precision", "recall"), _coverage(real, fake), strict=True))
        if all(len(x) for x in spectra):
            one, other = (x.mean(dim=0).clamp_min(_FLOOR) for x in spectra)
            found["spectrum_db"] = (10 * torch.log10(other / one)).square().mean(dim=-1).sqrt().mean()
        return found

    def _fit(self) -> None:
        """Standardise the random features on the real images that are held, then describe all that are."""
        held = {kind: _all_processes(images) for kind, images in self._images.items()}
        count = sum(len(images) for images, _ in held["real"])
        own = self._images
        self._images = {kind: [] for kind in _KINDS}
        if count < 2:
            return
        backend = RandomConv(held["real"][0][0].shape[1], dims=min(_DIMS, max(1, (count - 1) // 2)))
        try:
            self.backend = backend.fit(held["real"])
        except ValueError:  # too few images with a wholly valid neighbourhood
            return
        for kind, batches in own.items():
            self._features[kind] = [self._described(images, mask) for images, mask in batches]

    def state(self) -> dict[str, Any]:
        """Return the standardisation of the own features, plain types and tensors."""
        if not self._fits or not isinstance(self.backend, RandomConv):
            return {}
        fitted = {name: getattr(self.backend, name).cpu() for name in _FITTED}
        return {"in_bands": self.backend.in_bands, "dims": self.backend.dims, **fitted}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        if not state or not self._fits:
            return
        backend = RandomConv(int(state["in_bands"]), dims=int(state["dims"]))
        for name in _FITTED:
            getattr(backend, name).copy_(state[name])
        self.backend = backend


def least_contrast(fake: Tensor, real: Tensor) -> float:
    """Return the deviation of generated images (B, C, H, W) over that of real ones, within or between, the smaller."""
    shares = []
    for dims in ((2, 3), (0,)) if len(real) > 1 else ((2, 3),):
        one, other = (images.float().std(dim=dims).mean() for images in (fake, real))
        shares.append(one / other.clamp_min(1e-6))
    return float(torch.stack(shares).min())


def _coverage(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Precision and recall of the manifolds of neighbours; NaN where there are fewer images than neighbours."""
    if min(len(real), len(fake)) <= _NEIGHBOURS:
        return torch.tensor(torch.nan), torch.tensor(torch.nan)
    precision, recall = precision_recall(real, fake, k=_NEIGHBOURS)
    return torch.as_tensor(precision).float(), torch.as_tensor(recall).float()


def _gathered(parts: list[Tensor]) -> Tensor:
    found = _all_processes(parts)
    return torch.cat(found) if found else torch.empty(0, 1)


def _all_processes[T](parts: list[T]) -> list[T]:
    """Return the parts of all processes, those of the first one first."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return parts
    every: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(every, parts)
    return [part for one in every for part in one]

"""Radial power spectra: does a generated image have the texture of a real one, scale by scale."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["high_frequency_ratio", "log_spectral_distance", "radial_frequencies", "radial_psd"]


def radial_frequencies(size: int) -> Tensor:
    """Return the ring frequencies of `radial_psd` for images of this smaller side, in cycles per pixel."""
    return torch.arange(1, size // 2 + 1) / size


def radial_psd(image: Tensor) -> Tensor:
    """Compute the power spectral density averaged over rings.

    Per band the mean is removed and a 2-D Hann window applied; P = |FFT|² / Σ w², so white noise of
    variance v gives v at all frequencies. Rings are one frequency step of the smaller side wide. Use
    wholly valid tiles only: a filled hole is a texture of its own.

    Args:
        image: Shape (B, C, H, W), H and W >= 4, finite.

    Returns:
        Shape (B, C, N), N = min(H, W) // 2; ring k holds frequency (k + 1) / min(H, W) cycles per pixel, up to
        Nyquist. The mean (frequency 0) is left out. Units: the image's, squared.

    Raises:
        ValueError: If the image is too small or not finite.
    """
    if image.ndim != 4 or min(image.shape[-2:]) < 4:
        raise ValueError(f"radial_psd: expected (B, C, H, W) with H, W >= 4, got {tuple(image.shape)}")
    if not torch.isfinite(image).all():
        raise ValueError("radial_psd: the image holds values that are not finite; use wholly valid tiles")
    h, w = image.shape[-2:]
    side = min(h, w)
    x = image.float()
    rows = torch.hann_window(h, periodic=True, device=x.device)
    columns = torch.hann_window(w, periodic=True, device=x.device)
    window = rows[:, None] * columns
    share = window / window.sum()
    x = (x - (x * share).sum(dim=(2, 3), keepdim=True)) * window
    power = torch.fft.rfft2(x).abs().square() / window.square().sum()  # (B, C, H, W // 2 + 1)
    fy = torch.fft.fftfreq(h, device=x.device)[:, None]
    fx = torch.fft.rfftfreq(w, device=x.device)
    ring = torch.round(torch.sqrt(fy.square() + fx.square()) * side).long()
    # The half plane stands for the whole: inner columns count twice.
    twice = torch.full((w // 2 + 1,), 2.0, device=x.device)
    twice[0] = 1.0
    if w % 2 == 0:
        twice[-1] = 1.0
    weight = twice.expand(h, -1).flatten()
    index = ring.flatten()
    n = side // 2
    total = power.new_zeros(*power.shape[:2], int(index.max()) + 1)
    total.index_add_(2, index, power.flatten(2) * weight)
    count = torch.zeros(total.shape[2], device=x.device).index_add_(0, index, weight)
    return (total / count.clamp_min(1.0))[..., 1 : n + 1]


def log_spectral_distance(pred: Tensor, target: Tensor, *, floor: float = 1e-12) -> Tensor:
    """Root mean square difference of two sets' mean radial spectra, in dB, averaged over bands.

    Spectra are averaged over each set first: single speckled tiles scatter.

    Args:
        pred: Shape (B, C, H, W).
        target: Shape (B', C, H, W), same units; the number of tiles may differ.
        floor: Least power, in squared units, so that an empty spectrum stays finite.

    Returns:
        Scalar, dB, >= 0; 10·log10(g²) for pred = g * target.

    Raises:
        ValueError: If bands or sizes differ.
    """
    if pred.shape[1:] != target.shape[1:]:
        raise ValueError(
            f"log_spectral_distance: expected equal bands and sizes, got {tuple(pred.shape)} and {tuple(target.shape)}"
        )
    a, b = (radial_psd(v).mean(dim=0).clamp_min(floor) for v in (pred, target))  # (C, N)
    return (10.0 * torch.log10(a / b)).square().mean(dim=1).sqrt().mean()


def high_frequency_ratio(image: Tensor, above: float = 0.25) -> Tensor:
    """Share of the spectrum's energy at and above a frequency.

    Args:
        image: Shape (B, C, H, W).
        above: Cycles per pixel, in (0, 0.5].

    Returns:
        Per sample and band, shape (B, C), in [0, 1]; 0 for a constant image. White noise gives
        about 0.76 at 1/4 (rings up to Nyquist, weighted by their circumference).
    """
    psd = radial_psd(image)
    frequency = radial_frequencies(min(image.shape[-2:])).to(psd)
    energy = psd * frequency
    return energy[..., frequency >= above].sum(dim=-1) / energy.sum(dim=-1).clamp_min(1e-30)

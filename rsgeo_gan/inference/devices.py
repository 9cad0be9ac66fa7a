"""Which device networks compute on, by name."""

from __future__ import annotations

import re

import torch

from rsgeo_gan.errors import CatalogError

__all__ = ["device_of"]


def device_of(name: str) -> torch.device:
    """Return a device by name, if it can be computed on.

    Args:
        name: Torch's name, such as `cpu`, `cuda` or `cuda:1`, or `auto` for a GPU where there is one.

    Raises:
        CatalogError: If there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = re.split(r"\.\s|\n", str(error).strip())[0].rstrip(".")
        raise CatalogError(
            f"Device {name!r} cannot be used here ({reason}); expected auto, cpu, or a GPU that this machine has, such "
            "as cuda."
        ) from error
    return device

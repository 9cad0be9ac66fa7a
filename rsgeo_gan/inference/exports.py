"""Reads the folder `rsgeo-gan export` wrote, without pickle: a description in JSON, weights in safetensors.

The description names every file with its SHA-256, and a weights file is read only when its digest agrees.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from rsgeo_gan.errors import CheckpointError

__all__ = ["DESCRIPTION", "FORMAT", "read_export", "read_tensors"]

DESCRIPTION = "model.json"
"""Name of the file that makes a folder an export."""

FORMAT = 1
"""Of the description; a reader refuses newer ones."""

_ADVICE = "export the checkpoint again with `rsgeo-gan export`"


def read_export(folder: Path) -> dict[str, Any]:
    """Read the description of an export.

    Args:
        folder: The folder.

    Returns:
        Its content: `format`, `version`, `task`, `checkpoint` (SHA-256 of the checkpoint), `facts`, `generators` (by
        direction: `class_path`, `init_args`, names of files) and `files` (SHA-256 by name).

    Raises:
        CheckpointError: If the folder is no export, is damaged, or was written by a newer version.
    """
    path = folder / DESCRIPTION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder}: not an export: expected a folder with {DESCRIPTION}; give the folder that `rsgeo-gan export` "
            "wrote, or a .ckpt file."
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); {_ADVICE}.") from error
    found = content.get("format") if isinstance(content, Mapping) else None
    if not isinstance(found, int):
        raise CheckpointError(f"{path}: does not describe an export: expected a `format`, got {found!r}; {_ADVICE}.")
    if found > FORMAT:
        raise CheckpointError(
            f"{path}: export format {found}, written by version {content.get('version')} of this package; this version "
            f"reads up to {FORMAT}. Install the newer version, or {_ADVICE}."
        )
    expected = {
        "version": str,
        "task": str,
        "checkpoint": str,
        "facts": Mapping,
        "generators": Mapping,
        "files": Mapping,
    }
    wrong = [key for key, kind in expected.items() if not isinstance(content.get(key), kind)]
    if wrong or not all(isinstance(given, Mapping) for given in content["generators"].values()):
        raise CheckpointError(f"{path}: damaged: {', '.join(wrong) or 'generators'} missing or malformed; {_ADVICE}.")
    return dict(content)


def read_tensors(folder: Path, content: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """Read a safetensors file of an export.

    Args:
        folder: The folder.
        content: Its description.
        name: Name of the file, as the description gives it.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        CheckpointError: If the file is missing, is not the one that was exported, or is damaged.
    """
    path = folder / Path(name).name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); {_ADVICE}.") from error
    wanted, found = str(content["files"].get(name)), hashlib.sha256(data).hexdigest()
    if found != wanted:
        raise CheckpointError(
            f"{path}: not the file that was exported: expected SHA-256 {wanted[:12]}…, got {found[:12]}…; it was "
            f"changed or damaged. Restore it, or {_ADVICE}."
        )
    try:
        return load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error}); {_ADVICE}.") from error

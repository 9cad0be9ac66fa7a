"""Published checkpoints: stored under their digest, never changed, with one pin naming the current one."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rsgeo_gan.errors import CheckpointError, ProductError
from rsgeo_gan.manifest import write_json

__all__ = ["Published", "file_sha256", "publish", "read_pin"]

PIN = "current.json"


@dataclass(frozen=True)
class Published:
    """A checkpoint that products may name.

    Args:
        path: The checkpoint file.
        digest: SHA-256 of the file, hexadecimal.
        recipe: Name of the recipe it was trained with.
        trained_on: Digest of the training tiles, hexadecimal.
        new: Whether this call trained or moved the pin.
    """

    path: Path
    digest: str
    recipe: str
    trained_on: str = ""
    new: bool = False


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_pin(models: Path) -> Published | None:
    """Return the pinned checkpoint of a models folder, or None where nothing was published yet.

    Raises:
        CheckpointError: If the pin is damaged, or its checkpoint is missing or has another digest.
    """
    pin = models / PIN
    if not pin.is_file():
        return None
    try:
        data = json.loads(pin.read_text(encoding="utf-8"))
        path, digest = models / str(data["path"]), str(data["sha256"])
        recipe, trained_on = str(data["recipe"]), str(data.get("trained_on", ""))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"Pin {pin} is damaged: expected JSON with path, sha256 and recipe, got {error!r}. Delete it to train anew."
        ) from error
    if not path.is_file():
        raise CheckpointError(
            f"Pin {pin} names {path.name}, which is not there. Restore the file, or delete the pin to train anew."
        )
    found = file_sha256(path)
    if found != digest:
        raise CheckpointError(
            f"Checkpoint {path} is not the published one: expected SHA-256 {digest[:12]}…, got {found[:12]}…. "
            "Restore the file, or delete the pin to train anew."
        )
    return Published(path=path, digest=digest, recipe=recipe, trained_on=trained_on)


def publish(checkpoint: Path, models: Path, *, recipe: str, trained_on: str) -> Published:
    """Copy a checkpoint into the models folder under its digest and move the pin to it.

    Older checkpoints stay, so the products that name them remain explained.

    Args:
        checkpoint: The checkpoint training left.
        models: Folder of published checkpoints; created.
        recipe: Name or path of the recipe.
        trained_on: Digest of the training tiles.

    Raises:
        ProductError: If the folder cannot be written or the disk is full.
    """
    digest = file_sha256(checkpoint)
    name = Path(recipe).stem
    target = models / f"{name}-{digest[:12]}.ckpt"
    try:
        models.mkdir(parents=True, exist_ok=True)
        if not target.is_file() or file_sha256(target) != digest:
            # A name of its own: other calls, also of this process, may publish the same checkpoint.
            with tempfile.TemporaryDirectory(dir=models, prefix=f".{name}.", suffix=".part") as folder:
                shutil.copyfile(checkpoint, part := Path(folder) / target.name)
                part.replace(target)
        write_json(
            models / PIN,
            {
                "path": target.name,
                "sha256": digest,
                "recipe": name,
                "trained_on": trained_on,
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )
    except OSError as error:
        raise ProductError(
            f"Checkpoint {target} cannot be published: {error}. Free space or fix permissions."
        ) from error
    return Published(path=target, digest=digest, recipe=name, trained_on=trained_on, new=True)

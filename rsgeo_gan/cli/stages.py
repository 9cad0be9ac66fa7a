"""The chain: whole, as a demonstration, or stage by stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
import yaml

from rsgeo_gan.catalog import Catalog
from rsgeo_gan.chain import Job
from rsgeo_gan.cli.options import (
    CatalogOption,
    DirectionOption,
    OutOption,
    RecipeOption,
    SetOption,
    TrainOption,
    make_job,
    read_settings,
)
from rsgeo_gan.cli.running import run_job
from rsgeo_gan.cli.shell import app
from rsgeo_gan.manifest import write_text

__all__ = ["demo", "generate", "run", "train_command"]


@app.command()
def demo(out: OutOption = Path("out/demo")) -> None:
    """Make a small synthetic scene pair, train on it and generate: about ten minutes on two cores.

    Example: rsgeo-gan demo --out out/demo
    """
    run_job(Job("sample", str(out), recipe="translation-small"))


@app.command(
    epilog="Examples: rsgeo-gan run --catalog catalogs/sample.yaml --out out/sample; "
    "rsgeo-gan run --source EO.tif --target SAR.tif --out out/mine --direction both"
)
def run(
    out: OutOption,
    catalog: Annotated[str | None, typer.Option("--catalog", "-c", help="Catalogue: a YAML file or a name.")] = None,
    source: Annotated[Path | None, typer.Option(help="EO raster of your own, instead of a catalogue.")] = None,
    target: Annotated[Path | None, typer.Option(help="SAR raster of your own, instead of a catalogue.")] = None,
    source_sensor: Annotated[str | None, typer.Option(help="Sensor of --source; default: told from the file.")] = None,
    target_sensor: Annotated[str | None, typer.Option(help="Sensor of --target; default: told from the file.")] = None,
    train: TrainOption = "if_missing",
    direction: DirectionOption = "",
    recipe: RecipeOption = "",
    settings: SetOption = None,
) -> None:
    """Run the whole chain: ingest, coregister, tile, train, generate, report."""
    by_files = source is not None or target is not None
    if by_files == (catalog is not None) or (source is None) != (target is None):
        raise typer.BadParameter("give either --catalog, or both --source and --target", param_hint="--catalog")
    extra = read_settings(settings)
    if source is not None and target is not None:
        made = Catalog.for_files(
            source, target, source_sensor=source_sensor, target_sensor=target_sensor, settings=extra
        )
        text = yaml.safe_dump(made.model_dump(mode="json", exclude_unset=True), sort_keys=False)
        catalog, extra = str(write_text(out / "catalog.yaml", text)), {}
    run_job(make_job(str(catalog), out, train, direction, recipe, extra))


def _stage_command(name: str, text: str) -> None:
    """Add one stage as a command of its own."""

    def command(catalog: CatalogOption, out: OutOption, settings: SetOption = None) -> None:
        run_job(make_job(catalog, out, "if_missing", "", "", read_settings(settings)), (name,))

    command.__doc__ = f"{text}\n\nExample: rsgeo-gan {name} --catalog catalogs/sample.yaml --out out/sample"
    app.command(name)(command)


_stage_command("ingest", "Find, fetch and check the scenes of a catalogue.")
_stage_command("tile", "Warp both sides onto one grid, once, and cut it into tiles.")
_stage_command("report", "Write the report: map, quick-looks, scores, what was dropped and why.")


@app.command("train")
def train_command(
    catalog: CatalogOption,
    out: OutOption,
    train: TrainOption = "if_missing",
    recipe: RecipeOption = "",
    settings: SetOption = None,
) -> None:
    """Train on the tiles, or continue a killed training, and publish the checkpoint.

    Example: rsgeo-gan train --catalog catalogs/sample.yaml --out out/sample --train finetune
    """
    run_job(make_job(catalog, out, train, "", recipe, read_settings(settings)), ("train",))


@app.command()
def generate(
    catalog: CatalogOption,
    out: OutOption,
    direction: DirectionOption = "",
    checkpoint: Annotated[
        Path | None, typer.Option(help="A .ckpt file or an exported folder, instead of the published checkpoint.")
    ] = None,
    settings: SetOption = None,
) -> None:
    """Generate one GeoTIFF per scene with the published checkpoint, or with another one.

    Example: rsgeo-gan generate --catalog catalogs/sample.yaml --out out/sample --direction both
    """
    job = make_job(catalog, out, "never", direction, "", read_settings(settings))
    run_job(replace(job, checkpoint=str(checkpoint or "")), ("generate",))

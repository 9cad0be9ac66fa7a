"""The command that makes synthetic images: a whole synthesis from a catalogue, or images of one checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rsgeo_gan import chain
from rsgeo_gan.catalog import products_of
from rsgeo_gan.chain import SynthesisJob
from rsgeo_gan.cli.options import OutOption, RecipeOption, SetOption, TrainOption, read_settings, read_train, refuse
from rsgeo_gan.cli.running import progress_bar, run_whole, table_of, wide_console
from rsgeo_gan.cli.shell import app
from rsgeo_gan.manifest import Manifest

__all__ = ["synthesize_command"]


@app.command(
    "synthesize",
    epilog="Examples: rsgeo-gan synthesize --catalog catalogs/synthesis.yaml --out out/synthesis; "
    "rsgeo-gan synthesize best.ckpt --tiles out/synthesis/tiles --out out/more --count 50 --classes forest,water",
)
def synthesize_command(
    context: typer.Context,
    out: OutOption,
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="CHECKPOINT", help="The .ckpt file of a synthesis, instead of a catalogue.", show_default=False
        ),
    ] = None,
    catalog: Annotated[
        str | None, typer.Option("--catalog", "-c", help="Catalogue of a synthesis: collect, train, make, report.")
    ] = None,
    tiles: Annotated[
        Path | None,
        typer.Option(help="Tiles that give place and conditions to a checkpoint: tiles.json, or its folder."),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Images of each class; default: the catalogue's, or 16.")
    ] = None,
    classes: Annotated[str | None, typer.Option(metavar="NAME,NAME", help="Classes to make; default: all.")] = None,
    psi: Annotated[
        float | None, typer.Option(min=0, max=2, help="Truncation: 1 the whole variety, 0 the average image.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the noise.")] = None,
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda", help="Where images are made; pixels differ by rounding.")
    ] = "cpu",
    train: TrainOption = "if_missing",
    recipe: RecipeOption = "",
    settings: SetOption = None,
) -> None:
    """Make labelled, georeferenced, clearly synthetic images from noise."""
    if (checkpoint is None) == (catalog is None):
        raise typer.BadParameter("give either CHECKPOINT, or --catalog", param_hint="CHECKPOINT")
    wanted = {
        "products.count": count,
        "products.classes": None if classes is None else [name.strip() for name in classes.split(",")],
        "products.truncation": psi,
        "products.seed": seed,
    }
    chosen = {**read_settings(settings), **{key: value for key, value in wanted.items() if value is not None}}
    if catalog is not None:
        refuse(context, "--catalog", "tiles")
        mode = read_train(train)
        job = SynthesisJob(catalog, str(out), train=mode, recipe=recipe, settings=chosen, device=device)
        titles = {"classes": "Images", "scores": "Scores, 95 % intervals"}
        run_whole(job, chain.synthesis_headline, titles, "synthetic images")
    elif checkpoint is not None:
        refuse(context, "CHECKPOINT", "train", "recipe")
        _images(checkpoint, tiles, out, chosen, device)


def _images(checkpoint: Path, tiles: Path | None, out: Path, chosen: dict[str, Any], device: str) -> None:
    """Make images of one checkpoint, and pictures of them."""
    settings = products_of(chosen)
    places = None if tiles is None else Manifest.read(tiles)
    from rsgeo_gan.inference.synthesis import synthesize

    with progress_bar("synthesize") as progress:
        made = synthesize(checkpoint, out / "products", settings, tiles=places, device=device, progress=progress)
        pictures = chain.show(checkpoint, out / "products", out / "report", settings, tiles, device, progress)
    console = wide_console()
    console.print(table_of("Images", chain.class_rows(places, made)))
    console.print(f"{len(made)} synthetic images in {out / 'products'}", highlight=False, soft_wrap=True)
    for picture in pictures:
        console.print(f"Picture: {picture}", highlight=False, soft_wrap=True)

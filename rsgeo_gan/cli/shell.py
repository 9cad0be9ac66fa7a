"""The application itself: its options, how errors become messages, and the exit codes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from typer.core import TyperGroup

from rsgeo_gan import __version__
from rsgeo_gan.errors import FailedShareError, RSGeoGANError, TrainingError

__all__ = ["EXIT_ERROR", "app", "main", "screen"]

EXIT_ERROR, EXIT_USAGE, EXIT_FAILED_SHARE, EXIT_TRAINING, EXIT_INTERRUPTED = 1, 2, 3, 4, 130

_ORDER = (
    "demo",
    "run",
    "ingest",
    "coregister",
    "tile",
    "train",
    "generate",
    "synthesize",
    "superres",
    "score",
    "export",
    "displacement",
    "report",
)
"""Commands as the help lists them; LightningCLI's own follow."""

screen = Console(stderr=True)
_debug = False


class _Commands(TyperGroup):
    """Turns errors meant for the user into one message and an exit code; lists commands as they are needed."""

    def list_commands(self, ctx: Any) -> list[str]:
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (RSGeoGANError, OSError) as error:
            if _debug:
                raise
            screen.print(f"Error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(_exit_code(error)) from error
        except KeyboardInterrupt as error:
            screen.print("Interrupted. Start again to continue; finished work is kept.")
            raise typer.Exit(EXIT_INTERRUPTED) from error


def _exit_code(error: BaseException) -> int:
    if isinstance(error, FailedShareError):
        return EXIT_FAILED_SHARE
    return EXIT_TRAINING if isinstance(error, TrainingError) else EXIT_ERROR


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 wrong input or output (the message says what), 2 wrong usage, "
    "3 more scenes failed than the catalogue accepts, 4 the training process failed, 130 interrupted.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_print_version),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug messages.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what each stage does.")] = False,
) -> None:
    """Turn imperfectly aligned EO and SAR rasters into trained models and CRS-exact GeoTIFFs.

    Begin with [bold]rsgeo-gan demo[/bold].
    """
    global _debug
    _debug = debug
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
    messages = logging.getLogger("rsgeo_gan")
    messages.setLevel(level)
    messages.handlers = [RichHandler(console=screen, show_path=debug, show_time=False)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ends the process with an exit code."""
    # Threads that spin while they wait cost more than they bring as soon as a core is shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="rsgeo-gan")

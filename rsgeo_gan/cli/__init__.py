"""The command line: every stage and the whole chain with progress, and LightningCLI's commands untouched.

Exit codes: 0 done; 1 something in the input or output is wrong and the message says what; 2 wrong usage;
3 more scenes or pairs failed than the catalogue accepts; 4 the training process failed; 130 interrupted.
"""

from __future__ import annotations

from rsgeo_gan.cli import (  # noqa: F401  (each adds its commands)
    coregister,
    fitting,
    models,
    score,
    stages,
    superres,
    synthesize,
)
from rsgeo_gan.cli.shell import app, main

__all__ = ["app", "main"]

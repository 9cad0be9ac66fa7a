"""The order of the stages, in one place: what the command line and the flows both walk through.

A run is described by text and paths only (`Job`, `SynthesisJob`, `SuperresJob`), so that it can be handed to another
process. Every stage reads what the earlier ones left in the output folder, does what is missing, and says how much was
new.
"""

from __future__ import annotations

from rsgeo_gan.chain.stages import Outcome, Plan, Stage, nothing_new, prepare, run_stage, stage_named
from rsgeo_gan.chain.superres import SUPERRES, SuperresJob, superres_headline
from rsgeo_gan.chain.synthesis import SYNTHESIS, SynthesisJob, class_rows, show, synthesis_headline
from rsgeo_gan.chain.translation import DIRECTIONS, STAGES, Direction, Job, headline

__all__ = [
    "DIRECTIONS",
    "STAGES",
    "SUPERRES",
    "SYNTHESIS",
    "Direction",
    "Job",
    "Outcome",
    "Plan",
    "Stage",
    "SuperresJob",
    "SynthesisJob",
    "class_rows",
    "headline",
    "nothing_new",
    "prepare",
    "run_stage",
    "show",
    "stage_named",
    "superres_headline",
    "synthesis_headline",
]

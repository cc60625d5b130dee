"""Where a run is: the counters that its checkpoints keep."""

from __future__ import annotations

from dataclasses import dataclass, field

from trainer.training.lineage import Origin


@dataclass(kw_only=True)
class TrainState:
    """Counters that a checkpoint keeps; everything else of a run follows from these, the weights and the config."""

    step: int = 0
    """Optimizer steps done."""
    samples_seen: int = 0
    """Items of the stream consumed: the cursor. Items of steps skipped for overflow count."""
    best_score: float | None = None
    """Best validation score so far; None before the first."""
    best_step: int = 0
    """Step of the best score."""
    validations_since_best: int = 0
    """For early stopping."""
    loss_scale: dict[str, float] = field(default_factory=dict)
    """State of the fp16 loss scale."""
    tracking_run_id: str = ""
    """MLflow's run, continued on resume."""
    started_from: tuple[Origin, ...] = ()
    """Trainings whose weights this one began with; see :class:`trainer.training.task.BaseTask`."""

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
    skipped_steps: int = 0
    """Optimizer steps that changed nothing because their gradients were not finite."""
    overflow_steps: int = 0
    """Of these, the ones that did no more than lower the fp16 loss scale."""
    forgiven_steps: int = 0
    """Skipped steps that count no more: those before the latest rollback."""
    rollbacks: int = 0
    """How often the run went back to a checkpoint because too many steps were skipped."""
    loss_scale: dict[str, float] = field(default_factory=dict)
    """State of the fp16 loss scale."""
    tracking_run_id: str = ""
    """MLflow's run, continued on resume."""
    started_from: tuple[Origin, ...] = ()
    """Trainings whose weights this one began with; see :class:`trainer.training.task.BaseTask`."""

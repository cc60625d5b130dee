"""The training loop: it knows neither what it trains nor who watches.

A task names its losses and scores itself; callbacks see the loop, which knows nothing of logging, tracking or when to save.
:mod:`trainer.run` sets both up and hands over to :meth:`Loop.train`.

Optimizer step t takes items ``[t*G, (t+1)*G)`` of the endless stream, G the global batch size; the learning rate, the order,
augmentation and dropout by item are functions of the step and the seed. So the only state is weights, moments and a few counters.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from data_prep.contract.errors import CommandError, StudyError, UserError
from data_prep.contract.seed import SEED_LIMIT
from trainer.distributed.precision import LossScale
from trainer.distributed.world import World
from trainer.training import checkpoint, rollback
from trainer.training.callback import Callback
from trainer.training.clock import Clock, memory_gib
from trainer.training.config import RunConfig
from trainer.training.finite import Buffers, all_ranks_finite, first_said, not_finite
from trainer.training.joined import Comparing, JoinedStep
from trainer.training.optimizer import learning_rate
from trainer.training.own_draws import SENTENCE, generators, have_moved, seed_generators
from trainer.training.run_folder import RunFolder
from trainer.training.task import Task, say
from trainer.training.watched import Watched

_ADVICE = "lower optimizer.lr, or check the data"


class Loop(Watched):
    """One run. Public attributes are for callbacks to read; ``stop_reason`` and ``state`` for them to set."""

    def __init__(
        self,
        config: RunConfig,
        task: Task,
        world: World,
        device: torch.device,
        engine: Any,
        folder: RunFolder,
        callbacks: Sequence[Callback],
    ) -> None:
        super().__init__(task, world, device, folder, callbacks)
        self.config, self.task, self.engine = config, task, engine
        self.train_config = config.train
        self.num_steps = self.train_config.num_steps(task.num_items)
        self.loss_scale = LossScale(engine, self.train_config.precision)
        accumulates = self.train_config.forwards(world.size) > 1
        self.joined = JoinedStep(engine, task, self.loss_scale, device) if isinstance(task, Comparing) and accumulates else None
        """How a step is computed whose batches are compared with each other; None: each batch is a loss by itself."""
        self.last_losses: list[Tensor] = []
        """Of the latest step, by micro-batch, on this rank."""
        self.buffers = Buffers(engine.module)
        self.skipped = 0
        """Steps in a row, the latest the last of them, that changed nothing."""
        self.fault_seen = ""
        """What was wrong with this rank's inputs, in a sentence; empty: nothing was seen."""
        self.checked_step = -1
        self.save_owed = False
        self.draws_known = False

    def train(self) -> str:
        """Train to the end, after :meth:`start`; returns why it ended: ``finished``, ``early stopping`` or ``signal``."""
        self._each("on_begin")
        self.engine.train()  # what is loaded by from_pretrained comes in eval mode
        clock = Clock()
        self.saved_at = time.monotonic()
        with contextlib.closing(self.task.batches(self.state.samples_seen)) as batches:
            while self.state.step < self.num_steps and not self.stop_reason:
                with clock.waiting():
                    host = next(batches)
                self.fault_seen = self.fault_seen or host.fault
                losses = self._optimizer_step(self.task.prepare(host, self.state.step))
                if self.skipped and self._account_for_skip(host):
                    clock.restart()
                    continue
                clock.samples += self.train_config.global_batch_size
                self._each("on_step")
                if self.train_config.log_items:
                    self._log_items(host)
                if self.state.step % self.train_config.log_every_steps == 0 or self.state.step == self.num_steps:
                    self._log(losses, clock)
                if self.validation_due():
                    self._validate()
                    clock.restart()
                self._each("after_step")
                if self.save_owed and not self.skipped:
                    self.save()
                self.folder.heartbeat(self.state.step)
                agreed = self.stop_signal.agreed(save_due=self._minutes_are_over(self.config.checkpoint.every_minutes))
                if agreed.stop:
                    self.stop_reason = "signal"
                elif agreed.save and self.state.step - self.saved_step > 1:  # ranks may have asked once more before they saved
                    self.save()
        reason = "finished" if self.state.step >= self.num_steps else self.stop_reason
        self._each("on_end", reason)
        return reason

    def validation_due(self) -> bool:
        """Whether the step just done is followed by a validation."""
        every, step = self.train_config.validate_every_steps, self.state.step
        return self.task.score_name is not None and (step == self.num_steps or (every > 0 and step % every == 0))

    def save(self, *, best: bool = False) -> None:
        """Checkpoint the present step with all ranks (once); with ``best`` it holds an export, too, and ``best`` and ``export/`` follow it.

        At a step whose loss was no number, weights that have not been scored are saved after the next one, unless this is the last.

        Raises
        ------
        CommandError, StudyError
            The step's loss, the weights it led to or the running statistics are not finite, or a shard that was read is not what was
            written: earlier checkpoints stay.
        """
        self._settle()
        sealed = self.saved_step == self.state.step
        if not sealed and not best and self._postponed():
            return
        self.save_owed = False
        self.check_finite(scored=best and self.state.best_score is not None)
        if sealed and not best:
            return
        if not sealed:
            self.state.loss_scale = self.loss_scale.state_dict()
        path = checkpoint.save(
            self.engine,
            self.folder,
            self.state,
            self.world,
            keep_last=self.config.checkpoint.keep_last,
            export=self._export if best else None,
            sealed=sealed,
            without_frozen=self.task.frozen_elsewhere,
        )
        self.saved_step, self.saved_at = self.state.step, time.monotonic()
        if not sealed:
            self._each("on_checkpoint", path)

    def _export(self, weights: dict[str, Tensor], output: Path) -> None:
        self.task.export(weights, output, self.state.step)

    def _postponed(self) -> bool:
        """Whether the present weights are to be seen at work once more before they are saved."""
        last = self.state.step >= self.num_steps or bool(self.stop_reason)
        self.save_owed = self.skipped == 1 and not last and not all_ranks_finite(self.last_losses)
        return self.save_owed

    def check_finite(self, *, scored: bool = False, whose: str = "") -> None:
        """Refuse weights and running statistics that are not finite, and unless the weights have been ``scored`` a loss that is not; a
        collective. ``whose``: a checkpoint that they were loaded from."""
        if self.checked_step == self.state.step:
            return
        if self.last_losses and not scored:
            loss = torch.stack(self.last_losses).float().mean()
            dist.all_reduce(loss)
            self._check_loss(float(loss))
        # A step whose loss is a number may still have led to weights that are none.
        if name := not_finite(self.engine):
            if whose:
                raise CommandError(f"{whose}: {name} is not finite: resume from an earlier checkpoint")
            raise CommandError(f"the weights after step {self.state.step} are not finite (first {name}): {_ADVICE}")
        self.checked_step = self.state.step

    def _check_loss(self, loss: float) -> None:
        if not math.isfinite(loss):
            self._raise_fault()
            raise CommandError(f"the loss is {loss} at step {self.state.step}: {_ADVICE}")

    def _raise_fault(self) -> None:
        """End all ranks alike if any has seen inputs that are not finite."""
        if fault := first_said(self.fault_seen):
            raise StudyError(fault)

    def _account_for_skip(self, host: Any) -> bool:
        """Bad inputs end the run on all ranks alike; else the step is undone, counted and said. One too many ends the run, unless it can go
        back to a checkpoint: whether it did, after which nothing of the step is left."""
        self.fault_seen = self.fault_seen or self.task.fault_of(host)
        self._raise_fault()
        self.buffers.restore()
        state = self.state
        scaled = self.loss_scale.lowered and all_ranks_finite(self.last_losses)
        state.skipped_steps += 1
        state.overflow_steps += scaled
        reason = f"lowered the loss scale to {self.loss_scale.scale:g}" if scaled else "its gradients were not finite"
        self.folder.event("skipped", step=state.step, skipped_steps=state.skipped_steps, samples_seen=state.samples_seen, reason=reason)
        self._each("on_skip", reason)
        count, most = state.skipped_steps - state.overflow_steps - state.forgiven_steps, self.train_config.max_skipped_steps
        if count <= most:
            return False
        if self._roll_back():
            return True
        facts = {"count": count, "max_skipped_steps": most, "rollbacks": state.rollbacks, "lr": self.engine.optimizer.param_groups[0]["lr"]}
        report = checkpoint.on_rank_0(self.world, lambda: str(rollback.write_report(self.folder, self.state, facts)))
        since = f", after {state.rollbacks} rollback{'s' if state.rollbacks > 1 else ''}" if state.rollbacks else ""
        raise CommandError(
            f"{count} optimizer steps until step {state.step} were skipped because their gradients were not finite, "
            f"train.max_skipped_steps allows {most}{since}: {_ADVICE}; {report} has them"
        )

    def _roll_back(self) -> bool:
        """Go back to the last whole checkpoint, if that may be done and there is one; a collective."""
        if self.state.rollbacks >= self.train_config.max_rollbacks:
            return False
        found = checkpoint.on_rank_0(self.world, lambda: rollback.last_whole(self.folder, self.world))
        if not found:
            return False
        apart = self.folder.apart
        here = Path(found) if apart is None else apart.bring(Path(found), Path(found).name)
        saved, before = checkpoint.read_checkpoint(here), self.state
        checkpoint.load(self.engine, saved, None, without_frozen=self.task.frozen_elsewhere)
        dist.barrier()
        if apart is not None:
            apart.forget()
        self.state = rollback.state_after(saved.state, before)
        if self.state.loss_scale:
            self.loss_scale.load_state_dict(self.state.loss_scale)
        self.saved_step, self.checked_step = self.state.step, -1
        self.last_losses, self.skipped, self.save_owed = [], 0, False
        checkpoint.on_rank_0(self.world, lambda: rollback.wind_back(self.folder, Path(found), self.state, step=before.step))
        self._each("on_rollback", before.step)
        return True

    def _optimizer_step(self, batches: Sequence[Any]) -> dict[str, Tensor]:
        self.buffers.keep()
        lr = learning_rate(self.state.step, self.num_steps, self.config.optimizer)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_factor", 1.0)
        # For what draws from torch's own stream (ours draws by item): by seed, step and rank, so that a resumed run draws the same.
        seed = ((self.train_config.seed * 1_000_003 + self.state.step) * 4099 + self.world.rank) % SEED_LIMIT
        seed_generators(seed, self.device)
        before = None if self.draws_known else generators(self.device)
        # Other ranks learn of inputs that are not finite by gradients that are not: nobody has to be asked at every step.
        spoil = math.nan if self.fault_seen else 1.0
        if self.joined is not None:
            parts = [self.joined.backward(batches, spoil=spoil)]
            applied = self.loss_scale.step()
        else:
            parts = []
            for batch in batches:
                losses = self.task.losses(self.engine, batch)
                self.loss_scale.backward(losses["loss"] * spoil if self.fault_seen else losses["loss"])
                applied = self.loss_scale.step()
                parts.append({name: value.detach() for name, value in losses.items()})
        if before is not None:
            self._tell_of_draws(before)
        self.task.constrain(self.engine.module)
        self.skipped = 0 if applied else self.skipped + 1
        self.last_losses = [part["loss"] for part in parts]
        self.state.step += 1
        self.state.samples_seen += self.train_config.global_batch_size
        return {name: torch.stack([part[name].float() for part in parts]).mean(dim=0) for name in parts[0]}

    def _tell_of_draws(self, before: list[Tensor]) -> None:
        """Once, after the first step: the losses would be others on another number of ranks."""
        self.draws_known = True
        if have_moved(before, generators(self.device)):
            self.folder.event("note", message=SENTENCE)
            say(self.world, SENTENCE)

    def _log(self, losses: dict[str, Tensor], clock: Clock) -> None:
        values = torch.stack([value.detach().float() for value in losses.values()])
        dist.all_reduce(values)
        metrics = dict(zip(losses, (values / self.world.size).tolist(), strict=True))
        if self.skipped:
            metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        else:
            self._check_loss(metrics["loss"])
        metrics["skipped_steps"] = self.state.skipped_steps
        metrics["lr"] = self.engine.optimizer.param_groups[0]["lr"]
        metrics |= clock.restart() | {"memory_gib": memory_gib(self.device)}
        self.folder.metrics(self.state.step, metrics)
        self._each("on_metrics", metrics)

    def _log_items(self, host: Any) -> None:
        mine = torch.as_tensor(host.item_B).to(self.device)
        every = mine.new_empty(self.world.size * len(mine))
        dist.all_gather_into_tensor(every, mine)
        self.folder.items(self.state.step, every.tolist())

    def _validate(self) -> None:
        self.engine.eval()
        try:
            scores = self.task.validate(self.engine)
        except UserError as error:
            if type(error) is not UserError:  # that names a file or an option
                raise
            raise CommandError(f"validation at step {self.state.step}: {error}: {_ADVICE}") from error
        self.engine.train()
        self._settle()
        for name, value in scores.items():
            if not math.isfinite(value):
                raise CommandError(f"validation at step {self.state.step}: {name} is {value}, expected a number: {_ADVICE}")
        score = scores[str(self.task.score_name)]
        improved = self.state.best_score is None or score > self.state.best_score
        if improved:
            self.state.best_score, self.state.best_step, self.state.validations_since_best = score, self.state.step, 0
        else:
            self.state.validations_since_best += 1
        self.folder.metrics(self.state.step, {f"validation_{name}": value for name, value in scores.items()})
        self._each("on_validation", scores, improved)

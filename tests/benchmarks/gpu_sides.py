"""Our trainer and transformers' own, tuning the same model on the same packed rows; each measures optimizer steps.

M: rows of packed tokens.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.gpu_llm import Items, Shape, allocation_retries, free, make_base, make_items, now, peak_memory, reset_memory
from trainer.data import random
from trainer.distributed import world as worlds
from trainer.distributed.deepspeed_config import ZeroConfig, build_deepspeed_config
from trainer.distributed.world import World
from trainer.models.contrastive import ContrastiveModelConfig
from trainer.models.language.adapter import AdapterConfig, attach_adapter
from trainer.models.language.base import BaseConfig, prepare_base
from trainer.models.language.eeg_language_model import EEGLanguageModel
from trainer.models.language.llm import embedding_rms
from trainer.models.language.prefix import PrefixConfig
from trainer.models.language.quiet import quiet
from trainer.models.language.rows import TextRows
from trainer.training.callback import Callback
from trainer.training.config import CheckpointConfig, TrainConfig
from trainer.training.loop import Loop
from trainer.training.optimizer import OptimizerConfig
from trainer.training.run_folder import RunFolder
from trainer.training.task import BaseTask


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How one side trains."""

    four_bit: bool = False
    checkpointing: bool = False
    compile: bool = False

    def __str__(self) -> str:
        parts = [
            "4-bit NF4" if self.four_bit else "bf16",
            "activation checkpointing" * self.checkpointing,
            "compiled layers" * self.compile,
        ]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Timed steps."""

    rows: int
    seconds: float
    tokens: int
    supervised: int
    loss: float
    memory_bytes: int
    retried: bool
    """The allocator had to give cached memory back: too full to be fast."""

    @property
    def tokens_per_second(self) -> float:
        """Real tokens, padding not counted."""
        return self.tokens / self.seconds


class Ours:
    """The trainer's loop around a DeepSpeed engine around :class:`EEGLanguageModel`; items come as image embeddings and EEG."""

    name = "trainer"

    def __init__(self, shape: Shape, setting: Setting, device: torch.device, folder: Path) -> None:
        import deepspeed

        self.shape, self.setting, self.device = shape, setting, device
        self.folder = RunFolder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        worlds.start_distributed(World(), device, 600.0)
        torch.manual_seed(0)
        base = BaseConfig(
            quantisation="4bit" if setting.four_bit else "none", activation_checkpointing=setting.checkpointing, compile=setting.compile
        )
        llm = prepare_base(make_base(shape, device, four_bit=setting.four_bit), base, device, training=True)
        self.n_chans, self.n_times, embedding_dim = 17, 100, 512
        encoder = ContrastiveModelConfig().build(
            n_chans=self.n_chans, n_times=self.n_times, sfreq=100.0, num_subjects=1, embedding_dim=embedding_dim
        )
        projector = PrefixConfig().build(embedding_dim, shape.hidden, embedding_rms(llm))
        llm = attach_adapter(llm, AdapterConfig())
        model = EEGLanguageModel(
            encoder=encoder.to(device), tune_encoder=False, projector=projector.to(device), llm=llm, precision="bf16", device=device
        )
        self.attention = llm.config._attn_implementation
        self.optimizer = OptimizerConfig(lr=1e-4, gradient_clipping=1.0)
        config = build_deepspeed_config(zero=ZeroConfig(stage=2), world=World(), micro_batch_size=1, gradient_clipping=1.0)
        self.engine, *_ = deepspeed.initialize(model=model.train(), optimizer=self.optimizer.build(model), config=config)

    def measure(self, rows: int, warm: int, steps: int) -> Measured:
        """Time ``steps`` optimizer steps of one micro-batch of ``rows`` rows after ``warm`` others."""
        batches = [make_items(self.shape, rows, seed) for seed in range(warm + steps)]
        task = _Task(self, batches)
        timer = _Timer(self.device, warm)
        train = TrainConfig(steps=warm + steps, global_batch_size=1, precision="bf16", log_every_steps=warm + steps)
        config: Any = SimpleNamespace(train=train, optimizer=self.optimizer, checkpoint=CheckpointConfig())
        reset_memory(self.device)
        Loop(config, task, World(), self.device, self.engine, self.folder, [timer]).train()  # type: ignore[arg-type]
        return timer.measured(batches, timer.loss)

    def close(self) -> None:
        """Free the device."""
        self.engine.destroy()
        self.engine.module = None
        del self.engine
        free(self.device)
        worlds.stop_distributed()


class _Task(BaseTask):
    """Items as the trainer's text task prepares them, but for the loader: EEG and embeddings lie on the device already."""

    score_name = None

    def __init__(self, side: Ours, batches: Sequence[Items]) -> None:
        super().__init__()
        self.side, self.remaining = side, iter(batches)
        self.study: dict[str, str] = {}
        self.num_items = len(batches)
        most = max(len(items.prompts) for items in batches)
        self.eeg_BCT = torch.randn(most, side.n_chans, side.n_times, device=side.device)
        self.target_BE = torch.randn(most, 512, device=side.device)

    def batches(self, start: int) -> Any:
        return self

    def close(self) -> None:
        """Nothing is open."""

    def __next__(self) -> Items:
        return next(self.remaining)

    def prepare(self, host: Items, step: int) -> list[tuple[TextRows, int]]:
        return [(host.build().to(self.side.device), len(host.prompts))]

    def losses(self, model: Any, batch: tuple[TextRows, int]) -> dict[str, Tensor]:
        rows, count = batch
        image_B = torch.arange(count, device=self.side.device) % 2 == 0
        subject_B = torch.zeros(count, dtype=torch.int64, device=self.side.device)
        shown = {"eeg_BCT": self.eeg_BCT[:count], "subject_B": subject_B, "target_BE": self.target_BE[:count], "image_B": image_B}
        key_B = random.hash_torch(torch.arange(count, device=self.side.device), device=self.side.device)
        out = model(rows, "both", **shown, key_B=key_B)
        return {"loss": out.loss_sum / rows.num_tokens, "token_accuracy": out.num_correct / rows.num_tokens}


class _Timer(Callback):
    """Seconds from the end of the last warming step to that of the last one."""

    def __init__(self, device: torch.device, warm: int) -> None:
        self.device, self.warm, self.loss = device, warm, float("nan")
        self.step = self.started = self.ended = 0.0
        self.retries = 0

    def on_step(self, loop: Any) -> None:
        self.after(loop.state.step, loop.num_steps)

    def on_metrics(self, loop: Any, metrics: dict[str, float]) -> None:
        self.loss = metrics["loss"]

    def after(self, step: int, last: int) -> None:
        """Call after each step."""
        if step == self.warm:
            self.started, self.retries = now(self.device), allocation_retries(self.device)
        if step == last:
            self.ended = now(self.device)

    def measured(self, batches: Sequence[Items], loss: float) -> Measured:
        timed = batches[self.warm :]
        return Measured(
            rows=timed[0].rows,
            seconds=self.ended - self.started,
            tokens=sum(items.num_tokens for items in timed),
            supervised=sum(items.num_supervised for items in timed),
            loss=loss,
            memory_bytes=peak_memory(self.device),
            retried=allocation_retries(self.device) > self.retries,
        )


class Transformers:
    """Plain transformers Trainer with PEFT, as its documentation has it: labels with -100, bf16, sdpa (or FlashAttention) as installed."""

    name = "transformers Trainer + peft"

    def __init__(self, shape: Shape, setting: Setting, device: torch.device, folder: Path) -> None:
        from peft import LoraConfig, get_peft_model

        self.shape, self.setting, self.device, self.folder = shape, setting, device, folder
        torch.manual_seed(0)
        ours = AdapterConfig()
        llm = make_base(shape, device, four_bit=setting.four_bit)
        for parameter in llm.parameters():
            parameter.requires_grad_(False)
        llm.config.use_cache = False
        self.attention = llm.config._attn_implementation
        lora = LoraConfig(r=ours.r, lora_alpha=ours.alpha, lora_dropout=ours.dropout, target_modules="all-linear", task_type="CAUSAL_LM")
        with quiet():
            self.model = get_peft_model(llm, lora)

    def measure(self, rows: int, warm: int, steps: int) -> Measured:
        """As :meth:`Ours.measure`, through ``Trainer.train``."""
        from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

        batches = [make_items(self.shape, rows, seed) for seed in range(warm + steps)]
        timer = _Timer(self.device, warm)

        class Clock(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                timer.after(state.global_step, warm + steps)

        with _no_launcher(), quiet():
            arguments = TrainingArguments(
                output_dir=str(self.folder),
                per_device_train_batch_size=rows,
                max_steps=warm + steps,
                learning_rate=1e-4,
                bf16=True,
                max_grad_norm=1.0,
                gradient_checkpointing=self.setting.checkpointing,
                gradient_checkpointing_kwargs={"use_reentrant": False},
                torch_compile=self.setting.compile,
                logging_strategy="no",
                save_strategy="no",
                eval_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=self.device.type == "cpu",
                remove_unused_columns=False,
                label_names=["labels"],
            )
            if self.setting.checkpointing:
                self.model.enable_input_require_grads()
            dataset = [row for items in batches for row in dataset_rows(items)]
            trainer = Trainer(model=self.model, args=arguments, train_dataset=_InOrder(dataset), callbacks=[Clock()])
            trainer.remove_callback(PrinterCallback)
            reset_memory(self.device)
            loss = trainer.train().training_loss
        self.model.zero_grad(set_to_none=True)
        return timer.measured(batches, loss)

    def close(self) -> None:
        """Free the device."""
        del self.model
        free(self.device)


class _InOrder(torch.utils.data.Dataset):
    def __init__(self, rows: list[dict[str, Tensor]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return self.rows[number]


def dataset_rows(items: Items) -> list[dict[str, Tensor]]:
    """The same packed rows for a plain causal language model: ids (ordinary ones in prefix slots), positions, labels."""
    rows = items.build()
    ids, labels = rows.ids_ML.clone(), torch.full_like(rows.ids_ML, -100)
    inside = rows.target_T % rows.ids_ML.shape[1] < rows.ids_ML.shape[1] - 1  # transformers looks for labels one place on
    labels.view(-1)[rows.target_T[inside] + 1] = rows.label_T[inside]
    ids.view(-1)[rows.slot_N] = 5
    return [{"input_ids": i, "position_ids": p, "labels": t} for i, p, t in zip(ids, rows.position_ML, labels, strict=True)]


@contextlib.contextmanager
def _no_launcher() -> Iterator[None]:
    """Without the launcher's variables, by which accelerate would wrap the model for several ranks."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)

"""Whether the trainer computes on a GPU what it computes on the CPU: quick checks, a row each.

Every check is a function of the device; on the CPU itself they rehearse.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tests.benchmarks.report import row
from tests.distributed.launcher import ROOT, free_port
from tests.distributed.training import make_study
from tests.helpers.tiny_llm import write_tiny_llm
from trainer.models.contrastive import ContrastiveModelConfig
from trainer.models.language import kernels
from trainer.models.language.adapter import AdapterConfig, attach_adapter
from trainer.models.language.base import BaseConfig, load_base, load_tokenizer
from trainer.models.language.decoding import DecodingConfig
from trainer.models.language.eeg_language_model import EEGLanguageModel
from trainer.models.language.llm import embedding_rms, hidden_size
from trainer.models.language.prefix import PrefixConfig
from trainer.models.language.prompt import PromptConfig, Prompter
from trainer.models.language.rows import build_rows
from trainer.training.run_folder import read_lines

CAPTIONS = ["a red star", "a large blue disc on sand in the top left", "a small green ring", "snow", "a yellow square on the brick wall"]
Precision = Literal["fp32", "bf16"]


class TinyText:
    """A tiny text model with weights made on the CPU, and a batch of captions for it."""

    def __init__(self, folder: Path, device: torch.device, precision: Precision, **base: Any) -> None:
        self.device = device
        where = folder / "tiny-llm"
        if not where.is_dir():
            write_tiny_llm(where, hidden=128)
        config = BaseConfig(name=str(where), **({"dtype": precision} | base))
        llm = load_base(config, device, training=True)
        torch.manual_seed(0)
        encoder = ContrastiveModelConfig(eeg_head="linear").build(n_chans=4, n_times=100, sfreq=100.0, num_subjects=1, embedding_dim=32)
        projector = PrefixConfig(hidden=64).build(32, hidden_size(llm), embedding_rms(llm))
        llm = attach_adapter(llm, AdapterConfig(dropout=0.0))
        for name, parameter in llm.named_parameters():
            if "lora_" in name:
                parameter.data = (torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1).to(device)
        self.model = EEGLanguageModel(
            encoder=encoder.to(device), tune_encoder=False, projector=projector.to(device), llm=llm, precision=precision, device=device
        ).train()
        self.prompter = Prompter(load_tokenizer(config), PromptConfig(), 4, 256)
        self.eeg_BCT, self.target_BE = torch.randn(len(CAPTIONS), 4, 100).to(device), torch.randn(len(CAPTIONS), 32).to(device)

    def loss(self, *, pack_length: int | None = None) -> Tensor:
        """Mean cross-entropy of the captions, half of them from EEG."""
        prompts = [self.prompter.encode()] * len(CAPTIONS)
        rows = build_rows(prompts, [self.prompter.target(caption) for caption in CAPTIONS], 4, pack_length=pack_length).to(self.device)
        count = len(CAPTIONS)
        out = self.model(
            rows,
            "both",
            eeg_BCT=self.eeg_BCT,
            subject_B=torch.zeros(count, dtype=torch.int64, device=self.device),
            target_BE=self.target_BE,
            image_B=torch.arange(count, device=self.device) % 2 == 0,
        )
        return out.loss_sum / rows.num_tokens

    def gradient(self, **options: Any) -> tuple[float, Tensor]:
        """The loss, and the gradients of adapter and projector as one vector on the CPU."""
        self.model.zero_grad()
        loss = self.loss(**options)
        loss.backward()
        return float(loss.detach()), torch.cat([p.grad.flatten().cpu() for p in self.model.parameters() if p.grad is not None])

    def generate(self) -> list[str]:
        """Greedy captions from EEG."""
        self.model.eval()
        subject_B = torch.zeros(len(CAPTIONS), dtype=torch.int64, device=self.device)
        features = self.model.features("eeg", eeg_BCT=self.eeg_BCT, subject_B=subject_B)
        prompts = [self.prompter.encode()] * len(CAPTIONS)
        return self.model.generate(features, prompts, DecodingConfig(max_new_tokens=12), self.prompter)


def run_checks(folder: Path, device: torch.device) -> list[dict[str, Any]]:
    """All checks; one that fails to run is a broken promise."""
    make = functools.partial(TinyText, folder)
    checks: list[tuple[str, str, float, Callable[[], float | None]]] = [
        ("text loss, device against CPU in float32", "relative", 1e-3, lambda: _loss_error(make, device)),
        ("text gradients, device against CPU in float32", "relative", 1e-3, lambda: _gradient_error(make, device)),
        ("packed rows against padded ones, float32", "relative", 1e-4, lambda: _packed_error(make(device, "fp32"))),
        ("packed rows against padded ones, bf16", "relative", 1e-2, lambda: _packed_error(make(device, "bf16"))),
        ("bf16 autocast against float32", "relative", 2e-2, lambda: _autocast_error(make, device)),
        ("fused LoRA against PEFT's, gradients in bf16", "relative", 3e-2, lambda: _fused_error(make(device, "bf16"))),
        ("4-bit loss, device against CPU", "relative", 2e-2, lambda: _four_bit_error(make, device)),
        ("FlashAttention 2 against sdpa, bf16", "relative", 1e-2, lambda: _flash_error(make, device)),
        ("greedy captions that differ from the CPU's, float32", "captions", 0.0, lambda: _captions_that_differ(make, device)),
    ]
    rows = []
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        for name, unit, target, check in checks:
            try:
                value = check()
            except Exception as error:  # every other check still has something to say
                print(f"check failed to run: {name}: {type(error).__name__}: {' '.join(str(error).split())[:400]}", flush=True)
                rows.append(row(f"gpu check: {name}", None, unit, target, False))
                continue
            if value is None:
                print(f"check left out, its package is not installed: {name}", flush=True)
            else:
                rows.append(row(f"gpu check: {name}", value, unit, target, value <= target))
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
    if device.type == "cuda":
        attend = kernels.variable_length_attention()
        runs = attend is not None and kernels.agrees(attend, device, 32, 8, 128)
        rows.append(row("gpu check: torch's attention for packed rows runs here", float(runs), "", 1.0, runs))
    return rows


def _loss_error(make: Callable[..., TinyText], device: torch.device) -> float:
    mine, cpu = (make(where, "fp32").gradient(pack_length=128)[0] for where in (device, torch.device("cpu")))
    return abs(mine - cpu) / abs(cpu)


def _gradient_error(make: Callable[..., TinyText], device: torch.device) -> float:
    mine, cpu = (make(where, "fp32").gradient(pack_length=128)[1] for where in (device, torch.device("cpu")))
    return float((mine - cpu).norm() / cpu.norm())


def _packed_error(tiny: TinyText) -> float:
    packed, padded = tiny.gradient(pack_length=128)[0], tiny.gradient()[0]
    return abs(packed - padded) / abs(padded)


def _autocast_error(make: Callable[..., TinyText], device: torch.device) -> float:
    half, full = (make(device, precision).gradient()[0] for precision in ("bf16", "fp32"))
    return abs(half - full) / abs(full)


def _fused_error(tiny: TinyText) -> float:
    fused = tiny.gradient()[1]
    for module in tiny.model.modules():
        if type(module).__name__.startswith("Fused"):
            module.__class__ = type(module).__mro__[1]
    peft = tiny.gradient()[1]
    return float((fused - peft).norm() / peft.norm())


def _four_bit_error(make: Callable[..., TinyText], device: torch.device) -> float | None:
    if importlib.util.find_spec("bitsandbytes") is None:
        return None
    mine, cpu = (make(where, "bf16", quantisation="4bit").gradient()[0] for where in (device, torch.device("cpu")))
    return abs(mine - cpu) / abs(cpu)


def _flash_error(make: Callable[..., TinyText], device: torch.device) -> float | None:
    if importlib.util.find_spec("flash_attn") is None or device.type != "cuda":
        return None
    flash, sdpa = (make(device, "bf16", attention=name).gradient(pack_length=128)[0] for name in ("flash_attention_2", "sdpa"))
    return abs(flash - sdpa) / abs(sdpa)


def _captions_that_differ(make: Callable[..., TinyText], device: torch.device) -> float:
    mine, cpu = (make(where, "fp32").generate() for where in (device, torch.device("cpu")))
    return float(sum(a != b for a, b in zip(mine, cpu, strict=True)))


# ------------------------------------------------------------------------------------------------------------- launches


class Launches:
    """Short training runs under the real launcher, in the background: contrastive in bf16, text on top of it; contrastive in fp16."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder, self.device = folder, device
        make_study(folder)
        write_tiny_llm(folder / "tiny-llm-of-runs")
        self.rows: list[dict[str, Any]] = []
        self.processes: list[subprocess.Popen] = []
        self.threads = [threading.Thread(target=self._bf16_then_text, daemon=True)]
        if device.type == "cuda":  # the CPU refuses fp16
            self.threads.append(threading.Thread(target=lambda: self._contrastive("fp16"), daemon=True))
        for thread in self.threads:
            thread.start()

    def finish(self, timeout_seconds: float) -> list[dict[str, Any]]:
        """Wait, end what has not ended, and return the rows."""
        end = time.monotonic() + timeout_seconds
        for thread in self.threads:
            thread.join(max(0.0, end - time.monotonic()))
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        for thread in self.threads:
            thread.join(10.0)
        return self.rows

    def _bf16_then_text(self) -> None:
        if self._contrastive("bf16"):
            self._text()

    def _contrastive(self, precision: str) -> bool:
        run = self.folder / f"run-{precision}"
        return self._run(
            f"contrastive, {precision}", run, "contrastive", "--config", str(self.folder / "config.yaml"), "--train.precision", precision
        )

    def _text(self) -> None:
        config = self.folder / "text.yaml"
        config.write_text(
            f"""
data: {{study: {self.folder / "study"}, split: tiny, embedding: tiny, repetitions: each}}
encoder: {self.folder / "run-bf16"}
base: {{name: {self.folder / "tiny-llm-of-runs"}}}
stage: {{pack_length: 128}}
train: {{precision: bf16, global_batch_size: 8, validate_every_steps: 10, log_every_steps: 1, timeout_seconds: 60}}
checkpoint: {{every_steps: 10}}
mlflow: {{enabled: false}}
"""
        )
        self._run("text, bf16, packed", self.folder / "run-text", "text", "--config", str(config))

    def _run(self, name: str, run: Path, *arguments: str) -> bool:
        launcher = ["-m", "deepspeed.launcher.runner", "--num_gpus", "1", "--master_port", str(free_port()), "--module", "trainer"]
        options = ["--run", str(run), "--train.steps", "20", "--train.device", self.device.type]
        environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")}
        environment |= {"DS_ACCELERATOR": self.device.type, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        with run.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *launcher, *arguments, *options],
                cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            self.processes.append(process)
            status = process.wait()
        losses = [line["loss"] for line in read_lines(run / "metrics.jsonl") if "loss" in line]
        done = status == 0 and (run / "completed.json").is_file() and len(losses) == 20
        if not done:
            print(
                f"launched run failed: {name}: status {status}\n{run.with_suffix('.log').read_text(errors='replace')[-3000:]}", flush=True
            )
        first, last = (sum(part) / max(1, len(part)) for part in (losses[:5], losses[-5:]))
        holds = done and last < first
        self.rows.append(row(f"gpu check: deepspeed launcher, {name}: loss of 20 steps", last if done else None, "nats", first, holds))
        return done

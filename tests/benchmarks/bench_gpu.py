"""``make bench-gpu``: checks that a GPU computes what the CPU does, then LoRA of an 8B-shaped Llama beside plain transformers Trainer.

``python -m tests.benchmarks.bench_gpu`` needs CUDA, downloads nothing and ends within ``--seconds``: what there is no time for is left
out, and said so. Rows are in ``--output`` as soon as they are measured. ``--device cpu --shape tiny`` rehearses every line.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NUM_STEPS = 5
"""Timed optimizer steps a measurement."""
ROUNDS = 2
"""Times each side is measured, in turns; the faster one counts."""
PARTS = ("checks", "bf16", "4bit", "compile", "checkpointing")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_gpu", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shape", choices=("8b", "1b", "tiny"), default="8b")
    parser.add_argument("--parts", default=",".join(PARTS), help="which of " + ", ".join(PARTS))
    parser.add_argument("--seconds", type=float, default=560.0, help="nothing new is begun that would not end by then")
    parser.add_argument("--max-rows", type=int, default=64, help="largest micro-batch tried, in packed rows")
    parser.add_argument("--output", type=Path, default=Path("bench_gpu.json"))
    options = parser.parse_args(arguments)
    options.parts = options.parts.split(",")
    if set(options.parts) - set(PARTS):
        parser.error(f"--parts: {','.join(options.parts)}, expected some of {', '.join(PARTS)}")
    return options


@dataclass(kw_only=True)
class Result:
    """Both sides' best measurement."""

    setting: Any
    ours: Any
    theirs: Any


class Bench:
    """Rows so far, and the time left."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        import torch

        from tests.benchmarks import gpu_llm, gpu_sides

        self.options, self.folder, self.llm, self.sides = options, folder, gpu_llm, gpu_sides
        self.device = torch.device(options.device, *([0] if options.device == "cuda" else []))
        self.shape = gpu_llm.SHAPES[options.shape]
        self.end = time.monotonic() + options.seconds
        self.rows: list[dict[str, Any]] = []
        self.peak, self.peak_from = gpu_llm.peak_flops(self.device)
        self.results: dict[bool, Result] = {}

    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Keep rows, on disk as well."""
        from tests.benchmarks.report import write_json

        self.rows += rows
        write_json(self.rows, self.options.output)

    def attempt(self, name: str, needed_seconds: float, part: Callable[[], None]) -> bool:
        """Run a part if there is time; an error ends this part alone, and is a broken promise."""
        from tests.benchmarks.report import row

        if self.left() < needed_seconds:
            print(f"== {name}: left out, {self.left():.0f} s are left and it takes about {needed_seconds:.0f}", flush=True)
            return False
        print(f"== {name} ({self.left():.0f} s left)", flush=True)
        try:
            part()
        except Exception as error:
            message = f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
            print(f"failed: {name}: {message}", flush=True)
            if self.options.device == "cpu":
                raise
            import traceback

            traceback.print_exc()
            self.add([row(f"gpu: {name}: {message[:160]}", None, "", None, False)])
            self.llm.free(self.device)
            return False
        return True

    # ------------------------------------------------------------------------------------------------------ measuring

    def search(self, kind: Any, setting: Any) -> Any:
        """A measurement of the largest micro-batch that fits."""
        llm = self.llm
        limit = 2 if self.device.type == "cpu" else self.options.max_rows
        state: dict[str, Any] = {"side": None}

        def attempt(rows: int) -> Any:
            started = time.monotonic()
            try:
                if state["side"] is None:
                    state["side"] = kind(self.shape, setting, self.device, self.folder / f"{kind.__name__}-{time.monotonic_ns()}")
                found = state["side"].measure(rows, 1, 1)
            except Exception as error:
                if not llm.is_out_of_memory(error):
                    raise
                print(f"   {kind.name}, {setting}: {rows} rows: out of memory", flush=True)
                found = None
            if found is None:
                # What broke off in the middle of a step is not gone on with.
                self.close(state.pop("side"))
                state["side"] = None
                return None
            print(
                f"   {kind.name}, {setting}: {rows} rows: {found.seconds:.2f} s a step, {found.memory_bytes / 2**30:.1f} GiB, "
                f"loss {found.loss:.3f}" + ", allocator out of room" * found.retried + f" ({time.monotonic() - started:.0f} s)",
                flush=True,
            )
            return found

        rows = llm.largest_rows(attempt, llm.capacity(self.device), limit)
        if state["side"] is None:
            state["side"] = kind(self.shape, setting, self.device, self.folder / f"{kind.__name__}-{time.monotonic_ns()}")
        side = state["side"]
        found = side.measure(rows, 1, NUM_STEPS)
        self.said(kind, setting, found, side.attention)
        self.close(side)
        return found

    def again(self, kind: Any, setting: Any, rows: int) -> Any:
        """Measure a known micro-batch once more, from the start."""
        side = kind(self.shape, setting, self.device, self.folder / f"{kind.__name__}-{time.monotonic_ns()}")
        try:
            found = side.measure(rows, 2, NUM_STEPS)
            self.said(kind, setting, found, side.attention)
        finally:
            self.close(side)
        return found

    def close(self, side: Any) -> None:
        """Free a side's memory, also after it broke."""
        try:
            if side is not None:
                side.close()
        except Exception as error:
            print(f"   while freeing: {type(error).__name__}: {error}", flush=True)
        self.llm.free(self.device)

    def said(self, kind: Any, setting: Any, found: Any, attention: str) -> None:
        """A line about a measurement."""
        print(
            f"   {kind.name}, {setting}, {attention} attention, {found.rows} rows: {found.tokens_per_second:,.0f} tokens/s, "
            f"utilisation {self.utilisation(found):.1%}, {found.memory_bytes / 2**30:.1f} GiB at the peak",
            flush=True,
        )

    def utilisation(self, found: Any) -> float:
        """Model FLOPs over the card's: 4 N a token, N without the embedding table."""
        return self.llm.flops(self.shape, found.tokens) / found.seconds / self.peak

    # ---------------------------------------------------------------------------------------------------------- parts

    def side_by_side(self, four_bit: bool) -> None:
        """Both sides, in turns, each with the largest micro-batch that fits it."""
        setting = self.sides.Setting(four_bit=four_bit)
        kinds = (self.sides.Ours, self.sides.Transformers)
        best: dict[str, Any] = {}
        seconds: dict[str, float] = {}
        for turn in range(ROUNDS):
            for kind in kinds:
                started = time.monotonic()
                if turn == 0:
                    found = self.search(kind, setting)
                    seconds[kind.name] = time.monotonic() - started
                elif self.left() > seconds[kind.name]:
                    found = self.again(kind, setting, best[kind.name].rows)
                else:
                    continue
                if kind.name not in best or found.tokens_per_second > best[kind.name].tokens_per_second:
                    best[kind.name] = found
        self.results[four_bit] = Result(setting=setting, ours=best[self.sides.Ours.name], theirs=best[self.sides.Transformers.name])
        self.compare(four_bit)

    def compare(self, four_bit: bool) -> None:
        """Rows of one kind of weights, in place of those that were there: our fastest setting beside the peer."""
        from tests.benchmarks.report import row

        result = self.results[four_bit]
        ours, theirs, peer = result.ours, result.theirs, self.sides.Transformers.name
        weights = "4-bit NF4" if four_bit else "bf16"
        name = f"gpu: LoRA of {self.shape.name} (random weights), {weights}, packed {self.shape.pack_length}"
        layers, head, table = self.llm.matrix_parameters(self.shape)
        utilisation, ratio = self.utilisation(ours), ours.tokens_per_second / theirs.tokens_per_second
        strict = self.llm.flops(self.shape, ours.tokens, ours.supervised) / ours.seconds / self.peak
        rows = [
            row(f"{name}: throughput ({result.setting})", ours.tokens_per_second, "tokens/s", None, None, peer, theirs.tokens_per_second),
            row(f"{name}: throughput over that of {peer}", ratio, "x", *self.promised(ratio, 1.0)),
            row(
                f"{name}: model FLOP utilisation, 4 N a token, N = {(layers + head) / 1e9:.2f}e9 without embedding table, "
                f"of {self.peak / 1e12:.0f} TFLOP/s ({self.peak_from})",
                utilisation, "share", *self.promised(utilisation, 0.4), peer, self.utilisation(theirs),
            ),
            row(f"{name}: the same with the head counted only where a token is predicted", strict, "share"),
            row(f"{name}: the same with N = {(layers + head + table) / 1e9:.2f}e9, embedding table counted",
                utilisation * (layers + head + table) / (layers + head), "share"),
            row(f"{name}: memory at the peak", ours.memory_bytes / 2**30, "GiB", None, None, peer, theirs.memory_bytes / 2**30),
            row(f"{name}: largest micro-batch", ours.rows, "rows", None, None, peer, theirs.rows),
        ]  # fmt: skip
        self.rows = [r for r in self.rows if not r["name"].startswith(name)]
        self.add(rows)

    def promised(self, value: float, least: float) -> tuple[float | None, bool | None]:
        """Target and whether it holds; a rehearsal promises nothing."""
        return (None, None) if self.device.type == "cpu" else (least, value >= least)

    def compiled(self, four_bit: bool) -> None:
        """Our side with compiled layers and the micro-batch that fits without; the fastest setting is the one that counts."""
        result, setting = self.results[four_bit], self.sides.Setting(four_bit=four_bit, compile=True)
        found = self.again(self.sides.Ours, setting, result.ours.rows)
        if found.tokens_per_second > result.ours.tokens_per_second:
            result.setting, result.ours = setting, found
            self.compare(four_bit)

    def checkpointed(self) -> None:
        """Our side with activation checkpointing: what it costs in time and saves in memory, with the same micro-batch."""
        from tests.benchmarks.report import row

        without = self.results[False].ours
        found = self.again(self.sides.Ours, self.sides.Setting(checkpointing=True), without.rows)
        name = f"gpu: LoRA of {self.shape.name} (random weights), bf16, activation checkpointing, {found.rows} rows"
        self.add(
            [
                row(f"{name}: throughput", found.tokens_per_second, "tokens/s", None, None, "without", without.tokens_per_second),
                row(f"{name}: memory at the peak", found.memory_bytes / 2**30, "GiB", None, None, "without", without.memory_bytes / 2**30),
            ]
        )


def main(arguments: Sequence[str]) -> int:
    """Run what is asked for; 1 if a promise is broken or there is no GPU."""
    options = parse(arguments)
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")
    os.environ.update(DS_ACCELERATOR=options.device, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: bench-gpu needs a CUDA device, and torch finds none: run it on a machine with a GPU, or rehearse with "
              "--device cpu --shape tiny", file=sys.stderr)  # fmt: skip
        return 1
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        return run(options, Path(folder))


def run(options: argparse.Namespace, folder: Path) -> int:
    """See :func:`main`."""
    from tests.benchmarks import gpu_checks
    from tests.benchmarks.report import print_table, row

    bench = Bench(options, folder)
    parts = options.parts
    print_versions(bench)
    launches: list[Any] = []

    def finish() -> None:
        for each in launches:
            bench.add(each.finish(max(20.0, min(150.0, bench.left() - 300.0))))

    try:
        if "checks" in parts:
            bench.attempt("launched runs", 60.0, lambda: launches.append(gpu_checks.Launches(folder, bench.device)))
            bench.attempt("checks", 30.0, lambda: bench.add(gpu_checks.run_checks(folder, bench.device)))
        if bench.device.type == "cuda":
            finish()  # nothing else computes on the device while it is timed
            launches.clear()
            bench.add([row("gpu: bf16 matrix product, 8192 cubed", bench.llm.matmul_flops(bench.device) / 1e12, "TFLOP/s")])
        if "bf16" in parts:
            bench.attempt("bf16, side by side", 60.0, lambda: bench.side_by_side(False))
        if "4bit" in parts:
            bench.attempt("4-bit NF4, side by side", 60.0, lambda: bench.side_by_side(True))
        for four_bit, name in ((False, "bf16"), (True, "4-bit NF4")):
            if "compile" in parts and four_bit in bench.results:
                bench.attempt(f"{name} with compiled layers", 100.0, functools.partial(bench.compiled, four_bit))
        if "checkpointing" in parts and False in bench.results:
            bench.attempt("bf16 with activation checkpointing", 45.0, bench.checkpointed)
    finally:
        finish()
    print_table(bench.rows)
    return 0 if all(r["holds"] is not False for r in bench.rows) else 1


def print_versions(bench: Bench) -> None:
    """What runs here."""
    import importlib.metadata as metadata

    import torch

    found = {}
    for name in ("torch", "triton", "transformers", "peft", "accelerate", "deepspeed", "bitsandbytes", "flash-attn", "liger-kernel"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "-"
    print(", ".join(f"{name} {version}" for name, version in found.items()))
    if bench.device.type == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability(bench.device)))
        memory = torch.cuda.get_device_properties(bench.device).total_memory / 2**30
        print(f"{torch.cuda.get_device_name(bench.device)}, compute capability {capability}, {memory:.0f} GiB, CUDA {torch.version.cuda}")
    print(f"peak {bench.peak / 1e12:.1f} TFLOP/s, {bench.peak_from}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

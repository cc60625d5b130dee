"""A GGUF checkpoint converted once into a folder of config, safetensors and tokenizer, which transformers then loads directly."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from data_prep.contract.cli import first_sentence
from data_prep.contract.errors import CommandError
from data_prep.contract.lock import first_come
from trainer.distributed.child import environment_of_its_own
from trainer.models.language.gguf_header import check_header

_SAMPLED_BLOCKS = 64
_BLOCK_BYTES = 1 << 16
_CONVERSION_SECONDS = 1800
_ROOM_BYTES, _ROOM_TIMES = 16 * 2**30, 64
"""Most memory of a conversion: so much, and so many times the file: its smallest types take 20 times as much as float32, twice."""


def converted(file: Path, home: str | None) -> Path:
    """The folder that ``file`` was converted into, under ``home`` (null: the user's cache); made by the first that asks.

    Raises
    ------
    CommandError
        A file that is no GGUF, or one of an architecture that transformers cannot read.
    """
    root = Path(home).expanduser() if home else Path.home() / ".cache" / "eeg-vision-stack"
    target = root / f"{file.stem}-{_sampled_hash(file)[:12]}"
    if (target / "config.json").is_file():
        return target
    root.mkdir(parents=True, exist_ok=True)
    # Several ranks ask at once: the first converts, the others wait for it.
    with first_come(root / f".{target.name}.lock"):
        if not (target / "config.json").is_file():
            _convert(file, target)
    return target


def _sampled_hash(file: Path) -> str:
    # Fine-tunes of one model have files of the same name and size: what lies in them tells them apart.
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as handle:
        for part in range(_SAMPLED_BLOCKS + 1):
            handle.seek(max(0, size - _BLOCK_BYTES) * part // _SAMPLED_BLOCKS)
            digest.update(handle.read(_BLOCK_BYTES))
    return digest.hexdigest()


def _convert(file: Path, target: Path) -> None:
    check_header(file)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        # In a process of its own, which is none of the ranks: transformers saves models on rank 0 only, and ZeRO 3 would cut them up.
        program = "import sys; from trainer.models.language.gguf import write_converted; write_converted(*sys.argv[1:])"
        paths = [str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = environment_of_its_own() | {"PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-c", program, str(file), str(partial)]
        try:
            result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_CONVERSION_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise CommandError(
                f"{file}: not converted within {_CONVERSION_SECONDS} seconds: name a model in safetensors instead"
            ) from error
        if result.returncode or not (partial / "config.json").is_file():
            last = (result.stderr.strip().splitlines() or ["no message"])[-1]
            raise CommandError(f"{file}: not a GGUF that transformers can convert ({first_sentence(last)})")
        os.chmod(partial, 0o755)
        for written in partial.iterdir():
            written.chmod(0o644)  # a folder named by base.converted may be a group's
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_converted(file: str, folder: str) -> None:
    """Write a GGUF as config, safetensors and tokenizer into ``folder``."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = Path(file)
    with contextlib.suppress(ValueError, OSError):  # sizes in a header can ask for any amount
        most = _ROOM_BYTES + _ROOM_TIMES * path.stat().st_size
        resource.setrlimit(resource.RLIMIT_DATA, (most, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name, trust_remote_code=False)
    loaded = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32, trust_remote_code=False)
    settings = loaded.config
    # A model loaded from GGUF counts as quantised and refuses to be saved: its weights go into a fresh one.
    if hasattr(settings, "quantization_config"):
        del settings.quantization_config
    fresh = type(loaded)(settings)
    fresh.load_state_dict(loaded.state_dict())
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

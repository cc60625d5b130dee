"""Weights of networks: where they are, what they are, where they run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from data_prep.contract.errors import StudyError
from data_prep.contract.files import sha256_file

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


def state_hash(model: Any) -> str:
    """SHA-256 of a network's parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()


def folder_hash(folder: Path) -> str:
    """SHA-256 of the weights and settings in a model's folder, whatever the folder is called; of one file alone, that file's.

    Raises
    ------
    StudyError
        There are no weights.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in (*WEIGHTS, ".json", ".txt", ".model"))
    if not any(path.suffix in WEIGHTS for path in files):
        raise StudyError(f"{folder}: holds no weights, expected a file that ends in {', '.join(WEIGHTS)}")
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def on_device(model: Any, device: str) -> Any:
    """Put a network where it runs, in evaluation mode; returns the ``torch.device``.

    Raises
    ------
    StudyError
        A device that is not there.
    """
    import torch

    try:
        target = torch.device(device)
        if target.type == "cuda" and not torch.cuda.is_available():
            raise StudyError(f"device: {device}, but no GPU can be used here: expected cpu")
        model.eval().requires_grad_(False).to(target)
    except RuntimeError as error:
        raise StudyError(f"device: {device} ({' '.join(str(error).split())[:160]}), expected cpu, cuda or cuda:NUMBER") from error
    return target


def read_state(path: Path) -> dict[str, Any]:
    """Parameters by name from a ``.safetensors`` or torch file, nothing in it executed.

    Raises
    ------
    StudyError
        Not there, or no such file.
    """
    if not path.is_file():
        raise StudyError(f"{path}: no such file, expected weights (.safetensors or a state dict of torch)")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        import torch

        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files, and what may not be unpickled
        raise StudyError(f"{path}: no weights that can be read ({' '.join(str(error).split())[:160]})") from error
    for label in ("state_dict", "model", "module"):
        if isinstance(state, dict) and isinstance(state.get(label), dict):
            state = state[label]
    if not isinstance(state, dict) or not all(hasattr(value, "shape") for value in state.values()):
        raise StudyError(f"{path}: holds no parameters by name, expected a state dict")
    return {name.removeprefix("module."): value for name, value in state.items()}


def fill_model(model: Any, state: dict[str, Any], where: Path, *, may_lack: tuple[str, ...] = ()) -> None:
    """Put parameters into a network; a classifier that is not used (``may_lack``, by prefix) may be missing or of other classes.

    Raises
    ------
    StudyError
        Parameters that are missing or of another shape.
    """
    own = model.state_dict()
    unused = {name for name in own if name.startswith(may_lack)} if may_lack else set()
    missing = [name for name in own if name not in state and name not in unused and not name.endswith("num_batches_tracked")]
    if missing:
        raise StudyError(f"{where}: lacks {missing[0]} ({len(missing)} of {len(own)} parameters), expected the weights of this model")
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape and name not in unused]
    if wrong:
        found, wanted = tuple(state[wrong[0]].shape), tuple(own[wrong[0]].shape)
        raise StudyError(f"{where}: {wrong[0]} has shape {found}, the model has {wanted}: expected the weights of this model")
    model.load_state_dict({name: state[name] for name in own if name in state and own[name].shape == state[name].shape}, strict=False)

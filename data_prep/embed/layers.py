"""Layers of a vision network as embeddings: which, how their tokens become one vector, and what each is called.

A layer is ``final`` (what the model itself gives), a block's number from 1 (from the last: -1) or the name of a module. What a block gives
is tokens (B, L, D), a map (B, C, H, W) or (B, H, W, C), or vectors (B, D).

Shapes in names: B images, L tokens, D channels of a layer, E embedding dimension.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from data_prep.contract.errors import StudyError
from data_prep.contract.words import listed

Layer = str | int
Pooling = Literal["mean", "cls", "patches"]
FINAL = "final"
_NUMBERED = re.compile(r"(?P<stack>.*?)[._]?(?P<number>\d+)")
_STACKS = ("resblocks", "blocks", "layers", "layer", "stages", "encoder_layer", "features", "h")
_MOST_PREFIX = 16
_POOLED = {"mean": "mean of positions", "cls": "first token", "patches": "mean of patches"}


@dataclass(frozen=True, kw_only=True)
class Output:
    """One vector of an image."""

    layer: Layer
    pooling: Pooling

    @property
    def name(self) -> str:
        """As it stands behind an embedding's name: ``block06_mean``."""
        if self.layer == FINAL:
            return FINAL
        if isinstance(self.layer, int):
            return f"{f'block{self.layer:02d}' if self.layer > 0 else f'last{-self.layer}'}_{self.pooling}"
        return f"{re.sub('[^a-z0-9]+', '_', self.layer.lower()).strip('_')}_{self.pooling}"

    @property
    def words(self) -> str:
        """As the manifest has it."""
        if self.layer == FINAL:
            return FINAL
        which = f"block {self.layer}" if isinstance(self.layer, int) else self.layer
        return f"{which}, {_POOLED[self.pooling]}"


def outputs_of(layers: tuple[Layer, ...], pooling: tuple[Pooling, ...]) -> tuple[Output, ...]:
    """Every layer under every pooling; ``final`` once, as the model pools it.

    Raises
    ------
    ValueError
        None, or one twice.
    """
    found = [Output(layer=layer, pooling=pool) for layer in layers for pool in (pooling[:1] if layer == FINAL else pooling)]
    names = [output.name for output in found]
    if not found or len(set(names)) != len(names):
        raise ValueError(f"layers {list(layers)} with pooling {list(pooling)} make {names}, expected at least one, each once")
    if any(layer == 0 or layer == "" for layer in layers):
        raise ValueError(f"layers is {list(layers)}, expected {FINAL}, block numbers from 1 (from the last: -1) or names of modules")
    return tuple(found)


class Taps:
    """Reads layers of a network during one forward pass."""

    def __init__(self, network: Any, outputs: tuple[Output, ...], what: str) -> None:
        self._modules = dict(network.named_modules())
        self._patch = _patch_size(network)
        self._outputs = outputs
        self.names = {output: self._module_name(output, what) for output in outputs if output.layer != FINAL}

    def read(self, forward: Callable[[], Any], side: tuple[int, int], batch: int) -> list[Any]:
        """Vectors (B, E) of all outputs; ``forward`` gives the model's own (B, E), ``side`` is the images' height and width."""
        with self._listening() as heard:
            final = forward()
        return [final if o.layer == FINAL else self._pooled(heard[self.names[o]], o, side, batch) for o in self._outputs]

    @contextmanager
    def _listening(self) -> Iterator[dict[str, Any]]:
        heard: dict[str, Any] = {}

        def hear(name: str) -> Any:
            return lambda _module, _inputs, output: heard.__setitem__(name, output)

        handles = [self._modules[name].register_forward_hook(hear(name)) for name in set(self.names.values())]
        try:
            yield heard
        finally:
            for handle in handles:
                handle.remove()

    def _module_name(self, output: Output, what: str) -> str:
        if isinstance(output.layer, str):
            if output.layer not in self._modules:
                near = difflib.get_close_matches(output.layer, list(self._modules), 6, 0.3)
                raise StudyError(f"layers: {what} has no module {output.layer!r}; it has {listed(near or self._modules, 6)}")
            return output.layer
        blocks = find_blocks(self._modules)
        if not 1 <= abs(output.layer) <= len(blocks):
            raise StudyError(
                f"layers: {what} has {len(blocks)} blocks, none of number {output.layer}: expected 1 to {len(blocks)}, or a module's name"
            )
        return blocks[output.layer - 1 if output.layer > 0 else output.layer]

    def _pooled(self, heard: Any, output: Output, side: tuple[int, int], batch: int) -> Any:
        value: Any = next((each for each in heard if hasattr(each, "ndim")), None) if isinstance(heard, (tuple, list)) else heard
        value = getattr(value, "last_hidden_state", value)
        name = self.names[output]
        if not hasattr(value, "ndim") or value.ndim not in (2, 3, 4):
            raise StudyError(f"layers: {name} gives a {type(value).__name__}, expected tokens, a map or vectors")
        if value.ndim == 3 and value.shape[0] != batch and value.shape[1] == batch:
            value = value.transpose(0, 1)
        if value.shape[0] != batch:
            raise StudyError(f"layers: {name} gives {tuple(value.shape)} for {batch} images, expected one entry an image")
        value = value.float()
        if value.ndim == 3:
            return self._of_tokens(value, output, side, name)
        if output.pooling == "cls":
            raise StudyError(f"layers: {name} gives {tuple(value.shape)}, which has no first token: expected pooling mean")
        return value if value.ndim == 2 else value.mean(_places(tuple(value.shape), name))

    def _of_tokens(self, tokens_BLD: Any, output: Output, side: tuple[int, int], name: str) -> Any:
        if output.pooling == "mean":
            return tokens_BLD.mean(1)
        patches = (side[0] // self._patch[0]) * (side[1] // self._patch[1]) if self._patch else 0
        prefix = tokens_BLD.shape[1] - patches
        if not patches or not (1 if output.pooling == "cls" else 0) <= prefix <= _MOST_PREFIX:
            raise StudyError(
                f"layers: {name} gives {tokens_BLD.shape[1]} tokens for {patches} patches: no first token is known, expected pooling mean"
            )
        return tokens_BLD[:, 0] if output.pooling == "cls" else tokens_BLD[:, prefix:].mean(1)


def find_blocks(modules: dict[str, Any]) -> list[str]:
    """Names of the stack of blocks that a network consists of, in order: the outermost of those that are numbered."""
    stacks: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for name in modules:
        match = _NUMBERED.fullmatch(name)
        if match and match["stack"].rsplit(".", 1)[-1] in _STACKS:
            stacks[match["stack"]].append((int(match["number"]), name))
    deep = {stack: found for stack, found in stacks.items() if len(found) > 1}
    if not deep:
        return []
    outermost = min(deep, key=lambda stack: (stack.count("."), -len(deep[stack])))
    return [name for _, name in sorted(deep[outermost])]


def _patch_size(network: Any) -> tuple[int, int] | None:
    """Of a network that cuts images into patches by its first convolution."""
    for module in network.modules():
        if type(module).__name__ == "Conv2d":
            kernel, stride = tuple(module.kernel_size), tuple(module.stride)
            return (stride[0], stride[1]) if kernel == stride and stride[0] > 1 else None
    return None


def _places(shape: tuple[int, ...], name: str) -> tuple[int, int]:
    """Axes of a map that are places: those of equal length."""
    if shape[2] == shape[3] and shape[1] != shape[2]:
        return 2, 3
    if shape[1] == shape[2] and shape[2] != shape[3]:
        return 1, 2
    raise StudyError(f"layers: {name} gives {shape}: which axes are places cannot be told, expected a map of a square image")

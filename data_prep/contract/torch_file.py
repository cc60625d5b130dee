"""Files of ``torch.save``, read without torch: a pickle that describes tensors, and their storages beside it.

The zip format since torch 1.6 has ``NAME/data.pkl`` and ``NAME/data/KEY``; the one before has five pickles and then the storages, one
after the other.
"""

from __future__ import annotations

import struct
from typing import Any

from data_prep.contract.described import NUMPY, Plain, Storage, Tensor
from data_prep.contract.pickle_machine import Call, Machine, Name
from data_prep.contract.raw_file import RawFile, Refusal, Span
from data_prep.contract.zip_file import ZipMembers

LEGACY_START = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""What follows the protocol of a file in the old format: torch's magic number as a pickle."""
_LEGACY_VERSION = 1001
DTYPES = {
    "FloatStorage": "f4", "DoubleStorage": "f8", "HalfStorage": "f2", "BFloat16Storage": "bf16", "LongStorage": "i8", "IntStorage": "i4",
    "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "b1", "ComplexFloatStorage": "c8",
    "ComplexDoubleStorage": "c16",
}  # fmt: skip


def _tensor(_machine: Machine, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise Refusal("a tensor without a storage")
    return Tensor(storage, offset, shape, strides)


def _parameter(_machine: Machine, tensor: Any, *_: Any) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise Refusal("a parameter without a tensor")
    return tensor


def _size(_machine: Machine, sides: Any = ()) -> tuple[Any, ...]:
    if not isinstance(sides, tuple):
        raise Refusal("a size that is no tuple")
    return sides


TORCH: dict[tuple[str, str], Call | None] = {
    **NUMPY,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): _size,
    **{("torch", name): None for name in DTYPES},
}


def read_zip(members: ZipMembers) -> Any:
    """What a file in the zip format holds, tensors as arrays (bfloat16 as float32).

    Raises
    ------
    Refusal, StudyError
        What it asks for and may not have, or a limit.
    Exception
        Of several kinds: damaged.
    """
    root = next(name for name in members.names if name.rsplit("/", 1)[-1] == "data.pkl").removesuffix("data.pkl")
    if f"{root}constants.pkl" in members.names:
        raise Refusal("a program (TorchScript)")
    order = members.member(f"{root}byteorder") if f"{root}byteorder" in members.names else None
    big_endian = order is not None and order.file.read(order.span) == b"big"
    storages: dict[str, Storage] = {}

    def storage(identity: Any) -> Storage:
        found = _storage(identity)
        key = str(identity[2])[:60]
        if key not in storages:
            member = members.member(f"{root}data/{key}")
            found.file, found.content, found.big_endian = member.file, member.span, big_endian
            if member.span.length != found.num_elements * found.numpy.itemsize:
                raise Refusal(f"{found.num_elements:,} elements of {found.dtype} in {member.span.length:,} bytes")
            storages[key] = found
        if (storages[key].dtype, storages[key].num_elements) != (found.dtype, found.num_elements):
            raise Refusal("one storage under two dtypes")
        return storages[key]

    pickle = members.member(f"{root}data.pkl")
    machine = Machine(pickle.file, pickle.span.offset, pickle.span.offset + pickle.span.length, TORCH, storage)
    return Plain(pickle.file).of(machine.run())


def read_legacy(file: RawFile) -> Any:
    """What a file in the format before torch 1.6 holds; otherwise as :func:`read_zip`."""
    storages: dict[str, Storage] = {}

    def storage(identity: Any) -> Storage:
        found = _storage(identity)
        if len(identity) > 5 and identity[5] is not None:
            raise Refusal("a view of a storage")
        known = storages.setdefault(str(identity[2])[:60], found)
        if (known.dtype, known.num_elements) != (found.dtype, found.num_elements):
            raise Refusal("one storage under two dtypes")
        return known

    position = 0
    parts = []
    for _ in range(5):  # magic number, version, the system, the content, the keys of the storages in order
        machine = Machine(file, position, file.size, TORCH, storage)
        parts.append(machine.run())
        position = machine.position
    _, version, system, content, keys = parts
    if version != _LEGACY_VERSION or not isinstance(system, dict) or not isinstance(keys, list):
        raise ValueError("another version of the old format")
    for key in keys:
        found = storages[key]
        (count,) = struct.unpack("<q", file.read(Span(position, 8)))
        found.big_endian = system.get("little_endian") is False
        found.file, found.content = file, Span(position + 8, count * found.numpy.itemsize)
        if count != found.num_elements or found.content.offset + found.content.length > file.size:
            raise ValueError(f"a storage of {count:,} elements, expected {found.num_elements:,}")
        position += 8 + found.content.length
    return Plain(file).of(content)


def _storage(identity: Any) -> Storage:
    """A storage as a persistent id names it: ("storage", its type, its key, its device, its elements)."""
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage" or not isinstance(identity[1], Name):
        raise Refusal("an object outside the file that is no storage")
    name, count = identity[1], identity[4]
    if name.module != "torch" or name.name not in DTYPES or not isinstance(identity[2], str) or type(count) is not int or count < 0:
        raise Refusal(f"a storage of {name}")
    return Storage(DTYPES[name.name], count)

"""What a seed may be, the same in every config."""

from __future__ import annotations

SEED_LIMIT = 2**63
"""Seeds are words of a hash and whole numbers of torch and numpy: below this, all three take them."""


def check_seed(seed: int, field: str = "seed") -> int:
    """Return ``seed`` if every generator takes it, else raise :class:`ValueError` naming ``field``, as a ``__post_init__`` does."""
    if not 0 <= seed < SEED_LIMIT:
        raise ValueError(f"{field} is {seed}, expected 0 to 2**63 - 1")
    return seed

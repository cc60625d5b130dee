"""Names in sentences."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from data_prep.contract.words import listed


def test_names_are_listed_and_the_rest_is_counted() -> None:
    assert listed([]) == "none"
    assert listed(["a"]) == "a"
    assert listed(["a", "b"], 2) == "a, b"
    assert listed(["a", "b", "c"], 2) == "a, b and 1 more"
    assert listed({"a": 1, "b\nc": 2}) == "a, b c"


@given(count=st.integers(0, 3000), most=st.integers(1, 50))
def test_no_name_is_lost_from_the_count(count: int, most: int) -> None:
    names, _, more = listed(range(count), most).partition(" and ")
    shown = 0 if names == "none" else len(names.split(", "))
    assert shown + int(more.removesuffix(" more").replace(",", "") or 0) == count

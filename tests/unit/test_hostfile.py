"""A hostfile says which ranks run where, or is refused with the line that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.contract.errors import CommandError
from launch.hostfile import Host, parse_hostfile, read_hostfile


def test_hosts_come_in_their_order_with_their_slots(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# ours\nnode1 slots=8\n\n  node0.lab-3.example.org   slots=1 # the old one\n10.0.0.7 slots=16\nfe80::1%eth0 slots=2\n")
    named = [(host.name, host.slots) for host in read_hostfile(str(file))]
    assert named == [("node1", 8), ("node0.lab-3.example.org", 1), ("10.0.0.7", 16), ("fe80::1%eth0", 2)]
    assert parse_hostfile("a slots=3\r\n", "here") == (Host(name="a", slots=3),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no host"),
        ("# node0 slots=1\n\n", "names no host"),
        ("node0\n", "line 1 is 'node0', expected such as `node0 slots=8`"),
        ("node0 slots=0\n", "line 1 is 'node0 slots=0'"),
        ("a slots=1\nnode0 slots=-1\n", "line 2 is 'node0 slots=-1'"),
        ("node0 slots=two\n", "line 1"),
        ("node0 slots=1 node1 slots=1\n", "line 1"),
        ("node0 slots=99999999\n", "line 1"),
        ("user@node0 slots=1\n", "line 1"),
        ("-oProxyCommand=sh slots=1\n", "line 1"),
        ("node0;reboot slots=1\n", "line 1"),
        ("node0 slots=1\nnode0 slots=1\n", "line 2 names node0 again"),
    ],
)
def test_what_is_no_hostfile_is_refused_with_its_line(text: str, says: str) -> None:
    with pytest.raises(CommandError, match=r"hostfile: here: ") as refused:
        parse_hostfile(text, "here")
    assert says in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=f"{tmp_path / 'none'}: no such file"):
        read_hostfile(str(tmp_path / "none"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00slots=1")
    for path in (tmp_path / "binary", tmp_path):
        with pytest.raises(CommandError, match="cannot be read as text"):
            read_hostfile(str(path))

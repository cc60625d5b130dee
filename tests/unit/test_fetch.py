"""``fetch``: what comes is what the table says, whatever the network does; nothing leaves the folder."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.__main__ import COMMANDS
from data_prep.contract.cli import main, parse
from data_prep.contract.errors import CommandError, StudyError
from data_prep.contract.limits import Limits, use_limits
from data_prep.fetch.command import FetchConfig, run
from data_prep.fetch.sources import COLUMNS, HASHES, TABLE, UNKNOWN, read_sources
from data_prep.fetch.unpack import folder_of, unpack
from tests.helpers.readme import PAGES, ROOT, files
from tests.helpers.web import Page, web

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def table(
    folder: Path,
    address: str,
    *,
    path: str = "a/eeg.npy",
    size: object = len(CONTENT),
    digest: str = SHA,
    more: list[list[object]] | None = None,
) -> str:
    rows: list[list[object]] = [
        ["mine", "", "", "https://example.org/mine", "", "", "CC0", "A study"],
        ["mine", "p", path, address, size, digest, "", ""],
    ]
    rows += more or []
    file = folder / "sources.tsv"
    file.write_text("\n".join("\t".join(map(str, row)) for row in [list(COLUMNS), *rows]) + "\n")
    return str(file)


def fetch(tmp_path: Path, **changes: Any) -> None:
    quick = {
        "study": "mine",
        "output": str(tmp_path / "out"),
        "table": str(tmp_path / "sources.tsv"),
        "first_wait_seconds": 0.01,
        "timeout_seconds": 5.0,
    }
    run(FetchConfig(**{**quick, "tries": 3, **changes}))


def left(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------------------------------------------------- the table


def test_every_row_of_the_projects_table_is_one() -> None:
    studies = read_sources()
    assert {"things-eeg2", "things-eeg2-bids", "things-meg", "alljoined1", "mindbigdata", "eegcvpr40"} <= set(studies)
    for study in studies.values():
        assert study.licence
        assert study.page.startswith("https://")
        for file in study.files:
            assert file.address.startswith("https://")
            assert "{" not in file.address
            assert file.hash is None or re.fullmatch(r"(sha256|md5):[0-9a-f]+", file.hash)
    meg = [file for file in studies["things-meg"].files if file.path.endswith(".fif")]
    assert len(meg) == 16
    assert all(file.hash and file.size_bytes and file.size_bytes > 2e9 for file in meg)
    assert TABLE.stat().st_size < 400_000


BAD_ROWS: dict[str, tuple[dict[str, object], str]] = {
    "leaves": ({"path": "../x"}, "path is '../x', expected that of a file inside the output folder"),
    "absolute": ({"path": "/etc/x"}, "expected that of a file inside"),
    "backslash": ({"path": "a\\..\\x"}, "expected that of a file inside"),
    "drive": ({"path": "C:x"}, "expected that of a file inside"),
    "hidden": ({"path": "a/.ssh"}, "expected that of a file inside"),
    "record": ({"path": "fetched.json"}, "expected that of a file inside"),
    "file": ({"address": "file:///etc/passwd"}, "address is 'file:///etc/passwd', expected one of http or https"),
    "user": ({"address": "https://me:secret@example.org/x"}, "without a user or password"),
    "hole": ({"address": "https://example.org/{study}"}, "expected {path}, {bytes} and {hash} alone"),
    "unknown hole": ({"address": "https://example.org/{hash}", "digest": UNKNOWN}, "and those known"),
    "size": ({"size": "-1"}, "bytes is '-1', expected a number or unknown"),
    "hash": ({"digest": "sha256:12"}, "expected sha256:HEX, md5:HEX or unknown"),
    "kind": ({"digest": "crc:12"}, "expected sha256:HEX"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_rows_that_lead_elsewhere_are_refused_with_their_line(tmp_path: Path, name: str) -> None:
    change, said = BAD_ROWS[name]
    values: dict[str, Any] = {"address": "https://example.org/x", **change}
    file = table(tmp_path, values.pop("address"), **values)
    with pytest.raises(StudyError, match=f"line 3: .*{re.escape(said)}"):
        read_sources(Path(file))


def test_a_table_of_another_form_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "t.tsv"
    for text, said in (
        ("", "its first line is"),
        ("study\tpath\n", "expected the columns study, part"),
        ("\t".join(COLUMNS) + "\nmine\tp\tx\n", "line 2 has 3 cells, expected 8"),
        ("\t".join(COLUMNS) + "\nmine\tp\tx\thttps://e.org/x\t1\tunknown\t\t\n", "whose own row .* does not stand above"),
        ("\t".join(COLUMNS) + "\nmine\t\t\thttps://e.org\t\t\t\tabout\n", "has no licence"),
    ):
        file.write_text(text)
        with pytest.raises(StudyError, match=said):
            read_sources(file)
    table(tmp_path, "https://e.org/x", more=[["mine", "p", "A/EEG.npy", "https://e.org/y", 1, UNKNOWN, "", ""]])
    with pytest.raises(StudyError, match=r"has the path 'A/EEG\.npy' twice"):
        read_sources(tmp_path / "sources.tsv")
    table(tmp_path, "https://e.org/x", more=[["mine", "p", "a", "https://e.org/y", 1, UNKNOWN, "", ""]])
    with pytest.raises(StudyError, match="has 'a' as a file and as a folder"):
        read_sources(tmp_path / "sources.tsv")
    with pytest.raises(StudyError, match="no such file, expected a table"):
        read_sources(tmp_path / "none.tsv")
    assert HASHES == {"sha256": 64, "md5": 32}


# -------------------------------------------------------------------------------------------------------- the network


def test_a_file_comes_whole_and_a_second_run_brings_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = Page(CONTENT)
    with web({"/f": page}) as address:
        table(tmp_path, f"{address}/f")
        fetch(tmp_path)
        assert (tmp_path / "out" / "a" / "eeg.npy").read_bytes() == CONTENT
        assert left(tmp_path / "out") == ["a/eeg.npy"]
        assert "licence: CC0 (https://example.org/mine)" in capsys.readouterr().err
        fetch(tmp_path)
        assert len(page.asked) == 1
        (tmp_path / "out" / "a" / "eeg.npy").write_bytes(CONTENT[:-1] + b"x")
        with pytest.raises(StudyError, match=r"eeg\.npy: is there with hash sha256:.*, expected sha256:.*: it has changed; move it away"):
            fetch(tmp_path)
        (tmp_path / "out" / "a" / "eeg.npy").write_bytes(b"mine")
        with pytest.raises(StudyError, match="is there with 4 bytes, expected 300,000: move it away"):
            fetch(tmp_path)
        assert (tmp_path / "out" / "a" / "eeg.npy").read_bytes() == b"mine", "nothing is written over"


@pytest.mark.parametrize("seed", range(4))
def test_a_connection_that_breaks_off_is_gone_on_with(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    page = Page(CONTENT, drop_after=[int(cut) for cut in random.integers(1, 60_000, 6)], statuses=[503, 429])
    with web({"/f": page}) as address:
        table(tmp_path, f"{address}/f")
        fetch(tmp_path)
    assert (tmp_path / "out" / "a" / "eeg.npy").read_bytes() == CONTENT
    resumed = [asked for asked in page.asked if "range" in asked]
    assert len(resumed) == 6
    assert {asked["if-range"] for asked in resumed} == {'"1"'}


def test_what_was_begun_is_gone_on_with_by_the_next_run(tmp_path: Path) -> None:
    page = Page(CONTENT, drop_after=[100_000, 0, 0])
    with web({"/f": page}) as address:
        table(tmp_path, f"{address}/f")
        with pytest.raises(CommandError, match="after 3 tries; run the same command again, it goes on where it broke off"):
            fetch(tmp_path)
        assert left(tmp_path / "out") == ["a/.eeg.npy.part", "a/.eeg.npy.part.json"]
        fetch(tmp_path)
    assert page.asked[-1]["range"] == "bytes=100000-"
    assert left(tmp_path / "out") == ["a/eeg.npy"]


@pytest.mark.parametrize(("known", "ignores"), [(True, False), (False, False), (False, True)])
def test_a_file_that_changes_in_between_is_begun_anew(tmp_path: Path, known: bool, ignores: bool) -> None:
    other = CONTENT[::-1]
    page = Page(CONTENT, drop_after=[100_000], changes_to=other, ignores_if_range=ignores)
    digest = "sha256:" + hashlib.sha256(other).hexdigest() if known else UNKNOWN
    with web({"/f": page}) as address:
        table(tmp_path, f"{address}/f", digest=digest)
        fetch(tmp_path)
    assert (tmp_path / "out" / "a" / "eeg.npy").read_bytes() == other, "never the head of one and the tail of the other"


def test_without_ranges_or_validator_a_file_is_begun_anew(tmp_path: Path) -> None:
    for number, page in enumerate((Page(CONTENT, drop_after=[100_000], ranges=False), Page(CONTENT, drop_after=[100_000], etag=None))):
        folder = tmp_path / str(number)
        folder.mkdir()
        with web({"/f": page}) as address:
            table(folder, f"{address}/f", digest=UNKNOWN)
            fetch(folder)
        assert (folder / "out" / "a" / "eeg.npy").read_bytes() == CONTENT
        assert ("range" in page.asked[1]) == (number == 0)


def test_a_server_that_never_gets_further_is_given_up(tmp_path: Path) -> None:
    page = Page(CONTENT, ranges=False, drop_after=[100_000, 50_000, 100_000, 60_000, 90_000, 10])
    with web({"/f": page}) as address:
        table(tmp_path, f"{address}/f")
        with pytest.raises(CommandError, match="after 3 tries"):
            fetch(tmp_path)
    assert len(page.asked) == 3


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (Page(CONTENT[:-1]), r"says that it has 299,999 bytes, expected 300,000: the source has changed"),
        (Page(CONTENT, said_length=400_000), r"says that it has 400,000 bytes, expected 300,000"),
        (Page(CONTENT + b"x", says_length=False), r"sends more than the 300,000 bytes that it should have"),
        (Page(CONTENT[:-1] + b"x"), r"has hash sha256:[0-9a-f]+, expected sha256:[0-9a-f]+: the source has changed"),
        (Page(CONTENT, kind="text/html; charset=utf-8"), r"answers with a web page instead of a/eeg\.npy"),
        (Page(CONTENT, encoding="gzip"), r"answers with 'gzip' content"),
        (Page(redirect="file:///etc/passwd"), r"leads to 'file:///etc/passwd', expected an address of http or https"),
        (Page(redirect="ftp://example.org/x"), r"expected an address of http or https"),
        (Page(redirect="/f"), r"leads on more than 10 times"),
        (Page(statuses=[404]), r"answered 404: the source has moved"),
        (Page(statuses=[403]), r"answered 403: it may ask for consent or a log-in"),
    ],
)
def test_what_is_not_the_file_is_refused_and_not_kept(tmp_path: Path, page: Page, said: str) -> None:
    with web({"/f": page}) as address:
        table(tmp_path, f"{address}/f")
        with pytest.raises((StudyError, CommandError), match=said):
            fetch(tmp_path)
    assert not (tmp_path / "out" / "a" / "eeg.npy").exists()


def test_redirects_within_the_web_are_followed(tmp_path: Path) -> None:
    with web({"/f": Page(redirect="/g"), "/g": Page(CONTENT)}) as address:
        table(tmp_path, f"{address}/f")
        fetch(tmp_path)
    assert left(tmp_path / "out") == ["a/eeg.npy"]


def test_an_unknown_hash_is_kept_at_the_first_download_and_held_against_from_then_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Page(CONTENT)
    with web({"/f": page}) as address:
        table(tmp_path, f"{address}/f", size=UNKNOWN, digest=UNKNOWN)
        fetch(tmp_path)
        assert f"the table knows no hash: {SHA} is kept in fetched.json" in capsys.readouterr().err
        assert json.loads((tmp_path / "out" / "fetched.json").read_text())["a/eeg.npy"]["hash"] == SHA
        fetch(tmp_path)
        (tmp_path / "out" / "a" / "eeg.npy").unlink()
        page.content, page.etag = CONTENT[::-1], '"2"'
        with pytest.raises(StudyError, match="the source has changed, or the bytes were altered"):
            fetch(tmp_path)
    (tmp_path / "out" / "fetched.json").write_text("[]")
    with pytest.raises(StudyError, match=r"fetched\.json: expected hashes by path"):
        fetch(tmp_path)


def test_md5_is_checked_where_it_is_all_that_is_known(tmp_path: Path) -> None:
    with web({"/f": Page(CONTENT)}) as address:
        table(tmp_path, f"{address}/f", digest="md5:" + hashlib.md5(CONTENT, usedforsecurity=False).hexdigest())
        fetch(tmp_path)
        shutil.rmtree(tmp_path / "out")
        table(tmp_path, f"{address}/f", digest="md5:" + "0" * 32)
        with pytest.raises(StudyError, match="expected md5:0000"):
            fetch(tmp_path)


def test_without_a_network_the_list_is_printed_and_the_status_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = table(tmp_path, "http://127.0.0.1:9/f")
    words = ["fetch", "mine", "--table", file, "--output", str(tmp_path / "out"), "--tries", "2", "--first_wait_seconds", "0.01"]
    assert main("data_prep", "", COMMANDS, words) == 1
    printed = capsys.readouterr()
    assert f"a/eeg.npy  300,000 bytes  {SHA}  http://127.0.0.1:9/f" in printed.out
    assert re.search(
        r"error: http://127\.0\.0\.1:9/f: does not answer .*, after 2 tries; .* bring the 1 files listed above into", printed.err
    )


def test_the_list_of_studies_and_of_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("data_prep", "", COMMANDS, ["fetch", "--list"]) == 0
    assert "things-meg: 20 files, 33.0 GB; licence: CC0" in capsys.readouterr().out
    assert main("data_prep", "", COMMANDS, ["fetch", "things-meg", "--list", "--parts", "[P2]", "--match", "*.csv"]) == 0
    assert "sourcedata/sample_attributes_P2.csv  3,386,688 bytes" in capsys.readouterr().out
    for words, said in (
        (["fetch"], "study is not given, expected a name: --list shows them"),
        (["fetch", "things-meeg"], "study 'things-meeg' is not in the table; it has things-eeg2,"),
        (["fetch", "things-meg", "--parts", "[P9]"], "has no part 'P9'; it has P1, P2, P3, P4"),
        (["fetch", "things-meg", "--match", "x*"], "no file of study 'things-meg' matches 'x*'"),
        (
            ["fetch", "eegcvpr40", "--output", str(tmp_path / "o")],
            "no file of it can be brought from here, its page leads to them: https://github.com/",
        ),
    ):
        assert main("data_prep", "", COMMANDS, words) in (1, 2)
        assert said in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_the_config_of_the_readme_names_files_that_the_table_has() -> None:
    name = "configs/data_prep/fetch_things_meg.yaml"
    assert files(*PAGES)[name] == (ROOT / name).read_text()
    config = parse(FetchConfig, ["--config", str(ROOT / name)])
    chosen = read_sources()[config.study].chosen(config.parts, config.match)
    assert [file.part for file in chosen] == ["P1"] * 5
    assert sum(file.size_bytes or 0 for file in chosen) == pytest.approx(8.3e9, rel=0.01)


def test_a_full_disk_is_said_before_anything_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**9, 10**9, 1000))
    page = Page(CONTENT)
    with web({"/f": page}) as address:
        table(tmp_path, f"{address}/f")
        with pytest.raises(StudyError, match=r"has 1,000 bytes free, .* are needed: choose another output, or fewer files"):
            fetch(tmp_path)
        table(tmp_path, f"{address}/f", size=UNKNOWN, digest=UNKNOWN)
        with pytest.raises(StudyError, match=r"has 1,000 bytes free, a/eeg\.npy needs"):
            fetch(tmp_path)
    assert left(tmp_path / "out") == []


def test_a_link_in_the_output_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path / "elsewhere")
    with web({"/f": Page(CONTENT)}) as address:
        table(tmp_path, f"{address}/f")
        with pytest.raises(StudyError, match="is a link, expected a folder or file inside"):
            fetch(tmp_path)
    assert left(tmp_path / "elsewhere") == []


# ----------------------------------------------------------------------------------------------------------- archives


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(members: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                archive.addfile(info)
    return buffer.getvalue()


def test_archives_are_unpacked_on_request_into_a_folder_of_their_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = zipped({"sub-01/eeg.npy": b"x", "__MACOSX/._x": b"y"})
    with web({"/f": Page(content)}) as address:
        table(tmp_path, f"{address}/f", path="sub-01.zip", size=len(content), digest=UNKNOWN)
        fetch(tmp_path)
        assert left(tmp_path / "out") == ["fetched.json", "sub-01.zip"]
        fetch(tmp_path, unpack=True)
        assert left(tmp_path / "out") == ["fetched.json", "sub-01.zip", "sub-01/eeg.npy"]
        fetch(tmp_path, unpack=True)
    assert "is there, sub-01.zip is not unpacked again" in capsys.readouterr().err
    (tmp_path / "b.tar.gz").write_bytes(tarred({"one.txt": b"1", "two/x.txt": b"2"}))
    assert left(unpack(tmp_path / "b.tar.gz")) == ["one.txt", "two/x.txt"]
    assert folder_of(Path("x.npy")) is None


HOSTILE: dict[str, tuple[str, Any, str]] = {
    "zip leaves": ("x.zip", lambda: zipped({"../evil": b"x"}), "holds '../evil', expected names inside one folder"),
    "zip absolute": ("x.zip", lambda: zipped({"/tmp/evil": b"x"}), "expected names inside one folder"),
    "zip twice": ("x.zip", lambda: zipped({"a": b"x", "A": b"y"}), "holds 'A' twice"),
    "zip of one file and its folder": ("x.zip", lambda: zipped({"a": b"x", "a/b": b"y"}), "cannot be unpacked|holds"),
    "not a zip": ("x.zip", lambda: b"PK nothing", "cannot be unpacked"),
    "tar leaves": ("x.tar.gz", lambda: tarred({"a/../../evil": b"x"}), "expected names inside one folder"),
    "tar link": ("x.tar.gz", lambda: tarred({"evil": (tarfile.SYMTYPE, "/etc/passwd")}), "'evil' is a link or a device"),
    "tar hard link": ("x.tar.gz", lambda: tarred({"evil": (tarfile.LNKTYPE, "../x")}), "is a link or a device"),
    "tar device": ("x.tar.gz", lambda: tarred({"evil": (tarfile.CHRTYPE, "")}), "is a link or a device"),
    "cut short": ("x.tar.gz", lambda: tarred({"a": CONTENT})[:-2000], "cannot be unpacked"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_leave_nothing(tmp_path: Path, name: str) -> None:
    file, make, said = HOSTILE[name]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / file).write_bytes(make())
    with pytest.raises(StudyError, match=said):
        unpack(tmp_path / "in" / file)
    assert left(tmp_path) == [f"in/{file}"]


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("evil")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(StudyError, match="'evil' is a link or a device, expected plain files"):
        unpack(tmp_path / "x.zip")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    use_limits(Limits(unpacked_bytes=100_000))
    try:
        (tmp_path / "x.zip").write_bytes(zipped({"a": bytes(5_000_000)}))
        with pytest.raises(StudyError, match=r"x\.zip: an archive of .* bytes that unpacks to more than .*file_limits\.unpacked_bytes"):
            unpack(tmp_path / "x.zip")
    finally:
        use_limits(Limits())
    assert left(tmp_path) == ["x.zip"]


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path: Path) -> None:
    content = bytearray(zipped({"a": CONTENT}))
    place = content.index(b"PK\1\2") + 24
    content[place : place + 4] = (10).to_bytes(4, "little")
    (tmp_path / "x.zip").write_bytes(bytes(content))
    with pytest.raises(StudyError, match=r"x\.zip"):
        unpack(tmp_path / "x.zip")
    assert left(tmp_path) == ["x.zip"]

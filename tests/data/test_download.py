"""What is downloaded is what was published, whole or not at all, and an archive cannot write beside its folder."""

import gzip
import hashlib
import io
import multiprocessing
import os
import re
import stat
import struct
import tarfile
import threading
import urllib.request
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from transmix.cli import main
from transmix.data import download as module
from transmix.data import unpack as unpack_module
from transmix.data.dataset import DataError
from transmix.data.download import NAMED, NamedSet, Remote, download, fetch
from transmix.data.source import open_data
from transmix.data.unpack import unpack
from transmix.recipes import dump_recipe, load_recipe


class Server:
    """Files to serve, what was asked, and how to misbehave."""

    def __init__(self):
        self.files, self.asked, self.redirects = {}, [], {}
        self.stop_after = self.ranges = self.announce = None
        self.length = True

    def answer(self, handler):
        name = handler.path.lstrip("/")
        wanted = handler.headers.get("Range")
        self.asked.append((name, wanted))
        if name in self.redirects:
            handler.send_response(302)
            handler.send_header("Location", self.redirects[name])
            handler.end_headers()
            return
        if name not in self.files:
            handler.send_error(404, "Not Found")
            return
        content, start = self.files[name], 0
        if wanted and self.ranges is not False:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            handler.send_response(200)
        if self.length:
            handler.send_header("Content-Length", str(self.announce or len(content) - start))
        handler.end_headers()
        handler.wfile.write(content[start : self.stop_after])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.answer(self)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.url = f"http://127.0.0.1:{http.server_port}"
        yield state
        http.shutdown()
        thread.join()


def remote(server, name, content, **changes):
    server.files[name] = content
    facts = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()} | changes
    return Remote(f"{server.url}/{name}", **facts)


def tar_of(*members, mode="w:gz"):
    """Write a tar archive; a member is (name, bytes) or a TarInfo."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for member in members:
            info, content = (tarfile.TarInfo(member[0]), member[1]) if isinstance(member, tuple) else (member, b"")
            if content:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(*members):
    """Write a zip archive; a member is (name, bytes), or (ZipInfo, bytes)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)
    return buffer.getvalue()


def cifar100():
    records = b"".join(bytes([0, label]) + bytes([7 * label]) * 3072 for label in (0, 1, 2) * 6)
    folder = tarfile.TarInfo("cifar-100-binary")
    folder.type = tarfile.DIRTYPE
    return tar_of(
        folder,
        ("cifar-100-binary/train.bin", records),
        ("cifar-100-binary/test.bin", records),
        ("cifar-100-binary/fine_label_names.txt", b"apple\nbaby\nbear\n"),
    )


@pytest.fixture
def published(server, monkeypatch):
    """Have cifar100 published on the loopback server."""
    file = remote(server, "cifar-100-binary.tar.gz", cifar100(), unpacked=300_000)
    monkeypatch.setitem(NAMED, "cifar100", NamedSet((file,)))
    return file


def left(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


# The table.


def test_the_table_is_closed_and_every_file_has_a_size_a_checksum_and_a_bound():
    assert set(NAMED) == {"cifar10", "cifar100", "mnist", "fashion-mnist", "oxford-pets"} | {
        f"emnist-{split}" for split in ("balanced", "letters", "digits", "byclass", "bymerge", "mnist")
    }
    for named in NAMED.values():
        for file in named.files:
            assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
            assert file.url.startswith(("https://", "http://fashion-mnist.s3-website."))
            assert 1000 < file.size < 10**9
            assert file.unpacked is None or file.size < file.unpacked < 2 * 10**9
            assert (file.unpacked is None) == file.name.endswith("ubyte.gz")
    assert len(NAMED["fashion-mnist"].classes) == 10


# Fetching.


def test_a_named_set_is_fetched_unpacked_read_and_not_fetched_again(published, server, tmp_path, capsys):
    data = open_data("cifar100", download=tmp_path / "sets")
    assert (data.name, data.classes, len(data.train)) == ("cifar100", ("apple", "baby", "bear"), 18)
    np.testing.assert_array_equal(data.train.images[2], np.full((32, 32, 3), 14, dtype=np.uint8))
    assert capsys.readouterr().out == f"downloading {published.url} (0.0 MB)\n"
    assert server.asked == [("cifar-100-binary.tar.gz", None)]
    assert left(tmp_path / "sets") == ["cifar100"]  # no archive and no temporary folder
    open_data("cifar100", download=str(tmp_path / "sets"))
    assert len(server.asked) == 1
    assert open_data(tmp_path / "sets" / "cifar100").classes == data.classes  # without --download, too


def test_files_that_are_kept_as_they_are_come_with_their_class_names(server, tmp_path, monkeypatch):
    def idx(shape, values):
        lengths = b"".join(length.to_bytes(4, "big") for length in shape)
        return gzip.compress(bytes([0, 0, 8, len(shape)]) + lengths + bytes(values))

    names = ("train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz")
    files = [remote(server, name, idx((2, 3, 4), range(24))) for name in names]
    files += [remote(server, name.replace("images-idx3", "labels-idx1"), idx((2,), (1, 0))) for name in names]
    monkeypatch.setitem(NAMED, "fashion-mnist", NamedSet(tuple(files), ("Trouser", "Bag")))
    data = open_data("fashion-mnist", download=tmp_path)
    assert data.classes == ("Trouser", "Bag")
    assert data.val.images[1, 0, 0].tolist() == [12, 12, 12]
    assert left(tmp_path) == ["fashion-mnist"]


def test_only_the_members_wanted_are_taken_from_a_zip_of_many_sets(server, tmp_path, monkeypatch):
    content = zip_of(("gzip/emnist-letters-x.gz", b"123"), ("gzip/emnist-digits-x.gz", b"45"), ("gzip/", b""))
    file = remote(server, "gzip.zip", content, unpacked=10, members="gzip/emnist-letters-")
    monkeypatch.setitem(NAMED, "emnist-letters", NamedSet((file,)))
    folder = download("emnist-letters", tmp_path)
    assert (folder / "gzip" / "emnist-letters-x.gz").read_bytes() == b"123"
    assert left(folder / "gzip") == ["emnist-letters-x.gz"]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on_where_it_stopped_or_anew_if_the_server_cannot(
    published, server, tmp_path, ranges, capsys
):
    server.stop_after = 100
    with pytest.raises(DataError, match=r"ended after 100 of \d+ bytes; the same command goes on from there$"):
        download("cifar100", tmp_path)
    assert left(tmp_path) == [".cifar100-cifar-100-binary.tar.gz.part"]
    server.stop_after, server.ranges = None, ranges
    assert len(open_data("cifar100", download=tmp_path).train) == 18
    assert server.asked[-1][1] == "bytes=100-"
    assert "0.0 here" in capsys.readouterr().out


def test_a_partial_file_of_something_else_is_noticed_and_the_next_try_is_good(published, tmp_path):
    part = tmp_path / ".cifar100-cifar-100-binary.tar.gz.part"
    part.write_bytes(bytes(100))
    with pytest.raises(
        DataError, match=r"what came has sha256 [0-9a-f]{64}, published is [0-9a-f]{64}; it was removed"
    ):
        download("cifar100", tmp_path)
    assert left(tmp_path) == []
    part.write_bytes(bytes(published.size + 1))  # longer than the whole
    assert download("cifar100", tmp_path).is_dir()


def test_another_file_of_the_same_size_is_refused_by_its_checksum(published, server, tmp_path):
    content = bytearray(server.files[published.name])
    content[50] ^= 1
    server.files[published.name] = bytes(content)
    found = hashlib.sha256(content).hexdigest()
    message = (
        f"{published.url}: what came has sha256 {found}, published is {published.sha256}; it was removed, try again"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        download("cifar100", tmp_path)
    assert left(tmp_path) == []


def test_a_server_that_sends_more_than_published_is_cut_off(server, tmp_path):
    file = remote(server, "f", b"0123456789")
    server.files["f"] += b"x" * 10_000_000
    with pytest.raises(DataError, match=r"/f: 10000010 bytes are announced, 10 are published$"):
        fetch(file, tmp_path / "f.part")
    server.length = False
    with pytest.raises(DataError, match=r"/f: more than the 10 bytes that are published; it was removed$"):
        fetch(file, tmp_path / "f.part")
    assert left(tmp_path) == []
    server.length, server.announce = True, 10  # and sends more than that
    assert fetch(file, tmp_path / "f.part").read_bytes() == b"0123456789"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/f", "gopher://127.0.0.1/f"])
def test_a_redirect_away_from_the_web_is_not_followed(server, tmp_path, target):
    file = remote(server, "f", b"0123456789")
    server.redirects["f"] = target
    with pytest.raises(DataError, match=f"/f: .*{re.escape(target)}.*; without network, bring f here by other means"):
        fetch(file, tmp_path / "f.part")
    assert left(tmp_path) == []


def test_a_redirect_on_the_web_is_followed_but_not_from_secure_to_open(server, tmp_path):
    file = remote(server, "f", b"0123456789")
    server.files["g"] = server.files["f"]
    server.redirects["f"] = f"{server.url}/g"
    assert fetch(file, tmp_path / "f.part").read_bytes() == b"0123456789"
    redirect, secure = module._Redirect(), urllib.request.Request("https://a.org/f")
    with pytest.raises(urllib.error.URLError, match=r"it redirects to http://a.org/g, which is not followed"):
        redirect.redirect_request(secure, None, 302, "Found", {}, "http://a.org/g")
    assert redirect.redirect_request(secure, None, 302, "Found", {}, "https://b.org/g").full_url == "https://b.org/g"


def test_files_cannot_be_opened_by_the_address_itself(tmp_path):
    (tmp_path / "f").write_bytes(b"0123456789")
    with pytest.raises(DataError, match=r"cannot be reached \(unknown url type: file\)"):
        fetch(Remote(f"file://{tmp_path}/f", 10, "0" * 64), tmp_path / "f.part")


def test_no_network_and_an_error_of_the_server_are_one_clear_line(server, tmp_path, monkeypatch, capsys):
    with pytest.raises(DataError, match=r"/gone: the server says 404 Not Found; without network, bring gone here"):
        fetch(Remote(f"{server.url}/gone", 10, "0" * 64), tmp_path / "f.part")
    monkeypatch.setitem(NAMED, "mnist", NamedSet((Remote("http://127.0.0.1:9/f.gz", 10, "0" * 64),)))
    command = ["train", "--data", "mnist", "--download", str(tmp_path / "d"), "--out", str(tmp_path / "run")]
    assert main(command) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert re.fullmatch(
        r"transmix: http://127.0.0.1:9/f.gz: cannot be reached \(.*refused\); without network, bring f.gz here by "
        r"other means and give its folder as --data",
        said[0],
    )
    assert not (tmp_path / "run").exists()


def test_a_name_that_is_not_published_is_an_error_that_lists_those_that_are(tmp_path):
    with pytest.raises(
        DataError, match=r"^digits: not a data set that --download knows; it knows cifar10, cifar100, mn"
    ):
        open_data("digits", download=tmp_path)
    with pytest.raises(
        DataError, match=r"^mnist: no such folder; give .* of a data set \(--download FOLDER makes FOLDER/mnist\)$"
    ):
        open_data("mnist")


def test_what_is_there_but_not_whole_or_not_ours_is_an_error(published, server, tmp_path, monkeypatch):
    folder = download("cifar100", tmp_path)
    file = folder / "cifar-100-binary" / "test.bin"
    os.truncate(file, 100)
    refused = f"{file}: has 100 bytes instead of {18 * 3074}; remove {folder} to fetch it again"
    with pytest.raises(DataError, match=f"^{re.escape(refused)}$"):
        download("cifar100", tmp_path)
    file.unlink()
    with pytest.raises(DataError, match=re.escape(f"{file}: is missing; remove {folder} to fetch it again")):
        download("cifar100", tmp_path)
    other = Remote(published.url, published.size, "0" * 64, published.unpacked)
    monkeypatch.setitem(NAMED, "cifar100", NamedSet((other,)))
    with pytest.raises(DataError, match=r"cifar100: was made from other files than are published now; remove it"):
        download("cifar100", tmp_path)
    (folder / "downloaded.json").write_text("[]")
    with pytest.raises(DataError, match=r"cifar100: is there, but not from --download; give it as --data "):
        download("cifar100", tmp_path)
    assert len(server.asked) == 1


def test_a_place_that_cannot_be_written_is_an_error(published, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file: cannot keep cifar100 there \(.*\); give --download another folder"):
        download("cifar100", tmp_path / "file")


def test_an_archive_that_is_not_good_leaves_nothing_unpacked(server, tmp_path, monkeypatch):
    file = remote(server, "evil.tar.gz", tar_of(("a", b"1"), ("../b", b"2")), unpacked=10**6)
    monkeypatch.setitem(NAMED, "cifar10", NamedSet((file,)))
    with pytest.raises(DataError, match=r"member '../b' climbs out of its folder; nothing is used of it$"):
        download("cifar10", tmp_path / "sets")
    assert left(tmp_path / "sets") == [".cifar10-evil.tar.gz.part"]
    assert left(tmp_path) == ["sets"]


def _download_into(folder, results):
    results.put(str(download("cifar100", folder)))


def test_of_many_processes_one_downloads(published, server, tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_download_into, args=(tmp_path, results)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * 4
    assert {results.get(timeout=300) for _ in processes} == {str(tmp_path / "cifar100")}
    assert len(server.asked) == 1


def test_the_command_line_downloads_trains_and_resumes_with_the_folder_moved(
    published, small_recipe, server, tmp_path, capsys
):
    (tmp_path / "small.yaml").write_text(dump_recipe(small_recipe("cifar100")))
    command = ["train", "--recipe", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "run")]
    assert main([*command, "--download", str(tmp_path / "sets"), "--max-steps", "1"]) == 0
    assert load_recipe(str(tmp_path / "run" / "recipe.yaml")).data.download == str(tmp_path / "sets")
    (tmp_path / "sets").rename(tmp_path / "moved")
    assert main([*command, "--download", str(tmp_path / "moved"), "--max-steps", "2", "--resume"]) == 0
    assert len(server.asked) == 1
    assert "apple" in (tmp_path / "run" / "classes.json").read_text()
    capsys.readouterr()


# Archives.


def tar_member(name="a", kind=tarfile.REGTYPE, link="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


def zip_member(name, mode=stat.S_IFREG | 0o644):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


EVIL = {
    "tar parent": (tar_of(("../b", b"1")), "member '../b' climbs out of its folder"),
    "tar inner parent": (tar_of(("a/../../b", b"1")), "member 'a/../../b' climbs out of its folder"),
    "tar absolute": (tar_of(("/tmp/b", b"1")), "member '/tmp/b' has an absolute name"),
    "tar backslash": (tar_of(("..\\b", b"1")), r"member '..\\b' has an absolute name"),
    "tar drive": (tar_of(("C:b", b"1")), "member 'C:b' has an absolute name"),
    "tar symlink": (tar_of(tar_member("a", tarfile.SYMTYPE, "/etc"), ("a/passwd", b"1")), "member 'a' is a link"),
    "tar hard link": (tar_of(tar_member("a", tarfile.LNKTYPE, "/etc/passwd")), "member 'a' is a link"),
    "tar device": (tar_of(tar_member("a", tarfile.CHRTYPE)), "member 'a' is neither a plain file nor a folder"),
    "tar fifo": (tar_of(tar_member("a", tarfile.FIFOTYPE)), "member 'a' is neither a plain file nor a folder"),
    "tar twice": (tar_of(("a", b"1"), ("a", b"2")), "two members are called a"),
    "tar evil though not wanted": (tar_of(("w", b"1"), ("../b", b"1")), "member '../b' climbs out"),
    "tar bomb": (tar_of(("a", bytes(2_000_000))), "member 'a' has 2000000 bytes, 1000000 are the most"),
    "tar bomb in parts": (tar_of(*[(f"{n}", bytes(400_000)) for n in range(4)]), "unpacks to more than 1000000 bytes"),
    "tar bomb xz": (tar_of(*[(f"{n}", bytes(400_000)) for n in range(4)], mode="w:xz"), "unpacks to more than 1000000"),
    "tar bomb bz2": (
        tar_of(*[(f"{n}", bytes(400_000)) for n in range(4)], mode="w:bz2"),
        "unpacks to more than 1000000",
    ),
    "tar bomb in a header": (
        gzip.compress(tar_member("h", tarfile.XHDTYPE, size=10**9).tobuf() + bytes(2_000_000)),
        "unpacks to more than 1000000 bytes",
    ),
    "tar cut off": (gzip.compress(tar_of(("a", b"1" * 5000), mode="w")[:3000]), "damaged, or no tar or zip archive ("),
    "tar gzip cut off": (tar_of(("a", os.urandom(50_000)))[:-5000], "damaged, or no tar or zip archive ("),
    "tar empty": (tar_of(), "no member at all"),
    "nothing": (b"", "damaged, or no tar or zip archive ("),
    "text": (b"<html>" * 500, "damaged, or no tar or zip archive ("),
    "zip parent": (zip_of(("../b", b"1")), "member '../b' climbs out of its folder"),
    "zip absolute": (zip_of((zip_member("/tmp/b"), b"1")), "member '/tmp/b' has an absolute name"),
    "zip backslash": (zip_of((zip_member("..\\b"), b"1")), r"member '..\\b' has an absolute name"),
    "zip symlink": (zip_of((zip_member("a", stat.S_IFLNK | 0o777), b"/etc/passwd")), "member 'a' is a link"),
    "zip device": (zip_of((zip_member("a", stat.S_IFBLK), b"")), "member 'a' is neither a plain file nor a folder"),
    "zip bomb": (zip_of(("a", bytes(2_000_000))), "unpacks to 2000000 bytes, more than 1000000"),
    "zip bomb that lies": (
        zip_of(("a", bytes(2_000_000))).replace(struct.pack("<I", 2_000_000), struct.pack("<I", 10)),
        "damaged, or no tar or zip archive (Bad CRC-32",
    ),
    "zip cut off": (zip_of(("a", os.urandom(5000)))[1000:], "damaged, or no tar or zip archive ("),
    "zip encrypted": (
        zip_of(("a", b"1")).replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"),
        "member 'a' is encrypted",
    ),
}


@pytest.mark.parametrize("kind", EVIL)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_that_reaches_out_links_or_swells_is_refused_by_the_name_of_its_member(tmp_path, kind):
    content, message = EVIL[kind]
    archive, into = tmp_path / "archive", tmp_path / "a" / "into"
    archive.write_bytes(content)
    into.mkdir(parents=True)
    with pytest.raises(DataError, match=re.escape(f"{archive}: {message}")):
        unpack(archive, into, limit=10**6, members="w" if kind == "tar evil though not wanted" else "")
    assert sorted(path.name for path in tmp_path.rglob("*") if into not in path.parents) == ["a", "archive", "into"]
    assert not any(path.is_symlink() for path in into.rglob("*"))
    assert sum(path.stat().st_size for path in into.rglob("*") if path.is_file()) <= 10**6


def test_unpacking_without_the_rules_would_write_beside_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack_module, "_require_inside", lambda archive, name: None)
    (tmp_path / "archive").write_bytes(EVIL["tar parent"][0])
    (tmp_path / "into").mkdir()
    unpack(tmp_path / "archive", tmp_path / "into", limit=10**6)
    assert (tmp_path / "b").read_bytes() == b"1"


def test_too_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack_module, "MOST_MEMBERS", 2)
    for make in (tar_of, zip_of):
        (tmp_path / "archive").write_bytes(make(("x", b"1"), ("y", b"1"), ("z", b"1")))
        (tmp_path / make.__name__).mkdir()
        with pytest.raises(DataError, match=r"member 'z' comes after 2 others"):
            unpack(tmp_path / "archive", tmp_path / make.__name__, limit=10**6)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz", "zip"])
def test_a_good_archive_is_unpacked_byte_for_byte_with_no_modes_of_its_own(tmp_path, mode):
    members = [("d/e/f.txt", b"text"), ("./g", os.urandom(70_000)), ("d/empty", b"")]
    (tmp_path / "archive").write_bytes(zip_of(*members) if mode == "zip" else tar_of(*members, mode=mode))
    (tmp_path / "into").mkdir()
    unpack(tmp_path / "archive", tmp_path / "into", limit=10**6)
    for name, content in members:
        assert (tmp_path / "into" / name).read_bytes() == content
        assert not os.access(tmp_path / "into" / name, os.X_OK) or os.geteuid() == 0
    assert len([path for path in (tmp_path / "into").rglob("*") if path.is_file()]) == 3

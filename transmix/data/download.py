"""Published data sets by name: fetched once, checked to the last byte, and unpacked with care."""

import hashlib
import http.client
import json
import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transmix.data.dataset import DataError
from transmix.data.unpack import unpack

TIMEOUT = 30.0  # seconds without a byte
CHUNK = 2**18
RECORD = "downloaded.json"
"""Left in the folder of a data set: what it was made of, and what is in it."""


@dataclass(frozen=True)
class Remote:
    """A published file.

    Attributes:
        url: Where it is.
        size: Its bytes.
        sha256: Of its content.
        unpacked: The most bytes that the archive may unpack to; None for a file that is kept as it is.
        members: The start of the names of those members that are wanted.
    """

    url: str
    size: int
    sha256: str
    unpacked: int | None = None
    members: str = ""

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class NamedSet:
    """The files that a data set is made of, and its class names where these do not tell."""

    files: tuple[Remote, ...]
    classes: tuple[str, ...] = ()


def _emnist(split: str) -> NamedSet:
    sha256 = "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e"
    url = "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip"
    return NamedSet((Remote(url, 561_753_746, sha256, 10**9, f"gzip/emnist-{split}-"),))


_KRIZ = "https://www.cs.toronto.edu/~kriz"
_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_PETS = "https://www.robots.ox.ac.uk/~vgg/data/pets/data"

# Sizes and checksums are those that TensorFlow Datasets publishes; they go with the MD5 sums of the authors' pages and
# of torchvision.
NAMED = {
    "cifar10": NamedSet(
        (
            Remote(
                f"{_KRIZ}/cifar-10-binary.tar.gz",
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                200_000_000,
            ),
        )
    ),
    "cifar100": NamedSet(
        (
            Remote(
                f"{_KRIZ}/cifar-100-binary.tar.gz",
                168_513_733,
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
                200_000_000,
            ),
        )
    ),
    "mnist": NamedSet(
        (
            Remote(
                f"{_MNIST}/train-images-idx3-ubyte.gz",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            Remote(
                f"{_MNIST}/train-labels-idx1-ubyte.gz",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            Remote(
                f"{_MNIST}/t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            Remote(
                f"{_MNIST}/t10k-labels-idx1-ubyte.gz",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        )
    ),
    "fashion-mnist": NamedSet(
        (
            Remote(
                f"{_FASHION}/train-images-idx3-ubyte.gz",
                26_421_880,
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            Remote(
                f"{_FASHION}/train-labels-idx1-ubyte.gz",
                29_515,
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
            Remote(
                f"{_FASHION}/t10k-images-idx3-ubyte.gz",
                4_422_102,
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            Remote(
                f"{_FASHION}/t10k-labels-idx1-ubyte.gz",
                5_148,
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
        ),
        (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
    ),
    **{f"emnist-{split}": _emnist(split) for split in ("balanced", "letters", "digits", "byclass", "bymerge", "mnist")},
    "oxford-pets": NamedSet(
        (
            Remote(
                f"{_PETS}/images.tar.gz",
                791_918_971,
                "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
                1_200_000_000,
            ),
            Remote(
                f"{_PETS}/annotations.tar.gz",
                19_173_078,
                "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
                400_000_000,
            ),
        )
    ),
}
"""The data sets that can be fetched, by name."""


def download(name: str, folder: str | os.PathLike[str]) -> Path:
    """Fetch a data set into `folder/name`, unless it is there, and return that folder.

    Files arrive under a name that ends in `.part`, and a download that was interrupted goes on where it stopped. Size
    and sha256 must be those in `NAMED`; then archives are unpacked into a temporary folder, which is renamed when
    everything is in it. So `folder/name` is there whole or not at all. What is there is not fetched again: its files
    must have the sizes that they had when they were unpacked. Of several processes one fetches and the others wait.

    Raises:
        DataError: If the name is not in `NAMED`, the address cannot be reached, or what comes is not what was
            published.
    """
    if name not in NAMED:
        raise DataError(f"{name}: not a data set that --download knows; it knows {', '.join(NAMED)}")
    folder = Path(folder).expanduser()
    target, wanted = folder / name, NAMED[name]
    try:
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with _one_process(folder / f".{name}.lock"):
                if not target.exists():
                    _make(name, wanted, folder, target)
        _require_complete(target, wanted)
    except OSError as error:
        raise DataError(f"{folder}: cannot keep {name} there ({error}); give --download another folder") from error
    return target


def _make(name: str, wanted: NamedSet, folder: Path, target: Path) -> None:
    arrived = [fetch(remote, folder / f".{name}-{remote.name}.part") for remote in wanted.files]
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder) as temporary:
        content = Path(temporary) / name
        content.mkdir()
        for remote, path in zip(wanted.files, arrived, strict=True):
            if remote.unpacked is None:
                shutil.copyfile(path, content / remote.name)
            else:
                unpack(path, content, remote.unpacked, remote.members)
        if wanted.classes:
            (content / "classnames.txt").write_text("\n".join(wanted.classes) + "\n")
        files = {str(path.relative_to(content)): path.stat().st_size for path in content.rglob("*") if path.is_file()}
        (content / RECORD).write_text(json.dumps({"sha256": _sources(wanted), "files": files}, indent=1))
        content.rename(target)
    for path in arrived:
        path.unlink()


def _sources(wanted: NamedSet) -> dict[str, str]:
    return {remote.name: remote.sha256 for remote in wanted.files}


def _require_complete(target: Path, wanted: NamedSet) -> None:
    """Check that a folder was made by `download` from the files wanted, and that nothing was cut off since."""
    try:
        record: Any = json.loads((target / RECORD).read_text())
        sources, files = record["sha256"], {str(name): int(size) for name, size in record["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{target}: is there, but not from --download; give it as --data {target} without --download, or give "
            "--download another folder"
        ) from error
    if sources != _sources(wanted):
        raise DataError(f"{target}: was made from other files than are published now; remove it to fetch it again")
    for name, size in files.items():
        found = (target / name).stat().st_size if (target / name).is_file() else None
        if found != size:
            what = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise DataError(f"{target / name}: {what}; remove {target} to fetch it again")


def fetch(remote: Remote, path: Path) -> Path:
    """Fetch a file, or the rest of it, and check size and sha256.

    Raises:
        DataError: If it cannot be reached, ends early, is longer than published, or has another checksum.
    """
    if path.exists() and path.stat().st_size > remote.size:
        path.unlink()
    have = path.stat().st_size if path.exists() else 0
    if have < remote.size:
        print(f"downloading {remote.url} ({remote.size / 1e6:.1f} MB{f', {have / 1e6:.1f} here' if have else ''})")
        _receive(remote, path, have)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != remote.sha256:
        path.unlink()
        raise DataError(
            f"{remote.url}: what came has sha256 {found}, published is {remote.sha256}; it was removed, try again"
        )
    return path


def _receive(remote: Remote, path: Path, have: int) -> None:
    from tqdm import tqdm

    with _answer(remote, have) as response:
        go_on = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        have = have if go_on else 0
        announced = response.headers.get("Content-Length", "")
        if announced.isdecimal() and have + int(announced) != remote.size:
            raise DataError(f"{remote.url}: {have + int(announced)} bytes are announced, {remote.size} are published")
        with (
            path.open("ab" if go_on else "wb") as file,
            tqdm(total=remote.size, initial=have, unit="B", unit_scale=True, disable=not sys.stderr.isatty()) as bar,
        ):
            # one byte more than wanted, to notice that there is more
            while chunk := _read(remote, response, min(CHUNK, remote.size - have + 1)):
                have += len(chunk)
                if have > remote.size:
                    break
                file.write(chunk)
                bar.update(len(chunk))
    if have > remote.size:
        path.unlink()
        raise DataError(f"{remote.url}: more than the {remote.size} bytes that are published; it was removed")
    if have < remote.size:
        raise DataError(f"{remote.url}: ended after {have} of {remote.size} bytes; the same command goes on from there")


def _answer(remote: Remote, have: int) -> Any:
    headers = {"User-Agent": "transmix", "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        return _opener().open(urllib.request.Request(remote.url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            raise DataError(f"{remote.url}: the server says {error.code} {error.reason}; {_by_hand(remote)}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"{remote.url}: cannot be reached ({reason}); {_by_hand(remote)}") from error


def _by_hand(remote: Remote) -> str:
    return f"without network, bring {remote.name} here by other means and give its folder as --data"


def _read(remote: Remote, response: Any, size: int) -> bytes:
    try:
        return response.read(size)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{remote.url}: broke off ({error}); the same command goes on from there") from error


class _Redirect(urllib.request.HTTPRedirectHandler):
    """Follows to the web alone: not to files, not to FTP, and not from a secure address to one that is not."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        allowed = ("https:",) if req.full_url.startswith("https:") else ("https:", "http:")
        if not newurl.startswith(allowed):
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Build an opener that speaks http and https and nothing else (urllib's own also opens files)."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirect(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


@contextmanager
def _one_process(lock: Path) -> Iterator[None]:
    """Hold a lock among the processes of this machine; the system frees it when a process dies."""
    try:
        import fcntl
    except ImportError:  # Windows, where training is one process
        yield
        return
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

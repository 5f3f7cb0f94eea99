"""Damaged images, recipes and checkpoints by the thousand: each must be read or refused, quickly, and touch nothing.

Refused means DataError, RecipeError or CheckpointError; anything else that is raised, a case that takes longer than
--seconds, and a write, a connection or a process outside the run folder, is a failure. Case N of a kind depends on the
seed and N alone, so `--first N --count 1` tries it again.

    python scripts/fuzz.py [--count 5000] [--first 0] [--seed 0] [--seconds 10] [--kinds images recipes checkpoints]
"""

import argparse
import contextlib
import faulthandler
import io
import json
import os
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from transmix.data.dataset import DataError
from transmix.data.decode import decode_image, image_size
from transmix.recipes import Recipe, RecipeError, check_recipe, dump_recipe, load_recipe, recipe_names, recipe_text
from transmix.runs.checkpoint import (
    Checkpoint,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
    verify_checkpoint,
    write_manifest,
)
from transmix.runs.error import CheckpointError

REFUSALS = (DataError, RecipeError, CheckpointError)


@dataclass
class Outcome:
    """What came of the cases of one kind."""

    counts: Counter = field(default_factory=Counter)
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)


def fuzz(kind: str, count: int, *, seed: int = 0, first: int = 0, seconds: float = 10.0) -> Outcome:
    """Try cases `first` to `first + count - 1` of a kind, in a folder of their own."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as sandbox, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = Path(sandbox) / "run"
        run.mkdir()
        attempt = KINDS[kind](run)
        for case in range(first, first + count):
            rng = random.Random(f"{seed}/{kind}/{case}")
            faulthandler.dump_traceback_later(60 + 6 * seconds, exit=True)  # a hang in C code cannot be interrupted
            started = time.perf_counter()
            with watched(run) as events:
                try:
                    result = attempt(rng)
                except REFUSALS:
                    result = "refused"
                except Exception:
                    result = "failed"
                    outcome.failures.append(f"{kind} case {case}: {traceback.format_exc()}")
            took = time.perf_counter() - started
            outcome.failures += [f"{kind} case {case}: {event}" for event in events]
            if took > seconds:
                outcome.failures.append(f"{kind} case {case}: took {took:.1f} s")
            outcome.counts[result] += 1
            outcome.slowest = max(outcome.slowest, took)
        faulthandler.cancel_dump_traceback_later()
        beside = sorted(path.name for path in Path(sandbox).iterdir())
        if beside != ["run"]:
            outcome.failures.append(f"{kind}: beside the run folder there is {beside}")
    return outcome


# What happens outside the run folder.

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PATHS = {"os.mkdir": 1, "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.link": 2, "os.truncate": 1, "os.chmod": 1}
"""Events that change what their first arguments name."""
NEVER = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "pickle.find_class"}

_watch: dict[str, Any] = {"allowed": None, "events": []}


@contextlib.contextmanager
def watched(allowed: Path) -> Iterator[list[str]]:
    """Note every write outside a folder, and what should happen nowhere, while the block runs."""
    if "hooked" not in _watch:
        sys.addaudithook(_audit)  # stays as long as the process, so it is added once and switched
        _watch["hooked"] = True
    _watch.update(allowed=str(allowed), events=[])
    try:
        yield _watch["events"]
    finally:
        _watch["allowed"] = None


def _audit(event: str, arguments: tuple) -> None:
    if _watch is None or _watch["allowed"] is None:  # the module's names are gone while the interpreter ends
        return
    if event in NEVER:
        _watch["events"].append(f"{event} {arguments!r:.200}")
    elif event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
        _note(event, arguments[:1])
    elif event in PATHS:
        _note(event, arguments[: PATHS[event]])


def _note(event: str, paths: tuple) -> None:
    for path in paths:
        if isinstance(path, int):
            continue
        path = os.path.abspath(os.fsdecode(path))
        folder, name = os.path.split(path)
        place = os.path.realpath(path) if event == "open" else os.path.join(os.path.realpath(folder), name)
        if place != "/dev/null" and not place.startswith(_watch["allowed"] + os.sep):
            _watch["events"].append(f"{event} {place}")


# Images.


def images(_: Path) -> Callable[[random.Random], str]:
    """Return a function that damages an image of some kind and decodes it."""
    whole = list(_whole_images().values())

    def attempt(rng: random.Random) -> str:
        content = damaged(rng.choice(whole), rng, others=whole)
        with contextlib.suppress(DataError):
            height, width = image_size(content, where="case")
            assert height > 0
            assert width > 0
        pixels = decode_image(content, where="case")
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert pixels.size
        return "read"

    return attempt


def _whole_images() -> dict[str, bytes]:
    wave = np.sin(np.add.outer(np.arange(24) / 3, np.arange(40) / 5))
    colour = Image.fromarray((128 + 100 * np.stack([wave, -wave, wave**2], axis=-1)).astype(np.uint8))
    deep = Image.fromarray((30_000 * (wave + 1)).astype(np.uint16))
    glass = colour.copy()
    glass.putalpha(Image.fromarray((127 * (wave + 1)).astype(np.uint8)))
    moving = {"save_all": True, "append_images": [colour.rotate(180)]}
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "png": (colour, "PNG", {"exif": turned}),
        "png deep": (deep, "PNG", {}),
        "png alpha": (glass, "PNG", {}),
        "png palette": (colour.quantize(9), "PNG", {"transparency": 1}),
        "png bits": (colour.convert("1"), "PNG", {}),
        "png stored": (colour, "PNG", {"compress_level": 0}),
        "png moving": (colour, "PNG", moving),
        "jpeg": (colour, "JPEG", {"exif": turned}),
        "jpeg progressive": (colour, "JPEG", {"progressive": True}),
        "jpeg cmyk": (colour.convert("CMYK"), "JPEG", {}),
        "jpeg grey": (colour.convert("L"), "JPEG", {"icc_profile": b"profile"}),
        "gif": (colour, "GIF", moving),
        "webp": (glass, "WEBP", {"lossless": True}),
        "webp lossy": (colour, "WEBP", moving),
        "bmp": (colour, "BMP", {}),
        "bmp palette": (colour.quantize(9), "BMP", {}),
        "tiff": (colour, "TIFF", moving),
        "tiff lzw": (colour, "TIFF", {"compression": "tiff_lzw"}),
        "tiff jpeg": (colour, "TIFF", {"compression": "jpeg"}),
        "tiff deep": (deep, "TIFF", {"compression": "tiff_deflate"}),
        "tiff fax": (colour.convert("1"), "TIFF", {"compression": "group4"}),
        "tiff float": (Image.fromarray(wave.astype(np.float32)), "TIFF", {}),
        "ppm": (colour, "PPM", {}),
        "pgm deep": (deep, "PPM", {}),
        "avif": (colour, "AVIF", {}),
        "jp2": (colour, "JPEG2000", {}),
        "ico": (colour, "ICO", {"sizes": [(16, 16)]}),
    }
    encoded = {}
    for name, (image, kind, options) in kinds.items():
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        encoded[name] = buffer.getvalue()
    return encoded


EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def damaged(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Change, cut, swell or splice bytes, one to three times over; half of the places are in the first 64 bytes."""
    for _ in range(rng.randint(1, 3)):
        size = max(1, len(content))
        at = rng.randrange(min(64, size)) if rng.random() < 0.5 else rng.randrange(size)
        length = rng.randint(1, 40)
        match rng.randrange(8):
            case 0:
                content = content[:at]
            case 1 | 2:
                content = content[:at] + rng.randbytes(1) + content[at + 1 :]
            case 3:
                content = content[:at] + content[at + length :]
            case 4:
                content = content[:at] + rng.randbytes(length) + content[at:]
            case 5:
                content = content[:at] + bytes(length) + content[at + length :]
            case 6:
                number, order = rng.choice(EXTREMES), rng.choice(("little", "big"))
                content = content[:at] + number.to_bytes(4, order)[: rng.choice((2, 4))] + content[at + 4 :]
            case _:
                content = content[:at] + rng.choice(others)[at:]
    return content


# Recipes.

ODD_VALUES = (
    *("", "~", "null", "[]", "{}", "-1", "0", "1e999", ".nan", "-.inf", "true", "yes", "0x1F", "1_000", "9" * 5000),
    *("'" + "x" * 9000 + "'", "[1, 2, 3]", "{a: {b: {c: 1}}}", "2001-01-01", "0001-01-01t00:00:00+23:00", "12:30:45"),
    *("&a [*a]", "*nowhere", "!!bool x", "!!int ''", "!!float ''", "!!binary =", "!!set {a, b}", "!!omap [a: 1]"),
    *("!!python/object/apply:os.system ['touch fuzz-was-here']", "!!python/name:os.system", "!!map [1]", "!wrong x"),
    *("[" * 3000, "{a: " * 900, "? [a]\n", "<<: {a: 1}", "|\n  text", "'\\ud800'", '"\\ud800"', "../../../etc/passwd"),
    *("'\x85\u2028'", "\ufeff", "@", "`", "%", "- - - -", "---\n---", "\t"),
)


def recipes(run: Path) -> Callable[[random.Random], str]:
    """Return a function that damages a recipe and loads it."""
    texts = [*map(recipe_text, recipe_names()), dump_recipe(Recipe())]
    encoded = [text.encode() for text in texts]
    path = run / "recipe.yaml"

    def attempt(rng: random.Random) -> str:
        if rng.random() < 0.4:
            content = damaged(rng.choice(encoded), rng, others=encoded)
        else:
            content = _odd_recipe(rng.choice(texts), rng).encode("utf-8", "surrogatepass")
        path.write_bytes(content)
        recipe = load_recipe(str(path))
        check_recipe(replace(recipe, data=replace(recipe.data, data="digits")))  # shipped recipes leave data open
        path.write_text(dump_recipe(recipe), encoding="utf-8")
        assert repr(load_recipe(str(path))) == repr(recipe)  # by its text, because a nan equals nothing
        return "read"

    return attempt


def _odd_recipe(text: str, rng: random.Random) -> str:
    lines = text.splitlines()
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(lines))
        name, colon, _ = lines[at].partition(":")
        match rng.randrange(5):
            case 0:
                lines[at] = rng.choice(ODD_VALUES)
            case 1:
                lines.insert(at, lines[rng.randrange(len(lines))])
            case 2:
                lines[at] = f"{rng.choice(ODD_VALUES)}{colon} 1"
            case _:
                lines[at] = f"{name}{colon} {rng.choice(ODD_VALUES)}"
    return "\n".join(lines)


# Checkpoints.

ODD_NAMES = (
    "../../outside",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/b",
    "model.safetensors/",
    "\0",
    "x" * 5000,
    "/dev/zero",
    "é",
)
ODD_ENTRIES = (None, 1, [], {}, {"size": -1, "sha256": ""}, {"size": 1e999, "sha256": None}, {"size": 10**400}, "text")


def checkpoints(run: Path) -> Callable[[random.Random], str]:
    """Return a function that damages a checkpoint and loads it."""
    tensors = {"model": {"weight": torch.arange(6.0).reshape(2, 3)}, "random-0": {"cpu": torch.arange(9)}}
    state = {"step": 3, "best": None, "reads": [], "scaler": {}}
    folder = save_checkpoint(run / "checkpoints", Checkpoint(tensors, state, {"transmix": "{}"}))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}

    def attempt(rng: random.Random) -> str:
        for path in folder.iterdir():
            path.rmdir() if path.is_dir() else path.unlink()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        signed = _damage(folder, files, rng)
        newest, problems = newest_checkpoint(folder.parent)  # raises on nothing that lies in there
        assert bool(newest) != bool(problems)
        verify_checkpoint(folder)
        loaded = load_checkpoint(folder)
        if not signed:  # it verified, so it must be what was written
            assert loaded.state == state
            assert all(
                loaded.tensors[stem][name].equal(tensor) for stem in tensors for name, tensor in tensors[stem].items()
            )
        return "read"

    return attempt


def _damage(folder: Path, files: dict[str, bytes], rng: random.Random) -> bool:
    """Damage a checkpoint's files; return whether the manifest was written anew, to fit the damage."""
    name = rng.choice(list(files))
    path = folder / name
    match rng.randrange(8):
        case 0:
            path.unlink()
            rng.choice((path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/dev/zero"), lambda: None))()
        case 1:
            manifest = json.loads(files["manifest.json"])
            manifest[rng.choice([*ODD_NAMES, *manifest])] = rng.choice(ODD_ENTRIES)
            (folder / "manifest.json").write_text(json.dumps(manifest))
        case 2:
            odd = rng.choice(("[]", "{}", "null", "[" * 100_000, '{"a":' * 5000, "1e999", '"x"', "{" * 9, "NaN", ""))
            rng.choice((path, folder / "manifest.json", folder / "state.json")).write_text(odd)
        case 3:
            odd = rng.choice(("[]", '{"step": "../../x"}', '{"step": 1e999}', "[" * 100_000, "null", '{"step": 3}'))
            (folder / "state.json").write_text(odd)
            return _sign(folder)
        case 4:
            path.write_bytes(damaged(files[name], rng, list(files.values())))
            return _sign(folder) if name != "manifest.json" else False
        case 5:
            (folder / rng.choice((".DS_Store", "random-7.safetensors", "notes.txt"))).write_bytes(rng.randbytes(9))
        case _:
            path.write_bytes(damaged(files[name], rng, list(files.values())))
    return False


def _sign(folder: Path) -> bool:
    (folder / "manifest.json").unlink()
    write_manifest(folder)
    return True


KINDS = {"images": images, "recipes": recipes, "checkpoints": checkpoints}


def main() -> int:
    """Try all kinds and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    asked = parser.parse_args()
    failures = []
    for kind in asked.kinds:
        outcome = fuzz(kind, asked.count, seed=asked.seed, first=asked.first, seconds=asked.seconds)
        counts = ", ".join(f"{count} {result}" for result, count in sorted(outcome.counts.items()))
        print(f"{kind:<12} {asked.count} damaged: {counts}; slowest {outcome.slowest:.2f} s", flush=True)
        failures += outcome.failures
    print(*failures[:20], f"{len(failures)} failures", sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())

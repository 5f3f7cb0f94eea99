"""What several tests of training share: the script that kills runs, as a module, and pairs of processes."""

import importlib.util
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure
from PIL import Image

from transmix.recipes import dump_recipe
from transmix.visual import pairs as pictures

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "chaos.py"


@pytest.fixture(autouse=True)
def _empty_pictures(monkeypatch):
    """Draw no boxes: they take longer than a small run. What a fixture of a module trains has its pictures."""
    monkeypatch.setattr(pictures, "mixed_batch_figure", lambda *_, **__: Figure((1, 1)))


@pytest.fixture(scope="session")
def with_masks(tmp_path_factory):
    """40 training images that show their own masks: an ellipse, white on black, elsewhere in each."""
    folder, rows, columns = tmp_path_factory.mktemp("masks"), *np.mgrid[:20, :24]
    for split, count in (("train", 40), ("validation", 8)):
        shapes = [(rows - index % 20) ** 2 / 25 + (columns - index % 7 * 3) ** 2 / 49 < 1 for index in range(count)]
        table = {
            "image": [png(np.repeat(shape[..., None], 3, 2) * np.uint8(255)) for shape in shapes],
            "label": [index % 2 for index in range(count)],
            "mask": [png(shape.astype(np.uint8)) for shape in shapes],
        }
        pq.write_table(pa.table(table), folder / f"{split}-00000-of-00001.parquet")
    return folder


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def chaos():
    spec = importlib.util.spec_from_file_location("chaos_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def validated_on(images, tmp_path_factory):
    """Make the data set of `images` with so many dark and light validation images: some of those it trains on."""

    def make(dark, light):
        root = tmp_path_factory.mktemp("uneven")
        (root / "train").symlink_to(images / "train")
        for name, count in (("dark", dark), ("light", light)):
            (root / "val" / name).mkdir(parents=True)
            for file in sorted((images / "train" / name).iterdir())[:count]:
                (root / "val" / name / file.name).symlink_to(file)
        return root

    return make


@pytest.fixture(scope="session")
def pair(warm_python, tmp_path_factory):
    """Give a function that runs a scenario in two processes: exit codes, and what each said."""
    process = subprocess.Popen(
        [warm_python, str(Path(__file__).with_name("test_sharded.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    outputs = tmp_path_factory.mktemp("outputs")

    def run(scenario, recipe, folder, *more):
        output = outputs / f"{scenario}-{time.monotonic_ns()}"
        output.with_suffix(".yaml").write_text(dump_recipe(recipe))
        arguments = [str(output.with_suffix(".yaml")), str(folder), *more]
        process.stdin.write(json.dumps([scenario, arguments, str(output)]) + "\n")
        process.stdin.flush()
        found = json.loads(process.stdout.readline())
        return found | {"said": [Path(f"{output}-{rank}.txt").read_text() for rank in range(2)]}

    yield run
    process.stdin.close()
    process.wait(timeout=300)

"""How long the app takes from a moved box to an answer, without the browser: one forward, labels, pictures, code.

python benchmarks/app_answer.py                 deit_tiny_patch16_224, 20 boxes
python benchmarks/app_answer.py --json FILE
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from timing import command, where

from transmix.app.model import DEFAULT, LAST, PageModel
from transmix.app.parts import attention_part, classes_part, shares_part
from transmix.app.picture import SAMPLES, sample
from transmix.app.values import Controls, answer
from transmix.models.loaded import load_model


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", help="run folder, .safetensors file or timm model")
    parser.add_argument("--boxes", type=int, default=20, help="how many boxes to ask for")
    parser.add_argument("--json", type=Path, help="write the result there")
    words = sys.argv[1:] if words is None else words
    asked = parser.parse_args(words)
    loaded = load_model(asked.target or DEFAULT, offline=asked.target is None)
    model = PageModel(loaded, torch.device("cpu"))
    own, partner = map(sample, SAMPLES)
    rows = []
    for what, layer in (("the row that TransMix reads", LAST), ("the first layer's heads", min(model.heads))):
        seconds = []
        for number in range(asked.boxes + 1):
            controls = Controls(
                own,
                partner,
                (number, 2 * number, number + 90, 2 * number + 90),
                (0, 0, 90, 90),
                layer=layer,
                moved="box",
            )
            started = time.perf_counter()
            found = answer(controls, model)
            assert found.shown is not None
            attention_part(found.shown, found.setting)
            shares_part(found.shown, found.setting, model, found.names)
            classes_part(found.shown, model.classes)
            seconds.append(time.perf_counter() - started)
        seconds = sorted(seconds[1:])  # the first one reads the files
        median, slowest = statistics.median(seconds), seconds[-1]
        print(f"{what:<30}  median {1000 * median:.0f} ms, slowest {1000 * slowest:.0f} ms")
        quartiles = [1000 * seconds[len(seconds) // 4], 1000 * seconds[3 * len(seconds) // 4]]
        rows.append({"case": loaded.target, "variant": what, "median_ms": 1000 * median, "quartiles_ms": quartiles})
    if asked.json:
        asked.json.write_text(
            json.dumps(
                {"benchmark": "app_answer", "command": command("app_answer", words), **where("cpu"), "rows": rows},
                indent=1,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()

"""What reading costs: time of forward and backward with an AttentionReader over the time without, model by model.

    python benchmarks/reading_overhead.py                            every listed model, batch 4
    python benchmarks/reading_overhead.py --family Swin --batch 16   families whose names hold a word
    python benchmarks/reading_overhead.py --device cuda --batch 64 --json benchmarks/results/reading_overhead_cuda.json

One model, one batch: a step with the reader and one without take turns within one run, and so does which of them comes
first. The table gives the median of the ratios, round by round, and their quartiles. A model of base size or more is
timed at its published width with fewer blocks (marked short), where reading weighs more than in the whole model.
"""

import argparse
import json
import statistics
import sys
from importlib.metadata import version
from pathlib import Path

import timing
import torch
from torch import nn
from torch.nn import functional as F

from transmix.attention import AttentionReader

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))  # the list of models
from readable import READABLE, Readable, build, example

WARM_UP = 2


def seconds(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, read: bool) -> float:
    """Return the time of one forward and backward; a step that reads takes its row too."""
    reader = AttentionReader(model) if read else None

    def step() -> None:
        output = model(images)
        if reader is not None:
            reader.take()
        F.cross_entropy(getattr(output, "logits", output), labels).backward()

    taken = timing.seconds(step, device=images.device.type)
    model.zero_grad(set_to_none=True)
    if reader is not None:
        reader.detach()
    return taken


def measure(entry: Readable, batch: int, repeats: int, device: str) -> dict:
    """Return median and quartiles of the ratios of one model, and the milliseconds of a step without reading."""
    torch.manual_seed(0)
    size = (entry.size, entry.size)
    with torch.device(device):
        model, images = build(entry, size, "short" if entry.short else "full"), example(entry, size, batch)
        labels = torch.randint(2, (batch,))
    ratios, plain = [], []
    for round_ in range(-WARM_UP, repeats):
        taken = {read: seconds(model, images, labels, read) for read in ((False, True), (True, False))[round_ % 2]}
        if round_ >= 0:
            ratios.append(taken[True] / taken[False])
            plain.append(taken[False])
    middle, quartiles = timing.spread(ratios)
    return {"median": middle, "quartiles": quartiles, "plain_ms": 1e3 * statistics.median(plain)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", help="only families whose names hold one of these words")
    parser.add_argument("--batch", type=int, default=4, help="images a step")
    parser.add_argument("--repeats", type=int, default=11, help="rounds of one step with reading and one without")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, help="threads of torch (as torch chooses)")
    parser.add_argument("--json", type=Path, help="also write the figures here; rows in it of other models stay")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    words = [word.lower() for word in arguments.family or [""]]
    entries = [entry for entry in READABLE if any(word in entry.family.lower() for word in words)]
    kept = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else []
    rows = {tuple(row["key"]): row for row in kept}
    on_gpu = arguments.device == "cuda"
    machine = torch.cuda.get_device_name() if on_gpu else f"{timing.processor()}, {torch.get_num_threads()} threads"
    where = f"{machine}, batch {arguments.batch}, {arguments.repeats} rounds"
    print(where)
    for entry in entries:
        figures = measure(entry, arguments.batch, arguments.repeats, arguments.device)
        timed = where + (", short" if entry.short else "")
        versions = {name: version(name) for name in ("torch", entry.library)}
        rows[entry.key] = {"key": entry.key, "timed": timed, **versions, **figures}
        low, high = figures["quartiles"]
        shown = f"{figures['plain_ms']:>9.1f} ms {figures['median']:>8.3f} ({low:.3f} to {high:.3f})"
        print(f"{entry.library:<13}{entry.name[:43]:<44}{shown}", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(list(rows.values()), indent=1) + "\n")


if __name__ == "__main__":
    main()

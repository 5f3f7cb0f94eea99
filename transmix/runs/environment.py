"""The environment of a run: versions, commit, machine, command."""

import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from transmix.distributed import World


def environment(world: World) -> dict[str, Any]:
    """Return the environment of a run: versions, commit of a checkout, machine, processes, command."""
    found = {}
    for name in ("transmix", "torch", "torchvision", "timm", "numpy", "pillow"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    on_gpu = world.device.type == "cuda"
    return {
        "command": " ".join(["transmix", *sys.argv[1:]]),
        "python": platform.python_version(),
        "packages": found,
        "commit": commit(Path(__file__).parents[2]),
        "system": platform.platform(),
        "device": torch.cuda.get_device_name(world.device) if on_gpu else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": world.size,
    }


def commit(checkout: Path) -> str | None:
    """Return the commit of a checkout, with "+" appended if files differ; None without a checkout."""
    if not (checkout / ".git").exists():
        return None
    git = ["git", "-C", str(checkout), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(git, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no git, or not ours to read
        return None

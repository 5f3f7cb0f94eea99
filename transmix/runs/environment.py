"""What else a result depends on: versions, commit, machine, command."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from transmix.distributed import World


def environment(world: World) -> dict[str, Any]:
    """Return what else a result depends on: versions, commit (of a checkout), machine, processes, command."""
    packages = ("transmix", "torch", "torchvision", "timm", "numpy", "pillow")
    found = {name: metadata.version(name) for name in packages if _installed(name)}
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
    """Return the commit that a checkout is at, with "+" behind it if files differ; None where this is none."""
    if not (checkout / ".git").exists():
        return None
    git = ["git", "-C", str(checkout)]
    try:
        name = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):  # no git, or not ours to read
        return None
    return name.stdout.strip() + ("+" if changes.stdout.strip() else "")


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True

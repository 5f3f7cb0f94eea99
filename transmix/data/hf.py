"""Data sets that Hugging Face's package `datasets` reads: a folder, a file, or a name on the hub."""

import json
import logging
from pathlib import Path
from typing import Any

from transmix.data.dataset import DataError, ImageData
from transmix.data.parts import USUAL, Choice
from transmix.data.tables import Table, read_tables

HF_PREFIX = "hf:"
"""What the name or path of such a data set begins with as `--data`."""

FILES = {".parquet": "parquet", ".arrow": "arrow"}
"""Suffix of a single file -> what `datasets` calls its kind."""


def read_hf(name: str, choice: Choice = USUAL) -> ImageData:
    """Read a data set with `datasets`, without decoding images.

    Args:
        name: a folder of Parquet files, images or another format of `datasets`; one that `save_to_disk` wrote; a
            Parquet or Arrow file; or a name on the hub, with a configuration after a colon.
        choice: which part to hold out, and which columns to take.

    Raises:
        DataError: `datasets` is not installed or cannot load it, or as `read_tables`.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{HF_PREFIX}{name} needs the package datasets: pip install 'transmix[huggingface]'") from error
    loud = logging.getLogger("huggingface_hub.utils._http")  # tells of each of its tries to reach the hub
    level = loud.level
    try:
        loud.setLevel(logging.ERROR)
        found = _load(datasets, name)
    except Exception as error:  # datasets lets through whatever its readers and its network raise
        reason = " ".join(str(error).split())
        raise DataError(
            f"{HF_PREFIX}{name}: datasets cannot load it ({type(error).__name__}: {reason}); without network, give a "
            "folder or file that is here"
        ) from error
    finally:
        loud.setLevel(level)
    present: Any = found if isinstance(found, dict) else {"train": found}
    where = f"{HF_PREFIX}{name}"
    tables_of = lambda part: [_table(present[part], f"{where} {part}")]  # noqa: E731
    return read_tables(Path(name).name, present, tables_of, choice, where, "split {}")


def _load(datasets: Any, name: str) -> Any:
    path = Path(name).expanduser()
    if path.is_file():
        return datasets.load_dataset(FILES.get(path.suffix.lower(), "parquet"), data_files=str(path))
    if any((path / file).is_file() for file in ("dataset_dict.json", "state.json")):
        return datasets.load_from_disk(path)
    if path.is_dir() or name.startswith((".", "/", "~")):
        return datasets.load_dataset(str(path))
    hub, _, configuration = name.partition(":")
    return datasets.load_dataset(hub, configuration or None)


def _table(dataset: Any, where: str) -> Table:
    def read(columns: list[str]) -> Any:
        undecoded = dataset.select_columns(list(dict.fromkeys(columns)))
        return undecoded.with_format("arrow")[:]

    # what save_to_disk and the cache hold need not say it in the schema itself
    metadata = {b"huggingface": json.dumps({"info": {"features": dataset.features.to_dict()}}).encode()}
    return Table(where, dataset.features.arrow_schema.with_metadata(metadata), read, has_paths=True)

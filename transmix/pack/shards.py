"""Arrow files of packed images, with the metadata by which Hugging Face's `datasets` knows images and labels."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from transmix.data.packed import IMAGE, LABEL, MASK
from transmix.runs.atomic_write import replacing

BATCH_BYTES, BATCH_IMAGES = 32 * 2**20, 1000
"""A record batch ends at so many bytes, or so many images."""


class Row(NamedTuple):
    """A row of the table: encoded image, its path in the source, label and encoded mask."""

    image: bytes
    path: str
    label: int
    mask: bytes | None


def schema_of(classes: Sequence[str], with_masks: bool) -> Any:
    """Return the pyarrow schema: image, label, and mask if there are any."""
    import pyarrow as pa

    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    fields = {IMAGE: image, LABEL: pa.int64(), **({MASK: image} if with_masks else {})}
    features = {
        name: {"names": list(classes), "_type": "ClassLabel"} if name == LABEL else {"_type": "Image"}
        for name in fields
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema(list(fields.items()), metadata=metadata)


class _Hashed:
    """A file for writing that keeps the SHA-256 and the size of what was written."""

    def __init__(self, file: BinaryIO):
        self.file, self.digest, self.size, self.closed = file, hashlib.sha256(), 0, False

    def write(self, content: Any) -> int:
        self.digest.update(content)
        self.size += len(memoryview(content).cast("B"))
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()


class ShardWriter:
    """Collects rows and writes them in batches; from `opened_shard`.

    Attributes:
        images: Number of images so far.
        content_bytes: Bytes of the encoded images so far.
    """

    def __init__(self, file: _Hashed, stream: Any, schema: Any):
        self.images = self.content_bytes = 0
        self._file, self._stream, self._schema = file, stream, schema
        self._waiting: list[Row] = []
        self._waiting_bytes = 0

    def add(self, row: Row) -> None:
        """Add an image."""
        self._waiting.append(row)
        self.images += 1
        self.content_bytes += len(row.image)
        self._waiting_bytes += len(row.image)
        if len(self._waiting) >= BATCH_IMAGES or self._waiting_bytes >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait, as one record batch."""
        import pyarrow as pa

        if not self._waiting:
            return
        columns: list[Any] = [
            pa.array([{"bytes": row.image, "path": row.path} for row in self._waiting], self._schema.field(IMAGE).type),
            pa.array([row.label for row in self._waiting], pa.int64()),
        ]
        if MASK in self._schema.names:
            masks = [{"bytes": row.mask, "path": None} for row in self._waiting]
            columns.append(pa.array(masks, self._schema.field(MASK).type))
        self._stream.write_batch(pa.record_batch(columns, schema=self._schema))
        self._waiting, self._waiting_bytes = [], 0

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file, once it is closed."""
        return self._file.digest.hexdigest()

    @property
    def size(self) -> int:
        """The bytes of the file, once it is closed."""
        return self._file.size


@contextmanager
def opened_shard(path: Path, schema: Any) -> Iterator[ShardWriter]:
    """Open a file for writing; it has its name only once it is whole and on the disk.

    The format is Arrow's stream, which `datasets` maps as it is.

    Args:
        path: The file.
        schema: From `schema_of`.
    """
    import pyarrow as pa

    with replacing(path) as file:
        hashed = _Hashed(file)
        with pa.ipc.new_stream(hashed, schema) as stream:
            writer = ShardWriter(hashed, stream, schema)
            yield writer
            writer.flush()

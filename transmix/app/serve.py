"""Serve the page to this computer only: no connection to other hosts, no sharing, no telemetry."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
from gradio.themes import Default, Font

from transmix.recipes import RecipeError

HERE = Path(__file__).parent
HOST = "127.0.0.1"
LARGEST_UPLOAD = "64mb"
"""What is refused while it is sent; `picture.LARGEST_FILE` is what is refused with a sentence on the page."""

POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; connect-src 'self'; worker-src 'self' blob:"
)
"""What a browser may load: nothing from elsewhere, whatever a later Gradio asks for."""

SYSTEM = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Liberation Sans, Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, Liberation Mono, monospace"


@contextmanager
def served(page: gr.Blocks, port: int | None = None) -> Iterator[str]:
    """Serve a page inside a `with` block and yield its URL.

    Uploaded files go to a separate folder, which is deleted at the end.

    Args:
        page: Result of `build_page`, called inside `private_files`.
        port: Port number; None: 7860, or the first free one after it.

    Raises:
        RecipeError: The port is taken or not allowed.
    """
    font, mono = ([Font(name) for name in names.split(", ")] for names in (SYSTEM, MONO))
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    try:
        _, address, _ = page.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            max_file_size=LARGEST_UPLOAD,
            footer_links=[],
            theme=Default(primary_hue="slate", neutral_hue="slate", font=font, font_mono=mono),
            css_paths=HERE / "style.css",
            head=policy,
        )
    except OSError as error:
        wanted = "no port from 7860 to 7959 is free" if port is None else f"port {port} is taken, or not allowed"
        hint = "give another" if port is None else "give another, or leave it out for the first free one from 7860"
        raise RecipeError(f"{wanted}; {hint}: --port") from error
    try:
        yield address
    finally:
        page.close(verbose=False)


@contextmanager
def private_files() -> Iterator[Path]:
    """Make Gradio keep files in a folder that is deleted at the end, and send no telemetry."""
    with tempfile.TemporaryDirectory(prefix="transmix-app-") as folder:
        ours = {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        before = {name: value for name, value in os.environ.items() if name in ours}
        os.environ |= ours
        try:
            yield Path(folder)
        finally:
            for name in ours:
                os.environ.pop(name, None)
            os.environ |= before

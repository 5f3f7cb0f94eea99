"""Whatever damages a checkpoint is found and named; a manifest from a stranger opens nothing outside its folder."""

import builtins
import io
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transmix.runs.checkpoint import (
    CheckpointError,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
    settle_checkpoints,
    verify_checkpoint,
)


def check_found(verify, folder, name, damage):
    damage(folder / name)
    with pytest.raises(CheckpointError, match=f"^{folder}/{name} is damaged: "):
        verify(folder)


def test_damage_to_any_file_is_named_and_the_older_checkpoint_is_taken(file_name, damage, root):
    older, newer = root / "step-00000001", root / "step-00000002"
    check_found(verify_checkpoint, newer, file_name, damage)
    with pytest.raises(CheckpointError, match=f"{file_name} is damaged"):
        load_checkpoint(newer)
    found, problems = newest_checkpoint(root)
    assert found == older
    assert len(problems) == 1
    found, said = settle_checkpoints(root)
    assert found == older
    assert said == [f"left out a checkpoint: {problems[0]}; set aside as damaged-step-00000002"]
    assert (root / "damaged-step-00000002").is_dir()
    assert settle_checkpoints(root) == (older, [])


def sizes_alone(folder):
    """A check that is satisfied with sizes."""
    for name, expected in json.loads((folder / "manifest.json").read_text()).items():
        if (folder / name).stat().st_size != expected["size"]:
            raise CheckpointError(f"{folder}/{name} is damaged: its size")


def no_check(folder):
    """A check that is satisfied with anything."""


def no_manifest_check(folder):
    """A check that takes the manifest's word where it is not JSON any more."""
    try:
        verify_checkpoint(folder)
    except CheckpointError as error:
        if "manifest" not in str(error):
            raise


@pytest.mark.parametrize(
    ("wrong", "name"),
    [(sizes_alone, "model.safetensors"), (no_manifest_check, "manifest.json"), (no_check, "state.json")],
)
def test_checks_that_look_at_less_miss_a_flipped_bit(wrong, name, root):
    def flip(path):
        content = path.read_bytes()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])

    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        check_found(wrong, root / "step-00000002", name, flip)


@pytest.fixture(scope="module")
def whole(checkpoint, tmp_path_factory):
    folder = save_checkpoint(tmp_path_factory.mktemp("whole"), checkpoint(1))
    return folder, {path.name: path.read_bytes() for path in folder.iterdir()}


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_change_of_any_bytes_of_any_file_is_found(data, whole):
    folder, contents = whole
    name = data.draw(st.sampled_from(sorted(contents)))
    content = contents[name]
    at = data.draw(st.integers(0, len(content) - 1))
    length = data.draw(st.sampled_from([1, 1, 1, 2, 40, 10_000]))
    damaged = content[:at] + data.draw(st.binary(max_size=length)) + content[at + length :]
    if damaged == content:
        damaged = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    (folder / name).write_bytes(damaged)
    try:
        with pytest.raises(CheckpointError, match=r"is damaged: "):
            verify_checkpoint(folder)
    finally:
        (folder / name).write_bytes(content)
    verify_checkpoint(folder)


def entries(folder, **more):
    return json.loads((folder / "manifest.json").read_text()) | more


SECRET = {"size": 6, "sha256": "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"}  # of "secret"


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "../../secret",
        "{outside}",
        "down/secret",
        "",
        ".",
        "..",
        "manifest.json",
        "a\\b",
        "C:x",
        "a\0b",
        "state.json\n",
        ".hidden",
        "é.json",
    ],
)
def test_a_manifest_that_names_what_is_no_file_of_its_folder_opens_nothing(name, root, monkeypatch):
    folder, outside = root / "step-00000002", root / "secret"
    outside.write_text("secret")
    (folder / "down").mkdir()
    (folder / "down" / "secret").write_text("secret")
    name = name.format(outside=outside)
    (folder / "manifest.json").write_text(json.dumps(entries(folder, **{name: SECRET}), indent=1))
    opened = []
    for module, what in ((os, "open"), (io, "open"), (builtins, "open")):
        real = getattr(module, what)
        monkeypatch.setattr(
            module, what, lambda path, *rest, real=real, **more: opened.append(path) or real(path, *rest, **more)
        )
    with pytest.raises(CheckpointError) as caught:
        verify_checkpoint(folder)
    monkeypatch.undo()
    assert str(caught.value) == (
        f"{folder}/manifest.json is damaged: it names {name[:80]!r}, which is no file of a checkpoint"
    )
    assert {Path(path).name for path in opened if isinstance(path, str | Path)} == {"manifest.json"}


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "[]",
        "7",
        '"model.safetensors"',
        "true",
        "NaN",
        '{"state.json": null}',
        '{"state.json": {}}',
        '{"state.json": [6, "00"]}',
        '{"state.json": {"size": "6", "sha256": "00"}}',
        '{"state.json": {"size": 6, "sha256": null}}',
        '{"state.json": {"size": true, "sha256": "00"}}',
        '{"state.json": {"size": 6, "sha256": "00", "path": "/x"}}',
        '{"x.json": 1e999}',
        " " * (1 << 20) + "{}",
    ],
)
def test_json_that_is_no_manifest_is_refused(text, root, says):
    folder = root / "step-00000002"
    (folder / "manifest.json").write_text(text)
    with says(CheckpointError, f"{folder}/manifest.json is damaged: it is not a list of files, sizes and checksums"):
        verify_checkpoint(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 5000, b'{"a":}'])
def test_what_is_not_json_is_refused(content, root):
    folder = root / "step-00000002"
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"^{folder}/manifest\.json is damaged: it "):
        verify_checkpoint(folder)


def rewrite(folder, **contents):
    """Make a manifest that agrees with whatever the files say, as a stranger can."""
    from transmix.runs.checkpoint import write_manifest

    for name, content in contents.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    (folder / "manifest.json").unlink()
    write_manifest(folder)


OF_ANOTHER_STEP = [b'{"step": 3}', b'{"step": "2"}', b"{}", b'{"step": true}', b'{"step": -2}', None]
NO_STATE = [b"[" * 100_000, b"[]", b"\xff", b"nope"]


@pytest.mark.parametrize("state", [*OF_ANOTHER_STEP, *NO_STATE])
def test_a_state_that_is_of_another_step_absent_or_none_is_refused(state, root):
    folder = root / "step-00000002"
    (folder / "state.json").unlink()
    rewrite(folder, **({} if state is None else {"state_json": state}))
    said = f"cannot read {folder}/state.json: " if state in NO_STATE else f"{folder} is damaged: .* not of this step$"
    with pytest.raises(CheckpointError, match=f"^{said}"):
        verify_checkpoint(folder)


def test_a_pickle_under_a_manifest_that_agrees_is_not_unpickled(root):
    import torch

    folder = root / "step-00000002"
    torch.save({"weight": torch.zeros(2)}, folder / "model.safetensors")
    rewrite(folder)
    with pytest.raises(CheckpointError, match=rf"^cannot read {folder}/model\.safetensors: "):
        load_checkpoint(folder)


def test_a_checkpoint_that_is_a_link_is_refused_and_only_the_link_set_aside(root, tmp_path, says):
    elsewhere = tmp_path / "elsewhere"
    (root / "step-00000002").rename(elsewhere)
    (root / "step-00000002").symlink_to(elsewhere)
    with says(CheckpointError, f"{root}/step-00000002 is a link, not a checkpoint; put the folder itself there"):
        load_checkpoint(root / "step-00000002")
    assert settle_checkpoints(root)[0] == root / "step-00000001"
    assert (root / "damaged-step-00000002").is_symlink()
    assert (elsewhere / "model.safetensors").exists()


def test_a_folder_of_checkpoints_may_be_a_link_to_a_larger_disk(root, checkpoint, tmp_path):
    root.rename(tmp_path / "large")
    root.symlink_to(tmp_path / "large")
    newest = save_checkpoint(root, checkpoint(3))
    assert newest_checkpoint(root) == (newest, [])
    assert (tmp_path / "large" / "step-00000003").is_dir()


def test_a_file_in_the_place_of_a_checkpoint_or_of_all_of_them_is_refused(root, says):
    shutil.rmtree(root / "step-00000002")
    (root / "step-00000002").write_text("")
    found, said = settle_checkpoints(root)
    assert found == root / "step-00000001"
    assert said == [
        f"left out a checkpoint: {root}/step-00000002/manifest.json is damaged: Not a directory; "
        f"set aside as damaged-step-00000002"
    ]
    shutil.rmtree(root)
    root.write_text("")
    with says(CheckpointError, f"cannot list {root}: Not a directory"):
        newest_checkpoint(root)

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reg.checkpoints import (
    CHECKPOINTS,
    State,
    fingerprint,
    finished_cell,
    forget,
    forget_handed_over,
    hand_over,
    load_state,
    save_state,
    write_whole,
)
from reg.errors import InputError

STATE: State = {
    "iteration": 7,
    "rows": [[2, "loss", 0.5], [4, "loss", 0.25]],
    "weights": torch.arange(12.0).reshape(3, 4),
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def assert_is_the_state(state: State | None) -> None:
    assert state is not None
    assert {name: state[name] for name in ("iteration", "rows")} == {
        name: STATE[name] for name in ("iteration", "rows")
    }
    assert torch.equal(state["weights"], STATE["weights"])


def test_round_trip() -> None:
    path = Path("new/folder/deblur-k3-2.55_pnp-gd@fixed_image.1.pt")
    save_state(path, STATE)
    assert_is_the_state(load_state(path))
    assert list(path.parent.iterdir()) == [path]  # no partial file is left


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.9, -1])
def test_missing_and_damaged_files_hold_nothing(kept: float) -> None:
    path = Path("state.pt")
    assert load_state(path) is None
    save_state(path, STATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if 0 < kept < 1 else int(kept)])
    assert load_state(path) is None


def test_a_crash_while_writing_leaves_the_older_file(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("state.pt")
    save_state(path, STATE)

    def crash(state: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", crash)
        with pytest.raises(KeyboardInterrupt):
            save_state(path, {"iteration": 8})
    assert_is_the_state(load_state(path))
    save_state(path, {"iteration": 8})  # what the crash left is not in the way
    assert load_state(path) == {"iteration": 8}


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("failing", ["fsync", "open"])
def test_a_full_disk_leaves_the_older_file_and_nothing_else(
    reason: int, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path("folder/state.pt")
    save_state(path, STATE)

    def full(*_: object) -> None:
        raise OSError(reason, os.strerror(reason))

    with monkeypatch.context() as patch:
        if failing == "fsync":
            patch.setattr(os, "fsync", full)
        else:
            patch.setattr(Path, "open", full)
        with pytest.raises(InputError) as caught:
            save_state(path, {"iteration": 8})
    message = str(caught.value)
    assert message.startswith(f"{path.parent}: {path.name} ")
    assert os.strerror(reason) in message
    assert "\n" not in message
    assert list(path.parent.iterdir()) == [path]
    assert_is_the_state(load_state(path))


def test_a_device_that_is_really_full_is_named() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    Path("state.pt.0.partial").symlink_to("/dev/full")
    with pytest.raises(InputError, match="No space left"):
        save_state(Path("state.pt"), {"weights": torch.zeros(100_000)})
    assert list(Path().iterdir()) == []


def test_the_rename_is_made_to_last(monkeypatch: pytest.MonkeyPatch) -> None:
    # fsync of the file, rename, fsync of the folder: in this order.
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def noted_replace(self: Path, target: Path) -> Path:
        done.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    write_whole(Path("log.csv"), b"iteration\n")
    assert done == ["file", "rename", "folder"]
    assert Path("log.csv").read_bytes() == b"iteration\n"


def test_processes_that_write_the_same_file_at_once_do_not_meet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, fsync = Path("cell.pt"), os.fsync

    def meanwhile(descriptor: int) -> None:
        fsync(descriptor)
        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setenv("RANK", "1")
        write_whole(path, b"by the second")
        assert path.read_bytes() == b"by the second"

    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(os, "fsync", meanwhile)
    write_whole(path, b"by the first")
    assert path.read_bytes() == b"by the first"
    assert list(Path().iterdir()) == [path]


def test_cells_with_names_too_long_for_a_file_are_told_apart() -> None:
    names = ["é" * 150 + end for end in "ab"]
    for k in range(2):
        for name in names:
            state = finished_cell("key", name, lambda k=k, name=name: {"of": f"{k}{name}"})
            assert state == {"of": f"0{name}"}


def test_a_finished_cell_is_computed_once() -> None:
    computed = []

    def compute() -> State:
        computed.append(1)
        return STATE

    for _ in range(2):
        assert_is_the_state(finished_cell("key", "sr-x2-2.55_red_a", compute))
    assert len(computed) == 1
    finished_cell("key", "sr-x2-2.55_red_b", compute)
    finished_cell("other", "sr-x2-2.55_red_a", compute)
    assert len(computed) == 3
    (CHECKPOINTS / "key" / "sr-x2-2.55_red_a.pt").write_bytes(b"damaged")
    assert_is_the_state(finished_cell("key", "sr-x2-2.55_red_a", compute))
    assert len(computed) == 4


def test_forget_removes_one_key() -> None:
    finished_cell("tune", "a", lambda: STATE)
    finished_cell("tune", "b", lambda: STATE)
    finished_cell("tune-2", "a", lambda: STATE)
    forget("tune")
    assert not (CHECKPOINTS / "tune").exists()
    assert_is_the_state(load_state(CHECKPOINTS / "tune-2" / "a.pt"))
    forget("tune")  # there is nothing left to remove


def test_fingerprint_changes_with_parameters_and_files() -> None:
    data, weights = Path("data"), Path("weights")
    data.write_bytes(b"abc")
    weights.write_bytes(b"d")
    files = [data, weights]
    parameters = {"lambda": 0.004, "channels": [16, 32], "recipe": {"batch": 2, "crop": 16}}
    first = fingerprint("train", parameters, 1, files=files)
    assert first == fingerprint("train", dict(reversed(parameters.items())), 1, files=files)
    others = [
        fingerprint("train", parameters, 2, files=files),
        fingerprint("tune", parameters, 1, files=files),
        fingerprint("train", {**parameters, "lambda": 0.005}, 1, files=files),
        fingerprint("train", {**parameters, "recipe": {"batch": 3, "crop": 16}}, 1, files=files),
        fingerprint("train", parameters, 1, files=[data]),
        fingerprint("train", parameters, 1),
    ]
    data.write_bytes(b"abd")
    others.append(fingerprint("train", parameters, 1, files=files))
    assert len({first, *others}) == 1 + len(others)


def test_fingerprint_names_what_it_is_of() -> None:
    assert fingerprint("train_reg-updated-0").startswith("train_reg-updated-0-")


def test_fingerprint_knows_which_file_holds_what() -> None:
    one, two = Path("one"), Path("two")

    def of(first: bytes, second: bytes) -> str:
        one.write_bytes(first)
        two.write_bytes(second)
        return fingerprint("train", files=[one, two])

    assert len({of(b"ab", b"c"), of(b"a", b"bc"), of(b"", b"abc"), of(b"abc", b"")}) == 4


def test_fingerprint_changes_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    code = Path("code")
    code.mkdir()
    (code / "losses.py").write_text("LAMBDA = 1\n")
    monkeypatch.setattr("reg.checkpoints.CODE", code)
    before = fingerprint("train")
    (code / "losses.py").write_text("LAMBDA = 2\n")
    assert fingerprint("train") != before


def test_fingerprint_of_a_stage_changes_with_its_own_code_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = Path("reg")
    code.mkdir()
    Path("dvc.yaml").write_text(
        "stages: {train: {do: {deps: [reg/losses.py, '${item.weights}']}}, tune: {deps: []}}\n"
    )
    for name in ("losses", "claims"):
        (code / f"{name}.py").write_text("A = 1\n")
    monkeypatch.setattr("reg.checkpoints.CODE", code)
    stages = ("train-updated", "tune", "sweep")
    before = [fingerprint(name) for name in stages]
    (code / "claims.py").write_text("A = 2\n")
    changed = [fingerprint(name) != was for name, was in zip(stages, before, strict=True)]
    assert changed == [False, False, True]  # of what is no stage all code counts
    (code / "losses.py").write_text("A = 2\n")
    assert [fingerprint(name) == was for name, was in zip(stages, before, strict=True)] == [
        False, True, False,
    ]  # fmt: skip


def test_every_training_names_its_code_in_dvc_yaml() -> None:
    from reg.checkpoints import CODE, _code_of

    for stage in ("pretrain", "train_reg", "train_gs", "finetune_unrolled", "tune"):
        names = {path.name for path in _code_of(stage)}
        assert {f"{stage}.py", "networks.py", "requirements.lock"} <= names
        assert not {"claims.py", "cli.py"} & names
        assert all(path.is_relative_to(CODE.parent) for path in _code_of(stage))


def test_work_is_handed_over_to_dvc_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    finished_cell("key", "a", lambda: STATE)
    monkeypatch.delenv("DVC_STAGE", raising=False)
    hand_over("key")
    assert_is_the_state(load_state(CHECKPOINTS / "key" / "a.pt"))
    forget_handed_over("ablate")
    assert (CHECKPOINTS / "key" / "a.pt").exists()


def test_handed_over_work_lasts_until_another_stage_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    # DVC may fail to take the outputs; then it runs the same stage again.
    keys = ("train_reg-updated-0-1f", "train_reg-fixed-0-2e", "train_gs-3d")
    for key in keys:
        finished_cell(key, "a", lambda: STATE)
    monkeypatch.setenv("DVC_STAGE", "train_reg@updated")
    hand_over(keys[0])
    hand_over("tune-of-which-nothing-lies-here")
    forget_handed_over("train_reg@updated")
    forget_handed_over("train_reg@fixed")
    assert all((CHECKPOINTS / key / "a.pt").exists() for key in keys)
    forget_handed_over("train_gs")
    assert [path.name for path in sorted(CHECKPOINTS.iterdir())] == [keys[2], keys[1]]


def test_another_folder_can_be_named_by_the_environment(tmp_path: Path) -> None:
    code = "from reg.checkpoints import CHECKPOINTS; print(CHECKPOINTS)"
    environment = {**os.environ, "REG_CHECKPOINTS": str(tmp_path / "scratch")}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == str(tmp_path / "scratch")

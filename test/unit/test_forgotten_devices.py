"""The list of devices that were given up: kept whole, whoever writes it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ec_server.status.forgotten_devices import FILE_NAME, forget, read_forgotten
from ec_server.synchronization import audit
from utilities.private_files import make_folder


def test_devices_forgotten_at_the_same_time_are_all_on_the_list(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(forget, tmp_path, f"m{i}", i) for i in range(40)]:
            done.result()
    assert read_forgotten(tmp_path) == {f"m{i}": i for i in range(40)}


def test_a_list_that_cannot_be_read_is_not_replaced_by_a_shorter_one(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(OSError, match=FILE_NAME):
        forget(tmp_path, "m", 1)
    assert (tmp_path / FILE_NAME).is_dir()


def test_what_root_writes_belongs_to_the_servers_user(tmp_path: Path) -> None:
    run_folder, server = tmp_path / "run", os.geteuid()
    run_folder.mkdir()
    if os.geteuid() == 0:  # nobody else can give a file away
        server = 34_567
        os.chown(run_folder, server, server)
    forget(run_folder, "m", 1)
    make_folder(run_folder / audit.FOLDER)
    made = {path.name: path.stat().st_uid for path in run_folder.iterdir()}
    assert made == dict.fromkeys((FILE_NAME, f"{FILE_NAME}.lock", audit.FOLDER), server)

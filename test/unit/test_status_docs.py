"""docs/status.md names every URL and every key of its answers; every command is documented somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ec_server.export.minute_lines import MinuteLine
from ec_server.status.database_view import DatabaseView
from ec_server.status.history import History
from ec_server.status.live_devices import DeviceStatus
from ec_server.status.site import Site
from ec_server.status.snapshot import Observer
from ec_server.status.streamed_answer import StoredData
from ec_server.status.web import device_object, routes
from ec_server.storage.memory_store import MemoryStore
from utilities.model import DeviceRecord

ROOT = Path(__file__).resolve().parents[2]
DOC = (ROOT / "docs" / "status.md").read_text("utf-8")
EVERY_DOC = "\n".join(path.read_text("utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
PARTS_OF_THE_PAGE = {"/api/page", "/page.css", "/overview.js", "/device.js", "/plotly.js"}
SITE = Site("1", 0.0, Path("run"))


def table_keys(heading: str) -> list[str]:
    """The keys of the first table below a heading."""
    section = DOC.split(f"\n## {heading}\n")[1]
    lines = section[section.index("| key |") :].splitlines()[2:]
    keys = []
    for line in lines:
        if not line.startswith("|"):
            break
        keys += re.findall(r"`(\w+)`", line.split("|")[1])
    return keys


def test_every_url_is_documented() -> None:
    observer = Observer(Path("run"), (), DatabaseView(MemoryStore))
    paths = {route.path for route in routes(observer, StoredData(MemoryStore), SITE, History())}
    for path in sorted(paths - PARTS_OF_THE_PAGE):
        assert f"`{path.replace('{device}', 'ID')}" in DOC, path


def test_the_keys_of_a_device_and_of_a_minute_are_those_documented() -> None:
    device = device_object(DeviceStatus(DeviceRecord("m", 0, 0), 0.0), 0.0, SITE)
    assert sorted(table_keys("Devices")) == sorted(device)
    minute = MinuteLine(0, "proven", 0, 0, 0, 0, False, None).as_object()
    assert table_keys("A device's minutes, availability, samples and power") == list(minute)


COMMANDS = (
    "ec_server_main.py --check-config",
    "ec_server_main.py --print-config",
    "ec_server_main.py --status",
    "ec_server_main.py --forget",
    "sync_server.py --audit",
    "python -m ec_server.export",
    "python -m ec_server.status",
    "python -m ec_server.storage.move_data",
    "python -m ec_server.storage.shell",
    "python -m ec_server.storage.unpack",
    "python -m reference_client",
    "python -m reference_client.demo",
    "python -m reference_client.load_generator",
    "python -m reference_client.validate",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented(command: str) -> None:
    assert command in EVERY_DOC

"""Addresses for people: what the log, the page and the commands say can be pasted."""

from __future__ import annotations

from pathlib import Path

import pytest

from configuration.settings import Settings
from ec_server.status.__main__ import first_meter
from ec_server.supervision.plan import up_line


@pytest.mark.parametrize(
    ("options", "command"),
    [
        ({}, "--server 127.0.0.1:34567 --sync 127.0.0.1:27979"),
        ({"sip_bind": "::", "sync_ip": "0.0.0.0"}, "--server [::1]:34567 --sync 127.0.0.1:27979"),
        ({"sip_transports": ("udp",)}, "--server 127.0.0.1:34567 --transport udp --sync 127.0.0.1:27979"),
        (
            {"sip_transports": ("udp", "tls"), "sync_tls_certificate": Path("server.pem")},
            "--server 127.0.0.1:34567 --transport udp --sync 127.0.0.1:27979 --sync-tls",
        ),
        ({"sip_transports": ("tls",)}, "--server 127.0.0.1:34567 --transport tls --sync 127.0.0.1:27979"),
    ],
)
def test_the_first_meters_command_has_the_transports_of_the_server(
    options: dict[str, object], command: str
) -> None:
    assert first_meter(Settings(**options)) == f"python -m reference_client {command}"


def test_an_ipv6_address_is_in_brackets_before_its_port() -> None:
    line = up_line(Settings(sip_bind="::1", sync_ip="::1", status_ip="::1"))
    assert "SIP udp,tcp on [::1]:34567 " in line
    assert "sync on [::1]:27979, " in line
    assert line.endswith("status http://[::1]:8034/")

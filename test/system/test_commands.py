"""Every command as a person types it: help without side effects, clear errors, exit codes as documented."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running_server import ROOT, RunningServer, free_ports, wait_for
from stored_data import store_second

from configuration.print_config import print_config
from configuration.properties_reader import read_settings
from configuration.settings import OPTIONS
from ec_server.storage.sqlite_store import SqliteStore
from reference_client.validate import main as judge_bodies

COMMANDS = (
    ("ec_server_main.py",),
    ("data_receiver.py",),
    ("sync_server.py",),
    ("test/test.py",),
    ("-m", "ec_server.export"),
    ("-m", "ec_server.ingest"),
    ("-m", "ec_server.status"),
    ("-m", "ec_server.storage.move_data"),
    ("-m", "ec_server.storage.shell"),
    ("-m", "ec_server.storage.unpack"),
    ("-m", "reference_client"),
    ("-m", "reference_client.demo"),
    ("-m", "reference_client.load_generator"),
    ("-m", "reference_client.validate"),
    ("-m", "reference_cluster"),
)


def run(
    folder: Path, *command: str, stdin: bytes | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    arguments = [str(ROOT / part) if part.endswith(".py") else part for part in command]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environ},
        input=stdin or b"",
        capture_output=True,
        timeout=60,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_says_what_the_command_does_and_does_nothing(tmp_path: Path, command: tuple[str, ...]) -> None:
    done = run(tmp_path, *command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: ")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_argument_that_does_not_exist_is_exit_2_and_nothing_starts(
    tmp_path: Path, command: tuple[str, ...]
) -> None:
    done = run(tmp_path, *command, "--no-such-option")
    assert done.returncode == 2
    assert "usage: " in done.stderr
    assert list(tmp_path.iterdir()) == []


# --- the server's own commands ----------------------------------------------------------------


def main_command(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "ec_server_main.py", *arguments, **environ)


def test_status_where_no_server_runs_is_exit_2(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    done = main_command(tmp_path, "--status", EC_STATUS_PORT=str(port))
    assert done.returncode == 2
    assert f"no server answers on 127.0.0.1 port {port}" in done.stderr
    done = main_command(tmp_path, "--status", "--json", EC_STATUS_PORT=str(port))
    assert done.returncode == 2
    assert "no server answers" in json.loads(done.stdout)["error"]
    done = main_command(tmp_path, "--status", EC_STATUS_PORT="0")
    assert done.returncode == 2
    assert "status.port is 0" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_forgotten_device_is_no_longer_behind_and_comes_back_when_it_sends(tmp_path: Path) -> None:
    long_ago = int(time.time()) - 86_400
    with SqliteStore(tmp_path / "data") as store:
        store_second(store, "meter-old", long_ago, ["000000,1"])
        store.note_devices({"meter-old": long_ago * 10**6})
    with RunningServer(tmp_path) as server:
        server.start(EC_STATUS_TOKEN="")
        port = {"EC_STATUS_PORT": str(server.status_port)}
        before = main_command(tmp_path, "--status", **port)
        assert before.returncode == 1
        lines = before.stdout.splitlines()
        assert re.match(r"server  ok  ", lines[0])
        assert re.fullmatch(r"meter-old  \w+  0 samples/s  proven through never  0 unresolved", lines[1]), (
            lines
        )
        told = json.loads(main_command(tmp_path, "--status", "--json", **port).stdout)
        assert [device["device_id"] for device in told["devices"]] == ["meter-old"]

        done = main_command(tmp_path, "--forget", "meter-old", **port)
        assert done.returncode == 0
        assert "its data stays" in done.stdout
        after = main_command(tmp_path, "--status", **port)
        assert (after.returncode, len(after.stdout.splitlines())) == (0, 1)
        assert server.devices() == {}
        page = server.get("/devices/meter-old")
        assert (page.status_code, "meter-old was forgotten" in page.text) == (404, True)
        span = f"from={time.strftime('%Y%m%d%H%M%S', time.gmtime(long_ago))}"
        stop = time.strftime("%Y%m%d%H%M%S", time.gmtime(long_ago + 1))
        kept = server.get(f"/api/devices/meter-old/samples?{span}&to={stop}")
        assert kept.text.splitlines()[1].endswith(",1")

        with SqliteStore(tmp_path / "data") as store:
            store.note_devices({"meter-old": int(time.time() * 1e6) + 1_000_000})
        deadline = time.monotonic() + 20
        while not server.devices() and time.monotonic() < deadline:
            pass
        assert list(server.devices()) == ["meter-old"]


def test_forgetting_what_is_not_there_is_exit_1(tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "data"):
        pass
    done = main_command(tmp_path, "--forget", "meter-9")
    assert done.returncode == 1
    assert "device meter-9 is unknown" in done.stderr
    assert main_command(tmp_path, "--forget", "meter-9", EC_STORAGE_PATH="nowhere").returncode == 2


def test_a_name_that_is_empty_is_a_device_not_on_record_and_starts_no_server(tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "data"):
        pass
    done = main_command(tmp_path, "--forget", "")
    assert (done.returncode, done.stderr) == (1, "device '' is unknown\n")
    assert not (tmp_path / "data" / "run").exists()


def test_an_audits_options_alone_are_refused_and_start_no_server(tmp_path: Path) -> None:
    done = run(tmp_path, "sync_server.py", "--from", "202603011200", "--to", "202603011201")
    assert done.returncode == 2
    assert "need --audit" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_audit_where_no_server_was_makes_nothing_and_is_exit_2(tmp_path: Path) -> None:
    span = ("--from", "202603011200", "--to", "202603011201")
    done = run(tmp_path, "sync_server.py", "--audit", "meter-1", *span)
    assert done.returncode == 2
    assert "does the sync server use this storage.path?" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_status_sends_the_token(tmp_path: Path) -> None:
    with RunningServer(tmp_path) as server:
        server.start(EC_STATUS_TOKEN="s3cret")
        port = {"EC_STATUS_PORT": str(server.status_port)}
        assert main_command(tmp_path, "--status", EC_STATUS_TOKEN="s3cret", **port).returncode == 0
        refused = main_command(tmp_path, "--status", EC_STATUS_TOKEN="wrong", **port)
        assert refused.returncode == 2
        assert "answers 401" in refused.stderr
        assert "s3cret" not in server.log()


def test_json_alone_is_refused(tmp_path: Path) -> None:
    done = main_command(tmp_path, "--json")
    assert done.returncode == 2
    assert "--json needs --status" in done.stderr


def test_print_config_prints_each_value_and_its_source_and_no_secret(tmp_path: Path) -> None:
    file = tmp_path / "server.properties"
    file.write_text("[SIP]\nsip.port=5099\n[CassandraDB]\ncassandra.password=hush\n")
    done = main_command(tmp_path, "--print-config", "-c", str(file), EC_SYNC_PORT="5098")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert f"sip.port=5099 # {file}:2" in lines
    assert "sync.port=5098 # environment EC_SYNC_PORT" in lines
    assert "status.port=8034 # default" in lines
    assert "hush" not in done.stdout
    assert [line.split("=")[0] for line in lines if "=" in line] == [option.key for option in OPTIONS]


def test_what_print_config_writes_is_a_configuration_that_means_the_same(tmp_path: Path) -> None:
    environ = {"EC_SIP_PORT": "5099", "EC_SYNC_SYNCFREQ": "0.5", "EC_CASSANDRA_HOST": "10.0.0.1,10.0.0.2"}
    code, text = print_config(None, environ)
    assert code == 0
    file = tmp_path / "printed.properties"
    file.write_text(text)
    assert read_settings(file, {}) == read_settings(None, environ)


def test_print_config_reports_faults_as_check_config_does(tmp_path: Path) -> None:
    printed = main_command(tmp_path, "--print-config", EC_SIP_PORT="x")
    checked = main_command(tmp_path, "--check-config", EC_SIP_PORT="x")
    assert printed.returncode == checked.returncode == 2
    assert printed.stderr == checked.stderr


# --- the demo and the meters ------------------------------------------------------------------


def test_the_demo_runs_as_its_arguments_say_and_leaves_other_servers_alone(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        "-m",
        "reference_client.demo",
        *("--meters", "1", "--seconds", "4", "--folder", "mine"),
        *("--sip-port", "0", "--sync-port", "0", "--status-port", "0"),
        EC_SIP_PORT="1",  # somebody's own settings: not the demo's
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 meters send to 127.0.0.1:" in done.stdout
    assert ":34567;" not in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert (tmp_path / "mine" / "meters.log").exists()


def test_a_demo_beside_another_server_says_so_and_sends_nothing(tmp_path: Path) -> None:
    with RunningServer(tmp_path) as server:
        server.start()
        ports = (server.sip_port, server.sync_port, server.status_port)
        names = ("--sip-port", "--sync-port", "--status-port")
        given = [word for name, port in zip(names, ports) for word in (name, str(port))]
        done = run(tmp_path, "-m", "reference_client.demo", *given, "--seconds", "5")
        assert done.returncode == 1
        assert "another program has it" in done.stderr
        assert server.figure("ec_messages_received_total") == 0


def test_a_devices_first_contact_is_logged_once(tmp_path: Path) -> None:
    with RunningServer(tmp_path) as server:
        for _ in range(2):
            server.start()
            target = ("--server", f"127.0.0.1:{server.sip_port}", "--seconds", "1")
            assert run(tmp_path, "-m", "reference_client", *target).returncode == 0
            server.wait_for_figure("ec_batches_stored_total", 1)
            wait_for(lambda: "meter-1" in server.devices(), "the device on record")
            assert server.stop() == 0
        assert server.log().count("[meter-1] heard for the first time") == 1


def test_meters_against_a_port_where_nobody_listens_exit_1(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    done = run(tmp_path, "-m", "reference_client", "--server", f"127.0.0.1:{port}", "--seconds", "1")
    assert done.returncode == 1
    assert f"does a server listen on 127.0.0.1 port {port}" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--id-prefix", "bad id"), "'bad id-1' is not a device id: 1 to 64 of A-Z a-z 0-9 . _ -"),
        (("--id-prefix", "x" * 63), "is not a device id"),
        (("--device-key", "zz", "--sync", "127.0.0.1:1"), "exactly 64 hex digits"),
        (("--device-key", "00" * 32), "need --sync"),
        (("--devices", "many"), "'many' is not a whole number"),
        (("--speed", "fast"), "neither a number nor max"),
        (("--start", "tomorrow"), "neither an epoch second nor now"),
    ],
)
def test_a_meters_wrong_argument_is_named(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = run(tmp_path, "-m", "reference_client", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


# --- why a body is rejected -------------------------------------------------------------------


def validate(folder: Path, body: bytes, *words: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "-m", "reference_client.validate", *words, stdin=body)


def test_a_body_that_would_be_stored_is_exit_0(tmp_path: Path) -> None:
    body = b"meter-1|1772366400|000000,231.5;000022,231.7||"
    done = validate(tmp_path, body, "--now", "1772366401")
    assert done.returncode == 0
    assert "accepted: meter-1, 2 samples of second 20260301120000" in done.stdout


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"meter-1|1772366400|000000,1", "no_end_mark"),
        (b"meter-1|1772366400||", "malformed"),
        (b"me ter|1772366400|000000,1||", "bad_device_id"),
        (b"meter-1|noon|000000,1||", "bad_time"),
        (b"meter-1|1772999999|000000,1||", "time_too_far_ahead"),
        (b"meter-1|1700000000|000000,1||", "time_too_far_back"),
        (b"meter-1|1772366400|000022,1;000000,2||", "microsecond_not_ascending"),
        (b"meter-1|1772366400|000000,1;000022,nan||", "not_finite"),
    ],
)
def test_a_body_that_would_be_rejected_is_exit_1_with_the_reason(
    tmp_path: Path, body: bytes, reason: str
) -> None:
    done = validate(tmp_path, body, "--now", "1772366401", "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert (told["accepted"], told["reason"]) == (False, reason)
    assert told["detail"]


def test_bodies_come_from_files_and_the_worst_counts(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(b"m|1772366400|000000,1||")
    (tmp_path / "bad").write_bytes(b"m|1772366400|000000||")
    done = validate(tmp_path, b"", "good", "bad", "--now", "1772366401")
    assert done.returncode == 1
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["good", "bad"]
    assert validate(tmp_path, b"", "missing").returncode == 2


def test_the_devices_file_is_respected(tmp_path: Path) -> None:
    (tmp_path / "devices.ini").write_text("[meter-7]\nnetworks = 10.1.0.0/16\n")
    (tmp_path / "own.properties").write_text("[Devices]\ndevices.file=devices.ini\n")
    for device, sender, reason in (
        ("meter-1", "10.1.0.1", "unknown_device"),
        ("meter-7", "10.2.0.1", "wrong_network"),
        ("meter-7", "10.1.0.1", None),
        ("meter-7", "", None),
    ):
        words = ("-c", "own.properties", "--now", "1772366401", "--json", "--sender", sender)
        told = json.loads(validate(tmp_path, f"{device}|1772366400|000000,1||".encode(), *words).stdout)
        assert told.get("reason") == reason


def test_a_body_that_no_sip_message_can_hold_is_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for samples, spaces, code in ((300, 4000, 0), (400, 0, 1)):
        text = ";".join(f"{us:06d},231.5" for us in range(samples))
        (tmp_path / "body").write_bytes(f"m|1772366400|{text}||".encode() + b" " * spaces)
        assert judge_bodies(["--now", "1772366401", "--json", str(tmp_path / "body")]) == code
        assert json.loads(capsys.readouterr().out).get("reason") == ("truncated" if code else None)


def test_what_the_server_looks_at_first_is_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "devices.ini").write_text("[meter-7]\n")
    file = tmp_path / "own.properties"
    file.write_text(f"[Devices]\ndevices.file={tmp_path}/devices.ini\n[Storage]\nstorage.retention_days=30\n")
    old = 1772366400 - 31 * 86_400
    for body, reason in (
        ("meter-1|nonsense", "unknown_device"),
        (f"meter-7|{old}|000000,1||", "time_too_far_back"),
    ):
        (tmp_path / "body").write_text(body)
        words = ["--now", "1772366400", "--json", "-c", str(file), str(tmp_path / "body")]
        assert judge_bodies(words) == 1
        assert json.loads(capsys.readouterr().out)["reason"] == reason


def test_a_sender_that_is_no_address_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        judge_bodies(["--sender", "meter.example"])
    assert end.value.code == 2
    assert "'meter.example' is not an IPv4 or IPv6 address" in capsys.readouterr().err


def test_a_body_too_long_for_the_sip_stack_is_warned_about(tmp_path: Path) -> None:
    samples = ";".join(f"{us:06d},231.5" for us in range(300))
    done = validate(tmp_path, f"m|1772366400|{samples}||".encode(), "--now", "1772366401")
    assert done.returncode == 0
    assert "longer than the 4000 bytes" in done.stdout

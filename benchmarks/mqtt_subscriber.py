"""What a user might write instead of this server: a paho-mqtt subscriber, with QoS 1, that stores messages.

    python -m benchmarks.mqtt_subscriber BROKER_PORT STORAGE_FOLDER

paho's thread passes messages to a second thread, which checks and stores them in groups, with the server's
own code and in the same SQLite rows. So the only difference is the path from the network to the group.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import deque
from pathlib import Path

from paho.mqtt import client as mqtt

from benchmarks.mqtt_publisher import TOPIC
from benchmarks.storing import A_COMMIT, Storing
from ec_server.account.figures import RECEIVER_FIGURES, RUN_FOLDER, receiver_name
from ec_server.account.worker_page import WorkerPage
from ec_server.storage.sqlite_store import SqliteStore

_MOST_WAITING = 20_000
_GATHER_S = 0.06
_LOOK_AGAIN_S = 0.002


class Subscriber:
    """Two threads: paho's receives, the other one stores."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        page_path = folder / RUN_FOLDER / f"{receiver_name(0)}.page"
        self._page = WorkerPage.create(page_path, RECEIVER_FIGURES)
        self._waiting: deque[bytes] = deque()
        self._no_more_come = threading.Event()

    def run(self, broker_port: int) -> int:
        """Serve until SIGTERM, then store what is waiting."""
        storing = threading.Thread(target=self._store_all)
        storing.start()
        client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="storing")
        client.on_connect = lambda *_: client.subscribe(f"{TOPIC}/+", qos=1)
        client.on_subscribe = lambda *_: self._page.set_state("ready")
        client.on_message = self._on_message
        signal.signal(signal.SIGTERM, lambda *_: client.disconnect())
        client.connect("127.0.0.1", broker_port)
        client.loop_forever()
        self._no_more_come.set()
        storing.join()
        return 0

    def _on_message(self, _client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        while len(self._waiting) >= _MOST_WAITING:
            time.sleep(_LOOK_AGAIN_S)
        self._page.count_received()
        self._waiting.append(message.payload)

    def _store_all(self) -> None:
        with SqliteStore(self._folder) as store:
            storing = Storing(store, self._page, receiver_name(0))
            while group := self._next_group():
                storing.store(group)
            storing.finish()

    def _next_group(self) -> list[bytes]:
        """Up to a thousand messages that arrived at about the same time; [] at the end."""
        while not self._waiting and not self._no_more_come.is_set():
            time.sleep(_LOOK_AGAIN_S)
        deadline = time.monotonic() + _GATHER_S
        while len(self._waiting) < A_COMMIT and time.monotonic() < deadline:
            if self._no_more_come.is_set():
                break
            time.sleep(_LOOK_AGAIN_S)
        return [self._waiting.popleft() for _ in range(min(A_COMMIT, len(self._waiting)))]


if __name__ == "__main__":
    sys.exit(Subscriber(Path(sys.argv[2])).run(int(sys.argv[1])))

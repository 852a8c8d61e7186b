"""What a user would write instead of this server: a paho-mqtt subscriber, QoS 1, with the same writer.

    python -m benchmarks.mqtt_subscriber BROKER_PORT      (configured by EC_ variables, as a receiver is)

paho's thread puts what it receives into the queue; the server's own writer checks it and stores it in
the same SQLite rows. So what differs is the way from the network to the queue.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from functools import partial

from paho.mqtt import client as mqtt

from benchmarks.mqtt_publisher import TOPIC
from configuration.devices import DeviceDirectory
from configuration.properties_reader import read_settings
from data_receiver import writer_settings
from ec_server.ingest.admission import Admission
from ec_server.ingest.intake_queue import IntakeQueue
from ec_server.ingest.quarantine import Quarantine
from ec_server.ingest.writer import Writer
from ec_server.model import RawMessage
from ec_server.status.figures import RECEIVER_FIGURES, RUN_FOLDER, receiver_name
from ec_server.status.worker_page import WorkerPage
from ec_server.storage.engines import open_store


def main(broker_port: int) -> int:
    """Serve until SIGTERM, then drain."""
    settings = read_settings(None, os.environ)
    page = WorkerPage.create(
        settings.storage_path / RUN_FOLDER / f"{receiver_name(0)}.page", RECEIVER_FIGURES
    )
    queue = IntakeQueue(settings.ingest_queue_batches)
    writer = Writer(
        writer_settings(settings, 0),
        queue,
        page,
        partial(open_store, settings),
        Admission(DeviceDirectory()),
        Quarantine(settings.storage_path / "quarantine.jsonl", 0),
        lambda trouble: None,
    )
    storing = threading.Thread(target=writer.run)
    storing.start()
    client = _subscriber(queue, page)
    signal.signal(signal.SIGTERM, lambda *_: client.disconnect())
    client.connect("127.0.0.1", broker_port)
    client.loop_forever()
    queue.close()
    storing.join()
    return 0


def _subscriber(queue: IntakeQueue, page: WorkerPage) -> mqtt.Client:
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="storing")

    def on_connect(*_: object) -> None:
        client.subscribe(f"{TOPIC}/+", qos=1)

    def on_subscribe(*_: object) -> None:
        page.set_state("ready")

    def on_message(_client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        page.count_received()
        queue.put(RawMessage(message.payload, "mqtt:0", time.time_ns() // 1000))

    client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
    return client


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))

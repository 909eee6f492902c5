"""A publisher and a subscriber, each with paho's own network thread.

Usage: client_mqtt.py NAME PORT
"""

import queue
import sys
from typing import Any

import paho.mqtt.client as mqtt
from content import Checks, blob

name, port = sys.argv[1], int(sys.argv[2])
checks = Checks()
arrived: queue.Queue[tuple[str, bytes]] = queue.Queue()
events: queue.Queue[str] = queue.Queue()


def client(label: str) -> mqtt.Client:
    made = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, label)

    def connected(*_: Any) -> None:
        events.put(f"{label} connected")

    made.on_connect = connected
    made.connect(name, port)
    made.loop_start()
    checks_event = events.get(timeout=30)
    assert checks_event == f"{label} connected", checks_event
    return made


publisher = client("publisher")
publisher.publish("kept", blob(500), qos=1, retain=True).wait_for_publish(30)
subscriber = client("subscriber")
subscriber.on_message = lambda _client, _data, message: arrived.put(
    (message.topic, message.payload)
)
subscriber.on_subscribe = lambda *_: events.put("subscribed")
subscriber.subscribe([("numbers/#", 2), ("kept", 1)])
assert events.get(timeout=30) == "subscribed"
checks.equal("a retained message", arrived.get(timeout=30), ("kept", blob(500)))
for qos in (0, 1, 2):
    sent = [(f"numbers/{qos}", blob(10_000 + number)) for number in range(20)]
    for topic, payload in sent:
        publisher.publish(topic, payload, qos=qos).wait_for_publish(30)
    got = sorted(arrived.get(timeout=30) for _ in sent)
    checks.equal(f"QoS {qos}", got, sorted(sent))
for each in (publisher, subscriber):
    each.disconnect()
    each.loop_stop()
checks.report()

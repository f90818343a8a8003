"""Paho (Python) against a cluster whose nodes die: paho_cluster.py VERSION HOST:PORT,HOST:PORT,... Persistent publishers of QoS 1 and 2 and
a persistent subscriber go from node to node whenever they lose their connection. Prints how much is acknowledged, until its input ends;
then everything has to arrive, in order, and QoS 2 once."""

import itertools
import sys
import threading
import time
from collections import Counter

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

VERSION, PLACES = sys.argv[1], sys.argv[2].split(",")
FIVE = VERSION == "5"
REST = 60
WINDOW = 16


class Peer:
    """A client with a session that is kept. It never begins anew: what is under way goes on at the next node."""

    def __init__(self, name, first):
        self.places = itertools.cycle(PLACES[first:] + PLACES[:first])
        options = {} if FIVE else {"clean_session": False}
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"paho-{VERSION}-{name}",
            protocol=mqtt.MQTTv5 if FIVE else mqtt.MQTTv311,
            **options,
        )
        self.client.reconnect_delay_set(1, 1)
        self.client.connect_timeout = 3
        self.client.max_inflight_messages_set(WINDOW)
        self.ready = threading.Event()
        self.lost = threading.Event()
        self.connections = 0
        self.sessions_lost = 0
        self.client.on_connect = self.connected
        self.client.on_disconnect = self.elsewhere
        self.client.on_connect_fail = self.elsewhere

    def connected(self, client, userdata, flags, reason, properties):
        if reason.is_failure:
            return
        if self.connections and not flags.session_present:
            self.sessions_lost += 1
        self.connections += 1
        self.ready.set()

    def elsewhere(self, *_):
        """Where Paho connects when it connects again by itself."""
        self.lost.set()
        host, _, port = next(self.places).rpartition(":")
        self.client._host, self.client._port = host, int(port)

    def start(self):
        host, _, port = next(self.places).rpartition(":")
        options = {}
        if FIVE:
            options["clean_start"] = False
            options["properties"] = Properties(PacketTypes.CONNECT)
            options["properties"].SessionExpiryInterval = 3600
        self.client.connect(host, int(port), keepalive=5, **options)
        self.client.loop_start()
        assert self.ready.wait(REST), "not connected"
        return self

    def stop(self):
        self.client.disconnect()
        self.client.loop_stop()


class Publisher(Peer):
    """Publishes numbers, a window of them at a time, and knows which were acknowledged."""

    def __init__(self, qos, first):
        super().__init__(f"publisher-{qos}", first)
        self.qos, self.topic = qos, f"paho/{VERSION}/{qos}"
        self.acknowledged = 0
        self.under_way = []
        self.done = set()
        self.client.on_publish = lambda client, userdata, mid, *_: self.done.add(mid)

    def run(self, over):
        number = 0
        while not over.is_set():
            # Paho would send it before what it still has to send again.
            if self.lost.is_set() and not self.under_way:
                self.lost.clear()
            if len(self.under_way) < WINDOW and not self.lost.is_set():
                # Without a connection Paho keeps it, and says that it is not sent.
                self.under_way.append(self.client.publish(self.topic, str(number), self.qos).mid)
                number += 1
                time.sleep(0.002)
            self.settle()
        until = time.monotonic() + REST
        while self.under_way:
            assert time.monotonic() < until, f"{len(self.under_way)} of {self.topic} were not acknowledged"
            self.settle()

    def settle(self):
        while self.under_way and self.under_way[0] in self.done:
            self.done.remove(self.under_way.pop(0))
            self.acknowledged += 1
        if len(self.under_way) >= WINDOW or self.lost.is_set():
            time.sleep(0.002)


def first_ones(numbers):
    seen = set()
    return [number for number in numbers if not (number in seen or seen.add(number))]


def main():
    arrived = {1: [], 2: []}
    subscriber = Peer("subscriber", 1)
    subscribed = threading.Event()
    subscriber.client.on_subscribe = lambda *_: subscribed.set()

    def message(client, userdata, message):
        arrived[int(message.topic[-1])].append(int(message.payload))

    subscriber.client.on_message = message
    subscriber.start().client.subscribe(f"paho/{VERSION}/+", 2)
    assert subscribed.wait(REST), "not subscribed"
    publishers = [Publisher(1, 0).start(), Publisher(2, 2).start()]
    over = threading.Event()
    failures = []

    def run(publisher):
        try:
            publisher.run(over)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(publisher,)) for publisher in publishers]
    for thread in threads:
        thread.start()

    def tell():
        while not over.wait(0.1):
            print("acknowledged", min(publisher.acknowledged for publisher in publishers), flush=True)

    teller = threading.Thread(target=tell)
    teller.start()
    sys.stdin.read()
    over.set()
    for thread in [*threads, teller]:
        thread.join()
    assert not failures, failures

    until = time.monotonic() + REST
    for publisher in publishers:
        wanted = set(range(publisher.acknowledged))
        while not wanted <= set(arrived[publisher.qos]):
            missing = sorted(wanted - set(arrived[publisher.qos]))
            assert time.monotonic() < until, f"QoS {publisher.qos}: acknowledged and lost: {missing[:20]}"
            time.sleep(0.1)
    # For what should not come any more.
    time.sleep(1)
    for publisher in publishers:
        numbers = arrived[publisher.qos]
        first = first_ones(numbers)
        for expected, number in enumerate(first):
            assert number == expected, f"QoS {publisher.qos}: out of order: {first[max(expected - 5, 0) : expected + 20]}"
    twice = [number for number, times in Counter(arrived[2]).items() if times > 1]
    assert not twice, f"QoS 2 twice: {twice[:20]}"
    for peer in (subscriber, *publishers):
        assert peer.connections > 1, "a client has not noticed anything"
        assert not peer.sessions_lost, "a session was lost"
        peer.stop()
    repeated = len(arrived[1]) - len(set(arrived[1]))
    print(f"{[publisher.acknowledged for publisher in publishers]} acknowledged, {repeated} of QoS 1 again")
    print("all stories passed", flush=True)


main()

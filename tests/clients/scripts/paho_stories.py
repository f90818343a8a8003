"""Paho (Python) against a running broker: paho_stories.py VERSION TRANSPORT PLACE[,PLACE..] CA. A place is a port of this machine,
or HOST:PORT; successive connections use them in turn. Each story prints its name when it passed."""

import itertools
import queue
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

LIMIT = 15
VERSION, TRANSPORT, CA = sys.argv[1], sys.argv[2], sys.argv[4]
PLACES = itertools.cycle(sys.argv[3].split(","))
FIVE = VERSION == "5"
PREFIX = f"paho/{VERSION}/{TRANSPORT}"


class Peer:
    """A client whose callbacks become things to wait for."""

    def __init__(self, name, clean=True, expiry=0, will=None):
        self.messages = queue.Queue()
        self.connected = queue.Queue()
        self.subscribed = queue.Queue()
        self.clean, self.expiry = clean, expiry
        options = {} if FIVE else {"clean_session": clean}
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"{PREFIX}/{name}",
            protocol=mqtt.MQTTv5 if FIVE else mqtt.MQTTv311,
            transport="websockets" if TRANSPORT in ("ws", "wss") else "tcp",
            **options,
        )
        if TRANSPORT in ("tls", "wss"):
            self.client.tls_set(ca_certs=CA)
        if will:
            self.client.will_set(*will)
        self.client.on_connect = lambda c, u, flags, reason, p: self.connected.put((flags, reason))
        self.client.on_message = lambda c, u, message: self.messages.put(message)
        self.client.on_subscribe = lambda c, u, mid, reasons, p: self.subscribed.put(reasons)

    def connect(self):
        options = {}
        if FIVE:
            options["clean_start"] = self.clean
            options["properties"] = Properties(PacketTypes.CONNECT)
            options["properties"].SessionExpiryInterval = self.expiry
        host, _, port = next(PLACES).rpartition(":")
        host = host or ("localhost" if CA else "127.0.0.1")
        self.client.connect(host, int(port), keepalive=30, **options)
        self.client.loop_start()
        flags, reason = self.connected.get(timeout=LIMIT)
        assert not reason.is_failure, f"CONNACK {reason}"
        self.session_present = flags.session_present
        return self

    def subscribe(self, topic, qos=2, options=None, properties=None):
        if options:
            self.client.subscribe(topic, options=options, properties=properties)
        else:
            self.client.subscribe(topic, qos, properties=properties)
        reasons = self.subscribed.get(timeout=LIMIT)
        assert not any(reason.is_failure for reason in reasons), f"SUBACK {reasons}"
        return self

    def publish(self, topic, payload, qos=0, retain=False, properties=None):
        self.client.publish(topic, payload, qos, retain, properties).wait_for_publish(LIMIT)

    def receive(self):
        return self.messages.get(timeout=LIMIT)

    def receive_nothing(self):
        try:
            message = self.messages.get(timeout=0.3)
        except queue.Empty:
            return
        raise AssertionError(f"unexpected {message.topic} {message.payload[:40]}")

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()

    def vanish(self):
        """The connection is lost without a DISCONNECT."""
        self.client.loop_stop_only = True
        self.client._thread_terminate = True
        if self.client._thread is not threading.current_thread():
            self.client._thread.join()
        self.client._sock_close()


def every_qos_arrives_in_both_directions():
    one, two = Peer("one").connect(), Peer("two").connect()
    for peer, other in ((one, two), (two, one)):
        for qos in (0, 1, 2):
            topic = f"{PREFIX}/qos/{qos}"
            other.subscribe(topic, qos)
            peer.publish(topic, f"qos {qos}", qos)
            message = other.receive()
            assert (message.topic, message.qos, message.retain) == (topic, qos, False)
            assert message.payload == f"qos {qos}".encode()
            other.client.unsubscribe(topic)
    one.leave(), two.leave()


def the_lower_of_both_qos_counts():
    peer = Peer("lower").connect().subscribe(f"{PREFIX}/lower/#", 1)
    for qos in (0, 1, 2):
        peer.publish(f"{PREFIX}/lower/{qos}", b"x", qos)
    assert [peer.receive().qos for _ in range(3)] == [0, 1, 1]
    peer.leave()


def a_large_message_and_an_empty_one_pass():
    peer = Peer("large").connect().subscribe(f"{PREFIX}/large", 2)
    body = bytes(range(256)) * 2000
    peer.publish(f"{PREFIX}/large", body, 2)
    peer.publish(f"{PREFIX}/large", b"", 1)
    assert peer.receive().payload == body
    assert peer.receive().payload == b""
    peer.leave()


def many_messages_keep_their_order():
    peer = Peer("order").connect().subscribe(f"{PREFIX}/order", 2)
    for qos in (0, 1, 2):
        last = None
        for number in range(200):
            last = peer.client.publish(f"{PREFIX}/order", f"{qos} {number}", qos)
        last.wait_for_publish(LIMIT)
        got = [peer.receive().payload for _ in range(200)]
        assert got == [f"{qos} {number}".encode() for number in range(200)], f"order at QoS {qos}"
    peer.leave()


def a_retained_message_meets_who_comes_later_until_it_is_cleared():
    topic = f"{PREFIX}/retained"
    writer = Peer("writer").connect()
    writer.publish(topic, "old", 1, retain=True)
    writer.publish(topic, "new", 1, retain=True)
    reader = Peer("reader").connect().subscribe(f"{PREFIX}/+", 1)
    message = reader.receive()
    assert (message.payload, message.retain) == (b"new", True)
    reader.leave()
    writer.publish(topic, b"", 1, retain=True)
    reader = Peer("reader").connect().subscribe(topic, 1)
    reader.receive_nothing()
    reader.leave(), writer.leave()


def a_will_is_published_when_the_connection_is_lost_and_not_on_disconnect():
    watcher = Peer("watcher").connect().subscribe(f"{PREFIX}/will/#", 2)
    Peer("polite", will=(f"{PREFIX}/will/polite", "gone", 1, False)).connect().leave()
    Peer("lost", will=(f"{PREFIX}/will/lost", "gone", 2, False)).connect().vanish()
    message = watcher.receive()
    assert (message.topic, message.payload, message.qos) == (f"{PREFIX}/will/lost", b"gone", 2)
    watcher.receive_nothing()
    watcher.leave()


def a_persistent_session_is_resumed_with_what_was_missed():
    topic = f"{PREFIX}/session"
    sleeper = Peer("sleeper", clean=False, expiry=3600).connect()
    assert not sleeper.session_present
    sleeper.subscribe(topic, 2).leave()
    writer = Peer("writer").connect()
    for number in range(20):
        writer.publish(topic, str(number), 1 + number % 2)
    sleeper = Peer("sleeper", clean=False, expiry=3600).connect()
    assert sleeper.session_present, "the session is resumed"
    got = [sleeper.receive() for _ in range(20)]
    # A client hands out QoS 2 only after its PUBREL, so the order is kept within each QoS.
    for qos in (1, 2):
        numbers = [int(message.payload) for message in got if message.qos == qos]
        assert numbers == list(range(qos - 1, 20, 2)), f"QoS {qos}: {numbers}"
    sleeper.receive_nothing()
    sleeper.leave()
    fresh = Peer("sleeper", clean=True).connect()
    assert not fresh.session_present, "a clean start ends the old session"
    fresh.leave(), writer.leave()


def a_second_connection_with_the_same_name_takes_over():
    first = Peer("twin").connect()
    ended = queue.Queue()
    first.client.on_disconnect = lambda c, u, flags, reason, p: (c._thread_terminate or ended.put(reason), c.disconnect())
    second = Peer("twin").connect()
    ended.get(timeout=LIMIT)
    second.subscribe(f"{PREFIX}/twin", 1).publish(f"{PREFIX}/twin", "here", 1)
    assert second.receive().payload == b"here"
    first.leave(), second.leave()


def properties_of_a_message_pass_unchanged():
    peer = Peer("properties").connect()
    options = SubscribeOptions(qos=1, retainAsPublished=True)
    own = Properties(PacketTypes.SUBSCRIBE)
    own.SubscriptionIdentifier = 77
    peer.subscribe(f"{PREFIX}/properties", options=options, properties=own)
    sent = Properties(PacketTypes.PUBLISH)
    sent.PayloadFormatIndicator = 1
    sent.ContentType = "text/plain"
    sent.ResponseTopic = f"{PREFIX}/answers"
    sent.CorrelationData = b"\x00\x01"
    sent.MessageExpiryInterval = 600
    sent.UserProperty = [("a", "1"), ("b", "2"), ("a", "3")]
    peer.publish(f"{PREFIX}/properties", "text", 1, properties=sent)
    got = peer.receive().properties
    assert got.PayloadFormatIndicator == 1 and got.ContentType == "text/plain"
    assert got.ResponseTopic == f"{PREFIX}/answers" and got.CorrelationData == b"\x00\x01"
    assert 590 <= got.MessageExpiryInterval <= 600
    assert got.UserProperty == [("a", "1"), ("b", "2"), ("a", "3")]
    assert got.SubscriptionIdentifier == [77]
    peer.leave()


def no_local_keeps_own_messages_away():
    peer, other = Peer("local").connect(), Peer("other").connect()
    peer.subscribe(f"{PREFIX}/local", options=SubscribeOptions(qos=1, noLocal=True))
    peer.publish(f"{PREFIX}/local", "own", 1)
    other.publish(f"{PREFIX}/local", "other", 1)
    assert peer.receive().payload == b"other"
    peer.receive_nothing()
    peer.leave(), other.leave()


def a_shared_subscription_gives_each_message_to_one_member():
    members = [Peer(f"member{number}").connect() for number in range(2)]
    for member in members:
        member.subscribe(f"$share/group/{PREFIX}/shared", 1)
    writer = Peer("writer").connect()
    for number in range(20):
        writer.publish(f"{PREFIX}/shared", str(number), 1)
    got = []
    while len(got) < 20:
        for member in members:
            while not member.messages.empty():
                got.append(int(member.messages.get().payload))
    assert sorted(got) == list(range(20))
    for member in members:
        member.receive_nothing()
        member.leave()
    writer.leave()


STORIES = [
    every_qos_arrives_in_both_directions,
    the_lower_of_both_qos_counts,
    a_large_message_and_an_empty_one_pass,
    many_messages_keep_their_order,
    a_retained_message_meets_who_comes_later_until_it_is_cleared,
    a_will_is_published_when_the_connection_is_lost_and_not_on_disconnect,
    a_persistent_session_is_resumed_with_what_was_missed,
    a_second_connection_with_the_same_name_takes_over,
]
STORIES_OF_FIVE = [
    properties_of_a_message_pass_unchanged,
    no_local_keeps_own_messages_away,
    a_shared_subscription_gives_each_message_to_one_member,
]

for story in STORIES + (STORIES_OF_FIVE if FIVE else []):
    print("story:", story.__name__, flush=True)
    story()
print("all stories passed")

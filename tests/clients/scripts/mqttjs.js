// MQTT.js (Node) against a running broker: mqttjs.js VERSION TRANSPORT PORT CA. Each story prints its name.
"use strict";
const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const mqtt = require(path.join(process.env.FLOTILLA_NODE_TOOLS, "node_modules", "mqtt"));

const [version, transport, port, ca] = process.argv.slice(2);
const five = version === "5";
const prefix = `mqttjs/${version}/${transport}`;
const schemes = { tcp: "mqtt", tls: "mqtts", ws: "ws", wss: "wss" };
const limit = 15000;

/** A client whose events can be waited for. */
class Peer {
  constructor(name, options = {}) {
    this.options = {
      clientId: `${prefix}/${name}`,
      protocolVersion: five ? 5 : 4,
      reconnectPeriod: 0,
      connectTimeout: limit,
      ...(ca ? { ca: fs.readFileSync(ca) } : {}),
      ...options,
    };
    this.messages = [];
    this.waiting = [];
  }

  connect() {
    const suffix = transport.startsWith("ws") ? "/mqtt" : "";
    this.client = mqtt.connect(`${schemes[transport]}://${ca ? "localhost" : "127.0.0.1"}:${port}${suffix}`, this.options);
    this.client.on("message", (topic, payload, packet) => {
      const message = { topic, payload: payload.toString(), bytes: payload, packet };
      const waiter = this.waiting.shift();
      if (waiter) waiter(message);
      else this.messages.push(message);
    });
    this.client.on("close", () => this.onClose?.());
    return within(`CONNACK for ${this.options.clientId}`, new Promise((done, failed) => {
      this.client.once("error", failed);
      this.client.once("connect", (connack) => {
        this.sessionPresent = connack.sessionPresent;
        this.client.on("error", () => {});
        done(this);
      });
    }));
  }

  async subscribe(topic, options) {
    const granted = await within(`SUBACK for ${topic}`, this.client.subscribeAsync(topic, options));
    assert.ok(granted.every(({ qos }) => qos < 0x80), "granted");
    return this;
  }

  publish(topic, payload, options = {}) {
    return within(`acknowledgement of ${topic}`, this.client.publishAsync(topic, payload, options));
  }

  receive() {
    if (this.messages.length) return Promise.resolve(this.messages.shift());
    return within("a message", new Promise((done) => this.waiting.push(done)));
  }

  async receiveNothing() {
    await pause(300);
    assert.deepEqual(this.messages.map(({ topic }) => topic), [], "nothing more");
  }

  leave() {
    return within("the end", this.client.endAsync());
  }

  /** The connection is lost without a DISCONNECT. */
  vanish() {
    return within("the loss", new Promise((done) => {
      this.onClose = done;
      this.client.stream.destroy();
    }));
  }
}

function pause(milliseconds) {
  return new Promise((done) => setTimeout(done, milliseconds));
}

function within(what, promise) {
  let timer;
  const late = new Promise((_, failed) => {
    timer = setTimeout(() => failed(new Error(`no ${what} within ${limit} ms`)), limit);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

function persistent() {
  return { clean: false, ...(five ? { properties: { sessionExpiryInterval: 3600 } } : {}) };
}

const stories = {
  async every_qos_arrives_in_both_directions() {
    const [one, two] = [await new Peer("one").connect(), await new Peer("two").connect()];
    for (const [peer, other] of [[one, two], [two, one]]) {
      for (const qos of [0, 1, 2]) {
        const topic = `${prefix}/qos/${qos}`;
        await other.subscribe(topic, { qos });
        await peer.publish(topic, `qos ${qos}`, { qos });
        const { payload, packet } = await other.receive();
        assert.deepEqual([payload, packet.qos, packet.retain], [`qos ${qos}`, qos, false]);
        await other.client.unsubscribeAsync(topic);
      }
    }
    await Promise.all([one.leave(), two.leave()]);
  },

  async a_large_message_passes() {
    const peer = await new Peer("large").connect();
    await peer.subscribe(`${prefix}/large`, { qos: 2 });
    const body = Buffer.alloc(500_000, "flotilla");
    await peer.publish(`${prefix}/large`, body, { qos: 2 });
    assert.ok((await peer.receive()).bytes.equals(body));
    await peer.leave();
  },

  async many_messages_keep_their_order() {
    const peer = await new Peer("order").connect();
    await peer.subscribe(`${prefix}/order`, { qos: 2 });
    for (const qos of [0, 1, 2]) {
      const sent = Array.from({ length: 200 }, (_, number) => `${qos} ${number}`);
      // MQTT.js does not keep to the server's Receive Maximum by itself.
      for (let first = 0; first < sent.length; first += 20) {
        const batch = sent.slice(first, first + 20);
        await Promise.all(batch.map((payload) => peer.publish(`${prefix}/order`, payload, { qos })));
      }
      const got = [];
      for (const _ of sent) got.push((await peer.receive()).payload);
      assert.deepEqual(got, sent);
    }
    await peer.leave();
  },

  async a_retained_message_meets_who_comes_later_until_it_is_cleared() {
    const topic = `${prefix}/retained`;
    const writer = await new Peer("writer").connect();
    await writer.publish(topic, "old", { qos: 1, retain: true });
    await writer.publish(topic, "new", { qos: 2, retain: true });
    const reader = await new Peer("reader").connect();
    await reader.subscribe(`${prefix}/+`, { qos: 1 });
    const { payload, packet } = await reader.receive();
    assert.deepEqual([payload, packet.retain], ["new", true]);
    await reader.leave();
    await writer.publish(topic, "", { qos: 1, retain: true });
    const later = await new Peer("reader").connect();
    await later.subscribe(topic, { qos: 1 });
    await later.receiveNothing();
    await Promise.all([later.leave(), writer.leave()]);
  },

  async a_will_is_published_when_the_connection_is_lost_and_not_on_disconnect() {
    const watcher = await new Peer("watcher").connect();
    await watcher.subscribe(`${prefix}/will/#`, { qos: 2 });
    const will = (name) => ({ will: { topic: `${prefix}/will/${name}`, payload: Buffer.from("gone"), qos: 2, retain: false } });
    await (await new Peer("polite", will("polite")).connect()).leave();
    await (await new Peer("lost", will("lost")).connect()).vanish();
    const { topic, payload, packet } = await watcher.receive();
    assert.deepEqual([topic, payload, packet.qos], [`${prefix}/will/lost`, "gone", 2]);
    await watcher.receiveNothing();
    await watcher.leave();
  },

  async a_persistent_session_is_resumed_with_what_was_missed() {
    const topic = `${prefix}/session`;
    let sleeper = await new Peer("sleeper", persistent()).connect();
    assert.equal(sleeper.sessionPresent, false);
    await sleeper.subscribe(topic, { qos: 2 });
    await sleeper.leave();
    const writer = await new Peer("writer").connect();
    const sent = Array.from({ length: 20 }, (_, number) => [String(number), 1 + (number % 2)]);
    for (const [payload, qos] of sent) await writer.publish(topic, payload, { qos });
    sleeper = await new Peer("sleeper", persistent()).connect();
    assert.equal(sleeper.sessionPresent, true, "the session is resumed");
    const got = [];
    for (const _ of sent) {
      const { payload, packet } = await sleeper.receive();
      got.push([payload, packet.qos]);
    }
    // A client hands out QoS 2 only after its PUBREL, so the order is kept within each QoS.
    for (const wanted of [1, 2]) {
      const ofQos = (list) => list.filter(([, qos]) => qos === wanted);
      assert.deepEqual(ofQos(got), ofQos(sent));
    }
    await sleeper.receiveNothing();
    await sleeper.leave();
    const fresh = await new Peer("sleeper", { clean: true }).connect();
    assert.equal(fresh.sessionPresent, false, "a clean start ends the old session");
    await Promise.all([fresh.leave(), writer.leave()]);
  },
};

const storiesOfFive = {
  async properties_of_a_message_pass_unchanged() {
    const peer = await new Peer("properties").connect();
    await peer.subscribe(`${prefix}/properties`, { qos: 1, rap: true, properties: { subscriptionIdentifier: 77 } });
    const properties = {
      payloadFormatIndicator: true,
      contentType: "text/plain",
      responseTopic: `${prefix}/answers`,
      correlationData: Buffer.from([0, 1]),
      userProperties: { a: ["1", "3"], b: "2" },
    };
    await peer.publish(`${prefix}/properties`, "text", { qos: 1, properties: { ...properties, messageExpiryInterval: 600 } });
    const got = (await peer.receive()).packet.properties;
    assert.ok(got.messageExpiryInterval >= 590 && got.messageExpiryInterval <= 600);
    assert.equal(got.subscriptionIdentifier, 77);
    for (const [name, value] of Object.entries(properties)) {
      assert.deepEqual(JSON.stringify(got[name]), JSON.stringify(value), name);
    }
    await peer.leave();
  },

  async topic_aliases_save_the_topic() {
    const peer = await new Peer("alias", { autoAssignTopicAlias: true, properties: { topicAliasMaximum: 5 } }).connect();
    await peer.subscribe(`${prefix}/alias/#`, { qos: 1 });
    for (const number of [1, 2, 3]) await peer.publish(`${prefix}/alias/x`, `${number}`, { qos: 1 });
    for (const number of [1, 2, 3]) {
      const { topic, payload } = await peer.receive();
      assert.deepEqual([topic, payload], [`${prefix}/alias/x`, `${number}`]);
    }
    await peer.leave();
  },

  async an_absent_client_id_is_assigned() {
    const peer = new Peer("", { clientId: "" });
    await peer.connect();
    await peer.subscribe(`${prefix}/assigned`, { qos: 1 });
    await peer.publish(`${prefix}/assigned`, "here", { qos: 1 });
    assert.equal((await peer.receive()).payload, "here");
    await peer.leave();
  },
};

async function main() {
  for (const [name, story] of Object.entries({ ...stories, ...(five ? storiesOfFive : {}) })) {
    console.log("story:", name);
    await story();
  }
  console.log("all stories passed");
  process.exit(0);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

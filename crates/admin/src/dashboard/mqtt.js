// A small MQTT 5.0 client over WebSocket: enough to connect, subscribe and publish with QoS 0, 1 and 2.

const text = new TextEncoder();
const utf8 = new TextDecoder('utf-8', { fatal: true });

class Writer {
  parts = [];
  byte(value) { this.parts.push(value & 0xff); return this; }
  word(value) { return this.byte(value >> 8).byte(value); }
  long(value) { return this.word(value >>> 16).word(value & 0xffff); }
  raw(bytes) { for (const byte of bytes) this.parts.push(byte); return this; }
  string(value) { const bytes = text.encode(value); return this.word(bytes.length).raw(bytes); }
  binary(bytes) { return this.word(bytes.length).raw(bytes); }
  number(value) {
    do {
      let byte = value % 128;
      value = Math.floor(value / 128);
      if (value > 0) byte |= 128;
      this.byte(byte);
    } while (value > 0);
    return this;
  }
  packet(first) { const head = new Writer().byte(first).number(this.parts.length); return new Uint8Array([...head.parts, ...this.parts]); }
}

class Reader {
  constructor(bytes) { this.bytes = bytes; this.at = 0; }
  get left() { return this.bytes.length - this.at; }
  byte() { if (this.left < 1) throw new Error('a packet ended early'); return this.bytes[this.at++]; }
  word() { return (this.byte() << 8) | this.byte(); }
  long() { return this.word() * 65536 + this.word(); }
  take(count) { if (this.left < count) throw new Error('a packet ended early'); this.at += count; return this.bytes.subarray(this.at - count, this.at); }
  string() { return utf8.decode(this.take(this.word())); }
  number() {
    let [value, factor] = [0, 1];
    for (let count = 0; count < 4; count += 1) {
      const byte = this.byte();
      value += (byte & 127) * factor;
      if (byte < 128) return value;
      factor *= 128;
    }
    throw new Error('a length is too long');
  }
  /// Of the properties only those that people want to see. [MQTT5 2.2.2.2]
  properties() {
    const inner = new Reader(this.take(this.number()));
    const found = {};
    while (inner.left > 0) {
      const name = inner.number();
      if ([0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2a].includes(name)) found[name] = inner.byte();
      else if ([0x13, 0x21, 0x22, 0x23].includes(name)) found[name] = inner.word();
      else if ([0x02, 0x11, 0x18, 0x27].includes(name)) found[name] = inner.long();
      else if (name === 0x0b) found[name] = inner.number();
      else if ([0x03, 0x08, 0x12, 0x15, 0x1a, 0x1c, 0x1f].includes(name)) found[name] = inner.string();
      else if ([0x09, 0x16].includes(name)) found[name] = inner.take(inner.word());
      else if (name === 0x26) found[name] = [...(found[name] ?? []), [inner.string(), inner.string()]];
      else throw new Error('a property is not known');
    }
    return found;
  }
}

const REASONS = {
  0x00: 'success', 0x04: 'left with will', 0x10: 'no matching subscribers', 0x11: 'no subscription existed', 0x80: 'unspecified error', 0x81: 'malformed packet', 0x82: 'protocol error',
  0x84: 'version not supported', 0x85: 'client id not valid', 0x86: 'bad user name or password', 0x87: 'not authorized', 0x88: 'server unavailable', 0x89: 'server busy', 0x8b: 'server shutting down',
  0x8d: 'keep alive timeout', 0x8e: 'taken over by another connection', 0x8f: 'topic filter not valid', 0x90: 'topic name not valid', 0x91: 'packet id in use', 0x93: 'receive maximum exceeded',
  0x95: 'packet too large', 0x97: 'quota exceeded', 0x98: 'closed by an operator', 0x99: 'payload format not valid', 0x9a: 'retain not supported', 0x9b: 'QoS not supported', 0x9c: 'use another server',
  0x9d: 'server moved', 0x9e: 'shared subscriptions not supported', 0x9f: 'connection rate exceeded', 0xa2: 'wildcards not supported',
};
export const reason = (code) => REASONS[code] ?? `reason 0x${code.toString(16)}`;

const WINDOW = 64;

/// Events: `connected`, `closed(text)`, `message({topic, payload, qos, retain})`. What is sent is answered by promises.
export class Client {
  constructor({ url, clientId, username, password, cleanStart, expiry, keepAlive = 30 }, events) {
    Object.assign(this, { events, keepAlive, nextId: 1, waiting: new Map(), incoming: new Set(), buffer: new Uint8Array(0), open: false });
    this.socket = new WebSocket(url, ['mqtt']);
    this.socket.binaryType = 'arraybuffer';
    this.socket.onopen = () => this.send(connectPacket({ clientId, username, password, cleanStart, expiry, keepAlive }));
    this.socket.onmessage = (event) => this.receive(new Uint8Array(event.data));
    this.socket.onclose = () => this.end(this.open ? 'The connection was closed' : 'The node cannot be reached at this address');
  }

  send(packet) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(packet);
  }

  end(why) {
    if (this.ended) return;
    this.ended = true;
    clearInterval(this.timer);
    for (const { fail } of this.waiting.values()) fail(new Error(why));
    this.waiting.clear();
    this.socket.close();
    this.events.closed(why);
  }

  close() {
    this.send(new Uint8Array([0xe0, 0]));
    this.end('Disconnected');
  }

  /// Sends a packet that the server answers under the same id.
  asked(build) {
    if (this.waiting.size >= WINDOW) return Promise.reject(new Error('too much is under way'));
    while (this.waiting.has(this.nextId)) this.nextId = (this.nextId % 65535) + 1;
    const id = this.nextId;
    this.nextId = (this.nextId % 65535) + 1;
    return new Promise((done, fail) => {
      this.waiting.set(id, { done, fail });
      this.send(build(id));
    });
  }

  subscribe(filter, qos) {
    return this.asked((id) => new Writer().word(id).number(0).string(filter).byte(qos).packet(0x82));
  }

  unsubscribe(filter) {
    return this.asked((id) => new Writer().word(id).number(0).string(filter).packet(0xa2));
  }

  publish(topic, payload, qos, retain) {
    const first = 0x30 | (qos << 1) | (retain ? 1 : 0);
    const body = text.encode(payload);
    if (qos === 0) {
      this.send(new Writer().string(topic).number(0).raw(body).packet(first));
      return Promise.resolve(0);
    }
    return this.asked((id) => new Writer().string(topic).word(id).number(0).raw(body).packet(first));
  }

  receive(bytes) {
    const joined = new Uint8Array(this.buffer.length + bytes.length);
    joined.set(this.buffer);
    joined.set(bytes, this.buffer.length);
    this.buffer = joined;
    try {
      while (this.takePacket());
    } catch (error) {
      this.end(`The server sent something that is no MQTT: ${error.message}`);
    }
  }

  takePacket() {
    let [length, factor, at] = [0, 1, 1];
    for (;;) {
      if (at >= this.buffer.length) return false;
      const byte = this.buffer[at++];
      length += (byte & 127) * factor;
      if (byte < 128) break;
      factor *= 128;
      if (at > 4) throw new Error('a length is too long');
    }
    if (this.buffer.length < at + length) return false;
    const [first, body] = [this.buffer[0], this.buffer.subarray(at, at + length)];
    this.buffer = this.buffer.slice(at + length);
    this.handle(first, new Reader(body));
    return !this.ended;
  }

  handle(first, packet) {
    switch (first >> 4) {
      case 2: return this.connected(packet);
      case 3: return this.message(first, packet);
      case 4: case 7: return this.answered(packet.word(), packet.left ? packet.byte() : 0);
      case 5: {
        const [id, code] = [packet.word(), packet.left ? packet.byte() : 0];
        if (code >= 0x80) return this.answered(id, code);
        return this.send(new Writer().word(id).packet(0x62));
      }
      case 6: {
        const id = packet.word();
        this.incoming.delete(id);
        return this.send(new Writer().word(id).packet(0x70));
      }
      case 9: case 11: {
        const id = packet.word();
        packet.properties();
        return this.answered(id, packet.left ? packet.byte() : 0);
      }
      case 14: return this.end(`The server said: ${reason(packet.left ? packet.byte() : 0)}`);
      default: return undefined;
    }
  }

  connected(packet) {
    const present = packet.byte() === 1;
    const code = packet.byte();
    if (code >= 0x80) return this.end(`Refused: ${reason(code)}`);
    const properties = packet.properties();
    const every = properties[0x13] ?? this.keepAlive;
    this.open = true;
    if (every) this.timer = setInterval(() => this.send(new Uint8Array([0xc0, 0])), every * 500);
    return this.events.connected({ present, clientId: properties[0x12] });
  }

  message(first, packet) {
    const qos = (first >> 1) & 3;
    const topic = packet.string();
    const id = qos ? packet.word() : 0;
    packet.properties();
    const payload = packet.take(packet.left);
    if (qos === 1) this.send(new Writer().word(id).packet(0x40));
    if (qos === 2) this.send(new Writer().word(id).packet(0x50));
    // The same QoS 2 message may come twice before its PUBREL. [MQTT-4.3.3-2]
    if (qos === 2 && this.incoming.has(id)) return;
    if (qos === 2) this.incoming.add(id);
    this.events.message({ topic, payload, qos, retain: (first & 1) === 1 });
  }

  answered(id, code) {
    const waiting = this.waiting.get(id);
    if (!waiting) return;
    this.waiting.delete(id);
    if (code >= 0x80) waiting.fail(new Error(reason(code)));
    else waiting.done(code);
  }
}

function connectPacket({ clientId, username, password, cleanStart, expiry, keepAlive }) {
  const flags = (username ? 0x80 : 0) | (password ? 0x40 : 0) | (cleanStart ? 2 : 0);
  const properties = expiry ? new Writer().byte(0x11).long(expiry) : new Writer();
  const packet = new Writer().string('MQTT').byte(5).byte(flags).word(keepAlive).number(properties.parts.length).raw(properties.parts).string(clientId);
  if (username) packet.string(username);
  if (password) packet.binary(text.encode(password));
  return packet.packet(0x10);
}

/// A payload as people read it.
export function readable(payload) {
  try {
    const shown = utf8.decode(payload);
    if (!/[\u0000-\u0008\u000e-\u001f]/.test(shown)) return shown;
  } catch { /* It is binary. */ }
  return [...payload.subarray(0, 64)].map((byte) => byte.toString(16).padStart(2, '0')).join(' ') + (payload.length > 64 ? ' …' : '');
}

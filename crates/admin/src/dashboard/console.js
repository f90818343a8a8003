// A client to try things with: it speaks MQTT over WebSocket to the node's own listener, as any application does.

import { confirmed, empty, h, pill, show, toast } from './dom.js';
import { onLive } from './live.js';
import { Client, readable, reason } from './mqtt.js';

const FEED_MAX = 200;
// Kept while one looks at other pages.
const state = { client: null, connected: false, subscriptions: new Map(), feed: [], received: 0 };
let redraw = () => {};

export function tryout(page) {
  const field = (label, width, input) => h('label', { class: `field ${width}` }, label, input);
  const text = (value, more = {}) => h('input', { type: 'text', value, spellcheck: 'false', autocapitalize: 'off', autocomplete: 'off', ...more });
  const url = text('', { placeholder: 'ws://host:8083/mqtt' });
  const clientId = text(`dashboard-${Math.random().toString(36).slice(2, 8)}`);
  const [username, password] = [text(''), text('', { type: 'password' })];
  const clean = h('input', { type: 'checkbox', checked: true });
  const connect = h('button', { class: 'act main-act w2' });
  const connecting = h('form', { class: 'body form', onsubmit: (event) => { event.preventDefault(); toggle(); } },
    field('Address', 'w4', url), field('Client id', 'w2', clientId), field('User name', 'w2', username), field('Password', 'w2', password), connect,
    h('label', { class: 'check w6' }, clean, 'Start clean, and end with the connection'));
  const filter = text('#', { placeholder: 'fleet/#' });
  const [subscribeQos, publishQos] = [levels(), levels()];
  const chips = h('div', { class: 'chips w6' });
  const subscribing = h('form', { class: 'body form', onsubmit: (event) => { event.preventDefault(); subscribe(filter.value, Number(subscribeQos.value)); } },
    field('Topic filter', 'w3', filter), field('QoS', 'w1', subscribeQos), h('button', { class: 'act w2' }, 'Subscribe'), chips);
  const topic = text('greetings/hello');
  const payload = h('textarea', { rows: 3, spellcheck: 'false', value: '{"hello": "fleet"}' });
  const retain = h('input', { type: 'checkbox' });
  const publishing = h('form', { class: 'body form', onsubmit: (event) => { event.preventDefault(); publish(topic.value, payload.value, Number(publishQos.value), retain.checked); } },
    field('Topic', 'w4', topic), field('QoS', 'w2', publishQos), field('Message', 'w6', payload), h('label', { class: 'check w4' }, retain, 'Retain'), h('button', { class: 'act main-act w2' }, 'Publish'));
  const [status, feed, tally] = [h('div', { class: 'row' }), h('div', { class: 'feed' }), h('span', { class: 'faint small' })];
  const clear = h('button', { class: 'link small', onclick: () => { state.feed = []; state.received = 0; redraw(); } }, 'Clear');
  const card = (title, extra, ...content) => h('section', { class: 'card' }, h('div', { class: 'title' }, h('h2', {}, title), extra), content);
  page.append(h('div', { class: 'head' }, h('div', { class: 'grow' }, h('h1', {}, 'Try it'), h('p', { class: 'sub' }, 'An MQTT 5.0 client in this page.')), status),
    h('div', { class: 'half' },
      h('div', { class: 'stack' }, card('Connection', null, connecting), card('Subscribe', null, subscribing), card('Publish', null, publishing)),
      card('Messages', h('div', { class: 'row' }, tally, clear), h('div', { style: { paddingTop: '10px' } }, feed))));

  function toggle() {
    if (state.client) return state.client.close();
    try {
      open({ url: url.value, clientId: clientId.value, username: username.value, password: password.value, cleanStart: clean.checked, expiry: clean.checked ? 0 : 3600 });
    } catch (error) {
      toast(error.message, true);
    }
    return undefined;
  }

  redraw = () => {
    show(status, state.connected ? pill('good', 'connected') : state.client ? pill('warn', 'connecting') : pill('', 'not connected'));
    connect.textContent = state.client ? 'Disconnect' : 'Connect';
    for (const input of [url, clientId, username, password, clean]) input.disabled = state.client !== null;
    for (const form of [subscribing, publishing]) for (const button of form.querySelectorAll('button.act')) button.disabled = !state.connected;
    chips.hidden = !state.subscriptions.size;
    show(chips, [...state.subscriptions].map(([name, qos]) => h('button', { class: 'pill info mono', type: 'button', title: 'Unsubscribe', onclick: () => unsubscribe(name) }, `${name} · ${qos} ✕`)));
    show(tally, `${state.received} received`);
    show(feed, state.feed.length ? state.feed.map(entry) : empty('Nothing yet', 'Connect, subscribe to something, and publish to it.', 'console'));
  };
  redraw();
  const stopWatching = onLive(({ overview }) => {
    if (!overview || url.value) return;
    const secure = location.protocol === 'https:';
    const found = overview.node.listeners.find((one) => one.protocol === (secure ? 'wss' : 'ws')) ?? overview.node.listeners.find((one) => one.protocol === 'ws' || one.protocol === 'wss');
    if (found) url.value = `${found.protocol}://${location.hostname}:${found.address.split(':').at(-1)}/mqtt`;
  });
  return () => { stopWatching(); redraw = () => {}; };
}

function levels() {
  const select = h('select', {}, [0, 1, 2].map((level) => h('option', { value: String(level) }, String(level))));
  select.value = '1';
  return select;
}

function note(kind, fields) {
  state.feed.unshift({ kind, time: new Date(), ...fields });
  state.feed.length = Math.min(state.feed.length, FEED_MAX);
  redraw();
}

function open(options) {
  state.subscriptions.clear();
  state.client = new Client(options, {
    connected: ({ present }) => { state.connected = true; note('note', { text: `Connected as ${options.clientId}${present ? '; its session was there' : ''}` }); },
    closed: (why) => { state.client = null; state.connected = false; state.subscriptions.clear(); note('note', { text: why }); },
    message: (message) => { state.received += 1; note('got', message); },
  });
  redraw();
}

async function subscribe(name, qos) {
  try {
    const granted = await state.client.subscribe(name, qos);
    state.subscriptions.set(name, `QoS ${granted}`);
    note('note', { text: `Subscribed to ${name} with QoS ${granted}` });
  } catch (error) {
    toast(`${name}: ${error.message}`, true);
  }
}

async function unsubscribe(name) {
  try {
    await state.client.unsubscribe(name);
    state.subscriptions.delete(name);
    redraw();
  } catch (error) {
    toast(error.message, true);
  }
}

async function publish(topic, text, qos, retain) {
  if (retain && text === '' && !await confirmed('Delete the retained message?', `An empty retained message deletes what is retained under ${topic}.`, 'Delete')) return;
  const began = performance.now();
  try {
    const code = await state.client.publish(topic, text, qos, retain);
    const took = qos ? `acknowledged after ${(performance.now() - began).toFixed(0)} ms${code ? `: ${reason(code)}` : ''}` : 'sent';
    note('sent', { topic, payload: new TextEncoder().encode(text), qos, retain, took });
  } catch (error) {
    toast(`${topic}: ${error.message}`, true);
  }
}

function entry(one) {
  const time = h('span', { class: 'faint small num' }, one.time.toLocaleTimeString('en-GB'));
  if (one.kind === 'note') return h('div', { class: 'msg note' }, h('div', { class: 'row' }, h('span', { class: 'grow' }, one.text), time));
  const flags = [`QoS ${one.qos}`, one.retain && 'retained', one.took].filter(Boolean).join(' · ');
  return h('div', { class: one.kind === 'sent' ? 'msg sent' : 'msg' }, h('div', { class: 'row' }, h('strong', { class: 'mono grow clip', title: one.topic }, one.topic), time), h('div', { class: 'small faint' }, `${one.kind === 'sent' ? 'out' : 'in'} · ${flags}`),
    one.payload.length > 0 && h('pre', {}, readable(one.payload)));
}

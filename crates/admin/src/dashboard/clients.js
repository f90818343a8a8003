// Sessions: a list to search and page through, and one of them in full.

import { Refused, ask, follow } from './api.js';
import { bytes, confirmed, empty, h, icon, pill, show, span, toast, whole } from './dom.js';
import { mayWrite, nodeColour } from './live.js';

const PAGE = 50;
/// Of a trace: seconds, and lines that stay on the page.
const TRACE_S = 60;
const LINES_MAX = 300;

export function clients(page, [name]) {
  return name ? one(page, name) : list(page);
}

function list(page) {
  const search = h('input', { type: 'search', placeholder: 'Part of a client id', 'aria-label': 'Part of a client id', oninput: () => again(250) });
  const state = h('select', { 'aria-label': 'State', onchange: () => again(0) }, h('option', { value: '' }, 'All sessions'), h('option', { value: 'true' }, 'Connected'), h('option', { value: 'false' }, 'Away'));
  const rows = h('tbody');
  const [box, note] = [h('div', { class: 'scroll' }), h('div', { class: 'foot-note' })];
  const more = h('button', { class: 'act', onclick: () => load(cursor) }, 'Show more');
  let [cursor, count, waiting, asked] = [null, 0, null, 0];
  page.append(h('div', { class: 'head' }, h('div', { class: 'grow' }, h('h1', {}, 'Clients'), h('p', { class: 'sub' }, 'Every session of the cluster, connected or away.'))),
    h('section', { class: 'card' }, h('div', { class: 'title', style: { paddingBottom: '12px' } }, h('div', { class: 'search grow', style: { maxWidth: '420px' } }, icon('search'), search), h('div', { style: { minWidth: '150px' } }, state)), box, note));

  function again(after) {
    clearTimeout(waiting);
    waiting = setTimeout(() => load(null), after);
  }

  async function load(after) {
    const number = ++asked;
    try {
      const answer = await ask('clients', { query: { filter: search.value.trim(), connected: state.value, limit: PAGE, after } });
      if (number !== asked) return;
      if (!after) { rows.replaceChildren(); count = 0; }
      count += answer.items.length;
      cursor = answer.next;
      rows.append(...answer.items.map(row));
      show(box, count ? h('table', { class: 'fold' }, head(), rows) : empty('No sessions', search.value || state.value ? 'None is like that.' : 'Nobody has connected yet. Try it under “Try it”.', 'clients'));
      show(note, h('span', {}, `${whole(count)} shown${answer.covers.shards < answer.covers.of ? `, from the ${answer.covers.shards} of ${answer.covers.of} shards that answered` : ''}`), cursor && more);
    } catch (error) {
      toast(error.message, true);
    }
  }
  load(null);
  return () => clearTimeout(waiting);
}

function head() {
  return h('thead', {}, h('tr', {}, ['Client', 'State', 'Node', 'Address'].map((text) => h('th', {}, text)), ['Subscriptions', 'Waiting'].map((text) => h('th', { class: 'num' }, text))));
}

function row(client) {
  const go = () => { location.hash = `#/clients/${encodeURIComponent(client.client_id)}`; };
  return h('tr', { class: 'goes', onclick: go },
    h('td', {}, h('a', { class: 'clip mono', href: `#/clients/${encodeURIComponent(client.client_id)}`, title: client.client_id }, client.client_id), client.user && h('span', { class: 'small faint clip' }, client.user)),
    h('td', { class: 'side-cell' }, statePill(client)),
    h('td', { class: client.node ? null : 'blank' }, client.node ? h('span', { class: 'row', style: { gap: '7px' } }, h('span', { class: 'dot', style: { background: nodeColour(client.node_id) } }), client.node) : h('span', { class: 'faint' }, '–')),
    h('td', { class: client.address ? 'soft' : 'soft blank' }, client.address ?? h('span', { class: 'faint' }, '–')),
    h('td', { class: 'num', 'data-label': 'subscriptions' }, whole(client.subscriptions)),
    h('td', { class: 'num', 'data-label': 'waiting' }, client.queued_messages ? `${whole(client.queued_messages)} · ${bytes(client.queued_bytes)}` : '0'));
}

function statePill(client) {
  if (client.connected) return pill('good', 'connected');
  return pill('', client.expires_in_s === null ? 'away' : `away, ends in ${span(client.expires_in_s)}`);
}

function one(page, name) {
  const content = h('div', { class: 'stack' });
  const actions = h('div', { class: 'row' });
  page.append(h('div', {}, h('a', { href: '#/clients', class: 'row small', style: { gap: '3px' } }, h('span', { style: { width: '15px', lineHeight: 0 } }, icon('back')), 'All clients')),
    h('div', { class: 'head' }, h('div', { class: 'grow' }, h('h1', { class: 'mono clip', title: name }, name)), actions), content);
  const { card, stop } = trace(name);
  page.append(card);
  let timer = null;

  async function load() {
    try {
      const client = await ask(`clients/${encodeURIComponent(name)}`);
      show(content, detail(client), await refusals());
      show(actions, statePill(client.session), mayWrite() && client.session.connected && act('Disconnect', 'Disconnect this client?', 'Its connection is closed. Its session stays as the client asked for it, and it may come back at once.', 'keep'),
        mayWrite() && act('End session', 'End this session?', 'Its subscriptions and waiting messages are deleted on every node, and its connection is closed. This cannot be undone.', 'end'));
    } catch (error) {
      if (error instanceof Refused && error.status === 404) {
        show(actions);
        show(content, h('section', { class: 'card' }, empty('No such session', 'It has ended, or never was.', 'clients')), await refusals());
        return;
      }
      toast(error.message, true);
    }
    timer = setTimeout(load, 3000);
  }

  async function refusals() {
    const { items } = await ask('refusals', { query: { client: name, limit: 20 } }).catch(() => ({ items: [] }));
    return items.length > 0 && h('section', { class: 'card' }, h('div', { class: 'title', style: { paddingBottom: '8px' } }, h('h2', {}, 'Refused'), h('span', { class: 'faint small' }, 'lately, by any node')),
      h('div', { class: 'scroll' }, h('table', { class: 'fold' }, h('thead', {}, h('tr', {}, ['What', 'When', 'Why'].map((text) => h('th', {}, text)))), h('tbody', {}, items.map(refusal)))));
  }

  function act(label, title, text, session) {
    return h('button', { class: 'act danger', onclick: async () => {
      if (!await confirmed(title, text, label)) return;
      try {
        await ask(`clients/${encodeURIComponent(name)}/disconnect`, { method: 'POST', query: { session } });
        toast(`${label}: done`);
        clearTimeout(timer);
        load();
      } catch (error) {
        toast(error.message, true);
      }
    } }, label);
  }
  load();
  return () => { clearTimeout(timer); stop(); };
}

/// What happens to the client, packet by packet, for a minute.
function trace(name) {
  const rows = h('tbody');
  const table = h('div', { class: 'scroll', hidden: true }, h('table', { class: 'fold' }, h('thead', {}, h('tr', {}, ['What', 'When', 'Details'].map((text) => h('th', {}, text)))), rows));
  const told = h('span', { class: 'faint small grow' }, 'Each packet with its topic and size, never what it says.');
  const button = h('button', { class: 'act', onclick: () => (running ? running.abort() : begin()) }, 'Trace for a minute');
  let running = null;

  async function begin() {
    running = new AbortController();
    rows.replaceChildren();
    table.hidden = false;
    button.textContent = 'Stop';
    told.textContent = 'It is being traced.';
    try {
      await follow('trace', { query: { client: name, seconds: TRACE_S }, signal: running.signal }, (line) => {
        if (line.event === 'end') return;
        rows.prepend(traceLine(line));
        while (rows.children.length > LINES_MAX) rows.lastChild.remove();
      });
    } catch (error) {
      if (error.name !== 'AbortError') toast(error.message, true);
    }
    running = null;
    button.textContent = 'Trace for a minute';
    told.textContent = 'The trace is over.';
  }
  const card = h('section', { class: 'card', style: { marginTop: '16px' } }, h('div', { class: 'title', style: { paddingBottom: '8px' } }, h('h2', {}, 'Trace'), told, button), table);
  return { card, stop: () => running?.abort() };
}

function traceLine(line) {
  const what = line.event === 'place' ? (line.place ? `connected to ${line.place}` : 'not connected') : [line.event, line.packet ?? line.action].filter(Boolean).join(' ');
  const codes = (line.reason_codes ?? []).map((code) => `0x${code.toString(16).toUpperCase().padStart(2, '0')}`);
  const details = [line.topic ?? line.filters?.join(', '), line.qos !== undefined && `QoS ${line.qos}`, line.packet_id !== undefined && `id ${line.packet_id}`, line.flags?.join(', '), codes.join(', '),
    line.bytes !== undefined && bytes(line.bytes), line.reason, line.place && line.place !== line.node && 'ask that node for its packets', line.lost && `${whole(line.lost)} lines before this one are lost`];
  return h('tr', {}, h('td', {}, what), h('td', { class: 'side-cell mono small' }, new Date(line.at_ms).toISOString().slice(11, 23)), h('td', { class: 'soft' }, details.filter(Boolean).join(' · ')));
}

function detail({ session, connection, subscriptions, queue, notes }) {
  const fact = (name, value) => value !== null && value !== undefined && value !== '' && [h('dt', {}, name), h('dd', {}, value)];
  const facts = h('dl', { class: 'facts' }, fact('Node', session.node ?? 'none: it is away'), fact('User', session.user || 'anonymous'), fact('Epoch', h('span', { class: 'mono' }, session.epoch)),
    fact('Shard', String(session.shard)), fact('Ends', session.connected ? null : session.expires_in_s === null ? 'never' : `in ${span(session.expires_in_s)}`),
    fact('Waiting', `${whole(session.queued_messages)} messages, ${bytes(session.queued_bytes)}`));
  const wire = connection && h('dl', { class: 'facts' }, fact('Address', connection.address), fact('Listener', connection.listener), fact('Protocol', connection.protocol),
    fact('Keep alive', connection.keep_alive_s ? `${connection.keep_alive_s} s` : 'off'), fact('Connected for', span(connection.connected_for_s)), fact('Persistent', connection.persistent ? 'yes' : 'no, it ends with the connection'), fact('In flight', whole(connection.in_flight)));
  return [
    h('div', { class: 'half' },
      h('section', { class: 'card' }, h('div', { class: 'title' }, h('h2', {}, 'Session')), h('div', { class: 'body' }, facts)),
      h('section', { class: 'card' }, h('div', { class: 'title' }, h('h2', {}, 'Connection')), h('div', { class: 'body' }, wire ?? h('p', { class: 'soft' }, session.connected ? `It is connected to ${session.node}. Address, protocol and what is in flight are known there.` : 'It is not connected.')))),
    h('section', { class: 'card' }, h('div', { class: 'title', style: { paddingBottom: '8px' } }, h('h2', {}, 'Subscriptions'), h('span', { class: 'faint small' }, whole(subscriptions.length))), subscriptions.length
      ? h('div', { class: 'scroll' }, h('table', { class: 'fold' }, h('thead', {}, h('tr', {}, ['Filter', 'QoS', 'Options', 'Kept'].map((text) => h('th', {}, text)))), h('tbody', {}, subscriptions.map(subscription))))
      : h('div', { class: 'body soft' }, 'None that this node knows.')),
    queue.length > 0 && h('section', { class: 'card' }, h('div', { class: 'title', style: { paddingBottom: '8px' } }, h('h2', {}, 'Waiting messages'), h('span', { class: 'faint small' }, `first ${queue.length} of ${whole(session.queued_messages)}`)),
      h('div', { class: 'scroll' }, h('table', { class: 'fold' }, h('thead', {}, h('tr', {}, ['Delivery', 'QoS', 'State', 'Expires'].map((text) => h('th', {}, text)))), h('tbody', {}, queue.map(waitingMessage))))),
    notes.length > 0 && h('p', { class: 'faint small' }, notes.join(' ')),
  ];
}

function subscription(one) {
  const options = [one.no_local && 'no local', one.retain_as_published && 'retain as published', one.subscription_id && `id ${one.subscription_id}`].filter(Boolean);
  return h('tr', {}, h('td', {}, h('span', { class: 'mono' }, one.filter)), h('td', { class: 'side-cell' }, `QoS ${one.qos}`), h('td', { class: 'soft' }, options.join(', ') || '–'), h('td', { class: 'soft' }, one.kept ? 'in the shard' : 'with the connection'));
}

function refusal(one) {
  return h('tr', {}, h('td', {}, one.action, one.topic && h('span', { class: 'mono small' }, ` ${one.topic}`)), h('td', { class: 'side-cell' }, `${span(one.ago_s)} ago${one.count > 1 ? `, ${whole(one.count)} times` : ''}`), h('td', { class: 'soft' }, one.reason, h('span', { class: 'faint small' }, ` at ${one.node}`)));
}

function waitingMessage(one) {
  return h('tr', {}, h('td', { class: 'mono' }, String(one.sequence)), h('td', { class: 'side-cell' }, `QoS ${one.qos}`), h('td', { class: 'soft' }, one.received ? 'received, to be released' : one.sent_before ? 'may have been sent' : 'waits'),
    h('td', { class: 'soft' }, one.expires_in_s === null ? 'never' : `in ${span(one.expires_in_s)}`));
}

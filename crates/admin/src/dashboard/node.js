// The node that served this page: what it runs, its configuration and certificates, its log level, and its end.

import { ask } from './api.js';
import { bytes, confirmed, empty, h, icon, pill, show, span, toast } from './dom.js';
import { mayWrite, onLive } from './live.js';

const LEVELS = ['error', 'warn', 'info', 'debug', 'trace'];

export function node(page) {
  const [facts, listeners, log, certificates, settings] = [h('dl', { class: 'facts' }), h('div', { class: 'scroll' }), h('div', { class: 'body' }), h('div', { class: 'scroll' }), h('div', { class: 'scroll' })];
  const actions = h('div', { class: 'row' });
  const title = h('h1', {}, 'Node');
  const card = (name, ...content) => h('section', { class: 'card' }, h('div', { class: 'title', style: { paddingBottom: '6px' } }, h('h2', {}, name)), content);
  page.append(h('div', { class: 'head' }, h('div', { class: 'grow' }, title, h('p', { class: 'sub' }, 'The one that answers this page.')), actions),
    h('div', { class: 'half' }, h('div', { class: 'stack' }, card('What runs', h('div', { class: 'body' }, facts)), card('Log level', log)), h('div', { class: 'stack' }, card('Listeners', listeners), card('Certificates', certificates))),
    configuration(settings));
  if (mayWrite()) {
    actions.append(h('button', { class: 'act danger', onclick: async () => {
      if (!await confirmed('Drain this node?', 'It stops being ready, asks its clients to go elsewhere, hands over what it leads and ends, as on SIGTERM. Nothing acknowledged is lost. It stays a member; whatever started it may start it again.', 'Drain')) return;
      try {
        await ask('node/drain', { method: 'POST' });
        toast('The node drains. This page will lose it.');
      } catch (error) {
        toast(error.message, true);
      }
    } }, 'Drain'));
  }
  levels(log);
  ask('certificates').then((answer) => show(certificates, certificateTable(answer.items)), (error) => toast(error.message, true));
  return onLive(({ overview }) => {
    if (!overview) return;
    const one = overview.node;
    const numbers = overview.nodes.find((other) => other.node_id === one.node_id);
    const fact = (name, value) => value !== null && value !== undefined && [h('dt', {}, name), h('dd', {}, value)];
    title.textContent = one.name;
    show(facts, fact('State', pill({ ready: 'good', starting: 'warn', draining: 'warn' }[one.state] ?? 'bad', one.state)), fact('Version', `${one.version}, ${one.commit}`), fact('Running for', span(one.uptime_s)), fact('Identifier', h('span', { class: 'mono' }, one.node_id)),
      fact('Cluster', h('span', { class: 'mono' }, overview.cluster.cluster_id || '–')), fact('Memory', bytes(numbers?.resident_bytes)), fact('Connections', String(numbers?.connections ?? '–')));
    show(listeners, h('table', { class: 'fold' }, h('thead', {}, h('tr', {}, ['Name', 'Protocol', 'Address'].map((text) => h('th', {}, text)))),
      h('tbody', {}, one.listeners.map((listener) => h('tr', {}, h('td', {}, listener.name), h('td', { class: 'soft' }, listener.protocol), h('td', { class: 'mono side-cell' }, listener.address))))));
  });
}

async function levels(box) {
  try {
    const { level } = await ask('log');
    const field = h('input', { type: 'text', value: level, spellcheck: 'false', autocapitalize: 'off', 'aria-label': 'Log level', list: 'levels', disabled: !mayWrite() });
    const set = async (event) => {
      event.preventDefault();
      try {
        await ask('log', { method: 'PUT', body: { level: field.value.trim() } });
        toast(`Logs with ${field.value.trim()}, until the node is started again`);
      } catch (error) {
        toast(error.message, true);
      }
    };
    show(box, h('form', { class: 'form', onsubmit: set }, h('div', { class: 'w4' }, field), h('datalist', { id: 'levels' }, LEVELS.map((name) => h('option', { value: name }))), mayWrite() && h('button', { class: 'act w2' }, 'Set'),
      h('p', { class: 'small faint w6' }, 'A level for all, or for parts of the program too: info,broker=debug.')));
  } catch (error) {
    show(box, h('p', { class: 'soft' }, error.message));
  }
}

function certificateTable(items) {
  if (!items.length) return empty('No certificates', 'No listener of this node uses TLS.', 'check');
  return h('table', { class: 'fold' }, h('thead', {}, h('tr', {}, ['For', 'Subject', 'Expires'].map((text) => h('th', {}, text)))), h('tbody', {}, items.map((one) => h('tr', {},
    h('td', {}, one.used_by, h('span', { class: 'small faint clip', title: one.file }, one.file)), h('td', { class: 'soft wide' }, one.subject || '–'),
    h('td', { class: 'side-cell' }, one.problem ? pill('bad', one.problem) : pill(one.expires_in_s < 0 ? 'bad' : one.expires_in_s < 14 * 86400 ? 'warn' : 'good', one.expires_in_s < 0 ? 'expired' : `in ${span(one.expires_in_s)}`))))));
}

function configuration(box) {
  let items = [];
  const search = h('input', { type: 'search', placeholder: 'Part of a key', 'aria-label': 'Part of a key', spellcheck: 'false', oninput: () => draw() });
  const set = h('input', { type: 'checkbox', onchange: () => draw() });
  const draw = () => {
    const wanted = items.filter((item) => `${item.section}.${item.key}`.includes(search.value.trim().toLowerCase()) && !(set.checked && item.origin === 'default'));
    show(box, wanted.length ? h('table', { class: 'fold' }, h('thead', {}, h('tr', {}, ['Key', 'Value', 'From'].map((text) => h('th', {}, text)))), h('tbody', {}, wanted.map((item) => h('tr', {},
      h('td', {}, h('span', { class: 'faint mono' }, `${item.section}.`), h('span', { class: 'mono' }, item.key)), h('td', { class: 'mono wide' }, item.value ?? h('span', { class: 'faint' }, 'not set')), h('td', { class: 'soft side-cell' }, item.origin))))) : empty('No such key', null, 'search'));
  };
  ask('config').then((answer) => { items = answer.items; draw(); }, (error) => toast(error.message, true));
  return h('section', { class: 'card' }, h('div', { class: 'title', style: { paddingBottom: '12px' } }, h('h2', {}, 'Configuration'), h('div', { class: 'row grow', style: { justifyContent: 'flex-end' } }, h('label', { class: 'check' }, set, 'Only what was set'), h('div', { class: 'search', style: { maxWidth: '280px' } }, icon('search'), search))), box);
}

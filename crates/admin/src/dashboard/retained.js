// Retained messages: the last word on each topic. To look at, to set and to delete.

import { ask } from './api.js';
import { bytes, confirmed, empty, h, icon, pill, show, span, toast, whole } from './dom.js';
import { mayWrite } from './live.js';

const PAGE = 50;

export function retained(page) {
  const filter = h('input', { type: 'search', placeholder: 'Topic filter, as fleet/+/position or fleet/#', 'aria-label': 'Topic filter', spellcheck: 'false', autocapitalize: 'off', oninput: () => { clearTimeout(waiting); waiting = setTimeout(() => load(null), 300); } });
  const [rows, box, note, side] = [h('tbody'), h('div', { class: 'scroll' }), h('div', { class: 'foot-note' }), h('div', { class: 'stack' })];
  let [cursor, count, waiting, asked] = [null, 0, null, 0];
  const more = h('button', { class: 'act', onclick: () => load(cursor) }, 'Show more');
  page.append(h('div', { class: 'head' }, h('div', { class: 'grow' }, h('h1', {}, 'Retained messages'), h('p', { class: 'sub' }, 'The last acknowledged message of each topic, the same from every node.'))),
    h('div', { class: 'two' }, h('section', { class: 'card' }, h('div', { class: 'title', style: { paddingBottom: '12px' } }, h('div', { class: 'search grow' }, icon('search'), filter)), box, note), side));
  show(side, hint());

  async function load(after) {
    const number = ++asked;
    try {
      const answer = await ask('retained', { query: { filter: filter.value.trim() || '#', limit: PAGE, after } });
      if (number !== asked) return;
      if (!after) { rows.replaceChildren(); count = 0; }
      count += answer.items.length;
      cursor = answer.next;
      rows.append(...answer.items.map(row));
      show(box, count ? h('table', { class: 'fold' }, h('thead', {}, h('tr', {}, h('th', {}, 'Topic'), h('th', {}, 'Message'), h('th', { class: 'num' }, 'Size'))), rows) : empty('Nothing retained', filter.value ? 'No topic matches this filter.' : 'No client has sent a message with RETAIN yet.', 'retained'));
      show(note, h('span', {}, `${whole(count)} shown`), cursor && more);
    } catch (error) {
      show(box, empty('That is no topic filter', error.message, 'retained'));
      show(note);
    }
  }

  function row(message) {
    const open = () => detail(message.topic);
    return h('tr', { class: 'goes', onclick: open }, h('td', {}, h('button', { class: 'link mono clip', onclick: (event) => { event.stopPropagation(); open(); }, title: message.topic }, message.topic)),
      h('td', { class: 'wide' }, h('span', { class: 'clip mono soft' }, message.encoding === 'utf8' ? message.payload : 'binary')), h('td', { class: 'num side-cell' }, bytes(message.bytes)));
  }

  async function detail(topic) {
    try {
      const message = await ask('retained/message', { query: { topic } });
      const fact = (name, value) => value !== null && value !== '' && [h('dt', {}, name), h('dd', {}, value)];
      const remove = h('button', { class: 'act danger', onclick: async () => {
        if (!await confirmed('Delete this retained message?', `${topic} has no retained message any more, on every node. Subscribers are not told.`, 'Delete')) return;
        try {
          await ask('retained/message', { method: 'DELETE', query: { topic } });
          toast('Deleted');
          show(side, hint());
          load(null);
        } catch (error) {
          toast(error.message, true);
        }
      } }, 'Delete');
      show(side, h('section', { class: 'card' }, h('div', { class: 'title' }, h('h2', { class: 'mono clip grow', title: topic }, topic), pill('info', `QoS ${message.qos}`)), h('div', { class: 'body stack' },
        h('pre', {}, message.encoding === 'utf8' ? pretty(message.payload) : message.payload),
        h('dl', { class: 'facts' }, fact('Size', bytes(message.bytes)), fact('Publisher', message.publisher), fact('Expires', message.expires_in_s === null ? 'never' : `in ${span(message.expires_in_s)}`), fact('Shard', String(message.shard))),
        mayWrite() && h('div', { class: 'row' }, remove))));
      if (matchMedia('(max-width: 1080px)').matches) side.scrollIntoView({ behavior: 'smooth', block: 'nearest' });
    } catch (error) {
      toast(error.message, true);
    }
  }
  load(null);
  return () => clearTimeout(waiting);
}

function hint() {
  return h('section', { class: 'card' }, empty('Choose a message', 'Its whole payload is shown here.', 'retained'));
}

function pretty(text) {
  if (!/^\s*[[{]/.test(text)) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

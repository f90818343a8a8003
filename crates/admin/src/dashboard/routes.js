// Topics: where a message would go, who subscribes to what, and which filters are routed where.

import { ask } from './api.js';
import { empty, h, icon, pill, show, toast, whole } from './dom.js';
import { nodeColour, nodeName } from './live.js';

const PAGE = 50;

export function routes(page) {
  const [subscriptions, table] = [subscriptionList(), routeTable()];
  const body = h('div', {}, subscriptions);
  const tab = (label, content) => h('button', { type: 'button', onclick: (event) => {
    for (const button of event.currentTarget.parentElement.children) button.classList.remove('here');
    event.currentTarget.classList.add('here');
    show(body, content);
  } }, label);
  const tabs = h('div', { class: 'tabs' }, tab('Subscriptions', subscriptions), tab('Routes', table));
  tabs.firstChild.classList.add('here');
  page.append(h('div', { class: 'head' }, h('div', { class: 'grow' }, h('h1', {}, 'Topics'), h('p', { class: 'sub' }, 'Where a message would go, and who wants it.'))), explain(), tabs, body);
}

function explain() {
  const topic = h('input', { type: 'text', placeholder: 'fleet/7/position', 'aria-label': 'Topic', spellcheck: 'false', autocapitalize: 'off' });
  const qos = h('select', { 'aria-label': 'QoS' }, [0, 1, 2].map((level) => h('option', { value: String(level) }, `QoS ${level}`)));
  qos.value = '1';
  const result = h('div', { class: 'body', hidden: true });
  const run = async (event) => {
    event.preventDefault();
    if (!topic.value) return;
    try {
      const answer = await ask('explain', { query: { topic: topic.value, qos: qos.value } });
      result.hidden = false;
      show(result, answer.problem ? h('p', { style: { color: 'var(--bad)' } }, answer.problem) : steps(answer));
    } catch (error) {
      toast(error.message, true);
    }
  };
  return h('section', { class: 'card' }, h('div', { class: 'title' }, h('h2', {}, 'Where would a message go?')),
    h('form', { class: 'body form', onsubmit: run }, h('label', { class: 'field w4' }, 'Topic', topic), h('label', { class: 'field w1' }, 'Quality of service', qos), h('button', { class: 'act main-act w1' }, 'Explain')), result);
}

function steps(answer) {
  const clientChips = (list) => h('div', { class: 'chips' }, list.map((client) => h('a', { class: 'pill mono', href: `#/clients/${encodeURIComponent(client)}` }, client)));
  const step = (mark, on, title, ...more) => h('div', { class: `step${on ? '' : ' off'}` }, h('div', { class: 'mark' }, mark), h('div', { class: 'grow' }, h('div', {}, title), more));
  const found = [step(String(answer.here.count), answer.here.count > 0, answer.here.count ? `To ${whole(answer.here.count)} connection${answer.here.count === 1 ? '' : 's'} of ${answer.node}, at once` : `No connection of ${answer.node} wants it directly`,
    answer.here.count > 0 && clientChips(answer.here.items.map((one) => one.client_id)))];
  for (const node of answer.nodes) {
    found.push(step('→', !node.skipped, node.skipped ? `Not to ${node.name}: what is above QoS 0 reaches its sessions through their shards` : `To ${node.name}, which has connected subscribers${node.qos_0_only ? ' for QoS 0' : ''}`));
  }
  for (const shard of answer.shards) {
    const who = shard.sessions === null ? 'sessions of a shard that did not answer' : `${whole(shard.sessions)} session${shard.sessions === 1 ? '' : 's'}`;
    found.push(step('#', !shard.skipped, shard.skipped ? `Not into shard ${shard.shard}: QoS 0 is not kept` : `Into shard ${shard.shard}, led by ${shard.leader ? nodeName(shard.leader) : 'nobody now'}, for ${who}: committed by a majority first`, !shard.skipped && shard.items.length > 0 && clientChips(shard.items)));
  }
  for (const group of answer.groups) {
    found.push(step('1', true, ['To one of ', whole(group.members.length), ' in ', h('code', {}, group.filter), `, chosen by ${group.strategy}`], clientChips(group.members.map((member) => member.client_id))));
  }
  if (!answer.matched) found.splice(0, found.length, step('0', false, 'Nobody subscribes to it. The publisher is told so (reason code 0x10), unless it is retained.'));
  return h('div', { class: 'steps' }, found, h('div', { class: 'small faint', style: { paddingTop: '8px' } }, `Retained messages of this topic are in shard ${answer.retained_shard}.`));
}

/// A searchable list that grows page by page.
function pages({ path, placeholder, field, heads, row, nothing }) {
  const search = h('input', { type: 'search', placeholder, 'aria-label': placeholder, spellcheck: 'false', oninput: () => { clearTimeout(waiting); waiting = setTimeout(() => load(null), 250); } });
  const [rows, box, note] = [h('tbody'), h('div', { class: 'scroll' }), h('div', { class: 'foot-note' })];
  let [cursor, count, waiting, asked] = [null, 0, null, 0];
  const more = h('button', { class: 'act', onclick: () => load(cursor) }, 'Show more');
  async function load(after) {
    const number = ++asked;
    try {
      const answer = await ask(path, { query: { [field]: search.value.trim(), limit: PAGE, after } });
      if (number !== asked) return;
      if (!after) { rows.replaceChildren(); count = 0; }
      count += answer.items.length;
      cursor = answer.next;
      rows.append(...answer.items.map(row));
      show(box, count ? h('table', { class: 'fold' }, h('thead', {}, h('tr', {}, heads.map((text) => h('th', {}, text)))), rows) : empty(nothing, search.value ? 'None is like that.' : null, 'routes'));
      show(note, h('span', {}, [`${whole(count)} shown. `, ...(answer.notes ?? [])].join(' ')), cursor && more);
    } catch (error) {
      toast(error.message, true);
    }
  }
  load(null);
  return h('section', { class: 'card' }, h('div', { class: 'title', style: { paddingBottom: '12px' } }, h('div', { class: 'search grow', style: { maxWidth: '420px' } }, icon('search'), search)), box, note);
}

function subscriptionList() {
  return pages({
    path: 'subscriptions', field: 'filter', placeholder: 'Part of a topic filter', heads: ['Filter', 'Client', 'QoS', 'Kept'], nothing: 'No subscriptions',
    row: (one) => h('tr', {}, h('td', {}, h('span', { class: 'mono clip', title: one.filter }, one.filter)), h('td', { class: 'wide' }, h('a', { class: 'mono clip', href: `#/clients/${encodeURIComponent(one.client_id)}` }, one.client_id)),
      h('td', { class: 'side-cell' }, `QoS ${one.qos}`), h('td', { class: 'soft wide' }, one.kept ? 'in the shard' : `while connected to ${one.node ?? 'a node'}`)),
  });
}

function routeTable() {
  return pages({
    path: 'routes', field: 'filter', placeholder: 'Part of a topic filter', heads: ['Filter', 'Nodes', 'Shards', 'Here'], nothing: 'No routes',
    row: (one) => h('tr', {}, h('td', {}, h('span', { class: 'mono clip', title: one.filter }, one.filter)),
      h('td', { class: 'wide' }, h('span', { class: 'row', style: { gap: '6px' } }, one.nodes.map((node) => h('span', { class: 'pill' }, h('span', { class: 'dot', style: { background: nodeColour(node.node_id) } }), node.name, node.qos_0_only && ' (QoS 0)')), !one.nodes.length && h('span', { class: 'faint' }, '–'))),
      h('td', { class: 'soft num', 'data-label': 'shards', style: { textAlign: 'left' } }, one.shards.length ? one.shards.join(', ') : '–'),
      h('td', { class: 'side-cell soft' }, one.members ? pill('info', `${one.members} members`) : one.connections_here ? `${whole(one.connections_here)} connected` : '–')),
  });
}

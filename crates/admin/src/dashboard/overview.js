// The first page: is the cluster well, who is in it, and how much goes through it.

import { bytes, h, icon, pill, short, show, span, whole } from './dom.js';
import { nodeColour, nodeName, onLive } from './live.js';
import { plot, spark } from './plot.js';

export function overview(page) {
  const tiles = [
    tile('Connections', 'var(--third)', (now) => short(now.connections), (seen) => `${whole(seen.totals.sessions)} sessions known`, 'connections'),
    tile('Messages in', 'var(--in)', (now) => rate(now.received), (seen, now) => `${now.bytes_received === null ? '–' : bytes(now.bytes_received)}/s from clients`, 'received'),
    tile('Messages out', 'var(--out)', (now) => rate(now.sent), (seen, now) => `${now.bytes_sent === null ? '–' : bytes(now.bytes_sent)}/s to clients`, 'sent'),
    tile('Waiting', 'var(--warn)', (now) => short(now.queued), (seen) => `${bytes(seen.totals.queued_bytes)} in queues`, 'queued'),
  ];
  const messages = plot({ unit: '/s' });
  const traffic = plot({ unit: '/s', show: bytes, base: 2 });
  const [head, banner, alarms, nodes, shards, facts] = [h('div', { class: 'head' }), h('div'), h('div'), h('div', { class: 'nodes' }), h('div'), h('dl', { class: 'facts' })];
  // What asks for attention comes first; that there is nothing comes last.
  const [urgent, quiet] = [h('div', { hidden: true }), h('div')];
  const alarmCard = card('Alarms', null, h('div', { style: { paddingTop: '6px' } }, alarms));
  page.append(head, banner, urgent, h('div', { class: 'tiles' }, tiles.map((one) => one.element)),
    h('div', { class: 'half' },
      card('Messages per second', legend([['in', 'var(--in)'], ['out', 'var(--out)']]), h('div', { class: 'body' }, messages.element)),
      card('Bytes per second', legend([['in', 'var(--in)'], ['out', 'var(--out)']]), h('div', { class: 'body' }, traffic.element))),
    h('div', { class: 'two' },
      h('div', { class: 'stack' }, card('Nodes', null, h('div', { style: { paddingTop: '6px' } }, nodes)), quiet),
      h('div', { class: 'stack' }, card('Who leads which shard', null, h('div', { class: 'body' }, shards)), card('Held', null, h('div', { class: 'body' }, facts)))));

  return onLive(({ overview: seen, error, history }) => {
    show(banner, error && h('div', { class: 'banner', role: 'alert' }, icon('warn'), `No answer from the node: ${error.message}`));
    banner.hidden = !error;
    if (!seen) return;
    const now = history.at(-1);
    header(head, seen);
    for (const one of tiles) one.set(seen, now, history);
    const times = history.map((point) => point.time);
    const values = (name) => history.map((point) => point[name]);
    messages.set(times, [{ name: 'in', colour: 'var(--in)', values: values('received') }, { name: 'out', colour: 'var(--out)', values: values('sent') }]);
    traffic.set(times, [{ name: 'in', colour: 'var(--in)', values: values('bytes_received') }, { name: 'out', colour: 'var(--out)', values: values('bytes_sent') }]);
    show(nodes, seen.cluster.members.map((member) => nodeRow(member, seen, now)));
    show(shards, shardMap(seen));
    show(alarms, alarmList(seen.alarms));
    const place = seen.alarms.length ? urgent : quiet;
    if (alarmCard.parentElement !== place) place.append(alarmCard);
    urgent.hidden = place !== urgent;
    held(facts, seen);
  });
}

function rate(value) {
  return value === null ? '–' : [short(Math.round(value * 10) / 10), h('small', {}, '/s')];
}

function card(title, extra, ...content) {
  return h('section', { class: 'card' }, h('div', { class: 'title' }, h('h2', {}, title), extra), content);
}

function legend(lines) {
  return h('div', { class: 'legend' }, lines.map(([name, colour]) => h('span', {}, h('i', { style: { background: colour } }), name)));
}

function tile(label, colour, value, note, name) {
  const [figure, below, line] = [h('div', { class: 'value' }), h('div', { class: 'note clip' }), spark(colour)];
  return {
    element: h('section', { class: 'card tile' }, h('div', { class: 'label' }, label), figure, below, line.element),
    set(seen, now, history) {
      show(figure, value(now));
      show(below, note(seen, now));
      line.set(history.map((point) => point[name]));
    },
  };
}

function header(head, seen) {
  const { cluster, node } = seen;
  const up = cluster.members.filter((member) => member.state === 'up').length;
  const worst = seen.alarms.some((alarm) => alarm.severity === 'critical') ? ['bad', 'Needs attention']
    : seen.alarms.length ? ['warn', 'Worth a look'] : ['good', 'All is well'];
  show(head, h('div', { class: 'grow' }, h('h1', {}, 'Overview'),
    h('p', { class: 'sub' }, `${up} of ${cluster.members.length} node${cluster.members.length === 1 ? '' : 's'} up · ${cluster.shards} shards · as ${node.name} sees it, up for ${span(node.uptime_s)}`)),
    h('div', { class: 'row' }, pill(worst[0], worst[1])));
}

function nodeRow(member, seen, now) {
  const numbers = seen.nodes.find((node) => node.node_id === member.node_id);
  const rates = now?.nodes[member.node_id];
  const state = { up: 'good', leaving: 'warn', down: 'bad' }[member.state];
  const role = member.leader ? 'leads the cluster' : member.voter ? 'votes' : 'follows';
  const share = (100 * member.shards_led) / Math.max(seen.cluster.shards, 1);
  const figure = (value, label) => h('div', { class: 'fig' }, h('span', {}, value), h('small', {}, label));
  const colour = nodeColour(member.node_id);
  return h('div', { class: 'node' },
    h('div', { class: 'name row', style: { flexWrap: 'nowrap' } }, h('span', { class: 'dot', style: { background: colour } }),
      h('div', { class: 'grow' }, h('div', { class: 'row', style: { gap: '7px' } }, h('strong', { class: 'clip' }, member.name), member.state !== 'up' && pill(state, member.state)),
        h('div', { class: 'small faint clip', title: member.address }, member.zone ? `${role} · ${member.zone}` : role))),
    h('div', { class: 'load' }, h('div', { class: 'bar', title: `${member.shards_led} led, ${member.shards_held} held` }, h('i', { style: { width: `${share}%`, background: colour } })),
      h('div', { class: 'small faint', style: { marginTop: '4px' } }, `leads ${member.shards_led} of ${seen.cluster.shards}, holds ${member.shards_held}`)),
    figure(numbers?.answered ? short(numbers.connections) : '–', 'connections'),
    figure(rates ? short(Math.round(rates.received * 10) / 10) : '–', 'in/s'),
    figure(rates ? short(Math.round(rates.sent * 10) / 10) : '–', 'out/s'));
}

function shardMap(seen) {
  const tiles = seen.shards.map((shard) => {
    const leader = shard.leader ? nodeName(shard.leader) : 'nobody';
    const title = `Shard ${shard.shard}: led by ${leader}, on ${shard.replicas.map(nodeName).join(', ')}${shard.complete ? '' : '; not all of them have joined yet'}`;
    return h('div', { class: `shard${shard.leader ? '' : ' none'}${shard.complete ? '' : ' thin'}`, title, style: shard.leader ? { background: nodeColour(shard.leader) } : {} }, String(shard.shard));
  });
  return [h('div', { class: 'shards' }, tiles),
    h('div', { class: 'legend', style: { marginTop: '12px' } }, seen.cluster.members.map((member) => h('span', {}, h('i', { style: { background: nodeColour(member.node_id) } }), member.name)))];
}

function alarmList(alarms) {
  if (!alarms.length) {
    return h('div', { class: 'alarm fine' }, icon('check'), h('div', {}, h('strong', {}, 'Nothing to report'), h('div', { class: 'small soft' }, 'Every member is up, every shard has a leader and all its replicas.')));
  }
  return alarms.map((alarm) => h('div', { class: `alarm ${alarm.severity}` }, icon('warn'),
    h('div', { class: 'grow' }, h('strong', {}, alarm.title), h('div', { class: 'small soft' }, alarm.text))));
}

function held(facts, seen) {
  const { totals, covers } = seen;
  const fact = (name, value) => [h('dt', {}, name), h('dd', { class: 'num' }, value)];
  show(facts, fact('Sessions', `${whole(totals.sessions)}, ${whole(totals.connected)} connected`), fact('Kept subscriptions', whole(totals.subscriptions)),
    fact('Waiting messages', `${whole(totals.queued_messages)}, ${bytes(totals.queued_bytes)}`), fact('Retained messages', `${whole(totals.retained_messages)}, ${bytes(totals.retained_bytes)}`),
    covers.shards < covers.of && fact('Counted', `the ${covers.shards} of ${covers.of} shards that answered`));
}

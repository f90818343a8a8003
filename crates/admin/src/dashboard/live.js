// What every page looks at: the overview, asked for every two seconds while the tab is seen, and the rates that follow from it.

import { ask } from './api.js';

const EVERY_MS = 2000;
const KEPT = 151;

export const live = { overview: null, error: null, history: [], access: null };
const listeners = new Set();
let timer = null;

/// Calls back after each answer, until the function that this returns is called.
export function onLive(callback) {
  listeners.add(callback);
  if (live.overview || live.error) callback(live);
  return () => listeners.delete(callback);
}

export function start() {
  stop();
  document.addEventListener('visibilitychange', seen);
  tick();
}

export function stop() {
  clearTimeout(timer);
  timer = null;
  document.removeEventListener('visibilitychange', seen);
}

function seen() {
  clearTimeout(timer);
  if (!document.hidden) tick();
}

async function tick() {
  const began = performance.now();
  try {
    live.overview = await ask('overview');
    live.error = null;
    remember(live.overview);
  } catch (error) {
    live.error = error;
  }
  for (const listener of [...listeners]) listener(live);
  if (live.error?.status === 401) return;
  timer = setTimeout(tick, Math.max(EVERY_MS - (performance.now() - began), 250));
}

/// A rate needs two looks at the same process: a node that was started anew begins again.
function remember(overview) {
  const now = Date.now();
  const before = live.history.at(-1);
  const seconds = before ? (now - before.time) / 1000 : 0;
  const nodes = {};
  for (const node of overview.nodes) {
    const earlier = before?.counters[node.node_id];
    if (!node.answered || !earlier || seconds <= 0 || node.uptime_s < earlier.uptime_s) continue;
    const rate = (name) => Math.max(node[name] - earlier[name], 0) / seconds;
    nodes[node.node_id] = {
      received: rate('messages_received'), sent: rate('messages_sent'), dropped: rate('messages_dropped'),
      bytes_received: rate('bytes_received'), bytes_sent: rate('bytes_sent'),
    };
  }
  const known = Object.values(nodes);
  const sum = (name) => (known.length ? known.reduce((total, node) => total + node[name], 0) : null);
  live.history.push({
    time: now,
    counters: Object.fromEntries(overview.nodes.filter((node) => node.answered).map((node) => [node.node_id, node])),
    nodes,
    received: sum('received'), sent: sum('sent'), dropped: sum('dropped'),
    bytes_received: sum('bytes_received'), bytes_sent: sum('bytes_sent'),
    connections: overview.nodes.reduce((total, node) => total + (node.answered ? node.connections : 0), 0),
    sessions: overview.totals.sessions, queued: overview.totals.queued_messages,
  });
  // Of the older ones the sums are enough.
  if (live.history.length > 1) live.history.at(-2).counters = live.history.length > 2 ? {} : live.history.at(-2).counters;
  live.history.splice(0, Math.max(live.history.length - KEPT, 0));
}

/// The colour of a node is its place among the members.
export function nodeColour(nodeId) {
  const place = (live.overview?.cluster.members ?? []).findIndex((member) => member.node_id === nodeId);
  return `var(--node-${place < 0 ? 6 : place % 6})`;
}

export function nodeName(nodeId) {
  return live.overview?.cluster.members.find((member) => member.node_id === nodeId)?.name ?? nodeId;
}

export function mayWrite() {
  return live.access?.role === 'write';
}

// The frame around the pages: navigation, the token, light and dark.

import { Refused, ask, setToken, token } from './api.js';
import { h, icon, show } from './dom.js';
import { live, onLive, start, stop } from './live.js';
import { clients } from './clients.js';
import { tryout } from './console.js';
import { node } from './node.js';
import { overview } from './overview.js';
import { retained } from './retained.js';
import { routes } from './routes.js';

const PAGES = [
  ['overview', 'Overview', overview],
  ['clients', 'Clients', clients],
  ['routes', 'Topics', routes],
  ['retained', 'Retained', retained],
  ['console', 'Try it', tryout],
  ['node', 'Node', node],
];
const THEME = 'flotilla.theme';
const app = document.getElementById('app');
let leave = null;

function theme(choice) {
  if (choice !== undefined) {
    if (choice === 'auto') localStorage.removeItem(THEME);
    else localStorage.setItem(THEME, choice);
  }
  const wanted = localStorage.getItem(THEME) ?? 'auto';
  const dark = wanted === 'dark' || (wanted === 'auto' && matchMedia('(prefers-color-scheme: dark)').matches);
  document.documentElement.dataset.theme = dark ? 'dark' : 'light';
  for (const button of document.querySelectorAll('.switch button')) button.classList.toggle('here', button.dataset.theme === wanted);
}

function themeSwitch() {
  const one = (name, label, sign) => h('button', { type: 'button', title: label, 'aria-label': label, 'data-theme': name, onclick: () => theme(name) }, icon(sign));
  return h('div', { class: 'switch' }, one('light', 'Light', 'sun'), one('auto', 'As the system', 'auto'), one('dark', 'Dark', 'moon'));
}

function brand() {
  return h('div', { class: 'brand' }, h('img', { src: '/dashboard/icon.svg', alt: '' }), 'Flotilla');
}

function gate(reason) {
  stop();
  leave?.();
  leave = null;
  const field = h('input', { type: 'password', autocomplete: 'off', spellcheck: 'false', placeholder: 'Token', 'aria-label': 'Token' });
  const problem = h('p', { class: 'small', role: 'alert', style: { color: 'var(--bad)' } }, reason ?? '');
  const enter = async (event) => {
    event.preventDefault();
    setToken(field.value.trim());
    await open();
  };
  show(app, h('div', { class: 'gate' }, h('form', { class: 'dialog', onsubmit: enter }, brand(),
    h('p', { class: 'soft' }, 'This node asks for a token of its configuration: ', h('code', {}, 'admin.read_tokens'), ' to look, ', h('code', {}, 'admin.write_tokens'), ' to change things. It is kept in this tab only.'),
    field, problem, h('button', { class: 'act main-act' }, 'Open the dashboard'))));
  theme();
  field.focus();
}

/// Asks who we are; then the pages, or the question for a token.
async function open() {
  try {
    live.access = await ask('access');
  } catch (error) {
    if (!(error instanceof Refused)) return gate('The node does not answer. Try again in a moment.');
    if (error.status === 401) return gate(token() ? 'This token is not known to the node.' : '');
    return gate(error.message);
  }
  frame();
  start();
  return route();
}

function frame() {
  const links = PAGES.map(([name, label]) => h('a', { href: `#/${name}`, 'data-page': name }, icon(name), h('span', {}, label)));
  const who = h('div', { class: 'who small' });
  const forget = token() && h('button', { class: 'link small', type: 'button', onclick: () => { setToken(''); gate(); } }, 'Forget the token');
  show(app, h('div', { class: 'frame' },
    h('aside', { class: 'side' }, brand(), h('nav', { class: 'nav', 'aria-label': 'Pages' }, links), h('div', { class: 'foot' }, who, h('div', { class: 'row' }, themeSwitch(), forget))),
    h('main', { class: 'main' }, h('div', { class: 'page', id: 'page' }))));
  theme();
  onLive(({ overview: seen, error }) => {
    if (error?.status === 401) return gate('The token is not accepted any more.');
    if (!seen) return undefined;
    show(who, h('strong', { class: 'clip' }, seen.node.name), h('span', { class: 'faint' }, `Flotilla ${seen.node.version}`), h('span', { class: 'faint' }, live.access.role === 'write' ? 'may change things' : 'may only look'));
    const count = seen.alarms.length;
    links[0].querySelector('.count')?.remove();
    if (count) links[0].append(h('span', { class: 'count', title: `${count} alarms` }, String(count)));
    return undefined;
  });
}

function route() {
  const target = document.getElementById('page');
  if (!target) return;
  const [name, ...rest] = location.hash.replace(/^#\/?/, '').split('/');
  const [page, label, build] = PAGES.find(([known]) => known === name) ?? PAGES[0];
  for (const link of document.querySelectorAll('.nav a')) {
    link.classList.toggle('here', link.dataset.page === page);
    if (link.dataset.page === page) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  document.title = `${label} · Flotilla`;
  leave?.();
  leave = null;
  target.replaceChildren();
  leave = build(target, rest.map(decodeURIComponent)) ?? null;
  window.scrollTo(0, 0);
}

window.addEventListener('hashchange', route);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => theme());
theme();
open();

// Building elements and writing numbers. Text is only ever set as text: nothing a client sends can become markup.

const SVG = 'http://www.w3.org/2000/svg';

export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (name === 'style') Object.assign(element.style, value);
    else if (name === 'value') element.value = value;
    else if (name === 'checked') element.checked = value;
    else element.setAttribute(name, value === true ? '' : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/// Puts new content in the place of the old one.
export function show(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

const ICONS = {
  overview: 'M3 13h6V4H3zM3 20h6v-4H3zM12 20h9v-9h-9zM12 4v4h9V4z',
  clients: 'M9 3h6a2 2 0 0 1 2 2v14a2 2 0 0 1-2 2H9a2 2 0 0 1-2-2V5a2 2 0 0 1 2-2zM11 17.5h2',
  routes: 'M6 4v9a4 4 0 0 0 4 4h8M14 13l4 4-4 4M6 8h12M15 5l3 3-3 3',
  retained: 'M4 7l2-3h12l2 3v12a1 1 0 0 1-1 1H5a1 1 0 0 1-1-1zM4 8h16M10 12h4',
  console: 'M4 5h16v14H4zM8 10l3 2.5L8 15M13 15h4',
  node: 'M4 5h16v6H4zM4 13h16v6H4zM7.5 8h.01M7.5 16h.01M11 8h5M11 16h5',
  search: 'M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13zM15.5 15.5L20 20',
  sun: 'M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2M5.3 5.3l1.4 1.4M17.3 17.3l1.4 1.4M5.3 18.7l1.4-1.4M17.3 6.7l1.4-1.4',
  moon: 'M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z',
  auto: 'M4 5h16v11H4zM9 20h6M12 16v4',
  warn: 'M12 4l9 16H3zM12 10v4.5M12 17.2v.01',
  check: 'M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM8 12.3l2.8 2.7L16 9.5',
  inbox: 'M4 13l3-8h10l3 8v6H4zM4 13h5l1 2.5h4l1-2.5h5',
  back: 'M15 5l-7 7 7 7',
};

export function icon(name) {
  return s('svg', { viewBox: '0 0 24 24', fill: 'none', stroke: 'currentColor', 'stroke-width': 1.7, 'stroke-linecap': 'round', 'stroke-linejoin': 'round', 'aria-hidden': 'true' }, s('path', { d: ICONS[name] }));
}

/// 1234567 as 1.23 M.
export function short(number) {
  if (number === null || number === undefined || Number.isNaN(number)) return '–';
  const size = Math.abs(number);
  if (size < 1000) return Number.isInteger(number) ? String(number) : number.toFixed(size < 10 ? 1 : 0);
  for (const [limit, sign] of [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']]) {
    if (size >= limit) {
      const value = number / limit;
      return `${Number(value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0))} ${sign}`;
    }
  }
  return String(number);
}

export function whole(number) {
  return number === null || number === undefined ? '–' : number.toLocaleString('en-US').replaceAll(',', '\u202f');
}

export function bytes(number) {
  if (number === null || number === undefined) return '–';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) { number /= 1024; unit += 1; }
  return `${unit === 0 || number >= 100 ? Math.round(number) : Number(number.toFixed(1))} ${units[unit]}`;
}

export function span(seconds) {
  if (seconds === null || seconds === undefined) return '–';
  const parts = [[86400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']];
  const first = parts.findIndex(([size]) => seconds >= size);
  if (first < 0) return '0 s';
  const count = Math.floor(seconds / parts[first][0]);
  const rest = parts[first + 1] && first < 2 ? Math.floor((seconds % parts[first][0]) / parts[first + 1][0]) : 0;
  return rest ? `${count} ${parts[first][1]} ${rest} ${parts[first + 1][1]}` : `${count} ${parts[first][1]}`;
}

export function pill(kind, text) {
  return h('span', { class: `pill ${kind}` }, text);
}

export function empty(title, text, name = 'inbox') {
  return h('div', { class: 'empty' }, icon(name), h('strong', {}, title), text && h('span', {}, text));
}

let toasts;
export function toast(text, bad = false) {
  toasts ??= document.body.appendChild(h('div', { class: 'toasts', role: 'status' }));
  const one = h('div', { class: bad ? 'toast bad' : 'toast' }, text);
  toasts.append(one);
  setTimeout(() => one.remove(), bad ? 9000 : 4500);
}

/// Asks before something that cannot be undone.
export function confirmed(title, text, verb) {
  return new Promise((resolve) => {
    const answer = (value) => { veil.remove(); resolve(value); };
    const yes = h('button', { class: 'act danger', onclick: () => answer(true) }, verb);
    const veil = h('div', { class: 'veil', onkeydown: (event) => event.key === 'Escape' && answer(false) },
      h('div', { class: 'dialog', role: 'dialog', 'aria-modal': 'true' }, h('h2', {}, title), h('p', { class: 'soft' }, text),
        h('div', { class: 'row' }, h('span', { class: 'grow' }), h('button', { class: 'act', onclick: () => answer(false) }, 'Cancel'), yes)));
    document.body.append(veil);
    yes.focus();
  });
}

// Lines over time, drawn as SVG: a large plot with a scale and a cursor, and a small one for tiles.

import { h, s, short } from './dom.js';

const WIDTH = 720;
const LEFT = 46;
const BOTTOM = 22;

/// A step that people like to read, so that about `lines` of them reach the top: 1, 2 or 5 times a power of ten, or of bytes
/// a power of two.
function stepFor(top, lines, base) {
  const rough = Math.max(top, 1) / lines;
  if (base === 2) return 2 ** Math.max(Math.ceil(Math.log2(rough)), 0);
  const power = 10 ** Math.floor(Math.log10(rough));
  return Math.max([1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough), 1);
}

function path(points) {
  return points.map(([x, y], index) => `${index ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join('');
}

/// `lines`: name, colour and one value for each time; a gap is null. Times are in milliseconds.
export function plot({ unit = '', show = short, base = 10 }) {
  let data = { times: [], lines: [] };
  let at = null;
  const svg = s('svg', { role: 'img' });
  const tip = h('div', { class: 'tip', hidden: true });
  const box = h('div', { class: 'plot' }, svg, tip);

  function draw() {
    const width = box.clientWidth || WIDTH;
    const height = svg.clientHeight || 208;
    svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    const { times, lines } = data;
    const all = lines.flatMap((line) => line.values).filter((value) => value !== null);
    const most = Math.max(...all, 0);
    const step = stepFor(most, 4, base);
    const top = Math.max(step, Math.ceil(most / step) * step);
    const right = width - 4;
    const x = (index) => LEFT + ((right - LEFT) * index) / Math.max(times.length - 1, 1);
    const y = (value) => 8 + (height - BOTTOM - 8) * (1 - value / top);
    const parts = [];
    for (let value = 0; value <= top + step / 2; value += step) {
      parts.push(s('line', { class: 'grid', x1: LEFT, x2: right, y1: y(value), y2: y(value) }));
      parts.push(s('text', { x: LEFT - 8, y: y(value) + 4, 'text-anchor': 'end' }, show(value)));
    }
    const marks = times.length < 9 ? 2 : width < 480 ? 3 : 5;
    for (let mark = 0; mark < marks && times.length > 1; mark += 1) {
      const index = Math.round(((times.length - 1) * mark) / (marks - 1));
      const anchor = mark === 0 ? 'start' : mark === marks - 1 ? 'end' : 'middle';
      parts.push(s('text', { x: x(index), y: height - 4, 'text-anchor': anchor }, clock(times[index])));
    }
    for (const line of lines) {
      for (const run of runs(line.values)) {
        const points = run.map(([index, value]) => [x(index), y(value)]);
        const area = `${path(points)}L${points.at(-1)[0].toFixed(1)} ${y(0)}L${points[0][0].toFixed(1)} ${y(0)}Z`;
        parts.push(s('path', { d: area, fill: line.colour, opacity: 0.09 }));
        parts.push(s('path', { d: path(points), fill: 'none', stroke: line.colour, 'stroke-width': 2, 'stroke-linejoin': 'round', 'stroke-linecap': 'round' }));
      }
    }
    if (at !== null && at < times.length) {
      parts.push(s('line', { class: 'cursor', x1: x(at), x2: x(at), y1: 8, y2: height - BOTTOM }));
      for (const line of lines) {
        if (line.values[at] !== null && line.values[at] !== undefined) parts.push(s('circle', { cx: x(at), cy: y(line.values[at]), r: 3.5, fill: line.colour }));
      }
      tip.hidden = false;
      tip.style.left = `${Math.min(Math.max(x(at), 90), width - 90)}px`;
      tip.textContent = `${clock(times[at])}   ${lines.map((line) => `${line.name} ${show(line.values[at])}${unit}`).join('   ')}`;
    } else {
      tip.hidden = true;
    }
    svg.replaceChildren(...parts);
  }

  svg.addEventListener('pointermove', (event) => {
    const place = svg.getBoundingClientRect();
    const share = (event.clientX - place.left - LEFT) / Math.max(place.width - LEFT - 4, 1);
    at = Math.round(Math.min(Math.max(share, 0), 1) * Math.max(data.times.length - 1, 0));
    draw();
  });
  svg.addEventListener('pointerleave', () => { at = null; draw(); });
  new ResizeObserver(draw).observe(box);
  return { element: box, set(times, lines) { data = { times, lines }; draw(); } };
}

/// Neighbouring values without gaps, each as [index, value].
function runs(values) {
  const found = [];
  let run = [];
  values.forEach((value, index) => {
    if (value === null || value === undefined) {
      if (run.length) found.push(run);
      run = [];
    } else {
      run.push([index, value]);
    }
  });
  if (run.length) found.push(run);
  return found;
}

function clock(time) {
  return new Date(time).toLocaleTimeString('en-GB');
}

/// A line without a scale, for a tile.
export function spark(colour) {
  const svg = s('svg', { class: 'spark', viewBox: '0 0 100 40', preserveAspectRatio: 'none', 'aria-hidden': 'true' });
  return {
    element: svg,
    set(values) {
      const known = values.filter((value) => value !== null && value !== undefined);
      const top = Math.max(...known, 0) * 1.15 || 1;
      const points = known.map((value, index) => [(100 * index) / Math.max(known.length - 1, 1), 38 - (34 * value) / top]);
      if (points.length < 2) return svg.replaceChildren();
      return svg.replaceChildren(
        s('path', { d: `${path(points)}L100 40L0 40Z`, fill: colour, opacity: 0.12 }),
        s('path', { d: path(points), fill: 'none', stroke: colour, 'stroke-width': 1.8, 'vector-effect': 'non-scaling-stroke', 'stroke-linejoin': 'round' }));
    },
  };
}

// Questions to the node that served this page. The token lives in this tab's session storage and goes out in one header.

const KEY = 'flotilla.token';

export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export function token() {
  return sessionStorage.getItem(KEY) ?? '';
}

export function setToken(text) {
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
}

/// Tells each event of a stream, until it ends or `signal` does.
export async function follow(path, { query = {}, signal }, tell) {
  const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
  const answer = await fetch(`/api/v1/${path}?${new URLSearchParams(query)}`, { headers, signal, cache: 'no-store', credentials: 'omit', referrerPolicy: 'no-referrer' });
  if (!answer.ok) throw new Refused(answer.status, (await answer.text()).trim() || `status ${answer.status}`);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split('\n');
    rest = lines.pop();
    for (const line of lines) if (line.startsWith('data: ')) tell(JSON.parse(line.slice(6)));
  }
}

export async function ask(path, { method = 'GET', query = {}, body, signal } = {}) {
  const url = new URL(`/api/v1/${path}`, location.origin);
  for (const [name, value] of Object.entries(query)) {
    if (value !== '' && value !== null && value !== undefined) url.searchParams.set(name, value);
  }
  const headers = {};
  if (token()) headers.Authorization = `Bearer ${token()}`;
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  const answer = await fetch(url, {
    method, headers, signal, cache: 'no-store', credentials: 'omit', referrerPolicy: 'no-referrer',
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const text = await answer.text();
  if (!answer.ok) throw new Refused(answer.status, text.trim() || `status ${answer.status}`);
  return text && (answer.headers.get('content-type') ?? '').includes('json') ? JSON.parse(text) : null;
}

// Elements and words. Every text of the network becomes a text node or an attribute here, never markup.

const SVG = "http://www.w3.org/2000/svg";

export const $ = id => document.getElementById(id);

// The order in which statuses are told: what needs somebody's eye follows what is well.
export const STATUSES = ["Alive", "Unhealthy", "Unknown", "Draining", "Tombstone"];

// An element. Properties are attributes, but for `class`, `text` and functions, which are listeners.
export function make(tag, properties, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

export function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// A symbol of index.html. It says nothing by itself: words stand beside it.
export function icon(name, kind = "") {
  return svg("svg", { class: `icon ${kind}`, "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));
}

// Writes a text only where it differs, so that nothing is laid out again and no selection is lost.
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function attribute(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

// Makes these nodes the children of an element, in this order. Those that stay are not moved while
// their order stays, so that they keep the focus.
export function place(parent, nodes) {
  const wanted = new Set(nodes);
  for (let at = parent.firstChild; at;) {
    const next = at.nextSibling;
    if (!wanted.has(at)) at.remove();
    at = next;
  }
  let at = parent.firstChild;
  for (const node of nodes) {
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
  }
}

// Keeps one node for each key: made once, changed in place, dropped when its key is gone.
export class Keyed {
  nodes = new Map();

  // `make(item)` gives a node, `update(node, item)` brings it up to date.
  draw(parent, items, key, create, update) {
    const kept = new Map();
    for (const item of items) {
      const name = key(item);
      const node = this.nodes.get(name) || create(item);
      update(node, item);
      kept.set(name, node);
    }
    this.nodes = kept;
    place(parent, [...kept.values()]);
  }
}

// A link over http to a host and port, or plain text where the host is none.
export function link(host, port, text, rest = "") {
  let url = null;
  try { url = new URL(`http://${host.includes(":") ? `[${host}]` : host}:${port}/${rest}`); } catch { /* Not a host. */ }
  if (!url || String(url.port || 80) !== String(port) || url.username) return make("span", { text });
  return make("a", { href: url.href, text, rel: "noreferrer" });
}

export function statusWord(status) {
  const known = STATUSES.includes(status) ? status : "Unknown";
  return make("span", { class: `status ${known.toLowerCase()}` }, icon(known.toLowerCase()), status);
}

// What is shown of counts by status: every status that there is, as sign and number.
export function counts(by, gone) {
  const shown = STATUSES.filter(status => by[status] && (gone || status !== "Tombstone"));
  return shown.map(status => make("span", {
    class: `count ${status.toLowerCase()}`, title: `${by[status]} ${status}`,
  }, icon(status.toLowerCase()), String(by[status]), make("span", { class: "unseen", text: ` ${status}` })));
}

// The same as a bar of parts; an image of what stands beside it.
export function bar(by) {
  const element = make("span", { class: "bar-of", "aria-hidden": "true" });
  for (const status of STATUSES.slice(0, 4)) {
    if (!by[status]) continue;
    const part = make("i", { class: status.toLowerCase() });
    part.style.flexGrow = by[status];
    element.append(part);
  }
  return element;
}

export function plural(number, noun) {
  return `${whole(number)} ${noun}${number === 1 ? "" : "s"}`;
}

const NUMBERS = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function whole(number) {
  return NUMBERS.format(number);
}

// A figure in three digits: 0.12, 1.23, 12.3, 123, 12.3 k.
export function figure(number) {
  if (!Number.isFinite(number)) return "–";
  if (number === 0) return "0";
  if (number >= 1e6) return `${(number / 1e6).toFixed(1)} M`;
  if (number >= 1e4) return `${(number / 1e3).toFixed(1)} k`;
  return number >= 100 ? String(Math.round(number)) : number >= 10 ? number.toFixed(1) : number.toFixed(2);
}

// A duration in milliseconds.
export function lasting(ms) {
  if (!Number.isFinite(ms)) return "–";
  if (Math.abs(ms) < 1000) return `${Math.abs(ms) < 10 ? Number(ms.toFixed(1)) : Math.round(ms)} ms`;
  const seconds = ms / 1000;
  for (const [length, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (Math.abs(seconds) >= length * 1.5) return `${(seconds / length).toFixed(seconds / length < 10 ? 1 : 0)} ${unit}`;
  }
  return `${seconds.toFixed(Math.abs(seconds) < 10 ? 1 : 0)} s`;
}

// How far the agent's clock is ahead of this browser's, in milliseconds: ages are told by the agent's.
let ahead = 0;

export function setClock(text) {
  const time = Date.parse(text);
  if (time > 0) ahead = time - Date.now();
}

export function agentNow() {
  return Date.now() + ahead;
}

export function age(time) {
  if (!(time > 0)) return "never";
  const seconds = Math.max(0, (agentNow() - time) / 1000);
  if (seconds < 90) return `${Math.floor(seconds)} s`;
  if (seconds < 5400) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 129600) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

// The age of a moment, which `tick` keeps right; the moment itself stands in the title.
export function moment(text) {
  const element = make("time");
  setMoment(element, text);
  return element;
}

export function setMoment(element, text) {
  const time = Date.parse(text);
  element.dataset.at = time > 0 ? time : 0;
  attribute(element, "datetime", text || "");
  attribute(element, "title", time > 0 ? new Date(time).toLocaleString() : "never");
  write(element, age(time));
}

export function tick(root) {
  for (const element of root.querySelectorAll("time[data-at]")) write(element, age(Number(element.dataset.at)));
}

// A moment in words, for a sentence.
export function when(text) {
  const time = Date.parse(text);
  if (!(time > 0)) return text || "never";
  return Math.abs(time - agentNow()) < 43_200_000 ? clock(time) : new Date(time).toLocaleString([], { hour12: false });
}

export function clock(time) {
  return new Date(time).toLocaleTimeString([], { hour12: false });
}

// The hosts, and a map of what runs where.

import { Keyed, bar, counts, icon, make, moment, place, plural, setMoment, write } from "./dom.js";
import { hostSearch, matches, parse } from "./filter.js";

const ROWS = 500;
// More cells are no map any more.
const CELLS = 3000;
const COLUMNS = ["State", "Host", "Address", "Kind", "Last heard", "Last change", "Instances", ""];
const STATES = {
  alive: ["alive", "Alive"], suspect: ["suspect", "Suspect"], dead: ["unhealthy", "Dead"], left: ["tombstone", "Left"],
};
const WORST = ["Unhealthy", "Unknown", "Draining", "Alive", "Tombstone"];

export function hostState(state) {
  const [sign, word] = STATES[state] || ["unknown", state];
  return make("span", { class: `status host-${Object.hasOwn(STATES, state) ? state : "other"}` }, icon(sign), word);
}

export class HostsView {
  rows = new Keyed();
  lines = new Keyed();

  constructor(root, app) {
    this.app = app;
    this.body = make("tbody", { role: "rowgroup" });
    this.note = make("p", { class: "empty" });
    const table = make("table", { class: "hosts", role: "table" }, make("thead", { role: "rowgroup" },
      make("tr", { role: "row" }, ...COLUMNS.map(text => make("th", { scope: "col", role: "columnheader", text })))), this.body);
    this.map = make("div", { class: "map", tabindex: "0", role: "region", "aria-label": "Which host runs what" });
    this.mapNote = make("p", { class: "faint" });
    this.mapHead = make("tr");
    this.mapBody = make("tbody");
    this.map.append(make("table", {}, make("thead", {}, this.mapHead), this.mapBody));
    root.append(make("div", { class: "view-head" }, make("h2", { text: "Hosts" })), make("div", { class: "table card" }, table), this.note,
      make("div", { class: "view-head" }, make("h2", { text: "What runs where" }), this.mapNote), this.map);
  }

  draw() {
    const { store, state } = this.app;
    const terms = parse(state.q);
    const runs = this.instancesByHost(terms);
    const hosts = [...store.hosts.values()].filter(host => !terms.length || matches(hostSearch(host), terms) || runs.get(host.name)?.found);
    hosts.sort((a, b) => b.own - a.own || (a.name < b.name ? -1 : 1));
    this.rows.draw(this.body, hosts.slice(0, ROWS), host => host.name, host => this.row(host), (row, host) => this.update(row, host));
    const more = hosts.length - ROWS;
    write(this.note, !hosts.length ? (terms.length ? "No host matches." : "No hosts.") : more > 0 ? `${more} more: narrow the filter to see them.` : "");
    this.note.hidden = !this.note.textContent;
    this.drawMap(hosts, terms);
    this.app.tell(terms.length ? `${plural(hosts.length, "host")} found` : "");
  }

  // What runs on each host as far as the filter wants it: service to statuses.
  instancesByHost(terms) {
    const { store, state } = this.app;
    const stamp = `${store.revision.instances}|${state.q}|${state.gone}`;
    if (this.stamp === stamp) return this.runs;
    this.stamp = stamp;
    const runs = new Map();
    for (const it of store.instances.values()) {
      if (it.status === "Tombstone" && !state.gone) continue;
      const found = matches(it, terms);
      if (!found) continue;
      let host = runs.get(it.hostname);
      if (!host) runs.set(it.hostname, host = { found: 0, services: new Map() });
      host.found++;
      const by = host.services.get(it.name) || {};
      by[it.status] = (by[it.status] || 0) + 1;
      host.services.set(it.name, by);
    }
    this.runs = runs;
    return runs;
  }

  row(host) {
    const cell = (kind, label) => make("td", { class: kind, role: "cell", "data-label": label });
    const parts = {
      state: cell("of-status"), name: cell("of-host"), address: cell("of-address", "Address"), kind: cell("of-kind", "Kind"),
      heard: cell("of-age", "Last heard"), changed: cell("of-age", "Last change"), instances: cell("of-counts"), look: cell("of-commands"),
    };
    parts.heard.append(moment(""), make("span", { class: "late" }));
    parts.changed.append(moment(""));
    const page = this.app.hostPage(host.name);
    parts.name.append(page && !host.own ? make("a", { href: page, rel: "noreferrer", text: host.name }) : make("b", { text: host.name }));
    if (host.own) parts.name.append(" ", make("span", { class: "tag", text: "this host" }));
    parts.look.append(make("a", { href: `#services?q=${encodeURIComponent(`host:${host.name}`)}`, "aria-label": `Instances of ${host.name}`, text: "instances" }));
    const row = make("tr", { role: "row" }, ...Object.values(parts));
    row.parts = parts;
    return row;
  }

  update(row, host) {
    if (row.shown === host) return;
    row.shown = host;
    const { parts } = row;
    if (row.state !== host.state) parts.state.replaceChildren(hostState(host.state));
    row.state = host.state;
    row.classList.toggle("gone", host.state === "dead" || host.state === "left");
    write(parts.address, host.address || "–");
    write(parts.kind, host.kind);
    setMoment(parts.heard.firstChild, host.last_updated);
    setMoment(parts.changed.firstChild, host.last_changed);
    const by = counted(host.instances);
    const signs = counts(by, true);
    parts.instances.replaceChildren(bar(by), ...signs.length ? signs : [make("span", { class: "faint", text: "none" })]);
  }

  drawMap(hosts, terms) {
    const { store } = this.app;
    const columns = hosts.filter(host => host.state !== "left").slice(0, 100);
    const services = store.sortedServices().filter(service => columns.some(host => this.runs.get(host.name)?.services.has(service.name)));
    const room = Math.max(1, Math.floor(CELLS / Math.max(1, columns.length)));
    const rows = services.slice(0, room);
    const head = columns.map(host => `${host.name}|${host.state}`).join("\n");
    if (this.headed !== head) {
      this.headed = head;
      this.mapHead.replaceChildren(make("td"), ...columns.map(host =>
        make("th", { scope: "col", class: `host-${host.state}`, title: `${host.name}: ${host.state}` },
          make("span", {}, make("span", { text: host.name }), host.state === "alive" ? "" : ` (${host.state})`))));
    }
    this.lines.draw(this.mapBody, rows, service => service.name, service => {
      const href = `#services?q=${encodeURIComponent(`name:${service.name}`)}&open=${encodeURIComponent(service.name)}`;
      const row = make("tr", {}, make("th", { scope: "row", title: service.name }, make("a", { href, text: service.name })));
      row.cells_ = [];
      return row;
    }, (row, service) => {
      const stamp = `${service.revision}|${head}|${this.stamp.slice(this.stamp.indexOf("|"))}`;
      if (row.stamp === stamp) return;
      row.stamp = stamp;
      place(row, [row.firstChild, ...columns.map(host => mapCell(this.runs.get(host.name)?.services.get(service.name), service.name, host.name))]);
    });
    const left = services.length - rows.length;
    const away = hosts.length - columns.length;
    const words = [];
    if (left > 0) words.push(`${plural(left, "more service")}`);
    if (away > 0) words.push(`${plural(away, "more host")}`);
    write(this.mapNote, words.length ? `${words.join(" and ")} not drawn: narrow the filter` : terms.length ? "as far as the filter has it" : "");
    this.map.hidden = !rows.length;
  }
}

function counted(instances) {
  const by = {};
  for (const [status, number] of Object.entries(instances || {})) by[status[0].toUpperCase() + status.slice(1)] = number;
  return by;
}

function mapCell(by, service, host) {
  if (!by) return make("td");
  const worst = WORST.find(status => by[status]);
  const number = Object.values(by).reduce((a, b) => a + b, 0);
  const words = Object.entries(by).map(([status, count]) => `${count} ${status}`).join(", ");
  return make("td", { class: worst.toLowerCase(), title: `${service} on ${host}: ${words}` },
    icon(worst.toLowerCase()), number > 1 ? make("small", { text: String(number) }) : null, make("span", { class: "unseen", text: words }));
}

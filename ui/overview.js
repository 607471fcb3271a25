// The cluster at a glance, and what needs somebody's attention.

import { Keyed, STATUSES, agentNow, bar, counts, figure, icon, lasting, make, moment, place, plural, when, whole, write } from "./dom.js";
import { changesPlot, sparkline } from "./charts.js";
import { changeRow, foundChanges } from "./changes.js";
import { hostState } from "./hosts.js";
import { hostSearch, matches, parse, routeSearch } from "./filter.js";

const LINES = 12;
const CHANGES = 8;
const PLOT_MS = 600_000;

export class OverviewView {
  rows = new Keyed();

  constructor(root, app) {
    this.app = app;
    const card = (title, kind, ...children) => make("section", { class: `card padded ${kind}`, "aria-label": title }, make("h2", { text: title }), ...children);
    const line = kind => make("p", { class: kind });
    this.parts = {
      cluster: make("dl"), services: line("big"), servicesBy: line("signs"), instances: line("big"), instancesBy: line("signs"),
      hosts: line("big"), hostsBy: line("signs"), freshest: line("faint"), traffic: line("big"), trafficBy: line("faint"),
      attention: make("ul", { class: "attention" }), sources: make("ul", { class: "attention" }), changes: make("ol", { class: "timeline" }),
      changesSum: line("faint"),
    };
    this.parts.instancesBar = make("p");
    this.spark = sparkline(240, 36);
    this.plot = changesPlot("Changes in the last 10 minutes");
    const { parts } = this;
    root.append(
      make("div", { class: "cards" },
        card("Cluster", "of-cluster", parts.cluster),
        card("Services", "", parts.services, parts.servicesBy),
        card("Instances", "", parts.instances, parts.instancesBar, parts.instancesBy),
        card("Hosts", "", parts.hosts, parts.hostsBy, parts.freshest),
        card("Traffic of this host", "", parts.traffic, this.spark.element, parts.trafficBy)),
      make("div", { class: "halves" },
        card("Needs attention", "", parts.attention),
        card("This host", "", parts.sources)),
      card("Last changes", "", this.plot.element, parts.changesSum, parts.changes));
  }

  draw() {
    const { app } = this;
    const { store, state } = app;
    if (!store.overview) return;
    const terms = parse(state.q);
    this.cluster();
    this.numbers();
    this.traffic();
    const attention = this.attention(terms);
    this.lines(this.parts.attention, attention, terms.length ? "Nothing of what matches." : "All services have all their instances alive, and all hosts answer.");
    this.lines(this.parts.sources, this.ownHost(), "No trouble with sources, remarks or listeners.");
    this.changes(terms);
    app.tell(terms.length ? `${attention.length} to attend to` : "");
  }

  cluster() {
    const it = this.app.store.overview;
    const proxy = it.proxy || {};
    const kernel = this.app.store.local.kernel;
    const plane = { builtin: "built-in", kernel: "kernel (nf_tables)", haproxy: "HAProxy", none: "none" }[proxy.plane] || proxy.plane || "–";
    const stamp = JSON.stringify([it.cluster_name, it.hostname, it.agent_version, it.started, it.encrypted, proxy, it.ready, it.awaited, kernel?.state]);
    if (this.clusterStamp === stamp) return;
    this.clusterStamp = stamp;
    const pairs = [
      ["Name", it.cluster_name], ["This host", it.hostname], ["Agent", `sidecar ${it.agent_version}`],
      ["Running for", moment(it.started)], ["Gossip", it.encrypted ? "encrypted" : "not encrypted"],
      ["Proxy", proxy.plane === "none" ? "none" : `${plane}${proxy.bind_ip ? ` at ${proxy.bind_ip}` : ""}`],
      ["State", it.ready ? make("span", { class: "status alive" }, icon("alive"), "Ready")
        : make("span", { class: "status unknown" }, icon("unknown"), `Waits for ${(it.awaited || []).join(", ")}`)],
    ];
    place(this.parts.cluster, pairs.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", {}, value)]));
  }

  numbers() {
    const { store } = this.app;
    const stamp = `${store.revision.instances}|${store.revision.hosts}`;
    if (this.numbersStamp === stamp) {
      if (this.freshTime) write(this.freshTime, this.freshText());
      return;
    }
    this.numbersStamp = stamp;
    const { parts } = this;
    const kinds = { whole: 0, some: 0, none: 0 };
    let present = 0;
    for (const service of store.services.values()) {
      const facts = service.summary();
      if (!facts.present) continue;
      present++;
      kinds[facts.alive === facts.present ? "whole" : facts.alive ? "some" : "none"]++;
    }
    const sign = (name, number, words, q) => number ? make(q ? "a" : "span", { class: `count ${name}`, href: q && `#services?q=${encodeURIComponent(q)}` }, icon(name), `${whole(number)} ${words}`) : null;
    write(parts.services, whole(present));
    parts.servicesBy.replaceChildren(...[sign("alive", kinds.whole, "all alive"), sign("unknown", kinds.some, "in part"), sign("unhealthy", kinds.none, "none alive")].filter(Boolean));
    const by = store.totals();
    write(parts.instances, whole(STATUSES.slice(0, 4).reduce((sum, status) => sum + (by[status] || 0), 0)));
    parts.instancesBar.replaceChildren(bar(by));
    parts.instancesBy.replaceChildren(...STATUSES.slice(0, 4).map(status => sign(status.toLowerCase(), by[status], status, `status:${status.toLowerCase()}`)).filter(Boolean));
    const states = {};
    for (const host of store.hosts.values()) states[host.state] = (states[host.state] || 0) + 1;
    write(parts.hosts, whole((states.alive || 0) + (states.suspect || 0) + (states.dead || 0)));
    parts.hostsBy.replaceChildren(...["alive", "suspect", "dead"].filter(state => states[state]).map(state => {
      const element = hostState(state);
      element.append(` ${states[state]}`);
      return element;
    }));
    this.freshTime = parts.freshest;
    write(parts.freshest, this.freshText());
  }

  // How fresh what others have told is.
  freshText() {
    let oldest = Infinity, name = "";
    for (const host of this.app.store.hosts.values()) {
      const time = Date.parse(host.last_updated);
      if (host.own || host.state !== "alive" || !(time > 0) || time >= oldest) continue;
      oldest = time;
      name = host.name;
    }
    return name ? `longest unheard: ${name}, ${lasting(Math.max(0, Math.floor((agentNow() - oldest) / 1000) * 1000))}` : "no other host";
  }

  traffic() {
    const { traffic, store } = this.app;
    if (this.beat === traffic.revision) return;
    this.beat = traffic.revision;
    const { all } = traffic;
    write(this.parts.traffic, all.length ? `${figure(all.rate)}/s` : "–");
    const words = [];
    if (Number.isFinite(all.latency)) words.push(`${lasting(all.latency)} on average`);
    if (all.length) words.push(`${all.inFlight} in flight`, plural(traffic.ports.size, "port"));
    if (Number.isFinite(traffic.kernelRate())) words.push(`${figure(traffic.kernelRate())} connections per second by the kernel`);
    const none = { none: "this host runs no proxy", haproxy: "HAProxy counts for itself" }[store.overview.proxy?.plane];
    write(this.parts.trafficBy, words.join(", ") || none || "waiting for figures");
    this.spark.draw(all.values());
  }

  attention(terms) {
    const { store } = this.app;
    const stamp = `${store.revision.instances}|${store.revision.hosts}|${store.revision.routes}|${this.app.state.q}`;
    if (this.attentionStamp === stamp) return this.attentionLines;
    this.attentionStamp = stamp;
    const lines = [];
    for (const host of store.hosts.values()) {
      if (host.state !== "suspect" && host.state !== "dead") continue;
      if (terms.length && !matches(hostSearch(host), terms)) continue;
      lines.push({ key: `host ${host.name}`, sign: host.state === "dead" ? "unhealthy" : "suspect", text: host.name, href: `#hosts?q=${encodeURIComponent(`host:${host.name}`)}`, words: `host is ${host.state}`, weight: host.state === "dead" ? 0 : 1 });
    }
    for (const service of store.services.values()) {
      const facts = service.summary();
      if (!facts.present || facts.alive === facts.present) continue;
      if (terms.length && !service.list().some(it => matches(it, terms))) continue;
      const href = `#services?q=${encodeURIComponent(`name:${service.name}`)}&open=${encodeURIComponent(service.name)}`;
      const parts = STATUSES.slice(1, 4).filter(status => facts.by[status]).map(status => `${facts.by[status]} ${status}`);
      lines.push({ key: `service ${service.name}`, sign: facts.alive ? "suspect" : "unhealthy", text: service.name, href, words: `${facts.alive} of ${facts.present} alive: ${parts.join(", ")}`, weight: facts.alive ? 3 : 2 });
    }
    const left = new Map();
    for (const it of store.excluded) {
      if (terms.length && !matches(routeSearch({ service: it.service, port: it.service_port, mode: "", excluded: [it] }), terms)) continue;
      const key = `${it.service_port} ${it.service}`;
      left.set(key, { ...it, number: (left.get(key)?.number || 0) + 1 });
    }
    for (const [key, it] of left) {
      lines.push({ key: `left ${key}`, sign: "suspect", text: `${it.service} :${it.service_port}`, href: `#routes?q=${encodeURIComponent(`name:${it.service}`)}&open=${it.service_port}`, words: `${plural(it.number, "instance")} not routed: ${it.explanation}`, weight: 4 });
    }
    lines.sort((a, b) => a.weight - b.weight || (a.text < b.text ? -1 : 1));
    return this.attentionLines = lines;
  }

  // Trouble of this host alone: sources, remarks, listeners, the data plane.
  ownHost() {
    const { store } = this.app;
    const { sources, remarks, listeners, kernel, haproxy } = store.local;
    const lines = [];
    const add = (key, sign, text, words) => lines.push({ key, sign, text, words });
    for (const [name, it] of Object.entries(sources)) {
      const held = it.held_until ? `; its ${plural(it.instances, "instance")} are kept until ${when(it.held_until)}` : "";
      const well = it.state === "following" && !it.trouble;
      add(`source ${name}`, well ? "alive" : "unhealthy", name, `${it.state}, ${plural(it.instances, "instance")}${it.trouble ? `: ${it.trouble}` : ""}${held}`);
    }
    for (const it of remarks) for (const remark of it.remarks) add(`remark ${it.source} ${it.subject} ${remark}`, "suspect", it.subject, `${remark} (${it.source})`);
    for (const [name, it] of Object.entries(listeners)) {
      add(`listener ${name}`, it.trouble ? "unhealthy" : "alive", `listener ${name}`, it.trouble ? `${it.url}: ${it.trouble}` : `${plural(it.delivered, "event")} delivered to ${it.url}`);
    }
    if (kernel?.trouble) add("kernel", "unhealthy", "kernel data plane", kernel.trouble);
    if (haproxy?.trouble) add("haproxy", "unhealthy", "HAProxy", String(haproxy.trouble));
    // The overview says in one sentence what stands here at length.
    for (const words of store.overview.trouble || []) {
      const core = words.slice(words.indexOf(": ") + 2);
      if (!lines.some(it => it.words.includes(core))) add(`trouble ${words}`, "suspect", "this host", words);
    }
    const weight = { unhealthy: 0, suspect: 1, alive: 2 };
    return lines.sort((a, b) => weight[a.sign] - weight[b.sign]);
  }

  lines(root, lines, otherwise) {
    const stamp = JSON.stringify(lines);
    if (root.stamp === stamp) return;
    root.stamp = stamp;
    const shown = lines.slice(0, LINES).map(it => make("li", {}, icon(it.sign, it.sign),
      it.href ? make("a", { href: it.href, text: it.text }) : make("b", { text: it.text }), make("span", { class: "words", text: it.words })));
    if (lines.length > LINES) shown.push(make("li", { class: "faint", text: `and ${whole(lines.length - LINES)} more` }));
    if (!lines.some(it => it.sign !== "alive")) shown.unshift(make("li", { class: "well" }, icon("alive", "alive"), otherwise));
    place(root, shown);
  }

  changes(terms) {
    const { store, state } = this.app;
    const stamp = `${store.revision.changes}|${state.q}|${Math.floor(agentNow() / 5000)}`;
    if (this.changesStamp === stamp) return;
    this.changesStamp = stamp;
    const found = foundChanges(store, terms);
    const shown = this.plot.draw(found, agentNow(), PLOT_MS);
    write(this.parts.changesSum, found.length ? `${plural(shown, "change")} in the last 10 min` : "Nothing has changed since this agent started.");
    this.rows.draw(this.parts.changes, found.slice(-CHANGES).reverse(), it => it.id, it => changeRow(it, this.app), () => {});
  }
}

// A table of instances: one row each, and for one of them all that is known.

import { Keyed, icon, lasting, link, make, moment, place, setMoment, statusWord, when, write } from "./dom.js";
import { ask } from "./feed.js";

// More rows are added on demand.
const ROWS = 200;
const COLUMNS = ["Status", "Host", "ID", "Version", "Ports", "Age", "Changed", "Check", ""];

export class InstanceTable {
  rows = new Keyed();
  limit = ROWS;

  constructor(app) {
    this.app = app;
    this.body = make("tbody", { role: "rowgroup" });
    const heads = COLUMNS.map(text => make("th", { scope: "col", role: "columnheader" }, text || make("span", { class: "unseen", text: "Commands" })));
    const table = make("table", { class: "instances", role: "table" },
      make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...heads)), this.body);
    this.more = make("button", { type: "button", class: "more", click: () => {
      this.limit += 5 * ROWS;
      this.draw(this.list);
    } });
    this.element = make("div", { class: "table" }, table, this.more);
  }

  draw(list) {
    this.list = list;
    const shown = list.slice(0, this.limit);
    const { at } = this.app.state;
    const items = [];
    for (const it of shown) {
      items.push({ key: it.key, it });
      if (it.key === at) items.push({ key: `detail ${it.key}`, it, detail: true });
    }
    this.rows.draw(this.body, items, item => item.key,
      item => item.detail ? new Detail(this.app).element : this.row(item.it),
      (row, item) => item.detail ? row.detail.draw(item.it) : this.update(row, item.it));
    this.more.hidden = list.length <= this.limit;
    write(this.more, `${list.length - this.limit} more`);
  }

  row(it) {
    const cell = (kind, label, ...children) => make("td", { class: kind, role: "cell", "data-label": label }, ...children);
    const id = make("button", { type: "button", class: "id", text: it.id, title: it.id, "aria-expanded": "false" });
    id.addEventListener("click", () => {
      const { state } = this.app;
      this.app.go({ at: state.at === it.key ? "" : it.key });
    });
    const parts = {
      status: cell("of-status"), host: cell("of-host", "Host"), id: cell("of-id", "ID", id), version: cell("of-version", "Version"),
      ports: cell("of-ports", "Ports"), created: cell("of-age", "Age", moment("")), updated: cell("of-age", "Changed", moment("")),
      check: cell("of-check", "Check"), commands: cell("of-commands"),
    };
    const row = make("tr", { role: "row" }, ...Object.values(parts));
    row.parts = parts;
    row.opener = id;
    return row;
  }

  update(row, it) {
    const { app } = this;
    const { store } = app;
    const open = app.state.at === it.key;
    row.opener.setAttribute("aria-expanded", String(open));
    row.classList.toggle("opened", open);
    const own = store.owns(it);
    const check = own ? store.local.checks[it.id] : null;
    const excluded = store.excludedOf.get(it.key) || [];
    const evidence = check ? `${check.last?.at}|${check.damped?.until}|${check.status}` : "";
    const stamp = `${own}|${evidence}|${excluded.map(x => x.service_port + x.explanation).join()}|${app.hostPage(it.hostname)}|${app.busy.has(it.key)}`;
    if (row.shown === it && row.stamp === stamp) return;
    row.shown = it;
    row.stamp = stamp;
    const { parts } = row;
    if (row.status !== it.status) parts.status.replaceChildren(statusWord(it.status));
    row.status = it.status;
    row.classList.toggle("gone", it.status === "Tombstone");
    write(parts.host, it.hostname);
    write(parts.version, it.version || "–");
    parts.version.title = it.image;
    parts.ports.replaceChildren(...portsOf(it), ...excluded.map(x =>
      make("span", { class: "why" }, icon("suspect"), `not routed at ${x.service_port}: ${x.explanation}`)));
    setMoment(parts.created.firstChild, it.created);
    setMoment(parts.updated.firstChild, it.updated);
    parts.check.replaceChildren(...this.evidence(it, own, check));
    // A button stays while it says the same: somebody may be about to press it.
    const verbs = `${own}|${it.status === "Tombstone"}|${it.status === "Draining"}|${app.busy.has(it.key)}`;
    if (row.verbs !== verbs) parts.commands.replaceChildren(...this.commands(it, own));
    row.verbs = verbs;
  }

  // In few words why it has its status.
  evidence(it, own, check) {
    if (own && check) {
      const last = check.last;
      if (check.damped) return [make("span", { class: "why" }, icon("suspect"), `held back: ${check.damped.rule}`)];
      if (!last) return [make("span", { class: "faint", text: `${check.kind}: no result yet` })];
      return [make("span", { class: last.healthy ? "faint" : "why", title: `${check.args}\n${last.output}` },
        last.healthy ? "" : icon("unhealthy"), `${check.kind}: ${last.summary}`)];
    }
    if (own) return [make("span", { class: "faint", text: "no check" })];
    const page = this.app.hostPage(it.hostname, it.key);
    return [page ? make("a", { href: page, rel: "noreferrer" }, `at ${it.hostname} `, icon("out"))
      : make("span", { class: "faint", text: "told by its host" })];
  }

  commands(it, own) {
    if (!own || it.status === "Tombstone") return [];
    const busy = this.app.busy.has(it.key);
    const draining = it.status === "Draining";
    return [make("button", {
      type: "button", disabled: busy, class: "command", "aria-label": `${draining ? "Undrain" : "Drain"} ${it.name} ${it.id}`,
      click: () => draining ? this.app.undrain(it) : this.app.drain(it),
    }, busy ? "…" : draining ? "Undrain" : "Drain")];
  }
}

function portsOf(it) {
  const all = (it.ports || []).map(port => {
    const offered = port.service_port > 0;
    const text = offered ? `${port.service_port} → ${port.port}` : String(port.port);
    const browsable = port.type === "tcp" && port.ip && it.mode !== "tcp";
    const part = browsable ? link(port.ip, port.port, text) : make("span", { text });
    part.title = `${port.type} ${port.ip || ""}:${port.port}`;
    return make("span", { class: "port" }, part, port.type === "tcp" ? "" : ` ${port.type}`);
  });
  return all.length ? all : [make("span", { class: "faint", text: "none" })];
}

// All that is known of one instance, asked for when it is opened and after each of its changes.
class Detail {
  asked = null;

  constructor(app) {
    this.app = app;
    this.box = make("div", { class: "detail", role: "group", "aria-label": "Details" });
    this.element = make("tr", { class: "detail-row", role: "row" }, make("td", { colspan: String(COLUMNS.length), role: "cell" }, this.box));
    this.element.detail = this;
  }

  draw(it) {
    const { store } = this.app;
    const stamp = `${it.key}|${it.updated}|${it.status}|${store.revision.routes}|${store.owns(it) ? store.revision.local : ""}`;
    if (this.asked === stamp) return;
    this.asked = stamp;
    if (!this.box.firstChild) this.show(it, null, "");
    const path = `/api/v2/instances/${encodeURIComponent(it.hostname)}/${encodeURIComponent(it.id)}`;
    ask(path).then(document => this.show(it, document, ""), error => this.show(it, null, error.message))
      .finally(() => this.app.dirty());
  }

  show(it, document, trouble) {
    const { store } = this.app;
    const check = document?.check || (store.owns(it) ? store.local.checks[it.id] : null);
    const facts = [["Image", it.image], ["Mode", it.mode], ["Weight", it.weight ?? "–"],
      ["Created", when(it.created)], ["Updated", when(it.updated)],
      ["Ports", (it.ports || []).map(p => `${p.type} ${p.ip || ""}:${p.port}${p.service_port ? ` for ${p.service_port}` : ""}`).join(", ") || "none"]];
    const parts = [make("div", {}, make("h4", { text: "Instance" }), list(facts))];
    if (check) parts.push(make("div", {}, make("h4", { text: "Check" }), ...checkOf(check)));
    else {
      const page = this.app.hostPage(it.hostname, it.key);
      parts.push(make("div", {}, make("h4", { text: "Check" }), make("p", {}, "Only its host knows the results. ",
        page ? make("a", { href: page, rel: "noreferrer" }, `See the page of ${it.hostname} `, icon("out")) : null)));
    }
    const routes = (document?.routes || []).map(route => make("li", { class: route.routed ? "" : "why" },
      route.routed ? icon("alive", "alive") : icon("suspect"), ` ${route.service_port || "no port"}: `,
      route.routed ? "routed" : route.explanation || route.reason || "not routed"));
    if (document) parts.push(make("div", {}, make("h4", { text: "Routes" }), routes.length ? make("ul", {}, ...routes) : make("p", { text: "It offers no service port." })));
    if (trouble) parts.push(make("p", { class: "why" }, icon("suspect"), trouble));
    place(this.box, parts);
  }
}

export function list(pairs) {
  return make("dl", {}, ...pairs.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: String(value) })]));
}

function checkOf(check) {
  const last = check.last;
  const rhythm = check.interval_ms ? `every ${lasting(check.interval_ms)}, within ${lasting(check.timeout_ms)}` : "told of events";
  const pairs = [["Kind", `${check.kind}, ${rhythm}`], ["Asks", check.args || "–"],
    ["Rules", `alive after ${check.rise} good in a row, unhealthy after ${check.fall} bad`],
    ["Says", `${check.status}; ${check.in_a_row} in a row`]];
  if (last) pairs.push(["Last result", `${last.healthy ? "healthy" : "failed"}: ${last.summary}, in ${lasting(last.duration_ms)}, at ${when(last.at)}`]);
  if (check.damped) pairs.push(["Held back", `${check.damped.rule}, until ${when(check.damped.until)}`]);
  for (const notice of check.notices || []) pairs.push(["Notice", notice]);
  return [list(pairs), last?.output ? make("pre", { tabindex: "0", "aria-label": "What it answered" }, make("code", { text: last.output })) : null];
}

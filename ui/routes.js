// Which service port leads where, what is left out and why, and what this host's data plane carries.

import { Keyed, figure, icon, lasting, make, place, plural, write } from "./dom.js";
import { sparkline } from "./charts.js";
import { matches, parse, routeSearch } from "./filter.js";
import { FoldList } from "./foldlist.js";

const COLUMNS = ["Address", "Host", "ID", "Weight", "Rate", "Latency", "In flight", "Failed", "Last minutes"];

const PLANES = { builtin: "Built-in proxy", kernel: "Kernel data plane", haproxy: "HAProxy" };

export class RoutesView {
  constructor(root, app) {
    this.app = app;
    this.summary = make("p", { class: "faint" });
    this.list = make("div", { class: "list" });
    this.note = make("p", { class: "empty" });
    this.heads = make("div", { class: "heads", "aria-hidden": "true" },
      ...["Service", "Port", "Mode", "Endpoints", "Left out", "Rate", "Latency", "In flight", "Last minutes"].map(text => make("span", { text })));
    root.append(make("div", { class: "view-head" }, make("h2", { text: "Routes" }), this.summary), this.heads, this.list, this.note);
    this.folds = new FoldList(this.list, "route", {
      head: (fold, item) => this.head(fold, item),
      inside: (fold, item) => this.inside(fold, item),
      live: (fold, item) => this.live(fold, item),
      toggle: (item, open) => app.open(item.key, open),
    });
  }

  // One for each service port, in order; what is excluded stands with the port it wanted.
  items() {
    const { store } = this.app;
    if (this.of === store.revision.routes) return this.all;
    this.of = store.revision.routes;
    const byPort = new Map();
    for (const route of store.routes) {
      byPort.set(route.service_port, { port: route.service_port, service: route.service, mode: route.mode, route, excluded: [] });
    }
    for (const it of store.excluded) {
      let item = byPort.get(it.service_port);
      if (!item) byPort.set(it.service_port, item = { port: it.service_port, service: it.service, mode: "–", route: null, excluded: [] });
      item.excluded.push(it);
    }
    this.all = [...byPort.values()].sort((a, b) => a.port - b.port);
    for (const item of this.all) {
      Object.assign(item, routeSearch(item), { key: String(item.port), label: item.service });
      item.head = JSON.stringify([item.service, item.mode, item.route?.endpoints.length, item.excluded.length]);
    }
    return this.all;
  }

  draw() {
    const { store, state, traffic } = this.app;
    const terms = parse(state.q);
    const items = this.items().filter(item => matches(item, terms));
    for (const item of items) item.inside = this.of;
    this.folds.draw(items, item => state.open.has(item.key));
    const plane = store.overview?.proxy || {};
    const words = [plane.plane === "none" ? "This host runs no proxy." : `${PLANES[plane.plane] || plane.plane || "…"} at ${plane.bind_ip || store.bindIp || "–"}`];
    if (traffic.all.length) words.push(`${figure(traffic.all.rate)} per second`, `${traffic.all.inFlight} in flight`);
    if (Number.isFinite(traffic.all.latency)) words.push(`${lasting(traffic.all.latency)} on average`);
    write(this.summary, words.join(" · "));
    write(this.note, items.length ? "" : terms.length ? "No route matches." : "No service offers a port: there is nothing to route.");
    this.note.hidden = items.length > 0;
    this.heads.hidden = !items.length;
    if (this.beaten !== traffic.revision) this.folds.beat();
    this.beaten = traffic.revision;
    this.app.tell(terms.length ? `${plural(items.length, "route")} found` : "");
  }

  head(fold, item) {
    if (!fold.parts) {
      const names = ["port", "mode", "endpoints", "left", "rate", "latency", "flight"];
      fold.parts = Object.fromEntries(names.map(name => [name, make("span", { class: `of-${name}` })]));
      fold.spark = sparkline();
      fold.cells.append(...names.map(name => fold.parts[name]), make("span", { class: "of-spark" }, fold.spark.element));
    }
    const { parts } = fold;
    const trouble = this.app.store.planePorts.get(item.port);
    write(parts.port, item.port ? `:${item.port}` : "no port");
    write(parts.mode, item.mode);
    const number = item.route?.endpoints.length || 0;
    parts.endpoints.replaceChildren(number ? "" : icon("unhealthy", "unhealthy"), plural(number, "endpoint"));
    parts.left.replaceChildren(...item.excluded.length ? [make("span", { class: "why" }, icon("suspect"), `${item.excluded.length} left out`)] : []);
    fold.element.classList.toggle("down", !number || trouble?.listening === false && Boolean(trouble.trouble));
  }

  live(fold, item) {
    const { parts } = fold;
    const port = this.app.traffic.port(item.port);
    if (fold.beat === this.app.traffic.revision) return;
    fold.beat = this.app.traffic.revision;
    const unit = port && !port.requests && item.mode === "tcp" ? " conn/s" : "/s";
    write(parts.rate, port ? `${figure(port.series.rate)}${unit}` : "–");
    write(parts.latency, lasting(port?.series.latency));
    write(parts.flight, Number.isFinite(port?.series.inFlight) ? `${port.series.inFlight} open` : "–");
    fold.spark.draw(port ? port.series.values() : []);
    if (!fold.open || !fold.inner?.rows) return;
    for (const row of fold.inner.rows.nodes.values()) this.figures(row, item.port);
  }

  inside(fold, item) {
    fold.inner.rows ||= new Keyed();
    fold.inner.body ||= make("tbody", { role: "rowgroup" });
    fold.inner.table ||= make("div", { class: "table" }, make("table", { class: "endpoints", role: "table" }, make("thead", { role: "rowgroup" },
      make("tr", { role: "row" }, ...COLUMNS.map(text => make("th", { scope: "col", role: "columnheader", text })))), fold.inner.body));
    const endpoints = item.route?.endpoints || [];
    fold.inner.rows.draw(fold.inner.body, endpoints, it => `${it.address} ${it.hostname}/${it.id}`, it => this.row(it), (row, it) => {
      write(row.parts.weight, String(it.weight));
      this.figures(row, item.port);
    });
    const parts = endpoints.length ? [fold.inner.table] : [make("p", { class: "why" }, icon("unhealthy"), "No endpoint: nothing answers at this port.")];
    const plane = this.app.store.planePorts.get(item.port);
    if (plane?.trouble) parts.unshift(make("p", { class: "why" }, icon("suspect"), `The proxy does not listen: ${plane.trouble}`));
    if (item.excluded.length) {
      const rows = item.excluded.slice(0, 200).map(it => make("tr", { role: "row" },
        make("td", { role: "cell", text: it.service }), make("td", { role: "cell", text: it.hostname }),
        make("td", { role: "cell", class: "mono", text: it.id }),
        make("td", { role: "cell" }, make("span", { class: "why" }, icon("suspect"), it.explanation))));
      parts.push(make("h4", { text: "Left out" }), make("div", { class: "table" }, make("table", { class: "excluded", role: "table" },
        make("thead", { role: "rowgroup" }, make("tr", { role: "row" },
          ...["Service", "Host", "ID", "Why"].map(text => make("th", { scope: "col", role: "columnheader", text })))),
        make("tbody", { role: "rowgroup" }, ...rows))));
    }
    place(fold.body, parts);
  }

  row(it) {
    const cell = (kind, label, text) => make("td", { class: kind, role: "cell", "data-label": label, text });
    const parts = {
      address: cell("mono", "Address", it.address), host: cell("", "Host", it.hostname), id: cell("mono", "ID", it.id),
      weight: cell("number", "Weight"), rate: cell("number", "Rate"), latency: cell("number", "Latency"),
      flight: cell("number", "In flight"), failed: cell("number", "Failed"), spark: cell("of-spark", "Last minutes"),
    };
    const row = make("tr", { role: "row" }, ...Object.values(parts));
    row.spark = sparkline();
    parts.spark.append(row.spark.element);
    row.parts = parts;
    row.address = it.address;
    return row;
  }

  figures(row, port) {
    const series = this.app.traffic.endpoint(port, row.address);
    const { parts } = row;
    write(parts.rate, series ? `${figure(series.rate)}/s` : "–");
    write(parts.latency, lasting(series?.latency));
    write(parts.flight, series ? String(series.inFlight) : "–");
    const failed = series ? String(series.failed || 0) : "–";
    if (row.avoided !== (series?.avoided || false) || row.failed !== failed) {
      row.avoided = series?.avoided || false;
      row.failed = failed;
      parts.failed.replaceChildren(failed, row.avoided ? make("span", { class: "why" }, icon("suspect"), "avoided") : "");
    }
    row.spark.draw(series ? series.values() : []);
  }
}

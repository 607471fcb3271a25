// The services with their instances.

import { STATUSES, attribute, bar, counts, icon, make, moment, place, plural, setMoment, whole, write } from "./dom.js";
import { matches, parse, statusOf, withStatus } from "./filter.js";
import { FoldList } from "./foldlist.js";
import { InstanceTable } from "./instances.js";

// So few results are shown without a click.
const OPENED_UP_TO = 12;

export class ServicesView {
  constructor(root, app) {
    this.app = app;
    this.chips = make("div", { class: "chips", role: "group", "aria-label": "Status" });
    this.list = make("div", { class: "list" });
    this.note = make("div", { class: "note" });
    this.cache = new Map();
    // What somebody has closed although the filter would have it open.
    this.shut = new Set();
    this.words = "";
    root.append(make("div", { class: "view-head" }, make("h2", { text: "Services" }), this.chips), this.list, this.note);
    this.folds = new FoldList(this.list, "service", {
      head: (fold, item) => this.head(fold, item),
      inside: (fold, item) => this.inside(fold, item),
      toggle: (item, open) => {
        if (open) this.shut.delete(item.key);
        else this.shut.add(item.key);
        app.open(item.key, open);
      },
    });
  }

  // The instances of a service that are to be shown.
  shown(service, terms) {
    const { q, gone } = this.app.state;
    const known = this.cache.get(service.name);
    if (known && known.service === service && known.revision === service.revision && known.q === q && known.gone === gone) return known.list;
    const list = service.list().filter(it => (gone || it.status !== "Tombstone") && matches(it, terms));
    this.cache.set(service.name, { service, revision: service.revision, q, gone, list });
    return list;
  }

  draw() {
    const { store, state } = this.app;
    if (this.words !== state.q) {
      this.words = state.q;
      this.shut.clear();
    }
    const terms = parse(state.q);
    let number = 0;
    const found = [];
    for (const service of store.sortedServices()) {
      const list = this.shown(service, terms);
      if (!list.length) continue;
      number += list.length;
      found.push({ service, list });
    }
    const few = terms.length > 0 && number <= OPENED_UP_TO;
    const items = found.map(({ service, list }) => {
      const own = list.some(it => store.owns(it));
      const key = `${service.revision}|${list.length}|${state.gone}`;
      const inside = `${key}|${state.q}|${state.at}|${store.revision.routes}|${store.revision.hosts}|${own ? store.revision.local : ""}`;
      return { key: service.name, label: service.name, service, list, head: key, inside };
    });
    this.folds.draw(items, item => state.open.has(item.key) || few && !this.shut.has(item.key));
    if (this.cache.size > 2 * store.services.size + 100) this.cache.clear();
    this.drawChips();
    this.drawNote(found.length);
    this.app.tell(terms.length ? `${plural(found.length, "service")}, ${plural(number, "instance")} found` : "");
  }

  drawChips() {
    const { store, state } = this.app;
    const by = store.totals();
    const wanted = statusOf(state.q);
    if (!this.buttons) {
      const one = status => make("button", {
        type: "button", class: `chip ${status.toLowerCase()}`,
        click: () => {
          const on = status && this.buttons.get(status).getAttribute("aria-pressed") !== "true";
          this.app.go({ q: withStatus(this.app.state.q, on ? status : ""), gone: this.app.state.gone || on && status === "Tombstone" });
        },
      }, status ? icon(status.toLowerCase()) : null, make("span", { text: status || "All" }), make("b"));
      this.buttons = new Map(["", ...STATUSES].map(status => [status, one(status)]));
      place(this.chips, [...this.buttons.values()]);
    }
    let all = 0;
    for (const status of STATUSES) if (status !== "Tombstone" || state.gone) all += by[status] || 0;
    for (const [status, button] of this.buttons) {
      const on = status ? Boolean(wanted) && status.toLowerCase().startsWith(wanted) : !wanted;
      attribute(button, "aria-pressed", String(on));
      write(button.lastChild, whole(status ? by[status] || 0 : all));
      button.hidden = status === "Tombstone" && !state.gone && !by.Tombstone;
    }
  }

  drawNote(found) {
    const { store, state, feed } = this.app;
    const key = `${found}|${store.services.size}|${state.q}|${feed.phase}`;
    if (this.noted === key) return;
    this.noted = key;
    if (found) return place(this.note, []);
    if (!store.overview) return place(this.note, [make("p", { class: "empty", text: "Waiting for the agent …" })]);
    if (state.q.trim() || store.instances.size) {
      const clear = make("button", { type: "button", text: "Clear the filter", click: () => this.app.go({ q: "" }) });
      const words = state.q.trim() ? `Nothing matches “${state.q.trim()}”.` : "All instances are gone.";
      return place(this.note, [make("p", { class: "empty" }, words, " ", state.q.trim() ? clear : null)]);
    }
    return place(this.note, [firstSteps(store.ownHost())]);
  }

  head(fold, { service, list }) {
    const facts = service.summary();
    const { gone } = this.app.state;
    if (!fold.parts) {
      const cell = kind => make("span", { class: kind });
      fold.parts = {
        health: cell("health"), bar: cell("bar-cell"), versions: cell("versions"), ports: cell("ports"),
        mode: cell("mode"), hosts: cell("hosts-of"), changed: cell("changed"),
      };
      fold.parts.time = moment("");
      fold.parts.changed.append(fold.parts.time, " ago");
      fold.cells.append(...["health", "bar", "versions", "ports", "mode", "hosts", "changed"].map(it => fold.parts[it]));
    }
    const { parts } = fold;
    const all = facts.alive === facts.present;
    const part = list.length < facts.present ? make("span", { class: "part", text: `${list.length} shown` }) : null;
    parts.health.replaceChildren(
      make("b", { class: all ? "" : facts.alive ? "some" : "none", text: `${facts.alive}/${facts.present}` }),
      " alive", ...counts({ ...facts.by, Alive: 0 }, gone), part || "");
    parts.bar.replaceChildren(bar(facts.by));
    const versions = [...facts.versions.keys()];
    write(parts.versions, versions.length > 1 ? plural(versions.length, "version") : versions[0] || "–");
    attribute(parts.versions, "title", [...facts.versions].slice(0, 20).map(([it, number]) => `${it || "no version"}: ${number}`).join("\n"));
    write(parts.ports, facts.ports.length ? `:${facts.ports.slice(0, 4).join(" :")}${facts.ports.length > 4 ? " …" : ""}` : "no port");
    write(parts.mode, facts.modes.join(", ") || "–");
    write(parts.hosts, plural(facts.hosts.size, "host"));
    setMoment(parts.time, facts.newest);
    attribute(parts.changed, "title", "last change");
    fold.element.classList.toggle("down", facts.present > 0 && !facts.alive);
  }

  inside(fold, { list }) {
    fold.inner.table ||= new InstanceTable(this.app);
    place(fold.body, [fold.inner.table.element]);
    fold.inner.table.draw(list);
  }
}

// What to do where there is nothing yet.
function firstSteps(host) {
  const code = text => make("pre", { tabindex: "0" }, make("code", { text }));
  return make("div", { class: "empty steps" },
    make("h3", { text: "No services yet" }),
    make("p", { text: `The agent of ${host} runs and has found nothing to announce. Start a container with a label, and it appears here within a second:` }),
    code("docker run -d -P -l ServiceName=web -l ServicePort_80=9500 nginx"),
    make("p", { text: "or name services that do not run in containers in the file of STATIC_CONFIG_FILE, with SIDECAR_DISCOVERY=static:" }),
    code('[{"Service": {"Name": "db", "Ports": [{"Port": 5432, "ServicePort": 10432}]},\n  "Check": {"Type": "Tcp", "Args": "127.0.0.1:5432"}}]'),
    make("p", {}, "What this host sees of its sources stands at the ",
      make("a", { href: "#overview", text: "overview" }), "."));
}


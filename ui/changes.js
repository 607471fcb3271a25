// What has changed lately, and how long it took to get here.

import { Keyed, clock, lasting, make, place, plural, statusWord, write, agentNow, attribute } from "./dom.js";
import { changesPlot } from "./charts.js";
import { matches, parse } from "./filter.js";

const ROWS = 200;
const RANGES = [["10m", "10 min", 600_000], ["1h", "1 h", 3_600_000], ["6h", "6 h", 21_600_000], ["24h", "24 h", 86_400_000]];
// The plot moves on by itself this often.
const STEP_MS = 5000;

// The changes that the filter wants, oldest first.
export function foundChanges(store, terms) {
  return terms.length ? store.changes.filter(change => matches(change.instance, terms)) : store.changes;
}

export function changeRow(change, app) {
  const { instance } = change;
  const late = change.latency_ms;
  const arrived = change.derived || late === null || late === undefined
    ? make("span", { class: "faint", title: "Concluded by this agent, not told by the instance's host", text: "concluded here" })
    : make("span", { class: late > 5000 ? "why" : "", title: "From the stamp of its host to its arrival here", text: `took ${lasting(late)}` });
  const before = change.previous && change.previous !== instance.status
    ? [make("span", { class: "faint", text: change.previous }), make("span", { class: "arrow", "aria-hidden": "true", text: "→" }), make("span", { class: "unseen", text: " became " })]
    : change.previous ? [] : [make("span", { class: "faint", text: "new" }), " "];
  const href = app.link({ tab: "services", q: `id:${instance.id}`, gone: instance.status === "Tombstone", at: instance.key });
  return make("li", {},
    make("time", { datetime: change.at, title: change.at, text: clock(change.time) }),
    make("span", { class: "of-change" }, ...before, statusWord(instance.status)),
    make("a", { class: "of-service", href, title: instance.name, text: instance.name }),
    make("span", { class: "of-host", text: instance.hostname }),
    make("span", { class: "mono of-id", title: instance.id, text: instance.id }),
    make("span", { class: "of-version", title: instance.image, text: instance.version }),
    make("span", { class: "of-late" }, arrived));
}

export class ChangesView {
  rows = new Keyed();
  limit = ROWS;
  drawn = "";

  constructor(root, app) {
    this.app = app;
    this.plot = changesPlot("Changes over time");
    this.summary = make("p", { class: "faint" });
    this.ranges = make("div", { class: "chips", role: "group", "aria-label": "Time shown" }, ...RANGES.map(([name, text]) =>
      make("button", { type: "button", class: "chip", "data-range": name, text, click: () => app.go({ range: name === "10m" ? "" : name }) })));
    this.list = make("ol", { class: "timeline card" });
    this.note = make("p", { class: "empty" });
    this.more = make("button", { type: "button", class: "more", click: () => {
      this.limit += 5 * ROWS;
      this.drawn = "";
      this.draw();
    } });
    const legend = make("p", { class: "legend" }, "Became ", ...["Alive", "Unhealthy", "Unknown", "Draining", "Tombstone"].map(statusWord));
    root.append(make("div", { class: "view-head" }, make("h2", { text: "Changes" }), this.ranges),
      make("div", { class: "card padded" }, this.plot.element, legend), this.summary, this.list, this.note, this.more);
  }

  draw() {
    const { store, state } = this.app;
    const terms = parse(state.q);
    const [name, words, range] = RANGES.find(([it]) => it === state.range) || RANGES[0];
    const stamp = `${store.revision.changes}|${state.q}|${this.limit}|${name}`;
    const slot = Math.floor(agentNow() / STEP_MS);
    if (this.drawn === stamp && this.slot === slot) return;
    const found = foundChanges(store, terms);
    const shown = this.plot.draw(found, agentNow(), range);
    this.slot = slot;
    const late = found.slice(-1000).map(it => it.latency_ms).filter(it => Number.isFinite(it)).sort((a, b) => a - b);
    const part = share => lasting(late[Math.min(late.length - 1, Math.floor(share * late.length))]);
    const arrival = late.length ? `; from host to here in ${part(0.5)} (median), ${part(0.99)} (99 %)` : "";
    write(this.summary, `${plural(shown, "change")} in the last ${words}, ${plural(found.length, "change")} kept${arrival}${store.changesComplete ? "" : "; older ones are forgotten"}`);
    if (this.drawn === stamp) return;
    this.drawn = stamp;
    for (const button of this.ranges.children) attribute(button, "aria-pressed", String(button.dataset.range === name));
    this.rows.draw(this.list, found.slice(-this.limit).reverse(), it => it.id, it => changeRow(it, this.app), () => {});
    this.list.hidden = !found.length;
    this.more.hidden = found.length <= this.limit;
    write(this.more, `${found.length - this.limit} older`);
    place(this.note, found.length ? [] : [document.createTextNode(terms.length ? "No change matches." : "Nothing has changed since this agent started.")]);
    this.note.hidden = found.length > 0;
    this.app.tell(terms.length ? `${plural(found.length, "change")} found` : "");
  }
}


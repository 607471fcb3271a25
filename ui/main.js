// The page: what is looked at, what is drawn when, keys, and the state of the connection.

import { $, age, attribute, icon, lasting, make, place, tick, whole, write } from "./dom.js";
import * as address from "./address.js";
import { ChangesView } from "./changes.js";
import { drain, undrain } from "./commands.js";
import { Feed } from "./feed.js";
import { HostsView } from "./hosts.js";
import { OverviewView } from "./overview.js";
import { RoutesView } from "./routes.js";
import { ServicesView } from "./services.js";
import { Store } from "./store.js";
import { Traffic } from "./traffic.js";

const TITLES = { overview: "Overview", services: "Services", hosts: "Hosts", routes: "Routes", changes: "Changes" };
const VIEWS = { overview: OverviewView, services: ServicesView, hosts: HostsView, routes: RoutesView, changes: ChangesView };
const THEMES = ["auto", "light", "dark"];
// While somebody types the address is written now and then: browsers count how often.
const ADDRESS_AFTER_MS = 250;

class App {
  store = new Store();
  traffic = new Traffic();
  feed = new Feed(this.store, this.traffic, () => this.dirty());
  state = address.read();
  views = {};
  // Instances with a command under way.
  busy = new Set();
  frame = 0;
  typing = 0;

  start() {
    this.tabs();
    this.theme();
    this.keys();
    $("filter").value = this.state.q;
    $("gone").checked = this.state.gone;
    $("filter").addEventListener("input", () => this.type());
    $("gone").addEventListener("change", () => this.go({ gone: $("gone").checked }));
    $("search").addEventListener("submit", event => event.preventDefault());
    addEventListener("popstate", () => this.came());
    addEventListener("hashchange", () => this.came());
    setInterval(() => this.second(), 1000);
    this.feed.start();
    this.dirty();
  }

  // Draws in the next frame what has changed by then.
  dirty() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  draw() {
    const { tab } = this.state;
    for (const name of address.TABS) $(name).hidden = name !== tab;
    this.views[tab] ||= new VIEWS[tab]($(tab), this);
    this.views[tab].draw();
    if (this.shown && this.shown !== tab) scrollTo(0, 0);
    this.shown = tab;
    this.header();
    this.banners();
  }

  // Another state of what is looked at; `step` makes it one for the back button.
  go(patch, step = true) {
    clearTimeout(this.typing);
    this.typing = 0;
    Object.assign(this.state, patch);
    address.write(this.state, step);
    this.follow();
  }

  // The address of another state, for links.
  link(patch) {
    return address.text({ tab: "overview", q: "", gone: false, open: new Set(), at: "", range: "", ...patch });
  }

  open(key, open) {
    const all = new Set(this.state.open);
    if (open) all.add(key);
    else all.delete(key);
    this.go({ open: all });
  }

  // The address has changed under us.
  came() {
    clearTimeout(this.typing);
    this.typing = 0;
    this.state = address.read();
    this.follow();
  }

  follow() {
    if ($("filter").value.trim() !== this.state.q.trim()) $("filter").value = this.state.q;
    $("gone").checked = this.state.gone;
    this.dirty();
  }

  type() {
    // One step back for all that is typed in one go.
    if (!this.typing && !this.typed) address.write(this.state, false);
    this.state.q = $("filter").value;
    clearTimeout(this.typing);
    this.typing = setTimeout(() => {
      this.typing = 0;
      address.write(this.state, !this.typed);
      this.typed = true;
    }, ADDRESS_AFTER_MS);
    this.dirty();
  }

  second() {
    if (document.hidden) return;
    tick($(this.state.tab));
    if (this.feed.phase === "lost" || this.state.tab === "overview" || this.state.tab === "changes") this.dirty();
  }

  // The page of another host's agent, when it is one of ours and its address is known.
  hostPage(name, at = "") {
    const host = this.store.hosts.get(name);
    if (!host || host.own || host.kind !== "sidecar" || host.state === "dead" || host.state === "left") return "";
    const bare = (host.address || "").replace(/^\[(.*)\](:\d+)?$/, "$1").replace(/^([^:]+):\d+$/, "$1");
    if (!/^[0-9a-fA-F.:]+$/.test(bare)) return "";
    const authority = `${bare.includes(":") ? `[${bare}]` : bare}${location.port ? `:${location.port}` : ""}`;
    return `${location.protocol}//${authority}/ui/${at ? this.link({ tab: "services", q: `id:${at.slice(name.length + 1)}`, at }) : ""}`;
  }

  drain(instance) {
    drain(this, instance);
  }

  undrain(instance) {
    undrain(this, instance);
  }

  // How much the filter has found, for those who do not see it.
  tell(words) {
    clearTimeout(this.telling);
    this.telling = setTimeout(() => write($("found"), words), 200);
  }

  tabs() {
    this.links = new Map(address.TABS.map(tab => [tab, make("a", { href: `#${tab}` }, TITLES[tab], make("b"))]));
    place($("tabs"), [...this.links.values()]);
  }

  header() {
    const { store, state, feed } = this;
    const excluded = store.excluded.length;
    const numbers = { services: [...store.services.values()].filter(it => it.summary().present).length, hosts: store.hosts.size, routes: store.routes.length, changes: store.changes.length };
    for (const [tab, anchor] of this.links) {
      attribute(anchor, "href", address.text({ ...state, tab, open: new Set(), at: "" }));
      if (tab === state.tab) attribute(anchor, "aria-current", "page");
      else anchor.removeAttribute("aria-current");
      write(anchor.lastChild, store.overview && numbers[tab] !== undefined ? whole(numbers[tab]) : "");
      anchor.classList.toggle("warn", tab === "routes" && excluded > 0);
    }
    const it = store.overview;
    write($("cluster"), it ? `${it.cluster_name} · ${it.hostname}` : "");
    const title = `${feed.phase === "lost" ? "unreachable – " : ""}${it ? `${it.cluster_name} – ${it.hostname} – ` : ""}sidecar`;
    if (document.title !== title) document.title = title;
    const words = { connecting: "connecting", live: "live", lost: "unreachable" }[feed.phase];
    const live = $("live");
    if (live.dataset.phase !== feed.phase) {
      live.dataset.phase = feed.phase;
      live.replaceChildren(icon({ connecting: "unknown", live: "alive", lost: "unhealthy" }[feed.phase]), words);
    }
    document.body.classList.toggle("stale", feed.phase === "lost" && Boolean(it));
  }

  banners() {
    const { store, feed } = this;
    const found = [];
    if (feed.phase === "lost") {
      const host = store.ownHost() || location.host;
      const wait = Math.max(0, Math.ceil((feed.retryAt - Date.now()) / 1000));
      found.push({
        key: "lost", kind: "bad", role: "alert", title: `The agent of ${host} is not to be reached`,
        words: `since ${new Date(feed.since).toLocaleTimeString([], { hour12: false })} (${lasting(1000 * Math.floor((Date.now() - feed.since) / 1000))}): ${feed.trouble}. ${store.overview ? "What is shown is as it was then. " : ""}${wait ? `Next attempt in ${wait} s.` : "Trying …"}`,
        action: ["Try now", () => feed.now()],
      });
    }
    const away = [...store.hosts.values()].filter(host => host.state === "dead" || host.state === "suspect");
    if (away.length > 1) {
      const names = away.slice(0, 5).map(host => `${host.name} (${host.state})`).join(", ");
      const alive = [...store.hosts.values()].filter(host => host.state === "alive").length;
      found.push({
        key: "parted", kind: "warn", role: "status", title: `${away.length} of ${away.length + alive} hosts do not answer`,
        words: `${names}${away.length > 5 ? " and others" : ""}. Several at once often means a parted network: this page shows what ${store.ownHost() || "this host"} can see, and the others may see it the other way round.`,
        action: ["Hosts", () => this.go({ tab: "hosts", q: "", open: new Set(), at: "" })],
      });
    }
    if (feed.phase === "live" && store.overview && !store.overview.ready) {
      found.push({
        key: "starting", kind: "warn", role: "status", title: "This agent is not ready yet",
        words: `It waits for ${(store.overview.awaited || []).join(", ") || "its parts"}, running for ${age(Date.parse(store.overview.started))}.`,
      });
    }
    this.banner ||= new Map();
    for (const key of this.banner.keys()) if (!found.some(it => it.key === key)) this.banner.delete(key);
    for (const it of found) {
      let element = this.banner.get(it.key);
      if (!element) {
        const button = it.action && make("button", { type: "button", text: it.action[0] });
        // The seconds that go by are not read out: only that it began.
        element = make("div", { class: `banner ${it.kind}` }, icon(it.kind === "bad" ? "unhealthy" : "suspect"),
          make("b", { role: it.role }), make("span", {}), button);
        this.banner.set(it.key, element);
      }
      const button = element.querySelector("button");
      if (button) button.onclick = it.action[1];
      write(element.children[1], it.title);
      write(element.children[2], it.words);
    }
    place($("banners"), [...this.banner.values()]);
  }

  theme() {
    const button = $("theme");
    const root = document.documentElement;
    const show = () => {
      const theme = root.dataset.theme || "auto";
      write(button, { auto: "◐ Auto", light: "☀ Light", dark: "☾ Dark" }[theme]);
      attribute(button, "aria-label", `Colours: ${theme}. Change`);
    };
    button.addEventListener("click", () => {
      const next = THEMES[(THEMES.indexOf(root.dataset.theme || "auto") + 1) % THEMES.length];
      if (next === "auto") delete root.dataset.theme;
      else root.dataset.theme = next;
      try {
        if (next === "auto") localStorage.removeItem("sidecar-theme");
        else localStorage.setItem("sidecar-theme", next);
      } catch { /* Then only until the page is closed. */ }
      show();
    });
    show();
  }

  keys() {
    const filter = $("filter");
    filter.addEventListener("focus", () => this.typed = false);
    $("skip").addEventListener("click", event => {
      event.preventDefault();
      $("main").focus();
    });
    addEventListener("keydown", event => {
      if (event.ctrlKey || event.metaKey || event.altKey || $("ask").open) return;
      const writing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox";
      if (event.key === "/" && !writing) {
        event.preventDefault();
        filter.focus();
        filter.select();
      } else if (event.key === "Escape") {
        if (this.state.q) this.go({ q: "" });
        else if (this.state.at) this.go({ at: "" });
        else filter.blur();
      } else if (!writing && event.key >= "1" && event.key <= String(address.TABS.length)) {
        this.go({ tab: address.TABS[Number(event.key) - 1], open: new Set(), at: "" });
      }
    });
  }
}

const app = new App();
app.start();
// The page has arrived whole; see first.js.
try { sessionStorage.removeItem("sidecar-tries"); } catch { /* No storage, no attempts. */ }


// Where the data comes from: each document once, then what the stream of events tells. When the agent is not
// to be reached, what was known stays, and the attempts go on.

import { setClock } from "./dom.js";

const EVENTS = "/api/v2/events?topics=changes,hosts,traffic";
const ANSWER_WITHIN_MS = 10_000;
// The trouble of this host is in no event; its few lines are asked for again, which shows as well whether the
// agent is still there when the network has swallowed its goodbye.
const PULSE_MS = 10_000;
const RETRY_MS = [250, 500, 1000, 2000, 3000];
// A page that nobody looks at gives its connection back: browsers have six for each agent.
const UNSEEN_MS = 5000;

export async function ask(path, options = {}) {
  const answer = await fetch(path, { cache: "no-cache", signal: AbortSignal.timeout(ANSWER_WITHIN_MS), ...options });
  const text = await answer.text();
  let document = null;
  try { document = JSON.parse(text); } catch { /* Not all errors are JSON. */ }
  if (!answer.ok) {
    const error = new Error(document?.message || `${answer.status} ${answer.statusText || "without words"}`);
    error.status = answer.status;
    throw error;
  }
  if (document === null) throw new Error(`${path}: not JSON`);
  return document;
}

// Asks for a document again, soon, but not more often than it is good for the agent.
class Refresh {
  timer = 0;
  busy = false;
  again = false;
  last = 0;
  pause = 300;

  constructor(fetch) {
    this.fetch = fetch;
  }

  soon() {
    if (this.busy) this.again = true;
    if (this.busy || this.timer) return;
    this.timer = setTimeout(() => this.run(), Math.max(50, this.last + this.pause - performance.now()));
  }

  async run() {
    this.timer = 0;
    this.busy = true;
    this.again = false;
    const start = performance.now();
    await this.fetch();
    this.last = performance.now();
    // A large document takes long: ask for it a tenth of the time at most.
    this.pause = Math.min(10_000, Math.max(300, 10 * (this.last - start)));
    this.busy = false;
    if (this.again) this.soon();
  }
}

export class Feed {
  // `connecting` until there was something, then `live` or `lost`.
  phase = "connecting";
  since = Date.now();
  retryAt = 0;
  trouble = "";
  epoch = "";
  lastId = "";
  attempt = 0;
  stream = null;
  // Changes that came while the documents they belong to were still on their way.
  early = null;
  loading = 0;
  greeted = false;

  constructor(store, traffic, changed) {
    this.store = store;
    this.traffic = traffic;
    this.changed = changed;
    const refetch = (path, take) => new Refresh(async () => {
      if (this.phase !== "live" || document.hidden) return;
      try {
        take(await ask(path));
        changed();
      } catch (error) {
        this.failed(error);
      }
    });
    this.routes = refetch("/api/v2/routes", it => store.setRoutes(it));
    this.local = refetch("/api/v2/local", it => this.takeLocal(it));
    this.overview = refetch("/api/v2/overview", it => this.takeOverview(it));
  }

  start() {
    this.open();
    setInterval(() => {
      if (!document.hidden && this.phase === "live") this.overview.soon();
    }, PULSE_MS);
    // So does one that was left: the browser may keep it, with its connection, for the way back.
    addEventListener("pagehide", () => this.close());
    addEventListener("pageshow", event => event.persisted && this.open());
    let unseen = 0;
    document.addEventListener("visibilitychange", () => {
      clearTimeout(unseen);
      if (document.hidden) unseen = setTimeout(() => this.close(), UNSEEN_MS);
      else if (!this.stream) this.open();
      else this.refreshSmall();
    });
  }

  close() {
    clearTimeout(this.timer);
    this.stream?.close();
    this.stream = null;
  }

  // Tries at once what would be tried later.
  now() {
    this.attempt = 0;
    this.open();
  }

  open() {
    this.close();
    const resume = this.lastId ? `&last_event_id=${encodeURIComponent(this.lastId)}` : "";
    const stream = new EventSource(EVENTS + resume);
    this.stream = stream;
    // An attempt that nobody answers is over some time.
    this.timer = setTimeout(() => this.failed(new Error("no answer")), ANSWER_WITHIN_MS);
    const on = (name, take) => stream.addEventListener(name, event => {
      if (stream !== this.stream) return;
      if (event.lastEventId) this.lastId = event.lastEventId;
      const greeted = this.greeted;
      this.greeted = name === "hello";
      take(event.data ? JSON.parse(event.data) : null, greeted);
      this.changed();
    });
    on("hello", hello => this.hello(hello));
    // Right behind a hello of another agent it says what is known by then.
    on("reset", (_, greeted) => {
      if (!greeted || !this.early) this.load();
    });
    on("change", change => this.take(change));
    on("hosts", hosts => {
      this.store.setHosts(hosts.hosts || hosts);
      this.routes.soon();
    });
    on("traffic", it => this.traffic.take(it));
    stream.onerror = () => {
      if (stream !== this.stream) return;
      this.failed(new Error("the connection ended"));
      this.explain();
    };
  }

  // A stream does not tell why it was refused; an ordinary request does.
  async explain() {
    const turn = this.loading;
    const asked = new AbortController();
    try {
      const answer = await fetch(EVENTS, { signal: asked.signal });
      if (answer.ok || turn !== this.loading) return;
      const text = await answer.text();
      let words = "";
      try { words = JSON.parse(text).message; } catch { /* Then the status has to do. */ }
      this.trouble = words || `the agent answers ${answer.status}`;
      this.changed();
    } catch { /* Not even that: it is away. */ } finally {
      asked.abort();
    }
  }

  hello(hello) {
    clearTimeout(this.timer);
    this.attempt = 0;
    const other = this.epoch !== hello.epoch;
    this.epoch = hello.epoch;
    if (other) {
      this.lastId = "";
      this.traffic.forget();
      this.load();
    } else {
      this.live();
      this.refreshSmall();
    }
  }

  refreshSmall() {
    for (const part of [this.overview, this.local, this.routes]) part.soon();
  }

  live() {
    if (this.phase !== "live") this.since = Date.now();
    this.phase = "live";
    this.trouble = "";
    this.changed();
  }

  async load() {
    const turn = ++this.loading;
    this.early = [];
    const take = (path, use) => ask(path).then(document => {
      if (turn !== this.loading) return;
      use(document);
      this.changed();
    });
    try {
      await Promise.all([
        take("/api/v2/overview", it => this.takeOverview(it)),
        take("/api/v2/hosts", it => this.store.setHosts(it.hosts)),
        take("/api/v2/instances", it => this.store.setInstances(it)),
        take("/api/v2/routes", it => this.store.setRoutes(it)),
        take("/api/v2/local", it => this.takeLocal(it)),
        take("/api/v2/changes", it => this.store.setChanges(it)),
      ]);
      if (turn !== this.loading) return;
      const early = this.early;
      this.early = null;
      for (const change of early) this.store.apply(change);
      this.live();
      // What the proxy says of its ports is a second thought, and an agent may have no proxy.
      await take("/api/v2/proxy", it => this.store.setProxy(it)).catch(() => {});
    } catch (error) {
      if (turn === this.loading) this.failed(error);
    }
  }

  takeLocal(local) {
    this.store.setLocal(local);
    if (local.kernel) this.traffic.takeKernel(local.kernel, performance.now());
  }

  takeOverview(overview) {
    const before = this.store.overview;
    setClock(overview.now);
    this.store.setOverview(overview);
    // Sources and listeners are told at length in another document.
    const words = it => JSON.stringify([it?.trouble, it?.sources]);
    if (before && words(before) !== words(overview) || overview.proxy?.plane === "kernel") this.local.soon();
  }

  take(change) {
    if (this.early) {
      this.early.push(change);
      return;
    }
    this.store.apply(change);
    this.routes.soon();
    if (this.store.owns(change.instance)) {
      this.local.soon();
      this.overview.soon();
    }
  }

  failed(error) {
    this.close();
    this.early = null;
    this.loading++;
    // What did not arrive whole has to be asked for again.
    if (this.phase !== "live") this.epoch = "";
    if (this.phase !== "lost") this.since = Date.now();
    this.phase = "lost";
    this.trouble = error.message;
    const wait = RETRY_MS[Math.min(this.attempt++, RETRY_MS.length - 1)];
    this.retryAt = Date.now() + wait;
    this.timer = setTimeout(() => this.open(), wait);
    this.changed();
  }
}

// What is looked at, kept in the address: `#services?q=web&gone=1&open=web`. So a reload shows the same, a link
// can be sent to somebody, and the back button works.

export const TABS = ["overview", "services", "hosts", "routes", "changes"];
// More open ones than this are not worth an address.
const OPEN_MAX = 50;

export function read() {
  const hash = location.hash.slice(1);
  const cut = hash.indexOf("?");
  const tab = cut < 0 ? hash : hash.slice(0, cut);
  const words = new URLSearchParams(cut < 0 ? "" : hash.slice(cut + 1));
  return {
    tab: TABS.includes(tab) ? tab : "overview",
    q: (words.get("q") || "").slice(0, 200),
    gone: words.get("gone") === "1",
    open: new Set(words.getAll("open").slice(0, OPEN_MAX)),
    at: words.get("at") || "",
    range: words.get("range") || "",
  };
}

export function text(state) {
  const words = new URLSearchParams();
  if (state.q.trim()) words.set("q", state.q);
  if (state.gone) words.set("gone", "1");
  for (const name of [...state.open].slice(0, OPEN_MAX)) words.append("open", name);
  if (state.at) words.set("at", state.at);
  if (state.range) words.set("range", state.range);
  const query = words.toString();
  return `#${state.tab}${query ? `?${query}` : ""}`;
}

// `step` makes an entry of its own for the back button.
export function write(state, step) {
  const hash = text(state);
  if (hash === location.hash) return;
  if (step) history.pushState(null, "", hash);
  else history.replaceState(null, "", hash);
}

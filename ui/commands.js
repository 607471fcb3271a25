// The two commands of the page: to drain an instance of this host, and to take that back.

import { $, icon, make, place } from "./dom.js";

// So long the agent waits for others to have seen it before it says who has.
const WAIT = "10s";
const ANSWER_WITHIN_MS = 30_000;
const TOAST_MS = 12_000;
const TOASTS_MAX = 4;
const TIMES = [["", "until it is undrained or ends"], ["10m", "for 10 minutes"], ["1h", "for an hour"], ["8h", "for 8 hours"]];

// Says something that happened, for a while.
export function toast(good, words) {
  const element = make("div", { class: `toast ${good ? "good" : "bad"}` }, icon(good ? "alive" : "unhealthy", good ? "alive" : "unhealthy"),
    make("span", { text: words }), make("button", { type: "button", class: "quiet", "aria-label": "Dismiss", text: "×", click: () => element.remove() }));
  const toasts = $("toasts");
  toasts.append(element);
  while (toasts.children.length > TOASTS_MAX) toasts.firstChild.remove();
  // What went wrong stays until it was read.
  if (good) setTimeout(() => element.remove(), TOAST_MS);
}

async function command(app, instance, verb, query) {
  app.busy.add(instance.key);
  app.dirty();
  try {
    const path = `/api/v2/instances/${encodeURIComponent(instance.id)}/${verb}?wait=${WAIT}${query}`;
    const answer = await fetch(path, { method: "POST", signal: AbortSignal.timeout(ANSWER_WITHIN_MS) });
    const text = await answer.text();
    let document = {};
    try { document = JSON.parse(text); } catch { /* Then the status has to do. */ }
    if (!answer.ok) throw new Error(document.message || `the agent answered ${answer.status} ${text.slice(0, 200)}`.trim());
    toast(true, told(instance, document));
  } catch (error) {
    const words = error.name === "TimeoutError" ? `no answer within ${ANSWER_WITHIN_MS / 1000} s` : error.message;
    toast(false, `Cannot ${verb} ${instance.name} ${instance.id}: ${words}`);
  } finally {
    app.busy.delete(instance.key);
    app.dirty();
  }
}

function told(instance, { status, until, applied }) {
  const words = [`${instance.name} ${instance.id} is ${status || "Draining"}${until ? ` until ${new Date(until).toLocaleTimeString()}` : ""}`];
  if (applied) {
    const names = list => list.length > 4 ? `${list.length} hosts` : list.join(", ");
    if (applied.confirmed?.length) words.push(`applied on ${names(applied.confirmed)}`);
    if (applied.unconfirmed?.length) words.push(`not confirmed by ${names(applied.unconfirmed)}`);
    if (applied.not_asked?.length) words.push(`${names(applied.not_asked)} cannot be asked`);
  }
  return words.join("; ");
}

export function undrain(app, instance) {
  return command(app, instance, "undrain", "");
}

// Asks before it drains, and for how long.
export function drain(app, instance) {
  const dialog = $("ask");
  const time = make("select", { id: "drain-time" }, ...TIMES.map(([value, text]) => make("option", { value, text })));
  const others = app.store.services.get(instance.name)?.summary().alive - (instance.status === "Alive" ? 1 : 0);
  const consequence = others > 0
    ? `It gets no new connections on any host. ${others} other ${others === 1 ? "instance stays" : "instances stay"}.`
    : "No other instance of this service is alive: nothing will be left to answer.";
  const form = make("form", { method: "dialog", class: "ask" },
    make("h2", { id: "ask-title", text: `Drain ${instance.name}?` }),
    make("p", {}, make("span", { class: "mono", text: instance.id }), ` on ${instance.hostname}`),
    make("p", { class: others > 0 ? "" : "why" }, others > 0 ? null : icon("suspect"), consequence),
    make("p", {}, make("label", { for: "drain-time", text: "Drain " }), time),
    make("div", { class: "buttons" },
      make("button", { value: "cancel", class: "quiet", text: "Cancel" }),
      make("button", { value: "drain", class: "primary", text: "Drain" })));
  place(dialog, [form]);
  dialog.returnValue = "cancel";
  dialog.onclose = () => {
    if (dialog.returnValue === "drain") command(app, instance, "drain", time.value ? `&timeout=${time.value}` : "");
  };
  dialog.showModal();
}

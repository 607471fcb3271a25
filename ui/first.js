// What must not wait for the rest: the colours somebody has chosen here earlier, before anything is painted; and
// another attempt when a part of the page did not arrive, which browsers leave at that. A new network interface is
// enough for it (ERR_NETWORK_CHANGED), and every container brings one.
"use strict";
(() => {
  const TRIES_MAX = 5;
  const stored = (store, name) => { try { return store().getItem(name); } catch { return null; } };
  const theme = stored(() => localStorage, "sidecar-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;

  let failed = false;
  addEventListener("error", event => {
    if (failed || !(event.target instanceof HTMLScriptElement || event.target instanceof HTMLLinkElement)) return;
    failed = true;
    // Without a memory of the attempts there is none, rather than one without end.
    let tries = TRIES_MAX;
    try {
      tries = Number(sessionStorage.getItem("sidecar-tries"));
      sessionStorage.setItem("sidecar-tries", String(tries + 1));
    } catch { tries = TRIES_MAX; }
    if (tries < TRIES_MAX) setTimeout(() => location.reload(), 300 * (tries + 1));
    else {
      const tell = () => { document.getElementById("live").textContent = "not loaded whole: reload the page"; };
      if (document.readyState === "loading") addEventListener("DOMContentLoaded", tell);
      else tell();
    }
  }, true);
})();

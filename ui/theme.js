// Before anything is painted: the colours somebody has chosen here earlier. Everything else waits.
"use strict";
try {
  const theme = localStorage.getItem("sidecar-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* No storage: the system's colours. */ }

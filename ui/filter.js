// The language of the filter: words that must all be found, `field:word` for one field, `-word` for what must not.

const FIELDS = new Set(["name", "host", "id", "status", "version", "port"]);

export function parse(text) {
  const terms = [];
  for (let word of text.toLowerCase().split(/\s+/)) {
    const not = word.startsWith("-") && word.length > 1;
    if (not) word = word.slice(1);
    if (!word) continue;
    const colon = word.indexOf(":");
    const field = colon > 0 ? word.slice(0, colon) : "";
    if (FIELDS.has(field)) {
      if (word.length > colon + 1) terms.push({ field, word: word.slice(colon + 1), not });
    } else {
      terms.push({ field: "", word, not });
    }
  }
  return terms;
}

function holds(it, { field, word }) {
  if (!field) return it.text.includes(word);
  const value = it.fields[field];
  if (value === undefined) return false;
  // 80 is not 8080; the beginning of a status is enough.
  if (field === "port") return value.has(word);
  return field === "status" ? value.startsWith(word) : value.includes(word);
}

// `it` has `text` and `fields`, in small letters.
export function matches(it, terms) {
  return terms.every(term => holds(it, term) !== term.not);
}

// Whether the filter wants this status and nothing else of it.
export function statusOf(text) {
  const found = parse(text).filter(term => term.field === "status" && !term.not);
  return found.length === 1 ? found[0].word : "";
}

// The filter with another status, or with none.
export function withStatus(text, status) {
  const words = text.split(/\s+/).filter(word => word && !/^status:/i.test(word));
  if (status) words.push(`status:${status.toLowerCase()}`);
  return words.join(" ");
}

export function hostSearch(host) {
  const fields = { host: host.name.toLowerCase(), name: "", id: "", version: "", port: new Set(), status: host.state };
  return { fields, text: [fields.host, host.address, host.state, host.kind].join("\n").toLowerCase() };
}

export function routeSearch(item) {
  const endpoints = item.route?.endpoints || [];
  const all = [...endpoints, ...item.excluded];
  const fields = {
    name: item.service.toLowerCase(), host: all.map(it => it.hostname).join("\n").toLowerCase(),
    id: all.map(it => it.id).join("\n").toLowerCase(), version: "", status: "",
    port: new Set([String(item.port), ...endpoints.map(it => it.address.slice(it.address.lastIndexOf(":") + 1))]),
  };
  const words = [fields.name, fields.host, fields.id, item.mode, ...fields.port, ...endpoints.map(it => it.address),
    ...item.excluded.map(it => it.reason)];
  return { fields, text: words.join("\n").toLowerCase() };
}

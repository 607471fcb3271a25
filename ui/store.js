// What is known of the cluster: the documents of the API and every change since, indexed for the views.

const TOMBSTONE = "Tombstone";
// As many as the agent keeps.
const CHANGES_MAX = 4096;

export function instanceKey(host, id) {
  return `${host}/${id}`;
}

// What the filter looks at, made once for each state of an instance.
function searchable(instance) {
  const ports = new Set();
  for (const port of instance.ports || []) {
    ports.add(String(port.port));
    if (port.service_port) ports.add(String(port.service_port));
  }
  const fields = {
    name: instance.name.toLowerCase(), host: instance.hostname.toLowerCase(), id: instance.id.toLowerCase(),
    status: instance.status.toLowerCase(), version: `${instance.version} ${instance.image}`.toLowerCase(), port: ports,
  };
  const words = [fields.name, fields.host, fields.id, fields.status, fields.version, ...ports];
  return { fields, text: words.join("\n") };
}

function indexed(instance) {
  instance.key = instanceKey(instance.hostname, instance.id);
  Object.assign(instance, searchable(instance));
  return instance;
}

class Service {
  instances = new Map();
  sorted = null;
  facts = null;
  // Grows with each change, so that views know what to draw anew.
  revision = 0;

  constructor(name) {
    this.name = name;
  }

  touch() {
    this.sorted = null;
    this.facts = null;
    this.revision++;
  }

  list() {
    this.sorted ||= [...this.instances.values()].sort((a, b) =>
      compare(a.hostname, b.hostname) || compare(a.id, b.id));
    return this.sorted;
  }

  // Counts by status, and what the instances that are there have in common.
  summary() {
    if (this.facts) return this.facts;
    const by = {}, versions = new Map(), ports = new Set(), hosts = new Set(), modes = new Set();
    let newest = "";
    for (const it of this.instances.values()) {
      by[it.status] = (by[it.status] || 0) + 1;
      if (it.updated > newest) newest = it.updated;
      if (it.status === TOMBSTONE) continue;
      versions.set(it.version, (versions.get(it.version) || 0) + 1);
      hosts.add(it.hostname);
      modes.add(it.mode);
      for (const port of it.ports || []) if (port.service_port) ports.add(port.service_port);
    }
    const present = this.instances.size - (by[TOMBSTONE] || 0);
    this.facts = {
      by, present, alive: by.Alive || 0, versions, hosts, modes: [...modes], newest,
      ports: [...ports].sort((a, b) => a - b),
    };
    return this.facts;
  }
}

export function compare(a, b) {
  return a < b ? -1 : a > b ? 1 : 0;
}

export class Store {
  overview = null;
  local = { sources: {}, remarks: [], checks: {}, listeners: {} };
  hosts = new Map();
  services = new Map();
  instances = new Map();
  routes = [];
  excluded = [];
  excludedOf = new Map();
  bindIp = "";
  planePorts = new Map();
  changes = [];
  changeIds = new Set();
  changesComplete = true;
  // One number for each part, so that views know what to draw anew.
  revision = { overview: 0, local: 0, hosts: 0, instances: 0, routes: 0, changes: 0 };
  names = null;

  setOverview(document) {
    this.overview = document;
    this.revision.overview++;
  }

  setLocal(document) {
    this.local = { sources: {}, remarks: [], checks: {}, listeners: {}, ...document };
    this.revision.local++;
  }

  setHosts(list) {
    this.hosts = new Map(list.map(host => [host.name, host]));
    this.revision.hosts++;
  }

  setInstances(document) {
    const old = this.services;
    this.services = new Map();
    this.instances = new Map();
    this.names = null;
    for (const instance of document.instances) this.put(indexed(instance));
    // Revisions go on where they were: a view must not take the new service for the one it has drawn.
    for (const service of this.services.values()) service.revision += (old.get(service.name)?.revision || 0) + 1;
    this.revision.instances++;
  }

  setRoutes(document) {
    this.routes = document.routes;
    this.excluded = document.excluded;
    this.bindIp = document.bind_ip || "";
    this.excludedOf = new Map();
    for (const it of document.excluded) {
      const key = instanceKey(it.hostname, it.id);
      const all = this.excludedOf.get(key) || [];
      all.push(it);
      this.excludedOf.set(key, all);
    }
    this.revision.routes++;
  }

  setProxy(document) {
    this.planePorts = new Map((document.ports || []).map(port => [port.service_port, port]));
    this.revision.routes++;
  }

  setChanges(document) {
    this.changes = [];
    this.changeIds = new Set();
    this.changesComplete = document.complete;
    for (const change of document.changes) this.remember(change);
  }

  remember(change) {
    if (this.changeIds.has(change.id)) return;
    this.changeIds.add(change.id);
    change.instance = indexed({ ...change.instance });
    change.time = Date.parse(change.at);
    this.changes.push(change);
    if (this.changes.length > CHANGES_MAX) {
      this.changeIds.delete(this.changes.shift().id);
      this.changesComplete = false;
    }
    this.revision.changes++;
  }

  // A change as it comes live.
  apply(change) {
    this.remember(change);
    this.put(indexed({ ...change.instance }));
    this.revision.instances++;
  }

  put(instance) {
    const before = this.instances.get(instance.key);
    if (before && before.name !== instance.name) this.take(before);
    let service = this.services.get(instance.name);
    if (!service) {
      service = new Service(instance.name);
      this.services.set(instance.name, service);
      this.names = null;
    }
    this.instances.set(instance.key, instance);
    service.instances.set(instance.key, instance);
    service.touch();
  }

  take(instance) {
    const service = this.services.get(instance.name);
    service.instances.delete(instance.key);
    service.touch();
    if (service.instances.size) return;
    this.services.delete(service.name);
    this.names = null;
  }

  // All services, by name.
  sortedServices() {
    this.names ||= [...this.services.values()].sort((a, b) => compare(a.name.toLowerCase(), b.name.toLowerCase()) || compare(a.name, b.name));
    return this.names;
  }

  // Counts by status over everything.
  totals() {
    const by = {};
    for (const service of this.services.values()) {
      for (const [status, number] of Object.entries(service.summary().by)) by[status] = (by[status] || 0) + number;
    }
    return by;
  }

  ownHost() {
    return this.overview?.hostname || "";
  }

  // Whether this agent checks and drains the instance: it is of this host, or named by its static file.
  owns(instance) {
    return instance.hostname === this.ownHost() || this.local.checks[instance.id]?.service === instance.name;
  }
}

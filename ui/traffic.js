// What this host's data plane carries: counters every two seconds, made into rates of which the last minutes
// are kept.

// Two minutes.
const KEPT = 60;

class Series {
  rates = new Float32Array(KEPT);
  length = 0;
  before = null;
  rate = NaN;
  latency = NaN;
  inFlight = 0;
  failed = 0;
  avoided = false;

  // `total` counts requests, or connections where there are none; `sum` the time they took, in milliseconds.
  take(time, total, sum) {
    const before = this.before;
    this.before = { time, total, sum };
    if (!before || time <= before.time) return;
    // A counter that went back began anew, with its proxy.
    const more = total >= before.total ? total - before.total : total;
    const took = sum >= before.sum ? sum - before.sum : sum;
    this.rate = more / ((time - before.time) / 1000);
    this.latency = more > 0 ? took / more : NaN;
    if (this.length === KEPT) this.rates.copyWithin(0, 1);
    else this.length++;
    this.rates[this.length - 1] = this.rate;
  }

  values() {
    return this.rates.subarray(0, this.length);
  }
}

export class Traffic {
  ports = new Map();
  // What the kernel carries is told elsewhere and less often.
  kernel = new Map();
  all = new Series();
  revision = 0;

  forget() {
    this.ports = new Map();
    this.kernel = new Map();
    this.all = new Series();
    this.revision++;
  }

  take(event) {
    const time = Date.parse(event.at);
    const ports = new Map();
    const all = { total: 0, sum: 0, inFlight: 0 };
    for (const it of event.ports) {
      const port = this.ports.get(it.service_port) || { series: new Series(), endpoints: new Map(), requests: false };
      // A service in mode tcp has connections and no requests.
      port.requests ||= it.requests_total > 0;
      const total = port.requests ? it.requests_total : it.connections_total;
      port.series.take(time, total, it.sum_ms || 0);
      if (!it.sum_ms) port.series.latency = NaN;
      port.series.inFlight = it.connections_open;
      const endpoints = new Map();
      let inFlight = 0, failed = 0;
      for (const at of it.endpoints || []) {
        const series = port.endpoints.get(at.address) || new Series();
        series.take(time, at.requests_total, at.sum_ms || 0);
        // A connection of mode tcp takes no time that could be told.
        if (!at.sum_ms) series.latency = NaN;
        series.inFlight = at.in_flight;
        series.failed = at.failed;
        series.avoided = at.avoided;
        inFlight += at.in_flight;
        failed += at.failed;
        endpoints.set(at.address, series);
      }
      port.endpoints = endpoints;
      port.series.failed = failed;
      if (endpoints.size) port.series.inFlight = inFlight;
      all.total += total;
      all.sum += it.sum_ms || 0;
      all.inFlight += port.series.inFlight;
      ports.set(it.service_port, port);
    }
    this.ports = ports;
    this.all.take(time, all.total, all.sum);
    if (!all.sum) this.all.latency = NaN;
    this.all.inFlight = all.inFlight;
    this.revision++;
  }

  // Connections of the ports that the kernel serves; it knows no times and not what is open.
  takeKernel(status, time) {
    const ports = new Map();
    for (const [number, it] of Object.entries(status?.ports || {})) {
      const port = this.kernel.get(Number(number)) || { series: new Series(), endpoints: new Map(), requests: false };
      const endpoints = new Map();
      let total = 0;
      for (const at of it.endpoints || []) {
        const series = port.endpoints.get(at.address) || new Series();
        series.take(time, at.connections, 0);
        series.latency = NaN;
        series.inFlight = "–";
        total += at.connections;
        endpoints.set(at.address, series);
      }
      port.endpoints = endpoints;
      port.series.take(time, total, 0);
      port.series.latency = NaN;
      port.series.inFlight = "–";
      ports.set(Number(number), port);
    }
    this.kernel = ports;
    this.revision++;
  }

  // Connections per second that the kernel takes; NaN where it takes part in nothing.
  kernelRate() {
    let sum = NaN;
    for (const { series } of this.kernel.values()) if (series.length) sum = (sum || 0) + series.rate;
    return sum;
  }

  port(number) {
    return this.kernel.get(number) || this.ports.get(number) || null;
  }

  endpoint(number, address) {
    return this.port(number)?.endpoints.get(address) || null;
  }
}

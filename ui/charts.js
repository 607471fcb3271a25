// Small pictures, drawn as SVG. What they show stands in words beside them or in their label.

import { STATUSES, clock, plural, svg } from "./dom.js";

// A line of values with the area below; `draw(values)` changes it.
export function sparkline(width = 96, height = 22) {
  const area = svg("path", { class: "area" });
  const line = svg("path", { class: "line" });
  const element = svg("svg", {
    class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true",
  }, area, line);
  return {
    element,
    draw(values, room = 60) {
      let top = 0;
      for (const value of values) if (value > top) top = value;
      if (values.length < 2) {
        area.setAttribute("d", "");
        line.setAttribute("d", "");
        return;
      }
      const step = width / (room - 1);
      const left = width - (values.length - 1) * step;
      let path = "";
      for (let i = 0; i < values.length; i++) {
        const y = height - 1.5 - (top > 0 ? values[i] / top : 0) * (height - 3);
        path += `${i ? "L" : "M"}${(left + i * step).toFixed(1)} ${y.toFixed(1)}`;
      }
      line.setAttribute("d", path);
      area.setAttribute("d", `${path}L${width} ${height}L${left.toFixed(1)} ${height}Z`);
    },
  };
}

const ROUND_MS = [1000, 2000, 5000, 10_000, 30_000, 60_000, 300_000, 600_000, 1_800_000, 3_600_000, 10_800_000];

// Changes over time as bars of the statuses they led to.
export function changesPlot(label) {
  const height = 120, foot = 18;
  const element = svg("svg", { class: "plot", role: "img" });
  return {
    element,
    draw(changes, now, range) {
      const width = Math.max(240, element.clientWidth || 900);
      const columns = width < 600 ? 45 : 90;
      element.setAttribute("viewBox", `0 0 ${width} ${height}`);
      const slot = range / columns;
      const start = Math.floor((now - range) / slot) * slot + slot;
      const sums = Array.from({ length: columns }, () => ({}));
      let top = 1, shown = 0;
      for (let i = changes.length - 1; i >= 0; i--) {
        const { time, instance } = changes[i];
        if (time < start) break;
        const sum = sums[Math.min(columns - 1, Math.floor((time - start) / slot))];
        sum[instance.status] = (sum[instance.status] || 0) + 1;
        sum.all = (sum.all || 0) + 1;
        top = Math.max(top, sum.all);
        shown++;
      }
      const parts = [];
      const floor = height - foot;
      parts.push(svg("line", { class: "axis", x1: 0, x2: width, y1: floor + 0.5, y2: floor + 0.5 }));
      const step = ROUND_MS.find(it => range / it <= (width < 600 ? 4 : 10)) || ROUND_MS.at(-1);
      for (let time = Math.ceil(start / step) * step; time < start + range; time += step) {
        const x = (time - start) / range * width;
        if (x < 20 || x > width - 30) continue;
        const text = svg("text", { x, y: height - 4, "text-anchor": "middle" });
        text.textContent = clock(time).slice(0, step < 60_000 ? 8 : 5);
        parts.push(svg("line", { class: "grid", x1: x, x2: x, y1: 0, y2: floor }), text);
      }
      const most = svg("text", { x: 2, y: 10 });
      most.textContent = String(top);
      parts.push(svg("line", { class: "grid", x1: 22, x2: width, y1: 6, y2: 6 }), most);
      const wide = width / columns;
      sums.forEach((sum, place) => {
        let y = floor;
        for (const status of STATUSES) {
          if (!sum[status]) continue;
          const tall = Math.max(1.5, sum[status] / top * (floor - 6));
          y -= tall;
          const title = svg("title");
          title.textContent = `${clock(start + place * slot)}: ${sum[status]} became ${status}`;
          parts.push(svg("rect", {
            class: status.toLowerCase(), x: (place * wide + 1).toFixed(1), y: y.toFixed(1),
            width: (wide - 2).toFixed(1), height: tall.toFixed(1),
          }, title));
        }
      });
      element.replaceChildren(...parts);
      element.setAttribute("aria-label", `${label}: ${plural(shown, "change")}, at most ${top} in one bar`);
      return shown;
    },
  };
}

// A long list of things that can be opened. The browser leaves out what is not in sight (`content-visibility`),
// so do we: a head is filled when it comes near, what is inside when it is opened.

import { icon, make, place, write } from "./dom.js";

export class FoldList {
  folds = new Map();

  // `head(fold, item)` fills and updates the cells of a head, `inside(fold, item)` what is below it;
  // `live(fold, item)`, if given, draws what moves all the time, of those in sight.
  constructor(root, kind, { head, inside, live, toggle }) {
    this.root = root;
    this.kind = kind;
    this.fill = { head, inside, live };
    this.toggle = toggle;
    this.sight = new IntersectionObserver(entries => {
      for (const entry of entries) {
        const fold = this.folds.get(entry.target.dataset.key);
        if (!fold || fold.element !== entry.target) continue;
        fold.near = entry.isIntersecting;
        if (fold.near) this.update(fold);
      }
    }, { rootMargin: "300px" });
  }

  // Shows these items, each `{key, label, head, inside}` of which the last two are texts that differ when there
  // is something to draw anew.
  draw(items, open) {
    const nodes = [];
    const seen = new Set();
    for (const item of items) {
      seen.add(item.key);
      let fold = this.folds.get(item.key);
      if (!fold) {
        fold = this.create(item);
        this.folds.set(item.key, fold);
      }
      fold.item = item;
      fold.open = open(item);
      if (fold.near || fold.open || fold.shown) this.update(fold);
      nodes.push(fold.element);
    }
    for (const [key, fold] of this.folds) {
      // Those that the filter has taken away may come back with the next key; they cost nothing meanwhile.
      if (seen.has(key) || this.folds.size <= 2 * items.length + 4000) continue;
      this.sight.unobserve(fold.element);
      this.folds.delete(key);
    }
    place(this.root, nodes);
  }

  create(item) {
    const button = make("button", { type: "button", class: "opener", "aria-expanded": "false", text: item.label });
    const chevron = icon("chevron", "chevron");
    const cells = make("div", { class: "cells" });
    const head = make("div", { class: "head" }, make("h3", {}, chevron, button), cells);
    const element = make("section", { class: `fold ${this.kind}`, "data-key": item.key, "aria-label": item.label }, head);
    const fold = { element, button, cells, near: false, shown: false, open: false, item, drawn: {}, parts: null, body: null };
    button.addEventListener("click", () => this.toggle(fold.item, !fold.open));
    this.sight.observe(element);
    return fold;
  }

  update(fold) {
    const { item, drawn } = fold;
    if (drawn.head !== item.head) {
      drawn.head = item.head;
      write(fold.button, item.label);
      this.fill.head(fold, item);
    }
    if (fold.open !== fold.shown) {
      fold.shown = fold.open;
      fold.element.classList.toggle("open", fold.open);
      fold.button.setAttribute("aria-expanded", String(fold.open));
      if (!fold.open) {
        fold.body?.remove();
        fold.body = null;
        drawn.inside = null;
      }
    }
    if (fold.open) {
      if (!fold.body) {
        fold.body = make("div", { class: "inside" });
        fold.element.append(fold.body);
        fold.inner = {};
      }
      if (drawn.inside !== item.inside) {
        drawn.inside = item.inside;
        this.fill.inside(fold, item);
      }
    }
    if (fold.near) this.fill.live?.(fold, item);
  }

  // Draws what moves all the time.
  beat() {
    if (!this.fill.live) return;
    for (const fold of this.folds.values()) if (fold.near && fold.drawn.head) this.fill.live(fold, fold.item);
  }
}

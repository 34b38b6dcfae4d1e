"use strict";
// Draws the figures (Vega-Lite specifications, made with altair) for the width they find, and filters what is shown.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const places = [...document.querySelectorAll("[data-figure]")];
  const boxes = [...document.querySelectorAll("#filters input")];
  const drawn = new Map();
  const chosen = (kind) => boxes.filter((box) => box.name === kind && box.checked).map((box) => box.value);

  // -- Figures
  const tip = document.getElementById("tooltip");
  const say = (_, event, item, value) => {
    tip.hidden = !value;
    if (!value) return;
    const lines = Object.entries(value).map(([name, text]) => (name === "text" ? text : `${name}: ${text}`));
    tip.textContent = typeof value === "object" ? lines.join("\n") : value;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(6, Math.min(event.clientX + 14, innerWidth - width - 6))}px`;
    tip.style.top = `${event.clientY < height + 20 ? event.clientY + 18 : event.clientY - height - 12}px`;
  };

  // As many panels in a row as there is room for, each as wide as the others.
  const fit = (spec, space) => {
    const { width, left, gap, panels } = spec.usermeta;
    const most = Math.max(1, Math.floor((space + gap) / (width + left + gap)));
    const columns = Math.min(most, panels);
    const each = Math.min(Math.floor((space + gap) / columns) - left - gap, 2 * width, Math.max(width, 760));
    if (panels > 1) spec.columns = columns;
    spec.config.legend.columns = Math.max(1, Math.floor(space / 150));
    for (const panel of spec.concat ?? [spec.spec ?? spec]) panel.width = each;
    return spec;
  };

  const draw = async (place) => {
    if (place.closest("details:not([open])")) return; // drawn when it opens
    const style = getComputedStyle(place);
    const space = place.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const spec = fit(structuredClone(figures[place.dataset.figure]), space);
    const before = drawn.get(place);
    for (const param of spec.params ?? []) {
      if (boxes.some((box) => box.name === param.name)) param.value = chosen(param.name);
      else if (param.bind && before) param.value = before.view.signal(param.name);
    }
    before?.finalize();
    const options = { ast: true, renderer: "svg", actions: false, defaultStyle: false, tooltip: say, logLevel: 1 };
    drawn.set(place, await vegaEmbed(place, spec, options));
  };

  const drawAll = async () => {
    for (const place of places) {
      await draw(place);
      await new Promise((next) => setTimeout(next)); // what is drawn already can be read and used meanwhile
    }
    document.body.dataset.drawn = String(drawn.size);
  };
  for (const box of document.querySelectorAll("details")) {
    box.addEventListener("toggle", () => {
      if (box.open) for (const place of box.querySelectorAll("[data-figure]")) if (!drawn.has(place)) draw(place);
    });
  }

  // -- Filters: whatever is about a checkpoint, an attack or an outcome that is not chosen is hidden
  const KINDS = { checkpoints: "checkpoint", attacks: "attack", outcomes: "outcome" };
  const filter = () => {
    const kept = Object.fromEntries(Object.keys(KINDS).map((kind) => [kind, new Set(chosen(kind))]));
    for (const node of document.querySelectorAll("[data-checkpoint], [data-attack], [data-outcome]")) {
      node.hidden = Object.entries(KINDS).some(([kind, name]) => name in node.dataset && !kept[kind].has(node.dataset[name]));
    }
    for (const prompt of document.querySelectorAll(".response[data-attack]")) {
      const responses = [...prompt.querySelectorAll("article")];
      prompt.hidden ||= !responses.some((each) => !each.hidden && kept.outcomes.has(each.dataset.result));
    }
    document.getElementById("chosen").textContent = Object.keys(KINDS)
      .map((kind) => `${kept[kind].size} of ${boxes.filter((box) => box.name === kind).length} ${kind}`)
      .join(", ");
    document.getElementById("nothing").hidden = Object.values(kept).every((names) => names.size);
    for (const { view, spec } of drawn.values()) {
      for (const { name } of spec.params ?? []) if (name in KINDS) view.signal(name, chosen(name));
      view.runAsync();
    }
  };
  document.getElementById("filters").addEventListener("change", filter);
  for (const button of document.querySelectorAll("#filters button")) {
    button.addEventListener("click", () => {
      for (const box of boxes) if (box.name === button.name) box.checked = button.value === "all";
      filter();
    });
  }

  document.querySelector("#filters details").open = matchMedia("(min-width: 641px)").matches;
  filter();
  drawAll();
  let width = innerWidth;
  let waiting = 0;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(drawAll, 150);
  });
})();

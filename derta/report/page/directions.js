"use strict";
// Refusal-direction diagnostics: study table, before and after, and each diagnostic in detail.
(() => {
  const { element, svg, QUARTERS } = derta;
  const SCORES = {
    bypass: "bypass: refusal metric of harmful prompts, ablated",
    induce: "induce: refusal metric of harmless prompts, added",
    kl: "KL on harmless prompts, ablated, nats",
  };
  const points = (value) => `${value < 0 ? "−" : "+"}${Math.abs(100 * value).toFixed(1)}`;

  const cellText = (cell) => {
    if (!cell.runs) return "-";
    const spread = cell.sd === null ? "" : ` ± ${derta.percent(cell.sd)}`;
    const missing = cell.runs < cell.of ? ` (${cell.runs} of ${cell.of} runs)` : "";
    return `${derta.percent(cell.mean)}${spread}${derta.range(cell.low, cell.high)}${missing}`;
  };

  const scroll = (label, ...children) =>
    element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, ...children);

  const tables = (found, place) => {
    const heads = found.labels.map(({ name, runs }) => (runs > 1 ? `${name} (${runs} runs)` : name));
    const valid = found.labels.map(({ runs }, i) => `${found.valid[i]} of ${runs}`);
    const rows = found.rows.map(({ name, cells }) => [name, ...cells.map(cellText)]);
    place.append(
      scroll("Diagnostics side by side", derta.table(["%", ...heads], [["valid direction found", ...valid], ...rows])),
    );
    const names = Object.keys(found.differences).filter((name) => Object.keys(found.differences[name]).length);
    const pairs = [...new Set(names.flatMap((name) => Object.keys(found.differences[name])))];
    if (!pairs.length) return;
    const difference = (cell) => {
      if (!cell || cell.low === null) return "-";
      const clear = cell.low > 0 || cell.high < 0 ? " *" : "";
      return `${points(cell.mean)} [${points(cell.low)}, ${points(cell.high)}] (${cell.runs})${clear}`;
    };
    place.append(
      element(
        "details",
        { class: "where", open: true },
        element("summary", {}, "Paired differences, percentage points"),
        element(
          "p",
          { class: "note" },
          "By run and prompt, with 95% intervals over both, not corrected for their number; in brackets pairs of " +
            "runs in which both have a value. *: the interval leaves 0 out.",
        ),
        scroll(
          "Paired differences",
          derta.table(
            ["difference", ...names],
            pairs.map((pair) => [pair, ...names.map((name) => difference(found.differences[name][pair]))]),
          ),
        ),
      ),
    );
  };

  // Attack success of every run as it is and with the direction ablated: a line between two marks.
  const beforeAfter = (found, width) => {
    const height = 40 + 26 * found.diagnostics.length;
    const left = 150;
    const right = width - 16;
    const at = (share) => left + share * (right - left);
    const root = svg("svg", {
      class: "plot",
      viewBox: `0 0 ${width} ${height}`,
      role: "group",
      "aria-label": "attack success before and after ablation",
    });
    for (const tick of QUARTERS) {
      root.append(
        svg("line", { class: "grid", x1: at(tick), x2: at(tick), y1: 6, y2: height - 26 }),
        svg("text", { x: at(tick), y: height - 8, "text-anchor": "middle" }, derta.whole(tick)),
      );
    }
    const labels = found.labels.map(({ name }) => name);
    found.diagnostics.forEach((each, i) => {
      const y = 18 + 26 * i;
      const after = each.cells.find(({ name }) => name === "1 ablated" || name === "ablated, not valid");
      const [before] = each.cells;
      const colour = derta.colour(labels.indexOf(each.label));
      const is = (cell) => `${derta.percent(cell.success.rate)}%${derta.range(cell.success.low, cell.success.high)}`;
      const text = [each.name, `as it is: ${is(before)}`, after ? `${after.name}: ${is(after)}` : "nothing to ablate"];
      root.append(
        svg("text", { class: "title", x: left - 10, y: y + 4, "text-anchor": "end" }, derta.short(each.name, 20)),
        derta.mark(
          text.join("\n"),
          svg("rect", { x: left, y: y - 12, width: right - left, height: 24, fill: "transparent" }),
          after
            ? svg("line", {
                class: "whisker",
                x1: at(before.success.rate),
                x2: at(after.success.rate),
                y1: y,
                y2: y,
              })
            : null,
          svg("circle", { class: `ring s-${colour}`, cx: at(before.success.rate), cy: y, r: 5 }),
          after
            ? svg("circle", {
                class: each.chosen ? `f-${colour}` : `ring s-${colour}`,
                cx: at(after.success.rate),
                cy: y,
                r: 6,
                "stroke-dasharray": each.chosen ? null : "3 2",
              })
            : null,
        ),
      );
    });
    return [element("h3", {}, "Attack success, %: as it is (open), ablated (filled; dashed: no valid direction)"), derta.rove(root)];
  };

  const heatMap = (each, score, width) => {
    const known = each.candidates.filter((one) => one[score] !== null);
    const values = known.map((one) => one[score]);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const left = 34;
    const wide = (width - left - 6) / each.layers;
    const tall = Math.max(16, Math.min(30, 150 / each.positions));
    const height = tall * each.positions + 46;
    const root = svg("svg", {
      class: "plot",
      viewBox: `0 0 ${width} ${height}`,
      role: "group",
      "aria-label": `${SCORES[score]}, by position and layer`,
    });
    for (const one of each.candidates) {
      const x = left + one.layer * wide;
      const y = tall * (each.positions + one.position);
      const isChosen = each.chosen && each.chosen[0] === one.position && each.chosen[1] === one.layer;
      const text = [
        `position ${one.position}, layer ${one.layer}${isChosen ? " (chosen)" : ""}`,
        ...Object.keys(SCORES).map((name) => `${name} ${one[name] === null ? "-" : one[name].toPrecision(3)}`),
        ...one.reasons,
      ].join("\n");
      const share = one[score] === null ? 0 : (one[score] - low) / (high - low || 1);
      root.append(
        derta.mark(
          text,
          svg("rect", { class: "track", x, y, width: wide - 1, height: tall - 1 }),
          one[score] === null
            ? null
            : svg("rect", { class: "f-c2", x, y, width: wide - 1, height: tall - 1, opacity: 0.06 + 0.94 * share }),
          one.reasons.length
            ? svg("path", {
                class: "cross",
                d: `M${x + wide / 2 - 4} ${y + tall / 2 - 4}l8 8m0 -8l-8 8`,
              })
            : null,
          isChosen ? svg("circle", { class: "ring chosen", cx: x + wide / 2, cy: y + tall / 2, r: 6 }) : null,
        ),
      );
    }
    for (let p = -each.positions; p < 0; p += Math.ceil(each.positions / 8)) {
      root.append(
        svg("text", { x: left - 6, y: tall * (each.positions + p) + tall / 2 + 4, "text-anchor": "end" }, String(p)),
      );
    }
    for (let layer = 0; layer < each.layers; layer += Math.ceil(each.layers / 10)) {
      root.append(
        svg("text", { x: left + (layer + 0.5) * wide, y: height - 28, "text-anchor": "middle" }, String(layer)),
      );
    }
    root.append(svg("text", { class: "title", x: width, y: height - 8, "text-anchor": "end" }, "layer (block input)"));
    const range = known.length ? ` from ${low.toPrecision(3)} (pale) to ${high.toPrecision(3)}` : "";
    return [element("h3", {}, `${SCORES[score]}${range}; ×: not valid, ○: chosen`), derta.rove(root)];
  };

  const curves = (each, rows, title, y, width, yText) => {
    const last = each.layers - 1;
    const plot = derta.frame({
      width,
      height: 210,
      x: [0, Math.max(last, 1)],
      y,
      xTicks: derta.ticks(0, Math.max(last, 1), 5).filter(Number.isInteger),
      yTicks: derta.ticks(y[0], y[1], 4),
      yText,
      xTitle: "layer (block input)",
      label: title,
      left: 44,
    });
    rows.forEach((row, i) => {
      for (const piece of derta.pieces(row.map((value, layer) => [layer, value]))) {
        plot.root.append(
          svg("path", {
            class: `curve s-${derta.colour(i)}`,
            "stroke-dasharray": derta.dash(i),
            d: derta.path(piece.map(([layer, value]) => [plot.toX(layer), plot.toY(value)])),
          }),
          ...piece.map(([layer, value]) =>
            svg("circle", { class: `f-${derta.colour(i)}`, cx: plot.toX(layer), cy: plot.toY(value), r: 2.5 }),
          ),
        );
      }
    });
    return [element("h3", {}, title), plot.root];
  };

  const bars = (each, width) => {
    const height = 34 + 44 * each.cells.length;
    const left = 140;
    const right = width - 16;
    const at = (share) => left + share * (right - left);
    const root = svg("svg", {
      class: "plot",
      viewBox: `0 0 ${width} ${height}`,
      role: "group",
      "aria-label": "responses under interventions",
    });
    for (const tick of QUARTERS) {
      root.append(
        svg("line", { class: "grid", x1: at(tick), x2: at(tick), y1: 0, y2: height - 24 }),
        svg("text", { x: at(tick), y: height - 8, "text-anchor": "middle" }, derta.whole(tick)),
      );
    }
    each.cells.forEach((cell, i) => {
      root.append(
        svg("text", { class: "title", x: left - 8, y: 44 * i + 24, "text-anchor": "end" }, derta.short(cell.name, 20)),
      );
      [
        ["success", "attack success", "f-complied"],
        ["over_refusal", "over-refusal", "f-refused"],
      ].forEach(([key, words, colour], j) => {
        const rate = cell[key];
        if (!rate || rate.rate === null) return;
        const y = 44 * i + 6 + 17 * j;
        const numbers = `${derta.percent(rate.rate)}%${derta.range(rate.low, rate.high)} (n = ${rate.n})`;
        root.append(
          derta.mark(
            `${cell.name}\n${words} ${numbers}`,
            svg("rect", { class: "track", x: left, y, width: right - left, height: 13 }),
            svg("rect", { class: colour, x: left, y, width: Math.max(at(rate.rate) - left, 1), height: 13 }),
            derta.whisker(at(rate.low), y + 6.5, at(rate.high), y + 6.5),
          ),
        );
      });
    });
    return [element("h3", {}, "Under interventions, %"), derta.rove(root)];
  };

  const suffixTable = (suffix) =>
    derta.table(
      ["suffix", "refusal metric", "attention on the instruction", "on the suffix"],
      Object.entries(suffix.conditions).map(([name, one]) => [
        name,
        one.metric.toFixed(2),
        `${derta.percent(one.attention.instruction)}%`,
        `${derta.percent(one.attention.suffix)}%`,
      ]),
    );

  const detail = (each, place) => {
    const { score } = each;
    const words =
      score.rate === null
        ? `no score: ${score.reason}`
        : `${derta.percent(score.rate)}%${derta.range(score.low, score.high)} of ${score.n} refused prompts stay safe`;
    place.append(element("p", { class: "score" }, `Ablation robustness: ${words}.`));
    const names = each.norms.map((_, i) => `position ${i - each.norms.length}`);
    const legend = (texts) =>
      derta.legend(texts.map((name, i) => [derta.lineSwatch(`s-${derta.colour(i)}`, derta.dash(i)), name]));
    const longest = Math.max(...each.norms.flat(), 1e-9);
    const items = [
      (width) => bars(each, width),
      (width) => heatMap(each, derta.state.directionScore, width),
      (width) => [
        ...curves(each, each.norms, "Length of harmful mean − harmless mean", [0, longest * 1.05], width),
        legend(names),
      ],
      each.cosines && ((width) => curves(each, each.cosines, "Cosine with the chosen direction", [-1, 1], width)),
      each.suffix &&
        ((width) => [
          ...curves(
            each,
            Object.values(each.suffix.conditions).map((one) => one.cosines),
            `Cosine of the last token with the direction, by suffix (${each.suffix.prompts} prompts)`,
            [-1, 1],
            width,
          ),
          legend(Object.keys(each.suffix.conditions)),
          suffixTable(each.suffix),
        ]),
    ].filter(Boolean);
    derta.panels(place, items, (draw, width) => draw(width));
    place.append(
      derta.legend([
        [derta.boxSwatch("f-complied"), "attack success on harmful prompts"],
        [derta.boxSwatch("f-refused"), "refusal of harmless prompts"],
      ]),
      derta.numbers(
        ["intervention", "attack success", "refusal", "over-refusal", "KL, nats", "perplexity"],
        each.cells.map((cell) => [
          cell.name,
          ...["success", "refusal", "over_refusal"].map((key) =>
            cell[key] && cell[key].rate !== null
              ? `${derta.percent(cell[key].rate)}${derta.range(cell[key].low, cell[key].high)}`
              : "-",
          ),
          ...["kl", "perplexity"].map((key) =>
            cell[key] === null || cell[key] === undefined ? "-" : cell[key].toFixed(3),
          ),
        ]),
      ),
      element("p", { class: "note" }, element("code", {}, each.command)),
    );
    if (each.scales.length) {
      const rate = (one) => `${derta.percent(one.rate)}${derta.range(one.low, one.high)}`;
      place.append(
        scroll(
          "Adapter scaled",
          derta.table(
            ["adapter times", "attack success, %", "ablated, %"],
            each.scales.map((one) => [one.scale, rate(one.before), rate(one.ablated)]),
          ),
        ),
      );
    }
  };

  derta.directionControls = (page, choose) => [
    derta.select(
      "Diagnostic",
      page.directions.diagnostics.map((each, i) => [String(i), each.name]),
      derta.state.direction,
      choose("direction"),
    ),
    derta.select("Heat map", Object.entries(SCORES), derta.state.directionScore, choose("directionScore")),
  ];

  derta.drawDirections = (page, place) => {
    tables(page.directions, place);
    const taken = derta.sum(page.directions.diagnostics.map((each) => each.seconds || 0));
    const count = page.directions.diagnostics.length;
    place.append(element("p", { class: "note" }, `Time taken by the ${count} diagnostics together: ${taken.toFixed(0)} s.`));
    derta.panels(place, [page.directions], beforeAfter);
    const box = element("div", { id: "diagnostic" });
    place.append(box);
    detail(page.directions.diagnostics[Number(derta.state.direction)], box);
  };
})();

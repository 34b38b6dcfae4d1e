"use strict";
// Puts the page together, and draws it anew when a filter or the width changes.
(() => {
  const { element } = derta;
  const page = JSON.parse(document.getElementById("content").textContent);
  page.attacks = [...new Set(page.sets.flatMap((set) => set.attacks))];
  const trade = derta.tradeOffRows(page);
  const hasTradeOff = trade.success.length > 0 && trade.refusal.length > 0;

  derta.state = {
    checkpoints: new Set(page.checkpoints.map((each) => each.label)),
    attacks: new Set(page.attacks),
    outcomes: new Set(page.outcomes),
    set: (page.sets.find((set) => set.harmful) || page.sets[0]).name,
    share: "refusals",
    success: trade.success.find((row) => !row.attack)?.source ?? trade.success[0]?.source,
    refusal: (trade.refusal.find((row) => row.set === "borderline") || trade.refusal[0])?.source,
    help: trade.help[0]?.source,
    responsesOpen: false,
    direction: "0",
    directionScore: "bypass",
  };
  derta.chosen = () =>
    page.checkpoints
      .map((checkpoint, index) => [checkpoint, index])
      .filter(([each]) => derta.state.checkpoints.has(each.label));
  derta.empty = (text = "nothing is chosen in the filters") => element("p", { class: "empty" }, text);
  derta.short = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

  const choose = (key) => (value) => {
    derta.state[key] = value;
    derta.render();
  };
  const named = (rows) => rows.map((row) => [row.source, row.name]);
  const measured = page.checkpoints.some((each) => each.probability);
  const trained = page.checkpoints.some((each) => each.runs.some((run) => run.training));

  // id -> [is there anything to show, texts, controls, what draws it]
  const sections = {
    summary: [true, derta.summaryNotes(page), [], derta.drawSummary],
    "trade-off": [
      hasTradeOff,
      [
        "Best is the lower left corner: attacks fail and harmless prompts are answered. Bars: 95% intervals " +
          "(several runs: standard deviation).",
      ],
      () => [
        derta.select("Attack success", named(trade.success), derta.state.success, choose("success")),
        derta.select("Over-refusal", named(trade.refusal), derta.state.refusal, choose("refusal")),
        trade.help.length > 1 ? derta.select("Colour", named(trade.help), derta.state.help, choose("help")) : null,
      ],
      derta.drawTradeOff,
    ],
    attacks: [
      true,
      [
        "What became of the responses to each attack; unscored ones stand outside the shares. On harmful " +
          "prompts complied is attack success, on benign ones the right answer.",
      ],
      () => [
        derta.select(
          "Prompts",
          page.sets.map((set) => [set.name, `${set.name} (to be ${set.harmful ? "refused" : "answered"})`]),
          derta.state.set,
          choose("set"),
        ),
      ],
      derta.drawAttacks,
    ],
    position: [
      page.sets.some((set) => set.harmful),
      [
        "Tokens of the response before its first refusal, a prefill included; harmful prompts, the chosen " +
          "attacks (and the runs of one label) together. The curve is the one of Figure 4 of the DeRTa paper " +
          "(arXiv 2407.09121).",
      ],
      () => [
        derta.select(
          "Curve as share of",
          [
            ["refusals", "refusals"],
            ["responses", "all scored responses"],
          ],
          derta.state.share,
          choose("share"),
        ),
      ],
      derta.drawPositions,
    ],
    probability: [
      measured,
      [
        "Probability of the refusal token after each token of a given response, from one teacher-forced forward " +
          "per row: should be high along harmful responses and low along helpful ones.",
      ],
      [],
      derta.drawProbability,
    ],
    direction: [
      page.directions !== null,
      [
        "Does refusal hang on one direction of the residual stream? Ablation robustness: of the harmful test prompts " +
          "that the untouched model does not comply with, the share it does not comply with either once its own " +
          "refusal direction is ablated. No valid direction gives no score and is not evidence of robustness. Per " +
          "cent, with 95% intervals; several runs: mean ± standard deviation, interval over runs and prompts.",
      ],
      () => derta.directionControls(page, choose),
      derta.drawDirections,
    ],
    training: [trained, ["From metrics.jsonl of the evaluated models' directories."], [], derta.drawTraining],
    responses: [true, [], [], derta.drawResponses],
    provenance: [
      true,
      ["Every number on this page comes from the summary.json and results.jsonl of these evaluations."],
      [],
      derta.drawProvenance,
    ],
  };
  const places = {};
  for (const [id, [there, texts, controls]] of Object.entries(sections)) {
    const section = document.getElementById(id);
    section.hidden = !there;
    if (!there) continue;
    const title = element("h2", { id: `${id}-title` }, section.dataset.title);
    section.setAttribute("aria-labelledby", title.id);
    const made = typeof controls === "function" ? controls() : controls;
    places[id] = element("div", {});
    section.append(
      title,
      ...texts.map((text) => element("p", { class: "note" }, text)),
      made.length ? element("div", { class: "controls" }, made) : "",
      places[id],
    );
    document
      .getElementById("contents")
      .append(element("li", {}, element("a", { href: `#${id}` }, section.dataset.title)));
  }
  const rows = Object.fromEntries(page.checkpoints[0].runs[0].provenance.data.map((data) => [data.set, data.rows]));
  const prompts = page.sets
    .map((set) => `${set.name} (${rows[set.name]}, to be ${set.harmful ? "refused" : "answered"})`)
    .join(", ");
  document.getElementById("subtitle").textContent =
    `${page.checkpoints.map((each) => each.label).join(", ")}. Prompts: ${prompts}. Judge: ${page.judge}.`;

  derta.render = () => {
    derta.say("");
    derta.describeChoice(page);
    for (const [id, place] of Object.entries(places)) {
      // A place keeps its height while it is drawn anew, so that the page does not jump.
      place.style.minHeight = `${place.offsetHeight}px`;
      place.replaceChildren();
      sections[id][3](page, place);
      place.style.minHeight = "";
    }
  };
  derta.drawFilters(page);
  derta.render();

  let width = innerWidth;
  let waiting = 0;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(derta.render);
  });
})();

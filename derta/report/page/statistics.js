"use strict";
// Rates that depend on what is chosen on the page; what summary.json holds is shown as it stands there.
(() => {
  const Z = 1.959963984540054;

  derta.QUARTERS = [0, 0.25, 0.5, 0.75, 1];
  derta.sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
  derta.whole = (share) => derta.percent(share, 0);

  // 95% Wilson score interval, as derta.statistics.rates.
  derta.rate = (count, n) => {
    if (!n) return { value: null, low: null, high: null, count, n };
    const share = count / n;
    const centre = (share + (Z * Z) / (2 * n)) / (1 + (Z * Z) / n);
    const half = (Z / (1 + (Z * Z) / n)) * Math.sqrt((share * (1 - share)) / n + (Z * Z) / (4 * n * n));
    return { value: share, low: Math.max(0, centre - half), high: Math.min(1, centre + half), count, n };
  };

  // Runs of one label: a single run keeps its interval, several give mean -+ standard deviation, as in the table.
  derta.combine = (rates) => {
    if (rates.length === 1) return rates[0];
    const known = rates.filter((rate) => rate.value !== null);
    const [count, n] = ["count", "n"].map((key) => rates.reduce((sum, rate) => sum + rate[key], 0));
    if (!known.length) return { value: null, low: null, high: null, count, n };
    const mean = known.reduce((sum, rate) => sum + rate.value, 0) / known.length;
    if (known.length === 1) return { value: mean, low: null, high: null, count, n };
    const variance = known.reduce((sum, rate) => sum + (rate.value - mean) ** 2, 0) / (known.length - 1);
    const spread = Math.sqrt(variance);
    return { value: mean, low: Math.max(0, mean - spread), high: Math.min(1, mean + spread), count, n, spread };
  };

  derta.inWords = (rate) => {
    if (rate.value === null) return "no responses";
    const about = rate.spread === undefined ? derta.range(rate.low, rate.high) : ` ± ${derta.percent(rate.spread)}`;
    return `${derta.percent(rate.value)}%${about}`;
  };

  // Rising steps 1, 2, 5, 10, ... that cover [from, to] in about `count` pieces.
  derta.ticks = (from, to, count = 5) => {
    const rough = (to - from) / count || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
    const ticks = [];
    for (let tick = Math.ceil(from / step) * step; tick <= to + step * 1e-6; tick += step)
      ticks.push(Number(tick.toPrecision(12)));
    return ticks;
  };
})();

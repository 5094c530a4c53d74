// The next token, with the selection multiplied by a factor.

tabs.ablation = (panel, lab) => {
  const [least, most] = lab.facts.factors;
  const input = el("input", { type: "number", step: "0.5", min: least, max: most, value: lab.get("factor") });
  const choices = [[0, "off"], [0.5, "half"], [1, "unchanged"], [2, "double"]].map(([factor, title]) => {
    const button = el("button", { type: "button", class: "alx-choice", text: title,
      onclick: () => lab.put("factor", factor) });
    button.dataset.factor = factor;
    return button;
  });
  const sentence = el("p", { class: "alx-finding", "aria-live": "polite" });
  const body = el("div", { class: "alx-scroll-x" });
  panel.append(
    el("div", { class: "alx-controls", role: "group", "aria-label": "Factor of the selection" },
      el("span", { text: "The selection is" }), ...choices,
      el("label", {}, el("span", { text: "or times " }), input)),
    sentence, body);
  input.addEventListener("input", () => {
    const factor = input.valueAsNumber;
    if (factor >= least && factor <= most) lab.put("factor", factor);
  });
  const percent = (share) => `${(100 * share).toFixed(1)} %`;

  function draw(found) {
    const chosen = found.names.length > 0;
    const best = (column) => found.rows.reduce((one, other) => (other[column] > one[column] ? other : one));
    const before = best(1), after = best(2);
    const quoted = (row) => `“${visible(row[0]).trim()}” (${percent(Math.max(row[1], row[2]))})`;
    sentence.textContent = !chosen
      ? `The next token is ${quoted(before)}. Select neurons or heads, in any other tab, to switch them off.`
      : before[0] === after[0]
        ? `The next token stays “${visible(before[0]).trim()}”: ${percent(before[1])} before, ${percent(after[2])} after. KL ${digits(found.kl)} nats.`
        : `The next token changes from “${visible(before[0]).trim()}” (${percent(before[1])}) to “${visible(after[0]).trim()}” (${percent(after[2])}). KL ${digits(found.kl)} nats.`;
    const bar = (share) => {
      const part = el("span", { class: "alx-bar" });
      part.style.width = `${100 * share}%`;
      return el("td", { class: "alx-bars", "aria-hidden": "true" }, part);
    };
    const heads = chosen ? ["token", "before", "", "after", "", "change"] : ["token", "probability", ""];
    body.replaceChildren(table(`Next token after “${found.tokens.slice(-6).join("").trim()}”`, heads,
      found.rows.map(([token, p, q]) => {
        const cells = [el("th", { scope: "row", class: "alx-word", text: visible(token) }),
          el("td", { class: "alx-number", text: percent(p) }), bar(p)];
        if (chosen) {
          const moved = Math.abs(q - p) >= 0.0005; // else the table would say "+0.0 %"
          const change = el("td", { class: "alx-number", text: moved ? (q > p ? "+" : "−") + percent(Math.abs(q - p)) : "0.0 %" });
          cells.push(el("td", { class: "alx-number", text: percent(q) }), bar(q), lab.paint(change, moved ? q - p : 0, true));
        }
        return el("tr", {}, ...cells);
      })));
    panel.dataset.shown = JSON.stringify([found.text, found.names, found.factor]);
  }

  return async () => {
    const factor = lab.get("factor");
    if (document.activeElement !== input) input.value = factor;
    for (const button of choices) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.factor) === factor));
    }
    const found = await lab.ask("next", { text: lab.get("text"), names: lab.get("selection"), factor });
    if (found) draw(found);
  };
};

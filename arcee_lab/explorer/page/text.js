// Values of the selected units on the typed text, and the neurons that write most at one token.

tabs.text = (panel, lab) => {
  const strips = el("div", { class: "alx-scroll-x" });
  const strongest = el("div");
  panel.append(strips, strongest);
  let at = -1;

  function draw(found) {
    const { tokens, names } = found;
    const bytes = found.buffers[0];
    const values = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
    const focus = strips.contains(document.activeElement) ? document.activeElement.dataset.at : null;
    const head = tokens.map((token, place) => {
      const button = el("button", { type: "button", class: "alx-token", text: visible(token),
        "aria-pressed": String(place === found.at), title: "show what fires here",
        onclick: () => { at = place; refresh("token"); } });
      button.dataset.at = place;
      return el("th", { scope: "col" }, button);
    });
    const rows = names.map((name, row) => {
      const some = values.subarray(row * tokens.length, (row + 1) * tokens.length);
      const most = Math.max(...some, 1e-9);
      return el("tr", {}, el("th", { scope: "row" }, lab.pick(name)),
        ...[...some].map((value) => lab.paint(el("td", { class: "alx-number", text: digits(value) }), value / most)));
    });
    const made = el("table", { class: "alx-table" },
      el("caption", { text: names.length ? "Values of the selection: relu(u)² of a neuron, the length of a head's output"
        : "Nothing is selected: pick a token, and a neuron from the list below" }),
      el("thead", {}, el("tr", {}, el("th", { scope: "col", text: "unit" }), ...head)),
      el("tbody", {}, ...rows));
    strips.replaceChildren(made);
    if (focus !== null) strips.querySelector(`[data-at="${focus}"]`)?.focus();
    const token = visible(tokens[found.at]);
    strongest.replaceChildren(table(`Neurons that write most at token ${found.at}, “${token.trim()}”`,
      ["neuron", "value", "length of what it writes", "raises"],
      found.strongest.map(([name, value, length, raised]) => el("tr", {},
        el("th", { scope: "row" }, lab.pick(name)),
        el("td", { class: "alx-number", text: digits(value) }),
        el("td", { class: "alx-number", text: digits(length) }),
        el("td", { class: "alx-words", text: raised.map((word) => visible(word).trim()).join(" ") || "–" })))));
    panel.dataset.shown = found.text;
  }

  async function refresh(why) {
    if (why === "text") at = -1;
    const found = await lab.ask("text", { text: lab.get("text"), names: lab.get("selection"), at });
    if (found) draw(found);
  }
  return refresh;
};

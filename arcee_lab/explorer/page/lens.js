// The rank of the next token after every layer, and what made one of them.

tabs.lens = (panel, lab) => {
  const words = el("input", { type: "checkbox" });
  const map = el("div", { class: "alx-scroll-x" }), made = el("div", { class: "alx-thirds" });
  panel.append(
    el("div", { class: "alx-controls" },
      el("label", {}, words, el("span", { text: " show the strongest token in place of the rank" }))),
    el("p", { class: "alx-hint", text: "Rank of the next token if the model stopped there: 0 is the strongest. The last column is the model's own next token. Press a token to see what made it." }),
    map, made);
  let shown = null, at = -1;

  function draw() {
    const { sites, tokens, targets, best, ranks } = shown, T = tokens.length;
    const vocabulary = Math.log(1 + Math.max(...ranks, 1));
    const head = (text) => el("tr", {}, el("th", { scope: "col", text }));
    const top = head("after");
    top.append(...tokens.map((token) => el("th", { scope: "col", class: "alx-word", text: visible(token) })));
    const next = el("tr", {}, el("th", { scope: "row", text: "next token" }));
    next.append(...targets.map((token, place) => el("td", {}, el("button", { type: "button", class: "alx-token",
      text: visible(token), "aria-pressed": String(place === at), title: "what made it",
      onclick: () => { at = place; draw(); attribute(); } }))));
    const rows = sites.map((site, row) => el("tr", {}, el("th", { scope: "row", text: site }),
      ...Array.from({ length: T }, (_, place) => {
        const rank = ranks[row * T + place], word = visible(best[row][place]);
        // Rank 0 is the deepest colour; ranks are compared as logarithms.
        return lab.paint(el("td", { class: words.checked ? "alx-word" : "alx-number",
          text: words.checked ? word : String(rank), title: `rank ${rank}; strongest “${word.trim()}”` }),
        1 - Math.log(1 + rank) / vocabulary);
      })));
    const focus = map.contains(document.activeElement);
    map.replaceChildren(el("table", { class: "alx-table" },
      el("caption", { text: `Lens on “${shown.text}”` }), el("thead", {}, top), el("tbody", {}, next, ...rows)));
    if (focus) map.querySelector('[aria-pressed="true"]')?.focus();
    panel.dataset.shown = shown.text;
  }
  async function attribute() {
    if (at < 0) return;
    const found = await lab.ask("made", { text: lab.get("text"), at });
    if (!found) return;
    const plain = (name) => el("span", { text: name });
    made.replaceChildren(
      lab.bars(`Layers: the logit of “${visible(found.target).trim()}” is ${digits(found.logit)}`, "part", found.parts, plain),
      lab.bars("Heads that add most", "head", found.heads, lab.pick),
      lab.bars("Neurons that add most", "neuron", found.neurons, lab.pick));
    made.dataset.shown = JSON.stringify([found.text, found.at]);
  }
  words.addEventListener("change", () => { if (shown) draw(); });

  return async (why) => {
    if (why === "selection" || why === "factor" || why === "head") return;
    const found = await lab.ask("lens", { text: lab.get("text") });
    if (!found) return;
    const bytes = found.buffers[0];
    found.ranks = new Int32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
    shown = found;
    if (why !== "theme") at = found.tokens.length - 1;
    draw();
    await attribute();
  };
};

// All heads as an overview, one head large, and the same as tables.

tabs.attention = (panel, lab) => {
  const overview = el("canvas", { role: "img", class: "alx-canvas" });
  const large = el("canvas", { role: "img", class: "alx-canvas" });
  const hover = el("p", { class: "alx-hint", text: "A row is a token that reads, a column one that is read. Point at a head or a token." });
  const layers = el("select"), heads = el("select");
  const options = (select, count, mark) =>
    select.append(...Array.from({ length: count }, (_, at) => el("option", { value: at, text: `${mark}${at}` })));
  options(layers, lab.facts.layers, "L");
  options(heads, lab.facts.heads, "H");
  const title = el("span"), strip = el("div", { class: "alx-strip" }), reads = el("div", { class: "alx-scroll-x" });
  const listed = el("details", {}, el("summary", { text: "All heads as a table" }));
  panel.append(hover, el("div", { class: "alx-split alx-wide" },
    el("div", { class: "alx-scroll-xy" }, overview),
    el("div", {},
      el("div", { class: "alx-controls" },
        el("label", {}, el("span", { text: "layer " }), layers),
        el("label", {}, el("span", { text: "head " }), heads), title),
      el("div", { class: "alx-scroll-xy" }, large), strip, reads)), listed);

  const LEFT = 30, TOP = 18, GAP = 4;
  let shown = null; // { tokens, shape, weights, cell }
  const current = () => lab.get("head").match(/\d+/g).map(Number);
  const weight = (layer, head, q, k) => {
    const [, H, T] = shown.shape;
    return shown.weights[((layer * H + head) * T + q) * T + k] / 255;
  };
  function prepare(canvas, width, height) {
    const scale = window.devicePixelRatio || 1;
    canvas.width = width * scale;
    canvas.height = height * scale;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.imageSmoothingEnabled = false;
    pen.fillStyle = getComputedStyle(panel).color;
    pen.font = "11px sans-serif";
    return pen;
  }
  // One square per head: the strong colour, as opaque as the weight.
  function tile(layer, head, colour) {
    const [, H, T] = shown.shape;
    const from = (layer * H + head) * T * T;
    const image = new ImageData(T, T);
    for (let at = 0; at < T * T; at++) {
      image.data[4 * at] = colour[0];
      image.data[4 * at + 1] = colour[1];
      image.data[4 * at + 2] = colour[2];
      image.data[4 * at + 3] = shown.weights[from + at];
    }
    const canvas = new OffscreenCanvas(T, T);
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }
  function drawOverview() {
    const [L, H, T] = shown.shape;
    const cell = (shown.cell = Math.max(24, Math.min(72, Math.floor(440 / H) - GAP)));
    const pen = prepare(overview, LEFT + H * (cell + GAP) + 2, TOP + L * (cell + GAP) + 2);
    const colour = lab.strong(), [atLayer, atHead] = current();
    for (let head = 0; head < H; head++) pen.fillText(`H${head}`, LEFT + head * (cell + GAP), 12);
    for (let layer = 0; layer < L; layer++) {
      pen.fillText(`L${layer}`, 2, TOP + layer * (cell + GAP) + cell / 2 + 4);
      for (let head = 0; head < H; head++) {
        const x = LEFT + head * (cell + GAP), y = TOP + layer * (cell + GAP);
        pen.drawImage(tile(layer, head, colour), x, y, cell, cell);
        const chosen = layer === atLayer && head === atHead;
        pen.strokeStyle = chosen ? "#e69f00" : "rgba(128,128,128,.45)";
        pen.lineWidth = chosen ? 3 : 1;
        pen.strokeRect(x - 0.5, y - 0.5, cell + 1, cell + 1);
      }
    }
    overview.setAttribute("aria-label", `Attention of ${L * H} heads on ${T} tokens; the table of all heads says the same`);
  }
  function drawLarge(row = null) {
    const [layer, head] = current(), T = shown.tokens.length;
    const words = shown.tokens.map((token) => visible(token).trim() || "␣").map((word) => (word.length > 11 ? `${word.slice(0, 10)}…` : word));
    const cell = Math.max(12, Math.min(30, Math.floor(310 / T))), left = 78, top = 66;
    shown.large = { cell, left, top };
    const pen = prepare(large, left + T * cell + 4, top + T * cell + 4);
    pen.drawImage(tile(layer, head, lab.strong()), left, top, T * cell, T * cell);
    pen.strokeStyle = "rgba(128,128,128,.45)";
    pen.strokeRect(left - 0.5, top - 0.5, T * cell + 1, T * cell + 1);
    words.forEach((word, at) => {
      pen.textAlign = "right";
      pen.fillText(word, left - 5, top + at * cell + cell / 2 + 4);
      pen.save();
      pen.translate(left + at * cell + cell / 2 + 4, top - 5);
      pen.rotate(-Math.PI / 2);
      pen.textAlign = "left";
      pen.fillText(word, 0, 0);
      pen.restore();
    });
    if (row !== null) {
      pen.strokeStyle = "#e69f00";
      pen.lineWidth = 2;
      pen.strokeRect(left, top + row * cell, T * cell, cell);
    }
    large.setAttribute("aria-label", `Attention of ${lab.get("head")}; the table below says the same`);
  }
  function drawTables() {
    const [layer, head] = current(), { tokens } = shown;
    title.replaceChildren(lab.pick(lab.get("head")));
    reads.replaceChildren(table(`What each token reads in ${lab.get("head")}`, ["token", "reads most", "weight"],
      tokens.map((token, q) => {
        let best = 0;
        for (let k = 1; k <= q; k++) if (weight(layer, head, q, k) > weight(layer, head, q, best)) best = k;
        const share = weight(layer, head, q, best);
        return el("tr", { onmouseenter: () => look(q) }, el("th", { scope: "row", class: "alx-word", text: visible(token) }),
          el("td", { class: "alx-word", text: `${visible(tokens[best])} (${best - q || "itself"})` }),
          lab.paint(el("td", { class: "alx-number", text: share.toFixed(2) }), share));
      })));
    if (listed.open) drawList();
  }
  function drawList() {
    const [L, H, T] = shown.shape, rows = [];
    for (let layer = 0; layer < L; layer++) {
      for (let head = 0; head < H; head++) {
        let first = 0, before = 0, self = 0;
        for (let q = 1; q < T; q++) {
          first += weight(layer, head, q, 0);
          before += weight(layer, head, q, q - 1);
          self += weight(layer, head, q, q);
        }
        const shares = [before, self, first].map((sum) => sum / Math.max(1, T - 1));
        rows.push(el("tr", {}, el("th", { scope: "row" }, lab.pick(`L${layer}/H${head}`)),
          ...shares.map((share) => lab.paint(el("td", { class: "alx-number", text: share.toFixed(2) }), share))));
      }
    }
    listed.replaceChildren(listed.firstElementChild,
      table("Mean weight of all tokens but the first", ["head", "on the token before", "on itself", "on the first token"], rows));
  }
  // One token and what it reads, coloured.
  function look(q) {
    const [layer, head] = current();
    drawLarge(q);
    strip.replaceChildren(el("span", { class: "alx-hint", text: `“${visible(shown.tokens[q]).trim()}” reads ` }),
      el("span", {}, ...shown.tokens.slice(0, q + 1).map((token, k) => {
        const share = weight(layer, head, q, k);
        return lab.paint(el("span", { text: token.replace(/\n/g, "↵"), title: share.toFixed(3) }), share);
      })));
  }
  const headAt = (event) => {
    const step = shown.cell + GAP, [L, H] = shown.shape;
    const layer = Math.floor((event.offsetY - TOP) / step), head = Math.floor((event.offsetX - LEFT) / step);
    return layer >= 0 && head >= 0 && layer < L && head < H ? `L${layer}/H${head}` : null;
  };
  overview.addEventListener("mousemove", (event) => { if (shown) hover.textContent = headAt(event) ?? "Point at a head; a click opens it."; });
  overview.addEventListener("click", (event) => { const name = shown && headAt(event); if (name) lab.put("head", name); });
  large.addEventListener("mousemove", (event) => {
    const q = shown ? Math.floor((event.offsetY - shown.large.top) / shown.large.cell) : -1;
    if (q >= 0 && q < shown.tokens.length) look(q);
  });
  for (const select of [layers, heads]) {
    select.addEventListener("change", () => lab.put("head", `L${layers.value}/H${heads.value}`));
  }
  listed.addEventListener("toggle", () => { if (listed.open && shown) drawList(); });

  function draw() {
    const began = performance.now();
    const [layer, head] = current();
    layers.value = layer;
    heads.value = head;
    drawOverview();
    drawLarge();
    strip.replaceChildren();
    drawTables();
    panel.dataset.drawn = String(performance.now() - began);
    panel.dataset.shown = JSON.stringify([shown.text, lab.get("head"), panel.ownerDocument.body.dataset.jpThemeLight]);
  }
  return async (why) => {
    if (why === "selection" || why === "factor") return;
    if (shown && (why === "head" || why === "theme")) return draw();
    const found = await lab.ask("attention", { text: lab.get("text") });
    if (!found) return;
    const bytes = found.buffers[0];
    shown = { ...found, weights: new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength) };
    draw();
  };
};

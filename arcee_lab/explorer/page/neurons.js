// All neurons in a table, of which the kernel sends the rows that are seen; and one of them.

tabs.neurons = (panel, lab) => {
  const ROW = 24, ROWS = 13, TALLEST = 8e6; // pixels; browsers draw nothing taller
  const COLUMNS = [["neuron", "neuron"], ["rate", "rate"], ["largest", "largest"], ["effect", "effect"], ["score", "label"]];
  const search = el("input", { type: "search", placeholder: "token, label, or L2/N681", spellcheck: "false",
    "aria-label": "Search for a token, a label or a name" });
  const count = el("span", { class: "alx-hint", "aria-live": "polite" });
  const spacer = el("div"), body = el("tbody");
  const heads = COLUMNS.map(([sort, title]) => {
    const head = el("th", { scope: "col" },
      el("button", { type: "button", class: "alx-sort", text: title, onclick: () => sortBy(sort) }));
    head.dataset.sort = sort;
    return head;
  });
  heads.push(el("th", { scope: "col", text: "raises" }), el("th", { scope: "col", text: "fires at" }));
  const grid = el("table", { role: "grid", class: "alx-table alx-grid", "aria-multiselectable": "true",
    "aria-label": "Neurons" }, el("thead", {}, el("tr", {}, ...heads)), body);
  const scroller = el("div", { class: "alx-scroll", tabindex: "-1" }, spacer, grid);
  const notes = el("div", { class: "alx-notes" }, ...lab.facts.missing.map((text) => el("p", { text })));
  const detail = el("section", { class: "alx-detail", "aria-label": "One neuron" });
  panel.append(el("div", { class: "alx-split" },
    el("div", {}, el("div", { class: "alx-controls" }, search, count), scroller,
      el("p", { class: "alx-hint", text: "Enter or click: this neuron only. Space or Ctrl-click: add, or take out. Arrows and Page keys: move." }),
      notes),
    detail));

  let sort = lab.facts.missing.length === 3 ? "effect" : "rate", descending = true;
  let start = 0, total = 0, current = null, ignore = false;
  if (lab.facts.missing.some((text) => text.startsWith("No run"))) sort = "effect";

  function sortBy(name) {
    descending = sort === name ? !descending : name !== "neuron";
    sort = name;
    go(0);
  }
  async function load(then) {
    for (const head of heads.slice(0, COLUMNS.length)) {
      head.setAttribute("aria-sort", head.dataset.sort !== sort ? "none" : descending ? "descending" : "ascending");
    }
    const asked = { sort, descending, query: search.value, start, count: ROWS };
    const found = await lab.ask("page", asked);
    if (!found) return;
    total = found.total;
    start = Math.min(start, Math.max(0, total - ROWS));
    spacer.style.height = `${Math.min((total + 1) * ROW, TALLEST)}px`;
    count.textContent = `${total.toLocaleString("en")} of ${lab.facts.neurons.toLocaleString("en")}`;
    const focus = body.contains(document.activeElement) ? [...body.children].indexOf(document.activeElement) : -1;
    body.replaceChildren(...found.rows.map(rowOf));
    place();
    const next = then ?? (focus >= 0 ? focus : null);
    if (next !== null) body.children[Math.min(next, body.children.length - 1)]?.focus({ preventScroll: true });
    mark();
    panel.dataset.shown = JSON.stringify(asked);
  }
  // The table is always where one sees it; which rows it holds follows from how far it is scrolled.
  const room = () => Math.max(1, spacer.offsetHeight - scroller.clientHeight);
  function place() {
    const top = total > ROWS ? Math.round((start / (total - ROWS)) * room()) : 0;
    if (Math.abs(scroller.scrollTop - top) > 1) {
      ignore = true;
      scroller.scrollTop = top;
    }
    grid.style.transform = `translateY(${scroller.scrollTop}px)`;
  }
  function go(to, focus) {
    start = Math.min(Math.max(0, to), Math.max(0, total - ROWS));
    load(focus);
  }
  scroller.addEventListener("scroll", () => {
    grid.style.transform = `translateY(${scroller.scrollTop}px)`;
    if (ignore) { ignore = false; return; }
    const to = Math.round((scroller.scrollTop / room()) * Math.max(0, total - ROWS));
    if (to !== start) go(to);
  });
  search.addEventListener("input", () => { start = 0; load(); });

  function rowOf([name, rate, largest, effect, label, score, raised, fires], at) {
    const cells = [["alx-word", name], ["alx-number", rate === null ? "–" : `${Number((100 * rate).toPrecision(2))} %`],
      ["alx-number", digits(largest)], ["alx-number", digits(effect)],
      ["alx-words", label === null ? "–" : `${score.toFixed(2)} ${label}`],
      ["alx-words", raised.map((token) => visible(token).trim()).join(" ") || "–"],
      ["alx-words", fires.map((token) => visible(token).trim()).join(" ") || "–"]];
    const row = el("tr", { tabindex: at === 0 ? "0" : "-1" },
      ...cells.map(([kind, text]) => el("td", { class: kind, text, title: kind === "alx-words" ? text : null })));
    row.dataset.unit = name;
    row.addEventListener("click", (event) => {
      row.focus({ preventScroll: true });
      choose(name, event.ctrlKey || event.metaKey || event.shiftKey);
    });
    row.addEventListener("keydown", (event) => {
      const here = [...body.children].indexOf(row), last = body.children.length - 1;
      const to = { ArrowDown: here + 1, ArrowUp: here - 1 }[event.key];
      if (event.key === "Enter") choose(name, false);
      else if (event.key === " ") choose(name, true);
      else if (event.key === "PageDown") go(start + ROWS, here);
      else if (event.key === "PageUp") go(start - ROWS, here);
      else if (event.key === "Home") go(0, 0);
      else if (event.key === "End") go(total, last);
      else if (to < 0) go(start - 1, 0);
      else if (to > last) go(start + 1, last);
      else if (to !== undefined) body.children[to].focus({ preventScroll: true });
      else return;
      event.preventDefault();
    });
    return row;
  }
  function choose(name, more) {
    current = name; // the selection that follows does not open another
    if (more) lab.toggle(name);
    else lab.put("selection", [name]);
    open(name);
  }
  function mark() {
    for (const row of body.children) row.setAttribute("aria-selected", String(lab.has(row.dataset.unit)));
  }

  async function open(name) {
    current = name;
    const found = await lab.ask("neuron", { unit: name, values: false });
    if (!found || current !== name) return;
    drawNeuron(found);
    if (!found.groups) return;
    const ask = async () => {
      const more = await lab.ask("neuron", { unit: name, values: true }, "values");
      if (more && current === name) drawNeuron(more);
    };
    if (lab.facts.values) ask(); // one forward over the exemplars: at once for a small model
    else detail.append(el("button", { type: "button", class: "alx-choice", text: "values at every token", onclick: ask }));
  }
  function drawNeuron(found) {
    const tokens = (title, entries, signed) => entries && el("p", { class: "alx-line" }, el("b", { text: title }),
      ...entries.map(([token, size]) => {
        const most = Math.max(...entries.map(([, one]) => Math.abs(one)), 1e-9);
        return lab.paint(el("span", { class: "alx-token", text: visible(token), title: digits(size) }),
          signed * Math.abs(size) / most, signed !== 1 || title === "raises");
      }));
    const labels = found.labels?.length
      ? el("p", { class: "alx-line" }, el("b", { text: "labels" }),
        el("span", { text: found.labels.map(([label, score]) => `${label} ${score.toFixed(2)}`).join(", ") }))
      : null;
    detail.replaceChildren(
      el("p", { class: "alx-name" }, lab.pick(found.unit), el("span", { text: found.class ? ` ${found.class}` : "" })),
      el("p", { text: found.headline ?? "No run was given: the tab Text shows where this neuron fires on what you type." }),
      ...[labels, tokens("raises", found.promoted, 0.8), tokens("lowers", found.suppressed, -0.8),
        tokens("reads", found.read, 1)].filter(Boolean),
      ...(found.counts ? [histogram(found.edges, found.counts)] : []),
      ...(found.groups ?? []).filter((group) => group.rows.length).map((group, at) =>
        el("details", { open: at === 0 }, el("summary", { text: `${group.title} (${group.rows.length})` }),
          ...group.rows.map((row) => strip(row, group.rows)))));
    detail.dataset.unit = found.unit;
    detail.dataset.valued = String(Boolean(found.valued));
  }
  function strip(row, rows) {
    const most = Math.max(...rows.flatMap((one) => one.values), 1e-9);
    return el("div", { class: "alx-strip" }, el("span", { class: "alx-number alx-value", text: digits(row.value) }),
      el("span", {}, ...row.tokens.map((token, at) =>
        lab.paint(el("span", { text: token.replace(/\n/g, "↵"), title: digits(row.values[at]) }), row.values[at] / most))));
  }
  function histogram(edges, counts) {
    const first = counts.findIndex((one) => one > 0), last = counts.findLastIndex((one) => one > 0);
    if (first < 0) return el("p", { class: "alx-hint", text: "It never fired, so there is no histogram." });
    const most = Math.max(...counts);
    const bins = counts.slice(first, last + 1).map((size, at) => [edges[first + at], size]);
    const words = bins.map(([edge, size]) => `${size} from ${digits(edge)}`).join(", ");
    return el("div", { class: "alx-histogram" },
      el("div", { class: "alx-columns", role: "img", "aria-label": `Windows by the largest value in them: ${words}` },
        ...bins.map(([edge, size]) => {
          const bar = el("span", { title: `${size} windows from ${digits(edge)}` });
          bar.style.height = `${Math.max(1, (100 * size) / most)}%`;
          return bar;
        })),
      el("p", { class: "alx-hint", text: `windows by the largest value in them: ${digits(bins[0][0])} to ${digits(bins.at(-1)[0] * 2)}, doubling; the highest bar is ${most.toLocaleString("en")}` }));
  }

  let begun = false;
  return (why) => {
    if (!begun || why === "theme") load();
    begun = true;
    mark();
    const neurons = lab.get("selection").filter((name) => name.includes("N"));
    const last = neurons.at(-1);
    if (why === "theme" && current) open(current);
    else if (last && last !== current && !lab.has(current)) open(last);
    else if (!current) detail.replaceChildren(el("p", { class: "alx-hint", text: "Pick a neuron: what it fires on and what it does is shown here." }));
  };
};

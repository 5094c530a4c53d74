// The explorer's frame: tabs, the typed text, the selection, and messages to the kernel.
// Text from the kernel is data: it is shown by textContent only, and never as HTML.

const tabs = {}; // name -> (panel, lab) => refresh; the scripts of the tabs fill it
const BUSY = 300; // milliseconds without an answer after which the kernel is called busy

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

// A token as a reader sees it: its white space is visible.
const visible = (token) => {
  const shown = token.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/^ | $/g, "\u00a0");
  return shown.trim() === "" ? "␣" : shown;
};

const digits = (value) => {
  if (value === null || value === undefined) return "–";
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(3)));
};

// Colours, as arcee_lab.views.scale has them: anchors with their places, and the text colour.
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
function blend(anchors, share) {
  const place = Math.min(Math.max(share, 0), 1);
  const right = Math.max(1, anchors.findIndex(([at]) => at >= place));
  const [low, pale] = anchors[right - 1], [high, deep] = anchors[right];
  const from = rgb(pale), to = rgb(deep);
  return from.map((part, at) => Math.round(part + ((to[at] - part) * (place - low)) / (high - low)));
}
function ink(colour) {
  const [r, g, b] = colour.map((part) => {
    const c = part / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#000" : "#fff";
}

function table(caption, heads, rows) {
  return el("table", { class: "alx-table" },
    el("caption", { text: caption }),
    el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col", text })))),
    el("tbody", {}, ...rows));
}

function makeLab(model, root, status) {
  const view = Math.random().toString(36).slice(2, 10).padEnd(8, "0");
  const waiting = new Map(); // id -> what to do with the answer
  const channels = new Map(); // name -> { busy, next }
  let serial = 0, timer = null;

  const say = (text, kind = "", channel = "") => {
    status.textContent = text;
    status.dataset.kind = kind;
    status.dataset.channel = channel; // an error stays until what it is about works again
  };
  const watch = () => {
    clearTimeout(timer);
    timer = null;
    if (waiting.size) {
      timer = setTimeout(() => {
        if (status.dataset.kind !== "error") say("Kernel busy: the answer comes when it is free.", "busy");
      }, BUSY);
    } else if (status.dataset.kind === "busy") say("");
  };
  const onMessage = (content, buffers) => {
    const take = waiting.get(content.id);
    if (!take) return; // of another view
    waiting.delete(content.id);
    watch();
    take([content, buffers]);
  };
  model.on("msg:custom", onMessage);

  const send = (kind, body) => new Promise((done) => {
    const id = `${view}-${++serial}`;
    waiting.set(id, done);
    if (timer === null) watch();
    model.send({ ...body, id, kind });
  });

  // One question per channel at a time; of those that come in between, the latest. The answer is
  // null for one that was displaced, and for an error, which the status line shows.
  async function ask(kind, body, channel = kind) {
    const lane = channels.get(channel) ?? { busy: false, next: null };
    channels.set(channel, lane);
    if (lane.busy) {
      lane.next?.done(null);
      return new Promise((done) => { lane.next = { kind, body, done }; });
    }
    lane.busy = true;
    const [content, buffers] = await send(kind, body);
    lane.busy = false;
    const next = lane.next;
    lane.next = null;
    if (next) ask(next.kind, next.body, channel).then(next.done);
    if (content.error) say(content.error, "error", channel);
    else if (status.dataset.kind === "error" && status.dataset.channel === channel) say("");
    return content.error || content.dropped ? null : { ...content, buffers };
  }

  const lab = {
    facts: model.get("_facts"),
    ask,
    say,
    get: (name) => model.get(name),
    put(name, value) {
      model.set(name, value); // all views of this page follow at once
      ask("set", { name, value }, `set ${name}`);
    },
    has: (name) => model.get("selection").includes(name),
    toggle(name) {
      const chosen = model.get("selection");
      lab.put("selection", lab.has(name) ? chosen.filter((one) => one !== name) : [...chosen, name]);
    },
    // A button that selects a unit, or takes it out.
    pick(name) {
      const button = el("button", { class: "alx-pick", text: name, type: "button",
        "aria-pressed": String(lab.has(name)), title: "select, or take out",
        onclick: () => lab.toggle(name) });
      button.dataset.unit = name;
      return button;
    },
    dark: () => document.body.dataset.jpThemeLight === "false",
    strong: () => rgb(lab.facts.sequential[lab.dark() ? 1 : 4][1]),
    // Colours a cell by a share from 0 to 1, or of either sign; text on it stays readable.
    paint(cell, share, signed = false) {
      if (!share || (signed && Math.abs(share) < lab.facts.blank)) return cell;
      const scale = lab.facts[signed ? "diverging" : "sequential"];
      const colour = blend(scale, signed ? (share + 1) / 2 : share);
      cell.style.backgroundColor = `rgb(${colour.join(",")})`;
      cell.style.color = ink(colour);
      return cell;
    },
    // Bars to both sides of nothing: a list of names with signed numbers.
    bars(caption, head, entries, nameCell) {
      const most = Math.max(...entries.map(([, value]) => Math.abs(value)), 1e-9);
      const both = entries.some(([, value]) => value < 0); // else bars have the whole width
      return table(caption, [head, "adds", ""], entries.map(([name, value]) => {
        const bar = el("span", { class: "alx-bar" });
        const size = (Math.abs(value) / most) * (both ? 50 : 100);
        bar.style.width = `${size}%`;
        if (both) bar.style.marginLeft = value < 0 ? `${50 - size}%` : "50%";
        bar.style.backgroundColor = lab.facts.diverging.at(value < 0 ? 0 : -1)[1];
        return el("tr", {}, el("th", { scope: "row" }, nameCell(name)),
          el("td", { class: "alx-number", text: (value > 0 ? "+" : "") + digits(value) }),
          el("td", { class: "alx-bars", "aria-hidden": "true" }, bar));
      }));
    },
    close: () => { clearTimeout(timer); model.off("msg:custom", onMessage); },
  };
  return lab;
}

function makeTabs(root, lab) {
  const list = el("div", { role: "tablist", "aria-label": "Views" });
  const names = lab.facts.tabs.map(([name]) => name), parts = {};
  const key = Math.random().toString(36).slice(2, 8);
  for (const [name, title] of lab.facts.tabs) {
    const button = el("button", { role: "tab", type: "button", id: `alx-${key}-${name}`, text: title,
      "aria-controls": `alx-${key}-${name}-panel`, onclick: () => lab.put("tab", name) });
    const panel = el("div", { role: "tabpanel", id: `alx-${key}-${name}-panel`,
      "aria-labelledby": button.id });
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const at = names.indexOf(name);
      const to = event.key === "Home" ? 0 : event.key === "End" ? names.length - 1
        : step ? (at + step + names.length) % names.length : null;
      if (to === null) return;
      event.preventDefault();
      lab.put("tab", names[to]);
      parts[names[to]].button.focus();
    });
    list.append(button);
    parts[name] = { button, panel, refresh: null };
  }
  const show = (why) => {
    const open = lab.get("tab");
    for (const [name, part] of Object.entries(parts)) {
      part.button.setAttribute("aria-selected", String(name === open));
      part.button.tabIndex = name === open ? 0 : -1;
      part.panel.hidden = name !== open;
    }
    const part = parts[open];
    part.refresh ??= tabs[open](part.panel, lab);
    part.refresh(why);
    for (const button of part.panel.querySelectorAll(".alx-pick")) {
      button.setAttribute("aria-pressed", String(lab.has(button.dataset.unit)));
    }
  };
  root.append(list, ...Object.values(parts).map((part) => part.panel));
  return show;
}

function render({ model, el: root }) {
  root.classList.add("alx");
  // JupyterLab's shortcuts stop here; Escape still leaves the output.
  root.addEventListener("keydown", (event) => { if (event.key !== "Escape") event.stopPropagation(); });
  const status = el("p", { role: "status", class: "alx-status" });
  const lab = makeLab(model, root, status);

  const input = el("input", { type: "text", spellcheck: "false", autocomplete: "off",
    maxlength: "2000", value: lab.get("text") });
  const chips = el("div", { class: "alx-chips", role: "group", "aria-label": "Selection" });
  root.append(
    el("label", { class: "alx-text" }, el("span", { text: "Text" }), input),
    el("div", { class: "alx-chosen" }, el("span", { text: "Selection" }), chips, status));
  const show = makeTabs(root, lab);

  function drawChips() {
    const chosen = lab.get("selection");
    chips.replaceChildren(...chosen.map((name) => el("button", { type: "button", class: "alx-chip",
      "aria-label": `Take out ${name}`, text: `${name} ×`, onclick: () => lab.toggle(name) })));
    if (chosen.length > 1) {
      chips.append(el("button", { type: "button", class: "alx-chip", text: "clear",
        onclick: () => lab.put("selection", []) }));
    } else if (!chosen.length) {
      chips.append(el("span", { class: "alx-hint", text: "nothing yet: pick a neuron in a tab below" }));
    }
  }
  input.addEventListener("input", () => lab.put("text", input.value));

  const changes = {
    text: () => { if (input.value !== lab.get("text")) input.value = lab.get("text"); show("text"); },
    selection: () => { drawChips(); show("selection"); },
    head: () => show("head"),
    factor: () => show("factor"),
    tab: () => { lab.say(""); show("tab"); },
  };
  for (const [name, change] of Object.entries(changes)) model.on(`change:${name}`, change);
  const theme = () => {
    const now = lab.dark() ? "dark" : "light";
    if (root.dataset.theme === now) return;
    const before = root.dataset.theme;
    root.dataset.theme = now;
    if (before) show("theme");
  };
  theme();
  const observer = new MutationObserver(theme);
  observer.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  drawChips();
  show("tab");
  return () => {
    observer.disconnect();
    for (const [name, change] of Object.entries(changes)) model.off(`change:${name}`, change);
    lab.close();
  };
}

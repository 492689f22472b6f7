// Tables that sort and filter, and the example browser. Text is set as text, never as markup.
"use strict";
(() => {
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const words = text => text.toLowerCase().split(/\s+/).filter(Boolean);

  // Marks that reorder or hide text are written out.
  const hidden = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
  const visible = text => {
    const parts = document.createDocumentFragment();
    let from = 0;
    for (const match of text.matchAll(hidden)) {
      const code = match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
      parts.append(text.slice(from, match.index), make("span", { class: "ctl" }, "U+" + code));
      from = match.index + match[0].length;
    }
    parts.append(text.slice(from));
    return parts;
  };

  for (const sheet of document.querySelectorAll("section.table")) {
    const table = sheet.querySelector("table");
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const [search, toggle] = sheet.querySelectorAll("input");
    const count = sheet.querySelector("output");
    sheet.querySelector(".tools").hidden = false;

    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = make("button", { type: "button" });
      button.append(...head.childNodes);
      head.append(button);
      const numeric = head.classList.contains("n");
      button.addEventListener("click", () => {
        const first = numeric ? "descending" : "ascending";
        const other = numeric ? "ascending" : "descending";
        const order = head.getAttribute("aria-sort") === first ? other : first;
        heads.forEach(h => h.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order);
        const sign = order === "ascending" ? 1 : -1;
        const key = row => {
          const cell = row.cells[column];
          const value = cell.dataset.v;
          return value === undefined ? cell.firstElementChild.textContent : Number(value);
        };
        const compare = (a, b) => {
          const [x, y] = [key(a), key(b)];
          if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1; // empty cells last
          return sign * (typeof x === "number" ? x - y : x.localeCompare(y, "en", { numeric: true }));
        };
        body.append(...rows.slice().sort(compare));
      });
    });

    const filter = () => {
      const wanted = words(search.value);
      let shown = 0;
      for (const row of rows) {
        const text = [...row.cells].map(cell => cell.firstElementChild.textContent).join(" ").toLowerCase();
        const cells = text.split(/\s+/);
        // A number must be a whole word: 64 is not 640.
        row.hidden = !wanted.every(word => /^\d+$/.test(word) ? cells.includes(word) : text.includes(word));
        if (!row.hidden) shown += 1;
      }
      count.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
    };
    search.addEventListener("input", filter);
    const small = () => table.classList.toggle("compact", !toggle.checked);
    toggle.addEventListener("change", small);
    small();
  }

  // Folded pictures open and close together.
  for (const button of document.querySelectorAll("button.fold")) {
    const folded = [...button.closest("section").querySelectorAll("details")];
    const open = () => folded.every(one => one.open);
    const name = () => { button.textContent = `${open() ? "Close" : "Open"} all ${folded.length}`; };
    button.hidden = false;
    button.addEventListener("click", () => {
      const wanted = !open();
      folded.forEach(one => { one.open = wanted; });
      name();
    });
    folded.forEach(one => one.addEventListener("toggle", name));
    name();
  }

  const browser = document.querySelector(".browser");
  if (!browser) return;
  const data = JSON.parse(document.getElementById("data").textContent);
  // On the page an answer that several variants gave stands once; one that was cut brings its whole length.
  for (const example of data.examples) {
    const said = example.said.map(text => typeof text === "string" ? [text, null] : text);
    example.results = example.results.map(([variant, place, score, entries, strip, kept]) =>
      ({ variant, prediction: said[place][0], cut: said[place][1], score, entries, strip, kept }));
    example.name = `${example.dataset} · ${example.name}`;
  }
  const list = browser.querySelector(".list");
  const detail = browser.querySelector(".detail");
  const select = browser.querySelector("select");
  const [search, differ] = browser.querySelectorAll(".pick input");
  const count = browser.querySelector("output");
  browser.hidden = false;

  const sets = [...new Set(data.examples.map(example => example.dataset))];
  select.append(make("option", { value: "" }, "all"));
  for (const set of sets) {
    const option = make("option");
    option.value = option.textContent = set;
    select.append(option);
  }

  const spread = example => {
    const scores = example.results.map(result => result.score);
    return scores.length ? [Math.min(...scores), Math.max(...scores)] : [0, 0];
  };
  const short = value => value.toFixed(1);
  const buttons = data.examples.map((example, index) => {
    const [low, high] = spread(example).map(score => score.toFixed(0));
    const name = make("span");
    name.append(visible(example.name));
    const range = make("small", { title: "lowest and highest score" }, low === high ? low : `${low}–${high}`);
    const button = make("button", { type: "button", tabindex: "-1" }, name, range);
    button.addEventListener("click", () => open(index, true));
    list.append(make("li", {}, button));
    return button;
  });
  const haystack = data.examples.map(e =>
    [e.name, e.key, e.tail, ...e.answers, ...e.results.map(r => r.prediction)].join(" ").toLowerCase());

  // Of a list of buttons only one is a stop of the Tab key; the arrow keys move inside.
  const stop = (buttons, chosen) => buttons.forEach(one => { one.tabIndex = one === chosen ? 0 : -1; });
  const arrows = (event, buttons) => {
    const place = buttons.indexOf(document.activeElement);
    const last = buttons.length - 1;
    const next = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: last }[event.key];
    if (next === undefined || place < 0) return null;
    event.preventDefault();
    const button = buttons[Math.min(Math.max(next, 0), last)];
    stop(buttons, button);
    button.focus();
    return button;
  };
  const seen = () => buttons.filter(button => !button.parentNode.hidden);

  const filter = () => {
    const wanted = words(search.value);
    let shown = 0;
    data.examples.forEach((example, index) => {
      const [low, high] = spread(example);
      const fits = (!select.value || example.dataset === select.value)
        && (!differ.checked || low !== high) && wanted.every(word => haystack[index].includes(word));
      buttons[index].parentNode.hidden = !fits;
      if (fits) shown += 1;
    });
    count.textContent = `${shown} of ${data.examples.length} examples`;
    const fitting = seen();
    stop(buttons, fitting.find(button => button.getAttribute("aria-current") === "true") || fitting[0]);
  };
  [select, differ].forEach(control => control.addEventListener("change", filter));
  search.addEventListener("input", filter);
  filter();

  list.addEventListener("keydown", event => arrows(event, seen()));

  const shade = digit => `rgba(var(--keep), calc(var(--most) * ${(Number(digit) / 9).toFixed(2)}))`;
  const share = digit => ({ 0: "none", 9: "all" })[digit] || `about ${Math.round(Number(digit) / 9 * 100)} %`;
  const strip = digits => {
    const bar = make("span", { class: "strip", title: "share of heads that kept each part of the prompt, beginning to end" });
    const stops = [...digits].map((digit, i) =>
      `${shade(digit)} ${(i / digits.length * 100).toFixed(2)}% ${((i + 1) / digits.length * 100).toFixed(2)}%`);
    bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    return bar;
  };

  const prompt = example => {
    const box = make("div", { class: "text", tabindex: "0", role: "region", "aria-label": "prompt" });
    if (!example.tokens) {
      box.append("… ", visible(example.tail));
      return { box, mark: null };
    }
    const { pieces, head, gap } = example.tokens;
    const spans = pieces.map((piece, index) => {
      if (gap && index === head) {
        box.append(make("span", { class: "gap" }, `… ${gap.toLocaleString("en")} tokens not shown …`));
      }
      const span = make("span", { class: "tok" });
      span.append(visible(piece));
      box.append(span);
      return span;
    });
    const mark = kept => spans.forEach((span, index) => {
      span.style.background = kept ? shade(kept[index] || 0) : "";
      span.title = kept ? `kept by ${share(kept[index])} of the heads` : "";
    });
    return { box, mark };
  };

  const open = (index, move) => {
    const example = data.examples[index];
    buttons.forEach((button, i) => button.setAttribute("aria-current", i === index));
    const title = make("h3");
    title.append(visible(example.name));
    const { box, mark } = prompt(example);
    const caption = make("h4", {}, mark ? "Prompt" : "End of the prompt");
    stop(buttons, buttons[index]);
    const answers = make("ul", { class: "answers" });
    for (const answer of example.answers) {
      const item = make("li", { dir: "auto" });
      item.append(visible(answer));
      answers.append(item);
    }
    const body = make("tbody");
    const show = (row, result, name) => {
      for (const other of body.rows) other.removeAttribute("aria-selected");
      row.setAttribute("aria-selected", "true");
      mark(result.kept);
      caption.textContent = `Prompt; shaded: what ${name} kept`;
    };
    const variants = [];
    for (const result of example.results) {
      const row = make("tr");
      const name = data.variants[result.variant] ?? "?";
      const label = make("th", { scope: "row" });
      if (mark && result.kept) {
        const button = make("button", { type: "button" });
        button.append(visible(name));
        button.title = "Show the tokens it kept";
        button.addEventListener("click", () => { show(row, result, name); stop(variants, button); });
        variants.push(button);
        label.append(button);
      } else {
        label.append(visible(name));
      }
      if (result.strip) label.append(strip(result.strip));
      const said = make("div", { class: "said", dir: "auto" });
      const text = result.prediction.replace(/^[ \t\r\n]+|[ \t\r\n]+$/g, "");
      if (text) said.append(visible(text));
      else said.append(make("span", { class: "empty" }, result.prediction ? "only white space" : "nothing"));
      if (result.cut) {
        said.append(make("small", {}, ` … cut: the whole answer has ${result.cut.toLocaleString("en")} characters`));
      }
      const score = make("td", { class: "score" }, short(result.score),
        make("small", {}, `${result.entries.toFixed(result.entries < 1000 ? 1 : 0)} entries`));
      row.append(label, score, make("td", {}, said));
      body.append(row);
    }
    const head = make("thead", {}, make("tr", {}, ...["Variant", "Score", "Answer"].map(t => make("th", { scope: "col" }, t))));
    const about = make("p", { class: "note" });
    about.append(visible(example.about));
    if (example.key) {
      const key = make("code");
      key.append(visible(example.key));
      about.append(" · ", key);
    }
    body.addEventListener("keydown", event => {
      const button = arrows(event, variants);
      if (button) button.click();
    });
    const hint = variants.length > 1 ? make("small", {}, " the arrow keys go from variant to variant") : "";
    detail.replaceChildren(title, about, caption, box, make("h4", {}, "Reference"), answers,
      make("h4", {}, "Answers", hint), make("table", { class: "results" }, head, body));
    const first = example.results.findIndex(result => mark && result.kept && /[0-8]/.test(result.kept));
    if (first >= 0) {
      show(body.rows[first], example.results[first], data.variants[example.results[first].variant]);
      stop(variants, body.rows[first].querySelector("button"));
    }
    box.scrollTop = box.scrollHeight; // the question stands at the end
    if (move) history.replaceState(null, "", `#example-${index}`);
    if (move && window.matchMedia("(max-width: 52rem)").matches) detail.focus();
  };

  const linked = /^#example-(\d+)$/.exec(location.hash);
  if (linked && data.examples[linked[1]]) {
    open(Number(linked[1]), false);
    document.getElementById("examples").scrollIntoView();
  } else if (data.examples.length) {
    open(0, false);
  }
})();

"use strict";
// Sorting, searching and pointing; without this script the page is the same, in the order in which things are stored.

const SEEN = 300; // rows, more than any window shows
const words = new Intl.Collator("en", { numeric: true });

function sortable(table) {
  const body = table.tBodies[0];
  const stored = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  let waiting = 0;
  // What is seen comes at once, the rest of thousands of rows when that is drawn.
  const arrange = (rows) => {
    clearTimeout(waiting);
    body.replaceChildren(...rows.slice(0, SEEN));
    if (rows.length > SEEN) waiting = setTimeout(() => body.append(...rows.slice(SEEN)), 50);
  };
  heads.forEach((head, column) => {
    const numbers = head.classList.contains("n");
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      // Numbers begin with the largest, which are what is looked for; the third time everything is as stored again.
      const turns = numbers ? ["none", "descending", "ascending"] : ["none", "ascending", "descending"];
      const next = turns[(turns.indexOf(head.getAttribute("aria-sort")) + 1) % 3];
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", next);
      arrange(next === "none" ? stored : ordered(stored, column, numbers, next === "descending" ? -1 : 1));
    });
  });
}

function ordered(rows, column, numbers, sign) {
  const key = (cell) => (numbers ? (cell.dataset.v === undefined ? null : Number(cell.dataset.v)) : cell.textContent);
  const keyed = rows.map((row) => [key(row.cells[column]), row]);
  const compare = (a, b) => (numbers ? a - b : words.compare(a, b));
  keyed.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)));
  return keyed.map(([, row]) => row);
}

function searchable(field) {
  const input = field.querySelector("input");
  const count = field.querySelector("output");
  const rows = [...document.getElementById(input.getAttribute("aria-controls")).tBodies[0].rows];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const show = () => {
    const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    rows.forEach((row, at) => {
      const matches = wanted.every((word) => texts[at].includes(word));
      row.hidden = !matches;
      found += matches;
    });
    count.value = `${found.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
  };
  let waiting = 0;
  for (const event of ["input", "change"]) {
    input.addEventListener(event, () => {
      cancelAnimationFrame(waiting);
      waiting = requestAnimationFrame(show);
    });
  }
  field.hidden = false;
  show();
}

function movable(map) {
  const at = (row, column) => map.tBodies[0].rows[row]?.cells[column];
  const go = (from, to) => {
    if (to?.title) {
      from.tabIndex = -1;
      to.tabIndex = 0;
      to.focus();
    }
    return Boolean(to?.title);
  };
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  map.setAttribute("role", "grid");
  map.querySelector("td[title]").tabIndex = 0;
  map.addEventListener("keydown", (event) => {
    const cell = event.target.closest("td");
    const [down, right] = steps[event.key] ?? [];
    if (!cell || down === undefined) return;
    event.preventDefault();
    // Over cells that hold nothing to the next that does.
    for (let n = 1; ; n++) {
      const to = at(cell.parentNode.sectionRowIndex + n * down, cell.cellIndex + n * right);
      if (!to || to.tagName !== "TD" || go(cell, to)) return;
    }
  });
}

function telling(figure) {
  const readout = figure.querySelector(".readout");
  const tell = (event) => {
    const text = event.target.closest("[title]")?.title ?? event.target.querySelector?.(":scope > title")?.textContent;
    if (text && !event.target.closest("svg.plot")?.isSameNode(event.target)) readout.textContent = text;
  };
  readout.hidden = false;
  figure.addEventListener("pointerover", tell);
  figure.addEventListener("focusin", tell);
}

document.querySelectorAll("table[data-sortable]").forEach(sortable);
document.querySelectorAll(".find").forEach(searchable);
document.querySelectorAll("table.heat").forEach(movable);
document.querySelectorAll("figure:has(.readout)").forEach(telling);

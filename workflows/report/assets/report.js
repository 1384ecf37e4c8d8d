"use strict";
// Tables are sorted by the buttons of their heads, and searched; heat maps are walked through with the arrow keys. Without this
// script the page says the same.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const numbers = head.classList.contains("number");
      const before = head.getAttribute("aria-sort");
      const down = before ? before === "ascending" : numbers; // the largest first, but words from A on
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => {
        const cell = row.cells[column];
        const found = cell.dataset.sort ?? cell.textContent;
        return numbers ? parseFloat(found) : found;
      };
      const order = (a, b) => {
        if (!numbers) return a.localeCompare(b, "en", { numeric: true });
        if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
        return a - b;
      };
      const rows = [...body.rows].map((row) => [key(row), row]);
      const missing = (value) => numbers && Number.isNaN(value);
      rows.sort(([a], [b]) => (missing(a) || missing(b) || !down ? order(a, b) : order(b, a))); // what is missing comes last
      body.append(...rows.map(([, row]) => row));
    });
  });
}
for (const input of document.querySelectorAll("input[type=search]")) {
  input.closest("p").hidden = false;
  const body = document.getElementById(input.dataset.table).tBodies[0];
  const output = input.closest("p").querySelector("output");
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    output.textContent = words.length ? `${shown} of ${body.rows.length}` : "";
  });
}
for (const table of document.querySelectorAll("table.heat")) {
  const readout = table.closest("section").querySelector(".readout");
  readout.hidden = false;
  const cells = [...table.querySelectorAll("td[title]")];
  const show = (cell) => { readout.textContent = cell.title; };
  if (cells.length) cells[0].tabIndex = 0;
  for (const cell of cells) {
    cell.addEventListener("mouseenter", () => show(cell));
    cell.addEventListener("focus", () => {
      cells.forEach((other) => { other.tabIndex = -1; });
      cell.tabIndex = 0;
      show(cell);
    });
  }
  table.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    let at = event.target.closest("td[title]");
    if (!step || !at) return;
    event.preventDefault();
    const rows = table.tBodies[0].rows;
    let row = at.parentElement.sectionRowIndex, column = at.cellIndex;
    do {
      row += step[0];
      column += step[1];
      at = rows[row] && rows[row].cells[column];
    } while (at && !at.title); // over holes
    if (at) at.focus();
  });
}

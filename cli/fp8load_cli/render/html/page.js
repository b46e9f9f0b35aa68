"use strict";
// Tables sort by their headings and filter by what is typed; without scripts they are complete, in their own order.
for (const table of document.querySelectorAll("table.sortable")) {
  table.classList.add("live");
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  const sort = (column) => {
    const down = headings[column].getAttribute("aria-sort") === "ascending";
    const value = (row) => row.cells[column].dataset.key ?? row.cells[column].textContent;
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      const numbers = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
      return numbers ? x - y : x.localeCompare(y, "en", { numeric: true });
    };
    const rows = [...body.rows].sort(down ? (a, b) => compare(b, a) : compare);
    for (const heading of headings) heading.removeAttribute("aria-sort");
    headings[column].setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...rows);
  };
  headings.forEach((heading, column) => {
    heading.tabIndex = 0;
    heading.addEventListener("click", () => sort(column));
    heading.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      sort(column);
    });
  });
}
for (const box of document.querySelectorAll(".filtered")) {
  box.classList.add("live");
  const rows = [...box.querySelectorAll("tbody tr")];
  const field = box.querySelector("input");
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("thead button").forEach((button) => {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const column = head.cellIndex;
      const descending = head.getAttribute("aria-sort") !== "descending";
      const value = (row) => {
        const text = (row.cells[column].dataset.value ?? row.cells[column].textContent).trim();
        const number = Number(text.replace(/^< |,| %$/g, ""));
        return text === "" || Number.isNaN(number) ? text : number;
      };
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (typeof x !== typeof y) return typeof x === "string" ? 1 : -1;
        const order = x < y ? -1 : x > y ? 1 : 0;
        return descending ? -order : order;
      });
      table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      body.append(...rows);
    });
  });
}

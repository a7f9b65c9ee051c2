"use strict";
{
  const rows = [...document.querySelectorAll("#layers tbody tr")];
  const field = document.querySelector(".filter input");
  const shown = document.querySelector(".filter small");
  field.closest(".filter").hidden = false;
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      row.hidden = !row.dataset.search.includes(wanted);
      count += !row.hidden;
      const plots = document.getElementById("values-" + row.dataset.number);
      if (plots) plots.hidden = row.hidden;
    }
    shown.textContent = wanted ? count + " of " + rows.length : "";
  });
  document.querySelectorAll("#layers th").forEach((head, column, heads) => {
    const sort = () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? "";
      const number = rows.every((row) => key(row) === "" || !isNaN(key(row)));
      const compare = (a, b) => (number ? Number(key(a)) - Number(key(b)) : key(a).localeCompare(key(b)));
      rows.sort((a, b) => {
        if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");
        return down ? compare(b, a) : compare(a, b);
      });
      rows[0]?.parentNode.append(...rows);
    };
    head.setAttribute("aria-sort", "none");
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); sort(); }
    });
  });
}

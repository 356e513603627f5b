"use strict";
(() => {
  const form = document.getElementById("filters");
  const told = document.getElementById("shown");
  const byClass = form.elements.namedItem("class");
  const byExperiment = form.elements.namedItem("experiment");
  const marked = [...document.querySelectorAll("[data-class], [data-experiment]")];
  const rows = marked.filter((one) => one.tagName === "TR");

  const fits = (one) => {
    const own = one.dataset.class === undefined || !byClass.value || one.dataset.class === byClass.value;
    const experiments = one.dataset.experiment === undefined ? null : one.dataset.experiment.split(" ");
    return own && (!experiments || !byExperiment.value || experiments.includes(byExperiment.value));
  };

  const apply = () => {
    for (const one of marked) one.hidden = !fits(one);
    const left = rows.filter((row) => !row.closest("[hidden]")).length;
    told.textContent = left === rows.length ? `All ${rows.length} rows shown` : `${left} of ${rows.length} rows shown`;
  };

  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply, 0));
  addEventListener("beforeprint", () => {
    for (const one of document.querySelectorAll("details")) one.open = true;
  });
  form.hidden = false;
  apply();
})();

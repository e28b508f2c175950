// Times in the reader's zone, and forms that send themselves. Without this script every page still works.

const time = new Intl.DateTimeFormat(undefined, {
  year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit",
});

function localise(root) {
  for (const element of root.querySelectorAll("time[datetime]:not([data-local])")) {
    const moment = new Date(element.dateTime);
    if (!Number.isNaN(moment.valueOf())) element.textContent = time.format(moment);
    element.dataset.local = "";
  }
}

// What is wider than its box is scrolled by keyboard too, once it can be focused and has a name.
function makeScrollable() {
  for (const box of document.querySelectorAll(".table-box")) {
    const heading = box.closest("section")?.querySelector("h2") ?? document.querySelector("h1");
    if (box.scrollWidth <= box.clientWidth) {
      for (const name of ["tabindex", "role", "aria-label"]) box.removeAttribute(name);
    } else {
      box.tabIndex = 0;
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", heading.textContent);
    }
  }
}

function prepare(root) {
  localise(root);
  makeScrollable();
}

prepare(document);
addEventListener("resize", makeScrollable);
document.addEventListener("htmx:load", (event) => prepare(event.target.parentElement ?? document));
document.addEventListener("htmx:responseError", () => location.reload());

document.addEventListener("change", (event) => {
  if (event.target.matches("select[data-submits]")) event.target.form.requestSubmit();
});

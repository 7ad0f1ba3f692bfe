// Everything works without this file. It saves a click: a choice in a form of filters is applied at once.
document.querySelectorAll("form[data-apply] select, form[data-apply] input[type=month]").forEach((field) => {
  field.addEventListener("change", () => field.form.requestSubmit());
});
document.querySelectorAll("[data-print]").forEach((button) => {
  button.hidden = false;
  button.addEventListener("click", () => window.print());
});

// A method and its options; the component's value is what is set here, as JSON. Everything is looked
// up when it is needed, since another model brings another picker.
function read(input) {
  const kind = input.dataset.kind;
  if (kind === "switch") return input.checked;
  if (kind === "choice") return JSON.parse(input.value);
  if (kind === "list") return input.value;
  return input.value === "" ? null : Number(input.value);
}

function update() {
  const name = element.querySelector("select")?.value ?? "";
  const options = {};
  for (const panel of element.querySelectorAll("[data-method]")) {
    panel.hidden = panel.dataset.method !== name;
    if (panel.hidden) continue;
    for (const input of panel.querySelectorAll("[data-option]")) {
      const shown = panel.querySelector(`output[for="${input.id}"]`);
      if (shown) shown.textContent = input.value;
      const value = read(input);
      if (JSON.stringify(value) !== input.dataset.default) options[input.dataset.option] = value;
    }
    panel.querySelector("[data-reset]").disabled = !Object.keys(options).length;
  }
  props.value = JSON.stringify(name ? { name, options } : null);
}

element.addEventListener("input", update);
element.addEventListener("change", (event) => {
  update();
  // A strength that was let go of: the captions at four strengths follow.
  if (event.target.matches("[data-strength]")) trigger("select", { strength: true });
});
element.addEventListener("click", (event) => {
  const reset = event.target.closest("[data-reset]");
  if (!reset) return;
  for (const input of reset.closest("[data-method]").querySelectorAll("[data-option]")) {
    const value = JSON.parse(input.dataset.default);
    if (input.dataset.kind === "switch") input.checked = value;
    else if (input.dataset.kind === "choice") input.value = input.dataset.default;
    else input.value = value ?? "";
  }
  update();
});
update();

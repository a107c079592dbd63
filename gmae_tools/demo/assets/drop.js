// Read what is dropped, or chosen, and hand it over as text: no file is uploaded, so that none lies on the server.
const label = element.querySelector(".drop");
const input = label.querySelector("input");
const most = MOST_BYTES;

const take = (file) => {
  if (!file) return;
  if (file.size > most) {
    trigger("upload", { name: file.name, size: file.size, data: "" });
    return;
  }
  const reader = new FileReader();
  reader.onload = () => trigger("upload", { name: file.name, size: file.size, data: reader.result.split(",")[1] ?? "" });
  reader.readAsDataURL(file);
};

input.addEventListener("change", () => {
  take(input.files[0]);
  input.value = ""; // so that the same file can be chosen again
});
for (const name of ["dragenter", "dragover"]) label.addEventListener(name, () => label.classList.add("over"));
for (const name of ["dragleave", "drop"]) label.addEventListener(name, () => label.classList.remove("over"));
document.addEventListener("paste", (event) => {
  if (!/^(input|textarea)$/i.test(document.activeElement?.tagName ?? "") || document.activeElement === input)
    take(event.clipboardData?.files[0]);
});

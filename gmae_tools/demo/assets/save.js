// Offer bytes that the server sent as a file: they never lie on the server's disk.
watch("value", () => {
  const sent = element.querySelector("data");
  if (!sent) return;
  const bytes = Uint8Array.from(atob(sent.textContent), (char) => char.charCodeAt(0));
  const address = URL.createObjectURL(new Blob([bytes], { type: sent.dataset.type }));
  const link = document.createElement("a");
  link.href = address;
  link.download = sent.dataset.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
});

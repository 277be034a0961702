// Pictures that are dropped onto the page, chosen or pasted.

/** Calls `shown(file, bitmap)` for each picture that arrives, or `failed(error)`. */
export function acceptPictures(input, zone, shown, failed) {
  const take = async (files) => {
    const file = [...(files ?? [])].find((each) => each.type.startsWith("image/"));
    if (!file) return;
    try {
      shown(file, await createImageBitmap(file));
    } catch {
      failed(new Error(`${file.name}: found no picture that this browser can show; expected PNG, JPEG, BMP or WebP`));
    }
  };
  input.addEventListener("change", () => {
    void take(input.files);
    input.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", (event) => void take(event.clipboardData?.files));
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      zone.classList.add("dropping");
    });
  }
  for (const name of ["dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      zone.classList.remove("dropping");
      if (name === "drop") void take(event.dataTransfer?.files);
    });
  }
}

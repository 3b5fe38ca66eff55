// Before anything is drawn: the theme that was chosen here last.
{
  const chosen = localStorage.getItem("dgguf-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}

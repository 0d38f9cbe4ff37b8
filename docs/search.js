// An option that is pasted into the search is looked for: "--" before a word means nothing there.
document.addEventListener("input", ({ target }) => {
  if (target.matches(".md-search__input")) target.value = target.value.replace(/(^|\s)--(?=\w)/g, "$1");
}, true);

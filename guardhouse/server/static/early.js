/* Set the chosen colour theme before the first paint.
 *
 * Knows: one word in localStorage. Never knows: anything else. It is no module because modules run after the first paint.
 */
(() => {
  const chosen = localStorage.getItem("guardhouse-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();

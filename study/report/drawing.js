"use strict";
/* Draws each figure when it comes into view, in the colours that the device asks for, and again when those change. */
(function () {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const themes = read("themes");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const places = Array.from(document.querySelectorAll(".plot"));
  const drawn = new Set();
  let printing = false;

  function draw(place) {
    const found = read("data-" + place.id);
    const narrow = place.clientWidth < 480;
    const layout = Object.assign({}, found.layout, {
      template: themes[dark.matches && !printing ? "dark" : "light"],
      font: { size: narrow ? 10 : 12 },
    });
    if (narrow && layout.coloraxis) {
      layout.coloraxis = Object.assign({}, layout.coloraxis, { showscale: false });
    }
    const options = {
      responsive: true,
      displaylogo: false,
      displayModeBar: narrow ? false : "hover",
      modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
      scrollZoom: false,
      toImageButtonOptions: { format: "svg", filename: place.id },
    };
    drawn.add(place);
    return Plotly.react(place, found.data, layout, options);
  }

  function redraw() {
    drawn.forEach(draw);
  }

  if ("IntersectionObserver" in window) {
    const seen = new IntersectionObserver(
      (entries) =>
        entries.forEach((entry) => {
          if (entry.isIntersecting) {
            seen.unobserve(entry.target);
            draw(entry.target);
          }
        }),
      { rootMargin: "600px" }
    );
    places.forEach((place) => seen.observe(place));
  } else {
    places.forEach(draw);
  }
  dark.addEventListener("change", redraw);
  window.addEventListener("beforeprint", () => {
    printing = true;
    places.forEach(draw);
  });
  window.addEventListener("afterprint", () => {
    printing = false;
    redraw();
  });

  document.querySelectorAll("button.copy").forEach((button) => {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch (error) {
        window.getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
  });

  const links = new Map(
    Array.from(document.querySelectorAll("nav a")).map((link) => [link.getAttribute("href").slice(1), link])
  );
  if ("IntersectionObserver" in window) {
    const here = new IntersectionObserver(
      (entries) =>
        entries.forEach((entry) => {
          const link = links.get(entry.target.id);
          if (link) link.classList.toggle("here", entry.isIntersecting);
        }),
      { rootMargin: "-10% 0px -85% 0px" }
    );
    document.querySelectorAll("section[id]").forEach((section) => here.observe(section));
  }
})();

"use strict";
/* Draws each figure when it comes into view, which one in a folded section does when that is unfolded, in the colours
   that the device asks for, and again when those change. */
(function () {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const themes = read("themes");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const touched = window.matchMedia("(hover: none)"); // plotly's buttons would always lie on the figure there
  const places = Array.from(document.querySelectorAll(".plot"));
  const drawn = new Set();
  const MARGIN = 600; // px below the window in which figures are drawn already
  const PAPER = 640; // px between the margins of a page of paper, with room for what stands beside a figure
  let printing = false;

  function draw(place) {
    const figure = read("data-" + place.id);
    const narrow = place.clientWidth < 480;
    const layout = Object.assign({}, figure.layout, {
      template: themes[dark.matches && !printing ? "dark" : "light"],
      font: { size: narrow ? 10 : 12 },
    });
    for (const axis of ["coloraxis", "coloraxis2"]) {
      if (narrow && layout[axis]) layout[axis] = Object.assign({}, layout[axis], { showscale: false });
    }
    const options = {
      responsive: true,
      displaylogo: false,
      displayModeBar: narrow || touched.matches ? false : "hover",
      modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
      scrollZoom: false,
      toImageButtonOptions: { format: "svg", filename: place.id },
    };
    drawn.add(place);
    return Plotly.react(place, figure.data, layout, options);
  }

  let seen = null;
  if ("IntersectionObserver" in window) {
    seen = new IntersectionObserver(
      (entries) =>
        entries.forEach((entry) => {
          if (entry.isIntersecting) {
            seen.unobserve(entry.target);
            draw(entry.target);
          }
        }),
      { rootMargin: MARGIN + "px" }
    );
    places.forEach((place) => seen.observe(place));
  } else {
    places.forEach(draw);
  }

  /* What is folded has no width to be drawn in: it waits until it is unfolded. */
  function redraw() {
    Array.from(drawn).forEach((place) => {
      if (place.clientWidth || !seen) {
        draw(place);
      } else {
        drawn.delete(place);
        seen.observe(place);
      }
    });
  }
  const near = (place) => place.getBoundingClientRect().top < window.innerHeight + MARGIN;
  function fit(fold) {
    const inside = fold.open ? Array.from(fold.querySelectorAll(".plot")) : [];
    inside.filter((place) => place.clientWidth).forEach((place) => {
      if (drawn.has(place)) {
        Plotly.Plots.resize(place);
      } else if (near(place)) {
        if (seen) seen.unobserve(place);
        draw(place);
      }
    });
  }
  document.querySelectorAll("details.fold").forEach((fold) => fold.addEventListener("toggle", () => fit(fold)));

  /* Figures of the width of a page, whatever the window's is; one that needs more is drawn in that and made smaller. */
  function setPaper(place) {
    const least = parseFloat(place.style.minWidth) || 0;
    place.style.width = printing ? Math.max(PAPER, least) + "px" : "";
    place.style.zoom = printing && least > PAPER ? PAPER / least : "";
  }

  dark.addEventListener("change", redraw);
  window.addEventListener("beforeprint", () => {
    printing = true;
    places.forEach(setPaper);
    places.forEach(draw);
  });
  window.addEventListener("afterprint", () => {
    printing = false;
    places.forEach(setPaper);
    redraw();
  });
})();

// Draws the charts of a page: each element with data-chart names where its data and layout are.
"use strict";

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const narrow = window.matchMedia("(max-width: 600px)");

async function draw(place) {
  const theme = dark.matches ? "dark" : "light";
  const answer = await fetch(`${place.dataset.chart}?theme=${theme}&narrow=${narrow.matches}`);
  if (!answer.ok) throw new Error(`${answer.status}`);
  const { data, layout } = await answer.json();
  await Plotly.react(place, data, layout, { responsive: true, displayModeBar: false });
  place.setAttribute("data-drawn", theme);
}

function drawAll() {
  for (const place of document.querySelectorAll("[data-chart]")) {
    draw(place).catch(() => {
      place.textContent = "This chart could not be drawn. Its figures are in the table below.";
    });
  }
}

drawAll();
dark.addEventListener("change", drawAll);
narrow.addEventListener("change", drawAll);

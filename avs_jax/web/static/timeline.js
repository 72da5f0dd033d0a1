// The timeline under the video: how much of the picture sounds when, and where the video is now.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 900, LEFT = 64, RIGHT = 18, BARS = 74, LANE = 16, AXIS = 20;

function draw(kind, attributes, text) {
  const node = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
const clock = (s) => `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;

// rows: [{start_s, end_s, area, score, similarity?, labels}]; video: the element whose time is shown and set.
function showTimeline(box, rows, video) {
  const end = rows.length ? rows[rows.length - 1].end_s : 1;
  const hasSimilarity = rows.some((row) => row.similarity !== null);
  const labels = [...new Set(rows.flatMap((row) => row.labels))].slice(0, 8);
  const most = Math.max(0.02, ...rows.map((row) => row.area));
  const height = BARS + labels.length * LANE + AXIS + 8;
  const x = (time) => LEFT + (WIDTH - LEFT - RIGHT) * Math.min(time / end, 1);
  const y = (area) => BARS - (BARS - 10) * (area / most);
  const svg = draw("svg", {viewBox: `0 0 ${WIDTH} ${height}`, role: "slider", tabindex: 0,
    "aria-label": "Timeline: share of the picture that sounds", "aria-valuemin": 0, "aria-valuemax": end.toFixed(1)});
  for (const share of [0, most / 2, most]) {
    svg.append(draw("line", {class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(share), y2: y(share)}));
    svg.append(draw("text", {x: LEFT - 8, y: y(share) + 4, "text-anchor": "end"}, percent(share)));
  }
  for (const row of rows) {
    const wide = Math.max(x(row.end_s) - x(row.start_s) - (rows.length < 200 ? 1.5 : 0), 0.5);
    const top = row.area > 0 ? Math.min(y(row.area), BARS - 2) : BARS - 2;
    const bar = draw("rect", {class: row.area > 0 ? "bar" : "bar quiet", x: x(row.start_s), width: wide, y: top,
      height: BARS - top, rx: Math.min(3, wide / 3)});
    bar.append(draw("title", {}, `${row.start_s.toFixed(2)} s: ${percent(row.area)} of the picture`));
    svg.append(bar);
    for (const label of row.labels) {
      const lane = labels.indexOf(label);
      if (lane >= 0) svg.append(draw("rect", {class: "bar", x: x(row.start_s), width: wide, y: BARS + 4 + lane * LANE,
        height: LANE - 5, rx: 2}));
    }
  }
  labels.forEach((label, lane) => svg.append(
    draw("text", {x: LEFT - 8, y: BARS + 13 + lane * LANE, "text-anchor": "end"}, label)));
  if (hasSimilarity) {
    const points = rows.map((row) => `${x((row.start_s + row.end_s) / 2)},${BARS - (BARS - 10) * row.similarity}`);
    for (const name of ["halo", "line"]) svg.append(draw("polyline", {class: name, points: points.join(" ")}));
  }
  const step = [1, 2, 5, 10, 15, 30, 60].find((each) => end / each <= 12) || 60;
  for (let time = 0; time <= end + 1e-6; time += step) {
    svg.append(draw("text", {x: x(time), y: height - 6, "text-anchor": "middle"}, clock(time)));
  }
  const head = draw("line", {class: "head", y1: 4, y2: height - AXIS});
  svg.append(head);
  box.replaceChildren(svg);

  const follow = () => {
    const time = Math.min(video.currentTime, end);
    head.setAttribute("x1", x(time));
    head.setAttribute("x2", x(time));
    const now = rows.find((row) => time >= row.start_s && time < row.end_s);
    svg.setAttribute("aria-valuenow", time.toFixed(1));
    svg.setAttribute("aria-valuetext", `${time.toFixed(1)} seconds${now ? `, ${percent(now.area)} of the picture` : ""}`);
  };
  const seek = (time) => { video.currentTime = Math.max(0, Math.min(time, end - 0.01)); follow(); };
  const point = (event) => {
    const place = svg.getBoundingClientRect();
    seek(((event.clientX - place.left) / place.width * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT) * end);
  };
  svg.addEventListener("pointerdown", (event) => { svg.setPointerCapture(event.pointerId); point(event); });
  svg.addEventListener("pointermove", (event) => { if (event.buttons) point(event); });
  svg.addEventListener("keydown", (event) => {
    const moves = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5};
    if (event.key in moves) seek(video.currentTime + moves[event.key]);
    else if (event.key === "Home") seek(0);
    else if (event.key === "End") seek(end);
    else if (event.key === " ") video.paused ? video.play() : video.pause();
    else return;
    event.preventDefault();
  });
  let frame = 0;
  const tick = () => { follow(); frame = video.paused ? 0 : requestAnimationFrame(tick); };
  video.onplay = () => { if (!frame) tick(); };
  video.ontimeupdate = follow;
  follow();
}

function showTable(table, rows) {
  const names = ["from s", "to s", "of the picture", "probability", "similarity", "what"];
  const line = (cells, kind) => {
    const row = document.createElement("tr");
    for (const cell of cells) row.append(Object.assign(document.createElement(kind), {textContent: cell}));
    return row;
  };
  const number = (value) => (value === null ? "" : value.toFixed(3));
  table.replaceChildren(line(names, "th"), ...rows.slice(0, 2000).map((row) => line(
    [row.start_s.toFixed(2), row.end_s.toFixed(2), percent(row.area), number(row.score), number(row.similarity),
      row.labels.join(", ")], "td")));
}

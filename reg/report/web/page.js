const $ = (id) => document.getElementById(id);
const read = (id) => JSON.parse($(id).textContent);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

function fill(select, names, wanted) {
  select.replaceChildren(...names.map(([value, text]) => new Option(text, value)));
  if (names.some(([value]) => value === wanted)) select.value = wanted;
}

// --- light and dark: the system's choice until the reader makes another ------------------------

function theme() {
  const button = $("theme"), dark = matchMedia("(prefers-color-scheme: dark)");
  const store = {
    get: () => { try { return localStorage.getItem("theme"); } catch { return null; } },
    set: (name) => { try { localStorage.setItem("theme", name); } catch { /* file:// may refuse */ } },
  };
  const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  const show = () => button.setAttribute("aria-pressed", isDark());
  const chosen = store.get();
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    store.set(document.documentElement.dataset.theme);
    show();
  });
  dark.addEventListener("change", show);
  button.hidden = false;
  show();
}

// --- two images, one divider, one zoom ----------------------------------------------------------

function compare() {
  const data = read("pictures"), stage = $("stage"), divider = $("divider"), zoom = $("zoom");
  const view = { x: 0, y: 0 }; // shift of the image's centre, in parts of its size
  const of = (list, key, value) => list.find((item) => item[key] === value);
  const image = () => of(of(data.tasks, "id", $("task").value).images, "name", $("image").value);

  function show() {
    const current = image(), [width, height] = current.size;
    for (const side of ["left", "right"]) {
      const method = of(current.methods, "id", $(side).value), picture = $(`pane-${side}`).firstElementChild;
      picture.src = method.uri;
      picture.alt = `${current.name}: ${method.name}`;
      const score = method.id === "truth" ? "what the others are measured against" : `PSNR ${method.psnr} dB, SSIM ${method.ssim}`;
      const name = document.createElement("strong");
      name.textContent = method.name;
      $(`score-${side}`).replaceChildren(name, score);
    }
    const shown = [Math.min(width, data.side), Math.min(height, data.side)];
    stage.style.setProperty("--shape", `${shown[0]} / ${shown[1]}`);
    const whole = shown[0] === width && shown[1] === height;
    $("cropped").textContent = whole ? "" : `, the central ${shown[0]} × ${shown[1]} pixels of ${width} × ${height}`;
    divide();
  }

  function divide() {
    stage.style.setProperty("--at", `${divider.value}%`);
    const name = (side) => $(side).selectedOptions[0].text;
    divider.setAttribute("aria-valuetext", `${divider.value} % ${name("left")}, ${100 - divider.value} % ${name("right")}`);
  }

  function move() {
    const scale = Number(zoom.value), most = (1 - 1 / scale) / 2;
    view.x = clamp(view.x, -most, most);
    view.y = clamp(view.y, -most, most);
    stage.style.setProperty("--zoom", scale);
    stage.style.setProperty("--x", view.x);
    stage.style.setProperty("--y", view.y);
    stage.classList.toggle("zoomed", scale > 1);
    stage.classList.toggle("pixels", scale >= 3); // enlarged, the pixels themselves are of interest
    $("zoomed").value = `${scale}×`;
    zoom.setAttribute("aria-valuetext", `${scale} times`);
  }

  function zoomTo(scale) {
    zoom.value = scale;
    move();
  }

  function tasks() {
    const task = of(data.tasks, "id", $("task").value);
    fill($("image"), task.images.map((i) => [i.name, i.name]), $("image").value);
    images();
  }

  function images() {
    const methods = image().methods.map((m) => [m.id, m.name]);
    fill($("left"), methods, $("left").value || "start");
    fill($("right"), methods, $("right").value || "pnp-gd");
    show();
  }

  const kept = data.tasks.filter((task) => task.images.length);
  fill($("task"), kept.map((t) => [t.id, t.name]), data.first);
  $("task").addEventListener("change", tasks);
  $("image").addEventListener("change", images);
  $("left").addEventListener("change", show);
  $("right").addEventListener("change", show);
  divider.addEventListener("input", divide);
  zoom.addEventListener("input", move);
  $("reset").addEventListener("click", () => zoomTo(1));
  for (const radio of document.getElementsByName("view")) {
    radio.addEventListener("change", () => {
      const both = radio.value === "both";
      stage.className = both ? "both" : "slider";
      $("divider-label").hidden = both;
      stage.closest(".comparison").classList.toggle("wide-view", both);
      move();
    });
  }

  const steps = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  stage.addEventListener("keydown", (event) => {
    const scale = Number(zoom.value), step = steps[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (step && scale > 1) {
      view.x += step[0] * 0.1 / scale;
      view.y += step[1] * 0.1 / scale;
      move();
    } else if (event.key === "+" || event.key === "=") zoomTo(scale + 0.5);
    else if (event.key === "-") zoomTo(scale - 0.5);
    else if (event.key === "0") zoomTo(1);
    else return;
    event.preventDefault();
  });
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
    event.preventDefault();
    zoomTo(Number(zoom.value) + (event.deltaY < 0 ? 0.5 : -0.5));
  }, { passive: false });

  let last = null; // where the pointer was, while it drags the image or the divider
  stage.addEventListener("pointerdown", (event) => {
    const box = stage.getBoundingClientRect(), sliding = stage.classList.contains("slider");
    const near = Math.abs(event.clientX - box.left - box.width * divider.value / 100) < 28;
    const grip = sliding && (near || zoom.value === "1");
    last = { x: event.clientX, y: event.clientY, grip };
    stage.setPointerCapture(event.pointerId);
    drag(event);
  });
  function drag(event) {
    if (!last) return;
    const box = stage.getBoundingClientRect(), pane = $("pane-left").getBoundingClientRect();
    if (last.grip) {
      divider.value = clamp(Math.round(100 * (event.clientX - box.left) / box.width), 0, 100);
      divide();
    } else {
      view.x += (event.clientX - last.x) / pane.width / Number(zoom.value);
      view.y += (event.clientY - last.y) / pane.height / Number(zoom.value);
      move();
    }
    last.x = event.clientX;
    last.y = event.clientY;
  }
  stage.addEventListener("pointermove", drag);
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => { last = null; });

  tasks();
  move();
}

// --- the table of results: every row is a tbody, which keeps its images with it ------------------

function results() {
  const table = $("result-table"), rows = [...table.tBodies].filter((b) => b.dataset.order);
  const filters = ["metric", "task", "method"];
  const place = (body) => Number(body.dataset.order);
  const places = {}; // text columns sort in the order of the report, not of the alphabet
  for (const key of filters) places[key] = [...new Set(rows.map((b) => b.dataset[key]))];

  function filter() {
    let count = 0;
    for (const body of rows) {
      body.hidden = filters.some((key) => $(`by-${key}`).value && $(`by-${key}`).value !== body.dataset[key]);
      count += !body.hidden;
    }
    table.classList.toggle("one-metric", $("by-metric").value !== "");
    $("count").textContent = `${count} of ${rows.length} rows`;
  }

  function sort(heading) {
    const key = heading.dataset.key, first = key === "mean" ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = heading.getAttribute("aria-sort") === first ? other : first;
    for (const h of table.tHead.querySelectorAll("th")) h.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", order);
    const value = key === "mean"
      ? (body) => (body.dataset.mean === "" ? -Infinity : Number(body.dataset.mean))
      : (body) => places[key].indexOf(body.dataset[key]);
    const sign = order === "ascending" ? 1 : -1;
    rows.sort((a, b) => {
      const [left, right] = [value(a), value(b)];
      return left === right ? place(a) - place(b) : sign * (left < right ? -1 : 1);
    });
    table.append(...rows);
  }

  for (const heading of table.tHead.querySelectorAll("th[data-key]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    button.addEventListener("click", () => sort(heading));
    heading.replaceChildren(button);
  }
  for (const key of filters) $(`by-${key}`).addEventListener("change", filter);
  filter();
}

// --- curves ---------------------------------------------------------------------------------------

const PSNR_SHOWN = 20; // dB below the best that the plot reaches
const MSD_SHOWN = 1; // its logarithm: images have values in [0,1], no run with larger steps converges

function convergence() {
  const { studies, floor } = read("studies"), cursor = $("cursor"), body = $("readout").tBodies[0];
  const edge = { left: 46, right: 12, top: 12, bottom: 40 };
  let study, off = new Set(), iterations = [];

  const node = (name, attributes, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const shownMethods = () => study.methods.filter((m) => !off.has(m.name));
  const chosen = () => $("curve-image").value;
  const curve = (values) => (chosen() === "" ? values.mean : values.images[Number(chosen())]);
  const bounds = (values) => (chosen() === "" ? [values.low, values.high] : [curve(values)]);
  // The last point at or before the cursor, as methods may have been measured at other iterations.
  const at = (method) => method.iterations.findLastIndex((i) => i <= iterations[cursor.value]);
  const power = (log) => log === null || log === undefined ? "–"
    : `${log <= floor ? "≤ " : ""}${(10 ** log).toExponential(1)}`.replace("-", "−");

  function range(metric) {
    const all = shownMethods().flatMap((m) => bounds(m[metric]).flat()).filter((v) => v !== null);
    if (!all.length) return [0, 1];
    let low = Math.min(...all), high = Math.max(...all);
    if (metric === "psnr") low = Math.max(low, high - PSNR_SHOWN);
    else high = Math.min(high, MSD_SHOWN);
    const gap = Math.max(0.05 * (high - low), 0.1);
    return [low - gap, high + gap];
  }

  function ticks(low, high, count, whole) {
    const rough = (high - low) / count, unit = 10 ** Math.floor(Math.log10(rough));
    let step = (whole ? [1, 2, 3, 5, 10] : [1, 2, 5, 10]).map((k) => k * unit).find((s) => s >= rough);
    if (whole) step = Math.max(1, Math.round(step));
    const found = [];
    for (let k = Math.ceil(low / step); k * step <= high; k++) found.push(k * step);
    return [found, step];
  }

  function draw(metric) {
    const svg = $(`chart-${metric}`), width = svg.clientWidth, height = svg.clientHeight;
    const [low, high] = range(metric), end = Math.log(iterations.at(-1)) || 1;
    const x = (i) => edge.left + (width - edge.left - edge.right) * Math.log(i) / end;
    const y = (v) => edge.top + (height - edge.top - edge.bottom) * (high - clamp(v, low, high)) / (high - low);
    const parts = [], bands = [], lines = [];
    const [marks, step] = ticks(low, high, 7, metric === "msd");
    for (const mark of marks) {
      const label = metric === "msd" ? [`10`, node("tspan", { dy: -5, "font-size": 9 }, `${mark}`.replace("-", "−"))]
        : [mark.toFixed(step < 1 ? 1 : 0)];
      parts.push(node("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: y(mark), y2: y(mark) }));
      parts.push(node("text", { x: edge.left - 8, y: y(mark) + 4, "text-anchor": "end" }, ...label));
    }
    const last = iterations.at(-1), decades = [1, 10, 100, 1e3, 1e4, 1e5].filter((i) => i < last / 2);
    for (const i of [...decades, last]) {
      parts.push(node("text", { x: x(i), y: height - 22, "text-anchor": i === last ? "end" : "middle" }, i.toLocaleString("en")));
    }
    parts.push(node("text", { x: (edge.left + width - edge.right) / 2, y: height - 4, "text-anchor": "middle" }, "iteration, logarithmic"));
    const now = x(iterations[cursor.value]);
    parts.push(node("line", { class: "now", x1: now, x2: now, y1: edge.top, y2: height - edge.bottom }));
    for (const method of shownMethods()) {
      const points = (values) => method.iterations.map((i, k) => [i, values[k]]).filter(([, v]) => v !== null);
      const path = (values) => values.map(([i, v]) => `${x(i).toFixed(1)},${y(v).toFixed(1)}`).join("L");
      const group = () => node("g", { class: method.dashed ? "curve dashed" : "curve", style: `--colour:${method.colour}` });
      const band = group(), drawn = group();
      const line = points(curve(method[metric])), [lower, upper] = bounds(method[metric]).map(points);
      if (upper?.length) band.append(node("path", { class: "band", d: `M${path(lower)}L${path(upper.reverse())}Z` }));
      if (line.length) drawn.append(node("path", { d: `M${path(line)}` }));
      const value = curve(method[metric])[at(method)];
      if (value !== null && value !== undefined) drawn.append(node("circle", { cx: x(method.iterations[at(method)]), cy: y(value), r: 4 }));
      bands.push(band);
      lines.push(drawn);
    }
    svg.replaceChildren(svg.querySelector("title"), ...parts, ...bands, ...lines);
  }

  function values() {
    const iteration = iterations[cursor.value].toLocaleString("en");
    $("at").textContent = `At iteration ${iteration}`;
    for (const [k, method] of study.methods.entries()) {
      const [, psnr, msd] = body.rows[k].cells;
      psnr.textContent = curve(method.psnr)[at(method)]?.toFixed(2) ?? "–";
      msd.textContent = power(curve(method.msd)[at(method)]);
    }
    const spoken = shownMethods().map((m) => `${m.name} ${curve(m.psnr)[at(m)]?.toFixed(2) ?? "no value"} dB`);
    cursor.setAttribute("aria-valuetext", [`iteration ${iteration}`, ...spoken].join("; "));
  }

  function show() {
    draw("psnr");
    draw("msd");
    values();
  }

  function open() {
    study = studies[Number($("study").value)];
    off = new Set();
    iterations = [...new Set(study.methods.flatMap((m) => m.iterations))].sort((a, b) => a - b);
    cursor.max = iterations.length - 1;
    cursor.value = cursor.max;
    fill($("curve-image"), [["", `mean of ${study.images.length}`], ...study.images.map((name, k) => [`${k}`, name])], "");
    body.replaceChildren(...study.methods.map((method) => {
      const row = document.createElement("tr"), heading = document.createElement("th");
      const label = document.createElement("label"), box = document.createElement("input"), swatch = document.createElement("i");
      heading.scope = "row";
      box.type = "checkbox";
      box.checked = true;
      box.addEventListener("change", () => {
        if (box.checked) off.delete(method.name);
        else off.add(method.name);
        show();
      });
      swatch.className = method.dashed ? "swatch dashed" : "swatch";
      swatch.style.setProperty("--colour", method.colour);
      label.append(box, swatch, method.name);
      heading.append(label);
      row.append(heading);
      for (let k = 0; k < 2; k++) row.insertCell().className = "n";
      return row;
    }));
    show();
  }

  fill($("study"), studies.map((s, k) => [`${k}`, `${s.name}: ${s.group}`]), "0");
  $("study").addEventListener("change", open);
  $("curve-image").addEventListener("change", show);
  cursor.addEventListener("input", show);
  for (const metric of ["psnr", "msd"]) {
    const svg = $(`chart-${metric}`);
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect(), span = box.width - edge.left - edge.right;
      const wanted = Math.exp(clamp((event.clientX - box.left - edge.left) / span, 0, 1) * Math.log(iterations.at(-1)));
      const after = iterations.findIndex((i) => i >= wanted);
      cursor.value = after < 0 ? cursor.max : after;
      show();
    });
  }
  open();
  new ResizeObserver(show).observe($("chart-psnr"));
}

// --- what scrolls sideways can be reached by the keyboard, and nothing else is a stop -------------

function scrollers() {
  for (const box of document.querySelectorAll(".scroll")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}

for (const part of document.querySelectorAll(".needs-script")) part.hidden = false;
for (const part of document.querySelectorAll(".without-script")) part.hidden = true;
theme();
compare();
results();
convergence();
scrollers();
addEventListener("resize", scrollers);
document.addEventListener("toggle", scrollers, true);

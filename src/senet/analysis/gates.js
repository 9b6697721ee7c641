"use strict";
(() => {
  const data = JSON.parse(document.getElementById("gates").textContent);
  const find = (id) => document.getElementById(id);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const blocks = data.blocks.map((block) => {
    const read = (code) => (code === 255 ? NaN : block.low + (code / 254) * (block.high - block.low));
    const digits = Math.max(2, Math.ceil(-Math.log10((block.high - block.low || 1) / 4)) + 1);
    return { ...block, digits, usual: [...bytes(block.usual)].map(read), means: [...bytes(block.means)].map(read) };
  });
  if (!blocks.length) return;

  const controls = { block: find("block"), first: find("first"), second: find("second") };
  const channel = find("channel"), chart = find("chart");
  const fill = (select, names, chosen) => {
    names.forEach((name, i) => select.add(new Option(name, i, i === chosen, i === chosen)));
  };
  fill(controls.block, blocks.map((block) => block.path), blocks.length - 1);
  fill(controls.first, data.classes, data.pair[0]);
  fill(controls.second, data.classes, data.pair[1]);

  const number = (value, digits) => (Number.isNaN(value) ? "–" : value.toFixed(digits).replace("-", "−"));
  const chosen = () => {
    const block = blocks[controls.block.value];
    const of = (k) => {
      const width = block.channels.length;
      return block.means.slice(k * width, (k + 1) * width);
    };
    return { block, first: of(+controls.first.value), second: of(+controls.second.value) };
  };

  const element = (name, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const draw = () => {
    const { block, first, second } = chosen();
    const width = Math.max(280, chart.clientWidth), height = 260, left = 26 + 7 * block.digits, bottom = 30, top = 8;
    const last = block.channels.length - 1;
    const span = block.high - block.low || 1;
    const x = (i) => left + (last ? i / last : 0.5) * (width - left - 8);
    const y = (value) => top + (1 - (value - block.low) / span) * (height - top - bottom);
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
    svg.setAttribute("aria-label", `Mean gates of two classes in ${block.path}`);
    for (let step = 0; step <= 4; step += 1) {
      const value = block.low + (step / 4) * span;
      svg.append(element("line", { class: "grid", x1: left, x2: width - 8, y1: y(value), y2: y(value) }));
      svg.append(element("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, number(value, block.digits)));
    }
    const some = last + 1 < block.total ? `${last + 1} of ${block.total}` : `${block.total}`;
    const under = { x: width - 8, y: height - 8, "text-anchor": "end" };
    svg.append(element("text", under, `${some} channels, by mean gate`));
    const at = +channel.value;
    svg.append(element("line", { class: "at", x1: x(at), x2: x(at), y1: top, y2: height - bottom }));
    for (const [name, values] of [["usual", block.usual], ["first", first], ["second", second]]) {
      const points = values.map((value, i) => (Number.isNaN(value) ? "" : `${x(i).toFixed(1)},${y(value).toFixed(1)}`));
      svg.append(element("polyline", { class: `line ${name}`, points: points.join(" ") }));
    }
    chart.replaceChildren(svg);
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const part = ((event.clientX - box.left) / box.width * width - left) / (width - left - 8);
      const next = Math.min(last, Math.max(0, Math.round(part * last)));
      if (next !== +channel.value) { channel.value = next; say(); draw(); }
    });
  };

  const say = () => {
    const { block, first, second } = chosen(), i = +channel.value;
    const names = [controls.first, controls.second].map((select) => select.selectedOptions[0].text);
    find("said").textContent = `Channel ${block.channels[i]} of ${block.path}: ` +
      `${names[0]} ${number(first[i], block.digits + 1)}, ${names[1]} ${number(second[i], block.digits + 1)}, ` +
      `all images ${number(block.usual[i], block.digits + 1)}`;
    channel.setAttribute("aria-valuetext", find("said").textContent);
  };

  const list = () => {
    const { block, first, second } = chosen();
    const rows = block.channels.map((c, i) => ({ c, i, effect: (first[i] - second[i]) / block.within[i] }))
      .filter((row) => Number.isFinite(row.effect))
      .sort((a, b) => Math.abs(b.effect) - Math.abs(a.effect)).slice(0, 10);
    find("apart").replaceChildren(...rows.map(({ c, i, effect }) => {
      const line = document.createElement("tr"), head = document.createElement("th");
      head.scope = "row";
      head.textContent = `channel ${c}`;
      line.append(head);
      for (const value of [first[i], second[i], block.usual[i], effect]) {
        line.insertCell().textContent = number(value, value === effect ? 2 : block.digits + 1);
      }
      return line;
    }));
  };

  const all = () => {
    const { block } = chosen();
    channel.max = block.channels.length - 1;
    find("first-name").textContent = controls.first.selectedOptions[0].text;
    find("second-name").textContent = controls.second.selectedOptions[0].text;
    say();
    draw();
    list();
  };
  Object.values(controls).forEach((select) => select.addEventListener("input", all));
  channel.addEventListener("input", () => { say(); draw(); });
  addEventListener("resize", draw);
  find("choose").hidden = false;
  all();
})();

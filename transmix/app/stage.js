// The picture with the box, and its numbers. Press, move and release: in the box to move it, at an edge or corner to
// resize it, elsewhere to draw a new one. Arrow keys move the focused box, with Shift they move its lower right corner.
// The page hears of every change as it happens, and answers with numbers; the pictures and the fields here follow the
// pointer and the keys without waiting. Box, ratio and fields are one value, so that no answer mixes old with new.
const stage = element.querySelector('.tm-stage');
const [own, partner] = stage.querySelectorAll('img');
const handle = stage.querySelector('.tm-box');
const [ratio, slider] = element.querySelectorAll('#ratio input, input[type=range]');
const sides = [...element.querySelectorAll('input[data-side]')]; // top, left, height, width
// {height, width, box: [top, left, bottom, right], anchor: the box last set by hand, which the ratio scales,
// kind: cutmix, mixup or drawn, lam, moved: box or ratio, turn}
let shown = null;
let turn = 0; // how often box or ratio were changed here; an answer says of which turn it knew
let drag = null; // {edges, box, y, x} while a pointer is down
let waiting = false;

const clamp = (value, high) => Math.min(Math.max(value, 0), high);

function draw() {
  const there = shown && props.pictures.length === 2;
  stage.classList.toggle('tm-none', !there);
  if (!there) return;
  const [top, left, bottom, right] = shown.box;
  const down = (rows) => `${(100 * rows) / shown.height}%`;
  const across = (columns) => `${(100 * columns) / shown.width}%`;
  stage.style.aspectRatio = `${shown.width} / ${shown.height}`;
  [own, partner].forEach((image, index) => {
    if (image.getAttribute('src') !== props.pictures[index]) image.setAttribute('src', props.pictures[index]);
    image.classList.toggle('tm-pixels', Math.max(shown.height, shown.width) < 150);
  });
  const pasted = shown.kind === 'cutmix';
  partner.style.opacity = pasted ? 1 : 1 - shown.lam; // what a method drew is in both pictures
  partner.style.clipPath = pasted
    ? `inset(${down(top)} ${across(shown.width - right)} ${down(shown.height - bottom)} ${across(left)})`
    : 'none';
  handle.hidden = !pasted;
  element.querySelector('.tm-keys').hidden = !pasted;
  stage.classList.toggle('tm-blend', !pasted);
  Object.assign(handle.style, {
    top: down(top), left: across(left), height: down(bottom - top), width: across(right - left),
  });
  handle.setAttribute('aria-label', `Box of image B: top ${top}, left ${left}, height ${bottom - top}, ` +
    `width ${right - left} pixels. Arrow keys move it, with Shift they resize it.`);
}

function write(field, number) { // not under the fingers of who types
  if (field !== document.activeElement || Number(field.value) !== number && field.type === 'range') field.value = number;
}

function fill() {
  if (!shown) return;
  const [top, left, bottom, right] = shown.box;
  [top, left, bottom - top, right - left].forEach((number, index) => write(sides[index], number));
  [ratio, slider].forEach((field) => write(field, Math.round(100 * shown.lam) / 100));
  sides.forEach((field) => { field.disabled = shown.kind !== 'cutmix'; });
  [ratio, slider].forEach((field) => { field.disabled = shown.kind === 'drawn'; });
}

function tell() { // at most once a frame
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    props.value = shown; // what is asked is read from here when the last answer has come, so that none is of an old box
    trigger('input');
  });
}

function change(changed) {
  turn += 1;
  shown = { ...shown, ...changed, turn };
  draw();
  fill();
  tell();
}

function place(box) {
  if (box.every((side, index) => side === shown.box[index])) return;
  const area = ((box[2] - box[0]) * (box[3] - box[1])) / (shown.height * shown.width);
  change({ box, anchor: box, lam: 1 - area, moved: 'box' });
}

function moved([top, left, bottom, right], rows, columns) {
  const y = clamp(top + rows, shown.height - (bottom - top)) - top;
  const x = clamp(left + columns, shown.width - (right - left)) - left;
  return [top + y, left + x, bottom + y, right + x];
}

function resized([top, left, bottom, right], edges, rows, columns) {
  if (edges.includes('n')) top += rows;
  if (edges.includes('s')) bottom += rows;
  if (edges.includes('w')) left += columns;
  if (edges.includes('e')) right += columns;
  [top, bottom] = [top, bottom].map((side) => clamp(side, shown.height)).sort((one, other) => one - other);
  [left, right] = [left, right].map((side) => clamp(side, shown.width)).sort((one, other) => one - other);
  return [top, left, bottom, right];
}

function pointed(event) { // in pixels of the image
  const frame = stage.getBoundingClientRect();
  return [
    Math.round(((event.clientY - frame.top) / frame.height) * shown.height),
    Math.round(((event.clientX - frame.left) / frame.width) * shown.width),
  ];
}

stage.addEventListener('pointerdown', (event) => {
  if (stage.classList.contains('tm-none') || shown.kind !== 'cutmix' || event.button !== 0) return;
  event.preventDefault();
  const [y, x] = pointed(event);
  const inside = handle.contains(event.target);
  drag = { edges: event.target.dataset.edges || (inside ? '' : 'se'), box: inside ? shown.box : [y, x, y, x], y, x };
  stage.setPointerCapture(event.pointerId);
  handle.focus({ preventScroll: true });
});
stage.addEventListener('pointermove', (event) => {
  if (!drag) return;
  const [y, x] = pointed(event);
  const [rows, columns] = [y - drag.y, x - drag.x];
  place(drag.edges ? resized(drag.box, drag.edges, rows, columns) : moved(drag.box, rows, columns));
});
for (const end of ['pointerup', 'pointercancel']) stage.addEventListener(end, () => { drag = null; });

handle.addEventListener('keydown', (event) => {
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!shown || !steps) return;
  event.preventDefault();
  const step = Math.max(1, Math.round(shown.height / 56));
  const [rows, columns] = steps.map((way) => way * step);
  place(event.shiftKey ? resized(shown.box, 'se', rows, columns) : moved(shown.box, rows, columns));
});

sides.forEach((field) => {
  field.addEventListener('input', () => {
    const numbers = sides.map((one) => (one.value === '' ? NaN : Math.round(Number(one.value))));
    if (!shown || numbers.some(Number.isNaN)) return; // until there is a number
    const [top, left] = [clamp(numbers[0], shown.height), clamp(numbers[1], shown.width)];
    place([top, left, clamp(top + Math.max(numbers[2], 0), shown.height), clamp(left + Math.max(numbers[3], 0), shown.width)]);
  });
});
[ratio, slider].forEach((field) => {
  field.addEventListener('input', () => {
    if (!shown || field.value === '') return;
    change({ lam: clamp(Number(field.value), 1), moved: 'ratio' });
  });
});
[...sides, ratio, slider].forEach((field) => field.addEventListener('blur', () => setTimeout(fill)));

function take() {
  const value = props.value || null;
  if (value && shown && value.turn < turn) { // an answer from before the last change knows an older box
    shown = { ...value, box: shown.box, anchor: shown.anchor, lam: shown.lam, moved: shown.moved, turn };
    props.value = shown; // what is asked next is read from here
  } else if (!drag) { // while one drags, the pointer knows better
    shown = value;
  }
  draw();
  fill();
}
watch(['value', 'pictures'], take);
take();

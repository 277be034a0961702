// The sheet that one draws on: white ink on black, or colored ink on colored paper where the data has colors.

const PAPER = "#000000";
const INK = "#ffffff";

/** A canvas that records strokes of mouse, finger or pen. */
export class Drawing {
  #context;
  #strokes = [];
  #current = null;
  #background = null; // a canvas or bitmap below the strokes, or null for paper
  #isExample = false; // whether the background goes with the first stroke
  #changed;

  /** `size`: of the canvas in pixels, also what the server gets. `changed`: called with the time of the event. */
  constructor(canvas, size, changed) {
    this.canvas = canvas;
    this.size = canvas.width = canvas.height = size;
    this.width = size / 12;
    this.ink = INK;
    this.paper = PAPER;
    this.#changed = changed;
    this.#context = canvas.getContext("2d", { willReadFrequently: true });
    this.#context.lineCap = this.#context.lineJoin = "round";
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    // Browsers hold pointermove back for the next frame; Chromium tells of each movement at once, too.
    const moved = "onpointerrawupdate" in canvas ? "pointerrawupdate" : "pointermove";
    canvas.addEventListener(moved, (event) => this.#extend(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (this.#current = null));
    this.#redraw();
  }

  get isEmpty() {
    return this.#strokes.length === 0 && this.#background === null;
  }

  get hasPicture() {
    return this.#background !== null;
  }

  get hasStrokes() {
    return this.#strokes.length > 0;
  }

  clear() {
    this.#background = null;
    this.#isExample = false;
    this.#strokes = [];
    this.#redraw();
  }

  undo() {
    this.#strokes.pop();
    this.#redraw();
  }

  /** Puts a picture below later strokes. `isSharp`: enlarge pixels as squares. `isExample`: the first stroke removes it. */
  show(picture, { isSharp = false, isExample = false } = {}) {
    this.#strokes = [];
    this.#background = { picture, isSharp, isExample };
    this.#redraw();
  }

  repaint() {
    this.#redraw();
  }

  /** Returns the amount of ink, uint8 [size · size]: 255 is white. */
  gray() {
    const { data } = this.#context.getImageData(0, 0, this.size, this.size);
    const gray = new Uint8Array(this.size * this.size);
    for (let i = 0; i < gray.length; i++) gray[i] = data[4 * i];
    return gray;
  }

  /** Returns the drawing in color, as a PNG. */
  png() {
    return new Promise((resolve) => this.canvas.toBlob(resolve, "image/png"));
  }

  #begin(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.canvas.setPointerCapture(event.pointerId);
    if (this.#background?.isExample) this.clear();
    this.#current = { points: [], ink: this.ink };
    this.#strokes.push(this.#current);
    this.#add(event);
    this.#changed(event.timeStamp);
  }

  #extend(event) {
    if (this.#current === null) return;
    const between = event.getCoalescedEvents?.() ?? [];
    for (const each of between.length ? between : [event]) this.#add(each);
    this.#changed(event.timeStamp);
  }

  #add(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * this.size;
    const y = ((event.clientY - box.top) / box.height) * this.size;
    // A mouse always presses by 0.5; a pen makes the line thinner or wider.
    const width = event.pointerType === "pen" ? this.width * (0.4 + 1.2 * event.pressure) : this.width;
    this.#current.points.push({ x, y, width });
    this.#segment(this.#current, this.#current.points.length - 1);
  }

  #segment({ points, ink }, i) {
    const context = this.#context;
    const to = points[i];
    context.strokeStyle = context.fillStyle = ink;
    context.lineWidth = to.width;
    context.beginPath();
    if (i === 0) {
      context.arc(to.x, to.y, to.width / 2, 0, 2 * Math.PI); // a line of no length draws nothing
      context.fill();
    } else {
      context.moveTo(points[i - 1].x, points[i - 1].y);
      context.lineTo(to.x, to.y);
      context.stroke();
    }
  }

  #redraw() {
    const [context, size] = [this.#context, this.size];
    context.fillStyle = this.paper;
    context.fillRect(0, 0, size, size);
    if (this.#background !== null) {
      const { picture, isSharp } = this.#background;
      const scale = size / Math.max(picture.width, picture.height);
      const [width, height] = [picture.width * scale, picture.height * scale];
      context.imageSmoothingEnabled = !isSharp;
      context.drawImage(picture, (size - width) / 2, (size - height) / 2, width, height);
    }
    for (const stroke of this.#strokes) stroke.points.forEach((_, i) => this.#segment(stroke, i));
  }
}

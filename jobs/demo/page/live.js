// One request at a time: while one is under way, only the newest drawing waits, and older ones are dropped.

/** Calls an async function again whenever something changed, never twice at once; what it returns draws its answer. */
export class Live {
  #run;
  #failed;
  #isBusy = false;
  #isDue = false;
  #newest = null;
  #since = null; // when the oldest stroke was drawn that no redraw shows yet

  constructor(run, failed) {
    this.#run = run;
    this.#failed = failed;
  }

  /** Notes a change. `since`: if it was a stroke, the time of its event, in ms as performance.now() counts. */
  changed(since = null) {
    this.#isDue = true;
    this.#since ??= since;
    if (!this.#isBusy) void this.#loop();
  }

  async #loop() {
    this.#isBusy = true;
    while (this.#isDue) {
      const start = this.#since;
      this.#isDue = false;
      this.#since = null;
      try {
        const draw = await this.#run();
        void this.#show(draw, start); // the next request leaves while this answer is drawn
      } catch (error) {
        this.#failed(error);
      }
    }
    this.#isBusy = false;
  }

  async #show(draw, start) {
    this.#newest = draw;
    await painted(() => {
      if (this.#newest === draw) draw(); // or a newer answer came within the same frame
    });
    if (start !== null) performance.measure("stroke to redraw", { start });
  }
}

/** Draws in the next frame. Resolves when it is on the screen: a message that is sent before a frame arrives after it. */
const painted = (draw) =>
  new Promise((resolve) => {
    requestAnimationFrame(() => {
      draw();
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => {
        port1.close();
        resolve();
      };
      port2.postMessage(null);
    });
  });

/** Returns a function that calls another once nothing happened for `wait` ms. */
export function settled(action, wait) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(action, wait, ...values);
  };
}

"""python -m tests.benchmarks.demo: how long the demo's page takes from a stroke to the redraw of every layer.

Debian's chromium without a window draws a 0, a 1 and a 7 with the mouse, 120 movements a second, as by hand, on the
networks of `fast` and `best`, untrained, which cost the same as trained ones. The server is a process of its own, as it
is for users. A time runs from the browser's own time of the movement to the frame that shows every layer, the
probabilities and the large layer. While a redraw is under way the newest drawing waits, so the time contains that wait,
too. Linux must share the processor out by sessions (kernel.sched_autogroup_enabled=1, its default).
"""

import numpy as np

from tests.support.demo_page import STROKES, DemoPage, chromium
from tests.support.demo_server import serving_apart

NETWORKS = {"fast": ("compact", 50), "best": ("vgg", 150)}  # recipe: architecture, budget of the 95th percentile in ms
ROUNDS = 4
STEPS = 24  # movements a segment of a stroke
PAUSE = 1000 / 120  # ms between movements


def main() -> None:
    """Print a table."""
    print("recipe  strokes  p50 ms  p95 ms  budget")
    with chromium() as browser:
        for recipe, (architecture, budget) in NETWORKS.items():
            with serving_apart(architecture) as address:
                page = DemoPage(browser, address)
                page.draw("0")  # the browser compiles the page's code
                before = len(page.measured())
                for digit in list(STROKES) * ROUNDS:
                    page.draw(digit, STEPS, PAUSE)
                times = page.measured()[before:]
                median, late = np.percentile(times, [50, 95])
                print(f"{recipe:6}  {len(times):7}  {median:6.0f}  {late:6.0f}  {budget:6}")
                page.close()


if __name__ == "__main__":
    main()

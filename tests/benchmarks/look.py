"""python -m tests.benchmarks.look: how long the demo's server takes to fit a drawing and to compute every layer.

Over HTTP on loopback, one request after another, as the page sends them while one draws. The networks of `fast` and
`best` are untrained, which cost the same as trained ones. The budget of a whole redraw is 50 and 150 ms; the page has
the rest.
"""

import os
from pathlib import Path
from threading import Thread
from time import perf_counter

import httpx
import numpy as np

from jobs.demo.server import listen, serve
from jobs.predict.glyph import measured
from jobs.tensorflow_import import import_tensorflow

NETWORKS = {"fast": ("compact", 50), "best": ("vgg", 150)}  # recipe: architecture, budget in ms
SHEET = 280  # pixels a side
REQUESTS = 300


def main() -> None:
    """Print a table."""
    import_tensorflow(Path(os.devnull))
    from tests.support.demo_models import shown, untrained

    models = shown([untrained(name, (28, 28, 1), 10) for name, _ in NETWORKS.values()])
    strokes = np.zeros((1, 28, 28, 1), np.float32)
    strokes[:, 4:24, 13:15] = strokes[:, 22:24, 4:24] = 1.0
    for model in models:
        vars(model)["form"] = measured(strokes, model.manifest)  # so that every step of the fitting is measured
    addresses: list[str] = []
    with listen(0) as listener:
        Thread(target=serve, args=(models, listener, addresses.append), daemon=True).start()
        print("recipe  request   p50 ms  p95 ms  budget of the redraw")
        while not addresses:
            pass
        with httpx.Client(base_url=addresses[0], timeout=60) as client:
            for number, (recipe, (_, budget)) in enumerate(NETWORKS.items()):
                sheet = np.zeros((SHEET, SHEET), np.uint8)
                sheet[60:200, 130:150] = 255
                image = np.random.default_rng(0).random((28, 28), np.float32)
                headers = {"X-Size": str(SHEET)}
                for path, body in (("/api/fit", sheet.tobytes()), ("/api/look", image.tobytes())):
                    times = []
                    for _ in range(REQUESTS):
                        start = perf_counter()
                        client.post(path, params={"model": number}, content=body, headers=headers).raise_for_status()
                        times.append(1000 * (perf_counter() - start))
                    p50, p95 = np.percentile(times[5:], [50, 95])
                    print(f"{recipe:6}  {path:9} {p50:6.1f}  {p95:6.1f}  {budget:6}")


if __name__ == "__main__":
    main()

"""python -m tests.benchmarks.look: how long the demo's server takes to fit a drawing and to compute every layer.

Over HTTP on loopback, one request after another, as the page sends them while one draws. The networks of `fast` and
`best` are untrained, which cost the same as trained ones. The budget of a whole redraw is 50 and 150 ms; the page has
the rest.
"""

import os
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from time import perf_counter
from urllib.parse import urlsplit

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
    from tests.support.redrawn import drawn, middle_line

    models = shown([untrained(name, (28, 28, 1), 10) for name, _ in NETWORKS.values()])
    strokes = np.zeros((1, 28, 28, 1), np.float32)
    strokes[:, 4:24, 13:15] = strokes[:, 22:24, 4:24] = 1.0
    pen = drawn(middle_line(strokes[0, ..., 0]), 18, (0.5, 0.5)).tobytes()
    for model in models:
        vars(model)["form"] = measured(strokes, model.manifest)  # so that every step of the fitting is measured
    addresses: list[str] = []
    with listen(0) as listener:
        Thread(target=serve, args=(models, listener, addresses.append), daemon=True).start()
        print("recipe  request   p50 ms  p95 ms  budget of the redraw")
        while not addresses:
            pass
        connection = HTTPConnection(urlsplit(addresses[0]).netloc)
        for number, (recipe, (_, budget)) in enumerate(NETWORKS.items()):
            image = np.random.default_rng(0).random((28, 28), np.float32)
            for path, body in (("/api/fit", pen), ("/api/look", image.tobytes()), ("/api/draw", pen)):
                times = []
                for _ in range(REQUESTS):
                    start = perf_counter()
                    connection.request("POST", f"{path}?model={number}", body, {"X-Size": str(SHEET)})
                    answer = connection.getresponse()
                    answer.read()
                    times.append(1000 * (perf_counter() - start))
                    assert answer.status == 200, answer.reason
                p50, p95 = np.percentile(times[5:], [50, 95])
                print(f"{recipe:6}  {path:9} {p50:6.1f}  {p95:6.1f}  {budget:6}", flush=True)


if __name__ == "__main__":
    main()

"""python torch_mnist.py DATA_DIR BATCH IMAGES: the lecture's CNN in PyTorch's basic MNIST loop, in images/s.

Images are tensors in memory, reshuffled each epoch; Adam 1e-4. IMAGES images are timed, after a few untimed steps. The
script runs in its own environment with PyTorch and nothing else: see torch_environment.py.
"""

import gzip
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch  # type: ignore[import-not-found]
from torch import nn

_WARM_UP = 3  # steps


def load(folder: Path, name: str, header: int) -> torch.Tensor:
    with gzip.open(next(folder.glob(f"{name}*"))) as file:
        return torch.frombuffer(bytearray(file.read()[header:]), dtype=torch.uint8)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 5, padding=2), nn.Conv2d(32, 64, 5, padding=2)
        self.dense, self.logits = nn.Linear(7 * 7 * 64, 1024), nn.Linear(1024, 10)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(nn.functional.relu(self.conv1(x)), 2)
        x = nn.functional.max_pool2d(nn.functional.relu(self.conv2(x)), 2)
        x = nn.functional.relu(self.dense(torch.flatten(x, 1)))
        return self.logits(self.dropout(x))


def batches(images: torch.Tensor, labels: torch.Tensor, batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    while True:
        order = torch.randperm(len(images))
        for start in range(0, len(order) - batch + 1, batch):
            rows = order[start : start + batch]
            yield images[rows], labels[rows]


def main(folder: Path, batch: int, count: int) -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    images = load(folder, "train-images", 16).reshape(-1, 1, 28, 28).float() / 255
    labels = load(folder, "train-labels", 8).long()
    model = Network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    model.train()
    steps = max(1, count // batch)
    for step, (data, target) in enumerate(batches(images, labels, batch)):
        if step == _WARM_UP:
            begin = time.perf_counter()
        if step == _WARM_UP + steps:
            break
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data), target).backward()
        optimizer.step()
    seconds = time.perf_counter() - begin
    print(json.dumps({"images_per_second": steps * batch / seconds, "version": torch.__version__}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

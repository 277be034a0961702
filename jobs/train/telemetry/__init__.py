"""What a training reports: throughput, progress, TensorBoard, the flight recorder, the row audit, heartbeats."""

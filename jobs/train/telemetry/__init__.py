"""What a training reports: throughput, the console, TensorBoard, the flight recorder, heartbeats."""

"""What Gaussians say about a picture without training for any task: pure functions of a `Scene`."""

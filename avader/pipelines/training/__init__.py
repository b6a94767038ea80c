"""What a training does on Ray Train: workers, images, checkpoints, and what it shows."""

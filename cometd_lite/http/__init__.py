"""What HTTP adds: requests become checked values, and batches become responses and streams."""

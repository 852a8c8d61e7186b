"""What the server reports about itself: counters, health, metrics, the status page."""

"""One loop, and what it needs: optimisers, schedules, hardware, ranks, saved state, tracking."""

"""Which tokens leave, and after which layer: schedules (schedule.json) and policies that keep some of a group."""

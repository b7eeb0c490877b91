"""Which eviction schedule a model bears: measure (trials), choose, test, and what it saves."""

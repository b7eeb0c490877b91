"""What the trained models of the package show of the studies' findings."""

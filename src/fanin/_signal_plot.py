"""Pictures of a network's signals: of one report, and of a training run."""

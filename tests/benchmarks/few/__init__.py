"""The scarcity study: chips of few classes and few samples, two pairs of networks, judge, classifier, tables."""

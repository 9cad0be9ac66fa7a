"""Parts of the study of decoupled learning: data, systems, judge, tables."""

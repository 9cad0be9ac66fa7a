"""The study of super-resolution: scenes under Wald's protocol, the rungs, the judge, tables and figures."""

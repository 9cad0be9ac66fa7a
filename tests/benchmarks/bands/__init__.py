"""The study of frequency bias: data with known spectra, the systems, the judge, tables and figures."""

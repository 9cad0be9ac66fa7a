"""The misalignment study: data with a known displacement, the systems, the judge, tables and figures."""

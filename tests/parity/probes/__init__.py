"""One-line probes of what users of transformers type, run on both sides; ``docs/compatibility.md`` is the table."""

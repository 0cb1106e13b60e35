"""Builders of report sections, one module per question: results in, a :class:`recbench.report.document.Section` out."""
